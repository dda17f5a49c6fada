"""Grade a run's responses again, from their texts, with the graders of today: generate once, score many.

Logs are never altered. Where a response is read or graded otherwise than its log says, the difference is kept beside the log, and
`interpole.runs.samples` reads it from there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interpole import tasks
from interpole.chat import Markers, trace
from interpole.files import write_atomic
from interpole.records import Problem
from interpole.runs import samples
from interpole.runs.runfile import RunFile, exclusive
from interpole.tasks import Benchmark
from interpole.tasks.benchmark import kept, problem_of

__all__ = ["Regraded", "regrade"]


@dataclass(frozen=True, slots=True)
class Regraded:
    """What grading again came to."""

    num_samples: int
    changed: Mapping[tuple[str, str], int]  # (task, grading) → responses whose score is another now
    left_out: tuple[str, ...]  # tasks with scorers of their own, which need Inspect and a live task


def regrade(run: Path) -> Regraded:
    """Read and grade every finished response of a run again.

    Args:
        run: the run folder; neither a model nor the tasks' data files are needed.

    Raises:
        RunError: no run, another process is writing to it, or a log cannot be read.
        TaskError: a grader cannot be had, e.g. its package is not installed.
        OutputError: the grades cannot be written.
    """
    file = RunFile.load(run)
    left_out = tuple(task for task, info in file.tasks.items() if not _is_ours(info.spec["task"]))
    benchmarks: dict[str, Benchmark] = {}
    changed: Counter[tuple[str, str]] = Counter()
    num_samples = 0
    with exclusive(run):
        for entry in file.current:
            for log in [
                run / entry.folder / part.log for part in entry.parts if part.log and entry.task not in left_out
            ]:
                if entry.task not in benchmarks:
                    benchmarks[entry.task] = _benchmark(file.tasks[entry.task].spec, log)
                num, changes = _regrade(log, benchmarks[entry.task], file)
                num_samples += num
                changed.update((entry.task, grading) for grading in changes)
    return Regraded(num_samples, dict(changed), left_out)


def _is_ours(spec: str) -> bool:
    return spec in tasks.BENCHMARKS or spec.endswith(".jsonl")


def _benchmark(spec: Mapping[str, Any], log: Path) -> Benchmark:
    """The task with the problems as they were asked."""
    problems = {one["id"]: _problem(one) for one in samples.logged(log)}
    return tasks.load(
        spec["task"], problems=tuple(problems.values()), grader=spec.get("grader"), prompt=spec.get("prompt")
    )


def _problem(one: Mapping[str, Any]) -> Problem:
    target = one["target"] if isinstance(one["target"], str) else "\n".join(one["target"])
    return problem_of(str(one["id"]), target, one["metadata"])


def _regrade(log: Path, benchmark: Benchmark, file: RunFile) -> tuple[int, list[str]]:
    """Grade one log's responses; returns how many, and the grading of every score that changed."""
    before, differences, changes, num = samples.regraded(log), [], [], 0
    for one in samples.logged(log):
        own = ((one.get("scores") or {}).get(samples.SCORE) or {}).get("metadata")
        if one.get("error") or not own:
            continue  # the engine failed: there is nothing to grade
        num += 1
        seen = trace(
            samples.response_of(one), own["finish"], Markers(*file.markers), opened=file.opened, specials=file.specials
        )
        now = kept(seen, benchmark.grade(_problem(one), seen))
        was = {**own, **before.get((str(one["id"]), one["epoch"]), {})}
        changes += [name for name, score in now["grades"].items() if was["grades"].get(name) != score]
        if any(own.get(key) != value for key, value in now.items()):
            differences.append([str(one["id"]), one["epoch"], now])
    _write(samples.regraded_path(log), differences)
    return num, changes


def _write(path: Path, differences: list[Any]) -> None:
    """Write the file whole or not at all; without differences there is none."""
    if differences:
        write_atomic(path, json.dumps(differences, ensure_ascii=False))
    else:
        path.unlink(missing_ok=True)
