"""The Karcher mean: the direction with the smallest sum of squared angles to all models, at their mean length.

H. Karcher, Riemannian center of mass and mollifier smoothing (1977). All iterates lie in the span of the models' directions, so
the iteration runs on k coefficients and the k × k matrix of dot products, in float64.
Differs from mergekit in that it is iterated to 1e-10, not to 1e-5 in float32, and takes weights; mergekit's are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._task_vectors import normalized
from interpole.merging.methods._vectors import gram
from interpole.merging.methods.linear import linear

__all__ = ["METHODS", "karcher"]

Array = NDArray[np.float32]
Numbers = NDArray[np.float64]


def karcher(tensors: Sequence[Array], weights: Sequence[float], *, max_iter: int = 100, tol: float = 1e-10) -> Array:
    """r·μ with μ minimising Σ wᵢ·∠(μ, Θᵢ)² on the unit sphere and r = Σ wᵢ·‖Θᵢ‖; the weights are divided by their sum.

    Args:
        tensors: float32 arrays of one shape; those that are 0 have no direction, but count for the length.
        weights: one number per tensor.
        max_iter: iterations at most.
        tol: stop at steps shorter than this angle, in radians.

    Returns:
        A new float32 array of that shape.
    """
    products, shares = gram(tensors), np.asarray(normalized(weights))
    lengths = np.sqrt(np.diag(products))
    if not lengths.any():
        return linear(tensors, shares.tolist())
    inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    cosines = np.clip(products * np.outer(inverse, inverse), -1, 1)
    mean = _mean_direction(cosines, shares * (lengths > 0), max_iter, tol)
    return linear(tensors, [float(weight) for weight in mean * inverse * (shares @ lengths)])


def _mean_direction(cosines: Numbers, weights: Numbers, max_iter: int, tol: float) -> Numbers:
    """Coefficients of the Karcher mean of unit vectors, by gradient steps from their weighted mean.

    Args:
        cosines: their dot products, shape (k, k).
        weights: shape (k,).
        max_iter: steps at most.
        tol: length of the step at which to stop.

    Returns:
        Float64 array of shape (k,); the heaviest unit vector where the weighted mean is 0.
    """

    def length(coefficients: Any) -> float:
        return float(np.sqrt(max(0.0, coefficients @ cosines @ coefficients)))

    start: Numbers = weights if length(weights) > 1e-8 else np.eye(len(weights))[int(np.argmax(weights))]
    mean = start / length(start)
    for _ in range(int(max_iter)):
        cosine = np.clip(cosines @ mean, -1, 1)
        theta = np.arccos(cosine)
        sinc = np.sinc(theta / np.pi)  # sin θ / θ, 1 at 0
        pulls = np.divide(weights / weights.sum(), sinc, out=np.zeros_like(sinc), where=sinc > 1e-8)
        step = pulls - (pulls @ cosine) * mean
        size = length(step)
        if size < tol:
            break
        mean = np.cos(size) * mean + np.sin(size) / size * step
        mean /= length(mean)
    return mean


METHODS = {
    "karcher": Method(
        merge=karcher,
        parameters={
            "max_iter": Parameter(100, "iterations at most", low=0),
            "tol": Parameter(1e-10, "stop at steps shorter than this angle, in radians", low=0),
        },
        interpolates=True,
    )
}
