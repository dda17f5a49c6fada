"""A sweep on a pair of sources and a scripted engine, and commands run in this process, for tests of sweeps and of runs."""

import json
import time

from typer.testing import CliRunner

import live
import tiny
from interpole import tasks
from interpole.analysis.scoring import score
from interpole.cli import app
from interpole.runs import samples
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig

PROBLEMS = tasks.load("arithmetic", limit=4).problems
TALK = [
    {"contains": "", "lambda": 1.0, "responses": ["<think>\nhm\n</think>\n\n7"]},
    {"contains": "", "responses": ["7"]},
]


def script_at(lams):
    """Every problem its own answer at every λ, of its own length."""
    return [
        {
            "contains": problem.question,
            "lambda": lam,
            "responses": [f"{'hm ' * (3 * i + j)}{problem.answer if i < j else 7}"],
        }
        for i, problem in enumerate(PROBLEMS)
        for j, lam in enumerate(lams)
    ]


def content(run):
    """What must be the same however a sweep is made: every sample in its place, and the tables to the byte."""
    score(run)
    return samples.read(run), [(run / name).read_bytes() for name in ("curves.csv", "metrics.json", "stages.json")]


def call(*arguments, code=0, errors=False):
    """Run a command in this process; its standard output, or with what goes to the other one."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output if errors else result.stdout


class Bench:
    """A pair of sources, a script, and a run folder; `sweep` runs it and says how many answers were generated."""

    def __init__(self, folder):
        self.folder, self.out, self.journal = folder, folder / "run", folder / "generated.jsonl"
        self.sources = {
            name: str(tiny.write(folder / name, tiny.tensors(i, layers=1), template=live.TEMPLATE))
            for i, name in enumerate(("instruct", "thinking"))
        }
        self.write(TALK)

    def write(self, script):
        (self.folder / "script.json").write_text(json.dumps(script))

    def config(self, **changes):
        files = {"script": self.folder / "script.json", "journal": self.journal, "failed": self.folder / "failed"}
        options = {name: str(path) for name, path in files.items()} | {"rows": 1}
        content = {
            "sources": self.sources,
            "tasks": "arithmetic",
            "lambdas": "0:1:0.5",
            "samples": 2,
            "limit": 4,
            "engine": "scripted",
            "engine_options": options,
        }
        return SweepConfig.of(content | changes)

    def sweep(self, on_progress=lambda _: None, *, changed="also", **changes):
        before = self.num_generated
        self.summary = sweep.run(self.config(**changes), self.out, on_progress, changed=changed)
        assert self.summary.num_generated == self.num_generated - before
        return self.summary.num_generated

    @property
    def generated(self):
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    @property
    def num_generated(self):
        return len(self.generated)

    def wait_until(self, condition, seconds=90):
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)

    def read(self, **options):
        return samples.read(self.out, **options)
