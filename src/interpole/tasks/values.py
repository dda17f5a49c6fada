r"""Values as people write them in a text: numbers, amounts, ratios, numbers in words, expressions between dollars or bare.

Each function reads what begins at one position and says where it ends; None where nothing does, or it goes on as something else.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from interpole.tasks.notation import SCALES

__all__ = [
    "DELIMITED",
    "MAX_LENGTH",
    "ONES",
    "PLAIN_MATH",
    "TENS",
    "UNITS_AFTER",
    "Value",
    "chance_at",
    "number_at",
    "ratio_at",
    "value_at",
    "words_at",
]

MAX_LENGTH = 2000  # characters of an expression; what is longer is no answer
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:\\?[$€£¥])?"
    r"(?P<digits>\d{1,3}(?:\.\d{3}){2,20}(?![\d.]\d)|\d{1,3}(?:\.\d{3}){1,20}(?=,\d{1,2}(?!\d|,\d))"
    r"|(?!0)\d{1,3}(?P<mark>[,'’~ ]|\\,|\{,\})\d{3}(?:(?P=mark)\d{3}){0,20}(?!\d)|\d{1,400})"
    r"(?P<fraction>\.\d{1,400}|(?<=\b0),\d{1,400}|,\d{1,2}(?!\d|,\d))?"
)
_RATIO = re.compile(r"\d{1,20}\s?:\s?\d{1,20}(?::\d{1,20})?(?![\d:]|\.\d)")
_CHANCE = re.compile(r"(\d{1,3})\s(?:in|out\sof)\s(\d{1,3})(?=[\s*_]{0,4}(?:[.,;]|\n|$|chance\b))")
_SUM_OR = re.compile(r"[\d\s.]{1,60}(?:[-+*/×·][\d\s.]{1,60}){1,12},?\sor\s(-?[\d.]{1,60})")
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORD = rf"(?:{'|'.join((*TENS, *sorted(ONES, key=len, reverse=True)))}|hundred|thousand|million)"
_IN_WORDS = re.compile(
    rf"(?:(?:minus|negative)\s)?{_WORD}(?:(?:[-\s]|\sand\s){_WORD}){{0,12}}(?=[\s*_]{{0,4}}(?:[.,;!()]|\n|\*|$)|(?<!\bone)\s(?!(?:of|or|and|to|in|out)\b)[a-z])",
    re.IGNORECASE,
)
_PART_NAMES = ("half", "third", "fourt", "fifth", "sixth", "seven", "eight", "ninth", "tenth")
_PARTS = re.compile(
    rf"(a|{'|'.join(ONES[1:10])})[-\s](half|halves|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?)(?=[\s*_]{{0,4}}(?:[.,;!()]|\n|\*|$))",
    re.IGNORECASE,
)
DELIMITED = re.compile(
    r"\$\$([^$]{1,2000})\$\$|\$((?:\\\$|[^$\n]){1,2000})\$|\\\(([^\n]{1,2000}?)\\\)|\\\[([\s\S]{1,2000}?)\\\]"
)
_SKIP = re.compile(r"[\s*_`\"“”「『:>,]{0,12}(?:(?<=\n)[-•+]\s{1,3})?")
_SMALL_WORDS = "or|de|la|le|el|es|en|da|du|di|pi|ln|it|is|so|we|be|to|of|in|at|an|as|by|if|no|do|he|me|my|us|up|on"
_LETTERS = rf"(?<![A-Za-z])(?!(?i:{_SMALL_WORDS})(?![A-Za-z]))[A-Za-z]{{1,2}}(?![A-Za-z])"
PLAIN_MATH = re.compile(
    r"(?:\\[A-Za-z]{1,20}|\\[{},;:! %$]|(?<![A-Za-z])(?:sqrt|pi|sin|cos|tan|log|ln|exp|or|and)(?![A-Za-z])"
    rf"|{_LETTERS}|[\d\s.,+\-*/^_=(){{}}\[\]|!%°√π∞·×÷²³$]){{1,400}}"
)
_MORE_NUMBERS = re.compile(
    r"\s{0,2}(?:,\s{0,2}(?:or|and)|,|or|and|或|和|и|или|oder|und|ou|et|o|y|maybe)\s{1,2}(?:maybe\s|perhaps\s)?(?=[-+$\\]{0,3}[\d(])",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\s{0,2}(?:to|-|–|—|\.\.\.?|~|至|bis|à)\s{0,2}\$?[-+]?\d", re.IGNORECASE)
_GOES_ON = re.compile(
    r":\d|\s:\s\d|\s{0,2}\*(?!\*)|\s{0,2}[+^/=_!<>≤≥≠×·÷√±π\\{]|[(\[]|\s{0,2}-\s{0,2}[\dA-Za-z\\]|[A-Za-z](?![A-Za-z]{2})"
)
_UNIT = re.compile(
    r"(?:\s{1,2}(?:hundred|thousand|million|billion|trillion)\b|\s{0,2}\\?%|\s{0,2}°|\s{0,2}percent\b|\s{0,2}degrees?\b)",
    re.IGNORECASE,
)
_END = re.compile(
    r"\s{0,2}(?:≈|\\approx(?![a-z]))|\.(?=\s|$|[*_`\"”])|[;。；!？?]|\n|,\s(?=[A-Za-z]{3})|\s[-–—(](?=\s?(?:or\s|[A-Za-z]{3}))"
)
UNITS_AFTER = re.compile(
    r"(?!\s{0,2}(?:is|was|are|were|fails?|works?)\b)[\s*_`$)\\\]]{0,6}(?:\s{0,2}\(?mod(?:ulo)?\s\d{1,20}\)?|(?:\s{0,2}\$?[^\W\d_]{1,20}\$?(?:[²³]|\$?\^\{?[23]\}?\$?)?(?:/[a-z]{1,8})?\.?){0,8})[\s*_`.!]{0,6}$|[぀-鿿가-힣]{1,8}[.。]?$"
)


class Value(NamedTuple):
    """An expression as it is written, and the position behind it."""

    expression: str
    end: int


def value_at(text: str, position: int) -> Value | None:
    """The value that begins at `position`, decorations aside."""
    skip = _SKIP.match(text, position)
    start = skip.end() if skip else position
    value = _delimited_at(text, start)
    if value is None:
        return (
            chance_at(text, start)
            or number_at(text, start)
            or ratio_at(text, start)
            or words_at(text, start)
            or _math_at(text, start)
        )
    more = _MORE_NUMBERS.match(text, value.end)
    other = _delimited_at(text, more.end()) or number_at(text, more.end()) if more else None
    return Value(f"{value.expression}, {other.expression}", other.end) if other else value


def _delimited_at(text: str, start: int) -> Value | None:
    r"""What stands between `$…$`, `\(…\)` or the like at `start`."""
    delimited = DELIMITED.match(text, start)
    inner = next((group for group in delimited.groups() if group is not None), "").strip() if delimited else ""
    return Value(inner, delimited.end()) if delimited and inner else None


def number_at(text: str, start: int) -> Value | None:
    """A number, with its percent or degree; several where "or" or a comma joins them; None where it goes on as mathematics."""
    numbers: list[str] = []
    marks: set[str] = set()
    while len(numbers) < 20:
        number = _NUMBER.match(text, start)
        if not number or (_GOES_ON.match(text, number.end()) and not _UNIT.match(text, number.end())):
            return None
        if _RANGE.match(text, number.end()):
            return None
        unit = _UNIT.match(text, number.end())
        end = unit.end() if unit else number.end()
        numbers.append(
            number["sign"]
            + re.sub(r"\D", "", number["digits"])
            + (number["fraction"] or "").replace(",", ".")
            + (unit[0] if unit else "")
        )
        marks.add("%" if unit and "%" in unit[0] else "$" if re.search(r"[$€£¥]", number[0]) else "")
        more = _MORE_NUMBERS.match(text, end)
        if not more and marks == {"$", "%"}:  # one amount said twice: "$30, or 15%"
            return Value(numbers[-1], end)
        if not more:
            return Value(", ".join(numbers), end)
        start = more.end()
    return None


def ratio_at(text: str, start: int) -> Value | None:
    """A ratio or a time: `3:2`, `5:30`."""
    ratio = _RATIO.match(text, start)
    return Value(ratio[0], ratio.end()) if ratio else None


def chance_at(text: str, start: int) -> Value | None:
    """A chance: "7 in 12"."""
    chance = _CHANCE.match(text, start)
    return Value(f"{chance[1]}/{chance[2]}", chance.end()) if chance else None


def words_at(text: str, start: int) -> Value | None:
    """A number in English words, with nothing behind it: "seventy", "one hundred and five"."""
    if part_of := _PARTS.match(text, start):
        above = 1 if part_of[1].lower() in ("a", "one") else ONES.index(part_of[1].lower())
        return Value(
            f"{above}/{_PART_NAMES.index(part_of[2].lower().replace('quarter', 'fourth').replace('halves', 'half')[:5]) + 2}",
            part_of.end(),
        )
    words = _IN_WORDS.match(text, start)
    if not words:
        return None
    total = part = 0
    for word in re.findall(r"[a-z]{3,9}", words[0].lower()):
        if word in TENS or word in ONES:
            part += 10 * (TENS.index(word) + 2) if word in TENS else ONES.index(word)
        elif word == "hundred":
            part = 100 * max(part, 1)
        elif word in SCALES:
            total, part = total + 10 ** SCALES[word] * max(part, 1), 0
    sign = "-" if words[0][:3].lower() in ("min", "neg") else ""
    return Value(f"{sign}{total + part}", words.end())


def _math_at(text: str, start: int) -> Value | None:
    r"""A bare expression up to the end of its clause, such as `x + 1`, `3/4` or `\frac{1}{2}`."""
    run = PLAIN_MATH.match(text, start, start + MAX_LENGTH)
    if not run:
        return None
    stop = _END.search(text, start, run.end() + 8)
    cut = stop is not None and stop.start() <= run.end()
    end = stop.start() if stop and cut else run.end()
    clause = text[start:end]
    inner = clause.strip(" \t*_`")
    ends = cut or end == len(text) or text[end] in '`"”' or UNITS_AFTER.match(text, end)
    if not ends or not re.search(r"\d|\\[a-z]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|π|∞", inner):
        return None
    said_again = _SUM_OR.fullmatch(inner)  # "21 + 49, or 70"
    value = said_again[1] if said_again else re.sub(r"\s(?:or|and)\s", ", ", inner)
    return Value(value, start + len(clause.rstrip()))
