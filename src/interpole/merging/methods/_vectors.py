"""Tensors as vectors: lengths and angles in float64, for the methods that move on a sphere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["arc", "dot", "gram"]

Array = NDArray[np.float32]
Numbers = NDArray[np.float64]

CHUNK_ELEMENTS = 1 << 16


def dot(a: Array, b: Array) -> Numbers:
    """Σ aᵢ·bᵢ over the last axis in float64, in chunks, so that no float64 copy of a whole tensor is made.

    Args:
        a: float32 array of shape (..., n).
        b: float32 array of the same shape.

    Returns:
        float64 array of shape (..., 1).
    """
    total = np.zeros((*a.shape[:-1], 1))
    for start in range(0, a.shape[-1], CHUNK_ELEMENTS):
        part = np.s_[..., start : start + CHUNK_ELEMENTS]
        total[..., 0] += np.einsum("...i,...i->...", a[part], b[part], dtype=np.float64)
    return total


def gram(tensors: Sequence[Array]) -> Numbers:
    """The dot products of all pairs of tensors, each taken as one vector: float64, shape (k, k)."""
    vectors = [tensor.reshape(-1) for tensor in tensors]
    products = np.empty((len(vectors), len(vectors)))
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors[: i + 1]):
            products[i, j] = products[j, i] = dot(a, b).item()
    return products


def arc(a: Array, b: Array, t: float, threshold: float) -> Array:
    """The point at share `t` of the way from `a` to `b` along the arc between their directions, over the last axis.

    sin((1−t)θ)/sin θ · a + sin(tθ)/sin θ · b, θ being the angle between them; (1−t)·a + t·b where |cos θ| > threshold or
    one of them is 0.

    Args:
        a: float32 array of shape (..., n).
        b: float32 array of the same shape.
        t: 0 gives `a`, 1 gives `b`.
        threshold: the |cos θ| above which vectors count as colinear.

    Returns:
        A new float32 array of that shape.
    """
    lengths = np.sqrt(dot(a, a) * dot(b, b))
    cosine = np.clip(np.divide(dot(a, b), lengths, out=np.ones_like(lengths), where=lengths > 0), -1, 1)
    straight = np.abs(cosine) > threshold
    theta = np.where(straight, np.pi / 2, np.arccos(cosine))
    first = np.where(straight, 1 - t, np.sin((1 - t) * theta) / np.sin(theta))
    second = np.where(straight, t, np.sin(t * theta) / np.sin(theta))
    turned: Array = a * first.astype(np.float32)
    turned += b * second.astype(np.float32)
    return turned
