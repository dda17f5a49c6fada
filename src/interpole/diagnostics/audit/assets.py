"""Whose config, tokenizer, template and generation config a merge carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interpole.checkpoints.assets import read_bytes
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.formats import read_json

__all__ = ["AssetAudit", "audit_assets", "template_source"]

PASSING = {"transformers_version", "torch_dtype", "dtype", "_name_or_path"}
"""Settings that tools rewrite when they save, and that say nothing of where a file came from."""

JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class AssetAudit:
    """One of the files beside the weights.

    Attributes:
        name: file name, or `chat template` wherever that is kept.
        like: the sources that have the same, as `instruct`, `thinking`, `base`; empty: it is like none of them.
        exact: whether it is the same byte for byte (else it is the same but for spelling and library versions).
    """

    name: str
    like: tuple[str, ...]
    exact: bool


def audit_assets(merged: Checkpoint, sources: Mapping[str, Checkpoint]) -> tuple[AssetAudit, ...]:
    """Compare every file of `merged` with those of the sources, and its chat template, which may hide in one of them."""
    found = [_audit_file(name, merged, sources) for name in merged.assets if not name.startswith("chat_template")]
    if merged.chat_template is not None:
        like = tuple(name for name, source in sources.items() if source.chat_template == merged.chat_template)
        found.append(AssetAudit("chat template", like, True))
    return tuple(found)


def _audit_file(name: str, merged: Checkpoint, sources: Mapping[str, Checkpoint]) -> AssetAudit:
    having = {key: source for key, source in sources.items() if name in source.assets}
    content = read_bytes(merged.assets[name])
    exact = tuple(key for key, source in having.items() if read_bytes(source.assets[name]) == content)
    if exact or name not in JSON_FILES:
        return AssetAudit(name, exact, True)
    meaning = _meaning(merged, name)
    return AssetAudit(name, tuple(key for key, source in having.items() if _meaning(source, name) == meaning), False)


def _meaning(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    return {key: value for key, value in read_json(checkpoint.assets[name]).items() if key not in PASSING}


def template_source(assets: tuple[AssetAudit, ...]) -> str | None:
    """The one source whose files these are, judged by those that tell sources apart; None where they disagree."""
    telling = {asset.like[0] for asset in assets if len(asset.like) == 1}
    return next(iter(telling)) if len(telling) == 1 else None
