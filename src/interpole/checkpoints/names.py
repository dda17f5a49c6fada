"""Tensor names → (layer, module kind), for the families of the field. A table of names, no code per family.

Names that the table does not know are not guessed at: `role_of` returns None and whoever needs the answer raises. The families
it was made from, and where each kind's borders lie, are in docs/formats.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

__all__ = ["KINDS", "Role", "num_layers", "role_of"]

KINDS = ("attention", "ffn", "norm", "embedding", "lm_head", "router", "experts", "vision", "mtp")
"""Module kinds. `attention` is whatever mixes tokens (softmax and linear attention, short convolutions), its q/k norms
included; `ffn` the dense sublayer, shared experts included; `vision` the image tower and its projector; `mtp` the extra
modules that predict more than one token."""


class Role(NamedTuple):
    """Where a tensor stands in the model: its decoder layer (None outside of them) and its kind, one of `KINDS`."""

    layer: int | None
    kind: str


_LANGUAGE_MODELS = ("", "model.", "language_model.", "language_model.model.", "model.language_model.")
"""What a name may begin with before `layers.N`, `embed_tokens`, …: alone, or as the language part of a larger model."""


def _table(**kinds: str) -> Mapping[str, str]:
    """Module path → kind, from the paths of every kind separated by spaces."""
    return {path: kind for kind, paths in kinds.items() for path in paths.split()}


_IN_LAYERS = _table(
    attention="self_attn linear_attn conv",
    router="mlp.gate mlp.router feed_forward.gate feed_forward.expert_bias",
    experts="mlp.experts feed_forward.experts",
    ffn=(
        "mlp.gate_proj mlp.up_proj mlp.down_proj mlp.gate_up_proj mlp.shared_expert mlp.shared_experts mlp.shared_expert_gate "
        "feed_forward.w1 feed_forward.w2 feed_forward.w3"
    ),
    norm=(
        "input_layernorm post_attention_layernorm pre_feedforward_layernorm post_feedforward_layernorm "
        "post_self_attn_layernorm post_mlp_layernorm operator_norm ffn_norm"
    ),
    mtp="eh_proj enorm hnorm shared_head embed_tokens",  # the layer after the last of DeepSeek-V3 and GLM-4-MoE
)
"""Below `layers.N.`: the module, of which everything beneath is of the kind."""

_OUTSIDE = _table(embedding="embed_tokens", norm="norm embedding_norm", lm_head="lm_head")
"""Beside the layers."""

_BESIDE = _table(
    vision="visual vision_tower vision_model vision_encoder multi_modal_projector vision_language_adapter patch_merger",
    mtp="mtp",
)
"""Beside the language model; in names such as `visual.…` or `model.visual.…`."""

_NAME = re.compile(
    rf"(?:{'|'.join(re.escape(p) for p in sorted(_LANGUAGE_MODELS, key=len, reverse=True))})"
    r"(?:layers\.(?P<layer>[0-9]{1,5})\.)?(?P<first>\w+)(?P<second>\.\w+)?(?:\.[\w.]+)?"
)


@lru_cache(maxsize=100_000)
def role_of(name: str) -> Role | None:
    """Layer and kind of the tensor `name`, or None where no known family has such a name."""
    if not (match := _NAME.fullmatch(name)):
        return None
    layer, first, second = match["layer"], match["first"], match["second"] or ""
    if layer is not None:
        kind = _IN_LAYERS.get(first + second) or _IN_LAYERS.get(first)
        return Role(int(layer), kind) if kind else None
    kind = _BESIDE.get(first) or (_OUTSIDE.get(first) if second in (".weight", ".bias") else None)
    return Role(None, kind) if kind else None


def num_layers(names: Iterable[str]) -> int:
    """Number of decoder layers among `names`: one more than the highest layer index."""
    layers = [found.layer for name in names if (found := role_of(name)) and found.layer is not None]
    return max(layers, default=-1) + 1
