"""How a family is asked, and how its response is read apart: `ThinkFormat`, with `render` and `parse`.

Everything is text. Markers are found per family in the tokenizer's added tokens and in the template, never by token id.
Nobody else splits a response: where thinking ends and the answer begins is said here, in spans. Rendering equals
transformers' `apply_chat_template`, without transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from interpole.errors import TaskError
from interpole.files import read_json
from interpole.guarded import Guarded, serve
from interpole.records import Outcome

__all__ = [
    "Markers",
    "ParsedResponse",
    "Span",
    "ThinkFormat",
    "added_tokens",
    "find_markers",
    "opens_thinking",
    "parse_response",
    "render",
    "special_variables",
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

    def rejoin(self, thinking: str, text: str) -> str:
        """The whole response, where somebody has split the thinking off; without any text after it, it was never closed."""
        if not thinking or self.close in text:
            return text
        return f"{self.open}{thinking}" + (f"{self.close}{text}" if text.strip() else "")


class Span(NamedTuple):
    """A stretch of a response: `response[start:end]`."""

    kind: Literal["thinking", "marker", "answer"]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """One response read apart.

    `response` is the whole text without end-of-turn tokens at its end. `thinking` is None where no thinking was
    begun. `answer` is what follows the closing marker (or what stood in its place), the whole response
    where no thinking was begun, and empty where a thought never ended. `pseudo_close` is what closed the thought in the
    marker's place: another special token (the paper's Table 6: `<tool_call>`), or the marker misspelt (`near_close`).
    `after_last_marker` is what the paper reads: what follows the last closing marker, quoted or not, else the whole response.
    `spans` cover the response as it was given, end-of-turn tokens included.
    """

    response: str
    thinking: str | None
    answer: str
    outcome: Outcome
    closed: bool
    pseudo_close: str | None = None
    near_close: bool = False
    after_last_marker: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class ThinkFormat:
    """How a family is asked, and how its responses are read.

    Attributes:
        markers: around a thought.
        template: the chat template.
        variables: what the template may name besides the messages: special tokens, `enable_thinking` …
        prompt_opens_thinking: prompts end inside a think block, so that responses hold a closing marker only.
        special_tokens: the tokenizer's added tokens; they end a turn, or stand in a marker's place.
        prefix: text after every rendered prompt.
    """

    markers: Markers
    template: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    prompt_opens_thinking: bool = False
    special_tokens: tuple[str, ...] = ()
    prefix: str = ""

    @classmethod
    def of(
        cls,
        assets: Mapping[str, Path],
        template: str,
        *,
        markers: tuple[str, str] | None = None,
        prefix: str = "",
        variables: Mapping[str, Any] | None = None,
    ) -> ThinkFormat:
        """The format of a checkpoint.

        Args:
            assets: its files by name.
            template: its chat template.
            markers: the think markers; None finds them.
            prefix: what will be put after its prompts.
            variables: set for the template, e.g. `{"enable_thinking": False}`.

        Raises:
            TaskError: no markers are found, the template does not render, or a tokenizer file makes no sense.
        """
        found = Markers(*markers) if markers else find_markers(assets, template)
        known = {**special_variables(assets), **(variables or {})}
        form = cls(found, template, known, special_tokens=added_tokens(assets), prefix=prefix)
        opens, closes = (prefix.rfind(marker) for marker in (found.open, found.close))
        opened = opens > closes or (closes < 0 and opens_thinking(template, found, **form.variables))
        return replace(form, prompt_opens_thinking=opened)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt for chat messages, prefix included.

        Raises:
            TaskError: the template is not valid, refuses these messages, or leaves the question out.
        """
        return _asked(self.template, messages, self.variables) + self.prefix

    def parse(self, response: str, finish: str) -> ParsedResponse:
        """A response to such a prompt read apart; `finish`: "stop", "length" (the cap was reached) or "error"."""
        return parse_response(
            response,
            finish,
            self.markers,
            prompt_opens_thinking=self.prompt_opens_thinking,
            special_tokens=self.special_tokens,
        )

    def is_thinking(self, text: str) -> bool:
        """Whether a response that is cut off after `text` is inside a thought."""
        return self.markers.close not in text and (self.prompt_opens_thinking or self.markers.open in text)


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

    A template is a stranger's program: it runs in a process of its own, with limits of time and memory.

    Args:
        template: the model's jinja2 chat template.
        messages: `{"role": …, "content": …}` in order.
        add_generation_prompt: end with the header that opens the assistant's turn.
        **variables: further template variables: the special tokens (`special_variables`), `enable_thinking` …

    Raises:
        TaskError: the template is not valid, refuses these messages, or takes too long or too much memory.
    """
    values = {"tools": None, "documents": None, **variables, "add_generation_prompt": add_generation_prompt}
    try:
        question = json.dumps({"template": template, "values": {**values, "messages": list(messages)}})
    except (TypeError, ValueError) as error:
        raise TaskError(
            f"a template variable is no JSON: {error}", remedy="give text, numbers, lists or maps"
        ) from None
    found = _rendered(question)
    if "text" in found:
        return str(found["text"])
    raise _NotRenderedError(
        f"the chat template does not render {len(messages)} message(s) with roles "
        f"{[message.get('role') for message in messages]}: {found['problem']}",
        remedy="give messages in the form this model expects, or another template",
    )


class _NotRenderedError(TaskError):
    """A template refuses its messages, or fails on them; in another form they may do."""


_LIMIT_SECONDS = 3.0
_MEMORY_BYTES, _MAX_CHARS = 2**29, 10_000_000
_WORKER = Guarded("interpole.chat", _LIMIT_SECONDS)


@lru_cache(maxsize=1024)
def _rendered(question: str) -> dict[str, Any]:
    """What the worker makes of a template and its values; remembered, for a question is asked k times.

    Raises:
        TaskError: it takes too long, or its process died.
    """
    found = _WORKER.ask(**json.loads(question))
    if not found:
        what = f"the chat template takes more than {_LIMIT_SECONDS:g} seconds or {_MEMORY_BYTES / 2**20:,.0f} MiB"
        raise TaskError(what, remedy="give another template (template_from, chat_template.jinja)")
    return found


def _render_here(question: dict[str, Any]) -> dict[str, Any]:
    """Render a template in this process, the worker; whatever it raises is its author's or the messages' fault."""
    try:
        text = _compiled(question["template"]).render(**question["values"])
    except MemoryError:
        return {"problem": "it takes too much memory"}
    except Exception as error:
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        return {"problem": f"{kind}{str(error)[:1000]}"}
    if len(text) > _MAX_CHARS:
        return {"problem": f"it makes a prompt of {len(text):,} characters"}
    return {"text": text}


def _asked(
    template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], *, generation: bool = True
) -> str:
    """A prompt that holds the last question: rendered as text, else, for templates that take it so, as a list of parts.

    Raises:
        TaskError: the template does not render, or leaves the question out.
    """
    questions = [str(message.get("content") or "") for message in messages if message.get("role") == "user"]
    question = questions[-1] if questions else ""
    in_parts = [{**one, "content": [{"type": "text", "text": str(one.get("content") or "")}]} for one in messages]
    problem: TaskError = TaskError(
        "the chat template leaves the question out of the prompt",
        where=f"question {question[:80]!r}",
        remedy="give another template (template_from), one that writes message.content",
    )
    try:
        prompt = render(template, messages, add_generation_prompt=generation, **variables)
        if _holds(prompt, question):
            return prompt
    except _NotRenderedError as error:
        problem = error
    try:
        prompt = render(template, in_parts, add_generation_prompt=generation, **variables)
    except _NotRenderedError:
        raise problem from None
    if not _holds(prompt, question) or "{'type': 'text'" in prompt:  # the parts, written as Python would
        raise problem
    return prompt


def _holds(prompt: str, question: str) -> bool:
    """Whether a prompt has the question's text in it, white space aside; as JSON writes it will do."""
    if question.strip() in prompt:
        return True
    squeezed = "".join(prompt.split())
    return any("".join(text.split()) in squeezed for text in (question, json.dumps(question, ensure_ascii=False)[1:-1]))


_PROBE = "How much is 7 + 35?"


def opens_thinking(template: str, markers: Markers | None = None, **variables: Any) -> bool:
    """Whether the generation prompt ends inside a think block, so that responses hold a closing marker only.

    Args:
        template: the model's chat template.
        markers: the family's markers; None finds them in the template (none there: it opens nothing).
        **variables: template variables, e.g. `enable_thinking=False`.

    Raises:
        TaskError: the template does not render, or leaves the question out.
    """
    markers = markers or _only(_pairs(_tags(template)))
    question = [{"role": "user", "content": _PROBE}]
    bare, full = (_asked(template, question, variables, generation=generation) for generation in (False, True))
    header = full.removeprefix(bare)
    return markers is not None and header.rfind(markers.open) > header.rfind(markers.close)


# ── markers and special tokens ───────────────────────────────────────────────────────────────────────────────────

_THINKS = re.compile(r"think|thought|reason", re.IGNORECASE)
_TAG = re.compile(r"<\|[^\s<>|'\"]{2,40}\|>|<[^\s<>'\"]{2,40}>|\[[^\s\[\]'\"]{2,40}\]|◁[^\s◁▷]{2,40}▷")
_OPENERS = (("/", ""), ("end", "begin"), ("end", "start"), ("END", "BEGIN"), ("END", "START"))
_FETCH = "fetch the file again"
_TOKEN_LISTS = {  # file → where it lists its tokens, and in which field of an entry
    "tokenizer.json": ("added_tokens", "content"),
    "tokenizer_config.json": ("added_tokens_decoder", "content"),
    "tekken.json": ("special_tokens", "token_str"),
}
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
    """List the tokenizer's added (special and control) tokens: those that a pseudo-close can be made of.

    Raises:
        TaskError: a tokenizer file cannot be read, or an entry of it makes no sense.
    """
    found: list[str] = []
    for name, (key, field_name) in _TOKEN_LISTS.items():
        if name in assets:
            entries = _json(assets[name]).get(key) or []
            listed = entries.values() if isinstance(entries, dict) else entries
            found += _texts(listed, field_name, assets[name], key)
    return tuple(dict.fromkeys(found))


def special_variables(assets: Mapping[str, Path]) -> dict[str, str]:
    """Give the special tokens that templates may name (`bos_token`, `eos_token` …), as transformers passes them.

    Raises:
        TaskError: a tokenizer file cannot be read, or a token in it is no text.
    """
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        config = _json(assets[file]) if file in assets else {}
        for name in _SPECIAL_NAMES:
            if config.get(name) is not None:
                (found[name],) = _texts([config[name]], "content", assets[file], name)
    return found


def _texts(entries: Any, field_name: str, path: Path, key: str) -> list[str]:
    """The tokens of a list in a tokenizer file, each a text or an object that has it in a field."""
    if not isinstance(entries, list | type({}.values())):
        raise TaskError(f"{key}: expected a list of tokens, found {type(entries).__name__}", path, _FETCH)
    texts: list[str] = []
    for number, entry in enumerate(entries):
        text = entry.get(field_name) if isinstance(entry, dict) else entry
        if not isinstance(text, str):
            raise TaskError(f"{key}: entry {number} is no token: {str(entry)[:60]}", path, _FETCH)
        texts.append(text)
    return texts


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, TaskError, _FETCH)


def _tags(template: str) -> list[str]:
    return [tag for tag in dict.fromkeys(_TAG.findall(template)) if _THINKS.search(tag)]


def _pairs(tokens: Iterable[str]) -> list[Markers]:
    """Pair each closing token with the opening token of the same shape."""
    known = dict.fromkeys(tokens)
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
_QUOTE_CHARS = 200  # how far on its line a quotation around a marker is looked for
_FENCE = re.compile(r"^[ \t]{0,3}(?:```|~~~)", re.MULTILINE)
_FENCE_HERE = re.compile(r"[ \t]{0,3}(?:```|~~~)")
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "‹": "›", "„": "“", "「": "」", "『": "』"}
_END_TOKENS = 4  # at most so many tokens are taken from the end of a turn


class _Mark(NamedTuple):
    """A marker, or what stands in its place."""

    opens: bool
    start: int
    end: int


def parse_response(
    response: str,
    finish: str,
    markers: Markers,
    *,
    prompt_opens_thinking: bool = False,
    special_tokens: Collection[str] = (),
) -> ParsedResponse:
    """Read a response apart and say what became of it (outcomes are tested in the order of `Outcome`).

    The answer follows the last closing marker that has text after it. Markers that are quoted, or stand in an answer's
    code, are text. A thought without a closing marker is closed by one that is misspelt (`</thinking>`), else by the
    first other special token that has text after it.

    Args:
        response: generated text with its special tokens.
        finish: "stop", "length" (the cap was reached) or "error" (the engine failed).
        markers: the family's think markers.
        prompt_opens_thinking: the prompt ended inside a think block.
        special_tokens: the tokenizer's added tokens (`added_tokens`), for end-of-turn tokens and pseudo-closing.
    """
    tokens = _Tokens.of(tuple(token for token in special_tokens if token not in (markers.open, markers.close)))
    text = tokens.without_end(response)
    opened = prompt_opens_thinking
    marks = _marks(text, markers.open, re.escape(markers.close), opened)
    closed = not all(mark.opens for mark in marks)
    near = False
    if not closed:
        near_marks = _marks(text, markers.open, _near(markers.close), opened)
        near = not all(mark.opens for mark in near_marks)
        marks = near_marks if near else marks
    if not closed and not near and (opened or marks):
        marks += tokens.breaks_off(text, marks[0].end if marks and not opened else 0)
    last = _closing(text, marks)
    thought = opened or bool(marks)
    begins = _begins(text, marks, opened)
    thinking, answer = (None, text) if not thought else (text[begins:], "")
    pseudo_close, reopened = None, False
    if last is not None:
        mark, rest = marks[last], marks[last + 1 :]
        thinking, answer = text[begins : mark.start], text[mark.end : rest[0].start if rest else None].strip()
        pseudo_close = None if closed else text[mark.start : mark.end]
        reopened = bool(rest) and rest[-1].opens
        thinking += text[rest[-1].end :] if reopened else ""
    ended = closed and (bool(answer) or not reopened)
    outcome = _outcome(text, finish, ended, pseudo_close is not None, opened=opened, marked=bool(marks))
    spans = _spans(response, text, marks, last, opened) if thought else _whole(response, text)
    after = text.rpartition(markers.close)[2].strip() if markers.close in text else text
    return ParsedResponse(text, thinking, answer, outcome, closed, pseudo_close, near, after, spans)


def _outcome(text: str, finish: str, closed: bool, pseudo: bool, *, opened: bool, marked: bool) -> Outcome:
    if finish == "error":
        return Outcome.FAILED
    if not text.strip():
        return Outcome.EMPTY
    if (
        finish == "length"
    ):  # what a model ended by itself is no loop, however it repeats itself: a ruler, zeros, a refrain
        return Outcome.LOOPING if _loops(text) else Outcome.TRUNCATED
    if closed:
        return Outcome.CLOSED
    if pseudo:
        return Outcome.PSEUDO_CLOSED
    if marked:
        return Outcome.UNCLOSED
    return Outcome.UNMARKED if opened else Outcome.DIRECT


def _closing(text: str, marks: Sequence[_Mark]) -> int | None:
    """The place in `marks` of the closing mark that the answer follows: the last with text after it, else the last."""
    closing = [number for number, mark in enumerate(marks) if not mark.opens]
    for number in reversed(closing):
        end = marks[number + 1].start if number + 1 < len(marks) else len(text)
        if text[marks[number].end : end].strip():
            return number
    return closing[-1] if closing else None


def _begins(text: str, marks: Sequence[_Mark], opened: bool) -> int:
    """Where the thought begins: after its opening marker; where the prompt opened it, only a repeated one is dropped."""
    if marks and marks[0].opens and not (opened and text[: marks[0].start].strip()):
        return marks[0].end
    return 0


def _spans(response: str, text: str, marks: Sequence[_Mark], last: int | None, opened: bool) -> tuple[Span, ...]:
    """The response in stretches: thinking up to the closing mark that counts, and where it is opened again."""
    found: list[Span] = []
    at, last = 0, len(marks) if last is None else last
    kind: Literal["thinking", "answer"] = "answer" if marks and marks[0].opens and not opened else "thinking"
    for number, mark in enumerate(marks):
        found += [Span(kind, at, mark.start), Span("marker", mark.start, mark.end)]
        at, kind = mark.end, "thinking" if number < last or mark.opens else "answer"
    found += [Span(kind, at, len(text)), Span("marker", len(text), len(response))]
    return tuple(span for span in found if span.end > span.start)


def _whole(response: str, text: str) -> tuple[Span, ...]:
    return tuple(s for s in (Span("answer", 0, len(text)), Span("marker", len(text), len(response))) if s.end > s.start)


def _marks(text: str, opening: str, closing: str, thinking: bool) -> list[_Mark]:
    """The markers of a response in order, without those that are quoted.

    Args:
        text: the response.
        opening: the opening marker.
        closing: a regular expression for what closes.
        thinking: whether the response begins inside a thought.
    """
    found: list[_Mark] = []
    fences = [match.start() for match in _FENCE.finditer(text)] if "```" in text or "~~~" in text else []
    since, fence = 0, 0  # where this stretch began, and the first fence that is still ahead
    in_code = False
    for match in _marker_pattern(opening, closing).finditer(text):
        if match["quote"]:
            continue
        start, end = match.span()
        while fence < len(fences) and fences[fence] < start:
            in_code ^= fences[fence] >= since
            fence += 1
        fenced = not thinking and in_code and fence < len(fences)
        if fenced or _quoted(text, start, end, since, tight=thinking):
            continue
        found.append(_Mark(match["opens"] is not None, start, end))
        thinking, since = match["opens"] is not None, end
        in_code = _FENCE_HERE.match(text, end) is not None
    return found


@lru_cache(maxsize=16)
def _marker_pattern(opening: str, closing: str) -> re.Pattern[str]:
    """Finds an opening marker, a closing one, or both within one pair of quotation marks: `"<think>…</think>"`."""
    opening, near = re.escape(opening), rf"[^\n\"`]{{0,{_QUOTE_CHARS}}}?"
    pair = rf"(?<!\w)(?P<quote>[\"'`])[ ]?{opening}{near}(?:{closing})[ ]?(?P=quote)(?!\w)"
    return re.compile(rf"{pair}|(?P<opens>{opening})|{closing}")


def _quoted(text: str, start: int, end: int, since: int, *, tight: bool) -> bool:
    """Whether a marker stands in quotation marks or inline code.

    Args:
        text: the response.
        start: of the marker.
        end: of the marker.
        since: where the stretch of text it stands in began.
        tight: only marks right around it count, as in a thought, where quotations are often left open.
    """
    before = text[max(since, start - _QUOTE_CHARS) : start].rpartition("\n")[2]
    after = text[end : end + _QUOTE_CHARS].partition("\n")[0]
    if _QUOTES.get(before.rstrip(" ")[-1:]) == after.lstrip(" ")[:1] != "":
        outside = before.rstrip(" ")[-2:-1], after.lstrip(" ")[1:2]
        if not outside[0].isalnum() and not outside[1].isalnum():
            return True
    return not tight and any(
        closer in after
        and (before.rfind(opener) > before.rfind(closer) if opener != closer else before.count(opener) % 2 == 1)
        for opener, closer in _QUOTES.items()
        if opener != "'"  # an apostrophe more often than not
    )


def _near(closing: str) -> str:
    """A regular expression for a closing marker as it may be misspelt: `</THINK>`, `</ think>`, `</thinking>`, `</think`."""
    *pieces, last = [
        r"think(?:ing|s)?|thoughts?" if word.lower() in ("think", "thinking", "thought") else re.escape(word)
        for word in re.findall(r"[A-Za-z]+|\S", closing)
    ]
    body = r"\s{0,3}".join(r"[/\\]" if piece == "/" else f"(?:{piece})" for piece in pieces)
    return rf"(?i:{body}(?:\s{{0,3}}{last}|(?=[ ]*(?:\n|\Z))))"


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A tokenizer's added tokens, to be found in text in time that does not grow with their number."""

    known: frozenset[str]
    lengths: tuple[int, ...]  # longest first
    first: re.Pattern[str]  # a character that one of them begins with

    @staticmethod
    @lru_cache(maxsize=8)
    def of(tokens: tuple[str, ...]) -> _Tokens:
        """The added tokens of one tokenizer."""
        known = frozenset(tokens) - {""}
        initials = "".join(sorted({re.escape(token[0]) for token in known}))
        lengths = sorted({len(token) for token in known}, reverse=True)
        return _Tokens(known, tuple(lengths), re.compile(f"[{initials}]" if initials else r"(?!)"))

    def without_end(self, text: str) -> str:
        """Drop end-of-turn tokens from the end, and the white space after them; other white space is kept."""
        end = len(text)
        for _ in range(_END_TOKENS):
            at = len(text[:end].rstrip())
            length = next((n for n in self.lengths if at >= n and text[at - n : at] in self.known), 0)
            if not length:
                break
            end = at - length
        return text[:end]

    def breaks_off(self, text: str, start: int) -> list[_Mark]:
        """The first token from `start` on that is not quoted, if text follows it."""
        for match in self.first.finditer(text, start):
            at = match.start()
            length = next((n for n in self.lengths if text[at : at + n] in self.known), 0)
            if length and not _quoted(text, at, at + length, start, tight=True):
                return [_Mark(False, at, at + length)] if text[at + length :].strip() else []
        return []


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


if __name__ == "__main__":
    serve(_render_here, _MEMORY_BYTES)
