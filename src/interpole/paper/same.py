"""Which points of a run are the printed ones: the same merge of the run's models, asked and sampled so, whatever it is called.

A name alone makes nothing the printed point. Of a model that somebody else serves, a run knows at most the λ that it asked for.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from interpole.merging.recipe import build
from interpole.paper.experiments import DEPTH, Experiment, Family, asked_as, family_of
from interpole.paper.printed import THIRDS
from interpole.records import Sample, dial_lam
from interpole.runs.runfile import Entry, RunFile
from interpole.tasks.profiles import Profile, profile

__all__ = ["Matched", "matched"]

FIELDS: Mapping[str, Any] = {"method": "linear", "lambda": None, "weights": None, "rules": [], "parameters": {}}
"""Of a recipe: all that makes a point another one, with what holds where nothing is said."""
SAMPLER = ("temperature", "top_p")
FAMILY = Family("instruct", "thinking", "hybrid", "base")
ANOTHER = "another model"
PAPERS = {
    place: role
    for size in ("4B", "30B-A3B")
    for role, place in zip(FAMILY, family_of("paper", size), strict=True)
    if role and place
}
"""The paper's own models: where they lie → what they are."""
MOST_LAYERS = 200
Key = tuple[str, str]


class Matched(NamedTuple):
    """What a run has of an experiment.

    Attributes:
        printed: the experiment's points.
        names: (task, point of the run) → the printed point that it is.
        others: (task, printed point) → in what the run's point of that name is another, where the run has none that is it.
    """

    printed: frozenset[str]
    names: Mapping[Key, str]
    others: Mapping[Key, str]

    def renamed(self, samples: Iterable[Sample]) -> list[Sample]:
        """Samples under the printed names; what only bears such a name is left out."""
        found = []
        for sample in samples:
            point = self.names.get((sample.task, sample.point))
            if point == sample.point or (point is None and sample.point not in self.printed):
                found.append(sample)
            elif point is not None:
                found.append(replace(sample, point=point, lam=dial_lam(point)))
        return found

    def called(self, task: str, point: str) -> str:
        """What the run calls a printed point, where that is something else."""
        found = next((own for (of, own), name in self.names.items() if (of, name) == (task, point)), point)
        return "" if found == point else found


def matched(one: Experiment, run: RunFile) -> Matched:
    """Find the points of an experiment in a run: first those of the printed names, then others that are the same."""
    printed = frozenset({*one.also, *(row.point for row in one.rows)})
    names, others = dict[Key, str](), dict[Key, str]()
    for task in dict.fromkeys(entry.task for entry in run.current):
        entries = [entry for entry in run.current if entry.task == task]
        judge = _Judge.of(one, printed, entries)
        for entry in entries:
            if entry.point in printed:
                what = judge.difference(entry, entry.point)
                (others if what else names)[task, entry.point] = what or entry.point
        for name in sorted(printed - {own for of, own in names if of == task}):
            left = [entry for entry in entries if (task, entry.point) not in names]
            if same := next((entry for entry in left if not judge.difference(entry, name, named=False)), None):
                names[task, same.point] = name
                others.pop((task, name), None)
    return Matched(printed, names, others)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says in what an entry of one task differs from a printed point.

    Attributes:
        points: printed name → the point with its recipe written out.
        published: the sampler of the task, where it is the paper's.
        dial: the models that the run calls Instruct and Thinking, as their recipes write them.
        lams: what is served → λ, for models that are served on the dial.
        usual: temperature and top_p of most entries: what a point is sampled at on a task that is not the paper's.
    """

    points: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, Any]
    dial: Mapping[str, str]
    lams: Mapping[str, float]
    usual: Mapping[str, Any]

    @classmethod
    def of(cls, one: Experiment, printed: frozenset[str], entries: Sequence[Entry]) -> _Judge:
        """For the entries of one task."""
        on_dial = [entry for entry in entries if entry.lam is not None]
        usual = Counter(tuple(entry.sampler.get(name) for name in SAMPLER) for entry in on_dial or entries)
        paper = profile(f"paper-{one.size.split('-')[0].lower()}")
        depth = _depth(entries, paper) if not printed.isdisjoint(THIRDS.values()) else DEPTH
        task = paper.samplers.get(entries[0].task)
        return cls(
            {name: _point(name, depth, paper) for name in printed},
            {name: getattr(task, name) for name in SAMPLER} if task else {},
            {role: _most(on_dial or entries, role) for role in FAMILY[:2]},
            {_written(entry.recipe): entry.lam for entry in on_dial if entry.recipe and entry.lam is not None},
            dict(zip(SAMPLER, usual.most_common(1)[0][0], strict=True)),
        )

    def difference(self, entry: Entry, name: str, *, named: bool = True) -> str:
        """In what an entry is not a printed point; empty: in nothing.

        Args:
            entry: of the run.
            name: of the printed point.
            named: the run calls it so: a model that is none of the dial's is then taken to be the one that belongs there.
        """
        point = self.points[name]
        expected = point["recipe"]
        if "sources" not in entry.recipe:
            what = self._served(entry, expected)
        else:
            what = _merged(entry.recipe, expected) or self._made_of(entry.recipe, expected, named=named)
        if not what and entry.asking:
            what = f"asked otherwise than the printed one: {', '.join(entry.asking)}"
        return what or self._sampled(entry, point, named=named)

    def _served(self, entry: Entry, expected: Mapping[str, Any]) -> str:
        """The same of weights that are the server's."""
        lam = self.lams.get(_written(entry.recipe)) if entry.lam is None else entry.lam
        if lam is None:
            return "the run says its name and not what was merged"
        whole = {**FIELDS, "lambda": lam}
        return _merged(whole, expected)

    def _made_of(self, recipe: Mapping[str, Any], expected: Mapping[str, Any], *, named: bool) -> str:
        """Whether the merge is of the models that belong there."""
        for place, wanted in expected["sources"].items():
            if place not in recipe["sources"]:
                continue  # it has no weight there
            found = self._role(recipe["sources"][place])
            if found != wanted["model"] and not (named and found == ANOTHER and wanted["model"] not in self.dial):
                return f"another merge than the printed one: {place} is {_label(recipe['sources'][place]):.80}"
        return ""

    def _role(self, source: Mapping[str, Any]) -> str:
        """What a model is in the run's family, or in the paper's."""
        written = _written(source)
        own = next((role for role, dial in self.dial.items() if dial == written), "")
        return own or PAPERS.get(_label(source), ANOTHER)

    def _sampled(self, entry: Entry, point: Mapping[str, Any], *, named: bool) -> str:
        """Whether the responses were sampled as printed."""
        wanted = self.published or ({} if named else self.usual)
        for name, value in {**wanted, **point.get("sampler", {})}.items():
            if (own := entry.sampler.get(name)) != value:
                said = "not said" if own is None else f"{own:g}"
                return f"sampled otherwise than the printed one: {name} is {said}, not {value:g}"
        return ""


def _most(entries: Sequence[Entry], place: str) -> str:
    """The model that stands in a place of most recipes."""
    found = Counter(_written(e.recipe["sources"][place]) for e in entries if place in e.recipe.get("sources", {}))
    return found.most_common(1)[0][0] if found else ""


def _written(part: Mapping[str, Any]) -> str:
    return json.dumps(part, sort_keys=True)


def _label(source: Mapping[str, Any]) -> str:
    return str(source.get("model", "a merge"))


def _merged(own: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """In what one merge is another than the expected one, whatever it is of."""
    a, b = _fields(own), _fields(expected)
    different = next((name for name in FIELDS if a[name] != b[name]), None)
    if different is None:
        return ""
    return f"another merge than the printed one: {different} is {a[different]!r:.80}, not {b[different]!r:.80}"


def _point(name: str, depth: int, paper: Profile) -> dict[str, Any]:
    """A printed point as in `sweep.yml`, with its recipe written out."""
    point = asked_as(name, FAMILY, depth, paper)
    content = {"sources": {name: name for name in ("instruct", "thinking")}, **point["recipe"]}
    recipe = build(content, "the printed point").model_dump(mode="json", by_alias=True, exclude_none=True)
    return point | {"recipe": recipe}


def _fields(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a merge what it is; the weights of Instruct and Thinking that sum to 1 are a λ."""
    found = {name: default if recipe.get(name) in (None, [], {}) else recipe[name] for name, default in FIELDS.items()}
    weights = found["weights"] or {}
    of_two = found["method"] == "linear" and weights and set(weights) <= {"instruct", "thinking"}
    if of_two and math.isclose(sum(weights.values()), 1):
        found |= {"weights": None, "lambda": weights.get("thinking", 0.0)}
    return found


def _depth(entries: Sequence[Entry], paper: Profile) -> int:
    """The number of layers at which most of the run's thirds are thirds; the run file does not say how many there are."""
    rules = [_fields(entry.recipe)["rules"] for entry in entries if "sources" in entry.recipe]

    def fit(depth: int) -> int:
        thirds = [_point(name, depth, paper)["recipe"]["rules"] for name in THIRDS.values()]
        return sum(own in thirds for own in rules)

    return max((DEPTH, *range(3, MOST_LAYERS)), key=fit) if any(rules) else DEPTH
