"""Take each tensor from one source, as it is or scaled: for stacking layers, or for choosing parts by rules.

The weight of the source is the factor (mergekit's `scale`), 1 for a copy; all other weights are 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.errors import RecipeError
from interpole.merging.methods import Method
from interpole.merging.methods.linear import linear

__all__ = ["METHODS", "passthrough"]

Array = NDArray[np.float32]


def passthrough(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    """w·Θ of the one tensor whose weight is not 0.

    Args:
        tensors: float32 arrays of one shape.
        weights: one number per tensor, at most one of them not 0.

    Returns:
        A new float32 array of that shape.

    Raises:
        RecipeError: several weights are not 0.
    """
    if np.count_nonzero(weights) > 1:
        raise RecipeError(
            f"passthrough takes each tensor from one source, got the weights {tuple(weights)}",
            remedy="give one source the weight 1 and the others 0, or choose the method linear",
        )
    return linear(tensors, weights)


METHODS = {"passthrough": Method(merge=passthrough, elementwise=True, interpolates=True)}
