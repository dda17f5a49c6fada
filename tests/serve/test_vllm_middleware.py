"""What the middleware makes of requests and of vLLM's responses; vLLM is played by a few lines."""

import asyncio
import json
import subprocess
import sys

import pytest

from interpole.errors import EngineError
from interpole.serve import vllm, vllm_middleware
from interpole.serve.errors import RequestError
from interpole.serve.levels import Level, Levels
from interpole.serve.page import headers, page
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
    assert body["user"] == "me"


# ── through the application ──────────────────────────────────────────────────────────────────────────────────────


def sent(app, method, path, body=b"", headers=()):
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
    asyncio.run(LambdaMiddleware(app, LEVELS)(scope, receive, send))
    start, *rest = answer
    return start["status"], dict(start["headers"]), b"".join(part["body"] for part in rest)


def application(content, kind=b"application/json", status=200):
    """An application that gives these pieces, and keeps what it was asked."""

    async def app(scope, receive, send):
        app.scope = scope
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
    sent(app, "POST", MESSAGES, ASK, [(b"x-api-key", b"secret")])
    assert dict(app.scope["headers"])[b"authorization"] == b"Bearer secret"


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
    for name, value in vllm.to_environment(LEVELS).items():
        monkeypatch.setenv(name, value)
    assert vllm.of_environment() == LEVELS


def test_a_server_that_waits_for_a_client_for_ever_is_cut_off_once_its_engine_has_ended():
    code = (
        "import multiprocessing, os, time; from interpole.serve import vllm; vllm.GRACE_SECONDS = 0.1\n"
        "engine = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,)); engine.start()\n"
        "vllm.watch_engines(); os.kill(engine.pid, 9); time.sleep(600); print('still here')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "engine has ended" in ended.stderr
