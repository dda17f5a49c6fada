"""Sources and a recipe → a checkpoint whose tensors are computed when they are read.

Arithmetic is float32 with one rounding (to nearest, ties to even) to the dtype of the result; what a recipe leaves as it is
keeps its bytes. Disk and live engines read the same `Merged`, so they are equal by construction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoint import DTYPES, Checkpoint, Origin, TensorSpec, open_checkpoint
from interpole.errors import MismatchError, RecipeError
from interpole.matching import clashes
from interpole.methods import get_method
from interpole.recipe import DTYPE_NAMES, Recipe
from interpole.rules import Coefficients

__all__ = ["Merged", "merge"]


@final
class Merged(Checkpoint):
    """A checkpoint computed on read. Make it with `merge`; attributes are those of `Checkpoint` and these.

    Attributes:
        recipe: what is computed.
        sources: the checkpoints by the recipe's source names.
    """

    def __init__(self, recipe: Recipe, sources: Mapping[str, Checkpoint]) -> None:
        """Plan the merge; reads no tensor."""
        self.recipe, self.sources = recipe, sources
        donor = sources[recipe.template_source]
        self.label = f"{recipe.method}({', '.join(source.label for source in sources.values())})"
        self.assets = donor.assets
        first = sources[recipe.merged_names[0]]  # its names and shards, whatever λ: all points of a dial look alike
        self.layout = first.layout
        self.config = with_dtype(donor.config, recipe.dtype)
        self.specs = {name: _result_spec(spec, recipe.dtype) for name, spec in first.specs.items()}
        self._method = get_method(recipe.method)
        self._inputs = [sources[name] for name in recipe.merged_names]
        self._plan = recipe.coefficients(first.specs)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop) of the flattened merged tensor. Methods that need the whole tensor compute all of it."""
        dtype = DTYPES[self.specs[name].dtype]
        if (source := self.copied_from(name)) is not None:
            return cast(source.read(name, start, stop), dtype)
        whole = not self._method.elementwise
        span = (0, None) if whole else (start, stop)
        merged = cast(self._merge(name, *span), dtype)
        return merged[start:stop] if whole else merged

    def copied_from(self, name: str) -> Checkpoint | None:
        """The source that gives this tensor as it is: λ at an end, or a tensor of integers; None where it is computed."""
        if not self.specs[name].is_float:
            return self._inputs[0]
        weights = self._plan[name].weights
        if self._method.interpolates and sorted(weights) == [0.0] * (len(weights) - 1) + [1.0]:
            return self._inputs[weights.index(1.0)]
        return None

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies in a source, if it is copied from there unchanged."""
        source = self.copied_from(name)
        return source.origin(name) if source and source.specs[name].dtype == self.specs[name].dtype else None

    def piece_elements(self, name: str) -> int | None:
        """How the tensor is best read: None in pieces of any size, or the whole at once."""
        return None if self._method.elementwise or self.copied_from(name) else self.specs[name].num_elements

    def fingerprint(self) -> str:
        """Hash of the sources' fingerprints and the recipe."""
        parts = {name: source.fingerprint() for name, source in self.sources.items()}
        return hashlib.sha256(json.dumps([parts, self.recipe.identity()], sort_keys=True).encode()).hexdigest()

    def coefficients(self, name: str) -> Coefficients:
        """What tensor `name` is merged with."""
        return self._plan[name]

    def _merge(self, name: str, start: int, stop: int | None) -> NDArray[np.float32]:
        coefficients, shape = self._plan[name], self.specs[name].shape
        inputs = [to_float32(source.read(name, start, stop)) for source in self._inputs]
        arguments = dict(coefficients.parameters)
        if self._method.needs_base:
            arguments["base"] = to_float32(self.sources["base"].read(name, start, stop))
        if not self._method.elementwise:
            inputs = [array.reshape(shape) for array in inputs]
            arguments |= {"base": arguments["base"].reshape(shape)} if "base" in arguments else {}
        merged: NDArray[np.float32] = self._method.merge(inputs, coefficients.weights, **arguments).reshape(-1)
        return merged


def merge(recipe: Recipe, sources: Mapping[str, Checkpoint] | None = None) -> Merged:
    """Open what the recipe names and check that it fits.

    Args:
        recipe: the merge.
        sources: checkpoints by source name, if they are open already.

    Raises:
        MismatchError: a tensor is missing or extra, or differs in shape or dtype; names, both sides, remedy.
        RecipeError: a rule does not fit the model.
    """
    if sources is None:
        sources = {name: open_checkpoint(source.model, source.revision) for name, source in recipe.sources.items()}
    if missing := set(recipe.sources) - set(sources):
        raise RecipeError(f"source {min(missing)!r} of the recipe is not given")
    first, *others = (sources[name] for name in recipe.sources)
    for other in others:
        for clash in clashes(first, other, dtypes=recipe.dtype is None):
            raise clash
        _check_integers(first, other)
    return Merged(recipe, sources)


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """The array in float32; exact for bfloat16, float16 and float8."""
    if array.dtype == DTYPES["BF16"]:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array in `dtype`, rounded to nearest, ties to even; the same array if it is so already."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def with_dtype(config: Mapping[str, Any], dtype: str | None) -> Mapping[str, Any]:
    """The config with the dtype of its weights replaced, under the key it uses; unchanged for None."""
    if dtype is None:
        return config
    return dict(config) | {"dtype" if "dtype" in config else "torch_dtype": dtype}


def _result_spec(spec: TensorSpec, dtype: str | None) -> TensorSpec:
    return spec if dtype is None or not spec.is_float else TensorSpec(DTYPE_NAMES[dtype], spec.shape)


def _check_integers(a: Checkpoint, b: Checkpoint) -> None:
    for name, spec in a.specs.items():
        if not spec.is_float and not np.array_equal(a[name], b[name]):
            raise MismatchError(
                f"tensor {name} ({spec}) holds integers that differ and cannot be averaged",
                f"{a.label} ↔ {b.label}",
                "quantised weights: take the unquantised checkpoints",
            )
