"""A policy as a point of a sweep: it routes, charges every token, goes on where it stopped, and is held against its score."""

import json
import shlex
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from bench import PROBLEMS, Bench, call
from graded import by_difficulty, sweep
from interpole.analysis.fitting import fit
from interpole.analysis.live import followed
from interpole.analysis.policies import FittedPolicy
from interpole.analysis.routing import route
from interpole.cli import app
from interpole.errors import AnalysisError, RunError
from interpole.records import Outcome
from interpole.report import write_report
from interpole.runs import samples
from interpole.runs.progress import Progress
from interpole.runs.runfile import RunFile
from interpole.sweep import run
from interpole.sweep.estimate import estimate
from interpole.sweep.plan import Plan
from synthetic import write_run

EASY = PROBLEMS[0].difficulty
EXPECTED = {"price": 0.01, "tokens": 9, "accuracy": 0.5, "num_questions": 40}
BY_DIFFICULTY = {
    "name": "by difficulty", **EXPECTED,
    "rule": {"kind": "groups", "by": "difficulty", "labels": [EASY], "lams": [0.25, 1.0]},
}  # fmt: skip
CASCADE = {"name": "cascade", **EXPECTED, "rule": {"kind": "probe", "first": [0.0, 0.0], "then": 1.0}}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_each_question_is_answered_at_the_lam_that_the_policy_chooses_for_it(bench):
    assert bench.sweep(points=[{"policy": BY_DIFFICULTY}], lambdas="0.25") == 2 * 4 * 2
    found = [one for one in bench.read() if one.point == "by difficulty"]
    assert {(one.problem_id, one.number) for one in found} == {(p.id, n) for p in PROBLEMS for n in (1, 2)}
    for one in found:
        hard = one.difficulty != EASY
        assert (one.lam, one.chosen_lam) == (None, 1.0 if hard else 0.25)
        assert (one.num_tokens, one.closed) == ((5, True) if hard else (2, False))
    assert [one.chosen_lam for one in bench.read() if one.point != "by difficulty"] == [None] * 8
    asked = [json.loads(line) for line in bench.generated]
    own = {one["seed"] for one in asked[8:]}
    assert len(own) == 8  # what a policy draws is not what the points on the dial have drawn
    assert not own & {one["seed"] for one in asked[:8]}
    assert [engine.num_loads for engine in Progress.load(bench.out).engines] == [2]  # once for each λ
    assert followed(RunFile.load(bench.out)) == {"by difficulty": FittedPolicy.model_validate(BY_DIFFICULTY)}
    assert bench.sweep(points=[{"policy": BY_DIFFICULTY}], lambdas="0.25") == 0


def test_a_cascade_asks_again_where_answers_differ_and_pays_for_all_of_them(bench):
    bench.write(
        [
            {"contains": "", "lambda": 1.0, "responses": [{"text": "<think>\nhm\n</think>\n\n9", "num_tokens": 5}]},
            {"contains": PROBLEMS[1].question, "responses": ["7", "8"]},
            {"contains": PROBLEMS[2].question, "responses": ["no number"]},
            {"contains": "", "responses": ["7"]},
        ]
    )
    with pytest.raises(AssertionError):  # Bench counts requests: this point takes 2 or 3 for each of its 4 responses
        bench.sweep(points=[{"policy": CASCADE}], lambdas=[], samples=1)
    assert bench.summary.num_generated == 4
    assert bench.summary.num_tokens == 4 + 9 + 11 + 4
    found = {one.problem_id: one for one in bench.read()}
    shown = [(found[p.id].num_tokens, found[p.id].chosen_lam, found[p.id].answer) for p in PROBLEMS]
    # the same answer; two answers; none; the same
    assert shown == [(4, 0.0, "7"), (4 + 5, 1.0, "9"), (6 + 5, 1.0, "9"), (4, 0.0, "7")]


def test_what_a_policy_will_take_is_what_it_was_fitted_to_take_until_it_is_measured(bench):
    config = bench.config(points=[{"policy": BY_DIFFICULTY}], lambdas=[])
    cost = estimate(config, bench.out, run.plan(config, bench.out))
    assert (cost.num_tokens, cost.bases) == (8 * EXPECTED["tokens"], {"what the policy was fitted to take": 8})


def test_what_failed_is_asked_again_and_nothing_else(bench):
    fails = {"text": "7", "fail": "refuse"}
    script = [{"contains": PROBLEMS[3].question, "lambda": 1.0, "responses": [fails]}, *bench_script()]
    bench.write(script)
    assert bench.sweep(points=[{"policy": BY_DIFFICULTY}], lambdas=[]) == 6
    (entry,) = bench.summary.failed
    assert "2 samples failed, the first: EngineError" in entry.parts[0].error
    assert Outcome.FAILED in {one.outcome for one in bench.read() if one.problem_id == PROBLEMS[3].id}
    bench.write(bench_script())
    assert bench.sweep(points=[{"policy": BY_DIFFICULTY}], lambdas=[]) == 2
    assert bench.summary.failed == ()


def bench_script():
    return [
        {"contains": "", "lambda": 1.0, "responses": ["<think>\nhm\n</think>\n\n7"]},
        {"contains": "", "responses": ["7"]},
    ]


def test_a_policy_by_the_margin_takes_it_where_it_says_and_generates_nothing_for_it(bench):
    bench.write(
        [
            {"contains": PROBLEMS[0].question, "lambda": 0.5, "chance": 0.9, "responses": ["never"]},
            {"contains": "", "lambda": 0.5, "chance": 0.2, "responses": ["never"]},
            *bench_script(),
        ]
    )
    rule = {"kind": "groups", "by": "margin", "edges": [0.0], "lams": [0.25, 1.0, 0.25]}
    policy = {"name": "by margin", **EXPECTED, "rule": rule, "margin_at": 0.5}
    assert bench.sweep(points=[{"policy": policy}], lambdas=[], samples=1) == 4
    chosen = {one.problem_id: one.chosen_lam for one in bench.read()}
    assert chosen == {p.id: 1.0 if p is PROBLEMS[0] else 0.25 for p in PROBLEMS}
    assert {json.loads(line)["lambda"] for line in bench.generated} == {0.25, 1.0}


def test_a_policy_is_fitted_to_a_run_and_its_point_says_all_of_it(bench, tmp_path):
    made = sweep(by_difficulty, 40)
    made_run = write_run(tmp_path / "calibration", made)
    wanted = {"policy": "by difficulty", "from": str(made_run), "mean_tokens": 60}
    planned = Plan(bench.config(points=[wanted]))
    point = planned.points[-1]
    assert point.name == "by difficulty, 60 tokens"
    assert point.policy == fit(made, "by difficulty", mean_tokens=60)
    assert list(point.stops) == list(point.policy.lams)
    assert planned.config.points[0].policy == point.policy  # whoever is handed the sweep needs no run
    again = planned.config.model_dump_json(by_alias=True, exclude_unset=True)
    assert Plan(bench.config(**{"points": json.loads(again)["points"]})).points[-1].asking == point.asking
    (tmp_path / "policy.json").write_text(point.policy.model_dump_json())
    from_file = Plan(bench.config(points=[{"policy": str(tmp_path / "policy.json")}])).points[-1]
    assert (from_file.name, from_file.asking, from_file.fingerprint) == ("policy", point.asking, point.fingerprint)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"policy": "by length"}, "`from` is missing"),
        ({"policy": "p.json", "from": "runs/x"}, "fitted already"),
        ({"policy": CASCADE, "lambda": 0.5}, "chooses λ on the dial"),
        ({"name": "x", "mean_tokens": 5}, "give `policy` too"),
        ({"policy": {**CASCADE, "rule": {"kind": "dice"}}}, "rule"),
    ],
)
def test_what_makes_no_sense_of_a_policy_is_refused(bench, point, message):
    with pytest.raises(RunError, match=message):
        bench.config(points=[point])


def test_a_policy_that_cannot_be_followed_is_refused_before_anything_is_asked(bench, tmp_path):
    with pytest.raises(AnalysisError, match="cannot read the policy"):
        Plan(bench.config(points=[{"policy": "none.json"}]))
    made_run = write_run(tmp_path / "calibration", sweep(by_difficulty, 40))
    with pytest.raises(AnalysisError, match="'oracle' cannot be followed"):
        Plan(bench.config(points=[{"policy": "oracle", "from": str(made_run)}]))
    (tmp_path / "theirs.py").write_text(
        "from inspect_ai import Task, task\nfrom inspect_ai.dataset import Sample\nfrom inspect_ai.scorer import match\n"
        "@task\ndef theirs():\n    return Task(dataset=[Sample(id='1', input='2 + 2 = ?', target='4')], scorer=match())\n"
    )
    with pytest.raises(RunError, match="keeps to itself"):
        Plan(bench.config(points=[{"policy": CASCADE}], tasks=f"{tmp_path / 'theirs.py'}@theirs"))


def test_route_says_whether_what_was_followed_is_what_was_scored():
    static = sweep(by_difficulty, 80)
    policy = fit(static, "by difficulty", mean_tokens=60)
    fresh = {(s.problem_id, s.number, s.lam): s for s in sweep(by_difficulty, 80, seed=7)}
    lams = dict(zip("1234", policy.rule.lams, strict=False))
    live = [
        replace(fresh[str(q), number, lams[str(q % 4 + 1)]], point="routed", lam=None, chosen_lam=lams[str(q % 4 + 1)])
        for q in range(80)
        for number in (1, 2, 3, 4)
    ]
    (found,) = route([*static, *live], names=["by difficulty"], policies={"routed": policy}).live
    assert found.scored_accuracy.value == pytest.approx(policy.accuracy)
    assert found.scored_tokens.value == pytest.approx(policy.tokens) == found.tokens.value  # here λ alone says them
    assert found.accuracy.value == pytest.approx(sum(s.score for s in live) / len(live))
    assert found.change.includes(0)
    assert found.verdict.startswith(f"followed: {100 * found.accuracy.value:.1f} % at 60.0 tokens, in the interval of")
    assert found.gain.low > 0
    assert sum(found.lams.values()) == pytest.approx(1)

    spoilt = [replace(s, grades={"own": 0.0}) for s in live]
    (other,) = route([*static, *spoilt], names=["by difficulty"], policies={"routed": policy}).live
    assert "outside of the interval" in other.verdict
    assert other.verdict.endswith("which is not chance")
    lacking = [s for s in static if s.lam != lams["1"]]
    (third,) = route([*lacking, *live], names=["by length"], policies={"routed": policy}).live
    assert third.verdict == "nothing to hold it against: the run has no static point at one of its λ"


def test_the_commands_show_a_policy_of_the_run_as_a_point_of_its_own(bench):
    bench.sweep(points=[{"policy": BY_DIFFICULTY}], lambdas="0.25,1", limit=12, samples=1)
    shown = CliRunner().invoke(app, ["route", str(bench.out), "--json"])
    (live,) = json.loads(shown.stdout)["live"]
    assert live["point"] == "by difficulty"
    assert set(live["lams"]) == {"0.25", "1.0"}
    words = " ".join(CliRunner().invoke(app, ["route", str(bench.out)]).stdout.split())
    assert "by difficulty, followed:" in words
    assert {s.chosen_lam for s in samples.read(bench.out) if s.lam is None} == {0.25, 1.0}
    listed = CliRunner().invoke(app, ["samples", str(bench.out), "--point", "by difficulty", "-n", "1"]).stdout
    assert "at λ=" in " ".join(listed.split())
    page = write_report(bench.out, bench.folder / "report.html").read_text()
    section = page[page.index("λ by the question</h2>") :].split("</section>")[0]
    assert f"<li>by difficulty, {live['verdict']}.</li>" in section
    assert 'data-point="by difficulty"' in section.split("</figure>")[0]


def test_a_file_of_a_policy_on_the_command_line_is_a_point_beside_those_of_the_dial(bench, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(BY_DIFFICULTY))
    options = [f"--engine-option={name}={value}" for name, value in bench.config().engine_options.items()]
    pair = [
        bench.sources["instruct"],
        bench.sources["thinking"],
        *shlex.split("--task arithmetic --limit 2 --samples 1"),
    ]
    said = [*pair, "--engine", "scripted", *options, "--policy", str(path), "--out", str(bench.out), "--no-doctor"]
    call("sweep", *said, "--lambda", "0,1")
    assert list(dict.fromkeys(one.point for one in bench.read())) == ["λ=0", "λ=1", "mine"]
