"""Sums over whole checkpoints in one threaded pass at reading speed; memory does not grow with the model.

Arithmetic is float32 on pieces that stay in the second-level cache, summed in rows of 1,024; rows are added in float64,
and the parts of a tensor exactly (`math.fsum`), so that neither thread count nor order shows in a result.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints import kernels
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.safetensors import DTYPES

__all__ = [
    "PIECE_ELEMENTS",
    "SPAN_ELEMENTS",
    "AbsoluteSums",
    "OnBytes",
    "absolute_sums",
    "add_up",
    "all_finite",
    "count_differing",
    "dot",
    "float32_parts",
    "not_finite",
    "num_not_finite",
    "sum_tensors",
    "to_float32",
    "total",
]

PIECE_ELEMENTS = 1 << 18
"""Elements read at a time: 512 KB of bfloat16."""
SPAN_ELEMENTS = 1 << 22
"""Elements a thread takes at a time."""
ROW = 1024

Array = NDArray[Any]
OnBytes = Callable[[int], None]
"""Told of bytes as they are read or written."""
Work = Callable[..., Sequence[float]]
Read = Callable[[Checkpoint, str, int, int], Array]
"""A checkpoint, the name of a tensor and a span of it → its elements."""


class AbsoluteSums(NamedTuple):
    """The three sums that σ is made of."""

    difference: float  # Σ|A − B|
    a: float  # Σ|A|
    b: float  # Σ|B|

    @property
    def sigma(self) -> float:
        """σ = Σ|A − B| / (Σ|A| + Σ|B|) in [0, 1] (arXiv 2505.12716); 0 where both are all zero."""
        return self.difference / (self.a + self.b) if self.a + self.b else 0.0

    @property
    def relative_change(self) -> float:
        """Σ|A − B| / mean of Σ|A| and Σ|B|: twice σ; √2 for two independent models of one scale."""
        return 2 * self.sigma


def absolute_sums(a: Array, b: Array) -> AbsoluteSums:
    """The sums of σ over two flat arrays of one length, of any float dtype."""
    if (found := kernels.absolute_sums(a, b)) is not None:
        return AbsoluteSums(*found)
    sums = np.zeros(3)
    for x, y in float32_parts(a, b):
        difference = np.subtract(x, y)
        sums += [total(np.abs(part, out=part)) for part in (difference, x, y)]
    return AbsoluteSums(*sums.tolist())


def float32_parts(*arrays: Array) -> Iterator[tuple[NDArray[np.float32], ...]]:
    """The arrays as float32, in parts that hold the same elements of each; the parts may be written to.

    Pairs of bfloat16 are taken as one 32-bit word: its high half is a float32 after one AND, its low half after one shift.
    The even and the odd elements so come apart, which no sum minds, at half the cost of widening.
    """
    bfloat16 = all(array.dtype == DTYPES["BF16"] for array in arrays)
    if bfloat16 and arrays[0].size % 2 == 0:
        words = [array.view(np.uint32) for array in arrays]
        yield tuple((word & np.uint32(0xFFFF0000)).view(np.float32) for word in words)
        yield tuple((word << np.uint32(16)).view(np.float32) for word in words)
    else:
        yield tuple(array.astype(np.float32) for array in arrays)


def to_float32(array: Array) -> NDArray[np.float32]:
    """The array in float32; exact for bfloat16, float16 and float8."""
    if array.dtype == DTYPES["BF16"]:
        return np.left_shift(array.view(np.uint16), 16, dtype=np.uint32).view(np.float32)
    return array.astype(np.float32)


def total(x: NDArray[np.float32]) -> float:
    """Σx of a flat float32 array: rows of 1,024 in float32, then float64."""
    rows, rest = _rows(x)
    return float(np.einsum("ij->i", rows).sum(dtype=np.float64)) + float(rest.sum(dtype=np.float64))


def dot(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Σxy of two flat float32 arrays of one length: rows of 1,024 in float32, then float64."""
    (rows, rest), (other_rows, other_rest) = _rows(x), _rows(y)
    # rows of 1,024 are below the size at which BLAS would start threads of its own
    return float(np.vecdot(rows, other_rows).sum(dtype=np.float64)) + float(np.vecdot(rest, other_rest))


def _rows(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    even = x.size - x.size % ROW
    return x[:even].reshape(-1, ROW), x[even:]


def add_up(parts: Iterable[Sequence[float]]) -> list[float]:
    """Column sums of equally long rows, each rounded once; nan where infinities of both signs meet."""
    return [_exact_sum(column) for column in zip(*parts, strict=True)]


def _exact_sum(column: Iterable[float]) -> float:
    try:
        return math.fsum(column)
    except (OverflowError, ValueError):
        return math.nan


def count_differing(a: Array, b: Array) -> list[float]:
    """How many elements of two flat arrays of one length differ in a bit: all, if their dtypes do."""
    if a.dtype != b.dtype:
        return [float(a.size)]
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return [float(np.count_nonzero(a.view(bits) != b.view(bits)))]


_FIRST_NOT_FINITE = {
    "BF16": 0x7F80,
    "F16": 0x7C00,
    "F32": 0x7F80 << 16,
    "F64": 0x7FF << 52,
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
}
_CODES = {DTYPES[name]: first for name, first in _FIRST_NOT_FINITE.items()}
"""Per dtype the bits of the smallest positive value that is no finite number; all beyond are none either."""


def all_finite(array: Array) -> bool:
    """Whether a flat array holds neither NaN nor infinity: two maxima over its bits, several times faster than `isfinite`."""
    first, bits = _CODES.get(array.dtype), 8 * array.itemsize
    if first is None or not array.size:
        return True
    codes = array.view(f"u{array.itemsize}")
    return bool(codes.view(f"i{array.itemsize}").max() < first and codes.max() < first + (1 << (bits - 1)))


def num_not_finite(x: Array) -> int:
    """How many elements of a flat float array are NaN or infinite."""
    return 0 if all_finite(x) else int(np.count_nonzero(~np.isfinite(x.astype(np.float64))))


def not_finite(checkpoint: Checkpoint, progress: OnBytes | None = None) -> Mapping[str, int]:
    """The tensors that hold NaN or infinity, with how many of their elements are: one pass over all of the weights."""
    names = [name for name, spec in checkpoint.specs.items() if spec.is_float]
    counts = sum_tensors([checkpoint], names, lambda x: [num_not_finite(x)], progress=progress)
    return {name: int(count) for name, (count,) in counts.items() if count}


def sum_tensors(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    work: Work | Mapping[str, Work],
    *,
    threads: int | None = None,
    progress: OnBytes | None = None,
    read: Read | None = None,
) -> Mapping[str, list[float]]:
    """For every tensor: the column sums of `work(*pieces)` over all of its pieces.

    Args:
        checkpoints: what to read from, side by side.
        names: tensors that all of them have, in one shape.
        work: takes one flat piece per checkpoint and returns numbers that add up over pieces; or name → what does so.
        threads: default one per core, at most eight.
        progress: called with the bytes of the first checkpoint that were read since the last call.
        read: how checkpoints are read, where not by their own `read`: pieces that it gives may be kept by others.
    """
    kernels.keep_freed_memory()
    queue, lock = _spans(checkpoints, names), threading.Lock()
    parts: dict[str, list[Sequence[float]]] = {name: [] for name in names}

    def drain(_: int) -> None:
        while True:
            with lock:
                span = next(queue, None)
            if span is None:
                return
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity show in the sums
                    parts[span.name].append(
                        add_up(_work_on(span, checkpoints, work if callable(work) else work[span.name], read))
                    )
            except BaseException:
                with lock:
                    queue.close()  # the others stop too
                raise
            if progress:
                progress((span.stop - span.start) * DTYPES[checkpoints[0].specs[span.name].dtype].itemsize)

    workers = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(drain, range(workers)))
    return {name: add_up(parts[name]) for name in names}


class _Span(NamedTuple):
    """Elements [start, stop) of a tensor, to be read `step` at a time by one thread."""

    name: str
    start: int
    stop: int
    step: int


def _spans(checkpoints: Sequence[Checkpoint], names: Iterable[str]) -> Generator[_Span, None, None]:
    for name in names:
        size = checkpoints[0].specs[name].num_elements
        whole = any(checkpoint.chunk_elements(name) for checkpoint in checkpoints)  # computed from the whole tensor
        span, step = (max(1, size),) * 2 if whole else (SPAN_ELEMENTS, PIECE_ELEMENTS)
        for start in range(0, max(1, size), span):
            yield _Span(name, start, min(start + span, size), step)


def _work_on(
    span: _Span, checkpoints: Sequence[Checkpoint], work: Work, read: Read | None
) -> Iterator[Sequence[float]]:
    for at in range(span.start, max(span.stop, span.start + 1), span.step):
        part = span.name, at, min(at + span.step, span.stop)
        yield work(
            *((checkpoint.read(*part) if read is None else read(checkpoint, *part)) for checkpoint in checkpoints)
        )
