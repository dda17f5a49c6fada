"""`interpole serve` before it serves: what is said of levels, keys and addresses, and what is refused."""

import json
import socket

import pytest
from typer.testing import CliRunner

from interpole.analysis.policies import FittedPolicy, Groups
from interpole.cli import app
from interpole.cli.serve import example, show_serving
from interpole.errors import AnalysisError, EngineError, OutputError, RecipeError
from interpole.lab import shipped
from interpole.serve.levels import Level, Levels

PAIR = shipped()
SERVE = ["serve", str(PAIR.instruct), str(PAIR.thinking)]


def refused(*words, **environment):
    return CliRunner().invoke(app, [*SERVE, *words], env=environment).exception


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["--effort", "low=2"], RecipeError, "no effort and λ from 0 to 1"),
        (["--effort", "low=0.4"], RecipeError, "medium"),
        (["--effort", "low=0.4", "--lambda", "1.5"], RecipeError, "cannot be served"),
        (["--effort", "low=0.4", "--from", "run"], RecipeError, "--effort and --from"),
        (["--auto", "by length"], RecipeError, "nothing to fit the policy 'by length' to"),
        (["--auto", "no-such.json"], AnalysisError, "cannot read the policy"),
        (["--api-key", "a", "--api-key-env", "B"], RecipeError, "--api-key and --api-key-env"),
        (["--api-key-env", "NOT_SET_ANYWHERE"], RecipeError, "not set"),
        (["--engine", "llama.cpp"], EngineError, "llama.cpp"),
        (["--", "--tensor-parallel-size", "2"], EngineError, "--tensor-parallel-size 2"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_loaded(words, kind, said):
    error = refused(*words)
    assert isinstance(error, kind)
    assert said in str(error)


def test_a_port_that_is_taken_is_named():
    pytest.importorskip("uvicorn")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        error = refused("--port", str(taken.getsockname()[1]), "--dtype", "float32")
    assert isinstance(error, OutputError)
    assert "cannot listen on 127.0.0.1" in str(error)


def test_the_lines_that_are_shown_never_hold_the_key():
    shown = example(Levels(0.5, {"low": Level(0.2)}, "mine"), "http://127.0.0.1:8000", has_key=True)
    assert 'api_key="…"' in shown
    assert "mine:low" in shown


def test_machines_are_told_where_it_listens_and_what_its_levels_are(capsys):
    levels = Levels(0.5, {"low": Level(0.2, 14.5, 0.4)}, "mine")
    show_serving(levels, "http://127.0.0.1:8000", has_key=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["address"], told["model"], told["default"]) == ("http://127.0.0.1:8000", "mine", 0.5)
    assert told["levels"]["none"]["lam"] == 0
    assert told["auto"] is None
    assert told["levels"]["low"] == {"lam": 0.2, "expected_tokens": 14.5, "expected_accuracy": 0.4}


def test_a_policy_stands_beside_the_levels_with_what_to_expect_of_it(capsys):
    rule = Groups(kind="groups", by="length", edges=(20.0,), lams=(0.25, 1.0, 0.5))
    policy = FittedPolicy(name="by length", rule=rule, price=0.001, tokens=41.7, accuracy=0.8, num_questions=20)
    levels = Levels(0.5, {"low": Level(0.2)}, "mine", policy)
    show_serving(levels, "http://127.0.0.1:8000", has_key=False)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "mine@auto" in line]
    assert all(part in row for part in ("0.25 to 1, by length", " 42 ", " 80.0 %"))
    show_serving(levels, "http://127.0.0.1:8000", has_key=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["auto"] == {"policy": "by length", "lams": [0.25, 0.5, 1.0]}
