"""Study 2: why λ50 shifts with size. By forward passes alone: width × depth × seeds, and the dose of either fine-tune."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy import stats

from interpole.analysis.intervals import Interval, interval_text
from interpole.lab.recipe import Body
from interpole.lab.studies import drawing
from interpole.lab.studies.bench import Bench, margin_rows, weight_rows
from interpole.lab.studies.study import Case, Hypothesis, Judgement, Row, Study, between, contrast, values, within

__all__ = ["STUDY"]

BODIES = tuple(Body("qwen3", width, depth) for width, depth in ((64, 3), (32, 3), (32, 6), (64, 6)))
DOSES = (0.5, 1.0, 2.0)
SEEDS = 2  # of three, for the larger bodies cost most


def _cases(num_seeds: int) -> list[Case]:
    """Every body with every pair of doses."""
    return [
        Case(body, seed, instruct, thinking)
        for seed, body, instruct, thinking in product(range(min(num_seeds, SEEDS)), BODIES, DOSES, DOSES)
    ]


def _measure(bench: Bench, case: Case) -> list[Row]:
    """Forward passes."""
    return [*weight_rows(case, bench), *margin_rows(case, bench.asked(case), bench.size.forward_lambdas)]


def _size_alone(rows: Sequence[Row]) -> Judgement:
    """Whether what the ends' margins and the bend leave of λ50 has to do with the number of parameters."""
    left, sizes = values(rows, "margins", "mid − curved"), values(rows, "weights", "parameters")
    pairs = [pair for pair in left if not math.isnan(left[pair].value)]
    x = np.array([math.log2(sizes[pair].value) for pair in pairs])
    if len(set(x.tolist())) < 3:
        return Judgement("cannot tell", "fewer than three sizes")
    fit = stats.linregress(x, np.array([left[pair].value for pair in pairs]))
    bodies = len({pair[:4] for pair in pairs})  # doses of one body are no new bodies
    reach = float(stats.t.ppf(0.975, bodies - 2)) * float(fit.stderr) * math.sqrt(len(pairs) / bodies)
    slope = Interval(float(fit.slope), float(fit.slope) - reach, float(fit.slope) + reach)
    return Judgement(within(slope, -0.01, 0.01), f"{interval_text(slope, 1, 4, '+')} per doubling")


def _straighter(rows: Sequence[Row]) -> Judgement:
    """Whether, in each body, the dose pairs with the larger σ bend more."""
    bends, sigmas = values(rows, "margins", "size of bend"), values(rows, "weights", "sigma")
    bodies: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for pair, bend in bends.items():
        bodies.setdefault(pair[1:4], []).append((sigmas[pair].value, bend.value))
    found = {
        body: float(stats.spearmanr(*zip(*points, strict=True)).statistic)
        for body, points in bodies.items()
        if len(points) >= 5
    }
    if not found:
        return Judgement("cannot tell", "fewer than five dose pairs of any body")
    said = ", ".join(f"w{width} d{depth} s{seed} {rho:+.2f}" for (width, depth, seed), rho in found.items())
    return Judgement("holds" if min(found.values()) >= 0.5 else "does not hold", said)


def _figure(rows: Sequence[Row]) -> Any:
    """λ50 against what the ends' margins make it, and the bend against σ."""
    return drawing.beside(
        drawing.scatter(
            rows, ("margins", "chord"), ("margins", "mid"), "λ50 against |m0| / (|m0| + |m1|)", diagonal=True
        ),
        drawing.scatter(
            rows, ("margins", "curved"), ("margins", "mid"), "λ50 against the parabola's root", diagonal=True
        ),
        drawing.scatter(rows, ("weights", "sigma"), ("margins", "bend"), "bend of the margin against σ"),
    )


STUDY = Study(
    name="scale",
    title="Why λ50 shifts: width, depth, and the doses of both fine-tunes",
    hypotheses=(
        Hypothesis(
            "ends", "λ50 lies within 0.05 of |m₀| / (|m₀| + |m₁|), in every body on average over doses",
            between("margins", "mid − chord", -0.05, 0.05, by="body"),
        ),
        Hypothesis(
            "curvature", "with the margin at λ = ½ too (the parabola's root) it lies within 0.02",
            between("margins", "mid − curved", -0.02, 0.02, by="body"),
        ),
        Hypothesis(
            "size enters only through them", "what is left changes by at most 0.01 per doubling of the parameters", _size_alone,
        ),
        Hypothesis(
            "depth bends", "at equal width and doses, six layers bend the margin more than three do, by at least 0.01",
            contrast("depth", 3, 6, between("margins", "size of bend", low=0.01, by="width")),
        ),
        Hypothesis(
            "small σ is straight", "in every body, σ and the size of the bend go together over doses (ρ ≥ 0.5)", _straighter,
        ),
        Hypothesis(
            "dose of Thinking", "twice the dose instead of half lowers λ50 by at least 0.05",
            contrast("thinking", 0.5, 2.0, between("margins", "mid", high=-0.05, by="body")),
        ),
        Hypothesis(
            "dose of Instruct", "twice the dose instead of half raises λ50 by at least 0.05",
            contrast("instruct", 0.5, 2.0, between("margins", "mid", low=0.05, by="body")),
        ),
    ),
    cases=_cases, measure=_measure, figure=_figure,
    shown={
        ("weights", "parameters"): "parameters", ("weights", "sigma"): "σ", ("margins", "m0"): "m₀", ("margins", "m1"): "m₁",
        ("margins", "bend"): "bend", ("margins", "mid"): "λ50", ("margins", "mid − chord"): "− chord",
        ("margins", "mid − curved"): "− parabola",
    },
    by=("width", "depth", "instruct", "thinking"),
)  # fmt: skip
