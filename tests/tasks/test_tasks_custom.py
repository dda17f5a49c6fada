"""Tasks of one's own: a jsonl with each grader, errors with their line, any Inspect task."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interpole import tasks
from interpole.chat import Markers, parse_response
from interpole.errors import InterpoleWarning, TaskError
from interpole.records import Problem
from interpole.tasks import grading

QWEN = Markers("<think>", "</think>")


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows, name="mine.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return write_rows


def score(benchmark, response, number=0):
    (grade,) = benchmark.grade(
        benchmark.problems[number], parse_response(f"hm</think>{response}", "stop", QWEN)
    ).values()
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


def test_an_error_in_a_function_of_the_users_is_named_with_its_place(write, tmp_path):
    (tmp_path / "my_graders_2.py").write_text(
        "def fails(response, answer):\n    return 1 / 0\ndef one(response):\n    return 1\n"
        "def cancelled(response, answer):\n    import asyncio\n    raise asyncio.CancelledError\n"
        "def large(response, answer):\n    return 10**400\n"
    )
    (tmp_path / "my_graders_3.py").write_text("def oops(:\n")
    (tmp_path / "string.py").write_text("def mine(response, answer):\n    return 1\n")
    path = write({"question": "Q", "answer": "10"})
    with pytest.raises(TaskError, match=r"failed for problem '\w+': ZeroDivisionError[\s\S]*my_graders_2.py:2"):
        score(tasks.load(path, grader="python:my_graders_2.fails"), "x")
    with pytest.raises(TaskError, match=r"failed for problem '\w+': CancelledError[\s\S]*my_graders_2.py:7"):
        score(tasks.load(path, grader="python:my_graders_2.cancelled"), "x")
    with pytest.raises(TaskError, match=r"gave 10+ for problem"):
        score(tasks.load(path, grader="python:my_graders_2.large"), "x")
    for name, message in [
        ("my_graders_2.one", "cannot be called with"),
        ("my_graders_3.oops", "SyntaxError"),
        ("string.mine", "no grader|is taken from"),
        ("fails", "no grader python:fails"),
    ]:
        with pytest.raises(TaskError, match=message):
            tasks.load(path, grader=f"python:{name}")


@pytest.mark.parametrize(
    ("row", "grader", "message"),
    [
        ("{oops", None, "not valid JSON"),
        ("[1]", None, "not an object"),
        ('{"question": "Q", "answer": "1", "answer": "2"}', None, "the key 'answer' stands twice"),
        ({"question": "Q", "anwser": "A"}, None, r"question, anwser"),
        ({"question": " ", "answer": "A"}, None, "question: it is blank"),
        ({"question": ["Q"], "answer": "A"}, None, "question: expected a text, found a list"),
        ({"question": "Q", "answer": ["A"]}, None, "answer: expected a text or a number, found a list"),
        ({"question": "Q", "answer": True}, None, "answer: expected a text or a number, found true"),
        ({"question": "Q", "answer": "A", "choices": "AB"}, None, "choices: expected a list of texts, found a text"),
        ({"question": "Q", "answer": "A", "choices": ["a", 3]}, None, "choices.1: expected a text, found the number 3"),
        ({"question": "Q", "answer": "A", "choices": ["a"] * 27}, None, "choices: .*26"),
        ({"question": "Q", "answer": "A", "id": {}}, None, "id: expected a text or a number, found an object"),
        ({"question": "Q", "answer": "A", "difficulty": [1]}, None, "difficulty: expected a text or a number"),
        ('{"question": "Q", "answer": NaN}', None, "'answer': NaN and Infinity are no JSON numbers"),
        ('{"question": "Q", "answer": 1e999}', None, "'answer': NaN and Infinity"),
        ('{"question": "Q", "answer": "A", "more": ' + "[" * 90 + "]" * 90 + "}", None, "more than 64 levels"),
        ('{"question": "Q", "answer": "A", "more": ' + "[" * 200_000, None, "nested too deep"),
        ({"question": "Q", "answer": "B", "choices": ["B", "C"]}, "choice", "may mean A or B"),
        ({"question": "Q", "answer": " ", "choices": ["x"]}, "exact", "answer: it is blank"),
        ({"question": "Q", "answer": ""}, "regex", "answer: it is blank"),
        ({"question": "Q", "answer": "a{1,99999999999}"}, "regex", "no regular expression"),
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
        ({"grader": ""}, "no grader ''"),
        ({"limit": 0}, "the limit is 0"),
        ({"limit": -1}, "the limit is -1"),
    ]:
        with pytest.raises(TaskError, match=message):
            tasks.load(path, **options)
    with pytest.raises(TaskError, match=r"two problems have the id '1'[\s\S]*mine.jsonl:1 and .*mine.jsonl:2"):
        tasks.load(write({"id": 1, "question": "Q", "answer": "A"}, {"id": "1", "question": "R", "answer": "A"}))
    with pytest.raises(TaskError, match="no problems"):
        tasks.load(write(""))
    with pytest.raises(TaskError, match="cannot read the problems"):
        tasks.load(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r"])
def test_a_line_ends_at_a_newline_only(tmp_path, mark):
    rows = [{"question": f"{number}{mark}?", "answer": "A"} for number in (1, 2)]
    lines = [json.dumps(row, ensure_ascii=mark < "\x20") + "\r\n\r\n" for row in rows]
    (tmp_path / "lines.jsonl").write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    benchmark = tasks.load(str(tmp_path / "lines.jsonl"))
    assert [problem.question for problem in benchmark.problems] == [f"1{mark}?", f"2{mark}?"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "Q", "answer": "A"}\n{"question": "\xe9", "answer": "A"}', "0xe9, is not UTF-8.*\n.*q.jsonl:2"),
        ('{"question": "Q", "answer": "A"}'.encode("utf-16"), "UTF-16"),
        (b'{"question": "' + b"x" * 17_000_000 + b'", "answer": "A"}', "more than 16 MiB"),
    ],
)
def test_a_file_that_is_no_utf8_or_endless_is_refused(tmp_path, content, message):
    (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(TaskError, match=message):
        tasks.load(str(tmp_path / "q.jsonl"))


@pytest.mark.parametrize("answer", ["\x0crac{1}{2}", "\x08eta", "   ", r"\frac{1}{"])
def test_a_reference_that_no_response_can_equal_is_refused(write, answer):
    pytest.importorskip("math_verify")
    with pytest.raises(TaskError, match=r"answer[\s\S]*mine.jsonl:1"):
        tasks.load(write({"question": "Half?", "answer": answer}), grader="math")


def test_a_row_that_changes_the_grader_is_named(write):
    rows = [{"question": f"{number}?", "answer": number} for number in range(9)]
    with pytest.warns(
        InterpoleWarning, match="graded by `exact`, not by `math`: line 10 of 10 has an answer that is no number"
    ):
        benchmark = tasks.load(write(*rows, {"question": "odd?", "answer": "n/a"}))
    assert list(benchmark.gradings) == ["exact"]
    both = [{"question": f"{number}?", "answer": "x", "choices": ["x", "y"]} for number in range(3)]
    with pytest.warns(InterpoleWarning, match="not by `choice`: line 4 of 4 has no choices"):
        tasks.load(write(*both, {"question": "odd?", "answer": "x"}))


def test_nothing_is_said_where_the_grader_is_given_or_all_rows_agree(write, recwarn):
    tasks.load(write({"question": "1?", "answer": 1}, {"question": "2?", "answer": "x"}), grader="exact")
    tasks.load(write({"question": "1?", "answer": "y"}, {"question": "2?", "answer": "x"}))
    assert not recwarn.list


def test_numbers_are_written_out_and_letters_may_be_small(write):
    benchmark = tasks.load(write({"id": 1e22, "question": "Big?", "answer": 1e-7}), grader="exact")
    assert (benchmark.problems[0].id, benchmark.problems[0].answer) == ("1" + "0" * 22, "0.0000001")
    assert tasks.load(write({"question": "Q", "answer": " b", "choices": ["x", "y"]})).problems[0].answer == "B"


def test_a_pattern_that_backtracks_for_ever_costs_one_answer(write, monkeypatch):
    monkeypatch.setattr(grading._REGEX, "limit_seconds", 0.5)
    benchmark = tasks.load(write({"question": "Q", "answer": r"^(\w|\w\w)+:$"}), grader="regex")
    assert score(benchmark, "a" * 90) == (0, None)
    assert score(benchmark, "ab:") == (1, "b")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
rows = st.dictionaries(st.sampled_from(["question", "answer", "id", "choices", "difficulty", "x"]), values, max_size=6)
lines = (
    rows.map(lambda row: json.dumps(row).encode())
    | st.binary(max_size=40)
    | values.map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=4).map(b"\n".join))
def test_whatever_the_bytes_are_it_is_a_task_or_a_task_error_with_its_place(tmp_path, content):
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    said, problems = "", ()
    try:
        benchmark = tasks.load(str(path), grader="exact")
        problems = benchmark.problems
    except TaskError as error:
        said = str(error)
    assert problems or str(path) in said or "no problems" in said
    for problem in problems:
        assert json.loads(json.dumps(dict(problem.metadata), allow_nan=False)) == problem.metadata
        grade = benchmark.grade(problem, parse_response(problem.answer, "stop", QWEN))["exact"]
        assert grade.score == 1, problem


def test_an_answer_that_is_the_reference_is_right(write):
    references = [
        "U.S.",
        "$x",
        "__name__",
        "-",
        "'",
        '"',
        "a\nb",
        "Answer:",
        "The answer is no",
        "\\boxed{",
        "}",
        "\u0301",
        "Å",
        "…",
    ]
    benchmark = tasks.load(
        write(*({"question": f"{n}?", "answer": one} for n, one in enumerate(references))), grader="exact"
    )
    assert [score(benchmark, one, number).score for number, one in enumerate(references)] == [1] * len(references)


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
