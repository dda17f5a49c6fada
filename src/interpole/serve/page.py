"""The page at `/`: one prompt, answered at three λ side by side. One file, which loads nothing and asks this server only."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path

from interpole.serve.levels import Levels

__all__ = ["headers", "page"]


def headers() -> dict[str, str]:
    """What a browser is told: nothing is loaded, and only the script and the style of the page itself count."""
    script, style = (
        f"'sha256-{b64encode(sha256(_part(name).encode()).digest()).decode()}'" for name in ("page.js", "page.css")
    )
    policy = f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:"
    return {
        "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def page(levels: Levels) -> str:
    """The page for what is served."""
    known = {
        "name": levels.name,
        "default": levels.default,
        "levels": [{"effort": effort, "lam": level.lam} for effort, level in levels.all.items()],
    }
    data = json.dumps(known).replace("<", "\\u003c")
    text = _part("page.html")
    for name in ("page.css", "page.js"):
        text = text.replace("{{" + name + "}}", _part(name))
    return text.replace("{{name}}", html.escape(levels.name)).replace("{{data}}", data)


@cache
def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
