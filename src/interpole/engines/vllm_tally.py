"""How many thoughts were closed while a request was answered: counted where vLLM reads responses apart, read around its server.

Both are in one process, and a request is one context there. Nothing of vLLM is imported.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["Tally", "note_closed", "tally"]


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
