"""Tiny checkpoints made on the fly with the safetensors library, an implementation independent of ours."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def tensors(seed=0, *, layers=3, hidden=16, vocab=40, tied=True, dtype=ml_dtypes.bfloat16):
    """Name → array of a tiny Qwen3-like model with random weights."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes |= {f"{p}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        shapes |= {f"{p}self_attn.{x}_proj.weight": (hidden, hidden) for x in "qkvo"}
        shapes |= {f"{p}mlp.{x}_proj.weight": (2 * hidden, hidden) for x in ("gate", "up")}
        shapes |= {f"{p}mlp.down_proj.weight": (hidden, 2 * hidden), f"{p}self_attn.q_norm.weight": (hidden,)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def write(folder: Path, weights, *, shards=1, reverse=False, config=None, template="{{ messages[0].content }}"):
    """Write `weights` as a model folder, in `shards` files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {}), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"top_k": len(folder.name)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128}))
    (folder / "chat_template.jinja").write_text(template)
    names = sorted(weights, reverse=reverse)
    files = {}
    for i in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        files |= dict.fromkeys(names[i::shards], file)
    for file in set(files.values()):
        chosen = {name: weights[name] for name in names if files[name] == file}
        save_file(chosen, folder / file, {"format": "pt"})
    if shards > 1:
        index = {"metadata": {"total_size": sum(a.nbytes for a in weights.values())}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
