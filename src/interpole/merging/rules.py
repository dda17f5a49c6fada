"""Rules of a recipe: coefficients for the tensors of some layers, of a module kind, or of some names.

A number in a rule or recipe may be a gradient over the layers. Nothing here knows a checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from interpole.checkpoints.names import KINDS, role_of
from interpole.errors import RecipeError
from interpole.merging.methods import Parameter, get_method
from interpole.schema import Strict

__all__ = [
    "Coefficients",
    "Rule",
    "Value",
    "ablation",
    "at_layer",
    "check_finite",
    "check_parameters",
    "first_set",
    "list_layers",
    "parse_layers",
]


def _no_comma(value: Any) -> Any:
    """Name a decimal comma, which YAML reads as text."""
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d*,\d+\s*", value):
        raise ValueError(f"{value} has a decimal comma; write {value.strip().replace(',', '.')}")
    return value


Value = Annotated[float | list[float], BeforeValidator(_no_comma)]
"""A number, or a gradient: numbers spread evenly over the layers and interpolated linearly between."""

MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What one tensor is merged with.

    Attributes:
        weights: a weight per source, the base not among them.
        parameters: the method's parameters by name; those per source are tuples.
        rows: tokens (or `markers`) whose rows are merged otherwise, with what; the first that names a row counts.
    """

    weights: tuple[float, ...]
    parameters: tuple[tuple[str, Any], ...]
    rows: tuple[tuple[str | tuple[str, ...], Coefficients], ...] = ()


class Rule(Strict):
    """Coefficients for the tensors that match all of `layers`, `kind` and `name`; what it leaves out, a later rule may set.

    Attributes:
        layers: `"12-35"`, `"0,2,4-7"` (both ends included), `"not 12-35"` for all other layers, or `"none"` for tensors outside
            of the layers (embeddings, final norm, lm_head).
        kind: one of `names.KINDS`, or a list of them.
        name: glob on the tensor name, `*` matching anything.
        rows: only the rows of these tokens in the embedding and lm_head: a list of tokens, or `markers` for the pair that
            opens and closes a thought. Each row is merged by itself.
        lam: λ for these tensors (`lambda` in YAML).
        weights: weights by source name, instead of λ; sources it leaves out have theirs from a later rule.
        parameters: parameters of the method.
        optional: the rule may match no tensor; otherwise that is an error.
    """

    layers: str | None = None
    kind: str | list[str] | None = None
    name: str | None = None
    rows: Literal["markers"] | list[str] | None = None
    lam: Value | None = Field(None, alias="lambda")
    weights: dict[str, Value] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    optional: bool = False

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_as_text(cls, value: Any) -> Any:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str) and text != "none":
            parse_layers(text.removeprefix("not "))
        return text

    @field_validator("kind")
    @classmethod
    def _known_kinds(cls, value: str | list[str] | None) -> str | list[str] | None:
        for kind in [value] if isinstance(value, str) else value or []:
            if kind not in KINDS:
                raise ValueError(f"unknown module kind {kind!r}; known: {', '.join(KINDS)}")
        return value

    def matches(self, name: str) -> bool:
        """Whether the rule is for tensor `name`.

        Raises:
            RecipeError: the rule asks for a layer or kind, and the name is of no known family.
        """
        if self.name is not None and not fnmatchcase(name, self.name):
            return False
        found = role_of(name)
        if self.rows is not None and (found is None or found.kind not in ("embedding", "lm_head")):
            return False
        if self.layers is None and self.kind is None:
            return True
        if found is None:
            raise RecipeError(
                f"cannot tell layer and kind of tensor {name}, which rule [{self}] needs",
                remedy="give a rule for it by `name` before this one, or ask for its family to be added to names.py",
            )
        kinds = [self.kind] if isinstance(self.kind, str) else self.kind
        if kinds is not None and found.kind not in kinds:
            return False
        if self.layers is None:
            return True
        if self.layers == "none" or found.layer is None:
            return self.layers == "none" and found.layer is None
        within = found.layer in parse_layers(self.layers.removeprefix("not "))
        return within != self.layers.startswith("not ")

    def __str__(self) -> str:
        """The rule on one line, as in an error message."""
        return ", ".join(
            f"{key}: {value}" for key, value in self.model_dump(by_alias=True, exclude_defaults=True).items()
        )


def ablation(
    layers: str | None = None, skip: Iterable[str] = (), embeddings: str | None = None
) -> list[dict[str, Any]]:
    """Rules of the paper's ablations, for a recipe whose λ stays free.

    Args:
        layers: the only layers to interpolate, e.g. `"12-35"`; all others keep Instruct's weights (the paper's Table 3).
        skip: sublayers that keep Instruct's weights (its Figure 5): `attention`, or `ffn` with router and experts.
        embeddings: whose embeddings, final norm and lm_head: `instruct`, `thinking` or `interpolate`. The paper does not say;
            the default is `instruct` where `layers` is given and `interpolate` elsewhere.

    Raises:
        RecipeError: a word that is none of these.
    """
    outer = embeddings or ("instruct" if layers else "interpolate")
    if outer not in ("instruct", "thinking", "interpolate"):
        raise RecipeError(f"embeddings: {outer!r}", remedy="say instruct, thinking or interpolate")
    rules: list[dict[str, Any]] = []
    if outer != "interpolate":
        rules.append({"layers": "none", "lambda": float(outer == "thinking")})
    for part in skip:
        if part not in ("attention", "ffn"):
            raise RecipeError(
                f"skip: there are no sublayers {part!r}",
                remedy="say attention or ffn; for other parts write a recipe with rules",
            )
        rules.append({"kind": ["ffn", "router", "experts"] if part == "ffn" else part, "lambda": 0.0})
    if layers:
        rules.append({"layers": f"not {layers}", "lambda": 0.0})
    return rules


def parse_layers(text: str) -> frozenset[int]:
    """Layer indices of `"12-35"` or `"0,2,4-7"`, both ends included.

    Raises:
        RecipeError: the text is neither.
    """
    return frozenset(list_layers(text))


def list_layers(text: str) -> list[int]:
    """The layer indices of `"0-23,8-31"` in order, those that are named twice twice.

    Raises:
        RecipeError: the text is no such list.
    """
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or len(part) > 40 or int(match[2] or match[1]) < int(match[1]):
            raise RecipeError(
                f"not a layer range: {text!r}", remedy='write "12-35", "7" or "0,2,4-7" (both ends included)'
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first + len(layers) >= MOST_LAYERS:
            raise RecipeError(f"{part.strip()}: no model has so many layers", remedy=f"name fewer than {MOST_LAYERS:,}")
        layers += range(first, last + 1)
    return layers


def at_layer(value: Any, t: float) -> float:
    """A value at relative depth t in [0, 1]: itself, or the gradient's value there (piecewise linear, as in mergekit)."""
    if not isinstance(value, list):
        return float(value)
    position = t * (len(value) - 1)
    left = min(int(position), len(value) - 1)
    right = min(left + 1, len(value) - 1)
    return float(value[left] + (position - left) * (value[right] - value[left]))


def first_set(key: str, parameter: Parameter, chain: Iterable[Mapping[str, Any]], source: str, t: float) -> Any:
    """The value of a method's parameter for one source at relative depth t: the first that is set, or the default.

    Args:
        key: the parameter's name.
        parameter: what the method says of it.
        chain: parameters of rules and recipe, those that come first count.
        source: the source's name, where values may differ by source.
        t: depth in [0, 1], for gradients.
    """
    for parameters in chain:
        for name in (key, parameter.complement):
            value = parameters.get(name) if name else None
            value = value.get(source) if isinstance(value, Mapping) else value
            if value is not None:
                value = at_layer(value, t) if isinstance(value, list) else value
                return value if name == key else round(1 - value, 12)
    return parameter.default


def check_parameters(parameters: Mapping[str, Any], method: str, sources: Sequence[str]) -> None:
    """Check values against what a method says of its parameters.

    Args:
        parameters: values, gradients, or either by source name.
        method: the method's name.
        sources: the names of the sources that are merged.

    Raises:
        ValueError: an unknown parameter or source, or a value that the parameter cannot have.
    """
    known = dict(get_method(method).parameters)
    complements = {p.complement: key for key, p in known.items() if p.complement}
    for key, value in parameters.items():
        parameter = known.get(complements.get(key, key))
        if parameter is None:
            names = ", ".join([*known, *complements]) or "none"
            raise ValueError(f"method {method} has no parameter {key!r}; known: {names}")
        if complements.get(key) in parameters:
            raise ValueError(f"give `{key}` or `{complements[key]}`, not both")
        if isinstance(value, Mapping) and (not parameter.per_source or not set(value) <= set(sources)):
            allowed = ", ".join(sources) if parameter.per_source else "one value for all"
            raise ValueError(f"{key}: {dict(value)}: expected {allowed}")
        for part in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(part, list) and not isinstance(parameter.default, float):
                raise ValueError(f"{key}: {part!r} is not a single value")
            for single in (part or [part]) if isinstance(part, list) else [part]:
                if problem := parameter.problem(single):
                    raise ValueError(f"{key}: {part!r} is {problem}")


def check_finite(value: Value | None) -> None:
    """Raise ValueError for an empty gradient, infinity or NaN."""
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    if value == [] or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{value} is not a finite number or a list of them")
