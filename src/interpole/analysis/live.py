"""Policies that a sweep has followed, beside what the same choices come to when they are scored from its static samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from interpole.analysis.fitting import Cells, given
from interpole.analysis.hull import Means
from interpole.analysis.intervals import (
    UNKNOWN,
    Array,
    Interval,
    change_interval,
    interval_text,
    ratio_intervals,
    share_interval,
)
from interpole.analysis.metrics import score_of
from interpole.analysis.policies import FittedPolicy, LambdaChoice, Probe
from interpole.analysis.rivals import beyond, folds, rivals_of
from interpole.records import Outcome, Sample
from interpole.runs.runfile import RunFile

__all__ = ["Live", "followed", "live_points"]

FEWEST_QUESTIONS = 10
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Live:
    """A point that is a policy. Intervals are over the questions that were answered there and at every static λ."""

    point: str
    num_questions: int
    num_samples: int  # of a question, at most
    lams: Mapping[float, float]  # λ that answered → share of the responses
    accuracy: Interval
    tokens: Interval
    scored_accuracy: Interval  # of the same choices, from the static samples; unknown where the run lacks one of the λ
    scored_tokens: Interval
    change: Interval  # live less scored, question by question
    gain: Interval  # beyond what static λ and their mixes reach at these tokens, the hull being that of other questions
    verdict: str


def followed(run: RunFile) -> dict[str, FittedPolicy]:
    """The points of a run that are policies."""
    return {
        entry.point: FittedPolicy.of(entry.asking["policy"], entry.point)
        for entry in run.current
        if "policy" in entry.asking
    }


def live_points(
    samples: Iterable[Sample],
    policies: Mapping[str, FittedPolicy],
    cells: Cells,
    weights: Array,
    *,
    grading: str | None = None,
    seed: int = 0,
) -> tuple[Live, ...]:
    """Every policy that was followed, in the order of `policies`; left out is one with fewer than ten questions in common.

    Args:
        samples: of a sweep.
        policies: by point (`followed`).
        cells: its static samples.
        weights: (Q,) of their questions.
        grading: as in `measure`.
        seed: of folds and resamples.
    """
    of_point: dict[str, dict[tuple[str, str], list[Sample]]] = {name: {} for name in policies}
    for one in samples:
        if one.point in of_point and one.outcome is not Outcome.FAILED:
            of_point[one.point].setdefault((one.task, one.problem_id), []).append(one)
    found = []
    for name, policy in policies.items():
        rows = np.array([i for i, key in enumerate(cells.keys) if key in of_point[name]], dtype=np.intp)
        if len(rows) >= FEWEST_QUESTIONS:
            here, part = cells.take(rows), weights[rows] / weights[rows].sum()
            answered = [of_point[name][key] for key in here.keys]
            found.append(
                _live(name=name, policy=policy, answered=answered, cells=here, weights=part, grading=grading, seed=seed)
            )
    return tuple(found)


def _live(
    name: str,
    policy: FittedPolicy,
    answered: list[list[Sample]],
    cells: Cells,
    weights: Array,
    grading: str | None,
    seed: int,
) -> Live:
    mine = Means(
        np.array([np.mean([score_of(s, grading) for s in one]) for one in answered]),
        np.array([np.mean([s.num_tokens for s in one]) for one in answered]),
    )
    chosen = Counter(s.chosen_lam for one in answered for s in one if s.chosen_lam is not None)
    k = max(len(one) for one in answered)
    gained = [beyond(mine, cells, weights, rivals_of(cells, weights, parts))[1] for parts in folds(len(cells), seed)]
    live = Live(
        point=name,
        num_questions=len(cells),
        num_samples=k,
        lams={lam: chosen[lam] / chosen.total() for lam in sorted(chosen)},
        accuracy=_share(mine.accuracy, weights, k),
        tokens=_tokens(mine.tokens, weights, seed),
        scored_accuracy=UNKNOWN,
        scored_tokens=UNKNOWN,
        change=UNKNOWN,
        gain=_change(np.mean(gained, axis=0), weights, k),
        verdict="nothing to hold it against: the run has no static point at one of its λ",
    )
    rule = policy.rule
    choices = [
        LambdaChoice(rule.first, rule.then) if isinstance(rule, Probe) else LambdaChoice((_lam_of(one),))
        for one in answered
    ]
    if not {lam for first, then in choices for lam in (*first, then) if lam is not None} <= set(cells.lams.tolist()):
        return live
    scored = given(cells, choices)
    live = replace(
        live,
        scored_accuracy=_share(scored.accuracy, weights, cells.scores.shape[2]),
        scored_tokens=_tokens(scored.tokens, weights, seed),
        change=_change(mine.accuracy - scored.accuracy, weights, min(k, cells.scores.shape[2])),
    )
    return replace(live, verdict=_verdict(live))


def _lam_of(answered: list[Sample]) -> float:
    """The λ that a question was asked at."""
    return next((s.chosen_lam for s in answered if s.chosen_lam is not None), math.nan)


def _verdict(live: Live) -> str:
    """Whether what was measured is what was scored."""
    inside = live.scored_accuracy.includes(live.accuracy.value)
    place = "in the interval" if inside else "outside of the interval"
    scored = interval_text(live.scored_accuracy, 100, unit=" %")
    alike = "" if live.change.includes(0.0) else ", which is not chance"
    return (
        f"followed: {100 * live.accuracy.value:.1f} % at {live.tokens.value:,.1f} tokens, {place} of what it was scored at: "
        f"{scored} at {live.scored_tokens.value:,.1f} tokens; question by question "
        f"{interval_text(live.change, 100, sign='+', unit=' points')}{alike}"
    )


def _weighed(values: Array, weights: Array) -> Array:
    """Values whose plain mean is the weighted one: each task weighs the same."""
    return values * weights * len(weights)


def _share(values: Array, weights: Array, num_samples: int) -> Interval:
    if np.allclose(weights, weights[0]):
        return share_interval(values, num_samples)
    return change_interval(_weighed(values, weights), num_samples).interval


def _change(values: Array, weights: Array, num_samples: int) -> Interval:
    return change_interval(_weighed(values, weights), num_samples).interval


def _tokens(values: Array, weights: Array, seed: int) -> Interval:
    return ratio_intervals((values * weights)[:, None], weights[:, None], resamples=RESAMPLES, seed=seed)[0]
