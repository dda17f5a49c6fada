"""Tiny models that transformers can run, with random weights: vocabulary of bytes and a few marks, no training."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

SPECIALS = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
MARKS = ["<think>", "</think>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# <think> … </think> #}"
)
SIZES = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": [257, 256],
}


def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIALS)
    inner.add_tokens([AddedToken(mark, special=False) for mark in MARKS])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")


CONFIGS = {"qwen3": Qwen3Config, "llama": LlamaConfig, "qwen2": Qwen2Config}


def write(folder, seed, *, tied=True, moe=False, family="qwen3", norms=False, **sizes):
    """A model folder with random weights; `norms`: norms and biases too, which begin as ones and zeros."""
    torch.manual_seed(seed)
    settings = SIZES | {"tie_word_embeddings": tied} | sizes
    if moe:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        config = Qwen3MoeConfig(**experts | settings)
    else:
        config = CONFIGS[family](**settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        if norms and name.endswith((".bias", "norm.weight")):
            torch.nn.init.normal_(weight.data, float(name.endswith("weight")), 0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def pair(folder, **options):
    """Folders of an Instruct/Thinking pair."""
    return write(folder / "instruct", 0, **options), write(folder / "thinking", 1, **options)


def sweep_of(pair, lambdas, *, max_tokens, **options):
    """The settings of a small sweep of this pair in float32; `options` are the engine's."""
    return {
        "sources": dict(zip(("instruct", "thinking"), map(str, pair), strict=True)),
        "tasks": "arithmetic",
        "lambdas": lambdas,
        "samples": 1,
        "limit": 4,
        "sampler": {"max_tokens": max_tokens},
        "engine_options": {"dtype": "float32"} | options,
    }
