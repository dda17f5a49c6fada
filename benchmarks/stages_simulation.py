"""Do the intervals of the stage boundaries cover what they claim? Simulated sweeps whose truth is known.

Every question has a transition of its own, around the task's by a normal spread; responses are coin tosses, and strays close, or
do not close, whatever λ is. The truth is where the mean curve of all questions, strays included, crosses 5 %, 50 % and 95 %; its
middle is moved about at random between the swept λ. `python benchmarks/simulations.py stages` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from interpole.analysis import transition
from interpole.analysis.intervals import Z95
from interpole.analysis.links import LINKS
from interpole.analysis.tables import CurveRow
from interpole.analysis.transition import LEVELS, Transition, find_transition, from_counts, from_rows, pool

__all__ = ["World", "of_links", "study", "sweep", "tables"]

Array = NDArray[np.float64]
Run = Callable[..., Iterable[Any]]  # `map`, or that of a pool of processes
GRIDS = {
    "5": np.linspace(0, 1, 5), "9": np.array([0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 1]),
    "11": np.linspace(0, 1, 11), "21": np.linspace(0, 1, 21),
}  # fmt: skip
SIZES = ((30, 8), (30, 64), (198, 8), (541, 8))
WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.3)
STRAYS = (0.0, 0.0005, 0.01)
TRUTHS = ("logistic", "probit", "cloglog", "loglog")
NAMES = ("on", "mid", "off")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
REPEATS, AGAIN, OTHERS, RESAMPLES = 60, 300, 200, 400
LEAST = 0.9  # designs that seem to cover less are simulated again, more often


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


def chance(world: World, lams: Array, middle: Array | float) -> Array:
    """Chance that a response closes at `lams`, for questions whose half is at `middle`."""
    link, (low, half, high) = LINKS[world.link], LINKS[world.link].inverse(np.array(LEVELS))
    own = link.chance(np.clip(half + (high - low) / world.width * (lams - middle), -30, 30))
    return np.asarray(world.strays + (1 - 2 * world.strays) * world.ceiling * own)


def sweep(
    world: World, rng: np.random.Generator, seed: int, resamples: int, middle: float | None = None
) -> tuple[Transition, Array]:
    """One simulated sweep: what is found, and the truth (3,); `middle` is random unless it is given."""
    lams, middle = GRIDS[world.grid], 0.5 + rng.uniform(-0.1, 0.1) if middle is None else middle
    own = middle + world.spread * rng.standard_normal((world.questions, 1))
    closed = rng.binomial(world.samples, chance(world, lams, own)).astype(np.float64)
    if world.from_csv:
        shares = closed.mean(axis=0) / world.samples
        rows = [CurveRow("t", *pair, world.questions, world.samples) for pair in zip(lams, shares, strict=True)]
        found = find_transition(from_rows(rows, resamples=resamples, seed=seed))
    else:
        counts = np.full(closed.shape, float(world.samples))
        found = find_transition(from_counts(lams, closed, counts, resamples=resamples, seed=seed))
    return found, middle + truth(world)


@cache
def truth(world: World) -> Array:
    """(3,) where the population's curve crosses the levels, from its middle on, by Gauss–Hermite quadrature."""
    fine = np.linspace(-0.7, 0.7, 2801)
    mean = chance(world, fine[:, None], world.spread * NODES) @ (WEIGHTS / WEIGHTS.sum())
    return np.interp(LEVELS, mean, fine)


@dataclass(frozen=True)
class Seen:
    """What many sweeps of one kind gave; NaN where a boundary was not named."""

    hit: Array  # (N, 3) whether the interval holds the truth
    error: Array  # (N, 3) absolute
    length: Array  # (N, 3)
    curve: Array  # (N,) whether a curve was fitted and taken

    @property
    def covers(self) -> Array:
        """(3,) share of intervals that hold the truth."""
        return _mean(self.hit)


def _mean(part: Array) -> Array:
    """Means of the columns, of what is known of each."""
    return np.array([np.nanmean(column) if np.isfinite(column).any() else np.nan for column in part.T])


def study(world: World, repeats: int, resamples: int = RESAMPLES, seed: int = 2510) -> Seen:
    """Many sweeps of one kind."""
    rng = np.random.default_rng(seed)
    hit, error, length = (np.full((repeats, 3), np.nan) for _ in range(3))
    curve = np.zeros(repeats)
    for i in range(repeats):
        found, true = sweep(world, rng, seed + i, resamples)
        curve[i] = found.method == "curve"
        for j, boundary in enumerate((found.on, found.mid, found.off)):
            if boundary is not None:
                error[i, j], length[i, j] = abs(boundary.value - true[j]), boundary.high - boundary.low
                hit[i, j] = boundary.includes(true[j])
    return Seen(hit, error, length, curve)


def studied(world: World, repeats: int, again: int, resamples: int) -> tuple[Seen, bool]:
    """As `study`; where it seems to cover too little, so many new sweeps, and by them alone: else the least is chance."""
    seen = study(world, repeats, resamples)
    if again and np.nanmin(seen.covers) < LEAST:
        return study(world, again, resamples, seed=100_000), True
    return seen, False


HEAD = "covers on | mid | off | error on, off | error mid | length on, off | length mid | by a curve"


def cells(seen: Seen) -> list[str]:
    """The right part of a line."""
    error, length = _mean(seen.error), _mean(seen.length)
    return [
        *("–" if np.isnan(share) else f"{share:.0%}" for share in seen.covers),
        f"{np.nanmean(error[[0, 2]]):.4f}", f"{error[1]:.4f}",
        f"{np.nanmean(length[[0, 2]]):.3f}", f"{length[1]:.3f}", f"{seen.curve.mean():.0%}",
    ]  # fmt: skip


def described(world: World, j: int) -> str:
    """A design and one of its boundaries, in short."""
    return f"{NAMES[j]}, {world.link}, width {world.width:g}, strays {100 * world.strays:g} %"


def lines(worlds: Sequence[World], seen: Sequence[Seen], twice: Sequence[bool]) -> Iterator[str]:
    """The grid's table: a line per size, number of swept λ and kind of width."""
    yield "| questions × samples | swept λ | widths | covers: mean | least | most | by a curve | again | the least is of |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for size, grid, wide in product(dict.fromkeys((w.questions, w.samples) for w in worlds), GRIDS, (False, True)):
        mine = [
            i for i, w in enumerate(worlds)
            if ((w.questions, w.samples), w.grid, w.width > 0.1) == (size, grid, wide)
        ]  # fmt: skip
        if not mine:
            continue
        covers = np.array([seen[i].covers for i in mine])  # (designs, 3)
        at, boundary = np.unravel_index(np.nanargmin(covers), covers.shape)
        yield (
            f"| {size[0]} × {size[1]} | {grid} | {'above .1' if wide else 'up to .1'} | {np.nanmean(covers):.0%} | "
            f"{np.nanmin(covers):.0%} | {np.nanmax(covers):.0%} | {np.mean([seen[i].curve.mean() for i in mine]):.0%} | "
            f"{sum(twice[i] for i in mine)} of {len(mine)} | {described(worlds[mine[at]], int(boundary))} |"
        )


def summary(worlds: Sequence[World], seen: Sequence[Seen]) -> Iterator[str]:
    """All designs together: by method, and by the truth's link."""
    covers = np.array([one.covers for one in seen])
    known, mostly = covers[np.isfinite(covers)], np.array([one.curve.mean() >= 0.5 for one in seen])
    yield (
        f"\nOf {known.size} pairs of a design and a boundary, {np.sum(known < 0.9)} cover less than 90 %, {np.sum(known > 0.98)} "
        f"more than 98 %, {np.sum(covers[mostly] > 0.98)} of them where curves are fitted in half of the sweeps or more. By what "
        "was said, and by the link of the truth:\n"
    )
    yield "| | sweeps | covers on | mid | off | length on, off | length mid |\n| --- |" + " ---: |" * 6
    num = min(len(one.curve) for one in seen)  # the same of each, also of those that were simulated again
    hit, length, curve = (
        np.concatenate([getattr(one, name)[:num] for one in seen]) for name in ("hit", "length", "curve")
    )
    link = np.repeat([world.link for world in worlds], num)
    parts = {"by a curve": curve == 1, "by a bracket": curve == 0}
    parts |= {f"a curve, {name}": (link == name) & (curve == 1) for name in dict.fromkeys(w.link for w in worlds)}
    for name, part in parts.items():
        if part.any():
            share, long = _mean(hit[part]), _mean(length[part])
            yield (
                f"| {name} | {part.sum():,} | {share[0]:.1%} | {share[1]:.1%} | {share[2]:.1%} | "
                f"{np.mean(long[[0, 2]]):.3f} | {long[1]:.3f} |"
            )


def tables(smoke: bool, run: Run = map) -> Iterator[str]:
    """All tables, as Markdown lines."""
    repeats, again, resamples = (2, 0, 60) if smoke else (REPEATS, AGAIN, RESAMPLES)
    worlds = [
        World(*size, grid, width=width, strays=strays, link=link)
        for size, grid, width, strays, link in product(SIZES, GRIDS, WIDTHS, STRAYS, TRUTHS)
    ]
    worlds = worlds[:: 67 if smoke else 1]
    yield (
        f"{repeats} sweeps for each of {len(worlds)} designs: widths {WIDTHS}, strays {STRAYS}, and questions whose curves are "
        f"{', '.join(TRUTHS)}. A share of {repeats} is known to ±{2 * np.sqrt(0.95 * 0.05 / repeats):.0%} (two standard errors), "
        f"so the least of many would be low by chance: a design that seems to cover less than {LEAST:.0%} is simulated again, "
        f"{again} times, and counted by these alone.\n"
    )
    both = list(run(studied, worlds, *([value] * len(worlds) for value in (repeats, again, resamples))))
    seen, twice = [one for one, _ in both], [done for _, done in both]
    yield from lines(worlds, seen, twice)
    yield from summary(worlds, seen)
    yield "\nOther worlds:\n"
    yield f"| what is different | {HEAD} |\n| --- |" + " ---: |" * 8
    usual = World()
    others = {
        "30 × 8, 11 λ, width .16, spread .03": usual,
        "8 questions": replace(usual, questions=8),
        "1 sample": replace(usual, samples=1),
        "questions that differ: spread .1": replace(usual, spread=0.1),
        "541 × 8, 21 λ, width .2, Aranda-Ordaz .3": World(541, 8, "21", width=0.2, link="Aranda-Ordaz 0.3"),
        "the same, mirrored": World(541, 8, "21", width=0.2, link="mirrored Aranda-Ordaz 0.3"),
        "from curves.csv, questions alike": replace(usual, from_csv=True, spread=0.0),
        "from curves.csv, questions that differ by .03": replace(usual, from_csv=True),
        "from curves.csv, 21 λ, questions that differ by .06": replace(usual, from_csv=True, spread=0.06, grid="21"),
        "from curves.csv, 21 λ, questions that differ by .2, width .05": replace(
            usual, from_csv=True, spread=0.2, grid="21", width=0.05
        ),
        "Think #R ends at 80 %": replace(usual, ceiling=0.8, questions=100),
    }
    repeats = 2 if smoke else OTHERS
    found = run(study, others.values(), [repeats] * len(others), [resamples] * len(others))
    for name, one in zip(others, found, strict=True):
        yield f"| {name} | {' | '.join(cells(one))} |"
    yield from pooled_lines(2 if smoke else OTHERS, resamples, run)


def pooled_lines(repeats: int, resamples: int, run: Run) -> Iterator[str]:
    """The table of pooled tasks."""
    yield (
        f"\nPooled: tasks of 30 × 64, 541 × 8 and 198 × 8 (then again), 11 λ, width .16, whose λ50 are normal around .5; "
        f"{repeats} runs a line. Fixed effects: tasks weighed by their own intervals, as if they did not differ.\n"
    )
    yield "| tasks | standard deviation over tasks | covers on | mid | off | length mid | fixed effects cover mid |"
    yield "| ---: | ---: |" + " ---: |" * 5
    designs = list(product((2, 3, 5), (0.0, 0.02, 0.05)))
    for (tasks, spread), line in zip(
        designs, run(pooled, *zip(*designs, strict=True), [repeats] * 9, [resamples] * 9), strict=True
    ):
        hits, length, fixed = line
        shares = " | ".join(f"{share:.0%}" for share in hits)
        yield f"| {tasks} | {spread:g} | {shares} | {length:.3f} | {fixed:.0%} |"


def pooled(tasks: int, spread: float, repeats: int, resamples: int) -> tuple[list[float], float, float]:
    """How often pooled intervals hold what is true of the population of tasks; λ50's mean length; fixed effects' coverage."""
    rng, hits, lengths, fixed = np.random.default_rng(7), [], [], []
    for i in range(repeats):
        found = []
        for t in range(tasks):
            world = World(*((30, 64), (541, 8), (198, 8))[t % 3])
            middle = 0.5 + spread * rng.standard_normal()
            found.append(sweep(world, rng, 10 * i + t, resamples, middle)[0])
        together, true = pool(found), 0.5 + truth(World())
        boundaries = [b for b in (together.on, together.mid, together.off) if b is not None]
        hits.append([b.includes(x) for b, x in zip(boundaries, true, strict=True)])
        lengths.append(boundaries[1].high - boundaries[1].low)
        value, error = np.array([(f.mid.value, (f.mid.high - f.mid.low) / 2 / Z95) for f in found if f.mid]).T
        mean, off = np.average(value, weights=error**-2), Z95 * np.sum(error**-2) ** -0.5
        fixed.append(abs(mean - true[1]) <= off)
    return np.mean(hits, axis=0).tolist(), float(np.mean(lengths)), float(np.mean(fixed))


def one_link(world: World, repeats: int, resamples: int) -> Seen:
    """As `study`, with the link of the single questions and no other; that of their mean is another, for they differ."""
    with mock.patch.object(transition, "LINKS", {world.link: LINKS[world.link]}):
        return study(world, repeats, resamples)


def of_links(smoke: bool, run: Run = map) -> Iterator[str]:
    """What averaging links is for: the same sweeps with all links, and with that of the single questions alone."""
    repeats, resamples = (2, 60) if smoke else (60, RESAMPLES)
    kinds = list(product(SIZES[:1] if smoke else (SIZES[0], SIZES[-1]), ("9", "21"), (0.1, 0.3)))
    worlds = [World(*size, grid, width=width, link=link) for size, grid, width in kinds for link in TRUTHS]
    options = ([repeats] * len(worlds), [resamples] * len(worlds))
    averaged, alone = (list(run(function, worlds, *options)) for function in (study, one_link))
    yield (
        f"{repeats} sweeps each of questions whose curves are {', '.join(TRUTHS)}, no strays; sweeps by a curve; over the four "
        "links and three boundaries. One link: that which the single questions have.\n"
    )
    yield "| questions × samples | swept λ | width | all links cover: mean | least | one link: mean | least | length, of all's |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    shares = []
    for number, (size, grid, width) in enumerate(kinds):
        mine = slice(len(TRUTHS) * number, len(TRUTHS) * (number + 1))
        covers = [np.array([_mean(one.hit[one.curve == 1]) for one in part[mine]]) for part in (averaged, alone)]
        length = [np.array([_mean(one.length[one.curve == 1]) for one in part[mine]]) for part in (averaged, alone)]
        shares.append([np.nanmean(one) for one in covers])
        told = " | ".join(f"{np.nanmean(one):.1%} | {np.nanmin(one):.0%}" for one in covers)
        yield (f"| {size[0]} × {size[1]} | {grid} | {width:g} | {told} | {np.nanmean(length[1] / length[0]):.2f} |")
    yield "| all | | | {:.1%} | | {:.1%} | | |".format(*np.mean(shares, axis=0))
