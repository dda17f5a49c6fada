"""Where a source lies: a folder, or a Hugging Face hub id through the `hf` cache, whole or without its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from interpole.errors import CheckpointError
from interpole.header import DTYPES, TensorSpec

__all__ = ["ASSET_PATTERNS", "fetch_headers", "locate"]

ASSET_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "tekken.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "*.py",
)
"""The files besides weights that make a folder loadable."""


def locate(source: str | os.PathLike[str], revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a source; a hub id is downloaded into the `hf` cache, if it is not there, with or without its weights.

    Raises:
        CheckpointError: nothing is there, or it cannot be downloaded.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError("a checkpoint is a folder, this is a file", path, f"give the folder: {path.parent}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise CheckpointError(f"no such folder: {source}", remedy="give an existing folder or a hub id (owner/name)")
    return _download(str(source), revision, weights=weights)


def fetch_headers(repo: str, commit: str) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """What the headers of all weight files say, and which file each tensor is in: a few range requests.

    Raises:
        CheckpointError: it cannot be fetched, or holds numbers of a kind that is not read.
    """
    from huggingface_hub import get_safetensors_metadata

    with _from_hub(repo, commit):
        files = get_safetensors_metadata(repo, revision=commit).files_metadata
    entries = [
        (file, info.data_offsets, name, TensorSpec(str(info.dtype), tuple(info.shape)))
        for file, content in files.items()
        for name, info in content.tensors.items()
    ]
    specs, layout = {}, {}
    for file, _, name, spec in sorted(entries, key=lambda entry: entry[:2]):
        if spec.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name} of {repo} is {spec.dtype}, which is not read", file, "take it in bf16"
            )
        specs[name], layout[name] = spec, file
    return specs, layout


def _download(repo: str, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*ASSET_PATTERNS, "model.safetensors.index.json", "adapter_*"]
    patterns += ["model*.safetensors"] if weights else []
    with _from_hub(repo, revision):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))


@contextmanager
def _from_hub(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into a `CheckpointError`."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )

    expected = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)
    try:
        yield
    except (*expected, NotASafetensorsRepoError, SafetensorsParsingError) as error:
        reason = shorten(str(error), 200, placeholder=" …")
        raise CheckpointError(
            f"cannot get {repo} (revision {revision or 'main'}) from the hub: {reason}",
            remedy="check the id and your network; gated models need `hf auth login`; offline, fetch it before",
        ) from error
