"""Many at once, clients that hang up or do not read, an engine that fails or hangs, a server that is told to stop."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from queue import SimpleQueue

import httpx
import psutil
import pytest
from serving import PATIENCE_SECONDS, get, running
from written import WrittenEngine, server_of

from interpole.lab import shipped
from interpole.serve.app import Limits
from interpole.serve.run import Options, listener


def body(text, **fields):
    return {"messages": [{"role": "user", "content": text}]} | fields


def empty(server, engine):
    """Whether nothing is left anywhere; it may take a moment."""
    for _ in range(3000):
        if not (server.driver.num_requests or server.num_active or engine.rows or engine.waiting):
            return True
        time.sleep(0.01)
    return False


def post(address, content, **options):
    return httpx.post(f"{address}/v1/chat/completions", json=content, timeout=PATIENCE_SECONDS, **options)


async def one_stream(client, number, lams):
    """A stream that is read to its end, left in the middle, or read slowly; returns whether it was whole."""
    chance = random.Random(number)
    content = body(f"say {chance.randrange(1, 9)}", lam=chance.choice(lams), stream=True)
    seen, leaves = [], chance.random() < 0.3
    async with client.stream("POST", "/v1/chat/completions", json=content) as reply:
        if reply.status_code != 200:
            return (await reply.aread(), reply.status_code)
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                seen.append(line[6:])
            if leaves and len(seen) > 4:
                return None
            if chance.random() < 0.02:
                await asyncio.sleep(0.05)
    assert seen[-1] == "[DONE]"
    last = json.loads(seen[-2])
    return "error" if "error" in last else last["choices"][0]["finish_reason"]


def test_two_hundred_streams_with_clients_that_leave_and_an_engine_that_fails_leave_nothing_behind():
    engine = WrittenEngine(max_rows=64, step_seconds=0.001, begins_with=64)
    engine.fails_at_step = 10
    server = server_of(engine)
    lams = [number / 10 for number in range(11)]

    async def load(address):
        found, sizes, process = [], [], psutil.Process()
        async with httpx.AsyncClient(
            base_url=address, timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=200)
        ) as client:
            for wave, num in enumerate((200, 50, 50)):
                found += await asyncio.gather(*(one_stream(client, 200 * wave + i, lams) for i in range(num)))
                sizes.append(process.memory_info().rss)
        return found, sizes

    with running(server) as address:
        found, sizes = asyncio.run(load(address))
        assert empty(server, engine)
        assert set(found) <= {None, "stop", "error"}
        assert found[200:].count("stop") > len(found[200:]) / 2  # when the engine had failed
        assert found.count("error") > 0  # those in flight when the engine failed
        assert None in found  # those that left
        assert engine.lams == set(lams)
        assert engine.most_rows == 64  # all λ in one batch
        assert sizes[2] - sizes[0] < 32 << 20  # nothing grows with the number of requests
        assert post(address, body("say 2")).json()["choices"][0]["message"]["content"] == "xx"
        health = get(f"{address}/health").json()
        assert health == {"status": "ok", "in_flight": 0, "engine_failures": 1}


def test_streams_of_the_tiny_pair_one_step_of_which_fails_are_whole_or_told_so_and_leave_nothing_behind(
    address, pair_server, monkeypatch
):
    engine, num_failures = pair_server.driver._engine, pair_server.driver.num_failures
    rows = engine._rows.rows
    plain, steps = rows.before_forward, []

    def before_forward(of, num_tokens):
        steps.append(len(of))
        if len(steps) == 20:
            raise RuntimeError("out of memory")
        plain(of, num_tokens)

    monkeypatch.setattr(rows, "before_forward", before_forward)
    content = {"messages": [{"role": "user", "content": "34 a-1 b-5 c*2 = ?"}], "stream": True, "max_tokens": 60}

    async def one(client, number):
        lines, body = 0, content | {"lam": number % 11 / 10, "n": 1 + (number % 8 == 0)}
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                lines += bool(line)
                if number % 5 == 0 and lines > 2:
                    return "left"
                if number % 7 == 0:
                    await asyncio.sleep(0.01)
                if line.startswith("data: {"):
                    last = json.loads(line[6:])
        return last["error"]["code"] if "error" in last else last["choices"][0]["finish_reason"]

    async def load():
        limits = httpx.Limits(max_connections=48)
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_SECONDS, limits=limits) as client:
            return await asyncio.gather(*(one(client, number) for number in range(48)))

    found = asyncio.run(load())
    assert {"left", "engine_failed", "stop"} <= set(found) <= {"left", "engine_failed", "stop", "length"}
    assert pair_server.driver.num_failures == num_failures + 1
    for _ in range(3000):
        if not (pair_server.driver.num_requests or pair_server.num_active or engine.busy):
            break
        time.sleep(0.01)
    assert (pair_server.driver.num_requests, pair_server.num_active, engine.busy) == (0, 0, False)
    asked = content | {"stream": False, "lam": 0, "temperature": 0}
    assert post(address, asked).json()["choices"][0]["finish_reason"] == "stop"


def test_an_engine_that_fails_answers_500_in_the_schema_and_the_next_request_is_answered():
    engine = WrittenEngine()
    server = server_of(engine)
    with running(server) as address:
        engine.fails = 1
        reply = post(address, body("say 5"))
        assert reply.status_code == 500
        assert reply.json()["error"] == {
            "message": "the engine failed: out of memory", "type": "server_error", "param": None, "code": "engine_failed",
        }  # fmt: skip
        engine.fails = 1
        with httpx.stream(
            "POST", f"{address}/v1/messages", json=body("say 5", stream=True, max_tokens=99), timeout=60
        ) as stream:
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
        assert events[-1] == {
            "type": "error",
            "error": {"type": "api_error", "message": "the engine failed: out of memory"},
        }
        assert post(address, body("refuse this")).json()["error"]["message"] == "this prompt is refused"
        assert post(address, body("say 3")).json()["choices"][0]["message"]["content"] == "xxx"
        assert empty(server, engine)


def test_beyond_the_queue_clients_are_told_when_to_try_again():
    engine = WrittenEngine(max_rows=1)
    engine.holds = threading.Event()  # nothing ends while others are refused
    server = server_of(engine, max_requests=3)
    with running(server) as address:
        holding = [threading.Thread(target=post, args=(address, body("say 50"))) for _ in range(3)]
        for thread in holding:
            thread.start()
        while server.driver.num_requests < 3:
            time.sleep(0.01)
        for content in (body("say 1"), body("say 1", stream=True)):
            reply = post(address, content)
            assert reply.status_code == 429
            assert int(reply.headers["retry-after"]) > 0
            assert reply.json()["error"]["code"] == "queue_full"
        engine.holds.set()
        for thread in holding:
            thread.join()
        assert post(address, body("say 1", n=4)).status_code == 429
        assert post(address, body("say 1", n=3)).status_code == 200
        assert empty(server, engine)


def test_a_request_that_takes_too_long_ends_and_frees_its_row():
    engine = WrittenEngine(step_seconds=0.02)
    server = server_of(engine, limits=Limits(timeout_seconds=0.3))
    with running(server) as address:
        reply = post(address, body("say 1000"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        stream = post(address, body("say 1000", stream=True)).text
        assert '"code": "timeout"' in stream
        assert stream.endswith("data: [DONE]\n\n")
        assert empty(server, engine)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_row(stream):
    engine = WrittenEngine(step_seconds=0.002)
    server = server_of(engine)
    with running(server) as address:
        host, port = address.removeprefix("http://").split(":")
        content = json.dumps(body("say 50000", stream=stream)).encode()
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            while not engine.rows:
                time.sleep(0.01)
        assert empty(server, engine)
        assert 'status="499"' in get(f"{address}/metrics").text


def test_a_client_that_reads_nothing_is_left_and_frees_its_row():
    engine = WrittenEngine()
    server = server_of(engine, limits=Limits(read_seconds=0.5), name="pair" * 1000)  # in every event: buffers fill soon
    with running(server) as address:
        host, port = address.removeprefix("http://").split(":")
        content = json.dumps(body("say 90000", stream=True, n=8)).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            while not engine.rows:
                time.sleep(0.01)
            for _ in range(6000):
                if not server.num_active:
                    break
                time.sleep(0.01)
            assert not server.num_active  # though the client is still there
        assert empty(server, engine)


def test_without_the_key_nothing_is_told_and_the_key_is_written_nowhere(caplog):
    engine, key = WrittenEngine(), "sk-very-secret"
    server = server_of(engine, api_key=key)
    with running(server) as address, caplog.at_level("DEBUG"):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {key}"}, {"x-api-key": "é"}):
            encoded = {name: value.encode() for name, value in headers.items()}
            reply = post(address, body("say 1"), headers=encoded)
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
            assert get(f"{address}/v1/models", headers=encoded).status_code == 401
        assert get(f"{address}/metrics").status_code == 401
        assert get(f"{address}/health").status_code == 200
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert post(address, body("say 1"), headers=headers).status_code == 200
        told = httpx.post(f"{address}/v1/messages", json=body("say 1", max_tokens=5), timeout=PATIENCE_SECONDS).json()
        assert told["error"]["type"] == "authentication_error"
        assert key not in get(address).text
    assert key not in caplog.text


def test_pages_of_other_origins_may_ask_only_where_they_are_named():
    engine = WrittenEngine()
    asks = {"origin": "http://ours.example", "access-control-request-method": "POST"}
    asks["access-control-request-headers"] = "content-type"
    for cors, allowed in (((), None), (("http://ours.example",), "http://ours.example")):
        with running(server_of(engine), Options(port=0, cors=cors)) as address:
            preflight = httpx.options(f"{address}/v1/chat/completions", headers=asks, timeout=PATIENCE_SECONDS)
            assert preflight.headers.get("access-control-allow-origin") == allowed
            other = post(address, body("say 1"), headers={"origin": "http://other.example"})
            assert "access-control-allow-origin" not in other.headers


def test_prompts_are_logged_only_where_that_is_asked_for(caplog):
    engine = WrittenEngine()
    for asked in (False, True):
        with running(server_of(engine, log_prompts=asked)) as address, caplog.at_level("INFO", "interpole.serve"):
            post(address, body("a secret: say 1"))
        assert ("a secret" in caplog.text) == asked


@pytest.mark.parametrize("moving", [False, True])
def test_an_engine_that_hangs_is_not_healthy_one_whose_weights_move_is(moving):
    engine = WrittenEngine()
    engine.moving, engine.holds = moving, threading.Event()
    server = server_of(engine, limits=Limits(stall_seconds=0.2))
    with running(server) as address:
        thread = threading.Thread(target=post, args=(address, body("say 1", max_tokens=2)))
        thread.start()
        found = "", 0
        while server.driver.stalled_seconds < 0.5:  # until it has been in its step for so long
            time.sleep(0.01)
        reply = get(f"{address}/health")
        found = reply.status_code, reply.json()["status"]
        engine.holds.set()
        thread.join()
        assert found == ((200, "ok") if moving else (503, "stalled"))
        assert get(f"{address}/health").status_code == 200


def test_a_server_that_is_told_to_end_finishes_what_streams_and_refuses_what_is_new():
    engine = WrittenEngine()
    engine.holds = threading.Event()
    server, ready = server_of(engine), SimpleQueue()
    listening = listener(server, Options(port=0), ready.put)
    thread = threading.Thread(target=listening.run)
    thread.start()
    address = ready.get(timeout=PATIENCE_SECONDS)
    with httpx.stream(
        "POST", f"{address}/v1/chat/completions", json=body("say 5", stream=True), timeout=PATIENCE_SECONDS
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        listening.handle_exit(signal.SIGTERM, None)
        reply = get(f"{address}/health")
        assert (reply.status_code, reply.json()["status"]) == (503, "draining")
        refused = post(address, body("say 1"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        engine.holds.set()
        said = [line for line in lines if line]
        assert said[-1] == "data: [DONE]"
        assert (
            "".join(json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in said[:-1]) == "xxxxx"
        )
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_the_command_serves_and_on_sigterm_finishes_what_streams():
    pair = shipped()
    command = [sys.executable, "-m", "interpole", "serve", pair.instruct, pair.thinking, "--port", "0"]
    command += ["--dtype", "float32", "--api-key-env", "SERVE_KEY"]
    environment = {**os.environ, "SERVE_KEY": "abc"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)
    try:
        told = ""
        while "Serving at" not in told:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            told += line
        address = told.split("Serving at ")[1].split(" ")[0]
        assert "interpole:low" in told
        assert "abc" not in told
        headers = {"authorization": "Bearer abc"}
        wild = {
            "prompt": "<|im_start|>user\n1 a+1",
            "lam": 1,
            "temperature": 2,
            "top_k": 0,
            "top_p": 1,
            "stream": True,
            "n": 4,
            "max_tokens": 200,
        }
        with httpx.stream(
            "POST", f"{address}/v1/completions", json=wild, headers=headers, timeout=PATIENCE_SECONDS
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(PATIENCE_SECONDS) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
