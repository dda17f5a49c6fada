"""Questions straight to an engine, without Inspect: for probes and trials, whose responses are read at once.

A response is the same as in a sweep: same prompt, same settings, same seed.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import NamedTuple

from interpole.chat import ParsedResponse
from interpole.engines.pool import Pool
from interpole.files import make_folder
from interpole.formats import seed_of
from interpole.records import Generation, Problem
from interpole.runs.journal import Journal, num_answers
from interpole.sweep.plan import Plan, Point
from interpole.tasks import Benchmark

__all__ = ["Answered", "ask"]


class Answered(NamedTuple):
    """A response to a question, and what became of it."""

    problem: Problem
    number: int  # 1..k
    answer: Generation
    parsed: ParsedResponse


def ask(planned: Plan, pool: Pool, point: Point, benchmark: Benchmark, journal: Path) -> list[Answered]:
    """Every problem of a benchmark, k times, at a point.

    Args:
        planned: how prompts are rendered and responses read.
        pool: the engines.
        point: the weights, and the way of asking.
        benchmark: problems and k.
        journal: where answers are kept; those it has are not asked for.

    Raises:
        InterpoleError: there is no answer.
    """
    make_folder(journal.parent)
    sampler = planned.sampler(benchmark, point)
    wrap = partial(planned.answer, point)

    async def one(kept: Journal, problem: Problem, prompt: str, number: int) -> Answered:
        answer = await kept.answer(prompt, sampler, seed_of(sampler.seed, problem.id, number))
        return Answered(problem, number, answer, planned.form_at(point).parse(answer.text, answer.finish))

    async def all_of_them() -> list[Answered]:
        prompts = [(problem, planned.ask(point, benchmark, problem)) for problem in benchmark.problems]
        numbers = range(1, benchmark.k + 1)
        num = max(0, len(prompts) * benchmark.k - num_answers(journal))
        with pool.visit(point.where, point.fingerprint, label=point.name, num_expected=num, wrap=wrap) as visit:
            kept = Journal(journal, visit.answer, lambda *_: None)
            return await asyncio.gather(
                *(one(kept, problem, prompt, n) for problem, prompt in prompts for n in numbers)
            )

    return asyncio.run(all_of_them())
