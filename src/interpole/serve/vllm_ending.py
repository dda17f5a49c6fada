"""How vLLM's own server ends: whoever is in flight gets an answer or an error, what is new a 503, and nothing waits for ever.

On SIGTERM and Ctrl-C vLLM finishes what its engine has (`--shutdown-timeout`); a second signal ends at once. Where the engine
dies, the server stays for a moment, then lets in nobody more, and ends a moment later: whoever was let in is told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from interpole.serve.errors import RequestError

__all__ = ["ENDING", "Cut", "Ending"]

LINGER_SECONDS = 3.0
"""For how long a server whose engine died goes on telling so: to whoever comes, and then to who has a connection open."""
TELL_SECONDS = 20.0
"""After how long without an engine those who still have no end of their response are told an error."""
GRACE_SECONDS = 30.0
"""What a server has to end in once its engine has."""
RETRY_AFTER_SECONDS = 5


class Cut(Exception):  # noqa: N818
    """A response that will not be finished."""


class Ending:
    """Of one server process.

    Attributes:
        told: a signal has said to end.
        engine_ended: there is no engine any more.
        exit_code: that of the engine that died before anybody told the server to end; None: none did.
    """

    def __init__(self) -> None:
        self.told = self.engine_ended = False
        self.exit_code: int | None = None
        self._hurry = threading.Event()
        self._engines: list[BaseProcess] = []
        self._active = set[asyncio.Task[Any]]()
        self._cut = set[asyncio.Task[Any]]()

    def watch(self, server: Any = None) -> None:
        """Begin, in the event loop of a server that starts; `server`: uvicorn's, which ends by `should_exit`."""
        self._engines = active_children()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):  # vLLM hears of them all the same, by its loop's descriptor
                signal.signal(number, partial(self._hear, signal.getsignal(number)))
        if self._engines:
            args = asyncio.get_running_loop(), server
            threading.Thread(target=self._follow, args=args, daemon=True).start()

    def check(self) -> None:
        """Refuse what is new.

        Raises:
            RequestError: 503: the server ends.
        """
        if self.told or self.engine_ended:
            what = "the server is shutting down" if self.told else "the engine has ended, and the server ends"
            raise RequestError(
                what, "server_error", code="shutting_down", status=503, retry_after_seconds=RETRY_AFTER_SECONDS
            )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Around the work for one request.

        Raises:
            Cut: it will not be finished, since the engine is gone.
        """
        task = asyncio.current_task()
        assert task is not None
        self._active.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._cut:
                raise
        finally:
            self._active.discard(task)
        if task in self._cut:
            self._cut.remove(task)
            task.uncancel()
            raise Cut

    def _hear(self, before: Any, number: int, frame: Any) -> None:
        """Note a signal; at the second one, end."""
        if self.told:
            self._hurry.set()
            for engine in self._engines:
                engine.kill()
        self.told = True
        if callable(before):
            before(number, frame)

    def _follow(self, loop: asyncio.AbstractEventLoop, server: Any) -> None:
        """Wait for an engine to end, and then not for ever for the server; in a thread of its own."""
        gone = wait([engine.sentinel for engine in self._engines])
        if not self.told:
            self.exit_code = next(_exit_code(engine) for engine in self._engines if engine.sentinel in gone)
        loop.call_soon_threadsafe(self._on_engine_ended, loop, server)
        if self._hurry.wait(GRACE_SECONDS):
            time.sleep(min(1.0, GRACE_SECONDS))
        else:
            what = f"the engine has ended, the server not within {GRACE_SECONDS:g} s: it is cut off"
            print(what, file=sys.stderr, flush=True)
        os._exit(0 if self.exit_code is None else 1)

    def _on_engine_ended(self, loop: asyncio.AbstractEventLoop, server: Any) -> None:
        self.engine_ended = True
        loop.call_later(0.0 if self._hurry.is_set() else TELL_SECONDS, self._cut_off)
        if not self.told and server is not None:
            loop.call_later(LINGER_SECONDS, self._stop_listening, loop, server)

    def _stop_listening(self, loop: asyncio.AbstractEventLoop, server: Any) -> None:
        """Let in nobody more; whoever is in is still answered."""
        for one in server.servers:
            one.close()
        loop.call_later(LINGER_SECONDS, setattr, server, "should_exit", True)

    def _cut_off(self) -> None:
        for task in self._active - self._cut:
            self._cut.add(task)
            task.cancel()


def _exit_code(engine: BaseProcess) -> int:
    """That of a process whose sentinel has been seen, which may be a moment before it can be asked; 1 where nobody knows."""
    for _ in range(100):
        if engine.exitcode is not None:
            return engine.exitcode
        time.sleep(0.01)
    return 1


ENDING = Ending()
"""That of this process."""
