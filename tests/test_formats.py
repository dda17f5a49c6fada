"""JSON of others: read item by item as it is read whole, whatever stands where a piece of it ends."""

import json
import random

import pytest
from pydantic import Field

from interpole import formats
from interpole.errors import RunError
from interpole.formats import json_items, parse_json
from interpole.schema import Foreign, Strict, validated, validated_json

ITEMS = [
    1234567, -1.5e300, True, None, "", "ä🙂 \" ]", [], {}, [[1], {"a": [2, "}"]}], {"b": "ž" * 30}, "\ud83d", 10**299,
]  # fmt: skip


class Named(Foreign):
    """One field that is checked and one that is not."""

    name: str
    other: int = 0


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"separators": (",", ":"), "ensure_ascii": False}])
def test_items_of_a_list_are_those_of_the_whole(piece_bytes, layout, monkeypatch):
    monkeypatch.setattr(formats, "_PIECE_BYTES", piece_bytes)
    draw = random.Random(0)
    for items in [], [0], ITEMS, draw.sample(ITEMS, 5):
        data = json.dumps(items, **layout).encode("utf-8", "surrogatepass")
        assert list(json_items(data, "here", RunError)) == parse_json(data, "here", RunError)


@pytest.mark.parametrize("piece_bytes", [1, 4, 1000])
@pytest.mark.parametrize(
    "text",
    ["", "[", "[1", "[1,", "[1,]", "[1 2]", "[1}", "[1] 2", "5", '{"a": 1}', '["a', "[,1]", "nul", "[1, nul]", "[[1]", "\xff"],
)  # fmt: skip
def test_what_is_no_list_is_an_error_of_ours(text, piece_bytes, monkeypatch):
    monkeypatch.setattr(formats, "_PIECE_BYTES", piece_bytes)
    with pytest.raises(RunError, match=r"not valid JSON|expected a JSON list"):
        list(json_items(text.encode("latin-1"), "here", RunError))


@pytest.mark.parametrize("num_digits", [300, 301])
@pytest.mark.parametrize("before", [0, 1, 2, 5, 8, 9, 600])
def test_a_number_of_hundreds_of_digits_is_found_wherever_it_stands(num_digits, before, monkeypatch):
    monkeypatch.setattr(formats, "_PIECE_BYTES", 4)
    data = ("[" + " " * before + "7" * num_digits + ', "6 6"]').encode()
    assert formats.long_number_in(data) == (num_digits > formats.MOST_DIGITS)


@pytest.mark.parametrize(
    ("text", "name"),
    [('{"name": "a", "more": [1]}', "a"), ('{"name": "\\ud83d!"}', "\ufffd!"), ('{"name": "b", "name": "c"}', "c")],
)
def test_a_record_read_at_once_is_what_reading_and_checking_give(text, name):
    assert validated_json(Named, text.encode(), "here", RunError).name == name


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"name": 5}', "name: "),
        ('{"name": "a", "other": 1.0}', "other: "),
        ('{"name": "a"', "not valid JSON"),
        ('{"name": "a", "other": ' + "9" * 301 + "}", "301 digits"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_record_that_makes_no_sense_is_an_error_with_its_key(text, what):
    with pytest.raises(RunError, match=what):
        validated_json(Named, text.encode(), "here", RunError)


class Part(Strict):
    """A part of a whole."""

    weight: float | list[float] = Field(0.0, alias="lambda")


class Whole(Strict):
    """A record of records."""

    name: str = ""
    parts: dict[str, tuple[Part, ...]] = {}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"nmae": "a"}, "nmae: there is no such key; is it name?"),
        ({"int": 1}, "int: there is no such key; there are name, parts"),
        ({"colour": "red"}, "colour: there is no such key; there are name, parts"),
        ({"parts": {"a": [{"lamda": 1}]}}, "parts.a.0.lamda: there is no such key; is it lambda?"),
        ({"parts": {"a": [{"name": "a"}]}}, "parts.a.0.name: there is no such key; there are lambda"),
        ({"parts": {"a": [{"lambda": "half"}]}}, "parts.a.0.lambda: Input should be a valid number, unable to parse"),
    ],
)
def test_a_key_that_a_record_does_not_have_is_said_with_those_that_it_has(content, what):
    with pytest.raises(RunError) as caught:
        validated(Whole, content, "here", RunError)
    assert caught.value.what.startswith(what)
