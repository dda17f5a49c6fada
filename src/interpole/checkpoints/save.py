"""Write checkpoints to folders, streaming: memory does not grow with the model, and nothing half-written is left to load.

Shards are written into a hidden folder beside the target, which is renamed when all is there; one process at a time may do so
(`.NAME.lock`). A run that was killed leaves that folder without a config, so that nothing loads it; the next run of the same
merge of the same files by the same version goes on at its first missing shard. Several targets are put in place together or
not at all: until the last one is, each holds a marker that the next run knows it by.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.assets import copy, led_out, read_bytes
from interpole.checkpoints.checkpoint import Checkpoint, template_of
from interpole.checkpoints.kernels import keep_freed_memory
from interpole.checkpoints.reduce import all_finite
from interpole.checkpoints.safetensors import TensorSpec
from interpole.errors import CheckpointError, InterpoleWarning, OutputError
from interpole.files import StrPath, exclusive, size_text
from interpole.formats import content_hash

__all__ = ["CHUNK_ELEMENTS", "Target", "save", "save_all"]

CHUNK_ELEMENTS = 1 << 18
"""Elements computed at a time: inputs and result stay in the caches."""
SPAN_ELEMENTS = 1 << 22
"""Elements a thread takes at a time."""
WRITE_BYTES = 1 << 17
"""Bytes per write; larger ones are slower on fresh page-cache files (docs/log.md)."""
MARKER = ".fingerprint"
"""File of an unfinished folder that says what it will be."""
INDEX = "model.safetensors.index.json"

Progress = Callable[[int], None]
Shards = dict[str, list[str]]


class Target(NamedTuple):
    """A checkpoint to write, the folder to make of it, and text files by name besides or instead of the checkpoint's own."""

    checkpoint: Checkpoint
    out: Path
    extra: Mapping[str, str] = {}


@dataclass(frozen=True, eq=False)
class _Output:
    """A target on its way: the hidden folder that it is written into, and the marker there."""

    target: Target
    partial: Path
    marker: str
    state: str  # of the files that it is computed from

    @property
    def out(self) -> Path:
        return self.target.out

    @property
    def checkpoint(self) -> Checkpoint:
        return self.target.checkpoint

    @property
    def is_placed(self) -> bool:
        """Whether a run that was killed before it had placed all its folders placed this one."""
        return _text_of(self.out / MARKER) == self.marker


def save(
    checkpoint: Checkpoint,
    out: StrPath,
    *,
    extra: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    allow_non_finite: bool = False,
) -> Path:
    """Write `checkpoint` as a folder that transformers and vLLM load.

    From then on the process keeps memory that it frees (`kernels.keep_freed_memory`).

    Args:
        checkpoint: what to write, computed and checked in chunks.
        out: the folder to make; must not exist.
        extra: further text files by name, or others in place of a merge's model card (`README.md`) and recipe.
        shard_bytes: cut the weights into files of about this size; default: as the checkpoint's own layout.
        progress: called with the number of bytes written since the last call.
        threads: worker threads; default one per core, at most eight.
        allow_non_finite: write NaN and infinity too, with a warning that names the tensors.

    Raises:
        OutputError: `out` exists, another process writes it, the disk is full or not writable, names of files clash, a source
            was changed meanwhile.
        CheckpointError: a tensor of the result holds NaN or infinity. In all these cases nothing is left behind.
    """
    target = Target(checkpoint, Path(out), extra or {})
    save_all([target], shard_bytes=shard_bytes, progress=progress, threads=threads, allow_non_finite=allow_non_finite)
    return target.out


def save_all(
    targets: Sequence[Target],
    *,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    allow_non_finite: bool = False,
) -> None:
    """Write several checkpoints of one set of names and shapes together, piece by piece, so that the disk is read once.

    Args and errors are those of `save`; either all folders are made or none.
    """
    if shard_bytes is not None and shard_bytes < 1:
        raise OutputError(f"files of {shard_bytes} bytes hold nothing", remedy="give a size of at least 1 byte")
    keep_freed_memory()
    first = targets[0].checkpoint
    shards = _shards_of(first.layout, first.specs) if shard_bytes is None else _cut_shards(first.specs, shard_bytes)
    for target in targets:
        _check_same_shapes(first, target.checkpoint, target.out)
        _check_names(target, shards)
    if len({os.path.abspath(target.out) for target in targets}) < len(targets):  # noqa: PTH100 (resolves no link)
        raise OutputError("two results have one output folder", targets[0].out, "give each a folder of its own")
    outputs = [_planned(target, shards, allow_non_finite) for target in targets]
    broken: list[str] | None = [] if allow_non_finite else None
    work = partial(_write_shards, shards=shards, threads=threads, progress=progress, broken=broken)
    try:
        with ExitStack() as locks:
            for output in sorted(outputs, key=lambda output: output.out):
                output.out.parent.mkdir(parents=True, exist_ok=True)
                lock = output.out.parent / f".{output.out.name}.lock"
                locks.enter_context(exclusive(lock, OutputError, f"is writing {output.out}", "choose another --out"))
            _make(outputs, shards, work)
    except OSError as error:
        raise _output_error(error, targets[0].out, sum(target.checkpoint.num_bytes for target in targets)) from error
    if broken:
        names = sorted(set(broken))
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        warnings.warn(f"what was written holds NaN or infinity in {shown}", InterpoleWarning, stacklevel=2)


def _planned(target: Target, shards: Shards, allow_non_finite: bool) -> _Output:
    """The marker names all that the bytes depend on: the files, by place, size and times, the merge, the shards, the version."""
    state = target.checkpoint.fingerprint(quick=True)
    marker = content_hash([version("interpole"), state, shards, allow_non_finite])
    return _Output(target, target.out.parent / f".{target.out.name}.partial", marker, state)


def _make(outputs: Sequence[_Output], shards: Shards, work: Callable[[Sequence[_Output]], None]) -> None:
    """Write what is not there yet and put all in place; on an error nothing stays, on a kill what is whole stays."""
    placed = [output for output in outputs if output.is_placed]
    for output in outputs:
        if output not in placed and (output.out.exists() or output.out.is_symlink()):
            raise OutputError("the output exists already", output.out, "choose another --out, or remove it")
    todo = [output for output in outputs if output not in placed]
    try:
        for output in todo:
            _prepare(output, shards)
        _check_space(todo)
        work(todo)
        for output in todo:
            _write_assets(output, shards)
            if output.checkpoint.fingerprint(quick=True) != output.state:
                what = "a file of a source was changed while it was read: the result could hold old and new weights"
                raise OutputError(what, output.checkpoint.label, "run the merge again when nobody writes there")
        for output in todo:
            output.partial.rename(output.out)
            placed.append(output)
    except Exception:
        for output in placed:
            _take_back(output)
        for output in outputs:
            shutil.rmtree(output.partial, ignore_errors=True)
        raise
    for output in outputs:
        (output.out / MARKER).unlink(missing_ok=True)


def _take_back(output: _Output) -> None:
    """Undo the placing of a folder, in a step; where that fails too, so that at least no model is left to load."""
    try:
        output.out.rename(output.partial)
    except OSError:
        with suppress(OSError):
            (output.out / "config.json").unlink()
        shutil.rmtree(output.out, ignore_errors=True)


def _check_same_shapes(a: Checkpoint, b: Checkpoint, out: Path) -> None:
    if a.keys() != b.keys() or any(spec.shape != b.specs[name].shape for name, spec in a.specs.items()):
        raise OutputError(
            "results of different names or shapes cannot be written together",
            out,
            "write them one by one; if the vocabularies differ, give all points one tokenizer: --template-from thinking",
        )


def _check_names(target: Target, shards: Shards) -> None:
    """Weights, copied files and our own lie in one folder: no name may be two of them, also where case does not count."""
    ours = [MARKER, INDEX, "config.json", *{**target.checkpoint.documents(), **target.extra}]
    copied = [name for name in target.checkpoint.assets if name not in ours]
    seen: dict[str, str] = {}
    for name in [*ours, *copied, *shards]:
        plain = name in copied or name == Path(name).name
        if not plain or (other := seen.get(name.casefold())) is not None:
            clash = f"is also {other!r}, another file of the folder" if plain else "is no plain name"
            raise OutputError(
                f"the file name {name!r} {clash}",
                target.checkpoint.label,
                "rename it, or cut new files: --shard-size 5GB",
            )
        seen[name.casefold()] = name


def _shards_of(layout: Mapping[str, str], names: Iterable[str]) -> Shards:
    """Shard file → its tensors in order, with the shards in order of their names."""
    shards: Shards = {}
    for name in names:
        shards.setdefault(layout[name], []).append(name)
    return dict(sorted(shards.items()))


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


def _header_bytes(checkpoint: Checkpoint, names: list[str]) -> tuple[bytes, dict[str, int]]:
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


def _prepare(output: _Output, shards: Shards) -> None:
    """Make the hidden folder; of one that a killed run left, keep the whole shards if it is of the same merge, else nothing."""
    folder = output.partial
    if folder.is_symlink():
        folder.unlink()
    if folder.exists() and _text_of(folder / MARKER) != output.marker:
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    (folder / MARKER).write_text(output.marker)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in {MARKER, *shards}:  # a shard that is not whole takes room, and is written anew
            path.unlink()


def _text_of(path: Path) -> str | None:
    """The text of a small file of ours; None where there is none."""
    try:
        return path.read_text(encoding="utf-8") if path.is_file() and not path.is_symlink() else None
    except (OSError, UnicodeDecodeError):
        return None


def _check_space(outputs: Sequence[_Output]) -> None:
    there = sum(path.stat().st_size for output in outputs for path in output.partial.glob("*.safetensors"))
    needed = sum(output.checkpoint.num_bytes for output in outputs) - there
    if outputs and (free := shutil.disk_usage(outputs[0].partial).free) < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


def _write_shards(
    outputs: Sequence[_Output],
    *,
    shards: Shards,
    threads: int | None,
    progress: Progress | None,
    broken: list[str] | None,
) -> None:
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for shard, names in shards.items():
            paths = {output.partial / shard: output.checkpoint for output in outputs}
            _write_shard(paths, names, pool, progress or (lambda _: None), broken)


def _write_shard(
    targets: Mapping[Path, Checkpoint],
    names: list[str],
    pool: ThreadPoolExecutor,
    progress: Progress,
    broken: list[str] | None,
) -> None:
    """Write the same tensors of every checkpoint into its file; files that are there are whole, since they are renamed last."""
    todo = {}
    with ExitStack() as stack:
        writers = []
        for path, checkpoint in targets.items():
            num_bytes = sum(checkpoint.specs[name].num_bytes for name in names)
            header, offsets = _header_bytes(checkpoint, names)
            if path.is_file() and path.stat().st_size == len(header) + num_bytes:
                progress(num_bytes)
                continue
            todo[path] = path.with_suffix(".unfinished")
            file = stack.enter_context(todo[path].open("wb", buffering=0))
            _reserve(file.fileno(), len(header) + num_bytes)
            _write_all(file.fileno(), header, 0)
            writers.append(_Writer(checkpoint, file.fileno(), offsets, broken))
        futures = [pool.submit(job) for job in _jobs(writers, names)] if writers else []
        try:
            for future in futures:
                progress(future.result())
        finally:  # no thread may write once its file is closed
            for future in futures:
                future.cancel()
            wait(futures)
    for path, unfinished in todo.items():
        unfinished.rename(path)


def _reserve(descriptor: int, size: int) -> None:
    """Ask the file system for the room at once, where it can: writes are a fifth faster (`posix_fallocate` may write instead)."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
    if fallocate is not None:
        fallocate(descriptor, 0, ctypes.c_long(0), ctypes.c_long(size))


class _Writer(NamedTuple):
    checkpoint: Checkpoint
    descriptor: int
    offsets: Mapping[str, int]  # tensor → where its bytes go
    broken: list[str] | None  # names of tensors with NaN or infinity; None: they are refused


def _jobs(writers: Sequence[_Writer], names: Iterable[str]) -> Iterator[Callable[[], int]]:
    """One callable per piece of work, each returning the bytes it wrote; a piece is taken for all outputs together."""
    for name in names:
        size = writers[0].checkpoint.specs[name].num_elements
        step = max((writer.checkpoint.chunk_elements(name) or 0 for writer in writers), default=0) or CHUNK_ELEMENTS
        span = step * max(1, SPAN_ELEMENTS // step)
        for start in range(0, size, span):
            yield partial(_compute, writers, name, range(start, min(start + span, size), step))


def _compute(writers: Sequence[_Writer], name: str, starts: range) -> int:
    written = 0
    for start in starts:
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


def _write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` at byte offset `at`, in small writes."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(descriptor, view[:WRITE_BYTES], at)
        view, at = view[written:], at + written


def _write_assets(output: _Output, shards: Shards) -> None:
    """Everything but the weights; config.json last, so that an unfinished folder is no model."""
    (checkpoint, _, extra), folder = output.target, output.partial
    if set(shards) != {"model.safetensors"}:
        weight_map = {name: shard for shard, names in shards.items() for name in names}
        index = {"metadata": {"total_size": checkpoint.num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, path in checkpoint.assets.items():
        if name != "config.json":
            if (target := led_out(path, path.parents[name.count("/")])) is not None:
                what = f"{path} is a link to {target}, whose content is now in {output.out / name}"
                warnings.warn(what, InterpoleWarning, stacklevel=2)
            copy(path, folder / name)
    if (template := checkpoint.chat_template) is not None and template != template_of(checkpoint.assets):
        extra = {"chat_template.jinja": template, **extra}
    for name, document in checkpoint.documents().items():
        if name not in extra:
            (folder / name).write_text(document(), encoding="utf-8")
    for name, text in extra.items():
        (folder / name).write_text(text, encoding="utf-8")
    config = read_bytes(checkpoint.assets["config.json"])
    if json.loads(config) != checkpoint.config:  # otherwise the source's bytes, so that any reader of it reads ours
        config = json.dumps(checkpoint.config, indent=2).encode() + b"\n"
    (folder / "config.json").write_bytes(config)


def _output_error(error: OSError, out: Path, num_bytes: int) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = f"free some space ({size_text(num_bytes)} in all), or choose another --out"
        return OutputError(f"disk full: {error.strerror}", out, remedy)
    return OutputError(f"cannot write: {error}", out, "check the path and its permissions")
