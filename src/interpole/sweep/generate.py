"""Questions straight to an engine, without Inspect: for probes and trials, whose responses are read at once.

A response is the same as in a sweep: same prompt, same settings, same seed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from interpole.chat import ParsedResponse
from interpole.engines.process import EngineProcess
from interpole.formats import seed_of
from interpole.records import Generation, Problem
from interpole.runs.journal import Journal
from interpole.sweep.plan import Plan, Point
from interpole.tasks import Benchmark

__all__ = ["Asked", "ask"]


class Asked(NamedTuple):
    """A response to a question, and what became of it."""

    problem: Problem
    number: int  # 1..k
    answer: Generation
    parsed: ParsedResponse


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
    kept = Journal(journal, planned.answer(point, engine.answer), lambda *_: None)
    sampler = planned.sampler(benchmark, point)

    async def one(problem: Problem, prompt: str, number: int) -> Asked:
        answer = await kept.answer(prompt, sampler, seed_of(sampler.seed, problem.id, number))
        return Asked(problem, number, answer, planned.form_at(point).parse(answer.text, answer.finish))

    async def all_of_them() -> list[Asked]:
        prompts = [
            (problem, planned.render([{"role": "user", "content": benchmark.prompt(problem)}], point))
            for problem in benchmark.problems
        ]
        numbers = range(1, benchmark.k + 1)
        return await asyncio.gather(*(one(problem, prompt, n) for problem, prompt in prompts for n in numbers))

    return asyncio.run(all_of_them())
