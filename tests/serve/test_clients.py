"""The clients that people have, against the server on the tiny pair."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from interpole.cli.serve import example

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no prices from the network
QUESTION = "34 a-1 b-5 c*2 = ?"
ASK = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
ASKED = {
    "messages": ASK["messages"],
    "extra_body": {"temperature": 0},
}  # Anthropic's client has no temperature any more
README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def openai_client(address):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


# ── openai ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_openai_gets_answer_thinking_and_usage(openai_client):
    tokens = {}
    for effort in ("none", "low", "medium", "high"):
        reply = openai_client.chat.completions.create(model="pair", reasoning_effort=effort, **ASK)
        message = reply.choices[0].message
        tokens[effort] = reply.usage.completion_tokens
        assert re.fullmatch(r"\d+", message.content)
        thought = getattr(message, "reasoning_content", None)
        assert bool(thought) == bool(reply.usage.completion_tokens_details.reasoning_tokens)
        assert thought == getattr(message, "reasoning", None)
    assert tokens["none"] < tokens["high"]


def test_openai_takes_lam_as_an_extra_and_gives_the_headers(openai_client):
    raw = openai_client.chat.completions.with_raw_response.create(model="pair", extra_body={"lam": 0.65}, **ASK)
    assert raw.headers["x-interpole-lambda"] == "0.65"
    assert raw.parse().system_fingerprint.startswith("lam=0.65;")


def test_openai_streams_the_same(openai_client):
    whole = openai_client.chat.completions.create(model="pair@0.9", **ASK)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer, thought, usage = "", "", None
    for chunk in openai_client.chat.completions.create(model="pair@0.9", **options, **ASK):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            answer += choice.delta.content or ""
            thought += getattr(choice.delta, "reasoning_content", None) or ""
    message = whole.choices[0].message
    assert (answer, thought, usage) == (message.content, message.reasoning_content, whole.usage)


def test_openai_async_asks_at_many_lams_at_once(address):
    openai = pytest.importorskip("openai")

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            lams = [number / 5 for number in range(6)]
            calls = (client.chat.completions.create(model="pair", extra_body={"lam": lam}, **ASK) for lam in lams)
            together = await asyncio.gather(*calls)
            alone = [await client.chat.completions.create(model="pair", extra_body={"lam": lam}, **ASK) for lam in lams]
            return [[reply.choices[0].message for reply in replies] for replies in (together, alone)]

    together, alone = asyncio.run(ask_all())
    assert together == alone


def test_openai_hangs_up_in_the_middle_and_the_row_is_free(openai_client, pair_server):
    stream = openai_client.completions.create(
        model="pair:high", prompt="<|im_start|>", stream=True, extra_body={"temperature": 2, "top_p": 1, "top_k": 0}
    )
    next(iter(stream))
    stream.close()
    for _ in range(200):
        if not pair_server.driver.num_requests and not pair_server.driver.num_running:
            return
        asyncio.run(asyncio.sleep(0.05))
    pytest.fail("the row is still there")


def test_openai_raises_its_own_errors(openai_client):
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.chat.completions.create(model="pair", reasoning_effort="xhigh", **ASK)
    assert (caught.value.param, caught.value.code) == ("reasoning_effort", "invalid_value")
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(model="gpt-5", **ASK)
    with pytest.raises(openai.BadRequestError):
        openai_client.chat.completions.create(
            model="pair", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}], **ASK
        )


def test_openai_responses_have_a_text_and_stream_it(openai_client):
    ask = {"model": "pair", "input": QUESTION, "reasoning": {"effort": "high"}, "temperature": 0}
    reply = openai_client.responses.create(**ask)
    assert re.fullmatch(r"\d+", reply.output_text)
    assert reply.output[0].content[0].text
    assert reply.usage.output_tokens_details.reasoning_tokens > 0
    with openai_client.responses.stream(**ask) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == reply.output_text
    assert "response.reasoning_text.delta" in kinds


def test_openai_lists_the_models(openai_client):
    assert [model.id for model in openai_client.models.list()][:2] == ["pair", "pair:none"]


def test_openai_completions_stop_where_they_are_told(openai_client):
    reply = openai_client.completions.create(
        model="pair:high", prompt=f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n", temperature=0,
        stop="</think>", logprobs=1,
    )  # fmt: skip
    assert reply.choices[0].text.startswith("<think>")
    assert "</think>" not in reply.choices[0].text


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


# ── anthropic ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def anthropic_client(address):
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=address, api_key="none", max_retries=0) as client:
        yield client


def test_anthropic_gets_blocks_of_thinking_and_text(anthropic_client):
    reply = anthropic_client.messages.create(model="pair:high", max_tokens=300, **ASKED)
    assert [block.type for block in reply.content] == ["thinking", "text"]
    assert re.fullmatch(r"\d+", reply.content[1].text)
    assert reply.stop_reason == "end_turn"
    with anthropic_client.messages.stream(model="pair:high", max_tokens=300, **ASKED) as stream:
        assert "".join(stream.text_stream) == reply.content[1].text
        final = stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text"]
        assert final.content[0].thinking == reply.content[0].thinking
        assert final.usage.output_tokens == reply.usage.output_tokens


def test_anthropics_budget_cuts_the_thought_and_its_history_is_taken_back(anthropic_client):
    ask = {"model": "pair:high", "max_tokens": 300, "thinking": {"type": "enabled", "budget_tokens": 8}}
    reply = anthropic_client.messages.create(**ask, **ASKED)
    thought = reply.content[0].thinking
    assert len(thought) < 20
    messages = [*ASK["messages"], {"role": "assistant", "content": reply.content}, *ASK["messages"]]
    again = anthropic_client.messages.create(**ask, **(ASKED | {"messages": messages}))
    assert again.content[-1].text
    counted = anthropic_client.messages.count_tokens(model="pair", messages=ASK["messages"])
    assert counted.input_tokens == reply.usage.input_tokens


def test_anthropic_raises_its_own_errors(anthropic_client):
    anthropic = pytest.importorskip("anthropic")
    with pytest.raises(anthropic.BadRequestError, match="tools"):
        anthropic_client.messages.create(
            model="pair", max_tokens=5, tools=[{"name": "f", "input_schema": {"type": "object"}}], **ASKED
        )


# ── LiteLLM and LangChain ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def litellm():
    return pytest.importorskip("litellm")


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm_forwards_effort_and_gives_the_thinking(litellm, address, provider):
    ask = {"model": f"{provider}/pair", "api_base": f"{address}/v1", "api_key": "none", **ASK}
    lengths = []
    for effort in ("none", "high"):
        reply = litellm.completion(
            **ask, reasoning_effort=effort, allowed_openai_params=["reasoning_effort"], num_retries=0
        )
        message = reply.choices[0].message
        assert re.fullmatch(r"\d+", message.content)
        assert bool(getattr(message, "reasoning_content", None)) == (effort == "high")
        lengths.append(reply.usage.completion_tokens)
    assert lengths[0] < lengths[1]
    chunks = list(litellm.completion(**ask, extra_body={"lam": 1}, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content


def test_langchain_gets_the_answer_and_drops_the_thinking(address):
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        base_url=f"{address}/v1", api_key="none", model="pair", reasoning_effort="high", temperature=0, max_retries=0
    )
    reply = model.invoke(QUESTION)
    assert re.fullmatch(r"\d+", reply.content)
    assert reply.usage_metadata["output_token_details"]["reasoning"] > 0
    assert "reasoning_content" not in reply.additional_kwargs  # by LangChain's own choice
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == reply.content
    extra = langchain.ChatOpenAI(
        base_url=f"{address}/v1", api_key="none", model="pair", temperature=0, extra_body={"lam": 0.0}
    )
    assert extra.invoke(QUESTION).usage_metadata["output_tokens"] < reply.usage_metadata["output_tokens"]
