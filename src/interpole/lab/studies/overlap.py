"""Study 3: does it matter whether Instruct and Thinking learned from the same questions? Interpolation beside task arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interpole.lab.recipe import Body
from interpole.lab.studies import drawing
from interpole.lab.studies.bench import Bench, OffDial, change_rows, margin_rows, swept_rows, weight_rows
from interpole.lab.studies.families import DEPTH, WIDTH
from interpole.lab.studies.study import Case, Hypothesis, Row, Study, between, contrast

__all__ = ["STUDY"]

COMMON = (0.0, 0.5, 1.0)
WEIGHTS = (0.7, 1.0)


def _sum(weight: float) -> OffDial:
    """Task arithmetic: the base and so much of both task vectors."""
    weights = {"instruct": weight, "thinking": weight}
    return OffDial(f"sum {weight:g}", {"method": "task_arithmetic", "weights": weights})


POINTS = tuple(map(_sum, WEIGHTS))


def _cases(num_seeds: int) -> list[Case]:
    """Three shares of common questions, with every seed."""
    return [Case(Body("qwen3", WIDTH, DEPTH), seed, common=share) for seed in range(num_seeds) for share in COMMON]


def _measure(bench: Bench, case: Case) -> list[Row]:
    """A sweep of the dial and the sums of task vectors, and forward passes."""
    samples = bench.sweep(case, POINTS)
    return [
        *weight_rows(case, bench),
        *swept_rows(case, samples),
        *change_rows(case, samples, [("λ=0.5", "sum 0.7"), ("λ=0.5", "sum 1")]),
        *margin_rows(case, bench.asked(case), bench.size.forward_lambdas),
    ]


def _figure(rows: Sequence[Row]) -> Any:
    """Think #R and accuracy of dial and sums, a colour for each share of common questions."""
    return drawing.stacked(
        drawing.dial(rows, "think", "Think #R (%) over λ, by the share of common questions", by="common"),
        drawing.dial(rows, "mean", "Mean@k (%) over λ", by="common"),
        drawing.bars(rows, [point.name for point in POINTS], "mean", "Mean@k (%) of sums of task vectors", by="common"),
    )


def _apart(point: str, statistic: str, low: float, high: float) -> Any:
    """All questions in common against none."""
    return contrast("common", 0.0, 1.0, between(point, statistic, low, high, scale=100, unit=" points"))


STUDY = Study(
    name="overlap",
    title="Instruct and Thinking fine-tuned on the same questions, on half of them, or on others",
    hypotheses=(
        Hypothesis(
            "equal σ", "at equal steps σ differs by at most 0.005 between all and none in common",
            contrast("common", 0.0, 1.0, between("weights", "sigma", -0.005, 0.005)),
        ),
        Hypothesis(
            "stages", "λ50 by forward passes differs by at most 0.05",
            contrast("common", 0.0, 1.0, between("margins", "mid", -0.05, 0.05)),
        ),
        Hypothesis(
            "accuracy on the dial", "accuracy at λ = 0.8 differs by at most 10 points", _apart("λ=0.8", "mean", -0.1, 0.1),
        ),
        Hypothesis(
            "shared directions", "the cosine of the two task vectors is larger by at least 0.05 with all in common",
            contrast("common", 0.0, 1.0, between("weights", "cosine", low=0.05)),
        ),
        Hypothesis(
            "sums, accuracy", "the sum of both whole task vectors is at least 10 points less accurate with all in common",
            _apart("sum 1", "mean", -1.0, -0.1),
        ),
        Hypothesis(
            "sums, thinking", "Think #R of that sum differs by at most 10 points", _apart("sum 1", "think", -0.1, 0.1),
        ),
        Hypothesis(
            "sums beside the dial", "whatever is in common, the whole sum is not less accurate than λ = 0.5",
            between("λ=0.5 → sum 1", "mean", low=0.0, by="common", scale=100, unit=" points"),
        ),
    ),
    cases=_cases, measure=_measure, figure=_figure,
    shown={
        ("weights", "sigma"): "σ", ("weights", "cosine"): "cosine", ("margins", "mid"): "λ50",
        ("λ=0.5", "think"): "Think #R, λ=0.5",
        ("λ=0.5", "mean"): "Mean@k, λ=0.5", ("λ=0.8", "mean"): "λ=0.8", ("λ=1", "mean"): "λ=1", ("sum 0.7", "mean"): "sum 0.7",
        ("sum 1", "mean"): "sum 1", ("sum 0.7", "think"): "Think #R, sum 0.7", ("sum 1", "think"): "sum 1",
    },
    by=("common",),
)  # fmt: skip
