"""How far off are the stage boundaries, and do intervals that claim 95 % cover 95 %? Simulated sweeps, known truth.

Every question has a transition of its own, around the task's by a normal spread; responses are coin tosses. The truth
is where the mean curve over all questions of the population crosses 5 %, 50 % and 95 %; its middle is moved about at
random between the swept λ. One core, about three minutes:

    python benchmarks/stages_simulation.py [--into docs/stages.md]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from interpole.analysis.tables import CurveRow
from interpole.analysis.transition import LEVELS, Transition, find_transition, from_counts, from_rows

Array = NDArray[np.float64]
START, END = "<!-- simulation: begin -->", "<!-- simulation: end -->"
GRIDS = {
    "6": np.linspace(0, 1, 6), "11": np.linspace(0, 1, 11), "21": np.linspace(0, 1, 21),
    "paper's 9": np.array([0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 1]),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """One kind of sweep."""

    questions: int = 30
    samples: int = 8
    grid: str = "11"
    spread: float = 0.03  # standard deviation over questions of where they begin to think
    width: float = 0.16  # λ_off − λ_on of a single question
    ceiling: float = 1.0  # Think #R at λ = 1
    from_csv: bool = False  # only shares and counts are known, not questions


def sweep(world: World, rng: np.random.Generator, seed: int, resamples: int) -> tuple[Transition, Array]:
    """One simulated sweep: what is found, and the truth (3,)."""
    lams, slope = GRIDS[world.grid], 2 * logit(LEVELS[2]) / world.width
    middle = 0.5 + rng.uniform(-0.1, 0.1)
    own = middle + world.spread * rng.standard_normal(world.questions)
    chance = world.ceiling * expit(slope * (lams - own[:, None]))
    closed = rng.binomial(world.samples, chance).astype(np.float64)
    if world.from_csv:
        shares = closed.mean(axis=0) / world.samples
        rows = [CurveRow("t", *pair, world.questions, world.samples) for pair in zip(lams, shares, strict=True)]
        found = find_transition(from_rows(rows, resamples=resamples, seed=seed))
    else:
        counts = np.full(closed.shape, float(world.samples))
        found = find_transition(from_counts(lams, closed, counts, resamples=resamples, seed=seed))
    return found, truth(world, middle, slope)


def truth(world: World, middle: float, slope: float) -> Array:
    """(3,) where the population's curve crosses the levels, by Gauss–Hermite quadrature."""
    fine = np.linspace(-0.5, 1.5, 4001)
    nodes, weight = np.polynomial.hermite_e.hermegauss(41)
    mean = expit(slope * (fine[:, None] - middle - world.spread * nodes)) @ (weight / weight.sum())
    return np.interp(LEVELS, world.ceiling * mean, fine)


def study(world: World, repeats: int, resamples: int) -> str:
    """Many sweeps of one kind, as a line of the table."""
    rng = np.random.default_rng(2510)
    error, hit = np.full((repeats, 3), np.nan), np.full((repeats, 3), np.nan)
    fits, width = np.zeros(repeats), np.full((repeats, 3), np.nan)
    for i in range(repeats):
        found, true = sweep(world, rng, i, resamples)
        fits[i] = found.fits
        for j, boundary in enumerate((found.on, found.mid, found.off)):
            if boundary is not None:
                error[i, j] = abs(boundary.value - true[j])
                hit[i, j], width[i, j] = boundary.includes(true[j]), boundary.high - boundary.low
    tails, middle = (0, 2), 1
    cells = [
        f"{world.questions}", f"{world.samples}", world.grid, f"{world.spread:g}", f"{world.width:g}",
        f"{np.nanmean(error[:, tails]):.4f}", f"{np.nanmean(error[:, middle]):.4f}",
        *("–" if np.isnan(column).all() else f"{np.nanmean(column):.1%}" for column in hit.T),
        f"{np.nanmean(width[:, tails]):.3f}", f"{np.nanmean(width[:, middle]):.3f}", f"{np.mean(fits == 0):.1%}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def tables(repeats: int, resamples: int) -> Iterator[str]:
    """All tables, as Markdown."""
    usual = World()
    parts = {
        "Number of questions": [replace(usual, questions=q) for q in (8, 16, 30, 100, 300)],
        "Samples per question": [replace(usual, samples=k) for k in (1, 2, 4, 16, 64)],
        "Swept λ": [replace(usual, grid=g) for g in ("6", "paper's 9", "21")],
        "Questions that differ": [replace(usual, spread=s) for s in (0.0, 0.06, 0.1)],
        "Width of the transition": [replace(usual, width=w) for w in (0.08, 0.3)],
        "The paper's benchmarks": [
            replace(usual, questions=q, samples=k, grid="paper's 9") for q, k in ((30, 64), (541, 8), (198, 8))
        ],
        "From curves.csv, questions all alike": [replace(usual, from_csv=True, spread=0.0)],
        "From curves.csv, questions that differ (not known to the file)": [replace(usual, from_csv=True, spread=0.06)],
        "Think #R ends at 80 %: the logistic curve is wrong": [
            replace(usual, ceiling=0.8, questions=q) for q in (30, 100)
        ],
    }
    head = "questions | samples | λ | spread | width | error on, off | error mid | covers on | mid | off"
    head = f"| {head} | length on, off | length mid | not logistic |"
    for title, worlds in parts.items():
        yield f"**{title}**\n\n{head}\n|" + " ---: |" * 13
        yield from (study(world, repeats, resamples) for world in worlds)
        yield ""


def main() -> None:
    """Print the tables, or put them between their marks in a document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    start, lines = time.perf_counter(), []
    for line in tables(options.repeats, options.resamples):
        print(line, flush=True)
        lines.append(line)
    spent = f"{options.repeats} sweeps a line, {options.resamples} resamples"
    print(f"{spent}, {time.perf_counter() - start:.0f} s")
    if options.into:
        text = options.into.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        body = "\n".join([START, "", f"{spent}.", "", *lines, END])
        options.into.write_text(before + body + after, encoding="utf-8")


if __name__ == "__main__":
    main()
