"""A benchmark as an Inspect task: dataset, a solver that seeds each sample, a scorer that keeps all a `Sample` needs.

Inspect generates, retries and logs; graders and the reading of responses are ours. Nothing here knows about λ or weights.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, Self

import anyio
from inspect_ai import Task, task_with
from inspect_ai.dataset import MemoryDataset
from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.model import ChatMessage, ContentReasoning, ContentText, GenerateConfig, ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr, value_to_float
from inspect_ai.solver import Generate, Solver, TaskState, solver

from interpole.chat import Markers, ParsedResponse, ThinkFormat
from interpole.errors import TaskError
from interpole.formats import seed_of
from interpole.records import Problem
from interpole.tasks.benchmark import Benchmark, Grade, final_text, problem_of, score_metadata
from interpole.tasks.inspect_internals import PlainTask, scorer_name

__all__ = ["SCORE", "problem_of", "response_text", "to_inspect"]

SCORE = "grade"  # the name of our score in Inspect's logs
_FINISH = {"stop": "stop", "max_tokens": "length", "model_length": "length", "content_filter": "stop"}

Respond = Callable[[list[ChatMessage], GenerateConfig], Awaitable[ModelOutput]]
"""Answers messages with these settings."""
Scorers = Callable[[TaskState, Target, ParsedResponse], Awaitable[dict[str, Grade]]]


def to_inspect(
    benchmark: Benchmark,
    form: ThinkFormat,
    *,
    first_sample: int = 1,
    respond: Respond | None = None,
) -> Task:
    """Make the Inspect task of a benchmark.

    Args:
        benchmark: what to ask; its `sampler` and `k` become the task's defaults (config and epochs).
        form: how responses are read apart.
        first_sample: number of the first sample of each question; larger when a run is topped up.
        respond: how messages are answered, in the place of Inspect's own `generate`; the task is then a `PlainTask`. Tasks of
            others ask in their own way.

    Each sample's `Score.metadata` holds: epoch, num_tokens, finish, budget_forced, chosen_lam, outcome, closed, pseudo_close,
    near_close, answer, answers and grades (by grading), difficulty, private.
    """

    def read(output: ModelOutput) -> ParsedResponse:
        return form.parse(response_text(output, form.markers), _finish_of(output))

    if benchmark.foreign is not None:
        theirs = benchmark.foreign()
        scorers = _foreign_scorers(theirs.scorer or (), benchmark.name)
        return task_with(
            theirs,
            scorer=_scorer(scorers, read, first_sample, benchmark.private),
            epochs=benchmark.k,
            name=benchmark.name,
        )
    return (Task if respond is None else PlainTask)(
        dataset=MemoryDataset([_to_sample(benchmark, problem) for problem in benchmark.problems], name=benchmark.name),
        solver=_ask(benchmark.sampler.seed, first_sample, respond, _config(benchmark)),
        scorer=_scorer(_own_scorers(benchmark), read, first_sample, benchmark.private),
        config=_config(benchmark),
        epochs=benchmark.k,
        name=benchmark.name,
    )


def response_text(output: ModelOutput, markers: Markers) -> str:
    """Text of a response with its thinking, rejoined where a provider has split it off."""
    content = output.message.content if output.choices else ""
    if isinstance(content, str):
        return content
    thinking = "".join(part.reasoning for part in content if isinstance(part, ContentReasoning))
    text = "".join(part.text for part in content if isinstance(part, ContentText))
    return markers.rejoin(thinking, text)


def _finish_of(output: ModelOutput) -> str:
    """Finish reason in our words: "stop", "length" or "error"."""
    return "error" if output.error or not output.choices else _FINISH.get(output.stop_reason, "stop")


def _config(benchmark: Benchmark) -> GenerateConfig:
    sampler = benchmark.sampler
    return GenerateConfig(
        temperature=sampler.temperature,
        top_p=sampler.top_p,
        top_k=sampler.top_k or None,
        max_tokens=sampler.max_tokens,
    )


class _Sample(InspectSample):
    """A sample that Inspect may copy as often as it likes: its parts are never changed."""

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Its own fields and metadata; what is in them is shared."""
        return self.model_copy(update={"metadata": dict(self.metadata or {})})


def _to_sample(benchmark: Benchmark, problem: Problem) -> InspectSample:
    return _Sample(
        id=problem.id,
        input=benchmark.prompt(problem),
        target=problem.answer,
        metadata={
            "question": problem.question,
            "choices": list(problem.choices),
            "difficulty": problem.difficulty,
            "extra": dict(problem.metadata),
        },
    )


def _ask(run_seed: int, first_sample: int, respond: Respond | None, config: GenerateConfig) -> Solver:
    @solver(name="ask")
    def ask() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            seed = seed_of(run_seed, str(state.sample_id), first_sample + state.epoch - 1)
            if respond is None:
                return await generate(state, tool_calls="none", seed=seed)
            state.output = await respond(state.messages, config.model_copy(update={"seed": seed}))
            state.messages.append(state.output.message)
            return state

        return solve

    return ask()


def _own_scorers(benchmark: Benchmark) -> Scorers:
    problems = {problem.id: problem for problem in benchmark.problems}

    async def grade(state: TaskState, target: Target, parsed: ParsedResponse) -> dict[str, Grade]:  # noqa: ARG001
        return await anyio.to_thread.run_sync(
            benchmark.grade,
            problems[str(state.sample_id)],
            parsed,
            abandon_on_cancel=True,  # it may hang
        )

    return grade


def _foreign_scorers(scorers: Sequence[Scorer], name: str) -> Scorers:
    """Each of the task's own scorers gives a grade of its name; its value becomes a number as Inspect's `mean()` reads it.

    The scorers are shown the final text alone, for Inspect's providers keep thinking out of the completion.
    """
    if not scorers:
        raise TaskError("the Inspect task has no scorer", where=name, remedy="give it one, or use a jsonl of your own")
    to_float = value_to_float()

    async def grade(state: TaskState, target: Target, parsed: ParsedResponse) -> dict[str, Grade]:
        grades: dict[str, Grade] = {}
        for one in scorers:
            score = await one(_without_thinking(state, parsed), target)
            if score is None:
                continue
            values = score.value if isinstance(score.value, dict) else {scorer_name(one): score.value}
            grades |= {str(key): Grade(_in_range(to_float(value), name), score.answer) for key, value in values.items()}
        return grades

    return grade


def _without_thinking(state: TaskState, parsed: ParsedResponse) -> TaskState:
    """Copy a state, with the final text in place of the whole response."""
    answered = copy(state)
    answered.output = ModelOutput.from_content(state.output.model, final_text(parsed), state.output.stop_reason)
    answered.messages = [*state.messages[:-1], answered.output.message] if state.messages else []
    return answered


def _in_range(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise TaskError(
            f"its scorer gave {value}; shares and intervals need scores between 0 and 1",
            where=name,
            remedy="use a scorer of that kind, or scale the score",
        )
    return value


def _scorer(
    scorers: Scorers, read: Callable[[ModelOutput], ParsedResponse], first_sample: int, private: bool
) -> Scorer:
    @scorer(metrics=[mean(), stderr()], name=SCORE)
    def grade() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            seen = read(state.output)
            grades = await scorers(state, target, seen)
            first = next(iter(grades.values()), Grade(0.0, None))
            return Score(
                value=first.score,
                answer=first.answer,
                explanation=", ".join(
                    [seen.outcome.value, *(f"{name}: {one.score:g}" for name, one in grades.items())]
                ),
                metadata={
                    "epoch": first_sample + state.epoch - 1,
                    "num_tokens": state.output.usage.output_tokens if state.output.usage else 0,
                    "finish": _finish_of(state.output),
                    "budget_forced": bool((state.output.metadata or {}).get("budget_forced")),
                    "chosen_lam": (state.output.metadata or {}).get("chosen_lam"),
                    **score_metadata(seen, grades),
                    "difficulty": state.metadata.get("difficulty", ""),
                    "private": private,
                },
            )

        return score

    return grade()
