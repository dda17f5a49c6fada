"""Text as it comes: tokens to characters, and the strings at which a response stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Detokenizer", "StopStrings"]

_HALF = "\ufffd"  # what half a character decodes to
_CONTEXT_TOKENS = 5  # decoded again with each new one: what a token looks like may depend on those before it


class Detokenizer:
    """Decodes a response token by token; half a character is held back until it is whole.

    All that it gives out, together, is what the tokenizer makes of all tokens at once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0  # from here on tokens are decoded again
        self._read = 0  # up to here their text was given out

    def feed(self, token_id: int) -> str:
        """The text that is whole with this token."""
        self._tokens.append(token_id)
        before, now = self._text(self._read), self._text(len(self._tokens))
        if now.endswith(_HALF) or len(now) < len(before):
            return ""
        self._read = len(self._tokens)
        self._context = max(self._context, self._read - _CONTEXT_TOKENS)
        return now[len(before) :]

    def finish(self) -> str:
        """The text that was held back."""
        return self._text(len(self._tokens))[len(self._text(self._read)) :]

    def _text(self, end: int) -> str:
        return str(
            self._tokenizer.decode(
                self._tokens[self._context : end], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


class StopStrings:
    """Finds the first of some strings in text that comes in pieces; what may become one is held back.

    Attributes:
        hit: the string that was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """What is surely before any of them."""
        if not self._stops or self.hit is not None:
            return text if self.hit is None else ""
        self._held += text
        found = [(place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            place, self.hit = min(found, key=lambda one: one[0])
        else:
            place = len(self._held) - self._beginning()
        given, self._held = self._held[:place], self._held[place:]
        return given

    def finish(self) -> str:
        """What was held back and became none."""
        given, self._held = ("" if self.hit is not None else self._held), ""
        return given

    def _beginning(self) -> int:
        """Length of the longest end of the text that one of the strings begins with."""
        longest = max(len(stop) for stop in self._stops) - 1
        sizes = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self._held[-n:]) for stop in self._stops)), 0)
