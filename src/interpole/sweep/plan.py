"""What a sweep is to do: its configuration, the points it names, and what makes a sample reusable.

Nothing is generated here. A sample may be used again where its identity is the same: the hash of weights, recipe, chat template,
markers, prefix, sampler with cap and seed, problems as they are asked, and engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from interpole import tasks
from interpole.analysis.fitting import fit
from interpole.analysis.policies import MARGIN, FittedPolicy
from interpole.chat import Markers, ThinkFormat
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.safetensors import TensorSpec
from interpole.engines.base import MESSAGES, Answer, RemoteModel
from interpole.engines.budget_forcing import Budget, within
from interpole.engines.open import dial
from interpole.engines.pool import lam_within
from interpole.errors import RunError, TaskError
from interpole.formats import content_hash
from interpole.merging.merged import open_part
from interpole.merging.methods import get_method
from interpole.merging.presets import preset
from interpole.merging.recipe import Recipe, Source, build
from interpole.merging.simplex import centre
from interpole.records import Problem, Sampler, dial_name
from interpole.runs.prediction import first_token_margins
from interpole.runs.runfile import Entry, SourceInfo, TaskInfo, release
from interpole.runs.samples import read
from interpole.sweep.config import PointConfig, SweepConfig, TaskConfig
from interpole.tasks import Benchmark

__all__ = ["Plan", "Point", "adjusted"]


@dataclass(frozen=True)
class Point:
    """One thing to evaluate: where it is, the weights that are there, and settings of its own."""

    name: str
    lam: float | None  # None: not on the dial
    where: dict[str, Any]  # what an engine's `load` takes: a recipe, or a model that is served
    weights: Checkpoint | RemoteModel
    sampler: Mapping[str, float] = field(default_factory=dict)
    instruction: str = ""  # below the question
    budget: Budget | None = None  # of thinking
    template_variables: Mapping[str, Any] = field(default_factory=dict)  # over the sweep's
    form: ThinkFormat | None = None  # with those; None: the sweep's
    policy: FittedPolicy | None = None  # what chooses among `stops`
    stops: Mapping[float, Point] = field(default_factory=dict)  # of a policy: the point at each λ that it asks at

    @property
    def asking(self) -> dict[str, Any]:
        """What is special in how this point is asked."""
        budget = {"budget_tokens": self.budget.num_tokens, "close": self.budget.close} if self.budget else {}
        variables = {"template_variables": dict(self.template_variables)} if self.template_variables else {}
        opens = {"prompt_opens_thinking": self.form.prompt_opens_thinking} if self.form else {}
        policy = {"policy": self.policy.model_dump(mode="json")} if self.policy else {}
        return ({"instruction": self.instruction} if self.instruction else {}) | budget | variables | opens | policy

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights; of a policy, of all that it may choose."""
        if self.policy is not None:
            return content_hash([stop.fingerprint for stop in self.stops.values()])
        return self.weights.fingerprint()

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Of its tensors; none of a model that somebody else serves."""
        return {} if isinstance(self.weights, RemoteModel) else self.weights.specs

    @property
    def slug(self) -> str:
        """The name as part of a path: `lam-0.6`."""
        return re.sub(r"[^\w.+-]+", "-", self.name.replace("λ", "lam"), flags=re.ASCII)


class Plan:
    """A configuration with its checkpoints and tasks opened, and everything its samples depend on worked out.

    Attributes:
        points: in the order they are run.
        benchmarks: by name, with the sampler and k of this sweep.
        form: how prompts are rendered and responses read, by the source that all points share.
    """

    def __init__(self, config: SweepConfig) -> None:
        """Open checkpoints and tasks; reads headers and problems only.

        Raises:
            InterpoleError: something does not exist, or does not fit.
        """
        self.config = config = _with_fitted(config)
        resolve: Any = open_part if config.served else dial(self.base_recipe)
        self._resolve = resolve
        self._template_source = resolve(config.sources[config.template_from]) if config.sources else None
        self.form = self._read_template(self._template_source)
        self.points = [
            *(self.dial_point(lam) for lam in config.lambdas),
            *(self.point(point) for point in config.own_points),
        ]
        for point in self.places if config.per_request else ():
            lam_within(point.where, self.engine_spec["recipe"], point.name)
        self.benchmarks = {bench.name: bench for bench in (self._benchmark(task) for task in config.tasks)}
        if len(self.benchmarks) < len(config.tasks):
            raise RunError("two tasks have one name", remedy="run them as two sweeps")
        for point in self.points:
            self._check_policy(point)
        self.sources = {
            name: SourceInfo(
                label=source.label,
                revision=source.revision if isinstance(source, Source) else None,
                fingerprint="" if config.served else resolve(source).fingerprint(),
            )
            for name, source in config.sources.items()
        }

    @property
    def places(self) -> list[Point]:
        """Where engines have to go: the points, and of a policy all that it may choose."""
        return [place for point in self.points for place in (point.stops.values() if point.policy else (point,))]

    def _check_policy(self, point: Point) -> None:
        """Refuse a policy that cannot be followed here.

        Raises:
            RunError: with what it needs.
        """
        foreign = next((name for name, one in self.benchmarks.items() if one.foreign is not None), None)
        if point.policy is None:
            return
        if foreign:
            raise RunError(
                f"{point.name} needs the questions, which the task {foreign} keeps to itself",
                remedy="leave one of them out",
            )
        if point.policy.margin_at is not None and not self.config.kind.chances:
            raise RunError(
                f"{point.name} goes by the first token's chance, of which the engine {self.config.engine} says nothing",
                remedy="take transformers or vllm",
            )
        if point.policy.margin_at is not None and self.form_at(point).prompt_opens_thinking:
            raise RunError(
                f"{point.name} goes by the first token, which says nothing where the prompt opens the thinking",
                remedy="take another policy",
            )

    def _read_template(self, source: Checkpoint | None) -> ThinkFormat:
        """Find out how prompts are rendered and responses read: from a source, or as well as can be without one."""
        config = self.config
        if source is None:
            if not config.chat:
                raise RunError(
                    "no chat template to render prompts with", remedy="name one of the `sources` to take it from"
                )
            return ThinkFormat(Markers(*(config.markers or ("<think>", "</think>"))), MESSAGES)
        if source.chat_template is None:
            raise TaskError("no chat template", source.label, "choose another source with template_from")
        form = self._source_format(source, config.template_variables)
        return replace(form, template=MESSAGES, variables={}) if config.chat else form

    def _source_format(self, source: Checkpoint, variables: Mapping[str, Any]) -> ThinkFormat:
        config, template = self.config, source.chat_template or ""
        return ThinkFormat.of(
            source.assets, template, markers=config.markers, prefix=config.prefix, variables=variables
        )

    @property
    def engine_spec(self) -> dict[str, Any]:
        """What the engine is opened with, as JSON (see `interpole.engines.open`)."""
        options = self.config.engine_options
        if self.config.served:  # which model, and where, are the points' own settings
            options = {key: value for key, value in options.items() if key not in ("model", "base_url")}
        recipe = {} if self.config.served else _dumped(self.base_recipe)
        spec = {"engine": self.config.engine, "recipe": recipe, "options": options}
        return spec | ({"per_request": True} if self.config.per_request else {})

    @property
    def base_recipe(self) -> Recipe:
        """The recipe that the points are variants of."""
        if lambdas := self.config.lambdas:
            return self._recipe({"lambda": lambdas[0]})
        first = self.config.own_points[0]
        if isinstance(first.policy, FittedPolicy):
            first = _stop(first, first.policy.lams[0])
        whole = {"weights": centre(self.config.weighted)} if first.weights else {}  # an engine opens all corners
        return self._own_recipe(first.model_copy(update=whole))

    def form_at(self, point: Point) -> ThinkFormat:
        """How a point is asked and read."""
        return point.form or self.form

    def render(self, messages: Sequence[Mapping[str, Any]], point: Point | None = None) -> str:
        """The prompt for chat messages, with a point's instruction below the last of them, and the sweep's prefix."""
        if point is None:
            return self.form.render(messages)
        if point.instruction:
            *before, last = messages
            messages = [*before, {**last, "content": f"{last['content']}\n\n{point.instruction}"}]
        return self.form_at(point).render(messages)

    def ask(self, point: Point, benchmark: Benchmark, problem: Problem) -> str:
        """The prompt of a problem at a point."""
        return self.render([{"role": "user", "content": benchmark.prompt(problem)}], point)

    def answer(self, point: Point, answer: Answer) -> Answer:
        """How an engine answers at a point: within its budget, if it has one."""
        return within(answer, point.budget, self.form_at(point).is_thinking) if point.budget else answer

    def entry(self, benchmark: Benchmark, point: Point, engine: Mapping[str, str]) -> Entry:
        """What one task at one point will be called; without parts."""
        sampler = asdict(self.sampler(benchmark, point))
        shared = {
            "sources": {name: source.fingerprint for name, source in self.sources.items()},
            "template": self.form.template,
            "variables": self.form.variables,
            "markers": asdict(self.form.markers),
            "prefix": self.form.prefix,
            "seed": self.config.seed,
            "sampler": self.config.sampler,
            "engine": {name: release(version) for name, version in engine.items()},
        }
        problems = _problems_hash(benchmark)
        own = {"weights": point.fingerprint, "sampler": sampler, "task": benchmark.name, "problems": problems}
        own |= {"asking": point.asking} if point.asking else {}
        unique = content_hash({key: value for key, value in shared.items() if key not in ("sources", "sampler")} | own)
        return Entry(
            task=benchmark.name,
            point=point.name,
            lam=point.lam,
            identity=unique,
            settings=content_hash(shared),
            problems_hash=problems,
            fingerprint=point.fingerprint,
            recipe=point.where,
            sampler=sampler,
            asking=point.asking,
            folder=f"logs/{_safe(benchmark.name)}/{point.slug}-{unique[:8]}",
        )

    def sampler(self, benchmark: Benchmark, point: Point) -> Sampler:
        """The sampler of a task at a point."""
        return adjusted(benchmark.sampler, point.sampler)

    def expected_tokens(self, benchmark: Benchmark, point: Point) -> float:
        """Tokens of a response before anything is known, to deal out work by; only ratios mean something.

        From λ = 0 to 1 lengths grow 1.5 times (AIME), 1.8 times (IFEval) and 16 times (GPQA) in arXiv 2510.10977: twice, here.
        """
        cap = self.sampler(benchmark, point).max_tokens
        most = min(cap, point.budget.num_tokens) if point.budget else cap
        return most * (1.0 + min(1.0, max(0.0, 1.0 if point.lam is None else point.lam)))

    def task_info(self, task: TaskConfig, benchmark: Benchmark) -> TaskInfo:
        """How a task is written down."""
        return TaskInfo(
            spec=task.model_dump(mode="json", exclude_none=True)
            | ({"limit": limit} if (limit := self._limit(task)) else {}),
            num_problems=len(benchmark.problems),
            samples=benchmark.k,
            problems_hash=_problems_hash(benchmark),
            private=benchmark.private,
        )

    def _limit(self, task: TaskConfig) -> int | None:
        return task.limit or self.config.limit

    def _benchmark(self, task: TaskConfig) -> Benchmark:
        loaded = tasks.load(
            task.task,
            data=task.data,
            split=task.split,
            limit=self._limit(task),
            seed=self.config.seed,
            grader=task.grader,
            prompt=task.prompt,
        )
        if task.only:
            loaded = _among(loaded, task.only)
        sampler = adjusted(loaded.sampler, {**self.config.sampler, **task.sampler}, seed=self.config.seed)
        return replace(loaded, k=task.samples or self.config.samples or loaded.k, sampler=sampler)

    def dial_point(self, lam: float) -> Point:
        """The point at λ on the dial."""
        return self.point(PointConfig(name=dial_name(lam), recipe={"lambda": lam}), lam)

    def point(self, point: PointConfig, lam: float | None = None) -> Point:
        """A point with its weights; `lam`: where it is on the dial."""
        if isinstance(point.policy, FittedPolicy):
            stops = {at: self.point(_stop(point, at)) for at in point.policy.places}
            first = next(iter(stops.values()))
            return replace(first, name=point.name, where={}, policy=point.policy, stops=stops)
        where, weights = self._weights(point, lam if point.lam is None else point.lam)
        close = point.close or f"\n{self.form.markers.close}\n\n"
        budget = Budget(point.budget_tokens, close) if point.budget_tokens else None
        own, form = point.template_variables, None
        if own and self._template_source is not None:
            form = self._source_format(self._template_source, {**self.config.template_variables, **own})
        return Point(
            name=point.name,
            lam=lam,
            where=where,
            weights=weights,
            sampler=point.sampler,
            instruction=point.instruction,
            budget=budget,
            template_variables=own,
            form=form,
        )

    def _weights(self, point: PointConfig, lam: float | None) -> tuple[dict[str, Any], Checkpoint | RemoteModel]:
        """What an engine's `load` takes for a point, and what is there."""
        if not self.config.served:
            recipe = self._own_recipe(point)
            return _dumped(recipe), self._resolve(recipe)
        options = self.config.engine_options
        model = point.model or str(options["model"])
        model = model if lam is None else model.replace("{lambda}", f"{lam:g}")
        base_url = point.base_url or str(options["base_url"])
        served = RemoteModel(base_url=base_url, model=model, markers=(self.form.markers.open, self.form.markers.close))
        return served.model_dump(mode="json"), served

    def _own_recipe(self, point: PointConfig) -> Recipe:
        """The recipe of a point: the sweep's or a preset, with what the point changes."""
        own = {**point.recipe, **({} if point.lam is None else {"lambda": point.lam}), **self._weighted(point)}
        if not point.preset:
            return self._recipe(own)
        names = {name: name for name in ("instruct", "thinking", "base") if name in self._sources}
        if missing := {"instruct", "thinking"} - set(names):
            raise RunError(f"no source {min(missing)!r} for preset {point.preset}", point.name, "name it in `sources`")
        recipe = preset(point.preset, **names, **own)
        return self._recipe(
            _dumped(recipe) | {"sources": {k: self._sources[v.label] for k, v in recipe.sources.items()}}
        )

    @cached_property
    def _sources(self) -> dict[str, dict[str, Any]]:
        return {
            name: source.model_dump(by_alias=True, exclude_none=True) for name, source in self.config.sources.items()
        }

    def _weighted(self, point: PointConfig) -> dict[str, Any]:
        """The weights of a point with those sources alone that it merges, and the base where the method takes one."""
        if not point.weights:
            return {}
        method = get_method(str({**self.config.recipe, **point.recipe}.get("method", "linear")))
        base = {"base"} if method.base != "no" else set()
        sources = {name: source for name, source in self._sources.items() if name in point.weights.keys() | base}
        return {"sources": sources, "weights": {name: point.weights[name] for name in sources if name in point.weights}}

    def _recipe(self, own: Mapping[str, Any]) -> Recipe:
        """A recipe of the sweep's sources; left out are a base where the method takes none, and other corners of a simplex."""
        content = {"sources": self._sources, **self.config.recipe, **own}
        if "sources" not in own:
            ends = ("instruct", "thinking", "base")
            others = {name for name in self.config.weighted if name not in ends}
            others |= {"base"} if get_method(content.get("method", "linear")).base == "no" else set()
            content["sources"] = {name: source for name, source in self._sources.items() if name not in others}
        source = self.config.template_from
        return build(
            ({"template_from": source} if source in content["sources"] else {}) | content, "the sweep's recipe"
        )


def _stop(point: PointConfig, lam: float) -> PointConfig:
    """One λ that a policy may choose, asked as the policy's point is."""
    name = f"{point.name} at {dial_name(lam)}"
    return point.model_copy(update={"name": name, "lam": lam, "policy": "", "fitted_to": None, "mean_tokens": None})


def _with_fitted(config: SweepConfig) -> SweepConfig:
    """A sweep whose policies are fitted, so that it needs no other run any more.

    Raises:
        InterpoleError: a policy cannot be read, or cannot be fitted to the run.
    """
    if not any(point.policy for point in config.points):
        return config
    points = tuple(
        point.model_copy(update={"policy": _fitted(point), "fitted_to": None, "mean_tokens": None})
        if point.policy
        else point
        for point in config.points
    )
    return config.model_copy(update={"points": points})


def _fitted(point: PointConfig) -> FittedPolicy:
    if not isinstance(point.policy, str):
        return point.policy
    if point.fitted_to is None:
        return FittedPolicy.load(point.policy)
    margins, found = first_token_margins(point.fitted_to), read(point.fitted_to, texts=False)
    return fit(found, point.policy, mean_tokens=point.mean_tokens, numbers={MARGIN: margins.of}, margin_at=margins.at)


def _among(benchmark: Benchmark, ids: Sequence[str]) -> Benchmark:
    """The benchmark with these problems alone."""
    found = tuple(problem for problem in benchmark.problems if problem.id in set(ids))
    if missing := set(ids) - {problem.id for problem in found}:
        raise TaskError(f"no problem {min(missing)!r}", benchmark.name, "check `only`, and the limit")
    return replace(benchmark, problems=found)


def _dumped(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True, exclude_none=True)


def _problems_hash(benchmark: Benchmark) -> str:
    """Hash of the problems as they are asked: ids, prompts and reference answers."""
    return content_hash([[problem.id, benchmark.prompt(problem), problem.answer] for problem in benchmark.problems])


def adjusted(sampler: Sampler, settings: Mapping[str, float], **more: int) -> Sampler:
    """A sampler with settings as users write them, where whole numbers may be floats."""
    whole: dict[str, Any] = {
        name: int(value) if name in ("top_k", "max_tokens") else value for name, value in settings.items()
    }
    return replace(sampler, **whole, **more)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII)
