"""Checks of tokenizers, templates and generation configs: what each id means, what ends a turn, what opens a thought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from interpole.chat import Markers, find_markers, opens_thinking, special_variables
from interpole.checkpoints.architectures import language_config
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.views.vocabulary import same_tokenizer, vocabulary
from interpole.diagnostics.doctor.findings import Check, Finding, Side, differences
from interpole.errors import TaskError

__all__ = ["CHECKS", "VOCABULARY_CHECKS", "check_ends", "markers_of", "vocabulary"]

SAMPLING = (
    "do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "max_new_tokens",
)  # fmt: skip
DIFFERENT = 0.01
"""Share of reused ids from which on two tokenizers are simply different ones."""


def _check_vocabulary(a: Side, b: Side) -> Iterator[Finding]:
    """Does every id mean the same token on both sides?"""
    if same_tokenizer(a.checkpoint, b.checkpoint):
        return
    known = [vocabulary(side.checkpoint) for side in (a, b)]
    if None in known:
        yield Finding(
            "vocabulary",
            "warn",
            f"{(a, b)[known.index(None)].name} has no tokenizer.json or tekken.json: the vocabularies cannot be compared",
            "rows of the embeddings are averaged by id, whatever token the id stands for",
            "fetch the tokenizer files with the weights, or convert the tokenizer with transformers' save_pretrained",
        )
        return
    mine, theirs = ({i: token for token, i in (tokens or {}).items()} for tokens in known)
    if reused := sorted(i for i in mine.keys() & theirs.keys() if mine[i] != theirs[i]):
        yield _reused_finding(a, b, reused, mine, theirs)
    yield from _extra_findings(a, mine, theirs)
    yield from _extra_findings(b, theirs, mine)


def _extra_findings(side: Side, mine: Mapping[int, str], theirs: Mapping[int, str]) -> Iterator[Finding]:
    if extra := sorted(mine.keys() - theirs.keys()):
        yield Finding(
            "vocabulary",
            "warn",
            f"{len(extra)} tokens are only in {side.name}: {_list_tokens(extra, mine)}",
            f"with {side.name}'s tokenizer their rows are {side.name}'s alone, with the other's they are left out",
            f"if they matter (think markers do), keep {side.name}'s tokenizer: --template-from {side.source}",
        )


def _reused_finding(a: Side, b: Side, reused: list[int], mine: Mapping[int, str], theirs: Mapping[int, str]) -> Finding:
    seen = ", ".join(f"{i} is {mine[i]!r} in {a.name} and {theirs[i]!r} in {b.name}" for i in reused[:4])
    share = len(reused) / max(1, min(len(mine), len(theirs)))
    whole = share > DIFFERENT
    return Finding(
        "vocabulary",
        "stop" if whole else "warn",
        f"{len(reused)} ids ({share:.1%}) mean different tokens: id {seen}{' …' if len(reused) > 4 else ''}",
        "by number, the rows of such an id are averaged though they stand for different things",
        "these are different tokenizers: take two checkpoints with one vocabulary"
        if whole
        else "match rows by token with --vocabulary align, and keep the tokenizer of the side whose tokens you need; or by "
        "number with --vocabulary ids",
    )


def _list_tokens(ids: list[int], tokens: Mapping[int, str]) -> str:
    return ", ".join(f"{tokens[i]!r} ({i})" for i in ids[:6]) + (" …" if len(ids) > 6 else "")


def _check_rows(a: Side, b: Side) -> Iterator[Finding]:
    """Every id has a row in the embeddings."""
    for side in (a, b):
        tokens, rows = vocabulary(side.checkpoint), language_config(side.checkpoint.config).get("vocab_size")
        if tokens and rows and max(tokens.values()) >= rows:
            token = max(tokens, key=lambda t: tokens[t])
            yield Finding(
                "rows",
                "stop",
                f"{side.name} has {rows} embedding rows, but its token {token!r} has id {tokens[token]}",
                "a prompt with that token cannot be embedded",
                "this tokenizer belongs to another model: fetch model and tokenizer from one place",
            )


def markers_of(side: Side) -> Markers | None:
    """The markers that a side's tokenizer and template have; None where there is no pair, or more than one."""
    try:
        return find_markers(side.checkpoint.assets, side.checkpoint.chat_template)
    except TaskError:
        return None


def _check_markers(a: Side, b: Side) -> Iterator[Finding]:
    """Which markers open and close a thought, and what their ids mean on both sides."""
    markers = markers_of(b)
    if markers is None:
        yield Finding(
            "markers",
            "warn",
            f"no pair of think markers is found in the tokenizer and template of {b.name}",
            "Think #R counts closing markers, and answers are read after them",
            f"check that {b.name} is the Thinking side and that its tokenizer files are complete",
        )
        return
    if (other := markers_of(a)) and other != markers:
        yield Finding(
            "markers",
            "warn",
            f"different think markers: {other.open} {other.close} in {a.name}, {markers.open} {markers.close} in {b.name}",
            "a model between the two may write either",
            f"count the markers of {b.name}, whose template goes with the result, and look at some responses",
        )
    known = [vocabulary(side.checkpoint) or {} for side in (a, b)]
    for marker in (markers.open, markers.close):
        yield from _marker_finding(marker, a, b, known)


def _marker_finding(marker: str, a: Side, b: Side, known: list[Mapping[str, int]]) -> Iterator[Finding]:
    mine, theirs = (tokens.get(marker) for tokens in known)
    if theirs is None:
        what = f"{marker} is no single token in {b.name}, but text of several"
        yield Finding("markers", "note", what, "it is found in the text all the same", "nothing")
    elif mine == theirs:
        what = f"{marker} is token {theirs} on both sides"
        yield Finding("markers", "note", what, "its row can be averaged like any other", "nothing")
    else:
        meaning = next((repr(token) for token, i in known[0].items() if i == theirs), "no token")
        yield Finding(
            "markers",
            "warn",
            f"{marker} is token {theirs} in {b.name}; in {a.name} that id is {meaning}, and {marker} is "
            f"{'no token' if mine is None else f'token {mine}'}",
            "the averaged row is no longer that of the marker, so the model may think and never close",
            f"keep {b.name}'s tokenizer, and give the marker's rows to {b.name}",
        )


def check_ends(a: Side, b: Side) -> Iterator[Finding]:
    """The tokens that end a turn."""
    ends = [_ends(side.checkpoint) for side in (a, b)]
    for side, ids in zip((a, b), ends, strict=True):
        if not ids:
            yield Finding(
                "eos",
                "warn",
                f"{side.name} names no eos_token_id in generation_config.json or config.json",
                "a model that never ends its turn runs to the token cap",
                "add the id of its end-of-turn token to generation_config.json",
            )
    if all(ends) and ends[0] != ends[1]:
        yield Finding(
            "eos",
            "warn",
            f"different ends of turn: {sorted(ends[0])} in {a.name}, {sorted(ends[1])} in {b.name}",
            "the result carries one list; a model near the other side may end with a token that does not stop it",
            f"put all of {sorted(ends[0] | ends[1])} into eos_token_id of the result's generation_config.json",
        )


def _ends(checkpoint: Checkpoint) -> frozenset[int]:
    said = checkpoint.generation_config.get("eos_token_id", language_config(checkpoint.config).get("eos_token_id"))
    return frozenset(said if isinstance(said, list) else () if said is None else (said,))


def _check_templates(a: Side, b: Side) -> Iterator[Finding]:
    """Chat templates, and whether the prompt itself opens a thought."""
    templates = a.checkpoint.chat_template, b.checkpoint.chat_template
    for side, template in zip((a, b), templates, strict=True):
        if template is None:
            yield Finding(
                "template",
                "warn",
                f"{side.name} has no chat template",
                "prompts cannot be rendered as the model was trained on them",
                "choose the side that has one with `template_from`, or add chat_template.jinja",
            )
    if None in templates:
        return
    try:
        opens = [_opens(side, markers_of(b)) for side in (a, b)]
    except TaskError as error:
        yield Finding("template", "warn", error.what, "the prompt cannot be read", error.remedy)
        return
    yield from _template_findings(a, b, opens, templates[0] == templates[1])


def _opens(side: Side, markers: Markers | None) -> bool:
    template, variables = side.checkpoint.chat_template or "", special_variables(side.checkpoint.assets)
    return opens_thinking(template, markers, **variables)


def _template_findings(a: Side, b: Side, opens: list[bool], same: bool) -> Iterator[Finding]:
    if opens[0] and not opens[1]:
        yield Finding(
            "template",
            "warn",
            f"the generation prompt of {a.name} opens a think block and that of {b.name} does not",
            "that is how a Thinking model's template looks: the sides may be swapped",
            "check the order: first Instruct, then Thinking",
        )
    elif opens[1]:
        yield Finding(
            "template",
            "note",
            f"the generation prompt of {b.name} {'and of ' + a.name + ' ' if opens[0] else ''}opens a think block",
            "responses hold the closing marker only, and where λ begins to think depends on this prompt (without it, the "
            "transition of Qwen3-4B-2507 lies near 0.6–0.7 instead of 0.5)",
            f"compare points under one template only; to start outside of a thought, take {a.name}'s (`template_from`)",
        )
    elif not same:
        yield Finding(
            "template",
            "note",
            "the chat templates differ",
            "the result carries one, that of the template source (by default Thinking)",
            "choose with `template_from` in the recipe",
        )


def _check_sampling(a: Side, b: Side) -> Iterator[Finding]:
    """Recommended sampler settings."""
    values = a.checkpoint.generation_config, b.checkpoint.generation_config
    if seen := differences(a, b, _sampling(*values)):
        yield Finding(
            "sampling",
            "note",
            f"different sampler settings: {seen}",
            "the result carries one generation_config.json, that of the template source (by default Thinking)",
            "sweep all points with one sampler, and record it",
        )


def _sampling(*configs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = ({key: config[key] for key in SAMPLING if key in config} for config in configs)
    return first, second


VOCABULARY_CHECKS: tuple[Check, ...] = (_check_vocabulary, _check_rows)
CHECKS: tuple[Check, ...] = (*VOCABULARY_CHECKS, _check_markers, check_ends, _check_templates, _check_sampling)
