"""Does an adaptive sweep give the grid's answer, for how much, and is it as sure as it says? Simulated pairs of known truth.

Every pair has a transition, a difficulty per question, accuracies and lengths of its own, drawn at random. The grid (11 λ)
and the adaptive sweep ask the same questions. `python benchmarks/simulations.py adaptive` runs it; `calibration` fits what
turns shares of plausible curves into confidences (`search.allocation.CALIBRATION`), on other pairs than it is checked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from interpole.analysis.recommend import recommend
from interpole.analysis.transition import find_transition, from_samples
from interpole.records import Outcome, Sample
from interpole.search.allocation import CALIBRATION, Goal, as_good
from interpole.search.explore import Found, Round, explore

__all__ = ["GRID", "SimulatedPair", "calibration", "compare", "tables"]

Array = NDArray[np.float64]
GRID = tuple(round(0.1 * i, 1) for i in range(11))
SIZES = ((30, 16), (60, 8), (200, 4), (200, 8))
FIRST = 1000  # pair; `calibration` has those from 0 on
COMPARED = 20  # pairs of a design that are compared with the grid
PAIRS, EACH = 30, 10  # that are searched, and those of one process at a time
LEAST = 30  # rounds of a bin that is shown
BINS = (0.0, 0.5, 0.7, 0.85, 0.95, 1.0)  # of printed confidence
GOALS = {
    "balanced": Goal(), "accuracy": Goal("accuracy"), "max-tokens": Goal("max_tokens"), "min-accuracy": Goal("min_accuracy"),
}  # fmt: skip


class SimulatedPair:
    """An `Oracle` without a model; the same question, epoch and λ give the same response."""

    def __init__(self, seed: int, num_questions: int = 60, k: int = 8) -> None:
        """Draw a pair."""
        rng = np.random.default_rng(seed)
        self.seed, self.num_questions, self.k = seed, num_questions, k
        self.middle, self.width = rng.uniform(0.3, 0.7), rng.uniform(0.06, 0.25)
        self.direct, self.dip, self.thinking = rng.uniform(-1, 1), rng.uniform(0, 1.5), rng.uniform(1, 4)
        self.settling = rng.uniform(0.05, 0.3)  # how long thinking takes to be good
        self.short, self.long = rng.uniform(5, 300), rng.uniform(400, 4000)
        self.growth = rng.uniform(0.2, 1.2)  # of a thought, from the transition on
        self.ease = rng.normal(0, 1.5, num_questions)
        self.own = rng.normal(0, 0.03, num_questions)
        self._samples: dict[tuple[float, int], list[Sample]] = {}
        self._wanted: dict[float, int] = {}

    def think(self, lam: float) -> Array:
        """(Q,) probability that a response thinks."""
        return np.asarray(expit(2 * 2.944 / self.width * (lam - self.middle - self.own)))

    def accuracy(self, lam: float) -> Array:
        """(Q,) probability that it is right."""
        direct = expit(self.ease + self.direct - self.dip * np.sin(np.pi * min(lam / self.middle, 1.0)) ** 2)
        after = max(0.0, lam - self.middle)
        thought = expit(self.ease + self.direct + self.thinking * (1 - np.exp(-after / self.settling)))
        return np.asarray(direct + self.think(lam) * (thought - direct))

    def tokens(self, lam: float) -> Array:
        """(Q,) mean tokens of a response."""
        thought = self.long * (1 + self.growth * (lam - self.middle))
        return np.asarray(self.short + self.think(lam) * thought * (1 - 0.1 * self.ease))

    def responses(self, lam: float, epoch: int) -> list[Sample]:
        """One response to every question."""
        if (lam, epoch) not in self._samples:
            rng = np.random.default_rng([self.seed, round(lam * 1e6), epoch])
            closed = rng.random(self.num_questions) < self.think(lam)
            right = rng.random(self.num_questions) < self.accuracy(lam)
            length = np.maximum(self.tokens(lam), 2) * rng.lognormal(-0.125, 0.5, self.num_questions)
            self._samples[lam, epoch] = [
                Sample(
                    "t", f"λ={lam:g}", lam, f"q{q}", epoch, "?", "1", "", max(1, round(length[q])), "stop",
                    Outcome.CLOSED if closed[q] else Outcome.DIRECT, bool(closed[q]), str(int(right[q])),
                    {"own": float(right[q])},
                )
                for q in range(self.num_questions)
            ]  # fmt: skip
        return self._samples[lam, epoch]

    def probe(self, lam: float, num_prompts: int) -> list[Sample]:
        """First responses to the first questions."""
        return self.responses(lam, 1)[:num_prompts]

    def measure(self, wanted: Mapping[float, int]) -> list[Sample]:
        """All samples so far."""
        self._wanted |= wanted
        return [s for lam, k in self._wanted.items() for epoch in range(1, k + 1) for s in self.responses(lam, epoch)]

    def grid(self, first_sample: int = 1) -> list[Sample]:
        """What the whole grid gives; from another first epoch, another grid's responses."""
        epochs = range(first_sample, first_sample + self.k)
        return [s for lam in GRID for epoch in epochs for s in self.responses(lam, epoch)]

    def goal(self, name: str) -> Goal:
        """A goal of this name whose limit cuts through this pair's curves."""
        goal = GOALS[name]
        between = 0.4 + 0.6 * np.random.default_rng([self.seed, 7]).random()
        if goal.name == "max_tokens":
            return goal._replace(limit=between * float(self.tokens(1.0).mean()))
        top = max(float(self.accuracy(lam).mean()) for lam in GRID)
        return goal._replace(limit=between * top) if goal.name == "min_accuracy" else goal


def compare(pair: SimulatedPair, goal: Goal) -> tuple[Found, dict[str, float]]:
    """The adaptive sweep against the grid: share of tokens, agreement, and how much worse by the truth."""
    grid = pair.grid()
    found = explore(pair, GRID, pair.k, goal)
    lams = []
    for samples in (found.samples, grid, pair.grid(101)):
        chosen = recommend(samples, resamples=200, **goal.options)
        lams.append((chosen.choice or chosen.nearest).lam)  # type: ignore[union-attr]
    accuracy, tokens = (np.array([float(of(lam).mean()) for lam in lams]) for of in (pair.accuracy, pair.tokens))

    def same(i: int) -> bool:
        return bool(abs(accuracy[i] - accuracy[1]) <= 0.02 and abs(tokens[i] / tokens[1] - 1) <= 0.1)

    middles = [find_transition(from_samples(grid, resamples=200)).mid, found.transition.mid]
    return found, {
        "tokens": found.num_tokens / sum(s.num_tokens for s in grid),
        "same": float(same(0)),
        "step": float(same(0) or abs(lams[0] - lams[1]) < 0.1 + 1e-9),
        "grid same": float(same(2)),
        "grid step": float(same(2) or abs(lams[2] - lams[1]) < 0.1 + 1e-9),
        "accuracy": accuracy[0] - accuracy[1],
        "longer": tokens[0] / tokens[1] - 1,
        "middle": abs(middles[1].value - middles[0].value) if middles[0] and middles[1] else np.nan,
        "truth": abs(middles[1].value - pair.middle) if middles[1] else np.nan,
        "rounds": float(len(found.rounds)),
    }


def right(pair: SimulatedPair, goal: Goal, done: Round) -> float:
    """Whether the λ that a round printed is as good as any of the grid, by the truth."""
    accuracy, tokens = (np.array([[float(of(lam).mean()) for lam in GRID]]) for of in (pair.accuracy, pair.tokens))
    return as_good(int(np.argmin(np.abs(np.array(GRID) - done.lam))), accuracy, tokens, goal)


class Told(NamedTuple):
    """What one round printed."""

    pair: int
    confidence: float
    right: float  # whether the λ it printed is as good as any, by the truth
    last: bool


def searches(
    size: tuple[int, int], name: str, first: int, num_pairs: int, compared: int
) -> tuple[list[dict[str, float]], list[Told]]:
    """Comparisons of the first pairs with the grid; and what every round of all of them printed."""
    rows, told = [], []
    for seed in range(first, first + num_pairs):
        pair = SimulatedPair(seed, *size)
        goal = pair.goal(name)
        if seed < first + compared:
            found, row = compare(pair, goal)
            rows.append(row)
        else:
            found = explore(pair, GRID, pair.k, goal)
        told += [
            Told(seed, done.confidence, right(pair, goal, done), done is found.rounds[-1]) for done in found.rounds
        ]
    return rows, told


def grid_line(size: tuple[int, int], name: str, rows: list[dict[str, float]]) -> str:
    """How one goal fares against the grid."""
    column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return (
        f"| {size[0]} × {size[1]} | {name} | {column['tokens'].mean():.0%} ({column['tokens'].max():.0%}) | "
        f"{column['same'].mean():.0%} ({column['grid same'].mean():.0%}) | "
        f"{column['step'].mean():.0%} ({column['grid step'].mean():.0%}) | "
        f"{100 * column['accuracy'].mean():+.1f} points | {column['longer'].mean():+.0%} | "
        f"{np.mean(column['middle'] <= 0.03):.0%} | {np.mean(column['truth'] <= 0.03):.0%} |"
    )


def off(told: Array) -> str:
    """What was printed, how often that was right, and the difference with its standard error; only pairs are independent."""
    _, pair = np.unique(told[:, 0], return_inverse=True)
    lost, num = np.bincount(pair, told[:, 2] - told[:, 1]), np.bincount(pair)
    mean = lost.sum() / num.sum()
    error = np.sqrt(np.sum((lost - mean * num) ** 2)) / num.sum()
    return f"{100 * told[:, 1].mean():.0f} → {100 * told[:, 2].mean():.0f} ({100 * mean:+.1f} ± {100 * error:.1f}; {len(told)})"


def confidence_line(name: str, told: Array) -> str:
    """Printed against right, in bins and at the end."""
    at = np.clip(np.digitize(told[:, 1], BINS) - 1, 0, len(BINS) - 2)
    groups = [told[at == i] for i in range(len(BINS) - 1)] + [told[told[:, 3] == 1]]
    return f"| {name} | " + " | ".join(off(one) if len(one) >= LEAST else "–" for one in groups) + " |"


def tables(smoke: bool, run: Callable[..., Iterable[Any]] = map) -> Iterator[str]:
    """Both tables, as Markdown lines; `run` is `map`, or that of a pool of processes."""
    compared, num_pairs, each = (1, 1, 1) if smoke else (COMPARED, PAIRS, EACH)
    designs = list(product(((20, 4),) if smoke else SIZES, GOALS))
    parts = [
        (size, name, FIRST + at, each, max(0, min(each, compared - at)))
        for at in range(0, num_pairs, each)
        for size, name in designs
    ]
    found = list(run(searches, *zip(*parts, strict=True)))
    yield f"{compared} pairs a line.\n"
    yield (
        "| questions × samples | goal | tokens, of the grid's: mean (most) | as good a λ (a second grid) "
        "| or one step beside it (a second grid) | true accuracy, mean change | true tokens, mean change "
        "| λ50 within ±.03 of the grid's | … of the truth |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for size, name in designs:
        rows = [row for part, (rows, _) in zip(parts, found, strict=True) if part[:2] == (size, name) for row in rows]
        yield grid_line(size, name, rows)
    yield (
        "\nThe confidence that a round prints → how often the λ that it prints is as good as any by the truth, in % "
        f"(the difference ± its standard error; rounds), over all sizes, {num_pairs} pairs each. Fewer than {LEAST} rounds: –\n"
    )
    yield "| goal | below 50 % | 50–70 % | 70–85 % | 85–95 % | from 95 % | at the end |\n| --- |" + " ---: |" * 6
    told = {
        name: np.array([one for part, (_, t) in zip(parts, found, strict=True) if part[1] == name for one in t])
        for name in GOALS
    }
    for name, rounds in {**told, "all": np.concatenate([*told.values()])}.items():
        yield confidence_line(name, rounds)


def calibration(goal: str, num_pairs: int = 132) -> Array:
    """(3,) offset, slope and the first round's part by which the log odds of a share of curves become those of being right.

    By maximum likelihood, over all rounds of pairs that `tables` does not see.
    """
    told, by = [], CALIBRATION[GOALS[goal].name]
    for size, seed in product(SIZES, range(num_pairs)):
        pair = SimulatedPair(seed, *size)
        for number, done in enumerate(explore(pair, GRID, pair.k, pair.goal(goal)).rounds):
            share = (logit(done.confidence) - by.offset - by.first * (number == 0)) / by.slope
            told.append((share, number == 0, right(pair, pair.goal(goal), done)))
    x, first, y = np.array(told, dtype=np.float64).T

    def lost(ends: Array) -> float:
        eta = ends[0] + ends[1] * x + ends[2] * first
        return float(-np.sum(y * log_expit(eta) + (1 - y) * log_expit(-eta)))

    return np.asarray(minimize(lost, [0.0, 1.0, 0.0]).x)
