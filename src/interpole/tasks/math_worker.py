"""The worker behind `grading.math_paper` and `grading.math_robust`: math-verify, run by `Guarded`.

Questions: {"gold", "text", "question", "reader": "paper" | "robust"}; answers: {"score", "answer"}.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Equality, Float

from interpole.guarded import serve
from interpole.tasks.expressions import stated
from interpole.tasks.notation import asked_for, tidy

__all__ = []

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
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,400}")
_WHOLE = [LatexExtractionConfig(), ExprExtractionConfig()]


def _grade(question: dict[str, Any]) -> dict[str, Any]:
    """Score one text against the gold answer; `answer` is what was read, as sympy writes it."""
    gold, text = question["gold"], question["text"]
    if question["reader"] == "paper":
        found = _read_as_the_paper(text)
        return _reply(found, bool(found) and verify(_parsed(gold), found))
    expression = stated(text, question["question"])
    if expression is None:
        return _reply([], False)
    asked = asked_for(question["question"], gold)
    said, meant = tidy(expression, asked), tidy(gold, asked)
    if all(len(one) == 1 and _WHOLE_NUMBER.fullmatch(one[0]) for one in (said, meant)):  # nothing for sympy to find out
        return {"score": float(int(said[0]) == int(meant[0])), "answer": str(int(said[0]))}
    readings, wanted = [_parsed(one) for one in said], [_parsed(one) for one in meant]
    whole = bool(_WHOLE_NUMBER.fullmatch(meant[0]))
    correct = any(
        bool(found) and verify(reference, found)
        for reference in wanted
        for one, found in zip(said, readings, strict=True)
        if not (whole and ":" in one)  # 70:1 is not 70
    )
    return _reply(readings[0], correct)


def _reply(found: list[Any], correct: bool) -> dict[str, Any]:
    return {"score": float(correct), "answer": _votable(found[0]) if found else None}


def _votable(value: Any) -> str:
    """Write an answer so that equal ones mostly read the same: `b = 70` and `70.0` as `70`."""
    if isinstance(value, Equality) and value.lhs.is_Symbol:
        value = value.rhs
    if isinstance(value, Float) and float(value).is_integer():
        value = int(value)
    return str(value)[:200]


@lru_cache(maxsize=4096)  # samples of one problem share its reference, and many their answer
def _parsed(expression: str) -> list[Any]:
    return list(parse(f"${expression}$", extraction_mode="first_match", extraction_config=_WHOLE))


def _read_as_the_paper(text: str) -> list[Any]:
    return list(parse(text, extraction_mode="first_match", extraction_config=_PAPER))


if __name__ == "__main__":
    serve(_grade)
