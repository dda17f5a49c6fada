"""What has to be seen on a GPU, in ten minutes and in one JSON for an issue.

    make gpu-smoke PYTHON=…                      # an environment with torch for CUDA and, if it shall be tried, vLLM
    python benchmarks/gpu_smoke.py --device cpu  # a dry run of the same code where there is none

The tests that are marked `gpu`; then, for every engine that is installed and with the shipped pair: greedy responses at λ on
the dial against those of the folders that `merge` writes; a pool of two engines (on two devices, or both on one) against one,
in their responses and in tokens per second. The JSON goes to stdout, everything else to stderr. The exit code is 1 where a
test failed, a response differed, or an engine did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from interpole.checkpoints.save import save
from interpole.errors import InterpoleError, RunError
from interpole.lab import shipped
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.runs import samples
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan

ROOT = Path(__file__).parents[1]
PACKAGES = ("interpole", "torch", "transformers", "vllm")
LAMS = (0.0, 0.45, 1.0)
VLLM_BYTES = 1 << 30  # for the keys and values of one engine, so that two fit one card
Answers = dict[tuple[str, int], str]
"""Question and number → response."""


class Swept(NamedTuple):
    """What came of a sweep: of every λ the responses, and how fast."""

    answers: dict[float, Answers]
    tokens_per_second: float
    engines: list[str]  # each in words, with its device


def devices() -> list[str]:
    """The names of the CUDA devices."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def installed(package: str) -> str | None:
    """The version of a package, if it is there; it may come under another name, as vLLM's builds for a CPU do."""
    names = packages_distributions().get(package)
    return version(names[0]) if names else None


def outcomes() -> dict[str, dict[str, Any]]:
    """Test → outcome, seconds, and the end of what it said."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-q", "-p", "no:xdist", "-m", "gpu", "tests/engines/test_gpu.py", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, stdout=sys.stderr, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {}
    for case in cases:
        kinds = [child for child in case if child.tag in ("failure", "error", "skipped")]
        said = (kinds[0].text or kinds[0].get("message") or "")[-2000:] if kinds else ""
        outcome = kinds[0].tag if kinds else "passed"
        found[case.get("name", "")] = {"outcome": outcome, "seconds": float(case.get("time", 0)), "said": said}
    return found


def options_of(engine: str, device: str) -> dict[str, Any]:
    """An engine's options: float32, so that what differs is no rounding of weights."""
    if engine == "vllm":
        return {"dtype": "float32", "kv_cache_memory_bytes": VLLM_BYTES, "max_model_len": 512}
    return {"dtype": "float32", "device": device}


def ends_of(engine: str, folder: Path) -> tuple[Path, Path]:
    """The shipped pair; for vLLM with wider heads, as its attention wants them."""
    pair = shipped()
    ends = (pair.instruct, pair.thinking)
    if engine != "vllm":
        return ends
    sys.path.insert(0, str(ROOT / "tests"))
    from widened import with_heads_of_32

    first, second = (with_heads_of_32(end, folder / end.name) for end in ends)
    return first, second


def sweep_of(
    ends: Sequence[Path], lams: Sequence[float], engine: str, device: str, engines: int = 1, **settings: Any
) -> Swept:
    """Sweep the dial between two checkpoints."""
    content = {
        "sources": {"instruct": str(ends[0]), "thinking": str(ends[1])}, "tasks": "arithmetic", "lambdas": list(lams),
        "engine": engine, "engine_options": options_of(engine, device), "engines": engines,
    }  # fmt: skip
    config = SweepConfig.of(content | settings)
    with tempfile.TemporaryDirectory(prefix="interpole-gpu-") as out, sweep.pool_of(Plan(config), _say) as pool:
        pool.versions()
        summary = sweep.run(config, Path(out) / "run", pool=pool)
        seconds = time.monotonic() - pool.first_request
        rates = [str(rate) for rate in pool.rates()]
        if summary.failed:
            raise RunError(summary.failed[0].parts[0].error, f"{engine} at {summary.failed[0].point}")
        found: dict[float, Answers] = {lam: {} for lam in lams}
        for one in samples.read(Path(out) / "run"):
            found[one.lam or 0.0][one.problem_id, one.number] = one.response
    return Swept(found, summary.num_tokens / seconds, rates)


def dial_against_folders(ends: tuple[Path, Path], engine: str, device: str, limit: int) -> dict[str, Any]:
    """Greedy responses on the dial, and those of the folder of each λ: how many there are, and how many differ."""
    greedy = {"limit": limit, "samples": 1, "sampler": {"temperature": 0, "max_tokens": 128}}
    dialled = sweep_of(ends, LAMS, engine, device, **greedy)
    found = {}
    for lam in LAMS:
        with tempfile.TemporaryDirectory(prefix="interpole-gpu-") as temporary:
            folder = save(merge(Recipe.between(*map(str, ends), lam)), Path(temporary) / "merged")
            written = sweep_of((folder, folder), (0.0,), engine, device, **greedy)
        found[f"{lam:g}"] = compared(dialled.answers[lam], written.answers[0.0])
    return found


def two_against_one(ends: tuple[Path, Path], engine: str, device: str, limit: int, num_samples: int) -> dict[str, Any]:
    """A sweep by one engine, and by two: whether responses differ, and how fast each was."""
    settings = {"limit": limit, "samples": num_samples}
    one, two = (sweep_of(ends, (0.0, 0.25, *LAMS[1:]), engine, device, num, **settings) for num in (1, 2))
    return {
        "responses": {f"{lam:g}": compared(one.answers[lam], two.answers[lam]) for lam in one.answers},
        "tokens_per_second": {"1": one.tokens_per_second, "2": two.tokens_per_second},
        "engines": two.engines,
    }


def compared(ours: Answers, theirs: Answers) -> dict[str, int]:
    """How many responses there are, and how many differ."""
    assert ours.keys() == theirs.keys()
    return {"responses": len(ours), "different": sum(ours[key] != theirs[key] for key in ours)}


def tried(engine: str, device: str, limit: int, num_samples: int) -> dict[str, Any]:
    """All of an engine; where it does not run, why."""
    try:
        with tempfile.TemporaryDirectory(prefix="interpole-gpu-") as folder:
            ends = ends_of(engine, Path(folder))
            return {
                "dial against folders": dial_against_folders(ends, engine, device, limit),
                "two engines against one": two_against_one(ends, engine, device, limit, num_samples),
            }
    except InterpoleError as error:
        return {"error": str(error)}


def is_good(found: dict[str, Any]) -> bool:
    """Whether an engine ran, and no response of it differed."""
    if "error" in found:
        return False
    every = [*found["dial against folders"].values(), *found["two engines against one"]["responses"].values()]
    return not any(one["different"] for one in every)


def show(found: dict[str, dict[str, Any]]) -> None:
    """The table, for people."""
    _say("| engine | responses of folders that differ | of two engines | tokens/s, one engine | two |")
    _say("| --- | ---: | ---: | ---: | ---: |")
    for engine, one in found.items():
        if "error" in one:
            _say(f"| {engine} | did not run: {one['error']} | | | |")
            continue
        dial, pool = one["dial against folders"].values(), one["two engines against one"]
        shares = [
            f"{sum(each['different'] for each in of)} of {sum(each['responses'] for each in of)}"
            for of in (dial, pool["responses"].values())
        ]
        speeds = [f"{speed:,.0f}" for speed in pool["tokens_per_second"].values()]
        _say(f"| {engine} | {' | '.join([*shares, *speeds])} |")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--engine", action="append", help="only this one; may be repeated [default: all that are there]"
    )
    parser.add_argument("--limit", type=int, default=96, help="questions")
    parser.add_argument("--samples", type=int, default=8, help="responses to each, for the pool of two")
    options = parser.parse_args()
    cards = devices()
    if options.device == "cuda" and not cards:
        raise SystemExit("there is no CUDA device here; --device cpu tries the script without one")
    engines = options.engine or [name for name in ("transformers", "vllm") if find_spec(name)]
    tests = outcomes()
    found = {name: tried(name, options.device, options.limit, options.samples) for name in engines}
    show(found)
    said = {
        "device": options.device, "cards": cards, "cores": os.cpu_count(), "system": platform.platform(),
        "packages": {one: installed(one) for one in PACKAGES}, "tests": tests, "engines": found,
    }  # fmt: skip
    print(json.dumps(said, indent=1))
    failed = any(test["outcome"] in ("failure", "error") for test in tests.values())
    sys.exit(failed or not all(is_good(one) for one in found.values()))


if __name__ == "__main__":
    main()
