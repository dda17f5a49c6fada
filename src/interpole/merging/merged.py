"""Sources and a recipe → a checkpoint whose tensors are computed when they are read.

Arithmetic is float32 with one rounding (to nearest, ties to even) to the dtype of the result; what a recipe leaves as it is
keeps its bytes. Disk and live engines read the same `Merged`, so they are equal by construction.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interpole.chat import find_markers
from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.compat import clashes
from interpole.checkpoints.open import fit, open_source
from interpole.checkpoints.reduce import to_float32
from interpole.checkpoints.safetensors import DTYPES, TensorSpec
from interpole.checkpoints.views.fp8 import KEY, Dequantised, Quantised
from interpole.checkpoints.views.stacking import stacked
from interpole.checkpoints.views.vocabulary import vocabulary
from interpole.errors import MismatchError, RecipeError
from interpole.merging.card import texts
from interpole.merging.methods import ReadPair, Stream, get_method
from interpole.merging.recipe import DTYPE_NAMES, Part, Recipe
from interpole.merging.rules import Coefficients, list_layers

__all__ = ["Fitting", "Merged", "Read", "ReadOnce", "merge", "merge_all", "merge_in", "open_part"]

FP8 = "float8_e4m3fn"

Span = tuple[int, int]
"""Elements [start, stop) of a flattened tensor."""
KEPT_PIECES = 8
KEPT_BYTES = 4 << 20
"""Pieces of sources that are kept, per thread, where several merges are written together."""
WHOLE_ELEMENTS = 1 << 22
"""Tensors up to this size are taken whole by methods that need to know something of the whole."""
Read = Callable[[Checkpoint, str, int, int], NDArray[Any]]
"""A source, the name of a tensor and a span of it → its elements."""


def _read_plainly(source: Checkpoint, name: str, start: int, stop: int) -> NDArray[Any]:
    """Elements [start, stop) of a source's tensor."""
    return source.read(name, start, stop)


class _Last(threading.local):
    """The merge that was cut last, whole; every thread has its own."""

    def __init__(self) -> None:
        self.key: tuple[str, Span, Coefficients] | None = None
        self.whole: NDArray[Any] = np.empty(0)


class _Cut:
    """What a method has to know of a source's whole tensor, once some thread has found it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: Any = None


@final
class Merged(Checkpoint):
    """A checkpoint computed on read. Make it with `merge`; attributes are those of `Checkpoint` and these.

    Attributes:
        recipe: what is computed.
        sources: the checkpoints by the recipe's source names, with one layout and vocabulary.
        given: the same before they were made to fit each other.
        notes: what had to be done to the sources so that they fit, in words.
        stages: the sources that are merges themselves, which round to their own dtype, as they do when they are written.
    """

    def __init__(
        self,
        recipe: Recipe,
        sources: Mapping[str, Checkpoint],
        notes: tuple[str, ...] = (),
        *,
        given: Mapping[str, Checkpoint] | None = None,
        stages: Mapping[str, Merged] | None = None,
        wide: frozenset[str] = frozenset(),
        read: Read = _read_plainly,
    ) -> None:
        """Plan the merge; reads no tensor.

        Args:
            recipe: what is computed.
            sources: the checkpoints by the recipe's source names, with one layout and vocabulary.
            notes: what had to be done to the sources so that they fit.
            given: the sources before that; default as they are.
            stages: the sources that are merges themselves, as they were before they were made to fit.
            wide: tensors that are left in float32, whatever the recipe's dtype, to be quantised.
            read: how sources are read.
        """
        self.recipe, self.sources, self.notes, self._read_source = recipe, sources, notes, read
        self.given, self.stages = given or sources, stages or {}
        template = sources[recipe.template_source]
        self.label = f"{recipe.method}({', '.join(source.label for source in sources.values())})"
        self.assets = template.assets
        self.given_template = template.given_template if recipe.chat_template is None else recipe.chat_template
        first = sources[recipe.merged_names[0]]  # its names and shards, whatever λ: all points of a dial look alike
        self.layout = first.layout
        self.config = _with_dtype(template.config, recipe.dtype)
        dtype = None if recipe.dtype == FP8 else recipe.dtype
        self.specs = {
            name: _result_spec(spec, "float32" if name in wide else dtype) for name, spec in first.specs.items()
        }
        self._method = get_method(recipe.method)
        self._inputs = [sources[name] for name in recipe.merged_names]
        self._plan = recipe.coefficients(first.specs)
        self._last = _Last()
        self._cuts: dict[tuple[str, Span, Coefficients], list[_Cut]] = {}
        self._rows = {name: rows for name in self._plan if (rows := self._row_plan(name))}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop) of the flattened merged tensor. Methods that need the whole tensor compute all of it."""
        spec = self.specs[name]
        stop, dtype = spec.num_elements if stop is None else stop, DTYPES[spec.dtype]
        data = self._piece(name, self._plan[name], (start, stop), (0, spec.num_elements), dtype)
        for row, other in self._rows.get(name, {}).items():
            begin, end = row * spec.shape[-1], (row + 1) * spec.shape[-1]
            first, last = max(begin, start), min(end, stop)
            if first < last:
                data = data if data.flags.writeable else data.copy()
                data[first - start : last - start] = self._piece(name, other, (first, last), (begin, end), dtype)
        return data

    def copied_from(self, name: str) -> Checkpoint | None:
        """The source that gives this tensor as it is: λ at an end, or a tensor of integers; None where it is computed."""
        return None if name in self._rows else self._copied(name, self._plan[name])

    def terms(self, name: str) -> tuple[tuple[Checkpoint, float], ...] | None:
        """The tensor as Σ wᵢ·Θᵢ, where it is a weighted sum of sources or copied from one of them."""
        if (source := self.copied_from(name)) is not None:
            return ((source, 1.0),)
        coefficients = self._plan[name]
        if not self._is_sum(coefficients) or name in self._rows:
            return None
        return tuple(zip(self._inputs, coefficients.weights, strict=True))

    def stored_bytes(self, name: str) -> int:
        """Those of all sources that the tensor is computed from."""
        if (source := self.copied_from(name)) is not None:
            return source.stored_bytes(name)
        base = [self.sources["base"]] if self._method.base != "no" and "base" in self.sources else []
        ahead = [side for source in self._inputs for side in (source, *base)] if self.is_read_ahead(name) else []
        return sum(source.stored_bytes(name) for source in (*self._inputs, *base, *ahead))

    def is_read_ahead(self, name: str) -> bool:
        """Where the method looks through whole task vectors of a large tensor first."""
        coefficients = self._plan[name]
        return (
            self.copied_from(name) is None
            and self._finder(name, coefficients, self.specs[name].num_elements) is not None
        )

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies in a source, if it is copied from there unchanged."""
        source = self.copied_from(name)
        return source.origin(name) if source and source.specs[name].dtype == self.specs[name].dtype else None

    def chunk_elements(self, name: str) -> int | None:
        """How the tensor is best read: None in pieces of any size, or the whole at once."""
        if (source := self.copied_from(name)) is not None:
            return source.chunk_elements(name)
        size = self.specs[name].num_elements
        if not self._method.elementwise and self._finder(name, self._plan[name], size) is None:
            return size
        return max((source.chunk_elements(name) or 0 for source in self.sources.values()), default=0) or None

    def fingerprint(self, *, quick: bool = False) -> str:
        """Hash of the sources' fingerprints and the recipe."""
        parts = {name: source.fingerprint(quick=quick) for name, source in self.sources.items()}
        return hashlib.sha256(json.dumps([parts, self.recipe.identity()], sort_keys=True).encode()).hexdigest()

    def coefficients(self, name: str) -> Coefficients:
        """What tensor `name` is merged with."""
        return self._plan[name]

    def documents(self) -> Mapping[str, Callable[[], str]]:
        """The model card and the recipe."""
        return texts(self)

    def _copied(self, name: str, coefficients: Coefficients) -> Checkpoint | None:
        if not self.specs[name].is_float:
            return self._inputs[0]
        weights = coefficients.weights
        if self._method.interpolates and sorted(weights) == [0.0] * (len(weights) - 1) + [1.0]:
            return self._inputs[weights.index(1.0)]
        return None

    def _piece(
        self, name: str, coefficients: Coefficients, span: Span, whole: Span, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Elements of `span` in `dtype`; `whole` is what is merged as one where a method needs it."""
        if (source := self._copied(name, coefficients)) is not None:
            return _cast(self._read_source(source, name, *span), dtype)
        if span == whole or self._method.elementwise:
            return _cast(self._merge(name, coefficients, span, dtype, {}), dtype)
        if find := self._finder(name, coefficients, whole[1] - whole[0]):
            beside = {"cuts": self._cuts_of(find, name, coefficients, whole), "start": span[0] - whole[0]}
            return _cast(self._merge(name, coefficients, span, dtype, beside), dtype)
        if self._last.key != (name, whole, coefficients):  # a view may read it in many runs of rows
            self._last.whole = _cast(self._merge(name, coefficients, whole, dtype, {}), dtype)
            self._last.key = (name, whole, coefficients)
        return self._last.whole[span[0] - whole[0] : span[1] - whole[0]].copy()

    def _is_sum(self, coefficients: Coefficients) -> bool:
        return self.recipe.method == "linear" and not dict(coefficients.parameters).get("normalize")

    def _finder(self, name: str, coefficients: Coefficients, size: int) -> Callable[..., Any] | None:
        """The method's `cut`, where with it a tensor, or row, of this size is merged piece by piece.

        Its sources are read more than once then, so they must lie on the disk: neither computed nor fetched.
        """
        if self._method.cut is None or size <= WHOLE_ELEMENTS:
            return None
        if dict(coefficients.parameters).get(self._method.whole_with):
            return None
        lie_here = all(side.origin(name) is not None for side in (*self._inputs, self.sources["base"]))
        return self._method.cut if lie_here else None

    def _cuts_of(self, find: Callable[..., Any], name: str, coefficients: Coefficients, whole: Span) -> list[Any]:
        """What the method has to know of every source's whole tensor; of several threads each finds that of another source."""
        cuts = self._cuts.setdefault((name, whole, coefficients), [_Cut() for _ in self._inputs])
        parameters = dict(coefficients.parameters)
        for waits in (False, True):
            for source, (cut, checkpoint) in enumerate(zip(cuts, self._inputs, strict=True)):
                if cut.found is not None or not cut.lock.acquire(blocking=waits):
                    continue
                try:
                    if cut.found is None:
                        cut.found = find(
                            self._pairs(checkpoint, name, whole[0]), whole[1] - whole[0], source, **parameters
                        )
                finally:
                    cut.lock.release()
        return [cut.found for cut in cuts]

    def _pairs(self, source: Checkpoint, name: str, first: int) -> ReadPair:
        """Reads a source's tensor and that of the base side by side, from element `first` on."""

        def read(start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
            span = first + start, first + stop
            return self._read_source(source, name, *span), self._read_source(self.sources["base"], name, *span)

        return read

    def _merge(
        self, name: str, coefficients: Coefficients, span: Span, dtype: np.dtype[Any], beside: Mapping[str, Any]
    ) -> NDArray[Any]:
        """The merged elements in float32, or in `dtype` where one loop computes and rounds them.

        Args:
            name: the tensor.
            coefficients: what it is merged with.
            span: its elements.
            dtype: of the result.
            beside: further arguments of the method.
        """
        pieces = [self._read_source(source, name, *span) for source in self._inputs]
        arguments = {**dict(coefficients.parameters), **beside}
        takes_base = self._method.base != "no" and "base" in self.sources
        if takes_base:
            arguments["base"] = self._read_source(self.sources["base"], name, *span)
        fused = self._method.rounded if dtype == DTYPES["BF16"] else None
        rounded: NDArray[Any] | None = fused(pieces, coefficients.weights, **arguments) if fused else None
        if rounded is not None:
            return rounded
        shape = self.specs[name].shape
        if self._method.elementwise or span != (0, self.specs[name].num_elements):
            shape = (span[1] - span[0],)
        inputs = [to_float32(piece).reshape(shape) for piece in pieces]
        if takes_base:
            arguments["base"] = to_float32(arguments["base"]).reshape(shape)
        if self._method.random:
            seed = int(arguments.pop("seed"))
            arguments["streams"] = [Stream(seed, source, name, span[0]) for source in self.recipe.merged_names]
        merged: NDArray[Any] = self._method.merge(inputs, coefficients.weights, **arguments)
        return merged.reshape(-1)

    def _row_plan(self, name: str) -> dict[int, Coefficients]:
        """Row → its own coefficients, for the rows of `name` that have some."""
        plan: dict[int, Coefficients] = {}
        for tokens, coefficients in self._plan[name].rows:
            for row in self._token_rows(tokens):
                if row >= self.specs[name].shape[0]:
                    raise RecipeError(f"{name} has no row {row}", self.label, "the tokenizer does not fit the weights")
                plan.setdefault(row, coefficients)
        return plan

    def _token_rows(self, tokens: str | tuple[str, ...]) -> list[int]:
        if isinstance(tokens, str):
            markers = find_markers(self.assets, self.chat_template)
            tokens = (markers.open, markers.close)
        known = vocabulary(self) or {}
        for token in tokens:
            if token not in known:
                raise RecipeError(
                    f"rows: the tokenizer has no token {token!r}", self.label, "write it as in tokenizer.json"
                )
        return [known[token] for token in tokens]


@final
class Fitting:
    """Sources, opened once and made to fit once for all recipes that ask for the same."""

    def __init__(self, sources: Mapping[str, Checkpoint], read: Read = _read_plainly, *, weights: bool = True) -> None:
        """Take sources by name, how merges of them are to read them, and whether their tensors can be read."""
        self.sources, self._read, self._weights = sources, read, weights
        self._fitted: dict[tuple[Any, ...], tuple[dict[str, Checkpoint], tuple[str, ...]]] = {}

    def merge(self, recipe: Recipe) -> Checkpoint:
        """The merge of these sources by a recipe.

        Raises:
            MismatchError: a tensor is missing or extra, or differs in shape or dtype; names, both sides, remedy.
            RecipeError: a rule does not fit the model, or a source of the recipe is not given.
        """
        if missing := set(recipe.sources) - set(self.sources):
            raise RecipeError(f"source {min(missing)!r} of the recipe is not given")
        fitting = (recipe.template_source, recipe.vocabulary, recipe.row_changes, recipe.dtype is None, recipe.stack)
        asked = (*recipe.sources, *fitting)
        if asked not in self._fitted:
            self._fitted[asked] = self._fit(recipe)
        sources, notes = self._fitted[asked]
        given = {name: self.sources[name] for name in sources}
        stages = {name: stage for name, source in given.items() if (stage := merge_in(source)) is not None}
        made = partial(Merged, recipe, sources, notes, given=given, stages=stages, read=self._read)
        if recipe.dtype != FP8:
            return made()
        like, config = _fp8_target(recipe, sources)
        wide = frozenset(like.blocks.codes)
        return Quantised(made(wide=wide), like.blocks, config)

    def _fit(self, recipe: Recipe) -> tuple[dict[str, Checkpoint], tuple[str, ...]]:
        chosen = {name: self.sources[name] for name in recipe.sources}
        sources, notes = fit(chosen, recipe.template_source, recipe.vocabulary, recipe.row_changes)
        first, *others = sources.values()
        for other in others:
            for clash in clashes(first, other, dtypes=recipe.dtype is None):
                raise clash
            if self._weights:
                _check_integers(first, other)
        if recipe.stack is not None:
            sources = {name: stacked(source, list_layers(recipe.stack)) for name, source in sources.items()}
        below = (f"{name}: {note}" for name, source in chosen.items() for note in source.notes)
        return sources, (*below, *notes)


def open_part(part: Part, *, weights: bool = True, stream: bool = False) -> Checkpoint:
    """Open what a recipe names as a source: a checkpoint, or the merge that another recipe is.

    Args:
        part: the source.
        weights: False for questions that read no tensor, as in `open_source`.
        stream: as in `open_source`.

    Raises:
        InterpoleError: as `open_source` and `merge`.
    """
    if not isinstance(part, Recipe):
        return open_source(**dict(part), weights=weights, stream=stream)
    sources = {name: open_part(source, weights=weights, stream=stream) for name, source in part.sources.items()}
    return merge(part, sources, weights=weights)


def merge(recipe: Recipe, sources: Mapping[str, Checkpoint] | None = None, *, weights: bool = True) -> Checkpoint:
    """Open what the recipe names and check that it fits.

    What cannot be computed is refused here. Whether it makes sense (tokenizers, templates, settings that differ) is for
    `interpole.diagnostics.doctor.examine_sources(sources, recipe.template_source)`, which the command line asks first. The doctor
    uses merges, so it lies below this module and is not called from it; and a merge costs no reading of tokenizers.

    Args:
        recipe: the merge.
        sources: checkpoints by source name, if they are open already.
        weights: False where only headers are there, for questions that read no tensor.

    Raises:
        MismatchError: a tensor is missing or extra, or differs in shape or dtype; names, both sides, remedy.
        RecipeError: a rule does not fit the model.
    """
    if sources is None:
        sources = {name: open_part(source, weights=weights) for name, source in recipe.sources.items()}
    return Fitting(sources, weights=weights).merge(recipe)


def merge_all(
    recipes: Sequence[Recipe], sources: Mapping[str, Checkpoint], *, weights: bool = True
) -> list[Checkpoint]:
    """Merges of the same sources, to be written together: what they read of the sources one after another is read once.

    Args:
        recipes: the merges.
        sources: checkpoints by source name.
        weights: False where only headers are there, for questions that read no tensor.

    Raises:
        InterpoleError: as `merge`.
    """
    fitting = Fitting(sources, ReadOnce() if len(recipes) > 1 else _read_plainly, weights=weights)
    return [fitting.merge(recipe) for recipe in recipes]


class _Kept(threading.local):
    """Pieces of sources, the last ones at the end; every thread sees its own."""

    def __init__(self) -> None:
        self.pieces: OrderedDict[tuple[int, str, int, int], NDArray[Any]] = OrderedDict()


@final
class ReadOnce:
    """Reads sources and keeps per thread the last small pieces, which the next merge of the same sources asks for."""

    def __init__(self) -> None:
        self._kept = _Kept()

    def __call__(self, source: Checkpoint, name: str, start: int, stop: int) -> NDArray[Any]:
        """Elements [start, stop) of a source's tensor; nobody may write to them."""
        pieces = self._kept.pieces
        key = (id(source), name, start, stop)
        if key in pieces:
            return pieces[key]
        piece = source.read(name, start, stop)
        if piece.nbytes <= KEPT_BYTES:
            piece.flags.writeable = False
            pieces[key] = piece
            while len(pieces) > KEPT_PIECES:
                pieces.popitem(last=False)
        return piece


def merge_in(source: Checkpoint) -> Merged | None:
    """The merge that a source is, before it is written as FP8; None where it is none."""
    plain = source.plain if isinstance(source, Quantised) else source
    return plain if isinstance(plain, Merged) else None


def _cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array in `dtype`, rounded to nearest, ties to even; the same array if it is so already."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def _with_dtype(config: Mapping[str, Any], dtype: str | None) -> Mapping[str, Any]:
    """The config with the dtype of its weights replaced, under the key it uses; unchanged for None."""
    if dtype is None:
        return config
    return dict(config) | {"dtype" if "dtype" in config else "torch_dtype": dtype}


def _fp8_target(recipe: Recipe, sources: Mapping[str, Checkpoint]) -> tuple[Dequantised, Mapping[str, Any]]:
    """The source whose quantisation the result has, the template source or else the first that is FP8, and its config."""
    template = sources[recipe.template_source]
    like = next((source for source in (template, *sources.values()) if isinstance(source, Dequantised)), None)
    if like is None:
        raise RecipeError(
            f"dtype {FP8}: no source is FP8 in the layout of the result, so nothing says which tensors to quantise, and how",
            ", ".join(source.label for source in sources.values()),
            "write bfloat16 and quantise it with the tool of your engine",
        )
    quantisation = {KEY: like.raw.config[KEY]}
    return like, like.raw.config if like is template else {**template.config, **quantisation}


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
