"""Intervals for statistics over questions: cluster bootstrap, and Wilson's where a question is a yes or a no.

Questions, not samples, are what is drawn from a population: the k samples of one question resemble each other, so
every interval here resamples whole questions (Miller, arXiv 2411.00640; for few questions the bootstrap rather than
the central limit theorem, arXiv 2503.01747). Pure functions on arrays; the seed is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

__all__ = [
    "UNKNOWN",
    "Z95",
    "Interval",
    "expanded_level",
    "percentiles",
    "random_effects",
    "ratio_intervals",
    "weights",
    "wilson",
]

Array = NDArray[np.float64]
Z95 = float(stats.norm.ppf(0.975))
CHUNK_ELEMENTS = 4_000_000  # of the (resamples, questions) matrix held at once: 32 MB


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval, in the unit of the estimate; NaN where not known."""

    value: float
    low: float
    high: float

    def includes(self, number: float) -> bool:
        """Whether `number` lies between the ends, ends included."""
        return self.low <= number <= self.high


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def wilson(successes: float, trials: int) -> Interval:
    """Wilson's score interval for a binomial proportion (Wilson 1927), exact at 0 and 1 of n as to the near end."""
    if trials == 0:
        return UNKNOWN
    share, z2 = successes / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def expanded_level(num_questions: int) -> float:
    """Tail probability at which to read the bootstrap for an honest 95 % interval from few questions.

    Percentile intervals of n questions are too narrow by sqrt((n−1)/n) and by the normal in place of t; Hesterberg's
    expanded percentile (arXiv 1411.5279, §4.3) reads further out: Φ(−sqrt(n/(n−1)) · t(.975, n−1)), for n ≥ 2; it is 0.025
    for n → ∞.
    """
    reach = math.sqrt(num_questions / (num_questions - 1)) * stats.t.ppf(0.975, num_questions - 1)
    return float(stats.norm.cdf(-reach))


def percentiles(value: float, draws: Array, num_questions: int) -> Interval:
    """The expanded percentile interval of bootstrap `draws` (R,) around an estimate; draws that are NaN are left out.

    One question alone says nothing about others: its ends are NaN.
    """
    draws = draws[~np.isnan(draws)]
    if draws.size == 0 or num_questions < 2:
        return Interval(value, math.nan, math.nan)
    level = expanded_level(num_questions)
    low, high = np.quantile(draws, [level, 1 - level])
    return Interval(value, float(low), float(high))


def random_effects(estimates: Sequence[Interval]) -> Interval:
    """The mean over units drawn from a population, such as tasks, with Hartung and Knapp's interval for it.

    Units differ by τ² (Paule & Mandel 1982) beyond their own errors, which are read off their intervals. The ends are
    t(.975, n−1) standard errors away (Hartung & Knapp, Statistics in Medicine 2001); they are never closer than those of
    units that do not differ (Röver, Knapp & Friede, arXiv 1407.4457). A unit without an interval has no error of its own.
    """
    values = np.array([x.value for x in estimates])
    if len(values) == 1:
        return estimates[0]
    own = np.nan_to_num(np.array([(x.high - x.low) / (2 * Z95) for x in estimates])) ** 2 + 1e-12

    def pooled(between: float) -> tuple[float, float, float]:
        w = 1 / (own + between)
        mean = float(np.average(values, weights=w))
        return mean, float(np.sum(w * (values - mean) ** 2)) / (len(values) - 1), float(w.sum())

    high = float(values.var(ddof=1)) + 1e-12
    between = 0.0
    if pooled(0.0)[1] > 1:
        between = float(optimize.brentq(lambda t: pooled(t)[1] - 1, 0.0, high))
    mean, excess, precision = pooled(between)
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * math.sqrt(max(1.0, excess) / precision)
    return Interval(mean, mean - reach, mean + reach)


def weights(num_questions: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each question was drawn in each resample, in chunks (r, Q) that together have `resamples` rows."""
    rng = np.random.default_rng(seed)
    rows = max(1, min(resamples, CHUNK_ELEMENTS // max(1, num_questions)))
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = rng.integers(0, num_questions, size=(r, num_questions))
        drawn += num_questions * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=r * num_questions).reshape(r, num_questions).astype(np.float64)


def ratio_intervals(top: Array, bottom: Array, *, resamples: int, seed: int, num_lengths: int = 0) -> list[Interval]:
    """Intervals of M statistics, each Σ top / Σ bottom over questions.

    Args:
        top: (Q, M) what each question adds above the line, e.g. its mean score.
        bottom: (Q, M) what it adds below, e.g. 1; or 0 where the statistic is not defined for the question.
        resamples: bootstrap resamples of the questions.
        seed: of the generator that draws them; the same seed and Q draw the same questions.
        num_lengths: the first so many statistics are lengths or changes; the others are shares in [0, 1]. Where every
            question says 0 or 1 outright, questions are coin tosses, and a share gets Wilson's interval over
            questions: the bootstrap would call 0 of 30 certain.

    Returns:
        M intervals; `UNKNOWN` where no question defines the statistic.
    """
    if len(top) == 0:
        return [UNKNOWN] * top.shape[1]
    with np.errstate(invalid="ignore"):
        draws = np.concatenate([(w @ top) / (w @ bottom) for w in weights(len(top), resamples, seed)])  # (R, M)
        values = top.sum(axis=0) / bottom.sum(axis=0)
    columns = zip(top.T, bottom.T, values.tolist(), draws.T, strict=True)
    return [_interval(*column, share=m >= num_lengths) for m, column in enumerate(columns)]


def _interval(top: Array, bottom: Array, value: float, draws: Array, share: bool) -> Interval:
    """One statistic's interval: Wilson's where each of its questions is 0 or 1, else the bootstrap's."""
    num_questions = int(np.count_nonzero(bottom))
    if num_questions == 0:
        return UNKNOWN
    if share and np.isin(bottom, (0, 1)).all() and np.isin(top, (0, 1)).all():
        return wilson(float(top.sum()), num_questions)
    return percentiles(value, draws, num_questions)
