"""How far apart are two checkpoints? σ per tensor, layer and module kind, and kinship where a base is given.

One threaded pass over the bytes; nothing is held but sums (`checkpoints.reduce`). What σ says of a pair: see docs/similarity.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.compat import clashes
from interpole.checkpoints.names import KINDS, role_of
from interpole.checkpoints.reduce import (
    AbsoluteSums,
    absolute_sums,
    add_up,
    dot,
    float32_parts,
    num_not_finite,
    sum_tensors,
    total,
)
from interpole.errors import AnalysisError
from interpole.formats import plain

__all__ = ["VARIANTS", "Cell", "Kinship", "Moments", "Similarity", "TensorSimilarity", "check_by", "compare"]

VARIANTS = {
    "matrices": "unweighted mean over the tensors in layers, without norms and biases (the code of arXiv 2505.12716)",
    "layer_tensors": "unweighted mean over all tensors in layers, norms included (what Table 1 of arXiv 2510.10977 fits)",
    "global": "Σ|A − B| / (Σ|A| + Σ|B|) over all tensors together, so that every parameter counts alike",
}
"""The three ways to make one σ of a whole model, each with its definition."""

OTHER = "other"
"""The kind of tensors that `interpole.checkpoints.names` does not place."""


class Kinship(NamedTuple):
    """Model kinship (arXiv 2410.12613): how alike two fine-tunes moved from their base.

    `pearson` and `cosine` compare the directions of A − base and B − base (nan where one did not move);
    `euclidean` is the length of A − B.
    """

    pearson: float
    cosine: float
    euclidean: float


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the elements of x = A − base and y = B − base; they add up over tensors."""

    num: float
    x: float
    y: float
    xx: float
    yy: float
    xy: float
    squared_distance: float

    @property
    def kinship(self) -> Kinship:
        """The three measures from the sums."""
        covariance = self.xy - self.x * self.y / max(1.0, self.num)
        variances = (self.xx - self.x**2 / max(1.0, self.num), self.yy - self.y**2 / max(1.0, self.num))
        return Kinship(
            _ratio(covariance, *variances), _ratio(self.xy, self.xx, self.yy), math.sqrt(self.squared_distance)
        )


@dataclass(frozen=True, slots=True)
class TensorSimilarity:
    """The sums of one tensor, with its place: `layer` is None outside of the decoder layers."""

    name: str
    layer: int | None
    kind: str
    num_elements: int
    sums: AbsoluteSums
    moments: Moments | None = None

    @property
    def sigma(self) -> float:
        """σ of this tensor."""
        return self.sums.sigma


class Cell(NamedTuple):
    """σ of the tensors of one kind in one layer (None: outside of the layers), every parameter counting alike."""

    layer: int | None
    kind: str
    sigma: float


@dataclass(frozen=True, slots=True)
class Similarity:
    """What `compare` found.

    `left_out` names the tensors that σ is not defined for (integers, on one side only, with NaN or infinity), with the reason.
    """

    a: str
    b: str
    base: str | None
    tensors: tuple[TensorSimilarity, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def sigma(self, variant: str = "layer_tensors") -> float:
        """σ of the whole model by one of `VARIANTS`; nan where no tensor stands in a layer.

        Raises:
            AnalysisError: no such variant.
        """
        if variant not in VARIANTS:
            raise AnalysisError(f"unknown variant of σ: {variant!r}", remedy=f"known: {', '.join(VARIANTS)}")
        if variant == "global":
            return _pool(self.tensors).sigma
        chosen = [
            tensor.sigma
            for tensor in self.tensors
            if tensor.layer is not None and not (variant == "matrices" and _is_norm_or_bias(tensor.name))
        ]
        return sum(chosen) / len(chosen) if chosen else math.nan

    @property
    def kinship(self) -> Kinship | None:
        """Kinship over all parameters together; None without a base."""
        return _kinship(self.tensors)

    def cells(self) -> list[Cell]:
        """σ by layer and kind, for a heatmap; layers first, what stands outside of them last."""
        return [Cell(layer, kind, _pool(group).sigma) for (layer, kind), group in _groups(self.tensors, _layer_kind)]

    def rows(self, by: str = "kind") -> list[tuple[str, int, float, Kinship | None]]:
        """(name, number of parameters, σ, kinship) by "kind", "layer" or "tensor", as a table prints it.

        Raises:
            AnalysisError: another `by`.
        """
        check_by(by)
        return [
            (key, sum(tensor.num_elements for tensor in group), _pool(group).sigma, _kinship(group))
            for key, group in _groups(self.tensors, BY[by])
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data: the three σ, kinship, cells, and the tables by kind, layer and tensor; nan becomes null."""
        content: dict[str, Any] = {
            "a": self.a,
            "b": self.b,
            "base": self.base,
            "sigma": {variant: self.sigma(variant) for variant in VARIANTS},
            "kinship": self.kinship,
            "left_out": [{"tensor": name, "reason": reason} for name, reason in self.left_out],
            "cells": self.cells(),
        }
        for by in BY:
            content[f"by_{by}"] = [
                {by: key, "parameters": size, "sigma": sigma} | ({"kinship": kin} if kin else {})
                for key, size, sigma, kin in self.rows(by)
            ]
        found: dict[str, Any] = plain(content)
        return found


BY: dict[str, Callable[[TensorSimilarity], Any]] = {
    "kind": lambda tensor: tensor.kind,
    "layer": lambda tensor: "outside" if tensor.layer is None else f"layer {tensor.layer}",
    "tensor": lambda tensor: tensor.name,
}
"""What tables have a row for."""


def check_by(by: str) -> None:
    """Refuse a table that there is not, as before all weights are read.

    Raises:
        AnalysisError: with those that there are.
    """
    if by not in BY:
        raise AnalysisError(f"there is no table of σ by {by!r}", remedy=f"choose {', '.join(BY)}")


def compare(
    a: Checkpoint,
    b: Checkpoint,
    base: Checkpoint | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Similarity:
    """Measure how far `a` and `b` are apart.

    Args:
        a: one checkpoint, or a merge of some.
        b: the other; dtypes may differ.
        base: what both were made from; adds kinship.
        threads: default one per core, at most eight.
        progress: called with the bytes of `a` read since the last call.

    Raises:
        MismatchError: the checkpoints do not have the same tensors in the same shapes.
    """
    for other in (b, base):
        for clash in clashes(a, other, dtypes=False) if other else ():
            raise clash
    checkpoints = [a, b] if base is None else [a, b, base]
    shared = [name for name in a if all(name in checkpoint for checkpoint in checkpoints)]
    names = [name for name in shared if all(checkpoint.specs[name].is_float for checkpoint in checkpoints)]
    work = absolute_sums if base is None else _sums_with_base
    sums = sum_tensors(checkpoints, names, work, threads=threads, progress=progress)
    whole = [name for name in names if all(map(math.isfinite, sums[name]))]
    return Similarity(
        a.label,
        b.label,
        base.label if base else None,
        tuple(_tensor(name, a.specs[name].num_elements, sums[name]) for name in whole),
        tuple(_left_out(checkpoints, set(whole))),
    )


def _sums_with_base(a: NDArray[Any], b: NDArray[Any], base: NDArray[Any]) -> list[float]:
    """The three sums of σ, then those of `Moments`."""
    parts = []
    for x, y, z in float32_parts(a, b, base):
        difference = np.subtract(x, y)
        moved = (np.subtract(x, z), np.subtract(y, z))
        moments = (
            float(x.size),
            *map(total, moved),
            *(dot(one, other) for one, other in (moved[:1] * 2, moved[1:] * 2, moved)),
        )
        squared = dot(difference, difference)
        parts.append([*(total(np.abs(part, out=part)) for part in (difference, x, y)), *moments, squared])
    return add_up(parts)


def _tensor(name: str, num_elements: int, sums: list[float]) -> TensorSimilarity:
    found = role_of(name)
    return TensorSimilarity(
        name,
        found.layer if found else None,
        found.kind if found else OTHER,
        num_elements,
        AbsoluteSums(*sums[:3]),
        Moments(*sums[3:]) if sums[3:] else None,
    )


def _left_out(checkpoints: list[Checkpoint], compared: set[str]) -> Iterable[tuple[str, str]]:
    for name in dict.fromkeys(name for checkpoint in checkpoints for name in checkpoint):
        if name in compared:
            continue
        holders = [checkpoint for checkpoint in checkpoints if name in checkpoint]
        if len(holders) < len(checkpoints):
            yield name, f"only in {', '.join(holder.label for holder in holders)}"
        elif all(checkpoint.specs[name].is_float for checkpoint in checkpoints):
            counts = {checkpoint.label: num_not_finite(checkpoint.read(name)) for checkpoint in checkpoints}
            told = [f"{number:,} NaN or infinite in {label}" for label, number in counts.items() if number]
            yield name, "; ".join(told) or "numbers too large to be added up"
        else:
            yield name, "integers"


def _is_norm_or_bias(name: str) -> bool:
    return "norm" in name or "bias" in name


def _layer_kind(tensor: TensorSimilarity) -> tuple[int | None, str]:
    return tensor.layer, tensor.kind


def _groups(
    tensors: Iterable[TensorSimilarity], key: Callable[[TensorSimilarity], Any]
) -> list[tuple[Any, list[TensorSimilarity]]]:
    """Tensors by key; layers in order, what stands outside of them last, then kinds in the order of `KINDS`."""
    order = {kind: index for index, kind in enumerate((*KINDS, OTHER))}
    groups: dict[Any, list[TensorSimilarity]] = {}
    for tensor in sorted(tensors, key=lambda t: (t.layer is None, t.layer or 0, order[t.kind])):
        groups.setdefault(key(tensor), []).append(tensor)
    return list(groups.items())


def _pool(tensors: Iterable[TensorSimilarity]) -> AbsoluteSums:
    return AbsoluteSums(*add_up([tensor.sums for tensor in tensors]) or (0.0, 0.0, 0.0))


def _kinship(tensors: Iterable[TensorSimilarity]) -> Kinship | None:
    moments = [tensor.moments for tensor in tensors if tensor.moments]
    if not moments:
        return None
    return Moments(*add_up([(m.num, m.x, m.y, m.xx, m.yy, m.xy, m.squared_distance) for m in moments])).kinship


def _ratio(product: float, first: float, second: float) -> float:
    scale = math.sqrt(max(0.0, first)) * math.sqrt(max(0.0, second))
    return max(-1.0, min(1.0, product / scale)) if scale > 0 else math.nan
