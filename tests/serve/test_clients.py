"""The clients that people have, against the embedded engine on the tiny pair."""

import asyncio
import re
from pathlib import Path

import pytest
from clients import ASK, ASKED, CHECKS, PATIENCE_SECONDS, anthropic_at, openai_at

from interpole.cli.serve import example

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_client(check, address):
    check(address, "none")


@pytest.fixture
def openai_client(address):
    with openai_at(address, "none") as client:
        yield client


def test_openai_takes_lam_as_an_extra_and_gives_the_headers(openai_client):
    raw = openai_client.chat.completions.with_raw_response.create(model="pair", extra_body={"lam": 0.65}, **ASK)
    assert raw.headers["x-interpole-lambda"] == "0.65"
    assert raw.parse().system_fingerprint.startswith("lam=0.65;")


def test_openai_hangs_up_in_the_middle_and_the_row_is_free(openai_client, pair_server):
    stream = openai_client.completions.create(
        model="pair:high", prompt="<|im_start|>", stream=True, extra_body={"temperature": 2, "top_p": 1, "top_k": 0}
    )
    next(iter(stream))
    stream.close()
    for _ in range(20 * PATIENCE_SECONDS):
        if not pair_server.driver.num_requests and not pair_server.driver.num_running:
            return
        asyncio.run(asyncio.sleep(0.05))
    pytest.fail("the row is still there")


@pytest.mark.parametrize("source", ["readme", "start-up"])
def test_the_four_lines_of_the_readme_and_of_the_start_get_an_answer(address, pair_server, capsys, source):
    pytest.importorskip("openai")
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    code = next(block for block in blocks if "openai" in block) if source == "readme" else ""
    code = code.replace("http://127.0.0.1:8000", address).replace('"interpole:', '"pair:')
    code = code or example(pair_server.served.levels, address, has_key=False)
    assert len([line for line in code.splitlines() if line.strip()]) == 4
    exec(code, {})
    assert re.search(r"\d+", capsys.readouterr().out)


def test_anthropics_budget_cuts_the_thought(address):
    ask = {"model": "pair:high", "max_tokens": 300, "thinking": {"type": "enabled", "budget_tokens": 8}}
    with anthropic_at(address, "none") as client:
        reply = client.messages.create(**ask, **ASKED)
    assert 0 < len(reply.content[0].thinking) < 20
    assert reply.content[-1].text
