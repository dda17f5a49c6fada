"""What each benchmark asks, and hand-graded responses in both gradings."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from checkers import real_checkers
from interpole import tasks
from interpole.chat import Markers, parse_response
from interpole.errors import TaskError
from interpole.guarded import Guarded
from interpole.paper.printed import TABLES
from interpole.records import Outcome, Problem, Sampler
from interpole.tasks import grading, ifeval

DATA = Path(__file__).parents[1] / "data"
QWEN = Markers("<think>", "</think>")
SPECIALS = ("<|im_end|>", "<tool_call>", "</tool_call>")


def read(response, finish="stop", opened=True):
    return parse_response(response, finish, QWEN, prompt_opens_thinking=opened, special_tokens=SPECIALS)


def scores(benchmark, problem, response, finish="stop", opened=True):
    grades = benchmark.grade(problem, read(response, finish, opened))
    return {name: (grade.score, grade.answer) for name, grade in grades.items()}


# ── AIME ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def aime(tmp_path):
    pytest.importorskip("math_verify")
    file = tmp_path / "aime25.jsonl"
    file.write_text('{"id": "I-1", "question": "Find $b$.", "answer": "70"}\n\n{"question": "Two?", "answer": 5}\n')
    return tasks.load("aime25", data=file)


def test_aime_asks_as_the_paper_does_with_the_papers_settings(aime):
    assert aime.prompt(aime.problems[0]) == (
        "Find $b$.\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    assert (aime.k, aime.sampler) == (64, Sampler(0.6, 0.95, 20, 81_920))
    assert [(problem.id, problem.answer) for problem in aime.problems] == [("I-1", "70"), ("2", "5")]
    assert list(aime.gradings) == ["paper", "robust"]


@pytest.mark.parametrize(
    ("response", "finish", "paper", "robust"),
    [
        (r"so</think>The answer is \boxed{70}.", "stop", (1, "70"), (1, "70")),
        (r"so</think>\boxed{70.}", "stop", (0, "70."), (1, "70")),  # math-verify does not parse "70."
        (r"so</think>\boxed{\boxed{70}}", "stop", (1, "70"), (1, "70")),
        (r"so</think>\boxed{71}\boxed{70}", "stop", (0, "{70, 71}"), (1, "70")),  # adjacent boxes become a set
        (r"so</think>\boxed{070}", "stop", (1, "70"), (1, "70")),
        (r"so</think>\boxed{b = 70}", "stop", (1, "70"), (1, "70")),
        (r"so</think>\boxed{70.0}", "stop", (1, "70"), (1, "70")),
        (r"so</think>\boxed{\frac{140}{2}}", "stop", (1, "70"), (1, "70")),
        (r"so</think>70", "stop", (0, None), (1, "70")),
        (r"so</think>The final answer is $70$.", "stop", (1, "70"), (1, "70")),
        (r"so</think>\boxed{}", "stop", (0, None), (0, None)),
        (r"\boxed{70}</think>It is \boxed{71}", "stop", (0, "71"), (0, "71")),
        (r"so it is \boxed{70}", "stop", (1, "70"), (1, "70")),  # unclosed, ended by itself
        (r"try \boxed{70}? or", "length", (1, "70"), (0, None)),  # a monologue cut off is no answer
        (r"is it \boxed{71}? no <tool_call> It is \boxed{70}.", "stop", (1, "70"), (1, "70")),
        (r"is it \boxed{71}? no <tool_call> It is 70.", "stop", (0, "71"), (1, "70")),
        ("", "stop", (0, None), (0, None)),
        (r"\boxed{70}", "error", (0, None), (0, None)),
    ],
)
def test_aime_by_hand(aime, response, finish, paper, robust):
    assert scores(aime, aime.problems[0], response, finish) == {"paper": paper, "robust": robust}


@pytest.mark.parametrize("box", ["9^{9^{9^{9}}}", "10^{13}!"])
def test_a_hostile_answer_costs_bounded_time_and_the_next_is_graded(aime, box, monkeypatch):
    monkeypatch.setattr(grading._MATH, "limit_seconds", 0.2)
    scores(aime, aime.problems[0], r"</think>\boxed{1}")  # starts the worker
    start = time.monotonic()
    assert scores(aime, aime.problems[0], rf"</think>\boxed{{{box}}}") == {"paper": (0, None), "robust": (0, None)}
    assert time.monotonic() - start < 60
    monkeypatch.setattr(grading._MATH, "limit_seconds", 10.0)
    assert scores(aime, aime.problems[0], r"</think>\boxed{70}")["paper"] == (1, "70")


def test_the_thirty_problems_are_read_from_a_local_file():
    pytest.importorskip("math_verify")
    aime = tasks.load("aime25", data=DATA / "thirty.jsonl")
    assert len(aime.problems) == 30
    assert all(0 <= int(problem.answer) <= 999 for problem in aime.problems)
    for problem in aime.problems[:3]:
        response = rf"hm</think>Thus \boxed{{{problem.answer}}}."
        assert {score for score, _ in scores(aime, problem, response).values()} == {1.0}


# ── GPQA ─────────────────────────────────────────────────────────────────────────────────────────────────────────

GPQA_HEADER = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"


@pytest.fixture
def gpqa(tmp_path):
    file = tmp_path / "gpqa.csv"
    rows = [f'rec{n},"Which, {n}?",right{n},wrong{n}a,wrong{n}b,wrong{n}c\n' for n in range(1, 6)]
    file.write_text(GPQA_HEADER + "".join(rows))
    return tasks.load("gpqa_diamond", data=file)


def test_gpqa_rotates_the_options_by_row_as_opencompass_does(gpqa):
    assert [problem.answer for problem in gpqa.problems] == ["D", "C", "B", "A", "D"]
    assert gpqa.problems[0].choices == ("wrong1a", "wrong1b", "wrong1c", "right1")
    assert gpqa.problems[1].choices == ("wrong2b", "wrong2c", "right2", "wrong2a")
    assert (gpqa.k, gpqa.sampler.max_tokens, gpqa.private) == (8, 65_536, True)
    assert gpqa.prompt(gpqa.problems[0]) == (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        "\n\nWhich, 1?\n\nA) wrong1a\nB) wrong1b\nC) wrong1c\nD) right1"
    )


@pytest.mark.parametrize(
    ("response", "finish", "paper", "robust"),
    [
        ("so</think>ANSWER: D", "stop", (1, "D"), (1, "D")),
        ("so</think>**ANSWER: D**", "stop", (1, "D"), (1, "D")),
        ("so</think>**Answer:** D", "stop", (0, None), (1, "D")),
        (r"so</think>ANSWER: \boxed{D}", "stop", (0, None), (1, "D")),
        ("so</think>My answer: a choice.\nANSWER: D", "stop", (0, "a"), (1, "D")),
        ("so</think>Answer: C. Wait.\nANSWER: D", "stop", (0, "C"), (1, "D")),
        ("so</think>ANSWER: d", "stop", (0, "d"), (1, "D")),
        ("ANSWER: D, but", "length", (1, "D"), (0, None)),
        ("ANSWER: D", "stop", (1, "D"), (1, "D")),
        ("Answer: C?<tool_call>\nANSWER: D", "stop", (0, "C"), (1, "D")),
        ("", "stop", (0, None), (0, None)),
    ],
)
def test_gpqa_by_hand(gpqa, response, finish, paper, robust):
    assert scores(gpqa, gpqa.problems[0], response, finish) == {"paper": paper, "robust": robust}


def test_gpqa_without_the_file_or_a_column_says_what_to_do(tmp_path):
    with pytest.raises(TaskError, match="hf auth login"):
        tasks.load("gpqa_diamond", data=tmp_path / "none.csv")
    (tmp_path / "g.csv").write_text("Question,Correct Answer\nq,a\n")
    with pytest.raises(TaskError, match="question 1 has no Incorrect Answer 1, Incorrect Answer 2"):
        tasks.load("gpqa_diamond", data=tmp_path / "g.csv")


# ── IFEval ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ifeval_passes_the_published_number_of_gpt4_responses_every_time():
    benchmark = real_checkers()
    rows = map(json.loads, (DATA / "ifeval/ifeval_gpt4_responses.jsonl").read_text().splitlines())
    responses = {row["prompt"]: row["response"] for row in rows}
    answered = [problem for problem in benchmark.problems if problem.question in responses]

    def passed():
        paper = benchmark.gradings["paper"]
        grades = (paper(problem, read(responses[problem.question], opened=False)) for problem in answered)
        return [problem.id for problem, grade in zip(answered, grades, strict=True) if grade.score]

    first = passed()
    assert len(answered) == 540
    assert 415 <= len(first) <= 417
    assert passed() == first


@pytest.mark.parametrize(
    ("response", "finish", "paper", "robust"),
    [
        ("Let me see, commas, yes.</think>A trip without them", "stop", 1, 1),
        ("no comma here</think>A trip, with one", "stop", 0, 0),
        ("Let me see, commas, yes", "stop", 0, 0),  # an unclosed monologue is graded as the answer
        ("a monologue without one and", "length", 1, 0),
        ("Let me see, commas<tool_call>A trip without them", "stop", 0, 1),
        ("hm</think>", "stop", 0, 0),
        ("", "stop", 0, 0),
    ],
)
def test_ifeval_by_hand(response, finish, paper, robust):
    benchmark = real_checkers()
    problem = next(one for one in benchmark.problems if one.metadata["instruction_id_list"] == ["punctuation:no_comma"])
    assert scores(benchmark, problem, response, finish) == {"paper": (paper, None), "robust": (robust, None)}


CHECKERS = """
import random
from collections import namedtuple
Seen = namedtuple("Seen", "follow_all_instructions")
class instructions_registry:
    INSTRUCTION_DICT = {"a:b": None}
def test_instruction_following_strict(example, response):
    return Seen(response == str(random.random()) and example.kwargs == [{"n": 1}])
"""
FAKES = {
    "langdetect.py": "class DetectorFactory: seed = None\n",
    "nltk.py": "class data:\n    def find(name): assert name == 'tokenizers/punkt_tab/english'\n",
    "immutabledict.py": "",
    "lm_eval/__init__.py": "",
    "lm_eval/tasks/__init__.py": "raise ImportError('the whole harness')\n",
    "lm_eval/tasks/ifeval/__init__.py": "",
    "lm_eval/tasks/ifeval/utils.py": CHECKERS,
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Give a folder with stand-ins for the checkers' packages, for here and for the worker."""
    for name, content in FAKES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "in.jsonl").write_text(
        '{"key": 7, "prompt": "P", "instruction_id_list": ["a:b"], "kwargs": [{"n": 1}]}\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] in ("lm_eval", "nltk", "langdetect")]:
        monkeypatch.delitem(sys.modules, name)
    ifeval._CHECKERS.close()
    yield tmp_path
    ifeval._CHECKERS.close()


def test_ifeval_loads_the_checkers_alone_and_seeds_them_by_prompt(stand_in):
    import random

    benchmark = tasks.load("ifeval", data=stand_in / "in.jsonl")
    right = f"hm</think>{random.Random(7).random()}"
    for _ in range(2):
        assert scores(benchmark, benchmark.problems[0], right)["paper"] == (1, None)
    assert scores(benchmark, benchmark.problems[0], "hm</think>0.5")["paper"] == (0, None)
    strange = replace(benchmark.problems[0], metadata={"instruction_id_list": ["a:b", "c:d"], "kwargs": [{}, {}]})
    with pytest.raises(TaskError, match="no checker for c:d"):
        scores(benchmark, strange, "hm</think>0.5")


def test_ifeval_does_not_start_with_checkers_that_do_not_load(stand_in):
    (stand_in / "langdetect.py").write_text("import os; os._exit(1)")
    with pytest.raises(TaskError, match="checkers do not load"):
        tasks.load("ifeval", data=stand_in / "in.jsonl")


def test_ifeval_without_nltk_data_names_the_command(stand_in):
    (stand_in / "nltk.py").write_text("class data:\n    def find(name): raise LookupError(name)\n")
    with pytest.raises(TaskError, match=r"punkt_tab[\s\S]*-m nltk.downloader punkt_tab"):
        tasks.load("ifeval", data=stand_in / "in.jsonl")


def test_a_grader_that_is_not_installed_says_what_installs_it(monkeypatch):
    monkeypatch.setattr("interpole.packages.find_spec", lambda _: None)
    with pytest.raises(TaskError, match=r"lm_eval[\s\S]*interpole\[ifeval\]"):
        tasks.load("ifeval")
    with pytest.raises(TaskError, match=r"math_verify[\s\S]*pip install math_verify"):
        tasks.load("aime25")


# ── arithmetic, the guard, benchmarks at large ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("response", "finish", "expected"),
    [
        ("63", "stop", (1, "63")),
        ("<think>\n34 a-1=33\n</think>\n\n63<|im_end|>", "stop", (1, "63")),
        ("<think>63</think>62", "stop", (0, "62")),
        ("34 a-1=33\n\n63", "stop", (0, None)),
        ("<think>\n63", "stop", (0, None)),
        ("<think>\n63", "length", (0, None)),
        ("063", "stop", (0, "063")),
        ("", "stop", (0, None)),
    ],
)
def test_arithmetic_by_hand(response, finish, expected):
    benchmark = tasks.load("arithmetic", limit=12)
    problem = Problem("1", "34 a-1 b-5 c*2 d-2 e+9 = ?", "63")
    assert scores(benchmark, problem, response, finish, opened=False) == {"exact": expected}


def test_arithmetic_problems_are_balanced_and_depend_on_split_and_seed_only():
    benchmark = tasks.load("arithmetic", limit=12)
    assert [problem.difficulty for problem in benchmark.problems] == [*"123456"] * 2
    assert benchmark.problems == tasks.load("arithmetic", limit=24).problems[:12]
    validation = tasks.load("arithmetic", limit=60, split="validation").problems
    assert not {problem.id for problem in benchmark.problems} & {problem.id for problem in validation}
    assert benchmark.problems != tasks.load("arithmetic", limit=12, seed=1).problems
    assert benchmark.prompt(benchmark.problems[0]) == benchmark.problems[0].question


WORKER = """
import os, time
from interpole.guarded import serve
from interpole.errors import TaskError
def answer(question):
    print("noise")
    match question["do"]:
        case "die": os._exit(3)
        case "hang": time.sleep(60)
        case "eat": return {"size": len(bytearray(64 * 2**30))}
        case "refuse": raise TaskError("cannot work", remedy="do this")
        case "deep": return answer(question)
    return {"echo": question["do"]}
serve(answer)
"""


def test_the_guard_outlives_whatever_its_worker_does(tmp_path):
    (tmp_path / "the_worker.py").write_text(WORKER)
    guard = Guarded(tmp_path / "the_worker.py", limit_seconds=1.0)
    assert guard.ask(do="é\n") == {"echo": "é\n"}
    assert guard.ask(do="die") is None
    start = time.monotonic()
    assert guard.ask(do="hang") is None
    assert 0.9 < time.monotonic() - start < 60
    assert guard.ask(do="eat") == {}
    assert guard.ask(do="deep") == {}
    with pytest.raises(TaskError, match=r"cannot work[\s\S]*do this"):
        guard.ask(do="refuse")
    assert guard.ask(do="x" * 1_000_000) == {"echo": "x" * 1_000_000}
    guard.close()


def test_a_worker_that_cannot_start_is_an_error_with_its_command(tmp_path):
    (tmp_path / "no_worker.py").write_text("raise SystemExit(1)")
    with pytest.raises(TaskError, match=r"does not start[\s\S]*no_worker\.py"):
        Guarded(tmp_path / "no_worker.py", limit_seconds=1.0).ask(do="x")


def test_a_failed_generation_is_not_graded():
    benchmark = tasks.load("arithmetic", limit=1)
    seen = read(benchmark.problems[0].answer, "error")
    assert seen.outcome is Outcome.FAILED
    assert benchmark.grade(benchmark.problems[0], seen) == {"exact": (0.0, None)}


def test_problems_at_hand_are_used_instead_of_data(gpqa):
    again = tasks.load("gpqa_diamond", problems=gpqa.problems[:2])
    assert again.problems == gpqa.problems[:2]


def test_options_a_task_has_no_use_for_are_refused():
    with pytest.raises(TaskError, match="grader, prompt given, but aime25 takes none"):
        tasks.load("aime25", grader="exact", prompt="{question}")
    with pytest.raises(TaskError, match="no task 'aime24'"):
        tasks.load("aime24")


def test_a_profile_sets_what_the_paper_set():
    paper = tasks.profile("paper-4b")
    assert (paper.instruct, paper.thinking) == ("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Thinking-2507")
    assert paper.k == {"aime25": 64, "ifeval": 8, "gpqa_diamond": 8}
    assert paper.sampler("aime25", 0.4) == Sampler(0.6, 0.95, 20, 81_920)
    assert paper.sampler("ifeval", 0.0) == Sampler(0.7, 0.8, 20, 65_536)
    assert tasks.profile("paper-30b").instruct == "Qwen/Qwen3-30B-A3B-Instruct-2507"
    with pytest.raises(TaskError, match="paper-4b, paper-30b"):
        tasks.profile("paper-8b")


def test_a_profiles_points_are_those_of_the_papers_table():
    table = (TABLES / "table2_qwen3_4b.csv").read_text()
    printed = {float(line.split(",")[1]) for line in table.splitlines()[1:] if line.split(",")[1]}
    assert set(tasks.profile("paper-4b").lams) == printed
