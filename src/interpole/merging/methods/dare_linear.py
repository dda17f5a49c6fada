"""DARE (arXiv 2311.03099): drop elements of every task vector at random, divide the rest by the share kept, and add up.

The masks are the same on every machine and however tensors are cut (`_sparsify.Stream`). Differs from mergekit: there the rest
is scaled to the L1 norm that the task vector had, which is 1/density up to chance and needs the whole tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._sparsify import Stream, by_chance
from interpole.merging.methods._task_vectors import DENSITY, SCALE, SEED, combine, normalize_parameter

__all__ = ["METHODS", "dare_linear", "dare_ties"]

Array = NDArray[np.float32]


def dare_linear(
    tensors: Sequence[Array],
    weights: Sequence[float],
    *,
    base: Array,
    streams: Sequence[Stream],
    density: Sequence[float],
    normalize: bool = False,
    rescale: bool = True,
    scale: float = 1.0,
    vote: bool = False,
) -> Array:
    """Θ_base + scale · Σ wᵢ·mᵢ·δᵢ / densityᵢ, the elements of mᵢ being 1 with probability densityᵢ, else 0.

    Args:
        tensors: float32 arrays of one shape.
        weights: one number per tensor.
        base: the base model's array of that shape.
        streams: the random numbers for each tensor.
        density: for each tensor the share of its task vector that is kept.
        normalize: divide by Σ wᵢ (with `vote`, by the weights that agree).
        rescale: divide what is kept by the density.
        scale: factor on the merged task vector.
        vote: leave out the elements whose sign is not that of the weighted sum, as in TIES.

    Returns:
        A new float32 array of that shape.
    """
    parts = zip(tensors, density, streams, strict=True)
    deltas = [by_chance(tensor - base, share, stream, rescale=rescale) for tensor, share, stream in parts]
    return combine(base, deltas, weights, vote=vote, normalize=normalize, scale=scale)


PARAMETERS = {
    "density": DENSITY,
    "normalize": normalize_parameter(False),
    "rescale": Parameter(True, "divide what is kept by the density"),
    "scale": SCALE,
    "seed": SEED,
}
dare_ties = partial(dare_linear, vote=True)
"""`dare_linear` with `vote`."""

METHODS = {
    "dare_linear": Method(merge=dare_linear, parameters=PARAMETERS, elementwise=True, base="needed", random=True),
    "dare_ties": Method(merge=dare_ties, parameters=PARAMETERS, elementwise=True, base="needed", random=True),
}
