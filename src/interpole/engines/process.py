"""An engine in a child process, spoken to in lines of JSON: it uses a core of its own, and may die, hang or run out of memory.

A failure costs the responses in flight; they are asked for again from a new child at the same weights. After `max_failures` at
one place all that is left there fails with an `EngineError`, and the next `load` starts afresh.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any

from interpole import errors
from interpole.engines.base import Engine, Request
from interpole.errors import EngineError, InterpoleError
from interpole.records import Generation, Sampler

__all__ = ["EngineProcess", "serve"]

Message = dict[str, Any]
COMMAND = (sys.executable, "-m", "interpole.engines.open")


class EngineProcess:
    """Keeps an engine alive in a child process. `submit` may be called from any thread.

    Attributes:
        failures: how often the engine failed since the last `load`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        command: Sequence[str] = COMMAND,
        max_failures: int = 3,
        hang_seconds: float = 600.0,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start the child; returns at once, while it loads.

        Args:
            spec: what the child's engine is opened with, as JSON.
            command: the program to run; it must call `serve`.
            max_failures: how many failures of one place are borne.
            hang_seconds: how long a child that should generate may be silent (it is heard from every second).
            report: told in a sentence of every failure.
        """
        self._command, self._max_failures, self._hang_seconds = command, max_failures, hang_seconds
        self._report = report
        self._lock = threading.Lock()
        self._num_keys = 0
        self._open: Message = {"do": "open", "spec": dict(spec)}
        self._place: Message | None = None  # the last `load` that was answered, and what it answered
        self._fingerprint = ""
        self._pending: dict[int, tuple[Message, Future[Message]]] = {}
        self._child: subprocess.Popen[str] | None = None
        self._given_up: InterpoleError | None = None
        self._closed = False
        self.failures = 0
        self._opened = self._send(self._open)
        self._start()

    def versions(self) -> dict[str, str]:
        """The engine's `versions`; blocks until it is open.

        Raises:
            InterpoleError: it cannot be opened.
        """
        return dict(self._opened.result()["versions"])

    def load(self, where: Any) -> str:
        """Go to other weights; blocks until they are in place. Returns their fingerprint.

        Raises:
            InterpoleError: they cannot be loaded, or the engine keeps failing.
        """
        with self._lock:
            self.failures, self._place = 0, None
            restart, self._given_up = self._given_up is not None, None
        message = {"do": "load", "where": where}
        future = self._send(message)
        if restart:
            self._start()
        return str(future.result()["fingerprint"])

    def submit(self, prompt: str, sampler: Sampler, seed: int) -> Future[Generation]:
        """Ask for a response; the future may hold an `EngineError`."""
        settings = {name: getattr(sampler, name) for name in Sampler.__slots__}
        reply = self._send({"do": "generate", "prompt": prompt, "sampler": settings, "seed": seed})
        answer: Future[Generation] = Future()

        def pass_on(reply: Future[Message]) -> None:
            if answer.cancelled():
                return
            if error := reply.exception():
                answer.set_exception(error)
            else:
                answer.set_result(reply.result()["generation"])

        reply.add_done_callback(pass_on)
        return answer

    def close(self) -> None:
        """End the child; what is in flight fails."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.kill()
            self._supervisor.join()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: Message) -> Future[Message]:
        """Note the message as pending and write it to the child, if there is one."""
        future: Future[Message] = Future()
        with self._lock:
            if self._given_up or self._closed:
                future.set_exception(self._given_up or EngineError("the engine is closed"))
                return future
            self._num_keys += 1
            self._pending[self._num_keys] = (message, future)
            self._write(self._num_keys, message)
        return future

    def _write(self, key: int, message: Message) -> None:
        if self._child is None or self._child.stdin is None:
            return
        with suppress(BrokenPipeError, ValueError):  # it died: the supervisor will send all that is pending to the next
            self._child.stdin.write(json.dumps({"key": key} | message) + "\n")
            self._child.stdin.flush()

    def _start(self) -> None:
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def _supervise(self) -> None:
        """Run children, one after the other, until closed or given up."""
        while True:
            with TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
                reason = self._run_child(log)
                tail = _tail(log)
            with self._lock:
                self._child = None
                self.failures += 1
                if self._closed or self.failures > self._max_failures:
                    error = EngineError(
                        "the engine was closed"
                        if self._closed
                        else f"the engine failed {self.failures} times: {reason}",
                        tail,
                        "see what it wrote last, above; then run the same command again: nothing finished is lost",
                    )
                    self._given_up, abandoned, self._pending = error, self._pending, {}
                    break
            self._report(f"the engine {reason}; starting another ({self.failures} of {self._max_failures}). {tail}")
        if not self._closed:
            self._report(f"the engine {reason}; given up after {self._max_failures} restarts")
        for _, future in abandoned.values():
            future.set_exception(error)

    def _run_child(self, log: IO[str]) -> str:
        """Start a child, tell it all that is pending, and listen to it. Returns why it ended, in words."""
        with self._lock:
            if self._closed:
                return "was closed"
            self._child = child = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
            )
            first = [self._open, *([self._place] if self._place else [])]
            for message in first:  # answers to these were had before, or are those of pending ones
                if not any(message is waiting for waiting, _ in self._pending.values()):
                    self._write(0, message)
            for key, (message, _) in self._pending.items():
                self._write(key, message)
        try:
            return self._listen(child)
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]

    def _listen(self, child: subprocess.Popen[str]) -> str:
        """Take the child's replies until it ends, hangs or fails. Returns why, in words."""
        pipe = child.stdout.fileno()  # type: ignore[union-attr]
        buffer, heard = b"", time.monotonic()
        while True:
            if not select.select([pipe], [], [], min(1.0, self._hang_seconds))[0]:
                if not self._generating():
                    heard = time.monotonic()
                elif time.monotonic() - heard > self._hang_seconds:
                    return f"was silent for {self._hang_seconds:g} s"
                continue
            data = os.read(pipe, 1 << 20)
            if not data:
                return f"ended with exit status {child.wait()}"
            heard = time.monotonic()
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                try:
                    problem = self._receive(json.loads(line))
                except (ValueError, LookupError, TypeError, EngineError) as error:
                    return f"answered what makes no sense ({error}): {line[:200].decode(errors='replace')}"
                if problem:
                    return problem

    def _generating(self) -> bool:
        """Whether replies are due: opening and loading may take any time, generating may not be silent."""
        with self._lock:
            return bool(self._pending) and all(message["do"] == "generate" for message, _ in self._pending.values())

    def _receive(self, reply: Message) -> str:
        """Pass a reply on. Returns what is wrong where a new child did not reach the old one's weights."""
        if "generation" in reply:
            reply["generation"] = Generation(*reply["generation"])
        with self._lock:
            message, future = self._pending.pop(reply["key"], (None, None))
            if "fingerprint" in reply:
                if message is not None:
                    self._place, self._fingerprint = message, reply["fingerprint"]
                elif reply["fingerprint"] != self._fingerprint:
                    return "found other weights than before: the sources were changed"
        if "error" in reply and reply["key"] == 0:
            return f"could not be restarted: {reply['error'][0]}"
        if future is not None and "error" in reply:
            future.set_exception(getattr(errors, reply["type"], EngineError)(*reply["error"]))
        elif future is not None:
            future.set_result(reply)
        return ""


def serve(open_engine: Callable[[Message], Engine]) -> None:
    """The child's side: open an engine as told on standard input, and answer there until it closes.

    What the engine itself prints goes to standard error. An error while generating ends the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()

    def say(key: int, **content: Any) -> None:
        out.write(json.dumps({"key": key} | content) + "\n")

    engine: Engine | None = None
    running: set[int] = set()
    spoken = time.monotonic()
    while True:
        while not running or not inbox.empty():
            message = inbox.get()
            try:
                if message["do"] == "open":
                    engine = open_engine(message["spec"])
                    say(message["key"], versions=engine.versions())
                elif message["do"] == "load":
                    say(message["key"], fingerprint=_opened(engine).load(message["where"]))
                else:
                    sampler = Sampler(**message["sampler"])
                    _opened(engine).add(Request(message["key"], message["prompt"], sampler, message["seed"]))
                    running.add(message["key"])
            except InterpoleError as error:
                say(message["key"], type=type(error).__name__, error=[error.what, error.where, error.remedy])
        try:
            finished = _opened(engine).step()
        except InterpoleError as error:
            sys.exit(str(error))  # the parent reads it from the log
        for key, generation, failure in finished:
            running.discard(key)
            if failure is not None:
                say(key, type=type(failure).__name__, error=[failure.what, failure.where, failure.remedy])
            else:
                say(key, generation=[generation.text, generation.num_tokens, generation.finish])
        if time.monotonic() - spoken > 1:
            spoken = time.monotonic()
            say(-1)


def _opened(engine: Engine | None) -> Engine:
    if engine is None:
        raise EngineError("the engine could not be opened")
    return engine


def _read(inbox: queue.SimpleQueue[Message]) -> None:
    for line in sys.stdin:
        inbox.put(json.loads(line))
    os._exit(0)  # the parent has gone, or has closed us


def _tail(log: IO[str]) -> str:
    """The last lines of a child's standard error."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
    return "\n".join(log.read().strip().splitlines()[-6:])
