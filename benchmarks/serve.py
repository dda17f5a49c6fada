"""What λ per request costs: an engine of two checkpoints against the same engine with one, and a sweep in one batch.

    python benchmarks/serve.py           # some minutes
    python benchmarks/serve.py --quick   # fewer rounds, fewer samples

Tokens per CPU second of 32 rows in float32 on one thread, in rounds that take turns; of each the best. `plain` is
`TransformersEngine` at λ = 0.5; the others are `PerRequestEngine` with all rows at 0.5, all at 1, and rows spread evenly from 0
to 1. The tiny pair is bound by the calls of its many small layers, the wide one (25 million parameters, random) by arithmetic.
The sweep is the tiny pair's task at eleven λ, by switches of one engine and as one queue of `PerRequestEngine`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from interpole.engines.base import Engine, Request
from interpole.engines.open import open_engine
from interpole.engines.per_request import open_per_request
from interpole.formats import seed_of
from interpole.lab import shipped
from interpole.merging.recipe import Recipe
from interpole.records import Sampler
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan

NUM_ROWS, NUM_TOKENS, MAX_ROWS = 32, 64, 128
OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu", "threads": 1, "max_rows": MAX_ROWS}
ENDLESS = Sampler(temperature=0.6, top_p=0.95, top_k=20, max_tokens=NUM_TOKENS)
LAMBDAS = [round(0.1 * i, 1) for i in range(11)]


def wide_pair(work: Path) -> tuple[Path, Path]:
    """Two random models of Qwen3's architecture, with the tiny pair's tokenizer."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = Qwen3Config(**sizes, num_key_value_heads=4, head_dim=64, vocab_size=292, max_position_embeddings=1024)
    folders = work / "wide-0", work / "wide-1"
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        for path in [*shipped().instruct.glob("tokenizer*"), *shipped().instruct.glob("*.jinja")]:
            shutil.copy(path, folder)
    return folders


def answered(engine: Engine, requests: Sequence[Request]) -> int:
    """Answer all; returns how many tokens that took."""
    for request in requests:
        engine.add(request)
    num_tokens = 0
    while engine.busy:
        for finished in engine.step():
            if finished.error is not None:
                raise finished.error
            num_tokens += finished.generation.num_tokens
    return num_tokens


def rate(action: Callable[[], int]) -> float:
    """Tokens per CPU second."""
    before = time.process_time()
    return action() / (time.process_time() - before)


def requests(lams: Sequence[float | None]) -> list[Request]:
    """A batch that nobody leaves early."""
    return [Request(i, f"{i + 10} a+{i % 9 + 1} b*2 = ?", ENDLESS, i, lam=lam) for i, lam in enumerate(lams)]


def cost(sources: tuple[Path, Path], rounds: int) -> dict[str, float]:
    """Tokens per CPU second by case."""
    recipe = Recipe.between(*sources, 0.5)
    plain: Any = open_engine("transformers", recipe, **OPTIONS)
    paired: Any = open_per_request(recipe, **OPTIONS)
    plain._eos = paired._eos = frozenset()
    cases: dict[str, tuple[Engine, list[float | None]]] = {
        "plain": (plain, [None] * NUM_ROWS),
        "one λ": (paired, [0.5] * NUM_ROWS),
        "an end": (paired, [1.0] * NUM_ROWS),
        "mixed": (paired, [i / (NUM_ROWS - 1) for i in range(NUM_ROWS)]),
    }
    best = dict.fromkeys(cases, 0.0)
    for number in range(rounds + 1):
        for name, (engine, lams) in cases.items():
            found = rate(lambda engine=engine, lams=lams: answered(engine, requests(lams)))  # type: ignore[misc]
            best[name] = max(best[name], found if number else 0.0)  # the first round warms up
    return best


def sweep(samples: int, rounds: int) -> dict[str, float]:
    """Tokens per CPU second of the tiny pair's task at eleven λ: by switches, and in one queue."""
    pair = shipped()
    content = {"sources": {"instruct": str(pair.instruct), "thinking": str(pair.thinking)}, "tasks": "arithmetic"}
    planned = Plan(SweepConfig.of(content | {"lambdas": LAMBDAS, "samples": samples}))
    (benchmark,) = planned.benchmarks.values()
    asked = [
        Request(0, planned.render([{"role": "user", "content": benchmark.prompt(problem)}]), benchmark.sampler,
                seed_of(0, problem.id, epoch))
        for epoch in range(1, samples + 1)
        for problem in benchmark.problems
    ]  # fmt: skip
    recipe = Recipe.between(pair.instruct, pair.thinking, 0.5)
    plain, paired = open_engine("transformers", recipe, **OPTIONS), open_per_request(recipe, **OPTIONS)

    def switched() -> int:
        num_tokens = 0
        for lam in LAMBDAS:
            plain.load(lam)
            num_tokens += answered(plain, [one._replace(key=i) for i, one in enumerate(asked)])
        return num_tokens

    def together() -> int:
        every = [one._replace(lam=lam) for lam in LAMBDAS for one in asked]
        return answered(paired, [one._replace(key=i) for i, one in enumerate(every)])

    cases = {"switches": switched, "one queue": together}
    best = dict.fromkeys(cases, 0.0)
    for _ in range(rounds):
        best = {name: max(best[name], rate(case)) for name, case in cases.items()}
    return best


def main() -> None:
    """Measure, print two tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and samples")
    rounds, samples = (2, 1) if parser.parse_args().quick else (4, 2)
    tiny = shipped()
    with tempfile.TemporaryDirectory(prefix="interpole-bench-") as temporary:
        costs = {
            "tiny pair": cost((Path(tiny.instruct), Path(tiny.thinking)), rounds),
            "wide pair": cost(wide_pair(Path(temporary)), rounds),
        }
    print(f"{os.cpu_count()} cores, load average of the last quarter of an hour {os.getloadavg()[2]:.1f}\n")
    print("| tokens per CPU second | plain | one λ | an end | mixed |\n| --- |" + " ---: |" * 4)
    for name, found in costs.items():
        cells = [f"{value:,.0f} ({value / found['plain']:.2f} ×)" for value in found.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    swept = sweep(samples, max(1, rounds // 2))
    ratio = swept["one queue"] / swept["switches"]
    print("\n| a sweep over eleven λ | switches | one queue | ratio |\n| --- | ---: | ---: | ---: |")
    print(f"| tokens per CPU second | {swept['switches']:,.0f} | {swept['one queue']:,.0f} | {ratio:.2f} |")
    print(json.dumps({"load": os.getloadavg()[2], "costs": costs, "sweep": swept}))


if __name__ == "__main__":
    main()
