"""The journal: every answer once; what is torn costs itself."""

import asyncio
import json

import pytest

from interpole.errors import OutputError
from interpole.records import Generation, Sampler
from interpole.runs.journal import Journal, num_answers

SAMPLER = Sampler(max_tokens=9)


def asked(path, *seeds):
    """The answers to these seeds, and which of them were generated."""
    new = []

    async def answer(prompt, _, seed):
        new.append(seed)
        return Generation(f'{prompt} ["{seed:032x}", "no line', seed, "stop")

    journal = Journal(path, answer, lambda *_: None)

    async def all_of_them():
        return [await journal.answer("Q", SAMPLER, seed) for seed in seeds]

    found = asyncio.run(all_of_them())
    assert [one.num_tokens for one in found] == list(seeds)
    assert journal.num_generated == len(new)
    return new


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert asked(path, *range(6)) == list(range(6))
    return path


def torn(lines, how):
    a, b, *rest = lines
    return {
        "a short write, and the next line behind it": [a, b[: len(b) // 2], *rest],
        "half of the last line": [*lines[:-1], lines[-1][:20]],
        "a line that is no JSON": [a, b"?\n", *rest],
        "a line that is no answer": [a, b'["0123456789abcdef0123456789abcdef", "x", -4, "stop"]\n', *rest],
        "nested": [a, b"[" * 100_000 + b"\n", *rest],
        "bytes that are no text": [a, b"\xff\xfe\x00\n", *rest],
    }[how]


HOW = [
    "a short write, and the next line behind it", "half of the last line", "a line that is no JSON", "a line that is no answer",
    "nested", "bytes that are no text",
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_a_torn_line_costs_one_answer_and_no_other(whole, how):
    whole.write_bytes(b"".join(torn(whole.read_bytes().splitlines(keepends=True), how)))
    assert num_answers(whole) == 5
    assert asked(whole, *range(8)) == [5 if how == "half of the last line" else 1, 6, 7]
    assert num_answers(whole) == 8
    assert asked(whole, *range(8)) == []


def test_after_a_write_that_failed_the_next_line_begins_on_its_own(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(json.dumps(["f" * 32, "x", 1, "stop"]).encode()[:30])  # what a full disk has taken
    assert asked(path, 1, 2) == [1, 2]
    assert num_answers(path) == 2


def test_a_link_in_the_place_of_a_journal_is_not_written_through(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    path = tmp_path / "answers.jsonl"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError):
        asked(path, 1)
    assert (tmp_path / "elsewhere").read_text() == "mine"
