"""The small JSON files beside the weights, as strict records: what of them is read, in which types. Other keys are left alone.

A value of another type is a `CorruptError` with file and key, wherever the file is read.
"""

from __future__ import annotations

import shutil
from base64 import b64decode
from binascii import Error as Base64Error
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, field_validator

from interpole.errors import CorruptError
from interpole.files import open_regular
from interpole.formats import read_json
from interpole.schema import Foreign, validated

__all__ = [
    "AddedToken",
    "GenerationConfig",
    "NamedTemplate",
    "SpecialTokens",
    "TekkenFile",
    "TokenizerConfig",
    "TokenizerFile",
    "copy",
    "led_out",
    "read_asset",
    "read_bytes",
    "read_config",
    "read_text",
]

REMEDY = "fetch the file again"

Id = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Layers = Annotated[int, Field(ge=0, le=100_000)]
Ids = int | list[int] | None
Parameters = dict[str, Any]


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


TokenText = Annotated[str, BeforeValidator(_content)]
"""A token's text, written as it is or as an object that has it in `content`."""


class AddedToken(Foreign):
    """A token beside the vocabulary, as `tokenizer.json` lists it."""

    id: Id
    content: str


class _Model(Foreign):
    vocab: dict[str, Id] | list[Annotated[list[Any], Field(min_length=1)]] | None = None


class TokenizerFile(Foreign):
    """`tokenizer.json`."""

    model: _Model | None = None
    added_tokens: list[AddedToken] | None = None


class _TekkenConfig(Foreign):
    default_num_special_tokens: Count = 0
    default_vocab_size: Count | None = None


class _TekkenWord(Foreign):
    rank: Id
    token_bytes: str

    @field_validator("token_bytes")
    @classmethod
    def _base64(cls, value: str) -> str:
        try:
            b64decode(value, validate=True)
        except Base64Error as error:
            raise ValueError(f"not base64: {error}") from None
        return value


class _TekkenSpecial(Foreign):
    rank: Id
    token_str: str


class TekkenFile(Foreign):
    """Mistral's `tekken.json`."""

    config: _TekkenConfig = _TekkenConfig()
    vocab: list[_TekkenWord] = []
    special_tokens: list[_TekkenSpecial] | None = None


class NamedTemplate(Foreign):
    """One of several chat templates."""

    name: str
    template: str


class SpecialTokens(Foreign):
    """`special_tokens_map.json`; `tokenizer_config.json` says the same and more."""

    bos_token: TokenText | None = None
    eos_token: TokenText | None = None
    unk_token: TokenText | None = None
    sep_token: TokenText | None = None
    pad_token: TokenText | None = None
    cls_token: TokenText | None = None
    mask_token: TokenText | None = None


class TokenizerConfig(Foreign):
    """`tokenizer_config.json`, or `chat_template.json`."""

    chat_template: str | list[NamedTemplate] | None = None
    added_tokens_decoder: dict[str, TokenText] | None = None


class GenerationConfig(Foreign):
    """`generation_config.json`."""

    eos_token_id: Ids = None
    pad_token_id: Ids = None
    bos_token_id: Ids = None


class _Settings(Foreign):
    """What is computed with in a `config.json` or one of its parts."""

    model_type: str | None = None
    architectures: list[str] | None = None
    num_hidden_layers: Layers | None = None
    vocab_size: Count | None = None
    hidden_size: Count | list[Count] | None = None
    num_attention_heads: Count | list[Count] | None = None
    num_key_value_heads: Count | list[Count] | None = None
    head_dim: Count | list[Count] | None = None
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    max_window_layers: int | None = None
    sliding_window_pattern: int | str | None = None
    full_attention_interval: int | None = None
    first_k_dense_replace: int | None = None
    decoder_sparse_step: int | None = None
    no_rope_layer_interval: int | None = None
    interleave_moe_layer_step: int | None = None
    moe_layer_start_index: int | None = None
    moe_layer_end_index: int | None = None
    layer_types: list[str] | None = None
    mlp_only_layers: list[int] | None = None
    full_attn_idxs: list[int] | None = None
    moe_layers: list[int] | None = None
    no_rope_layers: list[int] | None = None
    max_position_embeddings: float | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None
    rope_scaling: Parameters | None = None
    rope_parameters: Parameters | None = None
    quantization_config: Parameters | None = None
    compression_config: Parameters | None = None
    tie_word_embeddings: bool | None = None
    eos_token_id: Ids = None
    text_config: Parameters | None = None
    vision_config: Parameters | None = None
    audio_config: Parameters | None = None


Asset = TypeVar("Asset", bound=Foreign)


def read_asset(path: Path, record: type[Asset]) -> Asset:
    """A JSON file as a record; read once as long as it does not change.

    Raises:
        CorruptError: it cannot be read, is no JSON object, or a value is of another type; with its key.
    """
    state = path.stat()
    found: Asset = _read(path, record, state.st_mtime_ns, state.st_size)
    return found


@lru_cache(maxsize=8)
def _read(path: Path, record: type[Any], _time: int, _size: int) -> Any:
    return validated(record, read_json(path), path, CorruptError, REMEDY)


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json`, whole, once the types of what Interpole computes with were checked.

    Raises:
        CorruptError: it cannot be read, is no JSON object, or a value is of another type; with its key.
    """
    config = read_json(path)
    said = validated(_Settings, config, path, CorruptError, REMEDY)
    for name in ("text_config", "vision_config", "audio_config"):
        validated(_Settings, getattr(said, name) or {}, f"{path}, {name}", CorruptError, REMEDY)
    return config


def read_text(path: Path) -> str:
    """A text file in UTF-8.

    Raises:
        CorruptError: it cannot be read, or is in another encoding.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptError(f"cannot be read as UTF-8: {error}", path, REMEDY) from None


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        CorruptError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", path, REMEDY) from None


def copy(path: Path, target: Path) -> None:
    """Copy a file's content to `target`, whose folder is made.

    Raises:
        CorruptError: it cannot be read.
        OSError: the copy cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source = open_regular(path)
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", path, REMEDY) from None
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def led_out(path: Path, folder: Path) -> Path | None:
    """Where a link leads that leaves its model's folder; nowhere, if to where the hub's cache keeps the content of its files."""
    home, there = folder.resolve(), path.resolve()
    inside = there.is_relative_to(home) or there.is_relative_to(home.parent.parent / "blobs")
    return None if inside else there
