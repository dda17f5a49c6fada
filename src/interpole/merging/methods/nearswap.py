"""NearSwap: towards another model where the two are close, and hardly where they are far apart.

As in mergekit, after https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001: the share of the other model is t / |δ|, at
most 1, so that elements that differ by t or less are the other model's, and every other one moves by t.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter

__all__ = ["METHODS", "nearswap"]

Array = NDArray[np.float32]
SMALLEST = np.float32(1e-6)
"""Differences below count as this large."""


def nearswap(tensors: Sequence[Array], weights: Sequence[float], *, base: Array, t: float = 1e-4) -> Array:  # noqa: ARG001
    """w·Θ + (1 − w)·Θ_base with w = t / |Θ − Θ_base|, between 0 and 1.

    Args:
        tensors: one float32 array.
        weights: not used; the method finds its own.
        base: the base model's array of that shape.
        t: how far an element moves at most; from 1e-6 up, what differs by no more is the other model's.

    Returns:
        A new float32 array of that shape.
    """
    (other,) = tensors
    distance = np.maximum(np.abs(base - other), SMALLEST)
    share = np.clip(np.divide(np.float32(t), distance, out=distance), 0, 1, out=distance)
    merged: Array = (np.float32(1) - share) * base
    merged += share * other
    return merged


METHODS = {
    "nearswap": Method(
        merge=nearswap,
        parameters={"t": Parameter(1e-4, "how far an element moves towards the other model at most", low=0)},
        elementwise=True,
        base="needed",
        uses_weights=False,
        sources=(1, 1),
    )
}
