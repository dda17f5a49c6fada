"""What the methods on task vectors share: differences to a base, an optional vote on signs, and the sum of it all.

A task vector is δᵢ = Θᵢ − Θ_base (arXiv 2212.04089). All is float32, in the order of operations of mergekit, so that
methods without reductions agree with its fp32 results to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Parameter

__all__ = [
    "DENSITY",
    "RESCALE",
    "SCALE",
    "SEED",
    "agreeing",
    "combine",
    "combine_pieces",
    "differences",
    "normalize_parameter",
    "normalized",
]

Array = NDArray[np.float32]
CHUNK_ELEMENTS = 1 << 15

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
    parts = [delta.reshape(-1) for delta in deltas]

    def read(span: slice) -> list[Array]:
        return [part[span] for part in parts]

    return combine_pieces(base, read, weights, vote=vote, normalize=normalize, scale=scale)


def combine_pieces(
    base: Array,
    read: Callable[[slice], Sequence[Array]],
    weights: Sequence[float],
    *,
    vote: bool = False,
    normalize: bool = False,
    scale: float = 1.0,
) -> Array:
    """As `combine`, the task vectors being asked for piece by piece, so that they stay in the cache.

    Args:
        base: float32 array.
        read: a span of the flattened tensor → the task vectors there.
        weights: one number each.
        vote: as in `combine`.
        normalize: as in `combine`.
        scale: factor on the sum.

    Returns:
        A new float32 array of that shape.
    """
    factors = [np.float32(weight) for weight in weights]
    out, below = np.empty(base.size, np.float32), base.reshape(-1)
    for start in range(0, base.size, CHUNK_ELEMENTS):
        span = slice(start, min(start + CHUNK_ELEMENTS, base.size))
        mixed = mix(read(span), factors, vote, normalize)
        if scale != 1:
            mixed *= np.float32(scale)
        np.add(mixed, below[span], out=out[span])
    return out.reshape(base.shape)


def differences(tensors: Sequence[Array], base: Array) -> Callable[[slice], list[Array]]:
    """The task vectors of tensors, by spans of the flattened ones."""
    above, below = [tensor.reshape(-1) for tensor in tensors], base.reshape(-1)
    return lambda span: [tensor[span] - below[span] for tensor in above]


def mix(deltas: Sequence[Array], factors: Sequence[np.float32], vote: bool, normalize: bool) -> Array:
    """Σ wᵢ·δᵢ as `combine` needs it, for a piece that stays in the cache."""
    weighted = [delta * factor for delta, factor in zip(deltas, factors, strict=True)]
    divisor: Any = sum(factors, np.float32(0))
    if vote:
        masks = agreeing(weighted)
        for part, mask in zip(weighted, masks, strict=True):
            part *= mask
        divisor = _added([mask * factor for mask, factor in zip(masks, factors, strict=True)]) if normalize else None
    mixed = _added(weighted)
    if normalize and vote:
        divisor[np.abs(divisor) < np.float32(1e-8)] = 1
        mixed /= divisor
    elif normalize:
        mixed /= divisor if abs(divisor) >= np.float32(1e-8) else np.float32(1)
    return mixed


def _added(arrays: Sequence[Array]) -> Array:
    """Sum from left to right into the first of the arrays."""
    total = arrays[0]
    for array in arrays[1:]:
        total += array
    return total


def agreeing(weighted: Sequence[Array]) -> list[NDArray[np.bool_]]:
    """For each array the elements whose sign is that of the sum over all arrays; a sum of 0 counts as positive."""
    positive = summed(weighted) >= 0
    masks = []
    for part in weighted:
        mask = (part > 0) == positive
        mask &= part != 0
        masks.append(mask)
    return masks


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
