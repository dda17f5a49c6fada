"""Spherical interpolation by weights, of whole tensors, rows or columns, and of task vectors where there is a base.

`along: rows` (mergekit: nuslerp_flatten false) and `columns` (nuslerp_row_wise true as well) turn every row or column by its own
angle. Only vectors with |sin θ| < 1e-8 count as colinear, which is the difference from `slerp`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._task_vectors import normalized
from interpole.merging.methods._vectors import arc

__all__ = ["METHODS", "nuslerp"]

Array = NDArray[np.float32]
ALMOST_COLINEAR = float(np.cos(1e-7))


def nuslerp(
    tensors: Sequence[Array], weights: Sequence[float], *, base: Array | None = None, along: str = "tensor"
) -> Array:
    """The arc from Θ₁ to Θ₂ at t = w₂ / (w₁ + w₂) (t = ½ where that is 0); with a base, of Θ − Θ_base, added to Θ_base.

    Args:
        tensors: two float32 arrays of one shape.
        weights: two numbers.
        base: the base model's array of that shape.
        along: what one vector is: the whole `tensor`, each of its `rows` (last axis) or each of its `columns` (first axis).

    Returns:
        A new float32 array of that shape.
    """
    a, b = tensors if base is None else [tensor - base for tensor in tensors]
    shape = a.shape
    if along == "columns":
        a, b = np.swapaxes(a, 0, -1), np.swapaxes(b, 0, -1)
    elif along == "tensor":
        a, b = a.reshape(-1), b.reshape(-1)
    turned = arc(a, b, normalized(weights)[1], ALMOST_COLINEAR)
    turned = np.swapaxes(turned, 0, -1) if along == "columns" else turned.reshape(shape)
    return turned if base is None else turned + base


METHODS = {
    "nuslerp": Method(
        merge=nuslerp,
        parameters={
            "along": Parameter("tensor", "what is turned as one vector", choices=("tensor", "rows", "columns"))
        },
        base="optional",
        interpolates=True,
        sources=(2, 2),
    )
}
