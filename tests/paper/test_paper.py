"""The paper's experiments by name: designs that load, a run held against the printed numbers, and all of it on the tiny pair."""

import json
import math
import random

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

import synthetic
from interpole.analysis.metrics import measure
from interpole.cli import app
from interpole.errors import AnalysisError, RecipeError, RunError
from interpole.formats import parse_yaml
from interpole.paper.experiments import EXPERIMENTS, Family, asked_as, design, experiment, family_of, mean_tokens
from interpole.paper.printed import printed, sigmas
from interpole.paper.same import matched
from interpole.paper.verdicts import compare, compare_sigmas
from interpole.records import Outcome, Sample
from interpole.runs.runfile import RunFile
from interpole.sweep.config import SweepConfig
from interpole.tasks import profile

RUN = [name for name, one in EXPERIMENTS.items() if not one.weights_only]


def sample(point, question, number, right, *, task="aime25", closed=True, tokens=100, lam=None):
    lam = float(point.removeprefix("λ=")) if point.startswith("λ=") else lam
    return Sample(
        task=task, point=point, lam=lam, problem_id=f"q{question}", number=number, question="?", target="1", response="",
        num_tokens=tokens, finish="stop", outcome=Outcome.CLOSED if closed else Outcome.DIRECT, closed=closed,
        answer="1" if right else "2", grades={"paper": float(right)},
    )  # fmt: skip


def at(point, share, questions=30, k=32, **options):
    """Samples of a point whose every question is right in the same share of its samples."""
    return [
        sample(point, q, number, number <= round(share * k), **options)
        for q in range(questions)
        for number in range(1, k + 1)
    ]


def invoke(*arguments):
    return CliRunner().invoke(app, ["paper", *map(str, arguments)], env={"COLUMNS": "300"})


# ── designs ──


@pytest.mark.parametrize("pair", ["tiny", "paper"])
@pytest.mark.parametrize("name", RUN)
def test_the_file_of_every_experiment_loads_and_has_every_printed_point(name, pair):
    one = EXPERIMENTS[name]
    made = design(one, family_of(pair, one.size), tiny=pair == "tiny")
    config = SweepConfig.of(parse_yaml(made.text, name, RunError))
    points = {row.point for row in one.rows}
    assert points <= {*config.point_names, *made.left_out}
    assert [task.task for task in config.tasks] == (
        ["arithmetic"] if pair == "tiny" else list(dict.fromkeys(row.task for row in one.rows))
    )
    assert bool(made.left_out) == (pair == "tiny" and name in ("table2", "table4", "table5"))


def test_the_papers_own_design_is_its_protocol():
    made = design(EXPERIMENTS["table2"], family_of("paper"), data={"gpqa_diamond": "mine.csv"}).config
    assert [(task.task, task.samples, task.sampler["max_tokens"]) for task in made.tasks] == [
        ("aime25", 64, 81920), ("ifeval", 8, 65536), ("gpqa_diamond", 8, 65536),
    ]  # fmt: skip
    assert str(made.tasks[2].data) == "mine.csv"
    points = {point.name: point for point in made.points}
    assert points["Instruct, its own sampler"].sampler == {"temperature": 0.7, "top_p": 0.8}
    assert points["ta-base"].recipe["sources"]["base"] == "Qwen/Qwen3-4B-Base"
    assert points["ta"].recipe["weights"] == {"instruct": 0.7, "thinking": 0.7}
    assert points["ties"].recipe["parameters"] == {"sparsity": 0.2, "scale": 0.5}
    mixed = {point.name: point for point in design(EXPERIMENTS["table4"], family_of("paper")).config.points}
    assert mixed["mix-0.8"].recipe["sources"]["instruct"] == "Qwen/Qwen3-4B"
    large = design(EXPERIMENTS["table5"], family_of("paper", "30B-A3B")).config
    assert large.sources["thinking"].label == "Qwen/Qwen3-30B-A3B-Thinking-2507"
    assert {0.9, 0.95} < set(large.lambdas)


def test_thirds_of_the_layers_follow_the_depth_of_the_models():
    def kept(pair):
        made = design(EXPERIMENTS["table3"], family_of(pair), tiny=pair == "tiny").config
        return [p.recipe["rules"][-1]["layers"] for p in made.points if "rules" in p.recipe]

    assert kept("paper") == ["not 0-11", "not 12-23", "not 24-35", "not 0-23", "not 12-35"]
    assert kept("tiny") == ["not 0-1", "not 2-3", "not 4-5", "not 0-3", "not 2-5"]  # six layers


def test_what_is_said_goes_before_the_paper():
    asked = design(
        EXPERIMENTS["table2"], family_of("a,b"), tasks=["aime25", "my.jsonl"], settings={"samples": 2, "limit": 3}
    )
    assert [(task.task, task.samples) for task in asked.config.tasks] == [("aime25", None), ("my.jsonl", None)]
    assert (asked.config.samples, asked.config.limit) == (2, 3)
    assert set(asked.left_out) == {"ta", "ta-base", "ties", "ties-base"}
    with pytest.raises(RecipeError, match="no pair: 'tyni'"):
        family_of("tyni")
    with pytest.raises(AnalysisError, match="data for ifeval"):
        design(EXPERIMENTS["figure5"], family_of("paper"), data={"ifeval": "x"})


def test_what_cannot_be_made_again_is_said_by_name():
    with pytest.raises(AnalysisError, match="table6 cannot be made again: it is a case study"):
        experiment("table6")
    with pytest.raises(AnalysisError, match="no experiment 'table9'"):
        experiment("table9")
    listed = invoke()
    assert all(name in listed.stdout for name in (*EXPERIMENTS, "table6", "figure1"))


def test_the_expected_length_is_what_was_printed():
    one = EXPERIMENTS["table3"]
    lengths = [15097, 22813, 17574, 32151, 20679, 14987, 18044, 13159]
    assert mean_tokens(one, design(one, family_of("paper")).config) == pytest.approx(np.mean(lengths))
    assert mean_tokens(one, design(one, family_of("tiny"), tiny=True).config) is None


# ── a run against the printed numbers ──


def test_a_run_agrees_differs_or_cannot_tell(tmp_path):
    made = [*at("λ=0.4", 0.5625), *at("λ=0.6", 0.5), *at("λ=0.5", 0.75, 12, 4, task="gpqa_diamond")]
    run = synthetic.write_run(tmp_path / "run", made)
    shown = invoke("figure3", "--from", run, "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    rows = {(row["task"], row["point"], row["statistic"]): row for row in found["rows"]}
    near, far = rows["aime25", "λ=0.4", "Mean@64"], rows["aime25", "λ=0.6", "Mean@64"]
    assert (near["verdict"], far["verdict"]) == ("agrees", "differs")
    assert (near["printed"], far["printed"]) == (0.558, 0.71)
    assert far["difference"]["value"] == pytest.approx(-0.21)
    few = rows["gpqa_diamond", "λ=0.5", "Mean@8"]
    assert (few["verdict"], few["reason"]) == ("cannot tell", "the interval is wider than 10 points")
    assert rows["aime25", "λ=0.4", "Pass@64"]["reason"] == "Pass@64 needs 64 samples per question; there are 32"
    assert rows["aime25", "λ=0.8", "Mean@64"]["verdict"] == "not measured"
    assert not any(task == "ifeval" for task, _, _ in rows)
    words = invoke("figure3", "--from", run).stdout
    assert "λ=0.4" in words
    assert "+0.4 [" in words  # 56.2 measured, 55.8 printed
    wide = json.loads(invoke("figure3", "--from", run, "--json", "--margin", "1").stdout)["rows"]
    assert {
        r["verdict"] for r in wide if (r["task"], r["point"], r["statistic"]) == ("gpqa_diamond", "λ=0.5", "Mean@8")
    } == {"agrees"}


def test_a_point_that_is_another_than_the_printed_one_is_compared_with_nothing_whatever_its_name(tmp_path):
    names = ("λ=0.4", "λ=0.6", "λ=0.8", "ta", "last third")
    made = [one for name in names for one in at(name, 0.5, k=1)]
    sources = {"sources": {"instruct": {"model": "i"}, "thinking": {"model": "t"}}}
    plain = {name: sources | {"method": "linear", "lambda": float(name[2:])} for name in names[:3]}
    halved = {"λ=0.6": plain["λ=0.6"] | {"rules": [{"layers": "0-2", "lambda": 0.0}]}}
    run = synthetic.write_run(
        tmp_path / "run",
        made,
        recipes=plain | halved | {"ta": plain["λ=0.4"]},
        samplers={"λ=0.8": {"temperature": 1.0}},
    )
    rows = {row["point"]: row for row in json.loads(invoke("table2", "--from", run, "--json").stdout)["rows"]}
    assert rows["λ=0.4"]["verdict"] not in ("not compared", "not measured")
    assert rows["λ=0.6"]["reason"].startswith("another merge than the printed one: rules is [{'layers': '0-2'")
    assert rows["λ=0.8"]["reason"] == "sampled otherwise than the printed one: temperature is 1, not 0.6"
    assert "method is 'linear', not 'ta" in rows["ta"]["reason"]
    assert {rows[name]["verdict"] for name in ("λ=0.6", "λ=0.8", "ta")} == {"not compared"}


def entries_of(tmp_path, experiment_name, recipes, change=None):
    """What `matched` finds in a run whose points have these recipes; `change` is made to its entries."""
    made = [s for name in recipes for s in at(name, 0.5, k=1, task="aime25", lam=None)]
    run = RunFile.load(synthetic.write_run(tmp_path / experiment_name, made, recipes=recipes))
    entries = [entry.model_copy(update=(change or {}).get(entry.point, {})) for entry in run.entries]
    return matched(EXPERIMENTS[experiment_name], run.model_copy(update={"entries": tuple(entries)})), made


def linear(lam, instruct="i", thinking="t", **more):
    return {
        "method": "linear",
        "lambda": lam,
        "sources": {"instruct": {"model": instruct}, "thinking": {"model": thinking}},
    } | more


def test_a_printed_point_is_found_by_what_it_is_whatever_the_run_calls_it(tmp_path):
    no_ffn = [{"sublayers": "ffn", "lambda": 0.0}]
    made = asked_as("skip-ffn-0.8", Family("i", "t"), 36, profile("paper-4b"))["recipe"]["rules"]
    recipes = {
        "λ=1": linear(1.0),
        "mine": linear(0.8),
        "half of the vectors": linear(None) | {"weights": {"instruct": 0.2, "thinking": 0.8}, "rules": made},
        "of other models": linear(0.8, instruct="x", rules=made),
        "another part": linear(0.8, rules=no_ffn),
    }
    found, samples = entries_of(tmp_path, "figure5", recipes)
    assert {own: name for (_, own), name in found.names.items()} == {
        "λ=1": "λ=1", "mine": "λ=0.8", "half of the vectors": "skip-ffn-0.8",
    }  # fmt: skip
    rows = {(r.point, r.statistic): r for r in compare(EXPERIMENTS["figure5"], samples, matched=found).rows}
    ratio = rows["λ=0.8", "length, of Thinking's"]
    assert (ratio.called, ratio.measured.value) == ("mine", 1.0)
    assert rows["skip-attention-0.8", "length, of Thinking's"].verdict == "not measured"
    run = synthetic.write_run(tmp_path / "shown", samples, recipes=recipes)
    assert "λ=0.8 (here “mine”)" in invoke("figure5", "--from", run).stdout


def test_a_printed_name_on_another_merge_gives_way_to_the_one_that_it_belongs_to(tmp_path):
    recipes = {
        "λ=0.6": linear(0.6),
        "λ=0.8": linear(0.6, rules=[{"layers": "0-2", "lambda": 0.0}]),
        "mine": linear(0.8),
    }
    found, samples = entries_of(tmp_path, "figure3", recipes)
    assert found.names == {("aime25", "λ=0.6"): "λ=0.6", ("aime25", "mine"): "λ=0.8"}
    assert found.others == {}
    renamed = found.renamed(samples)
    assert {(s.point, s.lam) for s in renamed} == {("λ=0.6", 0.6), ("λ=0.8", 0.8)}
    assert len(renamed) == 60  # what only bears the name is left out


def test_what_is_asked_otherwise_or_made_of_other_models_is_not_the_printed_point(tmp_path):
    base = {"model": "Qwen/Qwen3-4B-Base"}
    vectors = {"method": "task_arithmetic", "weights": {"instruct": 0.7, "thinking": 0.7}}
    recipes = {
        "λ=0.8": linear(0.8),
        "λ=0.6": linear(0.6),
        "ta": linear(None) | vectors | {"sources": linear(0)["sources"] | {"base": base}},
    }
    found, _ = entries_of(tmp_path, "table2", recipes, change={"λ=0.6": {"asking": {"budget_tokens": 512}}})
    assert found.names == {
        ("aime25", "λ=0.8"): "λ=0.8",
        ("aime25", "ta"): "ta-base",
    }  # the base is the pretrained model
    assert found.others == {
        ("aime25", "λ=0.6"): "asked otherwise than the printed one: budget_tokens",
        ("aime25", "ta"): "another merge than the printed one: base is Qwen/Qwen3-4B-Base",
    }


def test_a_served_model_is_the_printed_point_where_the_run_knows_its_lambda_and_else_refused(tmp_path):
    served = {f"tiny@{lam}": {"base_url": "http://s/v1", "model": f"tiny@{lam}"} for lam in ("0", "0.8")}
    recipes = {
        "λ=0": served["tiny@0"],
        "λ=0.8": served["tiny@0.8"],
        "the same": served["tiny@0.8"],
        "skip-ffn-0.8": {"base_url": "http://s/v1", "model": "no-ffn"},
    }
    found, _ = entries_of(tmp_path, "figure5", recipes)
    assert found.names == {("aime25", "λ=0.8"): "λ=0.8"}
    assert found.others == {("aime25", "skip-ffn-0.8"): "the run says its name and not what was merged"}
    own = {"sampler": {"temperature": 0.7, "top_p": 0.8}}
    found, _ = entries_of(
        tmp_path / "own",
        "table3",
        {"λ=0": served["tiny@0"], "as published": served["tiny@0"]},
        change={"as published": own},
    )
    assert found.names == {("aime25", "as published"): "Instruct, its own sampler"}


def test_the_interval_of_a_difference_is_made_of_both():
    made = [s for point in ("λ=0.4", "λ=0.6") for s in at(point, 0.5625)]
    row = next(row for row in compare(EXPERIMENTS["figure3"], made).rows if row.statistic == "Mean@64" and row.measured)
    own = measure(made, estimand="these")[0].mean
    trials, share = 30 * 64, 0.558  # as printed; ends by Jeffreys' rule with three quarters of a trial at the far end
    low = stats.beta.ppf(0.025, share * trials + 0.25, (1 - share) * trials + 0.75)
    high = stats.beta.ppf(0.975, share * trials + 0.75, (1 - share) * trials + 0.25)
    assert row.measured == own
    assert row.difference.low == pytest.approx(0.0045 - math.hypot(own.value - own.low, high - share), abs=1e-6)
    assert row.difference.high == pytest.approx(0.0045 + math.hypot(own.high - own.value, share - low), abs=1e-6)


def test_fewer_questions_than_the_papers_are_a_sample_of_such_questions():
    """Ten questions, always right or never: the same thousands of samples, but an interval over ten questions."""
    part = [s for s in at("λ=0.5", 1.0, 30) if int(s.problem_id[1:]) < 10]
    part = [sample("λ=0.5", int(s.problem_id[1:]), s.number, int(s.problem_id[1:]) < 6) for s in part]
    row = next(row for row in compare(EXPERIMENTS["figure3"], part).rows if row.statistic == "Mean@64" and row.measured)
    assert row.measured.value == pytest.approx(0.6)
    assert row.difference.high - row.difference.low > 0.4
    assert row.verdict == "cannot tell"


def test_two_runs_of_one_model_agree_as_often_as_an_interval_says():
    """The printed value is drawn as the paper's was, the run like it; the difference is 0, and 95 % of intervals hold it."""
    from interpole.analysis.intervals import minus, proportion, share_interval

    rng, held, rounds = np.random.default_rng(1), 0, 400
    for _ in range(rounds):
        chances = rng.beta(0.8, 0.5, 30)
        old, new = (rng.binomial(k, chances) / k for k in (64, 16))
        within = new * (1 - new) / 15
        held += minus(share_interval(new, 16, within), proportion(round(old.mean(), 3), 30 * 64)).includes(0)
    assert held / rounds >= 0.95


def test_lengths_and_their_ratio_to_thinking():
    rng = random.Random(0)
    made = []
    for point, mean in (("λ=1", 2000), ("λ=0.8", 1540), ("skip-attention-0.8", 1900)):
        made += [
            sample(point, q, number, right=True, tokens=int(mean * (0.8 + 0.4 * rng.random())))
            for q in range(30)
            for number in range(1, 9)
        ]
    rows = {(row.point, row.statistic): row for row in compare(EXPERIMENTS["figure5"], made).rows}
    whole, without = (rows[point, "length, of Thinking's"] for point in ("λ=0.8", "skip-attention-0.8"))
    assert (whole.printed, whole.verdict) == (pytest.approx(0.7704), "agrees")
    assert (without.printed, without.verdict) == (pytest.approx(0.5921), "differs")
    means = [np.mean([s.num_tokens for s in made if s.point == point]) for point in ("λ=0.8", "λ=1")]
    assert whole.measured.value == pytest.approx(means[0] / means[1])


def test_claims_hold_fail_or_cannot_be_told():
    def answers(name, made):
        return {heard.claim: heard.verdict for heard in compare(EXPERIMENTS[name], made).claims}

    options = {"task": "mine", "questions": 40, "k": 4}
    made = [*at("λ=0.8", 0.75, **options), *at("skip-attention-0.8", 0.25, **options)]
    made += at("skip-ffn-0.8", 0.5, closed=False, **options)
    found = answers("figure5", made)
    assert found["without the FFN of Thinking it hardly thinks"] == "holds"
    assert found["without its attention it thinks as often"] == "cannot tell"  # 0 of 40 changed, yet up to 9 in 100 may
    assert found["without its FFN it is less accurate still"] == "does not hold"
    dial = [s for lam in (0, 0.4, 0.6, 1) for s in at(f"λ={lam:g}", 0.5, closed=lam > 0.5, **options)]
    assert list(answers("figure2", dial).values()) == ["holds"]
    assert list(answers("figure2", dial[:320]).values()) == ["does not hold"]  # it never thinks


def test_the_printed_numbers_are_read_whole():
    rows = {(row.task, row.point, row.name): row.value for row in printed("table2_qwen3_4b")}
    assert rows["gpqa_diamond", "λ=0.55", "Vote@8"] == pytest.approx(0.677)
    assert rows["ifeval", "ties-base", "Token #N"] == 6234
    cells = {(row.task, row.point, row.name): row.value for row in printed("figure4_decoding")}
    assert cells["ifeval", "temperature 0.65, top_p 0.9", "Pass@8"] == pytest.approx(0.854)
    assert cells["gpqa_diamond", "temperature 0.7, top_p 0.8", "Mean@8"] == pytest.approx(0.609)
    layers = {(row.point, row.name): row.value for row in printed("table3_layers")}
    assert (layers["last third", "Think #R"], layers["λ=0.8", "Pass@8"]) == (
        pytest.approx(0.312),
        pytest.approx(0.9033),
    )


# ── on the tiny pair ──


@pytest.mark.parametrize("name", RUN)
def test_every_experiment_runs_on_the_tiny_pair(tmp_path, name):
    """One, the real engine too; the others with written responses, as what they ask is no other."""
    written = tmp_path / "script.json"
    written.write_text(json.dumps([{"contains": "", "responses": ["7"]}]))
    engine = [] if name == "figure5" else ["--engine", "scripted", "--engine-option", f"script={written}"]
    options = [] if name == "figure5" else ["--no-doctor"]
    out = tmp_path / "out"
    shown = invoke(name, "--limit", 2, "--samples", 1, "-o", out, *engine, *options, "--json")
    assert shown.exit_code == 0, f"{shown.output}\n{shown.exception!r}"
    found = json.loads(shown.stdout)
    config = SweepConfig.load(out / "sweep.yml", trust=True)
    curves = json.loads((out / "run/metrics.json").read_text())
    assert len(config.point_names) == len({m["point"] for m in curves["points"]})
    assert found["rows"] == []
    assert found["claims"]
    assert matched(experiment(name), RunFile.load(out / "run")).others == {}
    again = invoke(name, "--from", out / "run")
    assert again.exit_code == 0, again.exception
    assert f"arithmetic: {found['claims'][0]['claim']}: {found['claims'][0]['verdict']}" in again.stdout
    assert "The printed numbers are of " in again.stdout


def test_sigma_of_the_tiny_family_beside_table_1():
    found = json.loads(invoke("table1", "--json").stdout)
    rows = {row["point"]: row for row in found["rows"]}
    tiny = rows["Qwen3-4B-Instruct-2507, Qwen3-4B-Thinking-2507"]
    assert (tiny["verdict"], tiny["reason"]) == ("not compared", "the printed σ is of other models")
    assert 0.03 < tiny["measured"]["value"] < 0.06
    assert rows["Qwen3-4B-Base, Qwen3-4B"]["verdict"] == "not measured"
    own = compare_sigmas({(a, b): sigma + 0.0002 * (a == "Qwen3-4B") for a, b, sigma in sigmas()})
    assert [row.verdict for row in own.rows] == ["agrees", "agrees", "agrees", "differs", "differs", "agrees"]
    assert own.claims[0].verdict == "holds"


def test_the_file_says_what_it_costs_before_it_is_run_and_is_not_written_over(tmp_path):
    shown = invoke("figure5", "--dry-run", "-o", tmp_path / "f5")
    assert shown.exit_code == 0
    assert "1,536 responses to generate" in shown.stdout
    assert not (tmp_path / "f5/run").exists()
    file = tmp_path / "f5/sweep.yml"
    file.write_text(file.read_text().replace("limit: 96", "limit: 95"))
    other = invoke("figure5", "--dry-run", "-o", tmp_path / "f5")
    assert "another sweep.yml" in str(other.exception)
    assert "limit: 95" in file.read_text()
