"""The experiments of arXiv 2510.10977 by the name of what was printed of them, each as a sweep of any family of models.

An experiment's points are those that were printed. docs/paper.md lists the experiments, and what cannot be made again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple

import yaml

from interpole.checkpoints.names import num_layers
from interpole.checkpoints.open import open_source
from interpole.errors import AnalysisError, RecipeError
from interpole.lab import shipped
from interpole.merging.presets import preset
from interpole.merging.rules import ablation
from interpole.paper.printed import INSTRUCT, QUESTIONS, THIRDS, Printed, Statistic, printed
from interpole.records import dial_lam, dial_name
from interpole.sweep.config import NOTHING, SweepConfig
from interpole.tasks import Profile, profile

__all__ = [
    "DEPTH",
    "EXPERIMENTS",
    "NOT_HERE",
    "Claim",
    "Design",
    "Experiment",
    "Family",
    "asked_as",
    "design",
    "experiment",
    "family_of",
    "mean_tokens",
]

DEPTH = 36  # layers of Qwen3-4B
MODELS = ("Qwen3-4B-Base", "Qwen3-4B", "Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507")
TINY = {"tasks": [{"task": "arithmetic"}], "samples": 4, "limit": 96, "engine_options": {"dtype": "float32"}}
"""In the place of the paper's tasks for the tiny pair, which knows its own alone."""
NOT_HERE = {
    "figure1": "no numbers of it are at hand",
    "table6": "it is a case study, responses and no numbers; `interpole samples RUN` shows yours",
}
"""What no command makes again, and why."""


class Family(NamedTuple):
    """Where the models of a family lie: folders or hub ids; None: there is none."""

    instruct: str
    thinking: str
    hybrid: str | None = None  # Qwen3-4B in the paper
    pretrained: str | None = None  # Qwen3-4B-Base

    @property
    def models(self) -> dict[str, str]:
        """Those that there are, by what Table 1 calls them."""
        named = zip(MODELS, (self.pretrained, self.hybrid, self.instruct, self.thinking), strict=True)
        return {name: place for name, place in named if place is not None}


@dataclass(frozen=True, slots=True)
class Claim:
    """What the paper says of two points, which another pair can be asked too."""

    kind: Literal["more", "alike", "stages"]
    words: str
    a: str = ""
    b: str = ""  # more: b has more of it than a
    statistic: Literal["mean", "tokens", "think"] = "mean"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One table or figure.

    Attributes:
        name: as it is asked for.
        title: what it shows.
        table: the file of its printed numbers.
        size: of the models.
        only: the statistics that it shows; empty: all of the table's.
        dial: it shows the points on the dial alone.
        also: points that were not printed, but that a claim or a ratio needs.
        claims: what it is there to show.
    """

    name: str
    title: str
    table: str
    size: Literal["4B", "30B-A3B"] = "4B"
    only: tuple[Statistic, ...] = ()
    dial: bool = False
    also: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def weights_only(self) -> bool:
        """Whether nothing is generated: Table 1 is about weights."""
        return self.table == "table1_similarity"

    @property
    def rows(self) -> list[Printed]:
        """The printed numbers."""
        return [
            row
            for row in printed(self.table)
            if (not self.only or row.statistic in self.only)
            and (not self.dial or row.point == INSTRUCT or dial_lam(row.point) is not None)
        ]


STAGES = Claim("stages", "thinking sets in within the dial: Think #R is below 5 % at λ = 0 and above 95 % at λ = 1")
SHORTER = (
    Claim("alike", "MI-0.8 is as accurate as Thinking", "λ=1", "λ=0.8"),
    Claim("more", "MI-0.8 takes fewer tokens than Thinking", "λ=0.8", "λ=1", "tokens"),
)
METHODS = tuple(
    Claim("more", f"MI-0.8 is more accurate than {name.upper()}", name, "λ=0.8")
    for name in ("ta", "ta-base", "ties", "ties-base")
)
LAYERS = (
    *(Claim("more", f"all layers are more accurate than the {part}", part, "λ=0.8") for part in THIRDS.values()),
    Claim(
        "more", "the last two thirds think more often than the first", "first two thirds", "last two thirds", "think"
    ),
    Claim("more", "the last two thirds think more often than the last alone", "last third", "last two thirds", "think"),
)
SUBLAYERS = (
    Claim("more", "without the FFN of Thinking it hardly thinks", "skip-ffn-0.8", "skip-attention-0.8", "think"),
    Claim("alike", "without its attention it thinks as often", "λ=0.8", "skip-attention-0.8", "think"),
    Claim("more", "without its attention it is less accurate", "skip-attention-0.8", "λ=0.8"),
    Claim("more", "without its FFN it is less accurate still", "skip-ffn-0.8", "skip-attention-0.8"),
)
DECODING = tuple(
    Claim("alike", f"{point} is as accurate as temperature 0.6, top_p 0.95", "temperature 0.6, top_p 0.95", point)
    for point in dict.fromkeys(row.point for row in printed("figure4_decoding"))
    if point != "temperature 0.6, top_p 0.95"
)
BACKBONES = (
    Claim("alike", "the hybrid model in Instruct's place is as accurate", "λ=0.8", "mix-0.8"),
    Claim("more", "the pretrained model in its place is less accurate", "base-0.8", "λ=0.8"),
)
_WHOLE = (STAGES, *SHORTER, *METHODS)
_TABLE2, _TABLE5, _ZERO = "table2_qwen3_4b", "table5_qwen3_30b", (dial_name(0.0),)
_ALL = (
    Experiment("table1", "σ between the models of the family", "table1_similarity"),
    Experiment("table2", "interpolation, task arithmetic and TIES, 4B", _TABLE2, also=_ZERO, claims=_WHOLE),
    Experiment("table3", "interpolation of some layers only", "table3_layers", claims=LAYERS),
    Experiment("table4", "other models in Instruct's place", "table4_backbones", claims=BACKBONES),
    Experiment("table5", "as Table 2, 30B-A3B", _TABLE5, "30B-A3B", also=_ZERO, claims=_WHOLE),
    Experiment("figure2", "the three stages", _TABLE2, only=("mean", "think"), dial=True, also=_ZERO, claims=(STAGES,)),
    Experiment("figure3", "all along the dial", _TABLE2, dial=True, also=_ZERO, claims=(STAGES, *SHORTER)),
    Experiment("figure4", "temperature and top_p at MI-0.4", "figure4_decoding", claims=DECODING),
    Experiment("figure5", "interpolation of some sublayers only", "figure5_modules", also=("λ=1",), claims=SUBLAYERS),
)
EXPERIMENTS: Mapping[str, Experiment] = {one.name: one for one in _ALL}
"""Every table and figure whose numbers are at hand."""


def experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        AnalysisError: no such table or figure, or none that can be made again.
    """
    plain = name.lower().replace(" ", "")
    if plain in NOT_HERE:
        raise AnalysisError(f"{name} cannot be made again: {NOT_HERE[plain]}", remedy=f"choose {_choices()}")
    if plain not in EXPERIMENTS:
        raise AnalysisError(f"no experiment {name!r}", remedy=f"choose {_choices()}")
    return EXPERIMENTS[plain]


def _choices() -> str:
    return ", ".join(EXPERIMENTS)


def family_of(pair: str, size: str = "4B") -> Family:
    """The models that `--pair` names: `tiny`, `paper`, or two to four places: Instruct, Thinking, hybrid, pretrained.

    Raises:
        RecipeError: other than that.
    """
    if pair == "tiny":
        tiny = shipped()
        return Family(str(tiny.instruct), str(tiny.thinking), str(tiny.base))
    if pair == "paper":
        name = f"Qwen/Qwen3-{size}"
        return Family(f"{name}-Instruct-2507", f"{name}-Thinking-2507", name, f"{name}-Base")
    places = [place.strip() for place in pair.split(",")]
    if not 2 <= len(places) <= 4 or not all(places):
        raise RecipeError(
            f"no pair: {pair!r}",
            remedy="say tiny, paper, or INSTRUCT,THINKING[,HYBRID[,PRETRAINED]]: folders or hub ids",
        )
    return Family(*places)


class Design(NamedTuple):
    """The sweep of an experiment with some family."""

    content: dict[str, Any]  # of sweep.yml
    left_out: Mapping[str, str]  # points that this family has no models for, with the reason

    @property
    def config(self) -> SweepConfig:
        """As a sweep."""
        return SweepConfig.of(self.content)

    @property
    def text(self) -> str:
        """As `sweep.yml`."""
        return yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True, width=120)


def design(
    one: Experiment,
    family: Family,
    *,
    tasks: Sequence[str] = (),
    data: Mapping[str, str] = NOTHING,
    tiny: bool = False,
    settings: Mapping[str, Any] = NOTHING,
) -> Design:
    """The sweep that makes an experiment again.

    Args:
        one: the experiment.
        family: the models.
        tasks: in the place of the experiment's.
        data: task → a local file with its problems.
        tiny: on the tiny pair's task, where no others are named.
        settings: further keys of `sweep.yml`, before all others; `samples` goes before those of the tasks.

    Raises:
        InterpoleError: the layers of the models cannot be counted, or data are for a task that is not asked.
    """
    names = list(dict.fromkeys([*one.also, *(row.point for row in one.rows)]))
    lambdas = sorted(lam for lam in map(dial_lam, names) if lam is not None)
    given = {key: value for key, value in settings.items() if value not in (None, {}, [])}
    points, left_out = [], {}
    depth = _depth(family) if any(name in THIRDS.values() for name in names) else DEPTH
    for name in names:
        if dial_lam(name) is not None:
            continue
        if missing := _missing(name, family):
            left_out[name] = missing
        else:
            points.append(_point(name, family, depth, _profile(one)))
    content: dict[str, Any] = {"sources": {"instruct": family.instruct, "thinking": family.thinking}}
    content |= TINY if tiny and not tasks else {"tasks": _tasks(one, tasks, data)}
    if "samples" in given:
        content["tasks"] = [
            {key: value for key, value in task.items() if key != "samples"} for task in content["tasks"]
        ]
    content |= {"lambdas": lambdas, "points": points}
    return Design(content | given, left_out)


def mean_tokens(one: Experiment, config: SweepConfig) -> float | None:
    """What a response takes on average, as printed for the tasks of a sweep; None: they are not the paper's."""
    rows = [row for row in printed(one.table) if row.statistic == "tokens"] or printed(_TABLE2)
    lengths = {task: [r.value for r in rows if (r.task, r.statistic) == (task, "tokens")] for task in QUESTIONS}
    asked = {task.task: QUESTIONS[task.task] * (task.samples or 1) for task in config.tasks if lengths.get(task.task)}
    total = sum(num * fmean(lengths[task]) for task, num in asked.items())
    return total / sum(asked.values()) if asked else None


def _profile(one: Experiment) -> Profile:
    return profile(f"paper-{one.size.split('-')[0].lower()}")


def _tasks(one: Experiment, tasks: Sequence[str], data: Mapping[str, str]) -> list[dict[str, Any]]:
    """The tasks, with the published samples and samplers where they are the paper's."""
    paper, found = _profile(one), []
    names = tasks or list(dict.fromkeys(row.task for row in one.rows))
    if unknown := set(data) - set(names):
        raise AnalysisError(f"data for {min(unknown)}, which is not asked", remedy=f"the tasks are {', '.join(names)}")
    for name in names:
        task: dict[str, Any] = {"task": name} | ({"data": str(data[name])} if name in data else {})
        if name in paper.k:
            sampler = {key: value for key, value in asdict(paper.samplers[name]).items() if key != "seed"}
            task |= {"samples": paper.k[name], "sampler": sampler}
        found.append(task)
    return found


def _depth(family: Family) -> int:
    """How many layers the models have."""
    return DEPTH if family == family_of("paper") else num_layers(open_source(family.thinking, weights=False).specs)


def _missing(name: str, family: Family) -> str:
    """Why a point cannot be made of a family; empty: it can."""
    if family.hybrid is None and name in ("ta", "ties", "mix-0.8"):
        return "it needs the hybrid model that both come from"
    if family.pretrained is None and name in ("ta-base", "ties-base", "base-0.8"):
        return "it needs the pretrained model that both come from"
    return ""


def asked_as(name: str, family: Family, depth: int, paper: Profile) -> dict[str, Any]:
    """A printed point with its recipe written out, be it on the dial, a preset, or what `sweep.yml` says.

    Args:
        name: of the point.
        family: the models.
        depth: their number of layers.
        paper: whose sampler Instruct has when it is alone.
    """
    if (lam := dial_lam(name)) is not None:
        return {"name": name, "recipe": {"lambda": lam}}
    point = _point(name, family, depth, paper)
    if "preset" not in point:
        return point
    recipe = preset(point["preset"], instruct=family.instruct, thinking=family.thinking)
    return {"name": name, "recipe": recipe.model_dump(mode="json", by_alias=True, exclude_none=True)}


def _point(name: str, family: Family, depth: int, paper: Profile) -> dict[str, Any]:
    """A point off the dial, as in `sweep.yml`."""
    if name == INSTRUCT:
        own = paper.sampler("aime25", 0.0)
        return {
            "name": name,
            "recipe": {"lambda": 0.0},
            "sampler": {"temperature": own.temperature, "top_p": own.top_p},
        }
    if found := re.fullmatch(r"temperature (\S+), top_p (\S+)", name):
        settings = {"temperature": float(found[1]), "top_p": float(found[2])}
        return {"name": name, "recipe": {"lambda": 0.4}, "sampler": settings}
    if name in THIRDS.values():
        layers = next(layers for layers, called in THIRDS.items() if called == name)
        first, last = (int(end) for end in layers.split("-"))
        span = f"{first * depth // DEPTH}-{(last + 1) * depth // DEPTH - 1}"
        return {"name": name, "recipe": {"lambda": 0.8, "rules": ablation(span)}}
    if name.startswith("skip-"):
        return {"preset": name}
    base = family.pretrained if "base" in name else family.hybrid
    recipe = preset(name, instruct=family.instruct, thinking=family.thinking, base=base)
    plain = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {"name": name, "recipe": plain | {"sources": {key: part.label for key, part in recipe.sources.items()}}}
