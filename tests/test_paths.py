"""Paths as callers have them: text, or any `os.PathLike`, means what a `Path` means, in every function that takes one."""

import inspect
import os
import shutil
from pathlib import Path

import pytest

import interpole
from bench import Bench
from interpole.analysis import scoring, tables
from interpole.files import StrPath
from interpole.lab import pair_in, shipped
from interpole.merging.presets import preset
from interpole.merging.recipe import Recipe
from interpole.report import hero, plot, write_figures, write_report
from interpole.report.render import save
from interpole.runs import runfile, samples
from interpole.runs.combine import combine
from interpole.runs.regrade import code_of, regrade
from interpole.runs.runfile import RunFile
from interpole.search import adaptive, optuna_search
from interpole.search.space import SpaceFile
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.estimate import estimate


class Place(os.PathLike):
    """A path that is no `Path`."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("paths"))
    bench.sweep()
    scoring.score(bench.out)
    shutil.copy(bench.out / "curves.csv", bench.folder / "curves.csv")
    shutil.copy(bench.out / "metrics.json", bench.folder / "metrics.json")
    (bench.folder / "recipe.yml").write_text("sources: {instruct: a/b, thinking: c/d}\nlambda: 0.25\n")
    sources = "sources: {instruct: a/b, thinking: c/d}\ntasks: arithmetic\n"
    (bench.folder / "sweep.yml").write_text(f"{sources}lambdas: 0:1:0.5\n")
    (bench.folder / "space.yml").write_text(f"{sources}trials: 3\nspace:\n  groups: 2\n")
    return bench


READ = {
    "RunFile.load": lambda bench, as_: RunFile.load(as_(bench.out)),
    "samples.read": lambda bench, as_: samples.read(as_(bench.out)),
    "is_written": lambda bench, as_: runfile.is_written(as_(bench.out)),
    "scoring.load a run": lambda bench, as_: scoring.load(as_(bench.out)),
    "scoring.load a table": lambda bench, as_: scoring.load(as_(bench.folder / "curves.csv")),
    "scoring.score": lambda bench, as_: [m.mean for m in scoring.score(as_(bench.out))],
    "read_curves": lambda bench, as_: tables.read_curves(as_(bench.folder / "curves.csv")),
    "read_metrics": lambda bench, as_: [m.mean for m in tables.read_metrics(as_(bench.folder / "metrics.json"))],
    "code_of": lambda bench, as_: code_of(as_(bench.out)),
    "regrade": lambda bench, as_: regrade(as_(bench.out)),
    "sweep.plan": lambda bench, as_: sweep.plan(bench.config(), as_(bench.out)),
    "sweep.run": lambda bench, as_: sweep.run(bench.config(), as_(bench.out)).num_generated,
    "estimate": lambda bench, as_: estimate(bench.config(), as_(bench.out), sweep.plan(bench.config(), bench.out)),
    "Recipe.load": lambda bench, as_: Recipe.load(as_(bench.folder / "recipe.yml")),
    "Recipe.between": lambda bench, as_: Recipe.between(as_(bench.folder / "a"), as_(bench.folder / "b"), 0.5),
    "preset": lambda bench, as_: preset("mi-0.6", instruct=as_(bench.folder / "a"), thinking=as_(bench.folder / "b")),
    "SweepConfig.load": lambda bench, as_: SweepConfig.load(as_(bench.folder / "sweep.yml")),
    "SpaceFile.load": lambda bench, as_: SpaceFile.load(as_(bench.folder / "space.yml")),
    "pair_in": lambda _, as_: pair_in(as_(shipped().base.parent)),
    "open": lambda _, as_: sorted(interpole.open(as_(shipped().base))),
}
WRITTEN = {
    "RunFile.save": lambda bench, out: RunFile.load(bench.out).save(out),
    "write_curves": lambda bench, out: tables.write_curves(scoring.score(bench.out), os.path.join(out, "c.csv")),  # noqa: PTH118
    "combine": lambda bench, out: combine([str(bench.out)], out),
    "save": lambda _, out: interpole.save(interpole.open(str(shipped().base)), os.path.join(out, "new")),  # noqa: PTH118
    "write_report": lambda bench, out: write_report(str(bench.out), f"{out}/report.html"),
    "write_report of several": lambda bench, out: write_report([str(bench.out)], f"{out}/report.html"),
    "write_figures": lambda bench, out: write_figures(scoring.score(bench.out), [], out),
    "plot": lambda bench, out: plot(str(bench.out), "3", f"{out}/3.svg"),
    "render.save": lambda bench, out: save(hero(scoring.score(bench.out), []), f"{out}/hero.svg"),
    "sweep.run": lambda bench, out: sweep.run(bench.config(lambdas="0", limit=1), out),
}


@pytest.mark.parametrize("name", READ)
def test_a_path_as_text_is_read_as_a_path_is(bench, name):
    wanted = READ[name](bench, Path)
    assert READ[name](bench, str) == wanted
    assert READ[name](bench, Place) == wanted


@pytest.mark.parametrize("name", WRITTEN)
def test_a_path_as_text_is_written_to(bench, tmp_path, name):
    WRITTEN[name](bench, str(tmp_path))
    assert any(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("function", [adaptive.run, optuna_search.run])
def test_what_runs_long_says_that_it_takes_text(function):
    assert inspect.signature(function, eval_str=True).parameters["out"].annotation == StrPath
