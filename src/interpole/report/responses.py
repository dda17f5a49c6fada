"""Responses that wait on disk until the page's questions are packed, so that memory holds a few of 100,000 at a time.

A run's logs go point by point, the page goes question by question: between the two every text is written once to a file that
has no name, no more of a long one than a page may show, and read once.
"""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from interpole.chat import Markers, ParsedResponse, Span, ThinkFormat
from interpole.errors import OutputError
from interpole.records import Sample
from interpole.systems import read_at

__all__ = ["MAX_CHARS", "Parse", "Record", "Responses", "Stretch", "as_it_stands"]

MAX_CHARS = 9000  # kept of a long response, or fewer where the budget allows no more
HEAD_SHARE = 2 / 3  # of what is kept is the beginning of the response, the rest its end
WHERE = "where temporary files go (TMPDIR)"
Parse = Callable[[Sample], ParsedResponse]
Stretch = tuple[str, str | int]
"""A kind of `Span` and its text, or `gap` and how many characters are left out."""


def as_it_stands(sample: Sample) -> ParsedResponse:
    """A response read apart where nothing is known of its prompt."""
    return ThinkFormat(Markers("<think>", "</think>")).parse(sample.response, sample.finish)


class Record(NamedTuple):
    """A response as it waits: its length, and what is kept of it in bytes."""

    num_chars: int
    data: bytes

    @classmethod
    def of(cls, response: str, spans: Iterable[Span] | None) -> Record:
        """Of a text in stretches; None: it must not be shown."""
        if spans is None:
            return cls(len(response), b"")
        head = round(HEAD_SHARE * MAX_CHARS)
        kept = response if len(response) <= MAX_CHARS else response[:head] + response[head - MAX_CHARS :]
        return cls(len(response), marshal.dumps(([tuple(span) for span in spans], kept)))


class Responses:
    """What `put` was given, by the places of the samples that `arrange` was given."""

    def __init__(self) -> None:
        """Open the file."""
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it ends with this object)
        except OSError as error:
            raise OutputError(f"no temporary file: {error.strerror}", WHERE, "free some space") from error
        self._at, self._num_chars = array("q", [0]), array("q")  # of every response that was put; of the file's end
        self._rows: dict[int, int] = {}  # of samples that are not arranged yet, by identity
        self._order = array("q")  # the row of every sample

    @classmethod
    def of(cls, samples: Sequence[Sample], parse: Parse, private: Collection[str]) -> Responses:
        """The responses of samples that hold them; texts of `private` tasks are left out."""
        made = cls()
        for sample in samples:
            spans = None if sample.task in private else parse(sample).spans
            made.put(sample, Record.of(sample.response, spans))
        made.arrange(samples)
        return made

    def put(self, sample: Sample, record: Record) -> None:
        """Write a response down.

        Raises:
            OutputError: the disk is full.
        """
        try:
            self._file.write(record.data)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", WHERE, "free some space") from error
        self._rows[id(sample)] = len(self._num_chars)
        self._num_chars.append(record.num_chars)
        self._at.append(self._at[-1] + len(record.data))

    def arrange(self, samples: Iterable[Sample]) -> None:
        """Say which samples come next; all were `put`.

        Raises:
            OutputError: the disk is full.
        """
        self._order.extend(self._rows[id(sample)] for sample in samples)
        self._rows = {}
        try:
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", WHERE, "free some space") from error

    @property
    def lengths(self) -> np.ndarray:
        """(N,) characters of every response."""
        return np.array(self._num_chars, dtype=np.int64)[np.array(self._order, dtype=np.int64)]

    def parts(self, number: int, keep: int) -> list[Stretch]:
        """A sample's response in stretches: `keep` characters of it, at most `MAX_CHARS`; nothing where it must not be shown."""
        row = self._order[number]
        at, end = self._at[row], self._at[row + 1]
        if at == end:
            return []
        data = bytearray(end - at)
        read_at(self._file.fileno(), memoryview(data), at)
        spans, text = marshal.loads(data)  # our own file
        return _parts(text, self._num_chars[row], spans, keep)


def _parts(text: str, num_chars: int, spans: Sequence[tuple[str, int, int]], keep: int) -> list[Stretch]:
    """A response as (kind, text) in order; `gap` stands for so many characters left out of the middle.

    Args:
        text: the response, or the beginning and the end of it.
        num_chars: its length.
        spans: its stretches.
        keep: how many characters to give.
    """
    cut = num_chars - keep
    if cut <= 0:
        return [(kind, text[start:end]) for kind, start, end in spans if start < num_chars]
    head, out = round(HEAD_SHARE * keep), num_chars - len(text)  # `out`: left out of the text already
    first = [(kind, text[start : min(end, head)]) for kind, start, end in spans if start < head]
    last = [(kind, text[max(head + cut, start) - out : end - out]) for kind, start, end in spans if end > head + cut]
    return [*first, ("gap", cut), *last]
