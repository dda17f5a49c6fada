"""Chat templates and think markers: render a prompt, and read a response apart into thinking and answer.

Everything is text. Markers are found per family in the tokenizer's added tokens and in the template, never by token
id. What a response did with its markers (closed, pseudo-closed, never closed, looping …) is its trace.
Rendering equals transformers' `apply_chat_template`, without transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from interpole.errors import TaskError
from interpole.records import Outcome

__all__ = [
    "Markers",
    "Trace",
    "added_tokens",
    "find_markers",
    "opens_thinking",
    "render",
    "special_variables",
    "trace",
]


@dataclass(frozen=True, slots=True)
class Markers:
    """The strings that open and close a think block, e.g. `<think>` and `</think>`."""

    open: str
    close: str

    def __post_init__(self) -> None:
        """Refuse markers that cannot be told apart."""
        if not self.open or not self.close or self.open == self.close:
            raise TaskError(
                f"think markers must be two different, non-empty strings; got {self.open!r} and {self.close!r}",
                remedy="give both, e.g. <think> and </think>",
            )


@dataclass(frozen=True, slots=True)
class Trace:
    """One response read apart.

    `response` is the whole text without end-of-turn tokens at its end. `thinking` is None where no thinking was
    begun. `answer` is what follows the closing marker (or the token that stood in its place), the whole response
    where no thinking was begun, and empty where a thought never ended. `pseudo_close` is the special token that
    closed the thought in the marker's place (the paper's Table 6: `<tool_call>`).
    """

    response: str
    thinking: str | None
    answer: str
    outcome: Outcome
    closed: bool
    pseudo_close: str | None = None


# ── templates ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's tokens for training; here it is transparent."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the enclosed nodes as they are."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    """Let a template refuse its messages (`raise_exception`)."""
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """JSON as transformers writes it in templates: no HTML escapes (jinja2's own filter has them)."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def render(
    template: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
) -> str:
    """Render messages as a prompt, as transformers' `apply_chat_template(tokenize=False)` does.

    Args:
        template: the model's jinja2 chat template.
        messages: `{"role": …, "content": …}` in order.
        add_generation_prompt: end with the header that opens the assistant's turn.
        **variables: further template variables: the special tokens (`special_variables`), `enable_thinking` …

    Raises:
        TaskError: the template is not valid, or refuses these messages.
    """
    values: dict[str, Any] = {"tools": None, "documents": None, **variables}
    try:
        return _compiled(template).render(
            messages=list(messages), add_generation_prompt=add_generation_prompt, **values
        )
    except jinja2.TemplateError as error:
        raise TaskError(
            f"the chat template does not render {len(messages)} message(s) with roles "
            f"{[message.get('role') for message in messages]}: {error}",
            remedy="give messages in the form this model expects, or another template",
        ) from error


def opens_thinking(template: str, markers: Markers | None = None, **variables: Any) -> bool:
    """Whether the generation prompt ends inside a think block, so that responses hold a closing marker only.

    Args:
        template: the model's chat template.
        markers: the family's markers; None finds them in the template (none there: it opens nothing).
        **variables: template variables, e.g. `enable_thinking=False`.
    """
    markers = markers or _only(_pairs(_tags(template)))
    if markers is None:
        return False
    question = [{"role": "user", "content": "?"}]
    bare = render(template, question, add_generation_prompt=False, **variables)
    full = render(template, question, **variables)
    header = full.removeprefix(bare)
    return header.rfind(markers.open) > header.rfind(markers.close)


# ── markers and special tokens ───────────────────────────────────────────────────────────────────────────────────

_THINKS = re.compile(r"think|thought|reason", re.IGNORECASE)
_TAG = re.compile(r"<\|[^\s<>|'\"]{2,40}\|>|<[^\s<>'\"]{2,40}>|\[[^\s\[\]'\"]{2,40}\]|◁[^\s◁▷]{2,40}▷")
_OPENERS = (("/", ""), ("end", "begin"), ("end", "start"), ("END", "BEGIN"), ("END", "START"))
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def find_markers(assets: Mapping[str, Path], template: str | None) -> Markers:
    """Find a family's think markers in its tokenizer's added tokens and its chat template.

    A pair is a closing tag and the opening tag of the same shape (`</think>`/`<think>`, `[/THINK]`/`[THINK]`,
    `<|END_THINKING|>`/`<|START_THINKING|>`). Pairs that tokenizer and template agree on come first, then the
    template's, then the tokenizer's; last, an opening tag that stands alone in the template is closed in its shape.

    Args:
        assets: the checkpoint's files by name (`tokenizer.json`, `tokenizer_config.json`, `tekken.json`).
        template: its chat template, if it has one.

    Raises:
        TaskError: no pair, or several with nothing to choose by; the message lists what was seen.
    """
    tokens = added_tokens(assets)
    known = _pairs(token for token in tokens if _THINKS.search(token))
    named = _pairs(_tags(template or ""))
    lone = [Markers(tag, f"{tag[0]}/{tag[1:]}") for tag in _tags(template or "") if "/" not in tag and "|" not in tag]
    for pairs in ([pair for pair in known if pair in named], named, known, lone):
        if len(pairs) == 1:
            return pairs[0]
        if pairs:
            break
    seen = [f"{pair.open} {pair.close}" for pair in (*known, *named)]
    raise TaskError(
        f"{'several' if seen else 'no'} think markers in tokenizer and chat template",
        where=", ".join(dict.fromkeys(seen)) or f"added tokens: {', '.join(tokens[:40]) or 'none'}",
        remedy='name the pair, e.g. Markers("<think>", "</think>")',
    )


def added_tokens(assets: Mapping[str, Path]) -> tuple[str, ...]:
    """List the tokenizer's added (special and control) tokens: those that a pseudo-close can be made of."""
    found: list[str] = []
    if "tokenizer.json" in assets:
        found += [entry["content"] for entry in _json(assets["tokenizer.json"]).get("added_tokens", ())]
    if "tokenizer_config.json" in assets:
        entries = _json(assets["tokenizer_config.json"]).get("added_tokens_decoder", {})
        found += [entry["content"] for entry in entries.values()]
    if "tekken.json" in assets:
        found += [entry["token_str"] for entry in _json(assets["tekken.json"]).get("special_tokens") or ()]
    return tuple(dict.fromkeys(found))


def special_variables(assets: Mapping[str, Path]) -> dict[str, str]:
    """Give the special tokens that templates may name (`bos_token`, `eos_token` …), as transformers passes them."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if name in assets:
            config |= _json(assets[name])
    tokens = {name: config.get(name) for name in _SPECIAL_NAMES}
    return {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in tokens.items()
        if token is not None
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(f"cannot read tokenizer file: {error}", where=path, remedy="fetch the file again") from error
    return loaded


def _tags(template: str) -> list[str]:
    return [tag for tag in dict.fromkeys(_TAG.findall(template)) if _THINKS.search(tag)]


def _pairs(tokens: Iterable[str]) -> list[Markers]:
    """Pair each closing token with the opening token of the same shape."""
    known = list(tokens)
    found = [
        Markers(opener, close)
        for close in known
        for old, new in _OPENERS
        if old in close and (opener := close.replace(old, new, 1)) in known
    ]
    return list(dict.fromkeys(found))


def _only(pairs: list[Markers]) -> Markers | None:
    return pairs[0] if len(pairs) == 1 else None


# ── responses ────────────────────────────────────────────────────────────────────────────────────────────────────

_CYCLES, _LOOP_CHARS, _LOOP_WINDOW, _LOOP_TRIES = 5, 100, 50_000, 200


def trace(
    response: str, finish: str, markers: Markers, *, opened: bool = False, specials: Collection[str] = ()
) -> Trace:
    """Read a response apart and say what became of it (outcomes are tested in the order of `Outcome`).

    The answer begins after the *last* closing marker. A thought that has none, but in which another special token
    is followed by text, is pseudo-closed at the first such token.

    Args:
        response: generated text with its special tokens.
        finish: "stop", "length" (the cap was reached) or "error" (the engine failed).
        markers: the family's think markers.
        opened: the prompt ended inside a think block (`opens_thinking`).
        specials: the tokenizer's added tokens (`added_tokens`), for end-of-turn tokens and pseudo-closing.
    """
    others = tuple(token for token in specials if token not in (markers.open, markers.close))
    text = _without_end(response, others)
    body, closed, answer = _split_last(text, markers.close)
    thinking: str | None = _after_opening(body, markers.open, opened)
    pseudo_close = None
    if not closed and not opened and markers.open not in body:
        thinking, answer = None, text
    elif not closed and (break_ := _broken_off(body, others)):
        thinking = _after_opening(body[: break_.start()], markers.open, opened)
        pseudo_close, answer = break_.group(), body[break_.end() :].strip()
    outcome = _outcome(text, finish, closed, thinking is not None, pseudo_close is not None)
    return Trace(text, thinking, answer, outcome, closed, pseudo_close)


def _outcome(text: str, finish: str, closed: bool, thought: bool, pseudo: bool) -> Outcome:
    if finish == "error":
        return Outcome.FAILED
    if not text.strip():
        return Outcome.EMPTY
    if _loops(text):
        return Outcome.LOOPING
    if finish == "length":
        return Outcome.TRUNCATED
    if closed:
        return Outcome.CLOSED
    if pseudo:
        return Outcome.PSEUDO_CLOSED
    return Outcome.UNCLOSED if thought else Outcome.DIRECT


def _split_last(text: str, close: str) -> tuple[str, bool, str]:
    body, found, answer = text.rpartition(close)
    return (body, True, answer.strip()) if found else (text, False, "")


def _after_opening(body: str, opening: str, opened: bool) -> str:
    """Text after the opening marker; where the prompt opened the block, only a repeated marker is dropped."""
    head, found, tail = body.partition(opening)
    return tail if found and not (opened and head.strip()) else body


@lru_cache(maxsize=8)
def _any_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _without_end(text: str, specials: tuple[str, ...]) -> str:
    """Drop one end-of-turn token from the end, where one stands; other white space is kept."""
    at_end = re.compile(rf"(?:{_any_of(specials).pattern})\s*\Z")
    match = at_end.search(text, max(0, len(text) - 200))
    return text[: match.start()] if match else text


def _broken_off(body: str, specials: tuple[str, ...]) -> re.Match[str] | None:
    """Find the first special token that has text after it."""
    match = _any_of(specials).search(body)
    return match if match and body[match.end() :].strip() else None


def _loops(text: str) -> bool:
    """Whether one exact cycle fills the end: at least five times over and at least 100 characters.

    A cycle of length p shows as text[-n:] == text[-n-p:-p]; candidates for p are the distances at which the last
    32 characters occurred before. Cycles longer than a fifth of the last 50,000 characters are not seen, nor loops
    that change a little on each turn.
    """
    tail = text[-_LOOP_WINDOW:]
    probe, at = tail[-32:], len(tail)
    for _ in range(_LOOP_TRIES):
        at = tail.rfind(probe, 0, at - 1)
        period = len(tail) - len(probe) - at
        span = max(_CYCLES * period, _LOOP_CHARS)
        if at < 0 or span > len(tail):
            return False
        if tail[-span:-period] == tail[period - span :]:
            return True
        at += len(probe)
    return False
