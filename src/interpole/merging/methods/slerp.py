"""Spherical interpolation of two models (Shoemake 1985), each tensor taken as one vector.

λ is the share of the angle between them. As in mergekit (whose `t` is our λ, from the base model to the other), vectors with
|cos θ| > 0.9995 count as colinear and are interpolated linearly. The angle is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method
from interpole.merging.methods._task_vectors import normalized
from interpole.merging.methods._vectors import arc

__all__ = ["METHODS", "slerp"]

Array = NDArray[np.float32]


def slerp(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    """sin((1−t)θ)/sin θ · Θ₁ + sin(tθ)/sin θ · Θ₂ with t = w₂ / (w₁ + w₂) and θ the angle between the tensors.

    Args:
        tensors: two float32 arrays of one shape.
        weights: two numbers, e.g. 1 − λ and λ.

    Returns:
        A new float32 array of that shape.
    """
    a, b = tensors
    return arc(a.reshape(-1), b.reshape(-1), normalized(weights)[1], threshold=0.9995).reshape(a.shape)


METHODS = {"slerp": Method(merge=slerp, interpolates=True, sources=(2, 2))}
