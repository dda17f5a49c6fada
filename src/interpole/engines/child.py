"""The child process of `engines.process`: an engine driven by lines of JSON (`python -m interpole.engines.child`).

It hears its orders on standard input and answers on standard output; both are put aside first, so that no library reads orders as
its own input (a prompt gets an end of file) or writes between the answers. All the time it says that it lives, and how far its
engine has come, whatever its engine is doing. It dies with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple
from typing import IO, Any

from interpole.engines.base import Engine, Request
from interpole.engines.open import open_engine
from interpole.errors import EngineError, InterpoleError
from interpole.merging.recipe import build
from interpole.records import Sampler

__all__ = ["serve"]

Message = dict[str, Any]
BEAT_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Voice:
    """What the child says: one line per message, from two threads."""

    def __init__(self, out: IO[str]) -> None:
        self._out, self._lock = out, threading.Lock()
        self.engine: Engine | None = None

    def say(self, key: int, **content: Any) -> None:
        with self._lock:
            self._out.write(json.dumps({"key": key} | content) + "\n")

    def fail(self, key: int, error: InterpoleError) -> None:
        self.say(key, type=type(error).__name__, error=[error.what, error.where, error.remedy])

    def beat(self) -> None:
        """Say for ever that the child lives, and each notice of its engine once."""
        said = ""
        while True:
            notice = "" if self.engine is None else self.engine.notice
            news, said = {"notice": notice} if notice != said else {}, notice
            with suppress(OSError, ValueError):  # the parent has gone: `_orders` ends the process
                self.say(-1, progress=0 if self.engine is None else self.engine.progress, **news)
            time.sleep(BEAT_SECONDS)


def serve(open_spec: Callable[[Message], Engine]) -> None:
    """Open an engine as told on standard input, and answer there until it closes.

    What the engine itself prints goes to standard error. An error while generating ends the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _die_with_parent()
    voice = _Voice(os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8"))
    os.dup2(2, 1)
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(orders, inbox), daemon=True).start()
    threading.Thread(target=voice.beat, daemon=True).start()
    running: set[int] = set()
    while True:
        for message in _waiting(inbox, running):
            try:
                _obey(message, voice, running, open_spec)
            except InterpoleError as error:
                voice.fail(message["key"], error)
        _advance(_opened(voice.engine), voice, running)


def _waiting(inbox: queue.SimpleQueue[Message], running: set[int]) -> Iterator[Message]:
    """Orders that have come; while nothing is running, the next one is waited for."""
    while not running or not inbox.empty():
        yield inbox.get()


def _obey(message: Message, voice: _Voice, running: set[int], open_spec: Callable[[Message], Engine]) -> None:
    """Do what an order says.

    Raises:
        InterpoleError: it cannot be done.
    """
    key = message["key"]
    match message["do"]:
        case "open":
            voice.engine = open_spec(message["spec"])
            voice.say(key, versions=voice.engine.versions(), patience_seconds=voice.engine.patience_seconds)
        case "load":
            engine = _opened(voice.engine)
            if message["alone"]:  # whoever asked for what is still running no longer waits for it
                engine.abandon()
                running.clear()
            voice.say(key, fingerprint=engine.load(message["where"]))
        case _:
            sampler = Sampler(**message["sampler"])
            own = {name: message[name] for name in ("begins", "lam") if name in message}
            _opened(voice.engine).add(Request(key, message["prompt"], sampler, message["seed"], **own))
            running.add(key)


def _advance(engine: Engine, voice: _Voice, running: set[int]) -> None:
    """One step of the engine; what finished is said."""
    try:
        finished = engine.step()
    except InterpoleError as error:
        sys.exit(str(error))  # the parent reads it from the log
    for key, generation, failure, chance in finished:
        running.discard(key)
        if failure is not None:
            voice.fail(key, failure)
        elif chance is not None:
            voice.say(key, chance=astuple(chance))
        else:
            voice.say(key, generation=astuple(generation))
    if running and not engine.busy:
        sys.exit(f"the engine lost {len(running)} requests")


def _opened(engine: Engine | None) -> Engine:
    if engine is None:
        raise EngineError("the engine could not be opened")
    return engine


def _read(orders: IO[str], inbox: queue.SimpleQueue[Message]) -> None:
    for line in orders:
        inbox.put(json.loads(line))
    os._exit(0)  # the parent has gone, or has closed us


def _die_with_parent() -> None:
    """Have the system end this process with its parent, also while it is stopped; elsewhere the closed pipe does it."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went in between
        os._exit(0)


def _open(spec: Mapping[str, Any]) -> Engine:
    recipe = build(spec["recipe"], "the recipe") if spec["recipe"] else None
    return open_engine(spec["engine"], recipe, per_request=spec.get("per_request", False), **spec.get("options", {}))


if __name__ == "__main__":
    serve(_open)
