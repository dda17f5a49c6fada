"""A policy as a point of a sweep: what each question is asked at the λ that the policy chooses, before Inspect grades it.

Answers are asked for here, all questions of a part at once, and put into the part's journal, where Inspect's turn finds them: an
engine goes from λ to λ once, or answers all in one batch, and no sample waits for another. Each request draws from a seed of its
own, so that what is measured here is not what the points on the dial have drawn.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from interpole.analysis.policies import MARGIN, LambdaChoice, agreed, known_of
from interpole.engines.pool import Pool, Visit
from interpole.errors import EngineError, InterpoleError, OutputError, RunError
from interpole.files import make_folder
from interpole.formats import seed_of
from interpole.records import Generation, Problem, Sampler
from interpole.runs.journal import Journal
from interpole.runs.runfile import Part
from interpole.sweep.plan import Plan, Point
from interpole.tasks import Benchmark
from interpole.tasks.benchmark import score_metadata

__all__ = ["Followed", "follow"]

OnAnswer = Callable[[Generation, bool], None]
"""Takes an answer, and whether it is new."""


class Followed:
    """What a policy's questions were answered, in the place of a visit: the answers are in the journal, here is what failed.

    Attributes:
        load_error: why an engine cannot go to a λ of the policy; None: it can.
    """

    def __init__(self, errors: Mapping[tuple[str, int], InterpoleError], load_error: InterpoleError | None) -> None:
        """Keep why there is no response, by prompt and seed."""
        self._errors, self.load_error = errors, load_error

    async def answer(self, prompt: str, sampler: Sampler, seed: int) -> Generation:  # noqa: ARG002
        """Nothing that is not in the journal.

        Raises:
            InterpoleError: why it is not.
        """
        raise self._errors.get((prompt, seed)) or EngineError("the policy was not asked this")

    def close(self) -> None:
        """Nothing is open."""


class _Asked(NamedTuple):
    """One response that is wanted."""

    problem: Problem
    prompt: str
    seed: int


def follow(
    planned: Plan, pool: Pool, point: Point, benchmark: Benchmark, part: Part, path: Path, on_answer: OnAnswer
) -> Followed:
    """Answer a part of a task at a point that is a policy.

    Args:
        planned: how prompts are rendered and responses read.
        pool: the engines.
        point: the policy's.
        benchmark: the task.
        part: which of its responses.
        path: of the journal where answers are kept; those it has are not asked for.
        on_answer: told of every answer.

    Raises:
        InterpoleError: an answer cannot be written down, or the engine cannot say what the policy needs to know.
    """
    make_folder(path.parent)
    sampler, problems = planned.sampler(benchmark, point), benchmark.problems
    numbers = range(part.first_sample, part.first_sample + part.num_samples)
    asked = [
        _Asked(problem, planned.ask(point, benchmark, problem), seed_of(sampler.seed, problem.id, number))
        for problem in (problems[i] for i in part.problems(len(problems)))
        for number in numbers
    ]
    following = _Following(planned, pool, point, benchmark, {(one.prompt, one.seed): one.problem for one in asked})
    journal = Journal(path, following.answer, on_answer)
    with following.begin([one for one in asked if not journal.knows(one.prompt, sampler, one.seed)], sampler):
        found = asyncio.run(_gather(*(journal.answer(one.prompt, sampler, one.seed) for one in asked)))
        load_error = following.load_error
    errors = dict[tuple[str, int], InterpoleError]()
    for one, answer in zip(asked, found, strict=True):
        if isinstance(answer, OutputError) or (
            isinstance(answer, BaseException) and not isinstance(answer, InterpoleError)
        ):
            raise answer
        if isinstance(answer, InterpoleError):
            errors[one.prompt, one.seed] = answer
    return Followed(errors, load_error)


class _Following:
    """Engines at every λ that a policy chooses for some questions, and the answers that it makes of theirs."""

    def __init__(
        self,
        planned: Plan,
        pool: Pool,
        point: Point,
        benchmark: Benchmark,
        problems: Mapping[tuple[str, int], Problem],
    ) -> None:
        """`problems`: by prompt and seed."""
        self._planned, self._pool, self._point, self._benchmark = planned, pool, point, benchmark
        self._problems = problems
        self._choices: dict[str, LambdaChoice] = {}  # by problem
        self._first: dict[float, Visit] = {}
        self._then: dict[float, Visit] = {}

    @contextmanager
    def begin(self, todo: Sequence[_Asked], sampler: Sampler) -> Iterator[None]:
        """Choose for the questions, and be where they will be asked."""
        self._choose({one.problem.id: one for one in todo}, sampler)
        num_first = Counter(lam for one in todo for lam in self._choices[one.problem.id].first)
        with ExitStack() as stack:
            for lam in sorted(num_first):
                self._first[lam] = stack.enter_context(self._visit(lam, num_first[lam]))
            for lam in sorted({choice.then for choice in self._choices.values() if choice.then is not None}):
                self._then[lam] = stack.enter_context(self._visit(lam, None))  # how many will disagree is not known
            yield

    @property
    def load_error(self) -> InterpoleError | None:
        """Why an engine cannot go to one of the λ."""
        errors = (visit.load_error for visit in (*self._first.values(), *self._then.values()))
        return next((error for error in errors if error is not None), None)

    def _choose(self, asked: Mapping[str, _Asked], sampler: Sampler) -> None:
        policy, numbers = self._point.policy, dict[str, float]()
        if policy is None:
            raise RunError("no policy", self._point.name)
        if policy.margin_at is not None and asked:
            numbers = asyncio.run(self._margins(policy.margin_at, asked, sampler))
        for name, (problem, _, _) in asked.items():
            margin = {MARGIN: numbers[name]} if name in numbers else {}
            labels = {"difficulty": problem.difficulty, "task": self._benchmark.name}
            self._choices[name] = policy.choose(known_of(problem.question, labels, margin))

    async def _margins(self, lam: float, asked: Mapping[str, _Asked], sampler: Sampler) -> dict[str, float]:
        """Each problem's log odds that the first token opens the thinking."""
        begins = self._planned.form_at(self._point).markers.open
        stop = self._point.stops[lam]
        with self._pool.visit(stop.where, stop.fingerprint, label=stop.name, num_expected=len(asked)) as visit:
            found = await asyncio.gather(*(visit.chance(one.prompt, begins, sampler) for one in asked.values()))
        return {name: chance.margin for name, chance in zip(asked, found, strict=True)}

    def _visit(self, lam: float, num_expected: int | None) -> Visit:
        stop = self._point.stops[lam]
        return self._pool.visit(
            stop.where,
            stop.fingerprint,
            label=stop.name,
            num_expected=num_expected,
            wrap=partial(self._planned.answer, stop),
        )

    async def answer(self, prompt: str, sampler: Sampler, seed: int) -> Generation:
        """The policy's response, with all tokens that it took."""
        problem = self._problems[prompt, seed]
        first, then = self._choices[problem.id]
        answers = await asyncio.gather(
            *(self._first[lam].answer(prompt, sampler, _own(seed, i)) for i, lam in enumerate(first))
        )
        counted, lam = answers[0], first[0]
        if then is not None and not agreed([await self._extracted(problem, one) for one in answers]):
            counted, lam = await self._then[then].answer(prompt, sampler, _own(seed, len(first))), then
            answers = [*answers, counted]
        return replace(counted, num_tokens=sum(one.num_tokens for one in answers), chosen_lam=lam)

    async def _extracted(self, problem: Problem, response: Generation) -> str | None:
        """The answer that the task's own grading reads."""
        parsed = self._planned.form_at(self._point).parse(response.text, response.finish)
        grades = await asyncio.to_thread(self._benchmark.grade, problem, parsed)
        found: str | None = score_metadata(parsed, grades)["answer"]
        return found


def _own(seed: int, number: int) -> int:
    """The seed of one request of a policy: not that of a point on the dial, whose response it would repeat."""
    return seed_of(seed, "policy", number)


async def _gather(*answers: Coroutine[Any, Any, Generation]) -> list[Generation | BaseException]:
    return await asyncio.gather(*answers, return_exceptions=True)
