"""Every simulation behind the intervals and verdicts, in one command; docs/statistics.md holds its tables.

python benchmarks/statistics.py [PART …] [--smoke] [--into docs]

Parts are stages, shares and decisions; without one, all, in less than an hour on two cores. `--into` puts the tables
between their marks in the pages of a folder.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # so that this file does not stand in for Python's `statistics`

PARTS = {"stages": "stages.md", "shares": "statistics.md", "decisions": "statistics.md"}


def lines_of(part: str, smoke: bool) -> list[str]:
    """The tables of one part."""
    from interpole.errors import InterpoleWarning

    warnings.simplefilter("ignore", InterpoleWarning)
    module = importlib.import_module(f"benchmarks.{part}_simulation")
    return list(module.tables(smoke))


def put(lines: list[str], part: str, page: Path) -> None:
    """Replace what is between the marks of a part in a page."""
    start, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    text = page.read_text(encoding="utf-8")
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text("\n".join([before + start, "", *lines, "", end + after]), encoding="utf-8")


def main() -> None:
    """Run the parts, two at a time, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--smoke", action="store_true", help="a few repeats of a few designs, in seconds")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    start = time.perf_counter()
    names = given.parts or list(PARTS)
    with ProcessPoolExecutor(2) as pool:
        for part, lines in zip(names, pool.map(lines_of, names, [given.smoke] * len(names)), strict=True):
            print(f"\n## {part}\n", *lines, sep="\n", flush=True)
            if given.into:
                put(lines, part, given.into / PARTS[part])
    print(f"\n{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
