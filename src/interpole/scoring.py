"""A run's samples → its tables: curves.csv, metrics.json and stages.json, recomputed without a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from interpole import samples
from interpole.curves import PointMetrics, read_curves, write_curves, write_metrics
from interpole.errors import AnalysisError, RunError
from interpole.metrics import CurveRow, answer_of, measure, score_of
from interpole.records import Outcome, Sample
from interpole.stages import find_stages, to_json

__all__ = ["load", "score"]


def score(run: Path, *, grading: str | None = None) -> list[PointMetrics]:
    """Measure every point of a run and write `curves.csv`, `metrics.json` and `stages.json` into its folder.

    Args:
        run: the run folder.
        grading: the grading to score by; default each task's own. A task that has no such grading keeps its own, and its
            `PointMetrics.grading` says so.

    Raises:
        RunError: no run, or no samples in it yet.
        AnalysisError: no task has such a grading.
    """
    found = _samples(run)
    graded = {sample.task for sample in found if grading in sample.grades}
    if grading is not None and not graded:
        known = sorted({name for sample in found for name in sample.grades})
        raise AnalysisError(f"no task of this run has a grading {grading!r}", run, f"there are {', '.join(known)}")
    metrics = [
        one
        for task in dict.fromkeys(sample.task for sample in found)
        for one in measure([s for s in found if s.task == task], grading=grading if task in graded else None)
    ]
    if grading is not None:
        found = [_under(sample, grading) if sample.task in graded else sample for sample in found]
    write_curves(metrics, run / "curves.csv")
    write_metrics(metrics, run / "metrics.json")
    stages = to_json(find_stages(found)) if any(sample.lam is not None for sample in found) else {}
    (run / "stages.json").write_text(json.dumps(stages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return metrics


def load(source: Path) -> list[Sample] | list[CurveRow]:
    """What the analyses take: the samples of a run folder, or the rows of a curves.csv.

    Raises:
        RunError: neither is there.
        AnalysisError: the table cannot be meant as it stands.
    """
    if source.is_dir():
        return _samples(source)
    if source.is_file():
        return read_curves(source)
    raise AnalysisError("no such run or table", source, "give a run folder or a curves.csv")


def _under(sample: Sample, grading: str) -> Sample:
    """The sample as one grading sees it."""
    if sample.outcome is Outcome.FAILED:
        return sample
    return replace(sample, grades={grading: score_of(sample, grading)}, answer=answer_of(sample, grading))


def _samples(run: Path) -> list[Sample]:
    found = samples.read(run, texts=False)
    if not found:
        raise RunError("the run has no finished samples yet", run, "run the sweep again; it goes on where it stopped")
    return found
