"""The bench of a study: models trained once and shared, one engine per body, and what is measured of a pair.

Everything lies in one folder: `models/` by the names of their recipes, `questions.jsonl`, a run for every pair that was swept in
`runs/`. What is there is not made again, so a study that was stopped goes on, and another takes over what it can.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interpole import __version__
from interpole.analysis.intervals import Array, Interval, minus, percentiles, weights
from interpole.analysis.metrics import Metric, difference, measure
from interpole.analysis.transition import find_transition, from_samples
from interpole.checkpoints.open import open_source
from interpole.diagnostics.similarity import compare
from interpole.engines.pool import Pool
from interpole.errors import AnalysisError, OutputError
from interpole.files import make_folder, write_atomic
from interpole.lab.recipe import Body, Model
from interpole.lab.studies.study import Case, Row, Size
from interpole.packages import require
from interpole.records import Sample
from interpole.runs.samples import read
from interpole.search.predict import ForwardPasses, prompts_of
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan
from interpole.sweep.run import pool_of, run
from interpole.tasks import chains

__all__ = [
    "RESAMPLES",
    "Bench",
    "OffDial",
    "change_rows",
    "crossing",
    "margin_rows",
    "parabola_root",
    "swept_rows",
    "weight_rows",
]

SAMPLER = {"temperature": 0.6, "top_p": 0.95, "top_k": 0}
RESAMPLES = 1000
Tell = Callable[[str], None]


class OffDial(NamedTuple):
    """A point off the dial: its name, and the fields of its recipe."""

    name: str
    recipe: Mapping[str, Any]


class Bench:
    """Where pairs are made and measured. Close it when done: it may hold an engine."""

    def __init__(self, folder: Path, size: Size, tell: Tell = lambda _: None) -> None:
        """Open the bench in a folder, which is made; nothing is trained yet."""
        self.folder, self.size, self.tell = folder, size, tell
        self._engine = ExitStack()
        self._open: tuple[Body, Pool] | None = None
        make_folder(self.folder)
        asked = size.questions
        problems = chains.problems(
            "test", size.num_problems, 0, asked.difficulties, asked.operators, asked.highest
        )  # fmt: skip
        rows = [{"id": p.id, "question": p.question, "answer": p.answer, "difficulty": p.difficulty} for p in problems]
        write_atomic(self.questions, "".join(json.dumps(row) + "\n" for row in rows))

    @property
    def questions(self) -> Path:
        """What every pair is asked."""
        return self.folder / "questions.jsonl"

    def versions(self) -> dict[str, str]:
        """Of what a model's weights and answers depend on: workers on a cluster must have them in common.

        Raises:
            InterpoleError: there is no torch, or no transformers.
        """
        for module in ("torch", "transformers"):
            require(module, extra="transformers")
        return {"interpole": __version__} | {name: version(name) for name in ("torch", "transformers", "numpy")}

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
        self._open = None

    def model(self, recipe: Model) -> Path:
        """The folder of a model, trained where it is not there."""
        folder = self.folder / "models" / recipe.name
        if not folder.exists():
            from interpole.lab.train import TRAINED, train_model

            base = None if recipe.base is None else self.model(recipe.base)
            make_folder(folder.parent)
            self.tell(f"training {recipe.name}")
            try:
                train_model(recipe, folder, base)
            except OutputError:
                if not (
                    folder / TRAINED
                ).exists():  # else another worker has trained it meanwhile: it is the same model
                    raise
        return folder

    def config(self, case: Case, points: Sequence[OffDial] = ()) -> SweepConfig:
        """The sweep of a pair: the dial, and these points."""
        instruct, thinking = case.models(self.size)
        assert instruct.base is not None
        return SweepConfig.of(
            {
                "sources": {
                    "instruct": str(self.model(instruct)),
                    "thinking": str(self.model(thinking)),
                    "base": str(self.model(instruct.base)),
                },
                "tasks": [{"task": str(self.questions), "grader": "exact"}],
                "lambdas": list(self.size.lambdas),
                "points": [{"name": point.name, "recipe": dict(point.recipe)} for point in points],
                "samples": self.size.samples,
                "sampler": {**SAMPLER, "max_tokens": self.size.max_tokens},
                "engine_options": {"dtype": "float32"},
            }
        )

    def run_of(self, case: Case) -> Path:
        """Where the sweep of a pair lies."""
        return self.folder / "runs" / case.key(self.size)

    def sweep(self, case: Case, points: Sequence[OffDial] = ()) -> list[Sample]:
        """The samples of a pair; what is there is not generated again.

        Raises:
            AnalysisError: a point failed.
        """
        config, out = self.config(case, points), self.run_of(case)
        self.tell(f"sweeping {case.name}")
        summary = run(config, out, pool=self.pool_of(config, case.body), changed="also")
        if summary.failed:
            raise AnalysisError(f"{summary.failed[0].point} failed", out, "run the study again; it goes on there")
        return read(out, texts=False)

    def asked(self, case: Case) -> ForwardPasses:
        """A pair, to be asked by forward passes."""
        config = self.config(case)
        planned = Plan(config)
        prompts = prompts_of(planned, self.size.num_problems)
        return ForwardPasses(planned, self.pool_of(config, case.body), prompts, planned.form.markers.open)

    def pool_of(self, config: SweepConfig, body: Body) -> Pool:
        """An engine for models of one body; the last one stays open until another body's turn."""
        if self._open is None or self._open[0] != body:
            self.close()
            self._open = body, self._engine.enter_context(pool_of(Plan(config), self.tell))
        return self._open[1]


def swept_rows(case: Case, samples: Sequence[Sample]) -> list[Row]:
    """Accuracy, Think #R and Token #N of every point, and where thinking sets in."""
    found = []
    for point in measure(samples):
        found += [
            Row.of(case, point.point, name, value)
            for name, value in (("mean", point.mean), ("think", point.think), ("tokens", point.tokens))
        ]
    dial = [sample for sample in samples if sample.lam is not None]
    transition = find_transition(from_samples(dial))
    for name, value in (("on", transition.on), ("mid", transition.mid), ("off", transition.off)):
        if value is not None:
            found.append(Row.of(case, "sweep", name, value))
    if transition.on is not None and transition.off is not None:
        found.append(Row.of(case, "sweep", "width", minus(transition.off, transition.on)))
    return found


def change_rows(case: Case, samples: Sequence[Sample], pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """What changes from one point to another, paired by question; tokens as a share of the first point's."""
    found = []
    for a, b in pairs:
        sides = [[sample for sample in samples if sample.point == name] for name in (a, b)]
        metrics: tuple[Metric, ...] = ("mean", "think", "tokens")
        for metric in metrics:
            change = difference(*sides, metric=metric).value
            if metric == "tokens":
                before = float(np.mean([sample.num_tokens for sample in sides[0]]))
                change = Interval(*(number / before for number in change))
            found.append(Row.of(case, f"{a} → {b}", metric, change))
    return found


def margin_rows(case: Case, asked: ForwardPasses, lams: Sequence[float]) -> list[Row]:
    """What forward passes say: margins, λ50, and how far it is from what the ends' margins alone would make it.

    `chord` is |m0| / (|m0| + |m1|); `bend` how far the margin at λ = ½ lies above the middle of the ends', as a share of their
    distance; `curved` where the parabola through the three crosses 0. Intervals are over questions, which are resampled.
    """
    for lam in lams:
        asked.at(lam)
    (task,) = asked.tasks
    lams_found, chances, margins = asked.table(task)
    places = {lam: i for i, lam in enumerate(lams_found.tolist())}
    draws = np.concatenate([np.ones((1, len(chances))), *weights(len(chances), RESAMPLES, 0)]) / len(chances)
    m0, half, m1 = (draws @ margins[:, places[lam]] for lam in (0.0, 0.5, 1.0))
    mid = np.array([crossing(lams_found, row) for row in draws @ chances])
    chord, bend = -m0 / (m1 - m0), (half - (m0 + m1) / 2) / (m1 - m0)
    curved = parabola_root(m0, half, m1)
    numbers = {
        "m0": m0, "m1": m1, "mid": mid, "chord": chord, "bend": bend, "size of bend": np.abs(bend), "curved": curved,
        "mid − chord": mid - chord, "mid − curved": mid - curved,
    }  # fmt: skip
    return [Row.of(case, "margins", name, _ends(found, len(chances))) for name, found in numbers.items()]


def _ends(found: Array, num_questions: int) -> Interval:
    """The first of the draws, which is of all questions, with the ends of the others."""
    return percentiles(float(found[0]), found[1:], num_questions)


def crossing(lams: Array, shares: Array) -> float:
    """Where a curve first passes one half; NaN where it does not."""
    rising = np.maximum.accumulate(shares)
    above = int(np.argmax(rising >= 0.5))
    if rising[0] >= 0.5 or rising[-1] < 0.5:
        return float("nan")
    part = (0.5 - rising[above - 1]) / (rising[above] - rising[above - 1])
    return float(lams[above - 1] + part * (lams[above] - lams[above - 1]))


def parabola_root(m0: Array, half: Array, m1: Array) -> Array:
    """Where the parabola through (0, m0), (½, half) and (1, m1) is 0 between the ends; NaN where it is nowhere or twice."""
    a, b = 2 * (m1 + m0) - 4 * half, 4 * half - m1 - 3 * m0
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = np.sqrt(b**2 - 4 * a * m0)
        roots = np.stack([-2 * m0 / (b + reach), -2 * m0 / (b - reach)])  # stable where a is near 0
        inside = (roots >= 0) & (roots <= 1)
        found: Array = np.where(inside, roots, 0).sum(axis=0)
    return np.where(inside.sum(axis=0) == 1, found, np.nan)


def weight_rows(case: Case, bench: Bench) -> list[Row]:
    """σ between the ends, and the cosine of their changes from the base."""
    recipes = case.models(bench.size)
    instruct, thinking = (open_source(str(bench.model(recipe))) for recipe in recipes)
    base = open_source(str(bench.model(case.base(bench.size))))
    similar = compare(instruct, thinking, base)
    assert similar.kinship is not None
    return [
        Row.of(case, "weights", "sigma", similar.sigma("global")),
        Row.of(case, "weights", "cosine", similar.kinship.cosine),
        Row.of(case, "weights", "parameters", float(sum(spec.num_elements for spec in base.specs.values()))),
    ]
