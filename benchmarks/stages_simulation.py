"""Do the intervals of the stage boundaries cover what they claim? Simulated sweeps whose truth is known.

Every question has a transition of its own, around the task's by a normal spread; responses are coin tosses, and strays close, or
do not close, whatever λ is. The truth is where the mean curve of all questions, strays included, crosses 5 %, 50 % and 95 %; its
middle is moved about at random between the swept λ. `python benchmarks/statistics.py stages` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from interpole.analysis.intervals import random_effects
from interpole.analysis.links import LINKS
from interpole.analysis.tables import CurveRow
from interpole.analysis.transition import LEVELS, Transition, find_transition, from_counts, from_rows

__all__ = ["World", "study", "sweep", "tables"]

Array = NDArray[np.float64]
GRIDS = {
    "5": np.linspace(0, 1, 5), "9": np.array([0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 1]),
    "11": np.linspace(0, 1, 11), "21": np.linspace(0, 1, 21),
}  # fmt: skip
SIZES = ((30, 8), (30, 64), (198, 8), (541, 8))
WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.3)
STRAYS = (0.0, 0.0005, 0.01)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(41)


@dataclass(frozen=True)
class World:
    """One kind of sweep."""

    questions: int = 30
    samples: int = 8
    grid: str = "11"
    spread: float = 0.03  # standard deviation over questions of where they begin to think
    width: float = 0.16  # λ_off − λ_on of a single question
    strays: float = 0.0  # share of responses that close, and share that do not, whatever λ is
    link: str = "logistic"  # of a single question's curve
    ceiling: float = 1.0  # Think #R at λ = 1
    from_csv: bool = False  # only shares and counts are known, not questions


def chance(world: World, lams: Array, middle: Array) -> Array:
    """Chance that a response closes at `lams`, for questions whose half is at `middle`."""
    link, (low, half, high) = LINKS[world.link], LINKS[world.link].inverse(np.array(LEVELS))
    own = link.chance(np.clip(half + (high - low) / world.width * (lams - middle), -30, 30))
    return np.asarray(world.strays + (1 - 2 * world.strays) * world.ceiling * own)


def sweep(world: World, rng: np.random.Generator, seed: int, resamples: int) -> tuple[Transition, Array]:
    """One simulated sweep: what is found, and the truth (3,)."""
    lams, middle = GRIDS[world.grid], 0.5 + rng.uniform(-0.1, 0.1)
    own = middle + world.spread * rng.standard_normal((world.questions, 1))
    closed = rng.binomial(world.samples, chance(world, lams, own)).astype(np.float64)
    if world.from_csv:
        shares = closed.mean(axis=0) / world.samples
        rows = [CurveRow("t", *pair, world.questions, world.samples) for pair in zip(lams, shares, strict=True)]
        found = find_transition(from_rows(rows, resamples=resamples, seed=seed))
    else:
        counts = np.full(closed.shape, float(world.samples))
        found = find_transition(from_counts(lams, closed, counts, resamples=resamples, seed=seed))
    return found, truth(world, middle)


def truth(world: World, middle: float) -> Array:
    """(3,) where the population's curve crosses the levels, by Gauss–Hermite quadrature."""
    fine = np.linspace(-0.2, 1.2, 2801)
    mean = chance(world, fine[:, None], middle + world.spread * NODES) @ (WEIGHTS / WEIGHTS.sum())
    return np.interp(LEVELS, mean, fine)


@dataclass(frozen=True)
class Seen:
    """What many sweeps of one kind gave."""

    covers: Array  # (3,) share of intervals that hold the truth
    error: Array  # (3,) mean absolute error
    length: Array  # (3,)
    curve: float  # share of sweeps in which a curve was fitted and taken
    refused: float  # share of boundaries that were not named


def study(world: World, repeats: int, resamples: int) -> Seen:
    """Many sweeps of one kind."""
    rng = np.random.default_rng(2510)
    error, hit, length = (np.full((repeats, 3), np.nan) for _ in range(3))
    curve = np.zeros(repeats)
    for i in range(repeats):
        found, true = sweep(world, rng, i, resamples)
        curve[i] = found.method == "curve"
        for j, boundary in enumerate((found.on, found.mid, found.off)):
            if boundary is not None:
                error[i, j], length[i, j] = abs(boundary.value - true[j]), boundary.high - boundary.low
                hit[i, j] = boundary.includes(true[j])
    covers, errors, lengths = (
        np.array([np.nanmean(column) if np.isfinite(column).any() else np.nan for column in part.T])
        for part in (hit, error, length)
    )
    return Seen(covers, errors, lengths, float(curve.mean()), float(np.isnan(hit).mean()))


HEAD = "covers on | mid | off | error on, off | error mid | length on, off | length mid | by a curve"


def cells(seen: Seen) -> list[str]:
    """The right part of a line."""
    return [
        *("–" if np.isnan(share) else f"{share:.0%}" for share in seen.covers),
        f"{np.nanmean(seen.error[[0, 2]]):.4f}", f"{seen.error[1]:.4f}",
        f"{np.nanmean(seen.length[[0, 2]]):.3f}", f"{seen.length[1]:.3f}", f"{seen.curve:.0%}",
    ]  # fmt: skip


def tables(smoke: bool) -> Iterator[str]:
    """All tables, as Markdown lines."""
    repeats, resamples = (3, 60) if smoke else (100, 400)
    sizes, widths = (SIZES[:1], WIDTHS[:2]) if smoke else (SIZES, WIDTHS)
    yield f"{repeats} sweeps a design. Per size and number of swept λ, over widths {WIDTHS} and strays {STRAYS}:\n"
    yield "| questions × samples | swept λ | widths, strays | covers: mean | least | most | by a curve | refused |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for (questions, samples), grid in product(sizes, GRIDS):
        for name, part in (("up to .1", [w for w in widths if w <= 0.1]), ("above .1", [w for w in widths if w > 0.1])):
            worlds = [
                World(questions, samples, grid, width=w, strays=s)
                for w, s in product(part, STRAYS[: 1 if smoke else 3])
            ]
            if worlds:
                seen = [study(world, repeats, resamples) for world in worlds]
                covers = np.array([one.covers for one in seen])
                yield (
                    f"| {questions} × {samples} | {grid} | {name} | {np.nanmean(covers):.0%} | {np.nanmin(covers):.0%} | "
                    f"{np.nanmax(covers):.0%} | {np.mean([one.curve for one in seen]):.0%} | "
                    f"{np.mean([one.refused for one in seen]):.0%} |"
                )
    yield "\nOther links, all questions alike up to a spread of .03, 11 and 21 swept λ:\n"
    yield f"| link | questions × samples | swept λ | width | {HEAD} |\n|" + " --- |" * 4 + " ---: |" * 8
    links = ("logistic", "probit", "cloglog", "loglog", "Aranda-Ordaz 0.3", "mirrored Aranda-Ordaz 0.3")[
        : 2 if smoke else 6
    ]
    for link, size, grid in product(links, sizes[::3] if not smoke else sizes, ("11", "21")[: 1 if smoke else 2]):
        for width in (0.2,) if smoke else (0.1, 0.2, 0.3):
            world = World(*size, grid, width=width, link=link)
            line = [link, f"{size[0]} × {size[1]}", grid, f"{width:g}", *cells(study(world, repeats, resamples))]
            yield f"| {' | '.join(line)} |"
    yield "\nOther worlds:\n"
    yield f"| what is different | {HEAD} |\n| --- |" + " ---: |" * 8
    usual = World()
    for name, world in {
        "30 × 8, 11 λ, width .16, spread .03": usual,
        "8 questions": replace(usual, questions=8),
        "1 sample": replace(usual, samples=1),
        "questions that differ: spread .1": replace(usual, spread=0.1),
        "from curves.csv, questions alike": replace(usual, from_csv=True, spread=0.0),
        "from curves.csv, questions that differ by .06 (the file does not say)": replace(
            usual, from_csv=True, spread=0.06
        ),
        "Think #R ends at 80 %": replace(usual, ceiling=0.8, questions=100),
    }.items():
        yield f"| {name} | {' | '.join(cells(study(world, repeats, resamples)))} |"
    yield "\nPooled: three tasks of 30 × 8, whose λ50 are normal around .5 with standard deviation .02; covers that .5 in"
    yield f"\n{pooled(40 if not smoke else 2, resamples):.0%} of {40 if not smoke else 2} runs."


def pooled(repeats: int, resamples: int, tasks: int = 3) -> float:
    """How often the pooled interval of λ50 holds the mean of the population of tasks."""
    rng, hits = np.random.default_rng(7), 0
    lams, world = GRIDS["11"], World()
    for i in range(repeats):
        mids = []
        for t in range(tasks):
            own = 0.5 + 0.02 * rng.standard_normal() + world.spread * rng.standard_normal((world.questions, 1))
            closed = rng.binomial(world.samples, chance(world, lams, own)).astype(np.float64)
            counts = np.full(closed.shape, float(world.samples))
            found = find_transition(from_counts(lams, closed, counts, resamples=resamples, seed=10 * i + t))
            mids += [found.mid] if found.mid else []
        hits += random_effects(mids).includes(0.5)
    return hits / repeats
