"""Benchmarks: `load("arithmetic")`, one of the paper's, a jsonl of your own, or any Inspect task.

Grading needs neither a model nor Inspect; `interpole.tasks.inspect.to_inspect` makes a benchmark an Inspect task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from interpole.errors import TaskError
from interpole.files import StrPath
from interpole.records import Problem
from interpole.tasks import aime25, arithmetic, custom, gpqa_diamond, grading, ifeval
from interpole.tasks.benchmark import Benchmark, Grade, Grader, TaskRequest, as_the_paper_reads, final_text
from interpole.tasks.profiles import PROFILES, Profile, profile

__all__ = [
    "BENCHMARKS",
    "PROFILES",
    "Benchmark",
    "Grade",
    "Grader",
    "Profile",
    "TaskRequest",
    "as_the_paper_reads",
    "code_of",
    "final_text",
    "load",
    "profile",
]

BENCHMARKS: Mapping[str, Callable[[TaskRequest], Benchmark]] = {
    "arithmetic": arithmetic.load,
    "aime25": aime25.load,
    "ifeval": ifeval.load,
    "gpqa_diamond": gpqa_diamond.load,
}


def code_of(spec: str, grader: str | None = None) -> str:
    """What `load` would run of code that spec and grader name, and the file it is in; empty: nothing. Nothing is run to tell.

    A task of an installed package, `package/name`, is named to Inspect, which runs nothing else by that name.
    """
    if grader and grader.startswith("python:"):
        return f"{grader} ({grading.located(grader.removeprefix('python:'), [Path(spec).parent, Path.cwd()])})"
    file = Path(spec.partition("@")[0]).absolute()
    in_file = spec.endswith(".py") or ".py@" in spec or ("/" in spec and _is_there(file))
    return f"{spec} ({file})" if in_file and not spec.endswith(".jsonl") else ""


def _is_there(path: Path) -> bool:
    """Whether something is called so, or may be: of names that no file system takes, nothing is."""
    try:
        return path.exists() or any(sign in path.name for sign in "*?[")
    except (OSError, ValueError):
        return False


def load(
    spec: str,
    *,
    data: StrPath | None = None,
    limit: int | None = None,
    seed: int = 0,
    split: str | None = None,
    problems: Sequence[Problem] | None = None,
    grader: str | None = None,
    prompt: str | None = None,
) -> Benchmark:
    """Load a benchmark.

    Args:
        spec: a name from `BENCHMARKS`, a `.jsonl` file, or an Inspect task (`package/name`, `file.py@name`).
        data: a local file with the problems.
        limit: only the first so many problems.
        seed: draws the problems, where they are drawn.
        split: part of the data, where it has parts.
        problems: problems at hand (from a run's logs, to grade again): no data is read.
        grader: how to grade a jsonl: math, choice, exact, regex or python:module.function.
        prompt: the user message, with `{question}` in it.

    Raises:
        TaskError: unknown name, unusable data, or an option the task has no use for.
    """
    known = None if problems is None else tuple(problems)
    request = TaskRequest(
        data=None if data is None else Path(data),
        limit=limit,
        seed=seed,
        split=split,
        problems=known,
        grader=grader,
        prompt=prompt,
    )
    if spec in BENCHMARKS:
        return BENCHMARKS[spec](request)
    if spec.endswith(".jsonl"):
        return custom.from_jsonl(Path(spec), request)
    if "/" in spec or spec.endswith(".py") or ".py@" in spec:
        return custom.from_inspect(spec, request)
    raise TaskError(
        f"no task {spec!r}",
        remedy=f"tasks are: {', '.join(BENCHMARKS)}; a file.jsonl of your own; an Inspect task, package/name",
    )
