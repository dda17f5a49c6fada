"""Charts to files: PDF, PNG and SVG through vl-convert (in a process of its own), without a browser and without the network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from interpole.errors import OutputError
from interpole.files import StrPath, write_atomic
from interpole.guarded import Guarded
from interpole.report.style import THEME

__all__ = ["check_format", "close", "save", "svg"]

FORMATS = ("pdf", "png", "svg")
PNG_PPI = 220
_CHARTS = Guarded(  # V8 reserves far more addresses than it uses
    Path(__file__).with_name("chart_worker.py"), limit_seconds=300.0, memory_bytes=1 << 46
)


def svg(chart: Any) -> str:
    """The chart as an SVG text.

    Raises:
        OutputError: it cannot be drawn.
    """
    return str(_drawn(chart, "svg")["svg"])


def close() -> None:
    """End the process that draws, which keeps 100 MB; the next chart starts another."""
    _CHARTS.close()


def _drawn(chart: Any, form: str) -> dict[str, Any]:
    """What the worker answers."""
    found = _CHARTS.ask(spec=chart.to_dict(validate=False), config=THEME, form=form, ppi=PNG_PPI)
    if not found:
        raise OutputError(
            f"a chart could not be drawn as {form}", remedy="is there memory for it? vl-convert takes 200 MB"
        )
    return found


def check_format(path: StrPath) -> None:
    """Refuse a file whose ending names no format; to be asked before the work that a figure needs.

    Raises:
        OutputError: it ends otherwise than in `.pdf`, `.png` or `.svg`.
    """
    ending = Path(path).suffix.lower()
    if ending.removeprefix(".") not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise OutputError(f"figures are written as {known}, not {ending or 'without an ending'!r}", path, "rename it")


def save(chart: Any, path: StrPath) -> Path:
    """Write a chart in the format that the file's name ends in.

    Raises:
        OutputError: an ending other than `.pdf`, `.png` or `.svg`; or the chart cannot be drawn, or the file not written.
    """
    path = Path(path)
    check_format(path)
    form = path.suffix.lower().removeprefix(".")
    data = svg(chart).encode() if form == "svg" else base64.b64decode(_drawn(chart, form)["data"])
    write_atomic(path, data, parents=True)
    return path
