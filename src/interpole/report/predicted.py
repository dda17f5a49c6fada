"""What `interpole predict` found, drawn: the curve beside a sweep's, and what parts of the model add as a heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from interpole.analysis.prediction import predict
from interpole.errors import AnalysisError
from interpole.report import figures
from interpole.report.ablations import margins
from interpole.report.marks import Mark
from interpole.runs.prediction import PredictionFile, TaskPrediction

__all__ = ["curve", "curves", "heatmap", "heatmaps"]

NUM_STEPS = 100


def curve(found: TaskPrediction, task: str, points: Sequence[Mark] = (), **size: int) -> Any:
    """The predicted curve of a task, beside its measured points."""
    lams, shares = np.array(found.lams), np.array(found.probabilities).T  # (L,), (Q, L)
    whole = predict(lams, shares, np.array(found.margins).T, resamples=1)
    steps = np.linspace(lams[0], lams[-1], NUM_STEPS + 1)
    asked = [*zip(found.lams, whole.shares.tolist(), strict=True)]
    return figures.prediction(points, task, [(float(lam), whole.at(float(lam))) for lam in steps], asked, **size)


def curves(file: PredictionFile, points: Sequence[Mark] = ()) -> Any:
    """The curves of all tasks that have one, one below the other.

    Raises:
        AnalysisError: none has.
    """
    drawn = [curve(found, task, points) for task, found in file.tasks.items() if len(found.lams) > 1]
    if not drawn:
        raise AnalysisError("the prediction has no curve", remedy="run `interpole predict`")
    return alt.vconcat(*drawn, spacing=28)


def heatmap(found: TaskPrediction) -> Any:
    """What each kind of module in each layer adds to the margin when it moves alone; None where that was not asked."""
    cells = found.parts.get("cells")
    if cells is None:
        return None
    values = [(part.layer, part.kind, part.change[0]) for part in cells.parts]
    return margins([(layer, kind, change) for layer, kind, change in values if kind and change is not None])


def heatmaps(file: PredictionFile) -> Any:
    """The heatmaps of all tasks that have one.

    Raises:
        AnalysisError: none has.
    """
    drawn = [chart for found in file.tasks.values() if (chart := heatmap(found)) is not None]
    if not drawn:
        raise AnalysisError("no layer × kind parts were asked", remedy="run `interpole predict --by cells`")
    return alt.vconcat(*drawn, spacing=28)
