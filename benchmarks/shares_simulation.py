"""Do intervals of Mean@k and of paired changes cover what they claim, up to 0 and 1? Questions differ as beta distributions say.

`python benchmarks/simulations.py shares` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np

from interpole.analysis.intervals import change_interval, percentiles, share_interval, weights

__all__ = ["tables"]

SIZES = ((30, 8), (30, 64), (198, 8), (541, 8), (60, 1))
MEANS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.989, 0.995, 0.999)
SHOWN = (0.5, 0.9, 0.989)  # of them, whose lengths are printed
ALIKE = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # a + b of the beta distribution: small means all or nothing
CHANGED = (0.02, 0.1, 0.3, 1.0)  # share of questions whose chance is drawn anew
PAIRS = ((0.5, 0.5), (0.9, 0.9), (0.98, 0.98), (0.995, 0.995), (0.6, 0.9), (0.98, 0.9))


def shares(size: tuple[int, int], mean: float, repeats: int, bootstrap: int) -> tuple[list[float], float, float]:
    """Coverage for each of `ALIKE`, mean length, and the least coverage of the bootstrap."""
    (questions, k), rng = size, np.random.default_rng(1)
    hits, lengths, least = [], [], 1.0
    drawn = np.concatenate(list(weights(questions, 400, 1))) / questions
    for alike in ALIKE:
        chance = rng.beta(mean * alike, (1 - mean) * alike, (repeats, questions))
        seen = rng.binomial(k, chance) / k
        found = [share_interval(each, k) for each in seen]
        hits.append(float(np.mean([x.includes(mean) for x in found])))
        lengths.append(np.mean([x.high - x.low for x in found]))
        old = [percentiles(0.0, drawn @ each, questions).includes(mean) for each in seen[:bootstrap]]
        least = min(least, float(np.mean(old)))
    return hits, float(np.mean(lengths)), least


def changes(size: tuple[int, int], pair: tuple[float, float], repeats: int) -> tuple[list[float], float]:
    """Coverage over `CHANGED` and three spreads; and the least of the t interval."""
    (questions, k), rng, hits, plain = size, np.random.default_rng(2), [], []
    for share, alike in product(CHANGED, (0.3, 1.0, 10.0)):
        before = rng.beta(pair[0] * alike, (1 - pair[0]) * alike, (repeats, questions))
        anew = rng.beta(pair[1] * alike, (1 - pair[1]) * alike, (repeats, questions))
        after = np.where(rng.random((repeats, questions)) < share, anew, before)
        seen, true = rng.binomial(k, after) / k - rng.binomial(k, before) / k, share * (pair[1] - pair[0])
        hits.append(float(np.mean([change_interval(each, k).interval.includes(true) for each in seen])))
        error = seen.std(axis=1, ddof=1) / np.sqrt(questions)
        plain.append(float(np.mean(np.abs(seen.mean(axis=1) - true) <= 2.0 * error)))
    return hits, min(plain)


def tables(smoke: bool, run: Callable[..., Iterable[Any]] = map) -> Iterator[str]:
    """A line per size, as Markdown; `run` is `map`, or that of a pool of processes."""
    repeats, bootstrap = (60, 5) if smoke else (1000, 200)
    sizes, means, kinds = (SIZES[:1], SHOWN, PAIRS[::3]) if smoke else (SIZES, MEANS, PAIRS)
    designs, pairs = list(product(sizes, means)), list(product(sizes, kinds))
    of_shares = list(run(shares, *zip(*designs, strict=True), [repeats] * len(designs), [bootstrap] * len(designs)))
    of_changes = list(run(changes, *zip(*pairs, strict=True), [repeats] * len(pairs)))
    yield (
        f"{repeats} sets of questions a design. Mean@k: true means {means}, questions that differ as beta distributions with "
        f"a + b of {ALIKE}. Changes: means before, and of what is drawn anew, {kinds}, for shares {CHANGED} of the questions.\n"
    )
    yield (
        "| questions × samples | Mean@k covers: least, mean (least at) | length at true means "
        f"{', '.join(map(str, SHOWN))} | the bootstrap's least: up to .9, beyond | a change covers: least, mean | "
        "by t alone: least |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for size in sizes:
        mine = {mean: found for (one, mean), found in zip(designs, of_shares, strict=True) if one == size}
        least, worst = min((min(hits), mean) for mean, (hits, _, _) in mine.items())
        old = [min(b for mean, (_, _, b) in mine.items() if (mean <= 0.9) == near) for near in (True, False)]
        changed = [found for (one, _), found in zip(pairs, of_changes, strict=True) if one == size]
        yield (
            f"| {size[0]} × {size[1]} | {least:.1%}, {np.mean([hits for hits, _, _ in mine.values()]):.0%} ({worst:g}) | "
            f"{', '.join(f'{mine[mean][1]:.3f}' for mean in SHOWN)} | {old[0]:.0%}, {old[1]:.0%} | "
            f"{min(min(hits) for hits, _ in changed):.1%}, {np.mean([hits for hits, _ in changed]):.0%} | "
            f"{min(plain for _, plain in changed):.0%} |"
        )
