"""Figures of studies: lines over the dial, bars of points, strips and scatters, with a colour for each kind of pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from interpole.lab.studies.study import Row, values
from interpole.records import dial_lam
from interpole.report.style import COLOURS

__all__ = ["bars", "beside", "colours", "dial", "scatter", "stacked", "strips"]

PALETTE = ("blue", "orange", "green", "purple", "amber", "sky")
PERCENT = "format(100 * datum.value, '.0f')"


def stacked(*charts: Any) -> Any:
    """Charts under each other."""
    return alt.vconcat(*charts, spacing=28)


def beside(*charts: Any) -> Any:
    """Charts beside each other."""
    return alt.hconcat(*charts, spacing=28)


def dial(rows: Sequence[Row], statistic: str, title: str, *, by: str = "arch") -> Any:
    """A share over λ: a panel for each kind of pair, a line for each pair."""
    data = [
        {"lam": lam, "value": row.value, "kind": _kind(row, by), "pair": str(row.pair)}
        for row in rows
        if row.statistic == statistic and (lam := dial_lam(row.point)) is not None
    ]
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("lam:Q", title="λ", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=[0, 0.5, 1], grid=False)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(labelExpr=PERCENT, tickCount=3)),
        detail="pair:N",
        color=colours(data),
    )
    drawn = base.mark_line(strokeWidth=1.5, point=alt.OverlayMarkDef(size=14)).properties(width=112, height=104)
    return drawn.facet(column=alt.Column("kind:N", title=None, sort=_kinds(data))).properties(title=title)


def bars(rows: Sequence[Row], points: Sequence[str], statistic: str, title: str, *, by: str = "arch") -> Any:
    """A share at some points off the dial: the mean over pairs as a bar, each pair as a mark."""
    data = [
        {"point": row.point, "value": row.value, "kind": _kind(row, by)}
        for row in rows
        if row.statistic == statistic and row.point in points
    ]
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("point:N", title=None, sort=list(points)),
        x=alt.X("value:Q", title=None, axis=alt.Axis(labelExpr=PERCENT, tickCount=3), scale=alt.Scale(domain=[0, 1])),
    )
    mean = base.mark_bar(size=9, opacity=0.35).encode(x=alt.X("mean(value):Q", title=None), color=colours(data))
    marks = base.mark_point(filled=True, size=14, opacity=1).encode(color=colours(data))
    drawn = alt.layer(mean, marks).properties(width=112, height=17 * len(points))
    return drawn.facet(column=alt.Column("kind:N", title=None, sort=_kinds(data))).properties(title=title)


def strips(rows: Sequence[Row], points: Sequence[str], statistic: str, title: str) -> Any:
    """A number of each pair, a line of marks for each point; 0 is drawn."""
    data = [
        {"point": row.point, "value": row.value, "kind": row.arch if math.isnan(row.common) else "qwen3, sets"}
        for row in rows
        if row.statistic == statistic and row.point in points
    ]
    shown = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("point:N", title=None, sort=list(points)),
        x=alt.X("value:Q", title=None, axis=alt.Axis(labelExpr=PERCENT)),
    )
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(color=COLOURS["muted"]).encode(x="value:Q")
    marks = shown.mark_point(filled=True, size=30, opacity=0.8).encode(color=colours(data, legend=True))
    return alt.layer(zero, marks).properties(width=460, height=24 * len(points), title=title)


def scatter(rows: Sequence[Row], x: tuple[str, str], y: tuple[str, str], title: str, *, diagonal: bool = False) -> Any:
    """One number of each pair against another, a colour for each body."""
    across, up = values(rows, *x), values(rows, *y)
    data: list[dict[str, Any]] = [
        {"x": across[pair].value, "y": up[pair].value, "kind": f"w{pair[1]} d{pair[2]}"}
        for pair in up
        if pair in across and not math.isnan(across[pair].value + up[pair].value)
    ]
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("x:Q", title=None, scale=alt.Scale(zero=False)), y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    )
    layers = [base.mark_point(filled=True, size=26, opacity=0.85).encode(color=colours(data, legend=True))]
    if diagonal and data:
        ends = [min(min(one["x"], one["y"]) for one in data), max(max(one["x"], one["y"]) for one in data)]
        line = alt.Chart(alt.Data(values=[{"x": end, "y": end} for end in ends]))
        layers.insert(0, line.mark_line(color=COLOURS["grey"], strokeDash=[4, 3]).encode(x="x:Q", y="y:Q"))
    return alt.layer(*layers).properties(width=190, height=170, title=title)


def _kind(row: Row, by: str) -> str:
    return f"{getattr(row, by):.0%} in common" if by == "common" else str(getattr(row, by))


def _kinds(data: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(one["kind"] for one in data))


def colours(data: Sequence[dict[str, Any]], *, legend: bool = False) -> alt.Color:
    """A colour for each kind of pair, in the order of the data."""
    kinds = _kinds(data)
    shades = [COLOURS[PALETTE[i % len(PALETTE)]] for i in range(len(kinds))]
    return alt.Color(
        "kind:N", scale=alt.Scale(domain=kinds, range=shades), legend=alt.Legend(title=None) if legend else None
    )
