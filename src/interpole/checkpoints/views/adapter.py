"""A LoRA adapter on its base, as a checkpoint: W + scale · B·A, computed on read in float32 and rounded once.

Reads what `peft` writes (`adapter_config.json`, `adapter_model.safetensors`): linear layers and embeddings, rank-stabilised
scales, ranks and alphas by pattern, modules and biases saved whole, and the adapter's own tokenizer and templates. DoRA, other
kinds of adapter and initialisations that change the base (PiSSA, OLoRA …) are refused.
LoRA: https://arxiv.org/abs/2106.09685; rank-stabilised: https://arxiv.org/abs/2312.03732.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from math import isfinite, lcm, sqrt
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint, Origin, Tensors, template_of
from interpole.checkpoints.names import role_of
from interpole.checkpoints.safetensors import DTYPES
from interpole.checkpoints.views.heads import is_tied, untied
from interpole.errors import CheckpointError, CorruptError, MismatchError
from interpole.formats import read_json
from interpole.schema import Foreign, validated

__all__ = ["CONFIG", "OWN_FILES", "WEIGHTS", "Adapted", "adapter_base", "is_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TILE_ROWS = 64
"""Rows of a product computed at a time, always the same ones, so that no bit depends on how a tensor is cut."""
_REFUSED = {
    "use_dora": "DoRA scales every row by a learnt magnitude",
    "use_qalora": "QALoRA pools the inputs of A",
    "use_bdlora": "BD-LoRA has block-diagonal matrices",
    "lora_bias": "B has a bias",
    "kasa_config": "KaSA cuts small singular values off the base",
    "arrow_config": "Arrow routes between adapters",
    "monteclora_config": "MonteCLoRA samples its matrices",
    "alora_invocation_tokens": "aLoRA acts on some tokens only",
    "fan_in_fan_out": "its layers store weights transposed",
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "it trains single rows of the embeddings",
    "target_parameters": "it adapts fused parameters, not layers",
}
"""Settings of peft under which the weight is something else than W + scale · B·A."""
_HARMLESS_STARTS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the base as it is; pissa, olora, corda, loftq, lora_ga … take a part of it out."""
_PATTERN = re.compile(r"[\w.\\^$|()?:*+\[\]-]+")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_VOCABULARIES = ("tokenizer.json", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "tiktoken*")
_TOKENIZERS = (*_VOCABULARIES, "tokenizer*", "special_tokens_map.json", "added_tokens.json")
"""Globs of the files that make a tokenizer: those that hold its vocabulary, and all."""
OWN_FILES = (_TOKENIZERS, _TEMPLATES, ("generation_config.json",))
"""Globs of the files in an adapter's folder that take the place of the base's; those of one group go together."""


class _Settings(Foreign):
    """What is read of `adapter_config.json`, with peft's defaults."""

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    init_lora_weights: bool | str | None = True
    ensure_weight_tying: bool | None = None


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
        self.folder, self.label = folder, f"{base.label} + {label or folder}"
        said = _settings(folder)
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"the adapter has no {WEIGHTS}", folder, "save it again with safe_serialization=True")
        self._weights = Tensors([folder / WEIGHTS])
        self.base = _unshared(base, self._weights, said, folder)
        self.specs, self.layout, self.config = self.base.specs, self.base.layout, self.base.config
        self.assets = _own_assets(base.assets, folder)
        self._deltas, self._whole = _plan(self.base, self._weights, said, folder)
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
    """Whether `folder` holds an adapter and no weights of a model; trainers leave the config of the base beside it."""
    weights = ("model.safetensors", "model.safetensors.index.json")
    return (folder / CONFIG).is_file() and not any((folder / name).is_file() for name in weights)


def adapter_base(folder: Path) -> tuple[str, str | None]:
    """The folder or hub id of the model that the adapter in `folder` belongs on, and its revision.

    Raises:
        CheckpointError: the adapter does not say.
    """
    said = validated(_Settings, read_json(folder / CONFIG), folder / CONFIG, CorruptError)
    if said.base_model_name_or_path:
        return said.base_model_name_or_path, said.revision or None
    raise CheckpointError(
        "the adapter does not say which model it belongs on", folder, "name both: {model: BASE, adapter: FOLDER}"
    )


def _settings(folder: Path) -> _Settings:
    """The adapter's config, if it is of a kind that is read."""
    remedy = "merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder"
    content = read_json(
        folder / CONFIG, remedy="name the folder of a LoRA adapter, as peft writes it, or fetch it again"
    )
    said = validated(_Settings, content, folder / CONFIG, CorruptError, "fetch the adapter again")
    if said.peft_type != "LORA":
        raise CheckpointError(f"adapters of type {said.peft_type} are not read, only LORA", folder, remedy)
    known = {"use_rslora", *_REFUSED}
    unknown = {key: "a variant of LoRA" for key in content if key.startswith("use_") and key not in known}
    for key, why in (_REFUSED | unknown).items():
        if content.get(key):
            raise CheckpointError(f"{key} is set: {why}, which is not read", folder, remedy)
    start = str(said.init_lora_weights).lower()
    if start not in _HARMLESS_STARTS:
        raise CheckpointError(
            f"init_lora_weights is {start}: peft takes a part out of the base before it adds B·A, which is not done here",
            folder,
            remedy + ", or save it with path_initial_model_for_weight_conversion as a plain LoRA",
        )
    return said


def _own_assets(base: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The base's files, with the adapter's tokenizer and templates in the place of its own where the adapter has some."""
    patterns = [pattern for group in OWN_FILES for pattern in group]
    own = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and _matches(path.name, patterns)}
    replaced: tuple[str, ...] = ()
    if any(_matches(name, _VOCABULARIES) for name in own):
        replaced += _TOKENIZERS
    if template_of(own) is not None:
        replaced += _TEMPLATES
    return {name: path for name, path in base.items() if not _matches(name, replaced)} | own


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _unshared(base: Checkpoint, weights: Tensors, said: _Settings, folder: Path) -> Checkpoint:
    """The base, with a head of its own where the adapter changes one of two that are tied: peft then changes that one alone."""
    kinds = {role.kind for name in weights.specs if (role := role_of(_module(name).target))}
    if not is_tied(base) or not kinds & {"embedding", "lm_head"}:
        return base
    if said.ensure_weight_tying:
        raise CheckpointError(
            "ensure_weight_tying is set: the adapter's embeddings stay tied, which is not read",
            folder,
            "merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder",
        )
    return untied(base)


class _Module(NamedTuple):
    """The tensor of the base that a tensor of an adapter is for, and which of A and B it is, "" for one saved whole."""

    target: str
    path: str
    side: str


def _module(name: str) -> _Module:
    path = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".modules_to_save.", ".")
    match = re.fullmatch(r"(?P<module>.+)\.lora_(embedding_)?(?P<side>[AB])(\.weight)?", path)
    return (
        _Module(path, path, "")
        if match is None
        else _Module(match["module"] + ".weight", match["module"], match["side"])
    )


def _plan(
    base: Checkpoint, weights: Tensors, said: _Settings, folder: Path
) -> tuple[dict[str, _Delta], dict[str, str]]:
    """(base tensor → its delta, base tensor → the adapter's tensor that replaces it), each tensor of the adapter used once."""
    deltas, whole = {}, {}
    alphas, ranks = (_compiled(found, folder) for found in (said.alpha_pattern, said.rank_pattern))
    for name, spec in weights.specs.items():
        target, path, side = _module(name)
        if target not in base:
            raise MismatchError(
                f"the adapter's tensor {name} belongs to {target}, which {base.label} lacks",
                folder,
                "take the base it was trained on; experts that lie fused in one tensor cannot take one",
            )
        if not spec.is_float or (side and len(spec.shape) != 2):
            raise CorruptError(f"the adapter's tensor {name} is {spec}, no matrix of numbers", folder, "fetch it again")
        if not side:
            whole[target] = name
            _check_shape(name, spec.shape, base.specs[target].shape, folder)
        elif side == "A":
            scale = _scale(path, spec.shape[0], said, alphas, ranks, folder)
            deltas[target] = _Delta(
                name, re.sub(r"lora_(embedding_)?A", r"lora_\1B", name), scale, "lora_embedding_A" in name
            )
        elif re.sub(r"lora_(embedding_)?B", r"lora_\1A", name) not in weights.specs:
            raise CheckpointError(f"the adapter has {name}, but no A for it", folder, "fetch it again")
    for target, delta in deltas.items():
        if delta.b not in weights.specs:
            raise CheckpointError(f"the adapter has {delta.a}, but not {delta.b}", folder, "fetch it again")
        a, b = (weights.specs[tensor].shape for tensor in (delta.a, delta.b))
        if a[0] != b[1]:
            raise CorruptError(
                f"{delta.a} is of rank {a[0]} and {delta.b} of {b[1]}", folder, "fetch the adapter again"
            )
        shape = (a[1], b[0]) if delta.transposed else (b[0], a[1])
        _check_shape(f"{delta.b} · {delta.a}", shape, base.specs[target].shape, folder)
    return deltas, whole


Patterns = list[tuple[re.Pattern[str], float]]


def _scale(module: str, rank: int, said: _Settings, alphas: Patterns, ranks: Patterns, folder: Path) -> float:
    """What B·A of a module is multiplied with: alpha / rank, or alpha / √rank."""
    wanted = _by_pattern(ranks, module, said.r)
    if rank < 1 or rank != wanted:
        raise MismatchError(
            f"{CONFIG} says that {module} is of rank {wanted:g}, its tensor A is of rank {rank}",
            folder,
            "fetch config and weights from one place; a rank of 0 changes nothing and is refused",
        )
    scale = _by_pattern(alphas, module, said.lora_alpha) / (sqrt(rank) if said.use_rslora else rank)
    if not isfinite(scale):
        raise CorruptError(f"the scale of {module} is {scale}", folder / CONFIG, "check lora_alpha and alpha_pattern")
    return scale


def _compiled(patterns: Mapping[str, float] | None, folder: Path) -> Patterns:
    """Regular expressions for the end of a module's path, with their values.

    Raises:
        CorruptError: one is no expression, or one that could take for ever: a repeated group, or many repetitions.
    """
    found = []
    for pattern, value in (patterns or {}).items():
        repetitions = len(re.findall(r"[*+]|\{", pattern))
        if not _PATTERN.fullmatch(pattern) or re.search(r"\)[*+?]", pattern) or repetitions > 3:
            raise CorruptError(
                f"rank_pattern or alpha_pattern: {pattern[:80]!r} is no name of modules", folder / CONFIG
            )
        try:
            found.append((re.compile(rf"(.*\.)?({pattern})"), float(value)))
        except re.error as error:
            raise CorruptError(f"rank_pattern or alpha_pattern: {pattern[:80]!r}: {error}", folder / CONFIG) from None
    return found


def _by_pattern(patterns: Patterns, module: str, default: float) -> float:
    """The value of the first pattern that the end of the module's path matches, as peft chooses it."""
    return next((value for pattern, value in patterns if pattern.fullmatch(module)), float(default))


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], folder: Path) -> None:
    if shape != wanted:
        raise MismatchError(
            f"the adapter's {name} is {list(shape)}, the base's tensor {list(wanted)}",
            folder,
            "take the base that it was trained on; if tokens were added, resize and save that base first",
        )
