"""Policies against static λ: the hull by brute force, gains where there is something to gain, and none where there is not."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import call
from graded import LAMS, alike, by_difficulty, sweep
from interpole.analysis.fitting import cells_of, policies_for, reached
from interpole.analysis.hull import Means, hull
from interpole.analysis.routing import route, to_json
from interpole.cli import app
from interpole.errors import AnalysisError
from interpole.runs.prediction import PredictionFile
from interpole.runs.runfile import RunFile
from synthetic import write_run


def test_the_hull_is_what_no_mix_of_two_others_beats():
    rng = np.random.default_rng(3)
    for _ in range(20):
        means = Means(rng.integers(0, 40, 7) / 40, rng.permutation(60)[:7].astype(float))
        kept = set(hull(means).tolist())
        for i in range(7):
            t, a = means.tokens[i], means.accuracy[i]
            beaten = any(means.tokens[j] <= t and means.accuracy[j] >= a for j in range(7) if j != i)
            for j, k in itertools.permutations(set(range(7)) - {i}, 2):
                if means.tokens[j] <= t <= means.tokens[k]:
                    part = (t - means.tokens[j]) / (means.tokens[k] - means.tokens[j])
                    beaten |= (1 - part) * means.accuracy[j] + part * means.accuracy[k] >= a
            assert (i not in kept) == beaten


def test_where_difficulty_decides_the_policies_that_know_it_gain_and_the_gain_is_the_true_one():
    found = {one.name: one for one in route(sweep(by_difficulty, 160)).policies}
    # worked out: at λ of the hull, half of the questions at 0 (95 %, 20 tokens) and half at λ=h gain over one λ for all
    at_equal_tokens = []
    for point in found["by difficulty"].points:
        hard = min(1.0, 2 * (point.tokens - 20) / 80)
        mine = 0.5 * 0.95 + 0.5 * (0.1 + 0.8 * hard)
        static = 0.525 + 0.15 * (point.tokens - 20) / 80
        at_equal_tokens.append((point.tokens, mine - static))
        assert point.accuracy - point.rival == pytest.approx(mine - static, abs=0.06)
    tokens, gains = np.array(at_equal_tokens).T
    assert found["by difficulty"].gain.includes(np.trapezoid(gains, tokens) / (tokens[-1] - tokens[0]))
    for name in ("by difficulty", "by length", "logistic", "two modes"):
        assert found[name].gain.low > 0.05
        assert found[name].verdict.startswith("beats every static λ")
    assert found["oracle"].is_bound
    assert found["oracle"].gain.value > 0.1


def test_where_questions_are_alike_no_policy_is_said_to_gain():
    for seed in range(3):
        found = route(sweep(alike, seed=seed), seed=seed)
        assert not [one for one in found.policies if one.verdict.startswith("beats")]
        gains = {one.name: one.gain.value for one in found.policies}
        assert gains["cascade"] < -0.02  # it pays for answers that tell it nothing
        assert gains["oracle"] < 0.02  # cross-fitted: noise is no skill


def test_a_probe_pays_for_every_token_and_keeps_what_agrees():
    cells, _, _ = cells_of(sweep(by_difficulty, 40))
    found = reached(cells, {p.name: p for p in policies_for(cells)}["ends disagree"].fit(cells)(0.0))
    last = len(LAMS) - 1
    for q in range(len(cells)):
        accuracy, tokens = [], []
        for k in range(4):
            first, second = (cells.answers[q, lam, k] for lam in (0, last))
            paid = cells.tokens[q, 0, k] + cells.tokens[q, last, k]
            if first == second >= 0:
                accuracy.append((cells.scores[q, 0, k] + cells.scores[q, last, k]) / 2)
                tokens.append(paid)
            else:
                accuracy.append(cells.means.accuracy[q, 1:].tolist())
                tokens.append((paid + cells.means.tokens[q, 1:]).tolist())
        options = [
            (
                np.mean([a if np.isscalar(a) else a[i] for a in accuracy]),
                np.mean([t if np.isscalar(t) else t[i] for t in tokens]),
            )
            for i in range(last)
        ]
        assert any(np.allclose((found.accuracy[q], found.tokens[q]), option) for option in options)


def test_questions_that_lack_a_sample_are_left_out_and_counted():
    samples = sweep(alike, 40)
    found = route([s for s in samples if not (s.problem_id == "3" and s.lam == 0.5 and s.number == 4)])
    assert (found.num_questions, found.num_left_out, found.num_samples) == (39, 1, 4)


def test_what_is_known_from_elsewhere_is_a_policy_too_and_json_is_plain():
    samples = sweep(by_difficulty)
    margins = {("t", str(q)): float(q % 4) for q in range(80)}
    found = to_json(route(samples, names=["by margin"], numbers={"margin": margins}))
    assert [one["name"] for one in found["policies"]] == ["by margin"]
    assert found["policies"][0]["gain"]["low"] > 0
    assert found["static"][0].keys() == {"lam", "tokens", "accuracy"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["by star sign"]}, "no policy 'by star sign'"),
        ({"task": "other"}, "no task 'other'"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(change, message):
    with pytest.raises(AnalysisError, match=message):
        route(sweep(alike, 20), **change)
    with pytest.raises(AnalysisError, match="too few to choose by"):
        route(sweep(alike, 8))


def test_the_command_shows_every_policy_and_takes_the_margins_of_a_prediction_in_the_run(tmp_path):
    run = write_run(tmp_path / "run", sweep(by_difficulty))
    ids = [str(q) for q in range(80)]
    found = {
        "questions": ids, "sampler": {}, "lams": [0.0, 0.5], "on": None, "mid": None, "off": None,
        "probabilities": [[0.0] * 80, [0.5] * 80], "margins": [[0.0] * 80, [float(q % 4) for q in range(80)]],
    }  # fmt: skip
    sources = {name: source.fingerprint for name, source in RunFile.load(run).sources.items()}
    file = {"interpole": "0", "marker": "<think>", "sources": sources, "engine": {}, "tasks": {"t": found}}
    PredictionFile.model_validate_json(json.dumps(file)).save(run)
    shown = call("route", run, errors=True)
    names = [
        one["name"] for one in json.loads(CliRunner().invoke(app, ["route", str(run), "--json"]).stdout)["policies"]
    ]
    assert "by margin" in names
    for name in names:
        assert name in shown
    assert "by margin: beats every static λ" in shown  # here the margin says what decides
    assert "Choosing λ by the question pays here" in shown


def test_the_verdict_of_all_is_no_gain_where_there_is_none():
    found = route(sweep(alike, 40), names=["by length", "two modes"])
    assert found.verdict == "No gain seen from choosing λ by the question: none of 2 policies beats static λ"
    assert to_json(found)["verdict"] == found.verdict
