"""Weighted sum of models: Θ = Σ wᵢ·Θᵢ; with weights (1 − λ, λ) the interpolation of arXiv 2510.10977, equation 1.

Model soups (arXiv 2203.05482) are the same with equal weights. Weights are used as given unless `normalize` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.kernels import weighted_sum
from interpole.errors import RecipeError
from interpole.merging.methods import Method, Parameter

__all__ = ["METHODS", "linear"]

Array = NDArray[np.float32]


def linear(tensors: Sequence[Array], weights: Sequence[float], *, normalize: bool = False) -> Array:
    """Σ wᵢ·Θᵢ, summed left to right; every product and sum is rounded to float32 once (no fused multiply-add).

    Any IEEE machine, numpy or torch, CPU or GPU, gives the same bits if it does these operations one by one.

    Args:
        tensors: float32 arrays of one shape.
        weights: one number per tensor.
        normalize: divide by Σ wᵢ.

    Returns:
        A new float32 array of that shape.

    Raises:
        RecipeError: `normalize` is set and the weights sum to 0.
    """
    total = np.multiply(tensors[0], np.float32(weights[0]))
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total += tensor * np.float32(weight)
    if normalize:
        divisor = sum((np.float32(weight) for weight in weights), np.float32(0))
        if divisor == 0:
            raise RecipeError(
                f"the weights {tuple(weights)} sum to 0 and cannot be normalised", remedy="set normalize: false"
            )
        total /= divisor
    return total


def _rounded(tensors: Sequence[NDArray[Any]], weights: Sequence[float], *, normalize: bool = False) -> Any:
    """The same from bfloat16 to bfloat16, or None."""
    return None if normalize else weighted_sum(tensors, weights)


METHODS = {
    "linear": Method(
        merge=linear,
        rounded=_rounded,
        parameters={"normalize": Parameter(False, "divide the sum by the sum of the weights")},
        elementwise=True,
        interpolates=True,
    )
}
