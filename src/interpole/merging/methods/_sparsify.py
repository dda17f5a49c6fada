"""Sparsifying task vectors: which elements of one stay, by magnitude or by chance.

Masks by magnitude have an exact size; among equal magnitudes, which bfloat16 checkpoints have many of, the first in
memory order is taken first. Masks by chance draw element i of tensor `name` from Philox at (seed, source, name, i), so they are
the same on every machine and wherever a tensor is cut.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Stream",
    "by_chance",
    "by_magnitude",
    "by_rank",
    "magnitude_cut",
    "restore_l1",
    "smallest",
    "without_outliers",
]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
PIECE_ELEMENTS = 1 << 15


@dataclass(frozen=True, slots=True)
class Stream:
    """Uniform random numbers for the elements of one tensor of one source, from element `start` on.

    Philox (Salmon et al. 2011, as in numpy) with the SHA-256 of seed, source and tensor name as its key and the element's
    position as its counter.
    """

    seed: int
    source: str
    tensor: str
    start: int = 0

    def uniform(self, count: int) -> Array:
        """The next `count` numbers in [0, 1), multiples of 2⁻²⁴, as float32 of shape (count,)."""
        key = hashlib.sha256(f"{self.seed}\0{self.source}\0{self.tensor}".encode()).digest()[:16]
        block, skip = divmod(self.start, 8)  # one step of the counter gives four words of 64 bits: eight numbers
        words = np.random.Philox(key=np.frombuffer(key, "<u8"), counter=block).random_raw((skip + count + 1) // 2)
        halves = np.asarray(words).astype("<u8", copy=False).view("<u4")[skip : skip + count]
        return (halves >> 8).astype(np.float32) * np.float32(2**-24)


def smallest(values: Array, count: int) -> Mask:
    """Mask of the `count` smallest elements of a flat array; of equal ones the first."""
    mask = np.zeros(values.size, np.bool_)
    if count <= 0:
        return mask
    if count >= values.size:
        return ~mask
    threshold = np.partition(values, count - 1)[count - 1]
    np.less(values, threshold, out=mask)
    mask[np.flatnonzero(values == threshold)[: count - np.count_nonzero(mask)]] = True
    return mask


def by_magnitude(delta: Array, density: float) -> Array:
    """Keep the ⌊density·n⌋ elements of largest magnitude (TIES, arXiv 2306.01708, "trim")."""
    if density >= 1:
        return delta
    cut = _cut_of(_bits(delta.reshape(-1)), int(density * delta.size))
    return cut.trim(delta.reshape(-1), 0).reshape(delta.shape)


class _Cut(NamedTuple):
    """What `by_magnitude` keeps: magnitudes whose bits lie above a threshold, and those at it up to a position.

    Attributes:
        threshold: bits of a float32, which order as magnitudes do; -1: all is kept.
        last: position of the last element at the threshold that is kept; -1 where there is none.
    """

    threshold: int
    last: int

    def trim(self, delta: Array, start: int) -> Array:
        """A piece of the flat task vector from element `start` on, with zeros for what is not kept."""
        if self.threshold < 0:
            return delta
        bits = _bits(delta)
        kept = bits > self.threshold
        if (at := self.last + 1 - start) > 0:
            kept[:at] |= bits[:at] == self.threshold
        return delta * kept


def magnitude_cut(tensor: Array, base: Array, density: float) -> _Cut:
    """What `by_magnitude` keeps of `tensor` − `base`, which is not held whole."""
    if density >= 1:
        return _Cut(-1, -1)
    above, below, bits = tensor.reshape(-1), base.reshape(-1), np.empty(base.size, np.int32)
    for start in range(0, base.size, PIECE_ELEMENTS):
        span = slice(start, start + PIECE_ELEMENTS)
        bits[span] = _bits(above[span] - below[span])
    return _cut_of(bits, int(density * base.size))


def _bits(delta: Array) -> NDArray[np.int32]:
    return np.abs(delta).view(np.int32)


def _cut_of(bits: NDArray[np.int32], count: int) -> _Cut:
    """The cut that keeps `count` elements; of equal ones the first."""
    if count <= 0:
        return _Cut(np.iinfo(np.int32).max, -1)
    if count >= bits.size:
        return _Cut(-1, -1)
    ordered = np.partition(bits, bits.size - count)
    threshold = ordered[bits.size - count]
    num_above = int(np.count_nonzero(ordered[bits.size - count :] > threshold))
    last = np.flatnonzero(bits == threshold)[count - num_above - 1]
    return _Cut(int(threshold), int(last))


def without_outliers(delta: Array, density: float, gamma: float) -> Array:
    """Drop the ⌊gamma·n⌋ largest, then the smallest until ⌊density·n⌋ are left (Breadcrumbs, arXiv 2312.06795)."""
    if density >= 1:
        return delta
    kept = int(density * delta.size)
    top = min(int(gamma * delta.size), delta.size - kept)
    magnitudes = np.abs(delta).reshape(-1)
    mask = smallest(magnitudes, delta.size - top) & ~smallest(magnitudes, delta.size - top - kept)
    return delta * mask.reshape(delta.shape)


def by_chance(delta: Array, density: float, stream: Stream, *, rescale: bool) -> Array:
    """Keep each element with probability `density`, divided by it if `rescale` (DARE, arXiv 2311.03099)."""
    if density >= 1:
        return delta
    kept = delta * (stream.uniform(delta.size) < np.float32(density)).reshape(delta.shape)
    return kept / np.float32(density) if rescale and density > 0 else kept


def by_rank(delta: Array, density: float, epsilon: float, stream: Stream, *, rescale: bool) -> Array:
    """Keep each element with a probability that grows with its magnitude's rank in its row (DELLA, arXiv 2406.11617).

    The probability rises linearly from density − epsilon for the smallest of a row to density + epsilon for the largest; it is
    clipped to [0, 1]. A row is the last axis. With `rescale`, what is kept is divided by its probability.
    """
    if density >= 1:
        return delta
    width = delta.shape[-1] if delta.ndim else 1
    ranks = np.abs(delta).argsort(axis=-1, kind="stable").argsort(axis=-1)
    spread = ranks.astype(np.float32) / np.float32(max(1, width - 1)) if width > 1 else np.float32(0.5)
    chance = np.clip(np.float32(density - epsilon) + spread * np.float32(2 * epsilon), 0, 1, dtype=np.float32)
    kept: Array = delta * (stream.uniform(delta.size).reshape(delta.shape) < chance)
    if rescale:
        kept /= np.where(chance > 0, chance, np.float32(1))
    return kept


def restore_l1(kept: Array, delta: Array) -> Array:
    """`kept`, scaled to the sum of magnitudes that `delta` has; as it is where one of the sums is (nearly) 0."""
    before, after = (float(np.abs(array).sum(dtype=np.float64)) for array in (delta, kept))
    return kept if min(before, after) < 1e-7 else kept * np.float32(before / after)
