r"""What the readers of answers share: one spelling of characters, boxes, and the words that announce an answer.

Every quantifier of a pattern is bounded and every text is scanned once, so that a response that repeats itself a million times
costs a million steps and not their square.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

__all__ = ["ANNOUNCED", "LEAD", "Box", "asked_back", "boxes", "fold", "last_boxed", "last_line"]

# ── one spelling ─────────────────────────────────────────────────────────────────────────────────────────────────

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SPACES = dict.fromkeys([0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " ")
_INVISIBLE = dict.fromkeys(
    [0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF]
)
_FOLDS = _FULL_WIDTH | _SPACES | _INVISIBLE | {0x2212: "-", 0xFE63: "-", 0x2044: "/", 0x2215: "/"}
_STYLED = re.compile(r"[Ⓐ-ⓩ𝐀-𝟿]")  # letters in circles, mathematical letters and digits
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")


def fold(text: str) -> str:
    """Write a text in one way: NFC, full-width characters as ASCII, every script's digits as 0–9, nothing invisible.

    Superscripts and ligatures stay, for x² is not x2. Folding twice changes nothing.
    """
    if text.isascii():
        return text
    folded = unicodedata.normalize("NFC", text).translate(_FOLDS)
    folded = _STYLED.sub(lambda styled: unicodedata.normalize("NFKC", styled[0]), folded)
    folded = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), folded)
    return unicodedata.normalize("NFC", folded)  # what was invisible may have kept marks apart


# ── boxes ────────────────────────────────────────────────────────────────────────────────────────────────────────

_BRACE = re.compile(r"(?P<box>\\{1,2}(?:f?boxed|f(?:rame)?box)\s{0,20}\{)|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:f?boxed|f(?:rame)?box)\s{1,3}(-?\d{1,40}(?:[.,/]\d{1,40}){0,12}|[A-Za-z](?![A-Za-z]))")
_INK = re.compile(r"\S")


class Box(NamedTuple):
    r"""One `\boxed{…}` or `\fbox{…}`: where it begins, where its content lies, and where it ends."""

    begin: int
    start: int
    stop: int
    end: int


def boxes(text: str) -> list[Box]:
    r"""Every box that is balanced and not blank, in the order in which they begin; `\boxed 70` is one too."""
    found = [Box(bare.start(), bare.start(1), bare.end(1), bare.end()) for bare in _BARE_BOX.finditer(text)]
    open_groups: list[re.Match[str]] = []
    for match in _BRACE.finditer(text):
        if match["box"] or match[0] == "{":
            open_groups.append(match)
        elif match[0] == "}" and open_groups:
            opening = open_groups.pop()
            if opening["box"] and _INK.search(text, opening.end(), match.start()):
                found.append(Box(opening.start(), opening.end(), match.start(), match.end()))
    return sorted(found)


def last_boxed(text: str) -> str | None:
    r"""Give the content of the last `\boxed{…}` that is balanced and not blank; inner boxes count as boxes."""
    found = boxes(text)
    return text[found[-1].start : found[-1].stop] if found else None


# ── announcements ────────────────────────────────────────────────────────────────────────────────────────────────

_NOUNS = (
    r"\banswers?|\bans\b|\bfinal\s{1,2}(?:result|value)|\b(?:final|correct)(?=\s?:)|(?:正确|正確)的?(?:选项|選項)|答案|答え|正解|解答|回答|答(?=[:=]|は|是)|정답|\b답(?=[은는이:])|\bответ(?:ом)?"
    r"|\b(?:правильн|верн)\w{1,3}\s(?:вариант|выбор)"
    r"|\brespuesta|\bresposta|\brisposta|\bantwort|\blösung|\bréponse|\bantwoord|\bodpowiedź|\bcevap|الإجابة|الجواب|उत्तर"
)
_MORE = (
    r"correct[ae]?|right|final[e]?|exacte?|exacta|definitiva|correta|certa|corretta|finale"
    r"|with\s(?:the\s)?(?:letter|option)|(?:to|for)\s(?:the|this|your)\s(?:question|problem|exercise)"
)
_LINKS = (
    r"(?:is|was|are|equals?|(?:would|should|must|will|has\sto|can\sonly)\s(?:then\s)?be|comes\sout\s(?:to\sbe|as)"
    r"|это|будет|является|равен|es|é|è|sería|será|debe\sser|ist|lautet|wäre|beträgt|est|serait|to|هي|هو|है)\b"
    r"|(?:应该|應該|应|應|就)?(?:是|为|為|选|選)[、,]?|[はが][、,]?|은|는|이(?=[\s:])|】\s{0,2}|[:=]|\s{1,2}[-–—]{1,2}(?=\s)|\s{0,2}(?:→|⇒|[=-]>)|(?<=\bans)\.(?=\s)"
)
_SOFTENERS = (
    r"(?:therefore|thus|hence|then|indeed|simply|just|clearly|definitely|exactly|donc|also"
    r"|equal\sto|given\sby|as\sfollows)\b"
)
ANNOUNCED = (
    rf"(?:{_NOUNS})(?:[\s*_]{{1,4}}(?:{_MORE})\b){{0,2}}[\s*_)\]\"']{{0,6}}(?:{_LINKS})"
    rf"(?:\s{{0,2}}{_SOFTENERS}){{0,2}}[\s:*_}}]{{0,12}}"
)
"""Words before an answer, in a dozen languages, up to where it begins; to be compiled with IGNORECASE."""

LEAD = (
    r"[\s*_#>\-•]{0,12}(?:(?:so|thus|therefore|hence|and|the|my|our|your|la|le|die|der|das|final|correct|right|best)\b"
    r"[\s,*_]{1,3}){0,6}"
)
"""Words that may stand before an announcement at the beginning of a line."""

_BACK = re.compile(
    r"[\s*_$.,;:)\]\\}]{0,8}(?:\?|ではない|ではありません|じゃない|不(?:对|對|正确|正確)|是?(?:错|錯)|(?:which|but\s(?:that|this|it)|that|this|it)(?:\s(?:is|was|'s)|'s)"
    r"(?:\s(?:clearly|also))?\s(?:wrong|incorrect|not\s(?:right|correct|possible|it)|impossible|too\s(?:big|large|small)))",
    re.IGNORECASE,
)


def asked_back(text: str, position: int) -> bool:
    """Whether what ends at `position` is put in question or taken back at once: "70?", "70, which is wrong"."""
    return bool(_BACK.match(text, position))


# ── the last line ────────────────────────────────────────────────────────────────────────────────────────────────

_TAG = re.compile(r"</?(?:final_)?answer>", re.IGNORECASE)


def last_line(text: str) -> str:
    """The last line that says something: not blank, no fence, no rule."""
    for line in reversed(_TAG.sub("", text).splitlines()):
        if line.strip(" \t*_`~$-=#"):
            return line.strip()
    return ""
