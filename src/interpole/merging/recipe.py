"""A merge as data: method, sources, λ or weights, and rules that give parts of the model other coefficients.

A `Recipe` is frozen and computes nothing but coefficients. Its YAML form is what `interpole merge` takes and what it leaves in
every folder it writes. A source may be a recipe itself, a stage of a chain of merges; one that is named by its file is read with
the recipe that names it, and stands in it from then on.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag, field_validator, model_validator

from interpole.checkpoints.names import num_layers, role_of
from interpole.checkpoints.views.vocabulary import RowChanges, TokenRow
from interpole.errors import InterpoleWarning, RecipeError
from interpole.files import StrPath, read_text
from interpole.formats import parse_yaml_documents
from interpole.merging.methods import Method, get_method
from interpole.merging.rules import (
    Coefficients,
    Rule,
    Value,
    at_layer,
    check_finite,
    check_parameters,
    first_set,
    list_layers,
    parse_layers,
)
from interpole.schema import Strict, validated

__all__ = ["DTYPE_NAMES", "Part", "Recipe", "Source", "Sources", "as_part", "build", "parse_lambdas"]


class Source(Strict):
    """Where a checkpoint comes from: a folder or hub id, a revision of the latter, and a LoRA adapter to put on it."""

    model: str
    revision: str | None = None
    adapter: str | None = None

    @property
    def label(self) -> str:
        """What the user called it."""
        return self.model


class _TokenSource(Strict):
    """Where the row of a token comes from: a source's own, that of another of its tokens, one by number, or zeros."""

    source: str | None = None
    zero: bool = False
    token: str | None = None
    row: int | None = Field(None, ge=0)
    force: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.zero == (self.source is not None) or (self.zero and (self.token, self.row) != (None, None)):
            raise ValueError("give a `source`, with a `token` or a `row` if it is not its own, or `zero: true`")
        if self.token is not None and self.row is not None:
            raise ValueError("give `token` or `row`, not both")
        return self


def _read_sources(value: Any) -> Any:
    """Sources as mappings: a place alone is a model, or a recipe where it is a file of one."""
    return {name: _read_source(part) for name, part in value.items()} if isinstance(value, Mapping) else value


def _read_source(value: Any) -> Any:
    named = isinstance(value, Mapping) and set(value) == {"recipe"}
    value = value["recipe"] if named else value
    if isinstance(value, Mapping) and named:
        return {"method": "linear", **value}
    if not isinstance(value, str | os.PathLike):
        return value
    path = Path(value)
    is_recipe = named or (path.suffix in (".yml", ".yaml") and not path.is_dir())
    return Recipe.load(_beside(path)) if is_recipe else {"model": os.fspath(value)}


def _kind_of(value: Any) -> str:
    """The tag of what a source is; tags are blank, since nobody wrote them and messages name keys."""
    is_recipe = isinstance(value, Recipe) or (
        isinstance(value, Mapping) and not {"sources", "method"}.isdisjoint(value)
    )
    return _RECIPE if is_recipe else _SOURCE


_SOURCE, _RECIPE = "", " "
_reading: ContextVar[tuple[Path, ...]] = ContextVar("recipes that are being read", default=())
MOST_STAGES = 100
"""Merges in a chain, counted each time that one is named."""


def _beside(path: Path) -> Path:
    """A recipe's file as another one names it: beside that one, else from where one is; nobody waits for a pipe."""
    if not (chain := _reading.get()):
        return path
    found = next((place for place in (chain[-1].parent / path, path) if place.is_file()), None)
    if found is None:
        raise RecipeError(f"there is no recipe {path}", chain[-1], "name a file beside this one, or from where you are")
    return found


@contextmanager
def _while_reading(path: Path) -> Iterator[None]:
    """Know what is being read, so that a recipe that is made of itself is refused."""
    chain = _reading.get()
    resolved = [os.path.realpath(one) for one in chain]  # of a link to itself too
    if os.path.realpath(path) in resolved:
        names = " → ".join(one.name for one in (*chain[resolved.index(os.path.realpath(path)) :], path))
        raise RecipeError(f"the recipe is made of itself: {names}", chain[-1], "name another source there")
    if len(chain) >= MOST_STAGES:
        raise RecipeError(f"more than {MOST_STAGES} recipes, each named by the last", path)
    token = _reading.set((*chain, path))
    try:
        yield
    finally:
        _reading.reset(token)


@dataclass(frozen=True, slots=True)
class _Places:
    """File and line of every rule and token; recipes that say the same are equal wherever they were read."""

    of: Mapping[tuple[object, ...], str] | None = field(default=None, compare=False)


class Recipe(Strict):
    """A merge: which sources, by which method, with which coefficients, and whose tokenizer and config go with it.

    Attributes:
        method: a name from `interpole.merging.methods.METHODS`.
        sources: name → `Source` or `Recipe`, in order; a dial has `instruct` and `thinking`; `base` is the base of task vectors,
            where the method takes one, and else a source like any other.
        lam: λ (`lambda` in YAML): weights 1 − λ for `instruct` and λ for `thinking`.
        weights: a weight per source instead of λ.
        parameters: the method's parameters; where it allows one per source, a mapping by source name.
        rules: exceptions; for each tensor and each setting the first rule that matches and sets it wins.
        dtype: dtype of the result, e.g. `bfloat16`; default that of the sources.
        stack: layers of the sources that make up the result, in order, e.g. `"0-23,8-31"`; default all of them. Rules mean the
            layers of the result.
        template_from: the source whose config, tokenizer, chat template and generation config go with the result;
            default `thinking`, at λ = 0 `instruct`.
        chat_template: Jinja text that takes the place of that source's chat template.
        vocabulary: what to do if tokenizers differ: `refuse`, `align` or `ids`, as `vocabulary.POLICIES` says.
        tokens: token of the result's tokenizer → where its row of the embeddings and of lm_head comes from, in sources that have
            none, or with `force` in all of them.
        pad_to_multiple_of: rows below those of the tokens are the mean of theirs, as many as make up a multiple of this number.
        extrapolate: allow λ beyond [−0.5, 1.5].
    """

    method: str = "linear"
    sources: Sources
    lam: Value | None = Field(None, alias="lambda")
    weights: dict[str, Value] | None = None
    parameters: dict[str, Any] = Field({})
    rules: tuple[Rule, ...] = ()
    dtype: str | None = None
    stack: str | None = None
    template_from: str | None = None
    chat_template: str | None = None
    vocabulary: Literal["refuse", "align", "ids"] = "refuse"
    tokens: dict[str, _TokenSource] | None = None
    pad_to_multiple_of: int | None = Field(None, ge=1)
    extrapolate: bool | None = None
    _places: _Places = PrivateAttr(_Places())

    @field_validator("stack")
    @classmethod
    def _layers(cls, value: str | None) -> str | None:
        return value if value is None or list_layers(value) else None

    @field_validator("dtype")
    @classmethod
    def _known_dtype(cls, value: str | None) -> str | None:
        if value == "fp8":
            return "float8_e4m3fn"
        if value is not None and value not in DTYPE_NAMES:
            raise ValueError(f"unknown dtype {value!r}; known: {', '.join(DTYPE_NAMES)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        method = get_method(self.method)
        if method.base == "needed" and "base" not in self.sources:
            raise ValueError(
                f"method {self.method} works on differences to a base; add a source named `base` (mergekit's `base_model`)"
            )
        parts: list[Recipe | Rule] = [self, *self.rules]
        if method.base == "no" and "base" in self.sources and not any("base" in (part.weights or {}) for part in parts):
            raise ValueError(f"method {self.method} takes no base; give it a weight, or remove that source")
        if not method.sources[0] <= len(self.merged_names) <= method.sources[1]:
            least, most = method.sources
            number = f"{least:g}" if least == most else f"{least:g} or more"
            models = "one model with its base" if method.base == "needed" and most == 1 else f"{number} models"
            names = ", ".join(self.merged_names) or "none"
            raise ValueError(f"method {self.method} merges {models}, got {len(self.merged_names)}: {names}")
        if self.template_from is not None and self.template_from not in self.sources:
            raise ValueError(f"template_from: no source {self.template_from!r}; there are {', '.join(self.sources)}")
        if unknown := {row.source for row in (self.tokens or {}).values()} - {None, *self.sources}:
            raise ValueError(f"tokens: no source {min(map(str, unknown))!r}; there are {', '.join(self.sources)}")
        for part in parts:
            self._check_weights(part, method)
            check_parameters(part.parameters, self.method, self.merged_names)
        if self.lam is None and self.weights is None and method.uses_weights and not self.rules:
            raise ValueError("neither `lambda` nor `weights` is given")
        if self.num_stages > MOST_STAGES:
            raise ValueError(f"{self.num_stages} merges in one chain; there can be {MOST_STAGES}")
        return self

    def _check_weights(self, part: Recipe | Rule, method: Method) -> None:
        for value in [part.lam, *(part.weights or {}).values()]:
            check_finite(value)
        if not method.uses_weights and (part.lam is not None or part.weights is not None):
            raise ValueError(f"method {self.method} finds its own weights; remove `lambda` and `weights`")
        if part.lam is not None:
            if part.weights is not None:
                raise ValueError("give `lambda` or `weights`, not both")
            numbers = part.lam if isinstance(part.lam, list) else [part.lam]
            if far := [number for number in numbers if not -0.5 <= number <= 1.5 and not self.extrapolate]:
                raise ValueError(
                    f"λ = {far[0]:g} lies far beyond the pair (0 is Instruct, 1 is Thinking): a typing error? "
                    "If it is meant: --extrapolate (in a recipe, `extrapolate: true`)"
                )
            if any(not 0 <= number <= 1 for number in numbers):
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

    def __hash__(self) -> int:
        """Equal recipes have equal hashes."""
        return hash(self.model_dump_json())

    @property
    def label(self) -> str:
        """Method and sources, by the names they have here."""
        return f"{self.method}({', '.join(self.sources)})"

    @cached_property
    def num_stages(self) -> int:
        """Merges in the chain, this one included."""
        return 1 + sum(source.num_stages for source in self.sources.values() if isinstance(source, Recipe))

    @property
    def places(self) -> dict[str, Source]:
        """Every checkpoint that is read, by name; of a recipe that is a source with the source's name before: `thinking/base`."""
        found: dict[str, Source] = {}
        for name, source in self.sources.items():
            if isinstance(source, Recipe):
                found |= {f"{name}/{inner}": place for inner, place in source.places.items()}
            else:
                found[name] = source
        return found

    def placed(self, places: Mapping[str, Source]) -> Recipe:
        """The same recipe with other places, by the names of `places`."""
        sources: dict[str, Source | Recipe] = {}
        for name, source in self.sources.items():
            if isinstance(source, Recipe):
                inner = {
                    key.removeprefix(f"{name}/"): place for key, place in places.items() if key.startswith(f"{name}/")
                }
                sources[name] = source.placed(inner)
            else:
                sources[name] = places.get(name, source)
        return self.model_copy(update={"sources": sources})

    @property
    def row_changes(self) -> RowChanges:
        """What is done to the rows of tokens."""
        rows = {
            name: TokenRow(one.source, one.token, one.row, one.force, self._place("tokens", name))
            for name, one in (self.tokens or {}).items()
        }
        return RowChanges(tuple(rows.items()), self.pad_to_multiple_of)

    @property
    def merged_names(self) -> tuple[str, ...]:
        """The sources that get a weight: all but the base of task vectors."""
        takes_base = get_method(self.method).base != "no"
        return tuple(name for name in self.sources if name != "base" or not takes_base)

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
        unused = {i for i, rule in enumerate(self.rules) if not rule.optional}
        result: dict[str, Coefficients] = {}
        resolved: dict[tuple[Any, ...], Coefficients] = {}  # by all that they depend on
        for name in names:
            matching = [i for i, rule in enumerate(self.rules) if rule.matches(name)]
            unused -= set(matching)
            layer = found.layer if (found := role_of(name)) else None
            if (key := (layer, *matching)) not in resolved:
                resolved[key] = self._resolve(name, [self.rules[i] for i in matching], layer, depth)
            result[name] = resolved[key]
        for rule in self.rules:
            if rule.layers not in (None, "none") and max(parse_layers(str(rule.layers).removeprefix("not "))) >= depth:
                raise RecipeError(
                    f"rule [{rule}] asks for layers beyond the last",
                    self._place("rules", self.rules.index(rule)),
                    f"the model has layers 0-{depth - 1}",
                )
        if unused:
            raise RecipeError(
                f"rule [{self.rules[min(unused)]}] matches no tensor",
                self._place("rules", min(unused)),
                remedy=f"check it against the names, e.g. {', '.join(names[:3])}",
            )
        return result

    def _place(self, *path: int | str) -> str:
        """Where a rule, by its number, or a token stands: file and line, or nothing where the recipe is of no file."""
        return (self._places.of or {}).get(path, "")

    def _resolve(self, name: str, rules: list[Rule], layer: int | None, depth: int) -> Coefficients:
        t = 0.0 if layer is None or depth < 2 else layer / (depth - 1)
        plain = [rule for rule in rules if rule.rows is None]
        rows = [
            (
                tuple(rule.rows) if isinstance(rule.rows, list) else rule.rows,
                self._at_depth(name, [rule, *plain, self], t),
            )
            for rule in rules
            if rule.rows is not None
        ]
        return replace(self._at_depth(name, [*plain, self], t), rows=tuple(rows))

    def _at_depth(self, name: str, parts: Sequence[Rule | Recipe], t: float) -> Coefficients:
        method, weights = get_method(self.method), dict[str, float]()
        for part in parts:  # of what is set several times, the first counts
            lam = None if part.lam is None else at_layer(part.lam, t)
            given = {s: at_layer(value, t) for s, value in (part.weights or {}).items()}
            weights = ({"instruct": 1 - lam, "thinking": lam} if lam is not None else given) | weights
        if not weights and method.uses_weights:
            raise RecipeError(
                f"no rule gives tensor {name} a weight", remedy="set `lambda` or `weights` for the whole recipe"
            )
        chain = [part.parameters for part in parts]
        return Coefficients(
            tuple(weights.get(source, 0.0 if weights else 1.0) for source in self.merged_names),
            tuple((key, self._parameter(key, chain, t)) for key in method.parameters),
        )

    def _parameter(self, key: str, chain: Sequence[Mapping[str, Any]], t: float) -> Any:
        parameter = get_method(self.method).parameters[key]
        if not parameter.per_source:
            return first_set(key, parameter, chain, "", t)
        return tuple(first_set(key, parameter, chain, source, t) for source in self.merged_names)

    def at(self, lam: float) -> Recipe:
        """The same recipe at another λ. Rules keep theirs."""
        return self.with_(**{"lambda": lam})

    def with_(self, **settings: Any) -> Recipe:
        """The same recipe with other settings, checked like any recipe; keys as in YAML."""
        content = self.model_dump(by_alias=True, exclude_none=True, exclude={"sources"}) | {"sources": self.sources}
        changed = build(content | settings, "the recipe")
        if changed.rules == self.rules and changed.tokens == self.tokens:
            changed._places = self._places
        return changed

    def identity(self) -> str:
        """Canonical JSON of everything but what the sources are: equal for recipes that do the same to the same weights."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"extrapolate", "sources"})
        return json.dumps(content | {"sources": sorted(self.sources)}, sort_keys=True)

    def to_yaml(self) -> str:
        """The recipe as YAML that `Recipe.load` reads back equal."""
        return yaml.safe_dump(self._content(), sort_keys=False, allow_unicode=True)

    def _content(self) -> dict[str, Any]:
        """What is said, with the method first, and models by their place alone where that is all."""
        content = {"method": self.method} | self.model_dump(
            mode="json", by_alias=True, exclude_defaults=True, exclude={"sources"}
        )
        sources = {name: _content_of(source) for name, source in self.sources.items()}
        return {"method": content.pop("method"), "sources": sources, **content}

    @classmethod
    def between(cls, instruct: StrPath, thinking: StrPath, lam: float, **settings: Any) -> Recipe:
        """The plain interpolation of a pair at λ; `settings` are further fields, e.g. `rules`.

        Raises:
            RecipeError: a value makes no sense; with its key.
        """
        sources = {"instruct": instruct, "thinking": thinking}
        return build({"sources": sources, "lambda": lam} | settings, "the recipe")

    @classmethod
    def load(cls, path: StrPath) -> Recipe:
        """Read a recipe from YAML, ours or mergekit's.

        Raises:
            RecipeError: no such file, not YAML, or a key or value that makes no sense; with the key.
        """
        path = Path(path)
        if path.is_dir():
            raise RecipeError("a folder is no recipe", path, "to merge checkpoints name both: INSTRUCT THINKING")
        with _while_reading(path):
            text = read_text(path, RecipeError, "the recipe")
            documents = parse_yaml_documents(text, path, RecipeError)
            from interpole.merging.mergekit import translate_lines  # for files alone, and slow to import

            mergekits = any(isinstance(content, dict) and "merge_method" in content for content, _ in documents)
            if len(documents) > 1 and not mergekits:
                raise RecipeError("several documents", path, "name one recipe as a source of the other: {recipe: FILE}")
            content, lines = translate_lines(text, path) if mergekits else [*documents, (None, {})][0]
            if not isinstance(content, dict):
                raise RecipeError(
                    "a recipe is a YAML mapping", path, "say `sources` and `lambda`; examples: docs/methods.md"
                )
            recipe = build(content, path)
        recipe._set_places(lines.get, path)
        return recipe

    def _set_places(
        self, line_of: Callable[[tuple[Any, ...]], int | None], path: Path, at: tuple[Any, ...] = ()
    ) -> None:
        """Note file and line of every rule and token; recipes inside that were read from files of their own know theirs."""
        if self._places.of is not None:
            return
        parts = [
            *(("rules", number) for number in range(len(self.rules))),
            *(("tokens", name) for name in self.tokens or ()),
        ]
        lines = {part: line_of((*at, *part)) for part in parts}
        self._places = _Places({part: f"{path}, line {line}" if line else str(path) for part, line in lines.items()})
        for name, source in self.sources.items():
            if isinstance(source, Recipe):
                source._set_places(line_of, path, (*at, "sources", name))


Part = Annotated[Annotated[Source, Tag(_SOURCE)] | Annotated[Recipe, Tag(_RECIPE)], Discriminator(_kind_of)]
"""What a recipe merges: a checkpoint, or another recipe."""
Sources = Annotated[dict[str, Part], BeforeValidator(_read_sources)]
"""Name → source; one may be written as its folder or hub id alone, and a recipe as its file alone."""
Recipe.model_rebuild()  # its sources may be recipes


def as_part(place: StrPath) -> Part:
    """What is meant by a place alone where a source may be a recipe: a model, or the recipe in that file.

    Raises:
        RecipeError: as `Recipe.load`.
    """
    value = _read_source(place)
    return value if isinstance(value, Recipe) else Source(**value)


def _content_of(source: Source | Recipe) -> Any:
    """A source as it is written."""
    if isinstance(source, Recipe):
        return source._content()
    return source.model if source == Source(model=source.model) else source.model_dump(exclude_none=True)


DTYPE_NAMES: Mapping[str, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float8_e4m3fn": "F8_E4M3"}
"""dtype names of recipes and configs → safetensors."""


def build(content: Mapping[str, Any], where: object) -> Recipe:
    """Validate `content` into a Recipe, with errors of ours that name the key."""
    return validated(Recipe, content, where, RecipeError)


MOST_LAMBDAS = 10_000


def parse_lambdas(text: str) -> list[float]:
    """λ values of `"0:1:0.1"` (start, stop, step; both ends included, also where no step meets the stop) or `"0.2,0.4,0.6"`.

    Both may be mixed.

    Raises:
        RecipeError: the text is neither, or looks like a number with a decimal comma.
    """
    if re.fullmatch(r"\s*[-+]?\d+,\d+\s*", text) and float(text.split(",")[1]) > 1.5:
        raise RecipeError(
            f"{text} is read as two λ, the second far beyond the pair: is it a decimal comma?",
            remedy=f'write {text.strip().replace(",", ".")}; for the two numbers, "{text.strip()}.0"',
        )
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
        if not (stop - start) / step < MOST_LAMBDAS:
            raise RecipeError(f"{part}: more than {MOST_LAMBDAS:,} λ", remedy="take a larger step")
        count = math.floor((stop - start) / step + 1e-9)
        values += [round(start + i * step, 10) for i in range(count + 1)]
        values.append(round(stop, 10))
    return list(dict.fromkeys(values))
