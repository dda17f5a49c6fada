"""Rising S-shaped curves over λ, with several link functions and a share of strays at either end, fitted to many sets at once.

Share(λ) = floor + (1 − floor − drop) · F(offset + slope · λ). F is the logistic function, the normal's, or one of Aranda-Ordaz's
asymmetric family (Biometrika 1981), which leads from the logistic to the complementary log-log, and mirrored to the log-log.
Strays are responses that close, or do not close, whatever λ is. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from interpole.analysis.intervals import Array

__all__ = ["LINKS", "Link", "crossings", "curves", "fit_curves", "fit_logistic"]

FIRST_STRAYS, MOST_STRAYS = 0.003, 0.03  # share of either kind, to begin with and at most
EDGE = 1e-12  # chances are kept so far from 0 and 1
STEP = 2.0  # the most a Newton step may move the linear predictor at one standard deviation of λ


class Link(NamedTuple):
    """A distribution function F, its density, and its inverse."""

    chance: Callable[[Array], Array]
    density: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


def _aranda(alpha: float) -> Link:
    """1 − (1 + α·e^η)^(−1/α); for α = 1 the logistic, for α → 0 the complementary log-log."""

    def chance(eta: Array) -> Array:
        return np.asarray(-np.expm1(-np.log1p(alpha * np.exp(eta)) / alpha))

    def density(eta: Array) -> Array:
        return np.asarray(np.exp(eta - (1 / alpha + 1) * np.log1p(alpha * np.exp(eta))))

    def inverse(share: Array) -> Array:
        return np.asarray(np.log(np.expm1(-alpha * np.log1p(-share)) / alpha))

    return Link(chance, density, inverse)


def _mirrored(link: Link) -> Link:
    """The link of the other tail: 1 − F(−η)."""
    return Link(lambda eta: 1 - link.chance(-eta), lambda eta: link.density(-eta), lambda p: -link.inverse(1 - p))


CLOGLOG = Link(
    lambda eta: np.asarray(-np.expm1(-np.exp(eta))),
    lambda eta: np.asarray(np.exp(eta - np.exp(eta))),
    lambda share: np.asarray(np.log(-np.log1p(-share))),
)
ALPHAS = (0.05, 0.15, 0.3, 0.5, 0.75)  # of the family between cloglog (0) and logistic (1)
LINKS: Mapping[str, Link] = {
    "logistic": Link(lambda eta: np.asarray(expit(eta)), lambda eta: np.asarray(expit(eta) * expit(-eta)), logit),
    "probit": Link(
        lambda eta: np.asarray(ndtr(eta)), lambda eta: np.asarray(np.exp(-(eta**2) / 2) / np.sqrt(2 * np.pi)), ndtri
    ),
    "cloglog": CLOGLOG,
    "loglog": _mirrored(CLOGLOG),
    **{f"Aranda-Ordaz {alpha:g}": _aranda(alpha) for alpha in ALPHAS},
    **{f"mirrored Aranda-Ordaz {alpha:g}": _mirrored(_aranda(alpha)) for alpha in ALPHAS},
}


def curves(lams: Array, fitted: Array, link: str) -> Array:
    """(R, L) the curves of `fitted` (R, 4) at `lams` (L,)."""
    offset, slope, floor, drop = (fitted[:, i : i + 1] for i in range(4))
    return np.asarray(floor + (1 - floor - drop) * LINKS[link].chance(np.clip(offset + slope * lams, -30, 30)))


def crossings(fitted: Array, levels: Array, link: str) -> Array:
    """(R, C) where the curves reach each of `levels` (C,); NaN where they do not rise."""
    offset, slope, floor, drop = (fitted[:, i : i + 1] for i in range(4))
    share = np.clip((levels - floor) / (1 - floor - drop), EDGE, 1 - EDGE)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(slope > 0, (LINKS[link].inverse(share) - offset) / slope, np.nan)


def fit_curves(
    lams: Array,
    shares: Array,
    trials: Array,
    link: str = "logistic",
    *,
    strays: Array | float = 0.0,
    yes: Array | float = 1.0,
    no: Array | float = 1.0,
    precision: float = 1e-5,
    steps: int = 100,
) -> Array:
    """Fit a curve to each of R sets of shares at once.

    Offset and slope by maximum likelihood (Fisher scoring) with a penalty (Firth, Biometrika 1993; in the form of Heinze &
    Schemper 2002, where each λ gets leverage/2 pseudo-responses of either kind; for links other than the logistic this is its
    analogue, not Firth's own correction), which stays finite where 0 jumps to 1 between neighbouring λ. Floor and drop by
    an EM step beside each (a response is a stray, or follows the curve), with a pseudo-stray each.

    Args:
        lams: (L,) with at least two different λ.
        shares: (R, L).
        trials: (L,) responses behind each share.
        link: one of `LINKS`.
        strays: weight on the pseudo-strays, (R, 1) or one for all; 0: there are no strays.
        yes: (R, 1) or 1: weight on the pseudo-responses that think.
        no: (R, 1) or 1: weight on those that do not.
        precision: a fit is done when a step moves the linear predictor by less, at one standard deviation of λ.
        steps: at most.

    Returns:
        (R, 4): offset and slope of the linear predictor in λ (slope ≤ 0: the share does not rise), floor and drop.
    """
    centre, scale = float(lams.mean()), float(lams.std())
    z, curve, total = (lams - centre) / scale, LINKS[link], float(trials.sum())
    a, b = np.zeros((len(shares), 1)), np.full((len(shares), 1), 4.0)
    floor = drop = np.full((len(shares), 1), FIRST_STRAYS if np.any(strays) else 0.0)
    for _ in range(steps):
        eta, height = np.clip(a + b * z, -30, 30), 1 - floor - drop  # (R, L)
        p = np.clip(floor + height * curve.chance(eta), EDGE, 1 - EDGE)
        rate = height * curve.density(eta) / (p * (1 - p))
        w = trials * rate**2 * p * (1 - p) + EDGE
        s0, s1, s2 = (np.sum(w * z**power, axis=1, keepdims=True) for power in range(3))
        det = s0 * s2 - s1**2 + EDGE
        half = w * (s2 - 2 * s1 * z + s0 * z**2) / det / 2  # leverage / 2
        gap = (trials * (shares - p) + half * (yes - (yes + no) * p)) * rate
        u0, u1 = np.sum(gap, axis=1, keepdims=True), np.sum(gap * z, axis=1, keepdims=True)
        da, db = (s2 * u0 - s1 * u1) / det, (s0 * u1 - s1 * u0) / det
        shorten = np.minimum(1, STEP / np.maximum(np.abs(da) + np.abs(db), 1e-9))
        a, b = a + shorten * da, b + shorten * db
        if np.any(strays):
            closed = np.sum(trials * shares * floor / p, axis=1, keepdims=True)
            open_ = np.sum(trials * (1 - shares) * drop / (1 - p), axis=1, keepdims=True)
            floor, drop = (np.minimum((x + strays) / (total + 2 * strays), MOST_STRAYS) for x in (closed, open_))
        if max(np.abs(da).max(), np.abs(db).max()) < precision:
            break
    return np.concatenate([a - b * centre / scale, b / scale, floor, drop], axis=1)


def fit_logistic(lams: Array, shares: Array, trials: Array) -> Array:
    """(R, 2) middle and slope of share = 1 / (1 + exp(−slope · (λ − middle))); see `fit_curves`."""
    fitted = fit_curves(lams, shares, trials)
    return np.column_stack([-fitted[:, 0] / fitted[:, 1], fitted[:, 1]])
