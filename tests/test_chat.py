"""Rendering against transformers, markers per family, and what becomes of a response."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from interpole import chat
from interpole.chat import Markers, find_markers, opens_thinking, render, trace
from interpole.errors import TaskError
from interpole.records import Outcome

QWEN = Markers("<think>", "</think>")
SPECIALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_call>", "<think>", "</think>")

QWEN_BODY = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
QWEN_INSTRUCT = QWEN_BODY + "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}"
QWEN_THINKING = (
    QWEN_BODY + "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}"
)
QWEN_HYBRID = (
    QWEN_BODY + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
MISTRAL = """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '[INST]' + message['content'] + '[/INST]' }}
    {%- elif message['role'] == 'system' %}
        {{- '[SYSTEM_PROMPT]Draft first: [THINK]thoughts[/THINK]. ' + message['content'] + '[/SYSTEM_PROMPT]' }}
    {%- elif message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
    {%- else %}
        {{- raise_exception('Only user, system and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'tool' %}{%- continue %}{%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
Cutting Knowledge Date, {{ date_string }}{% if documents is defined %} documents {{ documents is none }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
TALK = [
    {"role": "system", "content": "Be <brief> & exact."},
    {"role": "user", "content": "  2 < 3? “ja”  "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
    {"role": "user", "content": "And 3 > 4?\n"},
]


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("template", [QWEN_INSTRUCT, QWEN_THINKING, QWEN_HYBRID, MISTRAL, LLAMA])
@pytest.mark.parametrize("messages", [TALK, TALK[1:2]])
@pytest.mark.parametrize("add", [True, False])
def test_render_equals_apply_chat_template(tokenizer, template, messages, add):
    expected = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=add
    )
    assert render(template, messages, add_generation_prompt=add, bos_token="<s>", eos_token="</s>") == expected
    assert messages[-1]["content"].strip() in expected


def test_render_passes_variables_and_tools_as_transformers_does(tokenizer):
    tool = {"type": "function", "function": {"name": "größer", "description": "a > b & c"}}
    for template, variables in [(QWEN_HYBRID, {"enable_thinking": False}), (QWEN_THINKING, {"tools": [tool]})]:
        expected = tokenizer.apply_chat_template(
            TALK, chat_template=template, tokenize=False, add_generation_prompt=True, **variables
        )
        assert render(template, TALK, **variables) == expected
    assert "größer" in expected


def test_a_template_that_refuses_its_messages_says_so():
    with pytest.raises(TaskError, match=r"Only user, system and assistant[\s\S]*remedy"):
        render(MISTRAL, [{"role": "critic", "content": "no"}])
    with pytest.raises(TaskError, match="does not render"):
        render("{% if %}", TALK)


def test_opens_thinking_reads_the_generation_prompt_only():
    assert opens_thinking(QWEN_THINKING)
    assert not opens_thinking(QWEN_INSTRUCT)
    assert not opens_thinking(QWEN_HYBRID)
    assert not opens_thinking(QWEN_HYBRID, enable_thinking=False)
    assert not opens_thinking(MISTRAL)
    assert not opens_thinking(LLAMA)
    assert opens_thinking(QWEN_THINKING, QWEN)


def assets(tmp_path: Path, tokens: list[str], name: str = "tokenizer.json") -> dict[str, Path]:
    content = {
        "tokenizer.json": {"added_tokens": [{"id": i, "content": t, "special": False} for i, t in enumerate(tokens)]},
        "tokenizer_config.json": {"added_tokens_decoder": {str(i): {"content": t} for i, t in enumerate(tokens)}},
        "tekken.json": {"special_tokens": [{"rank": i, "token_str": t} for i, t in enumerate(tokens)]},
    }[name]
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return {name: tmp_path / name}


@pytest.mark.parametrize(
    ("file", "tokens", "template", "expected"),
    [
        ("tokenizer.json", list(SPECIALS), QWEN_THINKING, ("<think>", "</think>")),
        ("tokenizer_config.json", list(SPECIALS), None, ("<think>", "</think>")),
        ("tekken.json", ["<s>", "[INST]", "[/INST]", "[THINK]", "[/THINK]"], MISTRAL, ("[THINK]", "[/THINK]")),
        ("tokenizer.json", ["<|START_THINKING|>", "<|END_THINKING|>"], "", ("<|START_THINKING|>", "<|END_THINKING|>")),
        ("tokenizer.json", ["<|endoftext|>"], QWEN_THINKING, ("<think>", "</think>")),
        ("tokenizer.json", ["◁think▷", "◁/think▷"], None, ("◁think▷", "◁/think▷")),
        ("tokenizer.json", ["<think>", "</think>", "<thought>", "</thought>"], QWEN_INSTRUCT + "<think>", QWEN),
        ("tokenizer.json", [], "{{ 'assistant\\n<seed:think>' }}", ("<seed:think>", "</seed:think>")),
    ],
)
def test_markers_are_found_per_family(tmp_path, file, tokens, template, expected):
    expected = expected if isinstance(expected, Markers) else Markers(*expected)
    assert find_markers(assets(tmp_path, tokens, file), template) == expected


def test_no_markers_or_an_open_choice_is_an_error_that_names_what_was_seen(tmp_path):
    with pytest.raises(TaskError, match=r"no think markers[\s\S]*<\|eot_id\|>"):
        find_markers(assets(tmp_path, ["<|eot_id|>"]), LLAMA)
    two = ["<think>", "</think>", "<thought>", "</thought>"]
    with pytest.raises(TaskError, match=r"several[\s\S]*<think> </think>, <thought> </thought>"):
        find_markers(assets(tmp_path, two), None)
    with pytest.raises(TaskError, match="two different"):
        Markers("<think>", "<think>")


def test_special_variables_are_those_of_the_tokenizer(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    files = {path.name: path for path in tmp_path.iterdir()}
    assert chat.special_variables(files) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert set(chat.added_tokens(files)) == {"<s>", "</s>"}


@pytest.mark.parametrize(
    ("response", "opened", "thinking", "answer", "outcome"),
    [
        ("<think>\na\n</think>\n\n63<|im_end|>", False, "\na\n", "63", Outcome.CLOSED),
        ("a\n</think>\n\n63<|im_end|>\n", True, "a\n", "63", Outcome.CLOSED),
        ("Sure. <think>a</think>63", False, "a", "63", Outcome.CLOSED),
        ("a</think>b</think>c", True, "a</think>b", "c", Outcome.CLOSED),
        ("63<|im_end|>", False, None, "63", Outcome.DIRECT),
        ("63\n", False, None, "63\n", Outcome.DIRECT),
        ("<think>\nhm, 63<|im_end|>", False, "\nhm, 63", "", Outcome.UNCLOSED),
        ("hm, 63", True, "hm, 63", "", Outcome.UNCLOSED),
        ("", True, "", "", Outcome.EMPTY),
        (" \n<|im_end|>", False, None, " \n", Outcome.EMPTY),
    ],
)
def test_a_response_is_read_apart(response, opened, thinking, answer, outcome):
    seen = trace(response, "stop", QWEN, opened=opened, specials=SPECIALS)
    assert (seen.thinking, seen.answer, seen.outcome) == (thinking, answer, outcome)
    assert seen.closed is ("</think>" in response)
    assert seen.pseudo_close is None


def test_a_pseudo_close_names_the_token_in_the_markers_place():
    seen = trace(
        "so it is 63.\n<tool_call>\n\nThe answer is 63.<|im_end|>", "stop", QWEN, opened=True, specials=SPECIALS
    )
    assert seen.outcome is Outcome.PSEUDO_CLOSED
    assert (seen.pseudo_close, seen.thinking, seen.answer) == ("<tool_call>", "so it is 63.\n", "The answer is 63.")
    assert not seen.closed


def test_a_special_token_is_no_pseudo_close_at_the_end_or_in_a_direct_answer_or_unknown():
    assert trace("hm <tool_call>", "stop", QWEN, opened=True, specials=SPECIALS).outcome is Outcome.UNCLOSED
    assert trace("<tool_call>{}", "stop", QWEN, specials=SPECIALS).outcome is Outcome.DIRECT
    assert trace("hm <tool_call> 63", "stop", QWEN, opened=True).outcome is Outcome.UNCLOSED


def test_truncated_and_failed_come_before_the_markers():
    closed = trace("a</think>63 and", "length", QWEN, opened=True)
    assert (closed.outcome, closed.closed, closed.answer) == (Outcome.TRUNCATED, True, "63 and")
    unclosed = trace("a and", "length", QWEN, opened=True)
    assert (unclosed.outcome, unclosed.closed, unclosed.answer) == (Outcome.TRUNCATED, False, "")
    assert trace("", "error", QWEN).outcome is Outcome.FAILED


@pytest.mark.parametrize("unit", ["a", "34 a-1=33 ", "Wait, let me check this again. " * 3 + "b", "x" * 40 + "y" * 50])
def test_a_cycle_that_fills_the_end_is_looping(unit):
    for finish in ("length", "stop"):
        looping = "It began well: 1, 2, 3. " + unit * max(6, 120 // len(unit) + 1) + unit[: len(unit) // 2]
        assert trace(looping, finish, QWEN, opened=True).outcome is Outcome.LOOPING
    assert trace(looping + " and then it ended.", "stop", QWEN, opened=True).outcome is Outcome.UNCLOSED


def test_loops_are_found_as_a_slow_reference_finds_them():
    def slow(text: str) -> bool:
        spans = ((p, max(5 * p, 100)) for p in range(1, len(text) // 5 + 1))
        return any(span <= len(text) and text[-span:-p] == text[p - span :] for p, span in spans)

    random_ = random.Random(0)
    seen = []
    for _ in range(400):
        unit = "".join(random_.choices("ab", k=random_.randint(1, 60)))
        text = "".join(random_.choices("ab", k=50)) + unit * random_.randint(1, 12) + unit[: random_.randint(0, 5)]
        seen.append(slow(text))
        assert (trace(text, "length", QWEN).outcome is Outcome.LOOPING) is seen[-1]
    assert 50 < sum(seen) < 350


def test_ordinary_endings_do_not_loop():
    table = "\n".join(f"| row {i} | {i * i} |" for i in range(60))
    assert trace(table, "stop", QWEN).outcome is Outcome.DIRECT
    assert trace("Result\n" + "-" * 80, "stop", QWEN).outcome is Outcome.DIRECT
