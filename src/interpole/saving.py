"""Write a checkpoint to a folder, streaming: memory does not grow with the model, and nothing half-written is left to load.

Shards are written into a hidden folder beside the target, which is renamed when all is there. A run that was killed
leaves that folder without a config, so that nothing loads it; the next run of the same merge goes on at its first missing
shard.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import numpy as np

from interpole.checkpoint import Checkpoint, Origin
from interpole.errors import OutputError

__all__ = ["save"]

CHUNK_ELEMENTS = 1 << 18
"""Elements computed at a time: 512 KB of bfloat16, so that inputs and result stay in the second-level cache."""
WRITE_BYTES = 1 << 16
"""Bytes per write; small ones are several times faster on fresh page-cache files (docs/log.md)."""

Progress = Callable[[int], None]


def save(
    checkpoint: Checkpoint,
    out: Path,
    *,
    extra: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Path:
    """Write `checkpoint` as a folder that transformers and vLLM load.

    Args:
        checkpoint: what to write; tensors that lie on disk as they are are copied by the kernel, others computed in chunks.
        out: the folder to make; must not exist.
        extra: further text files by name, e.g. the model card.
        progress: called with the number of bytes written since the last call.
        threads: worker threads; default one per core, at most eight.

    Raises:
        OutputError: `out` exists, the disk is full or not writable. Nothing is left behind.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise OutputError("the output exists already", out, "choose another --out, or remove it")
    unfinished = out.parent / f".{out.name}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _prepare(unfinished, checkpoint)
        _check_space(unfinished, checkpoint)
        shards = shard_names(checkpoint)
        with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
            for shard, names in shards.items():
                _write_shard(checkpoint, names, unfinished / shard, pool, progress or (lambda _: None))
        _write_assets(checkpoint, shards, unfinished, extra or {})
        unfinished.rename(out)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise _output_error(error, out, checkpoint) from error
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return out


def shard_names(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Shard file → its tensors: the layout of the checkpoint, with shards in order of name."""
    shards: dict[str, list[str]] = {}
    for name in checkpoint.specs:
        shards.setdefault(checkpoint.layout[name], []).append(name)
    return dict(sorted(shards.items()))


def header_bytes(checkpoint: Checkpoint, names: list[str]) -> tuple[bytes, dict[str, int]]:
    """The safetensors header for `names` in this order, padded to 8 bytes, and the absolute offset of every tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, end = {}, 0
    for name in names:
        spec = checkpoint.specs[name]
        offsets[name], end = end, end + spec.num_bytes
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + offset for name, offset in offsets.items()}


def _prepare(folder: Path, checkpoint: Checkpoint) -> None:
    """Make the hidden folder, or keep the one a killed run left if it is of the same merge."""
    marker, fingerprint = folder / ".fingerprint", checkpoint.fingerprint()
    if folder.exists() and not (marker.is_file() and marker.read_text() == fingerprint):
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    marker.write_text(fingerprint)


def _check_space(folder: Path, checkpoint: Checkpoint) -> None:
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free, needed = shutil.disk_usage(folder).free, checkpoint.num_bytes - there
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


def _write_shard(
    checkpoint: Checkpoint, names: list[str], path: Path, pool: ThreadPoolExecutor, progress: Progress
) -> None:
    num_bytes = sum(checkpoint.specs[name].num_bytes for name in names)
    if path.exists():  # whole, since it is renamed when it is
        return progress(num_bytes)
    unfinished = path.with_suffix(".unfinished")
    header, offsets = header_bytes(checkpoint, names)
    with unfinished.open("wb", buffering=0) as file:
        write_all(file.fileno(), header, 0)
        futures = [pool.submit(job) for job in _jobs(checkpoint, names, offsets, file.fileno())]
        try:
            for future in futures:
                progress(future.result())
        finally:  # no thread may write once the file is closed
            for future in futures:
                future.cancel()
            wait(futures)
    unfinished.rename(path)
    return None


def _jobs(
    checkpoint: Checkpoint, names: list[str], offsets: Mapping[str, int], out: int
) -> Iterator[Callable[[], int]]:
    """One callable per piece of work, each returning the bytes it wrote."""
    for name in names:
        spec = checkpoint.specs[name]
        if (origin := checkpoint.origin(name)) is not None:
            yield partial(_copy, origin, out, offsets[name], spec.num_bytes)
            continue
        itemsize = spec.num_bytes // max(1, spec.num_elements)
        step = checkpoint.piece_elements(name) or CHUNK_ELEMENTS
        for start in range(0, spec.num_elements, step):
            stop = min(start + step, spec.num_elements)
            yield partial(_compute, checkpoint, name, start, stop, out, offsets[name] + start * itemsize)


def _compute(checkpoint: Checkpoint, name: str, start: int, stop: int, out: int, at: int) -> int:
    data = checkpoint.read(name, start, stop).view(np.uint8)
    write_all(out, data.data, at)
    return data.nbytes


def _copy(origin: Origin, out: int, at: int, size: int) -> int:
    """Copy bytes from file to file inside the kernel."""
    with origin.path.open("rb", buffering=0) as file:
        done = 0
        while done < size:
            copied = os.copy_file_range(file.fileno(), out, size - done, origin.offset_bytes + done, at + done)
            if copied == 0:
                raise OSError(errno.EIO, f"{origin.path} ended early")
            done += copied
    return size


def write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` at byte offset `at`, in small writes."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(descriptor, view[:WRITE_BYTES], at)
        view, at = view[written:], at + written


def _write_assets(
    checkpoint: Checkpoint, shards: Mapping[str, list[str]], folder: Path, extra: Mapping[str, str]
) -> None:
    """Everything but the weights; config.json last, so that an unfinished folder is no model."""
    if set(shards) != {"model.safetensors"}:
        weight_map = {name: shard for shard, names in shards.items() for name in names}
        index = {"metadata": {"total_size": checkpoint.num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, path in checkpoint.assets.items():
        if name != "config.json":
            shutil.copyfile(path, folder / name)
    for name, text in extra.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / ".fingerprint").unlink()
    config = checkpoint.assets["config.json"].read_bytes()
    if json.loads(config) != checkpoint.config:  # otherwise the source's bytes, so that any reader of it reads ours
        config = json.dumps(checkpoint.config, indent=2).encode() + b"\n"
    (folder / "config.json").write_bytes(config)


def _output_error(error: OSError, out: Path, checkpoint: Checkpoint) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        needed = checkpoint.num_bytes / 1e9
        return OutputError(
            f"disk full: {error.strerror}", out, f"free some space ({needed:.1f} GB in all), or choose another --out"
        )
    return OutputError(f"cannot write: {error}", out, "check the path and its permissions")
