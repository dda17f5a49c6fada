"""Metrics against slow, obvious references, and the files they are kept in."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binomtest, t

from interpole.analysis.intervals import (
    Interval,
    change_interval,
    expanded_level,
    interval_text,
    proportion,
    ratio_intervals,
    share_interval,
    weights,
)
from interpole.analysis.metrics import difference, measure, pass_at, vote
from interpole.analysis.tables import COLUMNS, CurveRow, curve, read_curves, read_metrics, write_curves, write_metrics
from interpole.errors import AnalysisError, InterpoleWarning, OutputError
from interpole.records import Outcome, Sample


def make(problem="q1", epoch=1, score=1.0, *, lam=0.5, answer="7", tokens=10, outcome=Outcome.CLOSED, **others):
    fields = {
        "task": "sums", "point": f"λ={lam}", "lam": lam, "problem_id": problem, "number": epoch, "question": "1+6?",
        "target": "7", "response": "7", "num_tokens": tokens, "finish": "stop", "outcome": outcome,
        "closed": outcome is Outcome.CLOSED, "answer": answer, "grades": {"own": score},
    }  # fmt: skip
    return Sample(**fields | others)


def grid(scores, **others):
    """Samples from a table of scores, one line per question."""
    return [make(f"q{q}", e + 1, s, **others) for q, line in enumerate(scores) for e, s in enumerate(line)]


def random_samples(rng, questions, k, lam=0.5):
    return [
        make(f"q{q}", e, float(rng.random() < 0.4), lam=lam, answer=str(rng.integers(3)), tokens=int(rng.integers(99)))
        for q in range(questions)
        for e in range(1, k + 1)
    ]


# --- definitions -------------------------------------------------------------------------------------------------


def test_mean_weighs_every_question_the_same_however_many_samples_it_has():
    (m,) = measure(grid([[1, 1, 1, 1], [0, 0], [1, 0]]))
    assert m.mean.value == pytest.approx((1 + 0 + 0.5) / 3)
    assert (m.k, m.num_questions, m.num_samples) == (2, 3, 8)


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (4, 0), (5, 2), (6, 3), (7, 7)])
def test_pass_at_equals_the_share_of_all_subsets_that_hold_a_correct_sample(n, c):
    marks = [1] * c + [0] * (n - c)
    reference = [np.mean([max(some) for some in itertools.combinations(marks, j)]) for j in range(1, n + 1)]
    assert pass_at(np.array([n]), np.array([c]), n)[0] == pytest.approx(reference)


def test_pass_at_64_of_a_64th_is_one_and_does_not_overflow_at_many_thousand_samples():
    assert pass_at(np.array([64.0]), np.array([1.0]), 64)[0, -1] == 1
    many = pass_at(np.array([20000.0]), np.array([1.0]), 5000)[0]
    assert many[-1] == pytest.approx(0.25)


def test_pass_at_equals_inspects_reducer():
    scorer = pytest.importorskip("inspect_ai.scorer")
    rng = np.random.default_rng(3)
    scores = (rng.random((9, 8)) < 0.3).astype(float)
    (m,) = measure(grid(scores))
    for j, ours in enumerate(m.pass_at, start=1):
        reduce = scorer.pass_at(j)
        theirs = [reduce([scorer.Score(value=s) for s in line]).as_float() for line in scores.tolist()]
        assert ours.value == pytest.approx(np.mean(theirs))


def test_a_sample_passes_only_with_full_marks():
    (m,) = measure(grid([[0.5, 0.5], [1.0, 0.0]]))
    assert m.mean.value == 0.5
    assert m.pass_at[1].value == 0.5


def test_vote_is_the_score_of_the_most_frequent_answer():
    assert vote(["7", "8", "7"], [1, 0, 1]) == 1
    assert vote(["8", "7", " 8"], [0, 1, 0]) == 0


def test_tied_votes_share_and_do_not_hang_on_order():
    for answers in itertools.permutations([("7", 1.0), ("8", 0.0), ("7", 1.0), ("8", 0.0), ("9", 0.0)]):
        assert vote(*zip(*answers, strict=True)) == 0.5


def test_a_sample_without_an_answer_abstains_and_no_answers_score_zero():
    assert vote([None, None, "7"], [0, 0, 1]) == 1
    assert vote([None, "", " "], [0, 0, 0]) == 0


def test_vote_is_not_defined_for_a_task_that_is_graded_without_answers():
    assert measure(grid([[1, 0], [0, 0]], answer=None))[0].vote is None
    silent = measure(grid([[0, 0], [0, 0]], answer=None))[0].vote
    assert silent is not None
    assert silent.value == 0


def test_failed_samples_are_counted_and_left_out_of_everything_else():
    lost = [make("q0", 3, 0, outcome=Outcome.FAILED, tokens=0, answer=None), make("q9", 1, 0, outcome=Outcome.FAILED)]
    (m,) = measure(grid([[1, 1], [1, 0]]) + lost)
    (clean,) = measure(grid([[1, 1], [1, 0]]))
    assert m.mean == clean.mean
    assert m.tokens == clean.tokens
    assert m.outcomes[Outcome.FAILED] == 2
    assert (m.num_questions, m.num_missing, m.k) == (2, 1, 2)


def test_a_point_whose_samples_all_failed_is_reported_as_unknown(tmp_path):
    (m,) = measure([make(outcome=Outcome.FAILED, score=0)])
    assert math.isnan(m.mean.value)
    assert (m.num_questions, m.pass_at, m.outcomes[Outcome.FAILED]) == (0, (), 1)
    assert curve([m]) == []
    write_metrics([m], tmp_path / "m.json")
    assert math.isnan(read_metrics(tmp_path / "m.json")[0].tokens.value)


def test_questions_seen_at_another_point_are_missing_here():
    there = grid([[1], [1], [1]], lam=0.0)
    here = grid([[1]], lam=1.0)
    assert [m.num_missing for m in measure(here + there)] == [0, 2]


def test_tokens_and_think_are_those_of_the_responses():
    samples = [
        make("a", 1, 1, tokens=10), make("a", 2, 0, tokens=30, outcome=Outcome.DIRECT),
        make("b", 1, 0, tokens=50, outcome=Outcome.UNCLOSED), make("b", 2, 1, tokens=70, outcome=Outcome.TRUNCATED),
    ]  # fmt: skip
    (m,) = measure(samples)
    assert m.tokens.value == 40
    assert (m.tokens_median, m.tokens_correct.value, m.tokens_closed.value) == (40, 40, 10)
    assert m.tokens_p95 == pytest.approx(67)
    assert m.think.value == 0.25
    assert m.outcomes[Outcome.UNCLOSED] == m.outcomes[Outcome.TRUNCATED] == m.outcomes[Outcome.DIRECT] == 1
    assert sum(m.outcomes.values()) == 4


def test_think_counts_the_marker_also_in_truncated_responses():
    (m,) = measure([make("a", 1, outcome=Outcome.TRUNCATED, closed=True), make("b", 1, outcome=Outcome.DIRECT)])
    assert m.think.value == 0.5


def test_the_well_formed_score_leaves_unclosed_and_pseudo_closed_out_but_keeps_truncated():
    samples = [
        make("a", 1, 1), make("a", 2, 0, outcome=Outcome.UNCLOSED),
        make("b", 1, 1), make("b", 2, 0, outcome=Outcome.TRUNCATED),
        make("c", 1, 0, outcome=Outcome.PSEUDO_CLOSED), make("c", 2, 0, outcome=Outcome.UNCLOSED),
    ]  # fmt: skip
    (m,) = measure(samples)
    assert m.mean.value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert m.well_formed.value == pytest.approx((1 + 0.5) / 2)  # question c has no response left
    assert m.format_failures.value == 0.5
    # right in form only: 1/2, 1/2, 0 of each question; with the failures right as well: 1, 1/2, 1
    assert (m.ability_low.value, m.ability_high.value) == pytest.approx(((0.5 + 0.5 + 0) / 3, (1 + 0.5 + 1) / 3))
    answered = measure([make("a", 1, 1, outcome=Outcome.UNMARKED)])[0]  # in a thought that the prompt opened
    assert (answered.format_failures.value, answered.ability_low.value, answered.ability_high.value) == (0, 1, 1)


def test_another_grading_can_be_asked_for_by_name():
    samples = [make("a", 1, grades={"paper": 0.0, "robust": 1.0}), make("b", 1, grades={"paper": 1.0, "robust": 1.0})]
    assert measure(samples)[0].mean.value == 0.5
    assert measure(samples, grading="robust")[0].mean.value == 1
    with pytest.raises(AnalysisError, match="no grading 'own' for task 'sums'; it has paper, robust"):
        measure(samples, grading="own")


def test_points_come_by_lambda_and_those_off_the_dial_last():
    samples = [make(lam=1.0), make(lam=None, point="brief"), make(lam=0.0), make(lam=0.5)]
    assert [m.lam for m in measure(samples)] == [0.0, 0.5, 1.0, None]


def test_a_sample_that_is_there_twice_is_refused():
    with pytest.raises(AnalysisError, match="problem 'q1', sample 1 is there twice"):
        measure([make(), make()])


def test_a_point_with_two_lambdas_is_refused():
    with pytest.raises(AnalysisError, match=r"several λ: 0\.5, 0\.6"):
        measure([make(), make("q2", lam=0.6, point="λ=0.5")])


# --- intervals ---------------------------------------------------------------------------------------------------


def test_resampling_weights_are_counts_of_whole_questions():
    drawn = np.concatenate(list(weights(7, 1000, seed=1)))
    assert drawn.shape == (1000, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert drawn.mean() == 1
    assert drawn.var() == pytest.approx(6 / 7, abs=0.05)


def test_bootstrap_equals_a_loop_that_draws_questions_one_by_one():
    rng = np.random.default_rng(5)
    values = rng.random(12)
    (ours,) = ratio_intervals(values[:, None], np.ones((12, 1)), resamples=400, seed=9)
    rng, draws = np.random.default_rng(9), []
    for _ in range(400):
        draws.append(sum(values[i] for i in rng.integers(0, 12, size=12)) / 12)
    level = expanded_level(12)
    assert ours == pytest.approx((values.mean(), np.quantile(draws, level), np.quantile(draws, 1 - level)))


def test_few_questions_are_read_further_out_and_many_at_the_usual_level():
    assert expanded_level(8) < 0.01
    assert expanded_level(10**6) == pytest.approx(0.025, abs=1e-5)


def test_a_proportion_lies_between_jeffreys_and_clopper_pearson():
    for yes, n in ((0, 30), (1, 60), (15, 148), (59, 60)):
        found = proportion(yes / n, n)
        jeffreys = beta.ppf([0.025, 0.975], yes + 0.5, n - yes + 0.5)
        exact = binomtest(yes, n).proportion_ci(0.95)
        assert exact.low <= found.low <= max(jeffreys[0], 0)
        assert jeffreys[1] <= found.high <= exact.high
    assert proportion(0, 30).low == 0
    assert proportion(1, 30).high == 1


def test_one_sample_per_question_makes_questions_coin_tosses():
    (m,) = measure(grid([[1]] * 3 + [[0]] * 7))
    assert m.mean == m.pass_at[0] == pytest.approx(proportion(0.3, 10), abs=0.02)


def test_all_wrong_is_not_certain():
    (m,) = measure(grid([[0] * 8] * 30))
    assert m.mean.low == 0
    assert 0.07 < m.mean.high < 0.1  # of all-or-nothing questions up to .1 may be right; these may differ a little less


@pytest.mark.parametrize(("questions", "k"), [(30, 64), (30, 8), (60, 1)])
@pytest.mark.parametrize("heaped", [False, True])
def test_each_right_answer_more_moves_both_ends_up_from_none_to_all(questions, k, heaped):
    right = np.zeros(questions)
    before = share_interval(right / k, k)
    for i in range(questions * k):
        right[i // k if heaped else i % questions] += 1
        after = share_interval(right / k, k)
        assert after.low >= before.low - 1e-12
        assert after.high >= before.high - 1e-12
        before = after


def test_one_answer_more_or_less_hardly_moves_the_interval_at_the_border():
    def interval(wrong, questions, k):
        scores = np.ones((questions, k))
        scores[0, :wrong] = 0
        return measure(grid(scores.tolist()))[0].mean

    for questions, k in ((30, 64), (60, 1)):
        none, one = interval(0, questions, k), interval(1, questions, k)
        assert (
            none.low - 0.04 < one.low < none.low
        )  # by the bootstrap, one wrong of 1,920 narrowed it from 11 points to 0.2


def test_few_questions_right_at_a_high_truth_are_covered():
    rng = np.random.default_rng(4)
    chances = rng.beta(0.989 * 3, 0.011 * 3, size=(300, 30))
    hits = [share_interval(rng.binomial(64, p) / 64, 64).includes(0.989) for p in chances]
    assert np.mean(hits) >= 0.92  # 68 % by the bootstrap; benchmarks/shares_simulation.py has the study


def test_samples_of_one_question_do_not_count_as_questions():
    (few,) = measure(grid([[1, 0], [1, 1], [0, 0], [1, 0]] * 4))
    (many,) = measure(grid([[1, 0] * 50, [1, 1] * 50, [0, 0] * 50, [1, 0] * 50] * 4))
    assert many.mean[1:] == pytest.approx(few.mean[1:], abs=0.01)


def test_these_very_questions_are_known_better_the_more_samples_they_have():
    rng = np.random.default_rng(3)
    chance = rng.beta(0.5, 0.5, 40)
    few, many = ((rng.random((40, k)) < chance[:, None]).astype(float).tolist() for k in (4, 64))
    widths = [measure(grid(s), estimand="these")[0].mean for s in (few, many)]
    assert widths[1].high - widths[1].low < 0.3 * (widths[0].high - widths[0].low)
    alike = measure(grid(many))[0].mean
    assert alike.high - alike.low > 3 * (widths[1].high - widths[1].low)
    one = [[x[0]] for x in few]
    assert measure(grid(one), estimand="these")[0].mean == measure(grid(one))[0].mean  # one sample does not tell


def test_intervals_of_these_questions_cover_their_own_mean():
    rng = np.random.default_rng(6)
    chance = rng.beta(0.5, 0.5, 40)
    hits = []
    for _ in range(200):
        each = rng.binomial(8, chance) / 8
        hits.append(share_interval(each, 8, each * (1 - each) / 7).includes(float(chance.mean())))
    assert np.mean(hits) >= 0.93


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly_the_same():
    samples = random_samples(np.random.default_rng(0), 20, 4)
    assert measure(samples, seed=1) == measure(samples, seed=1)
    one, two = (measure(samples, seed=s)[0].tokens for s in (1, 2))
    assert one != two
    assert one == pytest.approx(two, rel=0.03)


def test_one_question_has_no_interval():
    (m,) = measure(grid([[1, 0, 1]]))
    assert m.mean.value == pytest.approx(2 / 3)
    assert math.isnan(m.mean.low)


@pytest.mark.parametrize("questions", [10, 30])
def test_intervals_of_the_mean_cover_the_truth_about_95_times_in_100(questions):
    rng = np.random.default_rng(7)
    ability = rng.beta(1, 1, size=(400, questions))
    values = rng.binomial(8, ability) / 8
    assert 0.93 <= np.mean([share_interval(v, 8).includes(0.5) for v in values]) <= 0.99


# --- differences -------------------------------------------------------------------------------------------------


def test_a_difference_is_paired_by_question():
    hard_to_easy = np.linspace(0, 1, 200)
    a = grid([[h] for h in hard_to_easy * 0.9], lam=0.0)
    b = grid([[h] for h in hard_to_easy * 0.9 + 0.05], lam=1.0)
    d = difference(a, b)
    assert (d.a, d.b) == ("λ=0.0", "λ=1.0")
    assert d.value.value == pytest.approx(0.05)
    assert d.significant
    ends = [measure(side)[0].mean for side in (a, b)]
    assert ends[0].high > ends[1].low  # apart, the two intervals overlap


def test_a_difference_changes_sign_when_the_points_are_swapped():
    rng = np.random.default_rng(2)
    a, b = random_samples(rng, 30, 4, 0.0), random_samples(rng, 30, 4, 1.0)
    there, back = difference(a, b), difference(b, a)
    assert there.value.value == pytest.approx(-back.value.value)
    assert there.detectable == pytest.approx((2.04523 + 0.85419) * there.standard_error, rel=1e-4)  # t, 29 degrees


def test_questions_of_one_side_only_are_left_out_and_counted():
    d = difference(grid([[1], [0], [1]], lam=0.0), grid([[0], [0]], lam=1.0))
    assert (d.num_questions, d.num_unpaired) == (2, 1)
    assert d.value.value == -0.5


def test_no_difference_at_all_is_no_proof_of_equality():
    same = grid([[1, 1]] * 30)
    d = difference(same, grid([[1, 1]] * 30, lam=0.9))
    assert d.value.value == 0
    assert -d.value.low == d.value.high > 0.1
    assert not d.significant
    assert d.detectable > 0.1


def test_one_answer_in_240_does_not_show_what_was_not_asked():
    right = [[1] * 8] * 30
    d = difference(grid(right), grid([[0] + [1] * 7, *right[1:]], lam=0.9))
    assert d.detectable > 0.1  # by the standard error alone: 1.2 points
    assert d.detectable < difference(grid(right), grid(right, lam=0.9)).detectable


def test_changes_of_many_questions_are_the_t_interval_nearly():
    change = np.random.default_rng(1).normal(0.02, 0.3, 400).clip(-1, 1)
    known = t.interval(0.95, 399, loc=change.mean(), scale=change.std(ddof=1) / 20)
    assert change_interval(change, 8).interval == pytest.approx((change.mean(), *known), abs=2e-4)


def test_no_zero_is_written_with_a_minus():
    near = Interval(-0.0001, -0.0004, 0.0002)
    assert interval_text(near, 100, sign="+", unit=" points") == "+0.0 points [+0.0, +0.0]"
    assert interval_text(Interval(-0.06, -0.2, 0.1)) == "-0.1 [-0.2, 0.1]"


def test_a_change_in_shares_lies_between_minus_one_and_one():
    for values in ([1.0] * 4, [-1.0] * 4, [1.0, -1.0, 0.0, 1.0]):
        found = change_interval(np.array(values), 2)
        assert -1 <= found.interval.low <= found.interval.value <= found.interval.high <= 1
        assert found.error > 0


def test_what_is_not_significant_is_never_called_detectable():
    for questions in (2, 3, 4, 9, 30):
        d = difference(grid([[0, 1]] * questions), grid([[1, 1], *[[0, 1]] * (questions - 1)], lam=0.9))
        assert d.detectable > t.ppf(0.975, questions - 1) * d.standard_error
        assert d.detectable_as(5) > t.ppf(1 - 0.05 / 10, questions - 1) * d.standard_error > d.detectable * 0.7


def test_rare_changes_are_covered():
    rng, hits = np.random.default_rng(5), []
    for _ in range(300):
        easy = rng.beta(0.3, 0.006, 30)
        changed = np.where(rng.random(30) < 0.1, rng.beta(0.27, 0.03, 30), easy)
        found = change_interval(rng.binomial(8, changed) / 8 - rng.binomial(8, easy) / 8, 8)
        hits.append(found.interval.includes(0.1 * (0.9 - 0.3 / 0.306)))
    assert np.mean(hits) >= 0.92  # 48 % by t alone


def test_differences_of_every_metric_agree_with_the_measurements():
    rng = np.random.default_rng(4)
    a, b = random_samples(rng, 15, 5, 0.0), random_samples(rng, 15, 5, 1.0)
    before, after = measure(a + b)
    for metric, of in {
        "mean": lambda m: m.mean, "pass": lambda m: m.pass_at[-1], "vote": lambda m: m.vote,
        "well_formed": lambda m: m.well_formed, "think": lambda m: m.think, "tokens": lambda m: m.tokens,
    }.items():  # fmt: skip
        assert difference(a, b, metric=metric).value.value == pytest.approx(of(after).value - of(before).value)


def test_sampling_variance_is_that_of_redrawing_the_samples():
    rng, k = np.random.default_rng(8), 4
    ability = rng.random(50)
    draws, estimates = [], []
    for _ in range(60):
        a = grid(rng.random((50, k)) < ability[:, None], lam=0.0)
        b = grid(rng.random((50, k)) < ability[:, None], lam=1.0)
        d = difference(a, b, resamples=2)
        draws.append(d.value.value)
        estimates.append(d.sampling_variance)
    assert np.mean(estimates) == pytest.approx(2 * np.mean(ability * (1 - ability)) / k / 50, rel=0.1)
    assert np.var(draws) == pytest.approx(np.mean(estimates), rel=0.5)


def test_points_without_shared_questions_cannot_be_compared():
    with pytest.raises(AnalysisError, match=r"no question has mean at both 'λ=0\.5' and 'λ=0\.5'"):
        difference([make("q1")], [make("q2")])
    with pytest.raises(AnalysisError, match="no question has vote"):
        difference([make(answer=None)], [make(answer=None)], metric="vote")


# --- files -------------------------------------------------------------------------------------------------------


def test_metrics_are_read_back_as_they_were(tmp_path):
    rng = np.random.default_rng(6)
    metrics = measure(random_samples(rng, 6, 3) + random_samples(rng, 6, 3, lam=0.9) + [make(lam=None, point="brief")])
    write_metrics(metrics, tmp_path / "metrics.json")
    again = read_metrics(tmp_path / "metrics.json")
    assert again[:2] == metrics[:2]
    assert again[2].point == "brief"


@pytest.mark.parametrize(
    "how",
    [
        {"k": "many"},
        {"mean": 5},
        {"mean": {"value": 1}},
        {"outcomes": {"won": 1}},
        {"tokens_p95": 10**400},
        None,
        {"new": 1},
    ],
)
def test_a_file_that_is_no_metrics_file_is_refused(tmp_path, how):
    path = tmp_path / "m.json"
    write_metrics(measure([make()]), path)
    content = json.loads(path.read_text())
    content["points"] = [how and content["points"][0] | how]
    for text in (json.dumps(content), "[]", "[" * 100_000, "{}"):
        path.write_text(text)
        with pytest.raises(AnalysisError, match="not a metrics file"):
            read_metrics(path)


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-1", "@SUM(1)", "'=1", "''", "'quoted'", "a=b", "\tx"])
def test_no_spreadsheet_takes_a_name_for_a_formula_and_numbers_stay_numbers(tmp_path, name):
    path = tmp_path / "curves.csv"
    write_curves(measure([make(lam=-0.5, task=name)]), path)
    assert [row.task for row in read_curves(path)] == [name]
    cells = next(iter(csv.DictReader(path.open(encoding="utf-8"))))
    assert not cells["task"].startswith(("=", "+", "-", "@", "\t"))
    assert cells["lam"] == "-0.5"


def test_curves_have_the_agreed_columns_and_are_read_back_as_they_were(tmp_path):
    rng = np.random.default_rng(6)
    metrics = measure(random_samples(rng, 6, 3, 1.0) + random_samples(rng, 6, 3, 0.0) + [make(lam=None, point="brief")])
    path = tmp_path / "curves.csv"
    write_curves(metrics, path)
    header, *lines = path.read_text().splitlines()
    assert header == "task,lam,questions,samples,mean,mean_low,mean_high,pass,vote,tokens,think" == ",".join(COLUMNS)
    assert len(lines) == 2
    rows = read_curves(path)
    assert [row.lam for row in rows] == [0.0, 1.0]
    for row, m in zip(rows, metrics, strict=False):
        assert (row.questions, row.samples) == (6, 3)
        assert (row.mean, row.mean_low, row.mean_high) == pytest.approx(m.mean, abs=1e-6)
        assert (row.pass_, row.vote) == pytest.approx((m.pass_at[-1].value, m.vote.value), abs=1e-6)
        assert (row.tokens, row.think) == pytest.approx((m.tokens.value, m.think.value), abs=1e-6)


def test_curves_from_elsewhere_need_only_task_lam_and_think(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text('\ufefflam,think, task\n0.5,.25,"a,b"\n\n1,1,gpqa\n', encoding="utf-8")
    assert read_curves(path) == [CurveRow("a,b", 0.5, 0.25), CurveRow("gpqa", 1.0, 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns missing: task, lam, think"),
        ("task,lambda,think\n", "columns missing: lam"),
        ("task,lam,think\n", "no rows"),
        ("task,lam,think\na,0.5,50\n", r"(?s)between 0 and 1, not 50.*line 2.*divide by 100"),
        ("task,lam,think\na,0,0\na,half,0.5\n", r"(?s)lam is not a number: 'half'.*line 3"),
        ("task,lam,think\na,0,nan\n", "think is not a number"),
        ("task,lam,think\na,0\n", r"(?s)2 cells under 3 columns.*line 2"),
        ("task,lam,think\na,0,\n", "no think"),
        ("task,lam,think\na,0,0\na,0.0,1\n", r"(?s)task 'a' at λ=0 was there before, in line 2.*line 3"),
        ("task,lam,think,think\n", "a column is there twice"),
        ("task,lam,think,tokens\na,0,0,-5\n", "tokens cannot be -5"),
        ("task,lam,think,questions\na,0,0,2.5\n", "whole number from 1 up, not 2.5"),
        ('task,lam,think\n"a,0,0\n', "cannot read the curves"),
        ("task,lam,think\na,1_0,0\n", "lam is not a number: '1_0'"),
        ("task,lam,think,samples\na,0,0,1e300\n", "samples is a whole number from 1 up, not 1e300"),
        ("task,lam,think\n" + "".join(f"a,{i},0\n" for i in range(200_001)), "more than 200,000 rows"),
    ],
)
def test_files_that_cannot_be_meant_are_refused_with_their_line(tmp_path, text, message):
    path = tmp_path / "curves.csv"
    path.write_text(text)
    with pytest.raises(AnalysisError, match=message):
        read_curves(path)


def test_columns_that_are_not_used_are_named(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text("task,lam,think,tokns\na,0,0,5\n")
    with pytest.warns(InterpoleWarning, match="columns not used: tokns"):
        read_curves(path)


def test_two_points_at_one_lambda_make_no_curve():
    samples = [make(lam=0.5), make(lam=0.5, point="thirds")]
    with pytest.raises(AnalysisError, match=r"two points at λ=0\.5; the second is 'thirds'"):
        curve(sorted(measure(samples), key=lambda m: m.point == "thirds"))


def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_curves([], Path(tmp_path / "no" / "curves.csv"))
    assert list(tmp_path.iterdir()) == []
