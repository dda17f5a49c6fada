"""How honest are the decisions? The winner's accuracy, ties, families of comparisons, over-thinking; λ that are equal in truth.

`python benchmarks/simulations.py decisions` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from interpole.analysis.compare import holm
from interpole.analysis.intervals import change_interval, share_interval
from interpole.analysis.metrics import Difference
from interpole.analysis.pareto import LIKELY, SURE, membership, on_front
from interpole.analysis.recommend import recommend
from interpole.analysis.selection import critical, noise, optimism
from interpole.analysis.stages import MARGIN
from interpole.records import Outcome, Sample
from interpole.search.allocation import Goal
from interpole.search.finals import winner_of

__all__ = ["of_budgets", "of_fronts", "of_searches", "tables"]

Array = NDArray[np.float64]
GRID = np.round(np.linspace(0, 1, 11), 1)
TOKENS = 300 * np.exp(1.5 * GRID)  # mean length at each λ
EASE_SD = 1.5  # of questions, in log odds
CONFIDENCES = (None, 0.8, 0.95)


def equal(rng: np.random.Generator, questions: int, k: int, num_lams: int, slope: float = 0.0) -> tuple[Array, Array]:
    """(Q, L) shares of right answers; and (L,) true accuracy, which rises by `slope` from the first λ to the last."""
    ease = rng.beta(1.5, 1.0, (questions, 1))
    true = 0.6 + slope * (np.linspace(0, 1, num_lams) - 1)
    chance = np.clip(ease + slope * (np.linspace(0, 1, num_lams) - 1), 0, 1)
    return rng.binomial(k, chance) / k, true


def winner(questions: int, k: int, num_lams: int, slope: float, repeats: int) -> str:
    """The most accurate of many λ: how much too high it is, before and after the correction; coverage; ties."""
    rng, raw, mended, hit_raw, hit, all_tied = np.random.default_rng(5), [], [], [], [], []
    for i in range(repeats):
        each, true = equal(rng, questions, k, num_lams, slope)
        means, errors = each.mean(axis=0), noise(each, 300, i)
        best = int(np.argmax(means))
        off = optimism(means, errors, lambda curves: np.argmax(curves, axis=1))
        found = share_interval(each[:, best], k)
        raw.append(means[best] - true[best])
        mended.append(means[best] - off - true[best])
        hit_raw.append(found.includes(true[best]))
        hit.append(found.low - off <= true[best] <= found.high - off)
        reach = critical(errors)
        changes = [change_interval(each[:, i] - each[:, best], k) for i in range(num_lams) if i != best]
        all_tied.append(all(abs(c.interval.value) <= reach * c.error for c in changes))
    return (
        f"| {num_lams} λ, {questions} × {k}, rising by {100 * slope:g} points | {100 * np.mean(raw):+.1f} points | "
        f"{100 * np.mean(mended):+.1f} points | {np.mean(hit_raw):.0%} | {np.mean(hit):.0%} | {np.mean(all_tied):.0%} |"
    )


def families(repeats: int) -> str:
    """How often eleven equal λ, ten of them compared with the first, cry difference: one by one, and by Holm."""
    rng, alone, held = np.random.default_rng(6), 0, 0
    for _ in range(repeats):
        each, _ = equal(rng, 60, 4, 11)
        p = [judged(each[:, i] - each[:, 0], 4).p_value for i in range(1, 11)]
        alone, held = alone + (min(p) < 0.05), held + (min(holm(p)) < 0.05)
    return (
        f"Eleven equal λ, 60 × 4, ten compared with the first: a difference is cried in {alone / repeats:.0%} of runs one by "
        f"one, in {held / repeats:.0%} by Holm."
    )


def judged(change: Array, k: int) -> Difference:
    """A paired change as `difference` gives it."""
    found = change_interval(change, k)
    return Difference(
        "a", "b", "mean", found.interval, len(change), 0, found.error, 2.8 * found.error, found.freedom, 0.0
    )


def over_thinking(size: tuple[int, int], gain: float, repeats: int) -> str:
    """How often, in %, a step whose true gain is `gain` is called over-thinking, worth it and undetermined."""
    rng, called = np.random.default_rng(8), {"over-thinking": 0, "worth it": 0, "undetermined": 0}
    for _ in range(repeats):
        before = rng.beta(2, 1.2, size[0]) * 0.9
        after = np.clip(before + gain, 0, 1)
        found = judged(rng.binomial(size[1], after) / size[1] - rng.binomial(size[1], before) / size[1], size[1])
        verdict = (
            "over-thinking" if found.chance(MARGIN) < 0.05 else "worth it" if found.chance() > 0.95 else "undetermined"
        )
        called[verdict] += 1
    return " / ".join(f"{100 * n / repeats:.0f}" for n in called.values())


def searched(parts: tuple[int, int], num: int, repeats: int) -> str:
    """A search between equals: its winner by the questions it was chosen on, and by those that only confirm it."""
    rng, off, covers = np.random.default_rng(10), np.zeros((repeats, 2)), np.zeros((repeats, 2))
    for i in range(repeats):
        each, true = equal(rng, sum(parts), 4, num)
        best = winner_of(each[: parts[0]].mean(axis=0), np.ones(num), Goal("accuracy"))
        for j, mine in enumerate((each[: parts[0], best], each[parts[0] :, best])):
            off[i, j], covers[i, j] = mine.mean() - true[best], share_interval(mine, 4).includes(true[best])
    flattered, hits = off.mean(axis=0), covers.mean(axis=0)
    return (
        f"| {num} finalists, {parts[0]} + {parts[1]} × 4 | {100 * flattered[0]:+.1f} | {hits[0]:.0%} | "
        f"{100 * flattered[1]:+.1f} | {hits[1]:.0%} |"
    )


def of_searches(smoke: bool, run: Callable[..., Iterable[Any]] = map) -> Iterator[str]:
    """The table of searches."""
    repeats = 4 if smoke else 400
    yield f"{repeats} runs a line; the winner of a search between equals, on what it was chosen on and on what confirms it:\n"
    yield "| design | chosen: too high by, points | its interval covers | confirmed: too high by | its interval covers |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    yield from run(searched, ((25, 25), (50, 50), (150, 150)), (12, 12, 20), [repeats] * 3)


def dial(rng: np.random.Generator, questions: int, k: int, effect: Array) -> tuple[Array, Array, Array]:
    """(Q, L) shares of right answers, and lengths, which rise with λ; (L,) which λ are on the front of what is true."""
    ease, long = rng.beta(1.5, 1.0, (20_000, 1)), np.exp(rng.normal(0, 0.4, (questions, 1)))
    true = np.clip(ease + effect, 0.02, 0.98).mean(axis=0)
    tokens = 100 * (1 + 9 * np.linspace(0, 1, len(effect)))
    each = rng.binomial(k, np.clip(ease[:questions] + effect, 0.02, 0.98)) / k
    lengths = tokens * long * np.exp(rng.normal(0, 0.2, each.shape))
    return each, lengths, on_front(true[None], tokens[None])[0]


def fronts(size: tuple[int, int], flat_from: float | None, repeats: int) -> str:
    """Of points that are on the front with a probability in each of four ranges: how many are on that of what is true."""
    rng, chances, truly, last = np.random.default_rng(9), [], [], []
    for i in range(repeats):
        rising = rng.normal(0.02, 0.04, 11).cumsum() - 0.2
        effect = rising if flat_from is None else np.minimum(0, np.linspace(0, 1, 11) - flat_from)
        each, lengths, front = dial(rng, *size, effect)
        found = membership(each, lengths, resamples=300, seed=i)
        measured = on_front(each.mean(axis=0)[None], lengths.mean(axis=0)[None])[0]
        chances, truly = [*chances, *found], [*truly, *front]
        if not front[-1]:
            last.append((measured[-1], found[-1] >= LIKELY, found[-1] >= SURE))
    at, on = np.digitize(chances, [1 - SURE, LIKELY, SURE]), np.array(truly)
    shares = [f"{on[at == i].mean():.0%} of {np.sum(at == i)}" if (at == i).any() else "–" for i in range(4)]
    drawn = [f"{share:.0%}" for share in np.mean(last, axis=0)] if last else ["–"] * 3
    design = "random" if flat_from is None else f"flat from λ = {flat_from:g}"
    return f"| {size[0]} × {size[1]}, {design} | {' | '.join([*shares, *drawn])} |"


def of_fronts(smoke: bool, run: Callable[..., Iterable[Any]] = map) -> Iterator[str]:
    """The table of the Pareto front."""
    repeats = 4 if smoke else 400
    yield f"{repeats} runs a line, eleven λ, tokens rising: of the points whose probability of being on it lies in a range,"
    yield "how many are; and how often λ = 1 is drawn on it where it is not: by what was measured, from 50% on, and as sure.\n"
    yield "| design | below 5% | below 50% | below 95% | from 95% | λ = 1, measured | from 50% | from 95% |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    designs = list(product(((30, 8), (198, 8), (541, 8)), (None, 0.5, 0.9)))
    yield from run(fronts, *zip(*designs, strict=True), [repeats] * len(designs))


def answered(seed: int, questions: int, k: int) -> list[Sample]:
    """A sweep of `GRID` on questions drawn anew: tokens and accuracy rise with λ, by `TOKENS` and `accuracy`."""
    rng = np.random.default_rng([9, seed])
    size = (len(GRID), questions, k)
    long = np.exp(rng.normal(-0.125, 0.5, (questions, 1)))  # of mean 1, as is the next
    tokens = TOKENS[:, None, None] * long * np.exp(rng.normal(-0.125, 0.5, size))
    right = rng.random(size) < expit(EASE_SD * rng.standard_normal((questions, 1)) + 2 * GRID[:, None, None])
    closed = rng.random(size) < expit(30 * (GRID[:, None, None] - 0.5))
    return [
        Sample(
            "t", f"λ={GRID[i]:g}", float(GRID[i]), f"q{q}", e + 1, "?", "1", "", round(tokens[i, q, e]), "stop",
            Outcome.CLOSED if closed[i, q, e] else Outcome.DIRECT, bool(closed[i, q, e]), "1", {"own": float(right[i, q, e])},
        )
        for i, q, e in product(*map(range, size))
    ]  # fmt: skip


def population(lam: float) -> dict[str, float]:
    """True means over questions like these."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(41)
    return {
        "max_tokens": float(np.exp(np.interp(lam, GRID, np.log(TOKENS)))),
        "min_accuracy": float(expit(EASE_SD * nodes + 2 * lam) @ weight / weight.sum()),
    }


def broken(goal: str, size: tuple[int, int], repeats: int) -> str:
    """How often the true mean at the λ recommended breaks the budget, without and with a confidence; how often there is none."""
    rng, missed = np.random.default_rng(10), {level: list[float]() for level in CONFIDENCES}
    for i in range(repeats):
        samples, limit = answered(i, *size), population(rng.uniform(0.25, 0.85))[goal]
        for level, broke in missed.items():
            chosen = recommend(samples, **{goal: limit}, confidence=level, resamples=300, seed=i)  # type: ignore[arg-type]
            true = math.nan if chosen.lam is None else population(chosen.lam)[goal]
            broke.append(math.nan if math.isnan(true) else (true > limit if goal == "max_tokens" else true < limit))
    shares = " | ".join(f"{np.nanmean(broke):.0%}" for broke in missed.values())
    none = " | ".join(f"{np.mean(np.isnan(broke)):.0%}" for broke in missed.values())
    return f"| {goal.replace('_', '-')}, {size[0]} × {size[1]} | {shares} | {none} |"


def tables(smoke: bool, run: Callable[..., Iterable[Any]] = map) -> Iterator[str]:
    """Winners, families and over-thinking, as Markdown lines; `run` is `map`, or that of a pool of processes."""
    repeats = 4 if smoke else 400
    yield f"{repeats} runs a line. The λ with the highest accuracy of many:\n"
    yield "| design | too high by | after the correction | its interval covers | after the correction | all equal λ tied |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    designs = [(30, 8, 20, 0.0), (30, 8, 11, 0.0), (198, 8, 11, 0.0), (30, 8, 11, 0.3), (198, 8, 11, 0.1)]
    yield from run(winner, *zip(*designs, strict=True), [repeats] * len(designs))
    yield "\n" + next(iter(run(families, [repeats])))
    sizes, gains = ((30, 8), (198, 8), (541, 8), (541, 64)), (-0.02, 0.0, 0.02, 0.04)
    steps = list(product(sizes, gains))
    called = iter(run(over_thinking, *zip(*steps, strict=True), [repeats] * len(steps)))
    yield "\nA step to more tokens is called over-thinking / worth it / undetermined, in % (margin 2 points), at a true gain of\n"
    yield f"| questions × samples | {' | '.join(f'{100 * gain:+g} points' for gain in gains)} |\n| --- |{' ---: |' * len(gains)}"
    for questions, k in sizes:
        yield f"| {questions} × {k} | {' | '.join(next(called) for _ in gains)} |"


def of_budgets(smoke: bool, run: Callable[..., Iterable[Any]] = map) -> Iterator[str]:
    """The table of budgets, and of how often the λ recommended breaks them."""
    runs = 2 if smoke else 200
    yield (
        f"The true mean at the λ that `recommend` names breaks the budget in so many of those of {runs} runs that name one, "
        "without `--confidence` and with it (eleven λ, questions drawn anew in each run):\n"
    )
    asked = [f"at {level:.0%}" for level in CONFIDENCES[1:]]
    yield f"| budget, questions × samples | without | {' | '.join(asked)} | no λ named: without | {' | '.join(asked)} |"
    yield "| --- |" + " ---: |" * 2 * len(CONFIDENCES)
    budgets = list(product(("max_tokens", "min_accuracy"), ((30, 4),) if smoke else ((30, 4), (100, 2))))
    yield from run(broken, *zip(*budgets, strict=True), [runs] * len(budgets))
