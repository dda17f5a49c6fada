"""Read a run's samples from its Inspect logs: the one truth from which everything after generation is computed.

Only logs that `run.json` names are read. An `.eval` log is a zip of JSON; it is read as that, so neither Inspect nor a model is
needed and 20,000 samples take seconds. Grades that `interpole.runs.regrade` made anew lie beside a log and stand in for its own.
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
from interpole.runs.runfile import Entry, Part, RunFile

__all__ = ["SCORE", "logged", "read", "read_log", "regraded", "regraded_path", "response_of"]

SCORE = "grade"
"""The score in Inspect's logs that `tasks.inspect` keeps."""
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
                found[sample.task, sample.point, sample.problem_id, sample.number] = sample
    return list(found.values())


def read_log(path: Path, entry: Entry, part: Part, *, texts: bool = True) -> Iterator[Sample]:
    """The samples of one log.

    Raises:
        RunError: the log is missing or damaged.
    """
    anew = regraded(path)
    for one in logged(path, texts=texts):
        try:
            sample = _sample(one, entry, part, anew.get((str(one["id"]), one["epoch"]), {}))
        except (KeyError, ValueError) as error:
            raise _unreadable(path, error) from error
        yield sample


def logged(path: Path, *, texts: bool = True) -> Iterator[dict[str, Any]]:
    """The samples of one log as Inspect wrote them; without texts, their summaries.

    Raises:
        RunError: the log is missing or damaged.
    """
    try:
        with ZipFile(path) as log:
            names = [name for name in log.namelist() if name.startswith("samples/")] if texts else ["summaries.json"]
            for name in names:
                content = json.loads(log.read(name))
                yield from [content] if texts else content
    except (OSError, BadZipFile, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def regraded_path(log: Path) -> Path:
    """Where the grades that were made anew for a log are kept."""
    return log.with_suffix(".regraded.json")


def regraded(log: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What replaces parts of the log's own grades, by problem and by epoch within the log.

    Raises:
        RunError: the file is damaged.
    """
    path = regraded_path(log)
    if not path.exists():
        return {}
    try:
        return {(problem, epoch): kept for problem, epoch, kept in json.loads(path.read_bytes())}
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read: {error}", path, "delete it, or grade again: score RUN --regrade") from error


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(f"a log cannot be read: {error!r}", path, "run the sweep again: it makes what is missing")


def _sample(one: Mapping[str, Any], entry: Entry, part: Part, anew: Mapping[str, Any]) -> Sample:
    """A `Sample` of one logged sample or summary, with the grades that were made `anew`, if any were."""
    score = (one.get("scores") or {}).get(SCORE) or {}
    kept: Mapping[str, Any] = {**(score.get("metadata") or {}), **anew}
    error = one.get("error") or ""
    failed = bool(error) or not kept
    problem = one.get("metadata") or {}
    return Sample(
        task=entry.task,
        point=entry.point,
        lam=entry.lam,
        problem_id=str(one["id"]),
        number=part.first_sample + one["epoch"] - 1,
        question=problem.get("question") or _text(one["input"]),
        target=one["target"] if isinstance(one["target"], str) else "\n".join(one["target"]),
        response="" if failed else response_of(one),
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
        budget_forced=bool(kept.get("budget_forced")),
    )


def response_of(one: Mapping[str, Any]) -> str:
    """The response's text in a logged sample; empty in a summary."""
    choices = one.get("output", {}).get("choices") or []
    text = _text([choices[0]["message"]]) if choices else ""
    return one["attachments"][text.removeprefix(_ATTACHMENT)] if text.startswith(_ATTACHMENT) else text


def _text(messages: str | list[Mapping[str, Any]]) -> str:
    """The text of the last message."""
    content = messages if isinstance(messages, str) else messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(piece.get("reasoning") or piece.get("text") or "" for piece in content)
