"""Responses that wait on disk until the page's questions are packed, so that memory holds a few of 100,000 at a time.

A run's logs go point by point, the page goes question by question: between the two every text is written once to a file that
has no name, no more of a long one than a page may show, and read once.
"""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from interpole.chat import Markers, Span, ThinkFormat
from interpole.errors import OutputError
from interpole.records import Sample
from interpole.systems import append, read_at

__all__ = ["MAX_CHARS", "Responses", "Spans", "Stretch", "as_it_stands"]

MAX_CHARS = 9000  # kept of a long response, or fewer where the budget allows no more
HEAD_SHARE = 2 / 3  # of what is kept is the beginning of the response, the rest its end
PIECE = 256  # responses that are written at once
PLACE = 3  # numbers that say where a response is
WHERE = "the folder of temporary files (TMPDIR)"
Spans = Callable[[Sample], Iterable[Span] | None]
"""Reads a response apart; None: it must not be shown."""
Stretch = tuple[str, str | int]
"""A kind of `Span` and its text, or `gap` and how many characters are left out."""


def as_it_stands(sample: Sample) -> Iterable[Span]:
    """A response read apart where nothing is known of its prompt."""
    return ThinkFormat(Markers("<think>", "</think>")).spans(sample.response)


class Responses:
    """What `put` was given, by the places of the samples that `arrange` was given."""

    def __init__(self) -> None:
        """Open the file."""
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it ends with this object)
        except OSError as error:
            raise OutputError(f"no temporary file: {error.strerror}", WHERE, "free some space") from error
        self._places = array("q")  # of every response that was put: where it begins, its bytes, its characters
        self._rows: dict[int, int] = {}  # of samples that are not arranged yet, by identity
        self._order = array("q")  # the row of every sample

    @classmethod
    def of(cls, samples: Sequence[Sample], spans: Spans) -> Responses:
        """The responses of samples that hold them."""
        made = cls()
        made.put(samples, made.write(samples, spans))
        made.arrange(samples)
        return made

    def write(self, samples: Iterable[Sample], spans: Spans) -> array[int]:
        """Write responses down, here or in a process that was forked; returns where they are, for `put`.

        Raises:
            OutputError: the disk is full.
        """
        samples, places = iter(samples), array("q")
        while piece := list(islice(samples, PIECE)):
            records = [_record(sample.response, spans(sample)) for sample in piece]
            try:
                at = append(self._file.fileno(), b"".join(records))
            except OSError as error:
                raise OutputError(f"cannot write: {error.strerror}", WHERE, "free some space") from error
            for sample, record in zip(piece, records, strict=True):
                places.extend((at, len(record), len(sample.response)))
                at += len(record)
        return places

    def put(self, samples: Sequence[Sample], places: array[int]) -> None:
        """Take in where the responses of samples are, as `write` gave it."""
        begin = len(self._places) // PLACE
        self._rows |= {id(sample): row for row, sample in enumerate(samples, begin)}
        self._places += places

    def arrange(self, samples: Iterable[Sample]) -> None:
        """Say which samples come next; all were `put`."""
        self._order.extend(self._rows[id(sample)] for sample in samples)
        self._rows = {}

    @property
    def lengths(self) -> np.ndarray:
        """(N,) characters of every response."""
        return np.array(self._places, dtype=np.int64)[PLACE - 1 :: PLACE][np.array(self._order, dtype=np.int64)]

    def parts(self, number: int, keep: int) -> list[Stretch]:
        """A sample's response in stretches: `keep` characters of it, at most `MAX_CHARS`; nothing where it must not be shown."""
        row = PLACE * self._order[number]
        at, num_bytes, num_chars = self._places[row : row + PLACE]
        if not num_bytes:
            return []
        data = bytearray(num_bytes)
        read_at(self._file.fileno(), memoryview(data), at)
        spans, text = marshal.loads(data)  # our own file
        return _parts(text, num_chars, spans, keep)


def _record(response: str, spans: Iterable[Span] | None) -> bytes:
    """What is kept of a response while it waits."""
    if spans is None:
        return b""
    head = round(HEAD_SHARE * MAX_CHARS)
    kept = response if len(response) <= MAX_CHARS else response[:head] + response[head - MAX_CHARS :]
    return marshal.dumps(([tuple(span) for span in spans], kept))


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
    first, last, tail = list[Stretch](), list[Stretch](), head + cut
    for kind, start, end in spans:
        if start < head:
            first.append((kind, text[start : min(end, head)]))
        if end > tail:
            last.append((kind, text[max(tail, start) - out : end - out]))
    return [*first, ("gap", cut), *last]
