"""The ways in which people round a linear merge, so that the exact bits tell which tool made one.

Each is a pure function of two float32 arrays, λ and the dtype of the result; formulas from the tools' documentation and papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARITHMETICS", "Arithmetic"]

Array = NDArray[np.float32]


def _weighted(a: Array, b: Array, lam: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Computes (1 − λ)·a + λ·b in float32 and one rounding."""
    return (a * np.float32(1.0 - lam) + b * np.float32(lam)).astype(dtype)


def _difference(a: Array, b: Array, lam: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Computes a + λ·(b − a) in float32 and one rounding."""
    return (a + np.float32(lam) * (b - a)).astype(dtype)


def _nearer_end(a: Array, b: Array, lam: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """From the end that is nearer, with a fused multiply-add: what `torch.lerp` computes; one rounding from float32.

    The fused operation is done in float64, which holds the product of two float32 exactly.
    """
    start, weight = (a, np.float32(lam)) if abs(lam) < 0.5 else (b, -(np.float32(1.0) - np.float32(lam)))
    return (start + np.float64(weight) * (b - a)).astype(np.float32).astype(dtype)


def _weighted_narrow(a: Array, b: Array, lam: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Weights and products rounded to the dtype before the sum is: at λ = 0.8 in bfloat16 they are 0.2002 and 0.8008."""
    first, second = (
        (side * np.float32(np.asarray(weight, np.float32).astype(dtype))).astype(dtype).astype(np.float32)
        for side, weight in ((a, 1.0 - lam), (b, lam))
    )
    return (first + second).astype(dtype)


def _difference_narrow(a: Array, b: Array, lam: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Computes a + λ·(b − a) with difference and product rounded to the dtype before the sum is."""
    step = (b - a).astype(dtype).astype(np.float32)
    return (a + (np.float32(lam) * step).astype(dtype).astype(np.float32)).astype(dtype)


Arithmetic = Callable[[Array, Array, float, np.dtype[Any]], NDArray[Any]]

ARITHMETICS: Mapping[str, tuple[Arithmetic, str]] = {
    "weighted": (
        _weighted,
        "(1−λ)·Instruct + λ·Thinking in float32, one rounding: Interpole, mergekit with dtype float32",
    ),
    "difference": (_difference, "Instruct + λ·(Thinking − Instruct) in float32, one rounding"),
    "nearer end": (_nearer_end, "fused from the nearer end, one rounding: torch.lerp"),
    "weighted, narrow": (
        _weighted_narrow,
        "weights and products rounded to the dtype: mergekit ≤ 0.1.4 with dtype bfloat16",
    ),
    "difference, narrow": (
        _difference_narrow,
        "difference and product rounded to the dtype: the script of arXiv 2510.10977",
    ),
}
"""Name → (function, what it is and whose)."""
