"""Where thinking will set in, from how likely responses are to begin with it: nothing is generated.

Chances (`records.Chance`) of each question at some λ go in. P(λ) is the mean over questions of the probability that the sampler
draws the opening marker first; what it predicts is Think #R. The margin, the log odds by the model's own distribution, is what
parts of the model add to. Pure functions on arrays; docs/predict.md has the errors of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interpole.analysis.intervals import UNKNOWN, Array, Interval, percentiles, ratio_intervals, weights
from interpole.analysis.transition import LEVELS

__all__ = ["Attribution", "Curve", "MovedPart", "attribute", "next_lam", "predict"]

NOTED_FALL = 0.02
NUM_GRID = 2001
"""Points between the ends at which an interpolated curve is looked up: finer than anything that is claimed."""


@dataclass(frozen=True, slots=True)
class Curve:
    """P over λ, and where it crosses 5 %, 50 % and 95 %; `None` where it does not, with the reason in `notes`."""

    lams: Array  # (L,) ascending
    shares: Array  # (L,) P there
    margins: Array  # (L,) mean log odds there
    on: Interval | None
    mid: Interval | None
    off: Interval | None
    num_questions: int
    notes: tuple[str, ...]

    def at(self, lam: float) -> float:
        """P at any λ between the first and the last, interpolated."""
        return float(_between(self.lams, self.shares[None], np.array([lam]))[0, 0])


def predict(lams: Array, probabilities: Array, margins: Array, *, resamples: int = 2000, seed: int = 0) -> Curve:
    """The curve through what was found, with 95 % intervals over questions: whole questions are resampled.

    Between λ that were asked, P is interpolated (monotone cubic, Fritsch & Carlson 1980) after it was made to rise. The
    intervals say what other questions like these would change, not how far the prediction is from what models then do.

    Args:
        lams: (L,) distinct, ascending, two or more.
        probabilities: (Q, L) that the sampler opens the thinking first.
        margins: (Q, L) log odds of it by the model's own distribution.
        resamples: of the questions.
        seed: of the resampling.
    """
    shares, num = probabilities.mean(axis=0), len(probabilities)
    draws = np.concatenate([w @ probabilities / num for w in weights(num, resamples, seed)])  # (R, L)
    grid = np.linspace(lams[0], lams[-1], NUM_GRID)
    curve, curves = _between(lams, shares[None], grid), _between(lams, draws, grid)
    found, notes = list[Interval | None](), list[str]()
    for level in LEVELS:
        if reason := _unreached(shares, lams, level):
            found.append(None)
            notes.append(reason)
        else:
            value = float(_first_at(grid, curve, level)[0])
            found.append(percentiles(value, np.nan_to_num(_first_at(grid, curves, level), nan=grid[-1]), num))
    if (drop := float(np.max(np.maximum.accumulate(shares) - shares))) > NOTED_FALL:
        notes.append(f"P falls by {100 * drop:.1f} points somewhere: the curve goes on level there")
    on, mid, off = found
    return Curve(
        lams=lams,
        shares=shares,
        margins=margins.mean(axis=0),
        on=on,
        mid=mid,
        off=off,
        num_questions=num,
        notes=tuple(notes),
    )


def next_lam(
    lams: Sequence[float], shares: Sequence[float], tolerance: float, ends: tuple[float, float]
) -> float | None:
    """Which λ to ask next, to know each of the three levels to `tolerance`: bisection. None: all are known so well.

    Args:
        lams: asked so far, in any order.
        shares: P there.
        tolerance: most distance between the λ below a level and the one above it.
        ends: the first λ to ask.
    """
    for end in ends:
        if end not in lams:
            return end
    known = sorted(zip(lams, shares, strict=True))
    for level in (LEVELS[1], LEVELS[0], LEVELS[2]):
        above = next((i for i, (_, share) in enumerate(known) if share >= level), 0)
        if above and known[above][0] - known[above - 1][0] > tolerance:
            return (known[above - 1][0] + known[above][0]) / 2
    return None


def _unreached(shares: Array, lams: Array, level: float) -> str:
    """Why P does not cross a level, in words; empty where it does."""
    if shares[0] >= level:
        return f"{level:.0%} is passed before λ={lams[0]:g}, where P is {shares[0]:.1%}"
    if shares.max() < level:
        return f"{level:.0%} is not reached: P is {shares.max():.1%} at most"
    return ""


def _between(lams: Array, shares: Array, at: Array) -> Array:
    """Rising curves (R, L) at other λ: (R, A)."""
    from scipy.interpolate import PchipInterpolator

    rising = np.maximum.accumulate(shares, axis=1)
    return np.asarray(PchipInterpolator(lams, rising, axis=1)(at))


def _first_at(grid: Array, curves: Array, level: float) -> Array:
    """Where each curve (R, G) first is at a level: (R,); the first λ where it begins above, NaN where it never comes there."""
    reached = curves >= level
    index = np.clip(reached.argmax(axis=1), 1, None)
    rows = np.arange(len(curves))
    below, above = curves[rows, index - 1], curves[rows, index]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.clip((level - below) / (above - below), 0, 1)
    lams = grid[index - 1] + np.nan_to_num(part) * (grid[index] - grid[index - 1])
    lams = np.where(reached[:, 0], grid[0], lams)
    return np.where(reached.any(axis=1), lams, np.nan)


@dataclass(frozen=True, slots=True)
class MovedPart:
    """A part of the model, moved alone."""

    name: str
    change: Interval  # of the mean margin, from where nothing has moved
    share: Interval  # of what the whole changes it by


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each part of the model changes the margin by when it moves alone, the largest first."""

    start: float  # mean margin where nothing has moved
    whole: Interval  # change where everything has
    parts: tuple[MovedPart, ...]
    together: Interval  # sum of the parts' shares: 1 where parts just add up
    num_questions: int


def attribute(start: Array, whole: Array, parts: Mapping[str, Array], *, seed: int = 0) -> Attribution:
    """Attribute the change of the margin to parts of the model; intervals are over questions.

    Args:
        start: (Q,) margins where nothing has moved.
        whole: (Q,) where everything has.
        parts: name → (Q,) where that part alone has.
        seed: of the resampling of questions.
    """
    moved = np.stack([*parts.values(), whole], axis=1) - start[:, None]  # (Q, P + 1)
    added = np.concatenate([moved, moved[:, :-1].sum(axis=1, keepdims=True)], axis=1)
    changes = ratio_intervals(added, np.ones_like(added), resamples=2000, seed=seed)
    total = np.repeat(moved[:, -1:], added.shape[1], axis=1)
    still = math.isclose(float(moved[:, -1].mean()), 0, abs_tol=1e-9)
    shares = [UNKNOWN] * added.shape[1] if still else ratio_intervals(added, total, resamples=2000, seed=seed)
    ranked = sorted(
        (MovedPart(name, change, share) for name, change, share in zip(parts, changes, shares, strict=False)),
        key=lambda part: -abs(part.change.value),
    )
    return Attribution(float(start.mean()), changes[-2], tuple(ranked), shares[-1], len(start))
