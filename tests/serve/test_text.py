"""Tokens to text as they come, and the strings at which a response stops."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpole.lab import shipped
from interpole.serve.text import Detokenizer, StopStrings

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(shipped().thinking)


def test_text_in_pieces_is_the_text_of_all_tokens_whatever_they_are(tokenizer):
    @given(tokens=st.lists(st.integers(0, 291), max_size=30))
    def check(tokens):
        decoder = Detokenizer(tokenizer)
        text = "".join(decoder.feed(token) for token in tokens) + decoder.finish()
        assert text == tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    check()


def test_half_a_character_is_held_back_until_it_is_whole(tokenizer):
    tokens = tokenizer("aλ→", add_special_tokens=False)["input_ids"]
    decoder = Detokenizer(tokenizer)
    pieces = [decoder.feed(token) for token in tokens]
    assert len(tokens) > 3
    assert "".join(pieces) == "aλ→"
    assert not any("\ufffd" in piece for piece in pieces)


@given(
    text=st.text("abc", max_size=20),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=5),
)
def test_a_response_ends_before_the_first_stop_string_wherever_pieces_end(text, stops, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = StopStrings(stops)
    given_out = "".join(found.feed(text[a:b]) for a, b in pairwise(places)) + found.finish()
    ends = [text.find(stop) for stop in stops if stop in text]
    if found.hit is None:
        assert not ends
        assert given_out == text
    else:  # in pieces the first to be whole ends it; one that begins earlier is never passed over
        assert text.startswith(given_out + found.hit)
        assert min(len(text[: text.find(stop)]) + len(stop) for stop in stops if stop in text) >= len(given_out)


def test_nothing_is_held_back_without_stop_strings():
    found = StopStrings(())
    assert found.feed("ab") == "ab"
    assert found.finish() == ""
