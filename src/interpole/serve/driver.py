"""The engine in a thread of its own, and the way from and to it: requests in, tokens out, nothing shared in between.

The thread owns the engine; nobody else calls it. What a step brought goes to the event loop in one call. A request that nobody
waits for any more is cancelled, which frees its row.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from interpole.engines.base import Finished, Request
from interpole.errors import EngineError
from interpole.records import Generation
from interpole.serve.errors import RequestError

if TYPE_CHECKING:
    from interpole.engines.base import PerRequest, Token

__all__ = ["Driver", "News", "Ticket"]

LOG = logging.getLogger("interpole.serve")
IDLE_SECONDS = 0.5  # how long the thread waits for work at a time
RETRY_AFTER_SECONDS = 2


class News(NamedTuple):
    """What some steps brought to one request; `finished` with the last."""

    tokens: list[Token]
    finished: Finished | None = None


class Ticket:
    """One request on its way, as the event loop sees it."""

    def __init__(self, key: int) -> None:
        self.key = key
        self._tokens: list[Token] = []
        self._finished: Finished | None = None
        self._news = asyncio.Event()

    def put(self, tokens: Sequence[Token], finished: Finished | None) -> None:
        """More has come; not more than a response is long, however slow its reader."""
        self._tokens += tokens
        self._finished = finished
        self._news.set()

    async def get(self) -> News:
        """All that has come since the last call; waits until there is something."""
        await self._news.wait()
        self._news.clear()
        tokens, self._tokens = self._tokens, []
        return News(tokens, self._finished)


class Driver:
    """Feeds one engine. All methods but the thread's own are for the event loop's thread.

    Attributes:
        num_failures: how often the engine has failed.
    """

    def __init__(self, engine: PerRequest, *, max_requests: int) -> None:
        """Take an engine; `max_requests`: those in flight, running and waiting, beyond which new ones are refused."""
        self._engine, self._max_requests = engine, max_requests
        self._keys = itertools.count()
        self._num_taken = 0
        self._tickets: dict[int, Ticket] = {}
        self._inbox: SimpleQueue[Request | int | None] = SimpleQueue()  # a request, a key to cancel, or the end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._live: set[int] = set()  # the engine's, in its thread
        self._moved = time.monotonic()
        self.num_failures = 0

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step that it is in."""
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout=30)

    @property
    def num_requests(self) -> int:
        """Requests in flight."""
        return len(self._tickets)

    @property
    def num_running(self) -> int:
        """Rows in the batch."""
        return self._engine.num_running

    @property
    def stalled_seconds(self) -> float:
        """For how long the engine has been in one step; 0 where there is nothing to do."""
        return time.monotonic() - self._moved if self._tickets else 0.0

    @property
    def moving(self) -> bool:
        """Whether it is the weights, on their way to another λ, that the engine's step takes so long for."""
        return self._engine.moving

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @contextmanager
    def room(self, num_requests: int) -> Iterator[None]:
        """Places for so many requests, until they are done with.

        Raises:
            RequestError: 429: the queue is full.
        """
        if self._num_taken + num_requests > self._max_requests:
            what = f"{self._num_taken} of {self._max_requests} places are taken: try again later"
            raise RequestError(
                what, "rate_limit_error", code="queue_full", status=429, retry_after_seconds=RETRY_AFTER_SECONDS
            )
        self._num_taken += num_requests
        try:
            yield
        finally:
            self._num_taken -= num_requests

    def submit(self, request: Request) -> Ticket:
        """Queue a request; its key is given here."""
        ticket = Ticket(next(self._keys))
        self._tickets[ticket.key] = ticket
        self._inbox.put(request._replace(key=ticket.key))
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Nobody waits for this one any more; does nothing where it is finished."""
        if self._tickets.pop(ticket.key, None) is not None:
            self._inbox.put(ticket.key)

    # ── in the engine's thread ────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while self._take():
            self._moved = time.monotonic()
            if not self._engine.busy:
                continue
            try:
                finished = self._engine.step()
                tokens = self._engine.events()
            except Exception as error:  # whatever it is, those in flight have no response
                LOG.exception("the engine failed")
                self._fail_all(error)
                continue
            self._live -= {one.key for one in finished}
            errors = Counter(str(one.error) for one in finished if one.error is not None)
            for reason, num_requests in errors.items():  # a step that fails, fails all that were in it
                self.num_failures += 1
                LOG.error("%d of the requests failed: %s", num_requests, reason)
            if tokens or finished:
                self._tell(tokens, finished)

    def _take(self) -> bool:
        """Do what the inbox says; waits a moment where there is nothing else to do. False: the end."""
        wait = not self._engine.busy
        while True:
            try:
                item = self._inbox.get(timeout=IDLE_SECONDS) if wait else self._inbox.get_nowait()
            except Empty:
                return True
            wait = False
            if item is None:
                return False
            try:
                if isinstance(item, int):
                    self._engine.cancel(item)
                    self._live.discard(item)
                else:
                    self._engine.add(item)
                    self._live.add(item.key)
            except Exception as error:  # this request alone cannot be answered
                if isinstance(item, Request):
                    self._tell([], [_failed(item.key, error)])

    def _fail_all(self, error: Exception) -> None:
        self.num_failures += 1
        self._engine.abandon()
        failed, self._live = self._live, set()
        self._tell([], [_failed(key, error) for key in failed])

    def _tell(self, tokens: Sequence[Token], finished: Sequence[Finished]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._hand_out, tokens, finished)
        except RuntimeError:  # the loop is closed: nobody waits
            LOG.debug("nobody waits for the engine any more")

    # ── in the event loop ─────────────────────────────────────────────────────────────────────────────────────

    def _hand_out(self, tokens: Sequence[Token], finished: Sequence[Finished]) -> None:
        """Sort what came by requests; those that are finished leave."""
        found: defaultdict[int, list[Token]] = defaultdict(list)
        for token in tokens:
            found[token.key].append(token)
        ended = {one.key: one for one in finished}
        for key in found.keys() | ended.keys():
            ticket = self._tickets.get(key)
            if ticket is not None:
                ticket.put(found.get(key, []), ended.get(key))
            if key in ended:
                self._tickets.pop(key, None)


def _failed(key: int, error: Any) -> Finished:
    reason = error if isinstance(error, EngineError) else EngineError(f"the engine failed: {error}")
    return Finished(key, Generation("", 0, "error"), reason)
