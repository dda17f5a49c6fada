"""The worker behind `render`: Vega-Lite by vl-convert, whose JavaScript engine keeps some 90 MB for as long as its process lives.

Questions: {"spec", "config", "form", "ppi"}; answers: {"svg"} as text, or {"data"}, a PNG or PDF in base64.
"""

from __future__ import annotations

import base64
from typing import Any

import vl_convert

from interpole.guarded import serve

__all__: list[str] = []


def _draw(question: dict[str, Any]) -> dict[str, Any]:
    """Draw one chart."""
    spec, config = question["spec"], question["config"]
    match question["form"]:
        case "svg":
            return {"svg": vl_convert.vegalite_to_svg(spec, config=config)}
        case "pdf":
            data = vl_convert.vegalite_to_pdf(spec, config=config)
        case _:
            data = vl_convert.vegalite_to_png(spec, config=config, ppi=question["ppi"])
    return {"data": base64.b64encode(data).decode()}


if __name__ == "__main__":
    serve(_draw)
