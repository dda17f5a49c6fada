"""What `interpole search` may vary, as it is written down: λ of parts of the model, methods with their parameters, the sampler.

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
from interpole.schema import Strict, validated
from interpole.search.allocation import parse_goal
from interpole.sweep.config import PointConfig, SweepConfig

__all__ = ["Choices", "Range", "Space", "SpaceFile", "Vary", "layer_groups", "leading", "point_of", "uniform"]


class Range(NamedTuple):
    """Any number from `low` to `high`; of `top_k`, any whole one."""

    low: int | float
    high: int | float


class Choices(Strict):
    """One of several values."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=1)


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
        methods: merge methods, each with what its parameters may be.
        sampler: temperature, top_p, top_k.
    """

    lam: Range = Field(default=Range(0.0, 1.0), alias="lambda")
    groups: int = Field(default=0, ge=0)
    kinds: tuple[str, ...] = ()
    parts: dict[str, dict[str, Any]] = {}
    methods: dict[str, dict[str, Vary]] = {"linear": {}}
    sampler: dict[str, Vary] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.methods:
            raise ValueError("methods: name at least one, e.g. {linear: {}}")
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
    prune: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm not in ("tpe", "nsga2", "random"):
            raise ValueError(f"no algorithm {self.algorithm!r}; there are tpe, nsga2, random")
        try:
            parse_goal(self.goal)
        except AnalysisError as error:
            raise ValueError(f"{error.what}; {error.remedy}") from None
        if self.sweep.points or self.sweep.served:
            raise ValueError("a search finds its own points, and needs weights at hand")
        return self

    @classmethod
    def load(cls, path: StrPath, *, trust: bool = False) -> SpaceFile:
        """Read a file; keys that are not the search's own are those of a sweep. `trust`: see `SweepConfig.written`.

        Raises:
            RunError: no such file, not YAML, or a key or value that makes no sense.
        """
        path = Path(path)
        content = read_yaml(path, RunError, "the search")
        own = {name: content.pop(name) for name in list(content) if name in cls.model_fields and name != "sweep"}
        content.setdefault("lambdas", "0:1:0.25")
        return validated(
            cls, {"sweep": SweepConfig.written(content, path, trust=trust)} | own, path, RunError, "see docs/search.md"
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
    recipe = {
        "method": method,
        "lambda": suggest("λ", space.lam),
        "rules": [{**rule, "lambda": suggest(f"λ {part}", space.range_of(part))} for part, rule in rules.items()],
        "parameters": parameters,
    }
    sampler = {key: suggest(key, vary) for key, vary in space.sampler.items()}
    return PointConfig(name=name, recipe=recipe, sampler=sampler)


def leading(space: Space, ranked: Sequence[str], num: int = 3) -> list[dict[str, float]]:
    """Values to begin with: the first part of `ranked`, then the first two …, as high as they go, and all else as low."""
    lowest = {"λ": float(space.lam.low)} | {f"λ {part}": float(space.range_of(part).low) for part in ranked}
    moved = [{f"λ {part}": float(space.range_of(part).high) for part in ranked[: k + 1]} for k in range(num)]
    return [lowest | one for one in moved[: len(ranked)]]


def uniform(space: Space, parts: Sequence[str], num: int = 5) -> list[dict[str, float]]:
    """Values to begin with: the same λ everywhere, as on the dial."""
    low, high = space.lam
    lams = [low + i * (high - low) / (num - 1) for i in range(num)]
    fits = [lam for lam in lams if all(space.range_of(part).low <= lam <= space.range_of(part).high for part in parts)]
    return [{"λ": lam} | {f"λ {part}": lam for part in parts} for lam in fits]
