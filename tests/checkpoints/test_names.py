"""Names → layer and kind, for names as they stand in the field's checkpoints."""

import ast
import re
from pathlib import Path

import pytest

import interpole
from interpole.checkpoints import names as names_module
from interpole.checkpoints.names import KINDS, NAMINGS, has_token_rows, in_layer, num_layers, role_of, stem

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
    "transformer.h.11.attn.c_attn.weight": (11, "attention"),  # GPT-2
    "h.3.mlp.c_proj.bias": (3, "ffn"),
    "transformer.wpe.weight": (None, "embedding"),
    "transformer.h.2.self_attention.query_key_value.weight": (2, "attention"),  # Bloom, Falcon
    "transformer.word_embeddings_layernorm.bias": (None, "norm"),
    "gpt_neox.layers.5.mlp.dense_h_to_4h.weight": (5, "ffn"),  # Pythia
    "embed_out.weight": (None, "lm_head"),
    "model.decoder.layers.7.fc2.bias": (7, "ffn"),  # OPT
    "model.decoder.layers.7.final_layer_norm.weight": (7, "norm"),
    "model.decoder.final_layer_norm.weight": (None, "norm"),
    "transformer.blocks.1.ffn.up_proj.weight": (1, "ffn"),  # MPT
    "model.transformer.blocks.1.att_proj.weight": (1, "attention"),  # the first OLMo
    "model.transformer.blocks.1.ff_out.weight": (1, "ffn"),
    "model.transformer.ff_out.weight": (None, "lm_head"),
    "backbone.layers.9.mixer.A_log": (9, "attention"),  # Mamba
    "backbone.layers.9.norm.weight": (9, "norm"),
    "rwkv.blocks.4.feed_forward.key.weight": (4, "ffn"),
    "bert.encoder.layer.8.output.dense.weight": (8, "ffn"),
    "bert.encoder.layer.8.attention.output.LayerNorm.weight": (8, "norm"),
    "bert.embeddings.word_embeddings.weight": (None, "embedding"),
    "model.layers.3.block_sparse_moe.experts.7.w1.weight": (3, "experts"),  # Mixtral
    "model.layers.3.mlp.fc1.weight": (3, "ffn"),  # Phi-2
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_its_layer_and_kind(name):
    assert role_of(name) == NAMES[name]


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mixing.in_proj.weight",
        "model.layers.x.self_attn.q_proj.weight",
        "model.layers.0.mlp.weight",
        "transformer.h.0.unheard.c_attn.weight",
        "transformer.h.x.attn.c_attn.weight",
        "gpt_neox.layers.0.mlp.weight",
        "model.layers.123456.self_attn.q_proj.weight",
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


STEMS = {
    "model.language_model.layers.7.mlp.up_proj.weight": "layers.7.mlp.up_proj.weight",
    "language_model.model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.3.something.new": "layers.3.something.new",
    "transformer.h.0.ln_1.weight": "h.0.ln_1.weight",
    "gpt_neox.layers.0.attention.dense.weight": "layers.0.attention.dense.weight",
    "model.visual.blocks.0.attn.qkv.weight": "visual.blocks.0.attn.qkv.weight",
    "lm_head.weight": "lm_head.weight",
    "of.no.family": "of.no.family",
}


@pytest.mark.parametrize("name", STEMS)
def test_the_stem_of_a_name_is_what_stays_whatever_larger_model_it_is_part_of(name):
    assert stem(name) == STEMS[name]


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("model.layers.3.mlp.experts.3.up_proj.weight", "model.layers.41.mlp.experts.3.up_proj.weight"),
        ("transformer.h.0.attn.c_attn.weight", "transformer.h.41.attn.c_attn.weight"),
        ("bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.41.output.dense.bias"),
    ],
)
def test_a_name_moves_to_another_layer_in_the_number_of_its_layer_only(name, moved):
    assert in_layer(name, 41) == moved
    assert in_layer(moved, role_of(name).layer) == name


def test_positions_and_matrices_of_layers_have_no_row_per_token():
    rows = ["model.embed_tokens.weight", "lm_head.bias", "transformer.wte.weight", "gpt_neox.embed_in.weight"]
    rows += [
        "embed_out.weight",
        "backbone.embeddings.weight",
        "model.layers.61.shared_head.head.weight",
        "new.embed_tokens.weight",
    ]
    others = [
        "transformer.wpe.weight",
        "model.decoder.embed_positions.weight",
        "bert.embeddings.position_embeddings.weight",
    ]
    others += ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "model.visual.head.weight"]
    assert [name for name in rows + others if has_token_rows(name)] == rows


SOURCE = Path(interpole.__file__).parent
WORDS = "|".join(sorted({re.escape(naming.layers) for naming in NAMINGS}, key=len, reverse=True))
A_LAYERS_NAME = re.compile(rf"(?:^|[^\w\s]|\b[a-z_]+\.)(?:{WORDS})\\?\.(?:\\d|\[|\(|\{{|\*|\d|N\b)")


def strings(path):
    """The string constants of a module, docstrings left out."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def test_no_other_module_knows_how_a_family_calls_its_layers():
    assert A_LAYERS_NAME.search(r"model\.layers\.(\d+)")
    assert A_LAYERS_NAME.search("transformer.h.{")
    found = {
        str(path.relative_to(SOURCE)): text
        for path in SOURCE.rglob("*.py")
        for text in strings(path)
        if A_LAYERS_NAME.search(text)
    }
    assert found == {}


def test_a_mixture_of_experts_with_18867_tensors_is_placed_in_a_moment():
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    for layer in range(48):
        stem = f"model.layers.{layer}."
        names += [f"{stem}self_attn.{x}.weight" for x in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
        names += [f"{stem}{x}_layernorm.weight" for x in ("input", "post_attention")] + [f"{stem}mlp.gate.weight"]
        names += [f"{stem}mlp.experts.{e}.{x}_proj.weight" for e in range(128) for x in ("gate", "up", "down")]
    names_module._place.cache_clear()
    assert num_layers(names) == 48
    assert len(names) == 18867
    assert sum(role_of(name).kind == "experts" for name in names) == 48 * 128 * 3
