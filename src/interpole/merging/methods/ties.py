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
from interpole.merging.methods._sparsify import by_magnitude, magnitude_cut, restore_l1
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

    Returns:
        A new float32 array of that shape.
    """
    if not rescale:  # nothing but the magnitudes is needed of a whole task vector
        cuts = [magnitude_cut(tensor, base, share) for tensor, share in zip(tensors, density, strict=True)]
        read = differences(tensors, base)

        def trimmed_at(span: slice) -> list[Array]:
            return [cut.trim(delta, span.start) for cut, delta in zip(cuts, read(span), strict=True)]

        return combine_pieces(base, trimmed_at, weights, vote=True, normalize=normalize, scale=scale)
    deltas = [tensor - base for tensor in tensors]
    trimmed = [by_magnitude(delta, share) for delta, share in zip(deltas, density, strict=True)]
    trimmed = [restore_l1(kept, delta) for kept, delta in zip(trimmed, deltas, strict=True)]
    return combine(base, trimmed, weights, vote=True, normalize=normalize, scale=scale)


def _rounded(
    tensors: Sequence[NDArray[Any]],
    weights: Sequence[float],
    *,
    base: NDArray[Any],
    density: Sequence[float],
    normalize: bool = True,
    rescale: bool = False,
    scale: float = 1.0,
) -> Any:
    """The same from bfloat16 to bfloat16, or None."""
    if rescale:
        return None
    cuts = []
    for tensor, share in zip(tensors, density, strict=True):
        if (cut := kernels.magnitude_cut(tensor, base, int(share * base.size))) is None:
            return None
        cuts.append(cut)
    return kernels.task_vector_sum(tensors, base, weights, cuts=cuts, normalize=normalize, scale=scale)


METHODS = {
    "ties": Method(
        merge=ties,
        rounded=_rounded,
        parameters={"density": DENSITY, "normalize": normalize_parameter(True), "rescale": RESCALE, "scale": SCALE},
        base="needed",
    )
}
