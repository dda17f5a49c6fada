"""Study 1: which of the paper's findings hold in other architectures, over seeds: stages, thirds of the layers, modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interpole.lab.recipe import ARCHITECTURES, Body
from interpole.lab.studies import drawing
from interpole.lab.studies.bench import Bench, OffDial, change_rows, margin_rows, swept_rows, weight_rows
from interpole.lab.studies.study import Case, Hypothesis, Judgement, Row, Study, between, both, values
from interpole.merging.rules import ablation

__all__ = ["DEPTH", "STUDY", "WIDTH"]

WIDTH, DEPTH = 64, 3
LAM = 0.8
THIRDS = {
    "first third": "0", "second third": "1", "last third": "2", "first two thirds": "0-1", "last two thirds": "1-2",
}  # fmt: skip
POINTS = (
    *(OffDial(name, {"lambda": LAM, "rules": ablation(layers)}) for name, layers in THIRDS.items()),
    *(OffDial(f"without {part}", {"lambda": LAM, "rules": ablation(skip=[part])}) for part in ("attention", "ffn")),
)
CHANGES = (
    ("λ=0", "λ=0.2"),
    ("λ=0.2", "λ=0.8"),
    ("λ=1", "λ=0.8"),
    ("first two thirds", "last two thirds"),
    ("first third", "last third"),
    ("second third", "last third"),
    ("without ffn", "without attention"),
    ("λ=0.8", "without attention"),
)


def _cases(num_seeds: int) -> list[Case]:
    """Every architecture with every seed; a seed of all before the next, so that a study that is stopped has whole seeds."""
    return [Case(Body(arch, WIDTH, DEPTH), seed) for seed in range(num_seeds) for arch in ARCHITECTURES]


def _measure(bench: Bench, case: Case) -> list[Row]:
    """A sweep of the dial and of parts of the model, and forward passes."""
    samples = bench.sweep(case, POINTS)
    found = [
        *weight_rows(case, bench),
        *swept_rows(case, samples),
        *change_rows(case, samples, CHANGES),
        *margin_rows(case, bench.asked(case), bench.size.forward_lambdas),
    ]
    measured, said = values(found, "sweep", "mid"), values(found, "margins", "mid")
    return [
        *found,
        *(Row.of(case, "predict", "error of λ50", said[pair].value - measured[pair].value) for pair in measured),
    ]


def _alike(rows: Sequence[Row]) -> Judgement:
    """Whether the families' mean λ50 lie close together."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if (row.point, row.statistic) == ("margins", "mid"):
            groups.setdefault(row.arch, []).append(row.value)
    means = {arch: sum(found) / len(found) for arch, found in groups.items()}
    if len(means) < 2:
        return Judgement("cannot tell", "fewer than two families")
    apart = max(means.values()) - min(means.values())
    said = ", ".join(f"{arch} {mean:.3f}" for arch, mean in means.items())
    return Judgement("holds" if apart <= 0.1 else "does not hold", f"{apart:.3f} apart: {said}")


def _figure(rows: Sequence[Row]) -> Any:
    """Think #R over λ of every pair, a panel for each family, and the parts below."""
    return drawing.stacked(
        drawing.dial(rows, "think", "Think #R (%) over λ, a line for each seed"),
        drawing.dial(rows, "mean", "Mean@k (%) over λ"),
        drawing.bars(rows, [point.name for point in POINTS], "think", "Think #R (%) of parts of the model at λ = 0.8"),
    )


STUDY = Study(
    name="families",
    title="The three stages, thirds and modules in five architectures",
    hypotheses=(
        Hypothesis("ends", "Think #R is at most 5 % at λ = 0.2", between("λ=0.2", "think", high=0.05, scale=100, unit=" %")),
        Hypothesis(
            "saturation", "Think #R is at least 95 % at λ = 0.8",
            between("λ=0.8", "think", low=0.95, scale=100, unit=" %"),
        ),
        Hypothesis("narrow", "Think #R goes from 5 % to 95 % within 0.4 of λ", between("sweep", "width", high=0.4)),
        Hypothesis("middle", "λ50 lies between 0.35 and 0.6", between("sweep", "mid", 0.35, 0.6)),
        Hypothesis("alike", "the families' mean λ50 (three seeds each) lie within 0.1 of each other", _alike),
        Hypothesis(
            "stage 1", "before thinking sets in, accuracy does not rise: λ = 0.2 is at most 3 points above Instruct",
            between("λ=0 → λ=0.2", "mean", high=0.03, scale=100, unit=" points"),
        ),
        Hypothesis(
            "stage 2", "accuracy rises with thinking: λ = 0.8 is at least 10 points above λ = 0.2",
            between("λ=0.2 → λ=0.8", "mean", low=0.1, scale=100, unit=" points"),
        ),
        Hypothesis(
            "stage 3, accuracy", "λ = 0.8 is within 5 points of Thinking",
            between("λ=1 → λ=0.8", "mean", -0.05, 0.05, scale=100, unit=" points"),
        ),
        Hypothesis(
            "stage 3, tokens", "λ = 0.8 takes at least 5 % fewer tokens than Thinking",
            between("λ=1 → λ=0.8", "tokens", high=-0.05, scale=100, unit=" %"),
        ),
        Hypothesis(
            "two thirds", "the last two thirds think at least 10 points more often than the first two",
            between("first two thirds → last two thirds", "think", low=0.1, scale=100, unit=" points"),
        ),
        Hypothesis(
            "last third", "the last third alone does not think less often than the first or the second alone",
            both(
                between("first third → last third", "think", low=0.0, scale=100, unit=" points"),
                between("second third → last third", "think", low=0.0, scale=100, unit=" points"),
            ),
        ),
        Hypothesis(
            "FFN", "without the FFN Think #R is at least 20 points lower than without attention",
            between("without ffn → without attention", "think", low=0.2, scale=100, unit=" points"),
        ),
        Hypothesis(
            "attention", "without attention accuracy at λ = 0.8 is lower",
            between("λ=0.8 → without attention", "mean", high=0.0, scale=100, unit=" points"),
        ),
        Hypothesis(
            "predict", "λ50 by forward passes over the same questions is within 0.03 of the sweep's",
            between("predict", "error of λ50", -0.03, 0.03),
        ),
    ),
    cases=_cases, measure=_measure, figure=_figure,
    shown={
        ("weights", "sigma"): "σ", ("sweep", "mid"): "λ50", ("margins", "mid"): "λ50, predicted", ("λ=0", "mean"): "Mean@k, λ=0",
        ("λ=0.2", "mean"): "λ=0.2", ("λ=0.8", "mean"): "λ=0.8", ("λ=1", "mean"): "λ=1", ("λ=0.8", "tokens"): "tokens, λ=0.8",
        ("λ=1", "tokens"): "λ=1", ("first third", "think"): "Think #R, first third", ("second third", "think"): "second",
        ("last third", "think"): "last", ("first two thirds", "think"): "first two", ("last two thirds", "think"): "last two",
        ("without attention", "think"): "without attention", ("without ffn", "think"): "without FFN",
    },
)  # fmt: skip
