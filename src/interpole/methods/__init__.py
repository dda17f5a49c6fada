"""Merge methods: one pure function on float32 arrays per file, and the one registry of them.

A merge function has the form `merge(tensors, weights, **parameters) -> array`: `tensors` are the sources' float32 arrays of
one shape, `weights` one number per source. A method that works on differences takes `base` as well. Parameters that differ by
source arrive as tuples, one number per source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from interpole.errors import RecipeError

__all__ = ["METHODS", "Method", "Parameter", "get_method"]

METHODS = ("linear",)
"""Names of all methods; each is the module of that name and holds a `METHOD`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A hyperparameter of a method: its default, one line about it, and whether every source may have its own."""

    default: Any
    doc: str
    per_source: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A merge function with what a `Merged` needs to know to call it.

    Attributes:
        merge: the pure function.
        parameters: its hyperparameters by name.
        elementwise: each output element depends on the same element of the inputs only, so tensors can be cut anywhere.
        needs_base: it takes a base model.
        interpolates: with weight 1 for one source and 0 for the others it gives that source; then bytes are copied.
        uses_weights: it reads the weights; otherwise a recipe needs none.
    """

    merge: Callable[..., Any]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    elementwise: bool = False
    needs_base: bool = False
    interpolates: bool = False
    uses_weights: bool = True


@cache
def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        RecipeError: there is none.
    """
    if name not in METHODS:
        raise RecipeError(f"unknown merge method {name!r}", remedy=f"known: {', '.join(METHODS)}")
    method: Method = import_module(f"interpole.methods.{name}").METHOD
    return method
