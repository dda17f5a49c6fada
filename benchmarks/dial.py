"""A λ switch in a running engine against writing a folder and loading that: seconds, for a pair with Qwen3-0.6B's shapes.

    python benchmarks/dial.py                        # transformers
    .venv-vllm/bin/python benchmarks/dial.py --engine vllm

The pair is random (pairs.py) with the tiny pair's tokenizer. `switch` is `engine.load(λ)`: merge, load and check.
`write` is what `interpole merge` does without starting Python. `start` is a new engine on that folder, its imports not counted;
for vLLM also `reload`: its own loading of the written folder into the running engine. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interpole.dial import open_engine
from interpole.lab import shipped
from interpole.merged import merge
from interpole.recipe import Recipe
from interpole.saving import save
from pairs import SHAPES, build

LAMBDAS = (0.3, 0.6, 0.45, 0.7, 0.55, 0.35)
OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {},
    "vllm": {"kv_cache_memory_bytes": 1 << 28, "max_model_len": 1024},
}


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def pair(work: Path, size: str) -> tuple[Path, Path]:
    """Two random models with a tokenizer."""
    folders = [build(work / f"{size}-{seed}", size, seed) for seed in (1, 2)]
    for folder in folders:
        for path in shipped().instruct.glob("tokenizer*"):
            shutil.copy(path, folder)
    return folders[0], folders[1]


def measure(engine_name: str, sources: tuple[Path, Path], out: Path, rounds: int) -> dict[str, list[float]]:
    """Every way to get to another λ, in turn, `rounds` times; the first round of `switch` warms the page cache."""
    options = OPTIONS[engine_name]
    engine: Any = open_engine(engine_name, Recipe.between(*sources, 0.0), **options)
    engine.load(LAMBDAS[-1])
    found: dict[str, list[float]] = {"switch": [], "write": [], "start": []}
    for lam in LAMBDAS[:rounds]:
        recipe = Recipe.between(*sources, lam)
        found["switch"].append(seconds(lambda lam=lam: engine.load(lam)))
        found["write"].append(seconds(lambda recipe=recipe: save(merge(recipe), out)))
        if engine_name == "vllm":
            reload = {"weights_path": str(out)}
            found.setdefault("reload", []).append(
                seconds(lambda reload=reload: engine._llm.collective_rpc("reload_weights", kwargs=reload))
            )
        found["start"].append(seconds(lambda: start(engine_name, out, options)))
        shutil.rmtree(out)
    return found


def start(engine_name: str, folder: Path, options: dict[str, Any]) -> None:
    """A new engine on a folder, by the engine's own means."""
    if engine_name == "transformers":
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        return
    from vllm import LLM

    llm = LLM(str(folder), enforce_eager=True, distributed_executor_backend="uni", **options)
    llm.llm_engine.engine_core.shutdown()


def main() -> None:
    """Build the pair, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=OPTIONS, default="transformers")
    parser.add_argument("--size", choices=SHAPES, default="0.6b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for the pair (kept); default a temporary one")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="interpole-dial-"))
    found = measure(options.engine, pair(work, options.size), work / "merged", options.rounds)
    medians = {name: statistics.median(times) for name, times in found.items()}
    print(f"{options.engine}, Qwen3-{options.size} pair, {os.cpu_count()} cores, median of {options.rounds}")
    print("| | seconds |\n| --- | --- |")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} |")
    ratio = (medians["write"] + medians["start"]) / medians["switch"]
    print(f"write + start against switch: {ratio:.1f} ×")
    if not options.work:
        shutil.rmtree(work)
    print(json.dumps({"engine": options.engine, "size": options.size, "times": found, "ratio": ratio}))


if __name__ == "__main__":
    main()
