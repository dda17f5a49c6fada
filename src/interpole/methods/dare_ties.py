"""DARE with the vote of TIES (arXiv 2311.03099, 2306.01708): drop at random, rescale, and add those that agree on the sign.

See `dare_linear` for the masks and the difference from mergekit, and `ties` for the vote.
"""

from functools import partial

from interpole.methods import Method
from interpole.methods.dare_linear import PARAMETERS, dare_linear

__all__ = ["METHOD", "dare_ties"]

dare_ties = partial(dare_linear, vote=True)
"""`dare_linear` with `vote`."""

METHOD = Method(merge=dare_ties, parameters=PARAMETERS, elementwise=True, base="needed", random=True)
