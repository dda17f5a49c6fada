"""Which λ a request asks for."""

import json
import math

import pytest

from interpole.errors import AnalysisError, RecipeError
from interpole.serve.errors import RequestError
from interpole.serve.levels import Level, Levels, choose, level_name, levels_of_run, parse_efforts

LEVELS = Levels(0.6, {"low": Level(0.4), "medium": Level(0.55, 900.0, 0.5), "high": Level(1.0)}, "pair")


@pytest.mark.parametrize(
    ("body", "lam", "effort"),
    [
        ({}, 0.6, None),
        ({"model": "pair"}, 0.6, None),
        ({"model": None, "lam": None, "reasoning_effort": None, "reasoning": None}, 0.6, None),
        ({"reasoning_effort": "low"}, 0.4, "low"),
        ({"reasoning": {"effort": "medium"}}, 0.55, "medium"),
        ({"reasoning": {"effort": None, "max_tokens": 20}}, 0.6, None),
        ({"reasoning_effort": "high", "reasoning": {"effort": "high"}}, 1.0, "high"),
        ({"output_config": {"effort": "high"}}, 1.0, "high"),
        ({"reasoning_effort": "none"}, 0.0, "none"),
        ({"model": "pair@0.55"}, 0.55, None),
        ({"model": "pair@.5"}, 0.5, None),
        ({"model": "pair@1"}, 1.0, None),
        ({"model": "pair:low"}, 0.4, "low"),
        ({"model": "pair:none"}, 0.0, "none"),
        ({"model": "pair:low", "reasoning_effort": "high"}, 0.4, "low"),
        ({"model": "pair@0.7", "reasoning": {"effort": "low"}}, 0.7, None),
        ({"model": "pair:high", "lam": 0.25}, 0.25, None),
        ({"lam": 0, "reasoning_effort": "high"}, 0.0, None),
        ({"lam": 1}, 1.0, None),
        ({"reasoning": {"enabled": False}}, 0.0, "none"),
        ({"reasoning": {"enabled": True}}, 0.6, None),
        ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, 0.0, "none"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, 0.0, "none"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, 0.6, None),
    ],
)
def test_lam_counts_before_the_model_before_the_effort_before_the_default(body, lam, effort):
    chosen = choose(body, LEVELS)
    assert (chosen.lam, chosen.effort) == (lam, effort)
    assert chosen.model_name == (body.get("model") or "pair")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        *(({"lam": lam}, "lam", "invalid_value") for lam in (-0.01, 1.01, math.nan, math.inf, 10**400)),
        *(({"lam": lam}, "lam", "invalid_type") for lam in (True, "0.5", [0.5], {"at": 1})),
        ({"model": 3}, "model", "invalid_type"),
        *(({"model": f"pair@{lam}"}, "model", "invalid_value") for lam in ("", "nan", "1.5", "-1", "1e-1", "½", "low")),
        *(({"model": f"pair:{effort}"}, "model", "invalid_value") for effort in ("", "LOW", "huge", "0.5")),
        *(({"model": name}, "model", "model_not_found") for name in ("", "gpt-4o", "pair2", "Pair", "a/pair", "pair ")),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"reasoning_effort": 3}, "reasoning_effort", "invalid_type"),
        ({"reasoning": "high"}, "reasoning", "invalid_type"),
        ({"reasoning": {"effort": "xhigh"}}, "reasoning.effort", "invalid_value"),
        ({"output_config": {"effort": "max"}}, "output_config.effort", "invalid_value"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort", "invalid_value"),
        (
            {"lam": 0.5, "reasoning_effort": "huge"},
            "reasoning_effort",
            "invalid_value",
        ),  # it does not count, and is wrong
        ({"lam": 2, "model": "pair:low"}, "lam", "invalid_value"),
        ({"reasoning": {"enabled": False, "effort": "huge"}}, "reasoning.effort", "invalid_value"),
    ],
)
def test_whatever_makes_no_sense_is_refused_and_named_also_where_it_would_not_count(body, param, code):
    with pytest.raises(RequestError) as caught:
        choose(body, LEVELS)
    error = caught.value.openai()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert caught.value.status == (404 if code == "model_not_found" else 400)
    assert len(error["message"]) < 300
    assert json.dumps(error)


def test_an_unknown_effort_says_which_there_are():
    with pytest.raises(RequestError, match="none, low, medium, high"):
        choose({"reasoning_effort": "xhigh"}, LEVELS)


def test_the_same_error_in_anthropics_schema_has_the_types_of_its_status():
    error = RequestError("too many", "rate_limit_error", None, "queue_full", status=429, retry_after_seconds=3)
    assert error.anthropic() == {"type": "error", "error": {"type": "rate_limit_error", "message": "too many"}}
    assert error.headers == {"Retry-After": "3"}
    wrong = RequestError("not so", param="lam")
    assert wrong.anthropic()["error"] == {"type": "invalid_request_error", "message": "lam: not so"}
    assert RequestError("broken", status=500).anthropic()["error"]["type"] == "api_error"


def test_efforts_are_written_as_name_and_lam():
    assert parse_efforts("low=0.4, medium=.6,high=1") == {"low": Level(0.4), "medium": Level(0.6), "high": Level(1.0)}
    for text in ("", "low", "low=", "low=2", "low=nan", "=0.4", "Low=0.4", "low=0.4,low=0.5", "low=0.4,,", "a b=1"):
        with pytest.raises(RecipeError):
            parse_efforts(text)


def test_levels_that_no_request_could_mean_are_refused():
    for wrong in (
        {"default": 1.5},
        {"default": math.nan},
        {"efforts": {"low": Level(2)}},
        {"efforts": {"none": Level(0.1)}},
        {"efforts": {"Low": Level(0.1)}},
        {"name": ""},
    ):
        with pytest.raises(RecipeError):
            Levels(**({"default": 0.5, "efforts": {}} | wrong))
    assert level_name(LEVELS.name, "low") == "pair:low"
    assert list(LEVELS.all) == ["none", "low", "medium", "high"]


CURVES = """lam,task,mean,tokens,think
0,t,0.10,10,0
0.4,t,0.30,40,0.5
0.6,t,0.56,70,0.97
0.8,t,0.62,90,1
1,t,0.60,120,1
"""


def test_a_run_names_levels_by_what_they_keep_of_thinkings_accuracy(tmp_path):
    curves = tmp_path / "curves.csv"
    curves.write_text(CURVES)
    levels = levels_of_run(curves)
    assert levels.efforts["low"] == Level(0.4, 40.0, 0.30)  # half of 0.60 and more, at the fewest tokens
    assert levels.efforts["medium"] == Level(0.6, 70.0, 0.56)  # 90 % of it is 0.54
    assert levels.efforts["high"] == Level(0.8, 90.0, 0.62)  # the most accurate
    assert levels.default == 0.6
    assert levels_of_run(curves, name="mine", default=0.3).default == 0.3


def test_a_run_without_thinking_itself_names_no_levels(tmp_path):
    curves = tmp_path / "curves.csv"
    curves.write_text("".join(line for line in CURVES.splitlines(True) if not line.startswith("1,")))
    with pytest.raises(AnalysisError, match="λ = 1 was not measured"):
        levels_of_run(curves)
