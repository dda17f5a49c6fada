"""A run's samples → its tables: curves.csv, metrics.json and stages.json, recomputed without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from interpole.analysis.metrics import Estimand, answer_of, measure, score_of
from interpole.analysis.stages import find_stages, to_json
from interpole.analysis.tables import CurveRow, PointMetrics, read_curves, write_curves, write_metrics
from interpole.errors import AnalysisError, RunError
from interpole.files import StrPath, write_atomic
from interpole.records import Outcome, Sample
from interpole.runs import samples

__all__ = ["load", "measured", "score", "under"]


def score(run: StrPath, *, grading: str | None = None, estimand: Estimand = "like-these") -> list[PointMetrics]:
    """Measure every point of a run and write `curves.csv`, `metrics.json` and `stages.json` into its folder.

    Args:
        run: the run folder.
        grading: the grading to score by; default each task's own. A task that has no such grading keeps its own, and its
            `PointMetrics.grading` says so.
        estimand: what intervals are about, see `metrics.measure`.

    Raises:
        RunError: no run, or no samples in it yet.
        AnalysisError: no task has such a grading.
    """
    run = Path(run)
    metrics, found = measured(_samples(run), grading, run, estimand)
    write_curves(metrics, run / "curves.csv")
    write_metrics(metrics, run / "metrics.json")
    stages = to_json(find_stages(found, metrics=metrics)) if any(sample.lam is not None for sample in found) else {}
    write_atomic(run / "stages.json", json.dumps(stages, indent=2, ensure_ascii=False) + "\n")
    return metrics


def load(source: StrPath, *, grading: str | None = None) -> list[Sample] | list[CurveRow]:
    """What the analyses take: the samples of a run folder, or the rows of a curves.csv.

    Args:
        source: the folder or the file.
        grading: see `score`; a curves.csv has one grading, and takes none.

    Raises:
        RunError: neither is there.
        AnalysisError: the table cannot be meant as it stands, or there is no such grading.
    """
    source = Path(source)
    try:
        is_run, is_file = source.is_dir(), source.is_file()
    except OSError as error:
        raise AnalysisError(f"cannot be read: {error.strerror}", source, "give a run folder or a curves.csv") from None
    if is_run:
        return under(_samples(source), grading, source)
    if not is_file:
        raise AnalysisError("no such run or table", source, "give a run folder or a curves.csv")
    if grading is not None:
        raise AnalysisError("a table has the scores of one grading", source, "give the run folder with --grading")
    return read_curves(source)


def measured(
    samples: Sequence[Sample],
    grading: str | None = None,
    where: object = "",
    estimand: Estimand = "like-these",
) -> tuple[list[PointMetrics], list[Sample]]:
    """The metrics of samples by a grading, and the samples as it sees them (`under`)."""
    found = under(samples, grading, where)
    graded = {sample.task for sample in samples if grading in sample.grades}
    metrics = measure(found, estimand=estimand)
    return [replace(m, grading=grading or "") if m.task in graded else m for m in metrics], found


def under(samples: Sequence[Sample], grading: str | None, where: object = "") -> list[Sample]:
    """The samples as one grading sees them; those of tasks that do not have it, and all where it is None, as they are.

    Raises:
        AnalysisError: no task has such a grading.
    """
    graded = {sample.task for sample in samples if grading in sample.grades}
    if grading is not None and not graded:
        known = sorted({name for sample in samples for name in sample.grades})
        raise AnalysisError(f"no task of this run has a grading {grading!r}", where, f"there are {', '.join(known)}")
    return [_under(sample, grading) if grading and sample.task in graded else sample for sample in samples]


def _under(sample: Sample, grading: str) -> Sample:
    """One sample as a grading sees it."""
    if sample.outcome is Outcome.FAILED:
        return sample
    return replace(sample, grades={grading: score_of(sample, grading)}, answer=answer_of(sample, grading))


def _samples(run: Path) -> list[Sample]:
    found = samples.read(run, texts=False)
    if not found:
        raise RunError("the run has no finished samples yet", run, "run the sweep again; it goes on where it stopped")
    return found
