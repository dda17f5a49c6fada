"""The upper concave hull of static points, (mean tokens, accuracy): what one λ for all, or a random mix of two, can reach."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interpole.analysis.intervals import Array

__all__ = ["Indices", "Means", "hull", "mix", "prices", "slope", "worth_most"]

NUM_PRICES = 9
PRICE_SPREAD = 3.0  # beyond the slopes of the hull, on both sides
Indices = NDArray[np.intp]


class Means(NamedTuple):
    """Accuracy and tokens, of the same shape."""

    accuracy: Array
    tokens: Array


def hull(means: Means) -> Indices:
    """The points (L,) that are vertices of the upper concave hull, from the cheapest to the most accurate one."""
    order = np.lexsort((-means.accuracy, means.tokens))
    kept: list[int] = []
    for i in order.tolist():
        if kept and means.accuracy[i] <= means.accuracy[kept[-1]]:
            continue
        while len(kept) > 1 and slope(means, kept[-2], kept[-1]) <= slope(means, kept[-1], i):
            kept.pop()
        kept.append(i)
    return np.array(kept, dtype=np.intp)


def slope(means: Means, i: int, j: int) -> float:
    """Accuracy gained per token from point i to point j."""
    run = means.tokens[j] - means.tokens[i]
    return float((means.accuracy[j] - means.accuracy[i]) / run) if run > 0 else math.inf


def mix(means: Means, vertices: Indices, tokens: float) -> Array:
    """(L,) the shares in which two neighbours on the hull are mixed to spend so many tokens; an end, beyond the ends."""
    shares = np.zeros(len(means.tokens))
    at = means.tokens[vertices]
    place = float(np.interp(tokens, at, np.arange(len(at))))
    low = min(int(place), len(at) - 1)
    shares[vertices[low]] = 1 - (place - low)
    if place > low:
        shares[vertices[low + 1]] = place - low
    return shares


def prices(means: Means, vertices: Indices, num: int = NUM_PRICES) -> Array:
    """What a token is worth: from well above the hull's steepest part to well below its flattest."""
    slopes = [slope(means, i, j) for i, j in zip(vertices[:-1].tolist(), vertices[1:].tolist(), strict=True)]
    finite = [one for one in slopes if one < math.inf]
    return np.geomspace(PRICE_SPREAD * max(finite), min(finite) / PRICE_SPREAD, num) if finite else np.zeros(1)


def worth_most(means: Means, price: float) -> Indices:
    """(Q,) of (Q, L): the column that is worth most at the price; the first of equals."""
    return np.argmax(means.accuracy - price * means.tokens, axis=1)
