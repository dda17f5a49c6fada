"""A sweep on a Ray cluster: actors do units into run folders on shared storage, and the driver takes over what is finished.

Nothing that lasts is in Ray. A unit is made beside its place and renamed when it is whole: a driver finds on disk what is done,
may be killed and started again, and what was done twice is taken once. Who does a unit again goes on in the folder of before.
What an actor does with a unit is what `sweep --shard` does with a shard.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from interpole.actors import Actors, Order, nearest, node_name
from interpole.engines.pool import EngineRate
from interpole.engines.registry import EngineKind
from interpole.errors import RunError
from interpole.files import make_folder, open_regular, open_to_append, read_text, write_atomic
from interpole.formats import parse_json
from interpole.runs.journal import JOURNAL, journal_path
from interpole.runs.runfile import UNITS, release
from interpole.schema import Strict, validated
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan
from interpole.sweep.run import pool_of, run_unit
from interpole.sweep.units import Made, Unit
from interpole.systems import sync

__all__ = ["NODES", "Cluster", "EngineTools", "do_unit", "engines", "needs", "written"]

NODES = "nodes.jsonl"
"""In the run folder: a line for every unit, with the node that did it."""
LAG_SECONDS = 60.0
"""For so long at most NFS goes on saying that there is no such folder."""
DID = "did.json"
"""In the folder of a unit: the same."""


class _Did(Strict):
    """Who did a unit."""

    node: str
    num_generated: int
    num_tokens: int
    seconds: float


class EngineTools:
    """What an actor of a sweep has: an engine, and the plan of whatever it is asked about."""

    def __init__(self, config: str) -> None:
        """Open the engine of a sweep (`written`).

        Raises:
            InterpoleError: it cannot be opened, or something of the sweep is not here.
        """
        self._plans: dict[str, Plan] = {}
        self.pool = pool_of(self.plan(config))

    def versions(self) -> dict[str, str]:
        """The engine's."""
        return self.pool.versions()

    def plan(self, config: str) -> Plan:
        """The plan of a sweep; the last one is kept."""
        if config not in self._plans:
            self._plans = {config: Plan(SweepConfig.of(json.loads(config)))}
        return self._plans[config]


def written(config: SweepConfig) -> str:
    """A sweep as JSON, with one engine, which is what an actor has."""
    return config.model_copy(update={"engines": 1}).model_dump_json(by_alias=True, exclude_unset=True)


def needs(kind: EngineKind, options: Mapping[str, Any], gpus: bool) -> dict[str, float]:
    """What one engine needs of a node, as Ray counts it.

    Args:
        kind: of the engine.
        options: its options.
        gpus: whether the cluster has GPUs.
    """
    threads = options.get("threads")
    need = {"CPU": float(threads) if isinstance(threads, int) else 1.0}
    if gpus and kind.default_rows is not None and str(options.get("device", "cuda")) != "cpu":
        group = int(options.get("tensor_parallel_size", 1)) * int(options.get("pipeline_parallel_size", 1))
        need["GPU"] = float(group)
    return need


def engines(config: SweepConfig, out: Path, address: str = "auto", *, pending_seconds: float = 120.0) -> Actors:
    """The engines of a sweep on a cluster.

    Args:
        config: what they are opened for; `engines`: at most so many, where it is said, else as many as there is room for.
        out: a folder that all nodes must see.
        address: see `Actors`.
        pending_seconds: see `Actors`.
    """
    said = config.engines if "engines" in config.model_fields_set else "auto"
    return Actors(
        EngineTools,
        (written(config),),
        out,
        address,
        need=partial(needs, config.kind, config.engine_options),
        alike=release,
        most=None if said == "auto" else said,
        pending_seconds=pending_seconds,
    )


class Cluster:
    """A `sweep.run.Crew` of Ray actors."""

    def __init__(self, actors: Actors) -> None:
        """Use these; whoever opened them closes them."""
        self._actors = actors
        self._rates: dict[str, EngineRate] = {}

    def rates(self) -> list[EngineRate]:
        """See `Crew`; of units that are finished."""
        return list(self._rates.values())

    def versions(self, report: Callable[[str], None], num_units: int) -> dict[str, str]:
        """See `Crew`."""
        self._actors.report = report
        return self._actors.versions(num_units)

    def make(
        self, planned: Plan, units: Sequence[tuple[Unit, str]], out: Path, on_answers: Callable[[int], None]
    ) -> Iterator[Made]:
        """See `Crew`; what is on disk already comes first.

        Raises:
            RunError: no node has room for an engine any more.
        """
        out = out.absolute()
        make_folder(out / UNITS)
        names = dict(units)
        left = []
        for unit, name in units:
            if (out / UNITS / name).is_dir():
                yield self._made(out, unit, name)
            else:
                left.append(unit)
        said = written(planned.config)
        at: dict[int, str] = {}  # engine → the point whose weights it has
        failures = Counter[Unit]()

        def give(engine: int) -> Order | None:
            if not left:
                return None
            unit = nearest(left, lambda one: one.point, at, engine)
            left.remove(unit)
            at[engine] = unit.point
            return Order(do_unit, (said, str(out), unit, names[unit]))

        for done in self._actors.work(give, lambda: len(left)):
            if done is None:
                on_answers(_num_answers(out))
                continue
            unit = done.order.args[2]
            if _is_seen(
                out / UNITS / names[unit], 0.0 if done.error else LAG_SECONDS
            ):  # maybe of one that is gone since
                yield self._made(out, unit, names[unit])
                continue
            failures[unit] += 1
            error = done.error or f"it was done on {done.node}, but is not seen here: use storage that all nodes share"
            if failures[unit] <= planned.config.max_failures:
                self._actors.report(f"{unit}: to be done again. {error}")
                left.insert(0, unit)
            else:
                yield Made(unit, None, error)
        with suppress(OSError):
            (out / UNITS).rmdir()

    def _made(self, out: Path, unit: Unit, name: str) -> Made:
        """A unit that is on disk; who did it is noted, and counted."""
        path = out / UNITS / name
        try:
            did = validated(
                _Did, parse_json(read_text(path / DID, RunError, "the unit"), path, RunError), path, RunError
            )
        except RunError as error:
            return Made(unit, path, str(error))
        block = unit.part.block
        questions = block and [block.first, block.first + block.num - 1]
        _note(out / NODES, name, {"point": unit.point, "task": unit.task, "questions": questions} | did.model_dump())
        before = self._rates.get(did.node)
        self._rates[did.node] = EngineRate(
            name=did.node,
            place=unit.point,
            num_loads=(before.num_loads if before else 0) + (before is None or before.place != unit.point),
            num_answers=(before.num_answers if before else 0) + did.num_generated,
            num_tokens=(before.num_tokens if before else 0) + did.num_tokens,
            busy_seconds=(before.busy_seconds if before else 0.0) + did.seconds,
        )
        self._actors.report(f"{unit}: done on {did.node}")
        return Made(unit, path, "", did.num_generated, did.num_tokens)


def do_unit(bench: EngineTools, config: str, out: str, unit: Unit, name: str) -> None:
    """Do a unit of the run `out` in a folder of its own, called `name` when it is whole.

    Raises:
        InterpoleError: the folder cannot be written (what was answered is kept for the next attempt), or the engine is gone.
    """
    planned, pool = bench.plan(config), bench.pool
    units = Path(out) / UNITS
    folder = units / f".{name}.{uuid.uuid4().hex[:8]}"
    point = next(point for point in planned.points if point.name == unit.point)
    entry = planned.entry(planned.benchmarks[unit.task], point, pool.versions())
    if not _take_over(units, name, folder):
        _collect(journal_path(entry.within(folder), unit.part), entry.within(Path(out)).glob(f"*{JOURNAL}"))
    start = time.monotonic()
    summary = run_unit(planned, folder, unit, pool)
    seconds = round(time.monotonic() - start, 3)
    did = _Did(node=node_name(), num_generated=summary.num_generated, num_tokens=summary.num_tokens, seconds=seconds)
    write_atomic(folder / DID, did.model_dump_json())
    for path in [*entry.within(folder).iterdir(), entry.within(folder), folder / DID, folder]:
        sync(path)
    with suppress(OSError):  # somebody else has done it meanwhile, and his is as good
        folder.rename(units / name)
    shutil.rmtree(folder, ignore_errors=True)


def _take_over(units: Path, name: str, folder: Path) -> bool:
    """Go on in the folder of an earlier attempt at a unit, if there is one; whoever still writes there finds it gone."""
    taken = False
    for old in units.glob(f".{name}.*"):
        with suppress(OSError):
            if taken:
                shutil.rmtree(old)
            else:
                old.rename(folder)
                taken = True
    return taken


def _note(path: Path, name: str, did: Mapping[str, Any]) -> None:
    """Note who did a unit, in place of what was said of it before: one that could not be taken over is found again."""
    there = path.is_file() and not path.is_symlink()
    *lines, _ = (read_text(path, RunError, "what is known of the nodes") if there else "").split("\n")
    line = json.dumps({"unit": name, **did}, ensure_ascii=False)
    kept = [one for one in lines if not one.startswith(f'{{"unit": "{name}"')]
    write_atomic(path, "\n".join([*kept, line, ""]))


def _collect(journal: Path, others: Iterable[Path]) -> None:
    """Put the answers of other journals into a new one: each says of itself what it answers."""
    make_folder(journal.parent)
    with open_to_append(journal) as file:
        for path in others:
            with suppress(OSError), open_regular(path) as old:
                content = old.read()
                file.write(content if content.endswith(b"\n") else content + b"\n")


def _is_seen(path: Path, seconds: float) -> bool:
    """Whether a folder is there; network storage may show it late."""
    deadline = time.monotonic() + seconds
    while not path.is_dir():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def _num_answers(out: Path) -> int:
    """Answers of units that are not finished."""
    num = 0
    for path in (out / UNITS).glob(f".*/**/*{JOURNAL}"):
        with suppress(OSError), open_regular(path) as file:
            num += file.read().count(b"\n")
    return num
