"""vLLM's own server with a λ in every request, asked by the clients that people have.

These tests need vLLM: `make test-vllm` runs them in an environment of their own, on a CPU.
"""
# ruff: noqa: E402

import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from urllib.request import urlopen

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
pytestmark = pytest.mark.vllm

import httpx
import openai
import psutil
from clients import CHECKS
from serving import running
from transformers import AutoTokenizer
from vllm.v1.engine.detokenizer import check_stop_strings

from interpole.chat import ThinkFormat
from interpole.checkpoints.open import open_source
from interpole.engines import vllm_thoughts
from interpole.engines.base import Request
from interpole.engines.grouped import open_grouped
from interpole.engines.open import open_engine
from interpole.engines.vllm_grouped import open_grouped_vllm, settings_of_flags
from interpole.engines.vllm_per_request import FOLDER
from interpole.engines.vllm_stops import AnswerStops
from interpole.engines.vllm_thoughts import form_for
from interpole.errors import EngineError
from interpole.lab import shipped
from interpole.merging.recipe import Recipe
from interpole.records import Sampler
from interpole.serve.levels import Level, Levels
from interpole.serve.run import Options, server_of
from widened import with_heads_of_32

KEY = "a key of our own"
LEVELS = "Levels(0.45, {'low': Level(0.3), 'medium': Level(0.6, 40.0, 0.5), 'high': Level(1.0)}, 'pair')"
FLAGS = ["--dtype", "float32", "--max-model-len", "512", "--kv-cache-memory-bytes", "134217728"]
QUESTIONS = ["34 a-1 = ?", "7 a*3 = ?", "12+5*2 = ?"]
LAMS = (0.0, 0.45, 1.0)
MOST = 200
GRACE_SECONDS = 12  # what a server has once its engine has ended, twice the time for which it lingers and more


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    found = shipped()
    return [with_heads_of_32(source, folder / source.name) for source in (found.instruct, found.thinking)]


@contextmanager
def serving(pair, log):
    """The address of a server of the tiny pair, and its process; what is left of it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys; from interpole.serve import vllm, vllm_ending; from interpole.serve.levels import Level, Levels\n"
        f"vllm_ending.GRACE_SECONDS, vllm_ending.TELL_SECONDS = {GRACE_SECONDS}, {GRACE_SECONDS - 4}\n"
        f"vllm.main(*sys.argv[1:3], {LEVELS}, port={port}, api_key={KEY!r}, flags=sys.argv[3:])"
    )
    command = [sys.executable, "-c", code, *map(str, pair), *FLAGS]
    with log.open("w") as out:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment, process_group=0)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 600
    healthy = False
    try:
        while not healthy and server.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), urlopen(f"{url}/health"):
                healthy = True
            time.sleep(0.2)
        if not healthy:
            pytest.fail(log.read_text()[-6000:])
        yield url, server
    finally:
        server.kill()


def unread(url):
    """A client that asks for a long stream and reads none of it."""
    host, port = url.removeprefix("http://").split(":")
    ask = {"model": "pair", "prompt": "34 a-1", "stream": True, "max_tokens": 400, "ignore_eos": True, "n": 64}
    content = json.dumps(ask).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


@pytest.fixture(scope="module")
def served(pair, tmp_path_factory):
    """The address of a server; it is told to end, and ends, though one client reads nothing of what it has asked for."""
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(pair, log) as (url, server):
        yield url
        with unread(url):
            while not num_running(url):
                time.sleep(0.1)
            server.terminate()
            assert server.wait(300) == 0
    assert KEY not in log.read_text()


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served}/v1", api_key=KEY, max_retries=0, timeout=300)


@pytest.fixture(scope="module")
def expected(pair):
    """What transformers says, greedy, at each λ: (thinking, answer, tokens) by λ and question."""
    recipe = Recipe.between(*pair, 0.0)
    checkpoint = open_source(str(pair[1]))
    form = ThinkFormat.of(checkpoint.assets, checkpoint.chat_template or "")
    engine = open_engine("transformers", recipe, dtype="float32")
    prompts = [form.render([{"role": "user", "content": question}]) for question in QUESTIONS]
    found = {}
    for lam in LAMS:
        with engine.at(lam):
            answers = engine.generate(prompts, Sampler(temperature=0, max_tokens=MOST), [0] * len(prompts))
        for question, answer in zip(QUESTIONS, answers, strict=True):
            parsed = form.parse(answer.text, answer.finish)
            found[lam, question] = (parsed.thinking or None, parsed.answer or None, answer.num_tokens)
    assert any(thinking for thinking, *_ in found.values())
    assert not all(thinking for thinking, *_ in found.values())
    return found


def asked(question, **fields):
    return {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MOST,
        "model": "pair",
    } | fields


def read(answer):
    message = answer.choices[0].message
    assert (getattr(message, "reasoning", None) or None) == (getattr(message, "reasoning_content", None) or None)
    return getattr(message, "reasoning", None) or None, message.content or None, answer.usage.completion_tokens


def check_chats_of_mixed_lambdas(address, expected):
    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=300) as client:
            jobs = [(lam, question) for lam in LAMS for question in QUESTIONS] * 2
            asks = [
                client.chat.completions.create(**asked(question), extra_body={"lam": lam}) for lam, question in jobs
            ]
            return zip(jobs, await asyncio.gather(*asks), strict=True)

    for (lam, question), answer in asyncio.run(all_at_once()):
        thinking, said, num_tokens = read(answer)
        assert ((thinking or "").strip(), (said or "").strip(), num_tokens) == tuple(
            (part or "").strip() if not isinstance(part, int) else part for part in expected[lam, question]
        ), (lam, question)


def test_concurrent_chats_of_mixed_lambdas_say_what_transformers_says_at_each(served, expected):
    check_chats_of_mixed_lambdas(served, expected)


def test_a_stream_has_the_same_text_the_thought_apart_and_its_tokens_counted(client, expected):
    for lam in (0.0, 1.0):
        stream = client.chat.completions.create(
            **asked(QUESTIONS[0], stream=True), stream_options={"include_usage": True}, extra_body={"lam": lam}
        )
        chunks = list(stream)
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        thinking = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        said = "".join(delta.content or "" for delta in deltas)
        assert deltas[0].role == "assistant"
        wanted = expected[lam, QUESTIONS[0]]
        assert (thinking.strip(), said.strip()) == tuple((part or "").strip() for part in wanted[:2])
        usage = chunks[-1].usage
        assert usage.completion_tokens == wanted[2]
        whole = client.chat.completions.create(**asked(QUESTIONS[0]), extra_body={"lam": lam}).usage
        assert usage.completion_tokens_details.reasoning_tokens == whole.completion_tokens_details.reasoning_tokens
        assert bool(usage.completion_tokens_details.reasoning_tokens) == bool(wanted[0])


def test_effort_model_name_and_default_choose_lambda_and_the_response_says_it(client):
    for fields, lam, name in [
        ({}, "0.45", "pair"),
        ({"reasoning_effort": "high"}, "1", "pair"),
        ({"model": "pair:low"}, "0.3", "pair:low"),
        ({"model": "pair@0.55"}, "0.55", "pair@0.55"),
        ({"reasoning_effort": "high", "extra_body": {"lam": 0.2}}, "0.2", "pair"),
        ({"reasoning_effort": "none"}, "0", "pair"),
    ]:
        raw = client.chat.completions.with_raw_response.create(**asked("x", max_tokens=2) | fields)
        answer = raw.parse()
        assert (raw.headers["x-interpole-lambda"], answer.model) == (lam, name)
        assert answer.system_fingerprint


def test_n_seeds_log_probabilities_and_stops_are_vllms_own(client):
    warm = asked("x", max_tokens=6, temperature=1.0, n=3, seed=7, logprobs=True, top_logprobs=2)
    first, second = (client.chat.completions.create(**warm, extra_body={"lam": 0.3}) for _ in range(2))
    texts = [[token.token for token in choice.logprobs.content] for choice in first.choices]
    assert len(texts) == 3
    assert texts == [[token.token for token in choice.logprobs.content] for choice in second.choices]
    assert {len(token.top_logprobs) for token in first.choices[0].logprobs.content} == {2}


def test_completions_and_responses_have_lambda_too(client):
    by_lam = {}
    for lam in (0.0, 1.0):
        raw = client.completions.with_raw_response.create(
            model="pair", prompt="34 a-1 = ?", max_tokens=24, temperature=0, extra_body={"lam": lam, "ignore_eos": True}
        )
        assert raw.headers["x-interpole-lambda"] == f"{lam:g}"
        by_lam[lam] = raw.parse().choices[0].text
    assert by_lam[0.0] != by_lam[1.0]
    chat = client.chat.completions.create(**asked(QUESTIONS[0]), reasoning_effort="high")
    response = client.responses.create(
        model="pair", input=QUESTIONS[0], temperature=0, max_output_tokens=MOST, reasoning={"effort": "high"}
    )
    assert response.output_text.strip() == chat.choices[0].message.content.strip()
    assert (
        response.usage.output_tokens_details.reasoning_tokens
        == chat.usage.completion_tokens_details.reasoning_tokens
        > 0
    )


def test_a_budget_for_thinking_holds_and_leaves_room_for_the_answer(client):
    free = client.chat.completions.create(**asked(QUESTIONS[0]), extra_body={"lam": 1})
    assert free.usage.completion_tokens_details.reasoning_tokens > 8
    held = client.chat.completions.create(**asked(QUESTIONS[0]), extra_body={"lam": 1, "thinking_token_budget": 8})
    assert held.usage.completion_tokens_details.reasoning_tokens <= 9
    assert held.choices[0].message.content
    assert "<think>" not in held.choices[0].message.content


def test_models_are_listed_with_their_levels(client):
    listed = {model.id: model for model in client.models.list()}
    assert list(listed) == ["pair", "pair:none", "pair:low", "pair:medium", "pair:high"]
    medium = listed["pair:medium"].model_extra
    assert (medium["lam"], medium["expected_tokens"], medium["expected_accuracy"]) == (0.6, 40.0, 0.5)
    assert client.models.retrieve("pair@0.7").id == "pair@0.7"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"lam": 1.01}}, "lam"),
        ({"extra_body": {"lam": "0.5"}}, "lam"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs"),
        ({"extra_body": {"no_such_thing": 1}}, "no_such_thing"),
    ],
)
def test_what_is_not_served_is_a_400_in_the_schema(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked("x") | fields)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert caught.value.message


def test_without_the_key_nothing_is_said(served):
    stranger = openai.OpenAI(base_url=f"{served}/v1", api_key="another", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(**asked("x"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_client(check, served):
    check(served, KEY)


def num_running(url):
    """How many requests vLLM works on or has waiting."""
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    found = re.findall(r"^vllm:num_requests_(?:running|waiting){.*} (\S+)$", metrics, re.M)
    assert len(found) == 2
    return sum(map(float, found))


async def one_stream(client, number):
    """A stream that is read to its end, left in the middle, or read slowly: how it ended."""
    chance, num_lines = random.Random(number), 0
    body = asked(QUESTIONS[number % 3], stream=True, temperature=1, lam=number % 11 / 10)
    leaves = number % 5 == 0
    if leaves:  # from an answer that is long enough to be left
        body |= {"ignore_eos": True, "max_tokens": 64}
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            num_lines += bool(line)
            if leaves and num_lines > 3:
                return "left"
            if number % 7 == 0 and chance.random() < 0.05:
                await asyncio.sleep(0.2)
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))
    assert line == "data: [DONE]" or not line
    return "error" if "error" in last else last["choices"][0]["finish_reason"]


def test_sixty_streams_with_clients_that_leave_and_that_read_slowly_leave_nothing_behind(served):
    async def load():
        headers, limits = {"authorization": f"Bearer {KEY}"}, httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=served, headers=headers, timeout=300, limits=limits) as client:
            return await asyncio.gather(*(one_stream(client, number) for number in range(60)))

    found = asyncio.run(load())
    assert found.count("left") == 12
    assert set(found) <= {"left", "stop", "length"}
    deadline = time.monotonic() + 60
    while num_running(served) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert num_running(served) == 0


def counters(url):
    """Our own samples of `/metrics`, for which Prometheus asks like this, at λ = 0.85."""
    headers = {"accept": "application/openmetrics-text;version=1.0.0", "accept-encoding": "gzip"}
    text = httpx.get(f"{url}/metrics", headers=headers, timeout=60).text
    assert "vllm:request_success_total" in text
    found = re.findall(r"^interpole_(\w+){(.*)} (\S+)$", text, re.M)
    return {f"{name} {labels}": float(value) for name, labels, value in found if 'lam="0.85"' in labels}


def test_requests_tokens_latency_and_think_r_are_counted_by_lambda_as_the_responses_say(served):
    fields = {"model": "pair", "lam": 0.85, "temperature": 0, "max_tokens": MOST}
    chat = {"messages": [{"role": "user", "content": QUESTIONS[0]}]}
    asks = [
        ("chat/completions", chat | {"reasoning": {"exclude": True}}),
        ("chat/completions", chat | {"n": 2, "temperature": 1, "seed": 1}),
        ("completions", {"prompt": [QUESTIONS[0], QUESTIONS[1]], "max_tokens": 4}),
        ("messages", chat),
        ("responses", {"input": QUESTIONS[0], "max_output_tokens": MOST, "max_tokens": None}),
    ]
    with httpx.Client(base_url=f"{served}/v1/", headers={"authorization": f"Bearer {KEY}"}, timeout=300) as client:
        replies = [client.post(path, json=fields | ask).json() for path, ask in asks]
        before = counters(served)
        for path, ask in asks:
            assert client.post(path, json=fields | ask | {"stream": True}).status_code == 200
    after = counters(served)
    usages = [reply["usage"] for reply in replies]
    num_tokens = sum(usage.get("completion_tokens", usage.get("output_tokens")) for usage in usages)
    num_prompt_tokens = sum(usage.get("prompt_tokens", usage.get("input_tokens")) for usage in usages)
    num_closed = sum(choice["message"]["content"] is not None for reply in replies[:2] for choice in reply["choices"])
    for found, num_first in ((before, 0), ({name: after[name] - before.get(name, 0) for name in after}, 5)):
        assert found['completion_tokens_total lam="0.85"'] == num_tokens
        assert found['prompt_tokens_total lam="0.85"'] == num_prompt_tokens
        assert found['reasoning_tokens_total lam="0.85"'] > num_tokens / 3
        assert found['responses_total lam="0.85"'] == 7
        assert found['thought_responses_total lam="0.85"'] == num_closed + 2 > 3
        assert found['request_seconds_count lam="0.85"'] == 5
        assert found.get('time_to_first_token_seconds_count lam="0.85"', 0) == num_first
    for path in ("chat/completions", "completions", "messages", "responses"):
        ended = f'requests_total endpoint="/v1/{path}",lam="0.85",status="200"'
        assert after[ended] == 2 * before[ended] > 0
    assert after['think_ratio lam="0.85"'] == (num_closed + 2) / 7


def test_health_and_the_page_are_there_and_no_other_name(served):
    assert httpx.get(served, headers={"host": "evil.example"}).json()["error"]["code"] == "wrong_host"
    assert httpx.get(f"{served}/health").status_code == 200
    assert "One prompt, three λ" in httpx.get(served).text


# ── one copy of the weights in vLLM ──────────────────────────────────────────────────────────────────────────────

GREEDY = Sampler(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def grouped(pair):
    settings = settings_of_flags([*FLAGS[2:], "--no-async-scheduling"])
    engine = open_grouped_vllm(
        Recipe.between(*pair, 0.0), dtype="float32", patience_steps=20, max_rows=4, check="all", **settings
    )
    yield engine
    engine.close()


def until_idle(engine):
    """What was generated by key, and the tokens that were told by key."""
    answers, tokens = {}, {}
    while engine.busy:
        answers |= {one.key: one.generation for one in engine.step()}
        for token in engine.events():
            tokens.setdefault(token.key, []).append(token)
    return answers, tokens


def test_one_vllm_answers_each_request_at_its_lambda_and_tells_every_token(pair, grouped):
    jobs = [(question, lam) for question in QUESTIONS for lam in LAMS]
    plain = open_grouped(Recipe.between(*pair, 0.0), dtype="float32")
    for engine in (plain, grouped):
        for key, (question, lam) in enumerate(jobs):
            engine.add(Request(key, question, GREEDY, 0, lam=lam, top_logprobs=2))
    assert (grouped.num_waiting, grouped.num_running) == (9, 0)
    turns = grouped.num_turns
    (answers, tokens), (expected, expected_tokens) = until_idle(grouped), until_idle(plain)
    assert grouped.num_turns == turns + 2  # three λ, the first of them at hand
    assert answers == expected
    assert len({answer.text for answer in answers.values()}) > len(QUESTIONS)
    for key, answer in answers.items():
        ids = [token.token_id for token in tokens[key]]
        assert ids == [token.token_id for token in expected_tokens[key]]
        said = ids[:-1] if answer.finish == "stop" else ids
        assert (grouped.tokenizer.decode(said), len(ids)) == (answer.text, answer.num_tokens)
        for token, other in zip(tokens[key], expected_tokens[key], strict=True):
            assert token.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert token.top[0] == (token.token_id, token.logprob)
            assert [one for _, one in token.top] == pytest.approx([one for _, one in other.top], abs=1e-3)
    for lam in LAMS:
        with grouped.at(lam):
            again = grouped.generate(QUESTIONS, GREEDY, range(len(QUESTIONS)))
        assert again == [answers[key] for key, job in enumerate(jobs) if job[1] == lam]


def test_a_stream_of_one_lambda_starves_no_other_in_vllm(grouped):
    grouped.load(0.0)
    grouped.add(Request(1000, "x", GREEDY, 0, lam=0.0))
    grouped.step()
    grouped.add(Request(2000, "x", GREEDY, 0, lam=1.0))
    answered_at = None
    for step in range(120):
        grouped.add(Request(step, "x", GREEDY, 0, lam=0.0))
        if any(one.key == 2000 for one in grouped.step()):
            answered_at = step
            break
    assert answered_at is not None
    assert 20 <= answered_at <= 20 + 2 * GREEDY.max_tokens + 2
    assert grouped.num_waiting > 10
    grouped.abandon()
    assert not grouped.busy


def test_a_request_that_is_cancelled_in_vllm_or_before_is_never_answered(grouped):
    grouped.load(0.0)
    for key, lam in enumerate((0.0, 0.0, 1.0)):
        grouped.add(Request(key, QUESTIONS[0], GREEDY, 0, lam=lam))
    grouped.step()
    assert (grouped.num_running, grouped.num_waiting) == (2, 1)
    turns = grouped.num_turns
    assert [grouped.cancel(key) for key in (0, 0, 2, 2)] == [True, False, True, False]
    answers, _ = until_idle(grouped)
    assert set(answers) == {1}
    assert grouped.num_turns == turns  # nobody is left at the other λ


def test_what_vllm_refuses_costs_that_request_alone(grouped):
    grouped.load(0.0)
    grouped.add(Request(0, "x", GREEDY, 0, lam=1.0))
    for wrong, message in [
        (Request(1, "a" * 600, GREEDY, 0, lam=0.5), "does not fit"),
        (Request(1, "x", GREEDY, 0, lam=2.0), "λ = 2"),
        (Request(0, "x", GREEDY, 0, lam=0.5), "two requests with the key 0"),
        (Request(1, "x", GREEDY, 0, lam=0.5, min_p=2.0), "min_p"),
    ]:
        with pytest.raises(EngineError, match=message):
            grouped.add(wrong)
    grouped.add(Request(2, "x", GREEDY, 0, lam=1.0, top_logprobs=1000))  # more than vLLM gives, which it says late
    finished = grouped.step()
    assert [(one.key, one.error is not None) for one in finished] == [(2, True)]
    assert set(until_idle(grouped)[0]) == {0}


def test_after_a_step_that_failed_the_weights_are_loaded_again(grouped, monkeypatch):
    grouped.load(0.0)
    grouped.add(Request(0, QUESTIONS[0], GREEDY, 0, lam=0.0))
    expected = until_idle(grouped)[0][0]
    turns = grouped.num_turns

    def fail():
        raise RuntimeError("out of memory")

    grouped.add(Request(1, QUESTIONS[0], GREEDY, 0, lam=0.0))
    with monkeypatch.context() as patched:
        patched.setattr(grouped._batch._running.llm, "step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            grouped.step()
    grouped.abandon()
    assert not grouped.busy
    grouped.add(Request(2, QUESTIONS[0], GREEDY, 0, lam=0.0))
    assert until_idle(grouped)[0] == {2: expected}
    assert grouped.num_turns == turns + 1


def test_our_server_over_one_vllm_says_what_transformers_says_at_each_lambda(grouped, expected):
    levels = Levels(0.45, {"high": Level(1.0)}, "pair")
    with running(server_of(grouped, levels, Options(port=0, api_key=KEY))) as address:
        check_chats_of_mixed_lambdas(address, expected)
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=300)
        chunks = list(client.chat.completions.create(**asked(QUESTIONS[0], stream=True), reasoning_effort="high"))
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said.strip() == expected[1.0, QUESTIONS[0]][1].strip()


def test_flags_are_read_as_vllm_reads_them_and_ours_are_refused():
    read_flags = settings_of_flags(["--tensor-parallel-size", "2", "--max-model-len=32k", "--no-enforce-eager"])
    assert read_flags == {"tensor_parallel_size": 2, "max_model_len": 32000, "enforce_eager": False}
    for flag, message in [
        ("--dtype=float32", "--dtype is not for vLLM: say it before --"),
        ("--max_num_seqs=3", "say --max-rows"),
        ("--no-such-thing", "unrecognized arguments: --no-such-thing"),
        ("--max-model-len=many", "vLLM's flags"),
    ]:
        with pytest.raises(EngineError, match=message):
            settings_of_flags([flag])


def is_engine(process):
    return "EngineCore" in " ".join(process.cmdline())


def test_a_server_whose_engine_is_killed_under_a_load_tells_everybody_and_ends(pair, tmp_path):
    async def one(client, number, first):
        """How a stream ended; `first` is set when it has begun."""
        body = asked(QUESTIONS[number % 3], stream=True, lam=number % 11 / 10, ignore_eos=True, max_tokens=400)
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    first.set()
                    last = json.loads(line.removeprefix("data: "))
                    if number % 5 == 0:
                        await asyncio.sleep(0.02)
        return "error" if "error" in last else last["choices"][0]["finish_reason"]

    async def load(url, kill):
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300, limits=httpx.Limits()) as client:
            begun = [asyncio.Event() for _ in range(40)]
            streams = [asyncio.create_task(one(client, number, first)) for number, first in enumerate(begun)]
            await asyncio.gather(*(first.wait() for first in begun))
            kill()
            return await asyncio.gather(*streams)

    with serving(pair, tmp_path / "log") as (url, server):
        engines = [child for child in psutil.Process(server.pid).children(recursive=True) if is_engine(child)]
        assert len(engines) == 1
        found = asyncio.run(load(url, lambda: engines[0].send_signal(signal.SIGKILL)))
        assert "error" in found
        assert set(found) <= {"error", "length"}
        assert server.wait(300) == 1
    assert "died (exit code -9)" in (tmp_path / "log").read_text()


def test_a_server_that_is_told_to_end_finishes_what_streams_and_takes_nothing_new(pair, tmp_path):
    most = 300

    async def one(client, number, first):
        """How a stream ended, and its tokens; `first` is set when it has begun."""
        body = asked(QUESTIONS[number % 3], stream=True, lam=number % 11 / 10, ignore_eos=True, max_tokens=most)
        body |= {"stream_options": {"include_usage": True}}
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            lines = [first.set() or line async for line in reply.aiter_lines() if line]
        *_, finish, usage = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        return lines[-1], finish["choices"][0]["finish_reason"], usage["usage"]["completion_tokens"]

    async def load(url, server):
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as client:
            begun = [asyncio.Event() for _ in range(24)]
            streams = [asyncio.create_task(one(client, number, first)) for number, first in enumerate(begun)]
            await asyncio.gather(*(first.wait() for first in begun))
            os.killpg(server.pid, signal.SIGINT)  # as a terminal does it, to the whole group
            while (health := await client.get("/health")).status_code == 200:
                pass
            refused = await client.post("/v1/chat/completions", json=asked("x"))
            assert not all(stream.done() for stream in streams)
            for reply in (health, refused):
                found = reply.status_code, reply.json()["error"]["code"], reply.headers["connection"]
                assert found == (503, "shutting_down", "close")
            return await asyncio.gather(*streams)

    with serving(pair, tmp_path / "log") as (url, server):
        assert set(asyncio.run(load(url, server))) == {("data: [DONE]", "length", most)}
        assert server.wait(300) == 0


# ── the reader of thoughts alone ─────────────────────────────────────────────────────────────────────────────────

OPENS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}"
)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Makes readers for a family whose prompt opens the thought."""
    source = shipped().instruct
    for path in source.iterdir():
        if path.suffix == ".json":
            shutil.copy(path, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(OPENS)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    vllm_thoughts.form_for.cache_clear()
    tokenizer = AutoTokenizer.from_pretrained(source)
    yield lambda **variables: vllm_thoughts.ThoughtReader(tokenizer, chat_template_kwargs=variables)
    vllm_thoughts.form_for.cache_clear()


@pytest.mark.parametrize(
    ("response", "thinking", "answer"),
    [("add</think>\n\n42", "add", "42"), ("42", "42", None), ("add</think>", "add", "")],
)
def test_a_response_whose_prompt_opened_the_thought_is_read_so(reader, response, thinking, answer):
    assert reader().extract_reasoning(response, None) == (thinking, answer)
    one = reader()
    deltas = [one.extract_reasoning_streaming("", "", piece, (), (), ()) for piece in (response[:2], response[2:])]
    deltas = [delta for delta in [*deltas, one.finish_streaming()] if delta is not None]
    assert "".join(delta.reasoning or "" for delta in deltas) == thinking
    said = [delta.content for delta in deltas if delta.content is not None]
    assert ("".join(said) if said else None) == answer
    assert one.has_engine_confirmed_reasoning_end() == (answer is not None)


def test_tokens_of_the_thought_are_counted_without_its_markers(reader):
    tokens = reader().model_tokenizer.encode("add</think>42", add_special_tokens=False)
    num_thought = len(reader().model_tokenizer.encode("add", add_special_tokens=False))
    assert reader().count_reasoning_tokens(tokens) == num_thought
    assert reader().count_reasoning_tokens(tokens[:num_thought]) == num_thought  # not closed yet
    closed = reader(enable_thinking=False)
    assert closed.count_reasoning_tokens(tokens[:num_thought]) == 0
    assert closed.extract_reasoning("42", None) == (None, "42")


def fed(stops, pieces, include=False):
    """Pieces of a response, cut where vLLM would be told to."""
    text = ""
    for piece in pieces:
        text += piece
        if hit := stops.find(text, len(piece), include, check_stop_strings):
            return hit[0], text if hit[1] == -1 else text[: hit[1]]
    return None, text


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("one; two</think>\n\nthree; four", ("; ", "one; two</think>\n\nthree")),
        ("one; two</think>\n\nthree", (None, "one; two</think>\n\nthree")),
        ("one; two", (None, "one; two")),
    ],
)
def test_stop_strings_are_looked_for_from_where_the_answer_begins(reader, response, expected, size):
    del reader
    pieces = [response[i : i + size] for i in range(0, len(response), size)]
    opened, plain = form_for("{}"), form_for('{"enable_thinking": false}')
    assert fed(AnswerStops(["; ", "!"], opened), pieces) == expected
    found = fed(AnswerStops(["; ", "!"], plain), [*pieces, "; and more"])
    before = response if "; " not in response else response[: response.index("; ")]
    assert found == ("; ", before) or "</think>" in response
    assert fed(AnswerStops(["; "], opened), ["x; y</think>a; ", "b"], include=True) == ("; ", "x; y</think>a; ")


def test_stop_strings_do_not_count_before_the_fewest_tokens(reader):
    del reader
    stops = AnswerStops([";"], form_for("{}"))
    assert stops.find("x</think>a;b", 1, False, check_stop_strings) is None  # vLLM counts from the last token on
    assert stops.find("x</think>a;bc;", 2, False, check_stop_strings) == (";", len("x</think>a;bc"))
