"""The command line as a user types it: real commands on tiny real things, their output and exit codes."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import interpole
import tiny
from bench import call
from interpole.analysis.tables import COLUMNS
from interpole.checkpoints.checkpoint import Folder
from interpole.cli import app, main
from interpole.cli.show import sweep_bar
from interpole.errors import InterpoleError, OutputError, RecipeError
from interpole.files import size_text
from interpole.lab import shipped
from interpole.merging.recipe import Recipe
from interpole.sweep.config import SweepConfig
from interpole.sweep.progress import SweepProgress


def test_merge_writes_what_the_library_computes(pair, tmp_path):
    call(
        "merge",
        *pair,
        *shlex.split("-l 0.6 --layers 1-2 --skip ffn --embeddings thinking -o"),
        tmp_path / "m",
        "--no-doctor",
    )
    written = interpole.open(tmp_path / "m")
    rules = [
        {"layers": "none", "lambda": 1.0},
        {"kind": ["ffn", "router", "experts"], "lambda": 0.0},
        {"layers": "not 1-2", "lambda": 0.0},
    ]
    merged = interpole.merge(Recipe.between(*pair, 0.6, rules=rules))
    assert all(written[name].tobytes() == merged[name].tobytes() for name in merged)


def test_merge_takes_the_recipe_it_left_behind(pair, tmp_path, monkeypatch):
    call("merge", *pair, "-l", "0.3", "-o", tmp_path / "a", "--no-doctor")
    recipe, shard = tmp_path / "a/interpole_recipe.yml", "model-00001-of-00002.safetensors"
    elsewhere = [f"--source={name}={folder}" for name, folder in zip(("instruct", "thinking"), pair, strict=True)]
    call("merge", recipe, "-o", tmp_path / "b", "--no-doctor", *elsewhere)
    monkeypatch.chdir(tmp_path)
    call("merge", recipe, "-o", tmp_path / "c", "--no-doctor")
    assert len({(tmp_path / name / shard).read_bytes() for name in "abc"}) == 1


def test_the_doctor_and_the_weights_of_a_merge_share_opened_sources(tmp_path, monkeypatch):
    opened, real = [], Folder.__init__
    monkeypatch.setattr(Folder, "__init__", lambda self, *args: opened.append(args[0]) or real(self, *args))
    call("merge", shipped().instruct, shipped().thinking, "-l", "0.2,0.4,0.6", "-o", tmp_path / "m")
    assert opened == [shipped().instruct, shipped().thinking]


def test_several_lambdas_make_a_folder_each(pair, tmp_path):
    call("merge", *pair, "-l", "0:1:0.5", "-o", tmp_path / "m", "--shard-size", "4KB", "--no-doctor")
    assert sorted(p.name for p in tmp_path.glob("m-*")) == ["m-0", "m-0.5", "m-1"]
    assert len(list((tmp_path / "m-1").glob("*.safetensors"))) > 3


def test_presets_work_on_the_shipped_pair(tmp_path):
    where = shipped()
    call("merge", where.instruct, where.thinking, "--base", where.base, "--preset", "ta", "-o", tmp_path / "ta")
    recipe = Recipe.load(tmp_path / "ta/interpole_recipe.yml")
    assert recipe.method == "task_arithmetic"
    assert recipe.weights == {"instruct": 0.7, "thinking": 0.7}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-l", "much"], "not a λ"),
        (["-l", "0.5", "--layers", "3-99"], "layers beyond the last"),
        (["-l", "0.5", "--skip", "brain"], "say attention or ffn"),
        (["-l", "0.5", "--embeddings", "mine"], "say instruct, thinking or interpolate"),
        (["-l", "0.5", "--dtype", "int3"], "unknown dtype"),
    ],
)
def test_bad_values_are_errors_of_ours_and_write_nothing(pair, tmp_path, arguments, words):
    with pytest.raises(InterpoleError, match=words):
        call("merge", *pair, *arguments, "-o", tmp_path / "m", "--no-doctor")
    assert not list(tmp_path.glob("*m*"))


@pytest.mark.parametrize("size", ["0", "-5GB", "0GB", "nan", "inf", "5 parsecs", "0.1"])
def test_a_size_of_no_shard_is_refused(pair, tmp_path, size):
    call("merge", *pair, "-l", "0.5", "-o", tmp_path / "m", f"--shard-size={size}", code=2)
    assert not list(tmp_path.glob("*m*"))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_dtypes_that_differ_are_asked_about_until_the_recipe_says_one(tmp_path, dtype):
    models = [
        tiny.write(tmp_path / str(i), tiny.tensors(i, dtype=d)) for i, d in enumerate((np.float32, ml_dtypes.bfloat16))
    ]
    recipe = {"sources": dict(zip("ab", map(str, models), strict=True)), "weights": {"a": 0.5, "b": 0.5}}
    (tmp_path / "r.yml").write_text(json.dumps(recipe | ({"dtype": dtype} if dtype else {})))
    shown = CliRunner().invoke(app, ["merge", str(tmp_path / "r.yml"), "-o", str(tmp_path / "m")])
    assert shown.exit_code == (0 if dtype else 1), shown.stderr
    assert ("in a recipe, `dtype: bfloat16`" in shown.stderr) == (dtype is None)


def test_a_share_beyond_the_files_says_that_there_is_nothing_for_it(pair, tmp_path):
    said = call("merge", *pair, "-l", "0.5", "-o", tmp_path / "m", "--no-doctor", "--shard", "5/5")
    assert "nothing to write for share 5: 5 shares are more than there are files (2)" in said
    assert "bytes/s" not in said
    assert "5 shares" not in call("merge", *pair, "-l", "0.5", "-o", tmp_path / "m", "--no-doctor", "--shard", "1/5")


def test_without_lambda_merge_says_what_is_missing(pair, tmp_path):
    result = CliRunner().invoke(app, ["merge", *map(str, pair), "-o", str(tmp_path / "m")])
    assert result.exit_code == 2
    assert "--lambda 0.6" in result.stderr


@pytest.mark.parametrize("command", [["merge", "-l", "0.5"], ["sweep"]])
@pytest.mark.parametrize("model", ["HERE", "Qwen/Qwen3-4B-Thinking-2507"])
def test_a_second_model_forgotten_is_wrong_usage_that_says_so(pair, tmp_path, monkeypatch, command, model):
    monkeypatch.setenv("COLUMNS", "300")
    model = str(pair[0]) if model == "HERE" else model
    result = CliRunner().invoke(app, [*command, model, "-o", str(tmp_path / "m")])
    assert result.exit_code == 2
    assert f"the second model is missing: {model} is a" in result.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("given", "missing"), [(["doctor", "A"], "THINKING"), (["similarity", "A"], "B"), (["audit", "M", "A"], "THINKING")]
)
def test_a_checkpoint_forgotten_is_named(given, missing):
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert f"Missing argument '{missing}'" in result.stderr


def test_a_recipe_that_is_not_there_is_no_model_forgotten(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        call("merge", "recipes/mine.yml", "-o", tmp_path / "m")


def test_an_error_is_one_message_on_stderr_and_exit_code_1(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["interpole", "merge", "no/where", "no/how", "-l", "0.5", "-o", str(tmp_path / "m")]
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: cannot get no/where")


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr("interpole.analysis.scoring.score", interrupt)
    monkeypatch.setattr(sys, "argv", ["interpole", "score", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert "run the same command again to go on" in capsys.readouterr().err


def test_a_pair_that_does_not_fit_stops_merge_with_the_doctors_findings(pair, tmp_path):
    other = tiny.write(tmp_path / "other", tiny.tensors(1, hidden=8))
    out = call("merge", pair[0], other, "-l", "0.5", "-o", tmp_path / "m", code=2, errors=True)
    assert out.startswith("stop")
    assert not (tmp_path / "m").exists()


MERGEKIT = """
merge_method: linear
models:
- {{model: {}, parameters: {{weight: 0.5}}}}
- {{model: {}, parameters: {{weight: 0.5}}}}
"""
OURS = """
sources: {{left: {}, right: {}}}
weights: {{left: 1, right: 2}}
"""


@pytest.mark.parametrize("text", [MERGEKIT, OURS])
def test_the_doctor_is_asked_whatever_a_recipe_calls_its_sources(pair, tmp_path, text):
    weights, recipe = tiny.tensors(1), tmp_path / "recipe.yml"
    foreign = tiny.write(tmp_path / "foreign", weights, config={"model_type": "llama"})
    recipe.write_text(text.format(pair[0], foreign))
    assert "different architectures" in call("merge", recipe, "-o", tmp_path / "m", code=2)
    assert not (tmp_path / "m").exists()
    bent = tiny.write(tmp_path / "bent", weights, config={"rope_theta": 5e6})
    recipe.write_text(text.format(pair[0], bent))
    result = CliRunner().invoke(app, ["merge", str(recipe), "-o", str(tmp_path / "m")])
    assert result.exit_code == 0
    assert "warning: different position encodings: rope_theta:" in result.stderr


def test_a_sweep_asks_about_all_that_its_points_merge():
    sources = {"instruct": "i", "thinking": "t", "base": "b"}
    own = {"name": "own", "recipe": {"sources": {"a": "a", "b": "b"}, "weights": {"a": 1, "b": 1}}}

    def asked(*points, **more):
        config = SweepConfig.of(
            {"tasks": ["arithmetic"], "sources": sources, "points": points, "lambdas": [0.5]} | more
        )
        return [(list(merged), kept) for merged, kept in config.merges()]

    assert asked() == [(["instruct", "thinking"], "thinking")]
    assert asked({"preset": "ta"}) == [(["instruct", "thinking", "base"], "thinking")]
    assert asked(own) == [(["instruct", "thinking"], "thinking"), (["a", "b"], "a")]
    task_vectors = {"method": "task_arithmetic", "weights": {"instruct": 1, "thinking": 1}}
    assert asked(recipe=task_vectors) == [(["instruct", "thinking", "base"], "thinking")]


def test_doctor_speaks_json_and_exit_codes(pair, tmp_path):
    where = shipped()
    healthy = json.loads(call("doctor", where.instruct, where.thinking, "--weights", "--json"))
    assert healthy["verdict"] == "go"
    other = tiny.write(tmp_path / "other", tiny.tensors(1, hidden=8))
    assert json.loads(call("doctor", pair[0], other, "--json", code=2))["verdict"] == "stop"


def test_similarity_and_audit_agree_with_the_library(tmp_path):
    from interpole.diagnostics.similarity import compare

    where = shipped()
    ends = (where.instruct, where.thinking)
    sigma = json.loads(call("similarity", *ends, "--json"))["sigma"]["global"]
    assert sigma == compare(*map(interpole.open, ends)).sigma("global")
    call("similarity", *ends, "--heatmap", tmp_path / "heat.svg")
    assert "attention" in (tmp_path / "heat.svg").read_text()
    call("merge", *ends, "-l", "0.35", "-o", tmp_path / "m")
    found = json.loads(call("audit", tmp_path / "m", *ends, "--json"))
    assert found["lambda"] == 0.35
    assert found["byte_for_byte"]


def test_mergekits_yaml_is_merged_and_converted(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data / "golden")
    text = call("recipe", "convert", "configs/qwen3-linear-0.8-f32.yml")
    ours = tmp_path / "ours.yml"
    ours.write_text(text)
    call("merge", "configs/qwen3-linear-0.8-f32.yml", "-o", tmp_path / "a")
    call("merge", ours, "-o", tmp_path / "b")
    a, b = interpole.open(tmp_path / "a"), interpole.open(tmp_path / "b")
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    bad = tmp_path / "bad.yml"
    bad.write_text("merge_method: linear\nmodels:\n- model: x\n  colour: red\n")
    with pytest.raises(RecipeError, match="colour"):
        call("recipe", "convert", bad)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small real run of the shipped pair, made by the command."""
    folder, where = tmp_path_factory.mktemp("cli") / "run", shipped()
    command = [
        "sweep",
        where.instruct,
        where.thinking,
        *shlex.split("--task arithmetic -l 0,0.5,0.8,1 -k 2 --limit 12"),
    ]
    made = CliRunner().invoke(app, [*map(str, command), "--out", str(folder)])
    assert made.exit_code == 0, made.output
    assert "Think #R" in made.stdout
    assert "96/96" in made.stderr
    return folder


def test_score_writes_the_tables_with_their_exact_columns(run):
    call("score", run)
    with (run / "curves.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames) == COLUMNS
    assert [[row[name] for name in ("task", "lam", "questions", "samples")] for row in rows] == [
        ["arithmetic", lam, "12", "2"] for lam in ("0.0", "0.5", "0.8", "1.0")
    ]
    think = [float(row["think"]) for row in rows]
    assert think[0] == 0
    assert think[-1] == 1


def test_stages_and_recommend_read_runs_and_tables_alike(run):
    from_run = json.loads(call("stages", run, "--json"))
    from_table = json.loads(call("stages", run / "curves.csv", "--json"))
    assert from_run["tasks"]["arithmetic"]["stage2"] == from_table["tasks"]["arithmetic"]["stage2"] == [0, 0.8]
    cheap = json.loads(call("recommend", run, "--max-tokens", "20", "--json"))
    assert cheap["tokens"]["value"] <= 20
    nothing = json.loads(call("recommend", run / "curves.csv", "--max-tokens", "1", "--json", code=3))
    assert nothing["lam"] is None
    assert nothing["nearest"]["lam"] == 0


def test_the_papers_table_2_gives_its_stage_2(tmp_path):
    from interpole.analysis.tables import CurveRow
    from paper_tables import table2

    rows = table2()
    assert isinstance(rows[0], CurveRow)
    path = tmp_path / "curves.csv"
    path.write_text("task,lam,think\n" + "".join(f"{row.task},{row.lam},{row.think}\n" for row in rows))
    assert json.loads(call("stages", path, "--json"))["pooled"]["stage2"] == [0.4, 0.6]


def test_report_plot_and_watch_show_the_run(run, tmp_path):
    page = call("report", run, "-o", tmp_path / "r.html").strip()
    assert page == str(tmp_path / "r.html")
    assert "<html" in (tmp_path / "r.html").read_text()
    assert (run / "figures/hero.svg").exists()
    call("plot", run, "--figure", "3", "-o", tmp_path / "f.pdf")
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
    assert "λ=0.5" in call("watch", run)


def test_before_anything_is_counted_no_count_is_shown(capfd):
    with sweep_bar() as on_progress:
        on_progress(SweepProgress(message="arithmetic is graded by exact"))
        on_progress(SweepProgress("arithmetic", "λ=0", done=3, total=9, message="λ=0 is done"))
    assert capfd.readouterr().err == "arithmetic is graded by exact\n[3/9] λ=0 is done\n"


def test_sizes_are_read_in_three_digits():
    shown = {0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1.00 kB", 9995: "10.0 kB", 16_956: "17.0 kB"}
    shown |= {99_950: "100 kB", 999_499: "999 kB", 999_500: "1.00 MB", 8_044_936_192: "8.04 GB", 2.5e15: "2,500 TB"}
    assert {size: size_text(size) for size in shown} == shown


def test_a_dry_run_tells_what_is_there(run):
    where = shipped()
    command = ["sweep", where.instruct, where.thinking, *shlex.split("--task arithmetic -l 0,0.5,0.7 -k 2 --limit 12")]
    out = call(*command, "--out", run, "--dry-run")
    assert "24 responses to generate" in out


def test_a_dry_run_of_a_sweep_is_refused_where_the_sweep_could_not_write(tmp_path):
    (tmp_path / "file").write_text("")
    where, more = shipped(), shlex.split("--task arithmetic --limit 1 --dry-run --out")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="a file is in its place"):
            call("sweep", where.instruct, where.thinking, *more, out)


def test_text_of_users_is_shown_as_it_is_and_commands_can_be_pasted(tmp_path):
    pair, there = shipped(), tmp_path / "a [bold] and [/x] place"
    for side in ("instruct", "thinking"):
        shutil.copytree(getattr(pair, side), there / side)
    assert str(there) in call("doctor", there / "instruct", there / "thinking").replace("\n", "")
    (there / "questions.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n{"question": "2", "answer": "2"}\n')
    ends = (there / "instruct", there / "thinking")
    call(
        "sweep",
        *ends,
        "--task",
        there / "questions.jsonl",
        *shlex.split("-l 0,1 -k 1 --max-tokens 2 -o"),
        there / "run",
    )
    told = call("recommend", there / "run", "--balanced")
    (line,) = (line for line in told.splitlines() if line.strip().startswith("interpole merge"))
    assert shlex.split(line)[2:4] == [str(end) for end in ends]


def test_control_characters_are_shown_not_obeyed():
    from io import StringIO

    from rich.text import Text

    from interpole.cli.show import Terminal
    from interpole.errors import RunError, printable

    assert printable("a\x1b[31mb\u202ec\nd\te") == "a\\x1b[31mb\\u202ec\nd\te"
    assert "\x1b" not in str(RunError("\x1b]0;title\x07", "\x1b[2J"))
    terminal = Terminal()
    terminal.file = StringIO()
    terminal.print("\x1b[31m[bold]x[/bold]", Text("\x1b[0m"))
    assert terminal.file.getvalue() == "\\x1b[31m[bold]x[/bold] \\x1b[0m\n"


def test_a_terminal_that_cannot_show_lambda_shows_its_number(run):
    command = [sys.executable, "-m", "interpole", "stages", str(run)]
    told = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"})
    assert told.returncode == 0, told.stderr
    assert b"\\u03bb" in told.stdout


def test_dash_h_is_help_everywhere():
    from typer.main import get_command

    from interpole.cli.reference import commands

    root = get_command(app)
    with root.make_context("interpole", [], resilient_parsing=True) as above:
        for name, command in commands(root, "interpole"):
            context = command.make_context(name, [], parent=above, resilient_parsing=True)
            assert {*command.get_help_option_names(context)} == {"-h", "--help"}, name
    for words in ([], ["runs"], ["merge"]):
        assert call(*words, "-h") == call(*words, "--help")


def test_the_think_marker_in_a_help_text_is_shown_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert r"e.g. `<think>\n`." in call("sweep", "-h")


def test_every_command_speaks_json():
    from typer.main import get_command

    from interpole.cli.reference import commands

    without = {
        name
        for name, command in commands(get_command(app), "interpole")
        if not hasattr(command, "commands") and "--json" not in {o for p in command.params for o in p.opts}
    }
    assert without == {"interpole demo"}  # it walks through the others


def test_json_of_what_is_made(pair, run, tmp_path):
    made = json.loads(call("merge", *pair, "-l", "0.2,0.4", "-o", tmp_path / "m", "--json"))["merged"]
    assert [(one["folder"], one["recipe"]["lambda"]) for one in made] == [
        (str(tmp_path / f"m-{lam}"), lam) for lam in (0.2, 0.4)
    ]
    assert json.loads(call("report", run, "-o", tmp_path / "r.html", "--json"))["page"] == str(tmp_path / "r.html")
    standing = json.loads(call("watch", run, "--json"))
    assert standing["done"] == standing["total"] == sum(one["total"] for one in standing["entries"])
    (listed,) = json.loads(call("runs", "list", run.parent, "--json"))
    assert listed["run"] == run.name
    assert json.loads(call("lab", "path", "--json")) == {
        name: str(getattr(shipped(), name)) for name in ("base", "instruct", "thinking")
    }


def test_pipes_get_whole_lines_without_blanks_at_their_ends(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = call("doctor", *pair, "--weights", code=2)
    assert all(
        one["what"] in shown for one in json.loads(call("doctor", *pair, "--weights", "--json", code=2))["findings"]
    )
    assert not any(line.endswith(" ") for line in shown.splitlines())
    curve = "task,lam,questions,samples,mean,tokens,think\nalong,0,50,2,.3,10,0\nalong,.5,50,2,.5,50,.5\nalong,1,50,2,.6,90,1\n"
    (tmp_path / "curves.csv").write_text(curve.replace("along", "a" * 60))
    assert "stage 2" in call("stages", tmp_path / "curves.csv").splitlines()[1]


def test_a_folder_loaded_as_a_recipe_is_said_to_be_none(pair):
    with pytest.raises(RecipeError, match="a folder is no recipe") as refused:
        Recipe.load(pair[0])
    assert "INSTRUCT THINKING" in refused.value.remedy


def test_the_flags_of_large_commands_stand_in_panels():
    for command, panels in (
        ("sweep", ("What to ask", "Where on the dial", "How to sample", "The engine", "The run")),
        ("merge", ("Where on the dial", "The result")),
    ):
        shown = call(command, "--help")
        assert all(f"\n{panel}:\n" in shown for panel in panels)
