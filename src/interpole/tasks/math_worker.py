"""The worker behind `grading.math_paper` and `grading.math_robust`: math-verify, run by `Guarded`.

Questions: {"gold", "text", "reader": "paper" | "robust"}; answers: {"score", "answer"}.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Equality, Float

from interpole.tasks.guarded import serve
from interpole.tasks.reading import last_boxed, read_short

__all__ = ["grade"]

# OpenCompass' MATHVerifyEvaluator: anchored LaTeX only, boxes first, all boxes that stand together
_PAPER = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            nits=False, malformed_operators=False, basic_latex=True, equations=True, boxed="all", units=True
        ),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
]
_WHOLE = [LatexExtractionConfig(), ExprExtractionConfig()]
_ANCHORED = [
    LatexExtractionConfig(try_extract_without_anchor=False),
    ExprExtractionConfig(try_extract_without_anchor=False),
]

_NUMBER = re.compile(r"[-−]?\d[\d.,/]*")


def grade(question: dict[str, Any]) -> dict[str, Any]:
    """Score one text against the gold answer; `answer` is what was read, as sympy writes it."""
    read = _read_as_the_paper if question["reader"] == "paper" else _read_last
    found = read(question["text"])
    correct = bool(found) and verify(_gold(question["gold"]), found)
    return {"score": float(correct), "answer": _votable(found[0]) if found else None}


def _votable(value: Any) -> str:
    """Write an answer so that equal ones mostly read the same: `b = 70` and `70.0` as `70`."""
    if isinstance(value, Equality) and value.lhs.is_Symbol:
        value = value.rhs
    if isinstance(value, Float) and float(value).is_integer():
        value = int(value)
    return str(value)[:200]


@lru_cache(maxsize=4096)
def _gold(text: str) -> list[Any]:
    return list(parse(f"${text}$", extraction_mode="first_match", extraction_config=_WHOLE))


def _read_as_the_paper(text: str) -> list[Any]:
    return list(parse(text, extraction_mode="first_match", extraction_config=_PAPER))


def _read_last(text: str) -> list[Any]:
    """Read the last box that holds anything; without one an announced answer, or a last line that is a number."""
    boxed, short = last_boxed(text), read_short(text) or ""
    if boxed is None and not _NUMBER.fullmatch(short):
        return list(parse(text, extraction_config=_ANCHORED))
    content = short if boxed is None else boxed.strip().rstrip(".,;").rstrip()
    return list(parse(f"${content}$", extraction_mode="first_match", extraction_config=_WHOLE))


if __name__ == "__main__":
    serve(grade)
