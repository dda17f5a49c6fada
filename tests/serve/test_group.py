"""One copy of the weights behind the same server: what it answers is what the server with both copies answers."""

import asyncio

import openai
import pytest

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


def test_what_is_said_to_the_embedded_engine_is_not_said_to_vllm():
    from interpole.cli.serve import _refuse_ours

    _refuse_ours(max_rows=False, device=None)
    with pytest.raises(EngineError, match="--max-rows is for --engine transformers"):
        _refuse_ours(max_rows=True)
