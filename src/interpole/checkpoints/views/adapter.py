"""A LoRA adapter on its base, as a checkpoint: W + scale · B·A, computed on read in float32 and rounded once.

Reads what `peft` writes (`adapter_config.json`, `adapter_model.safetensors`): linear layers and embeddings, rank-stabilised
scales, ranks and alphas by pattern, modules and biases saved whole. DoRA and other kinds of adapter are refused.
LoRA: https://arxiv.org/abs/2106.09685; rank-stabilised: https://arxiv.org/abs/2312.03732.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from math import lcm, sqrt
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint, Origin, Tensors
from interpole.checkpoints.safetensors import DTYPES
from interpole.errors import CheckpointError, MismatchError
from interpole.files import read_json

__all__ = ["Adapted", "adapter_base", "is_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TILE_ROWS = 64
"""Rows of a product computed at a time, always the same ones, so that no bit depends on how a tensor is cut."""
_REFUSED = {
    "use_dora": "DoRA scales every row by a learnt magnitude",
    "fan_in_fan_out": "its layers store weights transposed",
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "it trains single rows of the embeddings",
    "target_parameters": "it adapts fused parameters, not layers",
}
"""Settings of peft under which the weight is something else than W + scale · B·A."""


class _Delta(NamedTuple):
    """Names of A (rank, columns) and B (rows, rank), their scale, and whether they are transposed (embeddings)."""

    a: str
    b: str
    scale: float
    transposed: bool


@final
class Adapted(Checkpoint):
    """A base checkpoint with a LoRA adapter on it.

    Attributes:
        base: the checkpoint below.
    """

    def __init__(self, base: Checkpoint, folder: Path, label: str = "") -> None:
        """Match the adapter with the base; reads headers only.

        Args:
            base: the checkpoint that the adapter was trained on.
            folder: the folder with `adapter_config.json`.
            label: what the user called the adapter.

        Raises:
            CheckpointError: not LoRA, a variant that is not supported, or files are missing.
            MismatchError: the adapter has a tensor that does not fit the base.
        """
        self.base, self.folder = base, folder
        self.label = f"{base.label} + {label or folder}"
        self.specs, self.layout, self.config, self.assets = base.specs, base.layout, base.config, base.assets
        said = read_json(folder / CONFIG)
        _check_kind(said, folder)
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"the adapter has no {WEIGHTS}", folder, "save it again with safe_serialization=True")
        self._weights = Tensors([folder / WEIGHTS])
        self._deltas, self._whole = _plan(base, self._weights, said, folder)
        self._matrix = lru_cache(maxsize=4)(self._load)  # a tile needs the same two as the last

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop) of the tensor with the adapter applied."""
        if name in self._whole:
            whole = self._weights.read(self._whole[name], start, stop)
            base = whole.astype(DTYPES[self.specs[name].dtype], copy=False)
        else:
            base = self.base.read(name, start, stop)
        if (delta := self._deltas.get(name)) is None or not len(base):
            return base
        merged = base.astype(np.float32) + self._product(name, delta, start, start + len(base))
        return merged.astype(base.dtype)

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies in the base, if the adapter leaves it alone."""
        return None if name in self._deltas or name in self._whole else self.base.origin(name)

    def chunk_elements(self, name: str) -> int | None:
        """Whole tiles of rows where there is an adapter."""
        inner = self.base.chunk_elements(name)
        if name not in self._deltas:
            return inner
        return lcm(TILE_ROWS * self.specs[name].shape[-1], inner or 1)

    def fingerprint(self, *, quick: bool = False) -> str:
        """Hash of the base's fingerprint, the adapter's weights and its scales."""
        digest = hashlib.sha256(f"adapted {self.base.fingerprint(quick=quick)} {sorted(self._deltas.items())}".encode())
        for name in sorted(self._weights.specs):
            digest.update(name.encode() + self._weights.read(name).tobytes())
        return digest.hexdigest()

    def _product(self, name: str, delta: _Delta, start: int, stop: int) -> NDArray[np.float32]:
        """Elements [start, stop) of scale · B·A, from all tiles of rows they lie in."""
        rows, columns = self.specs[name].shape
        tile = TILE_ROWS * columns
        a, b = (self._matrix(tensor) for tensor in (delta.a, delta.b))
        if delta.transposed:
            a, b = b.T, a.T
        first, last = start // tile, -(-stop // tile)
        tiles = [
            b[row : row + TILE_ROWS] @ a for row in range(first * TILE_ROWS, min(last * TILE_ROWS, rows), TILE_ROWS)
        ]
        product: NDArray[np.float32] = np.concatenate(tiles).reshape(-1)[start - first * tile : stop - first * tile]
        return product * np.float32(delta.scale)

    def _load(self, name: str) -> NDArray[np.float32]:
        return self._weights.read(name).astype(np.float32).reshape(self._weights.specs[name].shape)


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def adapter_base(folder: Path) -> str:
    """The folder or hub id of the model that the adapter in `folder` belongs on.

    Raises:
        CheckpointError: the adapter does not say.
    """
    if base := read_json(folder / CONFIG).get("base_model_name_or_path"):
        return str(base)
    raise CheckpointError(
        "the adapter does not say which model it belongs on", folder, "name both: {model: BASE, adapter: FOLDER}"
    )


def _check_kind(said: Mapping[str, Any], folder: Path) -> None:
    remedy = "merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder"
    if said.get("peft_type") != "LORA":
        raise CheckpointError(f"adapters of type {said.get('peft_type')} are not read, only LORA", folder, remedy)
    for key, why in _REFUSED.items():
        if said.get(key):
            raise CheckpointError(f"{key} is set: {why}, which is not read", folder, remedy)


def _plan(
    base: Checkpoint, weights: Tensors, said: Mapping[str, Any], folder: Path
) -> tuple[dict[str, _Delta], dict[str, str]]:
    """(base tensor → its delta, base tensor → the adapter's tensor that replaces it), each tensor of the adapter used once."""
    deltas, whole = {}, {}
    for name in weights.specs:
        path = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        match = re.fullmatch(r"(?P<module>.+)\.lora_(embedding_)?(?P<side>[AB])(\.weight)?", path)
        target = path if match is None else match["module"] + ".weight"
        if target not in base:
            raise MismatchError(
                f"the adapter's tensor {name} belongs to {target}, which {base.label} lacks",
                folder,
                "take the base it was trained on; experts that lie fused in one tensor cannot take one",
            )
        if match is None:
            whole[target] = name
            _check_shape(name, weights.specs[name].shape, base.specs[target].shape, folder)
        elif match["side"] == "A":
            deltas[target] = _delta(name, weights, said, match["module"])
    for target, delta in deltas.items():
        if delta.b not in weights.specs:
            raise CheckpointError(f"the adapter has {delta.a}, but not {delta.b}", folder, "fetch it again")
        a, b = (weights.specs[tensor].shape for tensor in (delta.a, delta.b))
        shape = (a[1], b[0]) if delta.transposed else (b[0], a[1])
        _check_shape(f"{delta.b} · {delta.a}", shape, base.specs[target].shape, folder)
    return deltas, whole


def _delta(name: str, weights: Tensors, said: Mapping[str, Any], module: str) -> _Delta:
    rank = weights.specs[name].shape[0]
    alpha = _by_pattern(said.get("alpha_pattern"), module, said["lora_alpha"])
    scale = alpha / (sqrt(rank) if said.get("use_rslora") else rank)
    return _Delta(name, re.sub(r"lora_(embedding_)?A", r"lora_\1B", name), scale, "lora_embedding_A" in name)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: float) -> float:
    """The value of the first pattern that the end of the module's path matches, as peft chooses it."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(value)
    return float(default)


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], folder: Path) -> None:
    if shape != wanted:
        raise MismatchError(
            f"the adapter's {name} is {list(shape)}, the base's tensor {list(wanted)}",
            folder,
            "take the base that it was trained on; if tokens were added, resize and save that base first",
        )
