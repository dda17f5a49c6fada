"""Readers: find the stated answer in a text. Pure functions on strings; the last statement wins."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["last_boxed", "read_choice", "read_short"]

_BOX = re.compile(r"\\f?boxed\s*\{")
_WRAP = r"[\s*_$`'\"(\[{:]*(?:\\(?:boxed|text|textbf|textit|mathrm|mathbf)\s*\{[\s(*]*)*"


def last_boxed(text: str) -> str | None:
    r"""Give the content of the last `\boxed{…}` that is balanced and not blank; inner boxes count as boxes."""
    for match in reversed(list(_BOX.finditer(text))):
        content = _balanced(text, match.end())
        if content is not None and content.strip():
            return content
    return None


def _balanced(text: str, start: int) -> str | None:
    """Text from `start` to the brace that closes the group it is in; None where none does."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return text[start : start + match.start()]
    return None


@lru_cache(maxsize=32)
def _choice_patterns(num_choices: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    letters = f"[A-{chr(ord('A') + num_choices - 1)}]"
    said = rf"(?i:\banswer[\s*_]*(?:is|:|=|：)){_WRAP}(?:(?i:option|choice)\s+)?({letters})(?![A-Za-z0-9'’-])"
    boxed = rf"\\f?boxed\s*\{{{_WRAP}({letters})(?![A-Za-z0-9'’-])"
    alone = rf"^[\s*_$(\[]*({letters})(?:[\s*_$)\].]*$|\)\s)"
    return re.compile(f"{said}|{boxed}"), re.compile(alone)


def read_choice(text: str, num_choices: int) -> str | None:
    r"""Read the letter of a multiple-choice answer.

    The last of "ANSWER: B", "the answer is (B)" and `\boxed{B}`, with the usual decorations (`**`, `$`, `\text{}`);
    where none stands, a last line that is a lone letter or begins with one and a bracket ("B) 5 eV").
    """
    said, alone = _choice_patterns(num_choices)
    found = [match[1] or match[2] for match in said.finditer(text)]
    if found:
        return found[-1]
    lines = text.strip().splitlines()
    match = alone.search(lines[-1]) if lines else None
    return match[1] if match else None


def read_short(text: str) -> str | None:
    r"""Read a short answer: the last box, else the last line without "Answer:", emphasis and full stop."""
    lines = text.strip().splitlines()
    last = last_boxed(text) or (lines[-1] if lines else "")
    bare = re.sub(r"^[\s*_#>]*(?:(?:the|my|final)\s+)*answer[\s*_]*(?:is\b|:|=)", "", last, flags=re.IGNORECASE)
    bare = bare.strip(" \t*_`$.\"'")
    return bare or None
