"""Recommendations: the paper's table, hand-made curves, runs, and what is refused; and comparisons of points."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.stats import norm, studentized_range, t

from interpole.analysis import compare as comparison
from interpole.analysis import recommend as module
from interpole.analysis.compare import compare, holm, needed
from interpole.analysis.intervals import Interval
from interpole.analysis.metrics import difference
from interpole.analysis.recommend import average, recommend
from interpole.analysis.selection import critical, noise, optimism
from interpole.analysis.tables import CurveRow
from interpole.errors import AnalysisError
from interpole.records import Outcome, Sample
from interpole.runs.simplex import Simplex
from paper_tables import table2

LAMS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)


def rows(**columns):
    """Seven λ whose thinking is complete from 0.7 on; tokens rise there."""
    base = {
        "think": (0, 0.01, 0.5, 1, 1, 1, 1), "mean": (0.4, 0.42, 0.5, 0.7, 0.76, 0.79, 0.8),
        "tokens": (1000, 3000, 2000, 4000, 6000, 8000, 10000),
    }  # fmt: skip
    columns = base | columns
    return [CurveRow("t", lam, **{name: float(c[i]) for name, c in columns.items()}) for i, lam in enumerate(LAMS)]


def run(means, tokens, *, questions=40, k=4, task="t", seed=0):
    """Samples whose questions share their difficulty over λ; `means` and `tokens` by λ."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 1, questions)
    samples = []
    for lam, mean in means.items():
        for q in range(questions):
            for e in range(1, k + 1):
                right = rng.normal(0, 0.5) + ease[q] < norm.ppf(mean) * math.hypot(1, 0.5)
                samples.append(
                    Sample(
                        task, f"λ={lam:g}", lam, f"q{q}", e, "?", "1", "…", int(tokens[lam] + q), "stop",
                        Outcome.CLOSED if lam > 0.5 else Outcome.DIRECT, lam > 0.5, str(int(right)),
                        {"own": float(right)},
                    )
                )  # fmt: skip
    return samples


RUN_TOKENS = {0.0: 100, 0.6: 400, 0.8: 500, 1.0: 700}


# --- the paper ---------------------------------------------------------------------------------------------------


def aime(**budget):
    return recommend(table2(), task="aime25", **budget)


@pytest.mark.parametrize(("budget", "lam"), [(13000, 0.6), (18000, 0.8), (None, 0.8)])
def test_table_2_on_aime(budget, lam):
    found = aime(max_tokens=budget)
    assert found.lam == lam
    assert found.choice.source == "measured"
    assert 1.0 in found.tied


def test_table_2_says_what_share_of_thinking_it_keeps():
    found = aime(max_tokens=13000)
    assert found.share_of_accuracy == pytest.approx(71.0 / 80.4)
    assert found.share_of_tokens == pytest.approx(12681 / 22813)
    assert found.tied_by == "unpaired"
    assert found.choice.accuracy.low < 0.71 < found.choice.accuracy.high


def test_table_2_between_measured_points_is_interpolated_and_says_so():
    found = aime(max_tokens=15000)
    assert found.choice.source == "interpolated"
    assert 0.6 < found.lam < 0.8
    assert 14500 < found.choice.tokens.value <= 15000


def test_table_2_over_all_tasks_is_near_where_thinking_is_complete():
    found = recommend(table2(), balanced=True)
    assert found.lam == 0.6
    assert found.task == "aime25+ifeval+gpqa_diamond"
    assert found.choice.accuracy.value == pytest.approx((71.0 + 85.9 + 66.2) / 300)


# --- choosing ----------------------------------------------------------------------------------------------------


def test_within_a_token_budget_the_most_accurate_lambda_wins():
    assert recommend(rows(), max_tokens=1500).lam == 0.0
    assert recommend(rows(), max_tokens=2500).lam == 0.5  # not 0.3, which costs more and does less
    assert recommend(rows(), max_tokens=6000).lam == 0.8


def test_of_equally_accurate_lambdas_the_cheaper_wins():
    assert recommend(rows(mean=(0.4, 0.42, 0.5, 0.7, 0.8, 0.8, 0.8))).lam == 0.8


def test_an_accuracy_is_reached_with_the_fewest_tokens():
    assert recommend(rows(), min_accuracy=0.7).lam == 0.7
    assert recommend(rows(), min_accuracy=0.4).lam == 0.0


def test_a_cost_is_a_number_of_tokens():
    by_cost = recommend(rows(), max_cost=0.012, price_per_million=2)
    assert repr(by_cost.choice) == repr(recommend(rows(), max_tokens=6000).choice)  # NaN is equal to nothing
    assert by_cost.cost == pytest.approx(0.012)


def test_balanced_keeps_95_percent_of_the_best_accuracy():
    assert recommend(rows(), balanced=True).lam == recommend(rows(), min_accuracy=0.95 * 0.8).lam == 0.8


def test_nothing_meets_the_budget_and_the_nearest_is_named():
    found = recommend(rows(), max_tokens=500)
    assert (found.lam, found.choice, found.nearest.lam) == (None, None, 0.0)
    assert found.why == "no measured λ stays within 500 tokens; the nearest is λ=0 (40.0% at 1,000 tokens, measured)"
    found = recommend(rows(), min_accuracy=0.9)
    assert (found.lam, found.nearest.lam) == (None, 1.0)


def test_interpolation_follows_the_monotone_curve_through_the_measured_points():
    found = recommend(rows(), max_tokens=5000).choice
    late = rows()[3:]
    lams = [r.lam for r in late]
    assert found.source == "interpolated"
    assert found.tokens.value == pytest.approx(PchipInterpolator(lams, [r.tokens for r in late])(found.lam))
    assert found.accuracy.value == pytest.approx(PchipInterpolator(lams, [r.mean for r in late])(found.lam))
    assert 0.7 < found.lam < 0.8


def test_below_complete_thinking_only_measured_lambdas_are_considered():
    for budget in range(1000, 4000, 250):
        found = recommend(rows(), max_tokens=budget).choice
        assert found.source == "measured"


def test_nothing_is_interpolated_where_tokens_do_not_rise_steadily():
    found = recommend(rows(tokens=(1000, 3000, 2000, 4000, 6000, 5500, 10000)), max_tokens=5000)
    assert found.choice.source == "measured"
    assert any("tokens do not rise steadily" in note for note in found.notes)


def test_without_a_transition_nothing_is_interpolated():
    found = recommend(rows(think=(1,) * 7), max_tokens=5000)
    assert found.choice.source == "measured"
    assert any("λ_off) is not known" in note for note in found.notes)


def test_an_interpolated_lambda_must_promise_a_point_of_accuracy():
    found = recommend(rows(), max_tokens=4100).choice
    assert (found.lam, found.source) == (0.7, "measured")


def test_the_edge_of_the_data_and_stage_2_are_pointed_out():
    short = [r for r in rows() if r.lam <= 0.9]
    assert any("at the edge of what was measured" in note for note in recommend(short).notes)
    assert recommend(short).share_of_accuracy is None
    assert any("lies in stage 2" in note for note in recommend(rows(), max_tokens=2500).notes)


def test_the_command_makes_the_model():
    command = recommend(rows(), max_tokens=6000, sources=("a/I", "a/T")).command
    assert command == "interpole merge a/I a/T --lambda 0.8 --out merged-0.8"


def test_intervals_in_the_file_are_used_and_absent_ones_are_as_wide_as_the_questions_allow():
    given = [replace(r, mean_low=r.mean - 0.02, mean_high=r.mean + 0.02) for r in rows()]
    found = recommend(given)
    assert found.choice.accuracy == pytest.approx((0.8, 0.78, 0.82))
    assert found.tied == (0.9,)
    assert recommend([replace(r, questions=30) for r in rows()]).choice.accuracy.low == pytest.approx(0.624, abs=0.001)
    bare = recommend(rows())
    assert (bare.tied_by, bare.tied) == ("unknown", ())
    assert any("no intervals" in note for note in bare.notes)


def test_several_tasks_weigh_the_same_and_only_shared_lambdas_count():
    other = [replace(r, task="u", mean=0.1, tokens=500.0) for r in rows() if r.lam != 1.0]
    found = recommend(rows() + other)
    assert found.lam == 0.9
    assert found.choice.accuracy.value == pytest.approx((0.79 + 0.1) / 2)
    assert found.choice.tokens.value == pytest.approx((8000 + 500) / 2)
    assert recommend(rows() + other, task="t").lam == 1.0


def test_half_widths_of_averaged_tasks_add_in_quadrature():
    assert average([Interval(0.5, 0.2, 0.8), Interval(0.7, 0.3, 1.1)]) == pytest.approx((0.6, 0.35, 0.85))


# --- from a run --------------------------------------------------------------------------------------------------


def test_from_a_run_ties_are_judged_in_pairs_and_tokens_have_intervals():
    samples = run({0.0: 0.3, 0.6: 0.75, 0.8: 0.76, 1.0: 0.76}, RUN_TOKENS, questions=100)
    found = recommend(samples)
    assert found.tied_by == "paired"
    assert 0.6 in (found.lam, *found.tied)
    assert 0.0 not in found.tied
    assert found.choice.tokens.low < found.choice.tokens.value < found.choice.tokens.high
    if found.lam > 0.6:
        assert any("λ=0.6 cannot be told from it in accuracy and needs" in note for note in found.notes)


def test_a_run_whose_lambdas_share_no_questions_is_warned_of():
    samples = run({0.0: 0.2, 0.6: 0.5, 1.0: 0.6}, {0.0: 100, 0.6: 300, 1.0: 900})
    apart = [replace(s, problem_id=f"{s.problem_id} again") if s.lam == 1 else s for s in samples]
    found = recommend(apart)
    assert found.tied_by == "unpaired"
    assert "fewer than 2 questions were answered at every λ" in found.notes[0]
    assert not [note for note in found.notes if "samples pair by question" in note]
    assert not [note for note in recommend(samples).notes if "WARNING" in note]


def test_points_off_the_dial_are_not_recommended():
    samples = run({0.0: 0.3, 0.6: 0.5, 1.0: 0.6}, RUN_TOKENS)
    rival = [replace(s, lam=None, point="oracle", grades={"own": 1.0}) for s in samples if s.lam == 1.0]
    assert recommend(samples + rival).lam == 1.0


def test_a_budget_within_the_interval_is_pointed_out():
    samples = run({0.0: 0.3, 0.6: 0.75, 1.0: 0.9}, RUN_TOKENS)
    found = recommend(samples, max_tokens=420)
    assert found.lam == 0.6
    assert any("what was asked for lies within the interval" in note for note in found.notes)


def test_the_accuracy_of_the_best_of_many_equal_lambdas_is_corrected():
    rng, raw, mended = np.random.default_rng(1), [], []
    for i in range(60):
        each = rng.binomial(8, np.repeat(rng.beta(2, 2, (30, 1)), 20, axis=1)) / 8
        errors = noise(each, 200, i)
        best = each.mean(axis=0).max()
        raw.append(best - each.mean())
        mended.append(best - optimism(each.mean(axis=0), errors, lambda c: np.argmax(c, axis=1)) - each.mean())
    assert np.mean(raw) > 0.03
    assert abs(np.mean(mended)) < 0.2 * np.mean(raw)


def test_where_one_lambda_is_clearly_best_nothing_is_taken_off():
    each = np.random.default_rng(2).binomial(8, np.repeat([[0.2, 0.3, 0.4, 0.9]], 100, axis=0)) / 8
    assert abs(optimism(each.mean(axis=0), noise(each, 500, 0), lambda c: np.argmax(c, axis=1))) < 0.002


def test_two_equal_lambdas_differ_by_students_two_standard_errors():
    errors = np.random.default_rng(3).normal(size=(20000, 2))
    assert critical(errors) == pytest.approx(1.96, abs=0.03)
    many = np.random.default_rng(4).normal(size=(20000, 10))
    assert critical(many) == pytest.approx(studentized_range.ppf(0.95, 10, 1e6) / math.sqrt(2), abs=0.04)


def test_a_budget_can_bind_long_responses_and_be_met_with_confidence():
    samples = run({0.0: 0.3, 0.6: 0.75, 1.0: 0.9}, RUN_TOKENS)
    long = [
        replace(s, num_tokens=5000) if s.lam == 1.0 and s.problem_id in ("q1", "q2", "q3", "q4") else s for s in samples
    ]
    assert recommend(long, max_tokens_p95=2000).lam == 0.6
    assert recommend(samples, max_tokens=420).lam == 0.6  # 419.5 measured, give or take 4
    assert recommend(samples, max_tokens=420, confidence=0.95).lam == 0.0
    with pytest.raises(AnalysisError, match="at every λ more than 5 %"):
        recommend(samples, max_tokens_p95=10)


def test_what_is_said_of_the_budget_the_stage_and_the_ends_is_so():
    samples = run({0.0: 0.3, 0.6: 0.75, 1.0: 0.9}, RUN_TOKENS)
    assert not any(
        "lies within the interval" in note for note in recommend(samples, max_tokens=50).notes
    )  # not met at all
    assert not any("stage 2" in note for note in recommend(samples, max_tokens=450).notes)  # all think at 0.6
    back = [replace(s, lam=1 - s.lam, point=f"λ={1 - s.lam:g}") for s in samples]
    assert "swapped" in recommend(back).notes[0]
    cut = [replace(s, outcome=Outcome.TRUNCATED) if s.lam == 1.0 and s.number == 1 else s for s in samples]
    assert "25% of responses at λ=1 were cut at the token cap" in recommend(cut).notes[0]


def test_few_questions_name_no_winner():
    few = recommend(run({0.6: 0.83, 1.0: 0.9}, RUN_TOKENS, questions=12))
    assert few.headline.startswith("No winner: differences below")
    many = recommend(run({0.0: 0.2, 1.0: 0.9}, RUN_TOKENS, questions=100))
    assert many.headline == "λ = 1 is the only one that is not seen to be worse"


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_tokens": 5, "min_accuracy": 0.5}, "more than one budget: max_tokens, min_accuracy"),
        ({"min_accuracy": 80}, "accuracy is a share up to 1, not 80"),
        ({"max_tokens": 0}, "max_tokens must be above 0"),
        ({"max_tokens": math.nan}, "max_tokens must be above 0"),
        ({"max_cost": 1}, "a cost without a price"),
        ({"task": "x"}, "no task 'x'; the data have t"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(budget, message):
    with pytest.raises(AnalysisError, match=message):
        recommend(rows(), **budget)


def test_curves_without_accuracy_or_tokens_cannot_answer():
    with pytest.raises(AnalysisError, match="no λ with accuracy and tokens for t"):
        recommend([replace(r, tokens=None) for r in rows()])


def test_the_json_has_lam_on_top():
    met = json.loads(json.dumps(module.to_json(recommend(rows(), max_tokens=6000)), allow_nan=False))
    assert (met["lam"], met["met"], met["source"], met["nearest"]) == (0.8, True, "measured", None)
    assert met["tokens"] == {"value": 6000, "low": None, "high": None}
    missed = module.to_json(recommend(rows(), max_tokens=5))
    assert (missed["lam"], missed["met"], missed["nearest"]["lam"]) == (None, False, 0.0)


# --- comparisons -------------------------------------------------------------------------------------------------


def test_a_lambda_that_a_budget_names_is_not_said_to_be_among_the_best():
    """λ = 0.6 is the most accurate within the budget; λ = 1 is far better, and dearer."""
    samples = run({0.0: 0.1, 0.6: 0.4, 1.0: 0.95}, RUN_TOKENS, questions=200)
    within = recommend(samples, max_tokens=501)
    enough = recommend(samples, min_accuracy=0.3)
    assert [(one.lam, one.tied, one.headline) for one in (within, enough)] == [(0.6, (), "")] * 2
    assert (within.aim, enough.aim) == ("max_tokens", "min_accuracy")
    assert recommend(samples).headline == "λ = 1 is the only one that is not seen to be worse"


def test_points_are_found_by_name_or_lambda_and_compared_with_the_first():
    samples = run({0.0: 0.3, 0.6: 0.75, 1.0: 0.76}, RUN_TOKENS)
    found = compare(samples, ["1", "λ=0.6", "0.0"])
    assert [(c.a, c.b) for c in found] == [("λ=1", "λ=0.6"), ("λ=1", "λ=0")]
    of = {name: [s for s in samples if s.point == name] for name in ("λ=1", "λ=0")}
    assert found[1].accuracy == difference(of["λ=1"], of["λ=0"])
    assert "λ=0 is worse than λ=1" in found[1].verdict
    assert found[1].tokens.value.value == -600


def test_thirty_questions_cannot_show_two_points_and_it_is_said_what_could():
    samples = run({0.6: 0.7, 0.8: 0.72}, RUN_TOKENS, questions=30, k=2)
    (c,) = compare(samples, ["0.6", "0.8"])
    assert "no difference seen" in c.verdict
    assert "30 questions show a difference of" in c.takes
    assert "they cannot show 2.0 points, which would take about" in c.takes


def test_the_questions_needed_do_show_the_difference_in_four_of_five_studies():
    rng = np.random.default_rng(1)
    effect, spread = 0.1, 0.4

    def study(questions):
        change = rng.normal(effect, spread, questions)
        return abs(change.mean()) > 1.96 * change.std(ddof=1) / math.sqrt(questions)

    pilot = difference(*(run({0.6: 0.5}, RUN_TOKENS, questions=50, seed=s) for s in (1, 2)))
    pilot = replace(pilot, standard_error=spread / math.sqrt(50), num_questions=50)
    questions, _ = needed(pilot, effect)
    assert questions == 128  # (2.82 · 0.4 / 0.1)²: 2.82 = 1.979 + 0.845, of t with 127 degrees of freedom
    assert np.mean([study(questions) for _ in range(2000)]) == pytest.approx(0.8, abs=0.03)


def test_more_samples_are_offered_only_where_they_would_do():
    base = difference(*(run({0.6: 0.5}, RUN_TOKENS, seed=s) for s in (1, 2)))
    noisy = replace(base, standard_error=0.02, sampling_variance=0.0004, num_questions=100, freedom=99)
    assert needed(noisy, 0.02)[1] == pytest.approx(0.0004 / (0.02 / (1.98422 + 0.84527)) ** 2, rel=1e-3)
    assert needed(replace(noisy, sampling_variance=0.0), 0.02)[1] == math.inf
    assert needed(replace(noisy, sampling_variance=math.nan), 0.02)[1] is None


def test_one_sample_each_does_not_tell_whether_more_would_do():
    (c,) = compare(run({0.6: 0.7, 0.8: 0.72}, RUN_TOKENS, questions=30, k=1), ["0.6", "0.8"])
    assert "cannot be told from one sample each" in c.takes


def few(better, questions, k=2):
    """Samples at λ = 0 and 1; at λ = 1 so many of so many questions went from wrong to right."""
    at = dict.fromkeys((0.0, 1.0), 1.0)
    return [
        replace(s, grades={"own": float(s.lam == 1 and int(s.problem_id[1:]) < better)})
        for s in run(at, RUN_TOKENS, questions=questions, k=k)
    ]


def test_four_questions_say_nothing_that_cannot_be():
    (c,) = compare(few(4, 4), ["0", "1"])
    assert c.accuracy.value == pytest.approx((1, 0.7, 1), abs=0.02)
    (c,) = compare(few(0, 4), ["0", "1"])
    assert (c.accuracy.value.low, c.detectable > 1) == (-c.accuracy.value.high, True)
    assert "4 questions are too few to count on seeing any difference" in c.takes
    assert "points or more" not in c.takes


def test_what_is_seen_though_smaller_than_what_is_seen_reliably_is_called_overstated():
    (c,) = compare(few(6, 30), ["0", "1"])
    assert c.accuracy.value.value == pytest.approx(0.2)
    assert c.verdict.startswith("λ=1 is better than λ=0: +20.0 points [+")
    assert 0.2 < c.detectable < 0.3
    assert "what was seen is less, so it is likely overstated" in c.takes
    (c,) = compare(few(25, 30), ["0", "1"])
    assert "overstated" not in c.takes


def test_what_could_be_seen_is_that_of_a_comparison_among_several():
    made = run({0.0: 0.3, 0.6: 0.5, 1.0: 0.5}, RUN_TOKENS)
    alone, among = compare(made, ["0", "1"])[0], compare(made, ["0", "0.6", "1"])[1]
    assert alone.accuracy == among.accuracy
    freedom = among.accuracy.freedom
    assert alone.detectable == alone.accuracy.detectable
    expected = (t.ppf(1 - 0.025 / 2, freedom) + t.ppf(0.8, freedom)) * among.accuracy.standard_error
    assert among.detectable == pytest.approx(expected)
    assert "in 4 of 5 cases, as one of 2 comparisons" in among.takes


def test_many_comparisons_are_a_family():
    assert holm([0.01, 0.04, 0.03, math.nan, 0.005]) == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)
    rng, alarms = np.random.default_rng(3), 0
    for i in range(40):
        right = rng.random((11, 60)) < 0.5
        samples = [
            replace(one, problem_id=f"q{q}", lam=float(lam), point=f"λ={lam}", grades={"own": float(right[lam, q])})
            for one in run({0.0: 0.5}, RUN_TOKENS, questions=1, k=1)
            for lam in range(11)
            for q in range(60)
        ]
        found = compare(samples, [str(lam) for lam in range(11)], resamples=2, seed=i)
        alarms += any("better" in c.verdict or "worse" in c.verdict for c in found)
    assert alarms <= 6  # one by one, in a third of the runs


def test_points_that_are_not_there_are_refused_with_those_that_are():
    samples = run({0.0: 0.3, 0.6: 0.75}, RUN_TOKENS, questions=3)
    with pytest.raises(AnalysisError, match=r"(?s)no point '0\.7'.*λ=0, λ=0\.6"):
        compare(samples, ["0", "0.7"])
    with pytest.raises(AnalysisError, match="1 different points of 2"):
        compare(samples, ["0", "λ=0"])


def test_comparisons_become_plain_data():
    found = compare(run({0.0: 0.3, 0.6: 0.75}, RUN_TOKENS, k=1), ["0", "0.6"])
    (entry,) = json.loads(json.dumps(comparison.to_json(found), allow_nan=False))
    assert entry["accuracy"]["value"]["low"] > 0
    assert entry["accuracy"]["sampling_variance"] is None


# --- on a simplex ------------------------------------------------------------------------------------------------


def on_edge(samples):
    """The same samples as points of an edge, without λ, and that simplex."""
    points = {f"λ={lam:g}": {"instruct": 1 - lam, "thinking": lam} for lam in RUN_TOKENS}
    points = {name: {corner: w for corner, w in weights.items() if w} for name, weights in points.items()}
    names = {name: f"point {i}" for i, name in enumerate(points)}
    renamed = [replace(s, lam=None, point=names[s.point]) for s in samples]
    return renamed, Simplex(("instruct", "thinking"), {names[name]: weights for name, weights in points.items()})


@pytest.mark.parametrize(
    "budget", [{}, {"max_tokens": 530}, {"max_tokens": 50}, {"min_accuracy": 0.7}, {"balanced": True},
               {"max_tokens": 600, "confidence": 0.9}, {"max_tokens": 720, "max_tokens_p95": 545}],
)  # fmt: skip
def test_points_of_a_simplex_are_chosen_by_the_rules_of_measured_lambda(budget):
    tokens = RUN_TOKENS | {0.8: 700, 1.0: 500}  # that fall, so that nothing is interpolated on the dial either
    samples = run({0.0: 0.4, 0.6: 0.7, 0.8: 0.78, 1.0: 0.8}, tokens)
    dial = recommend(samples, **budget)
    moved, simplex = on_edge(samples)
    found = recommend(moved, simplex=simplex, **budget)
    names = {lam: f"point {i}" for i, lam in enumerate(RUN_TOKENS)}
    before, after = (one.choice or one.nearest for one in (dial, found))
    assert (before.source, found.choice is None) == ("measured", dial.choice is None)
    assert (after.lam, after.point) == (None, names[before.lam])
    assert (after.accuracy, after.tokens, after.tokens_p95) == (before.accuracy, before.tokens, before.tokens_p95)
    assert {*found.tied} == {names[lam] for lam in dial.tied}
    assert (found.tied_by, found.detectable) == (dial.tied_by, pytest.approx(dial.detectable, nan_ok=True))
    assert (found.share_of_accuracy, found.share_of_tokens) == (dial.share_of_accuracy, dial.share_of_tokens)
    assert found.expected == pytest.approx(dial.expected)
    assert found.command == "interpole merge RECIPE.yml --out merged"
    assert "λ" not in f"{found.headline} {found.why} {found.notes} {found.goal}"
    json.dumps(module.to_json(found))


def test_a_point_of_a_simplex_is_the_one_that_a_look_at_all_of_them_finds():
    samples, simplex = on_edge(run({0.0: 0.4, 0.6: 0.9, 0.8: 0.7, 1.0: 0.8}, RUN_TOKENS))
    means = {
        name: np.mean([(s.score, s.num_tokens) for s in samples if s.point == name], axis=0) for name in simplex.points
    }
    for budget in (150, 450, 560, 2000):
        best = max((name for name in means if means[name][1] <= budget), key=lambda name: means[name][0])
        assert recommend(samples, simplex=simplex, max_tokens=budget).choice.point == best
    elsewhere = [replace(s, point="another") for s in samples]
    assert repr(recommend([*samples, *elsewhere], simplex=simplex)) == repr(recommend(samples, simplex=simplex))
    with pytest.raises(AnalysisError, match="no point with accuracy"):
        recommend(elsewhere, simplex=simplex)


def test_of_many_names_the_first_are_said_and_how_many_more_there_are():
    samples, simplex = on_edge(run(dict.fromkeys(RUN_TOKENS, 0.5), RUN_TOKENS))
    many = Simplex(simplex.corners, {f"{name}{i}": w for name, w in simplex.points.items() for i in "ab"})
    twice = [replace(s, point=f"{s.point}{i}") for s in samples for i in "ab"]
    said = recommend(twice, simplex=many)
    assert len(said.tied) == 7
    assert f"({'; '.join(said.tied[:3])} and 4 more may be as good)" in said.headline
