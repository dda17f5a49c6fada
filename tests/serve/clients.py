"""What the clients that people have get from a server of the tiny pair, whichever engine it has.

Each check takes the server's address and key. `test_clients.py` runs them against the embedded engine, `test_vllm_serve.py`
against vLLM.
"""

import asyncio
import os
import re

import pytest

__all__ = ["ASK", "ASKED", "CHECKS", "PATIENCE_SECONDS", "anthropic_at", "openai_at"]

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no prices from the network
QUESTION = "34 a-1 b-5 c*2 = ?"
ASK = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
ASKED = {
    "messages": ASK["messages"],
    "extra_body": {"temperature": 0},
}  # Anthropic's client has no temperature any more
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
PATIENCE_SECONDS = 300


def openai_at(address, key, kind="OpenAI"):
    openai = pytest.importorskip("openai")
    return getattr(openai, kind)(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=PATIENCE_SECONDS)


def anthropic_at(address, key):
    anthropic = pytest.importorskip("anthropic")
    return anthropic.Anthropic(base_url=address, api_key=key, max_retries=0, timeout=PATIENCE_SECONDS)


# ── openai ───────────────────────────────────────────────────────────────────────────────────────────────────────


def openai_gets_answer_thinking_and_usage(address, key):
    tokens = {}
    with openai_at(address, key) as client:
        for effort in ("none", "low", "medium", "high"):
            reply = client.chat.completions.create(model="pair", reasoning_effort=effort, **ASK)
            message = reply.choices[0].message
            tokens[effort] = reply.usage.completion_tokens
            assert re.fullmatch(r"\d+", message.content)
            thought = getattr(message, "reasoning_content", None)
            assert bool(thought) == bool(reply.usage.completion_tokens_details.reasoning_tokens)
            assert thought == getattr(message, "reasoning", None)
    assert tokens["none"] < tokens["high"]


def openai_streams_the_same(address, key):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer, thought, usage = "", "", None
    with openai_at(address, key) as client:
        whole = client.chat.completions.create(model="pair@0.9", **ASK)
        for chunk in client.chat.completions.create(model="pair@0.9", **options, **ASK):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                answer += choice.delta.content or ""
                thought += getattr(choice.delta, "reasoning_content", None) or ""
    message = whole.choices[0].message
    assert (answer, thought, usage) == (message.content, message.reasoning_content, whole.usage)


def openai_async_asks_at_many_lams_at_once(address, key):
    async def ask_all():
        async with openai_at(address, key, "AsyncOpenAI") as client:
            lams = [number / 5 for number in range(6)]
            calls = (client.chat.completions.create(model="pair", extra_body={"lam": lam}, **ASK) for lam in lams)
            together = await asyncio.gather(*calls)
            alone = [await client.chat.completions.create(model="pair", extra_body={"lam": lam}, **ASK) for lam in lams]
            return [[reply.choices[0].message for reply in replies] for replies in (together, alone)]

    together, alone = asyncio.run(ask_all())
    assert together == alone


def openai_raises_its_own_errors(address, key):
    openai = pytest.importorskip("openai")
    with openai_at(address, key) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="pair", reasoning_effort="xhigh", **ASK)
        assert (caught.value.param, caught.value.code) == ("reasoning_effort", "invalid_value")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-5", **ASK)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="pair", tools=TOOLS, **ASK)


def openai_responses_have_a_text_and_stream_it(address, key):
    ask = {"model": "pair", "input": QUESTION, "reasoning": {"effort": "high"}, "temperature": 0}
    with openai_at(address, key) as client:
        reply = client.responses.create(**ask)
        assert re.fullmatch(r"\d+", reply.output_text)
        assert reply.output[0].content[0].text
        assert reply.usage.output_tokens_details.reasoning_tokens > 0
        with client.responses.stream(**ask) as stream:
            kinds = [event.type for event in stream]
            assert stream.get_final_response().output_text == reply.output_text
    assert "response.reasoning_text.delta" in kinds


def openai_lists_the_models(address, key):
    with openai_at(address, key) as client:
        listed = {model.id: model for model in client.models.list()}
        assert list(listed)[:2] == ["pair", "pair:none"]
        high = client.models.retrieve("pair:high")
        assert listed["pair:high"].model_extra["lam"] == high.lam == 1
        assert (high.id, high.effort, high.owned_by) == ("pair:high", "high", "interpole")
        assert client.models.retrieve("pair@0.55").lam == 0.55
        with pytest.raises(pytest.importorskip("openai").NotFoundError):
            client.models.retrieve("another")


def openai_completions_stop_where_they_are_told(address, key):
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ask = {"prompt": prompt, "temperature": 0, "stop": "</think>", "logprobs": 1, "max_tokens": 200}
    with openai_at(address, key) as client:
        reply = client.completions.create(model="pair:high", **ask)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].text.startswith("<think>")
    assert "</think>" not in reply.choices[0].text


def openai_chats_stop_in_the_answer_not_in_the_thought(address, key):
    with openai_at(address, key) as client:

        def said(**fields):
            (choice,) = client.chat.completions.create(model="pair:high", **ASK, **fields).choices
            assert choice.finish_reason == "stop"
            return choice.message.reasoning_content.strip(), choice.message.content.strip()

        thought, answer = said()
        foreign = next(one for one in thought if one not in answer)
        assert said(stop=foreign) == (thought, answer)
        assert answer[-1] in thought
        assert said(stop=[foreign, answer[-1]]) == (thought, answer[: answer.index(answer[-1])])
        stream = client.chat.completions.create(model="pair:high", **ASK, stop=answer[-1], stream=True)
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas).strip() == answer[: answer.index(answer[-1])]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas).strip() == thought


# ── anthropic ────────────────────────────────────────────────────────────────────────────────────────────────────


def anthropic_gets_blocks_of_thinking_and_text(address, key):
    with anthropic_at(address, key) as client:
        reply = client.messages.create(model="pair:high", max_tokens=300, **ASKED)
        assert [block.type for block in reply.content] == ["thinking", "text"]
        assert re.fullmatch(r"\d+", reply.content[1].text)
        assert (reply.stop_reason, reply.model) == ("end_turn", "pair:high")
        with client.messages.stream(model="pair:high", max_tokens=300, **ASKED) as stream:
            assert "".join(stream.text_stream) == reply.content[1].text
            final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == reply.content[0].thinking
    assert final.usage.output_tokens == reply.usage.output_tokens


def anthropics_history_is_taken_back_and_its_tokens_are_counted(address, key):
    ask = {"model": "pair:high", "max_tokens": 200}
    with anthropic_at(address, key) as client:
        reply = client.messages.create(**ask, **ASKED)
        messages = [*ASK["messages"], {"role": "assistant", "content": reply.content}, *ASK["messages"]]
        again = client.messages.create(**ask, **(ASKED | {"messages": messages}))
        assert again.usage.input_tokens > reply.usage.input_tokens
        assert again.content[-1].text
        counted = client.messages.count_tokens(model="pair", messages=ASK["messages"])
    assert counted.input_tokens == reply.usage.input_tokens


def anthropic_raises_its_own_errors(address, key):
    anthropic = pytest.importorskip("anthropic")
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    with anthropic_at(address, key) as client, pytest.raises(anthropic.BadRequestError, match="tool"):
        client.messages.create(model="pair", max_tokens=5, tools=tools, **ASKED)


# ── LiteLLM and LangChain ────────────────────────────────────────────────────────────────────────────────────────


def litellm_forwards_effort_and_gives_the_thinking(address, key, provider="openai"):
    litellm = pytest.importorskip("litellm")
    ask = {"model": f"{provider}/pair", "api_base": f"{address}/v1", "api_key": key, **ASK}
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


def litellm_does_so_as_hosted_vllm(address, key):
    litellm_forwards_effort_and_gives_the_thinking(address, key, "hosted_vllm")


def langchain_gets_the_answer_and_drops_the_thinking(address, key):
    langchain = pytest.importorskip("langchain_openai")
    ask = {"base_url": f"{address}/v1", "api_key": key, "model": "pair", "temperature": 0, "max_retries": 0}
    model = langchain.ChatOpenAI(**ask, reasoning_effort="high")
    reply = model.invoke(QUESTION)
    assert re.fullmatch(r"\d+", reply.content)
    assert reply.usage_metadata["output_token_details"]["reasoning"] > 0
    assert "reasoning_content" not in reply.additional_kwargs  # by LangChain's own choice
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == reply.content
    extra = langchain.ChatOpenAI(**ask, extra_body={"lam": 0.0})
    assert extra.invoke(QUESTION).usage_metadata["output_tokens"] < reply.usage_metadata["output_tokens"]


CHECKS = (
    openai_gets_answer_thinking_and_usage,
    openai_streams_the_same,
    openai_async_asks_at_many_lams_at_once,
    openai_raises_its_own_errors,
    openai_responses_have_a_text_and_stream_it,
    openai_lists_the_models,
    openai_completions_stop_where_they_are_told,
    openai_chats_stop_in_the_answer_not_in_the_thought,
    anthropic_gets_blocks_of_thinking_and_text,
    anthropics_history_is_taken_back_and_its_tokens_are_counted,
    anthropic_raises_its_own_errors,
    litellm_forwards_effort_and_gives_the_thinking,
    litellm_does_so_as_hosted_vllm,
    langchain_gets_the_answer_and_drops_the_thinking,
)
