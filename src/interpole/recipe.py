"""A merge as data: method, sources, λ or weights, and rules that give parts of the model other coefficients.

A `Recipe` is frozen, knows no files and computes nothing but coefficients. Its YAML form is what `interpole merge` takes and what
it leaves in every folder it writes.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from interpole.errors import InterpoleWarning, RecipeError
from interpole.methods import Method, get_method
from interpole.names import KINDS, num_layers, place

__all__ = ["Coefficients", "Recipe", "Rule", "Source"]

Value = float | list[float]
"""A number, or a gradient: numbers spread evenly over the layers and interpolated linearly between."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What one tensor is merged with: a weight per source (the base not among them) and the method's parameters."""

    weights: tuple[float, ...]
    parameters: tuple[tuple[str, Any], ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Source(_Strict):
    """Where a checkpoint comes from: a folder or hub id, and a revision of the latter."""

    model: str
    revision: str | None = None


class Rule(_Strict):
    """Coefficients for the tensors that match all of `layers`, `kind` and `name`; what it leaves out, a later rule may set.

    Attributes:
        layers: `"12-35"`, `"0,2,4-7"` (both ends included), `"not 12-35"` for all other layers, or `"none"` for tensors outside
            of the layers (embeddings, final norm, lm_head).
        kind: one of `names.KINDS`, or a list of them.
        name: glob on the tensor name, `*` matching anything.
        lam: λ for these tensors (`lambda` in YAML).
        weights: weights by source name, instead of λ.
        parameters: parameters of the method.
    """

    layers: str | None = None
    kind: str | list[str] | None = None
    name: str | None = None
    lam: Value | None = Field(None, alias="lambda")
    weights: dict[str, Value] | None = None
    parameters: dict[str, Any] = {}

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
        if self.layers is None and self.kind is None:
            return True
        found = place(name)
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


class Recipe(_Strict):
    """A merge: which sources, by which method, with which coefficients, and whose tokenizer and config go with it.

    Attributes:
        method: a name from `interpole.methods.METHODS`.
        sources: name → `Source`, in order; a dial has `instruct` and `thinking`, `base` is the base of task vectors.
        lam: λ (`lambda` in YAML): weights 1 − λ for `instruct` and λ for `thinking`.
        weights: a weight per source instead of λ.
        parameters: the method's parameters; where it allows one per source, a mapping by source name.
        rules: exceptions; for each tensor and each setting the first rule that matches and sets it wins.
        dtype: dtype of the result, e.g. `bfloat16`; default that of the sources.
        template_from: the source whose config, tokenizer, chat template and generation config go with the result;
            default `thinking`, at λ = 0 `instruct`.
    """

    method: str = "linear"
    sources: dict[str, Source]
    lam: Value | None = Field(None, alias="lambda")
    weights: dict[str, Value] | None = None
    parameters: dict[str, Any] = {}
    rules: tuple[Rule, ...] = ()
    dtype: str | None = None
    template_from: str | None = None

    @field_validator("sources", mode="before")
    @classmethod
    def _plain_sources(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: {"model": str(v)} if isinstance(v, str | Path) else v for k, v in value.items()}
        return value

    @field_validator("dtype")
    @classmethod
    def _known_dtype(cls, value: str | None) -> str | None:
        if value is not None and value not in DTYPE_NAMES:
            raise ValueError(f"unknown dtype {value!r}; known: {', '.join(DTYPE_NAMES)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        method = get_method(self.method)
        if method.needs_base and "base" not in self.sources:
            raise ValueError(f"method {self.method} works on differences to a base; add a source named `base`")
        if self.template_from is not None and self.template_from not in self.sources:
            raise ValueError(f"template_from: no source {self.template_from!r}; there are {', '.join(self.sources)}")
        for part in (self, *self.rules):
            self._check_coefficients(part, method)
        if self.lam is None and self.weights is None and method.uses_weights and not self.rules:
            raise ValueError("neither `lambda` nor `weights` is given")
        return self

    def _check_coefficients(self, part: Recipe | Rule, method: Method) -> None:
        for value in [part.lam, *(part.weights or {}).values()]:
            _check_finite(value)
        if part.lam is not None:
            if part.weights is not None:
                raise ValueError("give `lambda` or `weights`, not both")
            if any(not 0 <= number <= 1 for number in np.atleast_1d(part.lam)):
                warnings.warn(
                    f"λ = {part.lam} lies outside [0, 1]: it extrapolates beyond the pair",
                    InterpoleWarning,
                    stacklevel=2,
                )
            if self.merged_names != ("instruct", "thinking"):
                raise ValueError(
                    f"`lambda` is between `instruct` and `thinking`; the sources are {', '.join(self.sources)}"
                )
        if unknown := set(part.weights or {}) - set(self.merged_names):
            raise ValueError(f"weights: no source {min(unknown)!r}; there are {', '.join(self.merged_names)}")
        if unknown := set(part.parameters) - set(method.parameters):
            known = ", ".join(method.parameters) or "none"
            raise ValueError(f"method {self.method} has no parameter {min(unknown)!r}; known: {known}")

    @property
    def merged_names(self) -> tuple[str, ...]:
        """The sources that get a weight: all but `base`."""
        return tuple(name for name in self.sources if name != "base")

    @property
    def template_source(self) -> str:
        """The name of the source whose config, tokenizer and templates go with the result."""
        if self.template_from is not None:
            return self.template_from
        if "thinking" in self.sources and self.lam != 0:
            return "thinking"
        return next(iter(self.sources))

    def coefficients(self, names: Iterable[str]) -> dict[str, Coefficients]:
        """Coefficients of every tensor in `names`.

        Raises:
            RecipeError: a rule names a layer that does not exist, matches nothing, or needs the place of a tensor whose
                name is of no known family; a tensor is left without a weight.
        """
        names = list(names)
        depth = num_layers(names)
        unused = set(range(len(self.rules)))
        result = {}
        for name in names:
            matching = [i for i, rule in enumerate(self.rules) if rule.matches(name)]
            unused -= set(matching)
            result[name] = self._resolve(name, [self.rules[i] for i in matching], depth)
        for rule in self.rules:
            if rule.layers not in (None, "none") and max(parse_layers(str(rule.layers).removeprefix("not "))) >= depth:
                raise RecipeError(
                    f"rule [{rule}] asks for layers beyond the last", remedy=f"the model has layers 0-{depth - 1}"
                )
        if unused:
            raise RecipeError(
                f"rule [{self.rules[min(unused)]}] matches no tensor",
                remedy=f"check it against the names, e.g. {', '.join(names[:3])}",
            )
        return result

    def _resolve(self, name: str, rules: list[Rule], depth: int) -> Coefficients:
        layer = found.layer if (found := place(name)) else None
        t = 0.0 if layer is None or depth < 2 else layer / (depth - 1)
        parts: list[Rule | Recipe] = [*rules, self]
        setter = next((part for part in parts if part.lam is not None or part.weights is not None), None)
        method = get_method(self.method)
        if setter is None and method.uses_weights:
            raise RecipeError(
                f"no rule gives tensor {name} a weight", remedy="set `lambda` or `weights` for the whole recipe"
            )
        if setter is not None and setter.lam is not None:
            lam = at_layer(setter.lam, t)
            weights: tuple[float, ...] = (1.0 - lam, lam)
        else:
            given = {} if setter is None else setter.weights or {}
            weights = tuple(at_layer(given.get(source, 0.0 if given else 1.0), t) for source in self.merged_names)
        return Coefficients(weights, tuple(self._parameters(method, parts, t)))

    def _parameters(self, method: Method, parts: list[Rule | Recipe], t: float) -> Iterable[tuple[str, Any]]:
        for key, parameter in method.parameters.items():
            value = next((part.parameters[key] for part in parts if key in part.parameters), parameter.default)
            if parameter.per_source:
                by_source = value if isinstance(value, Mapping) else dict.fromkeys(self.merged_names, value)
                yield key, tuple(at_layer(by_source.get(s, parameter.default), t) for s in self.merged_names)
            else:
                yield key, at_layer(value, t) if isinstance(value, list) else value

    def at(self, lam: float) -> Recipe:
        """The same recipe at another λ. Rules keep theirs."""
        return self.with_(**{"lambda": lam})

    def with_(self, **settings: Any) -> Recipe:
        """The same recipe with other settings, checked like any recipe; keys as in YAML."""
        return build(self.model_dump(by_alias=True, exclude_none=True) | settings, "the recipe")

    def identity(self) -> str:
        """Canonical JSON of everything but where the sources lie: equal for recipes that do the same to the same weights."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(content | {"sources": sorted(self.sources)}, sort_keys=True)

    def to_yaml(self) -> str:
        """The recipe as YAML that `Recipe.load` reads back equal."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        content = {"method": self.method} | content
        content["sources"] = {
            name: source.model if source.revision is None else source.model_dump()
            for name, source in self.sources.items()
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    @classmethod
    def between(cls, instruct: str | Path, thinking: str | Path, lam: float, **settings: Any) -> Recipe:
        """The plain interpolation of a pair at λ; `settings` are further fields, e.g. `rules`.

        Raises:
            RecipeError: a value makes no sense; with its key.
        """
        sources = {"instruct": instruct, "thinking": thinking}
        return build({"sources": sources, "lambda": lam} | settings, "the recipe")

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe from YAML.

        Raises:
            RecipeError: no such file, not YAML, or a key or value that makes no sense; with the key.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"cannot read the recipe: {error}", path) from None
        if not isinstance(content, dict):
            raise RecipeError("a recipe is a YAML mapping", path, "see `interpole merge --help` for an example")
        return build(content, path)


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
                f"skip: {part!r}", remedy="say attention or ffn; for other parts write a recipe with rules"
            )
        rules.append({"kind": ["ffn", "router", "experts"] if part == "ffn" else part, "lambda": 0.0})
    if layers:
        rules.append({"layers": f"not {layers}", "lambda": 0.0})
    return rules


DTYPE_NAMES: Mapping[str, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""dtype names of recipes and configs → safetensors."""


def build(content: Mapping[str, Any], where: object) -> Recipe:
    """Validate `content` into a Recipe, with errors of ours that name the key."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}", where) from None


def parse_layers(text: str) -> frozenset[int]:
    """Layer indices of `"12-35"` or `"0,2,4-7"`, both ends included.

    Raises:
        RecipeError: the text is neither.
    """
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise RecipeError(
                f"not a layer range: {text!r}", remedy='write "12-35", "7" or "0,2,4-7" (both ends included)'
            )
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(layers)


def parse_lambdas(text: str) -> list[float]:
    """λ values of `"0:1:0.1"` (start, stop, step, both ends included) or `"0.2,0.4,0.6"`; both may be mixed.

    Raises:
        RecipeError: the text is neither.
    """
    values: list[float] = []
    for part in text.split(","):
        try:
            numbers = [float(number) for number in part.split(":")]
            if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
                raise ValueError
            start, stop, step = numbers if len(numbers) == 3 else (numbers[0], numbers[0], 1.0)
            if step <= 0 or stop < start:
                raise ValueError
        except ValueError:
            raise RecipeError(
                f"not a λ or a range of them: {part!r}", remedy='write "0.6", "0.2,0.4" or "0:1:0.1"'
            ) from None
        count = round((stop - start) / step + 1e-9)
        values += [round(start + i * step, 10) for i in range(count + 1) if start + i * step <= stop + 1e-9]
    return list(dict.fromkeys(values))


def at_layer(value: Any, t: float) -> float:
    """A value at relative depth t in [0, 1]: itself, or the gradient's value there (piecewise linear, as in mergekit)."""
    if not isinstance(value, list):
        return float(value)
    position = t * (len(value) - 1)
    left = min(int(position), len(value) - 1)
    right = min(left + 1, len(value) - 1)
    return float(value[left] + (position - left) * (value[right] - value[left]))


def _check_finite(value: Value | None) -> None:
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    if value == [] or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{value} is not a finite number or a list of them")
