"""An engine in a child process, spoken to in lines of JSON: it uses a core of its own, and may die, hang or run out of memory.

A failure costs the responses in flight; they are asked for again from a new child at the same weights. After `max_failures` at
one place all that is left there fails with an `EngineError`, and the next `load` starts afresh. The child is `engines.child`.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from interpole import errors
from interpole.errors import EngineError, InterpoleError, printable
from interpole.records import Chance, Generation, Sampler
from interpole.waiting import LongWait

__all__ = ["COMMAND", "START_SECONDS", "EngineProcess"]

Message = dict[str, Any]
COMMAND = (sys.executable, "-P", "-m", "interpole.engines.child")
MOST_NOTICE = 600  # characters
ANSWERS = ("generation", "chance", "fingerprint", "versions")  # what a reply holds, by what was asked for
NOTHING: Mapping[str, str] = MappingProxyType({})
START_SECONDS = 20.0
"""How much longer than `hang_seconds` a child may be silent that starts, opens or loads: imports hold up all its threads."""


class _Asked(NamedTuple):
    """A message that is to be answered, and where the answer is awaited."""

    message: Message
    reply: Future[Any]


class EngineProcess:
    """Keeps an engine alive in a child process. `answer` may be awaited in any event loop, in any thread.

    Attributes:
        failures: how often the engine failed since the last `load`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        command: Sequence[str] = COMMAND,
        environ: Mapping[str, str] = NOTHING,
        max_failures: int = 3,
        hang_seconds: float = 600.0,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start the child; returns at once, while it loads.

        Args:
            spec: what the child's engine is opened with, as JSON.
            command: the program to run; it speaks as `engines.child` does.
            environ: variables of the child's environment besides ours, e.g. which device it may use.
            max_failures: how many failures of one place are borne.
            hang_seconds: how long a child that should generate may stand still, though it lives.
            report: told in a sentence of every failure, and of what the engine waits for where it says so.
        """
        self._command, self._max_failures, self._hang_seconds = command, max_failures, hang_seconds
        self._environ, self._report = dict(environ), report
        self._lock = threading.Lock()
        self._num_keys = 0
        self._open: Message = {"do": "open", "spec": dict(spec)}
        self._place: Message | None = None  # the last `load` that was answered, and what it answered
        self._fingerprint = ""
        self._patience_seconds = 0.0
        self._num_repeated = 0  # orders that a new child was given again and has not carried out yet
        self._pending: dict[int, _Asked] = {}
        self._child: subprocess.Popen[str] | None = None
        self._outbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._given_up: InterpoleError | None = None
        self._closed = False
        self.failures = 0
        _, self._opened = self._send(self._open)
        self._start()

    @property
    def given_up(self) -> InterpoleError | None:
        """Why it is not started any more, until the next `load`; None: it is alive, or being started."""
        with self._lock:
            return self._given_up

    def versions(self) -> dict[str, str]:
        """The engine's `versions`; blocks until it is open.

        Raises:
            InterpoleError: it cannot be opened.
        """
        return dict(self._opened.result())

    def load(self, where: Any) -> str:
        """Go to other weights; blocks until they are in place. Returns their fingerprint.

        Raises:
            InterpoleError: they cannot be loaded, answers are still awaited, or the engine keeps failing.
        """
        return self.start_load(where).result()

    def start_load(self, where: Any) -> Future[str]:
        """`load` that returns at once; its result comes later."""
        with self._lock:
            self.failures, self._place = 0, None
            restart, self._given_up = self._given_up is not None, None
            alone = not any(asked.message["do"] == "generate" for asked in self._pending.values())
        _, reply = self._send({"do": "load", "where": where, "alone": alone})
        if restart:
            self._start()
        return reply

    def start_answer(
        self, prompt: str, sampler: Sampler, seed: int, begins: str | None = None, lam: float | None = None
    ) -> tuple[int, Future[Any]]:
        """Ask for the response to a prompt, or for how likely it `begins` with a text; at `lam`, where the engine takes that.

        Returns:
            The request's key, with which it is forgotten, and where the `Generation` or `Chance` comes.
        """
        message = {"do": "generate", "prompt": prompt, "sampler": asdict(sampler), "seed": seed}
        own = {name: value for name, value in (("begins", begins), ("lam", lam)) if value is not None}
        return self._send(message | own)

    def forget(self, key: int) -> None:
        """Nobody waits for this response any more: it is lost, and not asked for again."""
        with self._lock:
            self._pending.pop(key, None)

    async def answer(self, prompt: str, sampler: Sampler, seed: int) -> Generation:
        """The response to a prompt. Where this is cancelled, nobody waits for the response any more, and it is lost.

        Raises:
            EngineError: there is none.
        """
        generation: Generation = await self._reply(*self.start_answer(prompt, sampler, seed))
        return generation

    async def chance(self, prompt: str, begins: str, sampler: Sampler) -> Chance:
        """How likely the response to a prompt begins with a text; nothing is generated.

        Raises:
            EngineError: the engine cannot say.
        """
        chance: Chance = await self._reply(*self.start_answer(prompt, sampler, 0, begins))
        return chance

    async def _reply(self, key: int, reply: Future[Any]) -> Any:
        """Await a reply; nobody waits for it any more where this is cancelled."""
        try:
            return await asyncio.wrap_future(reply)
        finally:
            self.forget(key)

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

    def _send(self, message: Message) -> tuple[int, Future[Any]]:
        """Note the message as pending and send it to the child, if there is one. Returns its key, and where its reply comes."""
        reply: Future[Any] = Future()
        with self._lock:
            if self._given_up or self._closed:
                reply.set_exception(self._given_up or EngineError("the engine is closed"))
                return 0, reply
            self._num_keys += 1
            self._pending[self._num_keys] = _Asked(message, reply)
            self._post(self._num_keys, message)
            return self._num_keys, reply

    def _post(self, key: int, message: Message) -> None:
        self._outbox.put(json.dumps({"key": key} | message) + "\n")

    def _start(self) -> None:
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def _supervise(self) -> None:
        """Run children, one after the other, until closed or given up."""
        while True:
            try:
                with TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
                    reason = self._run_child(log)
                    tail = _tail(log)
            except OSError as problem:  # no memory, no room for its log, no such program
                reason, tail = f"cannot be run: {problem}", ""
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
            self._tell(f"the engine {reason}; starting another ({self.failures} of {self._max_failures}). {tail}")
        if not self._closed:
            self._tell(f"the engine {reason}; given up after {self._max_failures} restarts")
        for asked in abandoned.values():
            _settle(asked.reply, error)

    def _tell(self, text: str) -> None:
        """Report; whatever the listener does wrong, the engine goes on."""
        try:
            self._report(text)
        except Exception as error:
            print(printable(f"{text}\n(and this could not be shown: {error!r})"), file=sys.stderr)

    def _run_child(self, log: IO[str]) -> str:
        """Start a child, tell it all that is pending, and listen to it. Returns why it ended, in words."""
        with self._lock:
            if self._closed:
                return "was closed"
            self._child = child = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                env=os.environ | self._environ,
            )  # fmt: skip
            self._num_repeated = 0
            self._outbox = outbox = queue.SimpleQueue[str | None]()
            for message in (self._open, self._place):  # unless they are pending, they were answered before
                if message is not None and not any(message is asked.message for asked in self._pending.values()):
                    self._num_repeated += 1
                    self._post(0, message)
            for key, asked in self._pending.items():
                self._post(key, asked.message)
        writer = threading.Thread(target=_write, args=(outbox, child.stdin), daemon=True)
        writer.start()
        try:
            return self._listen(child)
        finally:
            child.kill()
            child.wait()
            outbox.put(None)
            writer.join(5.0)

    def _listen(self, child: subprocess.Popen[str]) -> str:
        """Take the child's replies until it ends, hangs or fails. Returns why, in words."""
        inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(child.stdout, inbox), daemon=True).start()
        buffer, heard, moved, progress, long_wait = b"", time.monotonic(), time.monotonic(), -1, LongWait()
        while True:
            with suppress(queue.Empty):
                data = inbox.get(timeout=min(1.0, self._hang_seconds))
                if not data:
                    return f"ended with exit status {child.wait()}"
                heard = time.monotonic()
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    try:
                        reply = json.loads(line)
                        problem = self._receive(reply)
                        if reply["key"] >= 0 or reply["progress"] != progress or not self._generating():
                            moved, progress = heard, reply.get("progress", progress)
                    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, EngineError) as error:
                        return f"answered what makes no sense ({error}): {line[:200].decode(errors='replace')}"
                    if problem:
                        return problem
            now = time.monotonic()
            if hung := self._hangs(now - heard, now - moved):
                return hung
            if words := long_wait.words(self._waited_for()):
                self._tell(f"the engine {words}")

    def _hangs(self, silent_seconds: float, still_seconds: float) -> str:
        """What is wrong with a child that has said nothing, and whose engine has not moved, for so long."""
        if silent_seconds > self._hang_seconds + START_SECONDS:
            return f"was silent for {silent_seconds:.0f} s"
        if self._generating() and still_seconds > max(self._hang_seconds, self._patience_seconds):
            return f"stood still for {still_seconds:.0f} s"
        return ""

    def _generating(self) -> bool:
        """Whether answers are due: opening and loading may take any time, generating may not stand still."""
        with self._lock:
            waiting = [asked.message["do"] for asked in self._pending.values()]
            return bool(waiting) and not self._num_repeated and set(waiting) == {"generate"}

    def _waited_for(self) -> str:
        """What the child does that may take any time."""
        with self._lock:
            asked = {asked.message["do"] for asked in self._pending.values()}
            if "open" in asked or self._num_repeated:
                return "opening"
            return "moving its weights" if "load" in asked else ""

    def _receive(self, reply: Message) -> str:
        """Pass a reply on. Returns what is wrong where a new child did not reach the old one's weights."""
        if reply["key"] > 0 and not any(name in reply for name in (*ANSWERS, "error")):
            raise EngineError("no answer")
        if "generation" in reply:
            reply["generation"] = Generation(*reply["generation"])
        if "chance" in reply:
            reply["chance"] = Chance(*reply["chance"])
        if reply.get("notice"):
            self._tell(str(reply["notice"])[:MOST_NOTICE])
        if "versions" in reply:
            self._patience_seconds = float(reply["patience_seconds"])
        with self._lock:
            asked = self._pending.pop(reply["key"], None)
            self._num_repeated -= reply["key"] == 0
            if "fingerprint" in reply:
                if asked is not None:
                    self._place, self._fingerprint = asked.message, reply["fingerprint"]
                elif reply["fingerprint"] != self._fingerprint:
                    return "found other weights than before: the sources were changed"
        if "error" in reply and reply["key"] == 0:
            return f"could not be restarted: {reply['error'][0]}"
        if asked is not None and "error" in reply:
            _settle(asked.reply, getattr(errors, reply["type"], EngineError)(*reply["error"]))
        elif asked is not None:
            _settle(asked.reply, next(reply[name] for name in ANSWERS if name in reply))
        return ""


def _settle(future: Future[Any], result: Any) -> None:
    """Hand a result to whoever still waits for it."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _read(pipe: IO[str], inbox: queue.SimpleQueue[bytes]) -> None:
    """Pass on what a child says, by a thread, since not every system can wait for a pipe and a time; at its end nothing."""
    with pipe, suppress(OSError):
        while data := os.read(pipe.fileno(), 1 << 20):
            inbox.put(data)
    inbox.put(b"")


def _write(outbox: queue.SimpleQueue[str | None], pipe: IO[str]) -> None:
    """Write lines to a child until there are no more; a child that reads nothing holds up nobody else."""
    with suppress(OSError, ValueError):  # it died: the next child is sent all that is pending
        while (line := outbox.get()) is not None:
            pipe.write(line)
            pipe.flush()
    with suppress(OSError):
        pipe.close()


def _tail(log: IO[str]) -> str:
    """The last lines of a child's standard error."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
    return "\n".join(log.read().strip().splitlines()[-6:])
