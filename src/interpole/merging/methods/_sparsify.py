"""Sparsifying task vectors: which elements of one stay, by magnitude or by chance.

Masks by magnitude have an exact size; among equal magnitudes, which bfloat16 checkpoints have many of, the first in
memory order is taken first. Masks by chance draw element i of tensor `name` from Philox at (seed, source, name, i), so they are
the same on every machine and wherever a tensor is cut.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints import kernels
from interpole.checkpoints.reduce import to_float32
from interpole.errors import CheckpointError

__all__ = [
    "MagnitudeCut",
    "Stream",
    "by_chance",
    "by_magnitude",
    "by_rank",
    "find_cut",
    "restore_l1",
    "smallest",
    "without_outliers",
]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Bits = NDArray[np.int32]
"""Magnitudes by their bits as float32, which order as they do."""
ReadPair = Callable[[int, int], tuple[NDArray[Any], NDArray[Any]]]
"""A span of a flattened tensor → its elements and those of the base, of any float dtype."""
PIECE_ELEMENTS, SEARCH_ELEMENTS = 1 << 17, 1 << 13
SAMPLE_STEP, SAMPLE_ELEMENTS = 1 << 10, 1 << 4
"""Of every 1,024 elements 16 are looked at first, in at most so many pieces:"""
SAMPLE_PIECES = 64
MOST_BITS = int(np.iinfo(np.int32).max)


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


class MagnitudeCut(NamedTuple):
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


def find_cut(read: ReadPair, size: int, density: float) -> MagnitudeCut:
    """What `by_magnitude` keeps of a task vector that is not held whole.

    A sample says between which magnitudes the threshold should lie; what lies there is taken out and counted in one pass
    over all of it. Where the sample was wrong, with a wider band again.

    Args:
        read: the tensor and its base, piece by piece.
        size: their number of elements.
        density: as in `by_magnitude`.
    """
    count = int(density * size)
    if not 0 < count < size:
        return MagnitudeCut(MOST_BITS, -1) if count <= 0 else MagnitudeCut(-1, -1)
    spans = [(start, min(start + PIECE_ELEMENTS, size)) for start in range(0, size, PIECE_ELEMENTS)]
    step = SAMPLE_STEP if size >= PIECE_ELEMENTS else SAMPLE_ELEMENTS
    sample = np.sort(
        np.concatenate([_sampled(*read(*span), step) for span in spans[:: -(-len(spans) // SAMPLE_PIECES)]])
    )
    share_below = 1 - count / size
    margin, found = 6 * math.sqrt(share_below * (1 - share_below) / sample.size), None
    while found is None:  # at a margin of 1 everything is in the band
        low, high = (_quantile(sample, share_below + side * margin) for side in (-1, 1))
        bands = [_Band.of(*read(*span), min(low, high - 1), high) for span in spans]
        found, margin = _among(bands, count), min(1.0, 16 * margin)
    threshold, rank, numbers = found
    piece = next(i for i, number in enumerate(accumulate(numbers)) if number >= rank)
    rank -= sum(numbers[:piece])
    return MagnitudeCut(threshold, spans[piece][0] + _position(*read(*spans[piece]), threshold, rank))


class _Band(NamedTuple):
    """Magnitudes of a piece beside a band: how many lie above and at its high end, those within, and how many at its low end."""

    low: int
    high: int
    num_above: int
    num_at_high: int
    inside: Bits
    num_at_low: int

    @classmethod
    def of(cls, x: NDArray[Any], base: NDArray[Any], low: int, high: int) -> _Band:
        if (found := kernels.magnitude_band(x, base, low, high)) is not None:
            return cls(low, high, *found)
        bits = _bits_between(x, base)
        above, at_high, at_low = (int(np.count_nonzero(mask)) for mask in (bits > high, bits == high, bits == low))
        return cls(low, high, above, at_high, bits[(bits > low) & (bits < high)], at_low)

    def num_at(self, threshold: int) -> int:
        """How many have these bits, which lie in the band."""
        ends = {self.high: self.num_at_high, self.low: self.num_at_low}
        return ends[threshold] if threshold in ends else int(np.count_nonzero(self.inside == threshold))


def _among(bands: list[_Band], count: int) -> tuple[int, int, list[int]] | None:
    """The `count`-th largest magnitude, its rank among those equal to it, and how many of these each piece has.

    None where it lies outside of the band.
    """
    low, high = bands[0].low, bands[0].high
    rank = count - sum(band.num_above for band in bands)
    inside = np.concatenate([band.inside for band in bands])
    if rank <= 0:
        return None
    threshold = high
    if rank > (num_at_high := sum(band.num_at_high for band in bands)):
        rank -= num_at_high
        threshold = low
        if rank <= inside.size:
            inside.sort()  # several times faster than a partition
            threshold = int(inside[inside.size - rank])
            rank -= int(np.count_nonzero(inside[inside.size - rank :] > threshold))
        else:
            rank -= inside.size
    numbers = [band.num_at(threshold) for band in bands]
    return (threshold, rank, numbers) if rank <= sum(numbers) else None


def _position(x: NDArray[Any], base: NDArray[Any], threshold: int, rank: int) -> int:
    """Where the `rank`-th element with these bits stands in a piece.

    Raises:
        CheckpointError: there are fewer, as the piece was changed since they were counted.
    """
    for start in range(0, x.size, SEARCH_ELEMENTS):
        span = slice(start, start + SEARCH_ELEMENTS)
        at = np.flatnonzero(_bits_between(x[span], base[span]) == threshold)
        if rank <= at.size:
            return start + int(at[rank - 1])
        rank -= at.size
    raise CheckpointError(
        "a file of a source was changed while it was read", remedy="run the merge again when nobody writes there"
    )


def _sampled(x: NDArray[Any], base: NDArray[Any], step: int) -> Bits:
    """Magnitudes of the first elements of every `step` of a piece."""
    if x.size < step:
        return _bits_between(x[:SAMPLE_ELEMENTS], base[:SAMPLE_ELEMENTS])
    rows = x.size // step
    x, base = (part[: rows * step].reshape(rows, step)[:, :SAMPLE_ELEMENTS].reshape(-1) for part in (x, base))
    return _bits_between(x, base)


def _quantile(ordered: Bits, share: float) -> int:
    """The magnitude below which about this share of a sample lies; beyond all of them for shares outside of [0, 1]."""
    at = math.floor(share * ordered.size)
    if at < 0:
        return -1
    return int(ordered[at]) if at < ordered.size else MOST_BITS


def _bits_between(x: NDArray[Any], base: NDArray[Any]) -> Bits:
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in the result
        return _bits(to_float32(x) - to_float32(base))


def _bits(delta: Array) -> Bits:
    return np.abs(delta).view(np.int32)


def _cut_of(bits: Bits, count: int) -> MagnitudeCut:
    """The cut that keeps `count` elements; of equal ones the first."""
    if count <= 0:
        return MagnitudeCut(MOST_BITS, -1)
    if count >= bits.size:
        return MagnitudeCut(-1, -1)
    ordered = np.partition(bits, bits.size - count)
    threshold = ordered[bits.size - count]
    num_above = int(np.count_nonzero(ordered[bits.size - count :] > threshold))
    last = np.flatnonzero(bits == threshold)[count - num_above - 1]
    return MagnitudeCut(int(threshold), int(last))


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
