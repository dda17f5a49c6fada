"""What the middleware makes of requests and of vLLM's responses; vLLM is played by a few lines."""

import asyncio
import json
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest

from interpole.analysis.policies import FittedPolicy, Groups
from interpole.engines.vllm_tally import note_closed
from interpole.errors import EngineError
from interpole.serve import vllm, vllm_middleware
from interpole.serve.errors import RequestError
from interpole.serve.levels import Level, Levels
from interpole.serve.page import headers, page
from interpole.serve.vllm_ending import Ending
from interpole.serve.vllm_middleware import CHAT, COMPLETIONS, MESSAGES, RESPONSES, LambdaMiddleware, rewritten

LEVELS = Levels(0.6, {"low": Level(0.4, 120.0, 0.5), "high": Level(1.0)}, "pair")
KNOWN = frozenset(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "max_tokens",
        "max_completion_tokens",
        "thinking_token_budget",
        "include_reasoning",
        "stream",
        "echo",
        "logprobs",
        "cache_salt",
        "vllm_xargs",
        "prompt_logprobs",
        "reasoning",
        "thinking",
        "output_config",
        "chat_template_kwargs",
        "user",
        "stop",
        "stop_sequences",
    ]
)
ASK = {"model": "pair", "messages": [{"role": "user", "content": "1+1"}]}


def of(path=CHAT, **fields):
    return rewritten(path, ASK | fields, LEVELS, KNOWN)[0]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "lam"),
    [
        ({}, 0.6),
        ({"lam": 0.25, "reasoning_effort": "high"}, 0.25),
        ({"model": "pair@0.55"}, 0.55),
        ({"model": "pair:low"}, 0.4),
        ({"reasoning_effort": "high"}, 1.0),
        ({"reasoning": {"effort": "low"}}, 0.4),
        ({"reasoning_effort": "none"}, 0.0),
    ],
)
def test_vllm_is_told_lambda_and_no_effort(fields, lam):
    body = of(**fields)
    assert body == {**ASK, "vllm_xargs": {"lam": lam}, "cache_salt": f"lam={lam}"}


def test_prefixes_of_two_lambdas_or_two_users_are_kept_apart():
    salts = [
        of(lam=lam, **salt)["cache_salt"]
        for lam in (0.2, 0.3)
        for salt in ({}, {"cache_salt": "a"}, {"cache_salt": "b" * 900})
    ]
    assert len(set(salts)) == len(salts)
    assert max(map(len, salts)) <= 128  # all that vLLM takes
    assert not set("@/\\\0") & set("".join(salts))


def test_what_openrouter_says_of_reasoning_goes_to_where_vllm_has_it():
    body = of(reasoning={"effort": "low", "max_tokens": 20, "exclude": True, "enabled": True}, max_tokens=100)
    assert (body["thinking_token_budget"], body["include_reasoning"]) == (20, False)
    assert "reasoning" not in body
    assert of(RESPONSES, reasoning={"effort": "low", "summary": "auto"})["reasoning"] == {"summary": "auto"}
    assert "thinking" not in of(MESSAGES, thinking={"type": "disabled"}, output_config={"effort": "low"})
    assert of(MESSAGES, thinking={"type": "enabled", "budget_tokens": 2000})["thinking"]["budget_tokens"] == 2000


def test_stop_strings_of_what_is_read_apart_are_for_the_answer():
    mark = vllm_middleware.STOPS_AT_ANSWER
    assert of(stop="x")["vllm_xargs"] == {"lam": 0.6, mark: "{}"}
    variables = {"enable_thinking": True}
    assert json.loads(of(stop=["x"], chat_template_kwargs=variables)["vllm_xargs"][mark]) == variables
    assert of(MESSAGES, stop_sequences=["x"])["vllm_xargs"] == {"lam": 0.6, mark: "{}"}
    for path, fields in ((CHAT, {}), (CHAT, {"stop": []}), (COMPLETIONS, {"stop": "x"})):
        assert of(path, **fields)["vllm_xargs"] == {"lam": 0.6}


def test_other_arguments_of_extensions_stay():
    assert of(vllm_xargs={"mine": 1})["vllm_xargs"] == {"mine": 1, "lam": 0.6}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"lam": 1.5}, "lam"),
        (CHAT, {"lam": True}, "lam"),
        (CHAT, {"lam": float("nan")}, "lam"),
        (CHAT, {"reasoning_effort": "huge"}, "reasoning_effort"),
        (CHAT, {"model": "other"}, "model"),
        (CHAT, {"prompt_logprobs": 1}, "prompt_logprobs"),
        (CHAT, {"use_beam_search": True}, "use_beam_search"),
        (COMPLETIONS, {"echo": True, "logprobs": 0}, "echo"),
        (CHAT, {"no_such_field": 1}, "no_such_field"),
        (CHAT, {"reasoning": {"depth": 3}}, "reasoning.depth"),
        (CHAT, {"reasoning": {"max_tokens": 3}, "thinking_token_budget": 4}, "reasoning.max_tokens"),
        (CHAT, {"thinking_token_budget": 50, "max_tokens": 50}, "thinking_token_budget"),
        (CHAT, {"vllm_xargs": {"lam": 0.5}}, "vllm_xargs"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_field(path, fields, param):
    with pytest.raises(RequestError) as caught:
        rewritten(path, ASK | fields, LEVELS, KNOWN)
    assert caught.value.param == param


def test_nulls_and_fields_without_effect_are_no_errors():
    body = of(metadata={"a": "b"}, store=True, lam=None, prompt_logprobs=None, use_beam_search=False, user="me")
    assert not body.keys() & {"metadata", "store", "lam", "prompt_logprobs"}
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}  # coding agents send it with every request
    assert "context_management" not in of(MESSAGES, context_management=edits)
    assert body["user"] == "me"


# ── through the application ──────────────────────────────────────────────────────────────────────────────────────


JSON = (b"content-type", b"application/json; charset=utf-8")


def sent(app, method, path, body=b"", headers=(JSON,), through=None):
    """Status, headers and body of a response to one request; what the application was given is its own to keep."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    halves = [data[: len(data) // 2], data[len(data) // 2 :]]
    messages = [{"type": "http.request", "body": half, "more_body": half is halves[0]} for half in halves]
    answer = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        answer.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"content-length", b"9"), *headers]}
    asyncio.run((through or LambdaMiddleware(app, LEVELS))(scope, receive, send))
    start, *rest = answer
    return start["status"], dict(start["headers"]), b"".join(part["body"] for part in rest)


def application(content, kind=b"application/json", status=200, usage=None, closed=()):
    """An application that gives these pieces, and keeps what it was asked; its `usage` and readers are told as vLLM does."""

    async def app(scope, receive, send):
        app.scope = scope
        for one in closed:
            note_closed(closed=one)
        if usage is not None:
            told = SimpleNamespace(final_usage_info=SimpleNamespace(model_dump=lambda: usage))
            scope["state"]["request_metadata"] = told
        if scope["method"] == "POST":
            app.body = json.loads((await receive())["body"])
        headers = [(b"content-type", kind), (b"content-length", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, piece in enumerate(content):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(content) - 1})

    return app


@pytest.fixture(autouse=True)
def _known_fields(monkeypatch):
    monkeypatch.setattr(vllm_middleware, "_fields", lambda _: KNOWN)
    monkeypatch.setattr(vllm_middleware, "_closing", lambda: "</think>")


def test_a_response_names_lambda_the_model_as_asked_and_thinking_twice():
    message = {"role": "assistant", "content": "2", "reasoning": "1 and 1"}
    app = application([json.dumps({"model": "pair", "choices": [{"message": message}]}).encode()])
    status, headers, body = sent(app, "POST", CHAT, ASK | {"model": "pair:low"})
    assert app.body["model"] == "pair"
    assert app.body["vllm_xargs"] == {"lam": 0.4}
    assert dict(app.scope["headers"])[b"content-length"] == str(len(json.dumps(app.body, ensure_ascii=False))).encode()
    assert (status, headers[b"x-interpole-lambda"], headers[b"content-length"]) == (
        200,
        b"0.4",
        str(len(body)).encode(),
    )
    found = json.loads(body)
    assert found["model"] == "pair:low"
    assert found["choices"][0]["message"] == message | {"reasoning_content": "1 and 1"}


def test_events_are_rewritten_wherever_they_are_cut():
    events = [{"model": "pair", "choices": [{"delta": {"reasoning": "é"}}]}, {"model": "pair", "choices": []}]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
    app = application([text[i : i + 7] for i in range(0, len(text), 7)], b"text/event-stream; charset=utf-8")
    _, headers, body = sent(app, "POST", CHAT, ASK | {"lam": 0.3, "stream": True})
    assert headers[b"x-interpole-lambda"] == b"0.3"
    assert b"content-length" not in headers
    first, second, done, end = body.decode().split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"] == {
        "reasoning": "é",
        "reasoning_content": "é",
    }
    assert json.loads(second.removeprefix("data: ")) == {"model": "pair", "choices": []}
    assert (done, end) == ("data: [DONE]", "")


def choice(number, finish=None, *, whole=False, **part):
    return {"index": number, "finish_reason": finish, "message" if whole else "delta": part}


def test_a_thought_that_was_never_closed_but_ended_is_the_answer():
    whole = {
        "choices": [
            choice(0, "stop", whole=True, reasoning="4 ", content=None),
            choice(1, "length", whole=True, reasoning="3", content=None),
            choice(2, "stop", whole=True, reasoning="2", content=""),
        ]
    }
    body = json.loads(sent(application([json.dumps(whole).encode()]), "POST", CHAT, ASK)[2])
    messages = [one["message"] for one in body["choices"]]
    assert [(one["reasoning"], one["content"]) for one in messages] == [(None, "4"), ("3", None), ("2", "")]


def test_such_an_answer_ends_before_a_stop_string():
    for stop, content in ((";", "4"), (["5", "!"], "4; "), ("6", "4; 5"), (None, "4; 5")):
        whole = {"choices": [choice(0, "stop", whole=True, reasoning="4; 5 ", content=None)]}
        body = json.loads(sent(application([json.dumps(whole).encode()]), "POST", CHAT, ASK | {"stop": stop})[2])
        assert body["choices"][0]["message"]["content"] == content


def test_in_a_stream_it_comes_again_as_the_answer():
    pieces = [
        choice(0, reasoning="4"), choice(1, reasoning="5"), choice(1, reasoning="6", content=""), choice(0, reasoning="2"),
        choice(0, "stop"), choice(1, "stop"),
    ]  # fmt: skip
    text = "".join(f"data: {json.dumps({'choices': [piece]})}\n\n" for piece in pieces).encode()
    body = sent(application([text], b"text/event-stream"), "POST", CHAT, ASK | {"stream": True})[2].decode()
    found = [json.loads(line.removeprefix("data: "))["choices"][0] for line in body.split("\n\n") if line]
    assert [one["delta"].get("content") for one in found] == [None, None, "", None, "42", None]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"{", 400, "invalid_json"), (b"[1]", 400, "invalid_type"), (b"1" * (33 << 20), 413, "request_too_large")],
)
def test_bodies_that_are_no_request_are_refused_in_the_schema(body, status, code):
    found = sent(application([b"{}"]), "POST", CHAT, body)
    assert (found[0], json.loads(found[2])["error"]["code"]) == (status, code)


def test_errors_are_in_the_schema_of_the_endpoint():
    assert json.loads(sent(application([b"{}"]), "POST", CHAT, ASK | {"lam": 2})[2])["error"]["param"] == "lam"
    assert json.loads(sent(application([b"{}"]), "POST", MESSAGES, ASK | {"lam": 2})[2])["type"] == "error"
    status, _, body = sent(application([b'{"error": "Unauthorized"}'], status=401), "POST", CHAT, ASK)
    assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
    for status, kind, code in ((400, "invalid_request_error", "invalid_value"), (500, "server_error", "engine_failed")):
        error = {"message": "no", "type": "Bad Request", "param": "body.stop", "code": status}
        body = sent(application([json.dumps({"error": error}).encode()], status=status), "POST", CHAT, ASK)[2]
        expected = {"message": "no", "type": kind, "param": "stop", "code": code}
        assert json.loads(body)["error"] == expected
        text = f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode()
        body = sent(application([text], b"text/event-stream"), "POST", CHAT, ASK | {"stream": True})[2]
        assert json.loads(body.decode().split("\n\n")[0].removeprefix("data: "))["error"] == expected


def test_a_page_of_somebody_else_gets_no_answer_and_cannot_have_it_generate():
    app = application([b"{}"])
    local, public = (LambdaMiddleware(app, LEVELS, host) for host in ("127.0.0.1", "0.0.0.0"))
    for method, path in (("GET", "/"), ("GET", "/v1/models/pair"), ("GET", "/metrics"), ("POST", CHAT)):
        asked = (app, method, path, ASK, (JSON, (b"host", b"evil.example:8000")))
        status, _, body = sent(*asked, through=local)
        assert (status, json.loads(body)["error"]["code"]) == (400, "wrong_host")
        assert not hasattr(app, "scope")
    assert sent(app, "POST", CHAT, ASK, (JSON, (b"host", b"LocalHost:8000")), through=local)[0] == 200
    assert sent(*asked, through=public)[0] == 200
    del app.scope
    for kind in (b"text/plain", b"application/x-www-form-urlencoded"):
        status, _, body = sent(app, "POST", CHAT, ASK, [(b"content-type", kind)])
        assert (status, json.loads(body)["error"]["code"]) == (415, "unsupported_media_type")
    assert not hasattr(app, "scope")


def test_nothing_generates_without_a_lambda():
    for path in ("/v1/chat/completions/batch", "/inference/v1/generate", "/v1/systemone", "/collective_rpc"):
        app = application([b"{}"])
        status, _, body = sent(app, "POST", path, ASK)
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
        assert not hasattr(app, "scope")


def test_models_are_the_levels():
    card = {"object": "model", "id": "pair", "created": 1, "max_model_len": 256}
    app = application([json.dumps({"object": "list", "data": [card]}).encode()])
    listed = json.loads(sent(app, "GET", "/v1/models")[2])["data"]
    assert [(one["id"], one["lam"], one.get("expected_tokens")) for one in listed] == [
        ("pair", 0.6, None), ("pair:none", 0.0, None), ("pair:low", 0.4, 120.0), ("pair:high", 1.0, None),
    ]  # fmt: skip
    assert json.loads(sent(app, "GET", "/v1/models/pair:low")[2])["expected_accuracy"] == 0.5
    assert json.loads(sent(app, "GET", "/v1/models/pair@0.7")[2])["lam"] == 0.7
    assert sent(app, "GET", "/v1/models/other")[0] == 404


def test_the_page_is_there_without_vllm_and_everything_else_that_is_read_goes_to_it():
    app = application([b"{}"])
    for method in ("GET", "HEAD"):
        status, found, body = sent(app, method, "/")
        assert (status, body.decode()) == (200, page(LEVELS))
        assert found[b"content-type"] == b"text/html; charset=utf-8"
        assert found[b"content-security-policy"].decode() == headers()["Content-Security-Policy"]
    assert not hasattr(app, "scope")
    assert sent(app, "GET", "/health")[2] == b"{}"


def test_a_key_in_anthropics_header_is_the_key():
    app = application([b"{}"])
    sent(app, "POST", MESSAGES, ASK, [JSON, (b"x-api-key", b"secret")])
    assert dict(app.scope["headers"])[b"authorization"] == b"Bearer secret"


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────────

USAGE = {"prompt_tokens": 7, "completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}}
VLLMS = b"# HELP vllm:x its own\nvllm:x 1\n"


class Counted:
    """A middleware that is asked several times; vLLM, behind it, answers as it is told."""

    def __init__(self, levels=LEVELS):
        self._middleware = LambdaMiddleware(lambda *given: self._app(*given), levels)

    def ask(self, app, path, **fields):
        self._app = app
        return sent(app, "POST", path, ASK | fields, through=self._middleware)

    def numbers(self):
        """The samples of `/metrics`, without their common prefix."""
        self._app = application([VLLMS[:5], VLLMS[5:]], b"text/plain")
        asked = [JSON, (b"accept", b"application/openmetrics-text"), (b"accept-encoding", b"gzip")]
        status, headers, body = sent(self._app, "GET", "/metrics", headers=asked, through=self._middleware)
        assert (status, headers[b"content-length"]) == (200, str(len(body)).encode())
        assert dict(self._app.scope["headers"]).keys().isdisjoint({b"accept", b"accept-encoding"})
        assert body.startswith(VLLMS)
        found = re.findall(r"^interpole_(\S+) (\S+)$", body.decode(), re.M)
        return {name: float(value) for name, value in found if "_bucket" not in name and "_created" not in name}


def events(*contents):
    """An answer in events."""
    return "".join(f"data: {json.dumps(content)}\n\n" for content in contents).encode() + b"data: [DONE]\n\n"


def test_requests_tokens_latency_and_think_r_are_counted_by_lambda():
    counted = Counted()
    whole = {"choices": [choice(0, "stop", whole=True, content="2"), choice(1, "stop", whole=True, content="2")]}
    counted.ask(application([json.dumps(whole).encode()], usage=USAGE, closed=(True, False)), CHAT, lam=0.42)
    text = events({"choices": [choice(0, role="assistant")]}, {"choices": [choice(0, "stop", content="2")]})
    counted.ask(application([text], b"text/event-stream", usage=USAGE, closed=(True,)), CHAT, lam=0.4, stream=True)
    found = counted.numbers()
    label = '{lam="0.40"}'
    for name, expected in {
        'requests_total{endpoint="/v1/chat/completions",lam="0.40",status="200"}': 2,
        f"prompt_tokens_total{label}": 14,
        f"completion_tokens_total{label}": 80,
        f"reasoning_tokens_total{label}": 60,
        f"responses_total{label}": 3,
        f"thought_responses_total{label}": 2,
        f"think_ratio{label}": pytest.approx(2 / 3),
        f"request_seconds_count{label}": 2,
        f"time_to_first_token_seconds_count{label}": 1,  # a response that comes whole has no first token
    }.items():
        assert found.pop(name) == expected, name
    assert {name.partition("{")[0] for name in found} == {"request_seconds_sum", "time_to_first_token_seconds_sum"}


@pytest.mark.parametrize("stream", [False, True])
def test_every_endpoint_is_counted_as_vllm_tells_what_it_cost(stream):
    response = {"object": "response", "usage": {"input_tokens": 7, "output_tokens": 40,
                "output_tokens_details": {"reasoning_tokens": 30}}}  # fmt: skip
    raw = {"choices": [{"index": 0, "text": "1</think>2"}, {"index": 1, "text": "2"}]}
    pieces = [{"choices": [{"index": 0, "text": "1</thi"}]}, {"choices": [{"index": 0, "text": "nk>2"}]}]
    pieces.append({"choices": [{"index": 1, "text": "2"}]})
    answers = {
        COMPLETIONS: (raw, pieces, USAGE, ()),
        RESPONSES: (response, [{"type": "response.created", "response": {"object": "response", "usage": None}},
            {"type": "response.output_text.delta"}, {"type": "response.completed", "response": response}], None, [True]),
        MESSAGES: ({"type": "message"}, [{"type": "message_start"}, {"type": "content_block_delta"}], USAGE, [True]),
    }  # fmt: skip
    counted = Counted()
    for path, (whole, streamed, usage, closed) in answers.items():
        content, kind = json.dumps(whole).encode(), b"application/json"
        if stream:
            content, kind = events(*streamed), b"text/event-stream"
        counted.ask(application([content], kind, usage=usage, closed=closed), path, stream=stream)
        assert counted.numbers()[f'requests_total{{endpoint="{path}",lam="0.60",status="200"}}'] == 1
    found = counted.numbers()
    names = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "responses", "thought_responses")
    assert [found[f'{name}_total{{lam="0.60"}}'] for name in names] == [21, 120, 90, 4, 3]
    assert found.get('time_to_first_token_seconds_count{lam="0.60"}', 0) == 3 * stream


def test_what_was_refused_failed_or_left_is_counted_so_and_costs_no_tokens():
    counted = Counted()
    counted.ask(application([b"{}"]), CHAT, lam=3)
    error = {"error": {"message": "no", "type": "", "param": None, "code": 400}}
    counted.ask(application([json.dumps(error).encode()], status=400), CHAT, lam=0.2)
    error["error"]["code"] = 500
    counted.ask(application([json.dumps(error).encode()], status=500), CHAT, lam=0.2)
    counted.ask(
        application([events({"choices": [choice(0, content="2")]}, error)], b"text/event-stream"), CHAT, lam=0.2
    )
    cut = b'data: {"choices": []}\n\n'
    counted.ask(application([cut], b"text/event-stream"), CHAT, lam=0.2, stream=True)
    counted.ask(application([b"null"]), CHAT, lam=0.2)  # vLLM's answer for a client that has gone
    found = counted.numbers()
    label = 'endpoint="/v1/chat/completions"'
    requests = {name: value for name, value in found.items() if name.startswith("requests_total")}
    assert requests == {
        f'requests_total{{{label},lam="",status="400"}}': 2,
        f'requests_total{{{label},lam="0.20",status="500"}}': 2,
        f'requests_total{{{label},lam="0.20",status="499"}}': 2,
    }
    assert found['request_seconds_count{lam="0.20"}'] == 4
    assert not [name for name in found if "tokens_total" in name or "think" in name]


def test_a_policy_chooses_the_lambda_that_vllm_is_told_and_is_counted(monkeypatch):
    rule = Groups(kind="groups", by="length", edges=(20.0,), lams=(0.2, 0.9, 0.5))
    policy = FittedPolicy(name="by length", rule=rule, price=0.001, tokens=40.0, accuracy=0.8, num_questions=20)
    for name, value in vllm.to_environment(replace(LEVELS, auto=policy), "localhost").items():
        monkeypatch.setenv(name, value)
    counted = Counted(vllm.of_environment()[0])
    app = application([b'{"model": "pair"}'], usage=USAGE)
    _, headers, body = counted.ask(app, COMPLETIONS, model="pair@auto", prompt="3" * 40)
    assert (headers[b"x-interpole-lambda"], body) == (b"0.9", b'{"model": "pair@auto"}')
    assert app.body["vllm_xargs"] == {"lam": 0.9}
    counted.ask(app, CHAT, model="pair@auto")
    assert app.body["vllm_xargs"] == {"lam": 0.2}
    counted.ask(app, CHAT, model="pair@0.9")
    found = {name: value for name, value in counted.numbers().items() if name.startswith("auto_requests")}
    assert found == {'auto_requests_total{lam="0.90"}': 1, 'auto_requests_total{lam="0.20"}': 1}


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--enable-lora"], "LoRA"),
        (["--speculative_config={}"], "speculative"),
        (["-q", "fp8"], "quantised"),
        (["--api-key", "x"], "before --"),
        (["--max-model-len", "9", "--load-format=auto"], "by Interpole"),
    ],
)
def test_flags_that_would_not_be_exact_or_are_ours_are_refused_by_name(flags, what):
    with pytest.raises(EngineError, match=what):
        vllm._check(flags)


def test_what_is_served_goes_through_the_environment(monkeypatch):
    monkeypatch.delenv("INTERPOLE_SERVED", raising=False)
    with pytest.raises(EngineError, match="part of a server"):
        vllm.of_environment()
    for name, value in vllm.to_environment(LEVELS, "localhost").items():
        monkeypatch.setenv(name, value)
    assert vllm.of_environment() == (LEVELS, "localhost")


# ── how it ends ──────────────────────────────────────────────────────────────────────────────────────────────────


def ended_server(then):
    """What becomes of a server whose engine is a process that sleeps, and whose loop does `then`."""
    code = (
        "import asyncio, functools, multiprocessing, os, signal, time\n"
        "print = functools.partial(print, flush=True)\n"
        "from types import SimpleNamespace\n"
        "from interpole.serve import vllm_ending\n"
        "vllm_ending.GRACE_SECONDS, vllm_ending.LINGER_SECONDS = 0.3, 0.0\n"
        "engine = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,)); engine.start()\n"
        "def close():\n"
        "    print('listens no more', vllm_ending.ENDING.engine_ended)\n"
        "async def main():\n"
        "    server, ending = SimpleNamespace(should_exit=False, servers=[SimpleNamespace(close=close)]), vllm_ending.ENDING\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    ending.watch(server)\n"
        f"{textwrap.indent(then, ' ' * 4)}\n"
        "asyncio.run(main())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)


def test_a_server_that_waits_for_a_client_for_ever_is_cut_off_once_its_engine_has_ended():
    ended = ended_server("os.kill(engine.pid, 9)\nawait asyncio.sleep(600)\nprint('still here')")
    assert (ended.returncode, ended.stdout) == (1, "listens no more True\n")
    assert "engine has ended" in ended.stderr


def test_a_server_whose_engine_died_is_told_to_end_and_knows_how_it_died():
    then = "os.kill(engine.pid, 9)\nwhile not server.should_exit: await asyncio.sleep(0)\nprint(ending.exit_code, ending.told)"
    assert ended_server(then).stdout == "listens no more True\n-9 False\n"


def test_the_first_signal_leaves_the_engine_alone_and_the_second_ends_everything():
    told = "signal.raise_signal(signal.SIGTERM)\nawait asyncio.sleep(0.1)\nprint(ending.told, engine.is_alive())\n"
    ended = ended_server(f"{told}signal.raise_signal(signal.SIGINT)\nawait asyncio.sleep(600)")
    assert (ended.returncode, ended.stdout) == (0, "True True\n")


def ending_of(**state):
    """An ending in this state."""
    ending = Ending()
    for name, value in state.items():
        setattr(ending, name, value)
    return ending


@pytest.mark.parametrize("state", [{"told": True}, {"engine_ended": True}])
def test_a_server_that_ends_takes_nothing_new_and_keeps_no_connection(state):
    app = application([b"{}"])
    through = LambdaMiddleware(app, LEVELS, ending=ending_of(**state))
    for method, path in (("POST", CHAT), ("GET", "/health")):
        status, headers, body = sent(app, method, path, ASK, through=through)
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert (headers[b"connection"], headers[b"retry-after"]) == (b"close", b"5")
    assert not hasattr(app, "scope")
    assert sent(app, "GET", "/metrics", through=through)[0] == 200


def stuck(pieces, kind):
    """An application that gives these pieces and then waits for an engine that is gone."""

    async def app(_scope, _receive, send):
        if pieces:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        asyncio.get_running_loop().call_soon(app.ending._cut_off)
        await asyncio.sleep(600)

    app.ending = Ending()
    return app


@pytest.mark.parametrize(
    ("path", "pieces", "kind", "status"),
    [
        (CHAT, [], b"", 500),
        (CHAT, [b'{"choices": ['], b"application/json", 500),
        (CHAT, [b'data: {"choices": []}\n\ndata: {"ch'], b"text/event-stream", 200),
        (RESPONSES, [b"event: x\n"], b"text/event-stream", 200),
        (MESSAGES, [b"event: x\n"], b"text/event-stream", 200),
    ],
)
def test_who_waits_for_an_engine_that_is_gone_is_told_an_error(path, pieces, kind, status):
    app = stuck(pieces, kind)
    through = LambdaMiddleware(app, LEVELS, ending=app.ending)
    found, _, body = sent(app, "POST", path, ASK, through=through)
    text = body.decode()
    if kind == b"text/event-stream":
        assert text.endswith("data: [DONE]\n\n") == (path == CHAT)
        assert ("event: error\n" in text) == (path != CHAT)
        text = next(line for line in text.split("\n") if '"error"' in line).removeprefix("data: ")
    error = json.loads(text)["error"]
    assert (found, error["type"]) == (status, "api_error" if path == MESSAGES else "server_error")
    sample = f'interpole_requests_total{{endpoint="{path}",lam="0.60",status="500"}} 1.0'
    assert sample in through._metrics.page().decode()
