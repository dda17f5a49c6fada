"""Other settings than a run's: named, counted and refused before anything is done, unless the user says what to do."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import live
import tiny
from bench import Bench
from interpole.cli import app
from interpole.errors import EngineError, RunError
from interpole.runs import samples
from interpole.runs.runfile import NAME, RunFile
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of 2 λ × 4 questions × 2 samples, read by the tests below and changed by none."""
    bench = Bench(tmp_path_factory.mktemp("made"))
    assert bench.sweep(lambdas="0,1", changed="refuse") == 16
    return bench


CHANGES = [
    ({"sampler": {"temperature": 0.9}}, 16, "temperature is 0.9, was 0.6"),
    ({"sampler": {"max_tokens": 7}}, 16, "max_tokens is 7, was "),
    ({"prefix": "<think>\n"}, 16, r"prefix is '<think>\\n', was ''"),
    ({"seed": 1}, 16, "seed is 1, was 0"),
    ({"limit": 3}, 16, r"arithmetic asks other questions, or asks otherwise \(3, were 4\)"),
    ({"recipe": {"rules": [{"kind": "attention", "lambda": 0.0}]}}, 16, "the recipe of the dial is .*'rules'"),
    ({"markers": ["[T]", "[/T]"]}, 16, r"markers is \('\[T\]', '\[/T\]'\), was"),
    ({"lambdas": "0.5", "sampler": {"top_k": 3}}, 16, "top_k is 3, was 0"),  # at another point, and yet not comparable
]


@pytest.mark.parametrize(("change", "num", "said"), CHANGES, ids=lambda value: str(value)[:30])
def test_changed_settings_are_named_and_counted_and_nothing_is_done(made, change, num, said):
    before = (made.out / NAME).read_bytes()
    config = made.config(**{"lambdas": "0,1"} | change)
    for do in (sweep.run, sweep.plan):  # what the run refuses the dry run refuses
        with pytest.raises(
            RunError, match=f"^{num} responses in the run were made with other settings: .*{said}"
        ) as error:
            do(config, made.out)
        assert "--also" in error.value.remedy
        assert "--fresh" in error.value.remedy
    assert (made.out / NAME).read_bytes() == before
    assert made.num_generated == 16


def test_more_of_the_same_is_no_change(made):
    for more in ({"lambdas": "0,0.5,1"}, {"lambdas": "0", "samples": 5}, {"lambdas": "1", "concurrency": 3}):
        sweep.plan(made.config(**more), made.out)
    other_speed = made.config().engine_options | {"rows": 7}
    assert (
        sum(one.num_present for one in sweep.plan(made.config(lambdas="0,1", engine_options=other_speed), made.out))
        == 16
    )


def test_another_pair_of_weights_is_named(made, tmp_path):
    other = str(tiny.write(tmp_path / "other", tiny.tensors(9, layers=1), template=live.TEMPLATE))
    with pytest.raises(RunError, match=r"settings: source instruct is '[^;]*other', was '[^;]*'\n"):
        sweep.plan(made.config(lambdas="0,1", sources=made.sources | {"instruct": other}), made.out)


def test_answers_of_a_sweep_that_was_killed_count_as_well(tmp_path):
    bench = Bench(tmp_path)
    bench.write([{"contains": "", "responses": ["7", "7", {"fail": "die"}]}])
    bench.sweep(lambdas="0", max_failures=0)
    (log,) = bench.out.rglob("*.eval")
    run = json.loads((bench.out / NAME).read_text())
    run["entries"][0]["parts"][0] |= {"status": "planned", "log": None}  # as a kill before the log leaves it
    (bench.out / NAME).write_text(json.dumps(run))
    log.unlink()
    with pytest.raises(RunError, match=r"^2 responses in the run"):
        sweep.plan(bench.config(lambdas="0", seed=5), bench.out)


def test_also_leaves_the_former_responses_out_and_fresh_moves_the_run_beside(tmp_path):
    bench = Bench(tmp_path)
    pair = list(bench.sources.values())
    options = [f"--engine-option={key}={value}" for key, value in bench.config().engine_options.items()]
    command = ["sweep", *pair, "--engine", "scripted", *options, "-l", "0", "--limit", "2", "-k", "1", "--no-doctor"]

    def do(*flags):
        return CliRunner().invoke(app, [*command, "--out", str(bench.out), *flags])

    def temperatures(out):
        return {entry.sampler["temperature"] for entry in RunFile.load(out).current}

    assert do("--temperature", "0.5").exit_code == 0
    refused = do("--temperature", "0.9")
    assert isinstance(refused.exception, RunError)
    assert do("--temperature", "0.9", "--dry-run").exception.args == refused.exception.args
    assert "2 responses to generate" in do("--temperature", "0.9", "--dry-run", "--also").output
    assert do("--temperature", "0.9", "--also").exit_code == 0
    assert (temperatures(bench.out), len(samples.read(bench.out))) == ({0.9}, 2)
    assert bench.num_generated == 4
    assert do("--temperature", "0.1", "--fresh").exit_code == 0
    assert (temperatures(bench.out), len(samples.read(bench.out))) == ({0.1}, 2)
    aside = Path(f"{bench.out}.1")
    assert (temperatures(aside), len(samples.read(aside))) == ({0.9}, 2)
    assert do("--also", "--fresh").exit_code == 2


def test_a_finished_sweep_starts_no_engine(made, monkeypatch):
    def must_not_be_called(*_):
        raise AssertionError("an engine was started")

    monkeypatch.setattr("interpole.sweep.run.pool_of", must_not_be_called)
    summary = sweep.run(made.config(lambdas="0,1"), made.out)
    assert (summary.num_generated, summary.failed, len(made.read())) == (0, (), 16)
    with pytest.raises(AssertionError, match="was started"):
        sweep.run(made.config(lambdas="0,0.5,1"), made.out)


def test_a_new_release_of_what_generates_is_another_setting(tmp_path, monkeypatch):
    instruct, thinking = live.pair(tmp_path)
    content = {
        "sources": {"instruct": str(instruct), "thinking": str(thinking)}, "tasks": "arithmetic", "lambdas": "0",
        "samples": 1, "limit": 1, "sampler": {"max_tokens": 2},
    }  # fmt: skip
    config, out = SweepConfig.of(content), tmp_path / "run"
    assert sweep.run(config, out).num_generated == 1
    assert sweep.plan(config, out)[0].num_present == 1
    with pytest.raises(RunError, match="dtype is 'float32', was not set"):
        sweep.plan(SweepConfig.of(content | {"engine_options": {"dtype": "float32"}}), out)
    monkeypatch.setattr("interpole.sweep.changes.version", lambda _: "9.9.9")
    with pytest.raises(RunError, match=r"(torch|transformers) is '9.9', was"):
        sweep.plan(config, out)


def test_what_is_not_installed_is_said_before_anything_is_done(made, monkeypatch):
    monkeypatch.setattr("interpole.packages.find_spec", lambda name: None if name == "inspect_ai" else object())
    for do in (sweep.run, sweep.plan):
        with pytest.raises(RunError, match="inspect_ai, which is not installed") as error:
            do(made.config(), made.out)
        assert error.value.remedy == "pip install inspect_ai"
    monkeypatch.setattr("interpole.packages.find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(EngineError, match="torch, which is not installed") as error:
        sweep.plan(made.config(engine="transformers", engine_options={}), made.out)
    assert error.value.remedy == "pip install 'interpole[transformers]'"


def test_a_notebook_without_widgets_is_said_before_anything_is_done(made, monkeypatch):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("interpole.packages.find_spec", lambda name: None if name == "ipywidgets" else object())
    with pytest.raises(RunError, match="ipywidgets, which is not installed"):
        sweep.run(made.config(lambdas="0.5"), made.out)
    shell.config = {"TerminalIPythonApp": {}}
    assert sweep.plan(made.config(), made.out)
