"""Search over λ maps: more accuracy for fewer tokens, tried on a live engine, with no checkpoint written (Optuna asks, we tell).

Trials see one half of the questions. What is reported of the best was measured on the other half, by an ordinary sweep in the
folder `held-out`, beside the plain dial. Stopped and started again it goes on within the trial at which it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interpole.analysis.intervals import Interval
from interpole.analysis.recommend import average
from interpole.analysis.scoring import score
from interpole.analysis.tables import PointMetrics
from interpole.checkpoints.names import num_layers
from interpole.engines.process import EngineProcess
from interpole.errors import InterpoleError, RunError
from interpole.files import StrPath, content_hash, plain, write_atomic
from interpole.merging.recipe import build
from interpole.search.space import Choices, Range, SpaceFile, Vary, point_of, uniform
from interpole.search.study import open_study
from interpole.sweep import run as sweep
from interpole.sweep.config import PointConfig, SweepConfig
from interpole.sweep.generate import ask
from interpole.sweep.plan import Plan
from interpole.sweep.run import OnProgress, SweepProgress, engine_of
from interpole.tasks import Benchmark

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["HELD_OUT", "RESULT", "Finalist", "Result", "run", "to_json"]

HELD_OUT, RESULT = "held-out", "search.json"
"""In the folder: the run of the finalists on the questions held out, and what came of it all."""
MIN_TRIALS = 20
"""Of fewer nothing is said about what matters."""


@dataclass(frozen=True, slots=True)
class Finalist:
    """One of the best, or a point of the dial: as the search saw it, and on each task's questions held out."""

    name: str
    recipe: Path | None  # its YAML, relative to the folder; None: a point of the dial
    sampler: Mapping[str, float]
    seen_accuracy: float | None  # mean over tasks; None: not tried in the search
    seen_tokens: float | None
    held_out: tuple[PointMetrics, ...]
    is_best: bool  # no other is better in accuracy and no worse in tokens, or the reverse, on the questions held out

    @property
    def accuracy(self) -> float:
        """Mean@k on the questions held out, each task weighing the same."""
        return float(np.mean([m.mean.value for m in self.held_out]))

    @property
    def interval(self) -> Interval:
        """The same with its interval; it does not know that the best were chosen on these questions."""
        return average([m.mean for m in self.held_out])

    @property
    def tokens(self) -> float:
        """Token #N likewise."""
        return float(np.mean([m.tokens.value for m in self.held_out]))


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found."""

    finalists: tuple[Finalist, ...]  # by tokens
    importance: Mapping[str, Mapping[str, float]]  # "accuracy" and "tokens" → share of each value that was varied
    num_trials: int
    num_failed: int
    num_tokens: int  # of this call's trials
    num_search_questions: int
    num_held_out_questions: int


def run(
    file: SpaceFile,
    out: StrPath,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Result:
    """Search, then measure the best on the questions held out.

    Args:
        file: what to vary, and on what.
        out: the folder; made, or continued.
        on_progress: told of every trial, and of every answer of the last sweep.

    Raises:
        InterpoleError: Optuna is not installed, the file does not fit the models, or the folder holds another search.
    """
    out = Path(out)
    planned = Plan(file.sweep)
    num_tried = 0

    def tell(text: str) -> None:
        point = f"trial {num_tried}" if num_tried else ""
        on_progress(SweepProgress("search", point, done=num_tried, total=file.trials, message=text))

    if foreign := next((name for name, bench in planned.benchmarks.items() if bench.foreign), None):
        raise RunError(f"task {foreign} is asked and graded in its own way", remedy="search on another task")
    seen, kept = _split(planned.benchmarks.values(), file.held_out, file.sweep.seed)
    parts = file.space.rules(num_layers(planned.points[0].weights.specs))  # type: ignore[union-attr]
    for method in file.space.methods:  # what does not fit is said before the first trial
        space = file.space.model_copy(update={"methods": {method: file.space.methods[method]}})
        planned.point(point_of("first", space, parts, lambda _, vary: _first(vary)))
    for name in ("answers", "recipes", HELD_OUT):
        if (out / name).is_symlink():
            raise RunError("a link in the folder of a search", out / name, "remove it, or choose another --out")
    about = _about(file, planned)
    with (
        open_study(out, about, file.algorithm, file.sweep.seed, file.trials, tell) as study,
        engine_of(planned, tell) as engine,
    ):
        trials = _Trials(file, out, planned, engine, seen, parts)
        for values in uniform(file.space, list(parts)):
            study.enqueue_trial(values, skip_if_exists=True)
        trials.finish(study)
        num_tried = _num_tried(study)
        while num_tried < file.trials:
            found = trials.try_one(study)
            num_tried = _num_tried(study)
            tell(f"trial {num_tried} of {file.trials}: {found}")
        finalists = _finals(file, out, planned, engine, study, kept, parts, on_progress)
        result = Result(
            finalists=finalists,
            importance=_importance(study),
            num_trials=_num_tried(study),
            num_failed=sum(trial.state.name == "FAIL" for trial in study.trials),
            num_tokens=trials.num_tokens,
            num_search_questions=sum(len(bench.problems) for bench in seen),
            num_held_out_questions=sum(map(len, kept.values())),
        )
    write_atomic(out / RESULT, json.dumps(to_json(result), indent=1, ensure_ascii=False) + "\n")
    return result


def to_json(result: Result) -> dict[str, Any]:
    """Plain data with the keys of `Result`; of each finalist also `accuracy` and `tokens`."""
    fields = asdict(replace(result, finalists=()))
    fields["finalists"] = [
        plain(asdict(replace(one, held_out=())) | {"recipe": one.recipe and str(one.recipe)})
        | {
            "accuracy": one.accuracy,
            "interval": plain(one.interval),
            "tokens": one.tokens,
            "tasks": [m.task for m in one.held_out],
        }
        for one in result.finalists
    ]
    return fields


def _split(
    benchmarks: Sequence[Benchmark] | Any, held_out: float, seed: int
) -> tuple[list[Benchmark], dict[str, tuple[str, ...]]]:
    """Each benchmark with the questions of the search, and the ids of those held out."""
    seen, kept = [], {}
    for bench in benchmarks:
        ids = [problem.id for problem in bench.problems]
        num = round(held_out * len(ids))
        if not 0 < num < len(ids):
            raise RunError(
                f"{len(ids)} questions cannot be split", bench.name, "give more questions, or another held_out"
            )
        order = np.random.default_rng(seed).permutation(len(ids))
        held = {ids[i] for i in order[:num]}
        kept[bench.name] = tuple(name for name in ids if name in held)
        seen.append(replace(bench, problems=tuple(p for p in bench.problems if p.id not in held)))
    return seen, kept


def _first(vary: Vary) -> Any:
    """Some value that is allowed."""
    return vary.low if isinstance(vary, Range) else vary.choices[0] if isinstance(vary, Choices) else vary


def _draw(trial: Trial, name: str, vary: Vary) -> Any:
    """A value that Optuna suggests."""
    if isinstance(vary, Choices):
        return trial.suggest_categorical(name, vary.choices)
    if not isinstance(vary, Range):
        return vary
    if name == "top_k":
        return trial.suggest_int(name, int(vary.low), int(vary.high))
    return trial.suggest_float(name, float(vary.low), float(vary.high))


def _about(file: SpaceFile, planned: Plan) -> str:
    """Hash of what is searched: everything but how long."""
    sources = {name: source.fingerprint for name, source in planned.sources.items()}
    return content_hash([file.model_dump(mode="json", exclude={"trials", "finalists"}), sources])


def _num_tried(study: Study) -> int:
    return sum(trial.state.name != "WAITING" for trial in study.trials)


class _Trials:
    """Tries points on the questions of the search."""

    def __init__(
        self,
        file: SpaceFile,
        out: Path,
        planned: Plan,
        engine: EngineProcess,
        benchmarks: Sequence[Benchmark],
        parts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._file, self._out, self._plan, self._engine = file, out, planned, engine
        self._benchmarks, self._parts = benchmarks, parts
        self.num_tokens = 0

    def finish(self, study: Study) -> None:
        """Go on with trials that were under way when the search was stopped."""
        for trial in study.trials:
            if trial.state.name == "RUNNING":
                try:
                    point = _point(self._file, self._parts, trial)
                except KeyError:  # stopped before all values were drawn
                    study.tell(trial.number, state=_failed())
                    continue
                self._measure(study, trial.number, point)

    def try_one(self, study: Study) -> str:
        """One more trial. Returns what came of it, in words."""
        trial = study.ask()
        point = point_of(_name(trial), self._file.space, self._parts, lambda n, vary: _draw(trial, n, vary))
        return self._measure(study, trial.number, point)

    def _measure(self, study: Study, number: int, point: PointConfig) -> str:
        path = self._out / "answers" / f"{number}.jsonl"
        try:
            accuracy, tokens = self._values(point, path)
        except InterpoleError as error:
            study.tell(number, state=_failed())
            return f"failed: {error}"
        study.tell(number, (accuracy, tokens))
        path.unlink(missing_ok=True)
        return f"{100 * accuracy:.1f} % at {tokens:,.0f} tokens"

    def _values(self, config: PointConfig, path: Path) -> tuple[float, float]:
        """Accuracy and tokens, each task weighing the same."""
        point = self._plan.point(config)
        self._engine.load(point.where)
        values = []
        for bench in self._benchmarks:
            asked = ask(self._plan, self._engine, point, bench, path)
            lengths = [one.answer.num_tokens for one in asked]
            grades = [next(iter(bench.grade(one.problem, one.parsed).values())).score for one in asked]
            values.append((np.mean(grades), np.mean(lengths)))
            self.num_tokens += sum(lengths)
        accuracy, tokens = np.mean(values, axis=0)
        return float(accuracy), float(tokens)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _name(trial: Trial | FrozenTrial) -> str:
    """Counted from 1, as it is told."""
    return f"trial {trial.number + 1}"


def _point(file: SpaceFile, parts: Mapping[str, Mapping[str, Any]], trial: FrozenTrial) -> PointConfig:
    """The point that a trial's values say; KeyError where they are not complete."""

    def known(name: str, vary: Vary) -> Any:
        return trial.params[name] if isinstance(vary, Range | Choices) else vary

    return point_of(_name(trial), file.space, parts, known)


def _finals(
    file: SpaceFile,
    out: Path,
    planned: Plan,
    engine: EngineProcess,
    study: Study,
    kept: Mapping[str, tuple[str, ...]],
    parts: Mapping[str, Mapping[str, Any]],
    on_progress: OnProgress,
) -> tuple[Finalist, ...]:
    """Measure the best trials and the dial on the questions held out, and write their recipes."""
    front = sorted(study.best_trials, key=lambda trial: trial.values[1])
    picked = np.unique(np.linspace(0, len(front) - 1, min(file.finalists, len(front))).round().astype(int))
    best = {_name(front[i]): front[i] for i in picked} if front else {}
    points = {name: _point(file, parts, trial) for name, trial in best.items()}
    config = _held_out(file.sweep, planned, kept, list(points.values()))
    summary = sweep.run(config, out / HELD_OUT, on_progress, engine=engine, changed="also")
    if summary.failed:
        first = summary.failed[0]
        raise RunError(f"{first.task} failed at {first.point}", out / HELD_OUT, "run it again to go on")
    measured: dict[str, list[PointMetrics]] = {}
    for m in score(out / HELD_OUT):
        measured.setdefault(m.point, []).append(m)
    finalists = []
    for name in config.point_names:
        trial, point = best.get(name), points.get(name)
        path = None
        if point is not None:
            path = Path("recipes") / f"{name.replace(' ', '-')}.yml"
            (out / path).parent.mkdir(exist_ok=True)
            write_atomic(out / path, build(planned.point(point).where, "the recipe").to_yaml())
        seen = trial.values if trial else (None, None)
        sampler = point.sampler if point else {}
        finalists.append(Finalist(name, path, sampler, seen[0], seen[1], tuple(measured[name]), False))
    return tuple(sorted(_marked(finalists), key=lambda one: one.tokens))


def _marked(finalists: Sequence[Finalist]) -> list[Finalist]:
    """Those on the Pareto front of the questions held out, marked."""

    def beats(a: Finalist, b: Finalist) -> bool:
        return a.accuracy >= b.accuracy and a.tokens <= b.tokens and (a.accuracy, a.tokens) != (b.accuracy, b.tokens)

    return [replace(one, is_best=not any(beats(other, one) for other in finalists)) for one in finalists]


def _held_out(
    config: SweepConfig, planned: Plan, kept: Mapping[str, tuple[str, ...]], points: list[PointConfig]
) -> SweepConfig:
    """The sweep of the finalists on the questions held out."""
    tasks = [task.model_copy(update={"only": ids}) for task, ids in zip(config.tasks, kept.values(), strict=True)]
    return planned.config.model_copy(update={"tasks": tuple(tasks), "points": tuple(points)})


def _importance(study: Study) -> dict[str, dict[str, float]]:
    """How much each varied value explains of what is good, by PED-ANOVA (arXiv 2304.10255); empty with too few trials."""
    import warnings

    import optuna

    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.3)
    targets: dict[str, Callable[[FrozenTrial], float]] = {  # it takes the smallest for the best
        "accuracy": lambda trial: -trial.values[0],
        "tokens": lambda trial: trial.values[1],
    }
    found: dict[str, dict[str, float]] = {}
    if sum(trial.state.name == "COMPLETE" for trial in study.trials) < MIN_TRIALS:
        return found
    for name, target in targets.items():
        with suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    return found
