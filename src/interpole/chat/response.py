"""A response read apart: thinking, answer, how it ended, in spans of its text.

Nobody else splits a response: where thinking ends and the answer begins is said here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from interpole.chat.markers import Markers
from interpole.records import Outcome

__all__ = [
    "FENCE",
    "QUOTES",
    "QUOTE_CHARS",
    "AddedTokens",
    "MarkerAt",
    "ParsedResponse",
    "Span",
    "marks_of",
    "misspelt",
    "parse_response",
    "spans_of",
]

_CYCLES, _LOOP_CHARS, _LOOP_WINDOW, _LOOP_TRIES = 5, 100, 50_000, 200
QUOTE_CHARS = 200  # how far on its line a quotation around a marker is looked for
FENCE = re.compile(r"^[ \t]{0,3}(?:```|~~~)", re.MULTILINE)
_FENCE_HERE = re.compile(r"[ \t]{0,3}(?:```|~~~)")
QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "‹": "›", "„": "“", "「": "」", "『": "』"}
_BEFORE = 2  # characters that `_marker_pattern` takes before a marker: a quotation mark and a space
_END_TOKENS = 4  # at most so many tokens are taken from the end of a turn
_escaped = lru_cache(maxsize=16)(re.escape)


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


class MarkerAt(NamedTuple):
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
    text, marks, closed, near, last = _marked(response, markers, prompt_opens_thinking, special_tokens)
    thought = prompt_opens_thinking or bool(marks)
    begins = _begins(text, marks, prompt_opens_thinking)
    thinking, answer = (None, text) if not thought else (text[begins:], "")
    pseudo_close, reopened = None, False
    if last is not None:
        mark, rest = marks[last], marks[last + 1 :]
        thinking, answer = text[begins : mark.start], text[mark.end : rest[0].start if rest else None].strip()
        pseudo_close = None if closed else text[mark.start : mark.end]
        reopened = bool(rest) and rest[-1].opens
        thinking += text[rest[-1].end :] if reopened else ""
    ended = closed and (bool(answer) or not reopened)
    outcome = _outcome(
        text, finish, ended, pseudo_close is not None, prompt_opens_thinking=prompt_opens_thinking, marked=bool(marks)
    )
    after = text.rpartition(markers.close)[2].strip() if markers.close in text else text
    return ParsedResponse(
        response=text,
        thinking=thinking,
        answer=answer,
        outcome=outcome,
        closed=closed,
        pseudo_close=pseudo_close,
        near_close=near,
        after_last_marker=after,
        spans=_spans(response, text, marks, last, prompt_opens_thinking),
    )


def spans_of(
    response: str, markers: Markers, *, prompt_opens_thinking: bool = False, special_tokens: Collection[str] = ()
) -> tuple[Span, ...]:
    """The spans that `parse_response` gives, which need not wait for the rest of it."""
    text, marks, _, _, last = _marked(response, markers, prompt_opens_thinking, special_tokens)
    return _spans(response, text, marks, last, prompt_opens_thinking)


class _Marked(NamedTuple):
    """A response without end-of-turn tokens at its end, and what opens and closes its thoughts."""

    text: str
    marks: list[MarkerAt]
    closed: bool  # by the marker itself
    near: bool  # by the marker misspelt
    last: int | None  # the place in `marks` of the closing mark that the answer follows


def _marked(response: str, markers: Markers, prompt_opens_thinking: bool, special_tokens: Collection[str]) -> _Marked:
    tokens = AddedTokens.besides(markers, tuple(special_tokens))
    text = tokens.without_end(response)
    marks = marks_of(text, markers.open, _escaped(markers.close), prompt_opens_thinking)
    closed = not all(mark.opens for mark in marks)
    near = False
    if not closed and re.search(misspelt(markers.close), text):
        near_marks = marks_of(text, markers.open, misspelt(markers.close), prompt_opens_thinking)
        near = not all(mark.opens for mark in near_marks)
        marks = near_marks if near else marks
    if not closed and not near and (prompt_opens_thinking or marks):
        marks += tokens.breaks_off(text, marks[0].end if marks and not prompt_opens_thinking else 0)
    return _Marked(text, marks, closed, near, _closing(text, marks))


def _outcome(
    text: str, finish: str, closed: bool, pseudo: bool, *, prompt_opens_thinking: bool, marked: bool
) -> Outcome:
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
    return Outcome.UNMARKED if prompt_opens_thinking else Outcome.DIRECT


def _closing(text: str, marks: Sequence[MarkerAt]) -> int | None:
    """The place in `marks` of the closing mark that the answer follows: the last with text after it, else the last."""
    closing = [number for number, mark in enumerate(marks) if not mark.opens]
    for number in reversed(closing):
        end = marks[number + 1].start if number + 1 < len(marks) else len(text)
        if text[marks[number].end : end].strip():
            return number
    return closing[-1] if closing else None


def _begins(text: str, marks: Sequence[MarkerAt], prompt_opens_thinking: bool) -> int:
    """Where the thought begins: after its opening marker; where the prompt opened it, only a repeated one is dropped."""
    if marks and marks[0].opens and not (prompt_opens_thinking and text[: marks[0].start].strip()):
        return marks[0].end
    return 0


def _spans(
    response: str, text: str, marks: Sequence[MarkerAt], last: int | None, prompt_opens_thinking: bool
) -> tuple[Span, ...]:
    """The response in stretches: thinking up to the closing mark that counts, and where it is opened again."""
    found: list[Span] = []
    at, last = 0, len(marks) if last is None else last
    kind: Literal["thinking", "answer"] = (
        "answer" if not prompt_opens_thinking and (not marks or marks[0].opens) else "thinking"
    )
    for number, mark in enumerate(marks):
        found += [Span(kind, at, mark.start), Span("marker", mark.start, mark.end)]
        at, kind = mark.end, "thinking" if number < last or mark.opens else "answer"
    found += [Span(kind, at, len(text)), Span("marker", len(text), len(response))]
    return tuple(span for span in found if span.end > span.start)


def marks_of(text: str, opening: str, closing: str, thinking: bool) -> list[MarkerAt]:
    """The markers of a response in order, without those that are quoted.

    Args:
        text: the response.
        opening: the opening marker.
        closing: a regular expression for what closes, without groups.
        thinking: whether the response begins inside a thought.
    """
    found: list[MarkerAt] = []
    fences: list[int] | None = None
    since, fence = 0, 0  # where this stretch began, and the first fence that is still ahead
    in_code = False
    for match in _matches(text, opening, closing):
        if match.lastindex and match["opens"] is None:  # the empty group behind a pair in quotation marks
            continue
        if fences is None:
            fences = [one.start() for one in FENCE.finditer(text)] if "```" in text or "~~~" in text else []
        start, end = match.span()
        while fence < len(fences) and fences[fence] < start:
            in_code ^= fences[fence] >= since
            fence += 1
        fenced = not thinking and in_code and fence < len(fences)
        if fenced or _quoted(text, start, end, since, tight=thinking):
            continue
        found.append(MarkerAt(match["opens"] is not None, start, end))
        thinking, since = match["opens"] is not None, end
        in_code = _FENCE_HERE.match(text, end) is not None
    return found


def _matches(text: str, opening: str, closing: str) -> Iterator[re.Match[str]]:
    """What `_marker_pattern` finds; where a marker is plain text, that is looked for first, ten times faster than by `re`."""
    pattern, plain = _marker_pattern(opening, closing)
    if not plain:
        yield from pattern.finditer(text)
        return
    at, ahead = 0, {marker: text.find(marker) for marker in (opening, plain)}
    while near := [place for place in ahead.values() if place >= 0]:
        match = pattern.search(text, max(at, min(near) - _BEFORE))
        assert match is not None
        yield match
        at = match.end()
        ahead |= {marker: text.find(marker, at) for marker, place in ahead.items() if 0 <= place < at}


@lru_cache(maxsize=16)
def _marker_pattern(opening: str, closing: str) -> tuple[re.Pattern[str], str]:
    """Finds an opening marker, a closing one, or both within one pair of quotation marks: `"<think>…</think>"`.

    Every alternative begins with a plain character: then `re` looks for these alone, several times faster. The second is the
    closing marker as text, and empty where `closing` says more than a text does.
    """
    first, rest = re.escape(opening[0]), re.escape(opening[1:])
    near = rf"[^\n\"`]{{0,{QUOTE_CHARS}}}?"
    quoted = [rf"{q}(?<!\w{q})[ ]?{first}{rest}{near}(?:{closing})[ ]?{q}(?!\w)()" for q in "\"'`"]
    text = re.sub(r"\\(.)", r"\1", closing)
    return re.compile("|".join([*quoted, rf"{first}(?P<opens>{rest})", closing])), text if re.escape(
        text
    ) == closing else ""


def _quoted(text: str, start: int, end: int, since: int, *, tight: bool) -> bool:
    """Whether a marker stands in quotation marks or inline code.

    Args:
        text: the response.
        start: of the marker.
        end: of the marker.
        since: where the stretch of text it stands in began.
        tight: only marks right around it count, as in a thought, where quotations are often left open.
    """
    before = text[max(since, start - QUOTE_CHARS) : start].rpartition("\n")[2]
    if not before.strip(" "):
        return False
    after = text[end : end + QUOTE_CHARS].partition("\n")[0]
    if QUOTES.get(before.rstrip(" ")[-1:]) == after.lstrip(" ")[:1] != "":
        outside = before.rstrip(" ")[-2:-1], after.lstrip(" ")[1:2]
        if not outside[0].isalnum() and not outside[1].isalnum():
            return True
    return not tight and any(
        closer in after
        and (before.rfind(opener) > before.rfind(closer) if opener != closer else before.count(opener) % 2 == 1)
        for opener, closer in QUOTES.items()
        if opener != "'"  # an apostrophe more often than not
    )


@lru_cache(maxsize=16)
def misspelt(closing: str) -> str:
    """A regular expression, without groups, for a marker as it may be misspelt: `</THINK>`, `</ think>`, `</thinking>`."""
    *pieces, last = [
        r"think(?:ing|s)?|thoughts?" if word.lower() in ("think", "thinking", "thought") else re.escape(word)
        for word in re.findall(r"[A-Za-z]+|\S", closing)
    ]
    body = r"\s{0,3}".join(r"[/\\]" if piece == "/" else f"(?:{piece})" for piece in pieces)
    return rf"(?i:{body}(?:\s{{0,3}}{last}|(?=[ ]*(?:\n|\Z))))"


@dataclass(frozen=True, slots=True)
class AddedTokens:
    """A tokenizer's added tokens, to be found in text in time that does not grow with their number."""

    known: frozenset[str]
    lengths: tuple[int, ...]  # longest first
    first: re.Pattern[str]  # a character that one of them begins with

    @staticmethod
    @lru_cache(maxsize=8)
    def of(tokens: tuple[str, ...]) -> AddedTokens:
        """The added tokens of one tokenizer."""
        known = frozenset(tokens) - {""}
        initials = "".join(sorted({re.escape(token[0]) for token in known}))
        lengths = sorted({len(token) for token in known}, reverse=True)
        return AddedTokens(known, tuple(lengths), re.compile(f"[{initials}]" if initials else r"(?!)"))

    @staticmethod
    @lru_cache(maxsize=8)
    def besides(markers: Markers, tokens: tuple[str, ...]) -> AddedTokens:
        """The added tokens of one tokenizer without those that are markers."""
        return AddedTokens.of(tuple(token for token in tokens if token not in (markers.open, markers.close)))

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

    def breaks_off(self, text: str, start: int) -> list[MarkerAt]:
        """The first token from `start` on that is not quoted, if text follows it."""
        for match in self.first.finditer(text, start):
            at = match.start()
            length = next((n for n in self.lengths if text[at : at + n] in self.known), 0)
            if length and not _quoted(text, at, at + length, start, tight=True):
                return [MarkerAt(False, at, at + length)] if text[at + length :].strip() else []
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
