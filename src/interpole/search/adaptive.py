"""`explore` over a live pair: probes go straight to the engine, everything else is an ordinary sweep, all in one run folder.

A probe's answers are put where a sweep of that λ would look for them, so none is generated twice; a search that was stopped is
run again with the same command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from interpole.analysis.prediction import Curve
from interpole.engines.pool import Pool
from interpole.errors import EngineError, RunError
from interpole.files import StrPath, write_atomic
from interpole.formats import plain
from interpole.records import Sample
from interpole.runs.journal import journal_path
from interpole.runs.runfile import NAME, Part, exclusive
from interpole.runs.samples import read
from interpole.search.allocation import Goal
from interpole.search.explore import Found, Spending, explore
from interpole.search.predict import NUM_PROMPTS, ForwardPasses, prompts_of
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.generate import ask
from interpole.sweep.plan import Plan, Point
from interpole.sweep.progress import OnProgress
from interpole.sweep.run import pool_of
from interpole.tasks import Benchmark

__all__ = ["LivePair", "run", "to_json"]

REPORT = "adaptive.json"
"""The file in the run folder that says what was asked, in which order, and what it cost."""


def run(
    config: SweepConfig,
    out: StrPath,
    goal: Goal = Goal(),  # noqa: B008 (frozen)
    *,
    rounds: int = 8,
    spending: Spending = Spending(),  # noqa: B008 (frozen)
    on_progress: OnProgress = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    predict: bool = True,
) -> Found:
    """Sweep the dial of `config` adaptively; its λ are the grid, its samples what the grid would have.

    Where the engine can say how likely thinking is, and the prompts do not open it themselves, that takes the place of the
    bisection.

    Args:
        config: the sweep; further points are not for this.
        out: the run folder; made, or continued.
        goal: what λ is wanted for.
        rounds: see `explore`.
        spending: see `explore`.
        on_progress: told of every answer.
        tell: told of every step.
        predict: begin with a prediction, where one can be had.

    Raises:
        InterpoleError: as `sweep.run`; or the sweep has points off the dial, or a task that brings its own solver.
    """
    out = Path(out)
    if config.own_points or len(config.lambdas) < 2:
        what = "points off the dial" if config.own_points else "fewer than two λ"
        raise RunError(f"an adaptive sweep with {what}", remedy="sweep those without --adaptive, into the same run")
    planned = Plan(config)
    if foreign := next((name for name, bench in planned.benchmarks.items() if bench.foreign), None):
        raise RunError(
            f"task {foreign} asks in its own way, so it cannot be probed", remedy="sweep it without --adaptive"
        )
    with pool_of(planned, tell) as pool:
        pair = LivePair(config, out, planned, pool, on_progress)
        num_samples = max(bench.k for bench in planned.benchmarks.values())
        predicted = _predicted(planned, pool, tell) if predict else None
        found = explore(
            pair,
            config.lambdas,
            num_samples,
            goal,
            rounds=rounds,
            spending=spending,
            seed=config.seed,
            predicted=predicted,
            tell=tell,
        )
    write_atomic(out / REPORT, json.dumps(to_json(found), indent=1, ensure_ascii=False) + "\n")
    return found


def _predicted(planned: Plan, pool: Pool, tell: Callable[[str], None]) -> Curve | None:
    """Where thinking will set in by forward passes alone, all tasks together; None where that cannot be said."""
    if not planned.config.kind.chances or planned.form.prompt_opens_thinking:
        return None
    num = -(-NUM_PROMPTS // len(planned.benchmarks))
    prompts = [prompt._replace(task="") for prompt in prompts_of(planned, num)]
    asked = ForwardPasses(planned, pool, prompts, planned.form.markers.open)
    try:
        asked.bisect()
    except EngineError as error:
        tell(f"not predicted: {error.what}")
        return None
    curve = asked.curve("", planned.config.seed)
    if curve.mid is None:
        tell(f"not predicted: {'; '.join(curve.notes)}")
        return None
    num_passes = len(asked.known) * len(prompts)
    tell(f"half of the responses are predicted to think at λ={curve.mid.value:.3f} ({num_passes} forward passes)")
    return curve


def to_json(found: Found) -> dict[str, Any]:
    """What was asked and spent, without the samples, as plain data."""
    probes = {lam: [s for s in found.probes if s.lam == lam] for lam in dict.fromkeys(s.lam for s in found.probes)}
    content = {
        "probes": [
            {"lam": lam, "responses": len(seen), "closed": sum(s.closed for s in seen), "tokens": sum(s.num_tokens for s in seen)}
            for lam, seen in probes.items()
        ],
        "bracket": found.bracket,
        "predicted": found.predicted and {"mid": found.predicted.mid, "questions": found.predicted.num_questions},
        "rounds": [asdict(one) | {"added": [*one.added.items()]} for one in found.rounds],
        "stopped": found.stopped,
        "tokens": found.num_tokens,
        "responses": found.num_responses,
        "grid_tokens": round(found.grid_tokens),
        "grid_responses": found.grid_responses,
    }  # fmt: skip
    plain_content: dict[str, Any] = plain(content)
    return plain_content


class LivePair:
    """An `Oracle` whose answers come from engines and lie in a run folder."""

    def __init__(self, config: SweepConfig, out: Path, planned: Plan, pool: Pool, on_progress: OnProgress) -> None:
        """Wrap open engines; `planned` is the plan of `config`."""
        self._config, self._out, self._plan, self._pool = config, out, planned, pool
        self._on_progress = on_progress
        self._k = {name: bench.k for name, bench in planned.benchmarks.items()}
        self._have: dict[float, int] = {}
        self.num_questions = sum(len(bench.problems) for bench in planned.benchmarks.values())

    def probe(self, lam: float, num_prompts: int) -> list[Sample]:
        """First responses to the first questions of each task, from disk where they are there."""
        planned = self._plan
        point = planned.dial_point(lam)
        each = -(-num_prompts // len(planned.benchmarks))
        known = [s for s in read(self._out) if s.lam == lam and s.number == 1] if (self._out / NAME).exists() else []
        found = []
        with exclusive(self._out):
            for bench in planned.benchmarks.values():
                asked = [problem.id for problem in bench.problems[:each]]
                mine = [s for s in known if s.task == bench.name and s.problem_id in asked]
                found += (
                    mine
                    if len(mine) == len(asked)
                    else self._ask(point, replace(bench, problems=bench.problems[:each], k=1))
                )
        return found

    def measure(self, wanted: Mapping[float, int]) -> list[Sample]:
        """Sweep what is missing, then read as much of the run as was asked for so far: a second time is as the first."""
        missing = sorted((k, lam) for lam, k in wanted.items() if k > self._have.get(lam, 0))
        for k, group in groupby(missing, key=lambda pair: pair[0]):
            summary = sweep.run(self._at([lam for _, lam in group], k), self._out, self._on_progress, pool=self._pool)
            if summary.failed:
                first = summary.failed[0]
                raise RunError(
                    f"{first.task} failed at {first.point}: {first.parts[0].error}", self._out, "run it again to go on"
                )
        self._have |= wanted
        return [s for s in read(self._out, texts=False) if s.lam is not None and s.number <= self._have.get(s.lam, 0)]

    def _at(self, lams: list[float], k: int) -> SweepConfig:
        """The sweep at these λ with at most k samples per question."""
        tasks = [
            task.model_copy(update={"samples": min(k, own)})
            for task, own in zip(self._config.tasks, self._k.values(), strict=True)
        ]
        return self._config.model_copy(update={"lambdas": tuple(lams), "tasks": tuple(tasks)})

    def _ask(self, point: Point, bench: Benchmark) -> list[Sample]:
        """Ask the engines themselves; answers go where a sweep of all problems will look for them."""
        whole = self._plan.benchmarks[bench.name]
        entry = self._plan.entry(whole, point, self._pool.versions())
        path = journal_path(entry.within(self._out), Part(first_sample=1, num_samples=1))
        return [
            Sample(
                task=bench.name,
                point=point.name,
                lam=point.lam,
                problem_id=problem.id,
                number=number,
                question=problem.question,
                target=problem.answer,
                response=answer.text,
                num_tokens=answer.num_tokens,
                finish=answer.finish,
                outcome=seen.outcome,
                closed=seen.closed,
                answer=None,
                grades={},
            )
            for problem, number, answer, seen in ask(self._plan, self._pool, point, bench, path)
        ]
