"""Where Think #R rises from 5 % over 50 % to 95 %: several curves over λ, averaged, or the swept λ around it.

Evidence (shares over λ and how they vary) goes in, boundaries with intervals come out. What the swept λ cannot show is
refused with the reason. Pure functions on arrays; docs/stages.md has the study of their errors and coverage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import special
from scipy.special import xlogy

from interpole.analysis.intervals import Array, Interval, percentiles, random_effects, weights
from interpole.analysis.links import LINKS, crossings, curves, fit_curves
from interpole.analysis.tables import CurveRow
from interpole.errors import AnalysisError
from interpole.records import Outcome, Sample

__all__ = ["LEVELS", "Evidence", "Transition", "find_transition", "from_counts", "from_rows", "from_samples", "pool"]

LEVELS = (0.05, 0.5, 0.95)
TOLERANCE = 0.05  # a curve that misses an observed share by less is good enough
TAIL = 0.025  # of a one-sided test that a share is below, or above, a level
SIGNIFICANCE = 0.01  # of the goodness-of-fit test
STRAYS = 0.5  # pseudo-strays of either kind (Jeffreys)
ROUGH = 1e-3  # precision of refits, far below how they vary
BLUNT = 0.5  # power of a link's weight by which refits draw it: weights are estimated from the same few questions
LIGHT = 0.01  # a link that weighs less is not mentioned
_BOUNDS = "the swept λ around them as bounds, which are no 95 % intervals and hold them nearly always"
MOST_LAMBDAS = 400  # more are taken together, neighbour by neighbour
TABLE_ALIKE = 0.4  # correlation of a question's responses, where a table does not show it
PRINTED_TRIALS = 1000  # what a share printed to a tenth of a percent is taken to be worth where no counts are known


@dataclass(frozen=True, slots=True)
class Evidence:
    """Think #R at each λ, and as it might have come out with other questions."""

    lams: Array  # (L,) distinct, ascending
    shares: Array  # (L,)
    trials: Array  # (L,) number of independent responses that each share is worth
    draws: Array | None  # (R, L) resampled shares; None: counts are not known
    num_questions: int  # how many units were resampled
    seed: int  # of the penalty's random weights, and of which curve is fitted to which draw
    caveat: str = ""  # what its intervals leave out, or assume
    tested: Array | None = None  # (L,) trials that the tests of a bracket count; None: `trials`


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """λ at which Think #R is 5 %, 50 % and 95 %; `None` where that cannot be said, with the reason in `notes`."""

    on: Interval | None = None
    mid: Interval | None = None
    off: Interval | None = None
    method: Literal["curve", "bracket", "random effects", "none"]  # a bracket's ends are bounds, others' 95 % intervals
    misfit: float = math.nan  # largest distance between an observed share and the best curve; NaN where none was fitted
    fits: bool = False  # whether a curve is good enough
    refusal: str = ""  # why there is no answer at all; "" where there is one
    notes: tuple[str, ...] = ()
    links: Mapping[str, float] = field(default_factory=dict)  # link → its weight in the average


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
    """Evidence from the curve of one task; without counts no draws.

    A table does not say which responses belong to one question. Those of one are taken as alike by ρ = .4, at every λ and from
    one λ to the next: each of Q·k / (1 + (k − 1)·ρ) units begins to think at one λ of its own, and a resampled curve is the
    cumulated share of such units drawn anew. Samples tell how alike they are (on the pairs we saw, less); a bracket's tests,
    at shares near 0 and 1 where questions hardly differ, count responses.
    """
    rows = sorted(rows, key=lambda row: row.lam)
    lams, shares = (np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in ("lam", "think"))
    counts = [(row.questions, row.samples) for row in rows if row.questions and row.samples]
    if len(counts) < len(rows):
        lams, shares, _ = _binned(lams, shares, np.full(len(rows), float(PRINTED_TRIALS)))
        trials = np.full(len(lams), float(PRINTED_TRIALS))
        return Evidence(
            lams=lams,
            shares=shares,
            trials=trials,
            draws=None,
            num_questions=PRINTED_TRIALS,
            seed=seed,
            caveat="no intervals: questions or samples not given",
        )
    units = np.array([questions * k / (1 + (k - 1) * TABLE_ALIKE) for questions, k in counts])
    each = np.array([questions * k for questions, k in counts], dtype=np.float64)
    tested, (lams, shares, trials) = _binned(lams, shares, each)[2], _binned(lams, shares, units)
    rising, num = _rising(shares, trials), max(1, round(float(units.min())))
    steps = np.clip(np.diff(rising, prepend=0, append=1), 0, 1)
    begun = np.random.default_rng(seed).multinomial(num, steps / steps.sum(), size=resamples)[:, :-1].cumsum(axis=1)
    draws = np.clip(begun / num + shares - rising, 0, 1)
    caveat = (
        "intervals take the responses of one question, which a table does not tell apart, as alike by "
        f"{TABLE_ALIKE:g}: those of the run's samples are mostly shorter"
    )
    return Evidence(
        lams=lams,
        shares=shares,
        trials=trials,
        draws=draws,
        num_questions=min(questions for questions, _ in counts),
        seed=seed,
        caveat=caveat,
        tested=tested,
    )


def _binned(lams: Array, shares: Array, counts: Array) -> tuple[Array, Array, Array]:
    """Neighbouring λ together where there are more than `MOST_LAMBDAS`, so that time does not grow with the file."""
    if len(lams) <= MOST_LAMBDAS:
        return lams, shares, counts
    starts = np.arange(MOST_LAMBDAS) * len(lams) // MOST_LAMBDAS
    total = np.add.reduceat(counts, starts)
    return np.add.reduceat(lams * counts, starts) / total, np.add.reduceat(shares * counts, starts) / total, total


def pool(found: Sequence[Transition]) -> Transition:
    """Tasks together, as a sample of tasks like these: random effects, see `intervals.random_effects`.

    Where a task lacks a boundary, that boundary is that of the others, and a note says so.
    """
    shown = [one for one in found if not one.refusal]
    if not shown:
        return Transition(method="none", refusal="no task shows a transition")
    if len(shown) == 1:
        return shown[0]
    boundaries, notes = list[Interval | None](), list[str]()
    for level, values in zip(LEVELS, zip(*((one.on, one.mid, one.off) for one in shown), strict=True), strict=True):
        known = [value for value in values if value is not None]
        if len(known) < len(shown):
            notes.append(f"{level:.0%} is reached in {len(known)} of {len(shown)} tasks")
        boundaries.append(random_effects(known) if known else None)
    misfit = max((one.misfit for one in shown if not math.isnan(one.misfit)), default=math.nan)
    notes.append(
        f"intervals are for tasks like these {len(shown)} (random effects): they hold what differs between tasks"
    )
    notes += dict.fromkeys(
        note for one in shown for note in one.notes if note.startswith(("intervals", "no intervals"))
    )
    on, mid, off = boundaries
    fits = all(one.fits for one in shown)
    return Transition(on=on, mid=mid, off=off, method="random effects", misfit=misfit, fits=fits, notes=tuple(notes))


def find_transition(evidence: Evidence) -> Transition:
    """Find the transition in `evidence`, as far as the swept λ show it.

    Where two or more shares lie strictly between 5 % and 95 %, curves of several links, with a share of strays at either
    end, are fitted to all λ, and averaged by their likelihoods (smoothed AIC weights; all have as many parameters:
    Buckland, Burnham & Augustin, Biometrics 1997). The 95 % intervals come from refitting: each set of resampled shares
    is given to a curve drawn by the root of these weights (which are estimates too), with other random weights (exponential,
    mean 1) on the penalty's pseudo-responses, so that a λ at which none of n responses thought is not taken for one at which
    none ever would.

    Elsewhere the slope is not identified, and no curve is fitted: the boundary lies between the largest swept λ that is
    below its level and the smallest that is above it, each by a one-sided binomial test at 2.5 %. So it does where the best
    curve misses a share by more than 5 points and by more than chance. Values are then those of the isotonic curve.
    """
    lams, shares = evidence.lams, evidence.shares
    reasons = [_unreached(lams, shares, level) for level in LEVELS]
    if len(lams) < 2 or all(reasons) or _slope(lams, shares) <= 0:
        return Transition(method="none", refusal=_refusal(lams, shares))
    notes = [evidence.caveat] if evidence.caveat else []
    inside = (shares > LEVELS[0]) & (shares < LEVELS[2])
    if inside.sum() < 2:
        return _bracketed(evidence, reasons, math.nan, [_gap_note(lams, shares, int(inside.sum())), *notes])
    fitted, weight = _fits(evidence)
    best = max(weight, key=lambda link: weight[link])
    miss = shares - curves(lams, fitted[best], best)[0]
    misfit = float(np.abs(miss).max())
    if _bad_fit(evidence, fitted, best, miss):
        return _bracketed(evidence, reasons, misfit, [_misfit_note(shares, misfit), *notes])
    on, mid, off = (None if r else x for r, x in zip(reasons, _averaged(evidence, fitted, weight), strict=True))
    links = {link: round(w, 3) for link, w in sorted(weight.items(), key=lambda one: -one[1]) if w >= LIGHT}
    said = (*filter(None, reasons), *notes)
    return Transition(on=on, mid=mid, off=off, method="curve", misfit=misfit, fits=True, notes=said, links=links)


def _design_effect(each: Array, present: Array, shares: Array, total: Array) -> float:
    """Variance of the shares over questions (Q, L) against that of as many independent responses."""
    n = present.sum(axis=0)
    spread = (present * (each - shares) ** 2).sum(axis=0) / np.maximum(n - 1, 1) / n
    binomial = float((shares * (1 - shares) / total).sum())
    return float(np.clip(spread.sum() / binomial, 1, (total / n).max())) if binomial > 0 else 1.0


def _slope(lams: Array, shares: Array) -> float:
    """The least-squares slope: whether the shares rise at all."""
    return float(np.dot(lams - lams.mean(), shares))


def _fits(evidence: Evidence) -> tuple[dict[str, Array], dict[str, float]]:
    """Each link's fit (1, 4), and its weight: exp(−deviance / 2), to a sum of 1."""
    shares, trials, names = evidence.shares, evidence.trials, list(LINKS)
    repeated = np.repeat(shares[None], len(names), axis=0)
    found = fit_curves(evidence.lams, repeated, trials, names, strays=STRAYS)
    p = np.clip(curves(evidence.lams, found, names), 1e-9, 1 - 1e-9)
    deviance = np.where(found[:, 1] > 0, -2 * (xlogy(shares, p) + xlogy(1 - shares, 1 - p)) @ trials, math.inf)
    weight = np.exp(-(deviance - deviance.min()) / 2)
    weights = (weight / weight.sum()).tolist()
    return dict(zip(names, found[:, None], strict=True)), dict(zip(names, weights, strict=True))


def _refit(evidence: Evidence, fitted: Mapping[str, Array], links: Sequence[str]) -> Array:
    """(R, 4) fits of the resampled shares, each by the link named for it, with random weights on its penalties."""
    assert evidence.draws is not None
    size = (len(evidence.draws), 1)
    yes, no, strays = np.random.default_rng(evidence.seed).exponential(size=(3, *size))
    start = np.concatenate([fitted[link] for link in links])
    options = {"strays": STRAYS * strays, "yes": yes, "no": no, "start": start, "precision": ROUGH}
    return fit_curves(evidence.lams, evidence.draws, evidence.trials, links, **options)


def _bad_fit(evidence: Evidence, fitted: Mapping[str, Array], best: str, missed: Array) -> bool:
    """Whether the best curve misses by more than the tolerance, and by more than the resampled shares miss theirs."""
    if np.abs(missed).max() <= TOLERANCE or evidence.draws is None:
        return bool(np.abs(missed).max() > TOLERANCE)
    refitted = _refit(evidence, fitted, [best] * len(evidence.draws))
    chance = evidence.draws - curves(evidence.lams, refitted, best) - missed
    return bool(np.mean((chance**2).sum(axis=1) >= (missed**2).sum()) < SIGNIFICANCE)


def _averaged(evidence: Evidence, fitted: Mapping[str, Array], weight: Mapping[str, float]) -> list[Interval]:
    """Where the averaged curve crosses each level; values and interval ends stay within the swept λ."""
    levels, lams = np.array(LEVELS), evidence.lams
    known = [link for link, w in weight.items() if w > 0]
    each = np.clip([crossings(fitted[link], levels, link)[0] for link in known], lams[0], lams[-1])
    values = np.average(each, axis=0, weights=[weight[link] for link in known])
    if evidence.draws is None:
        return [Interval(float(value), math.nan, math.nan) for value in values]
    blunted = np.array([weight[link] for link in known]) ** BLUNT
    chosen = np.random.default_rng([evidence.seed, 1]).choice(
        known, size=len(evidence.draws), p=blunted / blunted.sum()
    )
    draws = crossings(_refit(evidence, fitted, chosen.tolist()), levels, chosen.tolist())
    draws = np.clip(draws, lams[0], lams[-1])
    return [percentiles(float(v), column, evidence.num_questions) for v, column in zip(values, draws.T, strict=True)]


def _bracketed(evidence: Evidence, reasons: Sequence[str], misfit: float, notes: Sequence[str]) -> Transition:
    """Each boundary between the swept λ around it; the value where the isotonic curve, straight between λ, crosses."""
    lams, shares, trials = evidence.lams, evidence.shares, evidence.trials
    tested = np.round(trials if evidence.tested is None else evidence.tested).astype(np.int64)
    successes = np.round(shares * tested)
    found, extra = list[Interval | None](), list[str]()
    for level, reason in zip(LEVELS, reasons, strict=True):
        value = math.nan if reason else _read_off(lams, _rising(shares, trials), level)
        if not reason and math.isnan(value):
            extra.append(
                f"Think #R reaches {level:.0%} and falls again: no λ can be named where it is reached for good"
            )
        if math.isnan(value):
            found.append(None)
            continue
        below = lams[special.bdtr(successes, tested, level) < TAIL]
        above = lams[special.bdtrc(successes - 1, tested, level) < TAIL]
        low, high = (below.max() if len(below) else lams[0]), (above.min() if len(above) else lams[-1])
        ends = (
            (math.nan, math.nan)
            if evidence.draws is None
            else (float(min(low, high, value)), float(max(low, high, value)))
        )
        found.append(Interval(value, *ends))
    said = (*filter(None, reasons), *extra, *notes)
    return Transition(on=found[0], mid=found[1], off=found[2], method="bracket", misfit=misfit, notes=said)


def _rising(shares: Array, trials: Array) -> Array:
    """The shares that never fall which are nearest to these."""
    from scipy.optimize import isotonic_regression  # 0.2 s and 20 MB, and none is needed where a curve fits

    return np.asarray(isotonic_regression(shares, weights=trials).x)


def _read_off(lams: Array, rising: Array, level: float) -> float:
    """λ where the rising shares reach `level`; NaN where they do not."""
    after = int(np.searchsorted(rising, level))
    if after == len(lams) or (after == 0 and rising[0] > level):
        return math.nan
    before = max(after - 1, 0)
    share = 0.0 if before == after else (level - rising[before]) / (rising[after] - rising[before])
    return float(lams[before] + share * (lams[after] - lams[before]))


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


def _gap_note(lams: Array, shares: Array, num_inside: int) -> str:
    """Why no curve was fitted."""
    after = int(np.argmax(shares >= 0.5))
    where = f"between λ={lams[max(after - 1, 0)]:g} and λ={lams[after]:g}"
    seen = "no swept λ lies" if num_inside == 0 else "one swept λ alone lies"
    return (
        f"{seen} where Think #R is between 5 % and 95 % (half is passed {where}), so its slope is not known: boundaries have "
        f"{_BOUNDS}; sweep λ there to tell more"
    )


def _misfit_note(shares: Array, misfit: float) -> str:
    """Why the swept λ around a boundary are all that is said."""
    fall = float((np.maximum.accumulate(shares) - shares).max())
    shape = f"; Think #R falls by {fall:.1%} on the way: not one transition" if fall > TOLERANCE else ""
    return f"every curve tried misses a share (the best by {misfit:.1%}): boundaries have {_BOUNDS}{shape}"
