"""Measured beside printed: the difference of each number with its interval and a verdict, and what the paper claims.

A printed number is a sample too. Its own interval is that of a share in so many questions × samples, and the interval of the
difference is made of both (`intervals.minus`).

Where all of the paper's questions were asked at every point, both are about these questions, whose samples are independent.
Where fewer were, both are about questions like these, whose samples resemble each other. docs/paper.md says what this takes
for granted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from interpole.analysis.intervals import ALIKE, UNKNOWN, Interval, interval_text, minus, proportion, ratio_intervals
from interpole.analysis.metrics import Difference, Estimand, difference
from interpole.analysis.scoring import measured
from interpole.analysis.stages import find_stages
from interpole.analysis.tables import PointMetrics
from interpole.formats import plain
from interpole.paper.experiments import Claim, Experiment
from interpole.paper.printed import QUESTIONS, SAMPLES, Printed, sigmas
from interpole.paper.same import Matched
from interpole.records import Outcome, Sample, dial_name

__all__ = ["ComparedRow", "Heard", "Replication", "compare", "compare_sigmas", "to_json"]

GRADING = "paper"
ROUNDED = 0.00005  # σ is printed with four digits
ON, OFF = 0.05, 0.95  # Think #R before and after the transition

Verdict = Literal["agrees", "differs", "cannot tell", "not measured", "not compared"]
Answer = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One printed number with what was measured; lengths in tokens, all else as shares (σ as itself)."""

    task: str
    point: str
    statistic: str  # as the paper heads it
    printed: float
    measured: Interval | None = None
    difference: Interval | None = None  # measured − printed
    verdict: Verdict
    reason: str = ""  # why it cannot be told, or was not measured
    called: str = ""  # what the run calls the point, where that is another name


@dataclass(frozen=True, slots=True)
class Heard:
    """A claim of the paper, asked of one task of a run."""

    task: str
    claim: str
    verdict: Answer
    numbers: str


@dataclass(frozen=True, slots=True)
class Replication:
    """Everything that came of an experiment; no rows: none of its tasks was measured."""

    rows: tuple[ComparedRow, ...]
    claims: tuple[Heard, ...] = ()


class _Measured(NamedTuple):
    """One task of a run: its points by name, their samples, and which questions the intervals are about."""

    points: Mapping[str, PointMetrics]
    samples: Mapping[str, Sequence[Sample]]
    estimand: Estimand


def compare(
    one: Experiment,
    samples: Sequence[Sample],
    *,
    margin: float = 0.1,
    matched: Matched | None = None,
) -> Replication:
    """Hold a run against an experiment: against its numbers where it has the paper's tasks, and always against its claims.

    Args:
        one: the experiment; not Table 1 (`compare_sigmas`).
        samples: of the run. Where a task has the grading `paper`, it is scored by that.
        margin: a difference that includes 0 is told only by an interval that is no wider: a share, or a part of the printed
            length. A claim that two points are alike holds where the interval lies within ± half of it.
        matched: which points of the run are the printed ones (`same.matched`); None: those of their names.

    Raises:
        AnalysisError: samples of one point do not belong together.
    """
    asked = {sample.task for sample in samples}
    own = samples if matched is None else matched.renamed(samples)
    tasks = {task: _measure(task, found) for task, found in _by(own, "task").items()}
    empty = _Measured({}, {}, "like-these")
    rows = [_row(row, tasks.get(row.task, empty), margin) for row in one.rows if row.task in asked]
    if matched is not None:
        rows = [_as_matched(row, matched) for row in rows]
    claims = [_ask(claim, task, found, margin) for task, found in tasks.items() for claim in one.claims]
    return Replication(tuple(rows), tuple(heard for heard in claims if heard))


def compare_sigmas(measured: Mapping[tuple[str, str], float], *, others: bool = False) -> Replication:
    """Hold σ against Table 1; σ is no sample, so the difference is known to the last printed digit.

    Args:
        measured: σ by the names of two models, in the table's order.
        others: these are other models than the paper's.
    """
    rows, closest = [], ("Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507")
    for a, b, sigma in sigmas():
        row = partial(ComparedRow, task="weights", point=f"{a}, {b}", statistic="σ", printed=sigma)
        if (found := measured.get((a, b))) is None:
            rows.append(row(verdict="not measured", reason="no such model was named"))
            continue
        change = Interval(found - sigma, found - sigma - ROUNDED, found - sigma + ROUNDED)
        verdict: Verdict = "not compared" if others else "agrees" if change.includes(0) else "differs"
        reason = "the printed σ is of other models" if others else ""
        exact = Interval(found, found, found)
        rows.append(row(measured=exact, difference=change, verdict=verdict, reason=reason))
    apart = [sigma for names, sigma in measured.items() if len({*names} & {*closest}) == 1]
    if closest not in measured or not apart:
        return Replication(tuple(rows))
    least, own = min(apart), measured[closest]
    numbers = f"σ = {own:.4f}; of the others the least is {least:.4f}"
    claim = "Instruct and Thinking are closer to each other than to what they come from"
    return Replication(tuple(rows), (Heard("weights", claim, "holds" if own < least else "does not hold", numbers),))


def to_json(found: Replication) -> dict[str, Any]:
    """Plain data, with the keys of `Replication`; what is not known is null."""
    data: dict[str, Any] = plain(found)
    return data


def _by(samples: Sequence[Sample], field: str) -> dict[str, list[Sample]]:
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[getattr(sample, field)].append(sample)
    return dict(groups)


def _measure(task: str, samples: Sequence[Sample]) -> _Measured:
    asked = [{sample.problem_id for sample in group} for group in _by(samples, "point").values()]
    whole = all(len(problems) == QUESTIONS.get(task) for problems in asked)
    estimand: Estimand = "these" if whole else "like-these"
    grading = GRADING if any(GRADING in sample.grades for sample in samples) else None
    metrics, graded = measured(samples, grading, estimand=estimand)
    return _Measured({m.point: m for m in metrics}, _by(graded, "point"), estimand)


# ── rows ──


def _row(row: Printed, found: _Measured, margin: float) -> ComparedRow:
    """One printed number beside the measured one."""
    given = partial(ComparedRow, task=row.task, point=row.point, statistic=row.name, printed=row.value)
    point = found.points.get(row.point)
    if point is None or point.num_questions == 0:
        return given(verdict="not measured", reason="the run has no such point")
    value = _value(row, point, found)
    if isinstance(value, str):
        return given(verdict="not measured", reason=value)
    own = _printed_interval(row, value, point, found.estimand)
    change = minus(value, own)
    both = partial(given, measured=value, difference=change)
    scale = row.value if row.statistic == "tokens" else 1.0
    if math.isnan(change.low):
        return both(verdict="cannot tell", reason="one question has no interval")
    if not change.includes(0):
        return both(verdict="differs")
    if (change.high - change.low) / scale <= margin:
        return both(verdict="agrees")
    unit = "%" if row.statistic == "tokens" else "points"
    return both(verdict="cannot tell", reason=f"the interval is wider than {100 * margin:g} {unit}")


def _as_matched(row: ComparedRow, matched: Matched) -> ComparedRow:
    """With what the run calls the point, or why that of its name is another."""
    if what := matched.others.get((row.task, row.point)):
        return replace(row, verdict="not compared", reason=what)
    return replace(row, called=matched.called(row.task, row.point))


def _value(row: Printed, point: PointMetrics, found: _Measured) -> Interval | str:
    """The measured value, or why there is none."""
    if row.statistic == "pass" and len(point.pass_at) < row.k:
        return f"{row.name} needs {row.k} samples per question; there are {len(point.pass_at)}"
    if row.statistic == "vote" and point.k != row.k:
        return f"{row.name} is of {row.k} samples per question; there are {point.k}"
    if row.statistic == "vote" and point.vote is None:
        return "no answers to vote on"
    if row.statistic == "length":
        return _length(found, row.point)
    values = {"mean": point.mean, "vote": point.vote, "tokens": point.tokens, "think": point.think}
    value = point.pass_at[row.k - 1] if row.statistic == "pass" else values[row.statistic]
    return value or UNKNOWN


def _length(found: _Measured, point: str) -> Interval | str:
    """Tokens of a point as a share of Thinking's, on the questions that both answered."""
    thinking = found.samples.get(dial_name(1))
    if thinking is None:
        return f"the run has no point {dial_name(1)} to take the ratio to"
    sides = [_lengths(found.samples[point]), _lengths(thinking)]
    shared = [problem for problem in sides[0] if problem in sides[1]]
    top, bottom = (np.array([[side[problem]] for problem in shared]) for side in sides)
    return ratio_intervals(top, bottom, resamples=2000, seed=0)[0] if shared else "no question is answered at both"


def _lengths(samples: Sequence[Sample]) -> dict[str, float]:
    """Each question's mean number of tokens."""
    usable = [sample for sample in samples if sample.outcome is not Outcome.FAILED]
    return {name: float(np.mean([s.num_tokens for s in group])) for name, group in _by(usable, "problem_id").items()}


def _printed_interval(row: Printed, value: Interval, point: PointMetrics, estimand: Estimand) -> Interval:
    """How well a printed number is known: a share by its questions × samples, a length as relatively as the measured one."""
    questions, k = QUESTIONS[row.task], SAMPLES[row.task]
    if row.statistic in ("mean", "think"):
        return proportion(row.value, _trials(questions, k, estimand))
    if row.statistic in ("pass", "vote"):
        return proportion(row.value, questions)  # one outcome per question
    seen = _trials(point.num_questions, point.num_samples / point.num_questions, estimand)
    scale = math.sqrt(seen / _trials(questions, k, estimand)) * row.value / value.value if value.value else math.nan
    return Interval(
        row.value, row.value - scale * (value.value - value.low), row.value + scale * (value.high - value.value)
    )


def _trials(questions: int, samples: float, estimand: Estimand) -> float:
    """Independent trials that questions × samples are worth."""
    return questions * samples / (1.0 if estimand == "these" else 1 + (samples - 1) * ALIKE)


# ── claims ──


def _ask(claim: Claim, task: str, found: _Measured, margin: float) -> Heard | None:
    """What one task of a run says to a claim; None: it has no points to ask."""
    if claim.kind == "stages":
        return _ask_stages(claim, task, found)
    sides = [found.samples.get(point) for point in (claim.a, claim.b)]
    if not all(sides):
        return None
    change = difference(*(side or () for side in sides), metric=claim.statistic, estimand=found.estimand)
    scale, unit = (1, " tokens") if claim.statistic == "tokens" else (100, " points")
    numbers = f"{claim.b} − {claim.a}: {interval_text(change.value, scale, sign='+', unit=unit)}"
    if claim.statistic == "think":
        numbers = f"Think #R, {numbers}"
    verdict = _more(change) if claim.kind == "more" else _alike(change, margin / 2)
    return Heard(task, claim.words, verdict, numbers)


def _more(change: Difference) -> Answer:
    if not change.significant:
        return "cannot tell"
    return "holds" if change.value.value > 0 else "does not hold"


def _alike(change: Difference, reach: float) -> Answer:
    """Whether a difference is shown to be small, or shown to be one."""
    if change.value.low >= -reach and change.value.high <= reach:
        return "holds"
    return "does not hold" if change.significant else "cannot tell"


def _ask_stages(claim: Claim, task: str, found: _Measured) -> Heard | None:
    dial = sorted((m for m in found.points.values() if m.lam is not None), key=lambda m: m.lam or 0.0)
    if len(dial) < 2:
        return None
    first, last = dial[0].think, dial[-1].think
    stages = find_stages([sample for m in dial for sample in found.samples[m.point]])[0]
    numbers = f"{100 * first.value:.1f} % at λ = {dial[0].lam:g}, {100 * last.value:.1f} % at λ = {dial[-1].lam:g}"
    if stages.lambda_on and stages.lambda_off:
        numbers += f"; 5 % at λ = {stages.lambda_on.value:.2f}, 95 % at λ = {stages.lambda_off.value:.2f}"
    if first.value <= ON and last.value >= OFF:
        verdict: Answer = "holds"
    else:
        verdict = "does not hold" if first.low > ON or last.high < OFF else "cannot tell"
    return Heard(task, claim.words, verdict, numbers)
