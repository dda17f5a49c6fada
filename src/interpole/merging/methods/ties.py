"""TIES (arXiv 2306.01708): trim every task vector, elect a sign per element, average those that agree.

`density` is the share of each task vector that is kept (mergekit's word). Papers that state a *sparsity* mean the share
that is trimmed, 1 − density; a recipe may give either. As in mergekit the trim is per tensor; the TIES paper trims
over the whole model. With `normalize`, equal weights cancel: use `scale` for the strength of the merged vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints import kernels
from interpole.merging.methods import Method
from interpole.merging.methods._sparsify import MagnitudeCut, ReadPair, by_magnitude, find_cut, restore_l1
from interpole.merging.methods._task_vectors import (
    DENSITY,
    RESCALE,
    SCALE,
    combine,
    combine_pieces,
    differences,
    normalize_parameter,
)

__all__ = ["METHODS", "ties"]

Array = NDArray[np.float32]


def ties(
    tensors: Sequence[Array],
    weights: Sequence[float],
    *,
    base: Array,
    density: Sequence[float],
    normalize: bool = True,
    rescale: bool = False,
    scale: float = 1.0,
    cuts: Sequence[MagnitudeCut] | None = None,
    start: int = 0,
) -> Array:
    """Θ_base + scale · Σ wᵢ·δᵢ·mᵢ / Σ wᵢ·mᵢ, where mᵢ = 1 where the trimmed δᵢ has the sign of Σ wⱼ·δⱼ.

    Args:
        tensors: float32 arrays of one shape.
        weights: one number per tensor.
        base: the base model's array of that shape.
        density: for each tensor the share of its task vector that is kept, the largest magnitudes.
        normalize: divide by the weights that agree, element by element; otherwise the sum is taken as it is.
        rescale: scale each trimmed task vector to the L1 norm it had.
        scale: factor on the merged task vector.
        cuts: what is kept of each task vector, where the arrays are pieces of tensors; not with `rescale`.
        start: where the pieces begin in the flattened tensors.

    Returns:
        A new float32 array of that shape.
    """
    if not rescale:  # nothing but the magnitudes is needed of a whole task vector
        found = cuts or _cuts_of(tensors, base, density)
        read = differences(tensors, base)

        def trimmed_at(span: slice) -> list[Array]:
            return [cut.trim(delta, start + span.start) for cut, delta in zip(found, read(span), strict=True)]

        return combine_pieces(base, trimmed_at, weights, vote=True, normalize=normalize, scale=scale)
    deltas = [tensor - base for tensor in tensors]
    trimmed = [by_magnitude(delta, share) for delta, share in zip(deltas, density, strict=True)]
    trimmed = [restore_l1(kept, delta) for kept, delta in zip(trimmed, deltas, strict=True)]
    return combine(base, trimmed, weights, vote=True, normalize=normalize, scale=scale)


def _cut(read: ReadPair, size: int, source: int, *, density: Sequence[float], **_: Any) -> MagnitudeCut:
    """What is kept of one source's task vector."""
    return find_cut(read, size, density[source])


def _cuts_of(tensors: Sequence[NDArray[Any]], base: NDArray[Any], density: Sequence[float]) -> list[MagnitudeCut]:
    below, above = base.reshape(-1), [tensor.reshape(-1) for tensor in tensors]
    reads: list[ReadPair] = [lambda start, stop, x=x: (x[start:stop], below[start:stop]) for x in above]  # type: ignore[misc]
    return [find_cut(read, below.size, share) for read, share in zip(reads, density, strict=True)]


def _rounded(
    tensors: Sequence[NDArray[Any]],
    weights: Sequence[float],
    *,
    base: NDArray[Any],
    density: Sequence[float],
    normalize: bool = True,
    rescale: bool = False,
    scale: float = 1.0,
    cuts: Sequence[MagnitudeCut] | None = None,
    start: int = 0,
) -> Any:
    """The same from bfloat16 to bfloat16, or None."""
    if rescale or not kernels.fit((*tensors, base)):
        return None
    found = [(threshold, last - start) for threshold, last in cuts or _cuts_of(tensors, base, density)]
    return kernels.task_vector_sum(tensors, base, weights, cuts=found, normalize=normalize, scale=scale)


METHODS = {
    "ties": Method(
        merge=ties,
        rounded=_rounded,
        cut=_cut,
        whole_with="rescale",
        parameters={"density": DENSITY, "normalize": normalize_parameter(True), "rescale": RESCALE, "scale": SCALE},
        base="needed",
    )
}
