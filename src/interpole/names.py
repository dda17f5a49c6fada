"""Tensor names → (layer, module kind), for the families of the field. A table of patterns, no code per family.

Names that no pattern places are not guessed at: `place` returns None and whoever needs the answer raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

__all__ = ["KINDS", "Place", "num_layers", "place"]

KINDS = ("attention", "ffn", "norm", "embedding", "lm_head", "router", "experts")
"""Module kinds. `attention` is the whole sublayer, its q/k norms included; `ffn` the dense one, shared experts included."""


class Place(NamedTuple):
    """Where a tensor stands in the model: its decoder layer (None outside of them) and its kind, one of `KINDS`."""

    layer: int | None
    kind: str


_MODEL = r"(?:model\.)?(?:language_model\.)?(?:model\.)?"
_LAYER = _MODEL + r"layers\.(?P<layer>\d+)\."
_PATTERNS = [
    (re.compile(pattern + r"\Z"), kind)
    for pattern, kind in (
        (_MODEL + r"embed_tokens\.weight", "embedding"),
        (_MODEL + r"lm_head\.(weight|bias)", "lm_head"),
        (_MODEL + r"norm\.(weight|bias)", "norm"),
        (_LAYER + r"self_attn\..+", "attention"),
        (_LAYER + r"mlp\.(gate|router)\.(weight|bias|e_score_correction_bias)", "router"),
        (_LAYER + r"mlp\.experts\..+", "experts"),
        (_LAYER + r"mlp\.shared_experts?(_gate)?\..+", "ffn"),
        (_LAYER + r"mlp\.(gate_proj|up_proj|down_proj|gate_up_proj)\..+", "ffn"),
        (
            _LAYER
            + r"(input|post_attention|pre_feedforward|post_feedforward|post_self_attn|post_mlp)_layernorm\.(weight|bias)",
            "norm",
        ),
    )
]


@lru_cache(maxsize=100_000)
def place(name: str) -> Place | None:
    """Layer and kind of the tensor `name`, or None where no known family has such a name."""
    for pattern, kind in _PATTERNS:
        if match := pattern.match(name):
            layer = match.groupdict().get("layer")
            return Place(None if layer is None else int(layer), kind)
    return None


def num_layers(names: Iterable[str]) -> int:
    """Number of decoder layers among `names`: one more than the highest layer index."""
    layers = [found.layer for name in names if (found := place(name)) and found.layer is not None]
    return max(layers, default=-1) + 1
