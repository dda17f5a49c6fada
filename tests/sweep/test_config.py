"""What a sweep's configuration makes of what is said: profiles, points on the dial, what the engine needs."""

import json

import pytest
from typer.testing import CliRunner

import tiny
from interpole import tasks
from interpole.checkpoints.open import open_source
from interpole.cli import app
from interpole.errors import RunError
from interpole.sweep.config import SweepConfig
from interpole.sweep.estimate import memory


def test_a_profile_says_what_was_published_and_what_is_said_goes_before():
    alone = SweepConfig.of({"profile": "paper-4b"})
    assert [task.task for task in alone.tasks] == ["aime25", "ifeval", "gpqa_diamond"]
    assert (alone.tasks[0].samples, alone.tasks[0].sampler["max_tokens"]) == (64, 81920)
    assert alone.sources["thinking"].model == "Qwen/Qwen3-4B-Thinking-2507"
    assert alone.lambdas == (0.0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 1.0)
    assert alone.points[0].sampler == {"temperature": 0.7, "top_p": 0.8}
    said = {"tasks": ["aime25", {"task": "arithmetic", "limit": 3}], "lambdas": "0.3", "samples": 2, "points": []}
    mine = SweepConfig.of({"profile": "paper-4b", "sampler": {"temperature": 0.9}, **said})
    published, own = mine.tasks
    assert (published.samples, published.sampler["temperature"], published.sampler["top_k"]) == (2, 0.9, 20)
    assert (own.samples, own.limit, own.sampler) == (None, 3, {})
    assert mine.point_names == ["λ=0.3"]
    with pytest.raises(RunError, match="no profile 'paper-8b'; profiles are: paper-4b"):
        SweepConfig.of({"profile": "paper-8b"})


def test_what_a_profile_said_is_the_same_when_it_is_read_again():
    config = SweepConfig.of({"profile": "paper-30b", "sampler": {"top_p": 0.5}})
    assert SweepConfig.of(config.model_dump(exclude_unset=True, by_alias=True)) == config


def test_memory_follows_the_dtype_that_the_engine_is_told(tmp_path):
    folder = tiny.write(tmp_path / "m", tiny.tensors(0, layers=1))
    content = {"sources": {"instruct": str(folder), "thinking": str(folder)}, "tasks": "arithmetic", "lambdas": "0"}
    specs = open_source(str(folder)).specs.values()
    num_elements = sum(spec.num_elements for spec in specs)
    kept = memory(SweepConfig.of(content), 0)
    wide = memory(SweepConfig.of(content | {"engine_options": {"dtype": "float32", "max_rows": 3}}), 0)
    assert (kept.weights_bytes, kept.rows) == (sum(spec.num_bytes for spec in specs), 128)
    assert (wide.weights_bytes, wide.rows) == (4 * num_elements, 3)
    assert memory(SweepConfig.of(content | {"engine": "scripted"}), 0) is None


# ── code that a file names ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["sweep", "search"])
@pytest.mark.parametrize("kind", ["grader", "task", "engine", "file"])
def test_code_that_a_file_names_is_run_on_the_users_word_only(tmp_path, monkeypatch, command, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text("open('ran', 'w')\ndef grade(response, answer):\n    return 1\n")
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1 = ?", "answer": "2"}\n')
    content = {"sources": {"instruct": "a", "thinking": "b"}, "lambdas": [0.0, 1.0], "tasks": ["q.jsonl"]}
    file = str(tmp_path / "theirs.py")
    if kind == "grader":
        content["tasks"] = [{"task": "q.jsonl", "grader": "python:theirs.grade"}]
        named = f"task q.jsonl: python:theirs.grade ({file})"
    elif kind == "task":
        content["tasks"] = ["theirs.py@some"]
        named = f"task theirs.py@some: theirs.py@some ({file})"
    elif kind == "file":
        content |= {"engine": "scripted", "engine_options": {"script": "script.json", "journal": "/home/me/.profile"}}
        named = "engine scripted: journal: /home/me/.profile"
    else:
        content |= {"engine": "vllm", "engine_options": {"dtype": "float32", "worker_cls": "theirs.Worker"}}
        named = "engine vllm: worker_cls: theirs.Worker"
    assert SweepConfig.of(content).code() == (named,)
    if command == "search":
        content["space"] = {"lambda": [0, 1]}
    (tmp_path / "file.yml").write_text(json.dumps(content))
    refused = CliRunner().invoke(app, [command, "file.yml", "--out", "run"])
    assert isinstance(refused.exception, RunError)
    assert not (tmp_path / "ran").exists()
    assert named in str(refused.exception)
    assert "--trust" in refused.exception.remedy
    trusted = CliRunner().invoke(app, [command, "--trust", "file.yml", "--out", "run"])
    assert f"runs {named}" in trusted.stderr  # and then fails: there are no such models


def test_code_of_a_file_that_the_command_line_replaces_is_neither_run_nor_asked_about(tmp_path):
    content = {"sources": {"instruct": "a", "thinking": "b"}, "lambdas": [0.0], "tasks": [{"task": "theirs.py@one"}]}
    options = {"worker_cls": "theirs.Worker", "enforce_eager": True}
    content |= {"engine": "vllm", "engine_options": options}
    (tmp_path / "file.yml").write_text(json.dumps(content))
    (tmp_path / "theirs.py").touch()
    mine = {"tasks": [{"task": "q.jsonl", "grader": "python:mine.grade"}], "engine_options": {"worker_cls": "mine.W"}}
    taken = SweepConfig.load(tmp_path / "file.yml", mine)
    assert taken.tasks[0].grader == "python:mine.grade"
    assert taken.engine_options == {"worker_cls": "mine.W", "enforce_eager": True}
    assert taken.code(mine) == ()
    assert len(taken.code()) == 2
    for part, named in (("tasks", "worker_cls: theirs.Worker"), ("engine_options", "task theirs.py@one")):
        with pytest.raises(RunError) as refused:
            SweepConfig.load(tmp_path / "file.yml", {part: mine[part]})
        assert named in str(refused.value)
        assert "mine" not in str(refused.value)


def test_options_of_a_file_are_judged_for_the_engine_that_the_command_line_names(tmp_path):
    content = {"sources": {"instruct": "a", "thinking": "b"}, "lambdas": [0.0], "tasks": ["q.jsonl"]}
    (tmp_path / "file.yml").write_text(json.dumps(content | {"engine_options": {"dtype": "float32"}}))
    assert SweepConfig.load(tmp_path / "file.yml", {"engine": "vllm"}).engine == "vllm"
    (tmp_path / "file.yml").write_text(json.dumps(content | {"engine_options": {"device": "theirs.Device"}}))
    with pytest.raises(RunError, match=r"names code to run, .*: engine vllm: device: theirs\.Device"):
        SweepConfig.load(tmp_path / "file.yml", {"engine": "vllm"})


def test_a_grader_of_the_command_line_and_what_names_no_code_need_no_word_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks/more").mkdir(parents=True)
    (tmp_path / "tasks/one.py").touch()
    for spec, grader in (("arithmetic", None), ("q.jsonl", "exact"), ("a/b.jsonl", None), ("inspect_evals/x", None)):
        assert not tasks.code_of(spec, grader)
    assert "tasks" in tasks.code_of("tasks/one.py@a")
    assert tasks.code_of("tasks/more")  # a folder: Inspect would look for tasks in all of its files
    assert not tasks.code_of("x" * 5000)
    options = {"dtype": "bfloat16", "max_rows": 4, "enforce_eager": True, "trust_remote_code": False}
    content = {"sources": {"instruct": "a", "thinking": "b"}, "lambdas": "0", "tasks": "arithmetic", "engine": "vllm"}
    assert not SweepConfig.of(content | {"engine_options": options}).code()
    assert SweepConfig.of(content | {"engine_options": {"trust_remote_code": True}}).code()
