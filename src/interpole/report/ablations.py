"""Figures that compare points rather than follow λ: bars of an ablation, grids of decoding settings and of σ.

They draw the paper's Figures 4 and 5, Table 3 (layers) and Table 1 (σ), or the same of a run. Numbers are printed on the
marks, so that a reader needs no ruler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from interpole.analysis.intervals import Interval
from interpole.checkpoints.names import KINDS
from interpole.report.marks import STATISTICS, Mark, tasks
from interpole.report.style import COLOURS, SERIES

__all__ = ["DecodingCell", "ablation", "decoding", "heatmap", "margins", "similarity"]

SIZE = {"width": 150}
ROW_HEIGHT = 22


@dataclass(frozen=True, slots=True)
class DecodingCell:
    """One decoding setting on one task: a share under a name such as Mean@8."""

    task: str
    metric: str
    temperature: float
    top_p: float
    value: float


def ablation(points: Sequence[Mark]) -> alt.VConcatChart:
    """Points as rows in the order they come, one panel of bars per statistic; a line of panels per task."""
    lines = []
    for task in tasks(points):
        mine = [mark for mark in points if mark.task == task]
        names = [name for name in (*STATISTICS, "length") if any(name in mark.statistics for mark in mine)]
        panels = [_bars(mine, name, first=name == names[0]) for name in names]
        lines.append(alt.hconcat(*panels, spacing=26).properties(title=alt.Title(task, offset=10)))
    return alt.vconcat(*lines, spacing=24)


def _bars(points: Sequence[Mark], name: str, first: bool) -> alt.LayerChart:
    """One statistic of every point."""
    share = name != "tokens"
    values: list[dict[str, Any]] = [
        {
            "point": mark.label,
            "value": mark.statistics[name].value,
            "text": f"{100 * mark.statistics[name].value:.1f}" if share else f"{mark.statistics[name].value:,.0f}",
            **_ends(mark.statistics[name]),
        }
        for mark in points
        if name in mark.statistics
    ]
    top = max(1.0 if share else 0.0, *(v.get("high", v["value"]) for v in values))
    axis = alt.Axis(grid=False, domain=False, ticks=False, labelLimit=260, labelColor=COLOURS["ink"]) if first else None
    y = alt.Y("point:N", title=None, sort=[mark.label for mark in points], axis=axis)
    scale = alt.Scale(domain=[0, top * 1.28])
    x, low, end = (alt.X(f"{field}:Q", title=None, axis=None, scale=scale) for field in ("value", "low", "end"))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    colour = COLOURS[SERIES.get(name, "green")]
    title = points[0].called(name) + (" (%)" if share else "")
    known = base.transform_filter("isValid(datum.low)")
    return alt.layer(
        base.mark_bar(color=colour, height=11),
        known.mark_rule(color=COLOURS["ink"], strokeWidth=1).encode(x=low, x2="high:Q"),
        base.transform_calculate(end="isValid(datum.high) ? datum.high : datum.value")
        .mark_text(align="left", dx=4, color=COLOURS["ink"])
        .encode(x=end, text="text:N"),
    ).properties(**SIZE, height=ROW_HEIGHT * len({mark.label for mark in points}), title=alt.Title(title, offset=6))


def _ends(interval: Interval) -> dict[str, float]:
    """The ends of an error bar, where they are known."""
    return {} if math.isnan(interval.low) else {"low": interval.low, "high": interval.high}


def decoding(cells: Sequence[DecodingCell]) -> alt.VConcatChart:
    """The paper's Figure 4: a grid of temperature and top_p for each metric, a line of grids per task."""
    lines = []
    for task in dict.fromkeys(cell.task for cell in cells):
        mine = [cell for cell in cells if cell.task == task]
        grids = [_grid(mine, metric) for metric in dict.fromkeys(cell.metric for cell in mine)]
        line = alt.hconcat(*grids, spacing=30).resolve_scale(color="independent")
        lines.append(line.properties(title=alt.Title(task, offset=10)))
    return alt.vconcat(*lines, spacing=24).resolve_scale(color="independent")


def _grid(cells: Sequence[DecodingCell], metric: str) -> alt.LayerChart:
    values: list[dict[str, Any]] = [
        {"temperature": f"{c.temperature:g}", "top_p": f"{c.top_p:g}", "value": c.value, "text": f"{100 * c.value:.1f}"}
        for c in cells
        if c.metric == metric
    ]
    x = alt.X("temperature:N", title="temperature", axis=alt.Axis(labelAngle=0, domain=False, ticks=False))
    y = alt.Y("top_p:N", title="top_p", sort="descending", axis=alt.Axis(domain=False, ticks=False))
    return _heat(
        values, x, y, [v["value"] for v in values], metric + " (%)", 54 * len({v["temperature"] for v in values})
    )


def similarity(rows: Sequence[tuple[str, str, float]]) -> alt.LayerChart:
    """σ between models, each with each: smaller is more similar."""
    names = list(dict.fromkeys(name for a, b, _ in rows for name in (a, b)))
    values: list[dict[str, Any]] = [
        {"a": x, "b": y, "value": sigma, "text": f"{sigma:.4f}"} for a, b, sigma in rows for x, y in ((a, b), (b, a))
    ]
    plain = {"domain": False, "ticks": False, "labelLimit": 260, "labelColor": COLOURS["ink"]}
    x = alt.X("a:N", title=None, sort=names, axis=alt.Axis(labelAngle=-30, **plain))
    y = alt.Y("b:N", title=None, sort=names, axis=alt.Axis(**plain))
    return _heat(
        values, x, y, [sigma for *_, sigma in rows], "Weight similarity σ (smaller is more similar)", 66 * len(names)
    )


def heatmap(cells: Sequence[tuple[int | None, str, float]]) -> alt.LayerChart:
    """σ by layer and module kind, from `similarity.Similarity.cells`; what stands outside of the layers comes last."""
    values = [_cell(layer, kind, sigma, f"{sigma:.3f}") for layer, kind, sigma in cells]
    x, y, width = _by_layer(values, list(dict.fromkeys(kind for _, kind, _ in cells)))
    return _heat(values, x, y, [sigma for *_, sigma in cells], "Weight similarity σ (smaller is more similar)", width)


def margins(cells: Sequence[tuple[int | None, str, float]]) -> alt.LayerChart:
    """What a module kind in a layer adds to the log odds of thinking, in any order; what is outside of the layers comes last."""
    kinds = [kind for kind in KINDS if any(named == kind for _, named, _ in cells)]
    depth = max((layer for layer, _, _ in cells if layer is not None), default=0) + 1
    ordered = sorted(cells, key=lambda cell: (depth if cell[0] is None else cell[0], kinds.index(cell[1])))
    rounded = [(layer, kind, round(added, 2) + 0.0) for layer, kind, added in ordered]  # + 0.0: no -0.00
    values = [_cell(layer, kind, added, f"{added:+.2f}".replace("-", "−")) for layer, kind, added in rounded]
    most = max(abs(added) for *_, added in cells) or 1.0
    x, y, width = _by_layer(values, kinds)
    base = alt.Chart(alt.Data(values=[v | {"size": abs(v["value"]) / most, "down": v["value"] < 0} for v in values]))
    colour = alt.condition("datum.down", alt.value(COLOURS["orange"]), alt.value(COLOURS["sky"]))
    strength = alt.Opacity("size:Q", scale=alt.Scale(domain=[0, 1], range=[0.05, 0.6]), legend=None)
    return alt.layer(
        base.mark_rect(stroke=COLOURS["paper"], strokeWidth=2).encode(x=x, y=y, color=colour, opacity=strength),
        base.mark_text(color=COLOURS["ink"]).encode(x=x, y=y, text="text:N"),
    ).properties(
        width=width, height=alt.Step(34), title=alt.Title("Log odds of thinking that a part adds alone", offset=8)
    )


def _cell(layer: int | None, kind: str, value: float, text: str) -> dict[str, Any]:
    return {"layer": "outside" if layer is None else str(layer), "kind": kind, "value": value, "text": text}


def _by_layer(values: Sequence[dict[str, Any]], kinds: Sequence[str]) -> tuple[alt.X, alt.Y, int]:
    """The axes of cells by layer and module kind, rows in the order they come; and how wide that is."""
    plain = {"domain": False, "ticks": False, "labelColor": COLOURS["ink"]}
    x = alt.X("kind:N", title=None, sort=list(kinds), axis=alt.Axis(labelAngle=0, orient="top", **plain))
    layers = list(dict.fromkeys(value["layer"] for value in values))
    return x, alt.Y("layer:N", title="layer", sort=layers, axis=alt.Axis(**plain)), 92 * len(kinds)


def _heat(
    values: list[dict[str, Any]], x: alt.X, y: alt.Y, numbers: Sequence[float], title: str, width: int
) -> alt.LayerChart:
    """Rectangles from pale to blue, the number on each."""
    low, high = min(numbers), max(numbers)
    scale = alt.Scale(domain=[low, high], range=["#eef4f9", "#5aa5d6"])
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    return alt.layer(
        base.mark_rect(stroke=COLOURS["paper"], strokeWidth=2).encode(
            color=alt.Color("value:Q", scale=scale, legend=None)
        ),
        base.mark_text(color=COLOURS["ink"]).encode(text="text:N"),
    ).properties(width=width, height=alt.Step(34), title=alt.Title(title, offset=8))
