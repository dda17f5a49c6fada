"""Adaptive sweeps: the grid's answer for less, on simulated pairs; and over an engine, resumable, in an ordinary run folder."""

import json
import math
import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from typer.testing import CliRunner

import live
import tiny
from bench import call
from interpole.analysis.prediction import next_lam, predict
from interpole.analysis.recommend import recommend
from interpole.cli import app
from interpole.errors import AnalysisError, RunError
from interpole.runs import samples
from interpole.runs.runfile import RunFile
from interpole.search import adaptive
from interpole.search.allocation import (
    CALIBRATION,
    Goal,
    Observed,
    as_good,
    choose,
    confidence,
    parse_goal,
    plausible,
    worth,
)
from interpole.search.explore import ENOUGH, Spending, bisect, explore
from interpole.sweep.config import SweepConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from adaptive_simulation import GRID, SimulatedPair, compare, right

GOALS = ("balanced", "max-tokens", "min-accuracy")


# ── on simulated pairs ───────────────────────────────────────────────────────────────────────────────────────────


def test_bisection_finds_the_middle_with_eighty_short_answers():
    near = []
    for seed in range(60):
        pair = SimulatedPair(seed)
        probes, (low, high) = bisect(pair)
        assert len(probes) == 80
        assert high - low == pytest.approx(1 / 32)
        near.append(abs((low + high) / 2 - pair.middle) <= 0.04)
    assert np.mean(near) >= 0.9


def test_the_grids_answer_is_reached_with_at_most_40_percent_of_its_tokens():
    cases = [(SimulatedPair(seed), goal) for seed, goal in product(range(4), GOALS)]
    rows = [compare(pair, pair.goal(goal))[1] for pair, goal in cases]
    assert max(row["tokens"] for row in rows) <= 0.4
    assert max(row["middle"] for row in rows) <= 0.03
    assert np.mean([row["step"] for row in rows]) >= 0.9
    assert np.mean([row["same"] for row in rows]) >= np.mean([row["grid same"] for row in rows]) - 0.15
    assert abs(np.mean([row["accuracy"] for row in rows])) <= 0.01


def test_a_sure_answer_ends_the_search_early():
    pair = SimulatedPair(2)
    found, row = compare(pair, pair.goal("min-accuracy"))
    assert row["tokens"] < 0.2
    assert found.rounds[-1].confidence >= ENOUGH
    assert found.rounds[-1].lam == recommend(found.samples, **pair.goal("min-accuracy").options).lam
    assert "as good as any" in found.stopped


def test_an_adaptive_sweep_is_as_sure_of_a_balanced_lambda_as_it_is_right():
    said, shares, were = [], [], []
    for seed in range(2000, 2012):
        pair = SimulatedPair(seed)
        for done in explore(pair, GRID, pair.k, Goal(), rounds=4, seed=seed).rounds[1:]:
            by = CALIBRATION["balanced"]
            said.append(done.confidence)
            shares.append(expit((logit(done.confidence) - by.offset) / by.slope))  # of curves, before it is corrected
            were.append(right(pair, Goal(), done))
    assert abs(np.mean(said) - np.mean(were)) <= 0.1
    sure = np.array(shares) > 0.75  # of curves, which are surer than they are right
    assert sure.any()
    assert np.mean(np.array(said)[sure]) < np.mean(np.array(shares)[sure]) - 0.05


def prediction(pair, off=0.0, num=16):
    """What forward passes would say of a simulated pair, `off` by so much of λ."""
    lams = []
    share = lambda lam: pair.think(lam - off)[:num].mean()  # noqa: E731
    while (lam := next_lam(lams, [share(one) for one in lams], 1 / 64, (0.0, 1.0))) is not None:
        lams.append(lam)
    probabilities = np.array([pair.think(lam - off)[:num] for lam in sorted(lams)]).T
    return predict(np.array(sorted(lams)), probabilities, logit(np.clip(probabilities, 1e-9, 1 - 1e-9)))


def test_a_prediction_takes_the_place_of_the_bisection_and_finds_the_same():
    saved, off = [], []
    for seed in range(4):
        pair, goal = SimulatedPair(seed), Goal("max_tokens", 800)
        with_it, without = (
            explore(SimulatedPair(seed), GRID, 8, goal, predicted=one) for one in (prediction(pair), None)
        )
        assert with_it.predicted is not None
        assert len(with_it.probes) == 48
        assert {s.lam for s in with_it.probes} >= {0.0, 1.0}  # which the first round asks for anyway
        saved.append(
            sum(s.num_tokens for s in without.probes if s.lam not in GRID)
            - sum(s.num_tokens for s in with_it.probes if s.lam not in GRID)
        )
        off.append(abs(with_it.transition.mid.value - pair.middle))
    assert np.mean(saved) > 0
    assert max(off) < 0.04


def test_a_prediction_that_responses_contradict_gives_way_to_bisection():
    told, pair = [], SimulatedPair(3)
    found = explore(pair, GRID, 8, predicted=prediction(pair, off=0.2), tell=told.append)
    assert "bisection instead" in told[0]
    assert found.predicted is None
    assert abs(np.mean(found.bracket) - pair.middle) < 0.05
    assert len(found.probes) == 96


@pytest.mark.parametrize("spending", [Spending(num_tokens=120_000), Spending(num_samples=900)])
def test_a_budget_is_kept(spending):
    found = explore(SimulatedPair(1), GRID, 8, Goal("accuracy"), spending=spending)
    assert found.num_tokens == sum(s.num_tokens for s in found.samples) + sum(
        s.num_tokens for s in found.probes if s.lam not in {one.lam for one in found.samples}
    )
    spent, limit = (
        (found.num_tokens, spending.num_tokens) if spending.num_tokens else (found.num_responses, spending.num_samples)
    )
    assert 0.7 * limit <= spent <= 1.08 * limit  # tokens of what is asked next are expected, not known


def test_a_budget_that_the_bisection_takes_whole_is_refused():
    with pytest.raises(AnalysisError, match="80 responses left nothing of the budget"):
        explore(SimulatedPair(1), GRID, 8, spending=Spending(num_samples=80))


def test_without_a_limit_and_never_sure_the_whole_grid_is_asked_and_no_more(monkeypatch):
    monkeypatch.setattr("interpole.search.explore.ENOUGH", 2.0)
    found = explore(SimulatedPair(1, 20, 2), GRID, 2, Goal("accuracy"), rounds=99, spending=Spending(num_tokens=1e12))
    assert [sum(s.lam == lam for s in found.samples) for lam in GRID] == [40] * len(GRID)
    assert found.stopped == "the whole grid was measured"


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────


def test_curves_are_a_brownian_bridge_between_what_was_measured():
    lams, sure = np.linspace(0, 1, 11), np.array([1e-9, 1e-9])
    ends = np.array([0, 10])
    observed = Observed(ends, np.array([0.2, 0.6]), sure, ends, np.log([10.0, 1000.0]), sure)
    accuracy, tokens = plausible(lams, np.zeros(11), observed, 20_000, 0)
    assert accuracy[:, 5].mean() == pytest.approx(0.4, abs=0.005)
    assert accuracy[:, 5].var() == pytest.approx(0.04 / 4, rel=0.05)  # rate × t (1 − t)
    assert accuracy[:, 2].var() == pytest.approx(0.04 * 0.2 * 0.8, rel=0.05)
    assert np.log(tokens[:, 5]).var() == pytest.approx(0.3 / 4, rel=0.05)
    assert np.ptp(accuracy[:, 0]) < 1e-3


def test_noise_pulls_a_measurement_towards_its_neighbours_as_kriging_says():
    lams, think = np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0])
    value, noise, at = np.array([0.3, 0.9, 0.7]), np.array([0.001, 0.02, 0.001]), np.arange(3)
    observed = Observed(at, value, noise, at, np.zeros(3), noise)
    accuracy, _ = plausible(lams, think, observed, 200_000, 1)
    precision = np.diag(1 / noise)
    clock = 0.04 * lams + 0.25 * think
    kernel = 1 + np.minimum.outer(clock, clock)
    covariance = np.linalg.inv(np.linalg.inv(kernel) + precision)
    expected = value.mean() + covariance @ precision @ (value - value.mean())
    assert np.allclose(accuracy.mean(axis=0), expected, atol=0.002)
    assert np.allclose(np.cov(accuracy.T), covariance, atol=0.0005)


@pytest.mark.parametrize("name", CALIBRATION)
def test_a_confidence_rises_with_the_share_of_curves_and_is_never_certain(name):
    goal, tokens = Goal(name, 5.0 if name == "max_tokens" else 0.5), np.tile([[1.0, 4.0]], (1000, 1))
    better = np.repeat([[0.9, 0.6]], 1000, axis=0)
    found = []
    for num in (0, 300, 700, 1000):  # curves on which the second λ is the one to use
        accuracy = better.copy()
        accuracy[:num] = [0.1, 0.6]
        assert as_good(1, accuracy, tokens, goal) == num / 1000
        found.append(confidence(1, accuracy, tokens, goal))
    assert 0 < found[0] < found[1] < found[2] < found[3] < 1
    by = CALIBRATION[name]
    assert logit(found[2]) == pytest.approx(by.offset + by.slope * math.log(0.7 / 0.3), abs=0.01)
    assert logit(found[3]) <= by.offset + by.slope * logit(by.most)
    at_first = confidence(1, accuracy, tokens, goal, first=True)
    assert logit(at_first) == pytest.approx(logit(found[3]) + by.first)


@pytest.mark.parametrize("goal", [Goal(), Goal("accuracy"), Goal("max_tokens", 55), Goal("min_accuracy", 0.55)])
def test_choices_are_those_of_recommend(goal):
    from interpole.analysis.tables import CurveRow

    rng = np.random.default_rng(0)
    accuracy, tokens = rng.random((40, 6)), rng.uniform(10, 100, (40, 6))
    accuracy[0], tokens[0] = 0.1, 90  # meets nothing
    for a, t, index in zip(accuracy, tokens, choose(accuracy, tokens, goal), strict=True):
        rows = [CurveRow("t", i / 5, 0.0, mean=float(a[i]), tokens=float(t[i])) for i in range(6)]
        found = recommend(rows, **goal.options)
        assert (found.choice or found.nearest).lam == index / 5
    share = [as_good(i, accuracy, tokens, goal) for i in range(6)]
    assert all(share[i] >= np.mean(choose(accuracy, tokens, goal) == i) for i in range(6))


def test_samples_are_worth_most_where_recommendations_part():
    rng = np.random.default_rng(0)
    accuracy = np.array([0.2, 0.5, 0.8, 0.8, 0.6]) + rng.normal(size=(4000, 5)) * [0.1, 0.01, 0.02, 0.05, 0.01]
    value = worth(accuracy, np.full((4000, 5), 100.0), Goal("accuracy"))
    assert value[3] > value[2] > 20 * max(value[[0, 1, 4]])


def test_goals_are_read_and_mistakes_named():
    assert parse_goal("max-tokens=1200") == Goal("max_tokens", 1200)
    assert parse_goal("min-accuracy=0.8").options == {"min_accuracy": 0.8}
    assert parse_goal("balanced").options == {"balanced": True}
    for text in ("fast", "max-tokens", "max-tokens=x", "balanced=3", "min-accuracy=-1"):
        with pytest.raises(AnalysisError, match="no goal"):
            parse_goal(text)


# ── over an engine ───────────────────────────────────────────────────────────────────────────────────────────────

THINKING = sorted({i / 32 for i in range(15, 33)} | {0.5, 0.75, 1.0})  # from 0.469 on


@pytest.fixture
def sweep_of(tmp_path):
    """The arguments of a sweep of a scripted pair that thinks, and is right, from λ = 0.469 on."""
    folders = [
        str(tiny.write(tmp_path / name, tiny.tensors(i, layers=1), template=live.TEMPLATE))
        for i, name in enumerate(("instruct", "thinking"))
    ]
    thought = [{"text": "<think>\nhm\n</think>\n\n7", "num_tokens": 30}]
    script = [{"contains": "", "lambda": lam, "responses": thought} for lam in THINKING]
    (tmp_path / "script.json").write_text(json.dumps([*script, {"contains": "", "responses": ["7"]}]))
    options = [f"script={tmp_path / 'script.json'}", f"journal={tmp_path / 'asked'}"]
    given = ["--engine", "scripted", *(part for option in options for part in ("--engine-option", option))]
    return ["sweep", *folders, "--lambda", "0:1:0.25", "-k", "4", "--limit", "16", "--no-doctor", *given]


def asked(folder):
    """What was generated: (λ, prompt, seed) of each."""
    return [
        tuple(json.loads(line)[key] for key in ("lambda", "prompt", "seed"))
        for line in (folder / "asked").read_text().splitlines()
    ]


def test_two_engines_find_what_one_finds(sweep_of, tmp_path):
    for engines in "12":
        out = ["--out", str(tmp_path / engines), "--engines", engines]
        command = [*sweep_of, "--adaptive", "--limit", "4", "-k", "2", "--rounds", "1", "--budget-samples", "40", *out]
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    for name in ("adaptive.json", "curves.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    once = asked(tmp_path)
    assert sorted(once[: len(once) // 2]) == sorted(once[len(once) // 2 :])


def test_an_adaptive_sweep_is_an_ordinary_run_and_is_not_asked_twice(sweep_of, tmp_path):
    command = [*sweep_of, "--adaptive", "--out", str(tmp_path / "run"), "--goal", "max-tokens=10", "--rounds", "2"]
    shown = call(*command)
    flat = " ".join(shown.split())
    assert re.search(r"think at λ=0\.4\d\d \[0\.\d{3}, 0\.\d{3}\], the swept λ around it", flat)
    assert "bisection alone: [0.438, 0.469]" in flat
    once = asked(tmp_path)
    assert len(set(once)) == len(once)
    assert {lam for lam, _, _ in once} >= {0.5, 0.25, 0.375, 0.4375, 0.46875}
    report = json.loads((tmp_path / "run/adaptive.json").read_text())
    assert [probe["lam"] for probe in report["probes"]] == [0.5, 0.25, 0.375, 0.4375, 0.46875]
    found = samples.read(tmp_path / "run")
    in_run = {s.lam for s in found}
    extra = sum(lam not in in_run for lam, _, _ in once)
    assert report["responses"] == len(found) + extra == len(once)
    tokens = sum(s.num_tokens for s in found) + sum(
        30 if lam in THINKING else 2 for lam, _, _ in once if lam not in in_run
    )
    assert report["tokens"] == tokens
    assert f"Spent {tokens:,} tokens in {len(once)} responses" in flat

    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert asked(tmp_path) == once
    assert " ".join(again.stdout.split()) == flat


def test_an_engine_that_can_say_how_likely_thinking_is_is_asked_first_and_held_against_responses(sweep_of, tmp_path):
    script = json.loads((tmp_path / "script.json").read_text())
    for entry in script:
        entry["chance"] = 0.999 if "lambda" in entry else 0.001
    (tmp_path / "script.json").write_text(json.dumps(script))
    command = [*sweep_of, "--adaptive", "--limit", "4", "-k", "2", "--rounds", "1", "--out", str(tmp_path / "run")]
    shown = CliRunner().invoke(app, [*command, "--budget-samples", "60"], catch_exceptions=False)
    assert "predicted to think at λ=0.461" in shown.stderr  # between 15/32, where they do, and 29/64, where not
    assert "bisection instead" not in shown.stderr  # none of four does at .461: too few to contradict it
    assert "predicted before anything was generated: 0.461" in " ".join(shown.stdout.split())
    assert json.loads((tmp_path / "run/adaptive.json").read_text())["predicted"]["questions"] == 4


def test_a_search_that_is_stopped_goes_on_where_it_was(sweep_of, tmp_path, monkeypatch):
    command = [*sweep_of, "--adaptive", "--goal", "accuracy", "--rounds", "2", "--out"]
    CliRunner().invoke(app, [*command, str(tmp_path / "whole")], catch_exceptions=False)
    whole = asked(tmp_path)
    (tmp_path / "asked").unlink()
    measure = adaptive.LivePair.measure
    with monkeypatch.context() as patch:
        patch.setattr(
            adaptive.LivePair, "measure", lambda pair, wanted: measure(pair, dict([*wanted.items()][:1])) and 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            CliRunner().invoke(app, [*command, str(tmp_path / "stopped")], catch_exceptions=False)
    before = len(asked(tmp_path))
    assert 0 < before < len(whole)
    CliRunner().invoke(app, [*command, str(tmp_path / "stopped")], catch_exceptions=False)
    assert sorted(asked(tmp_path)) == sorted(whole)
    whole, stopped = (
        {(entry.lam, sum(part.num_samples for part in entry.parts)) for entry in RunFile.load(tmp_path / name).current}
        for name in ("whole", "stopped")
    )
    assert whole == stopped


def test_what_an_adaptive_sweep_is_not_for_is_refused(tmp_path):
    sources = {"instruct": "a/b", "thinking": "c/d"}
    for more in ({"lambdas": "0.5"}, {"lambdas": "0:1:0.5", "points": [{"name": "x", "recipe": {"lambda": 0.5}}]}):
        with pytest.raises(RunError, match="adaptive sweep with"):
            adaptive.run(SweepConfig.of({"sources": sources, "tasks": "arithmetic"} | more), tmp_path)
