"""DELLA without the vote (arXiv 2406.11617): drop at random by magnitude, rescale and add up.

See `della` for the masks and the difference from mergekit.
"""

from functools import partial

from interpole.methods import Method
from interpole.methods._task_vectors import normalize_parameter
from interpole.methods.della import PARAMETERS, della

__all__ = ["METHOD", "della_linear"]

della_linear = partial(della, vote=False, normalize=False)
"""`della` without `vote`; `normalize` is off unless asked for."""

METHOD = Method(
    merge=della_linear, parameters={**PARAMETERS, "normalize": normalize_parameter(False)}, base="needed", random=True
)
