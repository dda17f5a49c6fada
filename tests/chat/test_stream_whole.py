"""A response read apart while it is written equals the whole one read apart."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpole.chat import Markers, ThinkFormat, template
from interpole.chat.response import marks_of, misspelt
from interpole.chat.stream import Parts, ThoughtStream, settled
from interpole.records import Outcome

FORM = ThinkFormat(Markers("<think>", "</think>"), special_tokens=("<think>", "</think>", "<|im_end|>", "<tool_call>"))
OPENED = replace(FORM, prompt_opens_thinking=True)
CODE = "Here:\n```xml\n<think>\n</think>\n" + "x" * 500 + "\n```\nSo."
BITS = st.sampled_from(
    [
        "<think>", "</think>", "<|im_end|>", "<tool_call>", "</thinking>", "\n", " ", "\n\n", '"', "`", "'", "```\n", "a", "é",
        "42", "<", "</th", "think>", "so ", "<|im", "x" * 30, "\ufffd", "„", "“",
    ]
)  # fmt: skip
TEXTS = st.lists(BITS, max_size=14).map("".join)


def stream_of(form):
    return ThoughtStream(
        form.markers, prompt_opens_thinking=form.prompt_opens_thinking, special_tokens=form.special_tokens
    )


def streamed(form, chunks, finish="stop"):
    splitter = stream_of(form)
    pieces = [piece for chunk in chunks for piece in splitter.take(chunk)]
    last, parsed = splitter.end(finish)
    found = {"thinking": "", "answer": ""}
    for piece in pieces + last:
        found[piece.kind] += piece.text
    return found, parsed, pieces + last


def cut(text, cuts):
    places = sorted({min(c, len(text)) for c in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def plain(form, text):
    """Whether a response begins with its thought, or has none, and has no marker after it."""
    marks = marks_of(text, form.markers.open, "</think>", form.prompt_opens_thinking)
    if not marks:
        return form.prompt_opens_thinking or not marks_of(text, form.markers.open, misspelt("</think>"), False)
    first = marks[0]
    if form.prompt_opens_thinking:
        begins = not first.opens or not text[: first.start].strip()
        return (
            begins and [mark.opens for mark in marks].index(False) == len(marks) - 1
            if not all(mark.opens for mark in marks)
            else begins
        )
    if text[: first.start].strip():
        return False
    closing = [mark for mark in marks if not mark.opens]
    return not closing or (len(closing) == 1 and marks[-1] == closing[0])


@settings(max_examples=300)
@given(text=TEXTS, form=st.sampled_from([FORM, OPENED]), finish=st.sampled_from(["stop", "length"]))
def test_a_response_in_pieces_equals_the_whole_one(text, form, finish):
    found, parsed, _ = streamed(form, list(text), finish)
    if not plain(form, text):
        return
    assert found["answer"] == parsed.answer
    if parsed.closed or (parsed.outcome is not Outcome.UNMARKED and parsed.pseudo_close is None):
        assert found["thinking"] == (parsed.thinking or "")
    assert parsed == settled(form.parse(text, finish))


@settings(max_examples=300)
@given(text=TEXTS, form=st.sampled_from([FORM, OPENED]), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_where_the_chunks_end_makes_no_difference(text, form, cuts):
    one, _, _ = streamed(form, [text])
    many, _, _ = streamed(form, cut(text, cuts))
    each, _, _ = streamed(form, list(text))
    assert one == many == each


@settings(max_examples=200)
@given(text=TEXTS, form=st.sampled_from([FORM, OPENED]))
def test_pieces_stand_where_they_say_in_order(text, form):
    _, parsed, pieces = streamed(form, list(text))
    at = 0
    for piece in pieces[:-1]:
        assert text[piece.start : piece.end] == piece.text
        assert piece.start >= at
        at = piece.end
    assert parsed.response == settled(form.parse(text, "stop")).response


@pytest.mark.parametrize(
    ("form", "text", "thinking", "answer"),
    [
        (FORM, "<think>\nsum it\n</think>\n\n42<|im_end|>", "\nsum it\n", "42"),
        (OPENED, "sum it</think>42", "sum it", "42"),
        (OPENED, "<think>sum it</think>42", "sum it", "42"),
        (FORM, "just 42", "", "just 42"),
        (FORM, "<think>it says `</think>` here</think>yes", "it says `</think>` here", "yes"),
        (FORM, CODE, "", CODE),
        (FORM, "</think>42", "", "42"),
        (OPENED, "42", "42", "42"),  # shown as thinking, and at the end as the answer: the model ended by itself
        (FORM, "<think>a</THINK>b", "a</THINK>b", "b"),  # a misspelt marker is seen at the end only
        (FORM, "so <think>a</think>b", "a", "so b"),  # what was said before the thought cannot be taken back
        (FORM, "<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
    ],
)
def test_what_is_thinking_and_what_is_answer(form, text, thinking, answer):
    found, _, _ = streamed(form, list(text))
    assert found == {"thinking": thinking, "answer": answer}


def test_the_parts_of_pieces_are_their_texts():
    stream = ThoughtStream(FORM.markers, prompt_opens_thinking=True)
    assert stream.feed("a < b <") == ("a < b", "")
    assert stream.feed("/think>") == ("", "")
    assert stream.feed(" yes it") == (" ", "yes it")  # the white space was the thought's
    assert (stream.closed, stream.thinking) == (True, False)
    assert stream.finish() == Parts("", "")


def test_a_marker_is_never_shown_in_part_and_thinking_is_shown_as_it_comes():
    splitter = stream_of(FORM)
    assert splitter.take("<thi") == []
    assert [p.text for p in splitter.take("nk>one")] == ["one"]
    assert [p.text for p in splitter.take(" two </")] == [" two"]
    assert [p.text for p in splitter.take("b>")] == [" </b>"]
    assert [(p.kind, p.text) for p in splitter.take("</think>\n\n4")] == [("answer", "4")]


def test_a_thought_that_was_closed_from_outside_goes_on_as_an_answer():
    splitter = stream_of(FORM)
    assert [p.text for p in splitter.take("<think>so far \n\ufffd")] == ["so far"]
    pieces = splitter.go_on_from("<think>so far\n</think>\n\n")
    assert [(p.kind, p.text) for p in pieces] == [("thinking", "\n")]
    pieces, parsed = splitter.take("42"), splitter.end("stop")[1]
    assert [(p.kind, p.text) for p in pieces] == [("answer", "42")]
    assert (parsed.thinking, parsed.answer) == ("so far\n", "42")


def test_a_response_of_markers_alone_takes_no_longer_than_its_length():
    splitter = stream_of(FORM)
    for _ in range(3000):
        splitter.take("</think>")
    splitter.end("length")


def test_long_conversations_are_rendered_and_not_kept():
    form = ThinkFormat(Markers("<think>", "</think>"), "{{ messages[-1].content }}")
    kept = template._remembered.cache_info().currsize
    long = "word " * 20_000
    assert form.render([{"role": "user", "content": long}]) == long
    assert template._remembered.cache_info().currsize == kept
    assert form.render([{"role": "user", "content": "this one is short"}]) == "this one is short"
    assert template._remembered.cache_info().currsize == kept + 1
