"""Figures of a sweep as Altair charts: the three curves, the stages at a glance, outcomes, difficulty, the Pareto front.

Every figure takes measured points (`PointMetrics`, or `CurveRow` from a curves.csv) and shows those numbers as they
are; nothing is smoothed or computed but the places of labels and who is on the front. Figures are fit for a paper:
direct labels, no legend where a label will do, 95 % intervals as thin bars. `render.py` writes them to files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from interpole.curves import CurveRow, PointMetrics
from interpole.intervals import UNKNOWN, Interval
from interpole.records import Outcome
from interpole.report.style import COLOURS, OUTCOMES, SERIES

__all__ = ["QUANTITIES", "Band", "curves", "front", "outcomes", "overview", "panel", "pareto", "small", "span", "statistic"]

Row = PointMetrics | CurveRow

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


def statistic(row: Row, name: str) -> Interval:
    """The statistic `name` (mean, pass, vote, think, tokens) of a measured point; NaN where it is not known."""
    if isinstance(row, CurveRow):
        value = getattr(row, "pass_" if name == "pass" else name)
        known = UNKNOWN if value is None else Interval(value, UNKNOWN.low, UNKNOWN.high)
        if name == "mean" and row.mean is not None and row.mean_low is not None and row.mean_high is not None:
            return Interval(row.mean, row.mean_low, row.mean_high)
        return known
    if name == "pass":
        return row.pass_at[-1] if row.pass_at else UNKNOWN
    return getattr(row, name) or UNKNOWN


def span(rows: Sequence[Row]) -> tuple[float, float]:
    """The λ axis: 0..1, and further where points lie outside."""
    lams = [row.lam for row in rows if row.lam is not None]
    return min([0.0, *lams]), max([1.0, *lams])


def curves(rows: Sequence[Row], bands: Sequence[Band] = (), width: int = 250, height: int = 170) -> alt.VConcatChart:
    """The paper's Figure 3: accuracy, Think #R and Token #N against λ, one row per task, stages shaded."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    lines = []
    for task in tasks:
        panels = [panel(rows, task, quantity, bands, width, height) for quantity in QUANTITIES]
        line = alt.hconcat(*[p for p in panels if p is not None], spacing=34)
        lines.append(line.properties(title=alt.Title(task, offset=10, fontSize=13)) if len(tasks) > 1 else line)
    return alt.vconcat(*lines, spacing=28)


def overview(rows: Sequence[Row], bands: Sequence[Band] = (), width: int = 640, height: int = 230) -> alt.VConcatChart:
    """The stages at a glance, one wide panel per task: Mean@k, Pass@k and Think #R on one axis against λ."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    series = ("mean", "pass", "think")
    return alt.vconcat(
        *[_panel(rows, task, "Share of responses or questions (%)", series, bands, width, height) for task in tasks]
    )


def panel(
    rows: Sequence[Row], task: str, quantity: str, bands: Sequence[Band] = (), width: int = 250, height: int = 170
) -> alt.LayerChart | None:
    """One quantity of one task against λ; None where nothing of it is known."""
    title, series = QUANTITIES[quantity]
    return _panel(rows, task, title, series, bands, width, height)


def small(rows: Sequence[Row], task: str, title: str, width: int = 150, height: int = 84) -> alt.LayerChart | None:
    """A small multiple: Mean@k and Think #R of one task, or one part of it, against λ."""
    chart = _panel(rows, task, title, ("mean", "think"), (), width, height, small=True)
    return chart and chart.properties(title=alt.Title(title, fontSize=11, offset=8))


def _panel(
    rows: Sequence[Row],
    task: str,
    title: str,
    series: Sequence[str],
    bands: Sequence[Band],
    width: int,
    height: int,
    small: bool = False,
) -> alt.LayerChart | None:
    """Curves of some series, with their intervals, the stages and the names of the curves."""
    mine = sorted((r for r in rows if r.task == task and r.lam is not None), key=lambda r: r.lam or 0.0)
    values = [_value(row, name) for name in series for row in mine]
    values = [value for value in values if value["value"] is not None]
    if not values:
        return None
    shares = "tokens" not in series
    top = 1.0 if shares else 1.06 * max(max(v["value"], v["high"] or 0) for v in values)
    x = _dial_axis(rows, small)
    axis, scale = _share_axis(small) if shares else _token_axis(), alt.Scale(domain=[0, top])
    y, low = (alt.Y(f"{name}:Q", title=None, axis=axis, scale=scale) for name in ("value", "low"))
    data = alt.Chart(alt.Data(values=values)).encode(x=x, y=y, color=_colour())
    layers = [
        *_stages([b for b in bands if b.task == task], span(rows), x),
        data.mark_rule(strokeWidth=1.2, opacity=0.55).encode(y=low, y2="high:Q").transform_filter("datum.low != null"),
        data.mark_line(strokeWidth=1.8).encode(strokeDash=_dash()),
        data.mark_point(filled=True, size=14 if small else 30, opacity=1).encode(description="text:N"),
    ]
    if len(series) > 1 and not small:
        layers.append(_end_labels(values, mine[-1], top).encode(y=y))
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def _value(row: Row, name: str) -> dict[str, Any]:
    """One mark: a point of a curve, with its interval and its words for screen readers."""
    value, low, high = (None if x != x else x for x in statistic(row, name))
    label = series_label(row, name)
    shown = "" if value is None else f"{value:,.0f}" if name == "tokens" else f"{100 * value:.1f} %"
    text = f"λ={row.lam:g}: {label} {shown}"
    return {"lam": row.lam, "series": name, "value": value, "low": low, "high": high, "text": text}


def series_label(row: Row, name: str) -> str:
    """What a curve is called: Mean@8, Pass@8, Vote@8, Think #R, Token #N."""
    k = row.k if isinstance(row, PointMetrics) else row.samples
    return {"think": "Think #R", "tokens": "Token #N"}.get(name, f"{name.capitalize()}@{k or 'k'}")


def _end_labels(values: list[dict[str, Any]], last: Row, top: float) -> alt.Chart:
    """The name of each curve at its right end, moved apart where they would touch."""
    ends = {v["series"]: v for v in values}  # the last one of each, as λ rises
    placed, floor = [], -1.0
    for v in sorted(ends.values(), key=lambda v: v["value"]):
        floor = max(v["value"] / top, floor + LABEL_GAP)
        placed.append({**v, "value": floor, "text": series_label(last, v["series"])})
    over = max(0.0, placed[-1]["value"] - 1.0)
    for mark in placed:
        mark["value"] = (mark["value"] - over) * top
    return alt.Chart(alt.Data(values=placed)).mark_text(align="left", dx=8, fontWeight=500).encode(
        x=alt.XDatum(max(v["lam"] for v in values)),
        text="text:N",
        color=_colour(),
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


def _dial_axis(rows: Sequence[Row], small: bool = False) -> alt.X:
    scale = alt.Scale(domain=list(span(rows)), nice=False)
    axis = alt.Axis(tickCount=3 if small else 6, format="~g", labelFlush=False)
    return alt.X("lam:Q", title=None if small else "λ", scale=scale, axis=axis)


def _share_axis(small: bool = False) -> alt.Axis:
    ticks = [0, 0.5, 1] if small else [0, 0.2, 0.4, 0.6, 0.8, 1]
    return alt.Axis(labelExpr="format(100 * datum.value, '.0f')", values=ticks, labelOverlap=False)


def _token_axis() -> alt.Axis:
    return alt.Axis(labelExpr="datum.value < 2000 ? datum.value : format(datum.value / 1000, '~g') + 'k'", tickCount=5)


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
    x = _dial_axis(metrics)
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


def pareto(rows: Sequence[Row], task: str, width: int = 420, height: int = 260) -> alt.LayerChart | None:
    """Mean@k against Token #N: the dial as a path, points off it as diamonds, the Pareto front filled and joined."""
    values = _pareto_values([row for row in rows if row.task == task])
    if not values:
        return None
    tokens = [v["tokens"] for v in values]
    log = min(tokens) > 0 and max(tokens) > 10 * min(tokens)
    scale = alt.Scale(type="log", nice=True) if log else alt.Scale(zero=False, nice=True)
    x = alt.X("tokens:Q", title="Token #N" + (" (log scale)" if log else ""), scale=scale, axis=_cost_axis(log))
    y = alt.Y("mean:Q", title=None, axis=alt.Axis(labelExpr="format(100 * datum.value, '.0f')"), scale=alt.Scale(zero=False))
    data = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    blue, grey = COLOURS["blue"], COLOURS["grey"]
    points = data.mark_point(size=42, opacity=1, strokeWidth=1.4).encode(
        shape=alt.Shape("dial:N", legend=None, scale=alt.Scale(domain=[True, False], range=["circle", "diamond"])),
        fill=alt.condition("datum.front", alt.value(blue), alt.value(COLOURS["paper"])),
        stroke=alt.condition("datum.front", alt.value(blue), alt.value(grey)),
        description="text:N",
    )
    layers = [
        data.mark_line(color=grey, strokeWidth=1, strokeDash=[2, 3]).encode(order="lam:Q").transform_filter("datum.dial"),
        data.mark_line(color=blue, strokeWidth=1.6).encode(order="tokens:Q").transform_filter("datum.front"),
        data.mark_rule(color=grey, strokeWidth=1, opacity=0.7).encode(y="low:Q", y2="high:Q").transform_filter("datum.low != null"),
        points,
        data.mark_text(align="left", dx=7, dy=-6, color=COLOURS["ink"]).encode(text="label:N"),
    ]
    return alt.layer(*layers).properties(width=width, height=height, title="Accuracy (Mean@k, %) against tokens")


def _pareto_values(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One mark per point that has both an accuracy and a length."""
    known = [(row, statistic(row, "mean"), statistic(row, "tokens")) for row in rows]
    known = [(row, mean, tokens) for row, mean, tokens in known if mean.value == mean.value and tokens.value == tokens.value]
    on_front = front([(tokens.value, mean.value) for _, mean, tokens in known])
    values = []
    for (row, mean, tokens), best in zip(known, on_front, strict=True):
        name = f"{row.lam:g}" if row.lam is not None else getattr(row, "point", "")
        label = f"λ={name}" if row.lam in (0, 1) else name
        low, high = (None if end != end else end for end in mean[1:])
        text = f"{'λ=' if row.lam is not None else ''}{name}: {100 * mean.value:.1f} % at {tokens.value:,.0f} tokens"
        values.append(
            {"lam": row.lam, "label": label, "dial": row.lam is not None, "front": best, "tokens": tokens.value}
            | {"mean": mean.value, "low": low, "high": high, "text": text}
        )
    return values


def _cost_axis(log: bool) -> alt.Axis:
    return alt.Axis(format="~s", tickCount=4 if log else 6, grid=False)
