"""λ per request in vLLM against plain vLLM: tokens per CPU second and memory; and a sweep in one batch against the dial.

    .venv-vllm/bin/python benchmarks/serve_vllm.py                # a random pair with Qwen3-0.6B's shapes
    .venv-vllm/bin/python benchmarks/serve_vllm.py --size tiny    # a small one
    .venv-vllm/bin/python benchmarks/serve_vllm.py --sweep 4      # the tiny pair, all λ at once or one after the other

Every engine runs in a process of its own, all rows of a batch go on to the same length, one thread. What counts is CPU time: a
machine that is busy with other things changes it less than the clock. Compare within one run only. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}
SETTINGS: dict[str, Any] = {
    "enforce_eager": True,
    "enable_chunked_prefill": False,
    "enable_prefix_caching": False,
    "generation_config": "vllm",
    "max_model_len": 512,
    "kv_cache_memory_bytes": 1 << 28,
    "distributed_executor_backend": "uni",
}
NUM_ROWS, NUM_PROMPT_TOKENS, NUM_TOKENS = 16, 32, 48
BATCHES = {"one λ": [0.5], "mixed λ": [0.0, 0.3, 0.5, 1.0], "λ = 1": [1.0]}
SWEEP = [i / 10 for i in range(11)]


def rate(llm: Any, lams: list[float | None]) -> float:
    """Generated tokens per CPU second of a batch of rows at these λ, in turn."""
    from vllm import SamplingParams

    prompts = [
        {"prompt_token_ids": [(7 * row + 3 * i) % 250 for i in range(NUM_PROMPT_TOKENS)]} for row in range(NUM_ROWS)
    ]
    settings = [
        SamplingParams(
            temperature=0,
            max_tokens=NUM_TOKENS,
            ignore_eos=True,
            detokenize=False,
            extra_args=None if lams[row % len(lams)] is None else {"lam": lams[row % len(lams)]},
        )
        for row in range(NUM_ROWS)
    ]
    before = time.process_time()
    answers = llm.generate(prompts, settings, use_tqdm=False)
    spent = time.process_time() - before
    assert sum(len(answer.outputs[0].token_ids) for answer in answers) == NUM_ROWS * NUM_TOKENS
    return NUM_ROWS * NUM_TOKENS / spent


def in_one_engine(kind: str, folders: list[str]) -> dict[str, Any]:
    """The figures of one engine: `plain` on a folder, or `pair`."""
    from vllm import LLM

    if kind == "plain":
        llm = LLM(folders[0], skip_tokenizer_init=True, **SETTINGS)
        batches: dict[str, list[float | None]] = {"plain": [None]}
    else:
        from interpole.engines import vllm_per_request
        from interpole.merging.recipe import Recipe

        vllm_per_request.register()
        recipe = Recipe.between(*folders, 0.5)
        llm = LLM(folders[0], skip_tokenizer_init=True, **SETTINGS | vllm_per_request.settings(recipe))
        batches = dict(BATCHES)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate(llm, [None])  # the first is slower
    rates: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(3):
        for name, lams in batches.items():
            rates[name].append(rate(llm, lams))
    return {"rates": {name: max(found) for name, found in rates.items()}, "memory": memory}


def sweep(kind: str, folders: list[str], repeats: str = "1") -> dict[str, Any]:
    """Seconds of a sweep over λ of the tiny pair: `dial`, one λ after the other in place, or `pair`, all in one batch."""
    from interpole.engines import vllm_per_request
    from interpole.engines.vllm import open_vllm
    from interpole.merging.recipe import Recipe
    from interpole.records import Sampler

    recipe = Recipe.between(*folders, 0.0)
    options: dict[str, Any] = {"kv_cache_memory_bytes": 1 << 28, "max_model_len": 512, "enable_prefix_caching": False}
    prompts = [f"{a}{b} a*{b} = ?" for a in range(1, 9) for b in range(1, 4)] * int(repeats)
    jobs = [(lam, prompt) for lam in SWEEP for prompt in prompts]
    sampler = Sampler(temperature=1.0, top_p=0.95, max_tokens=300)
    if kind == "dial":
        engine = open_vllm(recipe, max_rows=256, **options)
        engine.generate(prompts[:4], sampler, range(4))
        wall, cpu, num_tokens = time.perf_counter(), time.process_time(), 0
        for number, lam in enumerate(SWEEP):
            engine.load(lam)
            seeds = range(number * len(prompts), (number + 1) * len(prompts))
            num_tokens += sum(one.num_tokens for one in engine.generate(prompts, sampler, seeds))
    else:
        from vllm import LLM, SamplingParams

        vllm_per_request.register()
        both = SETTINGS | options | vllm_per_request.settings(recipe)
        llm = LLM(folders[0], max_num_seqs=256, **both)
        settings = [
            SamplingParams(temperature=1.0, top_p=0.95, max_tokens=300, seed=key, extra_args={"lam": lam})
            for key, (lam, _) in enumerate(jobs)
        ]
        asked = [prompt for _, prompt in jobs]
        llm.generate(asked[:4], settings[:4], use_tqdm=False)
        wall, cpu = time.perf_counter(), time.process_time()
        answers = llm.generate(asked, settings, use_tqdm=False)
        num_tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "tokens": num_tokens}


def child(function: Callable[..., dict[str, Any]], kind: str, folders: list[Path], *more: str) -> dict[str, Any]:
    """What a function finds in a new process."""
    command = [sys.executable, "-P", __file__, "--child", function.__name__, kind, *map(str, folders), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.6b")
    parser.add_argument("--sweep", type=int, metavar="N", help="sweep, each of 24 questions N times at each of 11 λ")
    parser.add_argument("--child", nargs="+")
    options = parser.parse_args()
    if options.child:
        name, kind, instruct, thinking, *more = options.child
        print(json.dumps(globals()[name](kind, [instruct, thinking], *more)))
        return
    with tempfile.TemporaryDirectory() as work:
        if options.sweep:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
            from interpole.lab import shipped
            from widened import with_heads_of_32

            pair = [with_heads_of_32(one, Path(work) / one.name) for one in (shipped().instruct, shipped().thinking)]
            found = {kind: child(sweep, kind, pair, str(options.sweep)) for kind in ("dial", "pair")}
        else:
            from pairs import build

            pair = [build(Path(work) / str(seed), options.size, seed) for seed in (1, 2)]
            found = {kind: child(in_one_engine, kind, pair) for kind in ("plain", "pair")}
            plain = found["plain"]["rates"]["plain"]
            for name, one in found["pair"]["rates"].items():
                print(f"{name}: {one:.1f} tokens per CPU second, {one / plain:.2f} × plain ({plain:.1f})")
            print(f"memory: {found['pair']['memory']:.2f} GiB, plain {found['plain']['memory']:.2f} GiB")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
