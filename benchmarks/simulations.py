"""Every simulation behind the intervals and verdicts, in one command; docs/statistics.md says which page holds which table.

python benchmarks/simulations.py [PART …] [--smoke] [--into docs]

Without a part, all: about 1,200 CPU seconds, most of them of the stages. `--into` puts the tables between their marks in the
pages of a folder.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # one core for each of two processes
sys.path[0] = str(Path(__file__).resolve().parents[1])  # the parts are modules of `benchmarks`

PARTS = {  # which function of which module writes which table of which page
    "stages": ("stages_simulation", "tables", "stages.md"),
    "shares": ("shares_simulation", "tables", "statistics.md"),
    "decisions": ("decisions_simulation", "tables", "statistics.md"),
    "budgets": ("decisions_simulation", "of_budgets", "recommend.md"),
    "searches": ("decisions_simulation", "of_searches", "search.md"),
    "fronts": ("decisions_simulation", "of_fronts", "metrics.md"),
    "adaptive": ("adaptive_simulation", "tables", "search.md"),
}


def quiet() -> None:
    """No warnings about small data: they are what is studied."""
    from interpole.errors import InterpoleWarning

    warnings.simplefilter("ignore", InterpoleWarning)


def put(lines: list[str], part: str, page: Path) -> None:
    """Replace what is between the marks of a part in a page."""
    start, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    text = page.read_text(encoding="utf-8")
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text("\n".join([before + start, "", *lines, "", end + after]), encoding="utf-8")


def main() -> None:
    """Run the parts, their designs on two processes, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--smoke", action="store_true", help="a few repeats of a few designs, in seconds")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    quiet()
    with ProcessPoolExecutor(2, initializer=quiet) as pool:
        for part in given.parts or PARTS:
            start = time.perf_counter()
            module, function, page = PARTS[part]
            lines = list(getattr(importlib.import_module(f"benchmarks.{module}"), function)(given.smoke, pool.map))
            print(f"\n## {part}\n", *lines, sep="\n", flush=True)
            if given.into:
                put(lines, part, given.into / page)
            print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(f"{sum(os.times()[:4]):.0f} s of CPU", file=sys.stderr)


if __name__ == "__main__":
    main()
