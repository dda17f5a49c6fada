"""Rendering against transformers, markers per family, and what becomes of a response."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from interpole.chat import (
    Markers,
    ThinkFormat,
    added_tokens,
    find_markers,
    opens_thinking,
    parse_response,
    render,
    special_variables,
)
from interpole.chat import markers as marker_module
from interpole.chat import template as template_module
from interpole.errors import CorruptError, TaskError
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


PARTS = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""
ASKED = [{"role": "user", "content": 'Is "a\\b" a path?\n\nYes or no.'}]


@pytest.mark.parametrize(
    "template",
    [PARTS, "{{ messages[-1].content[0].text }}", "{{ messages[0]['content'] | trim }}", "{{ messages | tojson }}",
     "{% if messages[0].content is string %}{{ raise_exception('parts!') }}{% endif %}{{ messages[0].content[0]['text'] }}"],
)  # fmt: skip
def test_the_prompt_holds_the_question_however_the_template_takes_it(template):
    prompt = ThinkFormat(QWEN, template, prefix="<think>").render(ASKED)
    assert ASKED[0]["content"] in (prompt, json.loads(prompt[:-7])[0]["content"]) if "tojson" in template else prompt
    assert prompt.endswith("<think>")


@pytest.mark.parametrize(
    "template",
    [
        "",
        "<|im_start|>user\n<|im_end|>",
        "{{ messages[0].contents }}",
        "{{ messages[0].content[:5] }}",
        "{{ messages[0].content | upper }}",
    ],
)
def test_a_template_that_leaves_the_question_out_is_refused(template):
    for ask in (ThinkFormat(QWEN, template).render, lambda _: opens_thinking(template, QWEN)):
        with pytest.raises(TaskError, match="leaves the question out"):
            ask(ASKED)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{% include 'x' %}", "no loader"),
        ("{% for a, b in [1] %}{% endfor %}", "TypeError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ 'a' * 10 ** 10 }}", "too much memory"),
        ("{{ ('a' * 10 ** 6) * 11 }}", "a prompt of 11,000,000 characters"),
        ("{{ tools.name.first }}", "undefined|no attribute"),
    ],
)
def test_whatever_a_template_raises_is_our_error(template, problem):
    with pytest.raises(TaskError, match=rf"does not render[\s\S]*({problem})"):
        render(template, ASKED)


def test_a_template_without_end_is_ended_and_the_next_one_renders(monkeypatch):
    monkeypatch.setattr(template_module._WORKER, "limit_seconds", 0.3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(TaskError, match="takes more than"):
        render(loop, ASKED)
    monkeypatch.undo()
    assert render("{{ messages[0].content }}", ASKED) == ASKED[0]["content"]


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
    assert special_variables(files) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert set(added_tokens(files)) == {"<s>", "</s>"}


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("tokenizer.json", "[]", "expected a JSON object"),
        ("tokenizer.json", "{", "not valid JSON"),
        ("tokenizer.json", "[" * 100_000, "nested too deep"),
        ("tokenizer.json", '{"added_tokens": 5}', r"added_tokens: .*valid list"),
        ("tokenizer.json", '{"added_tokens": [{"id": 1}]}', r"added_tokens\.0\.content"),
        ("tokenizer.json", '{"added_tokens": [{"id": 1, "content": "<a>"}, null]}', r"added_tokens\.1"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"content": []}}}', r"added_tokens_decoder\.1"),
        ("tokenizer_config.json", '{"eos_token": 7}', "eos_token: .*valid string"),
        ("special_tokens_map.json", '{"bos_token": {"lstrip": false}}', "bos_token: .*valid string"),
        ("tekken.json", '{"special_tokens": "all"}', "special_tokens: .*valid list"),
    ],
)
def test_a_tokenizer_file_that_makes_no_sense_is_an_error_with_file_and_key(tmp_path, name, content, key):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorruptError, match=rf"{key}[\s\S]*{name}"):
        ThinkFormat.of({name: tmp_path / name}, QWEN_THINKING, markers=("<think>", "</think>"))


def test_twice_as_many_added_tokens_are_twice_the_work(tmp_path):
    class Counted(str):
        """A token that counts how often it is compared."""

        compared = 0
        __slots__ = ()

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def work(num):
        Counted.compared = 0
        marker_module._pairs(
            [Counted(f"</think{i}>") for i in range(num)] + [Counted(f"<think{i}>") for i in range(num // 2)]
        )
        return Counted.compared

    assert 0 < work(2000) < 2.2 * work(1000) + 100
    many = assets(tmp_path, [*SPECIALS, *(f"</think{i}>" for i in range(20_000))])
    assert find_markers(many, QWEN_THINKING) == QWEN


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
        ("hm, 63", True, "hm, 63", "", Outcome.UNMARKED),
        ("", True, "", "", Outcome.EMPTY),
        (" \n<|im_end|>", False, None, " \n", Outcome.EMPTY),
    ],
)
def test_a_response_is_read_apart(response, opened, thinking, answer, outcome):
    seen = parse_response(response, "stop", QWEN, prompt_opens_thinking=opened, special_tokens=SPECIALS)
    assert (seen.thinking, seen.answer, seen.outcome) == (thinking, answer, outcome)
    assert seen.closed is ("</think>" in response)
    assert seen.pseudo_close is None


def test_a_pseudo_close_names_the_token_in_the_markers_place():
    seen = parse_response(
        "so it is 63.\n<tool_call>\n\nThe answer is 63.<|im_end|>",
        "stop",
        QWEN,
        prompt_opens_thinking=True,
        special_tokens=SPECIALS,
    )
    assert seen.outcome is Outcome.PSEUDO_CLOSED
    assert (seen.pseudo_close, seen.thinking, seen.answer) == ("<tool_call>", "so it is 63.\n", "The answer is 63.")
    assert not seen.closed


def test_a_special_token_is_no_pseudo_close_at_the_end_or_in_a_direct_answer_or_unknown():
    assert (
        parse_response("hm <tool_call>", "stop", QWEN, prompt_opens_thinking=True, special_tokens=SPECIALS).outcome
        is Outcome.UNMARKED
    )
    assert parse_response("<tool_call>{}", "stop", QWEN, special_tokens=SPECIALS).outcome is Outcome.DIRECT
    assert parse_response("hm <tool_call> 63", "stop", QWEN, prompt_opens_thinking=True).outcome is Outcome.UNMARKED


def test_an_answer_in_a_thought_that_the_prompt_opened_has_an_outcome_of_its_own():
    opened = ThinkFormat(QWEN, prompt_opens_thinking=True)
    assert opened.parse("63", "stop").outcome is Outcome.UNMARKED
    assert opened.parse("<think>\nhm, 63", "stop").outcome is Outcome.UNCLOSED
    assert ThinkFormat(QWEN).parse("63", "stop").outcome is Outcome.DIRECT


def test_truncated_and_failed_come_before_the_markers():
    closed = parse_response("a</think>63 and", "length", QWEN, prompt_opens_thinking=True)
    assert (closed.outcome, closed.closed, closed.answer) == (Outcome.TRUNCATED, True, "63 and")
    unclosed = parse_response("a and", "length", QWEN, prompt_opens_thinking=True)
    assert (unclosed.outcome, unclosed.closed, unclosed.answer) == (Outcome.TRUNCATED, False, "")
    assert parse_response("", "error", QWEN).outcome is Outcome.FAILED


@pytest.mark.parametrize("unit", ["a", "34 a-1=33 ", "Wait, let me check this again. " * 3 + "b", "x" * 40 + "y" * 50])
def test_a_cycle_that_fills_the_end_at_the_cap_is_looping(unit):
    looping = "It began well: 1, 2, 3. " + unit * max(6, 120 // len(unit) + 1) + unit[: len(unit) // 2]
    for opened in (True, False):
        outcomes = [
            parse_response(text, finish, QWEN, prompt_opens_thinking=opened).outcome
            for text, finish in ((looping, "length"), (looping + " and then it went on.", "length"), (looping, "stop"))
        ]
        assert outcomes == [Outcome.LOOPING, Outcome.TRUNCATED, Outcome.UNMARKED if opened else Outcome.DIRECT]


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
        assert (parse_response(text, "length", QWEN).outcome is Outcome.LOOPING) is seen[-1]
    assert 50 < sum(seen) < 350


def test_ordinary_endings_do_not_loop():
    table = "\n".join(f"| row {i} | {i * i} |" for i in range(60))
    assert parse_response(table, "stop", QWEN).outcome is Outcome.DIRECT
    assert parse_response("Result\n" + "-" * 80, "stop", QWEN).outcome is Outcome.DIRECT
    assert parse_response(table, "length", QWEN).outcome is Outcome.TRUNCATED


# ── odd responses ──

# (finish, outcome, closing marker counts)
C, U = ("stop", Outcome.CLOSED, True), ("stop", Outcome.UNCLOSED, True)
D, P = ("stop", Outcome.DIRECT, False), ("stop", Outcome.PSEUDO_CLOSED, False)
T = ("length", Outcome.TRUNCATED, False)
AGAIN = ("length", Outcome.TRUNCATED, True)  # cut within a further thought
FENCE = "```"
ODD = [
    # (what is odd, the prompt opens the thought, response, thinking, answer, how it ends)
    ("a second marker after the answer", True, "hm</think>\n\n63\n</think>", "hm", "63", C),
    ("a second marker and an end token", True, "hm</think>63</think><|im_end|>", "hm", "63", C),
    ("markers without end after the answer", True, "hm</think>63" + "\n</think>" * 9, "hm", "63", C),
    ("a second marker, opened by the response", False, "<think>hm</think>63</think>", "hm", "63", C),
    ("two markers side by side", True, "hm</think></think>\n63", "hm</think>", "63", C),
    ("nothing after the marker", True, "hm, 63</think>", "hm, 63", "", C),
    ("nothing but markers", True, "</think></think>", "</think>", "", C),
    ("a marker at once", True, "</think>63", "", "63", C),
    ("an empty thought", False, "<think>\n\n</think>\n\n63", "\n\n", "63", C),
    ("two drafts", True, "a</think>62</think>63", "a</think>62", "63", C),
    (
        "a draft, a thought and an answer",
        False,
        "<think>a</think>62<think>no</think>63",
        "a</think>62<think>no",
        "63",
        C,
    ),
    ("a thought opened again and never closed", False, "<think>a</think>63<think>b", "ab", "63", C),
    ("a thought opened again under the cap", True, "a</think>63\n<think>\nb", "a\nb", "63", AGAIN),
    ("a thought opened again in the place of an answer", True, "a</think>\n<think>b", "ab", "", U),
    ("a thought closed again without an answer", False, "<think>a</think>63<think>b</think>", "a", "63", C),
    ("an opening marker repeated after the prompt's", True, "<think>\na</think>63", "\na", "63", C),
    ("an opening marker in mid-thought", True, "a <think> b</think>63", "a <think> b", "63", C),
    ("words before the thought", False, "Sure. <think>a</think>63", "a", "63", C),
    ("no opening marker", False, "a</think>63", "a", "63", C),
    (
        "a marker in an answer's inline code",
        True,
        "a</think>End it with `</think>` and go on.",
        "a",
        "End it with `</think>` and go on.",
        C,
    ),
    (
        "a marker deep in inline code",
        True,
        "a</think>Use `x = s.split('</think>')[1]`.",
        "a",
        "Use `x = s.split('</think>')[1]`.",
        C,
    ),
    (
        "a marker in an answer's block of code",
        True,
        f"a</think>So:\n{FENCE}py\ns.split('x </think> y')\n{FENCE}\nDone",
        "a",
        f"So:\n{FENCE}py\ns.split('x </think> y')\n{FENCE}\nDone",
        C,
    ),
    (
        "both markers in a block of code",
        True,
        f"a</think>{FENCE}xml\n<think>\nb\n</think>\n{FENCE}",
        "a",
        f"{FENCE}xml\n<think>\nb\n</think>\n{FENCE}",
        C,
    ),
    ("a block of tildes", True, "a</think>\n~~~\n</think>\n~~~\n63", "a", "~~~\n</think>\n~~~\n63", C),
    (
        "a block of code that ends with the draft",
        True,
        f"a</think>{FENCE}\nx\n{FENCE}\nno</think>63",
        f"a</think>{FENCE}\nx\n{FENCE}\nno",
        "63",
        C,
    ),
    (
        "a block of code left open by a draft",
        True,
        f"a</think>{FENCE}\nx\n</think>63",
        f"a</think>{FENCE}\nx\n",
        "63",
        C,
    ),
    ("a block of code left open by the thought", True, f"{FENCE}py\nx = 1\n</think>63", f"{FENCE}py\nx = 1\n", "63", C),
    ("a backtick left open by the thought", True, "is it ` or not</think>A `b` c", "is it ` or not", "A `b` c", C),
    (
        "quotation marks that meet at the marker",
        True,
        'he said "yes"</think>"Yes", he said.',
        'he said "yes"',
        '"Yes", he said.',
        C,
    ),
    ("a marker in quotation marks", True, 'a</think>Write "</think>" last.', "a", 'Write "</think>" last.', C),
    (
        "a marker within a quotation",
        True,
        'a</think>It ends "so: </think> then 5" there.',
        "a",
        'It ends "so: </think> then 5" there.',
        C,
    ),
    (
        "a marker in typographic quotation marks",
        True,
        "a</think>Es heißt „</think>“ am Ende.",
        "a",
        "Es heißt „</think>“ am Ende.",
        C,
    ),
    ("a marker in guillemets", True, "a</think>Écrire « </think> » ici.", "a", "Écrire « </think> » ici.", C),
    ("a marker in corner brackets", True, "a</think>写「</think>」。", "a", "写「</think>」。", C),
    ("an answer of a quoted marker alone", True, "a</think>`</think>`", "a", "`</think>`", C),
    (
        "a direct answer that quotes the closing marker",
        False,
        "It is written `</think>`.",
        None,
        "It is written `</think>`.",
        D,
    ),
    (
        "a direct answer that quotes the opening marker",
        False,
        'It begins with "<think>".',
        None,
        'It begins with "<think>".',
        D,
    ),
    ("a direct answer that quotes a pair", False, "Like `<think>so</think>`.", None, "Like `<think>so</think>`.", D),
    (
        "a thought that quotes the marker, then closes",
        True,
        "I write `</think>` soon.\n</think>63",
        "I write `</think>` soon.\n",
        "63",
        C,
    ),
    ("a thought cut after it quoted the marker", True, "I write '</think>' and", "I write '</think>' and", "", T),
    (
        "a thought cut after it quoted a pair",
        True,
        "like `<think>so</think>` and",
        "like `<think>so</think>` and",
        "",
        T,
    ),
    ("an apostrophe on either side", True, "it's so</think>that's 63", "it's so", "that's 63", C),
    ("a marker in capitals", True, "a</THINK>63", "a", "63", P),
    ("a marker with a blank", True, "a\n</ think>\n63", "a\n", "63", P),
    ("a blank at the end of the marker", True, "a</think >63", "a", "63", P),
    ("a marker of another word", True, "a</thinking>63", "a", "63", P),
    ("a marker of another word, opened alike", False, "<think>a</thought>63", "a", "63", P),
    ("a marker without its bracket", True, "a\n</think\n63", "a\n", "63", P),
    ("a backslash in the marker", True, "a<\\think>63", "a", "63", P),
    ("a misspelt marker, then the right one", True, "a</thinking>b</think>63", "a</thinking>b", "63", C),
    ("two misspelt markers", True, "a</THINK>63</THINK>", "a", "63", P),
    ("a misspelt marker that is quoted", True, "is it `</thinking>` here", "is it `</thinking>` here", "", T),
    ("a misspelt marker before another token", True, "a<tool_call>b</thinking>63", "a<tool_call>b", "63", P),
    ("another token in quotation marks", True, "a `<tool_call>` b<|im_start|>63", "a `<tool_call>` b", "63", P),
    ("two end tokens", True, "a</think>63<|im_end|>\n<|endoftext|>", "a", "63", C),
    ("a ruler", False, "Total\n" + "-" * 400, None, "Total\n" + "-" * 400, D),
    ("a matrix of zeros", True, "a</think>" + "0 0 0 0 0 0 0 0\n" * 40 + "0", "a", "0 0 0 0 0 0 0 0\n" * 40 + "0", C),
    ("a refrain that was asked for", False, "All work and no play. " * 50, None, "All work and no play. " * 50, D),
    ("a refrain in the thought", True, "Wait. " * 50 + "</think>63", "Wait. " * 50, "63", C),
]


@pytest.mark.parametrize(
    ("opened", "response", "thinking", "answer", "ends"), [row[1:] for row in ODD], ids=[row[0] for row in ODD]
)
def test_odd_responses_are_read_apart(opened, response, thinking, answer, ends):
    finish, outcome, closed = ends
    seen = ThinkFormat(QWEN, prompt_opens_thinking=opened, special_tokens=SPECIALS).parse(response, finish)
    assert (seen.thinking, seen.answer, seen.outcome, seen.closed) == (thinking, answer, outcome, closed)
    assert seen.after_last_marker.strip() == seen.response.rpartition("</think>")[2].strip()
    assert seen.near_close == (seen.pseudo_close is not None and seen.pseudo_close not in SPECIALS)
    assert "".join(response[span.start : span.end] for span in seen.spans) == response
    assert ThinkFormat(QWEN, prompt_opens_thinking=opened, special_tokens=SPECIALS).spans(response) == seen.spans
    shown = "".join(response[span.start : span.end] for span in seen.spans if span.kind == "answer").strip()
    assert shown == answer.strip() or shown == "Sure. " + answer


@pytest.mark.parametrize(
    "markers", [("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"), ("◁think▷", "◁/think▷")]
)
def test_misspelt_markers_are_known_in_every_family(markers):
    form = ThinkFormat(Markers(*markers), prompt_opens_thinking=True)
    close = markers[1]
    for said in (close.swapcase(), f"{close[:2]} {close[2:]}"):
        seen = form.parse(f"hm{said}63", "stop")
        assert (seen.near_close, seen.pseudo_close, seen.thinking, seen.answer) == (True, said, "hm", "63"), said
    assert form.parse(f"hm{close}63", "stop").near_close is False
    assert form.parse("hm, think, end thinking, 63", "stop").pseudo_close is None


@pytest.mark.parametrize(
    "unit",
    ["</think>", "<think>", "<think>a</think>b", "`", "`</think>", '"</think>" ', "```\n</think>\n", "<", "</think",
     "<tool_call>", "</ ", "<|im_end|>", "\n", " ", "<think>`", "'<think>", "</THINK>"],
)  # fmt: skip
def test_reading_a_response_twice_as_long_does_twice_the_work(unit):
    form = ThinkFormat(QWEN, prompt_opens_thinking=True, special_tokens=SPECIALS)

    def work(num: int) -> int:
        """Function calls and lines run, which are counted where a clock would tell of the machine."""
        counted = 0

        def count(*_):
            nonlocal counted
            counted += 1
            return count

        text = "hm " + unit * num
        sys.settrace(count)
        try:
            form.parse(text, "stop")
        finally:
            sys.settrace(None)
        return counted

    work(10)  # patterns are compiled once
    assert work(4000) < 2.2 * work(2000) + 200
