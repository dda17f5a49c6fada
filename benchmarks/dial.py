"""A λ switch in a running engine against writing a folder and loading that, for a pair with Qwen3-0.6B's shapes.

    python benchmarks/dial.py                        # transformers
    .venv-vllm/bin/python benchmarks/dial.py --engine vllm

All times are in seconds and end with the first token (but for `write`). `switch` is `engine.load(λ)`; `write` is what `interpole
merge` does once Python is up; `start` is a new engine on that folder in the same process; `process` the same in a new process,
as when a server is started.
The pair is random (pairs.py) with the tiny pair's tokenizer. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interpole.checkpoints.save import save
from interpole.engines.open import open_engine
from interpole.lab import shipped
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.records import Sampler
from pairs import SHAPES, build

LAMBDAS = (0.3, 0.6, 0.45, 0.7, 0.55, 0.35)
OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {},
    "vllm": {"kv_cache_memory_bytes": 1 << 28, "max_model_len": 1024},
}


def seconds(action: Callable[..., Any], *arguments: Any) -> float:
    """Wall time of a call."""
    before = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - before


def pair(work: Path, size: str) -> tuple[Path, Path]:
    """Two random models with a tokenizer."""
    folders = [build(work / f"{size}-{seed}", size, seed) for seed in (1, 2)]
    for folder in folders:
        for path in shipped().instruct.glob("tokenizer*"):
            shutil.copy(path, folder)
    return folders[0], folders[1]


def measure(engine_name: str, sources: tuple[Path, Path], out: Path, rounds: int) -> dict[str, list[float]]:
    """Switches in one engine, after one that warms the page cache; then folders, each loaded by new engines."""
    options = OPTIONS[engine_name]
    engine: Any = open_engine(engine_name, Recipe.between(*sources, 0.0), **options)

    def switch(lam: float) -> None:
        engine.load(lam)
        engine.generate(["1"], Sampler(temperature=0, max_tokens=1), [0])

    switch(LAMBDAS[-1])
    found: dict[str, list[float]] = {"switch": [seconds(switch, lam) for lam in LAMBDAS[:rounds]]}
    found |= {"write": [], "start": [], "process": []}
    command = [sys.executable, __file__, "--engine", engine_name, "--only-start", str(out)]
    for lam in LAMBDAS[:rounds]:
        found["write"].append(seconds(save, merge(Recipe.between(*sources, lam)), out))
        found["start"].append(seconds(start, engine_name, out))
        found["process"].append(seconds(subprocess.run, command))
        shutil.rmtree(out)
    return found


def start(engine_name: str, folder: Path) -> None:
    """A new engine on a folder, by the engine's own means, up to its first token."""
    if engine_name == "transformers":
        import torch
        from transformers import AutoModelForCausalLM

        with torch.inference_mode():
            AutoModelForCausalLM.from_pretrained(folder, dtype="auto")(torch.tensor([[1]]))
        return
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder), enforce_eager=True, distributed_executor_backend="uni", **OPTIONS["vllm"])
    llm.generate("1", SamplingParams(max_tokens=1), use_tqdm=False)


def main() -> None:
    """Build the pair, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=OPTIONS, default="transformers")
    parser.add_argument("--size", choices=SHAPES, default="0.6b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for the pair (kept); default a temporary one")
    parser.add_argument("--only-start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_start:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        return start(options.engine, options.only_start)
    work = options.work or Path(tempfile.mkdtemp(prefix="interpole-dial-"))
    found = measure(options.engine, pair(work, options.size), work / "merged", options.rounds)
    medians = {name: statistics.median(times) for name, times in found.items()}
    print(f"{options.engine}, Qwen3-{options.size} pair, {os.cpu_count()} cores, median of {options.rounds}")
    print("| | seconds |\n| --- | --- |")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} |")
    ratios = {way: (medians["write"] + medians[way]) / medians["switch"] for way in ("start", "process")}
    print(", ".join(f"write + {way} against switch: {ratio:.1f} ×" for way, ratio in ratios.items()))
    if not options.work:
        shutil.rmtree(work)
    print(json.dumps({"engine": options.engine, "size": options.size, "times": found, "ratios": ratios}))
    return None


if __name__ == "__main__":
    main()
