"""How far is a prediction's λ50 off, by how many prompts it rests on? Over pairs and their sweeps.

python benchmarks/predict_error.py NAME=INSTRUCT,THINKING[,RUN] … [--task arithmetic] [--into docs/predict.md]

The chances of 204 prompts are asked once at 51 λ; what any few of them predict is then arithmetic. The truth is λ50 of
the run, a sweep of the pair (`interpole sweep`), read as `interpole stages` reads it; where there is no run, what all prompts
predict. `--into` puts the table between its marks in the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interpole.analysis.prediction import predict
from interpole.analysis.transition import find_transition, from_samples
from interpole.runs.samples import read
from interpole.search.predict import opened
from interpole.sweep.config import SweepConfig

SIZES = (1, 2, 4, 8, 16, 32, 96)
GOAL = 0.03
NUM_SUBSETS = 200
MARKS = ("<!-- errors: begin -->", "<!-- errors: end -->")


def chances(instruct: str, thinking: str, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """λ (L,), probabilities (Q, L) and margins (Q, L) of a pair, between 0 and 1."""
    content = {"sources": {"instruct": instruct, "thinking": thinking}, "tasks": [task], "lambdas": [0, 1]}
    config = SweepConfig.of(content | {"limit": 204, "engine_options": {"dtype": "float32"}})
    with opened(config) as (asked, _):
        for lam in np.linspace(0, 1, 51).round(4).tolist():
            asked.at(lam)
        return asked.table(next(iter(asked.tasks)))


def middle(lams: np.ndarray, probabilities: np.ndarray, margins: np.ndarray) -> float:
    """λ50; NaN where it is not reached."""
    found = predict(lams, probabilities, margins, resamples=1).mid
    return float("nan") if found is None else found.value


def row(name: str, pair: Sequence[str], task: str, seed: int = 0) -> str:
    """One pair's line of the table."""
    instruct, thinking, *run = pair
    lams, probabilities, margins = chances(instruct, thinking, task)
    everything = middle(lams, probabilities, margins)
    measured = find_transition(from_samples(read(run[0], texts=False))).mid if run else None
    truth = everything if measured is None else measured.value
    rng, cells = np.random.default_rng(seed), []
    for size in SIZES:
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
    parser.add_argument("pairs", nargs="+", metavar="NAME=INSTRUCT,THINKING[,RUN]")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    head = [
        "| pair | λ50 of its sweep | of all prompts | of the first 16 (error) | "
        + " | ".join(f"{size} prompt{'s' * (size > 1)}" for size in SIZES)
        + " |",
        "| --- | --- | ---: | ---: | " + " | ".join("---:" for _ in SIZES) + " |",
    ]
    rows = []
    for one in given.pairs:
        name, _, folders = one.partition("=")
        rows.append(row(name, folders.split(","), given.task))
    table = "\n".join([*head, *rows])
    if given.into is None:
        print(table)
        return
    page = given.into.read_text(encoding="utf-8")
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    given.into.write_text(f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
