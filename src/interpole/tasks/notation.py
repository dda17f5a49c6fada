r"""Write an expression as math-verify reads it: `tidy`, strings in, strings out.

What people write and mathematics does not is left out or put in the other form: units, currency, styles, marks between thousands.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from interpole.tasks.statements import fold

__all__ = ["ARROW", "SCALES", "TEXT_UNIT", "UNITS", "AnswerForm", "asked_for", "asked_unit", "tidy"]

_GROUP = r"(?:\\hspace\{[^{}]{1,12}\}|\\[,;:! ]|\{,\}|,\\!|\\!,|,|~| |'|’)"
_GROUPED = re.compile(rf"(?<![\d.,])(?!0)(\d{{1,3}})({_GROUP})\d{{3}}(?:\2\d{{3}}){{0,20}}(?![\d,])")
_DOTTED = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,20}(?![\d.])")
_DASH_AS_MINUS = re.compile(r"(?<![\w)}\]])[‐-―](?=\s{0,2}[\d\\.(])")
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
UNITS = r"km|cm|mm|m|kg|mg|g|ml|mi|ft|in|s|h|min|Hz|N|J|W|V|am|pm"
ARROW = re.compile(r"=>|->|→|⇒|⟹|∴|\\(?:therefore|implies|(?:L|l)?ong[Rr]ightarrow|[Rr]ightarrow|to)(?![a-z])")
_MEASURE_NAMES = (
    r"(?:second|minute|hour|day|week|month|year|degree|dollar|cent|foot|feet|inche?|mile|(?:kilo)?gram"
    r"|(?:kilo|centi)?met(?:er|re)|lit(?:er|re))s?"
)
_ASKED_UNIT = re.compile(
    rf"\bhow\smany\s({_MEASURE_NAMES})\b|\bin\s({_MEASURE_NAMES}|percent|(?:{UNITS})(?:\^?[23]|[²³])?)(?![\w²³^])",
    re.IGNORECASE,
)
_MEASURES: dict[str, dict[str, int | Fraction]] = {
    "length": {
        "mm": 1,
        "cm": 10,
        "m": 1000,
        "km": 10**6,
        "in": Fraction(254, 10),
        "ft": Fraction(3048, 10),
        "mile": 1609344,
    },
    "mass": {"mg": 1, "g": 1000, "kg": 10**6},
    "time": {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800},
    "volume": {"ml": 1, "l": 1000},
    "money": {"cent": 1, "dollar": 100},
}
_SAME = {
    "millimetre": "mm", "millimeter": "mm", "centimetre": "cm", "centimeter": "cm", "metre": "m", "meter": "m", "kilometre": "km",
    "kilometer": "km", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "gram": "g", "kilogram": "kg", "second": "s",
    "minute": "min", "hour": "h", "litre": "l", "liter": "l",
}  # fmt: skip
_SIZES = {unit: (kind, Fraction(size)) for kind, units in _MEASURES.items() for unit, size in units.items()}
_SIZES |= {name: _SIZES[unit] for name, unit in _SAME.items()}
_IN_UNIT = re.compile(
    r"([-+]?\d{1,40}(?:\.\d{1,40})?)\s{0,4}(?:\\(?:text|mathrm|textrm|mbox)\s{0,2}\{)?\s{0,2}([A-Za-z]{1,12})\s{0,2}\}?"
)
_PERCENT = re.compile(r"\\?%|percent|per cent|prozent|pourcent|porcent|процент|百分|パーセント|퍼센트", re.IGNORECASE)
_STYLE = re.compile(
    r"\\(?:mathbf|mathrm|mathit|mathsf|text|textbf|textit|textrm|textnormal|bf|boldsymbol|bm|underline|color\{[a-z]{1,12}\})\s{0,2}\{\s{0,4}([-+\d.,/\s]{1,80})\}"
)
_MEASURE = re.compile(r"^\\text\s?\{\s{0,2}(-?[\d.,]{1,60})\s[A-Za-z][A-Za-z\s]{2,40}\}$")
TEXT_UNIT = re.compile(
    r"(?<=[\d}])(?:\s|~|\\[,; ]){0,4}\\(?:text|mathrm|textrm|mbox|operatorname)\s{0,2}\{"
    r"(?!\s{0,2}(?:or|and|if|when|more|less|at|to|plus)\b)[^{}]{0,60}\}(?:\^\{?[23]\}?)?\s{0,4}$"
)
_PLAIN_UNIT = re.compile(
    rf"(?:(?<=[\d}}])|(?<=\\pi))\s{{1,3}}(?:(?:{UNITS})(?:/(?:{UNITS}))?(?:\^?[23²³])?|(?!percent)[A-Za-z]{{3,20}}(?:\s[A-Za-z]{{2,20}}){{0,3}})\s{{0,4}}$"
)
_DEGREES = re.compile(
    r"\s{0,2}(?:\^\s{0,2}\{?\s{0,2}\\(?:circ|degree)\s{0,2}\}?|\\degree|°(?:\s?[CFK](?![A-Za-z]))?|\\?\s{0,2}degrees?\b|\\text\s{0,2}\{\s{0,2}degrees?\s{0,2}\})",
    re.IGNORECASE,
)
_HUNDREDTHS = re.compile(
    r"([-+]?[\d.]{1,60}|[-+]?\\d?frac\s{0,2}\{[^{}]{1,60}\}\{[^{}]{1,60}\})\s{0,2}(?:\\?%|\s?percent)\s{0,2}"
)
_MONEY = re.compile(r"^(-?)\s{0,2}(?:\\\$|[$€£¥])\s{0,2}(?=[\d.])")
_SCALED = re.compile(
    r"([-+]?[\d.]{1,60})\s{0,2}(?:\\text\{\s{0,2})?(hundred|thousand|million|billion|trillion)\b\s{0,2}\}?.{0,40}",
    re.IGNORECASE,
)
_OR = re.compile(
    r"\s{0,4}(?:\\(?:quad|qquad|;|,)\s{0,2})?(?:\\(?:text|mathrm|textrm)\s{0,2}\{\s{0,3}(?:or|and)\s{0,3}\}"
    r"|(?<=\s)(?:or|and)(?=\s))(?:\s{0,2}\\(?:quad|qquad|;|,))?\s{0,4}"
)
_AMOUNT = re.compile(
    r"(?:\\[dt]?frac\{)?(?P<whole>-?\d{1,9}(?:\.\d{1,9})?)(?:(?:/|\}\{)(?P<below>[1-9]\d{0,8})\}?)?\s?(?P<percent>\\?%|percent)?"
)
_ENDED = re.compile(
    r"(?:\s{0,4}(?:\\(?:quad|qquad|blacksquare|square|qed|checkmark|Box)(?![a-z])|[✓✔∎□■])){1,4}\s{0,4}$"
)
_REMAINDER = re.compile(r"[^=<>,]{1,200}\\equiv\s{0,2}(-?\d{1,400})\s{0,4}(?:\\p?mod|\\bmod|\().{0,80}")
_THIN = re.compile(r"^(?:\s|\\[,;:! ]|≈|\\approx(?![a-z])){1,8}|(?:\s|\\[,;:!]){1,8}$")
_CUT_BOX = re.compile(r"^\s{0,4}\\(?:f?boxed|f(?:rame)?box)\s{0,4}\{(?=[^{}]{1,200}$)")
_APPLIED = re.compile(r"^[A-Za-z]{1,10}(?:_\{?\w{1,4}\}?)?\s?\([^()=]{1,80}\)\s?=\s?(?=[^=]{1,400}$)")
_WRITTEN = (
    (re.compile(r"√\s?(?:\(([^()]{1,60})\)|(\d{1,40}|[a-z]))"), r"\\sqrt{\1\2}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt\s?\(([^()]{1,60})\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|log|ln|exp)(?=\s?[(\d\\])"), r"\\\1 "),
    (re.compile(r"\s?\*\s?|·"), r"\\cdot "),
    (re.compile(r"×"), r"\\times "),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"∞"), r"\\infty "),
    (re.compile(r"²"), "^2"),
    (re.compile(r"³"), "^3"),
)
_SOLUTION = re.compile(r"\s{0,2}([A-Za-z])\s{0,2}=\s{0,2}([^=<>,]{1,200})")
_SUM_LAST = re.compile(
    r"(?:[A-Za-z]\s?=[^=<>,]{1,60},(?:\s|\\;){0,3}){1,6}[A-Za-z]\s?[-+*][^=<>,]{1,60}=([^=<>,]{1,60})"
)
_ASSIGNED = re.compile(r"^[^=<>,]{1,200}=")


class AnswerForm(NamedTuple):
    """What a question asks its answer in."""

    percent: bool
    radians: bool
    unit: str = ""


def asked_for(question: str, gold: str) -> AnswerForm:
    """What the answer is asked in, by the words of the question and the form of the reference."""
    return AnswerForm(
        bool(_PERCENT.search(question)) or "%" in gold,
        bool(re.search(r"radian|弧度|радиан", question, re.IGNORECASE)),
        asked_unit(question),
    )


def asked_unit(question: str) -> str:
    """The unit that a question asks its answer in; "" where it names none."""
    asked = _ASKED_UNIT.search(question)
    if asked:
        return next(group for group in asked.groups() if group)
    return "percent" if _PERCENT.search(question) else ""


def _said_once(text: str) -> str:
    """The first of two amounts that are one: "3/8, or 37.5%"."""
    parts = [one for one in re.split(r",\s{1,4}", text) if one.strip(" ,")]
    amounts = [_AMOUNT.fullmatch(one.strip(" ,$")) for one in parts]
    if len(parts) != 2 or None in amounts:
        return text
    first, second = (
        float(one["whole"] or 0) / float(one["below"] or 1) / (100 if one["percent"] else 1) for one in amounts if one
    )
    return parts[0] if abs(first - second) < 0.006 * max(abs(first), 1e-9) else text


def _size(unit: str) -> tuple[str, Fraction] | None:
    """What a unit measures, and how much of it; None where that is not known."""
    return _SIZES.get(unit) or _SIZES.get(unit.lower()) or _SIZES.get(unit.lower().removesuffix("s"))


def _converted(text: str, unit: str) -> str | None:
    """A measure in the unit that was asked for, where it is given in another of its kind: 25 cm is 0.25 m."""
    measure = _IN_UNIT.fullmatch(text)
    given, wanted = _size(measure[2]) if measure else None, _size(unit)
    if not measure or not given or not wanted or given[0] != wanted[0] or given[1] == wanted[1]:
        return None
    value = Fraction(measure[1]) * given[1] / wanted[1]
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value.numerator)


def tidy(expression: str, asked: AnswerForm) -> list[str]:
    r"""Write an expression as math-verify reads it; several ways where it may be meant in several.

    Marks between thousands, units, currency, degree signs and styles are left out, 70 % is 70/100, and also 70 where percent are
    asked for.
    """
    text = _THIN.sub(" ", _CUT_BOX.sub("", _DASH_AS_MINUS.sub("-", fold(expression))))
    text = _said_once(text.strip().rstrip(".,;:。").strip(" \t*_`"))
    text = text.strip("$").rstrip(".,;:。").strip()
    text = _REMAINDER.sub(r"\1", _ENDED.sub("", text))
    text = _MEASURE.sub(r"\1", text)
    text = _STYLE.sub(r"\1", _MONEY.sub(r"\1", text))
    text = _GROUPED.sub(lambda number: re.sub(r"\\hspace\{[^{}]{1,12}\}|\D", "", number[0]), text)
    text = _DOTTED.sub(lambda number: number[0].replace(".", ""), text)
    text = re.sub(r"\\(?:[,;:!]|displaystyle(?![a-z]))|~", " ", text).strip()
    text = ARROW.sub(" ", text).strip() if ARROW.match(text) else text
    for pattern, written in _WRITTEN:
        text = pattern.sub(written, text)
    text = _OR.sub(", ", text)
    solutions = [_SOLUTION.fullmatch(part) for part in text.split(",")]
    if len(solutions) > 1 and len({one[1] for one in solutions if one}) == 1 and all(solutions):
        text = ", ".join(one[2].strip() for one in solutions if one)
    if sums := _SUM_LAST.fullmatch(text):  # "m = 3, n = 4, m + n = 7"
        text = sums[1]
    text = _DEGREES.sub(lambda _: r"\cdot\frac{\pi}{180}" if asked.radians else "", text)
    if mixed := re.fullmatch(r"(-?)(\d{1,9})\s{1,3}(\d{1,9})/(\d{1,9})", text):
        return [rf"{mixed[1]}\frac{{{int(mixed[2]) * int(mixed[4]) + int(mixed[3])}}}{{{mixed[4]}}}"]
    text = re.sub(r"^(-?[\d.]{1,60})\s?=\s?([A-Za-z])$", r"\2 = \1", text)
    if power := re.fullmatch(r"([-+]?\d[\d.]{0,60})[eE]([-+]?\d{1,4})", text):
        return [rf"{power[1]} \cdot 10^{{{power[2]}}}"]
    text = _APPLIED.sub("", text)
    if comma := re.fullmatch(r"(?:[A-Za-z]\s{0,2}=\s{0,2})?(-?(?:0,\d{1,60}|\d{1,60},(?:\d{1,2}|\d{4,60})))", text):
        return [comma[1].replace(",", "."), text]  # a decimal comma, or two numbers
    if scaled := _SCALED.fullmatch(text):
        return [f"{scaled[1]} \\cdot 10^{{{SCALES[scaled[2].lower()]}}}"]
    if converted := _converted(text, asked.unit):
        return [converted]
    text = _PLAIN_UNIT.sub("", TEXT_UNIT.sub("", text)).strip()
    if sum_of := re.fullmatch(r"[\d\s+\-*/.]{1,400}=\s{0,4}([^=<>,]{1,400})", text):
        text = sum_of[1].strip()
    if chain := re.fullmatch(r"[^=<>,]{1,400}=\s{0,4}([^=<>,]{1,400}=\s{0,4}){1,8}([^=<>,]{1,400})", text):
        text = chain[2].strip()
    hundredths = _HUNDREDTHS.fullmatch(text) or _HUNDREDTHS.fullmatch(_ASSIGNED.sub("", text, count=1).strip())
    if hundredths:
        return [f"\\frac{{{hundredths[1]}}}{{100}}", *([hundredths[1]] if asked.percent else [])]
    return [text]
