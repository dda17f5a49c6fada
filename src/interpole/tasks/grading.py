r"""Graders that benchmarks share: mathematics, multiple choice, exact, regular expression, a function of the user's.

Each comes in a `robust` reading; mathematics and choice also in the paper's. A grader whose process died or took too
long over an answer gives it score 0 and no answer: a response that breaks a grader is not a right one.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from interpole.chat import ParsedResponse
from interpole.errors import TaskError
from interpole.guarded import Guarded
from interpole.records import Problem
from interpole.tasks.benchmark import Grade, Grader, as_the_paper_reads, final_text
from interpole.tasks.reading import read_choice, read_short, same_text

__all__ = [
    "check_math",
    "check_pattern",
    "choice_paper",
    "choice_robust",
    "exact",
    "from_function",
    "located",
    "math_paper",
    "math_robust",
    "regex",
]

_MATH = Guarded(Path(__file__).with_name("math_worker.py"), limit_seconds=10.0)  # OpenCompass' own limit
_REGEX = Guarded(Path(__file__).with_name("regex_worker.py"), limit_seconds=2.0)
_ESCAPES = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v"}  # what JSON makes of \beta, \frac, \neq …
_PAPER_CHOICE = re.compile(r"(?i)ANSWER\s*:\s*([A-D])")


def math_paper(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Grade as OpenCompass' MATHVerifyEvaluator: boxes in what follows `</think>`, or in the whole response."""
    return _math(problem, as_the_paper_reads(parsed), "paper")


def math_robust(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Grade the last box (or announced answer) in the final text by mathematical equality."""
    return _math(problem, final_text(parsed), "robust")


def _math(problem: Problem, text: str, reader: str) -> Grade:
    if not text.strip():
        return Grade(0.0, None)
    reply = _MATH.ask(gold=problem.answer, text=text, question=problem.question, reader=reader) or {}
    return Grade(reply.get("score", 0.0), reply.get("answer"))


def choice_paper(problem: Problem, parsed: ParsedResponse) -> Grade:
    r"""Grade as OpenCompass' GPQA config 5aeece: the first `(?i)ANSWER\s*:\s*([A-D])`, compared by case.

    Its faults are kept: "Answer: **B**" is not seen, and "answer: a long …" reads as the wrong answer "a".
    """
    match = _PAPER_CHOICE.search(as_the_paper_reads(parsed))
    answer = match[1] if match else None
    return Grade(float(answer == problem.answer), answer)


def choice_robust(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Grade the last stated letter in the final text (`reading.read_choice`)."""
    answer = read_choice(final_text(parsed), len(problem.choices), problem.choices)
    return Grade(float(answer == problem.answer), answer)


def exact(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Compare the short answer of the final text with the reference, regardless of case and spacing."""
    text = final_text(parsed)
    return Grade(float(same_text(text, problem.answer)), read_short(text))


def regex(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Search the final text for the reference, a regular expression; its first group, if any, is the answer.

    A pattern that takes too long over a response scores 0.
    """
    reply = _REGEX.ask(pattern=problem.answer, text=final_text(parsed)) or {}
    return Grade(float(bool(reply.get("found"))), reply.get("answer"))


def check_pattern(pattern: str, place: str) -> None:
    """Refuse a reference that is no regular expression.

    Raises:
        TaskError: it does not compile, or takes too long to.
    """
    reply = _REGEX.ask(pattern=pattern, text="")
    if reply is None or "invalid" in reply:
        why = "it takes too long to compile" if reply is None else reply["invalid"]
        raise TaskError(f"answer is no regular expression: {why}", where=place, remedy="correct it")


def check_math(problem: Problem, place: str) -> None:
    r"""Refuse a reference that not even a response which boxes it would equal.

    Raises:
        TaskError: it is not read as mathematics, e.g. because JSON took the `\f` of `\frac` for a form feed.
    """
    if spoilt := next((character for character in problem.answer.rstrip() if character in _ESCAPES), None):
        raise TaskError(
            f"answer {problem.answer!r} holds the control character {spoilt!r}",
            where=place,
            remedy=rf'in JSON a backslash is written twice: "\\{_ESCAPES[spoilt]}…"',
        )
    reply = _MATH.ask(
        gold=problem.answer, text=rf"\boxed{{{problem.answer}}}", question=problem.question, reader="robust"
    )
    if not (reply or {}).get("score"):
        raise TaskError(
            f"answer {problem.answer!r} is not read as mathematics: no response could equal it",
            where=place,
            remedy="write it in LaTeX, or choose another --grader, e.g. exact",
        )


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
        TaskError: no such module or function, or not one of two arguments; later, an error in it, or a result that is no score.
    """
    function = _imported(path, list(folders))

    def grade(problem: Problem, parsed: ParsedResponse) -> Grade:
        text = final_text(parsed)
        try:
            score = function(text, problem.answer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's code may fail in any way
            raise TaskError(
                f"the grader failed for problem {problem.id!r}: {type(error).__name__}: {error}",
                where=f"python:{path}, {_last_place(error)}",
                remedy="correct the function; `interpole score RUN --regrade` grades what there is again",
            ) from error
        if not isinstance(score, bool | int | float) or not 0 <= score <= 1:
            raise TaskError(
                f"the grader gave {score!r} for problem {problem.id!r}",
                where=f"python:{path}",
                remedy="return a bool, or a number between 0 and 1",
            )
        return Grade(float(score), read_short(text))

    return grade


def _imported(path: str, folders: list[Path]) -> Callable[[str, str], object]:
    """The user's function, held against what it will be called with."""
    module_name, _, name = path.rpartition(".")
    places = [str(folder.resolve()) for folder in folders]
    remedy = "name it python:module.function, with module.py beside the data file"
    sys.path[:0] = places
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, name)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        said = error if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise TaskError(f"no grader python:{path}: {said}", where=", ".join(places), remedy=remedy) from error
    finally:
        del sys.path[: len(places)]
    beside = next(
        (file for place in places if (file := Path(place, *module_name.split(".")).with_suffix(".py")).is_file()), None
    )
    origin = getattr(module, "__file__", None)
    if beside and (origin is None or Path(origin).resolve() != beside):
        what = f"python:{path} is taken from {origin or 'Python itself'}, not from {beside}"
        raise TaskError(what, where=str(beside), remedy="give the file a name that no other module has")
    try:
        inspect.signature(function).bind("response", "answer")
    except (TypeError, ValueError) as error:
        if not callable(function) or isinstance(error, TypeError):
            raise TaskError(
                f"python:{path} cannot be called with (response, answer): {error}", places[0], remedy
            ) from None
    return function


def _last_place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
