"""What the page's script works on: an index of every question, and the responses in compressed chunks.

The index holds one character per sample (outcome, and right or wrong), so 20,000 samples are 20 kB of it; texts are
gzip in base64, a chunk at a time, and only unpacked when a question is opened. Base64 holds nothing that could
end the element it stands in; the script shows texts as text, never as HTML.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic_core import PydanticSerializationError, to_json

from interpole.analysis.tables import PointMetrics, curves_text
from interpole.errors import OutputError
from interpole.forks import begun
from interpole.formats import plain
from interpole.records import Sample, dial_name
from interpole.report.responses import MAX_CHARS, Responses, as_it_stands
from interpole.report.style import OUTCOMES, UNFINISHED

__all__ = [
    "BUDGET_BYTES",
    "MANY_SAMPLES",
    "Payload",
    "Prompt",
    "begin",
    "cell",
    "difficulty",
    "payload",
    "texts",
]

BUDGET_BYTES = 30_000_000  # of all responses as they stand in the page, so that it can be sent around
PACKED_SHARE = 0.5  # of a text's size, about what is left of it in gzip and base64
MANY_SAMPLES = 20_000  # more are packed in another process; memory counts
CHUNK_CHARS = 400_000
MANY_CHUNKS = 20  # of more, some ten tell what all will take
NUM_BESIDE = 2  # threads that compress
KINDS = list(OUTCOMES)
Prompt = Callable[[Sample], str]
Part = tuple[tuple[str, str], ...]  # the questions of a chunk
Chunks = Mapping[Part, str]
Groups = Mapping[tuple[str, str], Mapping[str, Sequence[int]]]  # (task, problem) → point → places of samples, by number


@dataclass(frozen=True, slots=True)
class Payload:
    """The index and the chunks, each gzip in base64."""

    index: str
    chunks: tuple[str, ...]
    num_cut: int  # responses that were shortened


def begin(
    metrics: Sequence[PointMetrics],
    samples: Sequence[Sample],
    private: Collection[str],
    prompt: Prompt,
    responses: Responses,
) -> Callable[[], Payload]:
    """What gives the `payload` of these: of many samples it is packed in another process from now on."""

    def pack() -> Payload:
        return payload(metrics, samples, private, prompt, responses)

    killed = OutputError("the process that packs responses was killed", "the page", "is there memory for it?")
    return begun(pack, killed) if len(samples) > MANY_SAMPLES else pack


def payload(
    metrics: Sequence[PointMetrics],
    samples: Sequence[Sample],
    private: Collection[str] = (),
    prompt: Prompt = lambda _: "",
    responses: Responses | None = None,
) -> Payload:
    """Pack the measured points and the samples for the page.

    Args:
        metrics: every measured point.
        samples: of the same points; may be empty.
        private: tasks whose texts must not be shown: of them only outcomes and scores are packed.
        prompt: what the model saw of a sample's question; empty where that is not known.
        responses: of the samples, arranged in their order; None: they hold them, and nothing is known of their prompts.
    """
    if responses is None:
        responses = Responses.of(samples, lambda sample: None if sample.task in private else as_it_stands(sample))
    points, lengths = _points(metrics), responses.lengths
    packing = _Packing(samples, private, prompt, responses, [name for name, _ in points])
    keep, some = packing.fitting(_most(lengths, round(BUDGET_BYTES / PACKED_SHARE)))
    questions, chunks = packing.pack(keep, some)
    while keep and (num_bytes := sum(map(len, chunks))) > BUDGET_BYTES:  # texts that are harder to pack than most
        keep = _less(keep, num_bytes)
        questions, chunks = packing.pack(keep)
    index = {
        "points": [
            {"name": name, "lam": lam, "label": name if lam is None else dial_name(lam)} for name, lam in points
        ],
        "outcomes": [
            {"label": label, "colour": colour, "unfinished": outcome in UNFINISHED}
            for outcome, (label, colour) in OUTCOMES.items()
        ],
        "metrics": [_measured(m) for m in metrics],
        "questions": questions,
        "private": sorted(private),
        "csv": curves_text(metrics),
    }
    return Payload(_pack(index), chunks, int((lengths > keep).sum()))


def _most(lengths: np.ndarray, budget: int) -> int:
    """The most characters, `MAX_CHARS` at most, that may be kept of each response so that all together stay in the budget."""
    low, high = 0, MAX_CHARS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(lengths, middle).sum() <= budget else (low, middle - 1)
    return low


def _less(keep: int, num_bytes: float) -> int:
    """How many characters to keep where `keep` of them took so many bytes."""
    return int(keep * 0.9 * BUDGET_BYTES / num_bytes)


class _Packing:
    """The questions of a page, to be packed with more or less of their responses."""

    def __init__(
        self,
        samples: Sequence[Sample],
        private: Collection[str],
        prompt: Prompt,
        responses: Responses,
        points: Sequence[str],
    ) -> None:
        self._samples, self._private, self._responses, self._points = samples, private, responses, points
        self._lengths = responses.lengths
        grades = {id(sample.grades): sample.grades for sample in samples}  # many samples share theirs
        self._plain = {name: plain(one) for name, one in grades.items()}
        self._groups = _groups(samples)
        self._firsts = {key: samples[next(iter(by_point.values()))[0]] for key, by_point in self._groups.items()}
        shown = [(key, first) for key, first in self._firsts.items() if key[0] not in private]
        self._prompts = {key: prompt(first)[:MAX_CHARS] for key, first in shown}

    def pack(self, keep: int, some: Chunks = MappingProxyType({})) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        """What the index says of every question, and the chunks with `keep` characters of every response; `some`: of them."""
        parts = self._parts(keep)
        chunks = {**some, **self._chunks([part for part in parts if part not in some], keep)}
        questions = [
            self._question(key, [number, place]) for number, keys in enumerate(parts) for place, key in enumerate(keys)
        ]
        return questions, tuple(chunks[part] for part in parts)

    def fitting(self, keep: int) -> tuple[int, Chunks]:
        """`keep`, or fewer where a tenth of many chunks tells that they would be too many bytes; and these chunks."""
        while keep and len(parts := self._parts(keep)) > MANY_CHUNKS:
            some = self._chunks(parts[:: len(parts) // MANY_CHUNKS * 2], keep)
            num_bytes = sum(map(len, some.values())) * len(parts) / len(some)
            if num_bytes <= BUDGET_BYTES:
                return keep, some
            keep = _less(keep, num_bytes)
        return keep, {}

    def _chunks(self, parts: Sequence[Part], keep: int) -> Chunks:
        """The responses to the questions of some chunks, packed."""
        found = list[Future[str]]()
        with ThreadPoolExecutor(NUM_BESIDE) as beside:  # gzip leaves the interpreter to others
            for keys in parts:
                found.append(beside.submit(_packed, self._chunk(keys, keep)))
                wait(found[-NUM_BESIDE - 1 : -NUM_BESIDE])  # these are packed while the next is collected
        return dict(zip(parts, (one.result() for one in found), strict=True))

    def _parts(self, keep: int) -> list[Part]:
        """The questions of every chunk."""
        kept, parts, num_chars = np.minimum(self._lengths, keep), [list[tuple[str, str]]()], 0
        for key, by_point in self._groups.items():
            if num_chars > CHUNK_CHARS:
                parts.append([])
                num_chars = 0
            parts[-1].append(key)
            num_chars += sum(int(kept[group].sum()) for group in by_point.values())
        return [tuple(keys) for keys in parts if keys]

    def _question(self, key: tuple[str, str], at: list[int]) -> dict[str, Any]:
        """What the index says of a question; `at`: its chunk, and its place there."""
        by_point, first, shown = self._groups[key], self._firsts[key], key[0] not in self._private
        return {
            "task": key[0],
            "id": key[1],
            "difficulty": difficulty(first.difficulty),
            "text": first.question if shown else "",
            "target": first.target if shown else "",
            "cells": ["".join(cell(self._samples[i]) for i in by_point.get(point, ())) for point in self._points],
            "at": at,
        }

    def _chunk(self, keys: Sequence[tuple[str, str]], keep: int) -> bytes:
        """The responses to some questions."""
        found = []
        for key in keys:
            by_point, shown = self._groups[key], key[0] not in self._private
            rows = [[self._response(i, keep, shown) for i in by_point.get(point, ())] for point in self._points]
            found.append({"prompt": self._prompts.get(key, ""), "rows": rows})
        return _json(found)

    def _response(self, number: int, keep: int, shown: bool) -> dict[str, Any]:
        """One response as the page shows it: `keep` characters of it, or none where texts are not shown."""
        sample = self._samples[number]
        return {
            "parts": self._responses.parts(number, keep) if shown else [],
            "number": sample.number,
            "tokens": sample.num_tokens,
            "forced": sample.budget_forced,
            "chosen": sample.chosen_lam,
            "answer": sample.answer if shown else None,
            "grades": self._plain[id(sample.grades)],
            "error": sample.error if shown else "",
        }


def _pack(data: Any) -> str:
    """JSON, gzip, base64; the same bytes for the same data."""
    return _packed(_json(data))


def _json(data: Any) -> bytes:
    try:
        return to_json(data, inf_nan_mode="null")  # in a quarter of the time that `json` takes
    except PydanticSerializationError:  # a text has half of a character
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode()


def cell(sample: Sample) -> str:
    """A sample as one character: twice the place of its outcome in `OUTCOMES`, plus one if right, counted from A."""
    return chr(ord("A") + 2 * KINDS.index(sample.outcome) + (sample.score >= 1))


def difficulty(name: str) -> str:
    """`difficulty 3` for a bare 3; a name as it is."""
    return f"difficulty {name}" if name.isdigit() else name


def _points(metrics: Sequence[PointMetrics]) -> list[tuple[str, float | None]]:
    """All points of all tasks: the dial by λ, then the others as they come."""
    points = dict.fromkeys((m.point, m.lam) for m in metrics)
    return sorted(points, key=lambda p: (p[1] is None, p[1] or 0.0))


def _groups(samples: Sequence[Sample]) -> Groups:
    groups: defaultdict[tuple[str, str], defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i in sorted(range(len(samples)), key=lambda i: samples[i].number):
        groups[samples[i].task, samples[i].problem_id][samples[i].point].append(i)
    tasks = {task: place for place, task in enumerate(dict.fromkeys(s.task for s in samples))}
    return {key: groups[key] for key in sorted(groups, key=lambda key: (tasks[key[0]], key[1]))}


def _measured(m: PointMetrics) -> dict[str, Any]:
    """What the read-outs beside the dial show of a point."""
    kept: Mapping[str, Any] = {
        "task": m.task,
        "point": m.point,
        "k": m.k,
        "mean": list(m.mean),
        "pass": list(m.pass_at[-1]) if m.pass_at else None,
        "vote": list(m.vote) if m.vote else None,
        "think": list(m.think),
        "tokens": list(m.tokens),
        "front": m.on_front,
        "outcomes": [m.outcomes.get(kind, 0) for kind in KINDS],
        "forced": m.num_forced,
    }
    return dict(plain(kept))


def texts(chunks: Sequence[str]) -> Iterator[Any]:
    """Unpack chunks again; for tests, and for whoever reads a page by program."""
    for chunk in chunks:
        yield json.loads(gzip.decompress(base64.b64decode(chunk)))
