"""Whether what a run calls by a printed name is what was printed: the same merge of its sources, sampled so.

Of points that somebody else serves, and of run folders that do not say a recipe, the name is all there is to go by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interpole.merging.recipe import build
from interpole.paper.experiments import DEPTH, Experiment, Family, asked_as
from interpole.paper.printed import THIRDS
from interpole.runs.runfile import Entry, RunFile
from interpole.tasks.profiles import Profile, profile

__all__ = ["others"]

FIELDS: Mapping[str, Any] = {"method": "linear", "lambda": None, "weights": None, "rules": [], "parameters": {}}
"""Of a recipe: all that makes a point another one, with what holds where nothing is said."""
SAMPLER = ("temperature", "top_p")
FAMILY = Family("instruct", "thinking", "hybrid", "base")  # the names do not matter here
MOST_LAYERS = 200


def others(one: Experiment, run: RunFile) -> dict[tuple[str, str], str]:
    """The points of a run that have a printed name and are something else: (task, point) → in what they differ."""
    names = {*one.also, *(row.point for row in one.rows)}
    entries = [entry for entry in run.current if entry.point in names]
    depth, paper = _depth(entries), profile(f"paper-{one.size.split('-')[0].lower()}")
    found = {(entry.task, entry.point): _difference(entry, depth, paper) for entry in entries}
    return {key: what for key, what in found.items() if what}


def _difference(entry: Entry, depth: int, paper: Profile) -> str:
    """In what an entry is not the printed point of its name; empty: in nothing."""
    point = asked_as(entry.point, FAMILY, depth, paper)
    if "sources" in entry.recipe:
        expected, own = _fields(_recipe(point)), _fields(entry.recipe)
        for name in FIELDS:
            if own[name] != expected[name]:
                return f"another merge than the printed one: {name} is {own[name]!r:.80}, not {expected[name]!r:.80}"
    task = paper.samplers.get(entry.task)
    sampler = {} if task is None else {name: getattr(task, name) for name in SAMPLER}
    for name, value in {**sampler, **point.get("sampler", {})}.items():
        if entry.sampler.get(name) != value:
            return f"sampled otherwise than the printed one: {name} is {entry.sampler.get(name):g}, not {value:g}"
    return ""


def _recipe(point: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a point of `sweep.yml`, written out."""
    content = {"sources": {name: name for name in ("instruct", "thinking")}, **point["recipe"]}
    return build(content, "the printed point").model_dump(mode="json", by_alias=True, exclude_none=True)


def _fields(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: recipe.get(name, default) or default for name, default in FIELDS.items()}


def _depth(entries: list[Entry]) -> int:
    """The number of layers at which most of the run's thirds are thirds; the run file does not say how many there are."""
    thirds = [entry for entry in entries if entry.point in THIRDS.values()]
    paper = profile("paper-4b")

    def fit(depth: int) -> int:
        return sum(not _difference(entry, depth, paper) for entry in thirds)

    return max((DEPTH, *range(3, MOST_LAYERS)), key=fit) if thirds else DEPTH
