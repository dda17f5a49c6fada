"""Predictions: an engine is asked at few λ, parts are moved one at a time, and a sweep's curve stands beside them."""

import json
import math
from contextlib import contextmanager

import numpy as np
import pytest
from scipy.special import expit
from typer.testing import CliRunner

import tiny
from bench import call
from interpole.cli import app
from interpole.errors import AnalysisError, EngineError, RunError, TaskError
from interpole.lab import shipped
from interpole.records import Chance, Sampler
from interpole.runs.prediction import PREDICTION, PredictionFile
from interpole.search.predict import ForwardPasses, Prompt, ask_parts, opened, prompts_in
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan

TEMPLATE = "{{ messages[0].content }}{# <think> </think> #}"
OPENING = "{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}{# </think> #}"
EFFECTS = {"attention": 3.0, "ffn": 8.0, "norm": -0.5, "embedding": 1.5}


@pytest.fixture
def pair(tmp_path):
    return [tiny.write(tmp_path / name, tiny.tensors(seed), template=TEMPLATE) for seed, name in enumerate("ab")]


def config(pair, **more):
    sources = {"instruct": str(pair[0]), "thinking": str(pair[1])}
    return SweepConfig.of({"sources": sources, "tasks": ["arithmetic"], "lambdas": [0, 1], "limit": 6} | more)


class Additive:
    """Margins that kinds of modules add to, each straight in its own λ; every prompt begins elsewhere."""

    def __init__(self):
        self.loads, self.margin = [], math.nan

    @contextmanager
    def visit(self, where, fingerprint, *, label, num_expected):
        assert fingerprint
        assert label
        assert num_expected == 6
        rules = {rule["kind"]: rule["lambda"] for rule in where.get("rules", ()) if "kind" in rule}
        self.margin = sum(effect * rules.get(kind, where["lambda"]) for kind, effect in EFFECTS.items()) - 6
        self.loads.append(where)
        yield self

    async def chance(self, prompt, begins, sampler):
        assert begins == "<think>"
        margin = self.margin + len(prompt) / 10 - 2
        return Chance(float(expit(margin / sampler.temperature)), margin)


@pytest.fixture
def asked(pair):
    planned, engine = Plan(config(pair)), Additive()
    prompts = [Prompt("one", str(i), "x" * (10 * i), Sampler(), "<think>") for i in range(5)]
    return ForwardPasses(planned, engine, [*prompts, Prompt("two", "0", "x" * 40, Sampler(), "<think>")], "<think>")


def test_every_task_is_known_to_the_tolerance_and_no_lambda_is_asked_twice(asked):
    asked.bisect(1 / 64)
    lams = [where["lambda"] for where in asked.pool.loads]
    assert len(set(lams)) == len(lams) < 30
    two = asked.curve("two")
    assert two.mid.value == pytest.approx(4 / 12, abs=0.003)  # its margin is 12 λ − 4
    assert two.off.value == pytest.approx((4 + 0.6 * math.log(19)) / 12, abs=0.005)
    fine = np.linspace(0, 1, 20_001)
    shares = expit((12 * fine[:, None] - 8 + np.arange(5)) / 0.6).mean(axis=1)
    assert asked.curve("one").mid.value == pytest.approx(np.interp(0.5, shares, fine), abs=0.003)


def test_parts_move_alone_and_are_ranked(asked):
    found = ask_parts(asked, "kinds")["one"]
    assert [(part.name, pytest.approx(part.change[0])) for part in found.parts] == sorted(
        EFFECTS.items(), key=lambda one: -abs(one[1])
    )
    assert found.whole[0] == pytest.approx(12)
    assert found.together[0] == pytest.approx(1)
    half = ask_parts(asked, "kinds", lam=0.5)["two"]
    assert half.parts[0].change[0] == pytest.approx(4)
    cells = ask_parts(asked, "cells")["one"].parts
    assert {(part.layer, part.kind) for part in cells} >= {(0, "ffn"), (2, "attention"), (None, "embedding")}
    assert len(ask_parts(asked, "layers")["one"].parts) == 4
    assert [part.name for part in ask_parts(asked, "groups", num_groups=2)["one"].parts][-1] == "outside the layers"
    with pytest.raises(AnalysisError, match="there are kinds, layers, groups, cells"):
        ask_parts(asked, "tensors")


def test_parts_of_a_recipe_with_rules_are_refused(pair, asked):
    ruled = Plan(config(pair, recipe={"rules": [{"layers": "0", "lambda": 0}]}))
    with pytest.raises(RunError, match="has rules"):
        ask_parts(ForwardPasses(ruled, Additive(), asked.prompts, "<think>"), "kinds")


def test_prompts_come_from_lines_or_rows(pair, tmp_path):
    planned = Plan(config(pair))
    (tmp_path / "p.txt").write_text("How much?\n\nWhy?\n")
    rows = [{"question": "a"}, {"prompt": "b"}, {"messages": [{"role": "user", "content": "c"}]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [one.text for one in prompts_in(planned, tmp_path / "p.txt", Sampler())] == ["How much?", "Why?"]
    assert [one.text for one in prompts_in(planned, tmp_path / "p.jsonl", Sampler(), 2)] == ["a", "b"]
    for name, content in (("empty.txt", "\n"), ("wrong.jsonl", '{"answer": "7"}\n')):
        (tmp_path / name).write_text(content)
        with pytest.raises(TaskError):
            prompts_in(planned, tmp_path / name, Sampler())


def scripted(folder, script, limit):
    """The words of a command that ask an engine with this script."""
    (folder / "script.json").write_text(json.dumps(script))
    option = ["--engine-option", f"script={folder}/script.json"]
    return ["--engine", "scripted", *option, "--no-doctor", "--limit", str(limit)]


def test_prompts_that_open_the_thinking_are_asked_how_likely_responses_begin_as_thinkings_own_do(pair, tmp_path):
    for folder in pair:
        (folder / "chat_template.jinja").write_text(OPENING)
    chances = {0.0: 0.0001, 0.25: 0.1, 0.5: 0.3, 1.0: 0.5}
    script = [{"lambda": lam, "chance": chance, "responses": ["so it begins"]} for lam, chance in chances.items()]
    engine = scripted(tmp_path, script, limit=3)
    done = CliRunner().invoke(app, ["predict", *map(str, pair), "--lambda", "0,0.25,0.5,1", *engine, "--json"])
    assert "the prompts open the thinking themselves" in done.stderr
    found = json.loads(done.stdout)
    assert found["marker"] == "Thinking's own beginning"
    (task,) = found["tasks"].values()
    assert [row[0] for row in task["probabilities"]] == pytest.approx([0.0002, 0.2, 0.6, 1])  # of what it is at λ = 1
    assert 0.25 < task["mid"][0] < 0.5


def test_engines_that_cannot_say_are_refused():
    served = {
        "tasks": ["arithmetic"],
        "engine": "openai",
        "points": [{"name": "m", "model": "m", "base_url": "http://x"}],
    }
    with pytest.raises(EngineError, match="does not say"), opened(SweepConfig.of(served)):
        pass


def test_the_command_stands_beside_a_sweep_and_refuses_one_of_other_weights(pair, tmp_path):
    shares = {0.0: 0.001, 0.5: 0.4, 1.0: 0.999}
    script = [
        {"lambda": lam, "chance": chance, "responses": ["<think>1</think>2", "3"] if lam else ["3"]}
        for lam, chance in shares.items()
    ]
    engine = scripted(tmp_path, script, limit=4)
    run = ["sweep", *map(str, pair), "--lambda", "0,0.5,1", "--samples", "2", "--out", str(tmp_path / "run"), *engine]
    assert CliRunner().invoke(app, run).exit_code == 0
    command = ["predict", *map(str, pair), "--lambda", "0,0.5,1", *engine, "--against", str(tmp_path / "run")]
    outputs = ["--out", str(tmp_path / "run"), "--plot", str(tmp_path / "p.svg"), "--json"]
    found = json.loads(call(*command, *outputs))
    beside = [(one["lam"], one["measured"][0], one["predicted"]) for one in found["against"]]
    assert beside == [(lam, 0.5 if lam else 0.0, pytest.approx(chance)) for lam, chance in shares.items()]
    kept = PredictionFile.of_run(tmp_path / "run").tasks["arithmetic"]
    assert kept.mid[0] == pytest.approx(found["tasks"]["arithmetic"]["mid"][0])
    assert 0.5 < kept.mid[0] < 0.7
    svg = (tmp_path / "p.svg").read_text()
    assert "predicted, without generating" in svg
    assert "Think #R, measured" in svg
    words = CliRunner().invoke(app, command).stdout
    assert "12 forward passes over prompts, no token generated" in " ".join(words.split())
    turned = CliRunner().invoke(app, ["predict", *map(str, pair[::-1]), *command[3:]])
    assert "other weights than the run's" in str(turned.exception)
    warm = CliRunner().invoke(app, [*command, "--temperature", "1"])
    assert "asks with another temperature" in str(warm.exception)


def test_a_prediction_file_that_makes_no_sense_is_refused(tmp_path):
    good = {
        "interpole": "1", "marker": "<think>", "sources": {}, "engine": {},
        "tasks": {"t": {"questions": ["a"], "sampler": {}, "lams": [0, 1], "probabilities": [[0], [1]],
                        "margins": [[-3], [3]], "on": None, "mid": [0.5, None, None], "off": None}},
    }  # fmt: skip
    path = tmp_path / PREDICTION
    path.write_text(json.dumps(good))
    assert PredictionFile.load(path).tasks["t"].mid == (0.5, None, None)
    for key, value in (("lams", [1, 0]), ("probabilities", [[0], [2]]), ("margins", [[0]]), ("mid", ["half"])):
        wrong = {**good, "tasks": {"t": {**good["tasks"]["t"], key: value}}}
        path.write_text(json.dumps(wrong))
        with pytest.raises(RunError):
            PredictionFile.load(path)
    path.write_text("[" * 100_000)
    with pytest.raises(RunError):
        PredictionFile.load(path)


def test_the_tiny_pair_is_predicted_to_begin_to_think_where_its_sweep_did():
    pair = shipped()
    command = ["predict", str(pair.instruct), str(pair.thinking), "--limit", "6", "--tolerance", "0.1", "--by", "kinds"]
    found = json.loads(call(*command, "--engine-option", "dtype=float32", "--no-doctor", "--json"))["tasks"][
        "arithmetic"
    ]
    assert found["mid"][0] == pytest.approx(0.468, abs=0.03)  # docs/tiny-pair.md
    assert [part["name"] for part in found["parts"]["kinds"]["parts"]] == ["ffn", "attention", "embedding", "norm"]
    assert found["parts"]["kinds"]["together"][0] == pytest.approx(1, abs=0.1)


def test_a_lam_far_beyond_the_pair_is_refused_before_anything_is_opened_unless_it_is_meant():
    said = ["predict", "no/such/pair", "no/other", "--by", "kinds", "--at", "7"]
    refused = call(*said, code=2, errors=True)
    assert "λ = 7 lies far beyond the pair" in refused
    assert "no/such/pair" in str(CliRunner().invoke(app, [*said, "--extrapolate"]).exception)


def test_the_doctor_says_where_thinking_sets_in_when_it_is_given_an_engine():
    pair = shipped()
    command = ["doctor", str(pair.instruct), str(pair.thinking), "--weights", "--json"]
    done = CliRunner().invoke(app, [*command, "--engine", "transformers"])
    finding = json.loads(done.stdout)["findings"][-1]
    assert (finding["code"], finding["severity"]) == ("lambda50", "note")
    said = float(finding["what"].split("λ = ")[1].split()[0])
    assert said == pytest.approx(0.468, abs=0.03)  # docs/tiny-pair.md
    finding = json.loads(CliRunner().invoke(app, [*command, "--engine", "openai"]).stdout)["findings"][-1]
    assert (finding["code"], finding["severity"]) == ("lambda50", "warn")
    assert "could not be said" in finding["what"]
    assert CliRunner().invoke(app, ["doctor", "a", "b", "--engine", "vllm"]).exit_code == 2  # only with --weights
