"""What the methods on task vectors share: differences to a base, an optional vote on signs, and the sum of it all.

A task vector is δᵢ = Θᵢ − Θ_base (arXiv 2212.04089). All is float32, in the order of operations of mergekit, so that
methods without reductions agree with its fp32 results to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Parameter

__all__ = ["DENSITY", "RESCALE", "SCALE", "SEED", "agreeing", "combine", "normalize_parameter", "normalized"]

Array = NDArray[np.float32]
CHUNK_ELEMENTS = 1 << 16

SCALE = Parameter(1.0, "factor on the merged task vector; mergekit calls it lambda")
SEED = Parameter(0, "seed of the random masks", low=0)
DENSITY = Parameter(
    1.0,
    "share of each task vector that is kept; `sparsity` is the share that is dropped, 1 − density",
    low=0,
    high=1,
    per_source=True,
    complement="sparsity",
)
RESCALE = Parameter(False, "scale each sparsified task vector back to the L1 norm it had")


def normalize_parameter(default: bool) -> Parameter:
    """The parameter `normalize` with this default."""
    return Parameter(default, "divide by the sum of the weights (with a vote: of those that agree, element by element)")


def combine(
    base: Array,
    deltas: Sequence[Array],
    weights: Sequence[float],
    *,
    vote: bool = False,
    normalize: bool = False,
    scale: float = 1.0,
) -> Array:
    """Base + scale · Σ wᵢ·δᵢ, optionally only over those that agree on the sign and divided by the sum of their weights.

    Args:
        base: float32 array.
        deltas: task vectors of the same shape.
        weights: one number each.
        vote: leave out the elements whose sign is not that of Σ wᵢ·δᵢ (TIES, arXiv 2306.01708).
        normalize: divide by the sum of the weights, with `vote` by that of the agreeing ones; sums of 0 count as 1.
        scale: factor on the sum.

    Returns:
        A new float32 array of that shape.
    """
    factors = [np.float32(weight) for weight in weights]
    out = np.empty(base.size, np.float32)
    below, parts = base.reshape(-1), [delta.reshape(-1) for delta in deltas]
    for start in range(0, base.size, CHUNK_ELEMENTS):
        span = slice(start, start + CHUNK_ELEMENTS)
        mixed = mix([part[span] for part in parts], factors, vote, normalize)
        if scale != 1:
            mixed *= np.float32(scale)
        np.add(mixed, below[span], out=out[span])
    return out.reshape(base.shape)


def mix(deltas: Sequence[Array], factors: Sequence[np.float32], vote: bool, normalize: bool) -> Array:
    """Σ wᵢ·δᵢ as `combine` needs it, for a piece that stays in the cache."""
    weighted = [delta * factor for delta, factor in zip(deltas, factors, strict=True)]
    divisor: Any = sum(factors, np.float32(0))
    if vote:
        masks = agreeing(weighted)
        weighted = [part * mask for part, mask in zip(weighted, masks, strict=True)]
        divisor = summed([mask * factor for mask, factor in zip(masks, factors, strict=True)]) if normalize else None
    mixed = summed(weighted)
    if normalize:
        mixed /= np.where(np.abs(divisor) < 1e-8, np.float32(1), divisor)
    return mixed


def agreeing(weighted: Sequence[Array]) -> list[NDArray[np.bool_]]:
    """For each array the elements whose sign is that of the sum over all arrays; a sum of 0 counts as positive."""
    total = sum(weighted[1:], weighted[0])
    positive = total >= 0
    return [np.where(positive, part > 0, part < 0) for part in weighted]


def summed(arrays: Sequence[Array]) -> Array:
    """Sum from left to right into a new array."""
    total: Array = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def normalized(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights divided by their sum, or equal ones where that is 0."""
    total = sum(weights)
    return tuple(weight / total if abs(total) > 1e-8 else 1 / len(weights) for weight in weights)
