"""A sweep as it is written down: `sweep.yml`, checked key by key. What it comes to is worked out in `interpole.sweep.plan`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from interpole.analysis.policies import FittedPolicy
from interpole.engines.devices import NumEngines
from interpole.engines.registry import EngineKind, engine_kind
from interpole.errors import EngineError, RunError, TaskError
from interpole.files import StrPath
from interpole.formats import read_yaml
from interpole.merging.methods import get_method
from interpole.merging.recipe import Part, Sources, parse_lambdas
from interpole.merging.simplex import Grid, Weights, weights_name
from interpole.records import dial_name
from interpole.schema import Strict, validated
from interpole.tasks import code_of
from interpole.tasks.profiles import profile

__all__ = ["KEY", "NOTHING", "PointConfig", "SweepConfig", "TaskConfig"]

KEY = "OPENAI_API_KEY"
"""The environment variable whose key an endpoint gets, unless the user says another."""
MERGED = ("sources", "simplex", "sampler", "engine_options", "recipe", "template_variables")
"""Settings in which a name that is said goes before the same name below it; of the others the whole."""
NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No settings."""


def _known(settings: dict[str, float]) -> dict[str, float]:
    """Refuse settings that a sampler does not have, and numbers that it cannot use."""
    names = ("temperature", "top_p", "top_k", "max_tokens")
    if unknown := set(settings) - set(names):
        raise ValueError(f"no setting {min(unknown)!r}; there are {', '.join(names)}")
    for name, value in settings.items():
        if not math.isfinite(value) or (name in ("top_k", "max_tokens") and value != int(value)):
            raise ValueError(f"{name} is {value:g}: give a {'whole ' if name in ('top_k', 'max_tokens') else ''}number")
    return settings


def _num_engines(value: Any) -> Any:
    """Refuse what is no number of engines."""
    text = str(value)
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"{value!r} is no number of engines: give one from 1, or auto")
    return text if text == "auto" else int(text)


def _may_run(name: str, value: Any) -> bool:
    """Whether an engine's option may name code that it would run."""
    if isinstance(value, str):
        return name not in ("dtype", "kv_cache_dtype", "quantization")
    return isinstance(value, list | tuple | dict) or (name == "trust_remote_code" and bool(value))


SamplerSettings = Annotated[dict[str, float], AfterValidator(_known)]


class TaskConfig(Strict):
    """One task; settings left out are the sweep's, or the task's own (see `tasks.load`)."""

    task: str
    data: Path | None = None
    split: str | None = None
    limit: int | None = Field(None, ge=1)
    only: tuple[str, ...] | None = None  # ids of the problems to ask
    samples: int | None = Field(None, ge=1)
    sampler: SamplerSettings = {}
    grader: str | None = None
    prompt: str | None = None


class PointConfig(Strict):
    """A point besides those on the dial: other weights, another way of asking, or both.

    Attributes:
        name: default what the others say, e.g. `ta` or `λ=0.6, budget 256`.
        lam: `lambda` in YAML; a point that it is given to with other settings is still not on the dial.
        policy: what chooses λ for each question: a file that `route --fit` wrote, or a policy of `interpole route` with `from`.
        fitted_to: `from` in YAML: the run whose samples the policy is fitted to.
        mean_tokens: what a response may take on average there; default: 95 % of the policy's best accuracy.
        weights: of the sources that are merged here, in the place of λ; they sum to 1 (`interpole.merging.simplex`).
        preset: a merge by name (see `presets`), in the place of the sweep's recipe; some need a source called `base`.
        recipe: fields of the recipe, as a difference to the sweep's or the preset's.
        sampler: settings over the sweep's.
        instruction: put below the question, e.g. "Be brief."
        template_variables: for the chat template, over the sweep's, e.g. `{enable_thinking: false}`.
        budget_tokens: a thought is cut after so many tokens and closed.
        close: what closes it; default the closing marker on a line of its own.
        model: with the engine `openai`, the model that somebody serves.
        base_url: its address, where that is not the sweep's.
    """

    name: str
    lam: float | None = Field(default=None, alias="lambda")
    policy: FittedPolicy | str = ""
    fitted_to: Path | None = Field(default=None, alias="from")
    mean_tokens: float | None = Field(default=None, gt=0)
    weights: Weights = {}
    preset: str = ""
    recipe: dict[str, Any] = {}
    sampler: SamplerSettings = {}
    instruction: str = ""
    template_variables: dict[str, Any] = {}
    budget_tokens: int | None = Field(default=None, ge=1)
    close: str = ""
    model: str = ""
    base_url: str = ""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("name"):
            return value
        said: dict[str, Callable[[Any], str]] = {
            "policy": _policy_said, "mean_tokens": "{} tokens".format, "lambda": dial_name, "preset": str,
            "instruction": "“{}”".format, "budget_tokens": "budget {}".format,
        }  # fmt: skip
        parts = [_weights_said(value["weights"])] if value.get("weights") else []
        parts += [say(value[key]) for key, say in said.items() if value.get(key) is not None]
        return {**value, "name": ", ".join(parts)} if set(value) - {"lambda"} and parts else value

    @model_validator(mode="after")
    def _closes_something(self) -> Self:
        if self.close and self.budget_tokens is None:
            raise ValueError("`close` says how a budget closes a thought: give budget_tokens too")
        if self.weights and (
            self.lam is not None or self.preset or {"sources", "weights", "lambda"} & set(self.recipe)
        ):
            raise ValueError(
                "`weights` say which sources are merged: leave out `lambda`, `preset` and those of the recipe"
            )
        return self

    @model_validator(mode="after")
    def _routes(self) -> Self:
        if not self.policy:
            if self.fitted_to is not None or self.mean_tokens is not None:
                raise ValueError("`from` and `mean_tokens` are a policy's: give `policy` too")
            return self
        if self.lam is not None or self.weights or self.preset or "lambda" in self.recipe:
            raise ValueError("a policy chooses λ on the dial: leave out `lambda`, `weights` and `preset`")
        if not isinstance(self.policy, str) or self.policy.endswith(".json"):
            if self.fitted_to is not None or self.mean_tokens is not None:
                raise ValueError("the policy is fitted already: leave out `from` and `mean_tokens`")
        elif self.fitted_to is None:
            raise ValueError(
                "`from` is missing: the run to fit the policy to, or a file of a fitted policy in `policy`"
            )
        return self


def _policy_said(policy: Any) -> str:
    """What a policy is called: by its name, or its file's."""
    if isinstance(policy, Mapping):
        return str(policy.get("name", "policy"))
    return policy.name if isinstance(policy, FittedPolicy) else Path(str(policy)).name.removesuffix(".json")


def _weights_said(weights: Any) -> str:
    """The name of weights as they are written; they are checked later."""
    numbers = isinstance(weights, Mapping) and all(isinstance(one, int | float) for one in weights.values())
    return weights_name(weights) if numbers else str(weights)


class _Own(Strict):
    """The sources of one point's recipe."""

    sources: Sources


class SweepConfig(Strict):
    r"""A sweep, as in `sweep.yml`.

    Attributes:
        profile: a published experiment's pair, points, tasks and samplers (`tasks.profiles`), below what is said here.
        sources: name → folder or hub id; a dial has `instruct` and `thinking`. Points that are served need none.
        tasks: task names, or mappings as `TaskConfig`.
        lambdas: `"0:1:0.1"` (start:stop:step, ends included), `"0,0.5,1"`, or a list; these points lie on the dial.
        simplex: three sources, `[base, instruct, thinking]` or `{corners: […], steps: 4}`: points all over their triangle.
        recipe: fields of the recipe for all points, e.g. `rules`.
        points: further points.
        samples: k, responses per problem; default the task's own.
        limit: only the first so many problems of every task.
        seed: of problems and responses.
        sampler: settings over the tasks' own: temperature, top_p, top_k, max_tokens.
        template_from: the source whose tokenizer, chat template and config serve all points.
        template_variables: for the chat template, e.g. `{enable_thinking: false}` or `{reasoning_effort: low}`.
        prefix: put after every prompt, e.g. `"<think>\n"`.
        markers: the think markers, where they cannot be found.
        engine, engine_options: see `interpole.engines.registry`.
        engines: how many of them, each with a child process and a device of its own; `auto`: see `engines.devices`.
        per_request: the engine holds both checkpoints, and answers all λ in one batch.
        concurrency: how many samples are under way at a time; at least twice what the engine runs at once.
        max_failures: engine failures at one point after which it is given up.
        hang_seconds: silence after which the engine counts as hanging.
    """

    profile: str = ""
    sources: Sources = {}
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    lambdas: tuple[float, ...] = ()
    simplex: Grid | None = None
    recipe: dict[str, Any] = {}
    points: tuple[PointConfig, ...] = ()
    samples: int | None = Field(None, ge=1)
    limit: int | None = Field(None, ge=1)
    seed: int = 0
    sampler: SamplerSettings = {}
    template_from: str = ""
    template_variables: dict[str, Any] = {}
    prefix: str = ""
    markers: tuple[str, str] | None = None
    engine: str = "transformers"
    engine_options: dict[str, Any] = {}
    engines: Annotated[NumEngines, BeforeValidator(_num_engines)] = 1
    per_request: bool = False
    concurrency: int = Field(256, ge=1)
    max_failures: int = Field(3, ge=0)
    hang_seconds: float = Field(600.0, gt=0)

    @field_validator("tasks", mode="before")
    @classmethod
    def _plain_tasks(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str | Mapping) else value
        if not isinstance(listed, list | tuple):
            return listed
        return tuple({"task": one} if isinstance(one, str) else one for one in listed)

    @field_validator("lambdas", mode="before")
    @classmethod
    def _plain_lambdas(cls, value: Any) -> Any:
        return parse_lambdas(value) if isinstance(value, str) else (value,) if isinstance(value, int | float) else value

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, value: Any) -> Any:
        """What is left out: a profile's settings, and whose template all points share."""
        if not isinstance(value, Mapping):
            return value
        content = {**value}
        if content.get("profile"):
            try:
                content = _over_profile(content)
            except TaskError as error:
                raise ValueError(f"{error.what}; {error.remedy}") from None
        if not content.get("template_from") and isinstance(content.get("sources"), Mapping):
            names = list(content["sources"])
            content["template_from"] = "thinking" if "thinking" in names else next(iter(names), "")
        return content

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            kind = self.kind
        except EngineError as error:
            raise ValueError(f"{error.what}; {error.remedy}") from None
        if self.template_from not in self.sources and not (self.served and not self.template_from):
            raise ValueError(f"template_from: no source {self.template_from!r}; there are {', '.join(self.sources)}")
        names = self.point_names
        if not names:
            raise ValueError("no points: give `lambdas`, `simplex` or `points`")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two points are called {twice}")
        for point in self.own_points:
            if unknown := set(point.weights) - set(self.sources):
                raise ValueError(f"{point.name}: no source {min(unknown)!r}; there are {', '.join(self.sources)}")
        self._check_served()
        if self.per_request and not kind.per_request_opener:
            raise ValueError(f"per_request: the engine {self.engine} takes no λ per request")
        if fault := kind.fault_in(self.engine_options):
            raise ValueError(f"engine_options: {fault}")
        return self

    def _check_served(self) -> None:
        """Hold the points against what a remote engine needs, and other engines cannot use."""
        if not self.served:
            if named := next((point.name for point in self.points if point.model or point.base_url), None):
                raise ValueError(f"{named} names a model that is served, which the engine {self.engine} does not ask")
            return
        model = str(self.engine_options.get("model", ""))
        if self.lambdas and "{lambda}" not in model:
            raise ValueError("served points are on the dial where engine_options: model says how, e.g. 'tiny@{lambda}'")
        if self.simplex:
            raise ValueError("simplex: models that are served have weights of their own")
        for point in self.points:
            if not (point.model or model) or not (point.base_url or self.engine_options.get("base_url")):
                raise ValueError(f"{point.name} needs a model and a base_url, its own or in engine_options")
            if "{lambda}" in (point.model or model) and point.lam is None and not point.policy:
                raise ValueError(f"{point.name} needs a λ for the model {point.model or model}")
            if point.recipe or point.preset or point.weights or self.recipe:
                raise ValueError(f"{point.name} has a recipe, but its weights are the server's")
        if self.lambdas and not self.engine_options.get("base_url"):
            raise ValueError("engine_options: base_url is missing")
        if any(sign in url for url in self.base_urls for sign in "@?#"):
            raise ValueError(f"a base_url is written down with the run: put the key into {KEY} instead")
        if self.chat:
            self._check_chat()

    def _check_chat(self) -> None:
        """Refuse what a server that renders the chat itself cannot be asked for."""
        if cut := next((point.name for point in self.points if point.budget_tokens), None):
            raise ValueError(f"{cut}: a server that renders the chat itself cannot go on with a thought; see api")
        if self.template_variables or any(point.template_variables for point in self.points):
            raise ValueError(
                "a server that renders the chat itself is told template_variables by engine_options: "
                "extra_body: {chat_template_kwargs: …}"
            )
        if self.prefix:
            raise ValueError("a server that renders the chat itself takes no prefix; see engine_options: api")

    @property
    def kind(self) -> EngineKind:
        """What the engine can do."""
        return engine_kind(self.engine)

    @property
    def served(self) -> bool:
        """Whether points are models that somebody else serves, not weights at hand."""
        return self.kind.remote

    def merges(self) -> list[tuple[dict[str, Part], str]]:
        """The sources that are merged somewhere in the sweep, each time with the one whose config and tokenizer go with it.

        A base is among them where some point has a preset, or a method that takes one; a point may have sources of its own.
        """
        if self.served or not self.sources:
            return []
        recipes = [self.recipe, *(point.recipe for point in self.points)]
        based = (
            "base" in self.weighted
            or any(point.preset for point in self.points)
            or any(get_method(recipe["method"]).base != "no" for recipe in recipes if "method" in recipe)
        )
        shared = {name: source for name, source in self.sources.items() if name != "base" or based}
        found = [(shared, self.template_from if self.template_from in shared else next(iter(shared), ""))]
        for recipe in recipes:
            if recipe.get("sources"):
                own = validated(_Own, {"sources": recipe["sources"]}, "a recipe of the sweep", RunError).sources
                kept = [name for name in (recipe.get("template_from"), self.template_from, *own) if name in own]
                found.append((own, kept[0]))
        return [(sources, template_source) for sources, template_source in found if len(sources) > 1]

    @property
    def chat(self) -> bool:
        """Whether a server applies its own chat template."""
        return self.served and self.engine_options.get("api", "chat") == "chat"

    @property
    def point_names(self) -> list[str]:
        """The points by name, those on the dial first."""
        return [*map(dial_name, self.lambdas), *(point.name for point in self.own_points)]

    @property
    def own_points(self) -> tuple[PointConfig, ...]:
        """The points that are not on the dial: those of the simplex, then the further ones."""
        weights = self.simplex.points if self.simplex else []
        return (*(PointConfig(name=weights_name(one), weights=one) for one in weights), *self.points)

    @property
    def weighted(self) -> tuple[str, ...]:
        """The sources that points give weights to, in the order of the sources."""
        named = {name for point in self.own_points for name in point.weights}
        return tuple(name for name in self.sources if name in named)

    @property
    def base_urls(self) -> list[str]:
        """The addresses of served points, each once."""
        said = [self.engine_options.get("base_url", ""), *(point.base_url for point in self.points)]
        return [str(url) for url in dict.fromkeys(said) if url]

    @property
    def key_variable(self) -> str:
        """The environment variable whose key is sent to `base_urls`."""
        return str(self.engine_options.get("api_key_env", KEY)) if self.served else ""

    def code(self, said: Mapping[str, Any] = NOTHING) -> tuple[str, ...]:
        """What a run would run of code that the settings name (graders, tasks in files, an engine's own options), or write to.

        Where nobody lists an engine's options, texts, lists and mappings may name code too.

        Args:
            said: settings that are left out, being the user's own word.
        """
        tasks = () if "tasks" in said else self.tasks
        named = [(f"task {one.task}", code_of(one.task, one.grader)) for one in tasks]
        own, kind = said.get("engine_options", {}), self.kind
        for name, value in self.engine_options.items():
            if name not in own and (name in kind.writes or (kind.options is None and _may_run(name, value))):
                named.append((f"engine {self.engine}", f"{name}: {value}"))
        return tuple(f"{what}: {code}" for what, code in named if code)

    def under(self, said: Mapping[str, Any], where: object = "the sweep") -> Self:
        """These settings below others, which are checked together.

        Raises:
            RunError: as `of`.
        """
        own = self.model_dump(exclude_unset=True, by_alias=True)
        both = {name: (own.get(name) or {}) | said[name] for name in MERGED if name in said}
        return self.of({**own, **said, **both}, where)

    def and_points(self, points: Sequence[Mapping[str, Any]]) -> Self:
        """These settings with more points.

        Raises:
            RunError: as `of`.
        """
        own = self.model_dump(exclude_unset=True, by_alias=True)
        return self.of({**own, "points": [*own.get("points", ()), *points]}) if points else self

    @classmethod
    def of(cls, content: Mapping[str, Any], where: object = "the sweep") -> Self:
        """Check `content`, which the caller vouches for.

        Raises:
            RunError: a key or value makes no sense; with the key.
        """
        return validated(cls, content, where, RunError, "see docs/sweep.md")

    @classmethod
    def written(
        cls, content: Mapping[str, Any], path: Path, said: Mapping[str, Any] = NOTHING, *, trust: bool = False
    ) -> Self:
        """What a file says, which may be a stranger's: it chooses neither what is run nor which secret is sent to whom.

        Args:
            content: of the file.
            path: the file.
            said: settings over the file's, which the caller vouches for.
            trust: run the code that the file names (`code`), so far as nothing else was said.

        Raises:
            RunError: as `of`; or it names code, without trust; or it asks for the value of another variable.
        """
        config = cls.of(content, path)
        config = config.under(said, path) if said else config
        if not trust and (code := config.code(said)):
            what = "the file names code to run, or files to write"
            raise RunError(f"{what}: {'; '.join(code)}", path, "if you trust it: --trust")
        if config.key_variable not in ("", KEY, said.get("engine_options", {}).get("api_key_env")):
            raise RunError(
                f"the file asks for the value of {config.key_variable} to be sent to {', '.join(config.base_urls)}",
                path,
                f"if that is what you want, say so: --api-key-env {config.key_variable}",
            )
        return config

    @classmethod
    def load(cls, path: StrPath, said: Mapping[str, Any] = NOTHING, *, trust: bool = False) -> Self:
        """Read `sweep.yml`; `said`, `trust`: see `written`.

        Raises:
            RunError: no such file, not YAML, or a key or value that makes no sense.
        """
        path = Path(path)
        return cls.written(read_yaml(path, RunError, "the sweep"), path, said, trust=trust)


def _over_profile(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over those of a profile; its tasks, unless others are named.

    Raises:
        TaskError: no such profile.
    """
    paper = profile(str(given["profile"]))
    alone = paper.sampler(next(iter(paper.k)), 0.0)
    over = {name: given.get(name) for name in ("samples", "sampler")}  # a task's own would go before these
    published = {}
    for task, k in paper.k.items():
        sampler = asdict(paper.samplers[task])
        del sampler["seed"]
        published[task] = {"task": task, "samples": over["samples"] or k, "sampler": sampler | (over["sampler"] or {})}
    instruct = {"name": "Instruct, its own sampler", "recipe": {"lambda": 0.0}}
    return {
        "lambdas": paper.lams,
        "points": [{**instruct, "sampler": {"temperature": alone.temperature, "top_p": alone.top_p}}],
    } | {
        **given,
        "sources": {"instruct": paper.instruct, "thinking": paper.thinking} | dict(given.get("sources") or {}),
        "tasks": [_over_task(task, published) for task in given.get("tasks") or published],
    }


def _over_task(task: Any, published: Mapping[str, dict[str, Any]]) -> Any:
    """A task's own settings over the published ones."""
    said = {"task": task} if isinstance(task, str) else task
    if not isinstance(said, Mapping):
        return task
    own = {name: value for name, value in said.items() if value is not None}
    return published.get(str(said.get("task")), {}) | own
