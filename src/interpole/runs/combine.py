"""Several runs as one, without generating anything: points and tasks side by side, responses to the same questions pooled.

Logs are copied as they are; only `run.json` is new. The new run is made beside its place and moved there when it is whole. What
cannot stand in one table (other weights, other settings, other problems) is refused with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from interpole.errors import OutputError, RunError
from interpole.files import StrPath, make_folder, writing
from interpole.runs.runfile import Entry, Part, RunFile, TaskInfo, exclusive, now, release, sweep_name
from interpole.runs.samples import regraded_path

__all__ = ["Combined", "combine"]

HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
MOST_NAMED = 8  # missing shards in a row; more are named by the first and the last


@dataclass(frozen=True, slots=True)
class Combined:
    """What combining runs came to."""

    run: RunFile
    num_samples: int
    num_duplicates: int  # responses that were in more than one of the runs, and are once in the new one
    unfinished: tuple[str, ...]  # parts that were left out because they are not finished
    missing: tuple[str, ...] = ()  # shards of the sweep that are not among the runs


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
        runs: run folders; the first one's settings and seed become the new run's. Nothing in them is changed. The shards of a
            sweep, in any order, become the run that one machine would have made.
        out: the folder to make.

    Raises:
        RunError: a folder is no run, or two runs differ in what all samples of a run must share.
        OutputError: `out` is there already, or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("the folder for the combined run exists already", out, "choose another --out")
    given_files = {Path(run): RunFile.load(run) for run in runs}
    above = Path(os.path.realpath(out)).parents
    if inside := next((run for run in runs if Path(os.path.realpath(run)) in above), None):
        raise OutputError(f"the folder for the combined run lies in a run, {inside}", out, "choose another --out")
    files = _ordered({run: file for run, file in given_files.items() if file.current})
    if files:
        _check(files)
    groups: dict[tuple[str, str], dict[str, list[_Piece]]] = {}  # by task and point, then by identity
    for run, file in files.items():
        for entry in file.current:
            pieces = groups.setdefault((entry.task, entry.point), {}).setdefault(entry.identity, [])
            pieces += [_Piece(run, entry, part) for part in entry.parts]
    given = [piece for group in groups.values() for pieces in group.values() for piece in pieces]
    count = {key: info.num_problems for one in files.values() for key, info in one.tasks.items()}
    pooled = {key: pool for key, group in groups.items() if (pool := _pool(group, count[key[0]]))}
    if not pooled:
        raise RunError("none of the runs has a finished part", ", ".join(map(str, runs)), "finish the sweeps first")
    file = _run_file(list(files.values()), pooled)
    _write(file, list(pooled.values()), Path(os.path.realpath(out)))
    num = sum(file.num_responses(entry) for entry in file.entries)
    finished = sum(part.num_responses(count[entry.task]) for _, entry, part in given if part.status == "done")
    unfinished = [
        f"{entry.task} at {entry.point} in {run}{_shown(files[run])}, {_extent(part)}"
        for run, entry, part in given
        if part.status != "done"
    ]
    return Combined(file, num, finished - num, tuple(unfinished), tuple(_missing(given_files)))


def _ordered(files: Mapping[Path, RunFile]) -> dict[Path, RunFile]:
    """Shards in the order of the sweep; other runs as they were given."""
    if not all(file.shard for file in files.values()):
        return dict(files)
    return dict(sorted(files.items(), key=lambda pair: _share(pair[1])))


def _share(file: RunFile) -> Fraction:
    return Fraction(file.shard.number, file.shard.total) if file.shard else Fraction(0)


def _missing(files: Mapping[Path, RunFile]) -> Iterator[str]:
    """The shards that are not there, of every sweep in shards of which some are and which is not there otherwise."""
    there: dict[tuple[str, int], dict[int, Path]] = {}  # by sweep and number of shards
    whole = {name for file in files.values() if not file.shard and (name := _sweep(file))}
    for run, file in files.items():
        if file.shard:
            there.setdefault((file.shard.sweep, file.shard.total), {}).setdefault(file.shard.number, run)
    whole |= {sweep for (sweep, total), runs in there.items() if len(runs) == total}
    several = len({sweep for sweep, _ in there}) > 1
    for (sweep, total), runs in there.items():
        if sweep not in whole:
            of = f" of the sweep of {runs[min(runs)]}" if several else ""
            bounds = [0, *sorted(runs), total + 1]
            yield from (gap + of for low, high in pairwise(bounds) for gap in _gap(low + 1, high - 1, total))


def _gap(first: int, last: int, total: int) -> Iterator[str]:
    """The shards from `first` to `last`, in words; many in one."""
    if last - first < MOST_NAMED:
        yield from (f"shard {number} of {total}" for number in range(first, last + 1))
    else:
        yield f"shards {first} to {last} of {total}"


def _sweep(file: RunFile) -> str:
    """The name of a sweep that is there as a whole; empty where something of it is not finished."""
    if any(entry.status != "done" for entry in file.current):
        return ""
    return sweep_name((entry, file.tasks[entry.task].samples) for entry in file.current)


def _shown(file: RunFile) -> str:
    return f" (shard {file.shard})" if file.shard else ""


def _extent(part: Part) -> str:
    """Which responses a part has, in words."""
    last = part.first_sample + part.num_samples - 1
    block = f"questions {part.block.first} to {part.block.first + part.block.num - 1}, " if part.block else ""
    return f"{block}samples {part.first_sample} to {last}"


def _check(files: Mapping[Path, RunFile]) -> None:
    """Refuse runs that cannot stand in one table."""
    (base, first), *others = files.items()
    known = {(entry.task, entry.point): entry for entry in first.current}
    for run, file in others:
        where = f"{base} and {run}"
        _equal(_shared(first), _shared(file), where, "the runs")
        weights = [{name: source.fingerprint for name, source in one.sources.items()} for one in (first, file)]
        problems = [
            {name: f"{task.num_problems} questions, {task.problems_hash}" for name, task in one.tasks.items()}
            for one in (first, file)
        ]
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
            said = HASH.sub(r"\1…", f": {a[name]} and {b[name]}")
            sides = "" if len(said) > 200 else said
            raise RunError(
                f"{what} differ in {name}{sides}", where, "keep them apart; `interpole report` takes several"
            )


def _pool(group: Mapping[str, list[_Piece]], num_problems: int) -> list[_Piece]:
    """The finished pieces of one task at one point, numbered on from seed to seed; no log is taken twice."""
    taken: list[_Piece] = []
    for pieces in group.values():
        logs = {piece.part.log for piece in taken}
        shift = _num_samples(piece.part for piece in taken)
        for layer in _chain((p for p in pieces if p.part.status == "done"), num_problems):
            new = [piece for piece in layer if piece.part.log not in logs]
            shift -= 0 if new else layer[0].part.num_samples
            for piece in new:
                moved = piece.part.model_copy(update={"first_sample": piece.part.first_sample + shift})
                taken.append(piece._replace(part=moved))
    return taken


def _chain(pieces: Iterable[_Piece], num_problems: int) -> list[list[_Piece]]:
    """The pieces that cover most responses from the first sample on, each response once; those of the same samples together."""
    layers: dict[tuple[int, int], list[_Piece]] = {}  # by last and first sample
    for piece in pieces:
        first = piece.part.first_sample
        layers.setdefault((first + piece.part.num_samples - 1, first), []).append(piece)
    reached: dict[int, tuple[int, list[list[_Piece]]]] = {0: (0, [])}
    for (last, first), layer in sorted(layers.items(), key=lambda pair: pair[0][0]):
        if first - 1 in reached:
            num, before = reached[first - 1]
            fitting = _apart(layer, num_problems)
            num += sum(piece.part.num_responses(num_problems) for piece in fitting)
            if last not in reached or num > reached[last][0]:
                reached[last] = num, [*before, fitting]
    return max(reached.values(), key=lambda pair: pair[0])[1]


def _apart(layer: Iterable[_Piece], num_problems: int) -> list[_Piece]:
    """Of pieces of the same samples those that cover most problems, each once."""
    best: list[tuple[int, list[_Piece]]] = [(0, [])] * (num_problems + 1)  # of the first problems alone
    ends: dict[int, list[_Piece]] = {}
    for piece in layer:
        ends.setdefault(piece.part.problems(num_problems).stop, []).append(piece)
    for end in range(1, num_problems + 1):
        best[end] = best[end - 1]
        for piece in ends.get(end, ()):
            num, before = best[piece.part.problems(num_problems).start]
            num += len(piece.part.problems(num_problems))
            if num > best[end][0]:
                best[end] = num, [*before, piece]
    return best[num_problems][1]


def _run_file(files: Sequence[RunFile], pooled: Mapping[tuple[str, str], list[_Piece]]) -> RunFile:
    """The first run's file, with everybody's sources, tasks and entries."""
    settings = next(entry.settings for file in files for entry in file.current)
    entries = tuple(
        pieces[0].entry.model_copy(update={"parts": tuple(piece.part for piece in pieces), "settings": settings})
        for pieces in pooled.values()
    )
    tasks: dict[str, TaskInfo] = {name: info for file in reversed(files) for name, info in file.tasks.items()}
    names = {entry.task for entry in entries}
    most = {name: max(_num_samples(e.parts) for e in entries if e.task == name) for name in names}
    return files[0].model_copy(
        update={
            "created": min(file.created for file in files),
            "updated": now(),
            "sources": {name: source for file in reversed(files) for name, source in file.sources.items()},
            "tasks": {name: tasks[name].model_copy(update={"samples": k}) for name, k in sorted(most.items())},
            "entries": entries,
            "shard": None,
        }
    )


def _num_samples(parts: Iterable[Part]) -> int:
    """Samples per problem: the last number that a part has."""
    return max((part.first_sample + part.num_samples - 1 for part in parts), default=0)


def _write(file: RunFile, pooled: Sequence[Iterable[_Piece]], out: Path) -> None:
    """Write the new run, all of it or nothing: beside, then renamed. What a merge that was killed left there is made anew."""
    beside = out.with_name(f".{out.name}.unfinished")
    if beside.is_symlink():
        raise OutputError("the folder to work in is a link", beside, "remove it")
    with exclusive(beside) as rename_to, writing(out):
        try:
            for left in beside.iterdir():
                if left.name != ".lock":
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            for entry, pieces in zip(file.entries, pooled, strict=True):
                _copy(pieces, entry.within(beside))
            file.save(beside)
            rename_to(out)
        except Exception:
            shutil.rmtree(beside, ignore_errors=True)
            raise


def _copy(pieces: Iterable[_Piece], folder: Path) -> None:
    """Copy the logs, and what was graded anew beside them."""
    make_folder(folder)
    for run, entry, part in pieces:
        log = entry.within(run, str(part.log))
        for path in (log, entry.within(run, regraded_path(log).name)):
            if (folder / path.name).exists():
                raise RunError("two entries of a run name one log", path, "the run.json was changed by hand")
            if path == log or path.exists():
                shutil.copy2(path, folder / path.name)
