"""The README's moving picture: every frame has what was measured at its λ, one is seen at a time, and it runs nothing."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from interpole.records import Outcome, Sample

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import picture

LAMS = (0.0, 0.5, 1.0)
SVG = "{http://www.w3.org/2000/svg}"


def sample(problem: str, lam: float, right: bool) -> Sample:
    text = f"<think>\n{problem} & more\n</think>\n\n7" if lam >= 0.5 else "8"
    outcome = Outcome.CLOSED if lam >= 0.5 else Outcome.DIRECT
    return Sample(
        "t", f"λ={lam:g}", lam, problem, 1, f"{problem} = ?", "7", text, int(10 + 100 * lam), "stop", outcome,
        lam >= 0.5, text[-1], {"own": float(right)}, "3",
    )  # fmt: skip


SAMPLES = [
    *(sample("flips", lam, right=lam > 0) for lam in LAMS),
    *(sample("falls", lam, right=lam != 1) for lam in LAMS),
]


def test_the_question_told_is_one_that_thinking_puts_right():
    told = picture.story(SAMPLES)
    assert {one.problem_id for one in told.values()} == {"flips"}
    assert [told[lam].score for lam in LAMS] == [0, 1, 1]


def test_each_frame_has_the_read_outs_and_the_response_of_its_lambda():
    root = ET.fromstring(picture.drawn(SAMPLES))
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class", "").startswith("frame")]
    words = [[text.text for text in group.iter(f"{SVG}text")] for group in groups]
    assert [lines[0] for lines in words] == ["λ = 0", "λ = 0.5", "λ = 1"]
    assert [lines[2:7:2] for lines in words] == [
        ["50 %", "0 %", "10"],
        ["100 %", "100 %", "60"],
        ["50 %", "100 %", "110"],
    ]
    assert "wrong: it is 7" in words[0]
    assert words[2][-5:] == ["<think>", "flips & more", "</think>", None, "7"]


def test_one_frame_is_seen_at_a_time_and_nothing_is_run_or_fetched():
    drawn = picture.drawn(SAMPLES)
    windows = [
        (float(start), float(end))
        for start, end in re.findall(r"([\d.]+)% \{ visibility: visible \} ([\d.]+)% \{ visibility: hidden", drawn)
    ]
    assert windows[0][0] == 0
    assert windows[-1][1] == 100
    assert [end for _, end in windows[:-1]] == pytest.approx([start for start, _ in windows[1:]])
    assert not re.search(r"<script|\bon\w+=|href=|@import|url\(", drawn)


def test_the_one_that_ships_is_of_the_shipped_pair_and_small():
    shipped = Path(picture.__file__).parents[1] / "docs/images/dial.svg"
    assert shipped.stat().st_size < 1_000_000
    assert len(re.findall('class="frame ', shipped.read_text())) == 13  # the λ of the demo
