r"""Read the value that a text states as its answer: boxed, announced, or what its last sentence comes to (`conclusions`).

Strings in, strings out: `stated` finds where a value stands, `values` reads it there, and `notation` writes it as math-verify
reads it. Whether two expressions are equal is decided in `math_worker`.
"""

from __future__ import annotations

import re
import unicodedata

from interpole.tasks.conclusions import concluded
from interpole.tasks.statements import (
    ANNOUNCED,
    CORRECTED,
    TAKEN_BACK,
    WITHDRAWN,
    Box,
    asked_back,
    boxes,
    fold,
    not_meant,
    of_cases,
    standing,
)
from interpole.tasks.values import (
    MAX_LENGTH,
    value_at,
    words_at,
)

__all__ = ["stated"]

_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d(?:\.\d{1,40})?)[eE]([-+]?\d{1,3})(?![\w.]\d|\w)")
_MIXED = re.compile(r"(?<![\d.,/])(\d{1,6})\s(\d{1,4})/(\d{1,4})(?![\d/.]\d|[\d/])")
_MINUS = re.compile(r"(?<![\w)}\]])[‐-―](?=\d)")
_VULGAR = re.compile(r"(\d{0,9})([¼-¾⅐-⅞])")
_ANNOUNCED = re.compile(
    rf"(?:{ANNOUNCED}|{CORRECTED}|\b(?:antwort|lösung|réponse|respuesta)\s(?=[-+$]?\d))"
    r"(?:not\s[^\n.;]{1,40}?[,\s](?:it's|it\sis)\s)?",
    re.IGNORECASE,
)
_NOT_BEFORE = re.compile(r"\bnot\s{1,2}(?:\$|\\\(|\*){0,3}$", re.IGNORECASE)
_CONDITIONAL = re.compile(
    r"[\s*_$)\\]{0,6}(?:,?\s(?:plus\sor\sminus|give\sor\stake)\b|\s(?:if|unless|when|or\s(?:more|less|so|fewer|above|below))\b|\s?(?:±|\\pm))",
    re.IGNORECASE,
)
_BOUNDED = re.compile(r"\bor\s(?:more|less|fewer|greater|above|below)\b|\bat\s(?:least|most)\b|\b(?:more|less)\sthan\b")
_SUMMED = re.compile(
    r"[^.\n]{0,20}\b(?:so|hence|thus|therefore)\b[^.\n=]{0,40}[A-Za-z]\s?[-+*]\s?[A-Za-z][^.\n=]{0,10}="
)  # "…, so m + n = 18"
_SET = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s{0,2}=")
_EQUALS = re.compile(r"\s{0,2}=\s{0,2}")
_ONE_LETTER = re.compile(r"[A-Za-z]")
_SPELT = re.compile(
    r"\s{0,4}(?:\\text[a-z]{0,2}\s{0,2}\{)?\s{0,4}([a-z][a-z\s-]{2,80}?)\s{0,4}\}?\s{0,4}", re.IGNORECASE
)


def stated(text: str, question: str = "") -> str | None:
    r"""The expression that a text states as its answer, as it is written there; None where it states none.

    The last box or announcement ("the final answer is **70**", in other languages too) that is not put in question or taken
    back; without one, what the last sentence comes to ("Hence b = 70", "So there are 70 apples."), unless it doubts, denies or
    only bounds it. Of several measures in that sentence it is the one in the unit that the question asks for.
    """
    text = _SCIENTIFIC.sub(r"\1 × 10^{\2}", _VULGAR.sub(_fraction, _MINUS.sub("-", standing(fold(text)))))
    text = _MIXED.sub(r"\\frac{\1 \\cdot \3 + \2}{\3}", text)
    found = [(box.begin, _boxed(text, box)) for box in boxes(text) if _stands(text, box.begin, box.end)]
    if found and found[-1][0] in {box.begin for box in of_cases(text)}:
        return None
    for match in _ANNOUNCED.finditer(text):
        value = value_at(text, match.end())
        if not value or not_meant(text, match.start(), value.end):
            continue
        if _stands(text, match.end(), value.end) and not boxes(value.expression):
            found.append((match.end(), value.expression))
    if found:
        begin, expression = max(found, key=lambda one: one[0])
        if WITHDRAWN.search(text[begin:].split("\n", 1)[0]):
            return None
        boxed = any(box.begin == begin for box in boxes(text))  # who corrects a box writes another
        after = text[text.find("}", begin) :] if boxed else ""
        if boxed and _SUMMED.match(after) and (said := concluded(after)):
            return said
        if boxed and len(set(_SET.findall(expression))) > 1 and (said := concluded(after)):
            return said  # "\boxed{p = 3, q = 4}, hence p + q = 7"
        back = [] if boxed else [match.start() for match in TAKEN_BACK.finditer(text, begin)][-1:]
        if back and (corrected := concluded(text[back[0] :], question)):
            return corrected
        return None if len(expression) > MAX_LENGTH or _BOUNDED.search(expression) else expression
    return concluded(text, question)


def _boxed(text: str, box: Box) -> str:
    r"""What a box says: what lies in it, or after `\boxed{b}=70` what its variable equals."""
    inner = text[box.start : box.stop]
    spelt = _SPELT.fullmatch(inner)
    if spelt and (number := words_at(spelt[1], 0)):
        return number.expression
    equals = _EQUALS.match(text, box.end) if _ONE_LETTER.fullmatch(inner.strip()) else None
    value = value_at(text, equals.end()) if equals else None
    return value.expression if value else inner


def _fraction(found: re.Match[str]) -> str:
    """A vulgar fraction, with the whole number before it, in LaTeX: `1½` is 3/2."""
    above, below = unicodedata.normalize("NFKC", found[2]).split("⁄")
    return rf"\frac{{{int(found[1] or 0) * int(below) + int(above)}}}{{{below}}}"


def _stands(text: str, begin: int, end: int) -> bool:
    """Whether what lies there is neither denied, nor put in question, nor true on a condition only."""
    denied = _NOT_BEFORE.search(text[max(0, begin - 12) : begin])
    return not (denied or asked_back(text, end) or _CONDITIONAL.match(text, end))
