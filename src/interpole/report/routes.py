"""Policies that choose λ by the question, as lines of accuracy against tokens over the hull of static λ."""

from __future__ import annotations

from typing import Any, NamedTuple

import altair as alt

from interpole.analysis.routing import Routes, Scored
from interpole.report.style import COLOURS

__all__ = ["Line", "lines", "routes"]

HUES = ("blue", "orange", "green", "purple", "amber", "sky")


class Line(NamedTuple):
    """How a policy is drawn: where colours have run out, they come again in long dashes; a bound is grey and dashed."""

    policy: Scored
    colour: str  # a name in `COLOURS`
    dash: tuple[int, int]


def lines(found: Routes) -> list[Line]:
    """All policies, as they are drawn."""
    return [
        Line(one, "muted", (4, 3))
        if one.is_bound
        else Line(one, HUES[i % len(HUES)], (1, 0) if i < len(HUES) else (8, 3))
        for i, one in enumerate(found.policies)
    ]


def routes(found: Routes, width: int = 460, height: int = 300, *, alone: bool = True) -> alt.LayerChart:
    """Static points with their hull, and a line for every policy through its prices.

    Args:
        found: the policies.
        width: of the axes, in pixels.
        height: likewise.
        alone: with a legend and a subtitle; else what stands beside the chart says that.
    """
    shown = [a for _, _, a in found.static] + [point.accuracy for one in found.policies for point in one.points]
    shown += [one.accuracy.value for one in found.live]
    accuracy = alt.Y(
        "accuracy:Q",
        title=None,
        axis=alt.Axis(labelExpr="format(100 * datum.value, '.0f')"),
        scale=alt.Scale(domain=[min(shown) - 0.03, max(shown) + 0.03], nice=False),
    )
    tokens = alt.X("tokens:Q", title="Token #N", scale=alt.Scale(zero=False), axis=alt.Axis(grid=False, tickCount=6))
    static = [
        {"tokens": t, "accuracy": a, "label": f"{lam:g}", "hull": lam in found.on_hull}
        | {"text": f"λ={lam:g}: {100 * a:.1f} % at {t:,.0f} tokens"}
        for lam, t, a in found.static
    ]
    base = alt.Chart(alt.Data(values=static)).encode(x=tokens, y=accuracy)
    layers: list[Any] = [
        base.transform_filter("datum.hull").mark_line(color=COLOURS["grey"], strokeWidth=2),
        base.mark_point(filled=True, color=COLOURS["ink"], size=36, opacity=1).encode(description="text:N"),
        base.transform_filter("datum.hull")
        .mark_text(align="left", dx=6, dy=11, color=COLOURS["muted"], fontSize=10)
        .encode(text="label:N"),
    ]
    drawn = lines(found)
    names = [line.policy.name for line in drawn]
    colours = alt.Scale(domain=names, range=[COLOURS[line.colour] for line in drawn])
    dashes = alt.Scale(domain=names, range=[list(line.dash) for line in drawn])
    values = [
        {"policy": one.name, "order": i, **point._asdict()}
        for one in found.policies
        for i, point in enumerate(one.points)
    ]
    legend = alt.Legend(title=None) if alone else None
    layers.append(
        alt.Chart(alt.Data(values=values))
        .mark_line(point=alt.OverlayMarkDef(size=18, aria=False), strokeWidth=1.5, aria=False)
        .encode(
            x=tokens,
            y=accuracy,
            order="order:Q",
            color=alt.Color("policy:N", scale=colours, legend=legend),
            strokeDash=alt.StrokeDash("policy:N", scale=dashes, legend=None),
        )
    )
    followed = [
        {"tokens": one.tokens.value, "accuracy": one.accuracy.value}
        | {"text": f"{one.point}: {100 * one.accuracy.value:.1f} % at {one.tokens.value:,.0f} tokens"}
        for one in found.live
    ]
    if followed:
        layers.append(
            alt.Chart(alt.Data(values=followed))
            .mark_point(
                shape="diamond", size=64, opacity=1, fill=COLOURS["paper"], stroke=COLOURS["ink"], strokeWidth=1.5
            )
            .encode(x=tokens, y=accuracy, description="text:N")
        )
    if not alone:
        return alt.layer(*layers).properties(width=width, height=height, title="Accuracy (%) against tokens")
    title = alt.Title(
        f"{found.task}: accuracy (%) of policies against tokens",
        subtitle="Grey: what static λ and their mixes reach; small numbers are the λ at its corners"
        + ("; diamonds: policies that were followed" if followed else ""),
    )
    return alt.layer(*layers).properties(width=width, height=height, title=title)
