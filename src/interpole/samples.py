"""Read a run's samples from its Inspect logs: the one truth from which everything after generation is computed.

Only logs that `run.json` names are read. An `.eval` log is a zip of JSON; it is read as that, so neither Inspect nor a model is
needed and 20,000 samples take seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from zipfile_zstd import ZipFile

from interpole.errors import RunError
from interpole.records import Outcome, Sample
from interpole.runs import Entry, Part, RunFile

__all__ = ["read", "read_log"]

SCORE = "grade"  # the score that `tasks.inspect` keeps
_ATTACHMENT = "attachment://"


def read(run: Path, *, texts: bool = True) -> list[Sample]:
    """All samples of a run, one per task, point, problem and epoch, in the order of `run.json` and of the problems.

    Args:
        run: the run folder; parts of it that were never finished are not among the samples.
        texts: whether responses are wanted (else they are empty, and long questions cut at 1,000 characters): about three
            times slower.

    Raises:
        RunError: no run, or one of its logs is missing or damaged.
    """
    found: dict[tuple[str, str, str, int], Sample] = {}
    for entry in RunFile.load(run).current:
        for part in entry.parts:
            if part.log is None:
                continue
            for sample in read_log(run / entry.folder / part.log, entry, part, texts=texts):
                found[sample.task, sample.point, sample.problem, sample.epoch] = sample
    return list(found.values())


def read_log(path: Path, entry: Entry, part: Part, *, texts: bool = True) -> Iterator[Sample]:
    """The samples of one log.

    Raises:
        RunError: the log is missing or damaged.
    """
    try:
        with ZipFile(path) as log:
            names = [name for name in log.namelist() if name.startswith("samples/")] if texts else ["summaries.json"]
            for name in names:
                content = json.loads(log.read(name))
                for one in [content] if texts else content:
                    yield _sample(one, entry, part)
    except (OSError, BadZipFile, KeyError, ValueError) as error:
        raise RunError(
            f"a log cannot be read: {error!r}", path, "run the sweep again: it makes what is missing"
        ) from error


def _sample(one: Mapping[str, Any], entry: Entry, part: Part) -> Sample:
    """A `Sample` of one logged sample or summary."""
    score = (one.get("scores") or {}).get(SCORE) or {}
    kept: Mapping[str, Any] = score.get("metadata") or {}
    error = one.get("error") or ""
    failed = bool(error) or not kept
    problem = one.get("metadata") or {}
    return Sample(
        task=entry.task,
        point=entry.point,
        lam=entry.lam,
        problem=str(one["id"]),
        epoch=part.first_epoch + one["epoch"] - 1,
        question=problem.get("question") or _text(one["input"]),
        target=one["target"] if isinstance(one["target"], str) else "\n".join(one["target"]),
        response="" if failed else _response(one),
        num_tokens=0 if failed else kept["num_tokens"],
        finish="error" if failed else kept["finish"],
        outcome=Outcome.FAILED if failed else Outcome(kept["outcome"]),
        closed=not failed and kept["closed"],
        answer=None if failed else kept["answer"],
        grades={} if failed else kept["grades"],
        difficulty=problem.get("difficulty") or "",
        error=(error if isinstance(error, str) else error.get("message", "")) or ("no score" if failed else ""),
        answers={} if failed else kept.get("answers") or {},
        pseudo_close=None if failed else kept.get("pseudo_close"),
        private=bool(kept.get("private")),
    )


def _response(one: Mapping[str, Any]) -> str:
    """The text of the last answer; empty in a summary."""
    choices = one.get("output", {}).get("choices") or []
    text = _text([choices[0]["message"]]) if choices else ""
    return one["attachments"][text.removeprefix(_ATTACHMENT)] if text.startswith(_ATTACHMENT) else text


def _text(messages: str | list[Mapping[str, Any]]) -> str:
    """The text of the last message."""
    content = messages if isinstance(messages, str) else messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(piece.get("reasoning") or piece.get("text") or "" for piece in content)
