"""Every simulation behind the intervals and verdicts, in one command; docs/statistics.md says which page holds which table.

python benchmarks/simulations.py [PART …] [--smoke] [--into docs] [--keep FOLDER]

Without a part, all: about 1,150 CPU seconds, most of them of the stages. `--into` puts the tables between their marks in the
pages of a folder. `--keep` writes down what each design gave: stopped, the same command goes on. The folder knows designs, not
code: take a new one after a change.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # one core for each of two processes
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the parts are modules of `benchmarks`

from benchmarks.pages import put

PARTS = {  # which function of which module writes which table of which page
    "stages": ("stages_simulation", "tables", "stages.md"),
    "links": ("stages_simulation", "of_links", "stages.md"),
    "shares": ("shares_simulation", "tables", "statistics.md"),
    "decisions": ("decisions_simulation", "tables", "statistics.md"),
    "budgets": ("decisions_simulation", "of_budgets", "recommend.md"),
    "searches": ("decisions_simulation", "of_searches", "searches.md"),
    "fronts": ("decisions_simulation", "of_fronts", "metrics.md"),
    "adaptive": ("adaptive_simulation", "tables", "searches.md"),
}


def quiet() -> None:
    """No warnings about small data: they are what is studied."""
    from interpole.errors import InterpoleWarning

    warnings.simplefilter("ignore", InterpoleWarning)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function gives, and the CPU seconds that it took."""
    start = time.process_time()
    return function(*arguments), time.process_time() - start


class Runner:
    """`map` on a pool of processes that counts CPU seconds, and keeps what is done in a folder."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path | None) -> None:
        self._pool, self._folder, self.seconds = pool, folder, 0.0

    def __call__(self, function: Callable[..., Any], *columns: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the arguments."""
        calls = list(zip(*columns, strict=True))
        files = [self._file(function, arguments) for arguments in calls]
        missing = [i for i, file in enumerate(files) if file is None or not file.exists()]
        found = dict[int, tuple[Any, float]]()
        done = self._pool.map(timed, [function] * len(missing), *zip(*(calls[i] for i in missing), strict=True))
        for i, result in zip(missing, done if missing else (), strict=True):
            found[i] = result
            if file := files[i]:
                file.with_suffix(".part").write_bytes(pickle.dumps(result))
                file.with_suffix(".part").rename(file)
        for i, file in enumerate(files):
            result, seconds = found[i] if i in found else pickle.loads(file.read_bytes()) if file else (None, 0.0)
            self.seconds += seconds
            yield result

    def _file(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Path | None:
        name = f"{function.__module__}.{function.__qualname__}{arguments!r}"
        return self._folder and self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.pickle"


def main() -> None:
    """Run the parts, their designs on two processes, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--smoke", action="store_true", help="a few repeats of a few designs, in seconds")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    quiet()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, initializer=quiet) as pool:
        run = Runner(pool, given.keep)
        for part in given.parts or PARTS:
            before = run.seconds
            module, function, page = PARTS[part]
            lines = list(getattr(importlib.import_module(f"benchmarks.{module}"), function)(given.smoke, run))
            print(f"\n## {part}\n", *lines, sep="\n", flush=True)
            if given.into:
                put("\n".join(lines), part, given.into / page)
            print(f"{part}: {run.seconds - before:.0f} s of CPU", file=sys.stderr, flush=True)
    print(f"{run.seconds:.0f} s of CPU", file=sys.stderr)


if __name__ == "__main__":
    main()
