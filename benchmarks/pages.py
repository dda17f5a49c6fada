"""Tables that scripts write into pages: what is between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->` is replaced."""

from __future__ import annotations

from pathlib import Path


def put(text: str, name: str, page: Path) -> None:
    """Replace what is between the marks of a name in a page."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text(encoding="utf-8")
    before, after = whole.split(start)[0], whole.split(end)[1]
    page.write_text(f"{before}{start}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
