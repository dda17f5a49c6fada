"""Which λ made this tensor? Least squares over all elements, and on a sample the interval of λ that gives every bit.

With d = B − A and e = M − A, the line e = λ·d is fitted to one coefficient, and e = λ·d + κ·x to two: with x = A the weights of
A and B, 1 − λ + κ and λ, need not sum to one; with x = A − base they are weights of task vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.kernels import line_products
from interpole.checkpoints.reduce import Read, add_up, count_differing, dot, float32_parts, sum_tensors, to_float32
from interpole.checkpoints.safetensors import DTYPES
from interpole.diagnostics.audit.arithmetic import ARITHMETICS
from interpole.merging.methods.linear import linear

__all__ = ["LambdaEstimate", "Sides", "estimate", "exact_shares", "least_squares", "moments", "simplest"]

SAMPLE_WINDOWS, WINDOW_ELEMENTS = 16, 512
KEPT_SAMPLES = 512
"""Tensors whose samples are kept: 25 MB in 16 bits."""
BIAS = 0.004
"""What rounded weights (0.2002 for 0.2) can move λ by."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sides:
    """The checkpoints of an audit, and samples of tensors of theirs that will be asked for again."""

    merged: Checkpoint
    instruct: Checkpoint
    thinking: Checkpoint
    base: Checkpoint | None = None
    samples: dict[str, tuple[Array, Array, Array]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def sources(self) -> dict[str, Checkpoint]:
        """Instruct, Thinking and, if there is one, the base, as a recipe names them."""
        return {"instruct": self.instruct, "thinking": self.thinking} | ({"base": self.base} if self.base else {})

    @property
    def all(self) -> list[Checkpoint]:
        """Merged, Instruct, Thinking and, if there is one, the base."""
        return [self.merged, *self.sources.values()]


@dataclass(frozen=True, slots=True)
class LambdaEstimate:
    """What one tensor says of how it was made.

    Attributes:
        differing: number of elements that differ from Instruct, Thinking and (with a base) the base.
        lam: λ by least squares; nan where both sides are equal.
        low: smallest λ that gives every sampled bit by one rounding.
        high: the largest; smaller than `low` where no λ does.
        spread: uncertainty of `lam`.
        residual: root mean square distance from the line, in units of one rounding to the merged dtype.
        weights: the best weights of Instruct and Thinking, not bound to sum to one.
        of_base: whether these are weights of differences to the base, which fit better then.
        residual_two: the residual of the fit with these.
    """

    differing: tuple[int, ...]
    lam: float
    low: float
    high: float
    spread: float
    residual: float
    weights: tuple[float, float]
    of_base: bool
    residual_two: float

    @property
    def one_rounding(self) -> bool:
        """Whether some λ gives every sampled bit by one rounding."""
        return self.low <= self.high

    def interval(self, one_rounding: bool) -> tuple[float, float]:
        """The λ that the tensor allows, if the merge is known to round once or if it may have rounded more often."""
        low, high = self.lam - self.spread, self.lam + self.spread
        if not self.one_rounding:
            return low, high
        return (self.low, self.high) if one_rounding else (min(low, self.low), max(high, self.high))


def estimate(
    sides: Sides,
    names: Sequence[str],
    threads: int | None,
    progress: Any,
    again: Checkpoint | None = None,
    read: Read | None = None,
) -> tuple[dict[str, LambdaEstimate], dict[str, int]]:
    """Estimates for `names`, float tensors that all sides have in one shape; one pass over the bytes, and a sample.

    Args:
        sides: the checkpoints.
        names: the tensors.
        threads: default one per core, at most eight.
        progress: called with the bytes of the merged side read since the last call.
        again: a merge to be compared with the merged side in the same pass; it has all of `names`.
        read: how checkpoints are read.

    Returns:
        The estimates, none of tensors with NaN or infinity on some side; and, with `again`, of every tensor how many of its
        elements differ there in a bit.
    """
    dtypes = {name: DTYPES[sides.merged.specs[name].dtype] for name in names}
    weights = {name: found for name in names if again is not None and (found := _weights(name, sides, again))}
    weighted = {name: partial(moments, weights=found) for name, found in weights.items()}
    sums = dict(sum_tensors(sides.all, [*weighted], weighted, threads=threads, progress=progress))
    others = [name for name in names if name not in weighted]
    checkpoints = [*sides.all, *([again] if again is not None else [])]
    work = moments if again is None else _moments_and_differing
    sums |= sum_tensors(checkpoints, others, work, threads=threads, progress=progress, read=read)
    wrong = {} if again is None else {name: int(sums[name].pop()) for name in names}
    finite = [name for name in names if all(map(math.isfinite, sums[name]))]
    return {name: _estimate(name, sides, dtypes[name], sums[name]) for name in finite}, wrong


def _weights(name: str, sides: Sides, again: Checkpoint) -> tuple[float, float] | None:
    """The weights of which a merge of Instruct and Thinking sums the tensor, all in one dtype; None if it is no such sum."""
    match again.terms(name), sides.all:
        case ((a, first), (b, second)), [_, x, y] if a is x and b is y:
            one_dtype = len({side.specs[name].dtype for side in (*sides.all, again)}) == 1
            return (first, second) if one_dtype else None
    return None


def _moments_and_differing(merged: Array, *others: Array) -> list[float]:
    """`moments`, and how many elements of the last array are not those of the merge."""
    *sides, again = others
    return [*moments(merged, *sides), *count_differing(merged, again)]


def moments(merged: Array, a: Array, b: Array, *base: Array, weights: Sequence[float] = ()) -> list[float]:
    """Products of e, d, A and (with a base) A − base, each pair once; then how many elements differ from each side.

    Without a base there may be weights of A and B: then follows how many elements differ in a bit from the rounded sum.
    """
    if not base and (found := line_products(merged, a, b, *weights)) is not None:
        return found
    rows = [_gram(m - x, y - x, x, *(x - z for z in rest)) for m, x, y, *rest in _wide(merged, a, b, *base)]
    rounded = [side.astype(merged.dtype, copy=False) for side in (a, b, *base)]
    differing = [[float(np.count_nonzero(m != side)) for side in sides] for m, *sides in _wide(merged, *rounded)]
    found = [*add_up(rows), *add_up(differing)]
    if weights:
        found += count_differing(merged, linear([to_float32(a), to_float32(b)], weights).astype(merged.dtype))
    return found


def _gram(*vectors: Array) -> list[float]:
    return [dot(v, w) for v, w in combinations_with_replacement(vectors, 2)]


def _wide(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """As float32 where that loses nothing of note (16-bit weights), else as float64."""
    if all(array.dtype.itemsize <= 2 for array in arrays):
        yield from float32_parts(*arrays)
    else:
        yield tuple(array.astype(np.float64) for array in arrays)


def _estimate(name: str, sides: Sides, dtype: np.dtype[Any], sums: Sequence[float]) -> LambdaEstimate:
    num_vectors = 3 if sides.base is None else 4
    pairs = list(combinations_with_replacement(range(num_vectors), 2))
    gram = dict(zip(pairs, sums, strict=False))
    size = max(1, sides.merged.specs[name].num_elements)
    merged, a, b = _sample(sides, name)
    steps = _ulp(merged)
    rounding = math.sqrt(float(np.mean(steps**2)) / 12 if merged.size else 0.0) or 1.0

    def fit(*vectors: int) -> tuple[list[float], float]:
        coefficients, rest = least_squares(gram, vectors)
        return coefficients, math.sqrt(rest / size) / rounding

    (lam,), residual = fit(1)
    (slope, kappa), residual_two, of_base = min(
        ((*fit(1, x), x == 3) for x in range(2, num_vectors)), key=lambda found: found[1]
    )
    low, high = _interval(merged, a, b, steps, dtype)
    spread = 5 * residual * rounding / math.sqrt(gram[1, 1] or 1.0) + BIAS * (dtype.itemsize < 4)
    differing = tuple(int(number) for number in sums[len(pairs) :])
    weights = (1 - slope + kappa, slope)
    return LambdaEstimate(
        differing=differing,
        lam=lam,
        low=low,
        high=high,
        spread=spread,
        residual=residual,
        weights=weights,
        of_base=of_base,
        residual_two=residual_two,
    )


def least_squares(gram: Mapping[tuple[int, int], float], vectors: Sequence[int]) -> tuple[list[float], float]:
    """Coefficients of e on one or two `vectors`, nan where these are linearly dependent, and the squared rest.

    `gram` holds the products (i, j), i ≤ j, of e, which is vector 0, and the others.
    """
    whole = gram[0, 0]
    scales = [math.sqrt(gram[i, i]) for i in vectors]
    if not all(scales):
        return [math.nan] * len(vectors), whole
    targets = [gram[0, i] / scale for i, scale in zip(vectors, scales, strict=True)]
    unit = targets
    if len(vectors) == 2:
        cosine = gram[vectors[0], vectors[1]] / (scales[0] * scales[1])
        if 1 + abs(cosine) > 1e9 * (1 - abs(cosine)):  # the condition of the two
            return [math.nan] * 2, whole
        rest = (1 - cosine) * (1 + cosine)
        unit = [(targets[0] - cosine * targets[1]) / rest, (targets[1] - cosine * targets[0]) / rest]
    explained = sum(u * t for u, t in zip(unit, targets, strict=True))
    return [u / scale for u, scale in zip(unit, scales, strict=True)], max(0.0, whole - explained)


def _sample(sides: Sides, name: str) -> tuple[Array, Array, Array]:
    """The same windows of Merged, Instruct and Thinking, spread evenly over the tensor.

    They are asked for twice, with all other tensors in between: of some they are kept until then.
    """
    if (known := sides.samples.pop(name, None)) is not None:
        return known
    merged, a, b = (
        np.concatenate([*_windows(side, name)] or [np.empty(0, np.float32)])
        for side in (sides.merged, sides.instruct, sides.thinking)
    )
    if len(sides.samples) < KEPT_SAMPLES:
        sides.samples[name] = merged, a, b
    return merged, a, b


def _windows(checkpoint: Checkpoint, name: str) -> Iterator[Array]:
    """Windows spread evenly over the tensor; at most 8,192 elements."""
    size = checkpoint.specs[name].num_elements
    for start in range(0, size, max(WINDOW_ELEMENTS, -(-size // SAMPLE_WINDOWS))):
        yield checkpoint.read(name, start, min(start + WINDOW_ELEMENTS, size))


def _ulp(x: Array) -> NDArray[np.float64]:
    """The distance between neighbouring numbers of x's dtype at x."""
    steps: NDArray[np.float64] = np.abs(np.spacing(np.abs(x)).astype(np.float64))
    return steps


def _interval(
    merged: Array, a: Array, b: Array, steps: NDArray[np.float64], dtype: np.dtype[Any]
) -> tuple[float, float]:
    """All λ for which every element of (1 − λ)·a + λ·b rounds to `merged`; low > high where there is none.

    Each element allows an interval about as wide as its rounding step over |b − a|; thousands of them leave very little.
    """
    wide_a, wide_b, wide = (array.astype(np.float64) for array in (a, b, merged))
    d, e = wide_b - wide_a, wide - wide_a
    slack = steps / 2 + 2.0**-22 * (np.abs(wide_a) + np.abs(wide_b)) * (1 if dtype.itemsize >= 4 else 0.25)
    moves = d != 0
    if not (moves.size and moves.all()):
        if np.any(np.abs(e)[~moves] > slack[~moves]) or not moves.any():
            return math.inf, -math.inf
        d, e, slack = d[moves], e[moves], slack[moves]
    one, other = (e - slack) / d, (e + slack) / d
    return float(np.minimum(one, other).max()), float(np.maximum(one, other).min())


def simplest(low: float, high: float) -> float:
    """The number in [low, high] with the fewest decimals; among these one that ends in 5, else the most central."""
    for digits in range(13):
        scale: int = 10**digits
        candidates = range(math.ceil(low * scale - 1e-9), math.floor(high * scale + 1e-9) + 1)
        if candidates:
            few = candidates[:: max(1, len(candidates) // 100)]
            chosen = min(few, key=lambda n: (n % 5 != 0, abs(n / scale - (low + high) / 2)))
            return chosen / scale
    return (low + high) / 2


def exact_shares(name: str, sides: Sides, lam: float) -> Iterator[tuple[str, float]]:
    """Every arithmetic, with the share of sampled elements that it gives exactly with this λ; computed as they are asked for."""
    dtype = DTYPES[sides.merged.specs[name].dtype]
    merged, a, b = _sample(sides, name)
    wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
    for key, (compute, _) in ARITHMETICS.items():
        yield key, float(np.mean(compute(wide_a, wide_b, lam, dtype) == merged)) if merged.size else 1.0
