"""Fitted policies: one function chooses, whatever the policy; as JSON they choose the same; and they keep to their tokens."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bench import call
from graded import LAMS, by_difficulty, sweep
from interpole.analysis.fitting import cells_of, fit, policies_for, reached
from interpole.analysis.hull import worth_most
from interpole.analysis.policies import MAX_BYTES, Feature, FittedPolicy, Groups, Probe, Regression, agreed, known_of
from interpole.errors import AnalysisError
from synthetic import write_run

MARGINS = {("t", str(q)): float(q % 4) - 1.5 for q in range(40)}


def test_a_question_is_known_by_its_text_and_by_what_is_said_of_it_but_not_by_what_is_not():
    known = known_of("12 and 3, then 45", {"difficulty": "2", "task": ""}, {"margin": -1.0})
    assert known.labels == {"difficulty": "2"}
    assert known.numbers == {"length": 17.0, "figures": 3.0, "margin": -1.0}
    assert known_of("1" * 4000).numbers["length"] == 1000  # as much as a run's summaries hold


def test_groups_choose_by_label_or_range_and_take_the_last_lam_where_nothing_is_known():
    by_label = Groups(kind="groups", by="difficulty", labels=("easy", "hard"), lams=(0.0, 0.6, 0.3))
    by_number = Groups(kind="groups", by="length", edges=(5.0, 10.0), lams=(0.0, 0.5, 1.0, 0.4))
    assert [by_label.choose(known_of("?", {"difficulty": one})).first for one in ("easy", "hard", "odd", "")] == [
        (0.0,), (0.6,), (0.3,), (0.3,),
    ]  # fmt: skip
    assert [by_number.choose(known_of("x" * num)).first[0] for num in (4, 5, 9, 10)] == [0.0, 0.5, 0.5, 1.0]


def test_a_model_chooses_what_is_worth_most_by_the_formulas_worked_out_here():
    model = Regression(
        kind="model",
        features=(Feature(name="length", centre=1.0, scale=2.0), Feature(name="difficulty", centre=3.0, scale=1.0)),
        lams=(0.0, 0.5, 1.0), right=((2, -1, -1), (1, 0, 0), (0, 1, 1)), tokens=((10, 0, 0), (30, 1, 1), (90, 5, 5)), price=0.004,
    )  # fmt: skip
    for text, difficulty in (("x", "1"), ("x" * 40, "3"), ("x" * 900, "6"), ("x" * 40, "")):
        long = (math.log1p(len(text)) - 1) / 2
        hard = float(difficulty) - 3 if difficulty else 0.0  # not known: as on average
        worth = [
            1 / (1 + math.exp(-(a + b * (long + hard)))) - 0.004 * (c + d * (long + hard))
            for a, b, c, d in ((2, -1, 10, 0), (1, 0, 30, 1), (0, 1, 90, 5))
        ]
        chosen = model.choose(known_of(text, {"difficulty": difficulty})).first[0]
        assert chosen == (0.0, 0.5, 1.0)[int(np.argmax(worth))]


@pytest.mark.parametrize(
    ("answers", "same"), [(("7", " 7"), True), (("7", "8"), False), (("", ""), False), ((None, "7"), False)]
)
def test_answers_agree_where_there_is_one_and_it_is_the_same(answers, same):
    assert agreed(answers) is same


def test_what_every_policy_chooses_is_what_its_json_chooses_and_what_it_was_fitted_to_expect():
    samples = sweep(by_difficulty, 40)
    cells, weights, _ = cells_of(samples, numbers={"margin": MARGINS})
    for policy in policies_for(cells):
        if policy.is_bound:
            continue
        fitted = fit(samples, policy.name, mean_tokens=170, numbers={"margin": MARGINS}, margin_at=0.5)
        again = FittedPolicy.model_validate_json(fitted.model_dump_json())
        assert [again.choose(known) for known in cells.known] == [fitted.choose(known) for known in cells.known]
        assert set(fitted.lams) <= set(LAMS)
        mine = reached(cells, fitted.rule)
        assert fitted.tokens == pytest.approx(weights @ mine.tokens)
        assert fitted.accuracy == pytest.approx(weights @ mine.accuracy)
        assert fitted.tokens <= 170
        assert fitted.margin_at == (0.5 if "margin" in fitted.needs else None)


def test_a_group_is_given_the_lam_that_is_worth_most_on_its_own_questions_drawn_towards_all():
    samples = sweep(by_difficulty, 80)
    cells, _, _ = cells_of(samples)
    fitted = fit(samples, "by difficulty", mean_tokens=60)
    means = cells.means
    for place, label in enumerate("1234"):
        rows = [known.labels["difficulty"] == label for known in cells.known]
        drawn = type(means)(*((part[rows].sum(axis=0) + 4 * part.mean(axis=0)) / (sum(rows) + 4) for part in means))
        best = worth_most(type(means)(*(part[None] for part in drawn)), fitted.price)[0]
        assert fitted.rule.lams[place] == LAMS[best]
    assert fitted.rule.lams[0] < fitted.rule.lams[3]  # easy questions lose by thinking


def test_more_tokens_are_spent_where_more_are_allowed_and_too_few_are_refused():
    samples = sweep(by_difficulty, 40)
    spent = [fit(samples, "by difficulty", mean_tokens=most).tokens for most in (30, 45, 60, 90)]
    assert spent == sorted(spent)
    assert spent[-1] > spent[0]
    with pytest.raises(AnalysisError, match=r"takes 20\.0 tokens at least, not 10"):
        fit(samples, "by difficulty", mean_tokens=10)
    balanced = fit(samples, "by difficulty")
    assert balanced.accuracy >= 0.95 * fit(samples, "by difficulty", mean_tokens=1000).accuracy


def test_the_oracle_cannot_be_followed_and_a_policy_by_the_margin_says_at_which_lam_it_is_taken():
    samples = sweep(by_difficulty, 40)
    with pytest.raises(AnalysisError, match="'oracle' cannot be followed"):
        fit(samples, "oracle")
    with pytest.raises(AnalysisError, match="at which λ it was taken"):
        fit(samples, "by margin", numbers={"margin": MARGINS})


def test_a_file_that_makes_no_sense_is_refused_with_what_is_wrong(tmp_path):
    path = tmp_path / "policy.json"
    fitted = fit(sweep(by_difficulty, 40), "cascade")
    fitted.save(path)
    assert FittedPolicy.load(path) == fitted
    assert isinstance(fitted.rule, Probe)
    content = json.loads(path.read_text())
    for change in ({"rule": {**content["rule"], "first": [0.0]}}, {"price": -1}, {"rule": {"kind": "dice"}}):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(AnalysisError, match=str(path)):
            FittedPolicy.load(path)
    with pytest.raises(AnalysisError, match="cannot read the policy"):
        FittedPolicy.load(tmp_path / "none.json")
    path.write_bytes(json.dumps(content).encode() + b" " * MAX_BYTES)  # not cut off and read
    with pytest.raises(AnalysisError, match="larger than 16 MiB"):
        FittedPolicy.load(path)


def test_the_command_fits_a_policy_to_a_run_and_writes_it_down(tmp_path):
    run, path = write_run(tmp_path / "run", sweep(by_difficulty, 40)), tmp_path / "policy.json"
    said = ["route", str(run), "--policy", "by difficulty", "--mean-tokens", "60"]
    call(*said, "--fit", path)
    assert FittedPolicy.load(path) == fit(sweep(by_difficulty, 40), "by difficulty", mean_tokens=60)
    refused = call(*said, code=2, errors=True)
    assert "give --fit FILE.json and one --policy" in refused
