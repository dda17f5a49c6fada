"""A triangle of models as a dial: its points in a sweep, what is refused, and the bytes that an engine is given."""

import json

import pytest
from typer.testing import CliRunner

import live
import tiny
from bench import Bench, call
from interpole.cli import app
from interpole.errors import AnalysisError, RunError
from interpole.lab import shipped
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.report import plot
from interpole.report.commands import sweep_command
from interpole.runs import samples
from interpole.runs.combine import combine
from interpole.runs.runfile import RunFile, Shard
from interpole.runs.simplex import simplex_of
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


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A triangle that was swept in two goes: its corners first."""
    bench = Triangle(tmp_path_factory.mktemp("triangle"))
    bench.first = bench.sweep(simplex={"corners": [*bench.sources], "steps": 1})
    bench.second = bench.sweep()
    return bench


def test_a_triangle_is_swept_as_any_points_are_and_goes_on_where_it_stopped(bench):
    assert (bench.first, bench.second, bench.sweep()) == (3 * 4 * 2, 3 * 4 * 2, 0)
    assert [entry.point for entry in RunFile.load(bench.out).current] == POINTS
    assert {(one.point, one.lam) for one in bench.read()} == {(name, None) for name in POINTS}


def test_shards_of_a_triangle_make_one_run(bench):
    shards = [bench.folder / f"shard-{number}" for number in (1, 2)]
    for number, folder in enumerate(shards, 1):
        sweep.run(bench.config(), folder, shard=Shard(number=number, total=2))
    assert combine(shards, bench.folder / "all").num_samples == len(POINTS) * 4 * 2
    assert samples.read(bench.folder / "all") == bench.read()


def test_a_run_knows_where_its_points_lie(bench):
    found = simplex_of(RunFile.load(bench.out))
    assert found.corners == ("base", "instruct", "thinking")
    turned = {name: RunFile.load(bench.out).sources[name] for name in ("thinking", "base", "instruct")}
    assert simplex_of(RunFile.load(bench.out).model_copy(update={"sources": turned})).corners == found.corners
    assert [*found.points] == POINTS
    assert found.points["base 0.5, thinking 0.5"] == {"base": 0.5, "thinking": 0.5}


@pytest.mark.parametrize(
    "changed",
    [
        {"asking": {"instruction": "Be brief."}},
        {"sampler": {"temperature": 9.0}},
        {"recipe": {"rules": [{"layers": "0", "weights": {"base": 1}}]}},
        {"recipe": {"method": "ties"}},
        {"recipe": {"weights": {"base": 0.5, "thinking": 0.4}}},
        {"recipe": {"weights": {"base": "0.5", "thinking": [0.5]}}},
        {"recipe": {"sources": {"base": {"model": "another"}, "thinking": {"model": "another"}}}},
    ],
)
def test_a_point_that_is_more_than_a_sum_of_the_sources_or_is_asked_otherwise_lies_nowhere(bench, changed):
    file, name = RunFile.load(bench.out), "base 0.5, thinking 0.5"
    (entry,) = (entry for entry in file.current if entry.point == name)
    changed = {key: getattr(entry, key) | value for key, value in changed.items()}
    others = [one for one in file.entries if one.point != name]
    file = file.model_copy(update={"entries": (*others, entry.model_copy(update=changed))})
    assert {*simplex_of(file).points} == {*POINTS} - {name}


def test_a_dial_alone_is_no_simplex_and_beside_one_it_lies_on_its_edge(bench):
    file = RunFile.load(bench.out)
    dial = Plan(bench.config(lambdas=[0.25], simplex=None)).points[0]
    on_dial = file.current[0].model_copy(update={"point": dial.name, "lam": dial.lam, "recipe": dial.where})
    assert simplex_of(file.model_copy(update={"entries": (on_dial,)})) is None
    both = simplex_of(file.model_copy(update={"entries": (*file.entries, on_dial)}))
    assert both.points["λ=0.25"] == {"instruct": 0.75, "thinking": 0.25}
    two = file.model_copy(update={"entries": tuple(one for one in file.entries if one.point in POINTS[2:3])})
    assert simplex_of(two) is None


def test_the_page_and_the_figure_show_every_point_of_a_triangle(bench):
    made = CliRunner().invoke(app, ["report", str(bench.out), "--json"])
    names = {path.rpartition("/")[2] for path in json.loads(made.stdout)["figures"]}
    assert names == {f"{name}.{form}" for name in ("simplex", "pareto") for form in ("svg", "png")}
    page = (bench.out / "report.html").read_text()
    assert page.count('<path data-point="base 0.5, thinking 0.5"') == 4  # in three triangles, and in accuracy by tokens
    assert "<title>base ↔ instruct ↔ thinking" in page
    assert "at 6 points." in page
    assert "The triangle, measured" in page
    assert "The dial, measured" not in page
    figure = plot(bench.out, "simplex", bench.folder / "simplex.svg").read_text()
    assert [figure.count(f'aria-label="{name}: ') for name in POINTS] == [3] * 6
    with pytest.raises(AnalysisError, match="no points on a triangle"):
        plot(bench.folder / "none.csv", "simplex", bench.folder / "none.svg")


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


def test_a_point_is_recommended_and_its_recipe_makes_the_model(bench, tmp_path):
    path = tmp_path / "point.yml"
    made = CliRunner().invoke(app, ["recommend", str(bench.out), "--json", "--recipe", str(path)])
    found = json.loads(made.stdout)
    assert found["command"] == f"interpole merge {path} --out merged"
    planned = {point.name: point for point in Plan(bench.config()).points}
    assert merge(Recipe.load(path)).fingerprint() == planned[found["point"]].fingerprint
    shown = call("recommend", bench.out, "--max-tokens", "1", code=3, errors=True)
    assert "no measured point stays within 1 tokens" in shown
    assert "λ" not in shown


def test_the_page_gives_the_command_that_covers_the_triangle_again(bench):
    command, unsaid = sweep_command(RunFile.load(bench.out), "again")
    corners = ",".join(f"{name}={name}" for name in bench.sources)
    assert f"interpole sweep --simplex {corners} --steps 2 --task arithmetic" in command
    assert unsaid == []
    file = RunFile.load(bench.out)
    part = file.model_copy(update={"entries": tuple(one for one in file.entries if one.point != "base")})
    command, unsaid = sweep_command(part, "again")
    assert "--simplex" not in command
    assert unsaid == [name for name in POINTS if name != "base"]


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
        result = call("sweep", *words, *asked)
        return [one["point"] for one in json.loads(result[result.index("{") :])["points"]]

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
