"""Names → layer and kind, for names as they stand in the field's checkpoints."""

import pytest

from interpole.checkpoints.names import KINDS, num_layers, role_of

NAMES = {  # names that tiny models of transformers do not show; those are in test_families.py
    "model.layers.61.eh_proj.weight": (61, "mtp"),  # DeepSeek-V3's extra layer
    "model.layers.61.shared_head.head.weight": (61, "mtp"),
    "model.layers.61.embed_tokens.weight": (61, "mtp"),
    "model.layers.61.self_attn.kv_a_proj_with_mqa.weight": (61, "attention"),
    "model.layers.3.self_attn.kv_b_proj.weight_scale_inv": (3, "attention"),
    "model.layers.3.mlp.gate.e_score_correction_bias": (3, "router"),
    "model.layers.3.mlp.shared_experts.down_proj.weight": (3, "ffn"),
    "mtp.fc.weight": (None, "mtp"),  # Qwen3-Next
    "mtp.layers.0.mlp.experts.511.up_proj.weight": (None, "mtp"),
    "mtp.pre_fc_norm_embedding.weight": (None, "mtp"),
    "model.language_model.layers.7.mlp.experts.gate_up_proj": (7, "experts"),  # Qwen3-VL
    "model.visual.deepstack_merger_list.0.norm.weight": (None, "vision"),
    "visual.blocks.31.attn.qkv.weight": (None, "vision"),  # Qwen2.5-VL
    "language_model.model.layers.39.mlp.up_proj.weight": (39, "ffn"),  # Mistral-Small, Gemma 3
    "language_model.lm_head.weight": (None, "lm_head"),
    "vision_tower.transformer.layers.2.attention.k_proj.weight": (None, "vision"),
    "multi_modal_projector.linear_1.weight": (None, "vision"),
    "model.layers.35.mlp.gate_proj.weight": (35, "ffn"),
    "model.layers.35.mlp.gate.weight": (35, "router"),
    "model.layers.2.mlp.router.bias": (2, "router"),  # gpt-oss
    "model.layers.2.self_attn.sinks": (2, "attention"),
    "model.layers.15.conv.in_proj.weight": (15, "attention"),  # LFM2
    "model.embedding_norm.weight": (None, "norm"),
    "layers.0.self_attn.q_proj.weight": (0, "attention"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_its_layer_and_kind(name):
    assert role_of(name) == NAMES[name]


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mixer.in_proj.weight",
        "model.layers.x.self_attn.q_proj.weight",
        "model.layers.0.mlp.weight",
        "transformer.h.0.attn.c_attn.weight",
        "model.embed_tokens_per_layer.weight",
        "normal.weight",
        "model.norm",
        "",
        "model.layers.0.self_attn.q_proj.weight\n",
    ],
)
def test_a_name_of_no_known_family_is_not_guessed_at(name):
    assert role_of(name) is None


def test_every_kind_occurs():
    assert {kind for _, kind in NAMES.values()} | {"norm", "embedding"} == set(KINDS)


def test_a_mixture_of_experts_with_18867_tensors_is_placed_in_a_moment():
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    for layer in range(48):
        stem = f"model.layers.{layer}."
        names += [f"{stem}self_attn.{x}.weight" for x in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
        names += [f"{stem}{x}_layernorm.weight" for x in ("input", "post_attention")] + [f"{stem}mlp.gate.weight"]
        names += [f"{stem}mlp.experts.{e}.{x}_proj.weight" for e in range(128) for x in ("gate", "up", "down")]
    role_of.cache_clear()
    assert num_layers(names) == 48
    assert len(names) == 18867
    assert sum(role_of(name).kind == "experts" for name in names) == 48 * 128 * 3
