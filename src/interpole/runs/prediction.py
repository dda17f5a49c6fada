"""`prediction.json`: what `interpole predict` found, alone or in the folder of a run; whoever reads it asks no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from interpole.errors import RunError, printable
from interpole.files import StrPath, write_atomic
from interpole.formats import read_json
from interpole.runs.runfile import RunFile
from interpole.schema import Strict, validated

__all__ = [
    "PREDICTION",
    "Ends",
    "Margins",
    "PartFound",
    "PartsFound",
    "PredictionFile",
    "TaskPrediction",
    "first_token_margins",
]

PREDICTION = "prediction.json"
MAX_BYTES = 64 << 20
Name = Annotated[str, AfterValidator(printable), Field(max_length=400)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Ends = tuple[FiniteFloat | None, FiniteFloat | None, FiniteFloat | None]
"""A value with the ends of its interval; null where it is not known."""


class PartFound(Strict):
    """What a part of the model does to the margin when it moves alone: the change, and its share of the whole's."""

    name: Name
    layer: Annotated[int, Field(ge=0, le=100_000)] | None = None  # of the heatmap: its row; None: outside of the layers
    kind: Name | None = None  # of the heatmap: its column
    change: Ends
    share: Ends


class PartsFound(Strict):
    """All parts of one kind of division."""

    at: FiniteFloat  # λ that parts moved to, from 0
    start: FiniteFloat  # mean margin at λ = 0
    whole: Ends  # change where everything moves
    together: Ends  # sum of the parts' shares
    parts: tuple[PartFound, ...]


class TaskPrediction(Strict):
    """One task, or one file of prompts."""

    questions: tuple[Name, ...]
    sampler: dict[str, FiniteFloat]
    lams: tuple[FiniteFloat, ...]
    probabilities: tuple[tuple[Share, ...], ...]  # (L, Q)
    margins: tuple[tuple[FiniteFloat, ...], ...]  # (L, Q)
    on: Ends | None
    mid: Ends | None
    off: Ends | None
    notes: tuple[Name, ...] = ()
    parts: dict[str, PartsFound] = {}  # by kinds, layers, groups, cells

    @property
    def middle_margins(self) -> tuple[float, dict[str, float]]:
        """The λ where about half of the questions are likely to open the thinking, and each question's margin there."""
        halves = [abs(sum(row) / max(1, len(row)) - 0.5) for row in self.probabilities]
        place = halves.index(min(halves))
        return self.lams[place], dict(zip(self.questions, self.margins[place], strict=True))

    @model_validator(mode="after")
    def _check(self) -> TaskPrediction:
        rows = {len(row) for table in (self.probabilities, self.margins) for row in table}
        if rows != {len(self.questions)} or {len(self.probabilities), len(self.margins)} != {len(self.lams)}:
            raise ValueError("a row per λ and a number per question are expected")
        if list(self.lams) != sorted(set(self.lams)):
            raise ValueError("lams: expected in rising order, each once")
        return self


class PredictionFile(Strict):
    """Everything that was found of one pair."""

    interpole: Name
    marker: Name  # whose chance was asked for
    sources: dict[Name, Name]  # name → hash of the weights
    engine: dict[Name, Name]
    tasks: dict[Name, TaskPrediction]

    @classmethod
    def load(cls, path: StrPath) -> PredictionFile:
        """Read it.

        Raises:
            RunError: it cannot be read, or makes no sense.
        """
        path, remedy = Path(path), "run `interpole predict` again"
        content = read_json(path, RunError, remedy, what="the prediction", max_bytes=MAX_BYTES)
        return validated(cls, content, path, RunError, remedy)

    @classmethod
    def of_run(cls, run: StrPath) -> PredictionFile | None:
        """That of a run folder, if it holds one of the run's own weights."""
        path = Path(run) / PREDICTION
        file = cls.load(path) if path.exists() else None
        if file is None:
            return None
        sources = {name: source.fingerprint for name, source in RunFile.load(run).sources.items()}
        return file if file.sources == sources else None

    def save(self, folder: StrPath) -> Path:
        """Write it into a folder, which is made where there is none.

        Raises:
            OutputError: it cannot be.
        """
        path = Path(folder) / PREDICTION
        write_atomic(path, json.dumps(self.model_dump(mode="json"), ensure_ascii=False) + "\n", parents=True)
        return path


class Margins(NamedTuple):
    """What the first token says of questions."""

    at: float | None  # λ; None: not the same for all tasks
    of: dict[tuple[str, str], float]  # (task, problem) → log odds of opening the thinking


def first_token_margins(run: StrPath) -> Margins:
    """The margins at the λ where about half are likely to think; none where the run has no prediction of its weights."""
    file = PredictionFile.of_run(run)
    found = {task: one.middle_margins for task, one in (file.tasks if file else {}).items()}
    lams = {lam for lam, _ in found.values()}
    of = {(task, question): margin for task, (_, at) in found.items() for question, margin in at.items()}
    return Margins(lams.pop() if len(lams) == 1 else None, of)
