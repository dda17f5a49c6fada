"""Configs as transformers' classes understand them: the table against the classes, and one model in two spellings."""

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from interpole.checkpoints.architectures import TABLE, rope, table, understood
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.diagnostics.doctor import configs
from interpole.diagnostics.doctor.findings import Side

transformers = pytest.importorskip("transformers")

YARN = {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 2560, "intermediate_size": 9728, "max_position_embeddings": 262144,
    "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 5000000, "sliding_window": None,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_sliding_window": False, "vocab_size": 151936, "attention_dropout": 0.0, "initializer_range": 0.02,
}  # fmt: skip
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_act": "silu",
    "max_position_embeddings": 4096, "max_window_layers": 28, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "sliding_window": 4096, "use_sliding_window": False, "tie_word_embeddings": False, "vocab_size": 152064,
    "bos_token_id": 151643, "eos_token_id": 151643, "torch_dtype": "bfloat16", "transformers_version": "4.44.0",
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "vocab_size": 128256,
    "rope_scaling": LLAMA3 | {"rope_type": "llama3"}, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "tie_word_embeddings": False,
}  # fmt: skip
PHI4 = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920,
    "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 10, "hidden_act": "silu",
    "max_position_embeddings": 16384, "original_max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
    "rope_theta": 250000, "rope_scaling": None, "sliding_window": None, "vocab_size": 100352, "embd_pdrop": 0.0,
    "resid_pdrop": 0.0, "attention_bias": False, "tie_word_embeddings": False, "eos_token_id": 100265,
}  # fmt: skip
MISTRAL3 = {
    "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 10,
    "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
    "vision_feature_layer": -1, "torch_dtype": "bfloat16",
    "text_config": {
        "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
        "intermediate_size": 32768, "max_position_embeddings": 131072, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 1000000000.0, "sliding_window": None, "use_cache": True, "vocab_size": 131072,
    },
    "vision_config": {
        "attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu", "hidden_size": 1024, "image_size": 1540,
        "intermediate_size": 4096, "model_type": "pixtral", "num_attention_heads": 16, "num_channels": 3,
        "num_hidden_layers": 24, "patch_size": 14, "rope_theta": 10000.0,
    },
}  # fmt: skip
GEMMA3 = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "boi_token_index": 255999,
    "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02,
    "mm_tokens_per_image": 256, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    },
    "vision_config": {
        "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "model_type": "siglip_vision_model",
        "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
    },
}  # fmt: skip
OLMO3 = {
    "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "attention_bias": False, "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 65536, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "rope_theta": 500000,
    "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 100278, "eos_token_id": 100257,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8,
    "rope_scaling": {
        "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
        "original_max_position_embeddings": 8192, "rope_type": "yarn",
    },
}  # fmt: skip
PUBLISHED = {  # as the makers' files with transformers 4 look
    "Qwen3-4B-2507": QWEN3,
    "Qwen3-30B-A3B-2507": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "decoder_sparse_step": 1, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 262144,
        "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-6, "rope_scaling": None,
        "rope_theta": 10000000, "router_aux_loss_coef": 0.001, "sliding_window": None, "use_sliding_window": False,
        "tie_word_embeddings": False, "vocab_size": 151936,
    },
    "Qwen3-Next": {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "full_attention_interval": 4,
        "head_dim": 256, "hidden_size": 2048, "intermediate_size": 5120, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
        "linear_value_head_dim": 128, "mlp_only_layers": [], "moe_intermediate_size": 512, "norm_topk_prob": True,
        "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48,
        "num_key_value_heads": 2, "partial_rotary_factor": 0.25, "rope_scaling": None, "rope_theta": 10000000,
        "shared_expert_intermediate_size": 512, "vocab_size": 151936, "use_sliding_window": False,
    },
    "Qwen2.5-Math-7B": QWEN2,
    "Llama-3.1-8B": LLAMA,
    "Llama-3.1-8B, few settings": {
        key: LLAMA[key]
        for key in (
            "model_type", "architectures", "hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size",
            "rope_theta", "rope_scaling", "max_position_embeddings", "rms_norm_eps",
        )
    },
    "Phi-4": PHI4,
    "Mistral-Small-3.2": MISTRAL3,
    "Gemma 3": GEMMA3,
    "Gemma 3, text only": GEMMA3["text_config"] | {"architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 6},
    "Olmo-3": OLMO3,
    "GLM-4": {
        "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "attention_bias": False, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 13696, "max_position_embeddings": 32768,
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 2, "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 151552, "eos_token_id": [151329, 151336],
    },
    "LFM2": {
        "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "block_auto_adjust_ff_dim": True,
        "block_dim": 2048, "block_ff_dim": 12288, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256,
        "block_norm_eps": 1e-5, "conv_L_cache": 3, "conv_bias": False, "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "hidden_size": 2048, "max_position_embeddings": 128000, "norm_eps": 1e-5, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "rope_theta": 1000000.0, "use_pos_enc": True,
        "vocab_size": 65536,
    },
    "DeepSeek-V3": {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False, "ep_size": 1,
        "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432,
        "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
        "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True, "topk_group": 4,
        "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "rope_scaling": YARN | {"original_max_position_embeddings": 4096}, "rope_theta": 10000, "vocab_size": 129280,
        "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "v_head_dim": 128,
    },
    "gpt-oss": {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": True, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2880, "intermediate_size": 2880, "max_position_embeddings": 131072,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "num_attention_heads": 64,
        "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
        "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0, "vocab_size": 201088,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn", "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    },
}  # fmt: skip
SMOLLM3 = {
    "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008,
    "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4, "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 2, "use_sliding_window": False, "sliding_window": None, "rope_theta": 5000000.0,
    "layer_types": ["full_attention"] * 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip
RENEWED = {  # what stands on the other side of a public pair, where that differs
    "a later Qwen": (QWEN3, QWEN3 | {"rope_theta": 1000000, "max_position_embeddings": 40960}, {"rope", "other-settings"}),
    "R1-Distill-Qwen": (QWEN2, QWEN2 | {"max_position_embeddings": 131072, "use_mrope": False}, {"other-settings"}),
    "R1-Distill-Llama": (LLAMA, LLAMA | {"eos_token_id": 128001}, set()),
    "Phi-4-reasoning": (PHI4, PHI4 | {"rope_theta": 500000, "max_position_embeddings": 32768}, {"rope", "other-settings"}),
    "more heads": (OLMO3, OLMO3 | {"num_key_value_heads": 8}, {"settings"}),
    "windows elsewhere": (OLMO3, OLMO3 | {"layer_types": ["full_attention"] * 32}, {"window"}),
    "another scaling": (LLAMA, LLAMA | {"rope_scaling": LLAMA3 | {"rope_type": "llama3", "factor": 32.0}}, {"rope"}),
    "rope everywhere": (SMOLLM3, SMOLLM3 | {"no_rope_layers": [1] * 8}, {"other-settings"}),
    "rope left unsaid": (SMOLLM3, {k: v for k, v in SMOLLM3.items() if k != "no_rope_layers"}, set()),
    "a wider part": (GEMMA3, GEMMA3 | {"text_config": GEMMA3["text_config"] | {"sliding_window": 512}}, {"window"}),
}  # fmt: skip


def as_saved_today(config, folder):
    transformers.AutoConfig.for_model(**json.loads(json.dumps(config))).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def codes(tmp_path, first, second):
    """The codes of the findings about two configs."""
    sides = []
    for name, config in (("a", first), ("b", second)):
        folder = tiny.write(tmp_path / f"model-{name}", tiny.tensors(0))
        (folder / "config.json").write_text(json.dumps(config))
        sides.append(Side(name, open_checkpoint(folder)))
    return {finding.code: finding.what for check in configs.CHECKS for finding in check(*sides)}


@pytest.mark.slow
def test_the_table_is_what_the_classes_do():
    script = Path(__file__).parents[2] / "benchmarks/architectures.py"
    spec = importlib.util.spec_from_file_location("architectures_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made, shipped = module.make()["model_types"], json.loads(TABLE.read_text())["model_types"]
    assert made.keys() == shipped.keys()
    assert [name for name in made if made[name] != shipped[name]] == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_and_the_same_saved_today_are_one_architecture(name, tmp_path):
    assert codes(tmp_path, PUBLISHED[name], as_saved_today(PUBLISHED[name], tmp_path / "today")) == {}


FLAT = {"rope_theta": 12345, "rope_scaling": {"type": "linear", "factor": 2}, "num_hidden_layers": 6}
WINDOWED = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2, "num_hidden_layers": 6}
NEVER_FLAT = {"gemma3", "mistral3", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "phi3"}


@pytest.mark.parametrize(
    "model_type", sorted(name for name in table() if not name.endswith(("_vision", "_vision_model")))
)
def test_a_config_that_says_little_means_what_its_class_fills_in(model_type, tmp_path):
    configs = [{"model_type": model_type}] if model_type != "mistral3" else []  # whose parts are of any type
    if model_type not in NEVER_FLAT:
        configs += [{"model_type": model_type} | FLAT, {"model_type": model_type} | WINDOWED]
    for i, config in enumerate(configs):
        assert codes(tmp_path / str(i), config, as_saved_today(config, tmp_path / f"{i}-today")) == {}


@pytest.mark.parametrize("name", RENEWED)
@pytest.mark.parametrize("today", [False, True], ids=["as published", "saved today"])
def test_what_differs_is_found_in_either_spelling(name, today, tmp_path):
    first, second, expected = RENEWED[name]
    assert codes(tmp_path, first, as_saved_today(second, tmp_path / "today") if today else second).keys() == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_understood_as_the_class_has_them(name):
    config = PUBLISHED[name]
    made = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    text, found = made.get_text_config(), understood(config)
    for key in ("num_hidden_layers", "num_key_value_heads", "head_dim", "layer_types", "sliding_window", "vocab_size"):
        if hasattr(text, key):
            assert found.get(key) == getattr(text, key), key
    parts = {key: part for key, part in text.rope_parameters.items() if isinstance(part, dict)} or {
        "": text.rope_parameters
    }
    for layer, part in parts.items():
        for key in ("rope_theta", "rope_type", "factor", "original_max_position_embeddings"):
            assert rope(config).get(f"{layer}.{key}" if layer else key) == part.get(key), (layer, key)


def test_a_model_type_that_the_table_lacks_is_compared_by_what_all_share(tmp_path):
    old = {
        "model_type": "newmodel",
        "num_attention_heads": 4,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "rope_theta": 1e6,
    }
    new = old | {"head_dim": 8, "num_key_value_heads": 4, "layer_types": ["full_attention"] * 2}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": new.pop("rope_theta")}
    assert codes(tmp_path, old, new) == {}


WORDS = sorted(
    {
        "text_config",
        "vision_config",
        "rope_scaling",
        "rope_parameters",
        "rope_theta",
        "type",
        "rope_type",
        "factor",
        "full_attention",
    }
    | {"num_hidden_layers", "num_attention_heads", "hidden_size", "layer_types", "sliding_window", "use_sliding_window"}
    | {
        "sliding_window_pattern",
        "full_attention_interval",
        "full_attn_idxs",
        "max_window_layers",
        "head_dim",
        "model_type",
    }
    | {
        "qk_rope_head_dim",
        "qk_nope_head_dim",
        "num_key_value_heads",
        "max_position_embeddings",
        "partial_rotary_factor",
    }
)
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2, 3, 7, 10**400])
    | st.floats()
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=120)
@given(st.sampled_from(sorted(table())), st.dictionaries(st.sampled_from(WORDS), ODD, max_size=8))
def test_whatever_a_config_says_is_understood_or_left_as_it_is(model_type, said):
    config = {"model_type": model_type} | said
    assert isinstance(understood(config), dict)
    assert isinstance(rope(config), dict)
