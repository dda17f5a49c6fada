"""Tensor names → (layer, module kind), for the families of the field. A table of names, no code per family.

Names that the table does not know are not guessed at: `role_of` returns None and whoever needs the answer raises. The families
it was made from, and where each kind's borders lie, are in docs/formats.md. Nothing else knows how a family calls its layers: a
name's layer, its stem, its like in another layer, and whether it has a row per token are asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = [
    "KINDS",
    "NAMINGS",
    "Naming",
    "Role",
    "depth_key",
    "has_token_rows",
    "in_layer",
    "num_layers",
    "role_of",
    "stem",
]

KINDS = ("attention", "ffn", "norm", "embedding", "lm_head", "router", "experts", "vision", "mtp")
"""Module kinds. `attention` is whatever mixes tokens (softmax and linear attention, state spaces, short convolutions), its q/k
norms included; `ffn` the dense sublayer, shared experts included; `vision` the image tower and its projector; `mtp` the extra
modules that predict more than one token."""


class Role(NamedTuple):
    """Where a tensor stands in the model: its decoder layer (None outside of them) and its kind, one of `KINDS`."""

    layer: int | None
    kind: str


class Naming(NamedTuple):
    """How some families call their tensors.

    Attributes:
        before: what may stand before the language model's names: nothing, or the part of a larger model.
        layers: the list of layers, as it stands before their numbers.
        inside: module path below `layers.N.` → kind of everything beneath; of two that fit the longer counts.
        outside: module path beside the layers → kind of its weight and bias.
    """

    before: tuple[str, ...]
    layers: str
    inside: Mapping[str, str]
    outside: Mapping[str, str]


def _table(**kinds: str) -> Mapping[str, str]:
    """Module path → kind, from the paths of every kind separated by spaces."""
    return {path: kind for kind, paths in kinds.items() for path in paths.split()}


NAMINGS: tuple[Naming, ...] = (
    Naming(  # Llama, Qwen, Mistral, Gemma, Olmo 2 and 3, GLM, DeepSeek, Phi, LFM2 … nearly all since 2023
        ("", "model.", "language_model.", "language_model.model.", "model.language_model."),
        "layers",
        _table(
            attention="self_attn linear_attn conv mamba",
            router="mlp.gate mlp.router feed_forward.gate feed_forward.router feed_forward.expert_bias block_sparse_moe.gate",
            experts="mlp.experts feed_forward.experts block_sparse_moe.experts",
            ffn=(
                "mlp.gate_proj mlp.up_proj mlp.down_proj mlp.gate_up_proj mlp.shared_expert mlp.shared_experts "
                "mlp.shared_expert_gate mlp.shared_mlp feed_forward.shared_expert feed_forward.w1 feed_forward.w2 "
                "feed_forward.w3 mlp.fc1 mlp.fc2 mlp.c_fc mlp.c_proj mlp.dense_h_to_4h mlp.dense_4h_to_h fc1 fc2"
            ),
            norm=(
                "input_layernorm post_attention_layernorm pre_feedforward_layernorm post_feedforward_layernorm "
                "post_self_attn_layernorm post_mlp_layernorm operator_norm ffn_norm self_attn_layer_norm final_layer_norm"
            ),
            mtp="eh_proj enorm hnorm shared_head embed_tokens",  # the layer after the last of DeepSeek-V3 and GLM-4-MoE
        ),
        _table(embedding="embed_tokens", norm="norm embedding_norm final_layernorm layer_norm", lm_head="lm_head"),
    ),
    Naming(  # GPT-2, GPT-J, GPT-Neo, BigCode, Bloom, Falcon
        ("", "transformer."),
        "h",
        _table(
            attention="attn self_attention",
            ffn="mlp",
            norm="ln_1 ln_2 ln_attn ln_mlp input_layernorm post_attention_layernorm",
        ),
        _table(embedding="wte wpe word_embeddings", norm="ln_f word_embeddings_layernorm", lm_head="lm_head"),
    ),
    Naming(  # GPT-NeoX, Pythia
        ("", "gpt_neox."),
        "layers",
        _table(
            attention="attention",
            ffn="mlp.dense_h_to_4h mlp.dense_4h_to_h",
            norm="input_layernorm post_attention_layernorm",
        ),
        _table(embedding="embed_in", norm="final_layer_norm", lm_head="embed_out"),
    ),
    Naming(  # OPT
        ("decoder.", "model.decoder."),
        "layers",
        _table(attention="self_attn", ffn="fc1 fc2", norm="self_attn_layer_norm final_layer_norm"),
        _table(embedding="embed_tokens embed_positions project_in", norm="final_layer_norm", lm_head="project_out"),
    ),
    Naming(  # MPT, the first OLMo
        ("", "model.", "transformer.", "model.transformer."),
        "blocks",
        _table(
            attention="attn att_proj attn_out q_proj k_proj v_proj q_norm k_norm",
            ffn="ffn ff_proj ff_out",
            norm="norm_1 norm_2 attn_norm ff_norm",
        ),
        _table(embedding="wte wpe", norm="norm_f ln_f", lm_head="ff_out"),
    ),
    Naming(  # Mamba, Nemotron-H
        ("backbone.", "model."),
        "layers",
        _table(attention="mixer", norm="norm"),
        _table(embedding="embeddings", norm="norm_f"),
    ),
    Naming(  # RWKV
        ("", "rwkv."),
        "blocks",
        _table(attention="attention", ffn="feed_forward", norm="ln1 ln2 pre_ln"),
        _table(embedding="embeddings", norm="ln_out", lm_head="head"),
    ),
    Naming(  # BERT, RoBERTa
        ("", "bert.", "roberta."),
        "encoder.layer",
        _table(attention="attention", ffn="intermediate output", norm="attention.output.LayerNorm output.LayerNorm"),
        _table(
            embedding="embeddings.word_embeddings embeddings.position_embeddings embeddings.token_type_embeddings",
            norm="embeddings.LayerNorm",
            lm_head="cls.predictions cls.predictions.decoder cls.predictions.transform.dense "
            "cls.predictions.transform.LayerNorm",
        ),
    ),
)
"""One entry per way of naming; the first that knows a name decides."""

TOKEN_ROWS = (
    "embed_tokens", "lm_head", "shared_head.head", "wte", "word_embeddings", "embed_in", "embed_out", "embeddings", "head",
    "cls.predictions", "cls.predictions.decoder",
)  # fmt: skip
"""Modules whose weight and bias have one row per token; positions and projections among the embeddings have not."""

DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Settings of a config that say how many layers there are."""

_BESIDE = _table(
    vision="visual vision_tower vision_model vision_encoder multi_modal_projector vision_language_adapter patch_merger",
    mtp="mtp",
)
"""Beside the language model, in names such as `visual.…` or `model.visual.…`: first word → kind."""


def _pattern(naming: Naming) -> re.Pattern[str]:
    before = "|".join(re.escape(part) for part in sorted(naming.before, key=len, reverse=True))
    layer = rf"(?:{re.escape(naming.layers)}\.(?P<layer>[0-9]{{1,5}})\.)?"
    return re.compile(rf"(?P<before>{before}){layer}(?P<path>\w+(?:\.\w+)*)")


_PATTERNS = tuple((naming, _pattern(naming)) for naming in NAMINGS)
_ROWS = re.compile(rf"(?:.+\.)?(?:{'|'.join(map(re.escape, TOKEN_ROWS))})\.(?:weight|bias)")


class _Place(NamedTuple):
    """What is known of a name: its role, where its stem begins, and where the number of its layer stands."""

    role: Role | None
    stem: int
    number: tuple[int, int]
    has_rows: bool  # one per token, if its shape is that of one


@lru_cache(maxsize=10_000)
def _role(layer: int | None, kind: str) -> Role:
    """The one role of all tensors of a layer and kind."""
    return Role(layer, kind)


@lru_cache(maxsize=500_000)
def _place(name: str) -> _Place:
    seen = _Place(None, 0, (-1, -1), has_rows=False)
    for naming, pattern in _PATTERNS:
        if not (match := pattern.fullmatch(name)):
            continue
        layer, path = match["layer"], match["path"]
        kind = _kind_inside(naming, path) if layer is not None else _kind_outside(naming, path)
        if kind is not None or (layer is not None and not seen.stem):
            role = _role(None if layer is None else int(layer), kind) if kind else None
            seen = _Place(role, match.end("before"), match.span("layer"), has_rows=False)
        if kind is not None:
            break
    may_have = seen.role is None or seen.role.kind in ("embedding", "lm_head", "mtp")
    return seen._replace(has_rows=True) if may_have and _ROWS.fullmatch(name) else seen


def _kind_inside(naming: Naming, path: str) -> str | None:
    words = path.split(".")
    known = (naming.inside.get(".".join(words[:length])) for length in range(min(3, len(words)), 0, -1))
    return next((kind for kind in known if kind), None)


def _kind_outside(naming: Naming, path: str) -> str | None:
    if naming is NAMINGS[0] and (kind := _BESIDE.get(path.split(".", 1)[0])):
        return kind
    module, _, leaf = path.rpartition(".")
    return naming.outside.get(module) if leaf in ("weight", "bias") else None


def role_of(name: str) -> Role | None:
    """Layer and kind of the tensor `name`, or None where no known family has such a name."""
    return _place(name).role


def stem(name: str) -> str:
    """A name from its first word on that names a part of the model, such as `layers`, whatever the part is of."""
    return name[_place(name).stem :]


def in_layer(name: str, layer: int) -> str:
    """The name that a tensor of a layer has in another layer."""
    first, stop = _place(name).number
    return f"{name[:first]}{layer}{name[stop:]}"


def has_token_rows(name: str) -> bool:
    """Whether a tensor has one row per token of the vocabulary, if its shape is that of one."""
    return _place(name).has_rows


def num_layers(names: Iterable[str]) -> int:
    """Number of decoder layers among `names`: one more than the highest layer index."""
    layers = [found.layer for name in names if (found := role_of(name)) and found.layer is not None]
    return max(layers, default=-1) + 1


def depth_key(config: Mapping[str, Any]) -> str | None:
    """The setting of a config that says how many layers there are; None where none does."""
    return next((key for key in DEPTHS if config.get(key) is not None), None)
