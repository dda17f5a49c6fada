"""Where a sweep stands: answers and tokens counted, told to whoever asked, and what the engines do in the run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from interpole.engines.pool import EngineRate
from interpole.records import Generation
from interpole.runs.progress import ProgressFile
from interpole.sweep.units import Made
from interpole.sweep.work import Job

__all__ = ["OnProgress", "ProgressReporter", "SweepProgress"]


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Where a sweep stands. Counts are samples; of the whole sweep, but for the parts: of this task at this point, or units."""

    task: str = ""
    point: str = ""
    part_done: int = 0
    part_total: int = 0
    done: int = 0
    total: int = 0
    num_tokens: int = 0  # generated since the start
    seconds_left: float | None = None  # None: nothing to judge by yet
    engines: tuple[EngineRate, ...] = ()
    message: str = ""  # something to tell: a point is finished, the engine was restarted …


OnProgress = Callable[[SweepProgress], None]
"""Told where a sweep stands; called from any thread."""


class ProgressReporter:
    """Counts answers and tells whoever wants to know."""

    def __init__(self, on_progress: OnProgress, out: Path) -> None:
        self._on_progress = on_progress
        self._file = ProgressFile(out)
        self._rates: Callable[[], list[EngineRate]] = list
        self._state = SweepProgress()
        self._done: dict[tuple[str, str], int] = {}  # of each job, by its entry's key
        self._start = time.monotonic()
        self._kept: int | None = None  # answers of unfinished units when others began
        self.num_generated = self.num_tokens = 0

    @property
    def seconds(self) -> float:
        """Time since generating began."""
        return time.monotonic() - self._start

    def watch(self, rates: Callable[[], list[EngineRate]]) -> None:
        """Tell what engines have done, too."""
        self._rates = rates
        self.say_rates()

    def say_rates(self) -> None:
        """Write down what the engines have done."""
        rates = self._rates()
        self._state = replace(self._state, engines=tuple(rates))
        if rates:
            self._file.write(rates)

    def begin(self, work: Sequence[Job], num_units: int = 0) -> None:
        """This is to be done, by others in so many units if at all, and the time starts."""
        self._done = {job.entry.key: job.num_done for job in work}
        total = sum(job.num_samples for job in work)
        self._state = replace(
            self._state,
            task="units" if num_units else "",
            part_total=num_units,
            done=sum(self._done.values()),
            total=total,
        )
        self._start = time.monotonic()

    def go_to(self, job: Job) -> None:
        """This is under way."""
        self._state = replace(
            self._state,
            task=job.benchmark.name,
            point=job.point.name,
            part_done=self._done[job.entry.key],
            part_total=job.num_samples,
        )
        self._on_progress(self._state)

    def answer(self, job: Job, generation: Generation, is_new: bool) -> None:
        """There is an answer, generated now or kept from before."""
        state = self._state
        if is_new:
            self.num_generated += 1
            self.num_tokens += generation.num_tokens
        self._done[job.entry.key] += 1
        left = state.total - state.done - 1
        self._state = replace(
            state,
            done=state.done + 1,
            num_tokens=self.num_tokens,
            seconds_left=self.seconds / self.num_generated * left if self.num_generated else None,
        )
        if self._file.is_due():
            self.say_rates()
        self.go_to(job)

    def elsewhere(self, num_answers: int) -> None:
        """So many answers are in units that are not finished."""
        if self._file.is_due():
            self.say_rates()
        self._kept = num_answers if self._kept is None else self._kept
        state, made = self._state, self.num_generated + num_answers - self._kept
        done = min(state.total, state.done + num_answers)
        left = self.seconds / made * (state.total - done) if made > 0 else None
        self._on_progress(replace(state, done=done, seconds_left=left))

    def take(self, made: Made, job: Job) -> None:
        """A unit was made, or could not be."""
        self.num_generated += made.num_generated
        self.num_tokens += made.num_tokens
        num = made.unit.part.num_responses(len(job.benchmark.problems)) if made.run else 0
        done = self._state.done + num
        speed = self.seconds / self.num_generated if self.num_generated else None
        left = speed and speed * (self._state.total - done)
        self._state = replace(
            self._state,
            done=done,
            num_tokens=self.num_tokens,
            seconds_left=left,
            part_done=self._state.part_done + 1,
        )
        self._on_progress(self._state)

    def message(self, text: str) -> None:
        """Something is to be told."""
        self._on_progress(replace(self._state, message=text))
