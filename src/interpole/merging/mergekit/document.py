"""A mergekit file as plain data that knows its lines, and the reading of its models, ranges and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from interpole.errors import RecipeError
from interpole.formats import parse_yaml_documents

__all__ = [
    "Document",
    "Path",
    "Setting",
    "chain",
    "items",
    "layer_range",
    "line_of_filter",
    "lookup",
    "parse",
    "reference",
]

PLACES = {
    **dict.fromkeys(("tokens", "pad_to_multiple_of"), "tokenizer"),
    **dict.fromkeys(("weight", "density", "gamma", "epsilon", "t", "lambda", "normalize", "int8_mask"), "parameters"),
    "layer_range": "sources",
}
"""Keys that are often written where mergekit passes over them in silence, and under which they count."""
Path = tuple[Any, ...]
Setting = list[tuple[str | None, Any]]
"""A setting as (filter, value) in order, the first filter that the tensor's name contains counts; None fits all."""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file as plain data, and the line of every key and item by its path."""

    data: Mapping[str, Any]
    lines: Mapping[Path, int]
    where: object

    def fail(self, path: Path, what: str, remedy: str = "") -> NoReturn:
        """Raise a RecipeError at the line of `path`."""
        raise RecipeError(what, f"{self.where}, line {self.line(path)}", remedy)

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest above it that has one, as what a merge key of YAML brings has none."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def known(self, path: Path, mapping: Any, keys: set[str]) -> Mapping[str, Any]:
        """`mapping`, after a check that it is one and has no other keys."""
        if not isinstance(mapping, Mapping):
            self.fail(path, f"{path[-1] if path else 'a mergekit file'}: expected a mapping, found {mapping!r}")
        for key in mapping:
            if key not in keys:
                place = PLACES.get(key)
                elsewhere = f"it belongs under `{place}`; " if place and place not in path else ""
                known = f"{elsewhere}known here: {', '.join(sorted(keys))}"
                self.fail((*path, key), f"mergekit key {key!r} is not supported here", known)
        return mapping


def parse(text: str, where: object) -> list[Document]:
    """The documents of the file as data, with the line of everything."""
    found = [Document(data, lines, where) for data, lines in parse_yaml_documents(text, where, RecipeError)]
    return found or [Document({}, {}, where)]


def items(document: Document, path: Path) -> Iterator[tuple[Path, Any]]:
    """The items of the list at `path` with their paths."""
    value = _at(document, path)
    if not isinstance(value, list) or not value:
        document.fail(path, f"{path[-1]}: expected a list with at least one item")
    for i, item in enumerate(value):
        yield (*path, i), item


def _at(document: Document, path: Path) -> Any:
    """The value at `path`."""
    value: Any = document.data
    for key in path:
        value = value[key]
    return value


def reference(document: Document, path: Path) -> str:
    """A model reference as `path`, `path@revision` or either with `+adapter`."""
    value = _at(document, path)
    if isinstance(value, Mapping):
        fields = document.known(path, value, {"model", "path", "revision", "lora"})
        adapter = f"+{reference(document, (*path, 'lora'))}" if fields.get("lora") else ""
        if "model" in fields:
            return reference(document, (*path, "model")) + adapter
        if "path" not in fields:
            document.fail(path, "expected a model: a path")
        return str(fields["path"]) + (f"@{fields['revision']}" if fields.get("revision") else "") + adapter
    if not isinstance(value, str):
        document.fail(path, f"expected a model, found {value!r}")
    return value


def layer_range(document: Document, path: Path) -> range:
    """The `layer_range` of a source."""
    match _at(document, path).get("layer_range"):
        case [int(start), int(stop)] if 0 <= start <= stop:
            return range(start, stop)
        case other:
            return document.fail((*path, "layer_range"), f"layer_range: expected [first, last + 1], found {other!r}")


def chain(document: Document, key: str, paths: Sequence[Path]) -> Setting:
    """The setting `key` as it stands in the `parameters` at `paths`, the first path that sets it counting."""
    found: Setting = []
    for path in paths:
        parameters = lookup(document, path)
        if parameters is None or key not in parameters:
            continue
        value, here = parameters[key], (*path, key)
        conditional = isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
        for item_path, item in items(document, here) if conditional else [(here, {"value": value})]:
            document.known(item_path, item, {"filter", "value"})
            word = item.get("filter")
            found.append((None if word in (None, "*") else str(word), _checked(document, item_path, item.get("value"))))
            if found[-1][0] is None:
                return found
    return found


def lookup(document: Document, path: Path) -> Any:
    """The value at `path`, None where there is nothing."""
    value: Any = document.data
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else value[key] if isinstance(value, list) else None
        if value is None:
            return None
    return value


def _checked(document: Document, path: Path, value: Any) -> Any:
    """A number, a boolean or a gradient of numbers; integers as floats."""
    if isinstance(value, list) and value and all(isinstance(n, int | float) for n in value):
        return [float(n) for n in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if path[-1] == "max_iter" else float(value)
    return document.fail(path, f"expected a number, a list of numbers or a list of filter and value, found {value!r}")


def line_of_filter(document: Document, word: str) -> int | None:
    """The line of the first filter that says `word`."""
    paths = (path for path in document.lines if path[-1:] == ("filter",) and lookup(document, path) == word)
    return next((document.lines[path] for path in paths), None)
