"""Readers: find the stated answer in a text. Pure functions on strings, linear in the text; the last statement wins.

`read_choice` reads a letter (`letters`), `read_short` a short answer; `expressions` reads mathematics for the guarded worker.
"""

from __future__ import annotations

import re
import unicodedata

from interpole.tasks.letters import read_choice
from interpole.tasks.statements import ANNOUNCED, LEAD, fold, last_boxed, last_line, undressed

__all__ = ["last_boxed", "read_choice", "read_short", "same_text"]

_PREFIX = re.compile(rf"(?:{LEAD}){ANNOUNCED}", re.IGNORECASE)
_POLITE = re.compile(r"(?:です|である|でした|になります)$")
_TYPOGRAPHY = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', **dict.fromkeys(range(0x2010, 0x2016), "-")}
_MARKER = re.compile(r"(?:[-•>]|#{1,6})\s{1,4}(?=\S)")


def read_short(text: str) -> str | None:
    r"""Read a short answer: the last box, else the last line, without "Answer:", emphasis, quotes and full stop.

    Where nothing else is left, what is read is the decoration itself ("...").
    """
    text = fold(text)
    last = last_boxed(text) or last_line(text)
    last = _MARKER.sub("", last, count=1) if _MARKER.match(last) else last
    announced = _PREFIX.match(last)
    bare = undressed(last[announced.end() :] if announced else last)
    if announced and "は" in announced[0]:
        bare = undressed(_POLITE.sub("", bare))
    return bare or last.strip() or text.strip() or None


def same_text(text: str, reference: str) -> bool:
    """Whether a response is the reference: read alike, regardless of case, spacing and Unicode form."""
    answers = {_caseless(text), _caseless(read_short(text) or "")} - {""}
    wanted = {_caseless(reference)}
    if len(fold(reference).strip().splitlines()) == 1:  # of a longer one, the last line alone would do
        wanted.add(_caseless(read_short(reference) or ""))
    return bool(answers & wanted)


def _caseless(text: str) -> str:
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", fold(text).translate(_TYPOGRAPHY)).casefold())
    return " ".join(folded.split())
