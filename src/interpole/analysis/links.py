"""Rising S-shaped curves over λ, with several link functions and a share of strays at either end, fitted to many sets at once.

Share(λ) = floor + (1 − floor − drop) · F(offset + slope · λ). F is the logistic function, the normal's, or one of Aranda-Ordaz's
asymmetric family (Biometrika 1981), which leads from the logistic to the complementary log-log, and mirrored to the log-log.
Strays are responses that close, or do not close, whatever λ is. Every set may have a link of its own: what costs is the number of
steps, not the number of sets. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from interpole.analysis.intervals import Array

__all__ = ["LINKS", "Link", "crossings", "curves", "fit_curves", "fit_logistic"]

FIRST_STRAYS, MOST_STRAYS = 0.003, 0.03  # share of either kind, to begin with and at most
EDGE = 1e-12  # chances are kept so far from 0 and 1
STEP = 2.0  # the most a Newton step may move the linear predictor at one standard deviation of λ
FURTHER = 1.8  # times its logarithm an EM step is taken: converges up to 2, and sooner than at 1
NO_ALPHA = 1e-12  # Aranda-Ordaz's limit for α → 0


class Link(NamedTuple):
    """A distribution function: Aranda-Ordaz's 1 − (1 + α·e^η)^(−1/α), perhaps of the other tail, 1 − F(−η); or the normal's."""

    alpha: float  # 1: the logistic, → 0: the complementary log-log, mirrored: the log-log; NaN: the normal's
    mirrored: bool = False

    def chance(self, eta: Array) -> Array:
        """F(η)."""
        return _Links.of([self]).chance(np.reshape(eta, (1, -1)))[0].reshape(np.shape(eta))

    def inverse(self, share: Array) -> Array:
        """η at which F is `share`."""
        return _Links.of([self]).inverse(np.reshape(share, (1, -1))).reshape(np.shape(share))


ALPHAS = (0.05, 0.15, 0.3, 0.5, 0.75)  # of the family between cloglog (0) and logistic (1)
LINKS: Mapping[str, Link] = {
    "logistic": Link(1.0), "probit": Link(np.nan), "cloglog": Link(NO_ALPHA), "loglog": Link(NO_ALPHA, mirrored=True),
    **{f"Aranda-Ordaz {alpha:g}": Link(alpha) for alpha in ALPHAS},
    **{f"mirrored Aranda-Ordaz {alpha:g}": Link(alpha, mirrored=True) for alpha in ALPHAS},
}  # fmt: skip


class _Links(NamedTuple):
    """A link for each of R rows, or one for all."""

    alpha: Array  # (R, 1); 1 where the link is the normal's
    sign: Array  # (R, 1); −1: mirrored
    normal: NDArray[np.bool_]  # (R,)

    @classmethod
    def of(cls, links: Sequence[Link]) -> _Links:
        alpha, mirrored = (np.array(part)[:, None] for part in zip(*links, strict=True))
        return cls(np.nan_to_num(alpha, nan=1.0), np.where(mirrored, -1.0, 1.0), np.isnan(alpha[:, 0]))

    def rows(self, keep: NDArray[np.bool_]) -> _Links:
        return _Links(self.alpha[keep], self.sign[keep], self.normal[keep])

    def chance(self, eta: Array) -> tuple[Array, Array]:
        """F and its density at the linear predictors (R, L), which lie between −30 and 30."""
        grown = np.exp(self.sign * eta)
        over = 1 + self.alpha * grown
        power = -np.log1p(self.alpha * grown) / self.alpha
        beyond = np.exp(power)
        share, density = np.where(self.sign > 0, -np.expm1(power), beyond), beyond * grown / over
        if self.normal.any():
            mine = eta[self.normal]
            share[self.normal] = ndtr(mine)
            density[self.normal] = np.exp(-(mine**2) / 2) / np.sqrt(2 * np.pi)
        return share, density

    def inverse(self, share: Array) -> Array:
        """Linear predictors (R, C) at which F is `share`."""
        beyond = np.where(self.sign > 0, np.log1p(-share), np.log(share))
        eta = self.sign * np.log(np.expm1(-self.alpha * beyond) / self.alpha)
        eta[self.normal] = ndtri(share[self.normal])
        return np.asarray(eta)


def _links(link: str | Sequence[str], num: int) -> _Links:
    """The link of each of so many rows."""
    if isinstance(link, str):
        return _Links.of([LINKS[link]] * num)
    return _Links.of([LINKS[name] for name in link])


def curves(lams: Array, fitted: Array, link: str | Sequence[str]) -> Array:
    """(R, L) the curves of `fitted` (R, 4) at `lams` (L,)."""
    offset, slope, floor, drop = (fitted[:, i : i + 1] for i in range(4))
    share, _ = _links(link, len(fitted)).chance(np.clip(offset + slope * lams, -30, 30))
    return np.asarray(floor + (1 - floor - drop) * share)


def crossings(fitted: Array, levels: Array, link: str | Sequence[str]) -> Array:
    """(R, C) where the curves reach each of `levels` (C,); NaN where they do not rise."""
    offset, slope, floor, drop = (fitted[:, i : i + 1] for i in range(4))
    share = np.clip((levels - floor) / (1 - floor - drop), EDGE, 1 - EDGE)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(slope > 0, (_links(link, len(fitted)).inverse(share) - offset) / slope, np.nan)


class _Rows(NamedTuple):
    """What differs between the sets that are fitted at once."""

    shares: Array  # (R, L)
    links: _Links
    strays: Array  # (R, 1), as are the rest
    yes: Array
    no: Array

    def rows(self, keep: NDArray[np.bool_]) -> _Rows:
        rest = (part[keep] for part in (self.strays, self.yes, self.no))
        return _Rows(self.shares[keep], self.links.rows(keep), *rest)


def fit_curves(
    lams: Array,
    shares: Array,
    trials: Array,
    link: str | Sequence[str] = "logistic",
    *,
    strays: Array | float = 0.0,
    yes: Array | float = 1.0,
    no: Array | float = 1.0,
    start: Array | None = None,
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
        link: one of `LINKS` for all sets, or one for each.
        strays: weight on the pseudo-strays, (R, 1) or one for all; 0: there are no strays.
        yes: (R, 1) or 1: weight on the pseudo-responses that think.
        no: (R, 1) or 1: weight on those that do not.
        start: (R, 4) fits near by, to begin with.
        precision: a fit is done when a step moves the linear predictor by less, at one standard deviation of λ.
        steps: at most.

    Returns:
        (R, 4): offset and slope of the linear predictor in λ (slope ≤ 0: the share does not rise), floor and drop.
    """
    centre, scale, num = float(lams.mean()), float(lams.std()), len(shares)
    powers = np.vander((lams - centre) / scale, 3, increasing=True)  # (L, 3)
    each = (np.broadcast_to(np.asarray(one, dtype=np.float64), (num, 1)) for one in (strays, yes, no))
    rows = _Rows(shares, _links(link, num), *each)
    fitted = np.tile((0.0, 4.0, *[FIRST_STRAYS if np.any(strays) else 0.0] * 2), (num, 1))  # in powers of z
    if start is not None:
        fitted = np.column_stack([start[:, 0] + start[:, 1] * centre, start[:, 1] * scale, start[:, 2:]])
    active = np.arange(num)
    for _ in range(steps):
        fitted[active], moved = _step(fitted[active], rows, powers, trials)
        going = moved >= precision
        if not going.any():
            break
        if not going.all():
            active, rows = active[going], rows.rows(going)
    offset, slope = fitted[:, 0] - fitted[:, 1] * centre / scale, fitted[:, 1] / scale
    return np.column_stack([offset, slope, fitted[:, 2:]])


def _step(fitted: Array, rows: _Rows, powers: Array, trials: Array) -> tuple[Array, Array]:
    """One step of every fit (R, 4), and how far it moved (R,)."""
    a, b, floor, drop = (fitted[:, i : i + 1] for i in range(4))
    share, density = rows.links.chance(_between(a + b * powers[:, 1], -30, 30))  # (R, L)
    height = 1 - floor - drop
    p = _between(floor + height * share, EDGE, 1 - EDGE)
    steep, q = height * density, 1 - p
    rate = steep / (p * q)
    w = trials * steep * rate + EDGE
    s0, s1, s2 = (w @ powers).T[..., None]
    det = s0 * s2 - s1 * s1 + EDGE
    half = w * (np.hstack([s2, -2 * s1, s0]) / (2 * det) @ powers.T)  # leverage / 2
    gap = (trials * (rows.shares - p) + half * (rows.yes * q - rows.no * p)) * rate
    u0, u1 = (gap @ powers[:, :2]).T[..., None]
    da, db = (s2 * u0 - s1 * u1) / det, (s0 * u1 - s1 * u0) / det
    far = np.abs(da) + np.abs(db)
    shorten = np.minimum(1, STEP / np.maximum(far, 1e-9))
    most = trials.sum() + 2 * rows.strays
    closed, open_ = floor * ((rows.shares / p) @ trials)[:, None], drop * (((1 - rows.shares) / q) @ trials)[:, None]
    ends = (_relaxed(old, (x + rows.strays) / most, rows.strays) for old, x in ((floor, closed), (drop, open_)))
    return np.hstack([a + shorten * da, b + shorten * db, *ends]), np.maximum(np.abs(da), np.abs(db))[:, 0]


def _between(values: Array, low: float, high: float) -> Array:
    """`np.clip`, without what that costs for small arrays."""
    return np.minimum(np.maximum(values, low), high)


def _relaxed(old: Array, new: Array, strays: Array) -> Array:
    """A share of strays after its EM step from `old` to `new`, taken further; EM's fixed point stays where it is."""
    known = strays > 0
    further = old * (new / np.where(known, old, 1.0)) ** FURTHER
    return np.where(known, np.minimum(further, MOST_STRAYS), 0.0)


def fit_logistic(lams: Array, shares: Array, trials: Array) -> Array:
    """(R, 2) middle and slope of share = 1 / (1 + exp(−slope · (λ − middle))); see `fit_curves`."""
    fitted = fit_curves(lams, shares, trials)
    return np.column_stack([-fitted[:, 0] / fitted[:, 1], fitted[:, 1]])
