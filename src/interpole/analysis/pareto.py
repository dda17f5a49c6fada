"""Which points are on the Pareto front of accuracy and tokens, and with what probability: by resampling whole questions.

A point that is measured a little better than a cheaper one is on the front of what was measured, though it may not be on that
of what is true. The probability says so. Pure functions on arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from interpole.analysis.intervals import Z95, Array, expanded_level, weights

__all__ = ["LIKELY", "SURE", "membership", "on_front"]

LIKELY = 0.5  # from this probability on a point is drawn as one of the front
SURE = 0.95  # and from this on it is said to be


def on_front(accuracy: Array, tokens: Array) -> NDArray[np.bool_]:
    """(R, P) which of P points are on the front, in each of R cases: no other has as much accuracy for as few tokens.

    Points that are equal in both are on it together; one that is not known (NaN) neither beats nor is beaten.
    """
    beaten = np.zeros(accuracy.shape, dtype=bool)
    for a, t in zip(accuracy.T[:, :, None], tokens.T[:, :, None], strict=True):  # (R, 1): one point against all
        beaten |= (a >= accuracy) & (t <= tokens) & ((a > accuracy) | (t < tokens))
    return ~beaten


def membership(accuracy: Array, tokens: Array, *, resamples: int, seed: int) -> Array:
    """(P,) the probability that each point is on the front: the share of resamples of the questions in which it is.

    Of few questions the resampled means stray too little, so they are drawn out as `expanded_level` does for intervals.

    Args:
        accuracy: (Q, P) each question's share of right answers at each point; NaN where it has none.
        tokens: (Q, P) its mean length; NaN likewise.
        resamples: of the questions.
        seed: of the generator that draws them.

    Returns:
        NaN for all points where there are fewer than two questions, and for a point without any.
    """
    num, known = len(accuracy), ~np.isnan(accuracy + tokens)
    if num < 2:
        return np.full(accuracy.shape[1], np.nan)
    top, bottom = np.where(np.tile(known, 2), np.hstack([accuracy, tokens]), 0.0), np.tile(known, 2).astype(np.float64)
    stretch = -float(special.ndtri(expanded_level(num))) / Z95
    seen, drawn = np.zeros(accuracy.shape[1]), np.zeros(accuracy.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        measured = top.sum(axis=0) / bottom.sum(axis=0)
        for w in weights(num, resamples, seed):
            means = measured + stretch * ((w @ top) / (w @ bottom) - measured)  # (r, 2P)
            there = ~np.isnan(means[:, : len(seen)])
            drawn += there.sum(axis=0)
            seen += (on_front(*np.split(means, 2, axis=1)) & there).sum(axis=0)
        return np.asarray(seen / drawn)
