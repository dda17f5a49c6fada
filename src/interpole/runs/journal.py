"""Answers on disk as they come, one line each: what a sweep that is killed, or an engine that dies, does not ask for again.

A journal belongs to one log while it is being made, and is deleted when the log is whole.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

from interpole.errors import OutputError
from interpole.records import Generation, Sampler

if TYPE_CHECKING:
    from interpole.engines.provider import Answer

__all__ = ["Journal", "OnAnswer", "num_answers"]

OnAnswer = Callable[[Generation, bool], None]
"""Takes an answer, and whether it is new."""


class Journal:
    """Answers prompts from `path` where it can, and by `answer` where it must; what is new is appended.

    Attributes:
        num_generated: how many answers were new.
    """

    def __init__(self, path: Path, answer: Answer, on_answer: OnAnswer) -> None:
        """Read what is there; `on_answer` is told of every answer, in any thread."""
        self._path, self._answer, self._on_answer = path, answer, on_answer
        self._known = _lines(path, mend=True)
        self._lock = threading.Lock()
        self.num_generated = 0

    def answer(self, prompt: str, sampler: Sampler, seed: int) -> Future[Generation]:
        """The response to a prompt with these settings and this seed."""
        key = hashlib.sha256(json.dumps([prompt, astuple(sampler), seed]).encode()).hexdigest()[:32]
        future: Future[Generation] = Future()
        if (known := self._known.get(key)) is not None:
            self._on_answer(known, False)
            future.set_result(known)
            return future

        def keep(done: Future[Generation]) -> None:
            try:
                generation = done.result()
                self._append(key, generation)
            except Exception as error:  # passed on to whoever awaits the answer
                future.set_exception(error)
                return
            self._on_answer(generation, True)
            if not future.cancelled():
                future.set_result(generation)

        self._answer(prompt, sampler, seed).add_done_callback(keep)
        return future

    def _append(self, key: str, generation: Generation) -> None:
        line = json.dumps([key, *astuple(generation)]) + "\n"
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                self.num_generated += 1
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", self._path, "free some space; then go on") from error


def num_answers(path: Path) -> int:
    """How many answers the journal at `path` holds; none where there is no journal."""
    return len(_lines(path))


def _lines(path: Path, *, mend: bool = False) -> dict[str, Generation]:
    """Answers by key. A last line that is not whole is left out; `mend` cuts it off the file, for whoever appends next."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if mend and len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows = (json.loads(line) for line in whole.splitlines())
    return {key: Generation(*fields) for key, *fields in rows}
