"""The server on the tiny pair: what requests get, streamed and whole, and what is refused."""

import json
import re
import time

import httpx
import pytest
from serving import PATIENCE_SECONDS, get, post

QUESTION = "34 a-1 b-5 c*2 = ?"
MESSAGES = [{"role": "user", "content": QUESTION}]
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def ask(address, body, path="chat/completions", status=200, **headers):
    reply = post(f"{address}/v1/{path}", json=body, headers=headers)
    assert reply.status_code == status, reply.text
    return reply.json()


def chat(address, **fields):
    return ask(address, {"messages": MESSAGES, "temperature": 0} | fields)


def events(address, body, path="chat/completions"):
    """The data of all events; `[DONE]` as it is."""
    with httpx.stream("POST", f"{address}/v1/{path}", json=body | {"stream": True}, timeout=PATIENCE_SECONDS) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        found = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in found]


def joined(chunks, number=0):
    """The deltas of one response, put together."""
    found = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == number:
                for name, text in choice["delta"].items():
                    found[name] = found.get(name, "") + text
    return found


def error(address, path="chat/completions", status=400, **fields):
    body = {"messages": MESSAGES} if path in ("chat/completions", "messages") else {}
    return ask(address, body | fields, path, status)["error"]


# ── λ ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_effort_says_how_much_is_thought(address):
    tokens = []
    for effort in ("none", "medium", "high"):
        reply = chat(address, reasoning_effort=effort)
        usage = reply["usage"]
        tokens.append(usage["completion_tokens"])
        thought = reply["choices"][0]["message"].get("reasoning_content")
        assert bool(thought) == (usage["completion_tokens_details"]["reasoning_tokens"] > 0) == (effort != "none")
    assert tokens == sorted(tokens)
    assert tokens[0] < tokens[1]


@pytest.mark.parametrize(
    "fields", [{"lam": 0.85}, {"model": "pair@0.85"}, {"lam": 0.85, "model": "pair:low", "reasoning_effort": "none"}]
)
def test_every_response_says_its_lam_and_its_weights(address, pair_server, fields):
    reply = post(f"{address}/v1/chat/completions", json={"messages": MESSAGES} | fields)
    assert reply.headers["x-interpole-lambda"] == "0.85"
    body = reply.json()
    assert body["system_fingerprint"] == f"lam=0.85;{pair_server.served.fingerprint[:16]}"
    assert body["model"] == fields.get("model", "pair")


def test_a_response_is_what_the_engine_says_at_that_lam(address, pair_server):
    for lam in (0.0, 0.55, 1.0):
        reply = chat(address, lam=lam, max_tokens=40, seed=7)["choices"][0]
        again = ask(address, {"prompt": PROMPT, "lam": lam, "temperature": 0, "max_tokens": 40}, "completions")
        parsed = pair_server.served.forms[1].parse(again["choices"][0]["text"], reply["finish_reason"])
        assert reply["message"]["content"] == parsed.answer
        assert reply["message"].get("reasoning_content") == parsed.thinking


def test_models_are_listed_with_their_lam(address):
    listed = get(f"{address}/v1/models").json()["data"]
    assert [(one["id"], one["lam"]) for one in listed] == [
        ("pair", 0.6), ("pair:none", 0.0), ("pair:low", 0.4), ("pair:medium", 0.6), ("pair:high", 1.0),
    ]  # fmt: skip


# ── thinking and answer ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_a_stream_says_what_the_whole_response_says(address, lam):
    whole = chat(address, lam=lam)["choices"][0]
    chunks = events(
        address, {"messages": MESSAGES, "temperature": 0, "lam": lam, "stream_options": {"include_usage": True}}
    )
    assert chunks[-1] == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *body, usage = chunks[:-1]
    message = joined(body)
    assert message["content"] == whole["message"]["content"]
    assert message.get("reasoning") == whole["message"].get("reasoning")
    assert message.get("reasoning_content") == whole["message"].get("reasoning_content")
    assert body[-1]["choices"][0]["finish_reason"] == whole["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == chat(address, lam=lam)["usage"]
    assert all(chunk["usage"] is None for chunk in body)
    assert "<think>" not in json.dumps(body)


def test_thinking_can_be_left_out_and_is_counted_all_the_same(address):
    shown, left_out = (chat(address, lam=1, **more) for more in ({}, {"reasoning": {"exclude": True}}))
    assert "reasoning_content" not in left_out["choices"][0]["message"]
    assert left_out["choices"][0]["message"]["content"] == shown["choices"][0]["message"]["content"]
    assert left_out["usage"] == shown["usage"]


def test_reasoning_tokens_are_those_of_the_thought_with_its_markers(address, pair_server):
    reply = chat(address, lam=1)
    thought = reply["choices"][0]["message"]["reasoning_content"]
    num_tokens = pair_server.served.num_tokens(f"<think>{thought}</think>")
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == num_tokens


def test_thinking_is_counted_where_the_prompt_has_begun_it(address):
    body = {"prompt": f"{PROMPT}<think>", "lam": 1, "temperature": 0}
    usage = ask(address, body, "completions")["usage"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


def test_earlier_thinking_is_taken_back_under_both_names_and_one_of_them_is_enough(address):
    answer = {"role": "assistant", "content": "60"}
    again = {"role": "user", "content": QUESTION}
    prompts = []
    for thoughts in ({"reasoning": "so"}, {"reasoning_content": "so"}, {"reasoning": "so", "reasoning_content": "so"}):
        prompts.append(chat(address, messages=[*MESSAGES, answer | thoughts, again])["usage"]["prompt_tokens"])
    assert len(set(prompts)) == 1
    two = answer | {"reasoning": "so", "reasoning_content": "no"}
    assert error(address, messages=[*MESSAGES, two, again])["param"] == "messages[1].reasoning"


@pytest.mark.parametrize("name", ["thinking_token_budget", "reasoning"])
@pytest.mark.parametrize("lam", [0.7, 1.0])
def test_a_budget_cuts_a_thought_at_any_lam_and_leaves_room_for_the_answer(address, name, lam):
    budget = {"thinking_token_budget": 16} if name != "reasoning" else {"reasoning": {"max_tokens": 16}}
    reply = chat(address, lam=lam, **budget)
    usage, message = reply["usage"], reply["choices"][0]["message"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 16
    assert message["content"]
    assert usage["completion_tokens"] > 16
    chunks = events(address, {"messages": MESSAGES, "temperature": 0, "lam": lam} | budget)[:-1]
    streamed = joined(chunks)
    assert (streamed["content"], streamed["reasoning"]) == (message["content"], message["reasoning"])
    free = chat(address, lam=lam)["choices"][0]["message"]["reasoning"]
    assert free.startswith(message["reasoning"].rstrip())


def test_a_budget_that_leaves_no_answer_is_refused(address):
    for fields, param in (
        ({"max_tokens": 12, "thinking_token_budget": 12}, "thinking_token_budget"),
        ({"thinking_token_budget": 5000}, "thinking_token_budget"),
        ({"max_completion_tokens": 5, "reasoning": {"max_tokens": 9}}, "reasoning.max_tokens"),
        ({"thinking_token_budget": 0}, "thinking_token_budget"),
        ({"thinking_token_budget": 5, "reasoning": {"max_tokens": 6}}, "reasoning.max_tokens"),
    ):
        assert error(address, **fields)["param"] == param


# ── what OpenAI's fields do ──────────────────────────────────────────────────────────────────────────────────────


def test_several_responses_differ_and_come_again_with_their_seed(address):
    wild = {"lam": 1, "temperature": 2, "top_p": 1, "top_k": 0, "max_tokens": 30}
    first, second, other = (chat(address, n=3, seed=seed, **wild) for seed in (5, 5, 6))
    texts = [[choice["message"] for choice in reply["choices"]] for reply in (first, second, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len({json.dumps(message) for message in texts[0]}) > 1
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    chunks = events(address, {"messages": MESSAGES, "n": 3, "seed": 5} | wild)
    for number in range(3):
        assert joined(chunks[:-1], number).get("reasoning") == texts[0][number].get("reasoning")


def test_the_cap_ends_a_response_as_length(address):
    for name in ("max_tokens", "max_completion_tokens"):
        reply = chat(address, lam=1, **{name: 6})
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens"] == 6
        assert reply["choices"][0]["message"]["content"] == ""
    assert error(address, max_tokens=5, max_completion_tokens=6)["param"] == "max_tokens"


def test_stop_strings_end_the_answer_and_not_the_thought(address):
    whole = chat(address, lam=1)["choices"][0]["message"]
    stop = whole["content"][1:]
    assert stop in whole["reasoning"]
    reply = chat(address, lam=1, stop=[stop])
    assert reply["choices"][0]["message"]["content"] == whole["content"][:1]
    assert reply["choices"][0]["message"]["reasoning"] == whole["reasoning"]
    assert reply["choices"][0]["finish_reason"] == "stop"
    chunks = events(address, {"messages": MESSAGES, "temperature": 0, "lam": 1, "stop": stop})
    assert joined(chunks[:-1])["content"] == whole["content"][:1]


def test_stop_strings_are_found_across_tokens(address):
    body = {"prompt": PROMPT, "lam": 1, "temperature": 0}
    text = ask(address, body, "completions")["choices"][0]["text"]
    stop = text[20:30]
    place = text.index(stop)
    reply = ask(address, body | {"stop": ["never there", stop]}, "completions")
    assert reply["choices"][0]["text"] == text[:place]
    chunks = events(address, body | {"stop": stop}, "completions")[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text[:place]


def test_log_probabilities_are_those_of_the_tokens_of_the_answer(address):
    reply = chat(address, lam=1, logprobs=True, top_logprobs=3)["choices"][0]
    content, thought = reply["logprobs"]["content"], reply["logprobs"]["reasoning"]
    assert "".join(one["token"] for one in content).startswith(reply["message"]["content"])
    assert "".join(one["token"] for one in thought) == reply["message"]["reasoning"]
    for one in (*content, *thought):
        assert one["top_logprobs"][0]["logprob"] == one["logprob"] <= 0  # greedy: the likeliest was drawn
        assert len(one["top_logprobs"]) == 3
        assert bytes(one["bytes"]).decode() == one["token"]
    body = {"messages": MESSAGES, "temperature": 0, "lam": 1, "logprobs": True, "top_logprobs": 3}
    chunks = events(address, body)[:-1]
    found = {"content": [], "reasoning": []}
    for chunk in chunks:
        for name in found:
            found[name] += (chunk["choices"][0]["logprobs"] or {}).get(name) or []
    assert found["content"] == content
    assert found["reasoning"] == thought


def test_sampler_settings_reach_the_engine(address):
    def thoughts(**fields):
        reply = chat(address, lam=1, n=4, seed=3, max_tokens=24, **fields)
        return {choice["message"].get("reasoning") for choice in reply["choices"]}

    assert len(thoughts(temperature=2, top_k=0, top_p=1)) == 4
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 0}):
        assert len(thoughts(**({"temperature": 2, "top_k": 0, "top_p": 1} | narrow))) == 1


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_value"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "unsupported_value",
        ),
        ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight", "unknown_parameter"),
        ({"lam": 1.5}, "lam", "invalid_value"),
        ({"lam": "0.5"}, "lam", "invalid_type"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"reasoning": {"effort": "low", "depth": 3}}, "reasoning.depth", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_type"),
        ({"min_p": -1}, "min_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"seed": "a"}, "seed", "invalid_type"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": 3}, "stop", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_value"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_value"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_value"),
        ({"store": True}, "store", "unsupported_value"),
        ({"ignore_eos": True}, "ignore_eos", "unknown_parameter"),
        ({"chat_template_kwargs": {"messages": []}}, "messages", "invalid_value"),
        ({"chat_template_kwargs": 3}, "chat_template_kwargs", "invalid_type"),
    ],
)
def test_what_makes_no_sense_or_is_not_done_is_refused_by_the_fields_name(address, fields, param, code):
    found = error(address, **fields)
    assert (found["param"], found["code"], found["type"]) == (param, code, "invalid_request_error")


def test_fields_that_change_nothing_are_taken(address):
    fields = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "presence_penalty": 0, "frequency_penalty": 0.0, "tools": [],
        "logit_bias": {}, "response_format": {"type": "text"}, "parallel_tool_calls": True, "service_tier": "auto",
        "reasoning": {"summary": "auto"}, "tool_choice": "auto", "modalities": ["text"], "lam": None,
    }  # fmt: skip
    assert chat(address, **fields)["choices"] == chat(address)["choices"]


def test_bodies_that_are_no_requests_are_refused_in_the_schema(address):
    url = f"{address}/v1/chat/completions"
    json_type = {"content-type": "application/json"}
    for content, headers, status, code in (
        (b"{", json_type, 400, "invalid_json"),
        (b"[1]", json_type, 400, "invalid_type"),
        (b'{"lam": 0, "lam": 1}', json_type, 400, "invalid_json"),
        (b'{"lam": NaN, "messages": [{"role": "user", "content": "x"}]}', json_type, 400, "invalid_value"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b" " * (9 << 20), json_type, 413, "request_too_large"),
    ):
        reply = post(url, content=content, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert get(url).json()["error"]["code"] == "method_not_allowed"
    assert get(f"{address}/v1/nothing").status_code == 404


def test_a_prompt_that_does_not_fit_is_refused(address):
    long = [{"role": "user", "content": "12 " * 2000}]
    assert error(address, messages=long)["code"] == "context_length_exceeded"


def test_text_of_parts_is_one_text(address):
    parts = [{"type": "text", "text": QUESTION[:5]}, {"type": "text", "text": QUESTION[5:]}]
    whole, split = chat(address), chat(address, messages=[{"role": "user", "content": parts}])
    assert whole["choices"] == split["choices"]


# ── the other endpoints ──────────────────────────────────────────────────────────────────────────────────────────


def test_completions_give_the_text_as_it_is_for_each_prompt(address):
    body = {"prompt": [PROMPT, f"{PROMPT}<think>"], "lam": 1, "temperature": 0, "n": 2, "logprobs": 2}
    reply = ask(address, body, "completions")
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    first, _, second, _ = (choice["text"] for choice in reply["choices"])
    assert first.startswith("<think>")
    assert first == f"<think>{second}"
    logprobs = reply["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]).startswith(first)
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert first.startswith(token, offset) or offset == len(first)
    assert error(address, "completions", prompt=[5])["param"] == "prompt"
    assert error(address, "completions", prompt=PROMPT, echo=True)["param"] == "echo"


def test_responses_have_items_of_reasoning_and_of_text(address):
    body = {"input": QUESTION, "reasoning": {"effort": "high"}, "temperature": 0}
    reply = ask(address, body, "responses")
    expected = chat(address, reasoning_effort="high")["choices"][0]["message"]
    reasoning, message = reply["output"]
    assert reasoning["content"][0]["text"] == expected["reasoning"]
    assert message["content"][0]["text"] == expected["content"]
    assert reply["status"] == "completed"
    found = events(address, body, "responses")
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    assert found[-1]["type"] == "response.completed"
    assert found[-1]["response"]["output"] == [
        item | {"id": streamed["id"]}
        for item, streamed in zip(reply["output"], found[-1]["response"]["output"], strict=True)
    ]
    deltas = "".join(one["delta"] for one in found if one["type"] == "response.output_text.delta")
    assert deltas == expected["content"]
    cut = ask(address, body | {"max_output_tokens": 5}, "responses")
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_responses_take_back_their_own_items(address):
    body = {"input": QUESTION, "lam": 1, "temperature": 0}
    items = ask(address, body, "responses")["output"]
    history = [{"role": "user", "content": QUESTION}, *items, {"role": "user", "content": QUESTION}]
    more = {"instructions": "sum", "store": False, "include": ["reasoning.encrypted_content"]}  # as agents do
    more |= {"client_metadata": {"session": "x"}}
    assert ask(address, body | {"input": history} | more, "responses")["status"] == "completed"
    for wrong, param in (
        ({"previous_response_id": "x"}, "previous_response_id"),
        ({"input": [{"type": "function_call"}]}, "input[0].type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"background": True}, "background"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
    ):
        assert error(address, "responses", **(body | wrong))["param"] == param


def test_messages_speak_anthropics_schema(address):
    body = {"messages": MESSAGES, "max_tokens": 200, "temperature": 0, "output_config": {"effort": "high"}}
    reply = ask(address, body, "messages")
    expected = chat(address, reasoning_effort="high")["choices"][0]["message"]
    assert [(one["type"], one.get("thinking") or one.get("text")) for one in reply["content"]] == [
        ("thinking", expected["reasoning"]),
        ("text", expected["content"]),
    ]
    assert reply["stop_reason"] == "end_turn"
    found = events(address, body, "messages")
    assert [one["type"] for one in found if "delta" not in one["type"]] == [
        "message_start", "content_block_start", "content_block_stop", "content_block_start", "content_block_stop",
        "message_stop",
    ]  # fmt: skip
    text = "".join(one["delta"].get("text", "") for one in found if one["type"] == "content_block_delta")
    assert text == expected["content"]
    budget = ask(address, body | {"thinking": {"type": "enabled", "budget_tokens": 9}}, "messages")
    assert budget["content"][0]["type"] == "thinking"
    assert budget["content"][1]["text"]
    stopped = ask(address, body | {"stop_sequences": [expected["content"][1:]]}, "messages")
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", expected["content"][1:])
    counted = ask(address, {"messages": MESSAGES}, "messages/count_tokens")
    assert counted["input_tokens"] == reply["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": 5, "tools": [{}]}, "tools"),
        ({"max_tokens": 5, "thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"max_tokens": 5, "thinking": {"type": "often"}}, "thinking.type"),
        ({"max_tokens": 5, "messages": [*MESSAGES, {"role": "assistant", "content": "6"}]}, "messages[1]"),
        (
            {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_messages_are_refused_in_anthropics_schema(address, fields, said):
    found = ask(address, {"messages": MESSAGES} | fields, "messages", 400)
    assert found["type"] == "error"
    assert found["error"]["type"] == "invalid_request_error"
    assert found["error"]["message"].startswith(said)


def test_metrics_count_by_lam_and_say_think_r(address):
    def value(text, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(found[1]) if found else 0.0

    before = get(f"{address}/metrics").text
    usage = chat(address, lam=0.97)["usage"]
    after = get(f"{address}/metrics").text
    label = '{lam="0.95"}'
    for name, tokens in (
        ("prompt_tokens_total", usage["prompt_tokens"]),
        ("completion_tokens_total", usage["completion_tokens"]),
        ("reasoning_tokens_total", usage["completion_tokens_details"]["reasoning_tokens"]),
        ("responses_total", 1),
        ("thought_responses_total", 1),
        ("request_seconds_count", 1),
        ("time_to_first_token_seconds_count", 1),
    ):
        name = f"interpole_{name}{label}"
        assert value(after, name) - value(before, name) == tokens, name
    assert value(after, f"interpole_think_ratio{label}") == 1
    assert 'interpole_requests_total{endpoint="/v1/chat/completions",lam="0.95",status="200"}' in after


def test_it_is_healthy_and_nothing_is_left_in_the_engine(address, pair_server):
    for _ in range(100 * PATIENCE_SECONDS):  # a client that has just left
        if not (pair_server.driver.num_requests or pair_server.driver.num_running):
            break
        time.sleep(0.01)
    health = {"status": "ok", "in_flight": 0, "engine_failures": pair_server.driver.num_failures}
    assert get(f"{address}/health").json() == health
    assert pair_server.driver.num_requests == pair_server.driver.num_running == 0


def test_a_page_of_somebody_else_is_not_answered(address):
    reply = get(f"{address}/v1/models", headers={"host": "evil.example"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "wrong_host")
    assert (
        "access-control-allow-origin" not in get(f"{address}/v1/models", headers={"origin": "http://a.example"}).headers
    )
