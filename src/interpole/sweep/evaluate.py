"""Tasks under Inspect: several at a time in one evaluation, each with a model of its own, started as others end."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from inspect_ai import Task, TaskSource, task_with
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog
from inspect_ai.model import Model

from interpole.errors import OutputError, RunError
from interpole.files import full_disk_in
from interpole.garbage import rare_collection
from interpole.tasks.inspect_internals import compressing_in_place, running_plainly

__all__ = ["Assignment", "evaluate"]

KEY = "interpole"
"""Under which our own words stand in a log's metadata."""


class Assignment(NamedTuple):
    """One log that is to be made."""

    key: str  # no other has it
    task: Callable[[], tuple[Task, Model]]  # made when its turn comes
    metadata: dict[str, Any]  # of ours


OnDone = Callable[[Assignment, Path | None, str], None]
"""Takes what was made: the log, which the next moment may be gone, or what went wrong in the place of one."""


def evaluate(
    assignments: Iterable[Assignment], folder: Path, on_done: OnDone, *, num_open: int, concurrency: int
) -> None:
    """Make logs, in order as far as several at a time can be.

    What one task does wrong costs that task. Where Inspect itself gives up, each that was open is tried alone.

    Args:
        assignments: what is to be made.
        folder: where Inspect may write meanwhile; emptied.
        on_done: told of each as it ends.
        num_open: how many at a time.
        concurrency: how many samples of each.

    Raises:
        OutputError: `folder` cannot be made.
        KeyboardInterrupt: Inspect was interrupted.
        Exception: what `on_done` raises; no further assignment is begun.
    """
    todo = deque(assignments)
    try:
        while todo:
            _clear(folder)
            folder.mkdir()
            feed = _Feed(todo, on_done, num_open)
            if not feed.first:
                continue
            try:
                _run(feed, folder, concurrency)
            except Exception as error:
                if feed.problem is not None or not feed.open:
                    raise
                said, (first, *others) = f"{type(error).__name__}: {error}", feed.open.values()
                if not others or full_disk_in(said) is not None:  # which is the fault of none, and the end of all
                    on_done(first, None, said)
                    continue
                for alone in (first, *others):
                    evaluate([alone], folder, on_done, num_open=1, concurrency=concurrency)
    except OSError as error:
        raise OutputError(f"cannot be written to: {error.strerror}", folder, "free some space; then go on") from error
    finally:
        _clear(folder)


class _Feed(TaskSource):
    """Gives Inspect tasks, so that there are always so many; `open` are those that it has."""

    def __init__(self, todo: deque[Assignment], on_done: OnDone, num_open: int) -> None:
        self._todo, self._on_done, self._num_open = todo, on_done, num_open
        self.open: dict[str, Assignment] = {}
        self.problem: BaseException | None = None
        self.first = list(self._next())

    def initial_tasks(self) -> list[Task]:
        """What Inspect begins with."""
        return self.first

    async def task_complete(self, log: EvalLog) -> list[Task] | None:
        """Pass on what was made; what comes next."""
        if log.status == "cancelled" or self.problem is not None:
            return None
        assignment = self.open.pop((log.eval.metadata or {})[KEY]["key"])
        try:
            error = f"{log.error.message}" if log.error else ""
            self._on_done(assignment, None if error else Path(log.location), error)
            return list(self._next())
        except BaseException as problem:  # it would cost Inspect one task, not the sweep
            self.problem = problem
            return None

    def _next(self) -> Iterator[Task]:
        while self._todo and len(self.open) < self._num_open:
            assignment = self._todo.popleft()
            try:
                task, model = assignment.task()
            except Exception as error:  # whatever a task does wrong costs this task
                self._on_done(assignment, None, f"{type(error).__name__}: {error}")
                continue
            self.open[assignment.key] = assignment
            own = {**assignment.metadata, "key": assignment.key}
            yield task_with(task, model=model, metadata={**(task.metadata or {}), KEY: own})


def _run(feed: _Feed, folder: Path, concurrency: int) -> None:
    """Run one evaluation, quietly."""
    with rare_collection(), compressing_in_place(), running_plainly():
        logs = inspect_eval(
            feed,
            model=None,  # each task has its own
            log_dir=str(folder),
            display="log",  # with "none" Inspect still renders a table, in which it reads markup of paths
            log_level="critical",
            score_display=False,
            log_realtime=False,
            log_buffer=200,  # at each sample that ends Inspect searches those that wait to be written
            log_header_only=True,
            log_model_api=False,
            ctl_server=False,
            fail_on_error=False,
            max_tasks=1 << 20,  # the feed says how many
            max_samples=concurrency,
            max_connections=concurrency,
        )
    if feed.problem is not None:
        raise feed.problem
    if any(log.status == "cancelled" for log in logs):  # Inspect takes Ctrl-C for itself
        raise KeyboardInterrupt
    for log in logs:
        if log.error and (log.eval.metadata or {})[KEY]["key"] in feed.open:  # nobody was told, e.g. of a full disk
            raise RunError(log.error.message)
    if feed.open:
        raise KeyboardInterrupt


def _clear(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
