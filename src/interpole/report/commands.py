"""What made a run, to copy: its sweep as a command, as far as run.json knows it, and recipes that no flag can say."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from interpole.errors import printable
from interpole.merging.simplex import grid, weights_name
from interpole.runs.runfile import Entry, RunFile
from interpole.runs.simplex import simplex_of

__all__ = ["command_line", "ends", "pair", "recipes", "short_name", "sweep_command"]

PLAIN = {
    "method": "linear",
    "template_from": "thinking",
    "vocabulary": "refuse",
}  # of a dial without settings of its own
OF_A_TASK = ("limit", "data", "grader", "prompt")
SAMPLER = ("temperature", "top_p", "top_k", "max_tokens")
OUTSIDE = 0.5  # λ beyond 0 and 1 by more are asked for with --extrapolate
Flags = list[str]


def short_name(label: str) -> str:
    """A hub id or relative path as it is; of an absolute path its end only, for it says where its user works."""
    return Path(label).name if Path(label).is_absolute() else label.rstrip("/")


def command_line(*words: str) -> str:
    """A command of ours as it can be pasted into a shell; control characters in it are shown, not obeyed."""
    return printable(shlex.join(["interpole", *words]))


def ends(file: RunFile) -> tuple[str, str] | None:
    """Instruct and Thinking as `interpole merge` takes them; `None` where the dial is not their plain merge.

    Of what others serve, whose weights are not known here, they stand for whatever is served.
    """
    if not {"instruct", "thinking"} <= set(file.sources):
        return "INSTRUCT", "THINKING"
    if not all(map(_is_plain, _dial(file))):
        return None
    return file.sources["instruct"].label, file.sources["thinking"].label


def pair(file: RunFile) -> tuple[str, str] | None:
    """`ends`, by their short names; `None` also where they are not known."""
    found = ends(file) if {"instruct", "thinking"} <= set(file.sources) else None
    return found and (short_name(found[0]), short_name(found[1]))


def sweep_command(file: RunFile, out: str) -> tuple[str, list[str]]:
    """The command that asks the same again, and what it does not say because no flag can."""
    dial, unsaid = _dial(file), list[str]()
    served, (triangle, covered) = file.engine_options.get("base_url"), _triangle(file)
    named = ("instruct", "thinking") if dial or not triangle else ()
    ends = [short_name(file.sources[name].label) for name in named if name in file.sources]
    words = [
        "sweep",
        *ends,
        *triangle,
        *(word for task in file.tasks.values() for word in ("--task", _task(task.spec))),
    ]
    if dial:
        lams = sorted({entry.lam for entry in dial if entry.lam is not None})
        words += ["--lambda", ",".join(f"{lam:g}" for lam in lams)]
        words += ["--extrapolate"] if lams[0] < -OUTSIDE or lams[-1] > 1 + OUTSIDE else []
    words += _shared("samples", (task.samples for task in file.tasks.values()), unsaid)
    for name in OF_A_TASK:
        words += _shared(name, (task.spec.get(name) for task in file.tasks.values()), unsaid)
    for name in SAMPLER:
        words += _shared(name, (entry.sampler.get(name) for entry in dial or file.current), unsaid)
    words += [] if served or file.template_from in ("", "thinking") else ["--template-from", file.template_from]
    words += ["--prefix", file.prefix] if file.prefix else []
    words += _named("--template-variable", file.template_variables)
    words += ["--seed", str(file.seed)] if file.seed else []
    words += ["--engine", file.engine["engine"]] if file.engine.get("engine", "transformers") != "transformers" else []
    words += ["--base-url", str(served)] if served else []
    off = [entry for entry in file.current if entry.lam is None and entry.point not in covered]
    asked = [entry for entry in off if served and not entry.asking and entry.recipe.get("base_url", served) == served]
    models = [file.engine_options.get("model"), *(entry.recipe.get("model") for entry in asked)] if served else []
    words += [word for model in dict.fromkeys(filter(None, models)) for word in ("--model", str(model))]
    words += _named("--engine-option", {k: v for k, v in file.engine_options.items() if k not in ("base_url", "model")})
    unsaid += ["the recipe of the dial"] if not served and not all(map(_is_plain, dial)) else []
    unsaid += [entry.point for entry in off if entry not in asked]
    unsaid += [f"revision {source.revision} of {name}" for name, source in file.sources.items() if source.revision]
    return command_line(*words, "--out", out), list(dict.fromkeys(unsaid))


def recipes(file: RunFile) -> list[tuple[str, str]]:
    """(name, YAML) of every point off the dial, and of a dial that is no plain merge."""
    shown = {entry.point: entry for entry in file.current if entry.lam is None}
    dial = next((entry for entry in _dial(file) if not _is_plain(entry) and "model" not in entry.recipe), None)
    named = {**({f"the dial, at {dial.point}": dial} if dial else {}), **shown}
    return [(name, _yaml(entry)) for name, entry in named.items() if entry.recipe or entry.asking]


def _triangle(file: RunFile) -> tuple[Flags, set[str]]:
    """The flags that cover a run's triangle, and the points that they say; none where it is not covered by a grid."""
    simplex = simplex_of(file)
    if simplex is None or len(simplex.corners) != 3:
        return [], set()
    finest = math.isqrt(2 * len(simplex.points))  # a grid of n steps has (n + 1)(n + 2)/2 points
    grids = {n: {weights_name(one) for one in grid(simplex.corners, n)} for n in range(1, finest + 1)}
    steps = max((n for n, names in grids.items() if names <= simplex.points.keys()), default=0)
    if not steps:
        return [], set()
    ends = ("instruct", "thinking") if _dial(file) else ()
    corners = [name if name in ends else f"{name}={short_name(file.sources[name].label)}" for name in simplex.corners]
    return ["--simplex", ",".join(corners), "--steps", str(steps)], grids[steps]


def _dial(file: RunFile) -> list[Entry]:
    return [entry for entry in file.current if entry.lam is not None]


def _is_plain(entry: Entry) -> bool:
    """Whether λ says all of a point's recipe, between two models and not between merges."""
    if any("sources" in source for source in (entry.recipe.get("sources") or {}).values()):
        return False
    said = {key: value for key, value in entry.recipe.items() if value and key not in ("sources", "lambda")}
    return said.items() <= PLAIN.items()


def _task(spec: Mapping[str, Any]) -> str:
    return short_name(str(spec.get("task", "")))


def _shared(name: str, values: Iterable[Any], unsaid: list[str]) -> Flags:
    """The flag of a setting that everything shares; what differs is left to be said in words."""
    different = list(dict.fromkeys(values))
    if len(different) > 1:
        unsaid.append(name)
    if len(different) != 1 or different[0] is None:
        return []
    value = short_name(different[0]) if name == "data" else different[0]
    return [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]


def _named(flag: str, values: Mapping[str, Any]) -> Flags:
    """`NAME=VALUE` pairs whose values are read as YAML."""
    return [word for name, value in values.items() for word in (flag, f"{name}={_value(value)}")]


def _value(value: Any) -> str:
    bare = (
        isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value not in ("true", "false", "null")
    )
    return value if bare else json.dumps(value, ensure_ascii=False)


def _yaml(entry: Entry) -> str:
    """A point's recipe without what is empty, and below it what else is special in how it was asked."""
    recipe = _short(entry.recipe)
    asked = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entry.asking.items()]
    return "\n".join([*([_dump(recipe).strip()] if recipe else []), *(["# asked with", *asked] if asked else [])])


def _short(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without what is empty, its sources with short names."""
    said = {key: value for key, value in recipe.items() if value not in ({}, [], None, "")}
    if isinstance(sources := said.get("sources"), Mapping):
        said["sources"] = {name: _source(source) for name, source in sources.items()}
    return said


def _source(source: Any) -> Any:
    """A source with short names; its folder or hub id alone where that is all."""
    if not isinstance(source, Mapping):
        return source
    if "sources" in source:
        return _short(source)
    said = {k: short_name(v) if k in ("model", "adapter") and isinstance(v, str) else v for k, v in source.items() if v}
    return said["model"] if set(said) == {"model"} else said


def _dump(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
