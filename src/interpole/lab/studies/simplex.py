"""Study 5: is the margin of thinking linear over a triangle of models, and does the weight of Thinking alone decide?

Two triangles with the same Instruct and Thinking: with their base, and with a third specialist that works without marks. Margins
are those of forward passes; the second triangle is swept, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from interpole.analysis.intervals import Array, percentiles, weights
from interpole.analysis.metrics import measure
from interpole.errors import AnalysisError
from interpole.lab.recipe import ARCHITECTURES, Body
from interpole.lab.studies import drawing
from interpole.lab.studies.bench import RESAMPLES, Bench
from interpole.lab.studies.families import DEPTH, WIDTH
from interpole.lab.studies.study import Case, Hypothesis, Judge, Judgement, Row, Study, between
from interpole.merging.simplex import grid, weights_name
from interpole.report.ternary import Spot, panel
from interpole.runs.samples import read
from interpole.search.predict import ForwardPasses, prompts_of
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan
from interpole.sweep.run import run

__all__ = ["STUDY", "TRIANGLES", "quadratic", "shape_rows"]

STEPS = 4
TRIANGLES = {"with base": ("base", "instruct", "thinking"), "with terse": ("terse", "instruct", "thinking")}
SWEPT = "with terse"
HALF = 0.5
Margins = Mapping[str, Array]
"""Point → (Q,) margins of the questions."""


def _cases(num_seeds: int) -> list[Case]:
    """Every architecture with every seed; a seed of all before the next."""
    return [Case(Body(arch, WIDTH, DEPTH), seed) for seed in range(num_seeds) for arch in ARCHITECTURES]


def _configs(bench: Bench, case: Case) -> dict[str, SweepConfig]:
    """The sweep of each triangle. The terse model has Thinking's steps and rates."""
    _, thinking = case.models(bench.size)
    terse, pair = bench.model(replace(thinking, style="terse")), bench.config(case)
    return {
        name: pair.under(
            {"sources": {"terse": str(terse)}, "lambdas": [], "simplex": {"corners": list(corners), "steps": STEPS}}
        )
        for name, corners in TRIANGLES.items()
    }


def _measure(bench: Bench, case: Case) -> list[Row]:
    """Margins on both triangles by forward passes, the shape that they have, and a sweep of one of them."""
    found = list[Row]()
    for name, config in _configs(bench, case).items():
        planned, pool = Plan(config), bench.pool_of(config, case.body)
        prompts = prompts_of(planned, bench.size.num_problems)
        asked = ForwardPasses(planned, pool, prompts, planned.form.markers.open)
        bench.tell(f"forward passes {name}, {case.name}")
        chances = {point.name: asked.weigh(point) for point in planned.points}
        margins = {point: np.array([one.margin for one in mine]) for point, mine in chances.items()}
        shares = {point: np.array([one.probability for one in mine]) for point, mine in chances.items()}
        found += shape_rows(case, name, margins, shares)
        if name == SWEPT:
            out = bench.run_of(case).with_name(f"{bench.run_of(case).name}-triangle")
            bench.tell(f"sweeping {name}, {case.name}")
            summary = run(config, out, pool=pool, changed="also")
            if summary.failed:
                raise AnalysisError(f"{summary.failed[0].point} failed", out, "run the study again; it goes on there")
            found += _swept_rows(case, name, out, shares)
    return found


def quadratic(corners: Sequence[str], values: Mapping[str, Array]) -> dict[str, Array]:
    """Point of the grid → what the quadratic through the corners and the middles of the edges makes of it.

    With weights a, b, c it is Σ m(corner)·w(2w − 1) + Σ 4·m(middle)·w·w', the quadratic of finite elements on a triangle
    (Zienkiewicz, The Finite Element Method, §4.8). The part without middles is the plane, where each lies on its edge's chord.
    """
    found = {}
    for at in grid(corners, STEPS):
        w = {corner: at.get(corner, 0.0) for corner in corners}
        total = sum(values[corner] * w[corner] * (2 * w[corner] - 1) for corner in corners)
        for a, b in _edges(corners):
            total = total + 4 * values[weights_name({a: HALF, b: HALF})] * w[a] * w[b]
        found[weights_name(at)] = np.asarray(total)
    return found


def shape_rows(case: Case, name: str, margins: Margins, shares: Margins) -> list[Row]:
    """Mean margins of a triangle, and how far from a plane and from a quadratic they lie.

    All are shares of the range between the largest and the smallest corner. `plane` and `quadratic` are the largest distances
    at points that do not define them, `inside` that of the quadratic at the points inside; `bend A–B` how far the margin in the
    middle of an edge lies above its chord; `half A` the weight of Thinking at which half of the responses think, on the edge
    from A, and `half apart` the difference between the two edges. Intervals are over questions.
    """
    corners = TRIANGLES[name]
    num = len(next(iter(margins.values())))
    draws = np.concatenate([np.ones((1, num)), *weights(num, RESAMPLES, 0)]) / num
    mean = {point: draws @ each for point, each in margins.items()}  # (R,)
    at = {weights_name(one): one for one in grid(corners, STEPS)}
    ends = np.stack([mean[corner] for corner in corners])
    size = ends.max(axis=0) - ends.min(axis=0)
    plane = {point: sum(w * mean[corner] for corner, w in one.items()) for point, one in at.items()}
    curved = quadratic(corners, mean)
    middles = {weights_name({a: HALF, b: HALF}) for a, b in _edges(corners)}
    beyond = [point for point in at if point not in middles and point not in corners]
    numbers: dict[str, Array] = {
        "range": size,
        "plane": _largest([(mean[p] - plane[p]) / size for p in at if p not in corners]),
        "quadratic": _largest([(mean[p] - curved[p]) / size for p in beyond]),
        "inside": _largest([(mean[p] - curved[p]) / size for p in beyond if len(at[p]) == len(corners)]),
    }
    for a, b in _edges(corners):
        numbers[f"bend {a}–{b}"] = (mean[weights_name({a: HALF, b: HALF})] - (mean[a] + mean[b]) / 2) / size
    halves = {corner: _half(draws, shares, corner) for corner in corners if corner != "thinking"}
    numbers |= {f"half {corner}": found for corner, found in halves.items()}
    third = corners[0]
    numbers["half apart"] = halves[third] - halves["instruct"]
    found = [Row.of(case, name, key, percentiles(float(each[0]), each[1:], num)) for key, each in numbers.items()]
    for point in at:
        found.append(
            Row.of(case, f"{name}: {point}", "margin", percentiles(float(mean[point][0]), mean[point][1:], num))
        )
        found.append(
            Row.of(case, f"{name}: {point}", "off the plane", float((mean[point] - plane[point])[0] / size[0]))
        )
    return found


def _edges(corners: Sequence[str]) -> list[tuple[str, str]]:
    a, b, c = corners
    return [(a, b), (a, c), (b, c)]


def _largest(parts: Sequence[Array]) -> Array:
    """(R,) the largest of some distances."""
    return np.asarray(np.abs(np.stack(parts)).max(axis=0))


def _half(draws: Array, shares: Margins, corner: str) -> Array:
    """(R,) the weight of Thinking at which P first passes one half on the edge from a corner; NaN where it does not."""
    steps = np.arange(STEPS + 1) / STEPS
    names = [weights_name({corner: 1 - w, "thinking": w}) for w in steps]
    rising = np.maximum.accumulate(np.stack([draws @ shares[name] for name in names]), axis=0)  # (W, R)
    above = np.argmax(rising >= HALF, axis=0)
    columns = np.arange(rising.shape[1])
    high, low = rising[above, columns], rising[np.maximum(above - 1, 0), columns]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = steps[np.maximum(above - 1, 0)] + (HALF - low) / (high - low) / STEPS
    return np.where((rising[0] < HALF) & (rising[-1] >= HALF), found, np.nan)


def _swept_rows(case: Case, name: str, out: Path, shares: Margins) -> list[Row]:
    """What a sweep of a triangle measured, how far P is from its Think #R, and how far accuracy falls below a plane."""
    corners, found, points = TRIANGLES[name], list[Row](), measure(read(out, texts=False))
    for point in points:
        found += [
            Row.of(case, f"{name}: {point.point}", key, value)
            for key, value in (("mean", point.mean), ("think", point.think), ("tokens", point.tokens))
        ]
    apart = [abs(point.think.value - float(shares[point.point].mean())) for point in points]
    accuracy = {point.point: point.mean.value for point in points}
    below = [
        accuracy[weights_name(one)] - sum(w * accuracy[corner] for corner, w in one.items())
        for one in grid(corners, STEPS)
    ]
    return [
        *found,
        Row.of(case, name, "P − Think #R", float(np.mean(apart))),
        Row.of(case, name, "lowest below the plane", float(min(below))),
    ]


def _figure(rows: Sequence[Row]) -> Any:
    """Both triangles: the margin, and how far it lies off the plane through its corners; means over pairs."""
    return drawing.stacked(*(drawing.beside(*_panels(rows, name)) for name in TRIANGLES))


def _panels(rows: Sequence[Row], name: str) -> list[Any]:
    corners, made = TRIANGLES[name], list[Any]()
    for statistic, colour, title, scale in (
        ("margin", "purple", f"{name}: log odds of thinking", 1),
        ("off the plane", "amber", f"{name}: off the plane (% of the corners' range)", 100),
    ):
        spots = []
        for weights_at in grid(corners, STEPS):
            point = weights_name(weights_at)
            mine = [row.value for row in rows if (row.point, row.statistic) == (f"{name}: {point}", statistic)]
            value = float(np.mean(mine)) if mine else 0.0
            digits = 1 if scale == 1 else 0
            label = f"{round(scale * value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # + 0.0: no −0
            spots.append(Spot(weights_at, value, label, f"{point}: {statistic} {label}"))
        made.append(panel(corners, spots, colour, alt.Title(title, offset=8), 280))
    return made


def _both(statistic: str, high: float) -> Judge:
    """At most such a share of the corners' range, on either triangle."""
    return _each([(name, statistic) for name in TRIANGLES], high=high)


def _each(of: Sequence[tuple[str, str]], low: float = -np.inf, high: float = np.inf) -> Judge:
    """Several numbers are all to lie from `low` to `high`, each as the mean over an architecture's seeds."""

    def judge(rows: Sequence[Row]) -> Judgement:
        renamed = [
            row._replace(arch=f"{row.arch} {row.point}, {row.statistic}:", point="one", statistic="number")
            for row in rows
            if (row.point, row.statistic) in of
        ]
        return between("one", "number", low, high, scale=100, unit=" %")(renamed)

    return judge


STUDY = Study(
    name="simplex",
    title="Is the margin of thinking linear over a triangle of models?",
    hypotheses=(
        Hypothesis(
            "plane", "the plane through the corners misses the margin by at most 10 % of the corners' range anywhere, on both "
            "triangles", _both("plane", 0.1),
        ),
        Hypothesis(
            "quadratic", "a quadratic through corners and middles of edges misses the other nine points by at most 3 %",
            _both("quadratic", 0.03),
        ),
        Hypothesis(
            "edges say it all", "of these nine, it misses the three inside the triangle by at most 3 %", _both("inside", 0.03),
        ),
        Hypothesis(
            "bends up", "in the middle of every edge that leads to Thinking the margin lies above the chord",
            _each(
                [("with base", "bend instruct–thinking"), ("with base", "bend base–thinking"),
                 ("with terse", "bend terse–thinking")], low=0.0,
            ),
        ),
        Hypothesis(
            "flat side", "in the middle of the edge from Instruct to terse, which do not think, it is within 5 % of the chord",
            _each([("with terse", "bend terse–instruct")], -0.05, 0.05),
        ),
        Hypothesis(
            "only Thinking's weight", "half of the responses think at the same weight of Thinking, within 0.1, whether the rest "
            "is Instruct or terse", between("with terse", "half apart", -0.1, 0.1),
        ),
        Hypothesis(
            "prediction", "P by forward passes is within 5 points of Think #R on average over the fifteen points of a sweep",
            between("with terse", "P − Think #R", high=0.05, scale=100, unit=" points"),
        ),
        Hypothesis(
            "accuracy is no plane", "somewhere on that triangle accuracy is at least 10 points below the plane of its corners",
            between("with terse", "lowest below the plane", high=-0.1, scale=100, unit=" points"),
        ),
    ),
    cases=_cases, measure=_measure, figure=_figure,
    shown={
        ("with base", "plane"): "plane, with base", ("with base", "quadratic"): "quadratic", ("with base", "inside"): "inside",
        ("with terse", "plane"): "plane, with terse", ("with terse", "quadratic"): "quadratic",
        ("with terse", "inside"): "inside",
        ("with terse", "half instruct"): "half from Instruct", ("with terse", "half terse"): "half from terse",
        ("with terse: terse", "mean"): "Mean@k, terse", ("with terse: instruct", "mean"): "Instruct",
        ("with terse: thinking", "mean"): "Thinking", ("with terse: terse", "tokens"): "tokens, terse",
        ("with terse: thinking", "tokens"): "Thinking",
    },
)  # fmt: skip
