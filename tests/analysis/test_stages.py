"""Stages: the paper's table, known curves, refusals, and the failures that are named."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, ndtr, xlogy
from scipy.stats import t

from interpole.analysis.intervals import Interval, change_interval, random_effects
from interpole.analysis.links import LINKS, crossings, curves, fit_curves, fit_logistic
from interpole.analysis.stages import bracket, find_stages, to_json
from interpole.analysis.tables import CurveRow
from interpole.analysis.transition import find_transition, from_counts, from_rows, from_samples, pool
from interpole.errors import AnalysisError
from interpole.records import Outcome, Sample
from paper_tables import table2, table5

GRID = np.round(np.linspace(0, 1, 11), 1)


def rows(shares, lams=GRID, task="t", **others):
    return [CurveRow(task, float(lam), float(p), **others) for lam, p in zip(lams, shares, strict=True)]


def logistic(middle=0.5, width=0.16):
    return expit(2 * math.log(19) / width * (GRID - middle))


def always(value):
    return lambda _: value


HALF, HUNDRED = always(0.5), always(100)


def run(think, *, score=HALF, tokens=HUNDRED, questions=20, k=4, outcome=None, task="t", lams=GRID):
    """A run whose responses are made by functions of λ; `outcome` may override what closes."""
    rng = np.random.default_rng(0)
    samples = []
    for lam, q, e in ((float(x), q, e) for x in lams for q in range(questions) for e in range(1, k + 1)):
        closed = bool(rng.random() < think(lam))
        result = outcome(lam, closed) if outcome else (Outcome.CLOSED if closed else Outcome.DIRECT)
        grade = float((q + e) % 10 < 10 * score(lam))
        samples.append(
            Sample(
                task, f"λ={lam:g}", lam, f"q{q}", e, "?", "1", "…", int(tokens(lam) + q), "stop", result,
                result is Outcome.CLOSED, "1", {"own": grade},
            )
        )  # fmt: skip
    return samples


def sharp(lam):
    return float(expit(40 * (lam - 0.5)))


# --- the paper ---------------------------------------------------------------------------------------------------


def test_table_2_gives_the_papers_stage_2():
    *tasks, pooled = find_stages(table2())
    assert [s.stage2 for s in tasks] == [(0.4, 0.6), (0.4, 0.55), (0.4, 0.6)]
    assert pooled.task == "pooled"
    assert pooled.stage2 == (0.4, 0.6)


def test_table_2_gives_the_known_boundaries_with_or_without_counts():
    for found in (find_stages(table2()), find_stages(table2(counts=False))):
        assert [round(s.lambda_mid.value, 2) for s in found] == [0.49, 0.48, 0.48, 0.48]
        for s in found:
            assert s.lambda_on.value == pytest.approx(0.41, abs=0.02)
            assert s.lambda_off.value == pytest.approx(0.555, abs=0.015)
            assert s.fits
            assert s.misfit < 0.02


@pytest.mark.parametrize("task", ["aime25", "ifeval", "gpqa_diamond"])
def test_the_interval_of_lambda_off_in_table_5_holds_what_links_that_fit_as_well_say(task):
    """On AIME four links come within .2 points of all shares, and differ by .05 in λ_off."""
    mine = sorted((row for row in table5() if row.task == task), key=lambda row: row.lam)
    lams, shares = (np.array([getattr(row, name) for row in mine]) for name in ("lam", "think"))
    off, misfit = {}, {}
    for link in ("logistic", "probit", "cloglog", "loglog"):
        fitted = fit_curves(lams, shares[None], np.full(len(lams), 1e3), link, strays=0.5)
        off[link] = crossings(fitted, np.array([0.95]), link)[0, 0]
        misfit[link] = np.abs(curves(lams, fitted, link)[0] - shares).max()
    near = [off[link] for link in off if misfit[link] <= min(misfit.values()) + 0.01]
    found = next(s for s in find_stages(table5()) if s.task == task)
    assert all(found.lambda_off.includes(value) for value in near)
    if task == "aime25":
        assert max(misfit.values()) < 0.01
        assert len(near) == 4
        assert max(near) - min(near) > 0.05
        assert found.method == "bracket"
    assert any("as alike by 0.4" in note for note in found.notes)


def test_a_table_does_not_tell_questions_apart_so_their_responses_are_taken_as_alike():
    few, many = (from_rows(rows(logistic(0.5, 0.3), questions=100, samples=k), resamples=4000) for k in (1, 1000))
    assert few.trials[0] == pytest.approx(100)
    assert many.trials[0] == pytest.approx(100 / 0.4, rel=0.01)  # a thousand responses each, worth two and a half
    chance = few.shares
    assert few.draws.var(axis=0) == pytest.approx(chance * (1 - chance) / 100, rel=0.15, abs=1e-5)
    assert np.cov(few.draws[:, 4], few.draws[:, 6])[0, 1] == pytest.approx(chance[4] * (1 - chance[6]) / 100, rel=0.2)
    assert (np.diff(few.draws, axis=1) > -1e-12).all()  # a question that thinks goes on thinking


def test_table_2_names_where_instruct_gets_verbose_without_thinking():
    verbose = {s.task: [x.lams for x in s.signatures] for s in find_stages(table2())}
    assert verbose == {"aime25": [], "ifeval": [(0.2, 0.4)], "gpqa_diamond": [(0.4,)], "pooled": []}


def test_only_task_lam_and_think_are_needed_and_what_stays_open_is_said():
    bare = [CurveRow(r.task, r.lam, r.think) for r in table2()]
    *tasks, pooled = find_stages(bare)
    assert pooled.stage2 == (0.4, 0.6)
    assert all(math.isnan(s.lambda_mid.low) for s in tasks)
    assert pooled.lambda_mid.low < pooled.lambda_mid.high  # of the tasks themselves
    assert "no intervals: questions or samples not given" in pooled.notes
    assert "verbose without thinking: column tokens" in pooled.needs
    assert any("questions, samples" in need for need in pooled.needs)
    assert any("the run's samples" in need for need in pooled.needs)


# --- the fit -----------------------------------------------------------------------------------------------------


def test_the_batch_fit_equals_a_general_optimiser_on_the_penalised_likelihood():
    rng = np.random.default_rng(1)
    trials = np.full(11, 24.0)
    shares = rng.binomial(24, logistic(), size=(3, 11)) / 24
    ours = fit_logistic(GRID, shares, trials)
    for share, (middle, slope) in zip(shares, ours, strict=True):

        def loss(x, share=share):
            p = expit(x[0] + x[1] * GRID)
            w = trials * p * (1 - p)
            design = np.stack([np.ones(11), GRID])
            return (
                -np.sum(trials * (xlogy(share, p) + xlogy(1 - share, 1 - p)))
                - 0.5 * np.linalg.slogdet(design * w @ design.T)[1]
            )

        best = minimize(
            loss,
            [-slope * middle * 0.9, slope * 0.9],
            method="Nelder-Mead",
            options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000},
        ).x
        assert middle == pytest.approx(-best[0] / best[1], abs=1e-4)
        assert slope == pytest.approx(best[1], rel=1e-3)


def test_the_fit_stays_finite_where_zero_jumps_to_one():
    ((middle, slope),) = fit_logistic(GRID, (GRID > 0.45).astype(float)[None], np.full(11, 30.0))
    assert middle == pytest.approx(0.45)
    assert 20 < slope < 1000


def test_exact_shares_give_the_boundaries_they_were_made_from():
    found = find_transition(from_rows(rows(logistic(0.47, 0.2))))
    assert [x.value for x in (found.on, found.mid, found.off)] == pytest.approx([0.37, 0.47, 0.57], abs=0.001)


@pytest.mark.parametrize("link", ["logistic", "probit", "cloglog", "loglog", "mirrored Aranda-Ordaz 0.15"])
def test_every_link_is_fitted_with_its_strays_from_exact_shares(link):
    true = np.array([[-12.0, 25.0, 0.004, 0.01]])
    shares = curves(GRID, true, link)
    fitted = fit_curves(GRID, shares, np.full(11, 1e6), link, strays=0.5)
    assert fitted[0] == pytest.approx(true[0], rel=0.01)
    middle = crossings(true, np.array([0.5]), link)[0]
    assert curves(middle, true, link)[0] == pytest.approx(0.5)


def test_sets_with_links_of_their_own_are_fitted_together_as_they_are_alone():
    names, rng = list(LINKS), np.random.default_rng(4)
    shares = rng.binomial(300, np.repeat(logistic(0.5, 0.3)[None], len(names), axis=0)) / 300
    together = fit_curves(GRID, shares, np.full(11, 300.0), names, strays=0.5)
    alone = [
        fit_curves(GRID, one[None], np.full(11, 300.0), name, strays=0.5)[0]
        for name, one in zip(names, shares, strict=True)
    ]
    assert together == pytest.approx(np.array(alone), rel=1e-9)
    near = fit_curves(GRID, shares, np.full(11, 300.0), names, strays=0.5, start=together * 1.02, precision=1e-8)
    assert near == pytest.approx(together, rel=0.02)  # where it begins does not matter


def test_links_are_the_functions_that_they_are_called_after():
    eta = np.linspace(-4, 4, 9)
    known = {
        "logistic": expit(eta),
        "probit": ndtr(eta),
        "cloglog": 1 - np.exp(-np.exp(eta)),
        "loglog": np.exp(-np.exp(-eta)),
    }
    for name, share in known.items():
        assert LINKS[name].chance(eta) == pytest.approx(share, abs=1e-9)
        assert LINKS[name].inverse(share[1:-2]) == pytest.approx(eta[1:-2], abs=1e-6)


def test_intervals_hold_the_truth_where_the_curve_is_not_symmetric():
    low, half, high = LINKS["cloglog"].inverse(np.array([0.05, 0.5, 0.95]))
    rng, hits = np.random.default_rng(2), []
    for i in range(12):
        middle = rng.uniform(0.4, 0.6)
        share = LINKS["cloglog"].chance(half + (high - low) / 0.3 * (GRID - middle))
        closed = rng.binomial(8, np.repeat(share[None], 198, axis=0)).astype(float)
        found = find_transition(from_counts(GRID, closed, np.full(closed.shape, 8.0), resamples=200, seed=i))
        hits += [found.on.includes(middle + (low - half) * 0.3 / (high - low))]
        hits += [found.off.includes(middle + (high - half) * 0.3 / (high - low))]
    assert (
        np.mean(hits) >= 0.8
    )  # by the logistic curve alone: 3 % to 31 %; benchmarks/stages_simulation.py has the study


def test_tasks_are_pooled_as_a_sample_of_tasks():
    tasks = [find_transition(from_rows(rows(logistic(m), questions=200, samples=8))) for m in (0.45, 0.5, 0.52)]
    pooled = pool(tasks)
    assert pooled.method == "random effects"
    assert pooled.mid.low < 0.45 < 0.52 < pooled.mid.high
    assert "tasks like these 3" in pooled.notes[0]


def test_random_effects_of_equal_errors_are_the_t_interval_of_the_values():
    values = np.array([0.3, 0.5, 0.7, 0.4])
    found = random_effects([Interval(v, v - 1e-4, v + 1e-4) for v in values])
    known = t.interval(0.95, 3, loc=values.mean(), scale=values.std(ddof=1) / 2)
    assert found == pytest.approx((values.mean(), *known), rel=1e-3)
    alike = random_effects([Interval(0.5, 0.4, 0.6)] * 2)
    assert alike.high - alike.low == pytest.approx(0.2 / math.sqrt(2))  # two tasks that agree by chance are not certain


def test_a_task_that_is_known_best_does_not_stand_for_all():
    rng, hits = np.random.default_rng(0), []
    for _ in range(400):
        true, error = 0.5 + 0.02 * rng.standard_normal(3), np.array([0.002, 0.003, 0.005])
        values, said = true + error * rng.standard_normal(3), error * [1, 1, 10]  # a bracket says more than it errs by
        hits.append(
            random_effects(
                [Interval(v, v - 1.96 * e, v + 1.96 * e) for v, e in zip(values, said, strict=True)]
            ).includes(0.5)
        )
    assert np.mean(hits) >= 0.93  # weighed by their errors: about 80 %


def test_boundaries_come_in_order_with_their_values_inside_their_intervals():
    *_, pooled = find_stages(run(sharp))
    for x in (pooled.lambda_on, pooled.lambda_mid, pooled.lambda_off):
        assert x.low < x.value < x.high
    assert pooled.lambda_on.value < pooled.lambda_mid.value < pooled.lambda_off.value


def test_intervals_cover_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(11)
    hits = []
    for i in range(40):
        middle = rng.uniform(0.4, 0.6)
        own = middle + 0.03 * rng.standard_normal(30)
        closed = rng.binomial(8, expit(2 * math.log(19) / 0.16 * (GRID - own[:, None]))).astype(float)
        found = find_transition(from_counts(GRID, closed, np.full((30, 11), 8.0), resamples=200, seed=i))
        hits.append(found.mid.includes(middle))
    assert np.mean(hits) >= 0.88


def test_more_samples_of_the_same_questions_do_not_buy_certainty_about_questions():
    def width(k):
        rng = np.random.default_rng(3)
        own = 0.5 + 0.08 * rng.standard_normal((20, 1))
        closed = rng.binomial(k, expit(37 * (GRID - own))).astype(float)
        found = find_transition(from_counts(GRID, closed, np.full(closed.shape, float(k))))
        return found.mid.high - found.mid.low

    assert width(256) > 0.6 * width(4)


def test_samples_and_counts_give_the_same_evidence():
    samples = [*run(sharp, questions=6, k=3), replace(run(sharp)[0], outcome=Outcome.FAILED, lam=0.33)]
    lams = sorted({s.lam for s in samples if s.outcome is not Outcome.FAILED})
    closed, counts = (
        np.array(
            [
                [sum(f(s) for s in samples if s.problem_id == f"q{q}" and s.lam == lam) for lam in lams]
                for q in range(6)
            ],
            float,
        )
        for f in (lambda s: s.closed, always(1))
    )
    a, b = from_samples(samples, seed=4), from_counts(np.array(lams), closed, counts, seed=4)
    assert (a.draws == b.draws).all()
    assert (a.trials == b.trials).all()
    assert repr(find_transition(a)) == repr(find_transition(b))  # NaN is equal to nothing


def test_pooled_tasks_weigh_the_same_whatever_their_size():
    small, large = (
        from_rows(rows(logistic(0.4), questions=30, samples=8)),
        from_rows(rows(logistic(0.6), questions=3000, samples=8)),
    )
    assert pool([find_transition(small), find_transition(large)]).mid.value == pytest.approx(0.5, abs=0.005)


def test_the_same_seed_gives_the_same_stages():
    data = run(sharp)
    assert repr(find_stages(data, seed=5)) == repr(find_stages(data, seed=5))


# --- where the logistic curve is wrong ---------------------------------------------------------------------------


def test_shares_that_no_curve_fits_are_flagged_and_read_off_the_isotonic_one():
    steps = np.array([0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 1.0])
    s, _ = find_stages(rows(steps, questions=100, samples=8))
    assert not s.fits
    assert s.method == "bracket"
    assert s.misfit > 0.1
    assert [s.lambda_on.value, s.lambda_mid.value, s.lambda_off.value] == pytest.approx([0.11, 0.2, 0.89])
    assert s.lambda_off.low <= 0.8
    assert s.lambda_off.high >= 0.9
    assert any("every curve tried misses a share" in note for note in s.notes)


def test_a_curve_that_falls_on_the_way_is_called_no_single_transition():
    s, _ = find_stages(rows([0, 0, 0, 0.9, 0.9, 0.2, 0.2, 0.9, 1, 1, 1], questions=100, samples=8))
    assert not s.fits
    assert any("falls by 70.0% on the way: not one transition" in note for note in s.notes)


def test_a_jump_between_two_swept_lambdas_has_the_gap_for_an_interval():
    s, _ = find_stages(rows(GRID > 0.45, questions=30, samples=8))
    for x in (s.lambda_on, s.lambda_mid, s.lambda_off):
        assert x[1:] == (0.4, 0.5)
    assert s.stage2 == (0.4, 0.5)
    assert any("sweep λ there" in note for note in s.notes)


@pytest.mark.parametrize("strays", [0, 1])
def test_one_stray_response_in_thousands_does_not_decide_where_the_transition_is(strays):
    lams = np.array([0, 0.2, 0.4, 0.5, 0.55, 0.7, 1.0])
    closed = np.repeat((lams > 0.52)[None] * 8.0, 541, axis=0)
    closed[0, 3] += strays
    found = find_transition(from_counts(lams, closed, np.full(closed.shape, 8.0), resamples=300))
    assert found.method == "bracket"
    assert [x[1:] for x in (found.on, found.mid, found.off)] == [(0.5, 0.55)] * 3


def test_one_share_between_the_levels_does_not_tell_the_slope():
    shares = np.where(GRID < 0.5, 0.0, np.where(GRID > 0.5, 1.0, 0.4))
    s, _ = find_stages(rows(shares, questions=300, samples=8))
    assert s.method == "bracket"
    assert s.lambda_on[1:] == (0.4, 0.5)
    assert s.lambda_mid[1:] == (0.5, 0.6)  # 40 % of 2,400 is below one half for certain
    assert s.lambda_off[1:] == (0.5, 0.6)
    few, _ = find_stages(rows(shares, questions=10, samples=1))
    assert few.lambda_mid[1:] == (0.4, 0.6)  # 4 of 10 may be


def test_think_that_reaches_a_level_and_falls_again_says_why_it_names_no_lambda():
    s, _ = find_stages(rows([0, 0, 0, 0, 0, 1, 1, 0.96, 0.9, 0.85, 0.8], questions=100, samples=8))
    assert s.lambda_off is None
    assert any("reaches 95% and falls again" in note for note in s.notes)
    assert not any(math.isnan(end) for x in (s.lambda_on, s.lambda_mid) for end in x)


def test_a_boundary_that_was_not_reached_is_refused_by_itself():
    s, _ = find_stages(rows(0.8 * logistic(), questions=30, samples=8))
    assert s.lambda_off is None
    assert s.stage2 is None
    assert s.lambda_on.value < s.lambda_mid.value
    assert any("stays below 95% up to λ=1 (80.0% at most)" in note for note in s.notes)


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        (np.zeros(11), "no response thinks at any swept λ"),
        (np.ones(11), "does the prompt open the think block"),
        (1 - logistic(), "Think #R falls with λ"),
        (np.linspace(0.2, 0.4, 11), "do not span a transition"),
    ],
)
def test_a_sweep_without_a_transition_is_refused_with_the_reason(shares, reason):
    s, pooled = find_stages(rows(shares, questions=30, samples=8))
    assert reason in s.refusal
    assert (s.lambda_on, s.lambda_mid, s.lambda_off, s.stage2, s.method) == (None, None, None, None, "none")
    assert pooled.refusal == "no task shows a transition"


def test_one_lambda_is_no_transition():
    s, _ = find_stages(rows([0.5], lams=[0.3]))
    assert s.refusal == "only λ=0.3 was swept: a transition needs several λ"


def test_a_task_without_a_transition_is_left_out_of_the_pool_and_named():
    *_, pooled = find_stages(rows(logistic()) + rows(np.zeros(11), task="mute"))
    assert pooled.lambda_mid.value == pytest.approx(0.5, abs=1e-3)
    assert any(note.startswith("mute is left out") for note in pooled.notes)


def test_the_bracket_is_of_swept_lambdas():
    assert bracket(rows([0, 0.05, 0.06, 0.95, 1], lams=[0, 0.1, 0.2, 0.3, 1])) == (0.1, 0.3)
    assert bracket(rows([0, 1, 0.02, 1], lams=[0, 0.2, 0.4, 1])) == (0.4, 1)  # the last one with ≤ 5 %
    assert bracket(rows([0, 0.5, 0.9], lams=[0, 0.5, 1])) is None


def test_no_dial_point_and_a_task_called_pooled_are_refused():
    with pytest.raises(AnalysisError, match="no point on the dial"):
        find_stages([replace(s, lam=None, point="brief") for s in run(sharp)[:4]])
    with pytest.raises(AnalysisError, match="a task is called 'pooled'"):
        find_stages(rows(logistic(), task="pooled"))


# --- stage 3 and failures ----------------------------------------------------------------------------------------


def test_over_thinking_is_tokens_that_rise_while_a_gain_is_ruled_out():
    s, _ = find_stages(run(sharp, tokens=lambda lam: 100 + 400 * lam), margin=0.2)
    assert [(step.lam, step.to) for step in s.steps] == [(0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0), (0.6, 1.0)]
    assert {step.verdict for step in s.steps} == {"over-thinking"}
    last = s.steps[-1]
    assert last.tokens.value == pytest.approx(160)
    assert last.accuracy.includes(0)
    assert last.p_gain < 0.05


def test_what_few_questions_cannot_show_is_no_over_thinking():
    s, _ = find_stages(run(sharp, tokens=lambda lam: 100 + 400 * lam))
    assert {step.verdict for step in s.steps} == {"undetermined"}  # 20 questions say nothing about 2 points
    assert all(step.detectable > step.margin for step in s.steps)
    assert "a gain of 2 points is not ruled out" in s.steps[0].words


def test_tokens_that_buy_accuracy_are_worth_it_and_lost_accuracy_is_over_thinking():
    rising = run(sharp, tokens=lambda lam: 500 * lam, score=lambda lam: lam)
    falling = run(sharp, tokens=lambda lam: 500 * lam, score=lambda lam: 1.3 - lam)
    assert find_stages(rising)[0].steps[-1].verdict == "worth it"
    lost = find_stages(falling)[0].steps[-1]
    assert lost.verdict == "over-thinking"
    assert lost.accuracy.high < 0


def test_a_gain_of_the_margin_is_called_over_thinking_in_one_of_twenty_sweeps_at_most():
    rng, ease = np.random.default_rng(3), np.random.default_rng(4).beta(2, 1, 300)
    called = 0
    for _ in range(60):
        after = np.clip(ease + 0.04, 0, 1)
        change = rng.binomial(8, after) / 8 - rng.binomial(8, ease) / 8
        found = change_interval(change, 8)
        called += t.cdf((change.mean() - (after - ease).mean()) / found.error, found.freedom) < 0.05
    assert called <= 8


def test_tokens_that_do_not_rise_are_flat():
    assert {step.verdict for step in find_stages(run(sharp))[0].steps} == {"flat"}


def test_lambdas_that_share_no_question_are_not_compared_and_said():
    whole = run(sharp, tokens=lambda lam: 100 + 400 * lam)
    first = {f"q{i}" for i in range(10)}
    part = [s for s in whole if s.lam != 0.8 and (s.problem_id in first) == (s.lam != 1.0)]  # as a shard may have them
    (s, *_), (all_of_it, *_) = find_stages(part), find_stages(whole)
    assert [(step.lam, step.to) for step in s.steps] == [(0.6, 0.7), (0.7, 0.9)]
    assert [note for note in s.notes if "no question in common" in note] == [
        "λ=0.9 and λ=1 have no question in common: the step between them is open",
        "λ=0.6 and λ=1 have no question in common: the step between them is open",
    ]
    assert not [note for note in all_of_it.notes if "in common" in note]


def test_pass_at_k_that_falls_is_seen_against_the_lambdas_that_had_the_questions():
    falling = run(sharp, questions=40, score=lambda lam: 1.0 if lam < 0.95 else 0.3)
    best = [s for s in falling if s.lam != 0.9] + [
        replace(s, problem_id=f"other {s.problem_id}") for s in falling if s.lam == 0.9
    ]
    assert signatures(best)["thinking saturated, Pass@k falling"].lams == (1.0,)
    assert signatures([s for s in best if not 0.5 < s.lam < 0.85]) == {}


def signatures(data, **options):
    return {x.name: x for x in find_stages(data, **options)[0].signatures}


def test_a_healthy_run_has_no_signature_of_failure():
    assert signatures(run(sharp, tokens=lambda lam: 100 if lam < 0.45 else 400 * lam)) == {}


def test_verbose_without_thinking_is_named_with_its_numbers():
    found = signatures(run(sharp, tokens=lambda lam: 1000 if 0.1 < lam < 0.35 else 100))["verbose without thinking"]
    assert found.lams == (0.2, 0.3)
    assert "λ=0.2: 1,010 tokens, Think #R 0.0%" in found.numbers


def test_falling_pass_at_k_after_saturation_is_named():
    falling = run(sharp, questions=40, score=lambda lam: 1.0 if lam < 0.95 else 0.3)
    found = signatures(falling)["thinking saturated, Pass@k falling"]
    assert found.lams == (1.0,)
    assert re.search(r"Pass@k -[\d.]+ points \[-[\d.]+, -[\d.]+\]$", found.numbers)


def test_a_barrier_between_the_ends_is_named_and_sigma_says_why():
    data = rows(logistic())
    data = [replace(r, mean=0.8 if r.lam in (0, 1) else 0.1) for r in data]
    assert "measure σ" in signatures(data)["incoherent between the ends"].remedy
    assert "too far apart" in signatures(data, sigma=0.3)["incoherent between the ends"].remedy
    assert "suspect the merge" in signatures(data, sigma=0.03)["incoherent between the ends"].remedy
    assert signatures([replace(r, mean=0.5) for r in data]) == {}


def test_long_without_closing_is_named_where_it_occurs():
    def outcome(lam, closed):
        if lam == 0.5:
            return Outcome.UNCLOSED
        return Outcome.CLOSED if closed else Outcome.DIRECT

    found = signatures(run(sharp, outcome=outcome, tokens=lambda lam: 900 if lam == 0.5 else 300))[
        "long without closing"
    ]
    assert found.lams == (0.5,)
    assert "λ=0.5: 100.0% of responses, 910 tokens" in found.numbers


def test_the_json_has_a_place_per_task_and_null_for_what_is_not_known():
    found = to_json(find_stages(table2(counts=False)))
    again = json.loads(json.dumps(found, allow_nan=False))
    assert list(again["tasks"]) == ["aime25", "ifeval", "gpqa_diamond"]
    assert again["pooled"]["stage2"] == [0.4, 0.6]
    assert again["tasks"]["ifeval"]["lambda_mid"] == {
        "value": pytest.approx(0.48, abs=0.005),
        "low": None,
        "high": None,
    }
    assert again["pooled"]["lambda_mid"]["value"] == pytest.approx(0.484, abs=0.005)
    refused = to_json(find_stages(rows(np.zeros(11))))
    assert refused["tasks"]["t"]["lambda_on"] is None
    assert refused["tasks"]["t"]["refusal"]


def test_intervals_of_stages_are_ordinary_intervals():
    assert isinstance(find_stages(rows(logistic()))[0].lambda_mid, Interval)


def test_boundaries_stay_within_the_swept_lambdas():
    rows = [CurveRow(task="t", lam=lam, questions=5, samples=1, think=think) for lam, think in ((0.0, 0.0), (1.0, 0.8))]
    found = find_stages(rows)[0]
    assert 0 <= found.lambda_on.value <= found.lambda_mid.value <= 1
    assert found.lambda_off is None


def test_many_lambdas_are_fitted_together_with_their_neighbours():
    def rows(count):
        lams = np.linspace(0, 1, count)
        shares = expit(20 * (lams - 0.47))
        return [CurveRow("math", float(lam), float(share), 30, 4) for lam, share in zip(lams, shares, strict=True)]

    few, many = (from_rows(rows(count), resamples=50) for count in (400, 12_000))
    assert len(few.lams) == len(many.lams) == 400
    assert many.tested.sum() == 12_000 * 30 * 4
    assert many.lams[[0, -1]] == pytest.approx([0, 1], abs=0.002)
    assert find_transition(many).mid.value == pytest.approx(0.47, abs=0.002)
