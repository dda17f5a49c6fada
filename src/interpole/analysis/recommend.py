"""A budget → the λ to use, or the point of a simplex, with what to expect of it and which others cannot be told from it.

Recommends what was measured, or λ interpolated between measured points where thinking is complete, because only there
tokens and accuracy change evenly with λ. Never beyond the data. docs/recommend.md has the rules and worked examples.
"""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from interpole.analysis.choices import (
    BALANCED,
    BY_ACCURACY,
    Choice,
    Goal,
    Key,
    Recommendation,
    cheap,
    goal_words,
    notes_on,
    reason,
    warnings,
)
from interpole.analysis.intervals import UNKNOWN, Z95, Array, Interval, minus, proportion
from interpole.analysis.metrics import POWER, columns_of, difference, measure, on_the_dial
from interpole.analysis.selection import chosen, critical, noise, optimism
from interpole.analysis.tables import CurveRow, PointMetrics
from interpole.analysis.transition import Transition, find_transition, from_rows, from_samples, pool
from interpole.errors import AnalysisError
from interpole.formats import plain
from interpole.records import Outcome, Sample
from interpole.runs.simplex import Simplex

Indices = NDArray[np.intp]
__all__ = ["average", "recommend", "to_json"]

MIN_GAIN = 0.01  # accuracy an interpolated λ must promise beyond the best measured one to be preferred
MIN_SAVING = 0.05  # share of tokens likewise
GRID_STEP = 0.01


def recommend(
    data: Sequence[CurveRow] | Sequence[Sample],
    *,
    max_tokens: float | None = None,
    min_accuracy: float | None = None,
    max_cost: float | None = None,
    price_per_million: float | None = None,
    balanced: bool = False,
    max_tokens_p95: float | None = None,
    confidence: float | None = None,
    task: str | None = None,
    sources: tuple[str, str] | None = ("INSTRUCT", "THINKING"),
    simplex: Simplex | None = None,
    metrics: Sequence[PointMetrics] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Recommendation:
    """Choose λ, or a point of a simplex, for a budget; without one, for the highest accuracy.

    Args:
        data: rows of a curves.csv, or the samples of a run.
        max_tokens: mean tokens of a response may not exceed this; the most accurate λ then.
        min_accuracy: Mean@k must reach this share; the λ with the fewest tokens then.
        max_cost: US dollars that a response may cost on average; needs `price_per_million`.
        price_per_million: US dollars for a million generated tokens.
        balanced: keep 95 % of the best measured accuracy at the fewest tokens.
        max_tokens_p95: measured λ whose 95th percentile of tokens exceeds this are left out; needs samples.
        confidence: the probability, such as 0.9, with which the mean over questions like these must meet the budget too;
            `None`: the measured mean must.
        task: the task to go by; `None`: all, each weighing the same.
        sources: names of Instruct and Thinking, for the command; None: no plain merge of two makes the dial, a recipe does.
        simplex: where points lie on one: choose among these, whatever their λ; needs samples.
        metrics: of the samples, where they were measured before; not of a simplex.
        resamples: for intervals.
        seed: of the resampling.

    Raises:
        AnalysisError: more than one budget, a budget that makes no sense, an unknown task, or no point with both
            accuracy and tokens.
    """
    goal, limit = _goal(max_tokens, min_accuracy, max_cost, price_per_million, balanced)
    rows, samples, metrics = _data(data, simplex, metrics, resamples, seed)
    tasks = _tasks(rows or samples, task)
    rows, samples = [r for r in rows if r.task in tasks], [s for s in samples if s.task in tasks]
    measured = _measured(rows, [m for m in metrics if m.task in tasks], tasks)
    transition = None if simplex else _transition(rows, samples, tasks, resamples, seed)
    between, notes = _interpolated(measured, transition)
    if max_tokens_p95 is not None:
        measured, between = _short(measured, max_tokens_p95), []
    if goal == "balanced":
        limit = BALANCED * max(c.accuracy.value for c in measured)
    sure = _sure(measured, goal, limit, confidence)
    choice, shown = _choose(goal, limit, sure or measured, _sure(between, goal, limit, confidence))
    choice = choice if sure else None
    limits = (math.inf, limit) if goal in BY_ACCURACY else (limit, 0.0)
    errors = _noise(measured, samples, tasks, resamples, seed)
    tied, tied_by, detectable = _tied(shown, measured, samples, tasks, errors)
    off = _optimism(goal, limit, measured, errors) if errors is not None and shown.source == "measured" else None
    ends = {name for name, weights in simplex.points.items() if [*weights] == ["thinking"]} if simplex else {1}
    end = next((c for c in measured if c.key in ends), None)
    merge = ["RECIPE.yml"] if shown.lam is None or sources is None else [*sources, "--lambda", f"{shown.lam:g}"]
    return Recommendation(
        task="+".join(tasks), goal=goal_words(goal, limit, max_cost), aim=goal, choice=choice,
        nearest=None if choice else shown,
        share_of_accuracy=shown.accuracy.value / end.accuracy.value if end and end.accuracy.value else None,
        share_of_tokens=shown.tokens.value / end.tokens.value if end and end.tokens.value else None,
        expected=None if off is None else Interval(*(max(0.0, end - off) for end in shown.accuracy)),
        optimism=off, detectable=detectable,
        cost=None if price_per_million is None else shown.tokens.value * price_per_million / 1e6,
        tied=tied, tied_by=tied_by, why=reason(goal, limit, choice, shown),
        notes=(
            *warnings(shown, measured, apart=bool(samples) and errors is None), *notes,
            *notes_on(shown, limits, measured, tied, tied_by if errors or not samples else "", transition),
        ),
        command=shlex.join(
            ["interpole", "merge", *merge, "--out", "merged" if shown.lam is None else f"merged-{shown.lam:g}"]
        ),
    )  # fmt: skip


def to_json(recommendation: Recommendation) -> dict[str, Any]:
    """Plain data: `lam`, `point`, `accuracy`, `tokens`, `source` of the choice on top (null where nothing meets the budget)."""
    fields = plain(asdict(recommendation))
    choice = fields.pop("choice") or dict.fromkeys(("lam", "point", "accuracy", "tokens", "source"))
    return {**choice, "met": recommendation.choice is not None, **fields}


def _goal(
    max_tokens: float | None, min_accuracy: float | None, max_cost: float | None, price: float | None, balanced: bool
) -> tuple[Goal, float]:
    """The goal and its limit (tokens or accuracy), or why they make no sense."""
    given = {"max_tokens": max_tokens, "min_accuracy": min_accuracy, "max_cost": max_cost, "balanced": balanced or None}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise AnalysisError(f"more than one budget: {', '.join(named)}", remedy="give one of them")
    if min_accuracy is not None and not 0 < min_accuracy <= 1:
        raise AnalysisError(f"accuracy is a share up to 1, not {min_accuracy:g}", remedy="80 % is 0.8")
    for name, value in {"max_tokens": max_tokens, "max_cost": max_cost, "price_per_million": price}.items():
        if value is not None and not 0 < value < math.inf:
            raise AnalysisError(f"{name} must be above 0, not {value:g}", remedy="give a positive number")
    if max_cost is not None:
        if price is None:
            raise AnalysisError("a cost without a price", remedy="add --price-per-million, in USD per million tokens")
        return "max_cost", max_cost / price * 1e6
    if max_tokens is not None:
        return "max_tokens", max_tokens
    return (
        ("min_accuracy", min_accuracy)
        if min_accuracy is not None
        else ("balanced" if balanced else "accuracy", math.inf)
    )


def _data(
    data: Sequence[CurveRow] | Sequence[Sample],
    simplex: Simplex | None,
    metrics: Sequence[PointMetrics] | None,
    resamples: int,
    seed: int,
) -> tuple[list[CurveRow], list[Sample], list[PointMetrics]]:
    """The rows, samples and metrics of the points to choose among."""
    if simplex is None:
        return on_the_dial(data, metrics=metrics, resamples=resamples, seed=seed)
    samples = [replace(s, lam=None) for s in data if isinstance(s, Sample) and s.point in simplex.points]
    return [], samples, measure(samples, resamples=resamples, seed=seed)


def _tasks(data: Sequence[CurveRow] | Sequence[Sample], task: str | None) -> list[str]:
    """The tasks to go by."""
    tasks = list(dict.fromkeys(one.task for one in data))
    if task is not None and task not in tasks:
        raise AnalysisError(f"no task {task!r}; the data have {', '.join(tasks)}", remedy="name one of those")
    return tasks if task is None else [task]


def _measured(rows: Sequence[CurveRow], metrics: Sequence[PointMetrics], tasks: Sequence[str]) -> list[Choice]:
    """The points that every task measured, averaged over tasks; λ ascending."""
    at: dict[tuple[float, str], list[Choice]] = {}
    for m in metrics:
        if m.num_questions:
            capped, name = m.outcomes[Outcome.TRUNCATED] / m.num_samples, m.point if m.lam is None else ""
            found = Choice(
                lam=m.lam,
                accuracy=m.mean,
                tokens=m.tokens,
                source="measured",
                think=m.think.value,
                tokens_p95=m.tokens_p95,
                capped=capped,
                point=name,
            )
            at.setdefault((m.lam or 0.0, name), []).append(found)
    for row in rows if not metrics else ():
        if row.mean is not None and row.tokens is not None:
            tokens = UNKNOWN._replace(value=row.tokens)
            at.setdefault((row.lam, ""), []).append(Choice(row.lam, _row_accuracy(row), tokens, "measured", row.think))
    choices = [
        Choice(
            lam=values[0].lam,
            accuracy=average([one.accuracy for one in values]),
            tokens=average([one.tokens for one in values]),
            source="measured",
            think=float(np.mean([one.think for one in values])),
            tokens_p95=max(one.tokens_p95 for one in values),
            capped=max(one.capped for one in values),
            point=name,
        )
        for (_, name), values in sorted(at.items())
        if len(values) == len(tasks)
    ]
    if not choices:
        kind, several = ("λ", "λ") if rows else ("point", "points")
        remedy = f"the columns mean and tokens are needed, at the same {several} for every task, or choose one --task"
        raise AnalysisError(f"no {kind} with accuracy and tokens for {', '.join(tasks) or 'any task'}", remedy=remedy)
    return choices


def _row_accuracy(row: CurveRow) -> Interval:
    """Accuracy of a row; without an interval in the file, the widest that so many questions allow."""
    mean = row.mean if row.mean is not None else math.nan
    if row.mean_low is not None and row.mean_high is not None:
        return Interval(mean, row.mean_low, row.mean_high)
    return proportion(mean, row.questions) if row.questions else UNKNOWN._replace(value=mean)


def average(intervals: Sequence[Interval]) -> Interval:
    """The mean of independent estimates; their half-widths add in quadrature."""
    if len(intervals) == 1:
        return intervals[0]
    value, low, high = np.array(intervals).T
    mean, n = float(value.mean()), len(intervals)
    return Interval(mean, mean - math.hypot(*(value - low)) / n, mean + math.hypot(*(high - value)) / n)


def _transition(
    rows: Sequence[CurveRow], samples: Sequence[Sample], tasks: Sequence[str], resamples: int, seed: int
) -> Transition:
    """Where thinking sets in, over the tasks."""
    parts = []
    for index, task in enumerate(tasks):
        options = {"resamples": resamples, "seed": seed + index}
        own = [s for s in samples if s.task == task]
        seen = from_samples(own, **options) if own else from_rows([r for r in rows if r.task == task], **options)
        parts.append(find_transition(seen))
    return pool(parts)


def _interpolated(measured: Sequence[Choice], transition: Transition | None) -> tuple[list[Choice], list[str]]:
    """λ between measured ones, from λ_off on (below, tokens go up and down), by monotone cubic pieces (PCHIP)."""
    if transition is None:
        return [], ["only measured points are considered: nothing is interpolated between them"]
    off = transition.off
    knots = [c for c in measured if off is not None and c.lam is not None and c.lam >= off.value]
    if off is None:
        return [], ["only measured λ are considered: where thinking is complete (λ_off) is not known"]
    if len(knots) < 2:
        return [], [f"only measured λ are considered: fewer than two lie beyond λ_off={off.value:.2f}"]
    if any(a.tokens.value >= b.tokens.value for a, b in pairwise(knots)):
        return [], [f"only measured λ are considered: beyond λ_off={off.value:.2f} tokens do not rise steadily with λ"]
    lams = [c.lam for c in knots if c.lam is not None]
    fine = np.round(np.arange(lams[0] + GRID_STEP, lams[-1], GRID_STEP), 6)
    fine = fine[~np.isclose(fine[:, None], lams).any(axis=1)]
    accuracy, tokens = (
        _pchip(lams, np.array(part), fine) for part in zip(*((c.accuracy, c.tokens) for c in knots), strict=True)
    )
    return [
        Choice(float(lam), Interval(*a.tolist()), Interval(*t.tolist()), "interpolated")
        for lam, a, t in zip(fine, accuracy, tokens, strict=True)
    ], []


def _pchip(lams: Sequence[float], known: Array, fine: Array) -> Array:
    """(F, 3) estimates with their ends at `fine` (F,), from those at `lams` (L, 3); a column with a NaN is all NaN."""
    from scipy.interpolate import PchipInterpolator  # 0.1 s and 10 MB, and few need it

    columns = [column if np.isnan(column).any() else PchipInterpolator(lams, column)(fine) for column in known.T]
    return np.column_stack([np.full(len(fine), np.nan) if np.isnan(c).any() else c for c in columns])


def _choose(
    goal: Goal, limit: float, measured: Sequence[Choice], between: Sequence[Choice]
) -> tuple[Choice | None, Choice]:
    """The choice, if any λ meets the budget, and the one that meets it or comes nearest."""
    if goal in BY_ACCURACY:
        best, inter = (
            min((c for c in of if c.accuracy.value >= limit), key=cheap, default=None) for of in (measured, between)
        )
        gain = best and inter and 1 - inter.tokens.value / best.tokens.value >= MIN_SAVING
        nearest = max(measured, key=_good)
    else:
        best, inter = (
            max((c for c in of if c.tokens.value <= limit), key=_good, default=None) for of in (measured, between)
        )
        gain = best and inter and inter.accuracy.value - best.accuracy.value >= MIN_GAIN
        nearest = min(measured, key=cheap)
    choice = inter if gain or best is None else best
    return choice, choice or nearest


def _good(c: Choice) -> tuple[float, float]:
    """Order by accuracy; of equals the one with fewer tokens is better."""
    return c.accuracy.value, -c.tokens.value


def _short(measured: Sequence[Choice], max_tokens_p95: float) -> list[Choice]:
    """Those whose long responses are short enough."""
    if any(math.isnan(c.tokens_p95) for c in measured):
        raise AnalysisError("a table does not say how long the longest responses are", remedy="give the run folder")
    short = [c for c in measured if c.tokens_p95 <= max_tokens_p95]
    if not short:
        least = min(measured, key=lambda c: c.tokens_p95)
        what = f"at every {least.kind} more than 5 % of responses exceed {max_tokens_p95:,.0f} tokens"
        raise AnalysisError(
            what, remedy=f"allow {least.tokens_p95:,.0f} at least: that is the 95th percentile at {least.name}"
        )
    return short


def _sure(choices: Sequence[Choice], goal: Goal, limit: float, confidence: float | None) -> list[Choice]:
    """Those that meet the budget with this confidence, by one-sided bounds of their means; all, where none is asked for."""
    if confidence is None:
        return list(choices)
    if not 0.5 <= confidence < 1:
        raise AnalysisError(f"a confidence between 0.5 and 1, not {confidence:g}", remedy="90 % is 0.9")
    if any(math.isnan(c.tokens.low) for c in choices):
        raise AnalysisError("no intervals of tokens to be confident by", remedy="give the run folder")
    reach = float(special.ndtri(confidence)) / Z95
    if goal in BY_ACCURACY:
        return [c for c in choices if c.accuracy.value - reach * (c.accuracy.value - c.accuracy.low) >= limit]
    return [c for c in choices if c.tokens.value + reach * (c.tokens.high - c.tokens.value) <= limit]


def _noise(
    measured: Sequence[Choice], samples: Sequence[Sample], tasks: Sequence[str], resamples: int, seed: int
) -> tuple[Array, Array] | None:
    """(R, L) noise of accuracy, and of tokens, over the measured λ; `None` without questions answered at all of them."""
    parts = []
    column = {c.key: i for i, c in enumerate(measured)}
    for number, task in enumerate(tasks):
        own = [s for s in samples if s.task == task and _key(s) in column and s.outcome is not Outcome.FAILED]
        row = {name: i for i, name in enumerate(dict.fromkeys(s.problem_id for s in own))}
        at = np.array([row[s.problem_id] * len(column) + column[_key(s)] for s in own], dtype=np.int64)
        added = (np.ones(len(own)), [s.score for s in own], [s.num_tokens for s in own])
        flat = [np.bincount(at, what, len(row) * len(column)) for what in added]
        sums = np.reshape(flat, (3, len(row), len(column)))
        whole = (sums[0] > 0).all(axis=1)
        if whole.sum() < 2:
            return None
        each = sums[1:, whole] / sums[0, whole]
        parts.append([noise(one, resamples, seed + number) for one in each])
    accuracy, tokens = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
    return accuracy, tokens


def _optimism(goal: Goal, limit: float, measured: Sequence[Choice], errors: tuple[Array, Array]) -> float:
    """What the accuracy of the λ chosen for this goal owes to having been chosen."""
    tokens = np.array([c.tokens.value for c in measured]) + errors[1]

    def pick(accuracy: Array) -> Indices:
        if goal in BY_ACCURACY:
            least = BALANCED * accuracy.max(axis=1, keepdims=True) if goal == "balanced" else limit
            return chosen(accuracy, tokens, least, math.inf, cheapest=True)
        return chosen(accuracy, tokens, -math.inf, limit, cheapest=False)

    return optimism(np.array([c.accuracy.value for c in measured]), errors[0], pick)


def _tied(
    shown: Choice,
    measured: Sequence[Choice],
    samples: Sequence[Sample],
    tasks: Sequence[str],
    errors: tuple[Array, Array] | None,
) -> tuple[tuple[Key, ...], Literal["paired", "unpaired", "unknown"], float]:
    """The other points whose accuracy cannot be told from the shown one's, how that was judged, and what could be seen."""
    others = [c for c in measured if c.key != shown.key]
    if errors is not None and shown.source == "measured":
        at: defaultdict[tuple[str, Key], list[Sample]] = defaultdict(list)
        for sample in samples:
            at[sample.task, _key(sample)].append(sample)
        tables = {key: columns_of(own) for key, own in at.items()}
        reach, seen, tied, detectable = critical(errors[0]), float(special.ndtri(POWER)), list[Key](), 0.0
        for c in others:
            changes = [difference(tables[task, shown.key], tables[task, c.key], resamples=2) for task in tasks]
            error = math.hypot(*(change.standard_error for change in changes)) / len(tasks)
            if abs(float(np.mean([change.value.value for change in changes]))) <= reach * error:
                tied.append(c.key)
                detectable = max(detectable, (reach + seen) * error)
        return tuple(tied), "paired", detectable or math.nan
    if math.isnan(shown.accuracy.low):
        return (), "unknown", math.nan
    return tuple(c.key for c in others if _overlap(shown.accuracy, c.accuracy)), "unpaired", math.nan


def _key(sample: Sample) -> Key:
    return sample.point if sample.lam is None else sample.lam


def _overlap(a: Interval, b: Interval) -> bool:
    """Whether two independent estimates differ by no more than their facing half-widths in quadrature."""
    lower, upper = sorted((a, b))
    return minus(upper, lower).low <= 0
