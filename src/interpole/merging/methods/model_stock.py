"""Model Stock (arXiv 2403.19522): from the base towards the mean of the models, the further the more they agree.

t = k·cos θ / (1 + (k − 1)·cos θ) for k models. The paper has one angle θ; for more than two models we take the mean cosine of all
pairs of task vectors, as mergekit does. A vanishing denominator (two opposite task vectors) gives the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._task_vectors import summed
from interpole.merging.methods._vectors import dot

__all__ = ["METHODS", "model_stock"]

Array = NDArray[np.float32]


def model_stock(tensors: Sequence[Array], weights: Sequence[float], *, base: Array, filter_wise: bool = False) -> Array:  # noqa: ARG001
    """The mix t · mean(Θᵢ) + (1 − t) · Θ_base with t = k·c / (1 + (k − 1)·c), c the mean cosine between the Θᵢ − Θ_base.

    Args:
        tensors: two or more float32 arrays of one shape.
        weights: not used; the method finds its own.
        base: the base model's array of that shape.
        filter_wise: one t for each row (last axis) instead of each tensor.

    Returns:
        A new float32 array of that shape.
    """
    shape = base.shape if filter_wise else (-1,)
    deltas = [(tensor - base).reshape(shape) for tensor in tensors]
    cosine = np.mean([_cosines(a, b) for a, b in combinations(deltas, 2)], axis=0)
    denominator = 1 + (len(tensors) - 1) * cosine
    t = np.divide(len(tensors) * cosine, denominator, out=np.zeros_like(cosine), where=np.abs(denominator) > 1e-8)
    mean = summed(tensors).reshape(shape)
    mean /= np.float32(len(tensors))
    merged: Array = (mean * t.astype(np.float32) + base.reshape(shape) * (1 - t).astype(np.float32)).reshape(base.shape)
    return merged


def _cosines(a: Array, b: Array) -> NDArray[np.float64]:
    """Cosine of the angle between `a` and `b` over the last axis, shape (..., 1); 0 where one of them is 0."""
    lengths = np.sqrt(dot(a, a) * dot(b, b))
    return np.divide(dot(a, b), lengths, out=np.zeros_like(lengths), where=lengths > 0).clip(-1, 1)


METHODS = {
    "model_stock": Method(
        merge=model_stock,
        parameters={"filter_wise": Parameter(False, "one ratio per row instead of one per tensor")},
        base="needed",
        uses_weights=False,
        sources=(2, np.inf),
    )
}
