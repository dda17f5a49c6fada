"""Random bf16 pairs with the exact tensor shapes of real models, for the other benchmarks. No weights are downloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SHAPES = {  # layers, hidden, ffn, heads, kv heads; head_dim 128, vocabulary 151,936, tied embeddings; tensors per shard file
    "tiny": (4, 256, 768, 4, 2, 10_000),
    "0.6b": (28, 1024, 3072, 16, 8, 10_000),
    "1.7b": (28, 2048, 6144, 16, 8, 170),
    "4b": (36, 2560, 9728, 32, 8, 140),
}
VOCABULARY = 151_936


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of Qwen3-`size`."""
    layers, hidden, ffn, heads, kv, _ = SHAPES[size]
    result: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for i in range(layers):
        p = f"model.layers.{i}."
        result |= {
            f"{p}input_layernorm.weight": (hidden,),
            f"{p}mlp.down_proj.weight": (hidden, ffn),
            f"{p}mlp.gate_proj.weight": (ffn, hidden),
            f"{p}mlp.up_proj.weight": (ffn, hidden),
            f"{p}post_attention_layernorm.weight": (hidden,),
            f"{p}self_attn.k_norm.weight": (128,),
            f"{p}self_attn.k_proj.weight": (128 * kv, hidden),
            f"{p}self_attn.o_proj.weight": (hidden, 128 * heads),
            f"{p}self_attn.q_norm.weight": (128,),
            f"{p}self_attn.q_proj.weight": (128 * heads, hidden),
            f"{p}self_attn.v_proj.weight": (128 * kv, hidden),
        }
    return result | {"model.norm.weight": (hidden,)}


def config(size: str) -> dict[str, object]:
    """The config that transformers and mergekit read."""
    layers, hidden, ffn, heads, kv, _ = SHAPES[size]
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": 128,
        "vocab_size": VOCABULARY, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "rope_theta": 5e6,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 40960, "hidden_act": "silu", "eos_token_id": 1, "bos_token_id": 0,
    }  # fmt: skip


def build(folder: Path, size: str, seed: int) -> Path:
    """Write one random model (kept if it is there already); neighbouring seeds differ by a few percent, like a real pair."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    block = 1 << 20
    bits = (
        common.normal(size=block, scale=0.02).astype(np.float32),
        own.normal(size=block, scale=0.002).astype(np.float32),
    )
    words = ((bits[0] + bits[1]).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    all_shapes, per_shard = shapes(size), SHAPES[size][-1]
    names = list(all_shapes)
    groups = [names[i : i + per_shard] for i in range(0, len(names), per_shard)]
    files = (
        ["model.safetensors"]
        if len(groups) == 1
        else [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    )
    for file, group in zip(files, groups, strict=True):
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name in group:
            num_bytes = 2 * int(np.prod(all_shapes[name]))
            header[name] = {"dtype": "BF16", "shape": list(all_shapes[name]), "data_offsets": [end, end + num_bytes]}
            end += num_bytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for start in range(0, end, len(words)):
                out.write(words[: min(len(words), end - start)])
    if len(groups) > 1:
        weight_map = {name: file for file, group in zip(files, groups, strict=True) for name in group}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config(size)))
    return folder


def build_apart(work: Path, size: str) -> tuple[Path, Path]:
    """Write a pair from processes of their own: a benchmark must stay small, its memory counts in its children's peaks."""
    a, b = work / f"{size}-1", work / f"{size}-2"
    for seed, folder in enumerate((a, b), 1):
        code = f"from pairs import build, Path; build(Path({str(folder)!r}), {size!r}, {seed})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
    return a, b
