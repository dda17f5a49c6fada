"""What a recommendation is, and how it is said: the point, what to expect of it, why, and what to know before relying on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from interpole.analysis.intervals import Interval
from interpole.analysis.transition import LEVELS, Transition

Key = float | str
"""What tells a point from the others: its λ on the dial, its name on a simplex."""
__all__ = [
    "BALANCED", "BY_ACCURACY", "Choice", "Goal", "Key", "Recommendation", "cheap", "goal_words", "notes_on", "reason", "spelt",
    "warnings",
]  # fmt: skip

BALANCED = 0.95  # of the best accuracy
LARGE = 0.05  # a detectable difference beyond it is too large to name a winner among those tied
MOST_NAMES = 3  # of points in a sentence
CAPPED = 0.05  # share of responses cut at the cap that is pointed out
Goal = Literal["max_tokens", "min_accuracy", "max_cost", "balanced", "accuracy"]
BY_ACCURACY = ("min_accuracy", "balanced")  # goals whose limit is an accuracy; of the others it is tokens


def spelt(*keys: Key) -> str:
    """Points in a sentence: `λ = 0.5, 0.6`, or `base 0.25, thinking 0.75; thinking`."""
    lams = [f"{key:g}" for key in keys if isinstance(key, float | int)]
    return f"λ = {', '.join(lams)}" if lams else "; ".join(map(str, keys))


def _some(keys: Sequence[Key]) -> str:
    """The same; of many names the first few, and how many more there are."""
    names = [key for key in keys if isinstance(key, str)]
    if len(names) <= MOST_NAMES + 1:
        return spelt(*keys)
    return f"{spelt(*names[:MOST_NAMES])} and {len(names) - MOST_NAMES} more"


@dataclass(frozen=True, slots=True)
class Choice:
    """One point and what to expect there."""

    lam: float | None  # None: a point of a simplex
    accuracy: Interval  # Mean@k; ends are NaN where not known
    tokens: Interval  # Token #N
    source: Literal["measured", "interpolated"]
    think: float = math.nan  # Think #R; NaN: not known
    tokens_p95: float = math.nan  # 95th percentile of a response's tokens; the largest over tasks
    capped: float = math.nan  # share of responses cut at the cap
    point: str = ""  # its name, on a simplex

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.point if self.lam is None else self.lam

    @property
    def name(self) -> str:
        """`λ=0.6`, or the point's name."""
        return spelt(self.key).replace(" = ", "=")

    @property
    def kind(self) -> str:
        """What it is one of, in words."""
        return "point" if self.lam is None else "λ"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The λ, or the point of a simplex, to use for a budget; or, where nothing meets it, none, and the nearest."""

    task: str  # of several tasks: their names with "+", each task weighing the same
    goal: str  # in words
    aim: Goal  # by name; a cost is a budget of tokens
    choice: Choice | None  # None: nothing measured meets the budget
    nearest: Choice | None  # then: what comes nearest to it
    share_of_accuracy: float | None  # of Thinking's (λ=1, or that corner); None: it was not measured
    share_of_tokens: float | None
    expected: (
        Interval | None
    )  # accuracy less what it owes to having been chosen; None: not from samples, or not measured
    optimism: float | None  # what was taken off
    detectable: float  # the smallest difference from a tied λ that these questions show with 80 % power; NaN: not known
    cost: float | None  # USD per response; None: no price was given
    tied: tuple[Key, ...]  # measured λ, or points by name, whose accuracy cannot be told from this one's
    tied_by: Literal["paired", "unpaired", "unknown"]
    why: str
    notes: tuple[str, ...]
    command: str  # that makes the model

    @property
    def headline(self) -> str:
        """What can be said of the λ shown; the command line and the page say the same."""
        shown = self.choice or self.nearest
        if shown is None or self.tied_by == "unknown":
            return ""
        one, others = spelt(shown.key), _some(self.tied)
        if self.tied and self.detectable > LARGE:
            return f"No winner: differences below {100 * self.detectable:.0f} points would go unseen ({others} may be as good)"
        if self.aim != "accuracy":  # then it need not be among the best, and `why` says what it is
            return f"{one} cannot be told in accuracy from {others}" if self.tied else ""
        if not self.tied:
            return f"{one} is the only one that is not seen to be worse"
        return f"{one} is among the best, with {others}"

    @property
    def lam(self) -> float | None:
        """The λ to use; `None` where nothing meets the budget, and on a simplex."""
        return self.choice.lam if self.choice else None


def cheap(c: Choice) -> tuple[float, float]:
    """Order by tokens; of equals the more accurate one comes first."""
    return c.tokens.value, -c.accuracy.value


def goal_words(goal: Goal, limit: float, max_cost: float | None) -> str:
    """The goal in words."""
    return {
        "max_tokens": f"the best accuracy within {limit:,.0f} tokens a response",
        "max_cost": f"the best accuracy within ${max_cost or 0:g} a response ({limit:,.0f} tokens)",
        "min_accuracy": f"the fewest tokens at an accuracy of {limit:.1%} or more",
        "balanced": f"the fewest tokens at {BALANCED:.0%} of the best accuracy ({limit:.1%}) or more",
        "accuracy": "the best accuracy, whatever it costs",
    }[goal]


def reason(goal: Goal, limit: float, choice: Choice | None, nearest: Choice) -> str:
    """The choice in a sentence."""
    seen = f"{nearest.name} ({nearest.accuracy.value:.1%} at {nearest.tokens.value:,.0f} tokens, {nearest.source})"
    by_accuracy = goal in BY_ACCURACY
    if choice is None:
        ask = f"reaches {limit:.1%}" if by_accuracy else f"stays within {limit:,.0f} tokens"
        return f"no measured {nearest.kind} {ask}; the nearest is {seen}"
    if by_accuracy:
        return f"{seen} needs the fewest tokens of those that reach {limit:.1%}"
    within = f" of those within {limit:,.0f} tokens" if limit < math.inf else ""
    return f"{seen} is the most accurate{within}"


def warnings(shown: Choice, measured: Sequence[Choice], *, apart: bool) -> Iterator[str]:
    """What makes all of this doubtful; `apart`: the points of a run share less than two questions."""
    if apart and len(measured) > 1:
        yield (
            f"WARNING: fewer than 2 questions were answered at every {shown.kind}, so differences may be those of questions, "
            "and ties are judged without pairing: finish the sweep, or unite its shards (`interpole runs merge`)"
        )
    if shown.capped >= CAPPED:
        yield f"WARNING: {shown.capped:.0%} of responses at {shown.name} were cut at the token cap: raise it first"
    first, last = measured[0], measured[-1]
    better = first.accuracy.value > last.accuracy.value
    if shown.lam is not None and first.tokens.value > last.tokens.value and (first.think > last.think or better):
        yield f"WARNING: {first.name} writes and thinks more than {last.name}: are Instruct and Thinking swapped?"


def notes_on(
    shown: Choice,
    limits: tuple[float, float],
    measured: Sequence[Choice],
    tied: Sequence[Key],
    tied_by: str,
    transition: Transition | None,
) -> list[str]:
    """What to know before relying on the point shown; `limits` are the most tokens and the least accuracy asked for."""
    notes = _of_dial(shown, transition) if transition else []
    if shown.tokens.low <= limits[0] < shown.tokens.high or shown.accuracy.low < limits[1] <= shown.accuracy.high:
        notes.append("what was asked for lies within the interval: another set of questions may miss it")
    cheaper = [c for c in measured if c.key in tied and c.tokens.value < shown.tokens.value]
    if tied_by == "unpaired":
        notes.append("ties are judged without pairing, so they are many; a run's samples pair by question and see more")
    elif cheaper:
        best = min(cheaper, key=cheap)
        saving = 1 - best.tokens.value / shown.tokens.value
        notes.append(f"{best.name} cannot be told from it in accuracy and needs {saving:.0%} fewer tokens")
    if shown.lam is not None and shown.lam in (measured[0].lam, measured[-1].lam) and shown.lam not in (0, 1):
        notes.append(f"{shown.name} is at the edge of what was measured: beyond it nothing is known")
    if math.isnan(shown.accuracy.low):
        notes.append("no intervals: the curve has neither mean_low and mean_high nor questions")
    return notes


def _of_dial(shown: Choice, transition: Transition) -> list[str]:
    """What to know of a λ in stage 2."""
    on, off, lam = transition.on, transition.off, shown.lam
    if on is None or off is None or lam is None or not on.value < lam < off.value or shown.think >= LEVELS[2]:
        return []
    share = "only some" if math.isnan(shown.think) else f"{shown.think:.0%} of"
    return [f"{shown.name} lies in stage 2 ({on.value:.2f} to {off.value:.2f}): {share} responses think"]
