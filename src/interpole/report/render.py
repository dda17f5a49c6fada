"""Charts to files: PDF, PNG and SVG through vl-convert, without a browser and without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import vl_convert

from interpole.errors import OutputError
from interpole.files import StrPath, write_atomic
from interpole.report.style import THEME

__all__ = ["check_format", "save", "svg"]

FORMATS = ("pdf", "png", "svg")
PNG_PPI = 220


def svg(chart: Any) -> str:
    """The chart as an SVG text."""
    return str(vl_convert.vegalite_to_svg(chart.to_dict(validate=False), config=THEME))


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
        OutputError: an ending other than `.pdf`, `.png` or `.svg`, or a file that cannot be written.
    """
    path = Path(path)
    check_format(path)
    spec = chart.to_dict(validate=False)
    match path.suffix.lower():
        case ".pdf":
            data = vl_convert.vegalite_to_pdf(spec, config=THEME)
        case ".png":
            data = vl_convert.vegalite_to_png(spec, config=THEME, ppi=PNG_PPI)
        case _:
            data = svg(chart).encode()
    write_atomic(path, data, parents=True)
    return path
