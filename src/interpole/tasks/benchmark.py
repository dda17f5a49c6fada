"""What a benchmark is: problems, a prompt, and the gradings of a response.

A benchmark does not generate; it grades a `ParsedResponse`. All its gradings are computed from the same sample, and the first
is the benchmark's own. What a grading may read of a response is decided here, once, for all benchmarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from interpole.chat import ParsedResponse
from interpole.errors import TaskError
from interpole.records import Outcome, Problem, Sampler

__all__ = [
    "Benchmark",
    "Grade",
    "Grader",
    "TaskRequest",
    "as_the_paper_reads",
    "final_text",
    "problem_of",
    "score_metadata",
]


class Grade(NamedTuple):
    """A score in [0, 1], and the answer it was given for (None: no answer found), in a form that can be voted on."""

    score: float
    answer: str | None


Grader = Callable[[Problem, ParsedResponse], Grade]


def as_the_paper_reads(parsed: ParsedResponse) -> str:
    """Everything after the last closing marker; without one, the whole response, monologue and all.

    This is how OpenCompass post-processes thinking models, and so how an unclosed thought is graded as an answer.
    """
    return parsed.after_last_marker


def final_text(parsed: ParsedResponse) -> str:
    """Text that can fairly be called the answer; empty where there is none.

    - closed or pseudo-closed: what follows the marker, or the token that stood in its place;
    - no thinking begun: the whole response;
    - a thought that ended by itself without a marker: the whole response, for there is no better place to look
      (its outcome, `unclosed` or `unmarked`, is counted apart);
    - a thought cut off by the cap, or looping: nothing, whatever it mentions in passing.
    """
    return parsed.response if parsed.outcome in (Outcome.UNCLOSED, Outcome.UNMARKED) else parsed.answer


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Problems, and how to ask and grade them.

    Args:
        name: the task's name in run folders and tables.
        problems: the questions; ids are unique.
        prompt: the user message for a problem.
        gradings: name → grader; the first is the benchmark's own. Empty for a foreign task.
        k: default samples per question.
        sampler: default sampler settings, the token cap included.
        private: its questions must not be published (GPQA): reports leave them out.
        foreign: makes a fresh Inspect task that brings its own solver and scorer; None for ours.
    """

    name: str
    problems: tuple[Problem, ...]
    prompt: Callable[[Problem], str]
    gradings: Mapping[str, Grader]
    k: int = 1
    sampler: Sampler = field(default_factory=Sampler)
    private: bool = False
    foreign: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        """Refuse a benchmark without problems or gradings, or with an id given twice."""
        if not self.problems:
            raise TaskError("no problems", where=self.name, remedy="check --data, --limit and the split")
        (name, count), *_ = Counter(problem.id for problem in self.problems).most_common(1)
        if count > 1:
            raise TaskError(f"two problems have the id {name!r}", where=self.name, remedy="make the ids unique")
        if not self.gradings and self.foreign is None:
            raise TaskError("no grading", where=self.name, remedy="give the benchmark at least one grader")
        if self.k < 1:
            raise TaskError(f"k is {self.k}", where=self.name, remedy="ask for at least one sample per question")

    def grade(self, problem: Problem, parsed: ParsedResponse) -> dict[str, Grade]:
        """Grade one response in every grading; where the engine failed there is nothing to grade and the score is 0."""
        if parsed.outcome is Outcome.FAILED:
            return dict.fromkeys(self.gradings, Grade(0.0, None))
        return {name: grader(problem, parsed) for name, grader in self.gradings.items()}


def score_metadata(parsed: ParsedResponse, grades: Mapping[str, Grade]) -> dict[str, Any]:
    """What Inspect's `Score.metadata` keeps of a graded response besides its text; `answer` is that of the first grading."""
    answers = {name: _short(grade.answer) for name, grade in grades.items()}
    return {
        "outcome": parsed.outcome.value,
        "closed": parsed.closed,
        "pseudo_close": parsed.pseudo_close,
        "near_close": parsed.near_close,
        "answer": next(iter(answers.values()), None),
        "answers": answers,
        "grades": {name: grade.score for name, grade in grades.items()},
    }


def _short(answer: str | None) -> str | None:
    """Inspect's summaries drop metadata beyond 1,000 characters; the whole answer is in the response."""
    return answer if answer is None else answer[:200]


def problem_of(sample_id: str, target: str, metadata: Mapping[str, Any]) -> Problem:
    """Rebuild the problem from a logged sample, so that re-grading needs no data files."""
    return Problem(
        sample_id,
        metadata["question"],
        target,
        tuple(metadata["choices"]),
        metadata["difficulty"],
        metadata["extra"],
    )


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """What was asked for when a benchmark is loaded (see `tasks.load`); None: the benchmark's own."""

    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    split: str | None = None
    problems: tuple[Problem, ...] | None = None
    grader: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that leaves nothing, or cuts from the end."""
        if self.limit is not None and self.limit < 1:
            raise TaskError(f"the limit is {self.limit}", remedy="ask for at least one problem, or give none")

    def refuse(self, task: str, *names: str) -> None:
        """Raise a TaskError where options were given that this task has no use for."""
        if given := [name for name in names if getattr(self, name) is not None]:
            raise TaskError(f"{', '.join(given)} given, but {task} takes none", remedy="leave it out")
