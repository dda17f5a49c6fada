"""Merge methods: pure functions on float32 arrays, one kind per file, and the one registry of them.

A merge function has the form `merge(tensors, weights, **parameters) -> array`: `tensors` are the sources' float32 arrays of
one shape, `weights` one number per source. A method that works on differences takes `base` as well, one that draws random
masks takes `streams`, one `Stream` per source. Parameters that differ by source arrive as tuples, one value per source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from interpole.errors import RecipeError
from interpole.merging.methods._sparsify import ReadPair, Stream

__all__ = ["METHODS", "Method", "Parameter", "ReadPair", "Stream", "get_method"]

METHODS = {
    "linear": "linear",
    "slerp": "slerp",
    "nuslerp": "nuslerp",
    "multislerp": "multislerp",
    "karcher": "karcher",
    "task_arithmetic": "task_arithmetic",
    "ties": "ties",
    "dare_linear": "dare_linear",
    "dare_ties": "dare_linear",
    "breadcrumbs": "breadcrumbs",
    "breadcrumbs_ties": "breadcrumbs",
    "della": "della",
    "della_linear": "della",
    "sce": "sce",
    "model_stock": "model_stock",
    "ram": "ram",
    "ramplus_tl": "ram",
    "nearswap": "nearswap",
    "arcee_fusion": "arcee_fusion",
    "passthrough": "passthrough",
}
"""Names of all methods, with the module that holds each in its own `METHODS`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A hyperparameter of a method.

    Attributes:
        default: its value where a recipe says nothing; also its type, where there are no `choices`.
        doc: one line about it.
        low: its smallest value.
        high: its largest value.
        choices: all of its values, where they are words.
        per_source: every source may have its own.
        complement: another name under which one minus the value may be given.
    """

    default: Any
    doc: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Any, ...] = ()
    per_source: bool = False
    complement: str | None = None

    def problem(self, value: Any) -> str | None:
        """What is wrong with a single value, or None."""
        choices = self.choices or ((False, True) if isinstance(self.default, bool) else ())
        if choices:
            known = " or ".join(str(choice).lower() for choice in choices)
            return None if any(value is choice or value == choice != 1 for choice in choices) else f"not {known}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return "not a finite number"
        if isinstance(self.default, int) and value != int(value):
            return "not a whole number"
        return None if self.low <= value <= self.high else f"not between {self.low:g} and {self.high:g}"


@dataclass(frozen=True, slots=True)
class Method:
    """A merge function with what a `Merged` needs to know to call it.

    Attributes:
        merge: the pure function.
        rounded: the same over flat bfloat16 arrays, rounded once to bfloat16, where a loop in C does both; it gives None where
            it does not fit.
        cut: of a method on task vectors that needs to know one thing of each whole one and is elementwise then: a function that
            finds it, `cut(read, size, source, **parameters)`, `read` being a `ReadPair`. `merge` and `rounded` take what it
            finds as `cuts`, one per source, and with it pieces that begin at `start`.
        whole_with: a parameter with which it needs the whole tensors all the same.
        parameters: its hyperparameters by name.
        elementwise: each output element depends on the same element of the inputs only, so tensors can be cut anywhere.
        base: whether it takes a base model: `no`, `optional` or `needed`.
        interpolates: with weight 1 for one source and 0 for the others it gives that source; then bytes are copied.
        uses_weights: it reads the weights; otherwise a recipe may give none.
        random: it draws random masks: it takes `streams`, and has the parameter `seed`.
        sources: the smallest and the largest number of sources it takes, the base not counted.
    """

    merge: Callable[..., Any]
    rounded: Callable[..., Any] | None = None
    cut: Callable[..., Any] | None = None
    whole_with: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    elementwise: bool = False
    base: str = "no"
    interpolates: bool = False
    uses_weights: bool = True
    random: bool = False
    sources: tuple[int, float] = (1, math.inf)


@cache
def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        RecipeError: there is none.
    """
    if name not in METHODS:
        raise RecipeError(f"unknown merge method {name!r}", remedy=f"known: {', '.join(METHODS)}")
    method: Method = import_module(f"interpole.merging.methods.{METHODS[name]}").METHODS[name]
    return method
