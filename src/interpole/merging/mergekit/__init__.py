"""mergekit's YAML → the content of a recipe of ours, with mergekit's meaning.

What a file says that Interpole does not do is an error with the line it stands on; nothing is dropped silently. The meaning of
values, gradients and filters, and what differs, is in docs/from-mergekit.md. Nothing here reads a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from interpole.merging.mergekit.document import Document, Path, items, line_of_filter, lookup, parse, reference
from interpole.merging.mergekit.settings import check_keys, read_segments, rules_of, settings
from interpole.merging.methods import METHODS, get_method

__all__ = ["translate", "translate_lines"]

TOP_KEYS = {
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "name"),
}


def translate(text: str, where: object) -> dict[str, Any]:
    """Translate a mergekit file.

    Of several documents the result is the one without a `name`, else the last; what it names by theirs are its stages.

    Args:
        text: the YAML.
        where: its path, for messages.

    Returns:
        The content of a recipe, as `interpole.merging.recipe.build` takes it.

    Raises:
        RecipeError: something is not supported or makes no sense; with its line.
    """
    return translate_lines(text, where)[0]


def translate_lines(text: str, where: object) -> tuple[dict[str, Any], Lines]:
    """Translate a mergekit file; also the line of each token, and of the filter that a rule stands for, by its path there.

    Raises:
        RecipeError: as `translate`.
    """
    documents = parse(text, where)
    stages = _name_stages(documents)
    result = next((name for name in stages if name is None), list(stages)[-1])
    done: dict[str | None, _Stage] = {}
    _translate_stage(result, stages, done, ())
    if unused := [name for name in stages if name not in done]:
        stages[unused[0]].fail(
            ("name",), f"the result does not use {unused[0]}", "name it as a model where it is to be used"
        )
    return done[result].content, done[result].lines


Lines = dict[Path, int]
"""Path of a rule or a token in a recipe's content → line of the file."""
MOST_STAGES = 100
"""Merges in a chain, counted each time that one is named."""


class _Stage(NamedTuple):
    """A document as the content of a recipe, with the lines of its rules, and how many merges it takes."""

    content: dict[str, Any]
    lines: Lines
    num_stages: int


def _name_stages(documents: Sequence[Document]) -> dict[str | None, Document]:
    """The documents by name; one may have none."""
    if len(documents) > MOST_STAGES:
        documents[0].fail((), f"{len(documents)} documents; there can be {MOST_STAGES}")
    stages: dict[str | None, Document] = {}
    for document in documents:
        name = document.known((), document.data, TOP_KEYS).get("name")
        if name is not None and not isinstance(name, str):
            document.fail(("name",), f"name: expected text, found {name!r}")
        if name in stages:
            document.fail(("name",), f"two documents are called {name}" if name else "two documents have no `name`")
        stages[name] = document
    return stages


def _translate_stage(
    name: str | None,
    stages: Mapping[str | None, Document],
    done: dict[str | None, _Stage],
    chain: tuple[str | None, ...],
) -> None:
    """Put the recipe of a document into `done`, after those of the documents it names."""
    document, chain = stages[name], (*chain, name)
    _check_method(document)
    base = [reference(document, ("base_model",))] if "base_model" in document.data else []
    for model in [*_list_models(document), *base]:
        stage = re.split("[@+]", model)[0]
        if stage not in stages:
            continue
        if stage != model:
            document.fail((), f"{model}: a revision or an adapter of {stage}, which is a document of this file")
        if stage in chain:
            names = " → ".join(str(one) for one in (*chain[chain.index(stage) :], stage))
            document.fail(("name",), f"the merge is made of itself: {names}")
        if stage not in done:
            _translate_stage(stage, stages, done, chain)
    content, lines = _translate(document), Lines()
    for token in lookup(document, ("tokenizer", "tokens")) or ():
        lines["tokens", str(token)] = document.line(("tokenizer", "tokens", token))
    for number, rule in enumerate(content["rules"]):
        word = re.sub(r"\[(.)\]", r"\1", str(rule.get("name") or "")).strip("*")
        if word and (line := line_of_filter(document, word)):
            lines["rules", number] = line
    models = {
        source: place.get("model") for source, place in content["sources"].items()
    }  # none: refused with the recipe
    below = {source: done[model] for source, model in models.items() if model in done}
    num_stages = 1 + sum(stage.num_stages for stage in below.values())
    if num_stages > MOST_STAGES:
        document.fail((), f"{num_stages} merges in one chain; there can be {MOST_STAGES}")
    for source, stage in below.items():
        content["sources"][source] = stage.content
        lines |= {("sources", source, *path): line for path, line in stage.lines.items()}
    done[name] = _Stage(content, lines, num_stages)


def _check_method(document: Document) -> None:
    """Refuse a method that is not known, and a document that says twice, or not at all, what it merges."""
    method = str(document.data.get("merge_method"))
    if method not in METHODS:
        document.fail(
            ("merge_method",), f"merge method {method!r} is not supported", f"supported: {', '.join(METHODS)}"
        )
    if ("models" in document.data) == ("slices" in document.data):
        document.fail((), "give either `models` or `slices`")


def _translate(document: Document) -> dict[str, Any]:
    """One document; the stages that it names stand in it as if they were models."""
    data, method = document.data, str(document.data["merge_method"])
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
    """`template_from`, the base model's unless the file says otherwise, how rows are matched by its tokens, and other rows."""
    rows = _rows_of_tokens(document, names) if document.data.get("tokenizer") is not None else {}
    return _tokenizer_source(document, names, base) | rows


def _rows_of_tokens(document: Document, names: Mapping[str, str]) -> dict[str, Any]:
    """`tokens` and `pad_to_multiple_of` of the `tokenizer` section."""
    path: Path = ("tokenizer",)
    said = document.known(path, document.data["tokenizer"], {"source", "tokens", "pad_to_multiple_of"})
    tokens = said.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        document.fail((*path, "tokens"), f"tokens: expected a mapping from tokens, found {tokens!r}")
    found: dict[str, Any] = {str(token): _row(document, (*path, "tokens", token), names) for token in tokens}
    multiple = said.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or multiple < 1):
        document.fail(
            (*path, "pad_to_multiple_of"), f"pad_to_multiple_of: expected a whole number from 1 on, found {multiple!r}"
        )
    return ({"tokens": found} if found else {}) | ({"pad_to_multiple_of": multiple} if multiple else {})


def _row(document: Document, path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Where the row of a token comes from."""
    said = document.known(path, lookup(document, path), {"source", "force"})
    force, source = said.get("force", False), said.get("source")
    if not isinstance(force, bool):
        document.fail((*path, "force"), f"force: expected true or false, found {force!r}")
    if source is None:
        document.fail(path, f"no source for the row of {path[-1]!r}", "name a model, or {kind: zero}")
    there: dict[str, Any] = {"force": True} if force else {}
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if kind == "zero":
        document.known((*path, "source"), source, {"kind"})
        return {"zero": True} | there
    if kind is not None:
        document.known((*path, "source"), source, {"kind", "model", "token", "token_id"})
        if kind != "model_token" or "model" not in source or ("token" in source) == ("token_id" in source):
            document.fail(
                (*path, "source"), "expected zero, or model_token with a model and either a token or a token_id"
            )
        there |= {"token": source["token"]} if "token" in source else {"row": source["token_id"]}
    model = reference(document, (*path, "source", *(["model"] if kind else [])))
    if model not in names:
        document.fail((*path, "source"), f"{model} is none of the models", f"there are {', '.join(names)}")
    return {"source": names[model]} | there


def _tokenizer_source(document: Document, names: Mapping[str, str], base: str | None) -> dict[str, Any]:
    """`template_from`, and whether rows are matched by its tokens."""
    default = names[base] if base else next(iter(names.values()))
    path: Path = ("tokenizer_source",)
    if document.data.get("tokenizer") is not None:
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
