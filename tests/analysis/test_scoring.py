"""Written responses go through a sweep, and the numbers are those worked out by hand, in every grading; then graded again."""

import csv
import hashlib
import json
import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import live
import tiny
from bench import call
from checkers import real_checkers
from interpole import tasks
from interpole.analysis.metrics import measure
from interpole.analysis.scoring import load, score
from interpole.cli import app
from interpole.errors import AnalysisError
from interpole.records import Outcome
from interpole.report import write_report
from interpole.runs import samples
from interpole.runs.regrade import regrade
from interpole.runs.runfile import RunFile
from interpole.runs.samples import regraded_path
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.tasks import custom
from interpole.tasks.benchmark import Grade

pytest.importorskip("math_verify")

DATA = Path(__file__).parents[1] / "data"
CUT = {"text": r"<think>x \boxed{71}", "finish": "length"}
SCRIPT = {  # a part of the question → four responses
    "Find $b$.": [r"<think>x</think>\boxed{70}", "<think>x</think>70", CUT, r"<think>x</think>\boxed{71}"],
    "Two?": [r"\boxed{5}", r"\boxed{6}", r"<think>\boxed{6}", r"<think>\boxed{6}? <tool_call>It is \boxed{5}."],
    "Which, 1?": ["ANSWER: D", "**Answer:** D", "<think>x</think>My answer: a choice.\nANSWER: D", "ANSWER: A"],
    "Which, 2?": ["ANSWER: C", "ANSWER: C", "ANSWER: C", {"text": "", "num_tokens": 1}],
    "Capital?": ["Paris", "paris", "It is Paris", "<think>x</think>Paris"],
}
QUARTER = Fraction(1, 4)
#               Mean@4              Pass@1   Pass@2    Pass@4  Vote@4       Think #R  of each benchmark in each grading
BY_HAND = {
    ("aime25", "paper"): (Fraction(3, 8), Fraction(2, 3), 1, Fraction(1, 4), Fraction(3, 8)),
    ("aime25", "robust"): (Fraction(1, 2), Fraction(5, 6), 1, Fraction(3, 4), Fraction(3, 8)),
    ("gpqa_diamond", "paper"): (Fraction(1, 2), Fraction(3, 4), 1, Fraction(2, 3), Fraction(1, 8)),
    ("gpqa_diamond", "robust"): (Fraction(3, 4), 1, 1, 1, Fraction(1, 8)),
    ("own", "exact"): (Fraction(3, 4), 1, 1, 1, Fraction(1, 4)),
}


def source(folder, seed):
    """A checkpoint whose tokenizer knows `<tool_call>`."""
    tiny.write(folder, tiny.tensors(seed, layers=1), template=live.TEMPLATE)
    known = {"7": {"content": "<tool_call>"}, "8": {"content": "<think>"}, "9": {"content": "</think>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": known}))
    return str(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run whose every response was written by hand."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "aime.jsonl").write_text('{"question": "Find $b$.", "answer": "70"}\n{"question": "Two?", "answer": 5}\n')
    rows = "".join(f'"Which, {n}?",right,wrong a,wrong b,wrong c\n' for n in (1, 2))
    (folder / "gpqa.csv").write_text(
        "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n" + rows
    )
    (folder / "own.jsonl").write_text(
        '{"question": "Capital?", "answer": "Paris", "difficulty": "easy", "since": 508}\n'
    )
    script = [{"contains": part, "responses": responses} for part, responses in SCRIPT.items()]
    (folder / "script.json").write_text(json.dumps(script))
    config = {
        "sources": {name: source(folder / name, i) for i, name in enumerate(("instruct", "thinking"))},
        "tasks": [
            {"task": "aime25", "data": str(folder / "aime.jsonl")},
            {"task": "gpqa_diamond", "data": str(folder / "gpqa.csv")},
            {"task": str(folder / "own.jsonl"), "grader": "exact"},
        ],
        "lambdas": "1",
        "samples": 4,
        "engine": "scripted",
        "engine_options": {"script": str(folder / "script.json")},
    }
    sweep.run(SweepConfig.of(config), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(("task", "grading"), BY_HAND, ids=["-".join(key) for key in BY_HAND])
def test_the_metrics_of_written_responses_are_those_worked_out_by_hand(written, task, grading):
    found = [one for one in samples.read(written, texts=False) if one.task == task]
    (measured,) = measure(found, grading=grading, resamples=50)
    passed = [one.value for one in measured.pass_at]
    values = (measured.mean.value, passed[1], passed[3], measured.vote.value, measured.think.value)
    assert values == pytest.approx([float(value) for value in BY_HAND[task, grading]])
    assert (measured.k, passed[0]) == (4, pytest.approx(measured.mean.value))


def test_what_became_of_each_response_is_kept(written):
    found = samples.read(written)
    aime = {one.response: one for one in found if one.task == "aime25"}
    outcomes = {text if isinstance(text, str) else text["text"]: aime for text in SCRIPT["Find $b$."] + SCRIPT["Two?"]}
    assert aime.keys() == outcomes.keys()
    assert aime[CUT["text"]].outcome is Outcome.TRUNCATED
    pseudo = aime[SCRIPT["Two?"][3]]
    assert (pseudo.outcome, pseudo.pseudo_close, pseudo.closed) == (Outcome.PSEUDO_CLOSED, "<tool_call>", False)
    assert aime[SCRIPT["Two?"][2]].outcome is Outcome.UNCLOSED
    assert aime[SCRIPT["Find $b$."][1]].answers == {"paper": None, "robust": "70"}
    assert {one.task for one in found if one.private} == {"gpqa_diamond"}
    assert {one.outcome for one in found if one.response == ""} == {Outcome.EMPTY}


def test_a_run_is_scored_by_the_grading_asked_for_where_a_task_has_it(written):
    for grading, aime, gpqa in ((None, 3 / 8, 1 / 2), ("paper", 3 / 8, 1 / 2), ("robust", 1 / 2, 3 / 4)):
        found = {m.task: (m.grading, m.mean.value) for m in score(written, grading=grading)}
        name = grading or ""
        assert found == {"aime25": (name, aime), "gpqa_diamond": (name, gpqa), "own": ("", 3 / 4)}
        rows = {row["task"]: float(row["mean"]) for row in csv.DictReader((written / "curves.csv").open())}
        assert rows == {"aime25": aime, "gpqa_diamond": gpqa, "own": 3 / 4}
    refused = r"no task of this run has a grading 'strict'[\s\S]*exact, paper, robust"
    for use in (partial(score, written), partial(load, written), partial(write_report, written, written / "r.html")):
        with pytest.raises(AnalysisError, match=refused):
            use(grading="strict")
    with pytest.raises(AnalysisError, match="scores of one grading"):
        load(written / "curves.csv", grading="paper")


def test_page_recommendation_and_stages_go_by_the_grading_asked_for(written):
    aime = {}
    for grading in ("paper", "robust"):
        told = CliRunner().invoke(
            app, ["recommend", str(written), "--max-tokens", "9e9", "--json", "--task", "aime25", "--grading", grading]
        )
        aime[grading] = json.loads(told.stdout)["accuracy"]["value"]
        assert CliRunner().invoke(app, ["stages", str(written), "--grading", grading]).exit_code == 0
        CliRunner().invoke(app, ["report", str(written), "--no-figures", "--grading", grading], catch_exceptions=False)
        page = (written / "report.html").read_text()
        assert f"Graded by {grading}, where a task has that grading." in page
        assert f"aime25: 2 questions, 4 samples each, graded by {grading}</caption>" in page
        assert "own: 1 questions, 4 samples each</caption>" in page
        assert f"<td>{100 * aime[grading]:.1f}" in page
    assert aime == {"paper": 3 / 8, "robust": 1 / 2}


def test_ifeval_of_written_responses(tmp_path):
    problem = next(
        one for one in real_checkers().problems if one.metadata["instruction_id_list"] == ["punctuation:no_comma"]
    )
    row = {"key": int(problem.id), "prompt": problem.question, **problem.metadata}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    responses = [
        "<think>Let me see, commas, yes.</think>A trip without them",
        {"text": "<think>a monologue without one and", "finish": "length"},
        "<think>Let me see, commas<tool_call>A trip without them",
        {"text": "<think>another of them", "finish": "length"},
    ]
    config = {
        "sources": {name: source(tmp_path / name, i) for i, name in enumerate(("instruct", "thinking"))},
        "tasks": [{"task": "ifeval", "data": str(tmp_path / "in.jsonl")}],
        "lambdas": "1",
        "samples": 4,
        "engine": "scripted",
        "engine_options": {"script": [{"responses": responses}]},
    }
    sweep.run(SweepConfig.of(config), tmp_path / "run")
    found = samples.read(tmp_path / "run", texts=False)
    for grading, mean, twice in (("paper", 3 / 4, 1), ("robust", 1 / 2, 5 / 6)):
        (m,) = measure(found, grading=grading, resamples=50)
        assert (m.mean.value, m.pass_at[1].value) == pytest.approx((mean, twice))
        assert (m.vote, m.think.value) == (None, 0.25)


def test_the_table_shows_the_score_without_format_failures_beside_the_raw_one(written):
    told = CliRunner().invoke(app, ["score", str(written)]).stdout
    aime, gpqa = told[told.index("aime25:") : told.index("gpqa_diamond:")], told[told.index("gpqa_diamond:") :]
    assert re.search(r"Mean@4 +well-formed +if in form", aime)
    # unclosed and pseudo-closed ones left out, "Two?" has one right of two; "Find $b$." is as it was: (1/4 + 1/2) / 2
    assert re.search(r"λ=1 +37\.5 \[.*?\] +37\.5 ", aime)
    assert "well-formed" not in gpqa.partition("how responses ended")[0]
    found = [one for one in samples.read(written, texts=False) if one.task == "aime25"]
    (robust,) = measure(found, grading="robust", resamples=50)
    assert robust.well_formed.value == pytest.approx(1 / 2)
    assert robust.format_failures.value == pytest.approx(2 / 8)


# ── grading again ────────────────────────────────────────────────────────────────────────────────────────────────


def logs(run):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.rglob("*.eval")}


def test_grading_again_by_the_same_graders_changes_nothing(written):
    before, files = samples.read(written), logs(written)
    found = regrade(written)
    assert (found.num_samples, found.changed, found.left_out) == (20, {}, ())
    assert samples.read(written) == before
    assert logs(written) == files
    assert not list(written.rglob("*.regraded.json"))


def test_a_better_grader_counts_without_a_model_and_the_logs_stay(written, monkeypatch):
    def contains(problem, parsed):
        right = problem.answer in parsed.answer and problem.metadata == {"since": 508}
        return Grade(float(right), problem.answer if right else None)

    before, files = samples.read(written), logs(written)
    with monkeypatch.context() as patch:
        patch.setitem(custom.GRADERS, "exact", (contains, custom.GRADERS["exact"][1]))
        told = CliRunner().invoke(app, ["score", str(written), "--regrade"])
    assert told.exit_code == 0, told.output
    assert "graded 20 responses again" in told.output
    assert "own, exact: 2 scores changed" in told.output  # "paris" no more, "It is Paris" now
    after = samples.read(written)
    scores = {one.response: (one.score, one.answer) for one in after if one.task == "own"}
    expected = {"Paris": (1.0, "Paris"), "paris": (0.0, None), "It is Paris": (1.0, "Paris")}
    assert scores == expected | {"<think>x</think>Paris": (1.0, "Paris")}
    assert samples.read(written, texts=False)[-1].grades == after[-1].grades
    assert [one for one in after if one.task != "own"] == [one for one in before if one.task != "own"]
    assert logs(written) == files
    assert regrade(written).changed == {("own", "exact"): 2}  # and back
    assert samples.read(written) == before
    assert not list(written.rglob("*.regraded.json"))


def test_markers_are_read_again_too(written):
    file = RunFile.load(written)
    before = samples.read(written)
    try:
        file.model_copy(update={"special_tokens": ()}).save(written)
        regrade(written)
        pseudo = next(one for one in samples.read(written) if "<tool_call>" in one.response)
        assert (pseudo.outcome, pseudo.pseudo_close) == (Outcome.UNCLOSED, None)
    finally:
        file.save(written)
        regrade(written)
    assert samples.read(written) == before


def test_tasks_with_scorers_of_inspects_are_left_out_and_named(written):
    file = RunFile.load(written)
    own = file.tasks["own"]
    foreign = own.model_copy(update={"spec": own.spec | {"task": "inspect_evals/gsm8k"}})
    try:
        file.model_copy(update={"tasks": {**file.tasks, "own": foreign}}).save(written)
        told = CliRunner().invoke(app, ["score", str(written), "--regrade"]).output
    finally:
        file.save(written)
    assert "graded 16 responses again" in told
    assert "own: not graded again, as its scorers are Inspect's" in told


def test_a_damaged_file_of_grades_is_named(written):
    log = next(written.rglob("*.eval"))
    regraded_path(log).write_text("[[")
    try:
        told = CliRunner().invoke(app, ["score", str(written)])
        assert regraded_path(log).name in str(told.exception)
    finally:
        regraded_path(log).unlink()


# ── the real problems, the tiny pair ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", ["aime25", "ifeval"])
def test_the_real_problems_go_through_the_tiny_pair_from_the_command_line(task, tmp_path):
    from interpole.lab import shipped

    file = DATA / {"aime25": "thirty.jsonl", "ifeval": "ifeval/ifeval_input_data.jsonl"}[task]
    if task == "ifeval":
        real_checkers()
    pair, out = shipped(), tmp_path / "run"
    flags = ["--lambda", "0,1", "--limit", "3", "--samples", "2", "--max-tokens", "24"]
    command = ["sweep", str(pair.instruct), str(pair.thinking), "--task", task, "--data", str(file), *flags]
    call(*command, "--engine-option", "dtype=float32", "--out", out)
    asked = {problem.id for problem in tasks.load(task, data=file, limit=3).problems}
    found = samples.read(out)
    assert {(one.lam, one.problem_id, one.number) for one in found} == {
        (lam, name, epoch) for lam in (0.0, 1.0) for name in asked for epoch in (1, 2)
    }
    for one in found:
        assert one.num_tokens == 24 or (one.finish == "stop" and 0 < one.num_tokens < 24)
        assert one.grades.keys() == {"paper", "robust"}
    for grading in ("paper", "robust"):
        told = call("score", out, "--grading", grading, "--json")
        for lam, m in zip((0, 1), json.loads(told)["points"], strict=True):
            ours = [one for one in found if one.lam == lam]
            assert (m["grading"], m["num_questions"], m["k"], m["num_samples"]) == (grading, 3, 2, 6)
            assert m["tokens"]["value"] == pytest.approx(sum(one.num_tokens for one in ours) / 6)
            assert m["mean"]["value"] == pytest.approx(sum(one.grades[grading] for one in ours) / 6)
            assert m["think"]["value"] == pytest.approx(sum(one.closed for one in ours) / 6)
    assert regrade(out).changed == {}
