"""What writing checkpoints would take: bytes, files, room, and time at a rate that is measured on the spot.

The rate is that of a sample: pieces spread over the tensors are read, computed and written to a file beside the target, which the
system removes with its last descriptor, on as many threads as a merge has; what was written is on the disk when the clock stops.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.kernels import keep_freed_memory
from interpole.checkpoints.save import Target, bytes_there
from interpole.checkpoints.shards import CHUNK_ELEMENTS, Share, shards_of
from interpole.errors import CheckpointError, CorruptError
from interpole.files import refuse_unwritable

__all__ = ["Rate", "WriteEstimate", "estimate"]

SAMPLE_PIECES = 48
SAMPLE_SECONDS = 1.0
LARGEST_PIECE = 1 << 24
"""Elements of a piece that is sampled; one that is computed as a whole, or read ahead, may have hundreds of times as many."""


class Rate(NamedTuple):
    """How fast a sample was merged: bytes written, in which time."""

    num_pieces: int
    sample_bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        """Bytes of the result, read, computed and written."""
        return self.sample_bytes / self.seconds


class WriteEstimate(NamedTuple):
    """What writing takes.

    Attributes:
        num_tensors: of one result.
        num_files: of weights, of one result, in this share.
        largest_file_bytes: the largest of them.
        result_bytes: of all results, whole.
        write_bytes: to be written now: in this share, without what is there.
        read_bytes: to be read for it.
        there_bytes: of whole files that an earlier run, or other shares, left.
        free_bytes: on the file system of the target.
        rate: as measured; None where no weights are here to measure with.
    """

    num_tensors: int
    num_files: int
    largest_file_bytes: int
    result_bytes: int
    write_bytes: int
    read_bytes: int
    there_bytes: int
    free_bytes: int
    rate: Rate | None

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.write_bytes <= self.free_bytes

    @property
    def seconds(self) -> float | None:
        """The time at the measured rate."""
        return None if self.rate is None else self.write_bytes / self.rate.bytes_per_second


def estimate(
    targets: Sequence[Target],
    *,
    shard_bytes: int | None = None,
    share: Share | None = None,
    allow_non_finite: bool = False,
) -> WriteEstimate:
    """What `save_all` of the same arguments would take; writes nothing that stays.

    Args:
        targets: what is written, and where.
        shard_bytes: size of files, or none.
        share: the part of the files.
        allow_non_finite: as for `save_all`, of which an unfinished folder depends.

    Raises:
        OutputError: as `save_all`, before it writes.
    """
    first, folder = targets[0].checkpoint, _existing(targets[0].out.parent)
    part = shards_of(first, shard_bytes, share)
    sizes = [sum(first.specs[name].num_bytes for name in names) for names in part.values()]
    there = bytes_there(targets, shard_bytes, allow_non_finite, share)
    refuse_unwritable(folder)
    names = [name for chosen in part.values() for name in chosen]
    whole = sum(target.checkpoint.specs[name].num_bytes for target in targets for name in names)
    read = sum(_read_once(targets, name) for name in names)
    return WriteEstimate(
        num_tensors=len(first),
        num_files=len(part),
        largest_file_bytes=max(sizes, default=0),
        result_bytes=sum(target.checkpoint.num_bytes for target in targets),
        write_bytes=whole - there,
        read_bytes=round(read * (whole - there) / whole) if whole else 0,
        there_bytes=there,
        free_bytes=shutil.disk_usage(folder).free,
        rate=_measure(first, names, folder) if names else None,
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _read_once(targets: Sequence[Target], name: str) -> int:
    """Bytes read for a tensor of several results, which share what is read: those of the one that needs most."""
    return max(target.checkpoint.stored_bytes(name) for target in targets)


def _measure(checkpoint: Checkpoint, names: Sequence[str], folder: Path) -> Rate | None:
    """The rate of a sample of pieces, cut off after a second; None where nothing can be written, or no piece is small enough."""
    pieces = list(islice(_pieces(checkpoint, names), SAMPLE_PIECES))
    keep_freed_memory()
    try:
        with tempfile.TemporaryFile(dir=folder) as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            begin = perf_counter()
            done = [n for n in pool.map(_writer(checkpoint, file.fileno(), begin + SAMPLE_SECONDS), pieces) if n]
            os.fsync(file.fileno())
            return Rate(len(done), sum(done), perf_counter() - begin) if done else None
    except CorruptError:
        raise
    except (OSError, CheckpointError):  # headers alone were fetched
        return None


Piece = tuple[str, int, int]


def _pieces(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[Piece]:
    """Pieces as a merge takes them, from tensors that lie evenly by bytes, a step between the pieces of one tensor."""
    sizes = np.array([checkpoint.specs[name].num_bytes for name in names], float)
    at = np.searchsorted(np.cumsum(sizes), (np.arange(SAMPLE_PIECES) + 0.5) / SAMPLE_PIECES * sizes.sum())
    for number, name in enumerate(names[i] for i in at):
        size = checkpoint.specs[name].num_elements
        step = checkpoint.chunk_elements(name) or CHUNK_ELEMENTS
        if 0 < step <= LARGEST_PIECE and not checkpoint.is_read_ahead(name):
            start = number * step % max(1, size - size % step)
            yield name, start, min(start + step, size)


def _writer(checkpoint: Checkpoint, file: int, deadline: float) -> Callable[[Piece], int]:
    """What merges a piece and writes it; after the deadline it does nothing."""

    def write(piece: Piece) -> int:
        if perf_counter() > deadline:
            return 0
        return os.write(file, checkpoint.read(*piece).view(np.uint8).data)

    return write
