"""Answers on disk as they come, one line each: what a sweep that is killed, or an engine that dies, does not ask for again.

A journal belongs to one log while it is being made, and is deleted when the log is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from interpole.engines.base import Answer
from interpole.errors import EngineError, OutputError, RunError
from interpole.files import open_regular, open_to_append
from interpole.records import Generation, Sampler
from interpole.runs.runfile import Part

__all__ = ["JOURNAL", "Journal", "journal_path", "num_answers"]

JOURNAL = ".answers.jsonl"
"""How the name of a journal ends."""
OnAnswer = Callable[[Generation, bool], None]
"""Takes an answer, and whether it is new."""
_START = re.compile(rb'\["[0-9a-f]{32}", ')
"""How a line begins; within an answer's text the quotes would be escaped."""


class Journal:
    """Answers prompts from `path` where it can, and by `answer` where it must; what is new is appended.

    Attributes:
        num_generated: how many answers were new.
    """

    def __init__(self, path: Path, answer: Answer, on_answer: OnAnswer) -> None:
        """Read what is there; `on_answer` is told of every answer.

        Raises:
            RunError: it cannot be read.
        """
        self._path, self._answer, self._on_answer = path, answer, on_answer
        content = _content(path)
        self._known = _lines(content)
        self._torn = bool(content) and not content.endswith(b"\n")
        self.num_generated = 0

    async def answer(self, prompt: str, sampler: Sampler, seed: int) -> Generation:
        """The response to a prompt with these settings and this seed.

        Raises:
            InterpoleError: there is none, or it cannot be written down.
        """
        key = _key(prompt, sampler, seed)
        known = self._known.get(key)
        generation = await self._answer(prompt, sampler, seed) if known is None else known
        if known is None:
            self._append(key, generation)
        self._on_answer(generation, known is None)
        return generation

    def knows(self, prompt: str, sampler: Sampler, seed: int) -> bool:
        """Whether the response is there."""
        return _key(prompt, sampler, seed) in self._known

    def _append(self, key: str, generation: Generation) -> None:
        line = json.dumps([key, *astuple(generation)]) + "\n"
        try:
            with open_to_append(self._path) as file:
                file.write((("\n" if self._torn else "") + line).encode())
        except OSError as error:
            self._torn = True  # part of the line may be there: the next one begins on its own
            raise OutputError(f"cannot write: {error.strerror}", self._path, "free some space; then go on") from error
        self._torn = False
        self.num_generated += 1


def _key(prompt: str, sampler: Sampler, seed: int) -> str:
    return hashlib.sha256(json.dumps([prompt, astuple(sampler), seed]).encode()).hexdigest()[:32]


def journal_path(folder: Path, part: Part) -> Path:
    """Where the answers of a part are kept until its log is whole."""
    block = f"-problem-{part.block.first}-{part.block.num}" if part.block else ""
    return folder / f"sample-{part.first_sample}{block}{JOURNAL}"


def num_answers(path: Path) -> int:
    """How many answers the journal at `path` holds; none where there is no journal.

    Raises:
        RunError: it cannot be read.
    """
    return len(_lines(_content(path)))


def _content(path: Path) -> bytes:
    """What a journal holds; nothing where there is none.

    Raises:
        RunError: something else is in its place.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        what = f"the answers kept so far cannot be read: {error.strerror}"
        raise RunError(what, path, "remove it; what it held is asked for again") from None


def _lines(content: bytes) -> dict[str, Generation]:
    """Answers by key. What is torn, by a crash or a full disk, costs that answer alone."""
    return dict(answer for line in content.split(b"\n") if (answer := _answer_in(line)) is not None)


def _answer_in(line: bytes) -> tuple[str, Generation] | None:
    """The key and answer that a line ends with: half of another may stand before them. None where there is none."""
    starts = [match.start() for match in _START.finditer(line)]
    try:
        key, *fields = json.loads(line[starts[-1] :])
        return key, Generation(*fields)
    except (IndexError, ValueError, TypeError, RecursionError, EngineError):
        return None
