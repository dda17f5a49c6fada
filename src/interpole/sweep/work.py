"""What a sweep has to do: every task at every point as far as it is done, and how the run folder writes that down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from interpole import __version__
from interpole.runs.journal import journal_path, num_answers
from interpole.runs.runfile import Entry, Part, RunFile, Shard, now, sweep_name
from interpole.sweep.plan import Plan, Point
from interpole.sweep.units import Unit, deal, missing_parts, units
from interpole.tasks import Benchmark

__all__ = ["Job", "Work", "run_file", "work_of"]


@dataclass(frozen=True)
class Job:
    """One task at one point, as far as it is done."""

    benchmark: Benchmark
    point: Point
    entry: Entry

    @property
    def num_samples(self) -> int:
        """Samples that there shall be."""
        return sum(part.num_responses(len(self.benchmark.problems)) for part in self.entry.parts)

    @property
    def num_done(self) -> int:
        """Samples in finished logs."""
        done = (part for part in self.entry.parts if part.status == "done")
        return sum(part.num_responses(len(self.benchmark.problems)) for part in done)

    def num_present(self, out: Path) -> int:
        """Samples that need not be generated: those of finished logs, and answers in journals."""
        folder = self.entry.within(out)
        waiting = sum(num_answers(journal_path(folder, part)) for part in self.entry.parts if part.status != "done")
        return min(self.num_samples, self.num_done + waiting)


class Work(NamedTuple):
    """All jobs of a sweep, or of a shard of it, and the engine that they are for."""

    engine: Mapping[str, str]
    jobs: tuple[Job, ...]
    shard: Shard | None = None

    @property
    def entries(self) -> list[Entry]:
        """Of the run file."""
        return [job.entry for job in self.jobs]


def work_of(
    planned: Plan, existing: RunFile | None, engine: Mapping[str, str], share: Shard | Unit | None, *, cut: bool = False
) -> Work:
    """All jobs of a share, point by point so that weights move once per point; parts that earlier runs made are taken over.

    Args:
        planned: the sweep.
        existing: what the run folder holds.
        engine: what it says of itself.
        share: what is to be done; None: everything.
        cut: into units, also what was begun as a whole.
    """
    known = {entry.key: entry for entry in (existing.entries if existing else ())}
    pairs = [(point, benchmark) for point in planned.points for benchmark in planned.benchmarks.values()]
    jobs, whole = list[Job](), list[tuple[Entry, int]]()
    for (point, benchmark), mine in zip(pairs, _wanted(planned, pairs, share, cut), strict=True):
        entry = planned.entry(benchmark, point, engine)
        whole.append((entry, benchmark.k))
        before = known[entry.key].parts if entry.key in known else ()
        before = tuple(part for part in before if part.status == "done") if cut else before
        if parts := missing_parts(before, mine, len(benchmark.problems)):
            jobs.append(Job(benchmark, point, entry.model_copy(update={"parts": parts})))
    shard = share.model_copy(update={"sweep": sweep_name(whole)}) if isinstance(share, Shard) else None
    return Work(engine, tuple(jobs), shard)


def _wanted(
    planned: Plan, pairs: Sequence[tuple[Point, Benchmark]], share: Shard | Unit | None, cut: bool
) -> list[list[Part]]:
    """Which responses there shall be of each task at each point."""
    if isinstance(share, Shard):
        return deal([(benchmark, planned.expected_tokens(benchmark, point)) for point, benchmark in pairs], share)
    if share is not None:
        return [[share.part] if (bench.name, point.name) == share[:2] else [] for point, bench in pairs]
    if cut:
        return [units(benchmark) for _, benchmark in pairs]
    return [[Part(first_sample=1, num_samples=benchmark.k)] for _, benchmark in pairs]


def run_file(planned: Plan, existing: RunFile | None, work: Work) -> RunFile:
    """The run file with these entries, and with those of earlier runs: current where they can stand beside the new ones."""
    config, form, entries = planned.config, planned.form, work.entries
    infos = {
        name: planned.task_info(task, benchmark)
        for task, (name, benchmark) in zip(config.tasks, planned.benchmarks.items(), strict=True)
    }
    ours = {(entry.task, entry.point) for entry in entries}
    keys = {entry.key for entry in entries}
    old = [entry for entry in (existing.entries if existing else ()) if entry.key not in keys]
    kept = [
        entry.model_copy(
            update={
                "current": entry.current
                and (entry.task, entry.point) not in ours
                and all(entry.settings == one.settings for one in entries[:1])
                and (entry.task not in infos or entry.problems_hash == infos[entry.task].problems_hash)
            }
        )
        for entry in old
    ]
    return RunFile(
        created=existing.created if existing else now(),
        updated=now(),
        interpole=__version__,
        sources=planned.sources,
        template_from=config.template_from,
        template=form.template,
        template_variables=dict(form.variables),
        prefix=form.prefix,
        prompt_opens_thinking=form.prompt_opens_thinking,
        markers=(form.markers.open, form.markers.close),
        special_tokens=form.special_tokens,
        seed=config.seed,
        engine=dict(work.engine),
        engine_options=config.engine_options,
        tasks={**(existing.tasks if existing else {}), **infos},
        entries=(*entries, *kept),
        shard=work.shard,
    )
