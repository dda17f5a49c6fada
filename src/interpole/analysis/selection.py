"""What choosing the best of several λ does to its numbers, and which λ may be the best: from noise that questions share.

The noise of all λ comes from resampling whole questions at once, so what questions have in common stays in common. Pure
functions on arrays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from interpole.analysis.intervals import Array, weights

__all__ = ["chosen", "critical", "noise", "optimism"]


def chosen(accuracy: Array, tokens: Array, least: Array | float, most: float, *, cheapest: bool) -> NDArray[np.intp]:
    """(R,) index of the λ to use on each of R curves (R, L): the cheapest, or most accurate, of those that meet both limits.

    Where none meets them, the one that comes nearest: the most accurate, or the cheapest.
    """
    met = (accuracy >= least) & (tokens <= most)
    if cheapest:
        best, nearest = np.argmin(np.where(met, tokens, np.inf), axis=1), np.argmax(accuracy, axis=1)
    else:
        best, nearest = np.argmax(np.where(met, accuracy, -np.inf), axis=1), np.argmin(tokens, axis=1)
    return np.asarray(np.where(met.any(axis=1), best, nearest))


def noise(each: Array, resamples: int, seed: int) -> Array:
    """(R, L) how far means over questions (Q, L) may be off, by resampling whole questions."""
    drawn = np.concatenate([w @ each for w in weights(len(each), resamples, seed)]) / len(each)
    return np.asarray(drawn - each.mean(axis=0))


def _shrunk(values: Array, errors: Array) -> Array:
    """(L,) values drawn towards their mean as far as their differences are what noise (R, L) alone would make of them.

    James and Stein's, by the variance of the noise about its mean over λ: where all λ are equal it leaves little of what seems
    to differ, and where they differ it leaves them.
    """
    centre, num = values.mean(), len(values)
    spread = float(np.sum((values - centre) ** 2))
    own = float((errors - errors.mean(axis=1, keepdims=True)).var(axis=0).sum())
    keep = max(0.0, 1 - max(num - 3, 0) / max(num - 1, 1) * own / spread) if spread > 0 else 0.0
    return np.asarray(centre + keep * (values - centre))


def optimism(values: Array, errors: Array, pick: Callable[[Array], NDArray[np.intp]]) -> float:
    """By how much the value of the one picked is too high on average, because it was picked for it.

    Args:
        values: (L,) as measured.
        errors: (R, L) noise.
        pick: from curves (R, L) to the index picked on each (R,).
    """
    at = pick(_shrunk(values, errors) + errors)
    return float(np.mean(errors[np.arange(len(errors)), at]))


def critical(errors: Array) -> float:
    """How many standard errors any two of L equal λ differ by at most in 95 % of cases: the studentised range of the noise.

    With it, a λ is left out only if it is worse than another by more; so the best stays in (Hsu, Multiple Comparisons, 1996,
    §4: multiple comparisons with the best; by the range rather than by each λ's own constant, which is stricter), and of λ
    that are equal all do.
    """
    first, second = np.triu_indices(errors.shape[1], 1)
    if not len(first):
        return 0.0
    differences = errors[:, first] - errors[:, second]  # (R, pairs)
    sizes = differences.std(axis=0)
    known = sizes > 1e-9
    if not known.any():
        return 1.96
    return float(np.quantile((np.abs(differences[:, known]) / sizes[known]).max(axis=1), 0.95))
