"""A response read apart while it is generated: each piece goes to the thinking or to the answer, and is not taken back."""

from __future__ import annotations

from typing import NamedTuple

from interpole.chat.markers import Markers

__all__ = ["Parts", "ThoughtStream"]

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "‹": "›", "„": "“", "「": "」", "『": "』"}


class Parts(NamedTuple):
    """New text of a response; either may be empty."""

    thinking: str
    answer: str


class ThoughtStream:
    """Reads one response apart piece by piece, as `parse_response` does once it is complete.

    What it cannot do is look ahead. The first closing marker ends the thought, and what follows is the answer; so where a
    response thinks again after its answer has begun, or has no closing marker but something in its place, the two differ. Text
    before an opening marker has been given out as answer. White space before the answer is dropped; half a marker is held back.

    Args:
        markers: the family's.
        opened: the prompt ended inside a think block.
    """

    def __init__(self, markers: Markers, *, opened: bool = False) -> None:
        self._markers = markers
        self.thinking = opened  # where the next text goes
        self.closed = False
        self._repeated = opened  # nothing said yet: an opening marker only repeats the prompt's
        self._held = ""
        self._blank = True  # nothing of the answer given out yet
        self._last = ""  # the character before what is held

    def feed(self, text: str) -> Parts:
        """Take the next piece of the response."""
        self._held += text
        found = ["", ""]
        while not self.closed:
            marker = self._next_marker()
            start = self._find(marker)
            if start is None:
                self._give(found, len(self._held) - self._undecided(marker))
                break
            self._give(found, start)
            self._held = self._held[len(marker) :]
            self._last, self._repeated = "", False
            self.closed = self.thinking and marker == self._markers.close
            self.thinking = marker == self._markers.open
        if self.closed:
            self._give(found, len(self._held))
        return Parts(*found)

    def finish(self) -> Parts:
        """The response is over: what was held back is text, but for a whole marker."""
        found = ["", ""]
        marker = self._markers.close if self.thinking else self._markers.open
        if not self.closed and self._held == marker:
            self.closed, self.thinking, self._held = self.thinking, not self.thinking, ""
        self._give(found, len(self._held))
        return Parts(*found)

    def _next_marker(self) -> str:
        begins = self._held.lstrip()
        if self._repeated and (begins.startswith(self._markers.open) or self._markers.open.startswith(begins)):
            return self._markers.open
        self._repeated = self._repeated and not begins
        return self._markers.close if self.thinking else self._markers.open

    def _find(self, marker: str) -> int | None:
        """Where the marker stands that is not in quotation marks, as far as can be told."""
        start = self._held.find(marker)
        while start >= 0:
            before = self._held[start - 1] if start else self._last
            after = self._held[start + len(marker) :][:1]
            if before not in _QUOTES or after not in ("", _QUOTES[before]):
                return start
            start = self._held.find(marker, start + 1)
        return None

    def _undecided(self, marker: str) -> int:
        """How many characters at the end may be a marker: half of one, or one that a quotation mark may yet follow."""
        if self._held.endswith(marker):
            return len(marker)
        sizes = range(min(len(marker) - 1, len(self._held)), 0, -1)
        return next((size for size in sizes if marker.startswith(self._held[-size:])), 0)

    def _give(self, found: list[str], length: int) -> None:
        text, self._held = self._held[:length], self._held[length:]
        self._last = text[-1:] or self._last
        if self.thinking:
            found[0] += text
            return
        text = text.lstrip() if self._blank else text
        self._blank = self._blank and not text
        found[1] += text
