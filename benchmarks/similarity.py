"""Time `interpole similarity` against the floor: reading both models, `cat A B > /dev/null`, with a warm cache.

Builds a pair of random bfloat16 checkpoints with Qwen3-0.6B's exact shapes in a temporary folder, times both interleaved,
each in a process of its own, and prints a table and, as its last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD, VOCAB = 28, 1024, 3072, 16, 8, 128, 151_936


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of Qwen3-0.6B (tied embeddings)."""
    layer = {
        "input_layernorm": (HIDDEN,),
        "mlp.down_proj": (HIDDEN, FFN),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.k_norm": (HEAD,),
        "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "self_attn.q_norm": (HEAD,),
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
    }
    layers = {f"model.layers.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (VOCAB, HIDDEN), **layers, "model.norm.weight": (HIDDEN,)}


def build(folder: Path, noise: float) -> None:
    """Write a checkpoint of weights of size 0.02, moved by `noise` times that; equal seeds share the unmoved weights."""
    folder.mkdir()
    header, end = {}, 0
    for name, shape in shapes().items():
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    shared, own = np.random.default_rng(0), np.random.default_rng(int(noise * 1000))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes().values():
            weights = shared.standard_normal(int(np.prod(shape)), np.float32)
            weights += np.float32(noise) * own.standard_normal(weights.size, np.float32)
            file.write((weights.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    config = {"model_type": "qwen3", "tie_word_embeddings": True, "num_hidden_layers": LAYERS}
    (folder / "config.json").write_text(json.dumps(config))


def timed(command: str) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak resident bytes of a shell command."""
    start = time.perf_counter()
    process = subprocess.Popen(["/bin/sh", "-c", f"exec {command}"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


LOOP = """
import sys
from interpole.checkpoint import open_checkpoint
from interpole.similarity import compare
a, b = map(open_checkpoint, sys.argv[1:3])
compare(a, b, threads=int(sys.argv[3]) or None)
"""


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder, "a"), Path(folder, "b")
        for side, noise in ((a, 0.05), (b, 0.06)):  # in a process of its own: its memory must not count below
            builder = multiprocessing.Process(target=build, args=(side, noise))
            builder.start()
            builder.join()
        num_bytes = sum((side / "model.safetensors").stat().st_size for side in (a, b))
        commands = {
            "cat A B > /dev/null": f"cat {a}/model.safetensors {b}/model.safetensors",
            "similarity": f"{sys.executable} -c '{LOOP}' {a} {b} {arguments.threads}",
            "imports alone": f"{sys.executable} -c 'import interpole.similarity'",
        }
        results = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                results[name].append(timed(command))
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in results.items()
    }
    print(f"two checkpoints of {num_bytes / 2e9:.2f} GB, {os.cpu_count()} cores, {platform.machine()}, warm cache")
    print(f"{'':24}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
    for name, (wall, cpu, peak) in medians.items():
        print(f"{name:24}{wall:8.2f}{cpu:8.2f}{peak / 1e6:9.0f}")
    floor = medians["cat A B > /dev/null"][0]
    print(
        json.dumps({"bytes": num_bytes, "floor_s": floor, "ratio": medians["similarity"][0] / floor, "runs": results})
    )


if __name__ == "__main__":
    main()
