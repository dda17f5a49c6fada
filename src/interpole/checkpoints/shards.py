"""Which files a checkpoint is written into, and the bytes of each: a header, and tensors that are computed piece by piece.

Memory does not grow with the model. Where the files lie, and who may write them, is said by `checkpoints.save`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.kernels import sum_files
from interpole.checkpoints.reduce import OnBytes, all_finite
from interpole.checkpoints.safetensors import DTYPES, TensorSpec, header_bytes
from interpole.errors import CheckpointError, OutputError
from interpole.systems import c_function, open_handle, write_at

__all__ = [
    "CHUNK_ELEMENTS",
    "ShardWriter",
    "Shards",
    "Share",
    "file_bytes",
    "shards_of",
    "tensor_bytes",
    "write_shard",
]

CHUNK_ELEMENTS = 1 << 18
"""Elements computed at a time: inputs and result stay in the caches."""
SPAN_ELEMENTS = 1 << 22
"""Elements a thread takes at a time."""
WRITE_BYTES = 1 << 17
"""Bytes per write; larger ones are slower on fresh page-cache files (docs/log.md)."""

Shards = dict[str, list[str]]
"""File → the tensors in it."""


class Share(NamedTuple):
    """Part `number` of `of` of the files of a merge, counted from 1: by bytes, the same for whoever asks."""

    number: int
    of: int


def shards_of(checkpoint: Checkpoint, shard_bytes: int | None = None, share: Share | None = None) -> Shards:
    """The files that a checkpoint is written into, in order of their names, with their tensors in order.

    Args:
        checkpoint: what is written.
        shard_bytes: cut the weights into files of about this size; default: as the checkpoint's own layout.
        share: only the files of this share: the largest first, each goes to the share that has the fewest bytes so far.

    Raises:
        OutputError: a size of less than a byte.
    """
    if shard_bytes is not None and shard_bytes < 1:
        raise OutputError(f"files of {shard_bytes} bytes hold nothing", remedy="give a size of at least 1 byte")
    specs, shards = checkpoint.specs, Shards()
    if shard_bytes is None:
        for name in specs:
            shards.setdefault(checkpoint.layout[name], []).append(name)
        shards = dict(sorted(shards.items()))
    else:
        shards = _cut_shards(specs, shard_bytes)
    if share is None:
        return shards
    sizes = {shard: tensor_bytes(checkpoint, names) for shard, names in shards.items()}
    loads, mine = [0] * share.of, set()
    for shard in sorted(shards, key=lambda shard: (-sizes[shard], shard)):
        least = loads.index(min(loads))
        loads[least] += sizes[shard]
        if least == share.number - 1:
            mine.add(shard)
    return {shard: names for shard, names in shards.items() if shard in mine}


def _cut_shards(specs: Mapping[str, TensorSpec], shard_bytes: int) -> Shards:
    """Fill files with tensors in order until the next would make one larger than `shard_bytes`; named as transformers does."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if groups[-1] and size + spec.num_bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += spec.num_bytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups)}


def tensor_bytes(checkpoint: Checkpoint, names: Iterable[str]) -> int:
    """Bytes of these tensors."""
    return sum(checkpoint.specs[name].num_bytes for name in names)


def file_bytes(checkpoint: Checkpoint, names: Sequence[str]) -> int:
    """Size of a whole file of these tensors, header and all."""
    return len(header_bytes(checkpoint.specs, names)[0]) + tensor_bytes(checkpoint, names)


class ShardWriter(NamedTuple):
    """Where a checkpoint's tensors go in a file."""

    checkpoint: Checkpoint
    descriptor: int
    offsets: Mapping[str, int]  # tensor → where its bytes go
    broken: list[str] | None  # names of tensors with NaN or infinity; None: they are refused

    @classmethod
    def begin(
        cls, checkpoint: Checkpoint, descriptor: int, names: Sequence[str], broken: list[str] | None
    ) -> ShardWriter:
        """Reserve an empty file's room and write its header."""
        header, offsets = header_bytes(checkpoint.specs, names)
        _reserve(descriptor, len(header) + tensor_bytes(checkpoint, names))
        _write_all(descriptor, header, 0)
        return cls(checkpoint, descriptor, offsets, broken)


def write_shard(
    writers: Sequence[ShardWriter], names: Iterable[str], pool: ThreadPoolExecutor, progress: OnBytes
) -> None:
    """Write the same tensors of every checkpoint into its file."""
    futures = [pool.submit(job) for job in _jobs(writers, names)] if writers else []
    try:
        for future in futures:
            progress(future.result())
    finally:  # no thread may write once its file is closed
        for future in futures:
            future.cancel()
        wait(futures)


def _jobs(writers: Sequence[ShardWriter], names: Iterable[str]) -> Iterator[Callable[[], int]]:
    """One callable per piece of work, each returning the bytes it wrote; a piece is taken for all outputs together."""
    for name in names:
        size = writers[0].checkpoint.specs[name].num_elements
        step = max((writer.checkpoint.chunk_elements(name) or 0 for writer in writers), default=0) or CHUNK_ELEMENTS
        span = step * max(1, SPAN_ELEMENTS // step)
        for start in range(0, size, span):
            yield partial(_compute, writers, name, range(start, min(start + span, size), step))


def _compute(writers: Sequence[ShardWriter], name: str, starts: range) -> int:
    written = 0
    if len(writers) == 1:  # several are computed from what is read once
        written = _sum_files(writers[0], name, starts)
    itemsize = DTYPES[writers[0].checkpoint.specs[name].dtype].itemsize
    for start in range(starts.start + written // itemsize, starts.stop, starts.step):
        stop = min(start + starts.step, starts.stop)
        for checkpoint, descriptor, offsets, broken in writers:
            data = checkpoint.read(name, start, stop)
            if not all_finite(data):
                if broken is None:
                    raise _not_finite(checkpoint, name, data)
                broken.append(name)
            _write_all(descriptor, data.view(np.uint8).data, offsets[name] + start * data.itemsize)
            written += data.nbytes
    return written


def _sum_files(writer: ShardWriter, name: str, span: range) -> int:
    """Write a part of a tensor that is a sum of bfloat16 tensors as they lie in files, in one call that lets Python go on.

    Returns:
        Bytes written, from the start of the span; what is left, as after all that can go wrong, is for the way of all tensors.
    """
    checkpoint, descriptor, offsets, _ = writer
    terms = checkpoint.terms(name) or ()
    origins = [origin for source, _ in terms if (origin := source.origin(name)) is not None]
    dtypes = {checkpoint.specs[name].dtype, *(source.specs[name].dtype for source, _ in terms)}
    if not origins or len(origins) < len(terms) or dtypes != {"BF16"}:
        return 0
    inputs, skipped_bytes = [], 2 * span.start
    with ExitStack() as opened:
        for path, offset_bytes in origins:
            try:
                file = open_handle(path, os.O_RDONLY)
            except OSError:
                return 0
            opened.callback(os.close, file)
            inputs.append((file, offset_bytes + skipped_bytes))
        weights = [weight for _, weight in terms]
        return 2 * sum_files(inputs, weights, (descriptor, offsets[name] + skipped_bytes), span.stop - span.start)


def _not_finite(checkpoint: Checkpoint, name: str, data: NDArray[Any]) -> CheckpointError:
    """What is wrong with a tensor of the result; float16 holds no number beyond 65,504, so that a cast can be the cause."""
    what = "NaN" if np.isnan(data.astype(np.float64)).any() else "infinity"
    cause = (
        "numbers beyond 65,504 overflow float16"
        if data.dtype == np.float16
        else "a source holds it, or a sum overflows"
    )
    return CheckpointError(
        f"tensor {name} of the result holds {what}: {cause}",
        checkpoint.label,
        "`interpole doctor --weights` looks at the sources; a wider --dtype holds larger numbers; --allow-non-finite writes it",
    )


def _reserve(descriptor: int, size: int) -> None:
    """Ask the file system for the room at once, where it can: writes are a fifth faster (`posix_fallocate` may write instead)."""
    fallocate = c_function("fallocate")
    if fallocate is not None:
        fallocate(descriptor, 0, ctypes.c_long(0), ctypes.c_long(size))


def _write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` at byte offset `at`, in small writes."""
    view = memoryview(data)
    while len(view):
        written = write_at(descriptor, view[:WRITE_BYTES], at)
        view, at = view[written:], at + written
