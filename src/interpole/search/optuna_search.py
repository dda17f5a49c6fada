"""Search over λ maps: more accuracy for fewer tokens, tried on a live engine, with no checkpoint written (Optuna asks, we tell).

Trials see one half of the questions; on the other the best are chosen from and the winner confirmed (see finals.py). Stopped
and started again it goes on within the trial at which it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from interpole.actors import Actors, Order
from interpole.checkpoints.names import num_layers
from interpole.engines.pool import Pool
from interpole.errors import InterpoleError, RunError
from interpole.files import StrPath, write_atomic
from interpole.formats import content_hash, seed_of
from interpole.merging.simplex import centre
from interpole.search.finals import Confirmation, Finalist, Finals, Ids, split
from interpole.search.predict import NUM_PROMPTS, ForwardPasses, ask_parts, prompts_of
from interpole.search.space import BATCH, Choices, Range, SpaceFile, Vary, begin_with, leading, point_of
from interpole.search.study import CONFIRMED, HELD_OUT, batch_size, confirm_share, open_study, sampler_of
from interpole.sweep.cluster import Cluster, EngineTools, written
from interpole.sweep.config import PointConfig
from interpole.sweep.generate import ask
from interpole.sweep.plan import Plan
from interpole.sweep.progress import OnProgress, SweepProgress
from interpole.sweep.run import pool_of
from interpole.tasks import Benchmark

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["RESULT", "SearchResult", "run", "to_json"]

RESULT = "search.json"
"""In the folder: what came of it all."""
MIN_TRIALS = 20
"""Of fewer nothing is said about what matters."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found."""

    finalists: tuple[Finalist, ...]  # by tokens
    importance: Mapping[str, Mapping[str, float]]  # "accuracy" and "tokens" → share of each value that was varied
    num_trials: int
    num_failed: int
    num_tokens: int  # of this call's trials
    confirmed: Confirmation | None  # the winner on questions used for nothing else; None: the folder keeps none
    num_search_questions: int
    num_choose_questions: int
    num_confirm_questions: int


def run(
    file: SpaceFile,
    out: StrPath,
    *,
    on_progress: OnProgress = lambda _: None,
    actors: Actors | None = None,
) -> SearchResult:
    """Search, choose among the best on the questions held out, and confirm the winner on some that are kept for that.

    Args:
        file: what to vary, and on what.
        out: the folder; made, or continued.
        on_progress: told of every trial, and of every answer of the last sweep.
        actors: engines on a cluster, each of which tries a point of its own; what they find is what one engine here finds.

    Raises:
        InterpoleError: Optuna is not installed, the file does not fit the models, or the folder holds another search.
    """
    out = Path(out)
    planned = Plan(file.sweep)
    num_tried = 0

    def tell(text: str) -> None:
        point = f"trial {num_tried}" if num_tried else ""
        on_progress(SweepProgress("search", point, done=num_tried, total=file.trials, message=text))

    parts = _checked(file, planned, out)
    about = _about(file, planned)
    with (
        open_study(out, about, file.algorithm, file.sweep.seed, file.trials, tell) as study,
        _engines(planned, actors, tell) as engines,
    ):
        share = confirm_share(study, out, file.confirm)
        batch = batch_size(study, out, file.batch, BATCH if actors else 1)
        questions = split(planned.benchmarks.values(), file.held_out, share, file.sweep.seed)
        ranked = list[str](study.user_attrs.get("ranked", ()))
        if file.prune is not None and "ranked" not in study.user_attrs:
            ranked = _ranked(file.prune, planned, engines, questions.seen, parts)
            study.set_user_attr("ranked", ranked)
            names = ", ".join(ranked)
            tell(f"{len(ranked)} of {len(parts)} parts are varied, by what they do to thinking: {names}")
        parts = parts if file.prune is None else {name: rule for name, rule in parts.items() if name in ranked}
        trials = _Trials(file, out, planned, questions.seen, parts, batch)
        for values in (*begin_with(file.space, list(parts)), *leading(file.space, ranked)):
            study.enqueue_trial(values, skip_if_exists=True)
        num_tried = sum(trial.state.is_finished() for trial in study.trials)
        for number, found in trials.try_all(study, engines):
            num_tried += 1
            tell(f"trial {number + 1} of {file.trials}: {found}")
        finals = Finals(file, out, planned, Cluster(engines) if isinstance(engines, Actors) else engines, on_progress)
        best = _best([trial for trial in study.best_trials if _says_all(file, parts, trial)], file.finalists)
        points = {name: _point(file, parts, trial) for name, trial in best.items()}
        finalists = finals.choose(points, {name: trial.values for name, trial in best.items()}, questions.choose)
        sizes = questions.sizes
        result = SearchResult(
            finalists=finalists,
            importance=_importance(study),
            num_trials=_num_tried(study),
            num_failed=sum(trial.state.name == "FAIL" for trial in study.trials),
            num_tokens=trials.num_tokens,
            confirmed=_confirmed(study, finals, finalists, points, questions.confirm) if share else None,
            num_search_questions=sizes[0],
            num_choose_questions=sizes[1],
            num_confirm_questions=sizes[2],
        )
    write_atomic(out / RESULT, json.dumps(to_json(result), indent=1, ensure_ascii=False) + "\n")
    return result


def to_json(result: SearchResult) -> dict[str, Any]:
    """Plain data with the keys of `SearchResult`; numbers of finalists are of the questions that the winner was chosen on."""
    fields = asdict(replace(result, finalists=(), confirmed=None))
    fields["finalists"] = [one.to_json() for one in result.finalists]
    fields["confirmed"] = result.confirmed and result.confirmed.to_json()
    return fields


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
    """Hash of what the trials depend on: everything but how many there are, and what is done with the best."""
    sources = {name: source.fingerprint for name, source in planned.sources.items()}
    other: dict[str, Any] = {
        "trials": True,
        "finalists": True,
        "confirm": True,
        "goal": True,
        "batch": True,
        "sweep": {"engines"},
    }
    other |= {} if file.prune is not None else {"prune": True}  # as before there was such a thing
    other |= {} if file.space.simplex else {"space": {"simplex"}, "sweep": {"engines", "simplex"}}  # likewise
    return content_hash([file.model_dump(mode="json", exclude=other), sources])


def _checked(file: SpaceFile, planned: Plan, out: Path) -> dict[str, dict[str, Any]]:
    """What varies, each part with its rule, where everything fits; what does not is said before the first trial.

    Raises:
        InterpoleError: it does not.
    """
    if foreign := next((name for name, bench in planned.benchmarks.items() if bench.foreign), None):
        raise RunError(f"task {foreign} is asked and graded in its own way", remedy="search on another task")
    split(planned.benchmarks.values(), file.held_out, file.confirm, file.sweep.seed)  # refuses too few
    parts = file.space.rules(num_layers(planned.points[0].specs))
    for method in file.space.methods:
        space = file.space.model_copy(update={"methods": {method: file.space.methods[method]}})
        first = point_of("first", space, parts, lambda _, vary: _first(vary))
        planned.point(first.model_copy(update={"weights": centre(space.simplex)}) if space.simplex else first)
    for name in ("answers", "recipes", HELD_OUT, CONFIRMED):
        if (out / name).is_symlink():
            raise RunError("a link in the folder of a search", out / name, "remove it, or choose another --out")
    return parts


def _ranked(
    least: float,
    planned: Plan,
    engines: Pool | Actors,
    benchmarks: Sequence[Benchmark],
    parts: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """The parts that bring at least such a share of the log odds of thinking, the largest first.

    Raises:
        RunError: the engine cannot say, it is on a cluster, or the prompts open the thinking themselves.
    """
    if not planned.config.kind.chances or planned.form.prompt_opens_thinking:
        raise RunError(
            "`prune` needs an engine that says how likely thinking is, and prompts that do not open it",
            remedy="leave it out",
        )
    if isinstance(engines, Actors):
        raise RunError("`prune` asks an engine here before the first trial", remedy="begin the search without --ray")
    prompts = [prompt._replace(task="") for prompt in prompts_of(planned, NUM_PROMPTS, benchmarks)]
    found = ask_parts(ForwardPasses(planned, engines, prompts, planned.form.markers.open), parts)[""]
    return [part.name for part in found.parts if abs(part.share[0] or 0.0) >= least]


def _num_tried(study: Study) -> int:
    return sum(trial.state.name != "WAITING" for trial in study.trials)


@contextmanager
def _engines(planned: Plan, actors: Actors | None, tell: Callable[[str], None]) -> Iterator[Pool | Actors]:
    """Those of a cluster, or some here."""
    if actors is None:
        with pool_of(planned, tell) as pool:
            yield pool
    else:
        actors.report = tell
        yield actors


class _Values(NamedTuple):
    """What a trial came to."""

    accuracy: float
    tokens: float  # of a response; each task weighs the same
    num_tokens: int  # of all


class _Trials:
    """Tries points on the questions of the search."""

    def __init__(
        self,
        file: SpaceFile,
        out: Path,
        planned: Plan,
        benchmarks: Sequence[Benchmark],
        parts: Mapping[str, Mapping[str, Any]],
        batch: int = 1,
    ) -> None:
        self._file, self._out, self._plan = file, out.absolute(), planned
        self._benchmarks, self._parts, self._batch = benchmarks, parts, batch
        self.num_tokens = 0

    def try_all(self, study: Study, engines: Pool | Actors) -> Iterator[tuple[int, str]]:
        """Go on with trials that were under way when the search was stopped, then try more until there are enough.

        A batch is proposed, tried and told as a whole, in the order of its numbers: the next one depends on nothing else.

        Yields:
            Each trial's number, and what came of it, in words.
        """
        points, trials = dict(self._begun(study)), self._file.trials
        while points or _num_tried(study) < trials:
            while _num_tried(study) < trials and (not points or _num_tried(study) % self._batch):
                points |= [self._new(study)]
            found = dict[int, _Values | str]()
            for number, values, where in self._try(engines, points):
                found[number] = values
                yield number, _said(values) + where
            for number in sorted(found):
                self._tell(study, number, found[number])
            points = {}

    def _try(
        self, engines: Pool | Actors, points: Mapping[int, PointConfig]
    ) -> Iterator[tuple[int, _Values | str, str]]:
        """Try points; for each its number, its values or why there are none, and where it was tried."""
        return self._try_there(engines, points) if isinstance(engines, Actors) else self._try_here(engines, points)

    def _try_here(self, pool: Pool, points: Mapping[int, PointConfig]) -> Iterator[tuple[int, _Values | str, str]]:
        """One point after the other."""
        for number, point in points.items():
            try:
                yield number, _try_point(self._plan, pool, point, self._benchmarks, self._answers(number)), ""
            except InterpoleError as error:
                yield number, str(error), ""

    def _try_there(self, actors: Actors, points: Mapping[int, PointConfig]) -> Iterator[tuple[int, _Values | str, str]]:
        """Each engine tries a point of its own. A trial whose engine is gone is tried again on another."""
        config = written(self._plan.config)
        ids = {bench.name: tuple(problem.id for problem in bench.problems) for bench in self._benchmarks}
        orders = [Order(_try_ids, (config, point, ids, self._answers(number))) for number, point in points.items()]
        for done in actors.do(orders, 1 + self._file.sweep.max_failures, again=lambda done: done.gone):
            if not done.again:
                yield int(done.order.args[3].stem), done.error or done.answer, f", on {done.node}"

    def _begun(self, study: Study) -> Iterator[tuple[int, PointConfig]]:
        """Trials that were under way; those that were stopped before all values were drawn have failed."""
        for trial in study.trials:
            if trial.state.name == "RUNNING":
                try:
                    yield trial.number, _point(self._file, self._parts, trial)
                except KeyError:
                    study.tell(trial.number, state=_failed())

    def _new(self, study: Study) -> tuple[int, PointConfig]:
        if self._batch > 1:  # drawn by the trial's number, so that a search that was stopped goes on to the same
            seed, file = seed_of(self._file.sweep.seed, _num_tried(study)), self._file
            study.sampler = sampler_of(file.algorithm, seed, file.trials, at_once=True)
        trial = study.ask()
        point = point_of(_name(trial), self._file.space, self._parts, lambda n, vary: _draw(trial, n, vary))
        return trial.number, point

    def _answers(self, number: int) -> Path:
        """Where a trial's answers are kept until it is told."""
        return self._out / "answers" / f"{number}.jsonl"

    def _tell(self, study: Study, number: int, found: _Values | str) -> None:
        """Tell a trial's values, or that it failed."""
        if isinstance(found, str):
            study.tell(number, state=_failed())
            return
        study.tell(number, (found.accuracy, found.tokens))
        self._answers(number).unlink(missing_ok=True)
        self.num_tokens += found.num_tokens


def _said(found: _Values | str) -> str:
    """What came of a trial, in words."""
    return (
        f"failed: {found}" if isinstance(found, str) else f"{100 * found.accuracy:.1f} % at {found.tokens:,.0f} tokens"
    )


def _try_point(
    planned: Plan, pool: Pool, config: PointConfig, benchmarks: Sequence[Benchmark], answers: Path
) -> _Values:
    """Ask questions at a point.

    Args:
        planned: the sweep that the point is a variant of.
        pool: whom to ask.
        config: the point.
        benchmarks: with the questions.
        answers: the journal; what it has is not asked for.

    Raises:
        InterpoleError: there is no answer.
    """
    point = planned.point(config)
    values, num_tokens = [], 0
    for bench in benchmarks:
        asked = ask(planned, pool, point, bench, answers)
        lengths = [one.answer.num_tokens for one in asked]
        grades = [next(iter(bench.grade(one.problem, one.parsed).values())).score for one in asked]
        values.append((np.mean(grades), np.mean(lengths)))
        num_tokens += sum(lengths)
    accuracy, tokens = np.mean(values, axis=0)
    return _Values(float(accuracy), float(tokens), num_tokens)


def _try_ids(at: EngineTools, sweep: str, config: PointConfig, ids: Ids, answers: Path) -> _Values:
    """`_try_point` with the questions by their ids: what an actor is ordered to do."""
    planned = at.plan(sweep)
    benchmarks = [
        replace(bench, problems=tuple(problem for problem in bench.problems if problem.id in set(ids[name])))
        for name, bench in planned.benchmarks.items()
    ]
    return _try_point(planned, at.pool, config, benchmarks, answers)


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


def _says_all(file: SpaceFile, parts: Mapping[str, Mapping[str, Any]], trial: FrozenTrial) -> bool:
    """Whether a trial's values are complete: a line of the study that a crash tore may have been one of them."""
    try:
        _point(file, parts, trial)
    except KeyError:
        return False
    return True


def _best(trials: Sequence[FrozenTrial], num: int) -> dict[str, FrozenTrial]:
    """So many trials, spread over the Pareto front of the search."""
    front = sorted(trials, key=lambda trial: trial.values[1])
    picked = np.unique(np.linspace(0, len(front) - 1, min(num, len(front))).round().astype(int))
    return {_name(front[i]): front[i] for i in picked} if front else {}


def _confirmed(
    study: Study, finals: Finals, finalists: Sequence[Finalist], points: Mapping[str, PointConfig], ids: Ids
) -> Confirmation:
    """The winner confirmed; the study remembers whom its questions were used for."""
    before = list(study.user_attrs.get("confirmed", ()))
    winner = next(one.name for one in finalists if one.is_winner)
    if winner not in before:
        study.set_user_attr("confirmed", [*before, winner])
    return finals.confirm(finalists, points, ids, before)


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
