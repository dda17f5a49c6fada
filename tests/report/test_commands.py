"""Commands and recipes on the page: they ask for what was run, and say what they leave out."""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import Any

import pytest
import yaml

from interpole.report.commands import pair, recipes, sweep_command
from interpole.runs.runfile import Entry, RunFile, SourceInfo, TaskInfo

SAMPLER = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": 256}
LABELS = {"instruct": "/home/me/In; rm", "thinking": "o/T"}
TIES = {"method": "ties", "sources": {"instruct": {"model": "/home/me/I"}, "thinking": {"model": "T"}}, "rules": []}


def entry(point: str, lam: float | None, **settings: Any) -> Entry:
    same = dict.fromkeys(("identity", "settings", "problems_hash", "fingerprint"), "0")
    fields = {"recipe": {"lambda": lam}, "sampler": SAMPLER} | settings
    return Entry(task="sums", point=point, lam=lam, folder="logs/a", **same, **fields)


def run_file(*entries: Entry, **settings: Any) -> RunFile:
    spec = {"task": "my sums.jsonl", "limit": 12}
    return RunFile(
        **{
            "created": "", "updated": "", "interpole": "0", "template_from": "thinking", "template": "", "prefix": "<think>\n",
            "sources": {n: SourceInfo(label=label, fingerprint=n) for n, label in LABELS.items()},
            "prompt_opens_thinking": False, "markers": ("<think>", "</think>"), "special_tokens": (), "seed": 7,
            "engine": {"engine": "transformers"}, "engine_options": {"dtype": "float32", "version": "1"},
            "tasks": {"sums": TaskInfo(spec=spec, num_problems=12, samples=4, problems_hash="0")}, "entries": entries,
        } | settings
    )  # fmt: skip


def options(command: str) -> dict[str, list[str]]:
    words = shlex.split(command)
    found: dict[str, list[str]] = {}
    for flag, value in pairwise(words):
        if flag.startswith("--"):
            found.setdefault(flag, []).append(value)
    return found


def test_the_sweep_is_asked_for_as_it_was() -> None:
    command, unsaid = sweep_command(run_file(entry("λ=0", 0.0), entry("λ=0.5", 0.5)), "runs/x y")
    assert shlex.split(command)[:4] == ["interpole", "sweep", "In; rm", "o/T"]
    assert options(command) == {
        "--task": ["my sums.jsonl"], "--lambda": ["0,0.5"], "--samples": ["4"], "--limit": ["12"], "--temperature": ["0.6"],
        "--top-p": ["0.95"], "--top-k": ["20"], "--max-tokens": ["256"], "--prefix": ["<think>\n"], "--seed": ["7"],
        "--engine-option": ["dtype=float32", 'version="1"'], "--out": ["runs/x y"],
    }  # fmt: skip
    assert unsaid == []


def test_what_no_flag_says_is_named_and_its_recipe_given() -> None:
    budget = entry("short", None, recipe={"lambda": 1.0}, asking={"budget_tokens": 40, "close": "\n"})
    hot = entry("λ=1", 1.0, sampler=SAMPLER | {"temperature": 1.0})
    file = run_file(entry("λ=0", 0.0), hot, budget, entry("ties", None, recipe=TIES))
    command, unsaid = sweep_command(file, "x")
    assert unsaid == ["temperature", "short", "ties"]
    assert "--temperature" not in options(command)
    texts = dict(recipes(file))
    assert yaml.safe_load(texts["ties"]) == {"method": "ties", "sources": {"instruct": "I", "thinking": "T"}}
    assert yaml.safe_load(texts["short"]) == {"lambda": 1.0, "budget_tokens": 40, "close": "\n"}


def test_a_dial_with_rules_is_not_said_to_be_a_plain_merge() -> None:
    rules = [{"layers": "0-2", "lambda": 0}]
    assert pair(run_file(entry("λ=0.5", 0.5))) == ("In; rm", "o/T")
    file = run_file(entry("λ=0.5", 0.5, recipe={"lambda": 0.5, "rules": rules}))
    assert pair(file) is None
    assert sweep_command(file, "x")[1] == ["the recipe of the dial"]
    assert [(name, yaml.safe_load(text)["rules"]) for name, text in recipes(file)] == [("the dial, at λ=0.5", rules)]


@pytest.mark.parametrize("label", ["a\x1b[2Jb", "a\x03b"])
def test_control_characters_do_not_reach_the_clipboard(label: str) -> None:
    sources = {"instruct": SourceInfo(label=label, fingerprint="a")}
    command, _ = sweep_command(run_file(entry("λ=0", 0.0), sources=sources), "x")
    assert command.isascii()
    assert all(char.isprintable() or char == "\n" for char in command)
    assert "\\x" in command


def test_a_served_run_names_its_endpoint_and_models() -> None:
    url, other = {"base_url": "http://localhost:8000/v1", "model": "m@{lambda}"}, {"model": "other"}
    dial = [entry(f"λ={lam:g}", lam, recipe=url | {"model": f"m@{lam:g}"}) for lam in (0.0, 1.0)]
    elsewhere = entry("elsewhere", None, recipe=other | {"base_url": "http://there/v1"})
    file = run_file(*dial, entry("other", None, recipe=url | other), elsewhere, sources={}, engine_options=url)
    command, unsaid = sweep_command(file, "x")
    assert unsaid == ["elsewhere"]
    assert options(command)["--model"] == ["m@{lambda}", "other"]
    assert options(command)["--base-url"] == ["http://localhost:8000/v1"]
    assert "--engine-option" not in options(command)
    assert pair(file) is None
