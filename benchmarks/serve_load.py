"""`interpole serve` on the tiny pair: what each effort costs and gets, the time to the first token, and a minute of 200 clients.

    python benchmarks/serve_load.py [--seconds 60] [--questions 96] [--address http://127.0.0.1:8000 --pid 123]

With an address: a server that runs, of either engine; `--pid` is its process, whose memory is watched with its children's.

Clients hang up at random and read slowly. What is printed goes into docs/serve.md; times are of this machine, ratios of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
import psutil

from interpole.lab import shipped
from interpole.tasks.arithmetic import load
from interpole.tasks.benchmark import Request

RUNNING = r"^(?:interpole_in_flight|vllm:num_requests_running{.*}) (\S+)$"
EFFORTS = ("none", "low", "medium", "high")


def start() -> tuple[subprocess.Popen[str], str]:
    """The server as people start it, and its address."""
    pair = shipped()
    words = ["serve", str(pair.instruct), str(pair.thinking), "--port", "0", "--dtype", "float32", "--effort"]
    command = [sys.executable, "-m", "interpole", *words, "low=0.42,medium=0.5,high=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if "Serving at" in line:
            return process, line.split("Serving at ")[1].split(" ")[0]
    raise SystemExit("it did not start")


async def efforts(client: httpx.AsyncClient, num_questions: int) -> None:
    """Tokens and accuracy at every effort, on the same questions."""
    problems = load(Request(limit=num_questions)).problems
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
    leaves, last = chance.random() < 0.2, ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                last = line
                if leaves and chance.random() < 0.1:
                    return "hung up"
            if chance.random() < 0.005:
                await asyncio.sleep(1)
    data = json.loads(last[6:])
    return data["error"]["code"] if "error" in data else str(data["choices"][0]["finish_reason"])


async def load_for(client: httpx.AsyncClient, seconds: float, server: psutil.Process) -> None:
    """200 clients at any time, each with one stream after another."""
    ended: Counter[str] = Counter()
    sizes: list[int] = []
    deadline = time.monotonic() + seconds

    async def one(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < deadline:
            ended[await stream(client, chance)] += 1

    async def watch() -> None:
        while time.monotonic() < deadline:
            sizes.append(sum(process.memory_info().rss for process in (server, *server.children(recursive=True))))
            await asyncio.sleep(seconds / 20)

    await asyncio.gather(watch(), *map(one, range(200)))
    await asyncio.sleep(1)
    health = await client.get("/health")
    in_flight = re.findall(RUNNING, (await client.get("/metrics")).text, re.M)
    quarters = [int(max(part)) >> 20 for part in np.array_split(sizes, 4)]
    print(
        f"200 clients for {seconds:g} s: {dict(ended)}; afterwards health {health.status_code}, in flight {in_flight}"
    )
    print(f"memory at most, MiB, by quarters: {quarters}")


async def measure(address: str, process: psutil.Process, options: argparse.Namespace) -> None:
    """All of it."""
    limits = httpx.Limits(max_connections=400)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        await first_token(client, 5)  # warm
        await efforts(client, options.questions)
        await first_tokens(client)
        await load_for(client, options.seconds, process)


def main() -> None:
    """Start, measure, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--address", help="of a server that runs")
    parser.add_argument("--pid", type=int, help="its process")
    options = parser.parse_args()
    if options.address:
        asyncio.run(measure(options.address, psutil.Process(options.pid), options))
        return
    process, address = start()
    try:
        asyncio.run(measure(address, psutil.Process(process.pid), options))
    finally:
        process.terminate()
        print(f"stopped with exit code {process.wait(90)}")


if __name__ == "__main__":
    main()
