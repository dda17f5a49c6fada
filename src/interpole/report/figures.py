"""Figures of a sweep as Altair charts: the three curves, the stages at a glance, outcomes, small multiples.

Every figure takes marks (see `marks.py`) and shows their numbers as they are; nothing is smoothed or computed but the
places of labels. Figures are fit for a paper: direct labels, no legend where a label will
do, 95 % intervals as thin bars. `render.py` writes them to files; `pareto.py` and `ablations.py` have the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from interpole.analysis.tables import PointMetrics
from interpole.formats import plain
from interpole.report.marks import Mark, dial_span, marks, tasks
from interpole.report.style import COLOURS, OUTCOMES, SERIES

__all__ = ["LABEL_GAP", "QUANTITIES", "Band", "curves", "outcomes", "overview", "panel", "prediction", "small"]

QUANTITIES = {
    "accuracy": ("Accuracy (%)", ("mean", "pass", "vote")),
    "think": ("Think #R (%)", ("think",)),
    "tokens": ("Token #N", ("tokens",)),
}
LABEL_GAP = 0.085  # of a panel's height: labels at line ends keep this far apart


@dataclass(frozen=True, slots=True)
class Band:
    """Where stage 2 lies for a task: from `low` (thinking sets in) to `high` (thinking is the rule), in λ."""

    task: str
    low: float
    high: float


def curves(points: Sequence[Mark], bands: Sequence[Band] = (), width: int = 250, height: int = 170) -> Any:
    """The paper's Figure 3: accuracy, Think #R and Token #N against λ, one row per task; None without a dial."""
    names = tasks(points)
    panels = []
    for task in names:
        for quantity, (title, _) in QUANTITIES.items():
            drawn = panel(points, task, quantity, bands, width, height)
            named = f"{task}: {title[0].lower()}{title[1:]}" if len(names) > 1 and quantity == "accuracy" else title
            panels += [drawn.properties(title=named)] if drawn else []
    if not panels:
        return None
    return alt.concat(*panels, columns=len(panels) // len(names), spacing={"column": 34, "row": 26})


def overview(points: Sequence[Mark], bands: Sequence[Band] = ()) -> alt.VConcatChart:
    """The stages at a glance, one wide panel per task: Mean@k, Pass@k and Think #R on one axis against λ."""
    names, series = tasks(points), ("mean", "pass", "think")
    title = "Accuracy and share of responses that think (%)"
    titles = {task: f"{task}: {title[0].lower()}{title[1:]}" if len(names) > 1 else title for task in names}
    panels = [(task, _panel(points, task, series, bands)) for task in names]
    sized = [p.properties(title=titles[task], width=640, height=230) for task, p in panels if p is not None]
    return alt.vconcat(*sized, spacing=28)


def panel(
    points: Sequence[Mark], task: str, quantity: str, bands: Sequence[Band] = (), width: int = 250, height: int = 170
) -> alt.LayerChart | None:
    """One quantity of one task against λ; None where nothing of it is known."""
    title, series = QUANTITIES[quantity]
    chart = _panel(points, task, series, bands)
    return chart and chart.properties(title=title, width=width, height=height)


def small(points: Sequence[Mark], task: str, title: str, width: int = 150, height: int = 84) -> alt.LayerChart | None:
    """A small multiple: Mean@k and Think #R of one task, or one part of it, against λ."""
    chart = _panel(points, task, ("mean", "think"), small=True)
    return chart and chart.properties(title=alt.Title(title, fontSize=11, offset=8), width=width, height=height)


def prediction(
    points: Sequence[Mark],
    task: str,
    curve: Sequence[tuple[float, float]],
    asked: Sequence[tuple[float, float]],
    width: int = 360,
    height: int = 210,
) -> alt.LayerChart:
    """A predicted curve of Think #R, with the λ that were asked for it, beside what a sweep measured.

    Args:
        points: of the sweep; none where there is none.
        task: which of its tasks.
        curve: (λ, share) along the curve.
        asked: (λ, share) found by forward passes.
        width: of the panel.
        height: of the panel.
    """
    mine = [mark for mark in points if mark.task == task and mark.lam is not None and "think" in mark.statistics]
    measured = [_value(mark, "think") for mark in mine]
    x = _dial_axis(mine)
    y, low = (
        alt.Y(f"{name}:Q", title=None, axis=_share_axis(), scale=alt.Scale(domain=[0, 1])) for name in ("value", "low")
    )
    line, dots = ([{"lam": lam, "value": share} for lam, share in one] for one in (curve, asked))
    base = alt.Chart(alt.Data(values=line)).encode(x=x, y=y)
    seen = alt.Chart(alt.Data(values=measured)).encode(x=x, y=y)
    ink = {"color": COLOURS["purple"]}
    layers = [
        base.mark_line(strokeWidth=1.8, **ink),
        alt.Chart(alt.Data(values=dots)).mark_point(size=18, strokeWidth=1.2, **ink).encode(x=x, y=y),
        seen.mark_rule(strokeWidth=1.2, opacity=0.55, color=COLOURS["orange"])
        .encode(y=low, y2="high:Q")
        .transform_filter("datum.low != null"),
        seen.mark_point(filled=True, size=34, opacity=1, color=COLOURS["orange"]).encode(description="text:N"),
    ]
    names = [("predicted, without generating", "purple")] + ([("Think #R, measured", "orange")] if mine else [])
    for number, (name, colour) in enumerate(names):
        label = alt.Chart(alt.Data(values=[{"name": name}])).mark_text(
            align="left", dx=8, dy=10 + 14 * number, fontWeight=500, color=COLOURS[colour]
        )
        layers.append(label.encode(x=alt.value(0), y=alt.value(0), text="name:N"))
    return alt.layer(*layers).properties(width=width, height=height, title=f"{task}: share that thinks (%)")


def _panel(
    points: Sequence[Mark], task: str, series: Sequence[str], bands: Sequence[Band] = (), *, small: bool = False
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
    return alt.layer(*layers)


def _value(mark: Mark, name: str) -> dict[str, Any]:
    """One point of a curve, with its interval and its words for screen readers."""
    interval = plain(mark.statistics[name])
    value = interval["value"]
    shown = f"{value:,.0f}" if name == "tokens" else f"{100 * (value or 0):.1f} %"
    text = f"{mark.label}: {mark.called(name)} {shown}"
    return {"lam": mark.lam, "series": name, **interval, "text": text}


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
) -> alt.Chart | None:
    """What became of the responses at each λ: shares of the outcomes, stacked; None without a dial."""
    mine = [m for m in metrics if m.task == task and m.lam is not None]
    if len(mine) < 2:
        return None
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
