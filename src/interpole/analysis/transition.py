"""Where Think #R rises from 5 % over 50 % to 95 %: a logistic curve over λ, or an isotonic one where that does not fit.

Evidence (shares over λ and how they vary) goes in, boundaries with intervals come out. What the swept λ cannot show is
refused with the reason. Pure functions on arrays; docs/stages.md has the study of their errors and coverage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from interpole.analysis.intervals import Array, Interval, percentiles, weights
from interpole.analysis.tables import CurveRow
from interpole.errors import AnalysisError
from interpole.records import Outcome, Sample

__all__ = [
    "LEVELS",
    "Evidence",
    "Transition",
    "find_transition",
    "fit_logistic",
    "from_counts",
    "from_rows",
    "from_samples",
    "pool",
]

LEVELS = (0.05, 0.5, 0.95)
TOLERANCE = 0.05  # a curve that misses an observed share by less is good enough
SIGNIFICANCE = 0.01  # of the goodness-of-fit test
PRINTED_TRIALS = 1000  # what a share printed to a tenth of a percent is taken to be worth where no counts are known


@dataclass(frozen=True, slots=True)
class Evidence:
    """Think #R at each λ, and as it might have come out with other questions."""

    lams: Array  # (L,)
    shares: Array  # (L,)
    trials: Array  # (L,) number of independent responses that each share is worth
    draws: Array | None  # (R, L) resampled shares; None: counts are not known
    num_questions: int  # how many units were resampled
    seed: int  # of the penalty's random weights
    caveat: str = ""  # what its intervals leave out

    @property
    def grid(self) -> tuple[Array, Array]:
        """The distinct λ, ascending, and the mean share at each."""
        lams, at = np.unique(self.lams, return_inverse=True)
        return lams, np.bincount(at, weights=self.shares) / np.bincount(at)


@dataclass(frozen=True, slots=True)
class Transition:
    """λ at which Think #R is 5 %, 50 % and 95 %; `None` where that cannot be said, with the reason in `notes`."""

    on: Interval | None
    mid: Interval | None
    off: Interval | None
    method: Literal["logistic", "isotonic", "none"]
    misfit: float  # largest distance between an observed share and the logistic curve; NaN where none was fitted
    fits: bool  # whether the logistic curve is good enough
    refusal: str  # why there is no answer at all; "" where there is one
    notes: tuple[str, ...]


def from_samples(samples: Iterable[Sample], *, resamples: int = 2000, seed: int = 0) -> Evidence:
    """Evidence from the usable samples of one task at its dial points; see `from_counts`."""
    usable = [s for s in samples if s.lam is not None and s.outcome is not Outcome.FAILED]
    if not usable:
        raise AnalysisError("no usable samples at any λ", remedy="sweep λ first: `interpole sweep`")
    questions = {name: row for row, name in enumerate(dict.fromkeys(s.problem_id for s in usable))}
    lams, column = np.unique(np.array([s.lam for s in usable], dtype=np.float64), return_inverse=True)
    flat = np.array([questions[s.problem_id] for s in usable]) * len(lams) + column
    shape, size = (len(questions), len(lams)), len(questions) * len(lams)
    counts = np.bincount(flat, minlength=size).reshape(shape).astype(np.float64)
    closed = np.bincount(flat, weights=[s.closed for s in usable], minlength=size).reshape(shape).astype(np.float64)
    return from_counts(lams, closed, counts, resamples=resamples, seed=seed)


def from_counts(lams: Array, closed: Array, counts: Array, *, resamples: int = 2000, seed: int = 0) -> Evidence:
    """Evidence from counts per question: whole questions are resampled, with all their λ together.

    The trials of a share are its responses divided by the design effect: how much more the shares vary over questions
    than independent responses would, pooled over λ, between 1 and k.

    Args:
        lams: (L,) distinct, ascending.
        closed: (Q, L) responses that contain the closing marker.
        counts: (Q, L) responses; 0 where the question was not asked at that λ.
        resamples: of the questions.
        seed: of the resampling.
    """
    present = (counts > 0).astype(np.float64)
    each = closed / np.maximum(counts, 1)
    shares = each.sum(axis=0) / present.sum(axis=0)
    with np.errstate(invalid="ignore"):
        draws = np.concatenate([(w @ each) / (w @ present) for w in weights(len(each), resamples, seed)])
    draws = np.where(np.isnan(draws), shares, draws)  # a λ that none of the drawn questions has
    trials = counts.sum(axis=0) / _design_effect(each, present, shares, counts.sum(axis=0))
    return Evidence(lams, shares, trials, draws, len(each), seed)


def from_rows(rows: Sequence[CurveRow], *, resamples: int = 2000, seed: int = 0) -> Evidence:
    """Evidence from the curve of one task: binomial, as if all responses were independent; without counts no draws."""
    rows = sorted(rows, key=lambda row: row.lam)
    lams, shares = (np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in ("lam", "think"))
    counts = [row.questions * row.samples for row in rows if row.questions and row.samples]
    if len(counts) < len(rows):
        trials = np.full(len(rows), float(PRINTED_TRIALS))
        return Evidence(
            lams, shares, trials, None, PRINTED_TRIALS, seed, "no intervals: questions or samples not given"
        )
    draws = np.random.default_rng(seed).binomial(counts, shares, size=(resamples, len(rows))) / counts
    caveat = "intervals take all responses as independent; those of one question are alike, so they are too narrow"
    return Evidence(lams, shares, np.array(counts, dtype=np.float64), draws, min(counts), seed, caveat)


def pool(parts: Sequence[Evidence]) -> Evidence:
    """Tasks together, each weighing the same whatever its number of samples; give each a seed of its own."""
    worth = np.mean([part.trials.sum() for part in parts])
    draws = [part.draws for part in parts if part.draws is not None]
    return Evidence(
        np.concatenate([part.lams for part in parts]),
        np.concatenate([part.shares for part in parts]),
        np.concatenate([part.trials * worth / part.trials.sum() for part in parts]),
        np.concatenate(draws, axis=1) if len(draws) == len(parts) else None,
        sum(part.num_questions for part in parts),
        parts[0].seed,
        next((part.caveat for part in parts if part.caveat), ""),
    )


def find_transition(evidence: Evidence) -> Transition:
    """Find the transition in `evidence`, as far as the swept λ show it.

    The logistic curve is fitted to all λ. Its 95 % intervals come from refitting it to the resampled shares, each time
    with other random weights (exponential, mean 1) on the penalty's pseudo-responses, so that a λ at which none of n
    responses thought is not taken for a λ at which none ever would. Where the curve misses a share by more than 5
    points and by more than chance, or no share lies between 0 and 1, boundaries are read off the isotonic curve, drawn
    straight between swept λ; its intervals hold at least the swept λ on both sides.
    """
    lams, shares = evidence.grid
    reasons = [_unreached(lams, shares, level) for level in LEVELS]
    fitted = fit_logistic(evidence.lams, evidence.shares[None], evidence.trials) if len(lams) > 1 else None  # (1, 2)
    if fitted is None or fitted[0, 1] <= 0 or all(reasons):
        return Transition(None, None, None, "none", math.nan, False, _refusal(lams, shares), ())
    inside = bool(((evidence.shares > 0) & (evidence.shares < 1)).any())
    misfit = float(np.abs(_means(evidence.lams, evidence.shares - _curve(evidence.lams, fitted))).max())
    again = _refits(evidence) if evidence.draws is not None else None
    fits = inside and not _bad_fit(evidence, fitted, again, misfit)
    found = _crossings(evidence, fitted, again) if fits else _isotonic_crossings(evidence)
    on, mid, off = (None if reason else interval for reason, interval in zip(reasons, found, strict=True))
    notes = [reason for reason in reasons if reason]
    notes += [] if fits else [_misfit_note(lams, shares, misfit, inside)]
    notes += [evidence.caveat] if evidence.caveat else []
    return Transition(on, mid, off, "logistic" if fits else "isotonic", misfit, fits, "", tuple(notes))


def fit_logistic(
    lams: Array, shares: Array, trials: Array, *, yes: Array | float = 1.0, no: Array | float = 1.0, steps: int = 50
) -> Array:
    """Fit share = 1 / (1 + exp(−slope · (λ − middle))) to R sets of shares at once.

    Penalised maximum likelihood (Firth, Biometrika 1993; in the form of Heinze & Schemper 2002, where each λ gets
    leverage/2 pseudo-responses of either kind), which stays finite where 0 jumps to 1 between neighbouring λ. Newton's
    steps are shortened to 3 logits.

    Args:
        lams: (L,) with at least two different λ.
        shares: (R, L).
        trials: (L,) responses behind each share.
        yes: (R, 1) or 1: weight on the pseudo-responses that think.
        no: (R, 1) or 1: weight on those that do not.
        steps: at most.

    Returns:
        (R, 2): middle (where the share is one half) and slope (logits per unit of λ; ≤ 0: the share does not rise).
    """
    centre, scale = float(lams.mean()), float(lams.std())
    z = (lams - centre) / scale
    a, b = np.zeros((len(shares), 1)), np.full((len(shares), 1), 4.0)
    for _ in range(steps):
        p = expit(np.clip(a + b * z, -30, 30))  # (R, L)
        w = trials * p * (1 - p)
        s0, s1, s2 = (np.sum(w * z**power, axis=1, keepdims=True) for power in range(3))
        det = s0 * s2 - s1**2
        half = w * (s2 - 2 * s1 * z + s0 * z**2) / det / 2  # leverage / 2
        gap = trials * (shares - p) + half * (yes - (yes + no) * p)
        u0, u1 = np.sum(gap, axis=1, keepdims=True), np.sum(gap * z, axis=1, keepdims=True)
        da, db = (s2 * u0 - s1 * u1) / det, (s0 * u1 - s1 * u0) / det
        shorten = np.minimum(1, 3 / np.maximum(np.abs(da) + np.abs(db), 1e-9))
        a, b = a + shorten * da, b + shorten * db
        if max(np.abs(da).max(), np.abs(db).max()) < 1e-7:
            break
    return np.concatenate([centre - scale * a / b, b / scale], axis=1)


def _design_effect(each: Array, present: Array, shares: Array, total: Array) -> float:
    """Variance of the shares over questions (Q, L) against that of as many independent responses."""
    n = present.sum(axis=0)
    spread = (present * (each - shares) ** 2).sum(axis=0) / np.maximum(n - 1, 1) / n
    binomial = float((shares * (1 - shares) / total).sum())
    return float(np.clip(spread.sum() / binomial, 1, (total / n).max())) if binomial > 0 else 1.0


def _curve(lams: Array, fitted: Array) -> Array:
    """(R, L) the fitted curves at `lams`."""
    curves: Array = expit(np.clip(fitted[:, 1:] * (lams - fitted[:, :1]), -700, 700))
    return curves


def _means(lams: Array, values: Array) -> Array:
    """(R, distinct λ) means of `values` (R, L) over the entries at one λ."""
    distinct, at = np.unique(lams, return_inverse=True)
    same = (at[:, None] == np.arange(len(distinct))).astype(np.float64)  # (L, distinct)
    return np.asarray(values @ same / same.sum(axis=0), dtype=np.float64)


def _refits(evidence: Evidence) -> Array:
    """(R, 2) the fits to the resampled shares."""
    draws = evidence.draws
    assert draws is not None
    yes, no = np.random.default_rng(evidence.seed).exponential(size=(2, len(draws), 1))
    return fit_logistic(evidence.lams, draws, evidence.trials, yes=yes, no=no)


def _bad_fit(evidence: Evidence, fitted: Array, again: Array | None, misfit: float) -> bool:
    """Whether the curve misses by more than the tolerance, and by more than the resampled shares miss theirs."""
    if misfit <= TOLERANCE or again is None or evidence.draws is None:
        return misfit > TOLERANCE
    missed = _means(evidence.lams, evidence.shares - _curve(evidence.lams, fitted))
    chance = _means(evidence.lams, evidence.draws - _curve(evidence.lams, again)) - missed
    return bool(np.mean((chance**2).sum(axis=1) >= (missed**2).sum()) < SIGNIFICANCE)


def _crossings(evidence: Evidence, fitted: Array, again: Array | None) -> list[Interval]:
    """Where the logistic curve crosses each level; values and interval ends stay within the swept λ."""
    found, (lowest, highest) = [], (evidence.lams.min(), evidence.lams.max())
    for level in LEVELS:
        value = float(np.clip(fitted[0, 0] + logit(level) / fitted[0, 1], lowest, highest))
        if again is None:
            found.append(Interval(value, math.nan, math.nan))
            continue
        draws = np.where(again[:, 1] > 0, again[:, 0] + logit(level) / again[:, 1], np.nan)
        draws = np.clip(draws, lowest, highest)
        found.append(percentiles(value, draws, evidence.num_questions))
    return found


def _isotonic_crossings(evidence: Evidence) -> list[Interval]:
    """Where the isotonic curve crosses each level, with at least the gap between swept λ for an interval."""
    lams, shares = evidence.grid
    weight = np.bincount(np.searchsorted(lams, evidence.lams), weights=evidence.trials).astype(np.float64)
    draws = None if evidence.draws is None else _means(evidence.lams, evidence.draws)
    found = []
    for level in LEVELS:
        value, low, high = _read_off(lams, shares, weight, level)
        if draws is None:
            found.append(Interval(value, math.nan, math.nan))
            continue
        values = np.array([_read_off(lams, line, weight, level)[0] for line in draws])
        spread = percentiles(value, values, evidence.num_questions)
        found.append(Interval(value, min(low, spread.low), max(high, spread.high)))
    return found


def _read_off(lams: Array, shares: Array, weight: Array, level: float) -> tuple[float, float, float]:
    """λ where the isotonic curve reaches `level`, and the swept λ on both sides; NaN where it does not."""
    rising = isotonic_regression(shares, weights=weight).x
    after = int(np.searchsorted(rising, level))
    if after == len(lams) or (after == 0 and rising[0] > level):
        return math.nan, math.nan, math.nan
    before = max(after - 1, 0)
    share = 0.0 if before == after else (level - rising[before]) / (rising[after] - rising[before])
    return float(lams[before] + share * (lams[after] - lams[before])), float(lams[before]), float(lams[after])


def _unreached(lams: Array, shares: Array, level: float) -> str:
    """Why the swept λ do not show where Think #R reaches `level`; "" where they do."""
    below = np.flatnonzero(shares <= level)
    if not len(below):
        return f"Think #R is above {level:.0%} at every swept λ ({shares.min():.1%} at least): sweep smaller λ"
    if not (shares[below[0] :] >= level).any():
        return f"Think #R stays below {level:.0%} up to λ={lams[-1]:g} ({shares.max():.1%} at most): sweep larger λ"
    return ""


def _refusal(lams: Array, shares: Array) -> str:
    """Why nothing can be said about a transition."""
    if len(lams) < 2:
        return f"only λ={lams[0]:g} was swept: a transition needs several λ"
    span = f"from {shares[0]:.1%} at λ={lams[0]:g} to {shares[-1]:.1%} at λ={lams[-1]:g}"
    if shares.max() <= LEVELS[0]:
        return f"no response thinks at any swept λ (Think #R {span}): check the prompt, the markers and the token cap"
    if shares.min() >= LEVELS[2]:
        return (
            f"every swept λ thinks (Think #R {span}): does the prompt open the think block, or are smaller λ missing?"
        )
    if shares[0] > shares[-1]:
        return f"Think #R falls with λ ({span}): λ=0 must be Instruct and λ=1 Thinking"
    return f"the swept λ do not span a transition (Think #R {span})"


def _misfit_note(lams: Array, shares: Array, misfit: float, inside: bool) -> str:
    """Why the isotonic curve was used."""
    if not inside:
        after = int(np.argmax(shares >= 0.5))
        return (
            f"Think #R jumps from 0 to 1 between λ={lams[after - 1]:g} and λ={lams[after]:g}: the boundaries are "
            "somewhere between; sweep λ there to tell them apart"
        )
    fall = float((np.maximum.accumulate(shares) - shares).max())
    shape = f"; Think #R falls by {fall:.1%} on the way: not one transition" if fall > TOLERANCE else ""
    return f"a logistic curve misses a share by {misfit:.1%}: boundaries are read off the isotonic curve{shape}"
