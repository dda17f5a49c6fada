"""Model Breadcrumbs with the vote of TIES (arXiv 2312.06795, 2306.01708): only elements that agree on the sign are added.

See `breadcrumbs` for the masks and `ties` for the vote. As in mergekit.
"""

from functools import partial

from interpole.methods import Method
from interpole.methods.breadcrumbs import PARAMETERS, breadcrumbs

__all__ = ["METHOD", "breadcrumbs_ties"]

breadcrumbs_ties = partial(breadcrumbs, vote=True)
"""`breadcrumbs` with `vote`."""

METHOD = Method(merge=breadcrumbs_ties, parameters=PARAMETERS, base="needed")
