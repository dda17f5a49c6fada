"""Task arithmetic (arXiv 2212.04089): Θ = Θ_base + s · Σ wᵢ·(Θᵢ − Θ_base), s being `scale`.

With weights (1 − λ, λ) it is the interpolation of the pair, whatever the base. As in mergekit, whose `lambda` is our `scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.kernels import task_vector_sum
from interpole.merging.methods import Method
from interpole.merging.methods._task_vectors import SCALE, combine_pieces, differences, normalize_parameter

__all__ = ["METHODS", "task_arithmetic"]

Array = NDArray[np.float32]


def task_arithmetic(
    tensors: Sequence[Array], weights: Sequence[float], *, base: Array, normalize: bool = False, scale: float = 1.0
) -> Array:
    """Θ_base + scale · Σ wᵢ·δᵢ with δᵢ = Θᵢ − Θ_base; with `normalize` the sum is divided by Σ wᵢ.

    Args:
        tensors: float32 arrays of one shape.
        weights: one number per tensor.
        base: the base model's array of that shape.
        normalize: divide by Σ wᵢ.
        scale: factor on the merged task vector.

    Returns:
        A new float32 array of that shape.
    """
    return combine_pieces(base, differences(tensors, base), weights, normalize=normalize, scale=scale)


def _rounded(
    tensors: Sequence[NDArray[Any]],
    weights: Sequence[float],
    *,
    base: NDArray[Any],
    normalize: bool = False,
    scale: float = 1.0,
) -> Any:
    """The same from bfloat16 to bfloat16, or None."""
    return task_vector_sum(tensors, base, weights, normalize=normalize, scale=scale)


METHODS = {
    "task_arithmetic": Method(
        merge=task_arithmetic,
        rounded=_rounded,
        parameters={"normalize": normalize_parameter(False), "scale": SCALE},
        elementwise=True,
        base="needed",
    )
}
