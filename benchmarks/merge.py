"""Merging against its floor and its peers, interleaved in one run: wall seconds, CPU seconds and peak memory of whole processes.

    python benchmarks/merge.py                          # 0.6B, Interpole, the floor and the naive script (needs torch)
    python benchmarks/merge.py --size 4b --mergekit .venv-mergekit/bin/mergekit-yaml
    python benchmarks/merge.py --methods            # methods on task vectors against linear

The pair is random with Qwen3's exact shapes (pairs.py). The floor is what no merge can beat by much: `cp` of one model plus `cat`
of two to nowhere. The naive script holds one model and merges shard by shard in bf16 with torch, as the paper's does.
mergekit (LGPL) is a peer in a virtual environment of its own: `make bench-merge` makes one. Last line: JSON.
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
from pathlib import Path
from typing import NamedTuple

from pairs import SHAPES, build, build_apart

LAMBDAS = "0:1:0.1"


class Cost(NamedTuple):
    """What one process and its children took."""

    wall_seconds: float
    cpu_seconds: float
    peak_mb: float


def measure(command: list[str]) -> Cost:
    """Run a command through GNU time's fields, read from the kernel's accounting of the finished process."""
    code = (
        "import os,sys,time,json;t=time.perf_counter();pid=os.posix_spawnp(sys.argv[1],sys.argv[1:],os.environ);"
        "_,status,u=os.wait4(pid,0);"
        "print(json.dumps([time.perf_counter()-t,u.ru_utime+u.ru_stime,u.ru_maxrss/1024,status]))"
    )
    run = subprocess.run([sys.executable, "-S", "-c", code, *command], capture_output=True, text=True, check=True)
    wall, cpu, peak, status = json.loads(run.stdout.splitlines()[-1])
    if status:
        raise SystemExit(f"failed: {' '.join(command)}\n{run.stderr[-2000:]}")
    return Cost(wall, cpu, peak)


NAIVE = """
import sys, json, shutil, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
a, b, out = map(Path, sys.argv[1:4]); lam = float(sys.argv[4]); out.mkdir()
for path in sorted(b.glob("*.safetensors")):
    base, other = load_file(path), load_file(a / path.name)
    save_file({n: t + lam * (other[n] - t) for n, t in base.items()}, out / path.name)
for path in b.glob("*.json"):
    shutil.copy(path, out)
"""


def contenders(a: Path, b: Path, out: Path, mergekit: Path | None, work: Path) -> dict[str, list[str]]:
    """Name → command that writes the merge at λ = 0.6 (the floor: a copy) to `out`."""
    interpole = str(Path(sys.executable).with_name("interpole"))
    commands = {
        "floor (cp + cat)": ["sh", "-c", f"cp -r {a} {out}; cat {a}/*.safetensors {b}/*.safetensors > /dev/null"],
        "interpole": [interpole, "merge", str(a), str(b), "--lambda", "0.6", "--out", str(out)],
        "naive script (torch)": [sys.executable, "-c", NAIVE, str(b), str(a), str(out), "0.6"],
    }
    if mergekit:
        recipe = work / "mergekit.yml"
        models = [{"model": str(m), "parameters": {"weight": w}} for m, w in ((a, 0.4), (b, 0.6))]
        recipe.write_text(json.dumps({"merge_method": "linear", "models": models, "dtype": "bfloat16"}))
        flags = ["--lazy-unpickle", "--no-copy-tokenizer", "--no-write-model-card"]
        commands["mergekit"] = [str(mergekit), str(recipe), str(out), *flags]
    return commands


def methods(a: Path, b: Path, base: Path, out: Path, work: Path) -> dict[str, list[str]]:
    """Name → command that merges by a method: linear first, then those on task vectors in the paper's settings."""
    interpole = str(Path(sys.executable).with_name("interpole"))
    pair, trio = {"a": str(a), "b": str(b)}, {"a": str(a), "b": str(b), "base": str(base)}
    recipes = {
        "linear": {"sources": pair, "weights": {"a": 0.4, "b": 0.6}},
        "task_arithmetic": {"sources": trio, "weights": {"a": 0.7, "b": 0.7}},
        "ties": {"sources": trio, "weights": {"a": 1, "b": 1}, "parameters": {"sparsity": 0.2, "scale": 0.5}},
    }
    commands = {}
    for name, recipe in recipes.items():
        (work / f"{name}.yml").write_text(json.dumps({"method": name} | recipe))
        commands[name] = [interpole, "merge", str(work / f"{name}.yml"), "--out", str(out), "--no-doctor"]
    return commands


def compare(commands: dict[str, list[str]], out: Path, rounds: int) -> dict[str, Cost]:
    """Medians over `rounds` interleaved rounds after one that warms the page cache and is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            for old in out.parent.glob(f"{out.name}*"):
                shutil.rmtree(old)
            cost = measure(command)
            if turn:
                costs[name].append(cost)
            print(f"  {name}: {cost.wall_seconds:.2f} s, {cost.peak_mb:.0f} MB", file=sys.stderr)
    return {name: Cost(*map(statistics.median, zip(*found, strict=True))) for name, found in costs.items()}


def report(size: str, rounds: int, costs: dict[str, Cost]) -> None:
    """Print a table, relative to its first line, and one line of JSON."""
    first = next(iter(costs.values()))
    print(f"Qwen3-{size} pair, {os.cpu_count()} cores, median of {rounds}")
    print("| | wall s | × first | CPU s | × first | peak MB |\n| --- | --- | --- | --- | --- | --- |")
    for name, (wall, cpu, peak) in costs.items():
        ratios = wall / first.wall_seconds, cpu / first.cpu_seconds
        print(f"| {name} | {wall:.2f} | {ratios[0]:.2f} | {cpu:.2f} | {ratios[1]:.2f} | {peak:.0f} |")
    print(json.dumps({"size": size, "rounds": rounds, "costs": {name: cost._asdict() for name, cost in costs.items()}}))


def main() -> None:
    """Build the pair, run everything, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="0.6b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit", type=Path, help="path of mergekit-yaml")
    parser.add_argument("--many", action="store_true", help="also eleven λ in one read against eleven runs")
    parser.add_argument("--methods", action="store_true", help="linear, task_arithmetic and ties, with a base")
    parser.add_argument("--work", type=Path, help="folder for the pair (kept); default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interpole-bench-") as temporary:
        work = options.work or Path(temporary)
        a, b = build_apart(work, options.size)
        out = work / "out"
        commands = contenders(a, b, out, options.mergekit, work)
        if options.methods:
            commands = methods(a, b, build(work / f"{options.size}-base", options.size, 3), out, work)
        if options.many:
            one = commands["interpole"]
            each = " && ".join(" ".join([*one[:5], str(i / 10), "--out", f"{out}-{i}"]) for i in range(11))
            commands = {"eleven runs": ["sh", "-c", each], "eleven λ, one read": [*one[:5], LAMBDAS, "--out", str(out)]}
        report(options.size, options.rounds, compare(commands, out, options.rounds))


if __name__ == "__main__":
    main()
