"""A task of your own: one jsonl with `question` and `answer`, or any Inspect task by name or file.

A jsonl row may also have `id`, `choices` and `difficulty`; other fields are kept as metadata. The grader is math, choice, exact,
regex or python:module.function; a reference that it could find equal to no response is refused. An Inspect task keeps its own
prompt, solver and scorer.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from interpole.errors import InterpoleWarning, TaskError
from interpole.packages import require
from interpole.records import Problem
from interpole.schema import Strict, validated
from interpole.tasks import grading
from interpole.tasks.benchmark import Benchmark, Grader, TaskRequest
from interpole.tasks.data import Text, TextOrNumber, distinct, kind_of, read_jsonl
from interpole.tasks.gpqa_diamond import prompt as choice_prompt

__all__ = ["GRADERS", "from_inspect", "from_jsonl"]

Placed = tuple[str, Problem]  # "file:line", and what stands there

_MATH_PROMPT = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
GRADERS: dict[str, tuple[Grader, Callable[[Problem], str]]] = {
    "math": (grading.math_robust, lambda problem: _MATH_PROMPT.replace("{question}", problem.question)),
    "choice": (grading.choice_robust, choice_prompt),
    "exact": (grading.exact, lambda problem: problem.question),
    "regex": (grading.regex, lambda problem: problem.question),
}
_NUMBER = re.compile(r"-?\d+(?:[.,/]\d+)?")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def from_jsonl(path: Path, request: TaskRequest) -> Benchmark:
    """Make a benchmark of a jsonl; its name is the file's.

    Without a grader: choice where there are choices, math where every answer is a number, else exact. Where a few rows alone
    decide that, a warning names them.

    Raises:
        TaskError: a row that cannot be used, with its line; an unknown grader; a prompt without `{question}`.
    """
    request.refuse(str(path), "data", "split")
    if request.prompt is not None and "{question}" not in request.prompt:
        raise TaskError(f"the prompt {request.prompt!r} does not ask the question", remedy="put {question} in it")
    rows = [(place, _problem(row, place)) for place, row in read_jsonl(path)] if request.problems is None else []
    problems = distinct(rows) if request.problems is None else request.problems
    name = _guess(problems) if request.grader is None else request.grader
    if request.grader is None:
        _say_what_does_not_fit(rows, name)
    if name.startswith("python:"):
        folders = [path.parent, Path.cwd()]
        grader, ask = grading.from_function(name.removeprefix("python:"), folders), GRADERS["exact"][1]
    elif name in GRADERS:
        grader, ask = GRADERS[name]
    else:
        raise TaskError(f"no grader {name!r}", remedy=f"graders are: {', '.join(GRADERS)}, python:module.function")
    if name == "math":
        require("math_verify", TaskError)
    if request.problems is None:
        problems = tuple(_checked(problem, name, place) for place, problem in rows)
    template = request.prompt
    if template is not None:

        def ask(problem: Problem) -> str:
            return template.replace("{question}", problem.question)

    return Benchmark(path.stem, problems[: request.limit], ask, {name.partition(":")[0]: grader})


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _texts(value: Any) -> Any:
    if not isinstance(value, list | None):
        raise ValueError(f"expected a list of texts, found {kind_of(value)}")
    if value and any(isinstance(choice, str) and not choice.strip() for choice in value):
        raise ValueError("one of them is blank")
    return value


class _Row(Strict):
    """One line of a jsonl; fields besides these are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    question: Text = Field(min_length=1)
    answer: TextOrNumber
    id: TextOrNumber | None = Field(None, min_length=1, max_length=200)
    choices: Annotated[tuple[Text, ...] | None, BeforeValidator(_texts)] = Field(None, max_length=26)
    difficulty: TextOrNumber | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_both(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if value.get("question") is None or value.get("answer") is None:
            raise ValueError(f"a row needs a question and an answer; this one has {', '.join(value) or 'nothing'}")
        if isinstance(value["question"], str) and not value["question"].strip():
            raise ValueError("question: it is blank")
        return value


def _problem(content: dict[str, Any], place: str) -> Problem:
    row = validated(_Row, content, place, TaskError, 'write {"question": "6 · 7 = ?", "answer": "42"}')
    hashed = hashlib.sha256(row.question.encode()).hexdigest()[:12]
    return Problem(
        hashed if row.id is None else row.id,
        row.question,
        row.answer,
        row.choices or (),
        row.difficulty or "",
        row.model_extra or {},
    )


# ── the grader, and whether the rows fit it ──────────────────────────────────────────────────────────────────────


def _guess(problems: Sequence[Problem]) -> str:
    if problems and all(problem.choices for problem in problems):
        return "choice"
    return "math" if all(_is_number(problem) for problem in problems) else "exact"


def _is_number(problem: Problem) -> bool:
    return bool(_NUMBER.fullmatch(problem.answer.strip()))


def _say_what_does_not_fit(rows: Sequence[Placed], chosen: str) -> None:
    """Warn where most rows would be graded otherwise, had a few been left out."""
    for name, lack, fits in (
        ("choice", "no choices", lambda problem: bool(problem.choices)),
        ("math", "an answer that is no number", _is_number),
    ):
        odd = [place.rpartition(":")[2] for place, problem in rows if not fits(problem)]
        if chosen != name and 0 < len(odd) <= len(rows) / 2:
            lines = f"line{'s' if len(odd) > 1 else ''} {', '.join(odd[:8])}{' …' if len(odd) > 8 else ''}"
            warnings.warn(
                f"{rows[0][0].rpartition(':')[0]} is graded by `{chosen}`, not by `{name}`: {lines} of {len(rows)} "
                f"{'have' if len(odd) > 1 else 'has'} {lack}; correct {'them' if len(odd) > 1 else 'it'}, or give --grader",
                InterpoleWarning,
                stacklevel=4,
            )
            return


def _checked(problem: Problem, grader: str, place: str) -> Problem:
    """Hold one row against its grader: some response must be able to be right."""
    if not grader.startswith("python:") and not problem.answer.strip():
        raise TaskError("answer: it is blank, and no response can equal it", where=place, remedy="give the answer")
    if grader == "regex":
        grading.check_pattern(problem.answer, place)
    if grader == "math" and not _is_number(problem):
        grading.check_math(problem, place)
    return _with_letter(problem, place) if grader == "choice" else problem


def _with_letter(problem: Problem, place: str) -> Problem:
    """The problem with its right choice as a letter, which may be given as such or as its text."""
    remedy = "give the letter or the text of the right choice, or another --grader"
    said, letters = problem.answer.strip(), _LETTERS[: len(problem.choices)]
    by_text = [letter for letter, choice in zip(letters, problem.choices, strict=True) if choice.strip() == said]
    by_letter = [said.upper()] if len(said) == 1 and said.upper() in letters else []
    if len({*by_text, *by_letter}) == 1:
        return replace(problem, answer=(by_text or by_letter)[0])
    if not by_text and not by_letter:
        raise TaskError(f"answer {problem.answer!r} is none of the choices {list(problem.choices)}", place, remedy)
    meant = " or ".join(dict.fromkeys([*by_text, *by_letter]))
    raise TaskError(f"answer {problem.answer!r} may mean {meant} of {list(problem.choices)}", place, "make it plain")


# ── Inspect tasks ────────────────────────────────────────────────────────────────────────────────────────────────


def from_inspect(spec: str, request: TaskRequest) -> Benchmark:
    """Make a benchmark of an Inspect task: `package/name`, `file.py@name` or `file.py`.

    Its samples, solver and scorer are used as they are; our metrics are computed on top.

    Raises:
        TaskError: Inspect finds no such task, or more than one.
    """
    request.refuse(spec, "data", "split", "grader", "prompt")
    require("inspect_ai", TaskError)

    def fresh() -> Any:
        task = _load_inspect(spec)
        if request.limit is not None:
            task.dataset = task.dataset[: request.limit]
        return task

    return Benchmark(
        spec.rpartition("@")[2].rpartition("/")[2].removesuffix(".py"),
        tuple(_from_sample(sample, number) for number, sample in enumerate(fresh().dataset, 1)),
        lambda problem: problem.question,
        {},
        foreign=fresh,
    )


def _load_inspect(spec: str) -> Any:
    from interpole.tasks.inspect_internals import tasks_of

    try:
        found = tasks_of(spec)
    except Exception as error:  # a task's own code may fail in any way
        raise TaskError(
            f"the Inspect task does not load: {error}", where=spec, remedy="try `inspect list tasks`"
        ) from error
    if len(found) != 1:
        raise TaskError(
            f"Inspect finds {len(found)} tasks: {', '.join(task.name for task in found) or 'none'}",
            where=spec,
            remedy="name one: package/name of an installed package, or file.py@name",
        )
    return found[0]


def _from_sample(sample: Any, number: int) -> Problem:
    question = sample.input if isinstance(sample.input, str) else "\n".join(turn.text for turn in sample.input)
    target = sample.target if isinstance(sample.target, str) else "\n".join(sample.target)
    return Problem(
        str(number if sample.id is None else sample.id), question or " ", target, tuple(sample.choices or ())
    )
