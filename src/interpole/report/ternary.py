"""The triangle of three models: every measured point at its weights, with its accuracy, Think #R or tokens in it.

The first corner is on top, the second on the left, the third on the right; where Instruct and Thinking are two of them, the lower
edge is the dial. Nothing is drawn between points, for nothing was measured there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from interpole.report.marks import Mark, tasks
from interpole.report.style import COLOURS, SERIES
from interpole.runs.simplex import Simplex

__all__ = ["PANELS", "Spot", "panel", "place", "ternary", "triangles"]

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


class Spot(NamedTuple):
    """A point of a triangle: its weights, the value that makes it strong, and what is written in it and said of it."""

    weights: Mapping[str, float]
    value: float
    label: str
    text: str


def panel(
    corners: Sequence[str], spots: Sequence[Spot], colour: str, title: alt.Title, width: int = 300
) -> alt.LayerChart:
    """One triangle: a circle at every point, as strong as its value lies between the smallest and the largest.

    Args:
        corners: three names: top, left, right.
        spots: its points.
        colour: a name from the palette.
        title: of the panel.
        width: in pixels.
    """
    unit, values = width / (1 + 2 * ASIDE), [spot.value for spot in spots]
    low, spread = min(values), max(values) - min(values)
    data: list[dict[str, Any]] = []
    for spot in spots:
        (x, y), share = place(corners, spot.weights), (spot.value - low) / spread if spread else 0.5
        strength = STRENGTH[0] + share * (STRENGTH[1] - STRENGTH[0])
        data.append({"x": x, "y": y, "label": spot.label, "text": spot.text, "strength": strength})
    radius = _radius(data, unit)
    x_axis = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-ASIDE, 1 + ASIDE], nice=False))
    y_axis = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-BELOW, HEIGHT + ABOVE], nice=False))
    base = alt.Chart(alt.Data(values=data)).encode(x=x_axis, y=y_axis)
    circles = {"size": (2 * radius) ** 2, "opacity": 1, "strokeWidth": 0.8}
    layers = [
        _outline(x_axis, y_axis),
        base.mark_circle(**circles, color=COLOURS["paper"], aria=False),
        base.mark_circle(**circles, fill=COLOURS[colour], stroke=COLOURS["grey"]).encode(
            fillOpacity=alt.FillOpacity("strength:Q", scale=None, legend=None), description="text:N"
        ),
        *_corners(corners, x_axis, y_axis, radius, width),
    ]
    if radius >= WRITTEN_FROM:
        layers.append(base.mark_text(color=COLOURS["ink"], fontSize=10, aria=False).encode(text="label:N"))
    height = round(unit * (HEIGHT + ABOVE + BELOW))
    return alt.layer(*layers).properties(width=width, height=height, title=title)


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
    spots = _spots(points, simplex, task, statistic) if len(simplex.corners) == 3 else []
    if not spots:
        return None
    low, high = (_shown(statistic, extreme(spot.value for spot in spots)) for extreme in (min, max))
    name = next(mark for mark in points if mark.task == task).called(statistic)
    title = alt.Title(PANELS[statistic].format(name), subtitle=f"from {low} (faint) to {high}", offset=8)
    return panel(simplex.corners, spots, SERIES[statistic], title, width)


def triangles(points: Sequence[Mark], simplex: Simplex, width: int = 300) -> Any:
    """All three statistics, a row for each task; None where there is nothing to draw."""
    rows = []
    for task in (names := tasks(points)):
        drawn = [chart for name in PANELS if (chart := ternary(points, simplex, task, name, width))]
        title = {"title": alt.Title(task, offset=10)} if len(names) > 1 else {}
        rows += [alt.hconcat(*drawn, spacing=30).properties(**title)] if drawn else []
    return alt.vconcat(*rows, spacing=28) if rows else None


def _spots(points: Sequence[Mark], simplex: Simplex, task: str, statistic: str) -> list[Spot]:
    """The points on the triangle; where two lie at one place, that of the triangle's own."""
    found: dict[tuple[float, ...], Spot] = {}
    for mark in sorted(points, key=lambda mark: mark.lam is None):
        weights = simplex.points.get(mark.point)
        if mark.task != task or weights is None or statistic not in mark.statistics:
            continue
        value = mark.statistics[statistic].value
        number = f"{value:,.0f}" if statistic == "tokens" else f"{100 * value:.0f}"
        text = f"{mark.label}: {mark.called(statistic)} {_shown(statistic, value)}"
        at = tuple(round(weights.get(corner, 0.0), 6) for corner in simplex.corners)
        found[at] = Spot(weights, value, number, text)
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
