"""Tasks of one's own: a jsonl with each grader, errors with their line, any Inspect task."""

import json

import pytest

from interpole import tasks
from interpole.chat import Markers, trace
from interpole.errors import TaskError
from interpole.records import Problem

QWEN = Markers("<think>", "</think>")


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows, name="mine.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return write_rows


def score(benchmark, response, number=0):
    (grade,) = benchmark.grade(benchmark.problems[number], trace(f"hm</think>{response}", "stop", QWEN)).values()
    return grade


def test_a_jsonl_needs_question_and_answer_only(write):
    benchmark = tasks.load(write({"question": "Capital of France?", "answer": "Paris"}))
    assert (benchmark.name, list(benchmark.gradings), benchmark.k) == ("mine", ["exact"], 1)
    (problem,) = benchmark.problems
    assert benchmark.prompt(problem) == "Capital of France?"
    assert problem.id == tasks.load(write("", {"question": "Capital of France?", "answer": "x"})).problems[0].id
    assert score(benchmark, "Well.\n**Answer:**  paris.") == (1, "paris")
    assert score(benchmark, "Paris, of course") == (0, "Paris, of course")


def test_id_choices_difficulty_and_other_fields_are_kept(write):
    row = {"id": 7, "question": "Sky?", "answer": "blue", "choices": ["red", "blue"], "difficulty": 3, "source": "me"}
    benchmark = tasks.load(write(row))
    assert benchmark.problems == (Problem("7", "Sky?", "B", ("red", "blue"), "3", {"source": "me"}),)
    assert benchmark.prompt(benchmark.problems[0]).endswith("Sky?\n\nA) red\nB) blue")
    assert "one of AB." in benchmark.prompt(benchmark.problems[0])
    assert score(benchmark, "ANSWER: B") == (1, "B")
    assert score(benchmark, "ANSWER: C") == (0, None)


def test_numbers_are_graded_as_mathematics(write):
    pytest.importorskip("math_verify")
    benchmark = tasks.load(write({"question": "Half?", "answer": 0.5}, {"question": "Six?", "answer": "6"}))
    assert list(benchmark.gradings) == ["math"]
    assert benchmark.prompt(benchmark.problems[1]).startswith("Six?\nPlease reason step by step")
    assert score(benchmark, r"\boxed{\frac{1}{2}}").score == 1
    assert score(benchmark, r"\boxed{5}", number=1) == (0, "5")


def test_regex_searches_the_final_text_and_its_group_is_the_answer(write):
    benchmark = tasks.load(write({"question": "When?", "answer": r"in (19\d\d)"}), grader="regex")
    assert score(benchmark, "It was in 1989, yes.") == (1, "1989")
    assert score(benchmark, "It was in 2001.") == (0, None)


def test_a_function_of_the_users_grades(write, tmp_path):
    (tmp_path / "my_graders_1.py").write_text(
        "def length(response, answer):\n    return min(len(response) / int(answer), 1)\ndef bad(*_):\n    return 'yes'\n"
    )
    path = write({"question": "Write ten letters", "answer": "10"})
    benchmark = tasks.load(path, grader="python:my_graders_1.length", prompt="Please: {question}!")
    assert list(benchmark.gradings) == ["python"]
    assert benchmark.prompt(benchmark.problems[0]) == "Please: Write ten letters!"
    assert score(benchmark, "hello").score == 0.5
    with pytest.raises(TaskError, match=r"gave 'yes' for problem"):
        score(tasks.load(path, grader="python:my_graders_1.bad"), "x")
    with pytest.raises(TaskError, match=r"no grader python:my_graders_1.none"):
        tasks.load(path, grader="python:my_graders_1.none")


@pytest.mark.parametrize(
    ("row", "grader", "message"),
    [
        ("{oops", None, "not JSON"),
        ("[1]", None, "not an object"),
        ({"question": "Q", "anwser": "A"}, None, r"question, anwser"),
        ({"question": " ", "answer": "A"}, None, "needs a question"),
        ({"question": "Q", "answer": ["A"]}, None, "needs a question .* and an answer"),
        ({"question": "Q", "answer": "A", "choices": "AB"}, None, "choices must be a list"),
        ({"question": "Q", "answer": "green", "choices": ["red", "blue"]}, "choice", "'green' is none of the choices"),
        ({"question": "Q", "answer": "("}, "regex", "no regular expression"),
    ],
)
def test_an_unusable_row_is_named_by_its_line(write, row, grader, message):
    with pytest.raises(TaskError, match=rf"{message}[\s\S]*mine.jsonl:3"):
        tasks.load(write({"question": "Good?", "answer": "A", "choices": ["yes", "no"]}, "", row), grader=grader)


def test_what_does_not_fit_a_jsonl_is_refused(write, tmp_path):
    path = write({"question": "Q", "answer": "A"})
    for options, message in [
        ({"grader": "llm"}, "graders are: math, choice, exact, regex, python:"),
        ({"prompt": "Hello"}, "put {question} in it"),
        ({"split": "test"}, "split given"),
    ]:
        with pytest.raises(TaskError, match=message):
            tasks.load(path, **options)
    with pytest.raises(TaskError, match="two problems have the id '1'"):
        tasks.load(write({"id": 1, "question": "Q", "answer": "A"}, {"id": "1", "question": "R", "answer": "A"}))
    with pytest.raises(TaskError, match="no problems"):
        tasks.load(write(""))
    with pytest.raises(TaskError, match="cannot read the problems"):
        tasks.load(str(tmp_path / "none.jsonl"))


def test_problems_at_hand_are_graded_without_the_file(tmp_path):
    known = [Problem("7", "Sky?", "B", ("red", "blue"))]
    benchmark = tasks.load(str(tmp_path / "gone.jsonl"), problems=known)
    assert score(benchmark, "ANSWER: B") == (1, "B")


INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate

@task
def capitals():
    dataset = [Sample(input="France?", target="Paris"), Sample(id="it", input="Italy?", target="Rome")]
    return Task(dataset=dataset, solver=generate(), scorer=[includes(), match()])

@task
def other():
    return Task(dataset=[Sample(input="x", target="y")], solver=generate())
"""


def test_an_inspect_task_of_a_file_is_loaded_by_name(tmp_path):
    pytest.importorskip("inspect_ai")
    (tmp_path / "their_tasks.py").write_text(INSPECT_TASK)
    benchmark = tasks.load(f"{tmp_path}/their_tasks.py@capitals")
    assert (benchmark.name, [problem.id for problem in benchmark.problems]) == ("capitals", ["1", "it"])
    assert benchmark.problems[1].answer == "Rome"
    assert len(tasks.load(f"{tmp_path}/their_tasks.py@capitals", limit=1).problems) == 1


def test_an_inspect_task_that_is_not_there_or_not_one_is_an_error(tmp_path):
    pytest.importorskip("inspect_ai")
    (tmp_path / "their_tasks.py").write_text(INSPECT_TASK)
    with pytest.raises(TaskError, match="Inspect finds 2 tasks: capitals, other"):
        tasks.load(f"{tmp_path}/their_tasks.py")
    with pytest.raises(TaskError, match=r"their_tasks\.py@none"):
        tasks.load(f"{tmp_path}/their_tasks.py@none")
    with pytest.raises(TaskError, match="inspect_evals/none"):
        tasks.load("inspect_evals/none")
