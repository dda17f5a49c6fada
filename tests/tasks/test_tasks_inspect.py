"""Benchmarks as Inspect tasks: what is asked, seeded, graded and kept, and the numbers that come out by hand."""

import json
import sys
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

inspect_ai = pytest.importorskip("inspect_ai")

from inspect_ai._util.zipfile import zipfile_compress_kwargs  # noqa: E402
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatCompletionChoice,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
    get_model,
)

from interpole import tasks  # noqa: E402
from interpole.analysis.metrics import measure  # noqa: E402
from interpole.chat import Markers, ThinkFormat  # noqa: E402
from interpole.errors import TaskError  # noqa: E402
from interpole.formats import seed_of  # noqa: E402
from interpole.records import Outcome, Sample  # noqa: E402
from interpole.tasks.benchmark import problem_of  # noqa: E402
from interpole.tasks.inspect import SCORE, response_text, to_inspect  # noqa: E402
from interpole.tasks.inspect_internals import compressing_in_place, running_plainly  # noqa: E402

QWEN = Markers("<think>", "</think>")
SPECIALS = ("<|im_end|>", "<tool_call>")


class Script:
    """Answers prompts in the order of epochs, and remembers the seeds and settings it was asked with."""

    def __init__(self, responses):
        self.responses = {part: list(texts) for part, texts in responses.items()}
        self.asked = []

    def __call__(self, messages, _tools, _tool_choice, config):
        part = next(part for part in self.responses if part in messages[-1].text)
        text = self.responses[part].pop(0)
        self.asked.append((part, config))
        output = ModelOutput.from_content("mockllm/model", text.removesuffix("…"))
        output.choices[0].stop_reason = "max_tokens" if text.endswith("…") else "stop"
        output.usage = ModelUsage(output_tokens=len(text.split()), total_tokens=len(text.split()))
        return output


def run(benchmark, responses, folder, opened=False, **options):
    """Evaluate with scripted responses; gives the script and the samples that the log holds."""
    script = Script(responses)
    task = to_inspect(benchmark, ThinkFormat(QWEN, prompt_opens_thinking=opened, special_tokens=SPECIALS), **options)
    (log,) = inspect_ai.eval(
        task,
        model=get_model("mockllm/model", custom_outputs=script, memoize=False),
        display="none",
        log_dir=str(folder),
        max_samples=1,
        max_connections=1,
    )
    assert log.status == "success", log.error
    return script, [sample_of(one, benchmark.name) for one in read_eval_log_sample_summaries(log.location)]


def sample_of(summary, name):
    kept = summary.scores[SCORE].metadata
    return Sample(
        name,
        "p",
        0.5,
        str(summary.id),
        kept["epoch"],
        "?",
        str(summary.target),
        "",
        kept["num_tokens"],
        kept["finish"],
        Outcome(kept["outcome"]),
        kept["closed"],
        kept["answer"],
        kept["grades"],
        kept["difficulty"],
    )


@pytest.fixture
def aime(tmp_path):
    pytest.importorskip("math_verify")
    rows = [{"id": "a", "question": "first?", "answer": 70}, {"id": "b", "question": "second?", "answer": 5}]
    (tmp_path / "aime.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return replace(tasks.load("aime25", data=tmp_path / "aime.jsonl"), k=4)


def test_scripted_aime_gives_the_numbers_worked_out_by_hand(aime, tmp_path):
    responses = {
        "first?": [
            r"so</think>\boxed{70}",  # paper 1, robust 1
            r"so</think>\boxed{70.}",  # paper 0, robust 1
            r"is it \boxed{70} or…",  # truncated: paper 1, robust 0
            r"so <tool_call> \boxed{71}",  # pseudo-closed: both 0
        ],
        "second?": [r"so</think>\boxed{5}", r"so</think>\boxed{6}", r"so</think>\boxed{6}", ""],
    }
    _, samples = run(aime, responses, tmp_path, opened=True)
    paper, robust = (measure(samples, grading=name, resamples=50)[0] for name in ("paper", "robust"))
    assert (paper.mean.value, robust.mean.value) == (3 / 8, 3 / 8)
    assert [s.grades for s in samples if s.problem_id == "a"] == [
        {"paper": 1, "robust": 1},
        {"paper": 0, "robust": 1},
        {"paper": 1, "robust": 0},
        {"paper": 0, "robust": 0},
    ]
    # Pass@2 by hand: 2 of 4 right: 1 − (2·1)/(4·3) = 5/6; 1 of 4 right: 1 − (3·2)/(4·3) = 1/2
    assert [interval.value for interval in paper.pass_at[:2]] == pytest.approx([3 / 8, (5 / 6 + 1 / 2) / 2])
    # Vote@4: "70" twice against "70." and "71"; "6" twice against "5"
    assert paper.vote.value == 0.5
    assert paper.think.value == 5 / 8
    assert paper.tokens.value == sum(len(text.split()) for texts in responses.values() for text in texts) / 8
    assert {outcome: count for outcome, count in paper.outcomes.items() if count} == {
        Outcome.CLOSED: 5,
        Outcome.TRUNCATED: 1,
        Outcome.PSEUDO_CLOSED: 1,
        Outcome.EMPTY: 1,
    }


def test_scripted_gpqa_gives_the_numbers_worked_out_by_hand(tmp_path):
    header = "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
    (tmp_path / "g.csv").write_text(f"{header}first?,r,x,y,z\nsecond?,r,x,y,z\n")  # right: D, C
    gpqa = replace(tasks.load("gpqa_diamond", data=tmp_path / "g.csv"), k=3)
    responses = {
        "first?": ["so</think>ANSWER: D", "so</think>**Answer:** D", "ANSWER: A…"],
        "second?": ["so</think>ANSWER: C", "ANSWER: B?<tool_call>ANSWER: C", "so</think>ANSWER: B"],
    }
    _, samples = run(gpqa, responses, tmp_path, opened=True)
    paper, robust = (measure(samples, grading=name, resamples=50)[0] for name in ("paper", "robust"))
    assert (paper.mean.value, robust.mean.value) == pytest.approx((2 / 6, 4 / 6))
    assert paper.vote.value == pytest.approx((1 / 2 + 0) / 2)  # D and A tie; B beats C
    assert paper.think.value == pytest.approx(4 / 6)


def test_everything_a_sample_needs_is_in_the_summary(tmp_path):
    benchmark = replace(tasks.load("arithmetic", limit=1), k=2)
    problem = benchmark.problems[0]
    responses = {problem.question: [f"<think>\na b\n</think>\n\n{problem.answer}<|im_end|>", "word " * 3000]}
    run(benchmark, responses, tmp_path)
    (path,) = tmp_path.glob("*.eval")
    first, second = read_eval_log_sample_summaries(path)
    assert first.scores[SCORE].metadata == {
        "epoch": 1,
        "num_tokens": 5,
        "finish": "stop",
        "outcome": "closed",
        "closed": True,
        "pseudo_close": None,
        "near_close": False,
        "answer": problem.answer,
        "answers": {"exact": problem.answer},
        "grades": {"exact": 1.0},
        "difficulty": "1",
        "private": False,
        "budget_forced": False,
        "chosen_lam": None,
    }
    assert first.scores[SCORE].value == 1.0
    assert second.scores[SCORE].metadata["outcome"] == "direct"
    assert problem_of(str(first.id), first.target, first.metadata) == problem


def test_an_answer_too_long_for_a_summary_is_cut_not_dropped(tmp_path):
    (tmp_path / "long.jsonl").write_text('{"question": "Long?", "answer": "x"}')
    words = " ".join(f"word{n}" for n in range(500))
    run(tasks.load(str(tmp_path / "long.jsonl")), {"Long?": [words]}, tmp_path)
    (path,) = tmp_path.glob("*.eval")
    (summary,) = read_eval_log_sample_summaries(path)
    assert summary.scores[SCORE].metadata["answers"] == {"exact": words[:200]}


def test_every_sample_has_a_seed_of_its_own_and_the_benchmarks_settings(tmp_path):
    benchmark = tasks.load("arithmetic", limit=2)
    benchmark = replace(benchmark, k=2, sampler=replace(benchmark.sampler, seed=5))
    responses = {problem.question: ["1", "2"] for problem in benchmark.problems}
    script, _ = run(benchmark, responses, tmp_path / "a")
    ids = {problem.question: problem.id for problem in benchmark.problems}
    seeds = {(part, config.seed) for part, config in script.asked}
    assert seeds == {(part, seed_of(5, ids[part], epoch)) for part in ids for epoch in (1, 2)}
    assert len({seed for _, seed in seeds}) == 4
    assert all((config.temperature, config.top_p, config.max_tokens) == (0.6, 0.95, 256) for _, config in script.asked)


def test_a_top_up_goes_on_with_later_seeds_and_numbers(tmp_path):
    benchmark = tasks.load("arithmetic", limit=1)
    problem = benchmark.problems[0]
    script, samples = run(replace(benchmark, k=2), {problem.question: ["1", "2"]}, tmp_path, first_sample=3)
    assert [sample.number for sample in samples] == [3, 4]
    assert {config.seed for _, config in script.asked} == {seed_of(0, problem.id, epoch) for epoch in (3, 4)}


def test_seeds_are_fixed_for_ever():
    assert seed_of(0, "I-1", 1) == 1325658694
    assert len({seed_of(seed, name, epoch) for seed in (0, 1) for name in "ab" for epoch in (1, 2)}) == 8


def test_thinking_that_a_provider_split_off_is_rejoined():
    def output(*content):
        message = ChatMessageAssistant(content=list(content))
        return ModelOutput(model="m", choices=[ChatCompletionChoice(message=message, stop_reason="stop")])

    thinking, text = ContentReasoning(reasoning="hm\n"), ContentText(text="\n\n63")
    assert response_text(output(thinking, text), QWEN) == "<think>hm\n</think>\n\n63"
    assert response_text(output(thinking), QWEN) == "<think>hm\n"
    assert response_text(output(text), QWEN) == "\n\n63"
    assert response_text(ModelOutput(model="m", choices=[]), QWEN) == ""


INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, accuracy, includes, scorer
from inspect_ai.solver import generate

@scorer(metrics=[accuracy()])
def length():
    async def score(state, target):
        return Score(value={"short": len(state.output.completion) < 20, "half": 0.5})
    return score

@scorer(metrics=[accuracy()])
def grams():
    async def score(state, target):
        return Score(value=70)
    return score

DATA = [Sample(input="France?", target="Paris"), Sample(input="Italy?", target="Rome")]

@task
def capitals():
    return Task(dataset=DATA, solver=generate(), scorer=[includes(), length()])

@task
def unscored():
    return Task(dataset=DATA, solver=generate())

@task
def weighed():
    return Task(dataset=DATA, solver=generate(), scorer=grams())
"""


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "their_tasks.py").write_text(INSPECT_TASK)
    return lambda name: tasks.load(f"{tmp_path}/their_tasks.py@{name}")


def test_an_inspect_task_keeps_its_scorers_and_is_read_by_us(theirs, tmp_path):
    benchmark = replace(theirs("capitals"), k=2)
    responses = {
        "France?": ["<think>hm</think>Paris", "Lyon, which is a very old city"],
        "Italy?": ["Rome", "<think>Rome, or not…"],
    }
    for folder in ("a", "b"):  # the task is made afresh each time, not wrapped twice
        _, samples = run(benchmark, responses, tmp_path / folder)
        assert [(sample.problem_id, sample.grades, sample.outcome) for sample in samples] == [
            ("1", {"includes": 1.0, "short": 1.0, "half": 0.5}, Outcome.CLOSED),
            ("2", {"includes": 1.0, "short": 1.0, "half": 0.5}, Outcome.DIRECT),
            ("1", {"includes": 0.0, "short": 0.0, "half": 0.5}, Outcome.DIRECT),
            ("2", {"includes": 0.0, "short": 1.0, "half": 0.5}, Outcome.TRUNCATED),
        ]


def test_an_inspect_task_without_scores_between_0_and_1_is_refused(theirs, tmp_path):
    with pytest.raises(TaskError, match="no scorer"):
        to_inspect(theirs("unscored"), ThinkFormat(QWEN))
    with pytest.raises(AssertionError, match=r"gave 70\.0; shares and intervals need scores between 0 and 1"):
        run(theirs("weighed"), {"France?": ["x"], "Italy?": ["x"]}, tmp_path)


def test_inspect_finds_every_benchmark_by_name():
    from inspect_ai._eval.loader import load_task_spec

    from interpole.tasks.registry import BENCHMARK_TASKS

    assert BENCHMARK_TASKS.keys() == tasks.BENCHMARKS.keys()
    (task,) = load_task_spec("interpole/arithmetic", {"limit": 6})
    assert (task.name, len(task.dataset), task.epochs, task.config.temperature) == ("arithmetic", 6, 8, 0.6)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_samples_are_compressed_without_threads_of_their_own_and_to_the_same_bytes():
    text = json.dumps(list(range(20_000))).encode()

    def compressed() -> tuple[bytes, int]:
        before = len(list(Path("/proc/self/task").iterdir()))
        compressor = zipfile._get_compressor(zipfile_compress_kwargs["compression"])
        written = compressor.compress(text)
        num_threads = len(list(Path("/proc/self/task").iterdir())) - before
        return written + compressor.flush(), num_threads

    as_inspect_does, num_threads = compressed()
    with compressing_in_place():
        assert compressed() == (as_inspect_does, 0)
    assert num_threads > 0
    assert compressed() == (as_inspect_does, num_threads)


def plainly_and_as_ever(benchmark, respond, folder):
    """The log of a task that is run plainly, and that of the same task run as Inspect runs it."""
    for number, how in enumerate((running_plainly(), nullcontext())):
        task = to_inspect(benchmark, ThinkFormat(QWEN), respond=respond)
        with how:
            inspect_ai.eval(
                task, model="mockllm/model", display="none", log_dir=f"{folder}/{number}", fail_on_error=False
            )
        (path,) = (folder / str(number)).glob("*.eval")
        yield read_eval_log(path)


def without_ids_and_times(log):
    """A log's samples and results, but for what no two logs share, and events."""
    own = {
        "id",
        "uuid",
        "started_at",
        "completed_at",
        "total_time",
        "working_time",
        "events",
        "attachments",
        "turn_count",
    }

    def bare(value):
        if isinstance(value, dict):
            return {name: bare(one) for name, one in value.items() if name not in own}
        return [bare(one) for one in value] if isinstance(value, list) else value

    return {(one.id, one.epoch): bare(one.model_dump()) for one in log.samples}, log.results, log.status


def test_a_task_that_is_run_plainly_leaves_the_log_that_inspect_would_leave_but_for_its_events(tmp_path):
    benchmark = replace(tasks.load("arithmetic", limit=2), k=2)

    async def respond(messages, config):
        return ModelOutput.from_content("mockllm/model", f"<think>{config.seed}</think>{messages[-1].text}")

    plain, as_ever = plainly_and_as_ever(benchmark, respond, tmp_path)
    assert without_ids_and_times(plain) == without_ids_and_times(as_ever)
    assert len(plain.samples) == 4
    assert not any(one.events for one in plain.samples)
    assert all(one.events for one in as_ever.samples)


def test_what_a_sample_that_is_run_plainly_raises_is_in_its_log_and_costs_no_other(tmp_path):
    benchmark = replace(tasks.load("arithmetic", limit=3), k=1)
    broken = benchmark.problems[1].question

    async def respond(messages, config):  # noqa: ARG001
        if messages[-1].text == broken:
            raise ValueError("no answer")
        return ModelOutput.from_content("mockllm/model", "1")

    for log in plainly_and_as_ever(benchmark, respond, tmp_path):
        errors = {one.input: one.error and one.error.message for one in log.samples}
        assert errors == {one.question: None for one in benchmark.problems} | {broken: "ValueError('no answer')"}
        assert log.results.completed_samples == 2
