"""The frozen records that travel between modules, and the names that points on the dial have in them.

They check themselves and hold no behaviour beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from interpole.errors import EngineError, TaskError

__all__ = ["Chance", "Generation", "Outcome", "Problem", "Sample", "Sampler", "dial_lam", "dial_name"]


def dial_name(lam: float) -> str:
    """What the point at λ on the dial is called."""
    return f"λ={lam:g}"


def dial_lam(name: str) -> float | None:
    """The λ of a point called so; None: the name is not that of a point on the dial."""
    head, _, number = name.partition("=")
    try:
        return float(number) if head == "λ" else None
    except ValueError:
        return None


class Outcome(StrEnum):
    """What became of one response; exactly one holds, tested in this order.

    The paper's Think #R is not an outcome: it is the share of responses that contain the closing marker
    (`Sample.closed`), truncated or not.
    """

    FAILED = "failed"  # the engine gave no response
    EMPTY = "empty"  # nothing but white space
    LOOPING = "looping"  # the cap was reached, and a cycle fills the end of the response
    TRUNCATED = "truncated"  # the token cap was reached otherwise
    CLOSED = "closed"  # contains the closing marker
    PSEUDO_CLOSED = "pseudo_closed"  # thought, then closed with another special token or a misspelt marker
    UNCLOSED = "unclosed"  # opened a thought, never closed it
    UNMARKED = "unmarked"  # the prompt opened the thought, and no marker came: a thought or an answer, it does not say
    DIRECT = "direct"  # answered without thinking


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer, in the form its task's grader wants it."""

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    difficulty: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a problem that cannot be told from others, or that asks nothing."""
        if not self.id or not self.question.strip():
            raise TaskError(
                f"a problem needs an id and a question; got id={self.id!r}, question={self.question[:40]!r}",
                remedy="give every problem a non-empty `id` and `question`",
            )


@dataclass(frozen=True, slots=True)
class Sampler:
    """How tokens are drawn. `temperature=0` is greedy; `top_k=0` and `top_p=1` switch those filters off."""

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    max_tokens: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings outside their ranges."""
        ok = self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= 0 and self.max_tokens > 0
        if not ok:
            raise TaskError(
                f"sampler settings out of range: {self}",
                remedy="temperature ≥ 0, 0 < top_p ≤ 1, top_k ≥ 0 (0: off), max_tokens ≥ 1",
            )


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine returns for one prompt: the text with its special tokens, and its true length."""

    text: str
    num_tokens: int  # generated tokens, the end-of-sequence token included
    finish: str  # "stop": the model ended; "length": the cap did; "error": there is no response
    budget_forced: bool = False  # a budget cut the thought and closed it
    chosen_lam: float | None = None  # where a policy chose

    def __post_init__(self) -> None:
        """Refuse what no engine can have generated."""
        whole = isinstance(self.text, str) and isinstance(self.num_tokens, int) and self.num_tokens >= 0
        if not whole or self.finish not in ("stop", "length", "error"):
            raise EngineError(
                f"no response: {self.num_tokens!r} tokens, finish {self.finish!r}, {str(self.text)[:40]!r}"
            )


@dataclass(frozen=True, slots=True)
class Chance:
    """How likely a response is to begin with some text."""

    probability: float  # that the sampler draws it, by its temperature, top-k and top-p
    margin: float  # log odds by the model's own distribution, before the sampler's settings

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 <= self.probability <= 1 or self.margin != self.margin:
            raise EngineError(f"no chance: probability {self.probability!r}, margin {self.margin!r}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One response to one problem at one point, flat, as everything after generation reads it."""

    task: str
    point: str  # the point's name, e.g. "λ=0.6" or "budget-256"
    lam: float | None  # None for points that are not on the dial
    problem_id: str
    number: int  # of the samples of this problem at this point: 1..k
    question: str
    target: str
    response: str
    num_tokens: int
    finish: str  # "stop", "length" or "error"
    outcome: Outcome
    closed: bool  # the closing marker is in the response: counts for Think #R
    answer: str | None  # what the grader extracted; None: nothing found
    grades: Mapping[str, float]  # grading name → score in [0, 1]; the first is the task's own
    difficulty: str = ""
    error: str = ""
    answers: Mapping[str, str | None] = field(default_factory=dict)  # by grading, where gradings read different answers
    pseudo_close: str | None = None  # what closed the thought in the marker's place
    near_close: bool = False  # what stood in its place was the marker misspelt: </THINK>, </thinking>
    message: str = ""  # the user message that asked the question; empty where there were several
    private: bool = False  # its question must not be published
    budget_forced: bool = False  # a budget cut its thought and closed it; runs made before this was kept say False
    chosen_lam: float | None = None  # of a point that is a policy: the λ that answered

    @property
    def score(self) -> float:
        """Score in [0, 1] by the task's first grading; 0 where the engine failed."""
        for grade in self.grades.values():
            return grade
        return 0.0
