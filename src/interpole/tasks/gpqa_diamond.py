"""GPQA-Diamond: 198 multiple-choice questions by graduate scientists.

Its authors ask that the questions not be published: Interpole ships none of them, and reports leave them out. Prompt,
rotation of the options and `paper` grading are those of OpenCompass' simple-evals config 5aeece.
"""

from __future__ import annotations

import csv
from io import TextIOWrapper
from pathlib import Path

from interpole.errors import TaskError
from interpole.files import open_named
from interpole.records import Problem, Sampler
from interpole.tasks.benchmark import Benchmark, TaskRequest
from interpole.tasks.data import distinct, fetch
from interpole.tasks.grading import choice_paper, choice_robust

__all__ = ["SAMPLER", "load", "prompt"]

SAMPLER = Sampler(temperature=0.6, top_p=0.95, top_k=20, max_tokens=65_536)
_COLUMNS = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_ROTATIONS = ("ABCD", "BCDA", "CDAB", "DABC")
_REMEDY = (
    "accept the terms at huggingface.co/datasets/Idavidrein/gpqa and log in with `hf auth login`, "
    "or give a csv of your own: --data gpqa_diamond.csv"
)


def load(request: TaskRequest) -> Benchmark:
    """Make the benchmark from the hub (with the user's token), or from a csv with the hub's columns."""
    request.refuse("gpqa_diamond", "split", "grader", "prompt")
    problems = request.problems
    if problems is None:
        problems = _read(request.data or fetch("Idavidrein/gpqa", "gpqa_diamond.csv", _REMEDY))
    return Benchmark(
        "gpqa_diamond",
        problems[: request.limit],
        prompt,
        {"paper": choice_paper, "robust": choice_robust},
        k=8,
        sampler=SAMPLER,
        private=True,
    )


def prompt(problem: Problem) -> str:
    """Ask as simple-evals does, naming the letters that there are."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(problem.choices)]
    options = "\n".join(f"{letter}) {choice}" for letter, choice in zip(letters, problem.choices, strict=True))
    return (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        f"format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of {letters}. Think step by step before "
        f"answering.\n\n{problem.question}\n\n{options}"
    )


def _read(path: Path) -> tuple[Problem, ...]:
    try:
        with open_named(path) as file, TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"cannot read the questions: {error}", where=path, remedy=_REMEDY) from error
    return distinct((f"{path}, question {number}", _problem(row, number, path)) for number, row in enumerate(rows, 1))


def _problem(row: dict[str, str | None], number: int, path: Path) -> Problem:
    """Rotate the options by the row's number, from 1: the right one stands fourth, third, second, then first."""
    if missing := [name for name in _COLUMNS if not row.get(name)]:
        raise TaskError(f"question {number} has no {', '.join(missing)}", where=path, remedy=_REMEDY)
    question, *options = (row[name] or "" for name in _COLUMNS)
    choices = tuple(options["ABCD".index(letter)] for letter in _ROTATIONS[number % 4])
    answer = "ABCD"[choices.index(options[0])]
    return Problem(row.get("Record ID") or str(number), question, answer, choices)
