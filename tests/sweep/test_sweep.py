"""The sweep: every sample once, whatever is killed, changed, added or broken in between."""

import asyncio
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from inspect_ai.log._recorders import eval as inspect_log

import live
import tiny
from bench import PROBLEMS, TALK, Bench
from forked import APART
from interpole.analysis.scoring import score
from interpole.engines.pool import lam_within
from interpole.errors import EngineError, OutputError, RunError
from interpole.records import Outcome
from interpole.runs import journal, samples
from interpole.runs.runfile import RunFile
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan
from interpole.tasks import inspect_internals


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_sweep_asks_every_problem_at_every_point_k_times(bench):
    seen = []
    assert bench.sweep(seen.append) == 3 * 4 * 2
    found = bench.read()
    expected = {(f"λ={lam:g}", lam, p.id, epoch) for lam in (0, 0.5, 1) for p in PROBLEMS for epoch in (1, 2)}
    assert {(one.point, one.lam, one.problem_id, one.number) for one in found} == expected
    assert len(found) == len(expected)
    for one in found:
        problem = next(problem for problem in PROBLEMS if problem.id == one.problem_id)
        assert (one.task, one.question, one.target) == ("arithmetic", problem.question, problem.answer)
        assert one.closed == (one.lam == 1) == (one.outcome is Outcome.CLOSED)
        assert one.response == ("<think>\nhm\n</think>\n\n7" if one.lam == 1 else "7")
        assert (one.num_tokens, one.finish) == (5 if one.lam == 1 else 2, "stop")
        assert (one.answer, one.score) == ("7", float(problem.answer == "7"))
    assert [(p.done, p.total) for p in seen if not p.message][-1] == (24, 24)
    assert seen[0].message == "arithmetic is graded by exact"
    asked = [json.loads(line) for line in bench.journal.read_text().splitlines()]
    assert len({one["seed"] for one in asked}) == 8  # per problem and epoch; the same at every λ
    assert f"<|im_start|>user\n{PROBLEMS[0].question}<|im_end|>\n<|im_start|>assistant\n" in {
        one["prompt"] for one in asked
    }


def test_a_sweep_of_our_own_tasks_imports_no_clients_of_models_that_it_never_asks(bench, monkeypatch):
    from inspect_ai.model import _assistant_internal

    monkeypatch.setattr(_assistant_internal, "_HAS_ANTHROPIC", True)
    monkeypatch.delitem(sys.modules, "inspect_ai.model._providers.anthropic", raising=False)
    assert bench.sweep(lambdas="0.5", samples=1) == 4
    assert "inspect_ai.model._providers.anthropic" not in sys.modules
    assert _assistant_internal._HAS_ANTHROPIC  # a task of somebody else's may grade by one


def test_a_finished_sweep_generates_nothing_and_starts_no_evaluation(bench):
    bench.sweep()
    logs = {path: path.stat().st_mtime_ns for path in bench.out.rglob("*.eval")}
    assert bench.sweep() == 0
    assert {path: path.stat().st_mtime_ns for path in bench.out.rglob("*.eval")} == logs
    assert [(one.num_samples, one.num_present) for one in sweep.plan(bench.config(), bench.out)] == [(8, 8)] * 3


def is_gone(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_only_what_was_in_flight(bench):
    rng = random.Random(0)
    wanted = {"lambdas": "0:1:0.25", "samples": 8, "concurrency": 6}  # 160 samples
    options = bench.config().engine_options
    slow = bench.config(**wanted, engine_options=options | {"step_seconds": 0.02})
    states = [(0, 0)]  # samples generated so far, and those of them that need not be generated again
    for _ in range(10):
        process, num = APART.Process(target=sweep.run, args=(slow, bench.out)), states[-1][0] + rng.randrange(10)
        process.start()
        bench.wait_until(lambda num=num: bench.num_generated >= num)
        time.sleep(rng.uniform(0, 0.1))
        children = psutil.Process(process.pid).children()
        process.kill()
        process.join()
        bench.wait_until(lambda them=children: all(map(is_gone, them)))
        assert process.exitcode == -signal.SIGKILL
        states.append((bench.num_generated, sum(one.num_present for one in sweep.plan(slow, bench.out))))
    assert states[-1][1] > 20
    lost = set()
    for (start, kept_before), (end, kept) in pairwise(states):  # answers are kept in the order in which they are given
        ours, num_kept = bench.generated[start:end], kept - kept_before
        assert 0 <= len(ours) - num_kept <= 6
        lost.update(ours[num_kept:])
    assert bench.sweep(**wanted) == 160 - states[-1][1]
    assert {line for line, times in Counter(bench.generated).items() if times > 1} <= lost
    assert len({(one.lam, one.problem_id, one.number) for one in bench.read()}) == len(bench.read()) == 160
    assert not [one for one in bench.read() if one.outcome is Outcome.FAILED]


def interruptible(config, out):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    sweep.run(config, out)


def test_a_sweep_interrupted_mid_point_loses_only_what_was_in_flight(bench):
    hang = {"text": "7", "fail": "hang", "once": True}
    bench.write([{"contains": PROBLEMS[2].question, "lambda": 0.5, "responses": [hang]}, *TALK])
    process = APART.Process(target=interruptible, args=(bench.config(), bench.out))
    process.start()
    bench.wait_until((bench.folder / "failed").exists)
    time.sleep(0.5)  # the answers on their way arrive
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode != 0
    before = bench.num_generated
    assert 8 <= before < 16
    assert sum(one.num_present for one in sweep.plan(bench.config(), bench.out)) == before
    journal = next(bench.out.rglob("*.answers.jsonl"))
    journal.write_bytes(journal.read_bytes() + b'["half a li')  # as a crash in the midst of a write leaves it
    assert bench.sweep() == 24 - before
    assert len(bench.read()) == 24
    assert not list(bench.out.rglob("*.answers.jsonl"))
    assert len(list(bench.out.rglob("*.eval"))) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": {"temperature": 0.9}},
        {"sampler": {"max_tokens": 7}},
        {"recipe": {"rules": [{"kind": "attention", "lambda": 0.0}]}},
        {"prefix": "<think>\n"},
        {"template_from": "instruct"},
        {"seed": 1},
        {"limit": 3},
    ],
    ids=lambda change: ",".join(change),
)
def test_other_settings_never_reuse_a_sample_and_the_old_ones_come_back_for_free(bench, change):
    bench.sweep(lambdas="0.5")
    Path(bench.sources["instruct"], "chat_template.jinja").write_text(live.TEMPLATE + "\n")
    expected = 2 * change.get("limit", 4)
    assert bench.sweep(lambdas="0.5", **change) == expected
    assert len(bench.read()) == expected
    assert bench.sweep(lambdas="0.5") == 0
    assert len(bench.read()) == 8


def test_changed_weights_and_templates_never_reuse_a_sample(bench):
    assert bench.sweep(lambdas="0.5,1") == 16
    shutil.rmtree(bench.sources["instruct"])
    tiny.write(Path(bench.sources["instruct"]), tiny.tensors(9, layers=1), template=live.TEMPLATE)
    assert bench.sweep(lambdas="0.5") == 8
    assert {one.point for one in bench.read()} == {"λ=0.5"}  # λ = 1 of the other pair cannot stand beside it
    Path(bench.sources["thinking"], "chat_template.jinja").write_text(live.TEMPLATE + "!")
    assert bench.sweep(lambdas="0.5") == 8


def test_a_run_is_topped_up_and_extended_without_generating_anything_twice(bench):
    bench.sweep(lambdas="0.5")
    first = {(one.problem_id, one.number): one for one in bench.read()}
    assert bench.sweep(lambdas="0.5", samples=5) == 4 * 3
    topped = {(one.problem_id, one.number): one for one in bench.read()}
    assert {epoch for _, epoch in topped} == {1, 2, 3, 4, 5}
    assert first.items() <= topped.items()
    assert bench.sweep(lambdas="0.5,1", samples=5) == 4 * 5
    assert bench.sweep(lambdas="0.5", samples=2) == 0
    assert len(bench.read()) == 4 * 5 * 2  # fewer asked for, none forgotten
    asked = [json.loads(line) for line in bench.journal.read_text().splitlines()]
    assert len({(one["lambda"], one["seed"]) for one in asked}) == 40
    own = bench.folder / "own.jsonl"
    own.write_text('{"question": "3+4", "answer": "7"}\n')
    assert bench.sweep(lambdas="0.5", tasks=[{"task": str(own), "grader": "exact"}]) == 2
    assert {(one.task, one.score) for one in bench.read() if one.question == "3+4"} == {("own", 1.0)}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("die", ["ended with exit status 9; starting another"]),
        ("memory", ["ended with exit status 1; starting another", "MemoryError"]),
        ("hang", ["the engine stood still for ", " s; starting another"]),
    ],
)
def test_an_engine_that_fails_mid_sweep_costs_nothing(bench, how, told):
    bad = {"text": "7", "fail": how, "once": True}
    bench.write([{"contains": PROBLEMS[1].question, "lambda": 0.5, "responses": [bad]}, *TALK])
    seen = []
    assert bench.sweep(seen.append, hang_seconds=1.0) == 24
    (message,) = (one.message for one in seen if "the engine" in one.message)
    assert all(part in message for part in told)
    assert bench.summary.failed == ()
    assert not [one for one in bench.read() if one.outcome is Outcome.FAILED]


def test_a_point_that_keeps_failing_is_recorded_and_the_sweep_goes_on(bench):
    bad = {"contains": PROBLEMS[1].question, "lambda": 0.5, "responses": [{"fail": "die"}]}
    bench.write([bad, *TALK])
    num = bench.sweep(max_failures=1)
    assert [(entry.point, entry.status) for entry in bench.summary.failed] == [("λ=0.5", "failed")]
    assert "failed 2 times: ended with exit status 9" in bench.summary.failed[0].parts[0].error
    found = bench.read()
    assert len(found) == 24
    failed = [one for one in found if one.outcome is Outcome.FAILED]
    assert len(failed) == 24 - num
    assert {(one.point, one.finish, one.score, one.num_tokens) for one in failed} == {("λ=0.5", "error", 0.0, 0)}
    assert all("failed 2 times" in one.error for one in failed)
    bench.write(TALK)
    assert bench.sweep() == 24 - num
    assert bench.summary.failed == ()
    assert not [one for one in bench.read() if one.outcome is Outcome.FAILED]
    assert len(list(bench.out.rglob("*.eval"))) == 3


def test_points_off_the_dial_have_their_own_recipe_and_sampler(bench):
    point = {"name": "instruct, as its card says", "recipe": {"lambda": 0.0}, "sampler": {"temperature": 0.7}}
    assert bench.sweep(lambdas="1", points=[point]) == 16
    (off,) = (entry for entry in RunFile.load(bench.out).current if entry.lam is None)
    assert (off.sampler["temperature"], off.recipe["lambda"]) == (0.7, 0.0)
    assert off.folder.startswith("logs/arithmetic/instruct-as-its-card-says-")
    assert {(one.point, one.lam) for one in bench.read()} == {("λ=1", 1.0), (point["name"], None)}


def test_two_points_with_the_same_weights_have_their_own_samples(bench):
    twin = {"name": "twin", "recipe": {"lambda": 0.5}}
    assert bench.sweep(lambdas="0.5", points=[twin], samples=1) == 8
    assert len({entry.identity for entry in RunFile.load(bench.out).entries}) == 1
    assert sorted(one.point for one in bench.read()) == ["twin"] * 4 + ["λ=0.5"] * 4
    assert bench.sweep(lambdas="0.5", points=[twin], samples=2) == 8
    assert {(one.point, one.number) for one in bench.read()} == {("twin", 1), ("twin", 2), ("λ=0.5", 1), ("λ=0.5", 2)}


def test_a_run_can_be_moved_and_describes_itself(bench, tmp_path):
    bench.sweep(lambdas="0.5")
    before = bench.read()
    bench.out = bench.out.rename(tmp_path / "elsewhere")
    assert bench.read() == before
    assert bench.sweep(lambdas="0.5") == 0
    run = RunFile.load(bench.out)
    assert (run.markers, run.prompt_opens_thinking, run.prefix, run.seed) == (("<think>", "</think>"), False, "", 0)
    assert run.template == live.TEMPLATE
    assert run.engine == {"engine": "scripted"}
    assert (run.tasks["arithmetic"].num_problems, run.tasks["arithmetic"].samples) == (4, 2)


def test_two_sweeps_do_not_write_to_one_run(bench):
    from interpole.runs.runfile import exclusive

    with exclusive(bench.out), pytest.raises(RunError, match="another sweep"):
        bench.sweep()


def test_a_real_engine_gives_the_same_samples_as_driven_by_hand(tmp_path):
    from interpole.engines.open import open_engine
    from interpole.formats import seed_of

    instruct, thinking = live.pair(tmp_path)
    config = SweepConfig.of(
        {
            "sources": {"instruct": str(instruct), "thinking": str(thinking)},
            "tasks": "arithmetic",
            "lambdas": "0.3",
            "samples": 2,
            "limit": 5,
            "sampler": {"max_tokens": 20},
            "engine_options": {"dtype": "float32"},
        }
    )
    summary = sweep.run(config, tmp_path / "run")
    plan = Plan(config)
    engine = open_engine("transformers", plan.base_recipe, dtype="float32")
    problems = plan.benchmarks["arithmetic"].problems
    asked = [(problem, epoch) for problem in problems for epoch in (1, 2)]
    prompts = [plan.render([{"role": "user", "content": problem.question}]) for problem, _ in asked]
    seeds = [seed_of(0, problem.id, epoch) for problem, epoch in asked]
    with engine.at(0.3):
        expected = engine.generate(prompts, plan.benchmarks["arithmetic"].sampler, seeds)
    found = {(one.problem_id, one.number): one for one in samples.read(tmp_path / "run")}
    assert len(found) == 10
    for (problem, epoch), answer in zip(asked, expected, strict=True):
        one = found[problem.id, epoch]
        assert (one.response, one.num_tokens, one.finish) == (answer.text, answer.num_tokens, answer.finish)
    assert summary.num_tokens == sum(answer.num_tokens for answer in expected)


def test_two_real_engines_give_the_bytes_of_one(tmp_path):
    points = [{"budget_tokens": 3, "lambda": 0.6}]
    config = live.sweep_of(live.pair(tmp_path), "0.3,0.6,1", max_tokens=6) | {"points": points}
    for engines, out in ((1, "one"), (2, "two")):
        assert sweep.run(SweepConfig.of(config | {"engines": engines}), tmp_path / out).num_generated == 16
        score(tmp_path / out)
    assert samples.read(tmp_path / "one") == samples.read(tmp_path / "two")
    assert (tmp_path / "one/curves.csv").read_bytes() == (tmp_path / "two/curves.csv").read_bytes()


def test_all_lambdas_in_one_batch_are_exact_at_the_ends_and_told_apart_from_a_sweep_from_point_to_point(tmp_path):
    points = [{"budget_tokens": 3, "lambda": 1.0}]
    content = live.sweep_of(live.pair(tmp_path), "0,0.5,1", max_tokens=6) | {"points": points}
    one, all_at_once = SweepConfig.of(content), SweepConfig.of(content | {"per_request": True})
    sweep.run(one, tmp_path / "one")
    with sweep.pool_of(Plan(all_at_once)) as pool:
        summary = sweep.run(all_at_once, tmp_path / "all", pool=pool)
        assert [(rate.num_loads, rate.num_answers) for rate in pool.rates()] == [
            (1, 16 + 4)
        ]  # a cut thought is asked twice
    assert (summary.num_generated, summary.failed) == (16, ())
    moved, batched = (
        {(s.point, s.problem_id): s.response for s in samples.read(tmp_path / name)} for name in ("one", "all")
    )
    assert {key: text for key, text in moved.items() if "0.5" not in key[0]} == {
        key: text for key, text in batched.items() if "0.5" not in key[0]
    }
    assert batched.keys() == moved.keys()
    assert len({batched[point, PROBLEMS[0].id] for point in ("λ=0", "λ=0.5", "λ=1")}) == 3
    with pytest.raises(RunError, match=r"16 responses .* per_request is True, was False"):
        sweep.run(all_at_once, tmp_path / "one")
    other = {"name": "ffn", "recipe": {"lambda": 0.5, "rules": [{"kind": "ffn", "lambda": 1}]}}
    with pytest.raises(EngineError, match="ffn is no λ between the two checkpoints"):
        Plan(SweepConfig.of(content | {"per_request": True, "points": [other]}))
    with pytest.raises(EngineError, match="beyond is no λ between the two checkpoints"):
        lam_within({"method": "linear", "lambda": 1.5}, {"method": "linear", "lambda": 0.0}, "beyond")
    with pytest.raises(RunError, match="the engine scripted takes no λ per request"):
        SweepConfig.of(content | {"engine": "scripted", "engine_options": {}, "per_request": True})


def test_a_point_whose_weights_are_broken_fails_and_the_others_stand(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    instruct, thinking = live.pair(tmp_path)
    weights = load_file(thinking / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)
    save_file(weights, thinking / "model.safetensors", {"format": "pt"})
    config = {
        "sources": {"instruct": str(instruct), "thinking": str(thinking)},
        "tasks": "arithmetic",
        "lambdas": "0,1",
        "samples": 1,
        "limit": 3,
        "sampler": {"max_tokens": 8},
        "max_failures": 0,
    }
    summary = sweep.run(SweepConfig.of(config), tmp_path / "run")
    assert [entry.point for entry in summary.failed] == ["λ=1"]
    assert "the model's logits are not finite" in summary.failed[0].parts[0].error
    outcomes = {(one.lam, one.outcome is Outcome.FAILED) for one in samples.read(tmp_path / "run")}
    assert outcomes == {(0.0, False), (1.0, True)}


def test_a_sweep_yml_is_read_and_its_mistakes_are_named(tmp_path):
    path = tmp_path / "sweep.yml"
    text = "sources: {instruct: a/b, thinking: c/d}\ntasks: [arithmetic]\nlambdas: 0:1:0.5\n"
    path.write_text(text)
    config = SweepConfig.load(path)
    assert (config.lambdas, config.template_from, config.tasks[0].task) == ((0, 0.5, 1), "thinking", "arithmetic")
    for more, message in {
        "smaples: 3": "smaples",
        "samples: 0": "samples",
        "sampler: {top: 3}": "no setting 'top'",
        "sampler: {max_tokens: 2.5}": "sampler: max_tokens is 2.5: give a whole number",
        "sampler: {temperature: .inf}": "sampler",
        "points: [{name: p, sampler: {temprature: 1}}]": "points.0.sampler: no setting 'temprature'",
        "limit: 0": "limit",
        "engines: 0": "engines: 0 is no number of engines: give one from 1, or auto",
        "template_from: base": "no source 'base'",
        "points: [{name: λ=1}]": "two points are called λ=1",
    }.items():
        path.write_text(text + more)
        with pytest.raises(RunError, match=message):
            SweepConfig.load(path)
    for task, message in {"limit: -1": "tasks.0.limit", "sampler: {k: 1}": "tasks.0.sampler: no setting 'k'"}.items():
        path.write_text(text.replace("[arithmetic]", f"[{{task: arithmetic, {task}}}]"))
        with pytest.raises(RunError, match=message):
            SweepConfig.load(path)
    with pytest.raises(RunError, match="no points"):
        SweepConfig.of({"sources": {"a": "b"}, "tasks": "arithmetic"})


@pytest.mark.parametrize("what", ["a log", "an answer"])
def test_a_disk_that_is_full_ends_the_sweep_at_once_and_no_answer_that_was_kept_is_lost(bench, monkeypatch, what):
    def full(where, write):
        def written(*arguments):
            if bench.num_generated:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*arguments)

        monkeypatch.setattr(where, write.__name__, written)

    if what == "a log":
        full(inspect_log, inspect_log._copy_temp_to_local)
    else:
        full(journal, journal.open_to_append)
    with pytest.raises(OutputError, match="disk full: No space left on device"):
        bench.sweep()
    monkeypatch.undo()
    num = bench.num_generated
    assert 0 < num <= 2 * 4 * 2  # of the two points that were open
    assert bench.sweep() == 3 * 4 * 2 - (num if what == "a log" else 0)
    assert bench.summary.failed == ()
    assert len(bench.read()) == 3 * 4 * 2


def test_a_log_that_lacks_samples_is_not_whole_and_is_made_again(bench, monkeypatch):
    async def cancelled(**_):
        raise asyncio.CancelledError  # as something did to a library that a grader uses

    with monkeypatch.context() as for_once:
        for_once.setattr(inspect_internals, "_run_plainly", cancelled)
        bench.sweep(lambdas=[0.0])
    ((failed,),) = [entry.parts for entry in bench.summary.failed]
    assert (failed.log, failed.error) == (None, "8 samples were cancelled")
    assert bench.sweep(lambdas=[0.0]) == 4 * 2
    assert bench.summary.failed == ()
    assert len(bench.read()) == 4 * 2


def test_whatever_a_model_writes_is_read_as_it_was_written(bench):
    written = ["", "attachment://abc 7", "a\x00b\x1b[31m\x7f 7", "\r\n\u2028 7", "word " * 50_000]
    bench.write([{"contains": "", "responses": written}])
    assert bench.sweep(lambdas=[0.0], samples=5, limit=1) == 5
    assert sorted(one.response for one in bench.read()) == sorted(written)
