"""One copy of the weights behind the same server: what it answers is what the server with both copies answers."""

import asyncio

import openai
import pytest
from typer.testing import CliRunner

from interpole.cli import app
from interpole.errors import EngineError

QUESTIONS = ["34 a-1 = ?", "7 a*3 = ?"]
LAMS = (0.0, 0.6, 1.0)


async def answers(address):
    """Thinking and answer of chats at all λ, asked at once, greedy."""
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        asked = [
            client.chat.completions.create(
                model="pair", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=120,
                extra_body={"lam": lam},
            )
            for lam in LAMS
            for question in QUESTIONS
        ]  # fmt: skip
        return [(one.choices[0].message, one.usage.completion_tokens) for one in await asyncio.gather(*asked)]


def test_a_server_that_groups_answers_as_one_that_does_not(address, grouped_address):
    assert asyncio.run(answers(grouped_address)) == asyncio.run(answers(address))


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        (["--max-rows", "5"], "say --max-num-seqs after --, vLLM's own; or add --group"),
        (["--max-queue", "5"], "has no such limit: leave it out; or add --group"),
        (["--timeout", "5"], "add --group: the server is ours then, and takes it"),
        (["--device", "cpu"], "vLLM chooses the device"),
    ],
)
def test_what_vllms_own_server_does_not_take_is_refused_and_says_what_to_do_instead(option, remedy):
    done = CliRunner().invoke(app, ["serve", "instruct", "thinking", "--engine", "vllm", *option])
    assert isinstance(done.exception, EngineError)
    assert done.exception.what == f"{option[0]} is not for vLLM's own server"
    assert remedy in (done.exception.remedy or "")
