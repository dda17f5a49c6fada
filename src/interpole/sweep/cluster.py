"""A sweep on a Ray cluster: actors do units into run folders on shared storage, and the driver takes over what is finished.

Nothing that lasts is in Ray. A unit is made beside its place and renamed when it is whole: a driver finds on disk what is done,
may be killed and started again, and what was done twice is taken once. Answers of an attempt that was cut short go into the next
one's journal. What an actor does with a unit is what `sweep --shard` does with a shard.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from interpole.engines.pool import EngineRate, Pool
from interpole.files import open_regular, open_to_append
from interpole.runs.journal import JOURNAL, journal_path
from interpole.runs.runfile import UNITS
from interpole.sweep.actors import Actors, Done, Order, written
from interpole.sweep.plan import Plan
from interpole.sweep.run import Made, run_unit
from interpole.sweep.units import Unit

__all__ = ["NODES", "Cluster", "do_unit"]

NODES = "nodes.jsonl"
"""In the run folder: a line for every unit, with the node that did it."""


class Cluster:
    """A `sweep.run.Crew` of Ray actors."""

    def __init__(self, actors: Actors) -> None:
        """Use these; whoever opened them closes them."""
        self._actors = actors
        self._rates: dict[int, EngineRate] = {}

    def rates(self) -> list[EngineRate]:
        """See `Crew`; of units that are finished."""
        return list(self._rates.values())

    def versions(self, report: Callable[[str], None]) -> dict[str, str]:
        """See `Crew`."""
        self._actors.report = report
        return self._actors.versions()

    def make(
        self, planned: Plan, units: Sequence[tuple[Unit, str]], out: Path, on_answers: Callable[[int], None]
    ) -> Iterator[Made]:
        """See `Crew`; what is on disk already comes first.

        Raises:
            RunError: no node has room for an engine any more.
        """
        out = out.absolute()
        (out / UNITS).mkdir(exist_ok=True)
        names = dict(units)
        there = [unit for unit in names if (out / UNITS / names[unit]).is_dir()]
        yield from (Made(unit, out / UNITS / names[unit]) for unit in there)
        left = [unit for unit in names if unit not in there]
        said = written(planned.config)
        at: dict[int, str] = {}  # engine → the point whose weights it has
        failures = Counter[Unit]()

        def give(engine: int) -> Order | None:
            if not left:
                return None
            unit = _next(left, at, engine)
            left.remove(unit)
            at[engine] = unit.point
            return Order(do_unit, said, (str(out), unit, names[unit]))

        for done in self._actors.work(give, lambda: len(left)):
            if done is None:
                on_answers(_num_answers(out))
                continue
            unit: Unit = done.order.args[1]
            failures[unit] += bool(done.error)
            if done.error and failures[unit] <= planned.config.max_failures:
                self._actors.report(f"{unit}: to be done again. {done.error}")
                left.insert(0, unit)
            elif done.error:
                yield Made(unit, None, done.error)
            else:
                self._count(done, unit)
                _note(out, done, unit)
                self._actors.report(f"{unit}: done on {done.node}")
                yield Made(unit, out / UNITS / names[unit], "", *done.answer)
        with suppress(OSError):
            (out / UNITS).rmdir()

    def _count(self, done: Done, unit: Unit) -> None:
        """Note what an engine has done."""
        num_generated, num_tokens = done.answer
        before = self._rates.get(done.engine)
        self._rates[done.engine] = EngineRate(
            name=done.node,
            place=unit.point,
            num_loads=(before.num_loads if before else 0) + (before is None or before.place != unit.point),
            num_answers=(before.num_answers if before else 0) + num_generated,
            num_tokens=(before.num_tokens if before else 0) + num_tokens,
            busy_seconds=(before.busy_seconds if before else 0.0) + done.seconds,
        )


def do_unit(planned: Plan, pool: Pool, out: str, unit: Unit, name: str) -> tuple[int, int]:
    """Do a unit of the run `out` in a folder of its own, called `name` when it is whole.

    Returns:
        How many responses, and how many tokens, were generated for it.

    Raises:
        InterpoleError: the folder cannot be written, or the engine is gone.
    """
    units = Path(out) / UNITS
    folder = units / f".{name}.{uuid.uuid4().hex[:8]}"
    point = next(point for point in planned.points if point.name == unit.point)
    entry = planned.entry(planned.benchmarks[unit.task], point, pool.versions())
    before = [path for path in units.glob(f".{name}.*") if path != folder]
    _collect(
        journal_path(entry.within(folder), unit.part),
        [*entry.within(Path(out)).glob(f"*{JOURNAL}"), *(path for old in before for path in old.rglob(f"*{JOURNAL}"))],
    )
    for old in before:
        shutil.rmtree(old, ignore_errors=True)
    summary = run_unit(planned, folder, unit, pool)
    for path in [*entry.within(folder).iterdir(), entry.within(folder), folder]:
        _sync(path)
    with suppress(OSError):  # somebody else has done it meanwhile, and his is as good
        folder.rename(units / name)
    shutil.rmtree(folder, ignore_errors=True)
    return summary.num_generated, summary.num_tokens


def _collect(journal: Path, others: Sequence[Path]) -> None:
    """Put the answers of other journals into a new one: each says of itself what it answers."""
    journal.parent.mkdir(parents=True)
    with open_to_append(journal) as file:
        for path in others:
            with suppress(OSError), open_regular(path) as old:
                content = old.read()
                file.write(content if content.endswith(b"\n") else content + b"\n")


def _sync(path: Path) -> None:
    """Have a file or a folder written to the disk, so that it survives a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _next(left: Sequence[Unit], at: dict[int, str], engine: int) -> Unit:
    """What an engine does next: what is left at its point; else at the first point where nobody is; else where most is left."""
    points: dict[str, list[Unit]] = {}
    for unit in left:
        points.setdefault(unit.point, []).append(unit)
    if at.get(engine) in points:
        return points[at[engine]][0]
    others = {point for one, point in at.items() if one != engine}
    alone = next((units for point, units in points.items() if point not in others), None)
    return (alone or max(points.values(), key=len))[0]


def _num_answers(out: Path) -> int:
    """Answers of units that are not finished."""
    num = 0
    for path in (out / UNITS).glob(f".*/**/*{JOURNAL}"):
        with suppress(OSError), open_regular(path) as file:
            num += file.read().count(b"\n")
    return num


def _note(out: Path, done: Done, unit: Unit) -> None:
    """Write down which node did a unit."""
    block = unit.part.block
    line = {
        "node": done.node,
        "point": unit.point,
        "task": unit.task,
        "questions": block and [block.first, block.first + block.num - 1],
        "num_generated": done.answer[0],
        "num_tokens": done.answer[1],
        "seconds": round(done.seconds, 3),
    }
    with open_to_append(out / NODES) as file:
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
