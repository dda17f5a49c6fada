"""Block-scaled FP8 as DeepSeek-V3, Qwen3-…-FP8 and Ministral-3 store it, read as bfloat16 and written again.

A weight `X` of float8 codes goes with `X_scale_inv`, one scale per block (128 × 128) or one for the whole tensor:
value = code · scale, in float32. Read as bfloat16, it is bit for bit what the families' published conversion scripts write.
Layout: https://huggingface.co/deepseek-ai/DeepSeek-V3, README_WEIGHTS.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.safetensors import DTYPES, TensorSpec
from interpole.errors import CheckpointError, CorruptError, RecipeError
from interpole.schema import Foreign, validated

__all__ = [
    "KEY",
    "Blocks",
    "Dequantised",
    "Quantised",
    "announced",
    "dequantise",
    "finite",
    "quantise",
    "without_quantisation",
]

KEY = "quantization_config"
"""Where a config says how its model is quantised."""

KEYS = frozenset((KEY, "compression_config"))  # the second is what compressed-tensors wrote first

SUFFIX = "_scale_inv"
LARGEST = 448.0
"""Largest number of E4M3."""

Floats = NDArray[np.float32]
Reader = Callable[[str, int, int], Floats]


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a checkpoint is quantised.

    Attributes:
        codes: name → spec of the tensors of float8 codes.
        scales: name → spec of their scales, under the names of the weights.
        block: rows and columns that share a scale; None for one scale per tensor.
        power_of_two: whether scales are powers of two (`scale_fmt: ue8m0`, DeepSeek-V3.1).
    """

    codes: Mapping[str, TensorSpec]
    scales: Mapping[str, TensorSpec]
    block: tuple[int, int] | None
    power_of_two: bool = False

    def expand(self, name: str, start: int, stop: int, read: Callable[[str, int, int], NDArray[Any]]) -> Floats:
        """The scale of every element [start, stop) of tensor `name`, shape (stop - start,); of one element where all share it."""
        scale_name, shape = name + SUFFIX, self.codes[name].shape
        if self.block is None:
            return finite(read(scale_name, 0, 1), scale_name, name)
        columns, per_row = shape[-1], -(-shape[-1] // self.block[1])
        first, last = start // columns, -(-stop // columns)
        lines = _block_lines(shape, self.block[0], first, last)  # row → row of scales
        scales = read(scale_name, int(lines[0]) * per_row, (int(lines[-1]) + 1) * per_row)
        wide = finite(scales, scale_name, name).reshape(-1, per_row)
        wide = np.repeat(wide, min(self.block[1], columns), axis=1)[:, :columns]  # (rows of scales, columns)
        chosen: Floats = wide[lines - lines[0]].reshape(-1)[start - first * columns : stop - first * columns]
        return chosen

    def encode(self, name: str, start: int, stop: int, values: Reader) -> NDArray[Any]:
        """Elements [start, stop) of a tensor of codes or scales, from the float32 `values` of the weight.

        Whole rows of blocks are read, so a range costs at least one of them.
        """
        weight, block = self.weight(name), self.writable_block()
        part, spec = (0, self.codes[weight]) if name == weight else (1, self.scales[weight])
        if start == stop:
            return np.empty(0, DTYPES[spec.dtype])
        *_, rows, columns = self.codes[weight].shape
        per_row, per_matrix = -(-columns // block[1]), -(-rows // block[0])  # scales in a row, rows of scales
        if name == weight:
            lines = _block_lines(self.codes[weight].shape, block[0], start // columns, -(-stop // columns)).tolist()
        else:
            lines = [start // per_row, -(-stop // per_row) - 1]
        encoded, begin = [], lines[0] * per_row if part else _first_row(lines[0], rows, block[0]) * columns
        for line in range(lines[0], lines[-1] + 1):
            first = _first_row(line, rows, block[0])
            last = min(first + block[0], (line // per_matrix + 1) * rows)
            read = values(weight, first * columns, last * columns).reshape(-1, columns)
            scale_dtype = DTYPES[self.scales[weight].dtype]
            encoded.append(quantise(read, block, scale_dtype, self.power_of_two)[part].reshape(-1))
        return np.concatenate(encoded)[start - begin : stop - begin]

    def weight(self, name: str) -> str:
        """The weight that `name`, a weight or its scales, belongs to."""
        stem = name.removesuffix(SUFFIX)
        return stem if stem in self.codes else name

    def holds(self, name: str) -> bool:
        """Whether `name` is a tensor of codes or scales."""
        return self.weight(name) in self.codes

    def specs(self, plain: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """The specs of a checkpoint of tensors `plain` once it is quantised."""
        specs: dict[str, TensorSpec] = {}
        for name, spec in plain.items():
            specs[name] = self.codes.get(name, spec)
            if name in self.codes:
                specs[name + SUFFIX] = self.scales[name]
        return specs

    def chunk_elements(self, name: str) -> int:
        """Elements to encode at once: of codes a row of blocks, of scales all."""
        if name in self.codes:
            return self.writable_block()[0] * self.codes[name].shape[-1]
        return self.scales[self.weight(name)].num_elements

    def writable_block(self) -> tuple[int, int]:
        """The block.

        Raises:
            RecipeError: there is one scale per tensor, not known before all of it was read.
        """
        if self.block is None:
            raise RecipeError(
                "FP8 with one scale per tensor can be read, but not written", remedy="ask for --dtype bfloat16"
            )
        return self.block


@final
class Dequantised(Checkpoint):
    """An FP8 checkpoint read as bfloat16, its scales gone and `quantization_config` removed from its config.

    Attributes:
        raw: the checkpoint as it lies on disk.
        blocks: how it is quantised.
    """

    def __init__(self, raw: Checkpoint) -> None:
        """Match codes and scales; reads no tensor.

        Raises:
            CheckpointError: codes without scales, or scales of a shape that does not fit.
        """
        self.raw, self.blocks = raw, _find_blocks(raw)
        self.label, self.assets = raw.label, raw.assets
        self.given_template = raw.given_template
        self.config = without_quantisation(raw.config)
        scales = {name + SUFFIX for name in self.blocks.codes}
        self.specs = {
            name: TensorSpec("BF16", spec.shape) if name in self.blocks.codes else spec
            for name, spec in raw.specs.items()
            if name not in scales and not name.endswith(".activation_scale")
        }
        self.layout = {name: raw.layout[name] for name in self.specs}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop); codes are multiplied by their scales in float32 and rounded once."""
        if name not in self.blocks.codes:
            return self.raw.read(name, start, stop)
        stop = self.specs[name].num_elements if stop is None else stop
        codes = self.raw.read(name, start, stop)
        if start == stop:
            return codes.astype(DTYPES["BF16"])
        return dequantise(codes, self.blocks.expand(name, start, stop, self.raw.read)).astype(DTYPES["BF16"])

    def stored_bytes(self, name: str) -> int:
        """Codes and scales."""
        scales = self.blocks.scales.get(name)
        return self.raw.stored_bytes(name) + (0 if scales is None else scales.num_bytes)

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies, if it is not quantised."""
        return None if name in self.blocks.codes else self.raw.origin(name)

    def chunk_elements(self, name: str) -> int | None:
        """Pieces of any size."""
        return None if name in self.blocks.codes else self.raw.chunk_elements(name)

    def fingerprint(self, *, quick: bool = False) -> str:
        """That of the codes and scales, marked."""
        return hashlib.sha256(f"dequantised {self.raw.fingerprint(quick=quick)}".encode()).hexdigest()


@final
class Quantised(Checkpoint):
    """A checkpoint written as FP8: the mirror of `Dequantised`.

    What it copies from an FP8 checkpoint of the same blocks keeps its codes and scales, bit for bit.

    Attributes:
        plain: the checkpoint as weights, those to be quantised in float32.
        blocks: how it is quantised.
    """

    def __init__(self, plain: Checkpoint, blocks: Blocks, config: Mapping[str, Any]) -> None:
        """Plan the view; reads no tensor.

        Args:
            plain: the checkpoint as weights.
            blocks: how it is to be quantised.
            config: the config that says so.

        Raises:
            RecipeError: there is one scale per tensor, not known before all of it was read.
        """
        blocks.writable_block()
        self.plain, self.blocks, self.config = plain, blocks, config
        self.label, self.assets, self.notes, self.given_template = (
            plain.label,
            plain.assets,
            plain.notes,
            plain.given_template,
        )
        self.specs = blocks.specs(plain.specs)
        self.layout = {name: plain.layout[blocks.weight(name)] for name in self.specs}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop) of codes, of scales, or of a tensor that is not quantised."""
        stop = self.specs[name].num_elements if stop is None else stop
        if not self.blocks.holds(name):
            return self.plain.read(name, start, stop)
        if (stored := self._stored(name)) is not None:
            return stored.read(name, start, stop)
        weight = self.blocks.weight(name)
        if self._needs_whole(weight):  # computed once, not for every row of blocks
            whole = self.plain.read(weight)
            return self.blocks.encode(name, start, stop, lambda _, first, last: whole[first:last])
        return self.blocks.encode(name, start, stop, self.plain.read)

    def stored_bytes(self, name: str) -> int:
        """Those of the weight, of codes and of scales: they are computed one after the other."""
        if not self.blocks.holds(name):
            return self.plain.stored_bytes(name)
        stored = self._stored(name)
        return self.plain.stored_bytes(self.blocks.weight(name)) if stored is None else stored.stored_bytes(name)

    def terms(self, name: str) -> tuple[tuple[Checkpoint, float], ...] | None:
        """Those of a tensor that is not quantised; codes are no sum of codes."""
        if not self.blocks.holds(name):
            return self.plain.terms(name)
        stored = self._stored(name)
        return None if stored is None else ((stored, 1.0),)

    def documents(self) -> Mapping[str, Callable[[], str]]:
        """Those of the checkpoint as weights."""
        return self.plain.documents()

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies as it is, if it is copied."""
        if not self.blocks.holds(name):
            return self.plain.origin(name)
        return None if (stored := self._stored(name)) is None else stored.origin(name)

    def chunk_elements(self, name: str) -> int | None:
        """Rows of blocks at once, or all where the weight is computed as a whole."""
        if not self.blocks.holds(name):
            return self.plain.chunk_elements(name)
        if self._stored(name) is not None:
            return None
        whole = self._needs_whole(self.blocks.weight(name))
        return self.specs[name].num_elements if whole else self.blocks.chunk_elements(name)

    def fingerprint(self, *, quick: bool = False) -> str:
        """That of the checkpoint as weights, marked."""
        return hashlib.sha256(f"quantised {self.plain.fingerprint(quick=quick)}".encode()).hexdigest()

    def _needs_whole(self, weight: str) -> bool:
        return self.plain.chunk_elements(weight) == self.plain.specs[weight].num_elements

    def _stored(self, name: str) -> Checkpoint | None:
        """The checkpoint of codes that holds this tensor of the result as it is; None where it is computed."""
        match self.plain.terms(self.blocks.weight(name)):
            case ((Dequantised(raw=raw, blocks=blocks), 1.0),) if blocks == self.blocks:
                return raw
        return None


class _Said(Foreign):
    """What is read of `quantization_config`."""

    weight_block_size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    scale_fmt: str | None = None


def announced(config: Mapping[str, Any]) -> Any:
    """The `quantization_config` of a model or of a part of it such as `text_config`; None where none is announced."""
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    found = (part[key] for part in parts for key in sorted(KEYS, reverse=True) if part.get(key))
    return next(found, None)


def without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config and its parts without what `announced` finds."""
    kept = {key: value for key, value in config.items() if key not in KEYS}
    return {
        key: without_quantisation(value) if isinstance(value, Mapping) and not KEYS.isdisjoint(value) else value
        for key, value in kept.items()
    }


def _find_blocks(raw: Checkpoint) -> Blocks:
    """How `raw` is quantised, from its config and its tensors.

    Raises:
        CheckpointError: codes without scales, scales of a shape that does not fit, or blocks that make no sense.
    """
    said = validated(_Said, announced(raw.config) or {}, f"{raw.label}, config.json, {KEY}", CorruptError)
    block = (said.weight_block_size[0], said.weight_block_size[1]) if said.weight_block_size else None
    codes = {name: spec for name, spec in raw.specs.items() if spec.dtype.startswith("F8")}
    for name, spec in codes.items():
        if (scales := raw.specs.get(name + SUFFIX)) is None:
            other = f"; its {name}_scale is of another layout" if name + "_scale" in raw.specs else ""
            raise CheckpointError(
                f"FP8 tensor {name} has no {name + SUFFIX}{other}",
                raw.label,
                "take the unquantised checkpoint, or FP8 with weight_scale_inv; if it is of that kind, fetch it again",
            )
        if block is not None and len(spec.shape) < 2:
            raise CorruptError(
                f"FP8 tensor {name} {spec} cannot be cut into blocks of {block}", raw.label, "fetch it again"
            )
        wanted = () if block is None else _scale_shape(spec.shape, block)
        if not scales.is_float or (scales.shape != wanted and scales.num_elements != prod(wanted)):
            raise CheckpointError(
                f"{name + SUFFIX} is {scales}; for {name} {spec} in blocks of {block} it must be {list(wanted)}",
                raw.label,
                "fetch the checkpoint again, or check weight_block_size in its config.json",
            )
    scales_of = {name: raw.specs[name + SUFFIX] for name in codes}
    return Blocks(codes, scales_of, block, said.scale_fmt == "ue8m0")


def _scale_shape(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales of a tensor (…, rows, columns)."""
    *experts, rows, columns = shape
    return (*experts, -(-rows // block[0]), -(-columns // block[1]))


def _block_lines(shape: tuple[int, ...], block_rows: int, first: int, last: int) -> NDArray[np.int64]:
    """Row of scales of the rows [first, last), counted through all leading dimensions; every matrix begins a new one."""
    rows = np.arange(first, last)
    return rows // shape[-2] * -(-shape[-2] // block_rows) + rows % shape[-2] // block_rows


def _first_row(line: int, rows: int, block_rows: int) -> int:
    """First row of row `line` of scales, in matrices of `rows` rows."""
    per_matrix = -(-rows // block_rows)
    return line // per_matrix * rows + line % per_matrix * block_rows


def _to_floats(array: NDArray[Any]) -> Floats:
    """The array in float32."""
    return np.asarray(array, np.float32)


_VALUES = {
    DTYPES[name]: np.arange(256, dtype=np.uint8).view(DTYPES[name]).astype(np.float32)
    for name in ("F8_E4M3", "F8_E5M2")
}
"""Value of every code; a look-up is several times faster than a cast."""


def finite(scales: NDArray[Any], name: str, weight: str) -> Floats:
    """Scales in float32.

    Raises:
        CorruptError: one of them is NaN or infinite.
    """
    floats = _to_floats(scales)
    if not np.isfinite(floats).all():
        raise CorruptError(
            f"{name} holds a scale that is {floats[~np.isfinite(floats)][0]}: every weight that it scales would be no number",
            weight,
            "fetch the checkpoint again, or take it unquantised",
        )
    return floats


def dequantise(codes: NDArray[Any], scales: Floats) -> Floats:
    """Code · scale in float32; shapes must broadcast."""
    values: Floats = _VALUES[codes.dtype][codes.view(np.uint8)]
    values *= scales
    return values


def quantise(
    values: Floats, block: tuple[int, int], scale_dtype: np.dtype[Any], power_of_two: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """E4M3 codes and one scale per block: the block's largest magnitude / 448, rounded to `scale_dtype` first.

    Args:
        values: (rows, columns), float32.
        block: rows and columns that share a scale; the last ones may be smaller.
        scale_dtype: dtype of the scales.
        power_of_two: round scales up to powers of two.

    Returns:
        codes (rows, columns); scales (⌈rows / block rows⌉, ⌈columns / block columns⌉). A block of zeros has scale 1.
    """
    rows, columns = values.shape
    largest = np.maximum.reduceat(np.abs(values), range(0, rows, block[0]), axis=0)
    largest = np.maximum.reduceat(largest, range(0, columns, block[1]), axis=1)
    scales = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1))
    if power_of_two:
        scales = np.exp2(np.ceil(np.log2(scales)))
    scales = scales.astype(scale_dtype)
    wide = np.repeat(np.repeat(scales.astype(np.float32), block[0], axis=0)[:rows], block[1], axis=1)[:, :columns]
    return np.clip(values / wide, -LARGEST, LARGEST).astype(DTYPES["F8_E4M3"]), scales
