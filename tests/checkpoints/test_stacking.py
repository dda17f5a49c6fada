"""Layers in another order: what transformers' classes make of the config we write is, layer by layer, what the sources were."""

import pytest
import transformers

from interpole.checkpoints.views.stacking import restacked
from interpole.errors import RecipeError

SMALL = {"num_hidden_layers": 8, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
ORDER = [0, 1, 2, 5, 6, 7, 3, 3]


def types(config):
    return list(config.layer_types)


def experts(config):
    """Which layers are sparse, as Qwen's decoder layers ask."""
    return [
        i not in (config.mlp_only_layers or []) and (i + 1) % config.decoder_sparse_step == 0
        for i in range(config.num_hidden_layers)
    ]


def kinds(config):
    return list(config.mlp_layer_types)


def rope_and_experts(config):
    return list(
        zip(config.no_rope_layers, [i in config.moe_layers for i in range(config.num_hidden_layers)], strict=True)
    )


CASES = {
    "types listed": ("Qwen3Config", {"layer_types": ["full_attention", "sliding_attention"] * 4}, types),
    "a period": ("Gemma3TextConfig", {"sliding_window_pattern": 3}, types),
    "a period that the class fills in": ("Gemma3TextConfig", {}, types),
    "every other layer": ("Gemma2Config", {}, types),
    "a period of attention": ("Qwen3NextConfig", {"full_attention_interval": 4}, types),
    "windows from a border on": (
        "Qwen2Config", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4}, types),
    "attention by number": ("Lfm2Config", {"full_attn_idxs": [2, 5]}, types),
    "dense layers by number": ("Qwen3MoeConfig", {"mlp_only_layers": [0, 5]}, experts),
    "a period of experts": ("Qwen2MoeConfig", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, experts),
    "rotation and experts by period": (
        "Llama4TextConfig", {"no_rope_layer_interval": 4, "interleave_moe_layer_step": 2}, rope_and_experts),
    "kinds of feed-forward layers": ("Glm4MoeLiteConfig", {"mlp_layer_types": ["dense"] + ["sparse"] * 7}, kinds),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [ORDER, list(range(4)), list(range(7, -1, -1)), [4, 5, 6, 7]], ids=str)
def test_every_layer_stays_what_it_is(case, order):
    name, settings, per_layer = CASES[case]
    make = getattr(transformers, name)
    config = {"model_type": make.model_type} | SMALL | settings
    before = per_layer(make(**config))
    after = make(**restacked(config, order))
    assert after.num_hidden_layers == len(order)
    assert per_layer(after) == [before[layer] for layer in order]


def test_a_border_moves_with_the_layers_before_it():
    config = {"model_type": "deepseek_v3", "first_k_dense_replace": 3, "num_nextn_predict_layers": 1} | SMALL
    assert restacked(config, [0, 2, 3, 4])["first_k_dense_replace"] == 2
    assert restacked(config, [3, 4])["first_k_dense_replace"] == 0
    assert restacked(config, [0, 1, 2, 0, 1, 2, 7])["first_k_dense_replace"] == 6
    assert restacked(config, [3, 4])["num_nextn_predict_layers"] == 0


def test_an_inner_config_is_adapted_and_those_of_other_parts_are_not():
    vision = {"num_hidden_layers": 8, "fullatt_block_indexes": [1, 2]}
    config = {"text_config": {"model_type": "qwen3_moe", "mlp_only_layers": [1]} | SMALL, "vision_config": vision}
    changed = restacked(config, [1, 1, 2])
    assert changed["text_config"]["mlp_only_layers"] == [0, 1]
    assert changed["text_config"]["num_hidden_layers"] == 3
    assert changed["vision_config"] == vision


def test_all_layers_in_their_order_leave_the_config_as_it_is():
    config = {"future_layer_kinds": [1, 2], "num_kv_shared_layers": 2} | SMALL
    assert restacked(config, range(8)) == config


@pytest.mark.parametrize(
    "settings",
    [
        {"first_k_dense_replace": 3},
        {"moe_layer_freq": 2},
        {"attn_layer_period": 4, "attn_layer_offset": 1},
        {"moe_layer_interval": 2, "moe_layer_start_index": 1},
        {"num_kv_shared_layers": 2},
        {"future_layer_kinds": [1, 2]},
        {"linear_attn_config": {"kda_layers": [1, 2, 3]}},
        {"full_attention_interval": 3, "model_type": "of no table"},
    ],
    ids=str,
)
def test_what_cannot_be_said_for_another_order_is_refused_by_name(settings):
    with pytest.raises(RecipeError, match=rf"stack: {next(iter(settings))}"):
        restacked(SMALL | settings, [7, 6, 0, 1, 1])


def test_a_layer_behind_the_last_is_refused():
    with pytest.raises(RecipeError, match="layer 8 is none of the 8"):
        restacked(SMALL, [0, 8])
