"""Headers, doctor and plan of a pair of mixtures of a trillion parameters, as sparse files: seconds, CPU seconds and peak memory.

    python benchmarks/giant.py                      # in a temporary folder
    python benchmarks/giant.py --work FOLDER        # keeps the pair

61 layers, 384 experts in all but the first, hidden size 7,168, FP8 in blocks of 128 × 128 with their scales, one file a layer:
the shapes of Kimi K2. The files are 1 TB each by their size and take a few MB on the disk: headers are real, weights are holes.
`interpole merge --dry-run` opens both, asks the doctor and plans the merge; its rate is that of reading holes. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from math import prod
from pathlib import Path

from merge import measure

LAYERS, EXPERTS, HIDDEN, EXPERT, DENSE, VOCABULARY, BLOCK = 61, 384, 7168, 2048, 18_432, 163_840, 128
HEADS, ROPE, NOPE, VALUE, Q_RANK, KV_RANK = 64, 64, 128, 128, 1536, 512
SIZES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def coded(name: str, rows: int, columns: int) -> Tensors:
    """A matrix of FP8 codes and its scales."""
    return {
        f"{name}.weight": ("F8_E4M3", (rows, columns)),
        f"{name}.weight_scale_inv": ("F32", (-(-rows // BLOCK), -(-columns // BLOCK))),
    }


def ffn(name: str, width: int) -> Tensors:
    """Gate, up and down."""
    return {
        **coded(f"{name}.gate_proj", width, HIDDEN),
        **coded(f"{name}.up_proj", width, HIDDEN),
        **coded(f"{name}.down_proj", HIDDEN, width),
    }


def layer(number: int) -> Tensors:
    """The tensors of a layer of DeepSeek-V3's architecture: latent attention, then a dense sublayer or experts."""
    at = f"model.layers.{number}"
    tensors: Tensors = {
        f"{at}.input_layernorm.weight": ("BF16", (HIDDEN,)),
        f"{at}.post_attention_layernorm.weight": ("BF16", (HIDDEN,)),
        f"{at}.self_attn.q_a_layernorm.weight": ("BF16", (Q_RANK,)),
        f"{at}.self_attn.kv_a_layernorm.weight": ("BF16", (KV_RANK,)),
        **coded(f"{at}.self_attn.q_a_proj", Q_RANK, HIDDEN),
        **coded(f"{at}.self_attn.q_b_proj", HEADS * (NOPE + ROPE), Q_RANK),
        **coded(f"{at}.self_attn.kv_a_proj_with_mqa", KV_RANK + ROPE, HIDDEN),
        **coded(f"{at}.self_attn.kv_b_proj", HEADS * (NOPE + VALUE), KV_RANK),
        **coded(f"{at}.self_attn.o_proj", HIDDEN, HEADS * VALUE),
    }
    if number == 0:
        return tensors | ffn(f"{at}.mlp", DENSE)
    tensors |= {
        f"{at}.mlp.gate.weight": ("BF16", (EXPERTS, HIDDEN)),
        f"{at}.mlp.gate.e_score_correction_bias": ("F32", (EXPERTS,)),
        **ffn(f"{at}.mlp.shared_experts", EXPERT),
    }
    for expert in range(EXPERTS):
        tensors |= ffn(f"{at}.mlp.experts.{expert}", EXPERT)
    return tensors


def write_holes(path: Path, tensors: Tensors) -> None:
    """A safetensors file with this header, whose data are a hole."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + SIZES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)


def build(folder: Path) -> Path:
    """Write one model; kept if it is there already."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True)
    outer: Tensors = {
        "model.embed_tokens.weight": ("BF16", (VOCABULARY, HIDDEN)),
        "model.norm.weight": ("BF16", (HIDDEN,)),
        "lm_head.weight": ("BF16", (VOCABULARY, HIDDEN)),
    }
    groups = [*map(layer, range(LAYERS)), outer]
    weight_map = {}
    for i, tensors in enumerate(groups):
        file = f"model-{i + 1}-of-{len(groups)}.safetensors"
        write_holes(folder / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    words = {f"w{i}": i for i in range(VOCABULARY - 2)}
    added = [{"id": VOCABULARY - 2 + i, "content": text} for i, text in enumerate(("<think>", "</think>"))]
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": words}, "added_tokens": added})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    (folder / "config.json").write_text(json.dumps(config()))
    return folder


def config() -> dict[str, object]:
    """The config of Kimi K2's shapes."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN, "intermediate_size": DENSE, "moe_intermediate_size": EXPERT, "n_routed_experts": EXPERTS,
        "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "q_lora_rank": Q_RANK, "kv_lora_rank": KV_RANK,
        "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": VALUE, "vocab_size": VOCABULARY,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rope_theta": 50000.0,
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]},
    }  # fmt: skip


def main() -> None:
    """Make the pair, plan its merge to bfloat16 and to FP8, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the pair (kept); default a temporary one")
    options = parser.parse_args()
    interpole = [sys.executable, "-m", "interpole"]
    with tempfile.TemporaryDirectory(prefix="interpole-bench-") as temporary:
        work = options.work or Path(temporary)
        a, b = build(work / "giant-1"), build(work / "giant-2")
        merge = [*interpole, "merge", str(a), str(b), "--lambda", "0.6", "--out", str(work / "out"), "--dry-run"]
        commands = {
            "doctor": [*interpole, "doctor", str(a), str(b)],
            "merge --dry-run": merge,
            "merge --dry-run --dtype fp8": [*merge, "--dtype", "fp8"],
        }
        costs = {name: measure(command) for name, command in commands.items()}
    print("| | wall s | CPU s | peak MB |\n| --- | ---: | ---: | ---: |")
    for name, (wall, cpu, peak) in costs.items():
        print(f"| `{name}` | {wall:.1f} | {cpu:.1f} | {peak:.0f} |")
    print(json.dumps({name: cost._asdict() for name, cost in costs.items()}))


if __name__ == "__main__":
    main()
