"""Intervals for statistics over questions: of shares, of changes in shares, of lengths, and of means over tasks.

Questions, not samples, are what is drawn from a population: the k samples of one question resemble each other, so every
interval here counts whole questions (Miller, arXiv 2411.00640). Shares and their changes have closed forms that hold up to
0 and 1, lengths a bootstrap. docs/statistics.md says what each assumes, and how often it covers. Pure functions on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "ALIKE",
    "UNKNOWN",
    "Z95",
    "Array",
    "Change",
    "Interval",
    "change_interval",
    "ends_text",
    "expanded_level",
    "interval_text",
    "minus",
    "percentiles",
    "proportion",
    "random_effects",
    "ratio_intervals",
    "share_interval",
    "weights",
]

Array = NDArray[np.float64]
Z95 = float(special.ndtri(0.975))
FAR = 0.75  # pseudo-trials at the far end of an interval for a chance
ALIKE = 0.75
"""The correlation of a question's samples, where it cannot be seen."""
CHUNK_ELEMENTS = 4_000_000  # of the (resamples, questions) matrix held at once: 32 MB


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval, in the unit of the estimate; NaN where not known."""

    value: float
    low: float
    high: float

    def includes(self, number: float) -> bool:
        """Whether `number` lies between the ends, ends included."""
        return self.low <= number <= self.high


def ends_text(interval: Interval, scale: float = 1.0, digits: int = 1, sign: str = "") -> str:
    """The ends as text, `[58.0, 64.4]`; nothing where they are not known.

    Args:
        interval: what to show.
        scale: 100 for percent or points.
        digits: after the decimal point.
        sign: "+" to show it always.
    """
    if math.isnan(interval.low):
        return ""
    low, high = (round(scale * end, digits) + 0.0 for end in interval[1:])  # + 0.0: no -0.0
    return f"[{low:{sign},.{digits}f}, {high:{sign},.{digits}f}]"


def interval_text(interval: Interval, scale: float = 1.0, digits: int = 1, sign: str = "", unit: str = "") -> str:
    """A value with its ends as text, `61.3 % [58.0, 64.4]`; `unit` follows the value, the rest is as of `ends_text`."""
    value = f"{round(scale * interval.value, digits) + 0.0:{sign},.{digits}f}{unit}"
    return f"{value} {ends_text(interval, scale, digits, sign)}".rstrip()


def minus(a: Interval, b: Interval) -> Interval:
    """The difference of two independent estimates (MOVER: Newcombe, Statistics in Medicine 1998; Zou & Donner, ibid. 2008).

    d = a − b,   d − √((a − a_low)² + (b_high − b)²)  to  d + √((a_high − a)² + (b − b_low)²)
    """
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    return Interval(value, low, value + math.hypot(a.high - a.value, b.value - b.low))


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def proportion(share: float, trials: float) -> Interval:
    """An interval for a chance of which `share` was seen in `trials` independent ones, a number that need not be whole.

    Quantiles of beta distributions with three quarters of a pseudo-trial towards the far end: between Jeffreys' interval (a
    half) and Clopper and Pearson's (one). Both ends rise with the share; 0 and 1 are ends themselves where they were seen.
    """
    if not trials > 0:
        return UNKNOWN
    yes, no = share * trials, (1 - share) * trials
    low = special.betaincinv(yes + 1 - FAR, no + FAR, 0.025) if yes > 1e-9 else 0.0
    high = special.betaincinv(yes + FAR, no + 1 - FAR, 0.975) if no > 1e-9 else 1.0
    return Interval(share, min(share, float(low)), max(share, float(high)))


def share_interval(values: Array, num_samples: float, within: Array | None = None) -> Interval:
    """The mean of shares over questions, as `proportion` of an effective number of questions.

    That number is Q / φ, where φ is the variance of a question's share against that of a coin toss, p(1 − p). Near 0 and 1
    φ cannot be seen, so it is shrunk towards that of questions alike by ρ = .75 (Korn & Graubard, Survey Methodology
    1998, without the shrinkage), with a weight that just keeps the ends monotone in the data.

    Args:
        values: (Q,) each question's share.
        num_samples: per question; 1 where the share is not a mean over samples.
        within: (Q,) variance of each share from samples being few: then the interval is about these very questions. NaN, not
            known: it is taken as for questions like these, which is wider.
    """
    num = len(values)
    if num == 0:
        return UNKNOWN
    mean = float(values.mean())
    if within is None or np.isnan(within).any():
        if num < 2:
            return Interval(mean, math.nan, math.nan)
        spread, alike = (
            float(np.sum((values - mean) ** 2)) * num / (num - 1),
            (1 + (num_samples - 1) * ALIKE) / num_samples,
        )
    else:
        spread, alike = float(within.sum()), 1 / num_samples
    most, weight = num * mean * (1 - mean), Z95**2 * alike / 2
    return proportion(mean, num / min(1.0, (spread + weight * alike) / (most + weight)))


class Change(NamedTuple):
    """A mean of paired changes with its interval, and what a test of it needs."""

    interval: Interval
    error: float  # standard error; NaN: one question
    freedom: int  # degrees of freedom of t


def change_interval(change: Array, num_samples: float, within: Array | None = None) -> Change:
    """The mean of paired changes in shares (Q,), each between −1 and 1: t, widened where few questions changed.

    What was not seen to change may yet: where none of Q questions changed, up to z²/Q may on average, and this falls
    off as changes are seen, of which half a question's worth counts as much as what was not seen.

    Args:
        change: (Q,).
        num_samples: see `share_interval`.
        within: see `share_interval`.
    """
    num, mean = len(change), float(change.mean())
    if num < 2:
        return Change(Interval(mean, math.nan, math.nan), math.nan, 0)
    unseen = math.sqrt(0.5 / (0.5 + float(np.abs(change).sum()))) * Z95**2 / num
    if within is None or np.isnan(within).any():
        variance, alike = float(change.var(ddof=1)) / num, (1 + (num_samples - 1) * ALIKE) / num_samples
    else:
        variance, alike = float(within.sum()) / num**2, 1 / num_samples**2
    reach = float(special.stdtrit(num - 1, 0.975))
    half = math.sqrt(reach**2 * variance + alike * unseen**2)
    return Change(Interval(mean, max(-1.0, mean - half), min(1.0, mean + half)), half / reach, num - 1)


def expanded_level(num_questions: int) -> float:
    """Tail probability at which to read the bootstrap for an honest 95 % interval from few questions.

    Percentile intervals of n questions are too narrow by sqrt((n−1)/n) and by the normal in place of t; Hesterberg's
    expanded percentile (arXiv 1411.5279, §4.3) reads further out: Φ(−sqrt(n/(n−1)) · t(.975, n−1)), for n ≥ 2; it is 0.025
    for n → ∞.
    """
    reach = math.sqrt(num_questions / (num_questions - 1)) * special.stdtrit(num_questions - 1, 0.975)
    return float(special.ndtr(-reach))


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
    """The mean over units drawn from a population, such as tasks, each weighing the same: Student's t over the units' values.

    That is Hartung and Knapp's interval (Statistics in Medicine 2001) at equal weights, and holds whatever the units' own errors.
    Weights by these (with τ² by Paule & Mandel) were left: where some are overstated, as those of brackets are, τ² is found too
    small, and the unit that is known best stands for all. The ends are never closer than the units' own errors, read off their
    intervals, make them. A unit without an interval has no error of its own.
    """
    values, num = np.array([x.value for x in estimates]), len(estimates)
    if num == 1:
        return estimates[0]
    own = np.nan_to_num(np.array([(x.high - x.low) / (2 * Z95) for x in estimates]))
    between = float(special.stdtrit(num - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(num)
    reach, mean = max(between, Z95 * math.sqrt(float(np.sum(own**2))) / num), float(values.mean())
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


def ratio_intervals(top: Array, bottom: Array, *, resamples: int, seed: int) -> list[Interval]:
    """Bootstrap intervals of M statistics, each Σ top / Σ bottom over questions.

    Args:
        top: (Q, M) what each question adds above the line, e.g. its mean length.
        bottom: (Q, M) what it adds below, e.g. 1; or 0 where the statistic is not defined for the question.
        resamples: bootstrap resamples of the questions.
        seed: of the generator that draws them; the same seed and Q draw the same questions.

    Returns:
        M intervals; `UNKNOWN` where no question defines the statistic.
    """
    if len(top) == 0:
        return [UNKNOWN] * top.shape[1]
    with np.errstate(invalid="ignore"):
        draws = np.concatenate([(w @ top) / (w @ bottom) for w in weights(len(top), resamples, seed)])  # (R, M)
        values = top.sum(axis=0) / bottom.sum(axis=0)
    known = np.count_nonzero(bottom, axis=0).tolist()
    columns = zip(values.tolist(), draws.T, known, strict=True)
    return [percentiles(*column) if column[2] else UNKNOWN for column in columns]
