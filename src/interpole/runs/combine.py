"""Several runs as one, without generating anything: points and tasks side by side, responses to the same questions pooled.

Logs are copied as they are; only `run.json` is new. The new run is made beside its place and moved there when it is whole. What
cannot stand in one table (other weights, other settings, other problems) is refused with the reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from interpole.errors import OutputError, RunError
from interpole.files import StrPath
from interpole.runs.runfile import Entry, Part, RunFile, TaskInfo, exclusive, release
from interpole.runs.samples import regraded_path

__all__ = ["Combined", "combine"]


@dataclass(frozen=True, slots=True)
class Combined:
    """What combining runs came to."""

    run: RunFile
    num_samples: int
    num_duplicates: int  # responses that were in more than one of the runs, and are once in the new one
    unfinished: tuple[str, ...]  # parts that were left out because they are not finished


class _Piece(NamedTuple):
    """A part of an entry, and the run it is in."""

    run: Path
    entry: Entry
    part: Part


def combine(runs: Sequence[StrPath], out: StrPath) -> Combined:
    """Make one run of several.

    Where runs share a task at a point, equal seeds mean equal responses: the same sample number is kept once. Responses
    drawn with another seed are numbered on, so that k grows.

    Args:
        runs: run folders; the first one's settings and seed become the new run's. Nothing in them is changed.
        out: the folder to make.

    Raises:
        RunError: a folder is no run, or two runs differ in what all samples of a run must share.
        OutputError: `out` is there already, or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("the folder for the combined run exists already", out, "choose another --out")
    files = {Path(run): RunFile.load(run) for run in runs}
    _check(files)
    groups: dict[tuple[str, str], dict[str, list[_Piece]]] = {}  # by task and point, then by identity
    for run, file in files.items():
        for entry in file.current:
            pieces = groups.setdefault((entry.task, entry.point), {}).setdefault(entry.identity, [])
            pieces += [_Piece(run, entry, part) for part in entry.parts]
    given = [piece for group in groups.values() for pieces in group.values() for piece in pieces]
    pooled = {key: pool for key, group in groups.items() if (pool := _pool(group))}
    if not pooled:
        raise RunError("none of the runs has a finished part", ", ".join(map(str, runs)), "finish the sweeps first")
    file = _run_file(list(files.values()), pooled)
    _write(file, list(pooled.values()), Path(os.path.realpath(out)))
    count = {key: info.num_problems for one in files.values() for key, info in one.tasks.items()}
    num = sum(count[entry.task] * part.num_samples for entry in file.entries for part in entry.parts)
    finished = sum(count[entry.task] * part.num_samples for _, entry, part in given if part.status == "done")
    unfinished = [
        f"{e.task} at {e.point} in {run}, samples {p.first_sample} to {p.first_sample + p.num_samples - 1}"
        for run, e, p in given
        if p.status != "done"
    ]
    return Combined(file, num, finished - num, tuple(unfinished))


def _check(files: Mapping[Path, RunFile]) -> None:
    """Refuse runs that cannot stand in one table."""
    (base, first), *others = files.items()
    known = {(entry.task, entry.point): entry for entry in first.current}
    for run, file in others:
        where = f"{base} and {run}"
        _equal(_shared(first), _shared(file), where, "the runs")
        weights = [{name: source.fingerprint for name, source in one.sources.items()} for one in (first, file)]
        problems = [{name: task.problems_hash for name, task in one.tasks.items()} for one in (first, file)]
        for (a, b), what in ((weights, "weights of sources"), (problems, "problems of tasks")):
            _equal(a, {**a, **b}, where, f"the {what}")
        for entry in file.current:
            other = known.setdefault((entry.task, entry.point), entry)
            _equal(_essence(other), _essence(entry), where, f"{entry.task} at {entry.point}")


def _shared(file: RunFile) -> dict[str, Any]:
    """What all samples of a run must have in common, besides weights and problems."""
    return {
        "chat template": file.template,
        "prefix": file.prefix,
        "think markers": file.markers,
        "engine": {name: release(version) for name, version in file.engine.items()},
    }


def _essence(entry: Entry) -> dict[str, Any]:
    """What samples at one point must have in common: everything but the seed."""
    sampler = {name: value for name, value in entry.sampler.items() if name != "seed"}
    own = {"λ": entry.lam, "weights": entry.fingerprint, "problems": entry.problems_hash, "sampler": sampler}
    return own | {"instruction or budget": entry.asking}


def _equal(a: Mapping[str, Any], b: Mapping[str, Any], where: str, what: str) -> None:
    for name in a:
        if a[name] != b[name]:
            sides = "" if len(f"{a[name]}{b[name]}") > 200 else f": {a[name]} and {b[name]}"
            raise RunError(
                f"{what} differ in {name}{sides}", where, "keep them apart; `interpole report` takes several"
            )


def _pool(group: Mapping[str, list[_Piece]]) -> list[_Piece]:
    """The finished pieces of one task at one point, numbered on from seed to seed; no log is taken twice."""
    taken: list[_Piece] = []
    for pieces in group.values():
        logs = {piece.part.log for piece in taken}
        shift = sum(piece.part.num_samples for piece in taken)
        for piece in _chain(p for p in pieces if p.part.status == "done"):
            if piece.part.log in logs:
                shift -= piece.part.num_samples
            else:
                moved = piece.part.model_copy(update={"first_sample": piece.part.first_sample + shift})
                taken.append(piece._replace(part=moved))
    return taken


def _chain(pieces: Iterable[_Piece]) -> tuple[_Piece, ...]:
    """The pieces that cover most samples from the first on, each once."""
    reached: dict[int, tuple[_Piece, ...]] = {0: ()}
    for piece in sorted(pieces, key=lambda piece: piece.part.first_sample + piece.part.num_samples):
        before = piece.part.first_sample - 1
        if before in reached:
            reached.setdefault(before + piece.part.num_samples, (*reached[before], piece))
    return reached[max(reached)]


def _run_file(files: Sequence[RunFile], pooled: Mapping[tuple[str, str], list[_Piece]]) -> RunFile:
    """The first run's file, with everybody's sources, tasks and entries."""
    settings = next(entry.settings for file in files for entry in file.current)
    entries = tuple(
        pieces[0].entry.model_copy(update={"parts": tuple(piece.part for piece in pieces), "settings": settings})
        for pieces in pooled.values()
    )
    tasks: dict[str, TaskInfo] = {name: info for file in reversed(files) for name, info in file.tasks.items()}
    most = {name: max(_num_samples(e) for e in entries if e.task == name) for name in {e.task for e in entries}}
    return files[0].model_copy(
        update={
            "created": min(file.created for file in files),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": {name: source for file in reversed(files) for name, source in file.sources.items()},
            "tasks": {name: tasks[name].model_copy(update={"samples": k}) for name, k in sorted(most.items())},
            "entries": entries,
        }
    )


def _num_samples(entry: Entry) -> int:
    return sum(part.num_samples for part in entry.parts)


def _write(file: RunFile, pooled: Sequence[Iterable[_Piece]], out: Path) -> None:
    """Write the new run, all of it or nothing: beside, then renamed. What a merge that was killed left there is made anew."""
    beside = out.with_name(f".{out.name}.unfinished")
    if beside.is_symlink():
        raise OutputError("the folder to work in is a link", beside, "remove it")
    with exclusive(beside):
        try:
            for left in beside.iterdir():
                if left.name != ".lock":
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            for entry, pieces in zip(file.entries, pooled, strict=True):
                _copy(pieces, entry.within(beside))
            file.save(beside)
            beside.rename(out)
        except OSError as error:
            raise OutputError(f"cannot copy a log: {error}", out, "check the runs and the disk") from error


def _copy(pieces: Iterable[_Piece], folder: Path) -> None:
    """Copy the logs, and what was graded anew beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for run, entry, part in pieces:
        log = entry.within(run, str(part.log))
        for path in (log, entry.within(run, regraded_path(log).name)):
            if (folder / path.name).exists():
                raise RunError("two entries of a run name one log", path, "the run.json was changed by hand")
            if path == log or path.exists():
                shutil.copy2(path, folder / path.name)
