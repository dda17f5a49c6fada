"""`interpole serve` on the tiny pair: what each effort costs and gets, the time to the first token, and a minute of 200 clients.

    python benchmarks/serve_load.py [--seconds 60] [--questions 96]
    .venv-vllm/bin/python benchmarks/serve_load.py --engine vllm
    .venv-vllm/bin/python benchmarks/serve_load.py --engine vllm --seconds 0     # the engine's end only

Clients hang up at random and read slowly. The embedded engine fails once in the middle; vLLM's is killed afterwards, under a load
of its own, which ends the server. What is printed goes into docs/serve.md; times are of this machine, ratios of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from interpole.lab import shipped
from interpole.tasks.arithmetic import load
from interpole.tasks.benchmark import TaskRequest

RUNNING = r"^(?:interpole_requests_in_flight|vllm:num_requests_(?:running|waiting){.*}) (\S+)$"
EFFORTS = ("none", "low", "medium", "high")


FAILS_ON_SIGNAL = """
import signal
from interpole.engines.per_request import PerRequestEngine as Engine
plain, due = Engine._before_forward, []
signal.signal(signal.SIGUSR1, lambda *_: due.append(True))
def before_forward(self, rows, num_tokens):
    if due:
        due.clear()
        raise RuntimeError("out of memory, as the benchmark wants it")
    plain(self, rows, num_tokens)
Engine._before_forward = before_forward
from interpole.cli import main
main()
"""
VLLM_FLAGS = ["--", "--dtype", "float32", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(1 << 28)]


def start(engine: str, work: Path) -> tuple[subprocess.Popen[str], str]:
    """The server as people start it, and its address."""
    pair = shipped()
    folders, more = [pair.instruct, pair.thinking], ["--dtype", "float32"]
    if engine == "vllm":
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from widened import with_heads_of_32

        folders, more = [with_heads_of_32(folder, work / folder.name) for folder in folders], VLLM_FLAGS
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--engine", engine, "--port", str(port), "--effort", "low=0.42,medium=0.5,high=1"]
    words = ["-c", FAILS_ON_SIGNAL, "serve", *map(str, folders), *options, *more]
    process = subprocess.Popen([sys.executable, *words], stdout=sys.stderr, text=True)
    address = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            httpx.get(f"{address}/health")
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return process, address
    raise SystemExit("it did not start")


async def efforts(client: httpx.AsyncClient, num_questions: int) -> None:
    """Tokens and accuracy at every effort, on the same questions."""
    problems = load(TaskRequest(limit=num_questions)).problems
    print(f"{'effort':8} {'Token #N':>9} {'accuracy':>9} {'Think #R':>9}   ({len(problems)} questions)")
    for effort in EFFORTS:

        async def ask(problem: Any, effort: str = effort) -> dict[str, Any]:
            body = {"messages": [{"role": "user", "content": problem.question}], "reasoning_effort": effort, "seed": 1}
            return (await client.post("/v1/chat/completions", json=body)).json()

        replies = await asyncio.gather(*map(ask, problems))
        tokens = np.mean([reply["usage"]["completion_tokens"] for reply in replies])
        messages = [reply["choices"][0]["message"] for reply in replies]
        right = np.mean([m["content"].strip() == p.answer for m, p in zip(messages, problems, strict=True)])
        thought = np.mean([bool(message.get("reasoning")) for message in messages])
        print(f"{effort:8} {tokens:9.1f} {right:9.1%} {thought:9.1%}")


async def first_tokens(client: httpx.AsyncClient) -> None:
    """Seconds to the first token, alone and with others."""
    for others in (0, 15, 63):
        found = await asyncio.gather(*(first_token(client, number) for number in range(others + 1)))
        print(f"{others + 1:3} at once: first token after {1000 * np.median(found):,.0f} ms (median)")


async def first_token(client: httpx.AsyncClient, number: int) -> float:
    """Seconds from a request to its first piece of text."""
    body = {"messages": [{"role": "user", "content": "34 a-1 b-5 c*2 = ?"}], "lam": number % 11 / 10, "stream": True}
    begun = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {") and re.search('"(content|reasoning)": "[^"]', line):
                return time.perf_counter() - begun
    return time.perf_counter() - begun


async def stream(client: httpx.AsyncClient, chance: random.Random) -> str:
    """One stream of the load: how it ended."""
    question = " ".join(f"{name}{chance.choice('+-*')}{chance.randrange(1, 10)}" for name in "abcdef")
    body = {"messages": [{"role": "user", "content": f"{chance.randrange(100)} {question} = ?"}], "stream": True}
    body |= {"lam": chance.randrange(11) / 10, "max_tokens": 300}
    leaves, last, seen = chance.random() < 0.2, "", set[str]()

    async def trace(name: str, _: Any) -> None:
        seen.add(name)

    try:
        extensions = {"trace": trace}
        async with client.stream("POST", "/v1/chat/completions", json=body, extensions=extensions) as reply:
            if reply.status_code != 200:
                return f"error {json.loads(await reply.aread())['error']['code']}"
            async for line in reply.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    last = line
                    if leaves and chance.random() < 0.1:
                        return "hung up"
                if chance.random() < 0.005:
                    await asyncio.sleep(1)
        data = json.loads(last[6:])
    except httpx.ConnectError:
        return "refused"  # the server has ended
    except (httpx.TransportError, ValueError) as error:
        where = "after it began" if "http11.receive_response_headers.complete" in seen else "unanswered"
        how = "a new" if "connection.connect_tcp.started" in seen else "an old"
        return f"broken ({type(error).__name__} on {how} connection, {where})"
    return f"error {data['error']['code']}" if "error" in data else str(data["choices"][0]["finish_reason"] or "cut")


def memory(server: psutil.Process) -> dict[str, int]:
    """Bytes of a server by process: its own and those of its children that only they have, and all together."""
    found = {"together": 0}
    for number, process in enumerate((server, *server.children(recursive=True))):
        seen = process.memory_full_info()
        found[f"{number} {process.name()}"] = seen.uss
        found["together"] += seen.rss
    return found


async def load_for(
    client: httpx.AsyncClient, seconds: float, server: psutil.Process, fail: Callable[[], None] | None, at: float
) -> None:
    """200 clients at any time, each with one stream after another; the engine fails at `at` seconds."""
    ended: Counter[str] = Counter()
    sizes: list[dict[str, int]] = []
    begun = time.monotonic()

    async def one(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < begun + seconds:
            ended[how := await stream(client, chance)] += 1
            if how == "refused":
                return

    async def watch() -> None:
        while time.monotonic() < begun + seconds:
            try:
                sizes.append(memory(server))
            except psutil.Error:  # it has ended
                return
            await asyncio.sleep(seconds / 40)

    async def break_it() -> None:
        if fail is not None:
            await asyncio.sleep(at)
            fail()

    await asyncio.gather(watch(), break_it(), *map(one, range(200)))
    late = time.monotonic() - begun - seconds
    print(f"200 clients for {seconds:g} s: {dict(ended.most_common())}; the last ended {late:.1f} s later")
    for name in sizes[0]:
        quarters = [max(one.get(name, 0) for one in part) >> 20 for part in np.array_split(np.array(sizes), 4)]
        print(f"memory of {name} at most, MiB, by quarters: {quarters}")


async def measure(address: str, process: psutil.Process, options: argparse.Namespace) -> None:
    """All of it."""
    limits = httpx.Limits(max_connections=400)
    embedded = options.engine == "transformers"
    fail = (lambda: process.send_signal(signal.SIGUSR1)) if embedded else (lambda: kill_engine(process))
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        await first_token(client, 5)  # warm
        if options.seconds:
            await efforts(client, options.questions)
            await first_tokens(client)
            await load_for(client, options.seconds, process, fail if embedded else None, options.seconds / 2)
            await asyncio.sleep(1)
        health = await client.get("/health")
        in_flight = re.findall(RUNNING, (await client.get("/metrics")).text, re.M)
        print(f"afterwards health {health.status_code} {health.text}, in flight {in_flight}")
        if not embedded:
            print("the engine is killed after 5 s:")
            await load_for(client, 25, process, fail, 5)


def kill_engine(server: psutil.Process) -> None:
    """End vLLM's engine as the system does that is out of memory."""
    for child in server.children(recursive=True):
        if "EngineCore" in " ".join(child.cmdline()):
            child.kill()


def main() -> None:
    """Start, measure, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interpole-bench-") as work:
        process, address = start(options.engine, Path(work))
        try:
            asyncio.run(measure(address, psutil.Process(process.pid), options))
        finally:
            process.terminate()
            print(f"stopped with exit code {process.wait(90)}")


if __name__ == "__main__":
    main()
