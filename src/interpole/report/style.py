"""How figures look: one palette, one Altair theme, one set of words, for paper and page alike.

Colours are Okabe and Ito's, which colour-blind readers tell apart. The page repaints them for dark mode by these
very hex values, so a colour that is not in `COLOURS` would not follow (a test holds page.css against this list).
"""

from __future__ import annotations

from typing import Any

from interpole.records import Outcome

__all__ = ["COLOURS", "OUTCOMES", "SERIES", "THEME", "UNFINISHED"]

COLOURS = {
    "ink": "#1b1b1f",
    "muted": "#6a6a72",
    "grid": "#e7e7ea",
    "band": "#f4ecdc",
    "paper": "#ffffff",
    "blue": "#0072b2",
    "sky": "#56b4e9",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#b0609a",
    "amber": "#e69f00",
    "grey": "#a9a9b2",
    "pale": "#bcd5e6",
}

SERIES = {"mean": "blue", "pass": "sky", "vote": "purple", "think": "orange", "tokens": "green"}

OUTCOMES = {
    Outcome.DIRECT: ("direct answer", "pale"),
    Outcome.CLOSED: ("thought, closed", "blue"),
    Outcome.PSEUDO_CLOSED: ("closed otherwise", "purple"),
    Outcome.UNCLOSED: ("thought, never closed", "amber"),
    Outcome.UNMARKED: ("no marker in an opened thought", "sky"),
    Outcome.TRUNCATED: ("cut at the cap", "orange"),
    Outcome.LOOPING: ("looping", "green"),
    Outcome.EMPTY: ("empty", "grey"),
    Outcome.FAILED: ("engine failed", "muted"),
}

UNFINISHED = frozenset({Outcome.TRUNCATED, Outcome.LOOPING, Outcome.UNCLOSED, Outcome.EMPTY})

FONT = "Inter, Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"

THEME: dict[str, Any] = {
    "font": FONT,
    "background": COLOURS["paper"],
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "domainColor": COLOURS["muted"],
        "tickColor": COLOURS["muted"],
        "tickSize": 3,
        "gridColor": COLOURS["grid"],
        "labelColor": COLOURS["muted"],
        "labelFontSize": 10,
        "labelPadding": 4,
        "titleColor": COLOURS["muted"],
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    },
    "axisX": {"grid": False, "titlePadding": 6},
    "axisY": {"domain": False, "ticks": False, "titleAngle": 0, "titleAlign": "left", "titleAnchor": "start"},
    "title": {
        "color": COLOURS["ink"],
        "fontSize": 12,
        "fontWeight": 600,
        "anchor": "start",
        "offset": 20,
        "subtitleColor": COLOURS["muted"],
        "subtitlePadding": 6,
    },
    "text": {"fontSize": 10, "color": COLOURS["ink"]},
    "legend": {"labelColor": COLOURS["ink"], "titleColor": COLOURS["muted"], "titleFontWeight": "normal"},
}
