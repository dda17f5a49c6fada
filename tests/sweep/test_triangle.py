"""A triangle of models as a dial: its points in a sweep, what is refused, and the bytes that an engine is given."""

import json

import pytest
from typer.testing import CliRunner

import live
import tiny
from bench import Bench
from interpole.cli import app
from interpole.errors import RunError
from interpole.lab import shipped
from interpole.runs import samples
from interpole.runs.combine import combine
from interpole.runs.runfile import RunFile, Shard
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan


class Triangle(Bench):
    """A bench with a third source, which is called `base`; its points have no λ."""

    def __init__(self, folder):
        super().__init__(folder)
        base = tiny.write(folder / "base", tiny.tensors(2, layers=1), template=live.TEMPLATE)
        self.sources = {"base": str(base)} | self.sources

    def config(self, **changes):
        return super().config(**{"lambdas": [], "simplex": {"corners": [*self.sources], "steps": 2}} | changes)


POINTS = [
    "thinking", "instruct 0.5, thinking 0.5", "instruct", "base 0.5, thinking 0.5", "base 0.5, instruct 0.5", "base",
]  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    return Triangle(tmp_path)


def test_a_triangle_is_swept_as_any_points_are_and_goes_on_where_it_stopped(bench):
    assert bench.sweep(simplex={"corners": [*bench.sources], "steps": 1}, samples=1) == 3 * 4
    assert bench.sweep(samples=1) == 3 * 4  # the corners are there
    assert bench.sweep(samples=1) == 0
    assert [entry.point for entry in RunFile.load(bench.out).current] == POINTS
    assert {(one.point, one.lam) for one in bench.read()} == {(name, None) for name in POINTS}


def test_shards_of_a_triangle_make_one_run(bench):
    shards = [bench.folder / f"shard-{number}" for number in (1, 2)]
    for number, folder in enumerate(shards, 1):
        sweep.run(bench.config(), folder, shard=Shard(number=number, total=2))
    assert combine(shards, bench.folder / "all").num_samples == len(POINTS) * 4 * 2
    bench.sweep()
    assert samples.read(bench.folder / "all") == bench.read()


def test_corners_are_the_checkpoints_and_an_edge_reads_its_two_models_alone(bench):
    planned = Plan(bench.config())
    points = {point.name: point for point in planned.points}
    for name in bench.sources:
        assert points[name].weights.origin("model.norm.weight").path.parent == bench.folder / name
    edge = points["base 0.5, thinking 0.5"].where
    assert edge["weights"] == {"base": 0.5, "thinking": 0.5}
    assert [*edge["sources"]] == ["base", "thinking"]
    assert [*planned.base_recipe.sources] == ["base", "instruct", "thinking"]  # an engine is opened with all


def test_the_dial_and_points_of_own_weights_stand_beside_a_triangle(bench):
    extra = {"weights": {"base": 0.1, "thinking": 0.9}, "instruction": "Be brief."}
    config = bench.config(lambdas=[0.5], points=[extra])
    assert config.point_names == ["λ=0.5", *POINTS, "base 0.1, thinking 0.9, “Be brief.”"]
    dial, *_, last = Plan(config).points
    assert (dial.lam, [*dial.where["sources"]]) == (0.5, ["instruct", "thinking"])
    assert (last.lam, last.where["weights"]) == (None, extra["weights"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"simplex": "base,instruct"}, "two are a dial"),
        ({"simplex": "base,instruct,instruct"}, "instruct is named twice"),
        ({"simplex": "base,instruct,other"}, "no source 'other'"),
        ({"simplex": "base,instruct,thinking,other"}, r"interpole search.*simplex: \[base, instruct, thinking, other\]"),
        ({"simplex": {"corners": ["base", "instruct", "thinking"], "steps": 0}}, "simplex.steps"),
        ({"points": [{"weights": {"base": 0.5, "thinking": 0.6}}]}, "sum to 1.1"),
        ({"points": [{"weights": {"base": -0.5, "thinking": 1.5}}]}, "none below 0"),
        ({"points": [{"weights": {"base": 1}, "lambda": 1}]}, "leave out `lambda`"),
        ({"points": [{"weights": {"base": "much"}}]}, r"points.0.weights"),
    ],
)  # fmt: skip
def test_what_is_no_triangle_is_refused_in_words(bench, changes, words):
    with pytest.raises(RunError, match=words):
        bench.config(**changes)


def test_the_command_takes_folders_names_and_a_file(tmp_path, monkeypatch):
    pair, out = shipped(), str(tmp_path / "run")
    asked = ["--steps", "2", "--limit", "1", "--samples", "1", "--dry-run", "--json", "--out", out]
    monkeypatch.chdir(pair.base.parent)

    def points(*words):
        result = CliRunner().invoke(app, ["sweep", *words, *asked])
        assert result.exit_code == 0, result.output
        return [one["point"] for one in json.loads(result.stdout[result.stdout.index("{") :])["points"]]

    named = [one.replace("base", "b") for one in POINTS]
    assert points("--simplex", "base,instruct/,thinking") == POINTS
    assert points(str(pair.instruct), str(pair.thinking), "--simplex", f"b={pair.base},instruct,thinking") == named
    (tmp_path / "sweep.yml").write_text(
        f"sources: {{base: {pair.base}, instruct: {pair.instruct}, thinking: {pair.thinking}}}\n"
        "tasks: arithmetic\nsimplex: [base, instruct, thinking]\n"
    )
    assert points(str(tmp_path / "sweep.yml")) == POINTS
    assert len(SweepConfig.load(tmp_path / "sweep.yml").point_names) == 15
    assert points(str(tmp_path / "sweep.yml"), "--simplex", f"other={pair.base},instruct,thinking")[-1] == "other"
    again = CliRunner().invoke(app, ["sweep", "--simplex", "a/m,b/m,c", "--out", out])
    assert "two corners are called m" in again.output
