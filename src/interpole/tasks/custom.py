"""A task of your own: one jsonl with `question` and `answer`, or any Inspect task by name or file.

A jsonl row may also have `id`, `choices` and `difficulty`; other fields are kept as metadata. The grader is math,
choice, exact, regex or python:module.function. An Inspect task keeps its own prompt, solver and scorer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from interpole.errors import TaskError
from interpole.records import Problem
from interpole.tasks import grading
from interpole.tasks.benchmark import Benchmark, Grader, Request
from interpole.tasks.data import read_jsonl
from interpole.tasks.gpqa_diamond import prompt as choice_prompt
from interpole.tasks.guarded import require

__all__ = ["GRADERS", "from_inspect", "from_jsonl"]

_MATH_PROMPT = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
GRADERS: dict[str, tuple[Grader, Callable[[Problem], str]]] = {
    "math": (grading.math_robust, lambda problem: _MATH_PROMPT.replace("{question}", problem.question)),
    "choice": (grading.choice_robust, choice_prompt),
    "exact": (grading.exact, lambda problem: problem.question),
    "regex": (grading.regex, lambda problem: problem.question),
}
_NUMBER = re.compile(r"-?\d+(?:[.,/]\d+)?")


def from_jsonl(path: Path, request: Request) -> Benchmark:
    """Make a benchmark of a jsonl; its name is the file's.

    Without a grader: choice where there are choices, math where every answer is a number, else exact.

    Raises:
        TaskError: a row that cannot be used, with its line; an unknown grader; a prompt without `{question}`.
    """
    request.refuse(str(path), "data", "split")
    if request.prompt is not None and "{question}" not in request.prompt:
        raise TaskError(f"the prompt {request.prompt!r} does not ask the question", remedy="put {question} in it")
    rows = [(place, _problem(row, place)) for place, row in read_jsonl(path)] if request.problems is None else []
    problems = tuple(problem for _, problem in rows) if request.problems is None else request.problems
    name = request.grader or _guess(problems)
    if name.startswith("python:"):
        grader, ask = (
            grading.from_function(name.removeprefix("python:"), [path.parent, Path.cwd()]),
            GRADERS["exact"][1],
        )
    elif name in GRADERS:
        grader, ask = GRADERS[name]
    else:
        raise TaskError(f"no grader {name!r}", remedy=f"graders are: {', '.join(GRADERS)}, python:module.function")
    checked = (_checked(problem, name, place) for place, problem in rows)
    problems = tuple(checked) if request.problems is None else problems
    if name == "math":
        require("math_verify", "eval")
    template = request.prompt
    if template is not None:
        ask = lambda problem: template.replace("{question}", problem.question)  # noqa: E731
    return Benchmark(path.stem, problems[: request.limit], ask, {name.partition(":")[0]: grader})


def _problem(row: dict[str, Any], place: str) -> Problem:
    fields = ", ".join(row) or "nothing"
    question, answer = row.pop("question", None), row.pop("answer", None)
    if not isinstance(question, str) or not question.strip() or not isinstance(answer, str | int | float):
        raise TaskError(
            f"a row needs a question (text) and an answer (text or number); this one has {fields}",
            where=place,
            remedy='write {"question": "6 · 7 = ?", "answer": "42"}',
        )
    choices = row.pop("choices", None) or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices) or len(choices) > 26:
        raise TaskError("choices must be a list of texts, 26 at most", where=place, remedy='"choices": ["red", "blue"]')
    name = row.pop("id", None)
    hashed = hashlib.sha256(question.encode()).hexdigest()[:12]
    difficulty = str(row.pop("difficulty", ""))
    return Problem(hashed if name is None else str(name), question, str(answer), tuple(choices), difficulty, row)


def _guess(problems: tuple[Problem, ...]) -> str:
    if problems and all(problem.choices for problem in problems):
        return "choice"
    return "math" if all(_NUMBER.fullmatch(problem.answer.strip()) for problem in problems) else "exact"


def _checked(problem: Problem, grader: str, place: str) -> Problem:
    """Hold one row against its grader: choices have a right letter, patterns compile."""
    if grader == "regex":
        try:
            re.compile(problem.answer)
        except re.error as error:
            raise TaskError(f"answer is no regular expression: {error}", where=place, remedy="correct it") from error
    if grader != "choice":
        return problem
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(problem.choices)]
    if problem.answer in problem.choices:
        return replace(problem, answer=letters[problem.choices.index(problem.answer)])
    if len(problem.answer) == 1 and problem.answer in letters:
        return problem
    raise TaskError(
        f"answer {problem.answer!r} is none of the choices {list(problem.choices)}",
        where=place,
        remedy="give the letter or the text of the right choice, or another --grader",
    )


def from_inspect(spec: str, request: Request) -> Benchmark:
    """Make a benchmark of an Inspect task: `package/name`, `file.py@name` or `file.py`.

    Its samples, solver and scorer are used as they are; our metrics and trace are computed on top.

    Raises:
        TaskError: Inspect finds no such task, or more than one.
    """
    request.refuse(spec, "data", "split", "grader", "prompt")
    require("inspect_ai", "eval")

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
