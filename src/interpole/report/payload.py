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
from dataclasses import dataclass
from typing import Any

from interpole.analysis.tables import PointMetrics, curves_text
from interpole.chat import Markers, ParsedResponse, Span, ThinkFormat
from interpole.formats import plain
from interpole.records import Sample
from interpole.report.style import OUTCOMES, UNFINISHED

__all__ = [
    "BUDGET_BYTES",
    "MAX_CHARS",
    "Parse",
    "Payload",
    "Prompt",
    "as_it_stands",
    "cell",
    "difficulty",
    "payload",
    "texts",
]

MAX_CHARS = 9000  # kept of a long response, or fewer where the budget allows no more
BUDGET_BYTES = 30_000_000  # of all responses as they stand in the page, so that it can be sent around
PACKED_SHARE = 0.5  # of a text's size, about what is left of it in gzip and base64
HEAD_SHARE = 2 / 3  # of what is kept is the beginning of the response, the rest its end
CHUNK_CHARS = 400_000
KINDS = list(OUTCOMES)
Parse = Callable[[Sample], ParsedResponse]
Prompt = Callable[[Sample], str]
Spans = Mapping[int, Sequence[Span]]  # of the samples whose texts are shown, by identity
Groups = Mapping[tuple[str, str], Mapping[str, Sequence[Sample]]]  # (task, problem) → point → samples by epoch


@dataclass(frozen=True, slots=True)
class Payload:
    """The index and the chunks, each gzip in base64."""

    index: str
    chunks: tuple[str, ...]
    num_cut: int  # responses that were shortened


def as_it_stands(sample: Sample) -> ParsedResponse:
    """A response read apart where nothing is known of its prompt."""
    return ThinkFormat(Markers("<think>", "</think>")).parse(sample.response, sample.finish)


def payload(
    metrics: Sequence[PointMetrics],
    samples: Sequence[Sample],
    private: Collection[str] = (),
    parse: Parse = as_it_stands,
    prompt: Prompt = lambda _: "",
) -> Payload:
    """Pack the measured points and the samples for the page.

    Args:
        metrics: every measured point.
        samples: of the same points; may be empty.
        private: tasks whose texts must not be shown: of them only outcomes and scores are packed.
        parse: how a sample's response is read apart.
        prompt: what the model saw of a sample's question; empty where that is not known.
    """
    points, groups = _points(metrics), _groups(samples)
    shown = [(key, next(iter(by_point.values()))[0]) for key, by_point in groups.items() if key[0] not in private]
    prompts = {key: prompt(sample)[:MAX_CHARS] for key, sample in shown}
    keep = _most([len(sample.response) for sample in samples], round(BUDGET_BYTES / PACKED_SHARE))
    spans = {id(s): parse(s).spans for s in samples if s.task not in private}
    questions, chunks = _packed(groups, points, spans, prompts, keep)
    while keep and (num_bytes := sum(map(len, chunks))) > BUDGET_BYTES:  # texts that are harder to pack than most
        keep = int(keep * 0.9 * BUDGET_BYTES / num_bytes)
        questions, chunks = _packed(groups, points, spans, prompts, keep)
    index = {
        "points": [{"name": name, "lam": lam, "label": name if lam is None else f"λ={lam:g}"} for name, lam in points],
        "outcomes": [
            {"label": label, "colour": colour, "unfinished": outcome in UNFINISHED}
            for outcome, (label, colour) in OUTCOMES.items()
        ],
        "metrics": [_measured(m) for m in metrics],
        "questions": questions,
        "private": sorted(private),
        "csv": curves_text(metrics),
    }
    return Payload(_pack(index), chunks, sum(len(s.response) > keep for s in samples))


def _most(lengths: Sequence[int], budget: int) -> int:
    """The most characters, `MAX_CHARS` at most, that may be kept of each response so that all together stay in the budget."""
    low, high = 0, MAX_CHARS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(n, middle) for n in lengths) <= budget else (low, middle - 1)
    return low


def _packed(
    groups: Groups,
    points: Sequence[tuple[str, float | None]],
    spans: Spans,
    prompts: Mapping[tuple[str, str], str],
    keep: int,
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """What the index says of every question, and the chunks with `keep` characters of every response."""
    questions, chunks, num_chars = [], [list[Any]()], 0
    for (task, problem), by_point in groups.items():
        first = next(iter(by_point.values()))[0]
        shown = id(first) in spans
        rows = [[_response(s, keep, spans) for s in by_point.get(point, ())] for point, _ in points]
        questions.append(
            {
                "task": task,
                "id": problem,
                "difficulty": difficulty(first.difficulty),
                "text": first.question if shown else "",
                "target": first.target if shown else "",
                "cells": ["".join(map(cell, by_point.get(point, ()))) for point, _ in points],
                "at": [len(chunks) - 1, len(chunks[-1])],
            }
        )
        chunks[-1].append({"prompt": prompts.get((task, problem), ""), "rows": rows})
        num_chars += sum(min(keep, len(s.response)) for group in by_point.values() for s in group)
        if num_chars > CHUNK_CHARS:
            chunks.append([])
            num_chars = 0
    return questions, tuple(_pack(chunk) for chunk in chunks if chunk)


def _pack(data: Any) -> str:
    """JSON, gzip, base64; the same bytes for the same data."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode()


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
    groups: defaultdict[tuple[str, str], defaultdict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in sorted(samples, key=lambda s: s.number):
        groups[sample.task, sample.problem_id][sample.point].append(sample)
    tasks = list(dict.fromkeys(s.task for s in samples))
    return {key: groups[key] for key in sorted(groups, key=lambda key: (tasks.index(key[0]), key[1]))}


def _response(sample: Sample, keep: int, spans: Spans) -> dict[str, Any]:
    """One response as the page shows it: `keep` characters of it, or none where texts are not shown."""
    shown = id(sample) in spans
    return {
        "parts": _parts(sample.response, spans[id(sample)], keep) if shown else [],
        "number": sample.number,
        "tokens": sample.num_tokens,
        "forced": sample.budget_forced,
        "answer": sample.answer if shown else None,
        "grades": plain(dict(sample.grades)),
        "error": sample.error if shown else "",
    }


def _parts(text: str, spans: Sequence[Span], keep: int) -> list[tuple[str, str | int]]:
    """A response as (kind, text) in order; `gap` stands for so many characters left out of the middle."""
    head = round(HEAD_SHARE * keep)
    cut = max(0, len(text) - keep)
    borders = [(0, head), (head + cut, len(text))] if cut else [(0, len(text))]
    kept: list[list[tuple[str, str | int]]] = []
    for start, end in borders:
        inside = ((kind, text[max(start, a) : min(end, b)]) for kind, a, b in spans if a < end and b > start)
        kept.append(list(inside))
    return [*kept[0], ("gap", cut), *kept[1]] if cut else kept[0]


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
