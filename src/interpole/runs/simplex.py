"""Which points of a run lie on a simplex of its sources, and with which weights: read off the recipes in its run.json.

A point lies there if it is the plain weighted sum of sources, and asked like the others. Those of the dial between two corners
do, too; a run that has a dial alone has no simplex.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interpole.merging.simplex import TOLERANCE
from interpole.runs.runfile import Entry, RunFile

__all__ = ["Simplex", "simplex_of"]

PLAIN = {"sources", "weights", "lambda", "template_from", "method", "vocabulary"}
"""What a recipe may say that is still the plain sum of its sources."""


@dataclass(frozen=True, slots=True)
class Simplex:
    """Models and the points between them."""

    corners: tuple[str, ...]  # in the order of the run's sources, but the ends of a dial last
    points: Mapping[str, Mapping[str, float]]  # by name: corner → weight, of those that have one


def simplex_of(file: RunFile) -> Simplex | None:
    """The simplex of a run; None where its points are a dial, or no sums of two sources or more."""
    samplers = {name: _usual_sampler(file, name) for name in file.tasks}
    plain = [entry for entry in file.current if not entry.asking and _sampler(entry) == samplers[entry.task]]
    weights = {entry.point: found for entry in plain if (found := _weights(entry, file)) is not None}
    own = {entry.point for entry in plain if entry.lam is None}
    named = {corner for point, found in weights.items() if point in own for corner in found}
    points = {point: found for point, found in weights.items() if found.keys() <= named}
    ends = [name for name in ("instruct", "thinking") if name in named]
    corners = (*(name for name in file.sources if name in named and name not in ends), *ends)
    return Simplex(corners, points) if len(corners) > 1 else None


def _sampler(entry: Entry) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(entry.sampler.items()))


def _usual_sampler(file: RunFile, task: str) -> tuple[tuple[str, float], ...]:
    """That of most points of a task."""
    counted = Counter(_sampler(entry) for entry in file.current if entry.task == task)
    return counted.most_common(1)[0][0] if counted else ()


def _weights(entry: Entry, file: RunFile) -> dict[str, float] | None:
    """The weights of a point that is a plain sum of the run's sources; run.json may be anybody's."""
    recipe = entry.recipe
    own, sources = recipe.get("weights"), recipe.get("sources")
    if recipe.get("method") != "linear" or not isinstance(sources, Mapping):
        return None
    if any(value for name, value in recipe.items() if name not in PLAIN) or recipe.get("vocabulary") != "refuse":
        return None
    if own is None and isinstance(lam := recipe.get("lambda"), int | float):
        own = {"instruct": 1.0 - lam, "thinking": float(lam)}
    if not isinstance(own, Mapping) or not all(isinstance(one, int | float) for one in own.values()):
        return None
    found = {str(name): float(weight) for name, weight in own.items() if weight}
    on_it = min(found.values(), default=-1.0) > 0 and abs(math.fsum(found.values()) - 1) <= TOLERANCE
    return found if on_it and all(_is_source(file, name, sources.get(name)) for name in found) else None


def _is_source(file: RunFile, name: str, place: Any) -> bool:
    """Whether what a recipe calls so is what the run calls so."""
    known = file.sources.get(name)
    return known is not None and isinstance(place, Mapping) and place.get("model") == known.label
