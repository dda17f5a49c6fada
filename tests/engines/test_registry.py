"""The registry of engines: what it says of ours is true, and what a package adds works everywhere without another change."""

import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import live
import tiny
from bench import call
from interpole.cli import app
from interpole.engines import openai, scripted, transformers
from interpole.engines.open import open_engine
from interpole.engines.registry import BUILT_IN, engine_kind, engine_kinds
from interpole.errors import EngineError, RunError
from interpole.runs import samples
from interpole.sweep.config import SweepConfig

DOCS = Path(__file__).parents[2] / "docs/sweep.md"


@pytest.mark.parametrize(
    ("name", "engine", "others"),
    [
        ("transformers", transformers.TransformersEngine, {"resolve"}),
        ("openai", openai.OpenAIEngine, set()),
        ("scripted", scripted.ScriptedEngine, set()),
    ],
)
def test_the_options_named_are_those_that_the_engine_takes_and_the_docs_explain(name, engine, others):
    taken = set(inspect.signature(engine).parameters) - {"checkpoint"} - others
    points_own = {"base_url", "model"} if engine_kind(name).remote else set()
    assert set(engine_kind(name).options) == taken | points_own
    table = DOCS.read_text().partition("## Engine options")[2]
    assert not [option for option in engine_kind(name).options if f"`{option}`" not in table]
    assert f"| `{name}` |" in table


def test_options_that_matter_are_options():
    for kind in engine_kinds().values():
        assert None in (kind.options, kind.matters) or set(kind.matters) <= set(kind.options)


def test_an_engine_or_option_that_is_not_there_is_refused_before_anything_is_opened():
    content = {"sources": {"instruct": "a", "thinking": "b"}, "tasks": "arithmetic", "lambdas": "0"}
    with pytest.raises(RunError, match=r"no engine 'warp'; there are transformers, vllm, openai, scripted"):
        SweepConfig.of(content | {"engine": "warp"})
    with pytest.raises(RunError, match="transformers has no 'dtyp'; there are dtype, device"):
        SweepConfig.of(content | {"engine_options": {"dtyp": "float32"}})


@pytest.mark.parametrize(
    ("engine", "name", "value", "words"),
    [
        ("transformers", "threads", "two", "threads: 'two' is no whole number from 1 on"),
        ("transformers", "max_rows", 0, "max_rows: 0 is no whole number from 1 on"),
        ("vllm", "tensor_parallel_size", 1.5, "tensor_parallel_size: 1.5 is no whole number from 1 on"),
        ("openai", "timeout_seconds", float("nan"), "timeout_seconds: nan is no number from 0 on"),
        ("openai", "retries", True, "retries: True is no whole number from 0 on"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_an_engine_is_opened(engine, name, value, words):
    kind = engine_kind(engine)
    assert kind.fault_in({name: value}) == words
    assert kind.fault_in({name: None}) == kind.fault_in({name: 3}) == ""
    with pytest.raises(EngineError, match=words):
        open_engine(engine, None, **{name: value})


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The engine of `parrot.py`, as an installed package brings it."""
    (tmp_path / "parrot-1.dist-info").mkdir()
    (tmp_path / "parrot-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1\n")
    (tmp_path / "parrot-1.dist-info/entry_points.txt").write_text("[interpole.engines]\nparrot = parrot:KIND\n")
    (tmp_path / "parrot.py").write_text((Path(__file__).parent / "parrot.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.delitem(sys.modules, "parrot", raising=False)
    engine_kinds.cache_clear()
    yield
    engine_kinds.cache_clear()


@pytest.mark.usefixtures("installed")
def test_an_engine_of_another_package_sweeps_and_estimates_from_the_command_line(tmp_path):
    assert list(engine_kinds()) == [*BUILT_IN, "parrot"]
    pair = [
        str(tiny.write(tmp_path / name, tiny.tensors(i, layers=1), template=live.TEMPLATE))
        for i, name in enumerate(("instruct", "thinking"))
    ]
    flags = shlex.split("--engine parrot --engine-option reply=7 --lambda 0,1 --limit 2 -k 1 --no-doctor")
    command = ["sweep", *pair, *flags, "--out", str(tmp_path / "run")]
    planned = call(*command, "--dry-run", errors=True)
    assert "4 responses to generate" in planned
    assert "memory" not in planned  # it holds no model
    call(*command)
    found = samples.read(tmp_path / "run")
    assert [(one.response, one.num_tokens) for one in found] == [("7", 1)] * 4
    with pytest.raises(RunError, match="parrot has no 'word'"):
        CliRunner().invoke(app, [*command, "--engine-option", "word=8"], catch_exceptions=False)


def test_a_package_whose_engine_does_not_load_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken-1.dist-info").mkdir()
    (tmp_path / "broken-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (tmp_path / "broken-1.dist-info/entry_points.txt").write_text("[interpole.engines]\nbroken = nowhere_at_all:KIND\n")
    monkeypatch.syspath_prepend(tmp_path)
    engine_kinds.cache_clear()
    with pytest.raises(EngineError, match="the engine broken does not load"):
        engine_kinds()
    engine_kinds.cache_clear()


def test_questions_straight_to_an_engine_need_no_inspect():
    code = "import sys, interpole.sweep.generate; print('inspect_ai' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
