"""RemoteModel models: a real HTTP server answers, refuses, breaks and hangs; and the tiny pair is served through one."""

import asyncio
import base64
import gzip
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench import call
from interpole.chat import Markers
from interpole.engines.api_key import ApiKey
from interpole.engines.base import Request
from interpole.engines.openai import OpenAIEngine
from interpole.engines.process import EngineProcess
from interpole.errors import EngineError, RunError
from interpole.lab import shipped
from interpole.records import Generation, Outcome, Sampler
from interpole.runs import samples
from interpole.runs.runfile import RunFile
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig

SAMPLER = Sampler(temperature=0.5, top_p=0.9, top_k=7, max_tokens=33)
MARKERS = ("<think>", "</think>")
BROKEN, HANG, DRIP = "broken", "hang", "drip"


def chat(content="7", *, finish="stop", tokens=3, **message):
    """A reply of /chat/completions."""
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"completion_tokens": tokens}}


class Endpoint(ThreadingHTTPServer):
    """Answers by `answer(body)`: a dict is JSON, a str the body as it is, (status, dict, headers) anything; or fails."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.asked, self.headers_seen, self.models = answer, [], [], (200, {"data": []}, {})
        self.lock = threading.Lock()

    def go(self):
        """Stop answering: whoever connects from now on is refused."""
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(self.server.models)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, body))
            self.server.headers_seen.append(dict(self.headers))
            answer = self.server.answer(body)
        if answer == HANG:
            time.sleep(3)
        elif answer == BROKEN:
            self.connection.close()
        else:
            self.reply(answer)

    def reply(self, answer):
        status, content, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        if content == DRIP:
            self.drip()
            return
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        data = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def drip(self):
        """A body of which a byte comes now and then, for a while."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with suppress(OSError):
            for _ in range(30):
                self.wfile.write(b" ")
                time.sleep(0.1)


@contextmanager
def serving(answer, port=0):
    endpoint = Endpoint(answer, port)
    threading.Thread(target=endpoint.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield endpoint
    finally:
        endpoint.go()


def in_turn(*answers):
    """Answers with one after the other, and with the last for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def open_at(endpoint, **options):
    engine = OpenAIEngine(**{"backoff_seconds": 0.01, "retries": 3} | options)
    engine.load({"base_url": endpoint.url, "model": "m", "markers": MARKERS})
    return engine


def ask(engine, *questions):
    prompts = [json.dumps([{"role": "user", "content": question}]) for question in questions or ("?",)]
    return engine.generate(prompts, SAMPLER, range(len(prompts)))


def drain(engine, num):
    finished = []
    while len(finished) < num:
        finished += engine.step()
    return {one.key: one for one in finished}


def test_a_request_carries_everything_that_was_asked_for(monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "sesame")
    with serving(lambda _: chat()) as endpoint:
        extra = {"min_p": 0, "top_p": None}
        engine = open_at(endpoint, api_key_env="OTHER_KEY", extra_body=extra)
        assert ask(engine) == [Generation("7", 3, "stop")]
        path, body = endpoint.asked[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "?"}], "temperature": 0.5, "top_k": 7, "max_tokens": 33,
        "seed": 0, "min_p": 0,
    }  # fmt: skip
    assert endpoint.headers_seen[0]["Authorization"] == "Bearer sesame"
    assert engine.versions() == {"engine": "openai", "api": "chat", "extra_body": '{"min_p": 0, "top_p": null}'}


def test_completions_send_the_rendered_prompt_and_switch_top_k_off_explicitly():
    reply = {"choices": [{"text": " 7", "finish_reason": "length"}], "usage": {"completion_tokens": 9}}
    with serving(lambda _: reply) as endpoint:
        engine = open_at(endpoint, api="completions")
        assert engine.generate(["<|im_start|>user"], Sampler(top_k=0), [5]) == [Generation(" 7", 9, "length")]
        path, body = endpoint.asked[0]
    assert (path, body["prompt"], body["top_k"], body["seed"]) == ("/v1/completions", "<|im_start|>user", -1, 5)
    assert body["add_special_tokens"] is False
    assert "Authorization" not in endpoint.headers_seen[0]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (chat("<think>hm</think>7"), "<think>hm</think>7"),
        (chat("7", reasoning="hm"), "<think>hm</think>7"),
        (chat("7", reasoning_content="hm"), "<think>hm</think>7"),
        (chat("7", reasoning=None, reasoning_content=None), "7"),
        (chat(None, reasoning="hm and hm", finish="length"), "<think>hm and hm"),
        (chat("hm</think>7", reasoning="hm"), "hm</think>7"),
    ],
    ids=["text", "reasoning", "reasoning_content", "none", "never closed", "both"],
)
def test_thinking_is_rejoined_however_it_comes(message, expected):
    with serving(lambda _: message) as endpoint:
        (found,) = ask(open_at(endpoint))
    assert found.text == expected
    assert Markers("[T]", "[/T]").rejoin("hm", "7") == "[T]hm[/T]7"


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"error": "slow down"}, {}),
        (500, {"error": "oops"}, {}),
        (503, "<html>", {}),
        "{'not': json",
        {"choices": []},
        {"choices": [{"message": {"content": "7"}, "finish_reason": "stop"}]},  # no usage: the length would be made up
        chat(finish="abort"),
        chat(["a list"]),
        BROKEN,
    ],
    ids=["429", "500", "503", "no JSON", "no choice", "no usage", "abort", "no text", "disconnect"],
)
def test_what_may_pass_is_tried_again_and_what_does_not_pass_costs_one_sample(trouble):
    with serving(in_turn(trouble, trouble, chat())) as endpoint:
        assert ask(open_at(endpoint)) == [Generation("7", 3, "stop")]
        assert len(endpoint.asked) == 3
    bad = lambda body: trouble if body["messages"][0]["content"] == "bad" else chat()  # noqa: E731
    with serving(bad) as endpoint:
        engine = open_at(endpoint, retries=1)
        for key, question in enumerate(("good", "bad", "fine")):
            engine.add(Request(key, json.dumps([{"role": "user", "content": question}]), SAMPLER, key))
        found = drain(engine, 3)
        assert len(endpoint.asked) == 4
    assert [found[key].generation.text for key in (0, 2)] == ["7", "7"]
    assert "given up after 2 attempts" in found[1].error.what
    assert [found[key].error for key in (0, 2)] == [None, None]


def part(kind, text):
    return {"type": kind, kind: text}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([part("text", "7")], "7"),
        ([part("thinking", [part("text", "hm"), part("text", " hm")]), part("text", "7")], "<think>hm hm</think>7"),
        ([part("thinking", "hm"), part("text", "7"), part("text", "!")], "<think>hm</think>7!"),
        ([part("reasoning", "hm")], "<think>hm"),
    ],
    ids=["text", "thinking in parts", "thinking", "never closed"],
)
def test_content_as_a_list_of_parts_is_read(content, expected):
    with serving(lambda _: chat(content)) as endpoint:
        assert ask(open_at(endpoint))[0].text == expected


HARM = {
    "no gzip": (200, b"not gzip", {"Content-Encoding": "gzip"}),
    "half a gzip": (200, gzip.compress(json.dumps(chat()).encode())[:-9], {"Content-Encoding": "gzip"}),
    "a gzip bomb": (200, gzip.compress(b" " * (1 << 22)), {"Content-Encoding": "gzip"}),
    "no deflate": (200, b"\xff\xfe", {"Content-Encoding": "deflate"}),
    "zstd": (200, b"(\xb5/\xfd garbage", {"Content-Encoding": "zstd"}),
    "a charset there is not": (500, b"\xff\xfe", {"Content-Type": "text/plain; charset=undefined"}),
    "bytes": (200, bytes(range(256)), {}),
    "nested": (200, b"[" * 100_000, {}),
    "nested objects": (200, b'{"a":' * 100_000, {}),
    "long": (200, b" " * (1 << 21), {}),
    "a number of 10,000 digits": (200, b'{"choices": ' + b"1" * 10_000 + b"}", {}),
    "a list": [],
    "a null": (200, b"null", {}),
    "usage of 10³⁰": chat(tokens=10**30),
    "usage: true": chat(tokens=True),
    "usage: -1": chat(tokens=-1),
    "usage: NaN": (200, json.dumps(chat(tokens=float("nan"))), {}),
    "a part of no kind": chat([{"text": "7"}]),
    "a part that is a picture": chat([part("image_url", "x")]),
    "thinking that is a number": chat("7", reasoning=7),
    "dripping": (200, DRIP, {}),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_whatever_a_server_sends_costs_its_sample_and_no_other(harm):
    bad = lambda body: harm if body["messages"][0]["content"] == "bad" else chat()  # noqa: E731
    with serving(bad) as endpoint:
        engine = open_at(endpoint, retries=0, timeout_seconds=1.0, max_reply_bytes=1 << 20)
        for key, question in enumerate(("good", "bad")):
            engine.add(Request(key, json.dumps([{"role": "user", "content": question}]), SAMPLER, key))
        found = drain(engine, 2)
    assert found[0].generation == Generation("7", 3, "stop")
    assert found[1].error is not None
    assert len(str(found[1].error)) < 1500


def test_a_compressed_reply_is_read_though_it_was_not_asked_for():
    packed = (200, gzip.compress(json.dumps(chat("ö")).encode()), {"Content-Encoding": "gzip"})
    with serving(lambda _: packed) as endpoint:
        assert ask(open_at(endpoint))[0].text == "ö"
        assert endpoint.headers_seen[0]["Accept-Encoding"] == "identity"


def test_requests_are_abandoned_and_the_model_may_change():
    with serving(lambda body: HANG if body["model"] == "m" else chat()) as endpoint:
        engine = open_at(endpoint)
        engine.add(Request(0, "[]", SAMPLER, 0))
        with pytest.raises(EngineError, match="finish them first"):
            engine.load({"base_url": endpoint.url, "model": "other", "markers": MARKERS})
        engine.abandon()
        assert not engine.busy
        engine.load({"base_url": endpoint.url, "model": "other", "markers": MARKERS})
        assert ask(engine) == [Generation("7", 3, "stop")]


SECRET = "sk-open/sesame+1"


SPELT = {
    "as it is": SECRET,
    "JSON": "sk-open\\/sesame+1",
    "an address": "sk-open%2Fsesame%2B1",
    "backwards": "1+emases/nepo-ks",
    "capitals": "SK-OPEN/SESAME+1",
    "hexadecimal": "736b2d6f70656e2f736573616d652b31",
    "base64": base64.b64encode(f"{SECRET}".encode()).decode(),
    "base64 of more": base64.b64encode(f"Bearer {SECRET}, and more".encode()).decode(),
    "base64 of other": base64.urlsafe_b64encode(f"user:{SECRET}, and more".encode()).decode(),
    "letter by letter": " ".join(SECRET),
}


def test_a_key_is_found_however_a_server_spells_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    key = ApiKey("OPENAI_API_KEY")
    for kind, spelt in SPELT.items():
        shown = key.redacted(f"you sent {spelt}!")
        assert "[API key]" in shown, kind
        assert len(shown) < len("you sent [API key]!") + (30 if "base64 of" in kind else 5), kind
    assert key.redacted("open sesame; sk-open; c2stb3Bl") == "open sesame; sk-open; c2stb3Bl"


@pytest.mark.parametrize("spelt", [SECRET, SPELT["JSON"], SPELT["backwards"], SPELT["base64"]])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_key_that_a_server_quotes_is_cut_out(monkeypatch, spelt, status):
    monkeypatch.setenv("OPENAI_API_KEY", f"  {SECRET}\n")
    with serving(lambda _: (status, f"you sent {spelt}", {})) as endpoint:
        engine = open_at(endpoint, retries=0)
        engine.add(Request(0, "[]", SAMPLER, 0))
        shown = str(drain(engine, 1)[0].error)
        assert endpoint.headers_seen[0]["Authorization"] == f"Bearer {SECRET}"
    assert "you sent [API key]" in shown
    assert "sesame" not in shown


def test_a_key_within_an_answer_is_cut_out_and_a_short_one_is_none(monkeypatch):
    for key, shown in ((SECRET, "it is [API key]"), ("EMPTY", "it is EMPTY")):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with serving(lambda _, key=key: chat(f"it is {key}")) as endpoint:
            assert ask(open_at(endpoint))[0].text == shown


def test_what_is_no_key_is_refused_and_not_quoted(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "two sesame words")
    with pytest.raises(EngineError, match="value of OPENAI_API_KEY is no API key") as error:
        OpenAIEngine()
    assert "sesame" not in str(error.value)
    with pytest.raises(EngineError, match="no name of an environment variable") as error:
        OpenAIEngine(api_key_env=SECRET)
    assert "sesame" not in str(error.value)


def test_the_server_says_when_to_come_again():
    with serving(in_turn((429, {}, {"Retry-After": "0.6"}), chat())) as endpoint:
        start = time.monotonic()
        assert ask(open_at(endpoint))[0].text == "7"
    assert 0.6 <= time.monotonic() - start < 5


def test_a_wait_that_the_server_asks_for_is_told_once_however_many_wait():
    told = []

    async def until_told(engine):
        waiting = [asyncio.ensure_future(engine.answer("[]", SAMPLER, seed)) for seed in range(3)]
        while not told or len(endpoint.asked) < 3:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)  # two signs of life in which it could be told again
        for one in waiting:
            one.cancel()

    spec = {"engine": "openai", "recipe": None, "options": {}}
    with serving(lambda _: (429, "slow down", {"Retry-After": "300"})) as endpoint:
        with EngineProcess(spec, report=told.append) as engine:
            engine.load({"base_url": endpoint.url, "model": "m", "markers": MARKERS})
            asyncio.run(until_told(engine))
        assert told == [f"127.0.0.1:{endpoint.server_port}: HTTP 429: slow down: attempt 2 of 7 in 300 s"]


def test_a_request_ends_with_all_its_waits_when_its_time_is_up(monkeypatch):
    monkeypatch.setattr("interpole.engines.openai.LONGEST_WAIT_SECONDS", 0.4)
    with serving(lambda _: (503, "later", {"Retry-After": "86400"})) as endpoint:
        engine = open_at(endpoint, retries=1000, timeout_seconds=0.5)
        engine.add(Request(0, "[]", SAMPLER, 0))
        shown = str(drain(engine, 1)[0].error)
    assert "attempts: HTTP 503: later" in shown
    assert int(shown.split()[3]) <= 3


def test_a_request_that_is_refused_is_not_repeated():
    with serving(lambda _: (400, {"error": "context is 4096"}, {})) as endpoint:
        with pytest.raises(EngineError, match=r"HTTP 400.*context is 4096"):
            ask(open_at(endpoint))
        assert len(endpoint.asked) == 1


def test_a_hanging_request_ends_alone():
    with serving(lambda body: HANG if body["seed"] == 1 else chat()) as endpoint:
        engine = open_at(endpoint, timeout_seconds=0.3)
        for key in range(3):
            engine.add(Request(key, '[{"role": "user", "content": "?"}]', SAMPLER, key))
        found = drain(engine, 3)
    assert "no answer within 0.3 s" in found[1].error.what
    assert {found[0].generation.text, found[2].generation.text} == {"7"}


def test_no_more_requests_than_connections_are_under_way():
    now, most, lock = 0, 0, threading.Lock()
    with serving(None) as endpoint:

        class Busy:
            def __enter__(self):
                pass

            def __exit__(self, *_):
                pass

        def answer(_):
            nonlocal now, most
            with lock:
                now, most = now + 1, max(most, now + 1)
            time.sleep(0.05)
            with lock:
                now -= 1
            return chat()

        endpoint.answer, endpoint.lock = answer, Busy()
        assert len(ask(open_at(endpoint, connections=3), *"abcdefgh")) == 8
    assert 2 <= most <= 3


def test_an_endpoint_that_is_gone_or_refuses_the_key_fails_at_once():
    with serving(lambda _: chat()) as endpoint:
        engine = open_at(endpoint, retries=0)
        endpoint.models = (401, {"error": "who?"}, {})
        with pytest.raises(EngineError, match="HTTP 401"):
            open_at(endpoint)
        endpoint.models = (404, {}, {})
        open_at(endpoint)  # it lists no models, and may answer all the same
    with pytest.raises(EngineError, match="cannot connect"):
        open_at(endpoint, retries=1)
    engine.add(Request(0, "[]", SAMPLER, 0))
    with pytest.raises(EngineError, match="cannot connect"):
        drain(engine, 1)
    with pytest.raises(EngineError, match=r"not an address[\s\S]*http://host"):
        engine.load({"base_url": "localhost:8000/v1", "model": "m", "markers": MARKERS})


# ── sweeps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def served(url, **changes):
    content = {
        "tasks": "arithmetic", "limit": 3, "samples": 2, "engine": "openai",
        "engine_options": {"base_url": url, "backoff_seconds": 0.01, "retries": 1},
        "points": [{"name": "theirs", "model": "big"}],
    }  # fmt: skip
    return SweepConfig.of(content | changes)


@pytest.mark.parametrize("trouble", [(500, {}, {}), "{'not': json"], ids=["500", "nonsense"])
def test_a_failed_sample_is_recorded_and_alone_asked_again(tmp_path, trouble):
    with serving(lambda body: trouble if body["seed"] % 3 == 0 else chat("hm</think>7")) as endpoint:
        summary = sweep.run(served(endpoint.url), tmp_path / "run")
        found = samples.read(tmp_path / "run")
        failed = {(one.problem_id, one.number) for one in found if one.outcome is Outcome.FAILED}
        assert 0 < len(failed) < 6 == len(found)
        assert [entry.status for entry in summary.failed] == ["failed"]
        trouble = chat("hm</think>7")
        assert sweep.run(served(endpoint.url), tmp_path / "run").num_generated == len(failed)
        assert sweep.run(served(endpoint.url), tmp_path / "run").num_generated == 0
        other = [{"name": "theirs", "model": "small"}]
        assert sweep.run(served(endpoint.url, points=other), tmp_path / "run", changed="also").num_generated == 6
        assert {body["model"] for _, body in endpoint.asked} == {"big", "small"}
    found = samples.read(tmp_path / "run")
    assert {(one.point, one.lam, one.outcome, one.answer) for one in found} == {("theirs", None, Outcome.CLOSED, "7")}
    run = RunFile.load(tmp_path / "run")
    assert run.template.startswith("{# the server renders with its own template #}")
    assert (run.sources, run.markers) == ({}, MARKERS)
    (entry,) = run.current
    assert entry.recipe == {"base_url": endpoint.url, "model": "small", "markers": list(MARKERS)}


def test_an_endpoint_that_dies_mid_sweep_costs_what_was_in_flight_and_its_own_point(tmp_path):
    with serving(None) as dying, serving(lambda _: chat("hm</think>7")) as other:

        def answer(_):
            if len(dying.asked) == 3:
                dying.go()
                return BROKEN
            return chat("hm</think>7")

        dying.answer = answer
        names = {"theirs": dying.url, "others": other.url}
        points = [{"name": name, "model": "big", "base_url": url} for name, url in names.items()]
        options = {"backoff_seconds": 0.01, "retries": 1, "connections": 1}
        config = served(dying.url, points=points, engine_options=options, max_failures=1)
        told = []
        summary = sweep.run(config, tmp_path / "run", lambda seen: told.append(seen.message))
        assert [entry.point for entry in summary.failed] == ["theirs"]
        assert "the engine failed 2 times" in summary.failed[0].parts[0].error
        assert any("cannot connect" in message and "starting another (1 of 1)" in message for message in told)
        found = samples.read(tmp_path / "run")
        failed = Counter((one.point, one.outcome is Outcome.FAILED) for one in found)
        assert failed == {("theirs", True): 4, ("theirs", False): 2, ("others", False): 6}
        with serving(lambda _: chat("hm</think>7"), dying.server_port) as back:
            assert sweep.run(config, tmp_path / "run").failed == ()
            assert (len(back.asked), len(other.asked)) == (4, 6)
        assert {(one.point, one.outcome) for one in samples.read(tmp_path / "run")} == {
            ("theirs", Outcome.CLOSED),
            ("others", Outcome.CLOSED),
        }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": [{"name": "x"}]}, "x needs a model and a base_url"),
        ({"lambdas": "0,1"}, "tiny@{lambda}"),
        ({"prefix": "<think>"}, "takes no prefix"),
        ({"recipe": {"rules": [{"kind": "attention", "lambda": 0}]}}, "its weights are the server's"),
        ({"points": [{"name": "x", "model": "m@{lambda}"}]}, "x needs a λ for the model m@{lambda}"),
        ({"points": [{"name": "x", "model": "m", "budget_tokens": 3}]}, "cannot go on with a thought"),
        (
            {"engine": "transformers", "sources": {"a": "b"}},
            "theirs names a model that is served",
        ),
        ({"points": [{"name": "x", "model": "m", "base_url": "http://u:p@h/v1"}]}, "OPENAI_API_KEY"),
    ],
)
def test_settings_that_make_no_sense_of_served_points_are_refused(changes, message):
    with pytest.raises(RunError) as error:
        served("http://h/v1", **changes)
    assert message in str(error.value)


def test_a_file_alone_cannot_have_a_secret_sent(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from interpole.cli import app

    monkeypatch.setenv("OTHER_SECRET", SECRET)
    with serving(lambda _: chat("hm</think>7")) as endpoint:
        content = served(endpoint.url).model_dump(mode="json", exclude_unset=True)
        content["engine_options"]["api_key_env"] = "OTHER_SECRET"
        (tmp_path / "sweep.yml").write_text(json.dumps(content))
        command = ["sweep", str(tmp_path / "sweep.yml"), "--out", str(tmp_path / "run")]
        refused = CliRunner().invoke(app, command)
        assert "asks for the value of OTHER_SECRET to be sent to http://127" in str(refused.exception)
        assert "--api-key-env OTHER_SECRET" in str(refused.exception)
        assert endpoint.asked == []
        taken = CliRunner().invoke(app, [*command, "--api-key-env", "OTHER_SECRET"])
        assert taken.exit_code == 0, taken.output
        assert f"the API key in OTHER_SECRET is sent to {endpoint.url}" in taken.stderr
        assert endpoint.headers_seen[0]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in (tmp_path / "run/run.json").read_text()


@pytest.fixture(scope="module")
def tiny_endpoint():
    """The shipped pair behind an endpoint, as `tiny@λ`; and what its engine answers when it is driven by hand."""
    from interpole.engines.open import open_engine
    from interpole.merging.recipe import Recipe

    pair = shipped()
    engine = open_engine("transformers", Recipe.between(pair.instruct, pair.thinking, 0.0), dtype="float32")

    def render(messages):
        return engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def answer(body):
        prompt = body["prompt"] if "prompt" in body else render(body["messages"])
        sampler = Sampler(body["temperature"], body["top_p"], max(body["top_k"], 0), body["max_tokens"])
        with engine.at(float(body["model"].partition("@")[2])):
            (one,) = engine.generate([prompt], sampler, [body["seed"]])
        reply = chat(one.text, finish=one.finish, tokens=one.num_tokens)
        if "prompt" in body:
            reply["choices"] = [{"text": one.text, "finish_reason": one.finish}]
        return reply

    with serving(answer) as endpoint:
        yield endpoint, engine, render


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_tiny_pair_served_gives_the_answers_of_the_engine_itself(tiny_endpoint, tmp_path, api):

    endpoint, engine, render = tiny_endpoint
    pair, out = shipped(), tmp_path / "run"
    flags = (
        f"--engine openai --base-url {endpoint.url} --model tiny@{{lambda}} --engine-option api={api} "
        f"--lambda 0,0.5,1 --limit 3 --samples 1 --temperature 0 --max-tokens 120"
    )
    command = ["sweep", str(pair.instruct), str(pair.thinking), *flags.split(), "--out", str(out)]
    told = call(*command, errors=True)
    assert "9 responses" in told
    found = samples.read(out)
    assert len(found) == 9
    for one in found:
        with engine.at(one.lam):
            prompt = render([{"role": "user", "content": one.question}])
            (expected,) = engine.generate([prompt], Sampler(0, max_tokens=120), [0])
        assert (one.response, one.num_tokens, one.finish) == (expected.text, expected.num_tokens, expected.finish)
    assert {one.closed for one in found if one.lam == 1} == {True}
    assert {one.closed for one in found if one.lam == 0} == {False}
    assert RunFile.load(out).template.startswith("{# the server") == (api == "chat")
