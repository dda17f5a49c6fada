"""How far is a prediction's λ50 off, by how many prompts it rests on? Over pairs and their sweeps.

python benchmarks/predict_error.py NAME=INSTRUCT,THINKING[,RUN] … [--task arithmetic] [--into docs/predict.md]
python benchmarks/predict_error.py --studies DIR [--into docs/predict.md]  # each pair that `interpole lab study` has swept there

The chances of the prompts (204, in studies theirs) are asked once at 51 λ; what any few of them predict is then arithmetic. The
truth is λ50 of the run, a sweep of the pair (`interpole sweep`), read as `interpole stages` reads it; where there is no run, what
all prompts predict. `--into` puts the table between its marks in the page, that of studies between marks of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from interpole.analysis.prediction import predict
from interpole.analysis.transition import find_transition, from_samples
from interpole.lab.studies import families, overlap
from interpole.lab.studies.bench import Bench
from interpole.lab.studies.study import FULL
from interpole.runs.runfile import NAME
from interpole.runs.samples import read
from interpole.search.predict import ForwardPasses, opened
from interpole.sweep.config import SweepConfig

SIZES = (1, 2, 4, 8, 16, 32, 96)
GOAL = 0.03
NUM_SUBSETS = 200
LAMS = np.linspace(0, 1, 51).round(4).tolist()
MARKS = ("<!-- errors: begin -->", "<!-- errors: end -->")
STUDY_MARKS = ("<!-- errors of studies: begin -->", "<!-- errors of studies: end -->")


Table = tuple[np.ndarray, np.ndarray, np.ndarray]
"""λ (L,), probabilities (Q, L) and margins (Q, L) of a pair, between 0 and 1."""


def chances(instruct: str, thinking: str, task: str) -> Table:
    """What forward passes say of a pair."""
    content = {"sources": {"instruct": instruct, "thinking": thinking}, "tasks": [task], "lambdas": [0, 1]}
    config = SweepConfig.of(content | {"limit": 204, "engine_options": {"dtype": "float32"}})
    with opened(config) as (asked, _):
        return all_of(asked)


def all_of(asked: ForwardPasses) -> Table:
    """Ask at every λ."""
    for lam in LAMS:
        asked.at(lam)
    return asked.table(next(iter(asked.tasks)))


def studied(folder: Path) -> Iterator[tuple[str, Table, Path]]:
    """Every pair that was swept in a folder of studies: its name, what forward passes say of it, and its run."""
    bench = Bench(folder, FULL)
    try:
        cases = dict.fromkeys(case for one in (families, overlap) for case in one.STUDY.cases(FULL.num_seeds))
        for case in sorted(cases, key=lambda case: (case.body.arch, case.common is not None, str(case))):
            if (bench.run_of(case) / NAME).exists():
                yield case.name, all_of(bench.asked(case)), bench.run_of(case)
    finally:
        bench.close()


def middle(lams: np.ndarray, probabilities: np.ndarray, margins: np.ndarray) -> float:
    """λ50; NaN where it is not reached."""
    found = predict(lams, probabilities, margins, resamples=1).mid
    return float("nan") if found is None else found.value


def row(name: str, table: Table, run: Path | None, sizes: Sequence[int], seed: int = 0) -> str:
    """One pair's line of the table."""
    lams, probabilities, margins = table
    everything = middle(lams, probabilities, margins)
    measured = find_transition(from_samples(read(run, texts=False))).mid if run else None
    truth = everything if measured is None else measured.value
    rng, cells = np.random.default_rng(seed), []
    for size in sizes:
        drawn = [rng.choice(len(probabilities), size, replace=False) for _ in range(NUM_SUBSETS)]
        off = np.array([middle(lams, probabilities[one], margins[one]) for one in drawn]) - truth
        within = np.mean(np.abs(np.nan_to_num(off, nan=9.0)) <= GOAL)
        cells.append(f"{np.sqrt(np.nanmean(off**2)):.3f} ({within:.0%})")
    first = middle(lams, probabilities[:16], margins[:16])
    said = "–" if measured is None else f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]"
    return f"| {name} | {said} | {everything:.3f} | {first:.3f} ({first - truth:+.3f}) | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", metavar="NAME=INSTRUCT,THINKING[,RUN]")
    parser.add_argument("--studies", type=Path)
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    sizes = [size for size in SIZES if given.studies is None or size < FULL.num_problems]
    rows = [
        "| pair | λ50 of its sweep | of all prompts | of the first 16 (error) | "
        + " | ".join(f"{size} prompt{'s' * (size > 1)}" for size in sizes)
        + " |",
        "| --- | --- | ---: | ---: | " + " | ".join("---:" for _ in sizes) + " |",
    ]
    for one in given.pairs:
        name, _, folders = one.partition("=")
        instruct, thinking, *run = folders.split(",")
        rows.append(row(name, chances(instruct, thinking, given.task), Path(run[0]) if run else None, sizes))
    for name, table, folder in studied(given.studies) if given.studies else ():
        rows.append(row(name, table, folder, sizes))
    text = "\n".join(rows)
    if given.into is None:
        print(text)
        return
    begin, end = STUDY_MARKS if given.studies else MARKS
    page = given.into.read_text(encoding="utf-8")
    before, after = page.split(begin)[0], page.split(end)[1]
    given.into.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
