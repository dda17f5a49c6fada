"""Write checkpoints to folders: who may write one, and that nothing half-written is left to load (bytes: `checkpoints.shards`).

Shards are written into a hidden folder beside the target, which is renamed when all is there; one process at a time may do so
(`.NAME.lock`). A run that was killed leaves that folder without a config, so that nothing loads it; the next run of the same
merge of the same files by the same version goes on at its first missing shard. Several targets are put in place together or
not at all: until the last one is, each holds a marker that the next run knows it by.

Several processes, on one host or on many, may each write a `Share` of the shards into that folder. They share the lock, and
each locks the shard that it writes; whichever finds all there finishes the folder (`.NAME.setup.lock`).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from interpole.checkpoints.assets import copy, led_out, read_bytes
from interpole.checkpoints.checkpoint import Checkpoint, template_of
from interpole.checkpoints.kernels import keep_freed_memory
from interpole.checkpoints.reduce import OnBytes
from interpole.checkpoints.shards import (
    Shards,
    ShardWriter,
    Share,
    file_bytes,
    shards_of,
    tensor_bytes,
    write_shard,
)
from interpole.errors import InterpoleWarning, OutputError, UnreachableError
from interpole.files import Held, StrPath, exclusive, make_folder, no_follow, refuse_existing, shared, writing
from interpole.formats import content_hash
from interpole.systems import lock

__all__ = ["Saved", "Target", "bytes_there", "save", "save_all"]

MARKER = ".fingerprint"
"""File of an unfinished folder that says what it will be."""
INDEX = "model.safetensors.index.json"
ELSEWHERE = "choose another --out"


class Target(NamedTuple):
    """A checkpoint to write, the folder to make of it, and text files by name besides or instead of the checkpoint's own."""

    checkpoint: Checkpoint
    out: Path
    extra: Mapping[str, str] = {}


class Saved(NamedTuple):
    """How far a merge is: shards that are there and in all, whether the folders are in place, and what was written now."""

    num_there: int
    num_shards: int
    is_whole: bool
    written_bytes: int


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
    def lock(self) -> Path:
        """Held by whoever writes, alone or with the other shares."""
        return self.out.parent / f".{self.out.name}.lock"

    @property
    def setup_lock(self) -> Path:
        """Held by a share while it begins or finishes the folder."""
        return self.out.parent / f".{self.out.name}.setup.lock"

    @property
    def is_placed(self) -> bool:
        """Whether a run that was killed before it had placed all its folders placed this one."""
        return _text_of(self.out / MARKER) == self.marker

    @property
    def is_done(self) -> bool:
        """Of a folder that this process has joined: whether another one has finished it."""
        return not self.partial.exists() and self.out.exists()


Work = Callable[[Sequence[_Output], Shards], int]
"""Writes the shards that are not there into the hidden folders of outputs. Returns their bytes."""


def save(
    checkpoint: Checkpoint,
    out: StrPath,
    *,
    extra: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
    progress: OnBytes | None = None,
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
        UnreachableError: a source cannot be fetched any more; the next call goes on at the first missing shard.
    """
    target = Target(checkpoint, Path(out), extra or {})
    save_all([target], shard_bytes=shard_bytes, progress=progress, threads=threads, allow_non_finite=allow_non_finite)
    return target.out


def save_all(
    targets: Sequence[Target],
    *,
    shard_bytes: int | None = None,
    progress: OnBytes | None = None,
    threads: int | None = None,
    allow_non_finite: bool = False,
    share: Share | None = None,
) -> Saved:
    """Write several checkpoints of one set of names and shapes together, piece by piece, so that the disk is read once.

    Args and errors are those of `save`; either all folders are made or none. With a `share` only its files are written, while
    other processes may write theirs; what was written stays, also after an error, and the last one makes the folders.
    """
    keep_freed_memory()
    shards, outputs = _checked(targets, shard_bytes, allow_non_finite)
    broken: list[str] | None = [] if allow_non_finite else None
    told = progress or (lambda _: None)
    work = partial(_write_shards, threads=threads, progress=told, broken=broken, among_others=share is not None)
    with writing(targets[0].out, sum(target.checkpoint.num_bytes for target in targets)):
        for output in outputs:
            make_folder(output.out.parent)
        if share is None:
            with ExitStack() as locks:
                for output in outputs:
                    locks.enter_context(exclusive(output.lock, OutputError, f"is writing {output.out}", ELSEWHERE))
                written_bytes = _make(outputs, shards, work)
            saved = Saved(len(shards), len(shards), is_whole=True, written_bytes=written_bytes)
        else:
            saved = _make_share(outputs, shards, shards_of(targets[0].checkpoint, shard_bytes, share), work)
    if broken:
        names = sorted(set(broken))
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        warnings.warn(f"what was written holds NaN or infinity in {shown}", InterpoleWarning, stacklevel=2)
    return saved


def bytes_there(
    targets: Sequence[Target], shard_bytes: int | None, allow_non_finite: bool, share: Share | None = None
) -> int:
    """Bytes of whole shards that a stopped merge or other shares left, which `save_all` would take over; changes nothing.

    Raises:
        OutputError: as `save_all`, before it writes.
    """
    shards, outputs = _checked(targets, shard_bytes, allow_non_finite)
    part = shards_of(targets[0].checkpoint, shard_bytes, share)
    there = 0
    for output in outputs:
        if output.is_placed or (share is not None and _is_made(output, shards)):
            there += sum(tensor_bytes(output.checkpoint, names) for names in part.values())
        else:
            refuse_existing(output.out)
            if _text_of(output.partial / MARKER) == output.marker:
                missing = _missing(output, part)
                there += sum(
                    tensor_bytes(output.checkpoint, names) for shard, names in part.items() if shard not in missing
                )
    return there


def _checked(
    targets: Sequence[Target], shard_bytes: int | None, allow_non_finite: bool
) -> tuple[Shards, list[_Output]]:
    """The files, and the targets as they are to be written, in order of their folders."""
    first = targets[0].checkpoint
    shards = shards_of(first, shard_bytes)
    for target in targets:
        _check_same_shapes(first, target.checkpoint, target.out)
        _check_names(target, shards)
    if len({os.path.abspath(target.out) for target in targets}) < len(targets):  # noqa: PTH100 (resolves no link)
        raise OutputError("two results have one output folder", targets[0].out, "give each a folder of its own")
    outputs = [_planned(target, shards, allow_non_finite) for target in targets]
    return shards, sorted(outputs, key=lambda output: output.out)


def _planned(target: Target, shards: Shards, allow_non_finite: bool) -> _Output:
    """The marker names all that the bytes depend on: the files, by place, size and times, the merge, the shards, the version."""
    state = target.checkpoint.fingerprint(quick=True)
    marker = content_hash([version("interpole"), state, shards, allow_non_finite])
    return _Output(target, target.out.parent / f".{target.out.name}.partial", marker, state)


def _make(outputs: Sequence[_Output], shards: Shards, work: Work) -> int:
    """Write what is not there yet and put all in place; on an error nothing stays, on a kill what is whole stays."""
    placed = [output for output in outputs if output.is_placed]
    todo = [output for output in outputs if output not in placed]
    for output in todo:
        refuse_existing(output.out)
    try:
        for output in todo:
            _prepare(output, shards)
        _check_space(todo, shards)
        written_bytes = work(todo, shards)
        _place(todo, shards)
    except UnreachableError:  # as a kill
        raise
    except Exception:
        for output in placed:
            _take_back(output)
        for output in outputs:
            shutil.rmtree(output.partial, ignore_errors=True)
        raise
    for output in outputs:
        (output.out / MARKER).unlink(missing_ok=True)
    return written_bytes


def _make_share(outputs: Sequence[_Output], shards: Shards, part: Shards, work: Work) -> Saved:
    """Write those shards of `part` that are not there, and put all in place if none is missing then."""
    with ExitStack() as held:
        todo: dict[_Output, Held] = {}
        with ExitStack() as setup:
            for output in outputs:
                setup.enter_context(exclusive(output.setup_lock, OutputError, "", "", wait=True))
            for output in outputs:
                if output.is_placed or _is_made(output, shards):
                    continue
                refuse_existing(output.out)
                lock = shared(output.lock, OutputError, f"is writing {output.out}, alone", ELSEWHERE)
                todo[output] = held.enter_context(lock)
                _join(output, shards, todo[output])
        try:
            _check_space([*todo], part)
            written_bytes = work([*todo], part)
        except Exception:
            for output in todo:
                _leave(output, todo[output])
            raise
        missing = {shard for output in todo for shard in _missing(output, shards)}
        is_whole = not missing and _finish(outputs, todo, shards)
        return Saved(len(shards) - len(missing), len(shards), is_whole, written_bytes)


def _join(output: _Output, shards: Shards, held: Held) -> None:
    """Make the hidden folder, if no other share did; what another merge left there goes, if nobody is at it."""
    if not output.partial.is_symlink() and _text_of(output.partial / MARKER) == output.marker:
        return
    if (output.partial.exists() or output.partial.is_symlink()) and not held.is_alone():
        raise OutputError(
            "other shares write another merge there: its sources (place, size, times), recipe, files or version differ",
            output.out,
            f"wait until they have ended, {ELSEWHERE}, or remove {output.partial} if nobody is at it",
        )
    if whole := sorted(path.name for path in output.partial.glob("*.safetensors") if path.is_file()):
        left = f"{len(whole)} of its files, {whole[0]} the first"
        what = f"what shares of another merge had left for {output.out} is removed: {left}"
        warnings.warn(f"{what}: its sources, recipe, files or version differ", InterpoleWarning, stacklevel=2)
    _prepare(output, shards)


def _leave(output: _Output, held: Held) -> None:
    """After an error: remove the hidden folder where no share has put anything into it."""
    with suppress(OSError), exclusive(output.setup_lock, OutputError, "", "", wait=True):
        if not list(output.partial.glob("*.safetensors")) and held.is_alone():
            shutil.rmtree(output.partial, ignore_errors=True)
            held.remove()


def _finish(outputs: Sequence[_Output], joined: Mapping[_Output, Held], shards: Shards) -> bool:
    """Put all in place, once; False where another process is just doing so."""
    with ExitStack() as setup:
        try:
            for output in outputs:
                setup.enter_context(exclusive(output.setup_lock, OutputError, "is finishing", "do nothing"))
        except OutputError:
            return False
        todo = [output for output in joined if not output.is_done]
        for output in todo:
            _prepare(output, shards)
        _place(todo, shards)
        for output in outputs:
            (output.out / MARKER).unlink(missing_ok=True)
            if output in joined:
                joined[output].remove()
            else:
                with suppress(PermissionError):  # another share holds it open
                    output.lock.unlink(missing_ok=True)
    return True


def _place(todo: Sequence[_Output], shards: Shards) -> None:
    """Write all but the weights and rename the folders; after an error none is in place."""
    placed: list[_Output] = []
    try:
        for output in todo:
            _write_assets(output, shards)
            _check_sources(output)
        for output in todo:
            output.partial.rename(output.out)
            placed.append(output)
    except Exception:
        for output in placed:
            _take_back(output)
        for output in todo:  # what stays of it is no model
            (output.partial / "config.json").unlink(missing_ok=True)
        raise


def _check_sources(output: _Output) -> None:
    if output.checkpoint.fingerprint(quick=True) != output.state:
        what = "a file of a source was changed while it was read: the result could hold old and new weights"
        raise OutputError(what, output.checkpoint.label, "run the merge again when nobody writes there")


def _missing(output: _Output, shards: Shards) -> list[str]:
    """The shards that are not whole yet."""
    if output.is_done:
        return []
    there = _sizes(output.partial)
    return [shard for shard, names in shards.items() if there.get(shard) != file_bytes(output.checkpoint, names)]


def _is_made(output: _Output, shards: Shards) -> bool:
    """Whether the folder that is there is this merge, as far as sizes, model card and recipe tell."""
    there = _sizes(output.out)
    if "config.json" not in there or (output.out / MARKER).exists():
        return False
    texts = {name: text for name, text in output.checkpoint.documents().items() if name not in output.target.extra}
    return all(there.get(shard) == file_bytes(output.checkpoint, names) for shard, names in shards.items()) and all(
        _text_of(output.out / name) == text() for name, text in texts.items()
    )


def _sizes(folder: Path) -> dict[str, int]:
    """Name → size of the files in a folder, listed anew (a network file system may remember that one was not there)."""
    try:
        return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    except FileNotFoundError:
        return {}


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


def _check_space(outputs: Sequence[_Output], shards: Shards) -> None:
    there = sum(size for output in outputs for name, size in _sizes(output.partial).items() if name in shards)
    needed = sum(tensor_bytes(output.checkpoint, names) for output in outputs for names in shards.values()) - there
    if outputs and not outputs[0].is_done and (free := shutil.disk_usage(outputs[0].partial).free) < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


def _write_shards(
    outputs: Sequence[_Output],
    shards: Shards,
    *,
    threads: int | None,
    progress: OnBytes,
    broken: list[str] | None,
    among_others: bool,
) -> int:
    written_bytes = 0
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for shard, names in shards.items():
            with ExitStack() as claims:
                writers = _claim_shard(outputs, shard, names, claims, broken, among_others)
                progress(sum(tensor_bytes(output.checkpoint, names) for output in outputs if output not in writers))
                write_shard([*writers.values()], names, pool, progress)
                written_bytes += sum(tensor_bytes(output.checkpoint, names) for output in writers)
                for output, writer in writers.items():
                    if among_others:  # of whom one may finish the folder as soon as the file has its name
                        os.fsync(writer.descriptor)
                        _check_sources(output)
    return written_bytes


def _claim_shard(
    outputs: Sequence[_Output],
    shard: str,
    names: list[str],
    claims: ExitStack,
    broken: list[str] | None,
    among_others: bool,
) -> dict[_Output, ShardWriter]:
    """What writes a shard of every output into its unfinished file, to which `claims` gives its name, and its header there.

    Shards that are there are whole, since they are renamed last; those that another process writes are left to it.
    """
    writers = {}
    for output in outputs:
        size = file_bytes(output.checkpoint, names)
        if (file := claims.enter_context(_claimed(output, shard, size, among_others))) is not None:
            writers[output] = ShardWriter.begin(output.checkpoint, file, names, broken)
    return writers


def _unfinished(output: _Output, shard: str) -> Path:
    """What a shard is written into."""
    return (output.partial / shard).with_suffix(".unfinished")


@contextmanager
def _claimed(output: _Output, shard: str, num_bytes: int, among_others: bool) -> Iterator[int | None]:
    """The empty file that a shard is written into, locked; None where the shard is whole or another process writes it.

    At the end it is closed and becomes the shard, or after an error is removed.
    """
    unfinished = _unfinished(output, shard)
    with _undisturbed(output, among_others):
        file = None if output.is_done else _claim(output.partial / shard, unfinished, num_bytes)
    if file is None:
        yield None
        return
    with ExitStack() as opened:
        opened.callback(os.close, file)
        try:
            yield file
            with _undisturbed(output, among_others):
                opened.close()  # and so lets go of it: Windows renames and removes no open file
                unfinished.rename(output.partial / shard)
        except Exception:
            with _undisturbed(output, among_others):
                opened.close()
                unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _undisturbed(output: _Output, among_others: bool) -> Iterator[None]:
    """While no other share claims or leaves a file, or finishes the folder."""
    with exclusive(output.setup_lock, OutputError, "", "", wait=True) if among_others else nullcontext():
        yield


def _claim(path: Path, unfinished: Path, num_bytes: int) -> int | None:
    while not _is_whole(path, num_bytes):
        file = no_follow(str(unfinished), os.O_RDWR | os.O_CREAT)
        try:
            lock(file)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:  # no locks are kept there, as was told of the folder's
            pass
        if _is_whole(path, num_bytes):  # another process wrote it meanwhile
            unfinished.unlink(missing_ok=True)
        elif unfinished.exists() and os.fstat(file).st_ino == unfinished.lstat().st_ino:
            os.ftruncate(file, 0)
            return file
        os.close(file)
    return None


def _is_whole(shard: Path, num_bytes: int) -> bool:
    return shard.is_file() and shard.stat().st_size == num_bytes


def _write_assets(output: _Output, shards: Shards) -> None:
    """Everything but the weights; config.json last, so that an unfinished folder is no model."""
    (checkpoint, _, extra), folder = output.target, output.partial
    if set(shards) != {"model.safetensors"}:
        weight_map = {name: shard for shard, names in shards.items() for name in names}
        index = {"metadata": {"total_size": checkpoint.num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8", newline="\n")
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
            (folder / name).write_text(document(), encoding="utf-8", newline="\n")
    for name, text in extra.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    config = read_bytes(checkpoint.assets["config.json"])
    if json.loads(config) != checkpoint.config:  # otherwise the source's bytes, so that any reader of it reads ours
        config = json.dumps(checkpoint.config, indent=2).encode() + b"\n"
    (folder / "config.json").write_bytes(config)
