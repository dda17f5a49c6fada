"""A response read apart while it comes: in whatever pieces, as it is once it is complete."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpole.chat import Markers, ThoughtStream, parse_response

MARKERS = Markers("<think>", "</think>")


def streamed(pieces, *, opened=False):
    stream = ThoughtStream(MARKERS, prompt_opens_thinking=opened)
    parts = [*map(stream.feed, pieces), stream.finish()]
    return tuple(map("".join, zip(*parts, strict=True)))


@pytest.mark.parametrize(
    ("response", "opened", "thinking", "answer"),
    [
        ("<think>\nadd them\n</think>\n\n42", False, "\nadd them\n", "42"),
        ("add them</think>42", True, "add them", "42"),
        ("<think>add them</think>42", True, "add them", "42"),
        ("42 it is", False, "", "42 it is"),
        ("never done", True, "never done", ""),
        ("<think>cut </thi", False, "cut </thi", ""),
        ('what does "</think>" mean</think>an end', True, 'what does "</think>" mean', "an end"),
        ('it says "yes"</think>no', True, 'it says "yes"', "no"),
        ("the tag `<think>` opens", False, "", "the tag `<think>` opens"),
        ('"</think>', True, '"', ""),
        ("a < b </think> 1 <think> 2", True, "a < b ", "1 <think> 2"),
        ("", True, "", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_pieces_of_any_size_give_the_same_parts(response, opened, thinking, answer, size):
    pieces = [response[i : i + size] for i in range(0, len(response), size)]
    assert streamed(pieces, opened=opened) == (thinking, answer)


@given(
    thought=st.text("ab <>/think\n", max_size=20).filter(lambda text: "<think>" not in text and "</think>" not in text),
    answer=st.text("cd <\n", max_size=10),
    opened=st.booleans(),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_what_was_streamed_is_what_the_whole_response_says(thought, answer, opened, cuts):
    response = ("" if opened else "<think>") + thought + "</think>" + answer
    edges = [0, *sorted(cut for cut in cuts if cut < len(response)), len(response)]
    thinking, said = streamed([response[i:j] for i, j in pairwise(edges)], opened=opened)
    whole = parse_response(response, "stop", MARKERS, prompt_opens_thinking=opened)
    assert (thinking, said.strip()) == (whole.thinking, whole.answer)
