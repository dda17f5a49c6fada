"""Grade a run's responses again, from their texts, with the graders of today: generate once, score many.

Logs are never altered. Where a response is read or graded otherwise than its log says, the difference is kept beside the log, and
`interpole.runs.samples` reads it from there.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from interpole import tasks
from interpole.chat import ThinkFormat
from interpole.errors import RunError, TaskError
from interpole.files import StrPath, write_atomic
from interpole.records import Problem
from interpole.runs import samples
from interpole.runs.runfile import RunFile, exclusive
from interpole.schema import Foreign, validated
from interpole.tasks import Benchmark
from interpole.tasks.benchmark import problem_of, score_metadata

__all__ = ["Regraded", "code_of", "regrade"]


@dataclass(frozen=True, slots=True)
class Regraded:
    """What grading again came to."""

    num_samples: int
    changed: Mapping[tuple[str, str], int]  # (task, grading) → responses whose score is another now
    left_out: tuple[str, ...]  # tasks with scorers of their own, which need Inspect and a live task


class _Spec(Foreign):
    """How a task was loaded, as far as grading needs it."""

    task: str = ""
    grader: str | None = None
    prompt: str | None = None


class _Asked(Foreign):
    """What our own tasks log of a problem."""

    question: str
    choices: list[str]
    difficulty: str
    extra: dict[str, Any]


def code_of(run: StrPath) -> tuple[str, ...]:
    """What grading a run again would run of what its run.json names (`tasks.code_of`).

    Raises:
        RunError: no run.
    """
    specs = {task: spec for task, spec in _specs(RunFile.load(run)).items() if _is_ours(spec.task)}
    named = {task: tasks.code_of(spec.task, spec.grader) for task, spec in specs.items()}
    return tuple(f"task {task}: {code}" for task, code in named.items() if code)


def regrade(run: StrPath, *, trust: bool = False) -> Regraded:
    """Read and grade every finished response of a run again.

    Args:
        run: the run folder; neither a model nor the tasks' data files are needed. No code in it is ever run.
        trust: also run the `python:` graders that its run.json names (`code_of`): whoever wrote that file chose them.

    Raises:
        TaskError: there are such graders, and no trust.
        RunError: no run, another process is writing to it, or a log cannot be read.
        TaskError: a grader cannot be had, e.g. its package is not installed.
        OutputError: the grades cannot be written.
    """
    run = Path(run)
    file = RunFile.load(run)
    specs = _specs(file)
    left_out = tuple(task for task, spec in specs.items() if not _is_ours(spec.task))
    if not trust and (code := code_of(run)):
        raise TaskError(
            f"grading anew would run what the run folder names: {'; '.join(code)}", run,
            "if you trust it: score RUN --regrade --trust",
        )  # fmt: skip
    benchmarks: dict[str, Benchmark] = {}
    changed: Counter[tuple[str, str]] = Counter()
    num_samples = 0
    with exclusive(run), _not_importable(run):
        for entry in file.current:
            for log in [entry.within(run, part.log) for part in entry.parts if part.log and entry.task not in left_out]:
                if entry.task not in benchmarks:
                    benchmarks[entry.task] = _benchmark(specs[entry.task], log)
                num, changes = _regrade(log, benchmarks[entry.task], file.format_of(entry))
                num_samples += num
                changed.update((entry.task, grading) for grading in changes)
    return Regraded(num_samples, dict(changed), left_out)


def _is_ours(spec: str) -> bool:
    return spec in tasks.BENCHMARKS or spec.endswith(".jsonl")


def _specs(file: RunFile) -> dict[str, _Spec]:
    remedy = "was it written by another version?"
    return {task: validated(_Spec, info.spec, f"task {task}", RunError, remedy) for task, info in file.tasks.items()}


@contextmanager
def _not_importable(run: Path) -> Iterator[None]:
    """Refuse to import what lies in the run folder, wherever Python looks for modules."""

    class Refusing:
        @staticmethod
        def find_spec(name: str, path: Sequence[str] | None = None, _target: object = None) -> None:
            spec = PathFinder.find_spec(name, path)
            if spec and spec.origin and Path(spec.origin).resolve().is_relative_to(run.resolve()):
                raise ImportError(f"{spec.origin} lies in the run folder, of which nothing is run")

    sys.meta_path.insert(0, Refusing)
    try:
        yield
    finally:
        sys.meta_path.remove(Refusing)


def _benchmark(spec: _Spec, log: Path) -> Benchmark:
    """The task with the problems as they were asked."""
    problems = {one.id: _problem(one, log) for one in samples.logged(log)}
    known = tuple(problems.values())
    return tasks.load(spec.task, problems=known, grader=spec.grader, prompt=spec.prompt)


def _problem(one: samples.Logged, log: Path) -> Problem:
    asked = validated(_Asked, one.metadata or {}, f"{log}, {one.id}", RunError, "run the sweep again")
    return problem_of(str(one.id), one.answer_key, asked.model_dump())


def _regrade(log: Path, benchmark: Benchmark, form: ThinkFormat) -> tuple[int, list[str]]:
    """Grade one log's responses; returns how many, and the grading of every score that changed."""
    before, differences, changes, num = samples.regraded(log), [], [], 0
    for one in samples.logged(log):
        if one.error or not one.score_metadata:
            continue  # the engine failed: there is nothing to grade
        num += 1
        where = f"{log}, {one.id} in epoch {one.epoch}"
        key = (str(one.id), one.epoch)
        was = validated(
            samples.ScoreMetadata, {**one.score_metadata, **before.get(key, {})}, where, RunError, "run the sweep again"
        )
        seen = form.parse(samples.response_of(one, where), was.finish)
        now = score_metadata(seen, benchmark.grade(_problem(one, log), seen))
        changes += [name for name, score in now["grades"].items() if was.grades.get(name) != score]
        if any(one.score_metadata.get(name) != value for name, value in now.items()):
            differences.append([*key, now])
    _write(samples.regraded_path(log), differences)
    return num, changes


def _write(path: Path, differences: list[Any]) -> None:
    """Write the file whole or not at all; without differences there is none."""
    if differences:
        write_atomic(path, json.dumps(differences, ensure_ascii=False))
    else:
        path.unlink(missing_ok=True)
