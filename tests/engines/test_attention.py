"""Attention without copies equals that of transformers bit for bit."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from interpole.engines.attention import SPARE_TOKENS, attend_in_groups, growing_cache

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "kv_heads"), [("qwen3", 2), ("llama", 1), ("mistral", 4), ("gemma3_text", 2)])
def test_prompts_and_tokens_have_the_logits_that_transformers_gives(name, kv_heads, dtype):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SIZES, num_key_value_heads=kv_heads, sliding_window=8)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, :5] = mask[2, :9] = False
    tokens = torch.randint(64, (3, 11))

    def logits(cache):
        found, given = [], mask
        with torch.inference_mode():
            for new in (tokens, *torch.arange(8).view(-1, 1, 1).expand(-1, 3, 1)):
                given = mask if not found else torch.cat([given, given.new_ones(3, 1)], 1)
                positions = (given.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
                out = model(input_ids=new, attention_mask=given, position_ids=positions, past_key_values=cache)
                found.append(out.logits[:, -1])
        return torch.stack(found)

    expected = logits(DynamicCache())
    attend_in_groups(model)
    assert model.config._attn_implementation != "sdpa"
    assert torch.equal(logits(growing_cache()), expected)


def test_a_cache_grows_like_that_of_transformers_also_where_rows_were_taken_out():
    ours, theirs = growing_cache(), DynamicCache()
    random = torch.Generator().manual_seed(0)
    rows = 4
    for step in range(2 * SPARE_TOKENS + 5):
        new = torch.randn(2, rows, 2, 7 if step == 0 else 1, 8, generator=random)
        for found, expected in zip(ours.update(*new, 0), theirs.update(*new, 0), strict=True):
            assert torch.equal(found, expected)
        if step in (3, 70):
            rows -= 1
            for cache in (ours, theirs):
                layer = cache.layers[0]
                layer.keys, layer.values = layer.keys[1:, :, 2:], layer.values[1:, :, 2:]
        assert ours.get_seq_length() == theirs.get_seq_length()
