"""What makes passes over weights fast: loops in C (`_kernels.c`), and memory that is kept.

Where the loops were not built, or do not fit, they give None, and numpy does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.safetensors import DTYPES
from interpole.systems import c_function

try:
    from interpole.checkpoints import _kernels
except ImportError:  # installed without a C compiler
    _kernels = None  # type: ignore[assignment]

__all__ = [
    "absolute_sums",
    "are_built",
    "block_sums",
    "fit",
    "keep_freed_memory",
    "line_products",
    "magnitude_band",
    "sum_files",
    "task_vector_sum",
    "weighted_sum",
]

MOST_INPUTS = 16

Array = NDArray[Any]


def weighted_sum(inputs: Sequence[Array], weights: Sequence[float], out: Array | None = None) -> Array | None:
    """Σ wᵢ·xᵢ as `interpole.merging.methods.linear` defines it, rounded once to bfloat16; None unless all inputs are bfloat16.

    Args:
        inputs: flat arrays of one length.
        weights: one number per input.
        out: where to write the sum, 16 bits a number; default a new array.
    """
    if not fit(inputs):
        return None
    out = np.empty(inputs[0].shape, np.uint16) if out is None else out.view(np.uint16)
    _kernels.weighted_sum(tuple(array.view(np.uint16) for array in inputs), tuple(map(float, weights)), out)
    return out.view(DTYPES["BF16"])


def sum_files(inputs: Sequence[tuple[int, int]], weights: Sequence[float], out: tuple[int, int], size: int) -> int:
    """Read bfloat16 from files, and write what `weighted_sum` makes of it, piece by piece, into a file.

    Args:
        inputs: for each input an open file and the byte where it begins there.
        weights: one number per input.
        out: where the sum goes, likewise.
        size: elements of each.

    Returns:
        How many elements were written: fewer where a file ends or fails, or where the sum holds NaN or infinity; what to do
        then is for the caller. 0 where the loop was not built.
    """
    loop = getattr(_kernels, "sum_files", None)
    if loop is None or len(inputs) > MOST_INPUTS:
        return 0
    written: int = loop(tuple(inputs), tuple(map(float, weights)), out, size)
    return written


def task_vector_sum(
    inputs: Sequence[Array],
    base: Array,
    weights: Sequence[float],
    *,
    cuts: Sequence[tuple[int, int]] = (),
    normalize: bool = False,
    scale: float = 1.0,
) -> Array | None:
    """Base + scale · Σ wᵢ·(xᵢ − base) as `merging.methods` defines it, rounded once to bfloat16; None unless all are bfloat16.

    Args:
        inputs: flat arrays of one length.
        base: a flat array of that length.
        weights: one number per input.
        cuts: for each input what is kept of xᵢ − base, a threshold of bits and the last position of an element at it, as
            `_sparsify.MagnitudeCut` has them; of this the elements count that have the sign of the weighted sum (TIES). Without
            cuts all is kept, and there is no vote.
        normalize: divide by the sum of the weights, after a vote by that of those that agree; sums of 0 count as 1.
        scale: factor on the sum.
    """
    loop = getattr(_kernels, "task_vector_sum", None)
    if loop is None or not fit(inputs) or not fit((base,)):
        return None
    out = np.empty(base.shape, np.uint16)
    codes = tuple(array.view(np.uint16) for array in inputs)
    loop(codes, tuple(map(float, weights)), tuple(cuts), normalize, float(scale), base.view(np.uint16), out)
    return out.view(DTYPES["BF16"])


def magnitude_band(x: Array, base: Array, low: int, high: int) -> tuple[int, int, Array, int] | None:
    """The magnitudes of x − base beside a band, by their bits as float32, which order as they do; None unless both are bfloat16.

    Returns:
        How many lie above `high` and at it, the bits of those strictly between, in order, and how many lie at `low`.
    """
    loop = getattr(_kernels, "magnitude_band", None)
    if loop is None or not fit((x, base)):
        return None
    inside = np.empty(x.size, np.int32)
    above, at_high, num_inside, at_low = loop(x.view(np.uint16), base.view(np.uint16), low, high, inside)
    return above, at_high, inside[:num_inside].copy(), at_low


def absolute_sums(a: Array, b: Array) -> tuple[float, float, float] | None:
    """Σ|a − b|, Σ|a| and Σ|b| in rows of 1,024 in float32, then float64; None unless both are bfloat16."""
    return _kernels.absolute_sums(a.view(np.uint16), b.view(np.uint16)) if fit((a, b)) else None


def line_products(merged: Array, a: Array, b: Array, *weights: float) -> list[float] | None:
    """The products of e = merged − a, d = b − a and a (ee, ed, ea, dd, da, aa), then how many of merged differ from a and from b.

    With weights of a and b follows how many differ in a bit from `weighted_sum`. Rows of 1,024 in float32, then float64; None
    unless all are bfloat16, and where the loop was not built.
    """
    loop = getattr(_kernels, "line_sums", None)
    if loop is None or not fit((merged, a, b)):
        return None
    found: list[float] = loop(merged.view(np.uint16), a.view(np.uint16), b.view(np.uint16), *weights)
    return found


def block_sums(data: NDArray[np.uint8], keys: NDArray[np.uint32]) -> NDArray[np.uint64] | None:
    """NH of every block of `data`, as `fingerprint.block_sums` defines it; None where the loop was not built."""
    loop = getattr(_kernels, "block_sums", None)
    if loop is None or sys.byteorder != "little":
        return None
    out = np.empty(data.nbytes // keys.nbytes, np.uint64)
    loop(data, keys, out)
    return out


def are_built() -> bool:
    """Whether the loops in C are there."""
    return _kernels is not None


@cache
def keep_freed_memory() -> None:
    """Ask glibc to keep freed pieces; given back to the system at once, page faults take most of the time (docs/log.md)."""
    mallopt = c_function("mallopt")
    if mallopt is not None:
        mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD
        mallopt(-3, 16 << 20)  # M_MMAP_THRESHOLD


def fit(arrays: Sequence[Array]) -> bool:
    """Whether the loops take these arrays."""
    return (
        _kernels is not None
        and len(arrays) <= MOST_INPUTS
        and all(array.dtype == DTYPES["BF16"] and array.flags.c_contiguous for array in arrays)
    )
