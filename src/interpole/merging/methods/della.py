"""DELLA (arXiv 2406.11617): drop at random, larger elements with smaller probability; rescale; then the vote of TIES.

Within each row the probability to stay rises with the magnitude's rank from density − epsilon to density + epsilon. What stays is
divided by its probability, as in the paper; `rescale: l1` scales it to the L1 norm of the task vector instead, which is
what mergekit does. A row is the last axis of a tensor of any rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._sparsify import Stream, by_rank, restore_l1
from interpole.merging.methods._task_vectors import DENSITY, SCALE, SEED, combine, normalize_parameter

__all__ = ["METHODS", "della", "della_linear"]

Array = NDArray[np.float32]


def della(
    tensors: Sequence[Array],
    weights: Sequence[float],
    *,
    base: Array,
    streams: Sequence[Stream],
    density: Sequence[float],
    epsilon: Sequence[float],
    normalize: bool = True,
    rescale: bool | str = True,
    scale: float = 1.0,
    vote: bool = True,
) -> Array:
    """Θ_base + scale · Σ wᵢ·mᵢ·δᵢ/pᵢ over those that agree on the sign, the elements of mᵢ being 1 with probability pᵢ.

    Args:
        tensors: float32 arrays of one shape.
        weights: one number per tensor.
        base: the base model's array of that shape.
        streams: the random numbers for each tensor.
        density: for each tensor the mean probability that an element is kept.
        epsilon: for each tensor half the difference of that probability between the largest and the smallest of a row.
        normalize: divide by the weights that agree, element by element (without `vote`, by Σ wᵢ).
        rescale: divide what is kept by its probability (True), or scale it to the L1 norm of the task vector (`"l1"`).
        scale: factor on the merged task vector.
        vote: leave out the elements whose sign is not that of the weighted sum, as in TIES.

    Returns:
        A new float32 array of that shape.
    """
    deltas = [tensor - base for tensor in tensors]
    parts = zip(deltas, density, epsilon, streams, strict=True)
    kept = [by_rank(*part, rescale=rescale is True) for part in parts]
    if rescale == "l1":
        kept = [restore_l1(*part) for part in zip(kept, deltas, strict=True)]
    return combine(base, kept, weights, vote=vote, normalize=normalize, scale=scale)


PARAMETERS = {
    "density": DENSITY,
    "epsilon": Parameter(
        0.15, "how far the probabilities lie from the density, at most", low=0, high=1, per_source=True
    ),
    "normalize": normalize_parameter(True),
    "rescale": Parameter(
        True,
        "divide what is kept by its probability; l1: scale to the L1 norm it had, as mergekit does",
        choices=(False, True, "l1"),
    ),
    "scale": SCALE,
    "seed": SEED,
}
della_linear = partial(della, vote=False, normalize=False)
"""`della` without `vote`; `normalize` is off unless asked for."""

METHODS = {
    "della": Method(merge=della, parameters=PARAMETERS, base="needed", random=True),
    "della_linear": Method(
        merge=della_linear,
        parameters={**PARAMETERS, "normalize": normalize_parameter(False)},
        base="needed",
        random=True,
    ),
}
