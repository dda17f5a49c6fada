"""Write a checkpoint to a folder, streaming: memory does not grow with the model, and nothing half-written is left to load.

Shards are written into a hidden folder beside the target, which is renamed when all is there. A run that was killed
leaves that folder without a config, so that nothing loads it; the next run of the same merge goes on at its first missing
shard.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from interpole.checkpoints.checkpoint import Checkpoint, Origin, reading_once, template_of
from interpole.checkpoints.kernels import keep_freed_memory
from interpole.checkpoints.safetensors import TensorSpec
from interpole.errors import OutputError

__all__ = ["Target", "save", "save_all"]

CHUNK_ELEMENTS = 1 << 18
"""Elements computed at a time: inputs and result stay in the caches."""
SPAN_ELEMENTS = 1 << 22
"""Elements a thread takes at a time."""
WRITE_BYTES = 1 << 17
"""Bytes per write; larger ones are slower on fresh page-cache files (docs/log.md)."""

Progress = Callable[[int], None]
Shards = dict[str, list[str]]


class Target(NamedTuple):
    """A checkpoint to write, the folder to make of it, and further text files by name, e.g. the model card."""

    checkpoint: Checkpoint
    out: Path
    extra: Mapping[str, str] = {}


def save(
    checkpoint: Checkpoint,
    out: str | os.PathLike[str],
    *,
    extra: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Path:
    """Write `checkpoint` as a folder that transformers and vLLM load.

    Args:
        checkpoint: what to write; tensors that lie on disk as they are are copied by the kernel, others computed in chunks.
        out: the folder to make; must not exist.
        extra: further text files by name, e.g. the model card.
        shard_bytes: cut the weights into files of about this size; default: as the checkpoint's own layout.
        progress: called with the number of bytes written since the last call.
        threads: worker threads; default one per core, at most eight.

    Raises:
        OutputError: `out` exists, the disk is full or not writable. Nothing is left behind.
    """
    target = Target(checkpoint, Path(out), extra or {})
    save_all([target], shard_bytes=shard_bytes, progress=progress, threads=threads)
    return target.out


def save_all(
    targets: Sequence[Target],
    *,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> None:
    """Write several checkpoints of one set of names and shapes together, piece by piece, so that the disk is read once.

    Args and errors are those of `save`; either all folders are made or none.
    """
    for _, out, _ in targets:
        if out.exists() or out.is_symlink():
            raise OutputError("the output exists already", out, "choose another --out, or remove it")
    keep_freed_memory()
    first = targets[0].checkpoint
    for checkpoint, out, _ in targets:
        _check_same_shapes(first, checkpoint, out)
    shards = shards_of(first.layout, first.specs) if shard_bytes is None else cut_shards(first.specs, shard_bytes)
    folders = [out.parent / f".{out.name}.partial" for _, out, _ in targets]
    try:
        for target, folder in zip(targets, folders, strict=True):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _prepare(folder, target.checkpoint, shards)
        _check_space(folders[0], [target.checkpoint for target in targets], folders)
        with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
            for shard, names in shards.items():
                paths = {folder / shard: target.checkpoint for target, folder in zip(targets, folders, strict=True)}
                _write_shard(paths, names, pool, progress or (lambda _: None))
        for (checkpoint, out, extra), folder in zip(targets, folders, strict=True):
            _write_assets(checkpoint, shards, folder, extra)
            folder.rename(out)
    except Exception as error:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _output_error(
                error, targets[0].out, sum(target.checkpoint.num_bytes for target in targets)
            ) from error
        raise


def _check_same_shapes(a: Checkpoint, b: Checkpoint, out: Path) -> None:
    if a.keys() != b.keys() or any(spec.shape != b.specs[name].shape for name, spec in a.specs.items()):
        raise OutputError(
            "results of different names or shapes cannot be written together",
            out,
            "write them one by one; if the vocabularies differ, give all points one tokenizer: --template-from thinking",
        )


def shards_of(layout: Mapping[str, str], names: Iterable[str]) -> Shards:
    """Shard file → its tensors in order, with the shards in order of their names."""
    shards: Shards = {}
    for name in names:
        shards.setdefault(layout[name], []).append(name)
    return dict(sorted(shards.items()))


def cut_shards(specs: Mapping[str, TensorSpec], shard_bytes: int) -> Shards:
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


def _prepare(folder: Path, checkpoint: Checkpoint, shards: Shards) -> None:
    """Make the hidden folder, or keep the one a killed run left if it is of the same merge into the same shards."""
    marker = folder / ".fingerprint"
    content = checkpoint.fingerprint() + json.dumps(shards)
    if folder.exists() and not (marker.is_file() and marker.read_text() == content):
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    marker.write_text(content)


def _check_space(disk: Path, checkpoints: Sequence[Checkpoint], folders: Sequence[Path]) -> None:
    there = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    free, needed = shutil.disk_usage(disk).free, sum(checkpoint.num_bytes for checkpoint in checkpoints) - there
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


def _write_shard(
    targets: Mapping[Path, Checkpoint], names: list[str], pool: ThreadPoolExecutor, progress: Progress
) -> None:
    """Write the same tensors of every checkpoint into its file; files that are there are whole, since they are renamed last."""
    for path in [path for path in targets if path.exists()]:
        progress(sum(targets[path].specs[name].num_bytes for name in names))
    todo = {path: checkpoint for path, checkpoint in targets.items() if not path.exists()}
    with ExitStack() as stack:
        writers = []
        for path, checkpoint in todo.items():
            file = stack.enter_context(path.with_suffix(".unfinished").open("wb", buffering=0))
            header, offsets = header_bytes(checkpoint, names)
            _reserve(file.fileno(), len(header) + sum(checkpoint.specs[name].num_bytes for name in names))
            write_all(file.fileno(), header, 0)
            writers.append(_Writer(checkpoint, file.fileno(), offsets))
        futures = [pool.submit(job) for job in _jobs(writers, names)]
        try:
            for future in futures:
                progress(future.result())
        finally:  # no thread may write once its file is closed
            for future in futures:
                future.cancel()
            wait(futures)
    for path in todo:
        path.with_suffix(".unfinished").rename(path)


def _reserve(descriptor: int, size: int) -> None:
    """Ask the file system for the room at once, where it can: writes are a fifth faster (`posix_fallocate` may write instead)."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
    if fallocate is not None:
        fallocate(descriptor, 0, ctypes.c_long(0), ctypes.c_long(size))


class _Writer(NamedTuple):
    checkpoint: Checkpoint
    descriptor: int
    offsets: Mapping[str, int]  # tensor → where its bytes go


def _jobs(writers: Sequence[_Writer], names: Iterable[str]) -> Iterator[Callable[[], int]]:
    """One callable per piece of work, each returning the bytes it wrote; a piece is taken for all outputs together."""
    for name in names:
        computed = []
        for writer in writers:
            if (origin := writer.checkpoint.origin(name)) is None:
                computed.append(writer)
            else:
                size = writer.checkpoint.specs[name].num_bytes
                yield partial(_copy, origin, writer.descriptor, writer.offsets[name], size)
        if computed:
            size = computed[0].checkpoint.specs[name].num_elements
            step = computed[0].checkpoint.chunk_elements(name) or CHUNK_ELEMENTS
            span = step * max(1, SPAN_ELEMENTS // step)
            for start in range(0, size, span):
                yield partial(_compute, computed, name, range(start, min(start + span, size), step))


def _compute(writers: Sequence[_Writer], name: str, starts: range) -> int:
    written = 0
    for start in starts:
        stop = min(start + starts.step, starts.stop)
        with reading_once():
            for checkpoint, descriptor, offsets in writers:
                data = checkpoint.read(name, start, stop)
                write_all(descriptor, data.view(np.uint8).data, offsets[name] + start * data.itemsize)
                written += data.nbytes
    return written


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
    if (template := checkpoint.chat_template) is not None and template != template_of(checkpoint.assets):
        extra = {"chat_template.jinja": template, **extra}
    for name, text in extra.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / ".fingerprint").unlink()
    config = checkpoint.assets["config.json"].read_bytes()
    if json.loads(config) != checkpoint.config:  # otherwise the source's bytes, so that any reader of it reads ours
        config = json.dumps(checkpoint.config, indent=2).encode() + b"\n"
    (folder / "config.json").write_bytes(config)


def _output_error(error: OSError, out: Path, num_bytes: int) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = f"free some space ({num_bytes / 1e9:.1f} GB in all), or choose another --out"
        return OutputError(f"disk full: {error.strerror}", out, remedy)
    return OutputError(f"cannot write: {error}", out, "check the path and its permissions")
