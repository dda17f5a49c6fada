"""The recipe that makes a merge again: proposed from what is known of its tensors, and tried."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.reduce import count_differing, sum_tensors
from interpole.checkpoints.views.vocabulary import vocabulary, vocabulary_tensors
from interpole.diagnostics.audit.estimate import Sides, simplest
from interpole.diagnostics.audit.findings import TensorAudit
from interpole.diagnostics.audit.mapping import MOST_RULES, LambdaMap
from interpole.errors import InterpoleError, InterpoleWarning
from interpole.merging.merged import merge
from interpole.merging.recipe import DTYPE_NAMES, Recipe, build

__all__ = ["propose", "reproduce"]

FEW_ROWS = 64
"""As many rows of tokens may have a λ of their own."""
WORTHLESS = 0.6
"""Share of wrong weights from which on a recipe is none; narrow arithmetic makes 20–40 % of the right one."""


def propose(
    verdict: str, tensors: Sequence[TensorAudit], lambda_map: LambdaMap | None, sides: Sides, template_from: str | None
) -> Iterator[Recipe]:
    """Recipes that may have made the merge, untried."""
    shared: dict[str, Any] = {"template_from": template_from} if template_from in ("instruct", "thinking") else {}
    dtypes = {spec.dtype for spec in sides.merged.specs.values() if spec.is_float}
    if dtypes != {spec.dtype for spec in sides.instruct.specs.values() if spec.is_float}:
        shared["dtype"] = next((name for name, dtype in DTYPE_NAMES.items() if {dtype} == dtypes), None)
    for content in _contents(verdict, tensors, lambda_map):
        needs_base = content["method"] == "task_arithmetic"
        labels = {name: source.label for name, source in sides.sources.items() if name != "base" or needs_base}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", InterpoleWarning
            )  # λ beyond [0, 1] is what was found, not what is asked for
            yield build({"sources": labels} | content | shared | _beyond(content), "the audit")


def _contents(verdict: str, tensors: Sequence[TensorAudit], lambda_map: LambdaMap | None) -> Iterator[dict[str, Any]]:
    if verdict in ("linear", "copy") and lambda_map and len(lambda_map.rules) <= MOST_RULES:
        yield {"method": "linear", "lambda": lambda_map.lam, "rules": lambda_map.rules}
    combined = [(t.num_elements, t.estimate) for t in tensors if t.state == "combination" and t.estimate]
    if verdict != "combination" or not combined:
        return
    largest = max(combined, key=lambda pair: pair[0])[1]
    first, second = (simplest(weight - 0.002, weight + 0.002) for weight in largest.weights)
    if largest.of_base:
        yield {"method": "task_arithmetic", "weights": {"instruct": first, "thinking": second}}
    else:
        yield {"method": "linear", "weights": {"instruct": first, "thinking": second}}
        yield {"method": "slerp", "lambda": simplest(largest.lam - 0.005, largest.lam + 0.005)}


def reproduce(
    recipes: Iterator[Recipe], tensors: Sequence[TensorAudit], sides: Sides, threads: int | None
) -> tuple[Recipe | None, list[TensorAudit]]:
    """The recipe that comes nearest, and the tensors with the number of weights that it gives otherwise."""
    best: tuple[Recipe | None, list[TensorAudit]] = None, list(tensors)
    fewest = WORTHLESS * sum(tensor.num_elements for tensor in tensors)
    queue = deque(recipes)
    while queue:
        recipe = queue.popleft()
        try:
            again = merge(recipe, {name: sides.sources[name] for name in recipe.sources})
        except InterpoleError:  # the sources fit each other, but not this method or these rules
            continue
        tried = _tried(again, tensors, sides.merged, threads)
        wrong = sum(tensor.num_wrong or 0 for tensor in tried)
        if wrong <= fewest:
            best, fewest = (recipe, tried), wrong
            if recipe.lam is not None and not any(rule.rows for rule in recipe.rules):
                queue.extend(filter(None, [_with_rows(recipe, tried, sides)]))
    return best


def _with_rows(recipe: Recipe, tensors: Sequence[TensorAudit], sides: Sides) -> Recipe | None:
    """The recipe with rules for the rows of tokens that it gives wrongly and that are copies of one side's; None without."""
    tokens = {row: token for token, row in (vocabulary(sides.merged) or {}).items()}
    rows: dict[float, set[int]] = {0.0: set(), 1.0: set()}
    by_row = vocabulary_tensors(sides.merged)
    for tensor in tensors:
        width = sides.merged.specs[tensor.name].shape[-1] if tensor.name in by_row else 0
        if width and 0 < (tensor.num_wrong or 0) <= FEW_ROWS * width:
            matrices = [side[tensor.name] for side in (sides.merged, sides.instruct, sides.thinking)]
            for row in _odd_rows(recipe, tensor.name, matrices[0], sides):
                for lam, matrix in zip(rows, matrices[1:], strict=True):
                    if np.array_equal(matrices[0][row], matrix[row]):
                        rows[lam].add(row)
    named = {lam: [tokens[row] for row in sorted(chosen) if row in tokens] for lam, chosen in rows.items()}
    rules = [{"rows": names, "lambda": lam} for lam, names in named.items() if names]
    if not rules:
        return None
    content = recipe.model_dump(by_alias=True, exclude_none=True)
    content |= {"rules": [*rules, *content["rules"]]}
    return build(content | _beyond(content), "the audit")


def _beyond(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says if some λ of it lies far beyond the pair."""
    values = [part.get("lambda") for part in (content, *content.get("rules", ()))]
    numbers = [number for value in values for number in (value if isinstance(value, list) else [value])]
    return {"extrapolate": True} if any(number is not None and not -0.5 <= number <= 1.5 for number in numbers) else {}


def _odd_rows(recipe: Recipe, name: str, matrix: NDArray[Any], sides: Sides) -> list[int]:
    again = merge(recipe, {key: sides.sources[key] for key in recipe.sources})[name]
    return [int(row) for row in np.flatnonzero((again != matrix).any(axis=-1))]


def _tried(
    again: Checkpoint, tensors: Sequence[TensorAudit], merged: Checkpoint, threads: int | None
) -> list[TensorAudit]:
    there = {name: spec.shape for name, spec in again.specs.items()}
    names = [t.name for t in tensors if t.name in merged and there.get(t.name) == merged.specs[t.name].shape]
    wrong: Mapping[str, list[float]] = sum_tensors([merged, again], names, count_differing, threads=threads)
    return [replace(t, num_wrong=int(wrong[t.name][0]) if t.name in wrong else t.num_elements) for t in tensors]
