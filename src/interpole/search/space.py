"""What `interpole search` may vary, as it is written down: λ of parts of the model or weights of several, methods, the sampler.

A choice of values for all of it is a point of a sweep. Nothing is searched here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from interpole.errors import AnalysisError, RunError
from interpole.files import StrPath
from interpole.formats import read_yaml
from interpole.merging.simplex import centre
from interpole.schema import Strict, validated
from interpole.search.allocation import parse_goal
from interpole.sweep.config import PointConfig, SweepConfig

__all__ = [
    "BATCH",
    "Choices",
    "Range",
    "Space",
    "SpaceFile",
    "Vary",
    "begin_with",
    "layer_groups",
    "leading",
    "point_of",
    "uniform",
]


class Range(NamedTuple):
    """Any number from `low` to `high`; of `top_k`, any whole one."""

    low: int | float
    high: int | float


class Choices(Strict):
    """One of several values."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=1)


BATCH = 8
"""So many recipes are proposed at a time where engines of a cluster try them, unless somebody says how many."""
DIGITS = 4
"""Of weights on a simplex."""
Vary = Range | Choices | bool | int | float | str
"""A range, choices, or one value that stays."""
Suggest = Callable[[str, Vary], Any]
"""Draws a value for a name."""


class Space(Strict):
    """What is varied.

    Attributes:
        lam: range of λ (`lambda` in YAML) for everything that no part covers.
        groups: so many groups of neighbouring layers, each with a λ of its own.
        kinds: module kinds (of `names.KINDS`), each with a λ of its own; together with groups: in each group.
        parts: name → selectors of a rule (`layers`, `kind`, `name`, `rows`), with a `lambda` range where it is another;
            they go before groups and kinds, the first that fits counts.
        simplex: three sources or more, whose weights are varied in the place of all that (`interpole.merging.simplex`).
        methods: merge methods, each with what its parameters may be.
        sampler: temperature, top_p, top_k.
    """

    lam: Range = Field(default=Range(0.0, 1.0), alias="lambda")
    groups: int = Field(default=0, ge=0)
    kinds: tuple[str, ...] = ()
    parts: dict[str, dict[str, Any]] = {}
    simplex: tuple[str, ...] = ()
    methods: dict[str, dict[str, Vary]] = {"linear": {}}
    sampler: dict[str, Vary] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.methods:
            raise ValueError("methods: name at least one, e.g. {linear: {}}")
        if self.simplex and (len({*self.simplex}) < 3 or len({*self.simplex}) < len(self.simplex)):
            raise ValueError("simplex: name three sources or more, each once; between two, `lambda` is varied")
        if self.simplex and {"lam", "groups", "kinds", "parts"} & self.model_fields_set:
            raise ValueError(
                "simplex: the weights of whole models are varied: leave out lambda, groups, kinds and parts"
            )
        for low, high in [self.lam, *(Range(*part["lambda"]) for part in self.parts.values() if "lambda" in part)]:
            if not low <= high:
                raise ValueError(f"lambda: a range goes up, not from {low:g} to {high:g}")
        return self

    def rules(self, num_layers: int) -> dict[str, dict[str, Any]]:
        """Part → its rule, without λ; in the order in which they count."""
        groups = [{"layers": layers} for layers in layer_groups(num_layers, self.groups)] or [{}]
        kinds = [{"kind": kind} for kind in self.kinds] or [{}]
        made = {
            " ".join(str(v) for v in both.values()): both
            for group, kind in product(groups, kinds)
            if (both := group | kind)
        }
        named = {"layers " + name if rule.get("layers") else name: rule for name, rule in made.items()}
        return {name: {k: v for k, v in part.items() if k != "lambda"} for name, part in self.parts.items()} | named

    def range_of(self, part: str) -> Range:
        """The range of a part's λ."""
        own = self.parts.get(part, {}).get("lambda")
        return Range(*own) if own else self.lam


class SpaceFile(Strict):
    """A file for `interpole search`: a sweep, what to vary, and how long to look.

    Attributes:
        sweep: the sweep's settings; its λ are measured beside what is found.
        space: what is varied.
        trials: how many recipes are tried.
        held_out: share of the questions that no trial sees.
        confirm: share of these that are kept for the winner alone.
        finalists: how many of the best are measured on the others of these, to choose the winner.
        goal: what the winner is wanted for: balanced, accuracy, max-tokens=1200 or min-accuracy=0.8.
        algorithm: tpe, nsga2 or random.
        batch: so many recipes are proposed at a time, from what all before came to: what is tried does not depend on who tries
            them, nor on which ends first. None: as the folder says; in a new one 1, or with `--ray` `BATCH`.
        prune: parts that bring less than this share of the log odds of thinking (`interpole predict`) are not varied on their
            own; and the first trials move the others one after the other, the largest first. None: all are varied.
    """

    sweep: SweepConfig
    space: Space
    trials: int = Field(default=50, ge=1)
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.5
    confirm: Annotated[float, Field(gt=0, lt=1)] = 0.5
    finalists: int = Field(default=8, ge=1)
    goal: str = "balanced"
    algorithm: str = "tpe"
    batch: Annotated[int, Field(ge=1)] | None = None
    prune: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm not in ("tpe", "nsga2", "random"):
            raise ValueError(f"no algorithm {self.algorithm!r}; there are tpe, nsga2, random")
        try:
            parse_goal(self.goal)
        except AnalysisError as error:
            raise ValueError(f"{error.what}; {error.remedy}") from None
        own = [
            point for point in self.sweep.points if [*point.weights] not in [[corner] for corner in self.space.simplex]
        ]
        if own or self.sweep.served:
            raise ValueError("a search finds its own points, and needs weights at hand")
        if unknown := set(self.space.simplex) - set(self.sweep.sources):
            raise ValueError(f"simplex: no source {min(unknown)!r}; there are {', '.join(self.sweep.sources)}")
        if self.space.simplex and self.prune is not None:
            raise ValueError("prune: it is of parts of the model, and a simplex has none")
        return self

    def under(self, **said: Any) -> Self:
        """These settings below others; what is None is not said.

        Raises:
            RunError: a value makes no sense.
        """
        given = {name: value for name, value in said.items() if value is not None}
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return validated(type(self), own | given, "the search", RunError, "see docs/searches.md")

    @classmethod
    def load(cls, path: StrPath, *, trust: bool = False) -> SpaceFile:
        """Read a file; keys that are not the search's own are those of a sweep. `trust`: see `SweepConfig.written`.

        What is found is measured beside the dial, or the corners of a simplex, unless the file says beside what.

        Raises:
            RunError: no such file, not YAML, or a key or value that makes no sense.
        """
        path = Path(path)
        content = read_yaml(path, RunError, "the search")
        own = {name: content.pop(name) for name in list(content) if name in cls.model_fields and name != "sweep"}
        corners = own["space"].get("simplex") if isinstance(own.get("space"), dict) else None
        if not corners:
            content.setdefault("lambdas", "0:1:0.25")
        elif isinstance(corners, list) and not {"simplex", "points"} & set(content):
            content["points"] = [{"weights": {str(corner): 1.0}} for corner in corners]
        return validated(
            cls,
            {"sweep": SweepConfig.written(content, path, trust=trust)} | own,
            path,
            RunError,
            "see docs/searches.md",
        )


def layer_groups(num_layers: int, num_groups: int) -> list[str]:
    """`["0-11", "12-23", "24-35"]`: so many groups of neighbouring layers, as equal as can be."""
    if num_groups > num_layers:
        raise RunError(f"{num_groups} groups of {num_layers} layers", "the space", "ask for fewer groups")
    ends = [round(i * num_layers / num_groups) for i in range(num_groups + 1)] if num_groups else []
    return [f"{start}-{end - 1}" for start, end in pairwise(ends)]


def point_of(name: str, space: Space, rules: Mapping[str, Mapping[str, Any]], suggest: Suggest) -> PointConfig:
    """A point whose values `suggest` draws."""
    methods = tuple(space.methods)
    method = suggest("method", Choices(choices=methods)) if len(methods) > 1 else methods[0]
    parameters = {key: suggest(f"{method} {key}", vary) for key, vary in space.methods[method].items()}
    recipe: dict[str, Any] = {"method": method, "parameters": parameters}
    weights: dict[str, float] = {}
    if space.simplex:
        weights = _weights(space.simplex, suggest)
    else:
        recipe["lambda"] = suggest("λ", space.lam)
        recipe["rules"] = [
            {**rule, "lambda": suggest(f"λ {part}", space.range_of(part))} for part, rule in rules.items()
        ]
    sampler = {key: suggest(key, vary) for key, vary in space.sampler.items()}
    return PointConfig(name=name, weights=weights, recipe=recipe, sampler=sampler)


def _weights(corners: Sequence[str], suggest: Suggest) -> dict[str, float]:
    """The weights that numbers from 0 to 1 stand for: each corner but the last takes its share of what those before it left.

    Numbers drawn evenly make all points of the simplex alike: the share of one of n is a draw from Beta(1, n − 1), whose
    distribution function 1 − (1 − x)ⁿ⁻¹ is inverted (stick-breaking; Devroye, Non-Uniform Random Variate Generation, 1986, XI.4).
    """
    weights, left = dict[str, float](), 1.0
    for num_others, corner in zip(range(len(corners) - 1, 0, -1), corners, strict=False):
        drawn = suggest(f"share of {corner}", Range(0.0, 1.0))
        weights[corner] = round(left * (1 - (1 - drawn) ** (1 / num_others)), DIGITS)
        left = round(left - weights[corner], DIGITS)
    return {**weights, corners[-1]: left}


def _shares(corners: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    """The numbers that stand for weights: `_weights` the other way."""
    shares, left = dict[str, float](), 1.0
    for num_others, corner in zip(range(len(corners) - 1, 0, -1), corners, strict=False):
        weight = weights.get(corner, 0.0)
        part = min(1.0, weight / left) if left > 0 else 0.0
        shares[f"share of {corner}"] = 1 - (1 - part) ** num_others
        left -= weight
    return shares


def begin_with(space: Space, parts: Sequence[str]) -> list[dict[str, float]]:
    """Values to begin with: the dial; or the corners of a simplex, and its centre."""
    if not space.simplex:
        return uniform(space, parts)
    return [
        _shares(space.simplex, one) for one in (*({corner: 1.0} for corner in space.simplex), centre(space.simplex))
    ]


def leading(space: Space, ranked: Sequence[str]) -> list[dict[str, float]]:
    """Values to begin with: the first part of `ranked`, the first two, the first three, as high as they go, all else as low."""
    lowest = {"λ": float(space.lam.low)} | {f"λ {part}": float(space.range_of(part).low) for part in ranked}
    moved = [
        {f"λ {part}": float(space.range_of(part).high) for part in ranked[: k + 1]} for k in range(min(3, len(ranked)))
    ]
    return [lowest | one for one in moved]


def uniform(space: Space, parts: Sequence[str]) -> list[dict[str, float]]:
    """Values to begin with: the same λ everywhere, as on the dial."""
    low, high = space.lam
    lams = [low + i * (high - low) / 4 for i in range(5)]
    fits = [lam for lam in lams if all(space.range_of(part).low <= lam <= space.range_of(part).high for part in parts)]
    return [{"λ": lam} | {f"λ {part}": lam for part in parts} for lam in fits]
