"""Accuracy against tokens: the dial as a path, what is off it as diamonds, and the Pareto front with its probabilities.

The axes are laid out here rather than by Vega, so that labels can be put where they touch no point and no other label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np

from interpole.analysis.pareto import LIKELY, SURE, on_front
from interpole.formats import plain
from interpole.report.marks import Mark
from interpole.report.style import COLOURS

__all__ = ["TITLE", "pareto"]

PLACES = (  # of a label beside its point: align, dx, dy
    ("left", 7, -6), ("left", 8, 4), ("right", -7, -6), ("right", -7, 8), ("left", 6, 14), ("left", -6, -14),
)  # fmt: skip
MARGIN = 0.06  # of an axis, kept free at both ends
CHARACTER = (6.0, 10.0)  # width and height of one in a label, in pixels
LOG_FROM = 10  # tokens that span more than this factor are shown on a log scale
TITLE = "Accuracy (Mean@k, %) against tokens"
SUBTITLE = "Fill and percentages: the probability of being on the Pareto front"
Box = tuple[float, float, float, float]  # left, top, right, bottom


def pareto(
    points: Sequence[Mark],
    task: str,
    width: int = 420,
    height: int = 260,
    *,
    title: str = TITLE,
    explained: bool = True,
) -> alt.LayerChart | None:
    """Mean@k against Token #N of one task; None where a length or an accuracy is not known of any point.

    Points are filled by their probability of being on the front, which is written beside those that are neither sure to be nor
    sure not to be; the line joins those likelier to be than not. Where it is not known, the front is that of the measured values.

    Args:
        points: of any tasks.
        task: which of them.
        width: of the axes, in pixels.
        height: likewise.
        title: of the chart.
        explained: say so below the title.
    """
    values = _values(mark for mark in points if mark.task == task)
    if not values:
        return None
    tokens, means = [v["tokens"] for v in values], [v["mean"] for v in values]
    ends = [end for v in values for end in (v["low"], v["high"]) if end is not None]
    log = min(tokens) > 0 and max(tokens) > LOG_FROM * min(tokens)
    across, along = _domain(tokens, log), _domain([*means, *ends], log=False)
    _place_labels(values, _pixels(across, width, log), _pixels((along[1], along[0]), height, log=False))
    x = alt.X(
        "tokens:Q",
        title="Token #N" + (" (log scale)" if log else ""),
        scale=alt.Scale(type="log" if log else "linear", domain=list(across), nice=False),
        axis=alt.Axis(format="~s", grid=False, tickCount=6, **({"values": _ticks(*across)} if log else {})),
    )
    share_axis = alt.Axis(labelExpr="format(100 * datum.value, '.0f')", tickCount=6)
    y = alt.Y("mean:Q", title=None, axis=share_axis, scale=alt.Scale(domain=list(along), nice=False))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    layers = [*_lines(base), *_points(base), *_labels(base)]
    known = any(v["chance"] is not None for v in values)
    below = {"subtitle": SUBTITLE} if explained and known else {}
    return alt.layer(*layers).properties(width=width, height=height, title=alt.Title(title, **below))


def _values(points: Iterable[Mark]) -> list[dict[str, Any]]:
    """One mark per point that has both an accuracy and a length."""
    known = [(mark, mark.statistics.get("mean"), mark.statistics.get("tokens")) for mark in points]
    both = [(mark, mean, tokens.value) for mark, mean, tokens in known if mean and tokens]
    measured = on_front(np.array([[mean.value for _, mean, _ in both]]), np.array([[t for _, _, t in both]]))[0]
    values = []
    for (mark, mean, tokens), best in zip(both, measured.tolist(), strict=True):
        chance = plain(mark.on_front)
        label = mark.label if mark.lam in (None, 0, 1) else f"{mark.lam:g}"
        text = f"{mark.label}: {100 * mean.value:.1f} % at {tokens:,.0f} tokens"
        if chance is not None:
            label += f" · {100 * chance:.0f} %" if 1 - SURE < chance < SURE else ""
            text += f", on the front with a probability of {100 * chance:.0f} %"
        interval = plain(mean)
        values.append(
            {"lam": mark.lam, "label": label, "dial": mark.lam is not None, "tokens": tokens, "mean": mean.value}
            | {"low": interval["low"], "high": interval["high"], "text": text, "chance": chance}
            | {"front": best if chance is None else chance >= LIKELY, "fill": float(best) if chance is None else chance}
        )
    return values


def _lines(base: alt.Chart) -> list[alt.Chart]:
    """The dial, the front, and the intervals."""
    grey, blue = COLOURS["grey"], COLOURS["blue"]
    dial = base.mark_line(color=grey, strokeWidth=1, strokeDash=[2, 3]).encode(order="lam:Q")
    best = base.mark_line(color=blue, strokeWidth=1.6).encode(order="tokens:Q")
    bars = base.mark_rule(color=grey, strokeWidth=1, opacity=0.7).encode(y="low:Q", y2="high:Q")
    return [
        dial.transform_filter("datum.dial"),
        best.transform_filter("datum.front"),
        bars.transform_filter("datum.low != null"),
    ]


def _points(base: alt.Chart) -> list[alt.Chart]:
    """Circles on the dial, diamonds off it, as full as they are likely to be on the front; on paper, which hides the lines."""
    grey, blue = alt.value(COLOURS["grey"]), alt.value(COLOURS["blue"])
    shape = alt.Shape("dial:N", legend=None, scale=alt.Scale(domain=[True, False], range=["circle", "diamond"]))
    paper = base.mark_point(size=42, filled=True, opacity=1, color=COLOURS["paper"], aria=False).encode(shape=shape)
    return [
        paper,
        base.mark_point(size=42, opacity=1, strokeWidth=1.4, fill=COLOURS["blue"]).encode(
            shape=shape,
            fillOpacity=alt.FillOpacity("fill:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0, 1])),
            stroke=alt.condition("datum.front", blue, grey),
            description="text:N",
        ),
    ]


def _labels(base: alt.Chart) -> list[alt.Chart]:
    """One layer per place: Vega cannot shift labels one by one."""
    return [
        base.mark_text(align=align, dx=dx, dy=dy, color=COLOURS["ink"])
        .encode(text="label:N")
        .transform_filter(f"datum.place == {place}")
        for place, (align, dx, dy) in enumerate(PLACES)
    ]


def _domain(values: Sequence[float], log: bool) -> tuple[float, float]:
    """The ends of an axis, with `MARGIN` free on both sides."""
    low, high = (math.log(end) if log else end for end in (min(values), max(values)))
    free = MARGIN * (high - low) or abs(low) * MARGIN or 1.0
    return (math.exp(low - free), math.exp(high + free)) if log else (low - free, high + free)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 … between the ends of a log axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [n * 10.0**power for power in powers for n in (1, 2, 5) if low <= n * 10.0**power <= high]


def _pixels(domain: tuple[float, float], extent: int, log: bool) -> Callable[[float], float]:
    """Value → place on an axis of `extent` pixels."""
    scale = math.log if log else float
    low, high = scale(domain[0]), scale(domain[1])
    return lambda value: extent * (scale(value) - low) / (high - low)


def _place_labels(values: list[dict[str, Any]], x: Callable[[float], float], y: Callable[[float], float]) -> None:
    """Choose for each label the first of `PLACES` where it touches no point, no label before it and not the axis, else none.

    Points on the front choose first.
    """
    at = [(x(v["tokens"]), y(v["mean"])) for v in values]
    taken: list[Box] = [(left - 4, top - 4, left + 4, top + 4) for left, top in at]
    for v, point in sorted(zip(values, at, strict=True), key=lambda one: not one[0]["front"]):
        boxes = [_box(point, len(v["label"]), *place) for place in PLACES]
        v["place"] = next(
            (i for i, box in enumerate(boxes) if box[0] >= 0 and not any(_touch(box, other) for other in taken)), None
        )
        taken += [] if v["place"] is None else [boxes[v["place"]]]


def _box(point: tuple[float, float], num_characters: int, align: str, dx: float, dy: float) -> Box:
    """Where a label lies that is put at a place beside its point."""
    width, height = CHARACTER[0] * num_characters, CHARACTER[1]
    left = point[0] + dx - (width if align == "right" else 0)
    return left, point[1] + dy - height / 2, left + width, point[1] + dy + height / 2


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
