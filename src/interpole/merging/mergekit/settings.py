"""What the parameters of a mergekit file mean: every setting of a part of the model, as rules of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape
from typing import Any

from interpole.merging.mergekit.document import Document, Path, Setting, chain, items, layer_range, lookup, reference
from interpole.merging.methods import get_method

__all__ = ["Segment", "check_keys", "read_segments", "rules_of", "settings"]

Key = tuple[str | None, tuple[str, ...] | None, str | None]
"""The layers, kinds and name of a rule."""

PER_MODEL = {"weight", "density", "gamma", "epsilon", "scale"}
WITHOUT_EFFECT = {"int8_mask", "eps"}  # saves memory; guards a division by zero


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the model with settings of its own: one item of `slices`, or the whole model for `models`.

    Attributes:
        path: where it stands in the file.
        layers: its layers in the result; None for all of the model.
        source: the layers of the sources that they are.
        outer: kinds of tensors outside of the layers that go with it.
        own: source name → path of its `parameters`.
        common: paths of the `parameters` that hold for all sources, innermost first.
    """

    path: Path
    layers: range | None
    source: range
    outer: tuple[str, ...]
    own: Mapping[str, Path]
    common: Sequence[Path]


@dataclass(slots=True)
class _Rules:
    """Rules in the making: the values of every key, in an order that keeps that of each setting."""

    entries: list[tuple[Key, dict[str, Any]]] = field(default_factory=list)

    def add(self, keys: Sequence[Key], values: Sequence[Any], put: Path) -> None:
        """Add a setting: a value for each key, the first key that fits a tensor counts; it is stored under the path `put`."""
        position = 0
        for number, (key, value) in enumerate(zip(keys, values, strict=True)):
            there = [entry[0] for entry in self.entries]
            following = [i for i in range(position, len(there)) if there[i] in keys[number:]]
            found = following[0] if following else len(there)
            if not following or there[found] != key:
                self.entries.insert(found, (key, {}))
            target = self.entries[found][1]
            for name in put[:-1]:
                target = target.setdefault(name, {})
            target[put[-1]] = value
            position = found + 1

    def content(self) -> dict[str, Any]:
        """`weights`, `parameters` and `rules` of a recipe."""
        result: dict[str, Any] = {"rules": []}
        for (layers, kinds, name), values in self.entries:
            kind = list(kinds) if kinds and len(kinds) > 1 else kinds and kinds[0]
            conditions = {"layers": layers, "kind": kind, "name": name}
            chosen: dict[str, Any] = {key: value for key, value in conditions.items() if value is not None}
            if kinds == ("lm_head",) or (name and "lm_head" in name):
                chosen["optional"] = True  # tied models have none
            if chosen:
                result["rules"].append(chosen | values)
            else:
                result |= values
        return result


def read_segments(document: Document, names: Mapping[str, str]) -> Iterator[Segment]:
    """The parts of the model that have settings of their own."""
    top: list[Path] = [("parameters",)]
    if "models" in document.data:
        own = _parameters_of(document, [path for path, _ in items(document, ("models",))], names)
        added = {name: ("base_model", "parameters") for name in names.values() if name not in own and name != "base"}
        yield Segment(("models",), None, range(0), (), own | added, top)
        return
    slices, start = list(items(document, ("slices",))), 0
    for number, (path, _) in enumerate(slices):
        sources = [source_path for source_path, _ in items(document, (*path, "sources"))]
        layers = [layer_range(document, source_path) for source_path in sources]
        for source_path, found in zip(sources, layers, strict=True):
            if found != layers[0]:
                document.fail(
                    (*source_path, "layer_range"),
                    f"layers {found.start}-{found.stop} beside {layers[0].start}-{layers[0].stop} of the first source: one slice "
                    "of different layers is not supported",
                    "give all sources of a slice the same layer_range",
                )
        own = _parameters_of(document, sources, names)
        outer = ("embedding",) * (number == 0) + ("norm", "lm_head") * (number == len(slices) - 1)
        yield Segment(path, range(start, start + len(layers[0])), layers[0], outer, own, [(*path, "parameters"), *top])
        start += len(layers[0])


def _parameters_of(document: Document, paths: Sequence[Path], names: Mapping[str, str]) -> dict[str, Path]:
    """The name of every source in a list and the path of its parameters."""
    found: dict[str, Path] = {}
    for path in paths:
        name = names[reference(document, (*path, "model"))]
        if name in found:
            document.fail(path, f"{name} is listed twice", "list it once, with the sum of its weights")
        found[name] = (*path, "parameters")
    return found


def rules_of(segments: Sequence[Segment], found: Sequence[Mapping[Path, Setting]]) -> dict[str, Any]:
    """The settings of all segments as `weights`, `parameters` and `rules`; what is the same everywhere is said once."""
    rules = _Rules()
    whole = Segment((), None, range(0), (), {}, ())
    for segment, own in zip(segments, found, strict=True):
        for put, setting in own.items():
            graded = any(isinstance(value, list) for _, value in setting)
            same = all(other.get(put) == setting for other in found) and not (graded and segment.layers)
            if not same:
                rules.add(*_placed(segment, setting), put)
            elif segment is segments[0]:
                rules.add(*_placed(whole, setting), put)
    return rules.content()


def _may_be_per_model(method: str, key: str) -> bool:
    """Whether mergekit looks for a parameter among those of one model."""
    parameter = get_method(method).parameters.get(key)
    return key in PER_MODEL | WITHOUT_EFFECT and (parameter is None or parameter.per_source)


def _keys_of(method: str) -> set[str]:
    """What mergekit calls the parameters of a method."""
    known = {"slerp": {"t"}, "passthrough": {"scale"}, "nuslerp": {"weight", "nuslerp_flatten", "nuslerp_row_wise"}}
    if method in known:
        return known[method] | WITHOUT_EFFECT
    ours = set(get_method(method).parameters) - {"seed"}
    theirs = {next((old for old, new in _renamed(method) if new == key), key) for key in ours}
    weighted = get_method(method).uses_weights and method != "karcher"
    return theirs | WITHOUT_EFFECT | ({"weight"} if weighted else set())


def _renamed(method: str) -> list[tuple[str, str]]:
    """Parameters that mergekit calls otherwise: (its name, ours)."""
    return [("normalize_weights", "normalize")] if method == "multislerp" else [("lambda", "scale")]


def check_keys(document: Document, method: str, segment: Segment) -> None:
    """Refuse parameters that the method does not have, or that stand where mergekit does not look."""
    for path in [*segment.common, *segment.own.values()]:
        own, known = path not in segment.common, _keys_of(method)
        for key in document.known(path, lookup(document, path) or {}, known):
            if own and not _may_be_per_model(method, key):
                document.fail((*path, key), f"{key} holds for all models", "move it to `parameters` at the top")
            if own and segment.own.get("base") == path:
                document.fail((*path, key), f"{key} of the base model has no effect", "remove it")


def settings(
    document: Document, method: str, segment: Segment, names: list[str], base: str | None
) -> Iterator[tuple[Path, Setting]]:
    """Every setting of a segment: where it goes in a rule, and its values."""
    weighted = get_method(method).uses_weights
    for name in names:
        if name == "base":
            continue
        if weighted:
            yield ("weights", name), _weight(document, method, segment, name, base)
        elif name not in segment.own:
            document.fail(segment.path, f"{method} needs all models in every slice; {name} is missing here")
        for key, parameter in get_method(method).parameters.items():
            paths = [segment.own[name], *segment.common] if name in segment.own else []
            if parameter.per_source and (found := chain(document, key, paths)):
                yield ("parameters", key, name), found
    yield from _common_settings(document, method, segment)


def _common_settings(document: Document, method: str, segment: Segment) -> Iterator[tuple[Path, Setting]]:
    """The settings that hold for all sources, with mergekit's defaults where they are not ours."""
    if method == "nuslerp":
        flatten = _scalar(document, segment, "nuslerp_flatten", True)
        row_wise = _scalar(document, segment, "nuslerp_row_wise", False)
        yield ("parameters", "along"), [(None, "tensor" if flatten else "columns" if row_wise else "rows")]
        return
    for key, parameter in get_method(method).parameters.items():
        if parameter.per_source:
            continue
        old = next((old for old, new in _renamed(method) if new == key), key)
        found = chain(document, old, segment.common)
        if (method, key) == ("nearswap", "t") and not (found and found[-1][0] is None):
            document.fail(
                segment.path,
                "nearswap needs t, a number for the whole model",
                "add `t` to `parameters`, without a filter",
            )
        if (method, key) == ("linear", "normalize") and not (found and found[-1][0] is None):
            found.append((None, True))
        if "l1" in parameter.choices:
            found = [(word, "l1" if value is True else value) for word, value in found or [(None, True)]]
        if found:
            yield ("parameters", key), found


def _scalar(document: Document, segment: Segment, key: str, default: bool) -> Any:
    """A setting that can only be one value."""
    found = chain(document, key, segment.common) or [(None, default)]
    if len(found) > 1 or found[0][0] is not None:
        document.fail((*segment.common[-1], key), f"{key}: filters are not supported here")
    return found[0][1]


def _weight(document: Document, method: str, segment: Segment, name: str, base: str | None) -> Setting:
    """The weights of one source in a segment."""
    if name not in segment.own:
        return [(None, 0.0)]
    if method == "karcher":
        return [(None, 1.0)]
    if method == "slerp":
        if len(segment.own) != 2 or base not in segment.own:
            document.fail(segment.path, "slerp merges two models, of which one is the base_model")
        found = chain(document, "t", segment.common)
        found = [(word, _complement(value) if name == base else value) for word, value in found]
    elif method == "passthrough":
        if len(segment.own) != 1:
            document.fail(segment.path, "passthrough takes one model, or one per slice")
        found = chain(document, "scale", [segment.own[name], *segment.common])
        found += [] if found and found[-1][0] is None else [(None, 1.0)]
    else:
        found = chain(document, "weight", [segment.own[name], *segment.common])
    if not found or found[-1][0] is not None:
        key = "t" if method == "slerp" else "weight"
        what = f"no {key} for {name}" + (" where none of the filters fits" if found else "")
        document.fail(segment.own[name][:-1], what, f"add `{key}`" + (" with a value and no filter" if found else ""))
    return found


def _complement(value: Any) -> Any:
    """One minus a number or a gradient."""
    return [1 - number for number in value] if isinstance(value, list) else 1 - value


OUTER = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "lm_head": "lm_head.weight"}
"""The tensors outside of the layers, by the names that mergekit's filters are compared with."""


def _placed(segment: Segment, setting: Setting) -> tuple[list[Key], list[Any]]:
    """A setting as rules: their keys and values, in order."""
    if segment.layers is None:
        return [(None, None, word and f"*{escape(word)}*") for word, _ in setting], [value for _, value in setting]
    rules: list[tuple[Key, Any]] = []
    by_kind = {
        kind: [_at_share(v, 0.0) for word, v in setting if word is None or word in OUTER[kind]][:1]
        for kind in segment.outer
    }
    for found in by_kind.values():
        kinds = tuple(kind for kind, other in by_kind.items() if other == found)
        if found and ("none", kinds, None) not in (key for key, _ in rules):
            rules.append((("none", kinds, None), found[0]))
    for word, value in setting:
        if word is not None and any(part in word for part in ("embed", "lm_head", "model.norm")):
            continue  # for tensors outside of the layers
        name, layers = word and f"*{escape(word)}*", segment.layers
        if isinstance(value, list):  # in slices a gradient runs over the layers of its slice
            last = len(layers) - 1
            shares = [(layer, (layer - layers.start) / last if last else 1.0) for layer in layers]
            rules += [((str(layer), None, name), _at_share(value, share)) for layer, share in shares]
        elif layers:
            rules.append(((f"{layers.start}-{layers.stop - 1}", None, name), value))
    return [key for key, _ in rules], [value for _, value in rules]


def _at_share(value: Any, share: float) -> Any:
    """A gradient's value at a share of the way through; other values as they are."""
    if not isinstance(value, list):
        return value
    left = int(share * (len(value) - 1))
    right = min(left + 1, len(value) - 1)
    part = share * (len(value) - 1) - left
    return (1 - part) * value[left] + part * value[right]
