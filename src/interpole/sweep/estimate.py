"""What a sweep will cost, before it is run: tokens from what was measured or guessed, hours, memory per engine.

Estimates say what they rest on. Without a measured length or a guess there is only an upper bound: the token caps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from interpole.errors import RunError
from interpole.files import StrPath
from interpole.formats import parse_json
from interpole.merging.merged import open_part
from interpole.records import Outcome, Sample
from interpole.runs import samples
from interpole.runs.archive import Archive
from interpole.runs.runfile import NAME, RunFile
from interpole.sweep.config import SweepConfig
from interpole.sweep.run import Planned

__all__ = ["Memory", "SweepEstimate", "estimate", "kv_bytes_per_token", "memory"]

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Memory:
    """What an engine that holds the model needs of its device; both ends stay on disk while λ moves."""

    weights_bytes: int
    cache_bytes: int | None  # of `rows` responses as long as they are expected to be; None: unknown architecture
    rows: int  # responses at once


@dataclass(frozen=True, slots=True)
class SweepEstimate:
    """What is left to generate of a sweep."""

    num_samples: int
    num_tokens: float | None  # None: nothing to judge by
    most_tokens: int  # if every response went on to its cap
    bases: Mapping[str, int]  # what the lengths are taken from → samples
    tokens_per_second: float | None
    memory: Memory | None  # None: the model is not held here

    @property
    def hours(self) -> float | None:
        """Hours of generation; None where speed or length is not known."""
        if self.num_tokens is None or not self.tokens_per_second:
            return None
        return self.num_tokens / self.tokens_per_second / 3600


def estimate(
    config: SweepConfig,
    out: StrPath,
    planned: Sequence[Planned],
    *,
    guess_tokens: float | None = None,
    tokens_per_second: float | None = None,
) -> SweepEstimate:
    """Estimate what is left of a sweep.

    A response's length is the mean of those that the run has at that point; else what a policy was fitted to take; else that
    at the nearest λ of that task; else the guess. Speed is that of the run's finished logs.

    Args:
        config: the sweep.
        out: its run folder, if there is one yet.
        planned: what `sweep.plan` says of it.
        guess_tokens: tokens of a response, where nothing is measured.
        tokens_per_second: of all responses together; goes before what was measured.

    Raises:
        InterpoleError: the run or a source cannot be read.
    """
    out = Path(out)
    found = samples.read(out, texts=False) if (out / NAME).exists() else []
    measured = _lengths(found)
    bases: defaultdict[str, int] = defaultdict(int)
    total: float | None = 0.0
    left = [(one, one.num_samples - one.num_present) for one in planned if one.num_samples > one.num_present]
    for one, num in left:
        length, basis = _length(one, measured, guess_tokens)
        bases[basis] += num
        total = None if total is None or length is None else total + num * min(length, one.max_tokens)
    num_samples, most = sum(num for _, num in left), sum(num * one.max_tokens for one, num in left)
    long = most if total is None else total
    return SweepEstimate(
        num_samples,
        total,
        most,
        dict(bases),
        tokens_per_second or (_speed(out, found) if found else None),
        memory(config, long / num_samples if num_samples else 0.0),
    )


def memory(config: SweepConfig, mean_tokens: float) -> Memory | None:
    """What an engine that holds the model needs; None where no engine here does.

    Raises:
        CheckpointError: the source cannot be opened.
    """
    kind, options = config.kind, config.engine_options
    if kind.default_rows is None:
        return None
    checkpoint = open_part(config.sources[config.template_from])
    dtype = str(options.get("dtype") or kind.default_dtype)
    width = VALUE_BYTES.get(dtype)
    weights = sum(spec.num_elements for spec in checkpoint.specs.values()) * width if width else checkpoint.num_bytes
    weights *= 2 if config.per_request else 1
    per_token = kv_bytes_per_token(checkpoint.config, width or 2)
    rows = int(options.get("max_rows") or kind.default_rows)
    return Memory(weights, None if per_token is None else int(per_token * mean_tokens * rows), rows)


def kv_bytes_per_token(config: Mapping[str, Any], value_bytes: int = 2) -> int | None:
    """Bytes that attention keeps per token: 2 · layers · KV heads · head size · bytes of a value.

    None where the config does not say; an upper bound for models that attend through windows in some layers.
    """
    config = config.get("text_config", config)  # of a language model inside a vision model
    try:
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or config["hidden_size"] // heads
        return int(2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head * value_bytes)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _lengths(found: Iterable[Sample]) -> dict[str, dict[tuple[str, float | None], float]]:
    """Task → (point, λ) → mean tokens of a response."""
    tokens: defaultdict[str, defaultdict[tuple[str, float | None], list[int]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        if one.outcome is not Outcome.FAILED:
            tokens[one.task][one.point, one.lam].append(one.num_tokens)
    return {task: {point: fmean(all_) for point, all_ in points.items()} for task, points in tokens.items()}


def _length(
    one: Planned, measured: Mapping[str, Mapping[tuple[str, float | None], float]], guess: float | None
) -> tuple[float | None, str]:
    """Tokens of a response, and what that is taken from."""
    points = measured.get(one.task, {})
    if (one.point, one.lam) in points:
        return points[one.point, one.lam], "measured at this point"
    if one.expected_tokens is not None:
        return one.expected_tokens, "what the policy was fitted to take"
    near = [(abs(lam - one.lam), mean) for (_, lam), mean in points.items() if lam is not None and one.lam is not None]
    if near:
        return min(near)[1], "measured at the nearest λ"
    return (guess, "your guess") if guess is not None else (None, "nothing")


def _speed(run: Path, found: Iterable[Sample]) -> float | None:
    """Tokens per second while the run's logs were made, loading and grading included; several are made at a time."""
    logs = [entry.within(run, part.log) for entry in RunFile.load(run).current for part in entry.parts if part.log]
    seconds, until = 0.0, None
    for start, end in sorted(span for log in logs if (span := _span(log)) is not None):
        begin = start if until is None else max(start, until)
        until = end if until is None else max(end, until)
        seconds += max(0.0, (until - begin).total_seconds())
    return sum(one.num_tokens for one in found) / seconds if seconds else None


def _span(log: Path) -> tuple[datetime, datetime] | None:
    """When an evaluation began and ended; None where its log does not say."""
    try:
        with Archive(log) as opened:
            (_, data), *_ = opened.members(lambda name: name == "header.json")
        header = parse_json(data, log, RunError)
        start, end = (datetime.fromisoformat(header["stats"][key]) for key in ("started_at", "completed_at"))
        return (start, end) if start.tzinfo and end.tzinfo else None
    except (RunError, KeyError, TypeError, ValueError):
        return None
