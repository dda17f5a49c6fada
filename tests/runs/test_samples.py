"""Samples read from logs are what Inspect itself reads from them."""

import json
import os
import shutil
import sys
from dataclasses import replace

import pytest

import tiny
from interpole import tasks
from interpole.errors import RunError
from interpole.runs import samples
from interpole.runs.runfile import RunFile
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig

LONG = "<think>\n" + "so thin wie ein Blättchen — " * 400 + "\n</think>\n\n7"
TEMPLATE = "{{ messages[0].content }}{# <think> </think> #}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    script = [
        {"contains": "", "lambda": 0.5, "responses": [LONG, {"text": "", "num_tokens": 1}]},
        {"contains": "", "responses": [{"text": "6 <think> 6", "finish": "length"}]},
    ]
    (folder / "script.json").write_text(json.dumps(script))
    own = folder / "own.jsonl"
    own.write_text(
        json.dumps({"id": "long", "question": "why " * 600 + "?", "answer": "7", "difficulty": "hard"}) + "\n"
    )
    content = {
        "sources": {
            name: str(tiny.write(folder / name, tiny.tensors(i, layers=1), template=TEMPLATE))
            for i, name in enumerate(("instruct", "thinking"))
        },
        "tasks": [{"task": "arithmetic", "limit": 2}, {"task": str(own), "grader": "exact"}],
        "lambdas": "0.5,1",
        "samples": 2,
        "engine": "scripted",
        "engine_options": {"script": str(folder / "script.json")},
    }
    sweep.run(SweepConfig.of(content), folder / "run")
    sweep.run(SweepConfig.of(content | {"samples": 3}), folder / "run")
    return folder / "run"


def test_samples_equal_what_inspect_reads(run):
    from inspect_ai.log import read_eval_log

    expected = {}
    for entry in RunFile.load(run).current:
        for part in entry.parts:
            for one in read_eval_log(str(run / entry.folder / part.log)).samples:
                expected[entry.task, entry.point, one.id, part.first_sample + one.epoch - 1] = one
    found = samples.read(run)
    assert {(one.task, one.point, one.problem_id, one.number) for one in found} == expected.keys()
    assert len(found) == len(expected) == 2 * (2 + 1) * 3
    for one in found:
        theirs = expected[one.task, one.point, one.problem_id, one.number]
        kept = theirs.scores["grade"].metadata
        assert one.response == theirs.output.completion
        assert one.num_tokens == theirs.output.usage.output_tokens
        assert (one.target, one.finish, one.outcome) == (theirs.target, kept["finish"], kept["outcome"])
        assert (one.grades, one.answer, one.closed) == (kept["grades"], kept["answer"], kept["closed"])
        assert (one.question, one.difficulty) == (theirs.metadata["question"], theirs.metadata["difficulty"])
    assert {one.response for one in found} == {LONG, "", "6 <think> 6"}
    assert max(len(one.question) for one in found) == 4 * 600 + 1


def test_inspect_scores_the_log_of_a_sweep_again(run):
    from inspect_ai import score
    from inspect_ai.log import read_eval_log
    from inspect_ai.scorer import includes

    entry = next(one for one in RunFile.load(run).current if one.task == "arithmetic")
    log = read_eval_log(str(entry.within(run, entry.parts[0].log)))
    again = score(log, includes(), action="append", display="none")
    assert [one.scores["grade"] for one in again.samples] == [one.scores["grade"] for one in log.samples]
    for one in again.samples:
        assert one.scores["includes"].value == ("C" if one.target in one.output.completion else "I")


def test_without_texts_only_the_texts_are_missing(run):
    whole = {(one.task, one.point, one.problem_id, one.number): one for one in samples.read(run)}
    for one in samples.read(run, texts=False):
        full = whole[one.task, one.point, one.problem_id, one.number]
        assert one.response == ""
        assert full.question.startswith(one.question.removesuffix("..."))
        assert [getattr(one, name) for name in one.__slots__ if name not in ("response", "question")] == [
            getattr(full, name) for name in one.__slots__ if name not in ("response", "question")
        ]


def test_stray_logs_are_not_read(run):
    before = samples.read(run)
    log = next(run.rglob("*.eval"))
    (log.parent / "2020_stray.eval").write_bytes(log.read_bytes())
    assert samples.read(run) == before


def test_a_missing_or_damaged_log_is_named(run, tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        samples.read(tmp_path)
    log = next(run.rglob("*lam-1*/*.eval"))
    whole = log.read_bytes()
    try:
        log.write_bytes(whole[:1000])
        with pytest.raises(RunError, match=log.name):
            samples.read(run)
        flipped = bytearray(whole)
        flipped[whole.index(b"samples/") + 200] ^= 0xFF
        log.write_bytes(flipped)
        with pytest.raises(RunError, match=rf"damaged\n[\s\S]*{log.name}, samples/"):
            samples.read(run)
        log.unlink()
        with pytest.raises(RunError, match=log.name):
            samples.read(run)
    finally:
        log.write_bytes(whole)


def test_the_problems_of_a_task_are_those_of_its_samples(run):
    known = {problem.id: problem.question for problem in tasks.load("arithmetic", limit=2).problems}
    assert {one.problem_id: one.question for one in samples.read(run) if one.task == "arithmetic"} == known


def read_and_taken(run):
    """All samples, their responses as they were taken, and the processes that took them."""
    taken = {}

    def keep(bare, kept):
        taken.update({id(one): one_kept for one, one_kept in zip(bare, kept, strict=True)})

    take = samples.Take(lambda read: [(one.response, os.getpid()) for one in read], keep)
    found = samples.read(run, take=take)
    return found, [taken[id(one)][0] for one in found], {process for _, process in taken.values()}


def test_responses_that_are_taken_are_those_of_all_at_once(run):
    found, responses, _ = read_and_taken(run)
    whole = samples.read(run)
    assert [replace(one, response=text) for one, text in zip(found, responses, strict=True)] == whole
    assert {one.response for one in found} == {""} != {one.response for one in whole}


@pytest.fixture
def spread(monkeypatch):
    """As if the run were large and the machine had three cores: many stretches in three processes."""
    monkeypatch.setattr(samples, "LARGE_BYTES", 1)
    monkeypatch.setattr(samples, "STRETCHES", 10)
    monkeypatch.setattr(samples, "num_processes", lambda: 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only there other processes read")
def test_several_processes_read_what_one_does(run, request):
    *alone, here = read_and_taken(run)
    request.getfixturevalue("spread")
    *several, there = read_and_taken(run)
    assert several == alone
    assert here == {os.getpid()}
    assert os.getpid() not in there
    grades = [one.grades for one in several[0]]
    assert len({id(one) for one in grades}) == len({(*one.items(),) for one in grades})  # in memory once


@pytest.mark.skipif(sys.platform != "linux", reason="only there other processes read")
def test_a_damaged_log_is_the_same_error_in_whichever_process_it_is_read(run, tmp_path, request):
    copy = shutil.copytree(run, tmp_path / "copy")
    for log in sorted(copy.rglob("*.eval"))[1:]:
        data = bytearray(log.read_bytes())
        data[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
        log.write_bytes(data)
    with pytest.raises(RunError) as alone:
        read_and_taken(copy)
    request.getfixturevalue("spread")
    with pytest.raises(RunError) as several:
        read_and_taken(copy)
    assert str(several.value) == str(alone.value)


def test_without_texts_everything_else_is_the_same(run):
    fields = {"response", "question", "message"}  # of these, summaries have less
    bare, whole = samples.read(run, texts=False), samples.read(run)
    for one, other in zip(bare, whole, strict=True):
        assert replace(one, **dict.fromkeys(fields, "")) == replace(other, **dict.fromkeys(fields, ""))
