"""lm_head: tied to the embeddings or with weights of its own, and a checkpoint shown in the one form or in the other.

transformers takes a head in the file that differs from the embeddings for the real one, whatever the config says of ties; one
that equals them is what trainers leave there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.names import role_of
from interpole.checkpoints.views.renaming import Renamed

__all__ = ["is_tied", "same_heads", "settled", "untied"]

KEY = "tie_word_embeddings"
PIECE = 1 << 20


def untied(source: Checkpoint) -> Checkpoint:
    """The checkpoint with an lm_head of its own, the file's or a copy of the embeddings, and a config that says so."""
    names = {name: name for name in source}
    if _head_of(source) is None and (embeddings := _embeddings_of(source)) is not None:
        names["language_model." * embeddings.startswith("language_model.") + "lm_head.weight"] = embeddings
    return Renamed(source, names, _untied(source.config))


def _embeddings_of(checkpoint: Checkpoint) -> str | None:
    """The name of the input embeddings."""
    return _of_kind(checkpoint, "embedding")


def _head_of(checkpoint: Checkpoint) -> str | None:
    """The name of the weights of lm_head, where there are some."""
    return _of_kind(checkpoint, "lm_head")


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether lm_head shares the embedding's weights: as the config says, else whether lm_head is absent."""
    text = checkpoint.config.get("text_config")
    parts = [checkpoint.config, text if isinstance(text, Mapping) else {}]
    said = next((part[KEY] for part in parts if part.get(KEY) is not None), None)
    return bool(said) if said is not None else _head_of(checkpoint) is None


def settled(checkpoint: Checkpoint, *, reading: bool = True) -> Checkpoint:
    """The checkpoint with one answer to whether its head is tied; the very same one where config and file agree.

    Args:
        checkpoint: as it was opened.
        reading: compare a head with the embeddings; otherwise it is taken for the same.
    """
    head, embeddings = _head_of(checkpoint), _embeddings_of(checkpoint)
    if head is None or embeddings is None or not is_tied(checkpoint):
        return checkpoint
    same = not reading or _same(checkpoint, head, embeddings)
    return Renamed(checkpoint, {name: name for name in checkpoint if name != head}) if same else untied(checkpoint)


def same_heads(sources: Mapping[str, Checkpoint]) -> tuple[dict[str, Checkpoint], tuple[str, ...]]:
    """The sources all tied or all with a head of their own, the very same ones where they are so; and what was done in words."""
    apart = [name for name, source in sources.items() if not is_tied(source) and _head_of(source)]
    tied = [name for name, source in sources.items() if is_tied(source) and _embeddings_of(source)]
    if not apart or not tied:
        return dict(sources), ()
    notes = tuple(
        f"lm_head of {name} is tied to its embeddings: they stand for it, as that of {apart[0]} has weights of its own"
        for name in tied
    )
    return {name: untied(source) if name in tied else source for name, source in sources.items()}, notes


def _of_kind(checkpoint: Checkpoint, kind: str) -> str | None:
    names = (name for name in checkpoint.token_rows if name.endswith(".weight"))
    return next((name for name in names if role_of(name) == (None, kind)), None)


def _untied(config: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(config) | {KEY: False}
    if isinstance(text := config.get("text_config"), Mapping) and KEY in text:
        changed["text_config"] = dict(text) | {KEY: False}
    return changed


def _same(checkpoint: Checkpoint, a: str, b: str) -> bool:
    spec = checkpoint.specs[a]
    return spec == checkpoint.specs[b] and all(
        np.array_equal(checkpoint.read(a, start, stop).view(np.uint8), checkpoint.read(b, start, stop).view(np.uint8))
        for start, stop in ((i, min(i + PIECE, spec.num_elements)) for i in range(0, spec.num_elements, PIECE))
    )
