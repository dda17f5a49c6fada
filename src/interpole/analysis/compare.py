"""Two points, or more against one, compared in pairs by question: what differs, what could be seen, what it would take.

A difference that is not seen is not a proof of equality, so every comparison says the smallest difference that its
questions could have shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from interpole.analysis.intervals import interval_text
from interpole.analysis.metrics import SIGNIFICANCE, Difference, Estimand, difference, power_reach
from interpole.errors import AnalysisError
from interpole.formats import plain
from interpole.records import Sample

__all__ = ["Comparison", "compare", "holm", "needed", "to_json"]

MOST_SHOWN = 1.0  # points: no two shares differ by more


@dataclass(frozen=True, slots=True)
class Comparison:
    """Point `b` against point `a` on one task."""

    task: str
    a: str
    b: str
    accuracy: Difference
    tokens: Difference
    think: Difference
    p_adjusted: float  # of accuracy: two-sided, by Holm over all comparisons of this task; NaN: one question
    detectable: float  # difference in accuracy that is seen in 4 of 5 cases, as one of the comparisons of this task; NaN likewise
    verdict: str  # whether they differ, in words
    takes: str  # what this comparison can show, and what a smaller difference would take


def compare(
    samples: Sequence[Sample],
    points: Sequence[str],
    *,
    effect: float = 0.02,
    grading: str | None = None,
    estimand: Estimand = "like-these",
    resamples: int = 2000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every further point with the first, on each task that has both.

    Args:
        samples: of a run.
        points: two or more, by name or by λ.
        effect: the difference in accuracy that one would like to see, for `takes`.
        grading: see `metrics.measure`.
        estimand: see `metrics.measure`.
        resamples: bootstrap resamples of the questions.
        seed: of the bootstrap.

    Raises:
        AnalysisError: fewer than two points, a point that is not there, or no task that has both.
    """
    names = [_find(point, samples) for point in points]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise AnalysisError(f"{len(set(names))} different points of {len(names)}", remedy="name two or more, each once")
    found = []
    for task in dict.fromkeys(s.task for s in samples):
        at = {name: [s for s in samples if s.task == task and s.point == name] for name in names}
        for name in names[1:]:
            if at[names[0]] and at[name]:
                sides = at[names[0]], at[name]
                accuracy, tokens, think = (
                    difference(
                        *sides, metric=metric, grading=grading, estimand=estimand, resamples=resamples, seed=seed
                    )
                    for metric in ("mean", "tokens", "think")
                )
                forced = "".join(map(_forced, sides))
                found.append(
                    Comparison(
                        task=task,
                        a=names[0],
                        b=name,
                        accuracy=accuracy,
                        tokens=tokens,
                        think=think,
                        p_adjusted=math.nan,
                        detectable=math.nan,
                        verdict=forced,
                        takes="",
                    )
                )
    if not found:
        raise AnalysisError(f"no task has {names[0]!r} and another of the points", remedy="sweep them on one task")
    return [
        one
        for task in dict.fromkeys(one.task for one in found)
        for one in _judged([x for x in found if x.task == task], effect)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for being a family (Holm, Scandinavian Journal of Statistics 1979); NaN stay out of it.

    Whatever is true, the chance that any of those below a level is a false alarm stays below that level.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[i] = least
    return adjusted


def _judged(family: Sequence[Comparison], effect: float) -> list[Comparison]:
    """The comparisons of one task with their verdicts, as a family."""
    adjusted, num = holm([one.accuracy.p_value for one in family]), len(family)
    return [
        replace(
            one,
            p_adjusted=p,
            detectable=one.accuracy.detectable_as(num),
            verdict=_verdict(one.accuracy, p, num) + one.verdict,
            takes=_takes(one.accuracy, effect, p, num),
        )
        for one, p in zip(family, adjusted, strict=True)
    ]


def needed(change: Difference, effect: float, num: int = 1) -> tuple[int, float | None]:
    """What would show a difference of `effect` with 80 % power at 5 %, as one of `num` comparisons.

    The variance of a paired mean difference over Q questions is (between questions + within them / samples) / Q
    (Miller, arXiv 2411.00640, §5): questions shrink both parts, samples the second only.

    Returns:
        Questions like these with the samples each has; and by what factor the samples of these questions would have
        to grow instead: infinite where no number of them would do, `None` where not known (one sample each).
    """
    level, variance, questions = SIGNIFICANCE / num, change.standard_error**2, change.num_questions
    for _ in range(8):  # t of as many questions as it takes; it settles at once
        reach = power_reach(max(1, questions - 1), level)
        questions = math.ceil(change.num_questions * variance * (reach / effect) ** 2)
    wanted = (effect / power_reach(change.freedom, level)) ** 2
    if math.isnan(change.sampling_variance):
        return questions, None
    room = wanted - max(0.0, variance - change.sampling_variance)
    return questions, max(1.0, change.sampling_variance / room) if room > 0 else math.inf


def to_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Plain data, with the keys of `Comparison`; what is not known is null."""
    return [plain(asdict(comparison)) for comparison in comparisons]


def _forced(samples: Sequence[Sample]) -> str:
    """How many responses at a point count for Think #R because a budget closed their thought."""
    num = sum(s.budget_forced for s in samples)
    return f"; of {len(samples):,} responses at {samples[0].point}, {num:,} count as thinking by force" if num else ""


def _find(point: str, samples: Sequence[Sample]) -> str:
    """The name of a point that is given by name or by λ."""
    known = {s.point: s.lam for s in samples}
    if point in known:
        return point
    try:
        lam = float(point)
    except ValueError:
        lam = math.nan
    matches = [name for name, value in known.items() if value is not None and math.isclose(value, lam, abs_tol=1e-9)]
    if len(matches) != 1:
        what = f"several points at λ={lam:g}: {', '.join(matches)}" if matches else f"no point {point!r}"
        raise AnalysisError(what, remedy=f"name one of: {', '.join(known)}")
    return matches[0]


def _points(share: float) -> str:
    """A share in percentage points."""
    return f"{100 * share:.1f} points"


def _verdict(change: Difference, p_adjusted: float, num: int) -> str:
    """Whether accuracy differs, by the p value adjusted for `num` comparisons; the interval is of this one alone."""
    if math.isnan(change.value.low):
        return "one question cannot tell two points apart"
    span = f"{interval_text(change.value, 100, sign='+', unit=' points')}"
    if num > 1:
        span += f", p = {p_adjusted:.2g} by Holm over {num} comparisons"
    if p_adjusted >= SIGNIFICANCE:
        alone = "; alone it would seem to" if change.significant else ""
        return f"no difference seen between {change.a} and {change.b}: {span}{alone}"
    return f"{change.b} is {'better' if change.value.value > 0 else 'worse'} than {change.a}: {span}"


def _takes(change: Difference, effect: float, p_adjusted: float, num: int) -> str:
    """The smallest difference that these questions show, and what would show `effect`."""
    detectable = change.detectable_as(num)
    if math.isnan(detectable):
        return "one question shows no difference; ask more"
    text = f"{change.num_questions} questions "
    if detectable >= MOST_SHOWN:
        text += "are too few to count on seeing any difference"
    else:
        text += f"show a difference of {_points(detectable)} or more in 4 of 5 cases"
        text += f", as one of {num} comparisons" if num > 1 else ""
    if p_adjusted < SIGNIFICANCE and abs(change.value.value) < detectable:
        text += "; what was seen is less, so it is likely overstated"
    if detectable <= effect:
        return text
    questions, factor = needed(change, effect, num)
    text += f"; they cannot show {_points(effect)}, which would take about {questions:,} such questions"
    if factor is None:
        return f"{text} (whether more samples of these would do cannot be told from one sample each)"
    if math.isinf(factor):
        return f"{text}; more samples of these would not do"
    return f"{text}, or {factor:,.{0 if factor >= 10 else 1}f} × the samples of these"
