"""The recipe that lies beside a merge, `interpole_recipe.yml` or the one in its model card: is the merge what it says?"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.open import readable
from interpole.checkpoints.reduce import count_differing, sum_tensors
from interpole.errors import InterpoleError, InterpoleWarning
from interpole.files import open_regular
from interpole.formats import parse_yaml
from interpole.merging.card import RECIPE_NAME
from interpole.merging.merged import Fitting, Read, ReadOnce
from interpole.merging.recipe import Recipe, build

__all__ = ["Stated", "compared", "find_stated", "verify"]

CARD = "README.md"
FENCED = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)
LONGEST_CARD = 1 << 20


@dataclass(frozen=True, slots=True)
class Stated:
    """A recipe that lies beside a merge, and what came of making the merge by it.

    Attributes:
        file: the file that it stands in.
        recipe: as it is read; None where it cannot be.
        num_wrong: tensor → weights that it gives otherwise, for every tensor; None where it could not be tried.
        problem: why not, in words; else empty.
    """

    file: str
    recipe: Recipe | None = None
    num_wrong: Mapping[str, int] | None = None
    problem: str = ""

    @property
    def byte_for_byte(self) -> bool:
        """Whether the recipe gives every tensor of the merge with all of its bits."""
        return self.num_wrong is not None and not any(self.num_wrong.values())

    def __str__(self) -> str:
        """In one sentence."""
        if self.recipe is None or self.num_wrong is None:
            return f"the recipe in {self.file} could not be tried: {self.problem}"
        by = f"the recipe in {self.file} ({self.recipe.method})"
        if self.byte_for_byte:
            return f"{by} makes it again byte for byte"
        odd = {name: number for name, number in self.num_wrong.items() if number}
        worst = max(odd, key=lambda name: odd[name])
        return f"{by} does not make it: {sum(odd.values()):,} weights differ in {len(odd)} tensors, e.g. in {worst}"


def verify(merged: Checkpoint, sources: Mapping[str, Checkpoint], threads: int | None = None) -> Stated | None:
    """Make the merge again by the recipe that lies beside it, and compare every bit; None where there is no recipe.

    Args:
        merged: the merge.
        sources: the checkpoints by the names that a recipe gives them: `instruct`, `thinking`, `base`.
        threads: default one per core, at most eight.
    """
    stated, again = find_stated(merged, sources, ReadOnce())
    return stated if stated is None or again is None else compared(stated, merged, again, {}, threads)


def find_stated(
    merged: Checkpoint, sources: Mapping[str, Checkpoint], read: Read
) -> tuple[Stated | None, Checkpoint | None]:
    """The recipe that lies beside a merge, untried, and the merge by it; None for what there is not.

    Args:
        merged: the merge.
        sources: as of `verify`.
        read: how the merge by the recipe reads its sources.
    """
    folder = merged.assets["config.json"].parent
    file = next((name for name in (RECIPE_NAME, CARD) if (folder / name).is_file()), None)
    try:
        recipe = _read(folder / file) if file else None
        if file is None or recipe is None:
            return None, None
        given = {name: _given(name, place.model, sources) for name, place in recipe.places.items()}
        if missing := [name for name, source in given.items() if source is None]:
            model = recipe.places[missing[0]].model
            what = f"its source {missing[0]!r} ({model}) is none of those given"
            return Stated(file, recipe, None, what + ("; give it as --base" if missing == ["base"] else "")), None
        there = {name: source for name, source in given.items() if source is not None}
        return Stated(file, recipe), readable(_made(recipe, there, read))
    except InterpoleError as error:
        return Stated(str(file), None, None, error.what), None


def compared(
    stated: Stated, merged: Checkpoint, again: Checkpoint, known: Mapping[str, int], threads: int | None
) -> Stated:
    """What came of the recipe: weights that differ in a bit, `known` of some tensors, counted of the others."""
    return replace(stated, num_wrong=_differing(merged, again, known, threads))


def _read(path: Path) -> Recipe | None:
    """The recipe in a file of recipes, or in a model card; None where the card has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpoleWarning)  # λ beyond [0, 1] is what is said, not what is asked for
        if path.name != CARD:
            return Recipe.load(path)
        with open_regular(path) as file:
            blocks = FENCED.findall(file.read(LONGEST_CARD).decode("utf-8", "replace"))
        for block in blocks:
            if "sources:" in block and "method:" in block:
                return build(parse_yaml(block, path, InterpoleError), path)
    return None


def _given(name: str, model: str, sources: Mapping[str, Checkpoint]) -> Checkpoint | None:
    """The checkpoint that a recipe means: of that name, else from that place; of a merge within it, first from that place."""
    places = {_place(source.label): source for source in sources.values()}
    if "/" in name:
        return places.get(_place(model)) or sources.get(name.rpartition("/")[2])
    return sources.get(name) or places.get(_place(model))


def _made(recipe: Recipe, places: Mapping[str, Checkpoint], read: Read) -> Checkpoint:
    """The merge by a recipe, the checkpoints by the names of `Recipe.places`."""
    sources = {}
    for name, source in recipe.sources.items():
        if isinstance(source, Recipe):
            inner = {key.removeprefix(f"{name}/"): place for key, place in places.items() if key.startswith(f"{name}/")}
            sources[name] = _made(source, inner, read)
        else:
            sources[name] = places[name]
    return Fitting(sources, read).merge(recipe)


def _place(model: str) -> str:
    return os.path.abspath(os.path.expanduser(model))  # noqa: PTH100, PTH111 (pathlib raises for odd names)


def _differing(merged: Checkpoint, again: Checkpoint, known: Mapping[str, int], threads: int | None) -> dict[str, int]:
    """Weights of every tensor of both that differ in a bit; all of one that the other lacks or has in another shape."""
    shapes = [{name: spec.shape for name, spec in side.specs.items()} for side in (merged, again)]
    both = [name for name, shape in shapes[0].items() if shapes[1].get(name) == shape and name not in known]
    sums = sum_tensors([merged, again], both, count_differing, threads=threads)
    counts = {name: int(count) for name, (count,) in sums.items()} | dict(known)
    return {
        name: counts[name] if name in counts else (merged if name in merged else again).specs[name].num_elements
        for name in dict.fromkeys([*merged, *again])
    }
