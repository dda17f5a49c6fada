"""Figures of a sweep as Altair charts: the three curves, the stages at a glance, outcomes, difficulty, the Pareto front.

Every figure takes marks (see `marks.py`) and shows their numbers as they are; nothing is smoothed or computed but the
places of labels and who is on the front. Figures are fit for a paper: direct labels, no legend where a label will
do, 95 % intervals as thin bars. `render.py` writes them to files; `ablations.py` has the figures of other tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from interpole.curves import PointMetrics
from interpole.report.marks import Mark, dial_span, marks, tasks
from interpole.report.style import COLOURS, OUTCOMES, SERIES

__all__ = ["QUANTITIES", "Band", "curves", "front", "outcomes", "overview", "panel", "pareto", "small"]

QUANTITIES = {
    "accuracy": ("Accuracy (%)", ("mean", "pass", "vote")),
    "think": ("Think #R (%)", ("think",)),
    "tokens": ("Token #N", ("tokens",)),
}
PLACES = (("left", 7, -6), ("left", 8, 4), ("right", -7, -6), ("right", -7, 8), ("left", 6, 14))  # align, dx, dy
LABEL_GAP = 0.085  # of a panel's height: labels at line ends keep this far apart


@dataclass(frozen=True, slots=True)
class Band:
    """Where stage 2 lies for a task: from `low` (thinking sets in) to `high` (thinking is the rule), in λ."""

    task: str
    low: float
    high: float


def curves(points: Sequence[Mark], bands: Sequence[Band] = (), width: int = 250, height: int = 170) -> alt.ConcatChart:
    """The paper's Figure 3: accuracy, Think #R and Token #N against λ, one row per task, stages shaded."""
    names = tasks(points)
    panels = []
    for task in names:
        for quantity, (title, _) in QUANTITIES.items():
            drawn = panel(points, task, quantity, bands, width, height)
            named = f"{task}: {title[0].lower()}{title[1:]}" if len(names) > 1 and quantity == "accuracy" else title
            panels += [drawn.properties(title=named)] if drawn else []
    return alt.concat(*panels, columns=len(panels) // len(names), spacing={"column": 34, "row": 26})


def overview(
    points: Sequence[Mark], bands: Sequence[Band] = (), width: int = 640, height: int = 230
) -> alt.VConcatChart:
    """The stages at a glance, one wide panel per task: Mean@k, Pass@k and Think #R on one axis against λ."""
    names, series = tasks(points), ("mean", "pass", "think")
    title = "Accuracy and share of responses that think (%)"
    titles = {task: f"{task}: {title[0].lower()}{title[1:]}" if len(names) > 1 else title for task in names}
    panels = [_panel(points, task, titles[task], series, bands, width, height) for task in names]
    return alt.vconcat(*[p for p in panels if p is not None], spacing=28)


def panel(
    points: Sequence[Mark], task: str, quantity: str, bands: Sequence[Band] = (), width: int = 250, height: int = 170
) -> alt.LayerChart | None:
    """One quantity of one task against λ; None where nothing of it is known."""
    title, series = QUANTITIES[quantity]
    return _panel(points, task, title, series, bands, width, height)


def small(points: Sequence[Mark], task: str, title: str, width: int = 150, height: int = 84) -> alt.LayerChart | None:
    """A small multiple: Mean@k and Think #R of one task, or one part of it, against λ."""
    chart = _panel(points, task, title, ("mean", "think"), (), width, height, small=True)
    return chart and chart.properties(title=alt.Title(title, fontSize=11, offset=8))


def _panel(
    points: Sequence[Mark],
    task: str,
    title: str,
    series: Sequence[str],
    bands: Sequence[Band],
    width: int,
    height: int,
    small: bool = False,
) -> alt.LayerChart | None:
    """Curves of some series, with their intervals, the stages and the names of the curves."""
    mine = sorted((p for p in points if p.task == task and p.lam is not None), key=lambda p: p.lam or 0.0)
    values = [_value(mark, name) for name in series for mark in mine if name in mark.statistics]
    if not values:
        return None
    shares = "tokens" not in series
    top = 1.0 if shares else 1.06 * max(max(v["value"], v["high"] or 0) for v in values)
    x = _dial_axis(points, small)
    axis, scale = _share_axis(small) if shares else _token_axis(), alt.Scale(domain=[0, top])
    y, low = (alt.Y(f"{name}:Q", title=None, axis=axis, scale=scale) for name in ("value", "low"))
    data = alt.Chart(alt.Data(values=values)).encode(x=x, y=y, color=_colour())
    layers = [
        *_stages([b for b in bands if b.task == task], dial_span(points), x),
        data.mark_rule(strokeWidth=1.2, opacity=0.55).encode(y=low, y2="high:Q").transform_filter("datum.low != null"),
        data.mark_line(strokeWidth=1.8).encode(strokeDash=_dash()),
        data.mark_point(filled=True, size=14 if small else 30, opacity=1).encode(description="text:N"),
    ]
    if len(series) > 1 and not small:
        layers.append(_end_labels(values, mine[-1], top).encode(y=y))
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def _value(mark: Mark, name: str) -> dict[str, Any]:
    """One point of a curve, with its interval and its words for screen readers."""
    value, low, high = (None if math.isnan(x) else x for x in mark.statistics[name])
    shown = f"{value:,.0f}" if name == "tokens" else f"{100 * (value or 0):.1f} %"
    text = f"{mark.label}: {mark.called(name)} {shown}"
    return {"lam": mark.lam, "series": name, "value": value, "low": low, "high": high, "text": text}


def _end_labels(values: list[dict[str, Any]], last: Mark, top: float) -> alt.Chart:
    """The name of each curve at its right end, moved apart where they would touch."""
    ends = {v["series"]: v for v in values}  # the last one of each, as λ rises
    placed, floor = [], -1.0
    for v in sorted(ends.values(), key=lambda v: v["value"]):
        floor = max(v["value"] / top, floor + LABEL_GAP)
        placed.append({"series": v["series"], "value": floor, "name": last.called(v["series"])})
    over = max(0.0, placed[-1]["value"] - 1.0)
    for mark in placed:
        mark["value"] = (mark["value"] - over) * top
    return (
        alt.Chart(alt.Data(values=placed))
        .mark_text(align="left", dx=8, fontWeight=500)
        .encode(
            x=alt.XDatum(max(v["lam"] for v in values)),
            text="name:N",
            color=_colour(),
        )
    )


def _stages(bands: Sequence[Band], axis: tuple[float, float], x: alt.X) -> list[alt.Chart]:
    """Stage 2 shaded, and the numbers of the three stages above."""
    if not bands:
        return []
    low, high = bands[0].low, bands[0].high
    numbers = [(axis[0], low, "1"), (low, high, "2"), (high, axis[1], "3")]
    places = [{"lam": (a + b) / 2, "stage": n} for a, b, n in numbers if b > a]
    shade = alt.Chart(alt.Data(values=[{"lam": low, "end": high}])).mark_rect(color=COLOURS["band"], opacity=1)
    names = alt.Chart(alt.Data(values=places)).mark_text(color=COLOURS["muted"], dy=-8)
    return [
        shade.encode(x=x, x2="end:Q"),
        names.encode(x=x, y=alt.value(0), text="stage:N"),
    ]


def _colour() -> alt.Color:
    """Each series by its own colour: the whole list, so that joined charts agree."""
    scale = alt.Scale(domain=list(SERIES), range=[COLOURS[name] for name in SERIES.values()])
    return alt.Color("series:N", legend=None, scale=scale)


def _dash() -> alt.StrokeDash:
    dashes = {"pass": [5, 3], "vote": [1.5, 2.5]}
    scale = alt.Scale(domain=list(SERIES), range=[dashes.get(name, [1, 0]) for name in SERIES])
    return alt.StrokeDash("series:N", legend=None, scale=scale)


def _dial_axis(points: Sequence[Mark], small: bool = False) -> alt.X:
    scale = alt.Scale(domain=list(dial_span(points)), nice=False)
    axis = alt.Axis(tickCount=3 if small else 6, format="~g", labelFlush=False)
    return alt.X("lam:Q", title=None if small else "λ", scale=scale, axis=axis)


def _share_axis(small: bool = False) -> alt.Axis:
    ticks = [0, 0.5, 1] if small else [0, 0.2, 0.4, 0.6, 0.8, 1]
    return alt.Axis(labelExpr="format(100 * datum.value, '.0f')", values=ticks, labelOverlap=False)


def _token_axis() -> alt.Axis:
    return alt.Axis(labelExpr="datum.value < 1000 ? datum.value : format(datum.value / 1000, '~g') + 'k'", tickCount=5)


def outcomes(
    metrics: Sequence[PointMetrics], task: str, width: int = 420, height: int = 190, legend: bool = True
) -> alt.Chart:
    """What became of the responses at each λ: shares of the outcomes, stacked, the dial only."""
    mine = [m for m in metrics if m.task == task and m.lam is not None]
    seen = [o for o in OUTCOMES if any(m.outcomes.get(o) for m in mine)]
    values = [
        {"lam": m.lam, "order": i, "outcome": OUTCOMES[o][0], "share": m.outcomes.get(o, 0) / sum(m.outcomes.values())}
        for m in mine
        for i, o in enumerate(seen)
    ]
    scale = alt.Scale(domain=[OUTCOMES[o][0] for o in seen], range=[COLOURS[OUTCOMES[o][1]] for o in seen])
    x = _dial_axis(marks(metrics))
    y = alt.Y("share:Q", title=None, axis=_share_axis(), stack=True, scale=alt.Scale(domain=[0, 1]))
    key = alt.Legend(title=None, orient="right", symbolType="square") if legend else None
    chart = alt.Chart(alt.Data(values=values)).mark_area(line=False, opacity=0.92)
    return chart.encode(x=x, y=y, color=alt.Color("outcome:N", scale=scale, legend=key), order="order:Q").properties(
        width=width, height=height, title="Outcomes (% of responses)"
    )


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For (cost, gain) pairs: which are on the Pareto front, that is, no other costs no more and gains no less."""

    def beaten(a: tuple[float, float]) -> bool:
        return any(b != a and b[0] <= a[0] and b[1] >= a[1] for b in points)

    return [not beaten(point) for point in points]


def pareto(points: Sequence[Mark], task: str, width: int = 420, height: int = 260) -> alt.LayerChart | None:
    """Mean@k against Token #N: the dial as a path, points off it as diamonds, the Pareto front filled and joined."""
    values = _pareto_values([mark for mark in points if mark.task == task])
    if not values:
        return None
    tokens = [v["tokens"] for v in values]
    log = min(tokens) > 0 and max(tokens) > 10 * min(tokens)
    _place_labels(values, log, width, height)
    scale = alt.Scale(type="log", nice=True) if log else alt.Scale(zero=False, nice=True)
    x = alt.X("tokens:Q", title="Token #N" + (" (log scale)" if log else ""), scale=scale, axis=_cost_axis(log))
    y = alt.Y(
        "mean:Q", title=None, axis=alt.Axis(labelExpr="format(100 * datum.value, '.0f')"), scale=alt.Scale(zero=False)
    )
    data = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    blue, grey = COLOURS["blue"], COLOURS["grey"]
    points = data.mark_point(size=42, opacity=1, strokeWidth=1.4).encode(
        shape=alt.Shape("dial:N", legend=None, scale=alt.Scale(domain=[True, False], range=["circle", "diamond"])),
        fill=alt.condition("datum.front", alt.value(blue), alt.value(COLOURS["paper"])),
        stroke=alt.condition("datum.front", alt.value(blue), alt.value(grey)),
        description="text:N",
    )
    layers = [
        data.mark_line(color=grey, strokeWidth=1, strokeDash=[2, 3])
        .encode(order="lam:Q")
        .transform_filter("datum.dial"),
        data.mark_line(color=blue, strokeWidth=1.6).encode(order="tokens:Q").transform_filter("datum.front"),
        data.mark_rule(color=grey, strokeWidth=1, opacity=0.7)
        .encode(y="low:Q", y2="high:Q")
        .transform_filter("datum.low != null"),
        points,
        *[
            data.mark_text(align=align, dx=dx, dy=dy, color=COLOURS["ink"])
            .encode(text="label:N")
            .transform_filter(f"datum.place == {place}")
            for place, (align, dx, dy) in enumerate(PLACES)
        ],
    ]
    return alt.layer(*layers).properties(width=width, height=height, title="Accuracy (Mean@k, %) against tokens")


def _pareto_values(points: Iterable[Mark]) -> list[dict[str, Any]]:
    """One mark per point that has both an accuracy and a length."""
    known = [(mark, mark.statistics.get("mean"), mark.statistics.get("tokens")) for mark in points]
    both = [(mark, mean, tokens.value) for mark, mean, tokens in known if mean and tokens]
    on_front = front([(tokens, mean.value) for _, mean, tokens in both])
    values = []
    for (mark, mean, tokens), best in zip(both, on_front, strict=True):
        label = mark.label if mark.lam in (None, 0, 1) else f"{mark.lam:g}"
        low, high = (None if math.isnan(end) else end for end in mean[1:])
        text = f"{mark.label}: {100 * mean.value:.1f} % at {tokens:,.0f} tokens"
        values.append(
            {"lam": mark.lam, "label": label, "dial": mark.lam is not None, "front": best, "tokens": tokens}
            | {"mean": mean.value, "low": low, "high": high, "text": text}
        )
    return values


def _place_labels(values: list[dict[str, Any]], log: bool, width: int, height: int) -> None:
    """Choose for each label the first of `PLACES` where it touches no point and no label placed before it."""

    def pixels(name: str, extent: int, scale: Callable[[float], float]) -> list[float]:
        numbers = [scale(v[name]) for v in values]
        low, high = min(numbers), max(numbers)
        return [extent * (n - low) / ((high - low) or 1) for n in numbers]

    xs, ys = pixels("tokens", width, math.log if log else float), pixels("mean", height, lambda mean: -mean)
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in zip(xs, ys, strict=True)]
    for v, x, y in zip(values, xs, ys, strict=True):
        wide = 6 * len(v["label"])
        boxes = [(x + dx - (wide if align == "right" else 0), y + dy - 5, wide) for align, dx, dy in PLACES]
        boxes_at = [(left, top, left + w, top + 10) for left, top, w in boxes]
        free = [i for i, box in enumerate(boxes_at) if not any(_touch(box, other) for other in taken)]
        v["place"] = free[0] if free else 0
        taken.append(boxes_at[v["place"]])


def _touch(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _cost_axis(log: bool) -> alt.Axis:
    return alt.Axis(format="~s", tickCount=4 if log else 6, grid=False)
