"""The triangle of three models: every measured point at its weights, with its accuracy, Think #R or tokens in it.

The first corner is on top, the second on the left, the third on the right: with base, Instruct and Thinking the lower edge is the
dial. Nothing is drawn between points, for nothing was measured there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from interpole.report.marks import Mark, tasks
from interpole.report.style import COLOURS, SERIES
from interpole.runs.simplex import Simplex

__all__ = ["PANELS", "place", "ternary", "triangles"]

PANELS = {"mean": "{} (%)", "think": "{} (%)", "tokens": "{}"}
HEIGHT = math.sqrt(0.75)  # of the triangle, whose edges are 1
ASIDE, ABOVE, BELOW = 0.13, 0.2, 0.22  # kept free around it
LARGEST, SMALLEST = 21.0, 3.0  # radius of a point, in pixels
WRITTEN_FROM = 12.0  # radius from which there is room for the number
STRENGTH = (0.05, 0.6)  # of the colour, from the smallest value to the largest: ink can be read on it, in dark mode too
CORNER_LIMIT = 0.48  # of the width, for the names of corners


def place(corners: Sequence[str], weights: Mapping[str, float]) -> tuple[float, float]:
    """Where a point is drawn: (0, 0) is the second corner, (1, 0) the third, the first stands above the middle."""
    top, _, right = (weights.get(corner, 0.0) for corner in corners)
    return right + top / 2, top * HEIGHT


def ternary(
    points: Sequence[Mark], simplex: Simplex, task: str, statistic: str, width: int = 300
) -> alt.LayerChart | None:
    """One statistic of one task over the triangle; None where it is not known, or there are not three corners.

    Args:
        points: of any tasks; those that do not lie on the triangle are left out.
        simplex: where points lie.
        task: which task.
        statistic: `mean`, `think` or `tokens`.
        width: in pixels.
    """
    values = _values(points, simplex, task, statistic) if len(simplex.corners) == 3 else []
    if not values:
        return None
    unit = width / (1 + 2 * ASIDE)
    radius = _radius(values, unit)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-ASIDE, 1 + ASIDE], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-BELOW, HEIGHT + ABOVE], nice=False))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    low, high = (extreme(value["value"] for value in values) for extreme in (min, max))
    for value in values:
        share = (value["value"] - low) / (high - low) if high > low else 0.5
        value["strength"] = STRENGTH[0] + share * (STRENGTH[1] - STRENGTH[0])
    strength = alt.FillOpacity("strength:Q", scale=None, legend=None)
    circles = {"size": (2 * radius) ** 2, "opacity": 1, "strokeWidth": 0.8}
    layers = [
        _outline(x, y),
        base.mark_circle(**circles, color=COLOURS["paper"], aria=False),
        base.mark_circle(**circles, fill=COLOURS[SERIES[statistic]], stroke=COLOURS["grey"]).encode(
            fillOpacity=strength, description="text:N"
        ),
        *_corners(simplex.corners, x, y, radius, width),
    ]
    if radius >= WRITTEN_FROM:
        layers.append(base.mark_text(color=COLOURS["ink"], fontSize=10, aria=False).encode(text="label:N"))
    name = next(mark for mark in points if mark.task == task).called(statistic)
    title = alt.Title(
        PANELS[statistic].format(name),
        subtitle=f"from {_shown(statistic, low)} (faint) to {_shown(statistic, high)}",
        offset=8,
    )
    height = round(unit * (HEIGHT + ABOVE + BELOW))
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def triangles(points: Sequence[Mark], simplex: Simplex, width: int = 300) -> Any:
    """All three statistics, a row for each task; None where there is nothing to draw."""
    rows = []
    for task in (names := tasks(points)):
        drawn = [chart for name in PANELS if (chart := ternary(points, simplex, task, name, width))]
        title = {"title": alt.Title(task, offset=10)} if len(names) > 1 else {}
        rows += [alt.hconcat(*drawn, spacing=30).properties(**title)] if drawn else []
    return alt.vconcat(*rows, spacing=28) if rows else None


def _values(points: Sequence[Mark], simplex: Simplex, task: str, statistic: str) -> list[dict[str, Any]]:
    """The points on the triangle; where two lie at one place, that of the triangle's own."""
    found: dict[tuple[float, float], dict[str, Any]] = {}
    for mark in sorted(points, key=lambda mark: mark.lam is None):
        weights = simplex.points.get(mark.point)
        if mark.task != task or weights is None or statistic not in mark.statistics:
            continue
        value, (x, y) = mark.statistics[statistic].value, place(simplex.corners, weights)
        number = f"{value:,.0f}" if statistic == "tokens" else f"{100 * value:.0f}"
        text = f"{mark.label}: {mark.called(statistic)} {_shown(statistic, value)}"
        found[round(x, 6), round(y, 6)] = {"x": x, "y": y, "value": value, "label": number, "text": text}
    return list(found.values())


def _shown(statistic: str, value: float) -> str:
    return f"{value:,.1f}" if statistic == "tokens" else f"{100 * value:.1f} %"


def _radius(values: Sequence[Mapping[str, Any]], unit: float) -> float:
    """As large as lets no two points touch."""
    at = np.array([(value["x"], value["y"]) for value in values])
    apart = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    return float(np.clip(0.46 * unit * apart.min(), SMALLEST, LARGEST))


def _outline(x: alt.X, y: alt.Y) -> alt.Chart:
    """The triangle itself."""
    ends = [(0.0, 0.0), (1.0, 0.0), (0.5, HEIGHT), (0.0, 0.0)]
    data = alt.Data(values=[{"x": a, "y": b, "order": i} for i, (a, b) in enumerate(ends)])
    return (
        alt.Chart(data).mark_line(color=COLOURS["grid"], strokeWidth=1.5, aria=False).encode(x=x, y=y, order="order:Q")
    )


def _corners(corners: Sequence[str], x: alt.X, y: alt.Y, radius: float, width: int) -> list[alt.Chart]:
    """The names of the corners: the first above its point, the others below theirs, each towards the middle."""
    shift = radius + 11
    places = (
        ("center", 0.5, HEIGHT, 0.0, -shift),
        ("left", 0.0, 0.0, -radius, shift),
        ("right", 1.0, 0.0, radius, shift),
    )
    return [
        alt.Chart(alt.Data(values=[{"x": left, "y": up, "corner": corner}]))
        .mark_text(
            align=align, dx=dx, dy=dy, color=COLOURS["ink"], fontWeight=500, limit=CORNER_LIMIT * width, aria=False
        )
        .encode(x=x, y=y, text="corner:N")
        for corner, (align, left, up, dx, dy) in zip(corners, places, strict=True)
    ]
