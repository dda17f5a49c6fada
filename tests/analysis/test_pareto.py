"""The Pareto front: who is on it, and how sure that is, held against loops that are slow and plain."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from interpole.analysis.intervals import weights
from interpole.analysis.metrics import measure
from interpole.analysis.pareto import membership, on_front
from interpole.analysis.tables import read_metrics, write_metrics
from interpole.records import Outcome
from synthetic import samples


def beaten(at: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    """Whether one of (accuracy, tokens) is no worse in both and better in one."""
    return any(a >= at[0] and t <= at[1] and (a > at[0] or t < at[1]) for a, t in others)


def test_the_front_holds_what_nothing_beats_and_equals_together():
    tokens, accuracy = [1, 2, 3, 4, 5, 5], [0.2, 0.5, 0.5, 0.4, 0.9, 0.9]
    assert on_front(np.array([accuracy]), np.array([tokens]))[0].tolist() == [True, True, False, False, True, True]
    rng = np.random.default_rng(0)
    a, t = rng.integers(0, 6, (2, 20, 9)).astype(float)
    slow = [
        [not beaten(one, list(zip(*row, strict=True))) for one in zip(*row, strict=True)]
        for row in zip(a, t, strict=True)
    ]
    assert on_front(a, t).tolist() == slow


def test_a_point_that_is_not_known_neither_beats_nor_is_beaten():
    assert on_front(np.array([[0.5, math.nan, 0.4]]), np.array([[3.0, 1.0, 4.0]]))[0].tolist() == [True, True, False]


def test_membership_is_the_share_of_resamples_in_which_a_point_is_on_the_front():
    rng, num = np.random.default_rng(1), 12
    accuracy = rng.integers(0, 5, (num, 4)) / 4 + [0, 0.1, 0.2, 0.2]
    tokens = rng.integers(1, 40, (num, 4)) + np.array([0, 5, 8, 9.0])
    accuracy[0, 2] = tokens[0, 2] = math.nan  # one question was not answered at one point
    stretch = math.sqrt(num / (num - 1)) * 2.200985 / 1.959964  # t with 11 degrees of freedom, against the normal
    hits = np.zeros(4)
    (drawn,) = weights(num, 300, 7)
    measured = [np.nanmean(accuracy, axis=0), np.nanmean(tokens, axis=0)]
    for times in drawn.astype(int):
        picked = np.repeat(np.arange(num), times)
        means = [np.nanmean(accuracy[picked], axis=0), np.nanmean(tokens[picked], axis=0)]
        points = list(zip(*(m + stretch * (x - m) for m, x in zip(measured, means, strict=True)), strict=True))
        hits += [not beaten(one, points) for one in points]
    found = membership(accuracy, tokens, resamples=300, seed=7)
    assert found == pytest.approx(hits / 300, abs=1e-12)
    assert 0.1 < found[2] < 0.95  # a case that is not clear
    assert np.isnan(membership(accuracy[1:2], tokens[1:2], resamples=300, seed=7)).all()


def test_a_dearer_point_that_is_a_little_better_is_not_sure_to_be_on_the_front():
    """And one that is better at every question is; what is cheapest always is."""
    rng = np.random.default_rng(2)
    first = rng.integers(0, 8, 40) / 8
    little = first + np.r_[0.125, 0.125, -0.125, np.zeros(37)]
    accuracy = np.column_stack([first, little, first + 0.125])
    found = membership(accuracy, np.tile([10.0, 20.0, 30.0], (40, 1)), resamples=2000, seed=0)
    assert found[0] == found[2] == 1
    assert 0.5 < found[1] < 0.95


def test_the_metrics_of_a_task_have_it_for_each_of_its_points_and_keep_it(tmp_path):
    made = samples(num_questions=9, k=2, lams=(0.0, 0.5, 1.0))
    lost = [replace(s, outcome=Outcome.FAILED) if s.lam == 0.5 and s.problem_id.endswith("3") else s for s in made]
    metrics = measure(lost, resamples=50, seed=3)
    ids = sorted({s.problem_id for s in lost}, key=[s.problem_id for s in lost].index)
    each = np.full((2, len(ids), 3), math.nan)
    for i, m in enumerate(metrics):
        for j, problem in enumerate(ids):
            mine = [s for s in lost if s.lam == m.lam and s.problem_id == problem and s.outcome is not Outcome.FAILED]
            if mine:
                each[:, j, i] = np.mean([s.score for s in mine]), np.mean([s.num_tokens for s in mine])
    assert [m.on_front for m in metrics] == membership(*each, resamples=50, seed=3).tolist()
    write_metrics(metrics, tmp_path / "metrics.json")
    assert [m.on_front for m in read_metrics(tmp_path / "metrics.json")] == [m.on_front for m in metrics]


def test_metrics_from_before_it_was_measured_are_read_without_it(tmp_path):
    write_metrics(measure(samples(num_questions=4, k=1, lams=(0.0, 1.0)), resamples=10), tmp_path / "metrics.json")
    content = json.loads((tmp_path / "metrics.json").read_text())
    for point in content["points"]:
        del point["on_front"]
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert all(math.isnan(m.on_front) for m in read_metrics(tmp_path / "metrics.json"))
