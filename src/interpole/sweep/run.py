"""The one loop: points × tasks × repeats, with engines whose weights are moved from point to point.

Inspect runs and logs each task at each point, several at a time; what it needs to know of weights is in the model's name. A sweep
that is run again generates only what is missing: finished logs stay, and answers of unfinished ones are in their journals.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from interpole.engines.devices import devices
from interpole.engines.pool import EngineRate, Pool, Visit
from interpole.errors import InterpoleError, OutputError, RunError
from interpole.files import StrPath, full_disk, full_disk_in, make_folder, open_regular, refuse_unwritable, write_atomic
from interpole.packages import require
from interpole.runs.journal import JOURNAL, Journal, journal_path, num_answers
from interpole.runs.runfile import NAME, Entry, Part, RunFile, Shard, exclusive, now
from interpole.runs.samples import read_log, regraded_path
from interpole.sweep.changes import assumed_engine, refuse_changes, refuse_shard
from interpole.sweep.config import SweepConfig
from interpole.sweep.follow import Followed, follow
from interpole.sweep.plan import Plan
from interpole.sweep.progress import OnProgress, ProgressReporter
from interpole.sweep.units import Made, Unit, unit_name
from interpole.sweep.work import Job, Work, run_file, work_of

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.model import Model

__all__ = ["Changed", "Crew", "Planned", "Summary", "plan", "pool_of", "run", "run_unit"]

UNFINISHED = ".unfinished"
"""Where Inspect writes logs in the run folder until they are whole."""
NOT_LOGGED = {"parts", "current"}  # of an entry: what a log need not say


@dataclass(frozen=True, slots=True)
class Planned:
    """One task at one point before a sweep: samples wanted, and there already."""

    task: str
    point: str
    lam: float | None
    num_samples: int
    num_present: int
    max_tokens: int  # cap on each
    graders: tuple[str, ...]  # of the task's gradings; none of ours: those of the Inspect task itself
    expected_tokens: float | None = None  # of a response; None: not known (a policy says what it was fitted to take)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sweep did."""

    run: RunFile
    num_generated: int
    num_tokens: int
    seconds: float
    failed: tuple[Entry, ...]  # run the sweep again to try them again


Changed = Literal["refuse", "also", "fresh"]
"""Where a run was made with other settings: refuse; also go on with these, its responses left aside; or begin afresh."""


class Crew(Protocol):
    """Engines elsewhere, each of which does units into run folders that are seen here (see `sweep.cluster`)."""

    def versions(self, report: Callable[[str], None], num_units: int) -> dict[str, str]:
        """What the engines say of themselves; blocks until the first is open.

        Args:
            report: told of engines and units.
            num_units: about how many there will be to do.
        """

    def make(
        self, planned: Plan, units: Sequence[tuple[Unit, str]], out: Path, on_answers: Callable[[int], None]
    ) -> Iterator[Made]:
        """Do units, each with its name, for the run `out`; `on_answers` is told how many answers unfinished ones have."""

    def rates(self) -> list[EngineRate]:
        """What each engine has done so far."""


def plan(
    config: SweepConfig, out: StrPath, *, changed: Changed = "refuse", shard: Shard | None = None
) -> list[Planned]:
    """What a sweep would do, without starting an engine; refused is what `run` refuses.

    Args:
        config: the sweep.
        out: the run folder; what it holds counts as present if it was made with the same settings.
        changed: as in `run`.
        shard: as in `run`.

    Raises:
        InterpoleError: as `run`.
    """
    out = Path(out)
    _require(config)
    refuse_unwritable(out)
    existing = None if changed == "fresh" else _existing(out)
    refuse_shard(out, existing, shard)
    planned = Plan(config)
    work = _work(planned, out, existing, assumed_engine(config, existing).versions, shard, changed)
    return [
        Planned(
            task=job.benchmark.name,
            point=job.point.name,
            lam=job.point.lam,
            num_samples=job.num_samples,
            num_present=job.num_present(out),
            max_tokens=planned.sampler(job.benchmark, job.point).max_tokens,
            graders=tuple(job.benchmark.gradings),
            expected_tokens=job.point.policy.tokens if job.point.policy else None,
        )
        for job in work.jobs
    ]


def pool_of(planned: Plan, report: Callable[[str], None] = lambda _: None) -> Pool:
    """Start the engines of a sweep; to be closed by whoever asked for them.

    Raises:
        EngineError: they do not fit the devices.
    """
    config = planned.config

    def num_parameters() -> int:
        return sum(spec.num_elements for spec in planned.points[0].specs.values())

    where = devices(config.engines, config.kind, config.engine_options, num_parameters)
    return Pool(
        planned.engine_spec,
        where,
        most_requests=config.kind.num_rows(config.engine_options),
        pair=planned.engine_spec["recipe"] if config.per_request else None,
        max_failures=config.max_failures,
        hang_seconds=config.hang_seconds,
        report=report,
    )


def run(
    config: SweepConfig,
    out: StrPath,
    on_progress: OnProgress = lambda _: None,
    *,
    pool: Pool | None = None,
    changed: Changed = "refuse",
    shard: Shard | None = None,
    crew: Crew | None = None,
) -> Summary:
    """Run a sweep, or the rest of it. Where nothing is left to do, no engine is started.

    Args:
        config: the sweep.
        out: the run folder; made, continued or extended.
        on_progress: told of every answer, from any thread.
        pool: engines that are open already (`pool_of`), and stay so.
        changed: what to do where the folder holds responses that were made with other settings.
        shard: only this share of the sweep, in a run folder of its own; `runs.combine` makes one run of all of them.
        crew: who does it, unit by unit, in the place of an engine here.

    Raises:
        InterpoleError: a source or task does not fit, the run was made with other settings, the engine cannot be opened, or `out`
            cannot be written. What fails at one point is recorded there (`Summary.failed`) and the sweep goes on.
    """
    out = Path(out)
    _require(config)
    if changed == "fresh":
        _move_aside(out)
    with exclusive(out), ExitStack() as stack:
        existing = _existing(out)
        refuse_shard(out, existing, shard)
        planned = Plan(config)
        tell = ProgressReporter(on_progress, out)
        for benchmark in planned.benchmarks.values():
            tell.message(f"{benchmark.name} is graded by {', '.join(benchmark.gradings) or 'its own scorers'}")
        assumed = assumed_engine(config, existing)
        work = _work(planned, out, existing, assumed.versions, shard, changed, cut=crew is not None)
        if not work.jobs or (assumed.certain and all(job.entry.status == "done" for job in work.jobs)):
            return _Sweep(planned, out, existing, work, tell).run(pool)
        who = crew or pool or stack.enter_context(pool_of(planned, tell.message))
        import interpole.sweep.evaluate  # noqa: F401 (with Inspect it takes seconds, in which the engine loads)

        num_units = sum(part.status != "done" for job in work.jobs for part in job.entry.parts)
        versions = who.versions() if isinstance(who, Pool) else who.versions(tell.message, num_units)
        work = _work(planned, out, existing, versions, shard, changed, cut=crew is not None)
        doing = _Sweep(planned, out, existing, work, tell)
        return doing.run(who) if isinstance(who, Pool) else doing.run_by(who)


def run_unit(planned: Plan, out: StrPath, unit: Unit, pool: Pool) -> Summary:
    """Do one unit of a sweep in a run folder of its own, which then has nothing else.

    Args:
        planned: the sweep.
        out: the run folder; answers that its journals hold are not asked for.
        unit: which unit.
        pool: engines that are open.

    Raises:
        InterpoleError: `out` cannot be written. What fails in the unit is recorded there.
    """
    out = Path(out)
    with exclusive(out):
        work = work_of(planned, _existing(out), pool.versions(), unit)
        return _Sweep(planned, out, None, work, ProgressReporter(lambda _: None, out)).run(pool)


def _require(config: SweepConfig) -> None:
    """Refuse, before anything is done, what needs packages that are not installed."""
    require("inspect_ai", RunError)
    for package in config.kind.packages:
        require(package)
    if _in_notebook():
        require("ipywidgets", RunError)  # Inspect asks for it there, at every point


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, by the sign that Inspect goes by."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def _work(
    planned: Plan,
    out: Path,
    existing: RunFile | None,
    engine: Mapping[str, str],
    shard: Shard | None,
    changed: Changed,
    *,
    cut: bool = False,
) -> Work:
    """What there is to do, unless it would leave responses aside that shall stay."""
    work = work_of(planned, existing, engine, shard, cut=cut)
    if changed == "refuse":
        refuse_changes(planned.config, out, existing, run_file(planned, existing, work))
    return work


def _move_aside(out: Path) -> None:
    """Rename a run folder, so that a new run can begin in its place; nothing is lost."""
    if not (out / NAME).exists():
        return
    with exclusive(out) as rename_to:
        number = next(n for n in count(1) if not out.with_name(f"{out.name}.{n}").exists())
        try:
            rename_to(out.with_name(f"{out.name}.{number}"))
        except OSError as error:
            raise OutputError(f"cannot be moved: {error.strerror}", out, "choose another --out") from error


def _place_by_place(parts: Sequence[tuple[Job, Part]]) -> list[tuple[Job, Part]]:
    """Logs of points with the same weights one after the other, so that these are loaded once."""
    first: dict[str, int] = {}
    keys = [json.dumps(job.point.where, sort_keys=True) for job, _ in parts]
    for key in keys:
        first.setdefault(key, len(first))
    return [part for _, part in sorted(zip(keys, parts, strict=True), key=lambda one: first[one[0]])]


class _Sweep:
    """A sweep under way: the run file as it is now, and how far the jobs are."""

    def __init__(self, planned: Plan, out: Path, existing: RunFile | None, work: Work, tell: ProgressReporter) -> None:
        self._plan, self._out, self._tell = planned, out, tell
        self._work = work.jobs
        self._file = run_file(planned, existing, work)

    def run(self, pool: Pool | None) -> Summary:
        """Do every job that is not done; engines are needed where there is one."""
        self._file.save(self._out)
        self._tell.begin(self._work)
        parts = [(job, part) for job in self._work for part in job.entry.parts if part.status != "done"]
        if parts and pool is not None:
            self._tell.watch(pool.rates)
            self._make(pool, parts)
            self._tell.say_rates()
        return self._summary()

    def _summary(self) -> Summary:
        ours = {job.entry.key for job in self._work}
        failed = tuple(entry for entry in self._file.entries if entry.key in ours and entry.status == "failed")
        tell = self._tell
        return Summary(self._file, tell.num_generated, tell.num_tokens, tell.seconds, failed)

    def run_by(self, crew: Crew) -> Summary:
        """Have every unit that is not done made by others, and take over what comes."""
        self._file.save(self._out)
        todo = {
            Unit(job.benchmark.name, job.point.name, part): job
            for job in self._work
            for part in job.entry.parts
            if part.status != "done"
        }
        self._tell.begin(self._work, len(todo))
        named = [(unit, unit_name(job.entry, unit.part)) for unit, job in todo.items()]
        self._tell.watch(crew.rates)
        for made in crew.make(self._plan, named, self._out, self._tell.elsewhere):
            job = todo[made.unit]
            self._tell.take(made, job)
            self._record(job, self._taken(job, made))
            if made.run is not None:
                shutil.rmtree(made.run, ignore_errors=True)
        self._tell.say_rates()
        return self._summary()

    def _taken(self, job: Job, made: Made) -> Part:
        """The log of a unit, copied here from the run folder that it was made in.

        Raises:
            InterpoleError, OSError: there is no room for it; it stays where it is.
        """
        part = made.unit.part
        try:
            found = (
                next((e for e in RunFile.load(made.run).entries if e.key == job.entry.key), None) if made.run else None
            )
            own = next((one for one in found.parts if one.place == part.place), None) if found else None
            if made.run is None or found is None or own is None:
                error = made.error or "it was made with another engine or other weights"
                return part.model_copy(update={"status": "failed", "error": error})
            if own.log is not None:
                with open_regular(found.within(made.run, own.log)) as log:
                    write_atomic(job.entry.within(self._out, own.log), log.read(), durable=True, parents=True)
        except (InterpoleError, OSError) as problem:
            if full_disk(problem) is not None:
                raise
            return part.model_copy(update={"status": "failed", "error": str(problem)})
        return own

    def _make(self, pool: Pool, parts: Sequence[tuple[Job, Part]]) -> None:
        """Make these logs. All points are told to the pool at once, so that its engines know where they are wanted next.

        Policies come last: their answers are made before Inspect's turn.
        """
        with ExitStack() as open_visits:
            self._evaluate(
                pool,
                [
                    (job, part, open_visits.enter_context(self._visit(pool, job, part)))
                    for job, part in _place_by_place([one for one in parts if one[0].point.policy is None])
                ],
            )
        self._evaluate(
            pool, [(job, part, self._follow(pool, job, part)) for job, part in parts if job.point.policy is not None]
        )

    def _evaluate(self, pool: Pool, parts: Sequence[tuple[Job, Part, Visit | Followed]]) -> None:
        """Make logs of what visits answer."""
        from interpole.sweep.evaluate import Assignment, evaluate

        made = {str(number): one for number, one in enumerate(parts)}
        if made:
            evaluate(
                [
                    Assignment(key, partial(self._task, *one), one[0].entry.model_dump(mode="json", exclude=NOT_LOGGED))
                    for key, one in made.items()
                ],
                self._out / UNFINISHED,
                lambda done, log, error: self._finish(*made[done.key], log, error),
                num_open=self._num_open(pool, [part for _, part, _ in parts]),
                concurrency=self._plan.config.concurrency * len(pool),
            )

    def _follow(self, pool: Pool, job: Job, part: Part) -> Followed:
        """Have a policy's questions answered."""
        self._tell.go_to(job)
        return follow(
            planned=self._plan,
            pool=pool,
            point=job.point,
            benchmark=job.benchmark,
            part=part,
            path=journal_path(job.entry.within(self._out), part),
            on_answer=partial(self._tell.answer, job),
        )

    def _num_open(self, pool: Pool, parts: Sequence[Part]) -> int:
        """How many logs at a time: those of a point for each engine and one more; or as many as fill two batches with all λ."""
        config, benchmarks = self._plan.config, self._plan.benchmarks.values()
        num = (len(pool) + 1) * len(benchmarks)
        if not config.per_request:
            return num
        smallest = min(part.num_responses(len(one.problems)) for part in parts for one in benchmarks)
        rows = len(pool) * (config.kind.num_rows(config.engine_options) or config.concurrency)
        return max(num, 1 + 2 * rows // max(1, smallest))

    def _visit(self, pool: Pool, job: Job, part: Part) -> Visit:
        """Ask at a job's point; how many questions it will be is known where we ask them."""
        point, benchmark = job.point, job.benchmark
        known = num_answers(journal_path(job.entry.within(self._out), part))
        return pool.visit(
            point.where,
            point.fingerprint,
            label=point.name,
            num_expected=None if benchmark.foreign else part.num_responses(len(benchmark.problems)) - known,
            wrap=partial(self._plan.answer, point),
        )

    def _task(self, job: Job, part: Part, visit: Visit | Followed) -> tuple[Task, Model]:
        """What Inspect is given."""
        from interpole.engines.provider import inspect_model, respond_with
        from interpole.tasks.inspect import to_inspect

        planned, folder, point = self._plan, job.entry.within(self._out), job.point
        make_folder(folder)
        self._tell.go_to(job)
        tell = (lambda *_: None) if isinstance(visit, Followed) else partial(self._tell.answer, job)  # told already
        journal = Journal(journal_path(folder, part), visit.answer, tell)
        sampler = planned.sampler(job.benchmark, point)
        problems = job.benchmark.problems
        block = problems if part.block is None else tuple(problems[i] for i in part.problems(len(problems)))
        benchmark = replace(job.benchmark, problems=block, k=part.num_samples, sampler=sampler)
        name = f"{point.slug}-{job.entry.identity[:12]}"
        model = inspect_model(name, journal.answer, partial(planned.render, point=point), sampler)
        respond = partial(respond_with, model)
        return to_inspect(benchmark, planned.form_at(point), first_sample=part.first_sample, respond=respond), model

    def _finish(self, job: Job, part: Part, visit: Visit | Followed, log: Path | None, error: str) -> None:
        """Take over a log that Inspect has made, or what went wrong."""
        visit.close()
        made = part.model_copy(update={"status": "failed", "error": error})
        if visit.load_error is not None:
            made = made.model_copy(update={"error": str(visit.load_error)})
        elif log is not None:
            try:
                own = log.replace(job.entry.within(self._out, log.name))
            except OSError as problem:
                raise OutputError(f"cannot be written: {problem.strerror}", job.entry.within(self._out)) from problem
            made = _as_logged(own, job, part)
        if (full := full_disk_in(made.error)) is not None:
            raise OutputError(f"disk full: {full.strerror}", self._out, "free some space; then go on") from full
        self._record(job, made)

    def _record(self, job: Job, made: Part) -> None:
        """Write down a part, then remove what it replaces."""
        before = next(entry for entry in self._file.entries if entry.key == job.entry.key)
        parts = tuple(made if part.place == made.place else part for part in before.parts)
        after = before.model_copy(update={"parts": parts})
        entries = tuple(after if entry is before else entry for entry in self._file.entries)
        self._file = self._file.model_copy(update={"entries": entries, "updated": now()})
        self._file.save(self._out)
        folder = after.within(self._out)
        if made.status == "done":
            journal_path(folder, made).unlink(missing_ok=True)
        if after.status == "done":  # also what was asked when the work was cut otherwise
            for journal in folder.glob(f"*{JOURNAL}"):
                journal.unlink(missing_ok=True)
        for log in folder.glob("*.eval"):
            if log.name not in {part.log for part in parts}:
                log.unlink()
                regraded_path(log).unlink(missing_ok=True)
        self._tell.message(f"{after.point} · {after.task}: {made.status}{made.error and '. ' + made.error}")


def _as_logged(log: Path, job: Job, part: Part) -> Part:
    """A part that has a log, and what went wrong of its samples."""
    samples = list(read_log(log, job.entry, part, texts=False))
    errors = [sample.error for sample in samples if sample.error]
    num_missing = part.num_responses(len(job.benchmark.problems)) - len(samples)
    message = f"{len(errors)} samples failed, the first: {errors[0]}" if errors else ""
    if num_missing > 0:  # whoever asked or graded was cancelled, which Inspect takes for its own doing
        message = "\n".join([f"{num_missing} samples were cancelled", *([message] if message else [])])
    status = "failed" if message else "done"
    return part.model_copy(update={"log": log.name if samples else None, "status": status, "error": message})


def _existing(out: Path) -> RunFile | None:
    return RunFile.load(out) if (out / NAME).exists() else None
