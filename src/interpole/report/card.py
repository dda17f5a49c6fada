"""Model cards with what a run measured: a point's numbers in the hub's front matter, if they are of the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from interpole.analysis.intervals import Interval
from interpole.analysis.scoring import load, measured
from interpole.analysis.tables import PointMetrics
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.errors import AnalysisError, InterpoleError, RunError
from interpole.files import StrPath
from interpole.merging.card import Result, model_card
from interpole.merging.merged import Merged, merge, merge_in
from interpole.merging.recipe import Recipe, build
from interpole.records import Sample
from interpole.runs.runfile import Entry, RunFile

__all__ = ["card_at", "card_from"]

DATASETS = {"aime25": "opencompass/AIME2025", "ifeval": "google/IFEval", "gpqa_diamond": "Idavidrein/gpqa"}
"""Task → where its problems lie on the hub."""


def card_from(run: StrPath, checkpoint: Checkpoint) -> str:
    """The model card of a merge with what a run measured of it.

    Raises:
        AnalysisError: the checkpoint is no merge.
        RunError: the run has not measured these weights, asked as this model is asked.
    """
    file, merged = RunFile.load(run), merge_in(checkpoint)
    if merged is None:
        raise AnalysisError("this is no merge, so no run has measured it", checkpoint.label)
    entries = [entry for entry in file.current if not entry.asking and _is_of(entry, merged)]
    if not entries:
        lams = ", ".join(f"{lam:g}" for lam in sorted({entry.lam for entry in file.current if entry.lam is not None}))
        raise RunError(
            f"the run has not measured this merge ({merged.recipe.label}); it has λ = {lams or 'none'}",
            run,
            "give the same sources, λ and method; where the sources are the run's, also its --template-from: "
            f"{file.template_from or 'none'}",
        )
    return model_card(merged, _results(run, entries))


def card_at(run: StrPath, lam: float) -> str:
    """The model card of a run's point on the dial, with what was measured; its sources must lie where they lay.

    Raises:
        RunError: there is no such point, or its sources are others by now.
        CheckpointError: they are not there.
    """
    file = RunFile.load(run)
    found = [entry for entry in file.current if entry.lam is not None and math.isclose(entry.lam, lam, abs_tol=1e-9)]
    found = [entry for entry in found if entry.recipe.get("sources") and not entry.asking]
    if not found:
        lams = ", ".join(f"{one:g}" for one in sorted({entry.lam for entry in file.current if entry.lam is not None}))
        raise RunError(f"the run has no merge at λ = {lam:g}", run, f"it has λ = {lams or 'none'}")
    return card_from(run, merge(build(found[0].recipe, "the run's recipe")))


def _is_of(entry: Entry, merged: Merged) -> bool:
    """Whether a run's entry is of a merge: the same recipe, sources of the same weights, the template of the same one."""
    if not entry.recipe.get("sources"):
        return False
    try:
        recipe = build(entry.recipe, "the run's recipe")
        if _plain(recipe) != _plain(merged.recipe):
            return False
        return merge(recipe, merged.sources).fingerprint() == entry.fingerprint
    except InterpoleError:  # a recipe of another version, or of sources that these are not
        return False


def _plain(recipe: Recipe) -> str:
    """What a recipe does, with the source of its template named."""
    return recipe.with_(template_from=recipe.template_source).identity()


def _results(run: StrPath, entries: list[Entry]) -> list[Result]:
    """The numbers of a merge, task by task."""
    samples = [one for one in load(Path(run)) if isinstance(one, Sample)]
    wanted = {(entry.task, entry.point) for entry in entries}
    metrics, _ = measured([one for one in samples if (one.task, one.point) in wanted], where=run)
    found = [result for one in metrics for result in _of(one)]
    if not found:
        raise RunError("the run has no responses of this merge yet", run, "go on with the sweep")
    return found


def _of(one: PointMetrics) -> Iterator[Result]:
    """What the hub is told of a point: accuracy, length, share of responses that think."""
    rows: list[tuple[str, str, Interval, float]] = [
        ("accuracy", f"Mean@{one.k}", one.mean, 100),
        ("tokens", "Token #N", one.tokens, 1),
        ("thinking", "Think #R", one.think, 100),
    ]
    for metric, name, number, scale in rows:
        if math.isfinite(number.value):
            value, low, high = (scale * part for part in (number.value, number.low, number.high))
            dataset = DATASETS.get(one.task, one.task)
            yield Result(
                task=one.task,
                dataset=dataset,
                metric=metric,
                name=name,
                value=value,
                low=low,
                high=high,
                num_questions=one.num_questions,
                num_samples=one.k,
            )
