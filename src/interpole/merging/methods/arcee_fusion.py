"""Arcee Fusion: take over from another model the elements that matter most, and leave the base's elsewhere.

The importance of an element is |δ| times how far its row is from the base's as a distribution (Kullback and Leibler, of the
softmax of the row). Taken over is what reaches median + 1.5·(q₃ − q₁) of all importances (Tukey's fence). As in mergekit
(https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration), but the distances are
computed in float64, as between close rows they are smaller than float32's rounding; and the quartiles are those of all elements,
where mergekit draws a million at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method

__all__ = ["METHODS", "arcee_fusion"]

Array = NDArray[np.float32]
EPSILON = 1e-8
"""Added to every probability."""
BLOCK_ELEMENTS = 1 << 18


def arcee_fusion(tensors: Sequence[Array], weights: Sequence[float], *, base: Array) -> Array:  # noqa: ARG001
    """Θ_base + m·δ, m being 1 where the importance of an element is at least median + 1.5·(q₃ − q₁), else 0.

    Args:
        tensors: one float32 array.
        weights: not used; the method finds its own.
        base: the base model's array of that shape.

    Returns:
        A new float32 array of that shape.
    """
    (other,) = tensors
    if base.size == 0:
        return base.copy()
    rows = other.reshape(-1, other.shape[-1] if other.ndim else 1)
    below = base.reshape(rows.shape)
    importance = np.empty(rows.shape, np.float32)
    step = max(1, BLOCK_ELEMENTS // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        distance = _divergence(rows[part], below[part])  # (rows,)
        importance[part] = np.abs(rows[part] - below[part]) * distance[:, None].astype(np.float32)
    kept = importance >= _fence(importance.reshape(-1))
    return (below + (rows - below) * kept).reshape(base.shape)


def _divergence(rows: Array, below: Array) -> NDArray[np.float64]:
    """Σ p·log(p / q) of each row, p and q being the softmax of both with EPSILON added: shape (rows,)."""
    p, q = _softmax(rows), _softmax(below)
    found: NDArray[np.float64] = (p * np.log(p / q)).sum(axis=1)
    return found


def _softmax(rows: Array) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(axis=1, keepdims=True)
    wide += EPSILON
    return wide


def _fence(importance: Array) -> np.float32:
    """Median + 1.5·(q₃ − q₁), each being the element at ⌊q·(n − 1)⌋ in order."""
    places = [int(q * (importance.size - 1)) for q in (0.25, 0.5, 0.75)]
    q1, median, q3 = np.partition(importance, places)[places]
    fence: np.float32 = median + np.float32(1.5) * (q3 - q1)
    return fence


METHODS = {
    "arcee_fusion": Method(merge=arcee_fusion, base="needed", uses_weights=False, sources=(1, 1)),
}
