"""Studies: verdicts follow from the rows of the table, pairs are shared and made once, and one study runs from end to end."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import call
from interpole.analysis.intervals import Interval
from interpole.cli import app
from interpole.errors import AnalysisError, RunError
from interpole.lab.recipe import Body
from interpole.lab.studies import conduct as conducting
from interpole.lab.studies import families
from interpole.lab.studies.bench import crossing, parabola_root
from interpole.lab.studies.conduct import STUDIES, Conducted, conduct, page, study_of
from interpole.lab.studies.study import (
    FULL,
    SMOKE,
    Case,
    Hypothesis,
    Row,
    Study,
    between,
    both,
    contrast,
    judged,
    read_rows,
    rows_text,
)

DOCS = Path(__file__).parents[2] / "docs/studies"


def row(arch, seed, value, reach=0.0, point="λ=0.8", statistic="think", **own):
    case = Case(Body(arch, own.get("width", 64), own.get("depth", 3)), seed, common=own.get("common"))
    return Row.of(case, point, statistic, Interval(value, value - reach, value + reach))


# --- verdicts


def test_a_hypothesis_holds_where_it_holds_in_every_group_over_its_seeds():
    rows = [row("qwen3", seed, 0.97 + 0.01 * seed, 0.01) for seed in range(3)]
    rows += [row("llama", seed, 0.98, 0.01) for seed in range(3)]
    judge = between("λ=0.8", "think", low=0.95, scale=100, unit=" %")
    # three seeds of .97, .98 and .99: Student's t with two degrees of freedom, 4.303 · .01 / √3 = .0248, from .955 to 1.005
    assert judge(rows) == ("holds", "qwen3 98 % [96, 100]; llama 98 % [97, 99]")
    assert between("λ=0.8", "think", low=0.955)(rows).word == "holds"
    assert between("λ=0.8", "think", low=0.96)(rows).word == "cannot tell"
    assert between("λ=0.8", "think", high=0.9)(rows).word == "does not hold"


def test_one_group_that_fails_decides_and_is_named():
    rows = [row("qwen3", seed, 0.99, 0.001) for seed in range(3)] + [
        row("gemma3", seed, 0.5, 0.01) for seed in range(3)
    ]
    word, numbers = between("λ=0.8", "think", low=0.95, scale=100, unit=" %")(rows)
    assert word == "does not hold"
    assert re.search(r"gemma3 50 % \[\d+, \d+\] \(no\)", numbers)
    assert "(open)" not in numbers


def test_what_was_not_measured_or_has_no_value_cannot_be_told():
    judge = between("λ=0.8", "think", low=0.95)
    assert judge([]).word == "cannot tell"
    assert judge([row("qwen3", 0, math.nan)]).word == "cannot tell"
    assert judge([row("qwen3", 0, 0.99)._replace(low=math.nan, high=math.nan)]).word == "holds"


def test_two_conditions_hold_only_together():
    low, high = between("λ=0.8", "think", low=0.5), between("λ=0.8", "think", high=0.6)
    assert both(low, high)([row("qwen3", 0, 0.55, 0.01)]).word == "holds"
    assert both(low, high)([row("qwen3", 0, 0.7, 0.01)]).word == "does not hold"
    assert both(low, high)([row("qwen3", 0, 0.6, 0.05)]).word == "cannot tell"


def test_a_contrast_pairs_what_differs_in_one_column_alone():
    rows = [row("qwen3", seed, 0.4 + 0.1 * seed, 0.01, common=0.0) for seed in range(3)]
    rows += [row("qwen3", seed, 0.6 + 0.1 * seed, 0.01, common=1.0) for seed in range(3)]
    rows += [row("qwen3", 3, 0.0, 0.01, common=0.0), row("qwen3", 0, 9.0, common=1.0, width=32)]  # without a partner
    word, numbers = contrast("common", 0.0, 1.0, between("λ=0.8", "think", low=0.1))(rows)
    assert word == "holds"
    assert numbers.startswith("qwen3 0.200 [")
    assert contrast("common", 0.0, 1.0, between("λ=0.8", "think", high=0.1))(rows).word == "does not hold"


def test_the_parabola_through_three_margins_crosses_zero_where_numpy_says():
    rng = np.random.default_rng(0)
    m0, half, m1 = -rng.uniform(1, 8, 50), rng.uniform(-2, 2, 50), rng.uniform(1, 8, 50)
    found = parabola_root(m0, half, m1)
    for start, middle, end, root in zip(m0, half, m1, found, strict=True):
        roots = np.roots(np.polyfit([0, 0.5, 1], [start, middle, end], 2))
        (inside,) = [r.real for r in roots if abs(r.imag) < 1e-9 and 0 <= r.real <= 1]
        assert root == pytest.approx(inside, abs=1e-9)
    assert parabola_root(*(np.array([x]) for x in (-6.0, 0.0, 6.0))) == pytest.approx(0.5)  # a straight line
    assert np.isnan(parabola_root(*(np.array([x]) for x in (-3.0, -1.0, -2.0))))


def test_a_curve_crosses_one_half_between_two_of_its_points():
    lams = np.array([0, 0.25, 0.5, 1])
    assert crossing(lams, np.array([0, 0.25, 0.75, 1])) == pytest.approx(0.375)
    assert crossing(lams, np.array([0, 0.4, 0.3, 0.8])) == pytest.approx(0.5 + 0.5 * 0.25)  # what falls is level
    assert math.isnan(crossing(lams, np.array([0, 0.1, 0.2, 0.4])))
    assert math.isnan(crossing(lams, np.array([0.6, 0.7, 0.8, 0.9])))


def test_every_study_has_hypotheses_with_names_of_their_own_that_nothing_decides():
    for name, study in STUDIES.items():
        assert name == study.name
        assert len({one.name for one in study.hypotheses}) == len(study.hypotheses) >= 5
        assert {verdict.word for verdict in judged(study, []).values()} == {"cannot tell"}, name
    with pytest.raises(AnalysisError, match=r"studies are: families, scale, overlap, dynamic, simplex"):
        study_of("size")


def test_the_studies_that_there_are_can_be_listed():
    plain = CliRunner().invoke(app, ["lab", "study"])
    assert [line.split()[0] for line in plain.stdout.splitlines()] == [*STUDIES]
    assert json.loads(CliRunner().invoke(app, ["lab", "study", "--json"]).stdout) == {
        name: study.title for name, study in STUDIES.items()
    }


# --- the table


def test_a_table_that_is_written_is_read_as_it_was(tmp_path):
    rows = [row("qwen3", 1, 0.25, 0.125, common=0.5), Row.of(Case(), "weights", "sigma", 0.0625)]
    path = tmp_path / "results.csv"
    path.write_text(rows_text(rows), encoding="utf-8")
    assert [repr(one) for one in read_rows(path)] == [repr(one) for one in rows]
    path.write_text("arch,width\nqwen3,64\n", encoding="utf-8")
    with pytest.raises(AnalysisError, match="not the results of a study"):
        read_rows(path)


def test_bases_are_shared_by_doses_and_a_pair_of_other_questions_is_another():
    plain, dosed, sets = Case(), Case(instruct=2), Case(common=1.0)
    assert plain.base(FULL) == dosed.base(FULL) == sets.base(FULL)
    assert plain.models(FULL)[1].name == dosed.models(FULL)[1].name
    assert plain.models(FULL)[0].name != dosed.models(FULL)[0].name
    assert plain.models(FULL)[0].name != sets.models(FULL)[0].name
    assert len({case.key(size) for case in (plain, dosed, sets) for size in (FULL, SMOKE)}) == 6
    assert Case(common=1.0).models(FULL)[0] == Case(common=0.0).models(FULL)[0]


def test_a_study_goes_on_where_it_stopped_and_says_on_how_much_it_rests(tmp_path, monkeypatch):
    measured = []

    def measure(_, case):
        measured.append(case)
        return [row("qwen3", case.seed, 0.99, 0.001)]

    study = Study(
        "toy", "A toy", (Hypothesis("high", "it is high", between("λ=0.8", "think", low=0.95)),),
        lambda num: [Case(seed=seed) for seed in range(num)], measure, families.STUDY.figure, {("λ=0.8", "think"): "Think #R"},
    )  # fmt: skip
    monkeypatch.setattr(conducting, "save", lambda *_: None)
    first = conduct(study, tmp_path, num_seeds=3, at_most=2)
    assert (first.num_pairs, first.num_wanted, len(measured)) == (2, 3, 2)
    assert "2 of 3 pairs" in page(first)
    again = conduct(study, tmp_path, num_seeds=3)
    assert [case.seed for case in measured] == [0, 1, 2]
    assert again.verdicts["high"].word == "holds"
    assert "| **high**: it is high | holds | qwen3 0.990 [" in page(again)
    assert "| qwen3 | 3 | 99.0 |" in page(again)


def test_a_study_runs_once_at_a_time_in_a_folder(tmp_path, monkeypatch):
    refused = []

    def measure(_, case):
        with pytest.raises(RunError, match=rf"process {os.getpid()} on .* runs toy in this folder") as found:
            conduct(study, tmp_path, num_seeds=1)
        refused.append(found.value)
        return [row("qwen3", case.seed, 0.99, 0.001)]

    study = Study(
        "toy", "A toy", (), lambda num: [Case(seed=seed) for seed in range(num)], measure, families.STUDY.figure, {}
    )
    monkeypatch.setattr(conducting, "save", lambda *_: None)
    assert conduct(study, tmp_path, num_seeds=1).num_pairs == len(refused) == 1
    assert conduct(study, tmp_path, num_seeds=1).num_pairs == 1


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_of_a_study_says_what_its_table_says(name):
    """Verdicts and means in docs/studies are what the code of today makes of the rows beside them; these can be drawn, too."""
    study, rows = STUDIES[name], read_rows(DOCS / f"{name}.csv")
    shown = (DOCS / f"{name}.md").read_text(encoding="utf-8").split("<!-- results: begin -->")[1]
    num_pairs = len({row.pair for row in rows})
    found = Conducted(study, rows, judged(study, rows), num_pairs, len(study.cases(FULL.num_seeds)))
    assert shown.split("<!-- results: end -->")[0].strip() == page(found).strip()
    assert study.figure(rows).to_dict(validate=False)


# --- from end to end


def test_a_study_trains_measures_judges_and_draws(tmp_path):
    pytest.importorskip("torch")
    said = json.loads(call("lab", "study", "families", "--smoke", "--out", tmp_path, "--json"))
    assert (said["study"], said["pairs"], said["wanted"]) == ("families", 1, 1)
    assert [one["name"] for one in said["hypotheses"]] == [one.name for one in families.STUDY.hypotheses]
    rows = read_rows(tmp_path / "families/results.csv")
    numbers = {(one.point, one.statistic): one.value for one in rows}
    assert 0 < numbers["weights", "sigma"] < 0.1
    assert {point for point, statistic in numbers if statistic == "think"} >= {"λ=0", "last third", "without ffn"}
    assert numbers["margins", "m0"] == pytest.approx(
        numbers["margins", "m1"], abs=2
    )  # three steps teach next to nothing
    assert "<svg" in (tmp_path / "families/figure.svg").read_text()
    assert "1 of 1 pairs" in (tmp_path / "families/page.md").read_text()
    assert len(list((tmp_path / "models").iterdir())) == 3
