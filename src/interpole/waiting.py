"""When to speak of something that takes long, and may rightly do so: loading a large model over a slow network, for one.

It is not ended, since nobody knows how long it may take. Whoever waits is told now and then, and can end it himself.
"""

from __future__ import annotations

import time

__all__ = ["LongWait"]

FIRST_SECONDS = 120.0
"""How long nothing is said; after twice as long it is said again, and so on."""


class LongWait:
    """One thing after the other that is waited for, and when it was last spoken of."""

    def __init__(self) -> None:
        self._what, self._since, self._told_seconds = "", 0.0, 0.0

    def words(self, what: str) -> str:
        """What to say now, maybe nothing.

        Args:
            what: is waited for, as the end of "the engine has been …"; nothing: nothing is.
        """
        now = time.monotonic()
        if what != self._what:
            self._what, self._since, self._told_seconds = what, now, 0.0
        seconds = now - self._since
        if not what or seconds < max(FIRST_SECONDS, 2 * self._told_seconds):
            return ""
        self._told_seconds = seconds
        remedy = "if you think that it hangs, end the command: nothing finished is lost"
        return f"has been {what} for {seconds:.0f} s. It lives, and is waited for; {remedy}"
