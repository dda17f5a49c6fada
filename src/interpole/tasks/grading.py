r"""Graders that benchmarks share: mathematics, multiple choice, exact, regular expression, a function of the user's.

Each comes in a `robust` reading; mathematics and choice also in the paper's. A grader whose process died or took too
long over an answer gives it score 0 and no answer: a response that breaks a grader is not a right one.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from interpole.chat import Trace
from interpole.errors import TaskError
from interpole.records import Problem
from interpole.tasks.benchmark import Grade, Grader, as_the_paper_reads, final_text
from interpole.tasks.guarded import Guarded
from interpole.tasks.reading import read_choice, read_short

__all__ = [
    "choice_paper",
    "choice_robust",
    "exact",
    "from_function",
    "located",
    "math_paper",
    "math_robust",
    "regex",
]

_MATH = Guarded("interpole.tasks.math_worker", limit_seconds=10.0)  # OpenCompass' own limit
_PAPER_CHOICE = re.compile(r"(?i)ANSWER\s*:\s*([A-D])")


def math_paper(problem: Problem, trace: Trace) -> Grade:
    """Grade as OpenCompass' MATHVerifyEvaluator: boxes in what follows `</think>`, or in the whole response."""
    return _math(problem, as_the_paper_reads(trace), "paper")


def math_robust(problem: Problem, trace: Trace) -> Grade:
    """Grade the last box (or announced answer) in the final text by mathematical equality."""
    return _math(problem, final_text(trace), "robust")


def _math(problem: Problem, text: str, reader: str) -> Grade:
    if not text.strip():
        return Grade(0.0, None)
    reply = _MATH.ask(gold=problem.answer, text=text, reader=reader) or {}
    return Grade(reply.get("score", 0.0), reply.get("answer"))


def choice_paper(problem: Problem, trace: Trace) -> Grade:
    r"""Grade as OpenCompass' GPQA config 5aeece: the first `(?i)ANSWER\s*:\s*([A-D])`, compared by case.

    Its faults are kept: "Answer: **B**" is not seen, and "answer: a long …" reads as the wrong answer "a".
    """
    match = _PAPER_CHOICE.search(as_the_paper_reads(trace))
    answer = match[1] if match else None
    return Grade(float(answer == problem.answer), answer)


def choice_robust(problem: Problem, trace: Trace) -> Grade:
    """Grade the last stated letter in the final text (`reading.read_choice`)."""
    answer = read_choice(final_text(trace), len(problem.choices))
    return Grade(float(answer == problem.answer), answer)


def exact(problem: Problem, trace: Trace) -> Grade:
    """Compare the short answer of the final text with the reference, regardless of case and spacing."""
    answer = read_short(final_text(trace))
    return Grade(float(answer is not None and _plain(answer) == _plain(problem.answer)), answer)


def regex(problem: Problem, trace: Trace) -> Grade:
    """Search the final text for the reference, a regular expression; its first group, if any, is the answer."""
    match = re.search(problem.answer, final_text(trace))
    answer = (match[1] if match.re.groups else match[0]) if match else None
    return Grade(float(match is not None), answer)


def located(path: str, folders: Iterable[Path]) -> str:
    """The file that `from_function` would run for `module.function`; nothing is run to find it."""
    module = path.rpartition(".")[0].replace(".", "/") or path
    for folder in [*map(Path, folders), *map(Path, sys.path)]:
        for file in (folder / module / "__init__.py", folder / f"{module}.py"):
            if file.is_file():
                return str(file.absolute())
    return "a module of Python's own"


def from_function(path: str, folders: Iterable[Path]) -> Grader:
    """Make a grader of `module.function`: `function(response, answer)` gives a bool or a score in [0, 1].

    `response` is the final text without thinking, `answer` the reference. The module is looked for beside the data
    and in the working directory, then among the installed packages.

    Raises:
        TaskError: no such module or function; later, a result that is not a score.
    """
    module_name, _, name = path.rpartition(".")
    places = [str(folder) for folder in folders]
    sys.path[:0] = places
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TaskError(
            f"no grader python:{path}: {error}",
            where=", ".join(places),
            remedy="name it python:module.function, with module.py beside the data file",
        ) from error
    finally:
        del sys.path[: len(places)]

    def grade(problem: Problem, trace: Trace) -> Grade:
        text = final_text(trace)
        score = function(text, problem.answer)
        if not isinstance(score, bool | int | float) or math.isnan(score) or not 0 <= score <= 1:
            raise TaskError(
                f"the grader gave {score!r} for problem {problem.id!r}",
                where=f"python:{path}",
                remedy="return a bool, or a number between 0 and 1",
            )
        return Grade(float(score), read_short(text))

    return grade


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
