"""Does choosing λ by the question beat every static λ? Policies scored from a sweep's samples, without generating anything.

A policy takes, for each question, the samples of the λ it chooses, and is charged for every token it reads. Its rival is the
upper concave hull of the static points, (mean tokens, accuracy), which a random mix of two λ reaches. Both are fitted on other
questions than they are scored on (cross-fitting), at equal tokens, paired by question. docs/route.md explains the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from interpole.analysis.compare import holm
from interpole.analysis.fitting import Cells, Numbers, Policy, cells_of, policies_for, policy_of, reached
from interpole.analysis.hull import Indices, Means, hull, prices, worth_most
from interpole.analysis.intervals import Array, Change, Interval, change_interval, interval_text
from interpole.analysis.live import Live, live_points
from interpole.analysis.metrics import SIGNIFICANCE
from interpole.analysis.policies import FittedPolicy
from interpole.analysis.rivals import Fold, Rivals, averaged, beyond, folds, rivals_of
from interpole.formats import plain
from interpole.records import Sample

__all__ = ["PricePoint", "Routes", "Scored", "route", "to_json"]

Decide = Callable[[Cells, float], Means]
"""Questions and a price (accuracy that a token must be worth) → what each of them is answered with, (Q,)."""


class PricePoint(NamedTuple):
    """A policy at one price, and its rival at the same mean tokens."""

    price: float
    tokens: float
    accuracy: float
    rival: float  # accuracy


@dataclass(frozen=True, slots=True)
class Scored:
    """What a policy reached."""

    name: str
    what: str
    is_bound: bool
    points: tuple[PricePoint, ...]  # from short to long
    gain: Interval  # accuracy beyond the rival at equal tokens, averaged over the tokens it can be made to spend
    p_adjusted: float  # of no gain, by Holm over all policies but bounds; NaN: a bound
    verdict: str

    @property
    def beats(self) -> bool:
        """Whether it is said to gain."""
        return not self.is_bound and self.p_adjusted < SIGNIFICANCE and self.gain.value > 0


@dataclass(frozen=True, slots=True)
class Routes:
    """The static points, their hull, and every policy."""

    task: str  # of several tasks: their names with "+", each task weighing the same
    num_questions: int
    num_left_out: int
    num_samples: int  # K, of every question at every λ
    static: tuple[tuple[float, float, float], ...]  # λ, tokens, accuracy
    on_hull: tuple[float, ...]  # λ
    policies: tuple[Scored, ...]
    live: tuple[Live, ...]  # policies that the sweep has followed

    @property
    def verdict(self) -> str:
        """What the policies come to, in one sentence."""
        honest = [one for one in self.policies if not one.is_bound]
        better = sorted((one for one in honest if one.beats), key=lambda one: -one.gain.value)
        if not better:
            return f"No gain seen from choosing λ by the question: none of {len(honest)} policies beats static λ"
        best = better[0]
        text = interval_text(best.gain, 100, sign="+", unit=" points")
        return (
            f"Choosing λ by the question pays here: {len(better)} of {len(honest)} policies beat every static λ and every mix of "
            f"two at equal tokens, most of all {best.name}, by {text}"
        )


def route(
    samples: Iterable[Sample],
    *,
    names: Sequence[str] = (),
    task: str | None = None,
    grading: str | None = None,
    numbers: Numbers | None = None,
    policies: Mapping[str, FittedPolicy] = MappingProxyType({}),
    seed: int = 0,
) -> Routes:
    """Score policies against every static λ and every mix of two.

    Args:
        samples: of a sweep; those off the dial are left aside.
        names: of the policies; none: all that the samples allow.
        task: the one to go by; `None`: all, each weighing the same.
        grading: as in `measure`.
        numbers: more that is known of questions before they are answered: name → (task, problem) → number; left aside where it
            lacks a question.
        policies: points that are policies (`live.followed`), to be held against what they are scored at.
        seed: of the partitions into folds.

    Raises:
        AnalysisError: fewer than two λ, fewer than ten questions answered at all of them, or an unknown policy or task.
    """
    samples = list(samples)
    cells, weights, tasks = cells_of(samples, task=task, grading=grading, numbers=numbers)
    chosen = [policy_of(cells, name) for name in names] or policies_for(cells)
    means = averaged(cells.means, weights)
    vertices = hull(means)
    at_prices = prices(means, vertices)
    partitions = [(parts, rivals_of(cells, weights, parts)) for parts in folds(len(cells), seed)]
    found = [_score(policy, cells, weights, at_prices, partitions) for policy in chosen]
    rivals = [(change, policy) for (_, change), policy in zip(found, chosen, strict=True) if not policy.is_bound]
    adjusted = dict(zip((p.name for _, p in rivals), holm([_p_value(change) for change, _ in rivals]), strict=True))
    return Routes(
        task="+".join(tasks),
        num_questions=len(cells),
        num_left_out=cells.num_left_out,
        num_samples=cells.scores.shape[2],
        static=tuple(zip(cells.lams.tolist(), means.tokens.tolist(), means.accuracy.tolist(), strict=True)),
        on_hull=tuple(cells.lams[vertices].tolist()),
        policies=tuple(
            _judged(policy, points, change, adjusted.get(policy.name, math.nan))
            for policy, (points, change) in zip(chosen, found, strict=True)
        ),
        live=live_points(samples, policies, cells, weights, grading=grading, seed=seed),
    )


def to_json(routes: Routes) -> dict[str, Any]:
    """Plain data; what is not known is null."""
    fields = plain(asdict(routes)) | {"verdict": routes.verdict}
    fields["static"] = [dict(zip(("lam", "tokens", "accuracy"), point, strict=True)) for point in routes.static]
    return fields


# ── scoring ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _decide(policy: Policy, train: Cells) -> Decide:
    """Fit a policy to some questions."""
    if policy.fit is None:
        return _oracle
    rule_at = policy.fit(train)
    return lambda cells, price: reached(cells, rule_at(price))


def _oracle(cells: Cells, price: float) -> Means:
    num = cells.scores.shape[2]
    halves = [np.arange(num) < num // 2, np.arange(num) >= num // 2]
    found = []
    for seen, scored in (halves, halves[::-1]):
        own = Means(cells.scores[:, :, seen].mean(axis=2), cells.tokens[:, :, seen].mean(axis=2))
        rest = Means(cells.scores[:, :, scored].mean(axis=2), cells.tokens[:, :, scored].mean(axis=2))
        found.append(_take(rest, worth_most(own, price)))
    return Means(*(np.mean(parts, axis=0) for parts in zip(*found, strict=True)))


def _take(means: Means, columns: Indices) -> Means:
    """(Q,) of (Q, L)."""
    rows = np.arange(len(columns))
    return Means(means.accuracy[rows, columns], means.tokens[rows, columns])


def _score(
    policy: Policy,
    cells: Cells,
    weights: Array,
    at_prices: Array,
    partitions: Sequence[tuple[list[Fold], Rivals]],
) -> tuple[tuple[PricePoint, ...], Change]:
    """A policy at every price beside its rival, and its gain averaged over tokens (the area between their curves)."""
    sides, changes = [], []  # (prices, 3) and (prices, Q) of each partition
    for parts, rivals in partitions:
        fits = [(_decide(policy, cells.take(others)), cells.take(here), here) for others, here in parts]
        for price in at_prices.tolist():
            mine = Means(np.empty(len(cells)), np.empty(len(cells)))
            for decide, part, here in fits:
                mine.accuracy[here], mine.tokens[here] = decide(part, price)
            rival, gained = beyond(mine, cells, weights, rivals)
            sides.append([price, weights @ mine.tokens, weights @ mine.accuracy, rival])
            changes.append(gained)
    means = np.array(sides).reshape(len(partitions), len(at_prices), 4).mean(axis=0)
    order = np.argsort(means[:, 1])
    gains = np.array(changes).reshape(len(partitions), len(at_prices), len(cells)).mean(axis=0)[order]  # (prices, Q)
    each = _spans(means[order, 1]) @ gains * weights * len(cells)  # each task weighs the same
    return tuple(PricePoint(*row) for row in means[order].tolist()), change_interval(each, cells.scores.shape[2])


def _spans(tokens: Array) -> Array:
    """The share of the range of ascending `tokens` that each stands for: the trapezoidal rule's weights, in all 1."""
    if tokens[-1] == tokens[0]:
        return np.full(len(tokens), 1 / len(tokens))
    steps = np.diff(tokens) / (tokens[-1] - tokens[0])
    return (np.append(steps, 0) + np.append(0, steps)) / 2


def _p_value(change: Change) -> float:
    """Of the two-sided test that there is no gain."""
    if not change.error > 0:
        return math.nan
    return float(2 * special.stdtr(change.freedom, -abs(change.interval.value) / change.error))


def _judged(policy: Policy, points: tuple[PricePoint, ...], change: Change, p_adjusted: float) -> Scored:
    """With its verdict."""
    gain = change.interval
    text = interval_text(gain, 100, sign="+", unit=" points")
    if policy.is_bound:
        verdict = f"for comparison: {text} over static λ at equal tokens, were each question's best λ known so well"
    elif not p_adjusted < SIGNIFICANCE:
        verdict = f"no gain seen over static λ at equal tokens: {text}"
    elif gain.value > 0:
        verdict = f"beats every static λ and every mix of two at equal tokens: {text}"
    else:
        verdict = f"worse than static λ at equal tokens: {text}"
    return Scored(
        name=policy.name,
        what=policy.what,
        is_bound=policy.is_bound,
        points=points,
        gain=gain,
        p_adjusted=p_adjusted,
        verdict=verdict,
    )
