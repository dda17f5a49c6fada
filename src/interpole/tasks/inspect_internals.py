"""What we use of Inspect that it does not publish; all of it is here, so that a new release is checked in one place.

Inspect is pinned exactly (`pyproject.toml`), for these may change with any release. Used are the loader of tasks by name or file,
which Inspect's own commands keep to themselves, the name that a scorer is registered under, which no public function tells,
how many threads compress a sample, and the function that runs one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai._eval.loader import create_file_tasks, load_task_spec
from inspect_ai._eval.task import run as task_run
from inspect_ai._util import zipfile
from inspect_ai._util.registry import registry_unqualified_name
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalError, EvalSample
from inspect_ai.scorer import SampleScore, Scorer, Target
from inspect_ai.solver import TaskState

from interpole.files import full_disk

__all__ = ["PlainTask", "compressing_in_place", "running_plainly", "scorer_name", "tasks_of"]


class PlainTask(Task):
    """A task whose solvers and scorers need no more of Inspect than their arguments: no tools, limits, sandbox or transcript."""


def tasks_of(spec: str) -> Sequence[Task]:
    """The tasks of a file, or those that a name (`package/task`, `file.py@task`) stands for."""
    return create_file_tasks(Path(spec).absolute()) if spec.endswith(".py") else load_task_spec(spec)


def scorer_name(scorer: Scorer) -> str:
    """The name of a scorer, without its package."""
    return str(registry_unqualified_name(scorer))


@contextmanager
def compressing_in_place() -> Iterator[None]:
    """Have Inspect compress samples in the thread that writes them; what is written is the same.

    It starts twelve threads for every sample, to compress a few kilobytes: 0.9 ms in place of 0.1.
    """
    before = zipfile._ZSTD_THREADS
    zipfile._ZSTD_THREADS = 0
    try:
        yield
    finally:
        zipfile._ZSTD_THREADS = before


@contextmanager
def running_plainly() -> Iterator[None]:
    """Have Inspect run the samples of a `PlainTask` without what it does not need, which is most of the time a sample takes.

    Its log then has no events. Other tasks run as ever.
    """
    before = task_run.task_run_sample

    async def run(*, task: Task, **given: Any) -> Any:
        return await (_run_plainly(**given) if isinstance(task, PlainTask) else before(task=task, **given))

    task_run.task_run_sample = run
    try:
        yield
    finally:
        task_run.task_run_sample = before


async def _run_plainly(
    *,
    create_sample_state: Any,
    plan: Any,
    scorers: Sequence[Scorer],
    generate: Any,
    logger: Any,
    sample_error: Any,
    reporter: Any,
    semaphore: Any,
    **_others: object,
) -> dict[str, SampleScore] | None:
    """One sample: solvers, scorers, log; what they raise is logged with it."""
    async with semaphore:
        sample, state = await create_sample_state(None)
        begin, scores = datetime.now(UTC), dict[str, SampleScore]()
        error, raised = None, None
        try:
            for solve in plan.steps:
                state = await solve(state, generate)
            target = Target(sample.target)
            for score in scorers:
                found = await score(state, target)
                name = scorer_name(score)
                scores[name] = SampleScore(
                    score=found, sample_id=sample.id, sample_metadata=sample.metadata, scorer=name
                )
        except Exception as problem:
            error, raised = sample_error(problem)
            raised = raised or full_disk(problem)  # the task ends: its other answers would be lost as well
        reporter.progress()
        await logger.complete_sample(_logged(sample, state, scores, error, begin), flush=True)
    if error is None:
        await reporter.completed(state.sample_id, state.epoch, scores)
        return scores
    await reporter.errored(state.sample_id, state.epoch)
    if raised is not None:
        raise raised
    return None


def _logged(
    sample: Sample, state: TaskState, scores: Mapping[str, SampleScore], error: EvalError | None, begin: datetime
) -> EvalSample:
    """A sample as its log has it."""
    end = datetime.now(UTC)
    seconds = round((end - begin).total_seconds(), 3)
    return EvalSample(
        id=state.sample_id,
        epoch=state.epoch,
        input=sample.input,
        target=sample.target,
        metadata=state.metadata,
        messages=state.messages,
        output=state.output,
        scores={name: one.score for name, one in scores.items()},
        uuid=state.uuid,
        started_at=begin.isoformat(),
        completed_at=end.isoformat(),
        total_time=seconds,
        working_time=seconds,
        error=error,
        error_retries=[],
    )
