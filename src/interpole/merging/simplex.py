"""Several models as the corners of a simplex: a point is their weights, none below 0, which sum to 1.

A point merges the corners that have a weight there, and reads no other: a corner is that model, byte for byte, and a point of an
edge is the interpolation of the two models at its ends. Three corners make a triangle, which a grid can cover.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from interpole.schema import Strict

__all__ = ["TOLERANCE", "Grid", "Weights", "centre", "grid", "weights_name"]

TOLERANCE = 1e-6
"""How far from 1 the weights may sum to: what is written with seven digits is as good as exact."""


def _on_simplex(weights: dict[str, float]) -> dict[str, float]:
    """Refuse weights that are of no point; those that are 0 say nothing."""
    if low := next((name for name, weight in weights.items() if weight < 0), None):
        raise ValueError(f"{low} has the weight {weights[low]:g}: a point of a simplex has none below 0")
    if weights and abs(math.fsum(weights.values()) - 1) > TOLERANCE:
        raise ValueError(f"the weights sum to {math.fsum(weights.values()):g}, not to 1")
    return {name: weight for name, weight in weights.items() if weight}


Weights = Annotated[dict[str, float], AfterValidator(_on_simplex)]
"""Corner → its weight, of those that have one."""


def weights_name(weights: Mapping[str, float]) -> str:
    """What the point with these weights is called: `base 0.25, thinking 0.75`; a corner by its own name."""
    known = {corner: weight for corner, weight in weights.items() if weight}
    return ", ".join(known if len(known) == 1 else (f"{corner} {weight:.4g}" for corner, weight in known.items()))


def centre(corners: Sequence[str]) -> dict[str, float]:
    """The point where all corners weigh the same."""
    return dict.fromkeys(corners, 1 / len(corners))


def grid(corners: Sequence[str], steps: int) -> list[dict[str, float]]:
    """All points whose weights are multiples of 1/`steps`, from the last corner to the first."""
    return [
        {corner: num / steps for corner, num in zip(corners, parts, strict=True) if num}
        for parts in _parts(len(corners), steps)
    ]


def _parts(num: int, total: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of `num` whole numbers, in their order."""
    if num == 1:
        yield (total,)
        return
    for first in range(total + 1):
        yield from ((first, *rest) for rest in _parts(num - 1, total - first))


def _named(value: Any) -> Any:
    """Corners alone, in a list or with commas between, as the mapping that they stand for."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    return {"corners": tuple(value)} if isinstance(value, list | tuple) else value


class _Grid(Strict):
    """A triangle of models, and how finely it is covered.

    Attributes:
        corners: the names of three sources.
        steps: from one corner to another; there are (steps + 1)·(steps + 2)/2 points.
    """

    corners: tuple[str, ...]
    steps: int = Field(default=4, ge=1, le=100)

    @field_validator("corners")
    @classmethod
    def _three(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := next((name for name in value if value.count(name) > 1), None):
            raise ValueError(f"{twice} is named twice")
        if len(value) < 3:
            raise ValueError(f"{len(value)} models make no triangle: two are a dial, see `lambdas`")
        if len(value) > 3:
            raise ValueError(
                f"a grid covers a triangle of three models, not {len(value)}; to look among more: `interpole search` with "
                f"`space: {{simplex: [{', '.join(value)}]}}` (docs/searches.md)"
            )
        return value

    @property
    def points(self) -> list[dict[str, float]]:
        """The weights of every point."""
        return grid(self.corners, self.steps)


Grid = Annotated[_Grid, BeforeValidator(_named)]
"""A triangle in a `sweep.yml`: `{corners: [a, b, c], steps: 4}`, or the corners alone."""
