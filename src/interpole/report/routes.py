"""Policies that choose λ by the question, as lines of accuracy against tokens over the hull of static λ."""

from __future__ import annotations

from typing import Any

import altair as alt

from interpole.analysis.routing import Routes
from interpole.report.style import COLOURS

__all__ = ["routes"]

LINES = ("blue", "orange", "green", "purple", "amber", "sky")


def routes(found: Routes, width: int = 460, height: int = 300) -> alt.LayerChart:
    """Static points with their hull, and a line for every policy through its prices; the oracle is dashed."""
    shown = [a for _, _, a in found.static] + [point.accuracy for one in found.policies for point in one.points]
    accuracy = alt.Y(
        "accuracy:Q",
        title=None,
        axis=alt.Axis(labelExpr="format(100 * datum.value, '.0f')"),
        scale=alt.Scale(domain=[min(shown) - 0.03, max(shown) + 0.03], nice=False),
    )
    tokens = alt.X("tokens:Q", title="Token #N", scale=alt.Scale(zero=False), axis=alt.Axis(grid=False, tickCount=6))
    static = [
        {"tokens": t, "accuracy": a, "label": f"{lam:g}", "hull": lam in found.on_hull} for lam, t, a in found.static
    ]
    base = alt.Chart(alt.Data(values=static)).encode(x=tokens, y=accuracy)
    layers: list[Any] = [
        base.transform_filter("datum.hull").mark_line(color=COLOURS["grey"], strokeWidth=2),
        base.mark_point(filled=True, color=COLOURS["ink"], size=36, opacity=1),
        base.transform_filter("datum.hull")
        .mark_text(align="left", dx=6, dy=11, color=COLOURS["muted"], fontSize=10)
        .encode(text="label:N"),
    ]
    names = [one.name for one in found.policies]
    lines = [
        {"policy": one.name, "order": i, **point._asdict()}
        for one in found.policies
        for i, point in enumerate(one.points)
    ]
    colours = [
        COLOURS["muted"] if one.is_bound else COLOURS[LINES[i % len(LINES)]] for i, one in enumerate(found.policies)
    ]
    again = [8, 3]  # where colours have run out, they come again in long dashes
    dashes = [[4, 3] if one.is_bound else [1, 0] if i < len(LINES) else again for i, one in enumerate(found.policies)]
    layers.append(
        alt.Chart(alt.Data(values=lines))
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.5)
        .encode(
            x=tokens, y=accuracy, order="order:Q",
            color=alt.Color("policy:N", scale=alt.Scale(domain=names, range=colours), legend=alt.Legend(title=None)),
            strokeDash=alt.StrokeDash("policy:N", scale=alt.Scale(domain=names, range=dashes), legend=None),
        )
    )  # fmt: skip
    title = alt.Title(
        f"{found.task}: accuracy (%) of policies against tokens",
        subtitle="Grey: what static λ and their mixes reach; small numbers are the λ at its corners",
    )
    return alt.layer(*layers).properties(width=width, height=height, title=title)
