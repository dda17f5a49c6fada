"""Tiny real models of every family: built by transformers, merged here, loaded by transformers, compared with torch in memory."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import interpole
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.checkpoints.names import KINDS, depth_key, in_layer, num_layers, role_of
from interpole.checkpoints.views.fp8 import quantise
from interpole.diagnostics.doctor import examine
from interpole.diagnostics.similarity import compare
from interpole.merging.recipe import Recipe
from interpole.merging.rules import ablation

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from interpole.engines.weights import load_into  # noqa: E402

BASE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
ROUTED = {
    "num_hidden_layers": 3,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
LINEAR_ATTENTION = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "spatial_merge_size": 1,
    "temporal_patch_size": 1,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 4,
    "image_size": 16,
}
QWEN_TOKENS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}


def wrapped(text, vision, **settings):
    return {"text_config": text, "vision_config": vision, **settings}


FAMILIES = {  # model class → config; the config class has the same stem
    "Qwen2ForCausalLM": BASE,
    "Qwen3ForCausalLM": BASE | {"tie_word_embeddings": True},
    "Qwen3MoeForCausalLM": BASE | MOE,
    "Qwen3NextForCausalLM": BASE | MOE | LINEAR_ATTENTION,
    "Qwen3VLForConditionalGeneration": wrapped(BASE | MROPE, QWEN_VISION, **QWEN_TOKENS),
    "Qwen3VLMoeForConditionalGeneration": wrapped(BASE | MOE | MROPE, QWEN_VISION, **QWEN_TOKENS),
    "LlamaForCausalLM": BASE,
    "MistralForCausalLM": BASE,
    "MinistralForCausalLM": BASE,
    "MixtralForCausalLM": BASE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Mistral3ForConditionalGeneration": wrapped(
        BASE | {"model_type": "mistral"},
        VISION | {"model_type": "pixtral", "head_dim": 16},
        image_token_index=5,
    ),
    "Phi3ForCausalLM": BASE,  # Phi-4
    "Olmo3ForCausalLM": BASE,
    "Glm4ForCausalLM": BASE,
    "Glm4MoeForCausalLM": BASE | ROUTED,
    "Gemma3ForCausalLM": BASE,
    "Gemma3ForConditionalGeneration": wrapped(BASE, VISION, mm_tokens_per_image=4),
    "DeepseekV3ForCausalLM": BASE | ROUTED | MLA,
    "Lfm2ForCausalLM": BASE | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "Lfm2MoeForCausalLM": BASE
    | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "GPT2LMHeadModel": {
        "vocab_size": 48, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2,
    },
    "GPTNeoXForCausalLM": {key: value for key, value in BASE.items() if key not in ("head_dim", "num_key_value_heads")},
    "OPTForCausalLM": {
        "vocab_size": 48, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64, "word_embed_proj_dim": 32, "pad_token_id": 0,
    },
}  # fmt: skip


def build(family, seed):
    """A model with every float parameter and buffer random, so that none is interpolated between equals."""
    stem = family.split("For")[0].split("LMHead")[0]
    name = "Gemma3TextConfig" if family == "Gemma3ForCausalLM" else stem + "Config"
    if not hasattr(transformers, family):
        pytest.skip(f"this transformers has no {family}")
    torch.manual_seed(seed)
    model = getattr(transformers, family)(getattr(transformers, name)(**FAMILIES[family])).float().eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn_like(value), alpha=0.05)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merge_of_a_family_loads_and_gives_the_logits_of_weights_interpolated_in_memory(family, tmp_path):
    models = [build(family, seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        model.save_pretrained(tmp_path / str(seed))
    out = interpole.save(interpole.merge(Recipe.between(tmp_path / "0", tmp_path / "1", 0.3)), tmp_path / "out")
    loaded, info = type(models[0]).from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokens = torch.tensor([[3, 17, 9, 40, 11, 12]])
    with torch.no_grad():
        before = models[1](tokens).logits.clone()
        ends = zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True)
        for target, other in {target.data_ptr(): (target, other) for target, other in ends}.values():  # tied ones once
            if target.is_floating_point():
                target.copy_((target.double() * 0.7 + other.double() * 0.3).float())
        expected, found = models[0](tokens).logits, loaded.eval()(tokens).logits
    for name, value in models[0].state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], value, rtol=1e-6, atol=1e-7), name
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, rtol=1e-2, atol=1e-2)
    load_into(loaded, open_checkpoint(tmp_path / "1"))  # the dial
    for name, value in models[1].state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_family_has_its_place(family, tmp_path):
    build(family, 0).save_pretrained(tmp_path / "0")
    checkpoint = interpole.open(tmp_path / "0")
    places = {name: role_of(name) for name in checkpoint}
    assert [name for name, found in places.items() if found is None] == []
    assert {found.kind for found in places.values()} <= set(KINDS)
    config = checkpoint.config.get("text_config", checkpoint.config)
    depth = config[depth_key(config)]
    assert num_layers(checkpoint) == depth
    mixers = {found.layer for found in places.values() if found.kind == "attention"}
    wide = {found.layer for found in places.values() if found.kind in ("ffn", "experts")}
    assert mixers == wide == set(range(depth))
    assert any(found.kind == "vision" for found in places.values()) == ("vision_config" in checkpoint.config)


@pytest.mark.parametrize(
    "family",
    [
        "Qwen3MoeForCausalLM",
        "Lfm2ForCausalLM",
        "Mistral3ForConditionalGeneration",
        "GPT2LMHeadModel",
        "GPTNeoXForCausalLM",
    ],
)
def test_a_skipped_sublayer_of_another_family_keeps_instructs_weights(family, tmp_path):
    for seed in (0, 1):
        build(family, seed).save_pretrained(tmp_path / str(seed))
    recipe = Recipe.between(tmp_path / "0", tmp_path / "1", 0.5, rules=ablation(skip=["ffn"]))
    merged, instruct = interpole.merge(recipe), interpole.open(tmp_path / "0")
    same = {name for name in merged if np.array_equal(merged[name], instruct[name])}
    words = (".mlp.", ".feed_forward.")
    language = {name for name in merged if "vision_tower" not in name}
    assert same == {name for name in language if any(word in name for word in words)}


def test_experts_that_transformers_fused_merge_with_those_it_kept_apart(tmp_path):
    for seed in (0, 1):
        build("Qwen3MoeForCausalLM", seed).save_pretrained(tmp_path / str(seed))
    build("Qwen3MoeForCausalLM", 1).save_pretrained(tmp_path / "fused", save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in interpole.open(tmp_path / "fused")
    expected, merged = (interpole.merge(Recipe.between(tmp_path / "0", tmp_path / x, 0.3)) for x in ("1", "fused"))
    assert set(merged) == set(expected)
    assert all(merged[name].tobytes() == expected[name].tobytes() for name in expected)


def test_fp8_is_read_as_transformers_dequantises_it(tmp_path):
    block = (16, 16)
    build("Qwen3ForCausalLM", 0).save_pretrained(tmp_path / "m")
    stored = {}
    for name, array in load_file(tmp_path / "m/model.safetensors").items():
        stored[name] = array.astype(ml_dtypes.bfloat16)
        if array.ndim == 2 and "embed" not in name:
            stored[name], stored[name + "_scale_inv"] = quantise(array, block, np.dtype(np.float32))
    save_file(stored, tmp_path / "m/model.safetensors", {"format": "pt"})
    said = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
    config = json.loads((tmp_path / "m/config.json").read_text()) | {"dtype": "bfloat16", "quantization_config": said}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    dequantise = transformers.FineGrainedFP8Config(dequantize=True, weight_block_size=block)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", quantization_config=dequantise)
    checkpoint = interpole.open(tmp_path / "m")
    assert any(name + "_scale_inv" in stored for name in checkpoint)
    for name in checkpoint:
        ours = torch.from_numpy(checkpoint[name].view(np.int16)).view(torch.bfloat16)
        assert torch.equal(model.state_dict()[name], ours), name


@pytest.mark.parametrize("family", ["GPT2LMHeadModel", "GPTNeoXForCausalLM"])
def test_a_family_with_unusual_names_is_stacked_measured_and_examined_by_layer(family, tmp_path):
    for seed in (0, 1):
        build(family, seed).save_pretrained(tmp_path / str(seed))
    sides = [interpole.open(tmp_path / str(seed)) for seed in (0, 1)]
    depth = num_layers(sides[0])
    order = [*range(depth), depth - 1]
    recipe = Recipe.between(tmp_path / "0", tmp_path / "1", 0.5, stack=f"0-{depth - 1},{depth - 1}")
    out = interpole.save(interpole.merge(recipe), tmp_path / "out")
    kind = getattr(transformers, family)
    loaded, info = kind.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    plain = kind.from_pretrained(interpole.save(interpole.merge(recipe.with_(stack=None)), tmp_path / "plain"))
    found, expected = loaded.state_dict(), plain.state_dict()
    for name in found:
        role = role_of(name)
        old = name if role is None or role.layer is None else in_layer(name, order[role.layer])
        assert torch.equal(found[name], expected[old]), name
    rows = [name for name, *_ in compare(*sides).rows("layer")]
    assert rows == [f"layer {i}" for i in range(depth)] + ["outside"]
    assert not {f.code for f in examine(*sides).findings if f.severity != "note"} & {
        "names",
        "depth",
        "tensors",
        "settings",
    }
