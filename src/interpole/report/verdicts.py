"""What a run says, in words: where thinking sets in, which λ to use, where it over-thinks, what went wrong.

Every sentence carries its numbers with their 95 % intervals; the tests behind them are those of `stages` and
`metrics`, nothing is estimated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import isnan
from types import MappingProxyType
from typing import Literal

from interpole.analysis.choices import Key, spelt
from interpole.analysis.intervals import Interval, interval_text
from interpole.analysis.recommend import recommend
from interpole.analysis.stages import POOLED, Stages, find_stages, step
from interpole.analysis.tables import CurveRow, PointMetrics
from interpole.records import Sample
from interpole.report.figures import Band
from interpole.runs.simplex import Simplex

__all__ = ["Verdict", "bands", "stages_of", "verdicts"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding: a headline, the sentence that holds it up, how it is meant, and the command that acts on it."""

    kind: Literal["stages", "use", "cost", "warning"]
    task: str
    headline: str
    text: str
    command: str = ""


def stages_of(
    data: Sequence[Sample] | Sequence[CurveRow], metrics: Sequence[PointMetrics] | None = None
) -> list[Stages]:
    """The stages of samples or rows; none where nothing lies on the dial. `metrics`: of the samples, where they are known."""
    return find_stages(data, metrics=metrics) if any(one.lam is not None for one in data) else []


def bands(stages: Sequence[Stages]) -> list[Band]:
    """Where to shade stage 2: between the fitted 5 % and 95 % of Think #R, else between the swept λ around it."""
    found = []
    for s in stages:
        if s.lambda_on and s.lambda_off:
            found.append(Band(s.task, s.lambda_on.value, s.lambda_off.value))
        elif s.stage2:
            found.append(Band(s.task, *s.stage2))
    return found


def verdicts(
    metrics: Sequence[PointMetrics],
    stages: Sequence[Stages],
    samples: Sequence[Sample],
    seed: int = 0,
    sources: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    simplexes: Mapping[str, Simplex] = MappingProxyType({}),
) -> list[Verdict]:
    """All that can be said of a run, per task; pooled stages only where there are several tasks.

    Args:
        metrics: all measured points.
        stages: of the same tasks, and pooled.
        samples: of the same points.
        seed: of the resampling.
        sources: Instruct and Thinking of each task whose dial is their plain merge, for the command that makes it.
        simplexes: of the tasks that were asked at points of one.
    """
    tasks = list(dict.fromkeys(m.task for m in metrics))
    found = []
    for task in [*tasks, *([POOLED] if len(tasks) > 1 else [])]:
        own = next((s for s in stages if s.task == task), None)
        found += [_stages(own)] if own else []
        found += _use(task, metrics, samples, seed, sources.get(task))
        found += _use(task, metrics, samples, seed, None, simplexes[task]) if task in simplexes else []
        found += _cost(own, samples, seed) if own else []
        found += (
            [
                Verdict("warning", task, s.name.capitalize(), f"{s.numbers}. {_sentence(s.remedy)}")
                for s in own.signatures
            ]
            if own
            else []
        )
    return found


def _stages(stages: Stages) -> Verdict:
    """Where thinking sets in."""
    on, mid, off = stages.lambda_on, stages.lambda_mid, stages.lambda_off
    if not (on and mid and off):
        reason = stages.refusal or "the boundaries are outside the swept λ"
        return Verdict("warning", stages.task, "No transition was found", _sentence(reason))
    text = (
        f"5 % of responses think at λ = {_lam(on)}, half at {_lam(mid)}, 95 % at {_lam(off)}. Below, the model answers "
        "like Instruct; above, it thinks."
    )
    if stages.stage2:
        text += f" On the swept grid: between {stages.stage2[0]:g} and {stages.stage2[1]:g}."
    if stages.method == "bracket":
        text += " No curve could be fitted: the brackets hold the swept λ around them, bounds and no 95 % intervals."
    return Verdict("stages", stages.task, f"Thinking switches on between λ = {on.value:.2f} and {off.value:.2f}", text)


def _use(
    task: str,
    metrics: Sequence[PointMetrics],
    samples: Sequence[Sample],
    seed: int,
    sources: tuple[str, str] | None,
    simplex: Simplex | None = None,
) -> list[Verdict]:
    """The most accurate λ, or the cheapest that cannot be told from it; or the point of a simplex."""
    mine = [m for m in metrics if m.task == task and m.num_questions]
    at: dict[Key, PointMetrics] = (
        {m.point: m for m in mine if m.point in simplex.points}
        if simplex
        else {m.lam: m for m in mine if m.lam is not None}
    )
    own = [s for s in samples if s.task == task and (s.point if simplex else s.lam) in at]
    if len(at) < 2 or not own:
        return []
    best = recommend(own, metrics=metrics, seed=seed, sources=sources or ("INSTRUCT", "THINKING"), simplex=simplex)
    command = best.command if sources else ""
    if best.choice is None:
        return []
    top = at.get(best.choice.key)
    if top is None:
        what = f"{_sentence(best.why)} It lies between measured λ and was never run: measure it first."
        return [Verdict("use", task, best.headline or f"λ = {best.lam:g}", what, command)]
    what = f"{best.choice.key}: " if simplex else ""
    what += f"Mean@{top.k} {_percent(top.mean)} for {_tokens(top.tokens)} tokens a response."
    if best.expected and best.optimism and best.optimism >= 0.0005:
        what += (
            f" Corrected for having been chosen as the best of several: {_percent(best.expected)}, "
            f"{100 * best.optimism:.1f} points less."
        )
    cheaper = [key for key in best.tied if at[key].tokens.value < top.tokens.value]
    if cheaper:
        key = min(cheaper, key=lambda one: at[one].tokens.value)
        m = at[key]
        saving = 1 - m.tokens.value / top.tokens.value
        what += f" {spelt(key)} cannot be told from it and needs {saving:.0%} fewer tokens: {_percent(m.mean)}."
    if best.tied and not isnan(best.detectable) and not best.headline.startswith("No winner"):  # which says it
        what += f" Differences below {100 * best.detectable:.1f} points would go unseen."
    return [Verdict("use", task, best.headline, what, command)]


def _cost(stages: Stages, samples: Sequence[Sample], seed: int) -> list[Verdict]:
    """Over-thinking from where it starts to the last λ, or that it cannot be told."""
    single = [one for one in stages.steps if not any(one.lam < other.to < one.to for other in stages.steps)]
    late = list(takewhile(lambda one: one.verdict == "over-thinking", reversed(single)))
    if not samples or not single:
        return []
    if not late:
        whole = stages.steps[-1]
        text = _sentence(whole.words)
        open_ = "Whether it over-thinks cannot be told" if whole.verdict == "undetermined" else ""
        return [Verdict("cost", stages.task, open_, text)] if open_ else []
    start, end = late[-1].lam, late[0].to
    by_lam = {lam: [s for s in samples if s.task == stages.task and s.lam == lam] for lam in (start, end)}
    found = step(start, end, by_lam, margin=late[0].margin, seed=seed)
    return [Verdict("cost", stages.task, f"Beyond λ = {start:g} it over-thinks", _sentence(found.words))]


def _percent(interval: Interval) -> str:
    """`62.5 % [55.0, 70.1]`; without ends where they are not known."""
    return interval_text(interval, 100, unit=" %")


def _points(interval: Interval) -> str:
    """`−0.3 points [−2.0, 1.4]`: a difference of shares."""
    return interval_text(interval, 100, sign="+", unit=" points").replace("-", "−")


def _tokens(interval: Interval) -> str:
    """`1,234 [1,100, 1,380]`; one decimal below 100."""
    return interval_text(interval, digits=0 if abs(interval.value) >= 100 else 1)


def _lam(interval: Interval) -> str:
    return interval_text(interval, digits=2)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
