"""`name@auto`: which λ a policy chooses for a request, on every endpoint, and which policies are refused."""

import math
import re
from dataclasses import replace

import httpx
import pytest
from serving import PATIENCE_SECONDS, get, post

from graded import by_difficulty, sweep
from interpole.analysis.policies import Feature, FittedPolicy, Groups, Probe, Regression, known_of
from interpole.errors import AnalysisError, RecipeError, TaskError
from interpole.serve.auto import policy_for, question_of
from interpole.serve.errors import RequestError
from interpole.serve.levels import Levels, cards, choose, parse_efforts
from synthetic import write_run

LEVELS = Levels(0.6, parse_efforts("low=0.4,medium=0.6,high=1"), "pair")
SHORT, LONG = "3 a-1 = ?", "34 a-1 b-5 c*2 d+7 e-3 f*4 g-1 = ?"
LAMS = {SHORT: "0.2", LONG: "0.9"}


def policy(rule, **more):
    fitted = {"name": "mine", "price": 0.001, "tokens": 40.0, "accuracy": 0.8, "num_questions": 20, "rule": rule}
    return FittedPolicy(**fitted | more)


BY_LENGTH = policy(Groups(kind="groups", by="length", edges=(20.0,), lams=(0.2, 0.9, 0.5)))
AUTO = replace(LEVELS, auto=BY_LENGTH)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "why?"},
        {"prompt": ["why?"]},
        {"input": "why?"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "why?"}]}]},
        {"messages": [{"role": "user", "content": "no"}, {"role": "assistant"}, {"role": "user", "content": "why?"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "wh"}, {"type": "text", "text": "y?"}]}]},
        {"messages": [{"role": "user", "content": "why?"}, {"role": "user", "content": [{"type": "tool_result"}]}]},
    ],
)
def test_the_question_is_the_prompt_or_the_last_text_of_the_user(body):
    assert question_of(body) == "why?"


@pytest.mark.parametrize(
    "body", [{}, {"prompt": []}, {"prompt": [1]}, {"input": 3}, {"messages": [None, {"role": "user"}]}]
)
def test_what_has_no_text_has_no_question(body):
    assert question_of(body) == ""


def test_the_policy_counts_where_the_model_names_it_and_nothing_says_lam():
    def chosen(**body):
        found = choose({"prompt": SHORT} | body, AUTO)
        return found.lam, found.effort, found.model_name

    assert chosen(model="pair@auto") == (0.2, "auto", "pair@auto")
    assert chosen(model="pair@auto", prompt=LONG, reasoning_effort="none") == (0.9, "auto", "pair@auto")
    assert chosen(model="pair@auto", lam=0.3) == (0.3, None, "pair@auto")
    assert chosen(model="pair") == (0.6, None, "pair")
    for body, levels, what in (
        ({"prompt": [SHORT, LONG]}, AUTO, "one prompt, not for 2"),
        ({}, LEVELS, "start the server with --auto"),
    ):
        with pytest.raises(RequestError, match=what):
            choose(body | {"model": "pair@auto"}, levels)


def test_it_is_listed_with_what_it_may_choose_and_what_to_expect():
    (found,) = [one for one in cards(AUTO, {}) if one["id"] == "pair@auto"]
    assert (found["lam"], found["lams"], found["policy"]) == (None, [0.2, 0.5, 0.9], "mine")
    assert (found["expected_tokens"], found["expected_accuracy"]) == (40.0, 0.8)
    assert not [one for one in cards(LEVELS, {}) if "auto" in one["id"]]
    with pytest.raises(RecipeError, match="auto"):
        replace(LEVELS, efforts={"auto": LEVELS.efforts["low"]})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A sweep in which hard questions need thought."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, sweep(by_difficulty, 40))
    return folder


# ── which policies ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_policy_is_read_from_a_file_or_fitted_to_a_run_by_the_questions_alone(tmp_path, run):
    BY_LENGTH.save(tmp_path / "mine.json")
    assert policy_for(str(tmp_path / "mine.json"), None, margins=False) == BY_LENGTH
    for name in ("by length", "logistic", "two modes"):
        found = policy_for(name, run, margins=False)
        assert (found.name, set(found.needs) <= {"length", "figures"}) == (name, True)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("by difficulty", "goes by the task's difficulty"),
        ("cascade", "several answers"),
        ("ends disagree", "several answers"),
        ("oracle", "cannot be followed"),
        ("no such", "no policy"),
    ],
)
def test_a_policy_that_needs_what_no_request_says_is_refused_with_the_reason(run, name, what):
    with pytest.raises(AnalysisError, match=what):
        policy_for(name, run, margins=True)


def test_files_are_checked_as_well_and_a_name_needs_a_run(tmp_path):
    far = Groups(kind="groups", by="length", edges=(20.0,), lams=(0.2, 1.2, 0.5))
    margin = policy(Groups(kind="groups", by="margin", edges=(0.0,), lams=(0.2, 0.8, 0.5)), margin_at=0.5)
    probe = Probe(kind="probe", first=(0.1, 0.1), then=0.9)
    features = Feature(name="difficulty", centre=1.0, scale=1.0)
    model = Regression(kind="model", features=(features,), lams=(0.5,), right=((0, 0),), tokens=((0, 0),), price=0.0)
    for one, what in (
        (policy(far), "outside of 0 to 1"), (margin, "--engine transformers does"), (policy(probe), "several answers"),
        (policy(model), "task's difficulty"),
    ):  # fmt: skip
        one.save(tmp_path / "it.json")
        with pytest.raises(AnalysisError, match=what):
            policy_for(str(tmp_path / "it.json"), None, margins=False)
    margin.save(tmp_path / "it.json")
    assert policy_for(str(tmp_path / "it.json"), None, margins=True) == margin
    with pytest.raises(RecipeError, match="nothing to fit"):
        policy_for("by length", None, margins=True)
    with pytest.raises(AnalysisError, match="cannot read"):
        policy_for(str(tmp_path / "missing.json"), None, margins=True)


# ── served ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def follows(pair_server, monkeypatch):
    """Has the server of the session follow a policy."""
    return lambda one: monkeypatch.setattr(
        pair_server, "served", replace(pair_server.served, levels=replace(LEVELS, auto=one))
    )


def bodies(question):
    messages = [{"role": "user", "content": question}]
    return {
        "chat/completions": {"messages": messages},
        "completions": {"prompt": question},
        "responses": {"input": question, "max_tokens": None, "max_output_tokens": 2},
        "messages": {"messages": messages},
    }


def auto_requests(address):
    found = re.findall(r'^interpole_auto_requests_total{lam="(\S+)"} (\S+)$', get(f"{address}/metrics").text, re.M)
    return {lam: float(value) for lam, value in found}


def test_every_endpoint_answers_at_the_lam_that_the_policy_chooses_for_its_question(address, follows):
    follows(BY_LENGTH)
    before = auto_requests(address)
    for question, lam in LAMS.items():
        for path, body in bodies(question).items():
            reply = post(f"{address}/v1/{path}", json={"model": "pair@auto", "max_tokens": 2} | body)
            assert (reply.status_code, reply.headers["x-interpole-lambda"]) == (200, lam), reply.text
            assert reply.json()["model"] == "pair@auto"
    after = auto_requests(address)
    assert [after[f"{float(lam):.2f}"] - before.get(f"{float(lam):.2f}", 0) for lam in LAMS.values()] == [4, 4]
    card = get(f"{address}/v1/models/pair@auto").json()
    assert (card["id"], card["lams"], card["system_fingerprint"][:9]) == ("pair@auto", [0.2, 0.5, 0.9], "lam=auto;")


def margin_by_logprobs(address, question, lam):
    """Log odds of `<think>` as the first token, from the log-probabilities that completions tell."""
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    body = {"prompt": prompt, "lam": lam, "max_tokens": 1, "logprobs": 20, "temperature": 0}
    (top,) = post(f"{address}/v1/completions", json=body).json()["choices"][0]["logprobs"]["top_logprobs"]
    own = top["<think>"]
    return own - math.log(-math.expm1(own))


@pytest.mark.parametrize("stream", [False, True])
def test_a_policy_by_the_first_token_asks_the_engine_first(address, follows, stream):
    at = 0.55
    margins = {question: margin_by_logprobs(address, question, at) for question in (SHORT, LONG)}
    low, high = sorted(margins, key=margins.get)
    assert margins[high] - margins[low] > 0.01
    edge = (margins[low] + margins[high]) / 2
    follows(policy(Groups(kind="groups", by="margin", edges=(edge,), lams=(0.15, 0.85, 0.5)), margin_at=at))
    for question, lam in ((low, "0.15"), (high, "0.85")):
        body = {"model": "pair@auto", "max_tokens": 2, "stream": stream} | bodies(question)["chat/completions"]
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=PATIENCE_SECONDS) as reply:
            reply.read()
        assert (reply.status_code, reply.headers["x-interpole-lambda"]) == (200, lam)
    reply = post(f"{address}/v1/chat/completions", json={"model": "pair@auto", "messages": "no"})
    assert reply.json()["error"]["param"] == "messages"


def test_a_first_token_that_does_not_come_in_time_is_an_error(address, pair_server, follows, monkeypatch):
    follows(policy(Groups(kind="groups", by="margin", edges=(0.0,), lams=(0.15, 0.85, 0.5)), margin_at=0.5))
    monkeypatch.setattr(pair_server, "limits", replace(pair_server.limits, timeout_seconds=0.0))
    reply = post(f"{address}/v1/chat/completions", json={"model": "pair@auto"} | bodies(SHORT)["chat/completions"])
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")


def test_a_policy_by_the_first_token_is_refused_where_the_prompt_opens_the_thinking(pair_server, monkeypatch):
    from interpole.serve import run

    opening = replace(pair_server.served.forms[1], prompt_opens_thinking=True)
    served = replace(pair_server.served, forms=(pair_server.served.forms[0], opening))
    monkeypatch.setattr(run, "serve_pair", lambda *_, **__: served)
    levels = replace(
        LEVELS, auto=policy(Groups(kind="groups", by="margin", edges=(0.0,), lams=(0, 1, 0)), margin_at=0.5)
    )
    with pytest.raises(TaskError, match="the prompt opens the thinking"):
        run.server_of(pair_server.driver._engine, levels, run.Options())


def test_what_is_known_of_a_question_is_what_the_policy_was_fitted_to():
    asked = {"model": "pair@auto", "messages": [{"role": "user", "content": LONG}]}
    assert choose(asked, AUTO).lam == BY_LENGTH.choose(known_of(LONG)).first[0]
