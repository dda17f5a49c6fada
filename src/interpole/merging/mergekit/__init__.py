"""mergekit's YAML → the content of a recipe of ours, with mergekit's meaning.

What a file says that Interpole does not do is an error with the line it stands on; nothing is dropped silently. The meaning of
values, gradients and filters, and what differs, is in docs/mergekit.md. Nothing here reads a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from interpole.merging.mergekit.document import Document, Path, items, line_of_filter, lookup, parse, reference
from interpole.merging.mergekit.settings import check_keys, read_segments, rules_of, settings
from interpole.merging.methods import METHODS, get_method

__all__ = ["lines_of_rules", "translate"]

TOP_KEYS = {
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template"),
}


def translate(text: str, where: object) -> dict[str, Any]:
    """Translate a mergekit file.

    Args:
        text: the YAML.
        where: its path, for messages.

    Returns:
        The content of a recipe, as `interpole.merging.recipe.build` takes it.

    Raises:
        RecipeError: something is not supported or makes no sense; with its line.
    """
    document = parse(text, where)
    data = document.known((), document.data, TOP_KEYS)
    method = str(data.get("merge_method"))
    if method not in METHODS:
        document.fail(
            ("merge_method",), f"merge method {method!r} is not supported", f"supported: {', '.join(METHODS)}"
        )
    if ("models" in data) == ("slices" in data):
        document.fail((), "give either `models` or `slices`")
    models = _list_models(document)
    names, base = _name_sources(document, method, models)
    recipe: dict[str, Any] = {"method": method, "sources": {name: _source(model) for model, name in names.items()}}
    segments = list(read_segments(document, names))
    for segment in segments:
        check_keys(document, method, segment)
    recipe |= rules_of(
        segments, [dict(settings(document, method, s, [*names.values()], base and names[base])) for s in segments]
    )
    if dtype := data.get("out_dtype") or data.get("dtype"):
        recipe["dtype"] = str(dtype)
    if "slices" in data:
        recipe["stack"] = ",".join(f"{s.source[0]}-{s.source[-1]}" for s in segments if s.source)
    return recipe | _tokenizer(document, names, base) | _template(document)


def lines_of_rules(text: str, where: object, rules: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """For every rule of a translated file the line of the filter that it stands for."""
    document = parse(text, where)
    words = [re.sub(r"\[(.)\]", r"\1", str(rule.get("name") or "")).strip("*") for rule in rules]
    return [line_of_filter(document, word) if word else None for word in words]


def _list_models(document: Document) -> list[str]:
    """All models that `models` or `slices` name, in order."""
    models = []
    for key, inner in (("models", None), ("slices", "sources")):
        if key not in document.data:
            continue
        for path, item in items(document, (key,)):
            keys = {"model", "parameters"} if inner is None else {"sources", "parameters"}
            document.known(path, item, keys)
            for source_path, entry in [(path, item)] if inner is None else items(document, (*path, inner)):
                if inner:
                    document.known(source_path, entry, {"model", "layer_range", "parameters"})
                if "model" not in entry:
                    document.fail(source_path, "no `model`")
                models.append(reference(document, (*source_path, "model")))
    return list(dict.fromkeys(models))


def _name_sources(document: Document, method: str, models: list[str]) -> tuple[dict[str, str], str | None]:
    """Model → the name of its source, and the base model; where the method takes a base, its name is `base`."""
    base = reference(document, ("base_model",)) if "base_model" in document.data else None
    takes_base = get_method(method).base != "no"
    if base is not None and base not in models:
        models = [*models, base]
    names: dict[str, str] = {}
    for model in models:
        if model == base and takes_base:
            names[model] = "base"
            continue
        stem = PurePath(re.split("[@+]", model)[0]).name.replace(" ", "-") or "model"
        stem = stem + "-model" if stem == "base" else stem
        taken, number = set(names.values()), 2
        name = stem
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        names[model] = name
    return names, base


def _source(model: str) -> dict[str, str]:
    """A recipe's source for a mergekit reference."""
    model, _, adapter = model.partition("+")
    path, _, revision = model.partition("@")
    fields = {"model": path, "revision": revision, "adapter": adapter}
    return {key: value for key, value in fields.items() if value}


def _tokenizer(document: Document, names: Mapping[str, str], base: str | None) -> dict[str, Any]:
    """`template_from`, the base model's unless the file says otherwise, and whether rows are matched by its tokens."""
    default = names[base] if base else next(iter(names.values()))
    path: Path = ("tokenizer_source",)
    if document.data.get("tokenizer") is not None:
        document.known(("tokenizer",), document.data["tokenizer"], {"source"})
        path = ("tokenizer", "source")
    chosen = lookup(document, path)
    if chosen in (None, "union"):  # a union that adds nothing: vocabularies that differ are refused in the merge
        return {"template_from": default}
    if chosen == "base":
        if base is None:
            document.fail(path, "the tokenizer of the base, but there is no base_model")
        return {"template_from": default, "vocabulary": "align"}
    model = reference(document, path)
    if model not in names:
        document.fail(path, f"{model} is none of the models", f"there are {', '.join(names)}")
    return {"template_from": names[model], "vocabulary": "align"}


def _template(document: Document) -> dict[str, str]:
    """`chat_template`: Jinja text as it is; `auto` leaves that of the tokenizer's source."""
    text = document.data.get("chat_template")
    if text in (None, "auto"):
        return {}
    if "{" not in str(text):
        document.fail(
            ("chat_template",),
            f"chat_template: mergekit's template {text!r} is not shipped here",
            "write its Jinja text",
        )
    return {"chat_template": str(text)}
