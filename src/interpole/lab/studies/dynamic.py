"""Study 4: does choosing λ by the question pay, on every pair that the other studies have swept?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from interpole.analysis.intervals import minus
from interpole.analysis.policies import MARGIN
from interpole.analysis.routing import route
from interpole.lab.studies import drawing, families, overlap
from interpole.lab.studies.bench import Bench
from interpole.lab.studies.study import Case, Hypothesis, Judge, Judgement, Row, Study, Word, between

__all__ = ["STUDY"]

SHARE = 0.75
BY_MARGIN = f"by {MARGIN}"
POLICIES = (
    "by difficulty", "by length", "logistic", "two modes", BY_MARGIN, "cascade", "ends disagree", "oracle",
)  # fmt: skip


def _cases(num_seeds: int) -> list[Case]:
    """The pairs that other studies sweep; those that are not there yet are swept here in the same way."""
    return [case for study in (families.STUDY, overlap.STUDY) for case in study.cases(num_seeds)]


def _measure(bench: Bench, case: Case) -> list[Row]:
    """The gain of every policy over the hull of static λ at equal tokens, and whether it is told from none."""
    samples = bench.sweep(case, families.POINTS if case.common is None else overlap.POINTS)
    asked = bench.asked(case)
    (task,) = asked.tasks
    lam = min(bench.size.forward_lambdas, key=lambda one: abs(asked.share(one, asked.tasks[task]) - 0.5))
    margins = {
        (task, prompt.question): chance.margin for prompt, chance in zip(asked.prompts, asked.at(lam), strict=True)
    }
    found = []
    for one in route(samples, numbers={MARGIN: margins}).policies:
        told = one.p_adjusted < 0.05
        found.append(Row.of(case, one.name, "gain", one.gain))
        found.append(Row.of(case, one.name, "beats static λ", float(told and one.gain.value > 0)))
    gains = {row.point: row.interval for row in found if row.statistic == "gain"}
    if {"logistic", "two modes"} <= gains.keys():
        found.append(Row.of(case, "logistic − two modes", "gain", minus(gains["logistic"], gains["two modes"])))
    return found


def _often(point: str, share: float) -> Judge:
    """In at least such a share of the pairs the policy beats every static λ, told by itself."""

    def judge(rows: Sequence[Row]) -> Judgement:
        told = [row.value for row in rows if (row.point, row.statistic) == (point, "beats static λ")]
        if not told:
            return Judgement("cannot tell", "not measured")
        word: Word = "holds" if sum(told) >= share * len(told) else "does not hold"
        return Judgement(word, f"in {sum(told):.0f} of {len(told)} pairs")

    return judge


def _gain(point: str, low: float = -math.inf, high: float = math.inf) -> Judge:
    return between(point, "gain", low, high, scale=100, unit=" points")


def _figure(rows: Sequence[Row]) -> Any:
    """The gain of every policy on every pair."""
    return drawing.strips(rows, POLICIES, "gain", "Gain over static λ at equal tokens, in points; one mark per pair")


STUDY = Study(
    name="dynamic",
    title="Does choosing λ by the question pay?",
    hypotheses=(
        Hypothesis(
            "difficulty",
            "a λ for each difficulty beats every static λ and every mix of two in at least three quarters of the pairs",
            _often("by difficulty", SHARE),
        ),
        Hypothesis("logistic", "so does a logistic model on length and figures", _often("logistic", SHARE)),
        Hypothesis(
            "two modes", "the two-mode router gains less than the same model over all λ", _gain("logistic − two modes", low=0.0),
        ),
        Hypothesis("margin", "the first token's margin gains nothing", _gain(BY_MARGIN, high=0.0)),
        Hypothesis(
            "cascade", "a cascade gains nothing: cheap answers are wrong in the same way twice", _gain("cascade", high=0.0),
        ),
        Hypothesis("disagreement", "asking both ends first costs at least 10 points", _gain("ends disagree", high=-0.1)),
        Hypothesis("oracle", "each question's own best λ, seen in half of its samples, gains", _gain("oracle", low=0.0)),
    ),
    cases=_cases, measure=_measure, figure=_figure,
    shown={(name, "gain"): name for name in POLICIES},
    by=("arch", "common"),
)  # fmt: skip
