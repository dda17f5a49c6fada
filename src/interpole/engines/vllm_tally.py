"""What passes between the middleware around vLLM's server and what vLLM calls within it.

Both are in one process, and a request is one context there: how many thoughts were closed while it was answered. Nothing of vLLM
is imported.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["STOPS_AT_ANSWER", "Tally", "note_closed", "tally"]

STOPS_AT_ANSWER = "interpole_stops_at_answer"
"""Among the extra arguments of requests whose stop strings are not for the thought: the variables of their template, as JSON."""


class Tally:
    """Of one request."""

    num_closed = 0


_CURRENT: ContextVar[Tally | None] = ContextVar("interpole_tally", default=None)


def tally() -> Tally:
    """A new one for the request that this context is of."""
    found = Tally()
    _CURRENT.set(found)
    return found


def note_closed(*, closed: bool = True) -> None:
    """A response was read: whether it closed a thought."""
    current = _CURRENT.get()
    if current is not None:
        current.num_closed += closed
