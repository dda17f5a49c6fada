"""Questions straight to an engine, without Inspect: for probes and trials, whose responses are read at once.

A response is the same as in a sweep: same prompt, same settings, same seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from interpole.chat import Trace, trace
from interpole.engines.process import EngineProcess
from interpole.files import seed_of
from interpole.records import Generation, Problem
from interpole.runs.journal import Journal
from interpole.sweep.plan import Plan, Point
from interpole.tasks import Benchmark

__all__ = ["Asked", "ask"]


class Asked(NamedTuple):
    """A response to a question, and what became of it."""

    problem: Problem
    epoch: int
    answer: Generation
    trace: Trace


def ask(planned: Plan, engine: EngineProcess, point: Point, benchmark: Benchmark, journal: Path) -> list[Asked]:
    """Every problem of a benchmark, k times, at the weights that the engine is at.

    Args:
        planned: how prompts are rendered and responses read.
        engine: at the point's weights.
        point: whose way of asking is used.
        benchmark: problems and k.
        journal: where answers are kept; those it has are not asked for.

    Raises:
        EngineError: there is no answer.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    kept = Journal(journal, planned.answer(point, engine.submit), lambda *_: None)
    sampler = planned.sampler(benchmark, point)
    pending = []
    for problem in benchmark.problems:
        prompt = planned.render([{"role": "user", "content": benchmark.prompt(problem)}], point.instruction)
        for epoch in range(1, benchmark.k + 1):
            seed = seed_of(sampler.seed, problem.id, epoch)
            pending.append((problem, epoch, kept.answer(prompt, sampler, seed)))
    found = []
    for problem, epoch, future in pending:
        answer = future.result()
        seen = trace(answer.text, answer.finish, planned.markers, opened=planned.opened, specials=planned.specials)
        found.append(Asked(problem, epoch, answer, seen))
    return found
