"""Model Breadcrumbs (arXiv 2312.06795): drop the largest and the smallest elements of every task vector, and add up.

`gamma` is the share of outliers dropped at the top, `density` the share that is left in the end. Differs from mergekit only for
gamma·n < 1: there the whole task vector is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._sparsify import restore_l1, without_outliers
from interpole.merging.methods._task_vectors import DENSITY, RESCALE, SCALE, combine, normalize_parameter

__all__ = ["METHODS", "breadcrumbs", "breadcrumbs_ties"]

Array = NDArray[np.float32]


def breadcrumbs(
    tensors: Sequence[Array],
    weights: Sequence[float],
    *,
    base: Array,
    density: Sequence[float],
    gamma: Sequence[float],
    normalize: bool = False,
    rescale: bool = False,
    scale: float = 1.0,
    vote: bool = False,
) -> Array:
    """Θ_base + scale · Σ wᵢ·mᵢ·δᵢ, mᵢ keeping ⌊densityᵢ·n⌋ elements below the ⌊gammaᵢ·n⌋ largest magnitudes.

    Args:
        tensors: float32 arrays of one shape with n elements.
        weights: one number per tensor.
        base: the base model's array of that shape.
        density: for each tensor the share of its task vector that is kept; from 1 on, all of it.
        gamma: for each tensor the share of the largest magnitudes that is dropped, at most 1 − density.
        normalize: divide by Σ wᵢ (with `vote`, by the weights that agree).
        rescale: scale each masked task vector to the L1 norm it had.
        scale: factor on the merged task vector.
        vote: leave out the elements whose sign is not that of the weighted sum, as in TIES.

    Returns:
        A new float32 array of that shape.
    """
    deltas = [tensor - base for tensor in tensors]
    kept = [without_outliers(*part) for part in zip(deltas, density, gamma, strict=True)]
    if rescale:
        kept = [restore_l1(*part) for part in zip(kept, deltas, strict=True)]
    return combine(base, kept, weights, vote=vote, normalize=normalize, scale=scale)


PARAMETERS = {
    "density": DENSITY,
    "gamma": Parameter(0.01, "share of the largest magnitudes that is dropped", low=0, high=1, per_source=True),
    "normalize": normalize_parameter(False),
    "rescale": RESCALE,
    "scale": SCALE,
}
breadcrumbs_ties = partial(breadcrumbs, vote=True)
"""`breadcrumbs` with `vote`."""

METHODS = {
    "breadcrumbs": Method(merge=breadcrumbs, parameters=PARAMETERS, base="needed"),
    "breadcrumbs_ties": Method(merge=breadcrumbs_ties, parameters=PARAMETERS, base="needed"),
}
