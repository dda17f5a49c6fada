"""What the loop around an engine costs: a sweep against the same engine driven bare, and reading a run of 100,000 samples.

    python benchmarks/sweep.py           # about eight minutes
    python benchmarks/sweep.py --quick   # the same with fewer samples
    python benchmarks/sweep.py --run RUN # only: `report` and `score` of a run that is there
    python benchmarks/sweep.py --engines 2   # only: so many engines against one; needs as many idle cores and one more

A sweep moves the engine's weights from λ to λ, hands prompts to it in another process, grades, and keeps answers and logs.
`bare` calls the same engine's `load` and `generate` with the same prompts, sampler and seeds in one process, and keeps nothing.
Two engines: transformers with the shipped tiny pair, whose responses are so short that the loop is under strain, and the scripted
engine at the pace of a real one (64 responses of 250 tokens at 20 ms per token: one every 78 ms). `outside` is the share of the
sweep's time in which no request was with the engine: of all of it, and after the start (opening the engine).

`loop CPU` is CPU time of the sweep's process, a sample. A sweep of one sample a question comes before and is not part of it: what
that costs beyond its samples is the start's (imports, first use). `bare Inspect` is Inspect's own evaluation, at its defaults, of
the same questions and responses with a solver that waits for nothing and one of its scorers. What a λ switch costs: dial.py.
Last line: JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from interpole.engines.open import open_engine
from interpole.formats import seed_of
from interpole.lab import shipped
from interpole.runs.runfile import RunFile
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan
from merge import Cost, measure

BATCH, RESPONSE_TOKENS, TOKEN_SECONDS = 64, 250, 0.02
RESPONSE_SECONDS = RESPONSE_TOKENS * TOKEN_SECONDS / BATCH  # from one response to the next
LAMBDAS = [round(0.1 * i, 1) for i in range(10)]


class Times(NamedTuple):
    """A sweep, and the same engine driven bare."""

    num_samples: int
    num_tokens: int
    wall_seconds: float  # of the sweep, from nothing
    start_seconds: float  # until its first request
    busy_seconds: float  # during which requests were with the engine
    bare_seconds: float
    loop_cpu_seconds: float  # of the sweep's process and its threads, the engine's apart

    @property
    def outside(self) -> tuple[float, float]:
        """Share of the sweep's time outside of generation: of all of it, and after its start."""
        after = self.wall_seconds - self.start_seconds
        return 1 - self.busy_seconds / self.wall_seconds, 1 - self.busy_seconds / after

    @property
    def relative_speed(self) -> float:
        """Samples per second of the sweep, after its start, over those of the bare engine."""
        return self.bare_seconds / (self.wall_seconds - self.start_seconds)


def time_both(config: SweepConfig, out: Path) -> Times:
    """Run a sweep, then its engine alone."""
    begin, cpu = time.monotonic(), time.process_time()
    with sweep.pool_of(Plan(config)) as pool:
        summary = sweep.run(config, out, pool=pool)
        wall = time.monotonic() - begin
        start, busy, cpu = pool.first_request - begin, pool.busy_seconds, time.process_time() - cpu
    if summary.failed:
        raise SystemExit(f"failed: {summary.failed[0].parts}")
    return Times(summary.num_generated, summary.num_tokens, wall, start, busy, time_bare(config), cpu)


def time_bare(config: SweepConfig) -> float:
    """Seconds that the sweep's engine alone takes for its switches and responses."""
    planned = Plan(config)
    (benchmark,) = planned.benchmarks.values()
    asked = [(problem, epoch) for epoch in range(1, benchmark.k + 1) for problem in benchmark.problems]
    prompts = [planned.render([{"role": "user", "content": benchmark.prompt(problem)}]) for problem, _ in asked]
    seeds = [seed_of(config.seed, problem.id, epoch) for problem, epoch in asked]
    engine: Any = open_engine(config.engine, planned.base_recipe, **config.engine_options)
    begin = time.perf_counter()
    for point in planned.points:
        engine.load(point.where)
        engine.generate(prompts, planned.sampler(benchmark, point), seeds)
    return time.perf_counter() - begin


def start_cpu_seconds(out: Path) -> tuple[float, int]:
    """CPU seconds of this process's first sweep, which imports what the others use, and how many samples it had."""
    one = scripted(1, LAMBDAS[:1], rows=BATCH)
    cpu = time.process_time()
    summary = sweep.run(one, out)
    return time.process_time() - cpu, summary.num_generated


def bare_inspect(samples: int) -> float:
    """CPU milliseconds a sample of Inspect's evaluation of the same questions, each `samples` times, and responses."""
    from inspect_ai import Task
    from inspect_ai import eval as inspect_eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import match
    from inspect_ai.solver import Generate, Solver, TaskState, solver

    written = scripted(1, LAMBDAS[:1])
    (benchmark,) = Plan(written).benchmarks.values()
    texts = itertools.cycle(one["text"] for one in written.engine_options["script"][0]["responses"])

    @solver
    def answered() -> Solver:
        async def solve(state: TaskState, _: Generate) -> TaskState:
            state.output = ModelOutput.from_content("none", next(texts))
            state.messages.append(state.output.message)
            return state

        return solve

    questions = [Sample(id=one.id, input=benchmark.prompt(one), target=one.answer) for one in benchmark.problems]
    with tempfile.TemporaryDirectory(prefix="interpole-bench-") as out:
        for epochs in (1, samples):  # the first for what Inspect imports
            task = Task(MemoryDataset(questions), solver=answered(), scorer=match(numeric=True), epochs=epochs)
            begin = time.process_time()
            (log,) = inspect_eval(task, model="mockllm/model", log_dir=out, display="none", log_realtime=False)
            cpu = time.process_time() - begin
    if log.status != "success" or log.results is None or log.results.completed_samples != samples * len(questions):
        raise SystemExit(f"Inspect alone failed: {log.error}")
    return 1000 * cpu / (samples * len(questions))


def config(engine: str, samples: int, lams: list[float], **options: Any) -> SweepConfig:
    """The tiny pair's task, with this engine."""
    pair = shipped()
    content = {
        "sources": {"instruct": str(pair.instruct), "thinking": str(pair.thinking)},
        "tasks": "arithmetic", "lambdas": lams, "samples": samples, "engine": engine, "engine_options": options,
    }  # fmt: skip
    return SweepConfig.of(content)


def scripted(samples: int, lams: list[float], **options: Any) -> SweepConfig:
    """Written responses of random words, half of which think."""
    draw = random.Random(0)
    words = [str(draw.randrange(10**6)) for _ in range(5000)]
    texts = [" ".join(draw.choices(words, k=RESPONSE_TOKENS)) for _ in range(500)]
    responses = [
        {"text": f"<think>\n{text}\n</think>\n\n7" if i % 2 else text, "num_tokens": RESPONSE_TOKENS}
        for i, text in enumerate(texts)
    ]
    return config("scripted", samples, lams, script=[{"contains": "", "responses": responses}], **options)


def large_run(out: Path, samples: int) -> int:
    """A run of ten points of `samples` responses to 204 questions: one is swept, the others are copies. Returns how many."""
    sweep.run(scripted(samples, LAMBDAS[:1], rows=1024), out)
    run = RunFile.load(out)
    (first,) = run.entries
    entries = [first]
    for lam in LAMBDAS[1:]:
        changes = {"point": f"λ={lam:g}", "lam": lam, "identity": f"{lam}", "folder": f"logs/{lam}"}
        entries.append(first.model_copy(update=changes))
        shutil.copytree(out / first.folder, out / f"logs/{lam}")
    run.model_copy(update={"entries": tuple(entries)}).save(out)
    return 204 * samples * len(LAMBDAS)


def tree_mb(process: int) -> float:
    """Memory of a process and all that it started, in which what several share counts once (PSS; Linux)."""
    found = 0.0
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found += sum(tree_mb(int(child)) for child in (task / "children").read_text().split())
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
    return found


def peak_of_tree(command: list[str]) -> float:
    """The most memory that a command's processes had together, in MB, looked at ten times a second."""
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            peak = max(peak, tree_mb(running.pid))
            time.sleep(0.1)
    if running.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return peak


def compare_engines(num: int) -> None:
    """Samples per second, after the start, of so many engines and of one: at a pace that takes no CPU, and with the tiny pair."""
    lams = [0.6, 0.7, 0.8, 0.9, 1.0]
    configs = {
        "20 ms a response, scripted": scripted(1, lams, rows=1, step_seconds=0.02),
        "tiny pair, transformers": config("transformers", 4, lams, dtype="float32", threads=1),
    }
    for name, given in configs.items():
        speeds: dict[int, list[float]] = {1: [], num: []}
        for engines in (1, num, 1, num):
            one = given.model_copy(update={"engines": engines})
            with tempfile.TemporaryDirectory(prefix="interpole-bench-") as out, sweep.pool_of(Plan(one)) as pool:
                pool.versions()
                summary = sweep.run(one, Path(out) / "run", pool=pool)
                speeds[engines].append(summary.num_generated / (time.monotonic() - pool.first_request))
                loads = sum(rate.num_loads for rate in pool.rates())
            print(
                f"{name}, {engines}: {speeds[engines][-1]:.1f} samples/s, {loads} loads for {len(lams)} points",
                flush=True,
            )
        print(json.dumps({"engine": name, "speeds": speeds, "ratio": max(speeds[num]) / max(speeds[1])}), flush=True)


def read_large(run: Path) -> dict[str, Cost]:
    """What `score` and `report` of a run take; memory in a run of its own, as looking at it slows a process down."""
    interpole = str(Path(sys.executable).with_name("interpole"))
    commands = {
        "score": [interpole, "score", str(run)],
        "report": [interpole, "report", str(run), "--no-figures"],
    }
    return {name: measure(command)._replace(peak_mb=peak_of_tree(command)) for name, command in commands.items()}


def main() -> None:
    """Measure, print two tables, a line on the start and on Inspect, and one of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--engines", type=int, help="only: so many engines against one")
    parser.add_argument("--run", type=Path, help="only: `report` and `score` of this run")
    options = parser.parse_args()
    if options.engines:
        compare_engines(options.engines)
        return
    if options.run:
        print(json.dumps({name: cost._asdict() for name, cost in read_large(options.run).items()}))
        return
    less = 10 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="interpole-bench-") as temporary:
        work = Path(temporary)
        configs = {
            "tiny pair, transformers": config("transformers", 8 // less or 1, [0.0, 0.6, 1.0], dtype="float32"),
            "20 ms per token, scripted": scripted(6 // less or 1, [0.3, 0.6], rows=1, step_seconds=RESPONSE_SECONDS),
        }
        start_cpu, num_first = start_cpu_seconds(work / "first")
        times = {name: time_both(one, work / name) for name, one in configs.items()}
        inspect_ms = bare_inspect(6 // less or 1)
        num = large_run(work / "large", 50 // less)
        disk_mb = sum(path.stat().st_size for path in (work / "large").rglob("*.eval")) / 1e6
        costs = read_large(work / "large")
    print_tables(times, costs, num, disk_mb)
    loop_ms = min(1000 * one.loop_cpu_seconds / one.num_samples for one in times.values())
    start_cpu -= num_first * loop_ms / 1000
    found = {"start_cpu_seconds": start_cpu, "bare_inspect_cpu_ms": inspect_ms, "ratio": loop_ms / inspect_ms}
    print(
        f"start {start_cpu:.1f} CPU s; bare Inspect {inspect_ms:.1f} ms of CPU a sample, the loop {found['ratio']:.2f} ×"
    )
    print_json(times, costs, num, found)


def print_tables(times: dict[str, Times], costs: dict[str, Cost], num: int, disk_mb: float) -> None:
    """What was found, for people."""
    load = os.getloadavg()[2]
    print(f"{os.cpu_count()} cores, load average of the last quarter of an hour {load:.1f}\n")
    print("| | samples | tokens each | wall s | outside | after the start | samples/s | bare | ratio | loop CPU ms |")
    print("| --- |" + " ---: |" * 9)
    for name, one in times.items():
        loop, bare = (one.num_samples / s for s in (one.wall_seconds - one.start_seconds, one.bare_seconds))
        all_of_it, after = one.outside
        print(
            f"| {name} | {one.num_samples:,} | {one.num_tokens / one.num_samples:.0f} | {one.wall_seconds:.0f} | "
            f"{all_of_it:.1%} | {after:.1%} | {loop:.1f} | {bare:.1f} | {one.relative_speed:.2f} | "
            f"{1000 * one.loop_cpu_seconds / one.num_samples:.1f} |"
        )
    print(f"\n| {num:,} samples, {disk_mb:.0f} MB of logs | wall s | CPU s | peak MB |\n| --- |" + " ---: |" * 3)
    for name, (wall, cpu, peak) in costs.items():
        print(f"| `interpole {name}` | {wall:.1f} | {cpu:.1f} | {peak:.0f} |")


def print_json(times: dict[str, Times], costs: dict[str, Cost], num: int, found: dict[str, float]) -> None:
    """All of it, for machines."""
    found = {"load": os.getloadavg()[2]} | found
    measured = {"times": {name: one._asdict() for name, one in times.items()}, "num_samples": num}
    print(json.dumps(found | measured | {"costs": {name: cost._asdict() for name, cost in costs.items()}}))


if __name__ == "__main__":
    main()
