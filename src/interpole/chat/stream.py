"""A response read apart while it is generated: thinking and answer, piece by piece.

What was given out cannot be taken back. So the pieces equal `parse_response` on the whole text wherever a response begins with
its thought, or has none, and its answer holds no further marker. Otherwise the first closing marker ends the thought, and all
that follows is the answer. What only the end can tell (an answer behind a misspelt marker) comes as a last piece.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

from interpole.chat.markers import Markers
from interpole.chat.response import FENCE, QUOTE_CHARS, QUOTES, AddedTokens, ParsedResponse, marks_of, parse_response
from interpole.records import Outcome

__all__ = ["Parts", "Piece", "ThoughtStream", "settled"]

_MOST_MARKERS = 100  # of one response; what comes after them is text
_LOOK_AHEAD = 3  # characters after a marker that tell whether a pair of quotation marks ends there
_TAIL = 4096  # characters at the end in which end-of-turn tokens are looked for
_HALF = "\ufffd"  # what half a character decodes to


class Piece(NamedTuple):
    """Text that is settled; `response[start:end]` is where it stood."""

    kind: Literal["thinking", "answer"]
    text: str
    start: int
    end: int


class Parts(NamedTuple):
    """New text of a response; either may be empty."""

    thinking: str
    answer: str

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> Parts:
        """Pieces by their kind."""
        return cls(*("".join(one.text for one in pieces if one.kind == kind) for kind in ("thinking", "answer")))


def settled(parsed: ParsedResponse) -> ParsedResponse:
    """A whole response as a reader shall get it: what the model ended by itself, and never closed, was its answer.

    So it is where a prompt opens the thought and a model of a small λ answers directly.
    """
    if parsed.outcome is not Outcome.UNMARKED:
        return parsed
    return replace(parsed, thinking=None, answer=parsed.response.strip())


class ThoughtStream:
    """Takes a response in pieces of any size, and gives it back as thinking and answer.

    White space at the end is held back until something follows it, and so is what may become a marker, an end-of-turn token
    or a whole character.

    Attributes:
        text: all of the response so far.
        thinking: whether what comes next is thinking.
        closed: the thought is over.
    """

    def __init__(
        self, markers: Markers, *, prompt_opens_thinking: bool = False, special_tokens: Collection[str] = ()
    ) -> None:
        """Begin a response.

        Args:
            markers: the family's.
            prompt_opens_thinking: the prompt ended inside a think block.
            special_tokens: the tokenizer's added tokens.
        """
        self.text, self.thinking, self.closed = "", prompt_opens_thinking, False
        self._markers, self._prompt_opens_thinking, self._special = (
            markers,
            prompt_opens_thinking,
            tuple(special_tokens),
        )
        others = tuple(token for token in self._special if token not in (markers.open, markers.close))
        self._tokens, self._beginnings = AddedTokens.of(others), _beginnings((markers.open, markers.close, *others))
        self._pattern = re.compile(f"{re.escape(markers.open)}|{re.escape(markers.close)}")
        self._at = 0  # up to here it is settled
        self._scanned = 0  # up to here no marker is left to look at
        self._num_markers = 0
        self._begun = False  # its beginning was looked at
        self._answered = False  # something of the answer was given out

    def feed(self, text: str) -> Parts:
        """Take the next piece of the response; returns what is settled by it."""
        return Parts.of(self.take(text))

    def finish(self) -> Parts:
        """The response is over, cut off here."""
        return Parts.of(self.end("length")[0])

    def take(self, text: str) -> list[Piece]:
        """As `feed`, with the places."""
        self.text += text
        return self._advance(final=False, stop=len(self.text))

    def go_on_from(self, text: str) -> list[Piece]:
        """The response so far is another than was fed: its thought was closed from outside, or half a character dropped.

        `text` begins with all that is settled: white space and half characters at the end never are.
        """
        self.text = text
        self._scanned = min(self._scanned, self._at)
        return self.take("")

    def end(self, finish: str) -> tuple[list[Piece], ParsedResponse]:
        """The last pieces, and the whole response read apart. `finish`: "stop" or "length"."""
        parsed = settled(
            parse_response(
                self.text,
                finish,
                self._markers,
                prompt_opens_thinking=self._prompt_opens_thinking,
                special_tokens=self._special,
            )
        )
        pieces = self._advance(final=True, stop=len(parsed.response))
        if not self._answered and parsed.answer.strip() and not (self.closed and parsed.closed):
            end = len(parsed.response)
            pieces.append(Piece("answer", parsed.answer, end - len(parsed.answer), end))
        return pieces, parsed

    def _advance(self, *, final: bool, stop: int) -> list[Piece]:
        """Settle what can be, marker by marker."""
        pieces: list[Piece] = []
        if not self._begun and not self._begin(final, stop):
            return pieces
        while True:
            found = None
            if not self.closed and self._num_markers < _MOST_MARKERS:
                found = self._pattern.search(self.text, self._scanned, stop)
            if found is None:
                end = stop if final else self._safe_end(stop)
                self._scanned = max(self._scanned, end)
                self._settle(end, pieces, final)
                return pieces
            if not final and not self._can_judge(*found.span()):
                self._settle(self._safe_end(found.start()), pieces, False)
                return pieces
            self._num_markers += 1
            self._scanned = found.end()
            if self._is_marker(found.start()):
                self._pass(found[0] == self._markers.open, *found.span(), pieces)

    def _begin(self, final: bool, stop: int) -> bool:
        """Look at the beginning: does it open a thought, or repeat the marker that the prompt ended with?"""
        lead = self.text[:stop].lstrip()
        opening = self._markers.open
        if not final and (
            not lead or (len(lead) < len(opening) and opening.startswith(lead)) or not self._safe_end(stop)
        ):
            return False
        self._begun = True
        if lead.startswith(opening):
            self._at = self._scanned = stop - len(lead) + len(opening)
            self.thinking = True
        elif lead.startswith(self._markers.close):
            self.thinking = True  # an empty thought, which the marker closes
        return True

    def _can_judge(self, start: int, end: int) -> bool:
        """Whether enough stands after a marker to say if it is quoted."""
        before, after = self.text[:start].rstrip(" ")[-1:], self.text[end : end + QUOTE_CHARS + _LOOK_AHEAD]
        tight = self.thinking and before not in QUOTES
        return "\n" in after or len(after) >= (_LOOK_AHEAD if tight else QUOTE_CHARS + _LOOK_AHEAD)

    def _is_marker(self, start: int) -> bool:
        if not self.thinking and len(FENCE.findall(self.text, 0, start)) % 2:
            return False  # in an answer's code, which will end further on
        near = self.text[: start + 2 * QUOTE_CHARS]
        marks = marks_of(near, self._markers.open, re.escape(self._markers.close), self._prompt_opens_thinking)
        return any(mark.start == start for mark in marks)

    def _pass(self, opens: bool, start: int, end: int, pieces: list[Piece]) -> None:
        """Go past a marker, if it changes anything: one that opens an open thought is text."""
        if opens and self.thinking:
            return
        self._settle(start, pieces, self.thinking)
        self._at, self.closed, self.thinking = end, not opens, opens

    def _settle(self, end: int, pieces: list[Piece], whole: bool) -> None:
        """Give out what is before `end`; `whole`: with the white space at its end."""
        text = self.text[self._at : end]
        if self.closed:  # an answer after a thought stands without white space around it
            text = text.rstrip() if whole else text
            bare = text if self._answered else text.lstrip()
            self._at, text = self._at + len(text) - len(bare), bare
        if text:
            kind: Literal["thinking", "answer"] = "thinking" if self.thinking else "answer"
            pieces.append(Piece(kind, text, self._at, self._at + len(text)))
            self._answered |= kind == "answer" and bool(text.strip())
        self._at = max(self._at, end)

    def _safe_end(self, end: int) -> int:
        """Up to where nothing can become a marker, half a character, an end-of-turn token, or white space at an end."""
        start = min(max(self._at, end - _TAIL), end)
        tail = self.text[start:end]
        known, lengths = self._beginnings
        tail = tail[: len(tail) - next((n for n in lengths if n <= len(tail) and tail[-n:] in known), 0)]
        while True:
            shorter = self._tokens.without_end(tail).rstrip().rstrip(_HALF)
            if shorter == tail:
                return start + len(tail)
            tail = shorter


class _Beginnings(NamedTuple):
    known: frozenset[str]
    lengths: tuple[int, ...]


@lru_cache(maxsize=16)
def _beginnings(words: tuple[str, ...]) -> _Beginnings:
    """All beginnings of these words that are not the whole word, longest first."""
    known = frozenset(word[:n] for word in words for n in range(1, len(word)))
    return _Beginnings(known, tuple(sorted({len(one) for one in known}, reverse=True)))
