"""What a sweep is to do: its configuration, the points it names, and what makes a sample reusable.

Nothing is generated here. A sample may be used again where its identity is the same: the hash of weights, recipe, chat template,
markers, prefix, sampler with cap and seed, problems as they are asked, and engine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from interpole import tasks
from interpole.chat import Markers, added_tokens, find_markers, opens_thinking, render, special_variables
from interpole.checkpoint import Checkpoint
from interpole.dial import dial
from interpole.errors import RunError, TaskError
from interpole.recipe import Recipe, Source, build, parse_lambdas
from interpole.records import Sampler
from interpole.runs import Entry, Part, SourceInfo, TaskInfo
from interpole.tasks import Benchmark

__all__ = ["Plan", "Point", "PointConfig", "SweepConfig", "TaskConfig", "identity", "missing_parts", "release"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class _Yaml(yaml.SafeLoader):
    """YAML whose numbers are those of YAML 1.2: `0:1:0.1` is text, not a count of seconds in base 60."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (declared so by the class above)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Yaml.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789"))
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)


class TaskConfig(_Strict):
    """One task; settings left out are the sweep's, or the task's own (see `tasks.load`)."""

    task: str
    data: Path | None = None
    split: str | None = None
    limit: int | None = None
    samples: int | None = Field(None, ge=1)
    sampler: dict[str, float] = {}
    grader: str | None = None
    prompt: str | None = None


class PointConfig(_Strict):
    """A point besides those on the dial: a recipe, given as its difference to the sweep's, and sampler settings."""

    name: str
    recipe: dict[str, Any] = {}
    sampler: dict[str, float] = {}


class SweepConfig(_Strict):
    r"""A sweep, as in `sweep.yml`.

    Attributes:
        sources: name → folder or hub id; a dial has `instruct` and `thinking`.
        tasks: task names, or mappings as `TaskConfig`.
        lambdas: `"0:1:0.1"` (start:stop:step, ends included), `"0,0.5,1"`, or a list; these points lie on the dial.
        recipe: fields of the recipe for all points, e.g. `rules`.
        points: further points.
        samples: k, responses per problem; default the task's own.
        limit: only the first so many problems of every task.
        seed: of problems and responses.
        sampler: settings over the tasks' own: temperature, top_p, top_k, max_tokens.
        template_from: the source whose tokenizer, chat template and config serve all points.
        prefix: put after every prompt, e.g. `"<think>\n"`.
        markers: the think markers, where they cannot be found.
        engine, engine_options: see `interpole.dial.open_engine`.
        concurrency: how many samples are under way at a time; at least twice what the engine runs at once.
        max_failures: engine failures at one point after which it is given up.
        hang_seconds: silence after which the engine counts as hanging.
    """

    sources: dict[str, Source]
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    lambdas: tuple[float, ...] = ()
    recipe: dict[str, Any] = {}
    points: tuple[PointConfig, ...] = ()
    samples: int | None = Field(None, ge=1)
    limit: int | None = Field(None, ge=1)
    seed: int = 0
    sampler: dict[str, float] = {}
    template_from: str = ""
    prefix: str = ""
    markers: tuple[str, str] | None = None
    engine: str = "transformers"
    engine_options: dict[str, Any] = {}
    concurrency: int = Field(256, ge=1)
    max_failures: int = Field(3, ge=0)
    hang_seconds: float = Field(600.0, gt=0)

    @field_validator("sources", mode="before")
    @classmethod
    def _plain_sources(cls, value: Any) -> Any:
        plain = value if isinstance(value, Mapping) else {}
        return {k: {"model": str(v)} if isinstance(v, str | Path) else v for k, v in plain.items()}

    @field_validator("tasks", mode="before")
    @classmethod
    def _plain_tasks(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str | Mapping) else value
        return tuple({"task": one} if isinstance(one, str) else one for one in listed)

    @field_validator("lambdas", mode="before")
    @classmethod
    def _plain_lambdas(cls, value: Any) -> Any:
        return parse_lambdas(value) if isinstance(value, str) else (value,) if isinstance(value, int | float) else value

    @field_validator("sampler")
    @classmethod
    def _known_settings(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := set(value) - {"temperature", "top_p", "top_k", "max_tokens"}:
            raise ValueError(f"no setting {min(unknown)!r}; there are temperature, top_p, top_k, max_tokens")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_template(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and not value.get("template_from") and isinstance(value.get("sources"), Mapping):
            names = list(value["sources"])
            return {**value, "template_from": "thinking" if "thinking" in names else next(iter(names), "")}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.template_from not in self.sources:
            raise ValueError(f"template_from: no source {self.template_from!r}; there are {', '.join(self.sources)}")
        names = [f"λ={lam:g}" for lam in self.lambdas] + [point.name for point in self.points]
        if not names:
            raise ValueError("no points: give `lambdas` or `points`")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two points are called {twice}")
        return self

    @classmethod
    def of(cls, content: Mapping[str, Any], where: object = "the sweep") -> SweepConfig:
        """Check `content`.

        Raises:
            RunError: a key or value makes no sense; with the key.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise RunError(f"{key + ': ' if key else ''}{message}", where, "see docs/sweep.md") from None

    @classmethod
    def load(cls, path: Path) -> SweepConfig:
        """Read `sweep.yml`.

        Raises:
            RunError: no such file, not YAML, or a key or value that makes no sense.
        """
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _Yaml)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"cannot read the sweep: {error}", path) from None
        if not isinstance(content, dict):
            raise RunError("a sweep is a YAML mapping", path, "see docs/sweep.md")
        return cls.of(content, path)


@dataclass(frozen=True)
class Point:
    """One thing to evaluate: a recipe at its coefficients, the weights it makes, and settings of its own."""

    name: str
    lam: float | None  # None: not on the dial
    recipe: Recipe
    weights: Checkpoint
    sampler: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        return self.weights.fingerprint()

    @property
    def slug(self) -> str:
        """The name as part of a path: `lam-0.6`."""
        return re.sub(r"[^\w.+-]+", "-", self.name.replace("λ", "lam"), flags=re.ASCII)


class Plan:
    """A configuration with its checkpoints and tasks opened, and everything its samples depend on worked out.

    Attributes:
        points: in the order they are run.
        benchmarks: by name, with the sampler and k of this sweep.
        template, variables, markers, opened, specials: of the source that all points share.
    """

    def __init__(self, config: SweepConfig) -> None:
        """Open checkpoints and tasks; reads headers and problems only.

        Raises:
            InterpoleError: something does not exist, or does not fit.
        """
        self.config = config
        resolve = dial(self.base_recipe)
        self.points = [
            *(self._point(resolve, f"λ={lam:g}", lam, {"lambda": lam}) for lam in config.lambdas),
            *(self._point(resolve, point.name, None, point.recipe, point.sampler) for point in config.points),
        ]
        self.benchmarks = {bench.name: bench for bench in (self._benchmark(task) for task in config.tasks)}
        if len(self.benchmarks) < len(config.tasks):
            raise RunError("two tasks have one name", remedy="run them as two sweeps")
        donor: Checkpoint = resolve(config.sources[config.template_from])
        if donor.chat_template is None:
            raise TaskError("no chat template", donor.label, "choose another source with template_from")
        self.template = donor.chat_template
        self.variables: dict[str, Any] = dict(special_variables(donor.assets))
        self.markers = Markers(*config.markers) if config.markers else find_markers(donor.assets, self.template)
        opens, closes = (config.prefix.rfind(marker) for marker in (self.markers.open, self.markers.close))
        self.opened = opens > closes or (closes < 0 and opens_thinking(self.template, self.markers, **self.variables))
        self.specials = added_tokens(donor.assets)
        self.sources = {
            name: SourceInfo(label=source.model, revision=source.revision, fingerprint=resolve(source).fingerprint())
            for name, source in config.sources.items()
        }

    @property
    def base_recipe(self) -> Recipe:
        """The recipe that the points are variants of."""
        return self._recipe({"lambda": self.config.lambdas[0]} if self.config.lambdas else self.config.points[0].recipe)

    def render(self, messages: Any) -> str:
        """The prompt for chat messages, with the sweep's prefix."""
        return render(self.template, messages, **self.variables) + self.config.prefix

    def entry(self, benchmark: Benchmark, point: Point, engine: Mapping[str, str]) -> Entry:
        """What one task at one point will be called; without parts."""
        sampler = asdict(self.sampler(benchmark, point))
        shared = {
            "sources": {name: source.fingerprint for name, source in self.sources.items()},
            "template": self.template,
            "markers": asdict(self.markers),
            "prefix": self.config.prefix,
            "seed": self.config.seed,
            "sampler": self.config.sampler,
            "engine": {name: release(version) for name, version in engine.items()},
        }
        problems = problems_hash(benchmark)
        own = {"weights": point.fingerprint, "sampler": sampler, "task": benchmark.name, "problems": problems}
        unique = identity({key: value for key, value in shared.items() if key not in ("sources", "sampler")} | own)
        return Entry(
            task=benchmark.name,
            point=point.name,
            lam=point.lam,
            identity=unique,
            settings=identity(shared),
            problems_hash=problems,
            fingerprint=point.fingerprint,
            recipe=point.recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
            sampler=sampler,
            folder=f"logs/{_safe(benchmark.name)}/{point.slug}-{unique[:8]}",
        )

    def sampler(self, benchmark: Benchmark, point: Point) -> Sampler:
        """The sampler of a task at a point."""
        return _adjusted(benchmark.sampler, point.sampler)

    def task_info(self, task: TaskConfig, benchmark: Benchmark) -> TaskInfo:
        """How a task is written down."""
        return TaskInfo(
            spec=task.model_dump(mode="json", exclude_none=True)
            | ({"limit": limit} if (limit := self._limit(task)) else {}),
            num_problems=len(benchmark.problems),
            samples=benchmark.k,
            problems_hash=problems_hash(benchmark),
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
        sampler = _adjusted(loaded.sampler, {**self.config.sampler, **task.sampler}, seed=self.config.seed)
        return replace(loaded, k=task.samples or self.config.samples or loaded.k, sampler=sampler)

    def _point(
        self,
        resolve: Any,
        name: str,
        lam: float | None,
        recipe: Mapping[str, Any],
        sampler: Mapping[str, float] | None = None,
    ) -> Point:
        chosen = self._recipe(recipe)
        return Point(name, lam, chosen, resolve(chosen), dict(sampler or {}))

    def _recipe(self, own: Mapping[str, Any]) -> Recipe:
        sources = {name: source.model_dump(exclude_none=True) for name, source in self.config.sources.items()}
        shared = {"sources": sources, "template_from": self.config.template_from}
        return build({**shared, **self.config.recipe, **own}, "the sweep's recipe")


def identity(content: Any) -> str:
    """Hexadecimal SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def problems_hash(benchmark: Benchmark) -> str:
    """Hash of the problems as they are asked: ids, prompts and reference answers."""
    return identity([[problem.id, benchmark.prompt(problem), problem.answer] for problem in benchmark.problems])


def missing_parts(parts: tuple[Part, ...], samples: int) -> tuple[Part, ...]:
    """The parts of an entry that shall have `samples` per problem: those that are done, and what is missing as planned ones.

    What is done is never given up; unfinished parts end at `samples`; what is not covered becomes one more part.
    """
    kept, covered = [], 0
    for part in sorted(parts, key=lambda part: part.first_epoch):
        epochs = part.epochs if part.status == "done" else min(part.epochs, samples - part.first_epoch + 1)
        if epochs > 0:
            kept.append(part if epochs == part.epochs else part.model_copy(update={"epochs": epochs}))
            covered = part.first_epoch + epochs - 1
    if covered < samples:
        kept.append(Part(first_epoch=covered + 1, epochs=samples - covered))
    return tuple(kept)


def _adjusted(sampler: Sampler, settings: Mapping[str, float], **more: int) -> Sampler:
    whole: dict[str, Any] = {
        name: int(value) if name in ("top_k", "max_tokens") else value for name, value in settings.items()
    }
    return replace(sampler, **whole, **more)


def release(version: str) -> str:
    """`2.13.0+cpu` → `2.13`: bug-fix releases and builds do not part samples from each other."""
    return re.sub(r"^(\d+\.\d+)\..*$", r"\1", version)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII)
