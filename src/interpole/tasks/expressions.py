r"""Read the value that a text states as its answer: boxed, announced, or what its last sentence comes to.

Strings in, strings out: `stated` finds the expression and `tidy` writes it as math-verify reads it. Whether two expressions are
equal is decided in `math_worker`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from interpole.tasks.statements import (
    AGAINST,
    ANNOUNCED,
    CORRECTED,
    SURELY,
    TAKEN_BACK,
    WITHDRAWN,
    Box,
    asked_back,
    boxes,
    fold,
    not_meant,
    standing,
    undressed,
)

__all__ = ["Asked", "asked_for", "stated", "tidy"]

MAX_LENGTH = 2000  # characters of an expression; what is longer is no answer

# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────

_GROUP = r"(?:\\hspace\{[^{}]{1,12}\}|\\[,;:! ]|\{,\}|,\\!|\\!,|,|~| |'|’)"
_GROUPED = re.compile(rf"(?<![\d.,])(?!0)(\d{{1,3}})({_GROUP})\d{{3}}(?:\2\d{{3}}){{0,20}}(?![\d,])")
_DOTTED = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,20}(?![\d.])")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:\\?[$€£¥])?"
    r"(?P<digits>\d{1,3}(?:\.\d{3}){2,20}(?![\d.]\d)"
    r"|(?!0)\d{1,3}(?P<mark>[,'’~ ]|\\,|\{,\})\d{3}(?:(?P=mark)\d{3}){0,20}(?!\d)|\d{1,400})"
    r"(?P<fraction>\.\d{1,400}|(?<=\b0),\d{1,400})?"
)
_RATIO = re.compile(r"\d{1,20}\s?:\s?\d{1,20}(?::\d{1,20})?(?![\d:]|\.\d)")
_CHANCE = re.compile(r"(\d{1,3})\s(?:in|out\sof)\s(\d{1,3})(?=[\s*_]{0,4}(?:[.,;]|\n|$))")
_SUM_OR = re.compile(r"[\d\s.]{1,60}(?:[-+*/×·][\d\s.]{1,60}){1,12},?\sor\s(-?[\d.]{1,60})")
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORD = rf"(?:{'|'.join((*_TENS, *sorted(_ONES, key=len, reverse=True)))}|hundred|thousand|million)"
_IN_WORDS = re.compile(
    rf"(?:(?:minus|negative)\s)?{_WORD}(?:(?:[-\s]|\sand\s){_WORD}){{0,12}}(?=[\s*_]{{0,4}}(?:[.,;!()]|\n|\*|$)|(?<!\bone)\s(?!(?:of|or|and|to|in|out)\b)[a-z])",
    re.IGNORECASE,
)
_PART_NAMES = ("half", "third", "fourt", "fifth", "sixth", "seven", "eight", "ninth", "tenth")
_PARTS = re.compile(
    rf"(a|{'|'.join(_ONES[1:10])})[-\s](half|halves|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?)(?=[\s*_]{{0,4}}(?:[.,;!()]|\n|\*|$))",
    re.IGNORECASE,
)
_MINUS = re.compile(r"(?<![\w)}\]])[‐-―](?=\d)")
_VULGAR = re.compile(r"(\d{0,9})([¼-¾⅐-⅞])")
_DASH_AS_MINUS = re.compile(r"(?<![\w)}\]])[‐-―](?=\s{0,2}[\d\\.(])")


# ── what is found ────────────────────────────────────────────────────────────────────────────────────────────────

_ANNOUNCED = re.compile(
    rf"(?:{ANNOUNCED}|{CORRECTED}|\b(?:antwort|lösung|réponse|respuesta)\s(?=[-+$]?\d))"
    r"(?:not\s[^\n.;]{1,40}?[,\s](?:it's|it\sis)\s)?",
    re.IGNORECASE,
)
_NOT_BEFORE = re.compile(r"\bnot\s{1,2}(?:\$|\\\(|\*){0,3}$", re.IGNORECASE)
_CONDITIONAL = re.compile(
    r"[\s*_$)\\]{0,6}\s(?:if|unless|when|or\s(?:more|less|so|fewer|above|below))\b", re.IGNORECASE
)
_BOUNDED = re.compile(r"\bor\s(?:more|less|fewer|greater|above|below)\b|\bat\s(?:least|most)\b|\b(?:more|less)\sthan\b")
_DELIMITED = re.compile(
    r"\$\$([^$]{1,2000})\$\$|\$([^$\n]{1,2000})\$|\\\(([^\n]{1,2000}?)\\\)|\\\[([\s\S]{1,2000}?)\\\]"
)
_SKIP = re.compile(r"[\s*_`\"“”「『:>,]{0,12}(?:(?<=\n)[-•+]\s{1,3})?")
_SMALL_WORDS = "or|pi|ln|it|is|so|we|be|to|of|in|at|an|as|by|if|no|do|he|me|my|us|up|on"
_LETTERS = rf"(?<![A-Za-z])(?!(?i:{_SMALL_WORDS})(?![A-Za-z]))[A-Za-z]{{1,2}}(?![A-Za-z])"
_PLAIN_MATH = re.compile(
    r"(?:\\[A-Za-z]{1,20}|\\[{},;:! %$]|(?<![A-Za-z])(?:sqrt|pi|sin|cos|tan|log|ln|exp|or|and)(?![A-Za-z])"
    rf"|{_LETTERS}|[\d\s.,+\-*/^_=(){{}}\[\]|!%°√π∞·×÷²³$]){{1,400}}+"
)
_MORE_NUMBERS = re.compile(
    r"\s{0,2}(?:,\s{0,2}(?:or|and)|,|or|and|或|和|и|или|oder|und|ou|et|o|y|maybe)\s{1,2}(?:maybe\s|perhaps\s)?(?=[-+$\\]{0,3}[\d(])",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\s{0,2}(?:to|-|–|—|\.\.\.?|~|至|bis|à)\s{0,2}\$?[-+]?\d", re.IGNORECASE)
_GOES_ON = re.compile(
    r":\d|\s{0,2}\*(?!\*)|\s{0,2}[+^/=_!<>≤≥≠×·÷√±π\\{]|[(\[]|\s{0,2}-\s{0,2}[\dA-Za-z\\]|[A-Za-z](?![A-Za-z]{2})"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT = re.compile(
    r"(?:\s{1,2}(?:hundred|thousand|million|billion|trillion)\b|\s{0,2}\\?%|\s{0,2}°|\s{0,2}percent\b|\s{0,2}degrees?\b)",
    re.IGNORECASE,
)
_COMPARED = re.compile(r"[<>≤≥≠≈≲≳]|\\(?:le|ge|ne|neq|leq|geq|lt|gt|approx|sim|leqslant|geqslant)(?![a-z])")
_END = re.compile(
    r"\s{0,2}(?:≈|\\approx(?![a-z]))|\.(?=\s|$|[*_`\"”])|[;。；!？?]|\n|,\s(?=[A-Za-z]{3})|\s[-–—(](?=\s?[A-Za-z]{3})"
)


class _Value(NamedTuple):
    expression: str
    end: int


def stated(text: str) -> str | None:
    r"""The expression that a text states as its answer, as it is written there; None where it states none.

    The last box or announcement ("the final answer is **70**", in other languages too) that is not put in question or taken
    back; without one, what the last sentence comes to ("Hence b = 70", "So there are 70 apples."), unless it doubts, denies or
    only bounds it.
    """
    text = _VULGAR.sub(_fraction, _MINUS.sub("-", standing(fold(text))))
    found = [(box.begin, _boxed(text, box)) for box in boxes(text) if _stands(text, box.begin, box.end)]
    for match in _ANNOUNCED.finditer(text):
        value = _value_at(text, match.end())
        if not value or not_meant(text, match.start(), value.end):
            continue
        if _stands(text, match.end(), value.end) and not boxes(value.expression):
            found.append((match.end(), value.expression))
    if found:
        begin, expression = max(found, key=lambda one: one[0])
        boxed = any(box.begin == begin for box in boxes(text))  # who corrects a box writes another
        after = text[text.find("}", begin) :] if boxed else ""
        if boxed and _SUMMED.match(after) and (concluded := _concluded(after)):
            return concluded
        if boxed and len(set(_SET.findall(expression))) > 1 and (concluded := _concluded(after)):
            return concluded  # "\boxed{p = 3, q = 4}, hence p + q = 7"
        back = [] if boxed else [match.start() for match in TAKEN_BACK.finditer(text, begin)][-1:]
        if back and (corrected := _concluded(text[back[0] :])):
            return corrected
        return None if len(expression) > MAX_LENGTH or _BOUNDED.search(expression) else expression
    return _concluded(text)


def _boxed(text: str, box: Box) -> str:
    r"""What a box says: what lies in it, or after `\boxed{b}=70` what its variable equals."""
    inner = text[box.start : box.stop]
    equals = _EQUALS.match(text, box.end) if _ONE_LETTER.fullmatch(inner.strip()) else None
    value = _value_at(text, equals.end()) if equals else None
    return value.expression if value else inner


def _fraction(found: re.Match[str]) -> str:
    """A vulgar fraction, with the whole number before it, in LaTeX: `1½` is 3/2."""
    above, below = unicodedata.normalize("NFKC", found[2]).split("⁄")
    return rf"\frac{{{int(found[1] or 0) * int(below) + int(above)}}}{{{below}}}"


def _stands(text: str, begin: int, end: int) -> bool:
    """Whether what lies there is neither denied, nor put in question, nor true on a condition only."""
    denied = _NOT_BEFORE.search(text[max(0, begin - 12) : begin])
    return not (denied or asked_back(text, end) or _CONDITIONAL.match(text, end))


def _value_at(text: str, position: int) -> _Value | None:
    """The value that begins at `position`, decorations aside."""
    skip = _SKIP.match(text, position)
    start = skip.end() if skip else position
    value = _delimited_at(text, start)
    if value is None:
        return (
            _chance_at(text, start)
            or _number_at(text, start)
            or _ratio_at(text, start)
            or _words_at(text, start)
            or _math_at(text, start)
        )
    more = _MORE_NUMBERS.match(text, value.end)
    other = _delimited_at(text, more.end()) or _number_at(text, more.end()) if more else None
    return _Value(f"{value.expression}, {other.expression}", other.end) if other else value


def _delimited_at(text: str, start: int) -> _Value | None:
    r"""What stands between `$…$`, `\(…\)` or the like at `start`."""
    delimited = _DELIMITED.match(text, start)
    inner = next((group for group in delimited.groups() if group is not None), "").strip() if delimited else ""
    return _Value(inner, delimited.end()) if delimited and inner else None


def _number_at(text: str, start: int) -> _Value | None:
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
            return _Value(numbers[-1], end)
        if not more:
            return _Value(", ".join(numbers), end)
        start = more.end()
    return None


def _ratio_at(text: str, start: int) -> _Value | None:
    """A ratio or a time: `3:2`, `5:30`."""
    ratio = _RATIO.match(text, start)
    return _Value(ratio[0], ratio.end()) if ratio else None


def _chance_at(text: str, start: int) -> _Value | None:
    """A chance: "7 in 12"."""
    chance = _CHANCE.match(text, start)
    return _Value(f"{chance[1]}/{chance[2]}", chance.end()) if chance else None


def _words_at(text: str, start: int) -> _Value | None:
    """A number in English words, with nothing behind it: "seventy", "one hundred and five"."""
    if part_of := _PARTS.match(text, start):
        above = 1 if part_of[1].lower() in ("a", "one") else _ONES.index(part_of[1].lower())
        return _Value(
            f"{above}/{_PART_NAMES.index(part_of[2].lower().replace('quarter', 'fourth').replace('halves', 'half')[:5]) + 2}",
            part_of.end(),
        )
    words = _IN_WORDS.match(text, start)
    if not words:
        return None
    total = part = 0
    for word in re.findall(r"[a-z]{3,9}", words[0].lower()):
        if word in _TENS or word in _ONES:
            part += 10 * (_TENS.index(word) + 2) if word in _TENS else _ONES.index(word)
        elif word == "hundred":
            part = 100 * max(part, 1)
        elif word in _SCALES:
            total, part = total + 10 ** _SCALES[word] * max(part, 1), 0
    sign = "-" if words[0][:3].lower() in ("min", "neg") else ""
    return _Value(f"{sign}{total + part}", words.end())


def _math_at(text: str, start: int) -> _Value | None:
    r"""A bare expression up to the end of its clause, such as `x + 1`, `3/4` or `\frac{1}{2}`."""
    run = _PLAIN_MATH.match(text, start, start + MAX_LENGTH)
    if not run:
        return None
    stop = _END.search(text, start, run.end() + 8)
    cut = stop is not None and stop.start() <= run.end()
    end = stop.start() if stop and cut else run.end()
    clause = text[start:end]
    inner = clause.strip(" \t*_`")
    ends = cut or end == len(text) or text[end] in '`"”' or _UNITS_AFTER.match(text, end)
    if not ends or not re.search(r"\d|\\[a-z]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|π|∞", inner):
        return None
    said_again = _SUM_OR.fullmatch(inner)  # "21 + 49, or 70"
    value = said_again[1] if said_again else re.sub(r"\s(?:or|and)\s", ", ", inner)
    return _Value(value, start + len(clause.rstrip()))


# ── the last sentence ────────────────────────────────────────────────────────────────────────────────────────────

_BRACKETED = re.compile(r"^[(\[](-?\d[\d.]{0,60})[)\]]$")
_UNITS = r"km|cm|mm|m|kg|mg|g|ml|mi|ft|in|s|h|min|Hz|N|J|W|V|am|pm"
_MEASURED = re.compile(rf"-?[\d.,:]{{1,60}}\s(?:{_UNITS})(?:/(?:{_UNITS}))?(?:\^?[23²³])?")
_LAYOUT = re.compile(r"\\(?:begin|end)\{[A-Za-z]{1,20}\*?\}|\\\\(?![A-Za-z])")
_CUT_OFF = re.compile(r"\s(?:to|the|an?|of|be|that|and|or|we|if|for|with|by|from|which|because)$")
_QED = re.compile(r"\$?\s{0,2}\\(?:blacksquare|square|qed|qedhere|Box)(?![A-Za-z])\s{0,2}\$?")
_DISPLAY = re.compile(r"^[ \t]{0,20}\\[\[\]][ \t]{0,20}$", re.MULTILINE)
_ARROW = re.compile(r"=>|->|→|⇒|⟹|∴|\\(?:therefore|implies|(?:L|l)?ong[Rr]ightarrow|[Rr]ightarrow|to)(?![a-z])")
_ASIDE = re.compile(
    r"(?<=\S)\s\(=\s?[^()]{1,80}\)$|(?<=\S)\s\((?=[^()]{0,60}[A-Za-z]{3})[^()]{1,80}\)$"
    rf"|,\s(?:as|which(?!\s(?:\w{{1,8}}\s)?{AGAINST})|and\swe|so\swe|since|because|for|completing)\b[^\d]{{0,80}}$"
    r"|,?\s(?:and|so)\s(?:we|that|this|I|it)(?:\s|['’])[^\d$\\]{1,60}$"
    r"|,?\s(?:while|whereas|and|but)\s[^;?]{1,160}\b(?:rejected|discarded|extraneous|excluded|invalid|inadmissible|impossible|makes?\sno\ssense)$"
    r"|,\s(?:though|although|even\sthough)\b.{0,120}$"
    r"|(?:,|,?\sand)\s(?:(?:which|it|this|that)\s(?:is|are|was)\s)?(?:attained|achieved|reached|taken|occurring|obtained|realised|realized)\b.{0,120}$"
    r"|,\s(?:which|as)\s(?:\w{1,8}\s){0,3}(?:checked|verified|confirmed|checks|check|verify|confirm|verifies|confirms)\b.{0,200}$",
    re.IGNORECASE,
)
_PREMISE = re.compile(
    r"^(?!if\b(?![^,]{1,200},[^,]{1,200},\s(?:so|hence|thus))|(?:suppose|assum)(?![^;?]{1,200}\b(?:contradict|impossib|absurd)))[^;?]{1,400},\s(?:(?:so|hence|thus|therefore)\b\s{0,2}"
    r"|(?:and|but|though|although|while|whereas|when|however)\s(?=the\s(?:true|correct|actual|right|real|exact|precise)\b))"
    r"|^(?:since|because|as)\b[^;?]{1,300}?,\s(?=(?:the|we|it|there|this|our)\b|\$?[A-Za-z]\s?=)"
    r"|^[^\d$\\,;?]{1,60}(?:,\s|、)(?=[-$\\(]{0,2}\d[^\s]{0,60}$|\$[^$]{1,200}\$$)",
    re.IGNORECASE,
)
_ROUNDED = re.compile(  # of what is said exactly before: "2√3 ≈ 3.46"
    r"(?<=[\d}π)])\s{0,2}(?:≈|\\approx(?![a-z]))\s{0,3}-?\d[\d.]{0,30}(?:\\[cl]?dots|…|\s?\\?%)?"
)
_SERIES = re.compile(r"(?:\$[^$\n]{1,200}\$(?:,\s(?:and\s|or\s)?|\s(?:and|or)\s)){1,12}\$[^$\n]{1,200}\$$")
_VARIABLE = re.compile(r"\$\s{0,2}([A-Za-z](?:_\{?\w{1,3}\}?)?)\s{0,2}=")
_IN_SHORT = re.compile(
    r"^(?:tl;dr|in\sshort|short\sanswer|quick\sanswer|result)[\s*_]{0,4}[:—-][\s*_]{0,4}", re.IGNORECASE
)
_PICTURES = re.compile(r"[\s☀-➿\U0001F300-\U0001FAFF\uFE0F]{1,12}$")
_ARTICLE = re.compile(rf"^{SURELY}(?:(?:exactly|precisely)\s)?(?:an?\s(?=\$?\d))?", re.IGNORECASE)
_ONLY = re.compile(r"\bonly\s{1,2}", re.IGNORECASE)
_IS_LEFT = re.compile(
    r"\s{1,2}(?:works?|remains?|fits?|survives?|qualifies|satisf\w{1,4}|is\s(?:valid|possible|left|admissible))\b",
    re.IGNORECASE,
)
_WHOSE = re.compile(r",\s(?:whose|that\sis|(?:or\s)?(?:about|approximately|roughly|around))\b.{1,200}$", re.IGNORECASE)
_ADDED = re.compile(
    r",\s(?:which|where|with|because|since|as|when|though|although|followed\sby|\d[^,=]{0,40}\s(?:than|of\s(?:them|which|whom)))\b.{1,200}$",
    re.IGNORECASE,
)
_APPOSED = re.compile(r"(?:so\s|thus\s|hence\s)?(?:the|our|my|its|their)\s[^,\d$\\]{1,60},\s", re.IGNORECASE)
_APPOSED_ENDS = re.compile(r"[\s*_$]{0,3},\s")
_RESTATED = re.compile(r"(?:,|\bi\.e\.,?|\bnamely,?|\bthat\sis,?)\s\$([^$]{1,200})\$$")
_MOST_NUMBERS = 4  # of a sentence in which only one is looked for
_A_NUMBER = re.compile(r"(?<![\w.,/^+<>:±-])(?:\\?[$€£])?-?(?=\d)")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})(?:\*\*|$)")
_TAGS = re.compile(r"</?(?:b|strong|em|i|(?:final_)?answer)>", re.IGNORECASE)
_REMARK = re.compile(  # what may follow an answer without being one
    r"[\s*_>#-]{0,8}(?:\((?=[^()]{0,40}[A-Za-z]{2})[^()]{0,400}\)[\s*_.]{0,8}$|(?:(?:if|should)\syou\b|please|let\sme\sknow|I\shope|hope|thanks?|thank\syou|feel\sfree|confidence|verification|check(?:ing)?|note|remark|the\s(?:next|other|second)\b|for\sexample"
    r"|explanation|reasoning|proof|q\.?e\.?d)\b)",
    re.IGNORECASE,
)
_VALUE = re.compile(rf"[\d∞π]|\\[A-Za-z]|\$|\b(?:{'|'.join((*_ONES, *_TENS))})\b", re.IGNORECASE)
_TO = re.compile(r"(\d{1,6})\sto\s(\d{1,6})")
_AGAINST = re.compile(AGAINST, re.IGNORECASE)
_CLAUSES = re.compile(r",?\s(?:but|and|while|whereas)\s|;\s")
_NO_MORE = re.compile(
    r"\b(?:no|nothing|none)\s(?:more|else|others?|smaller|larger|less|bigger|greater)\b", re.IGNORECASE
)
_PART = re.compile(r"^\s{0,4}\(?[A-Ha-h][).:]\s{1,3}(?=[-$\\]{0,2}\d)", re.MULTILINE)  # the answers to several parts
_TAIL = 8 * MAX_LENGTH
_MOST_LINES = 12
_LEFT_SIDE = re.compile(r"(?<![+\-*/]\s)(?<![\w+\-*/^])(?:\d{1,20}\s?[A-Za-z]|[A-Za-z](?:[²³]|\^\s?\{?\d\}?))\s{0,2}$")
_SENTENCES = re.compile(r"(?<=[.;?])\s{1,8}|(?<=[^\d)A-Za-z]!)\s{1,8}|(?<=[A-Za-z]{2}!)\s{1,8}|[。；;]\s{0,4}")
_NAMED_AFTER = re.compile(r"[\s*_`$)\\]{0,8}is\s(?:the|our|my)\s(?!.{0,200},\s(?:but|while|whereas)\b)", re.IGNORECASE)
_DOUBT = re.compile(
    rf"{AGAINST}|\b(?:if|were|whether|maybe|perhaps|possibly|might|(?-i:may)|could|unless|suppose|assum\w{{1,3}}|try|tried|trying|let['’]?s\s(?:test|try)|between|(?:under|over)\s\D{{0,3}}\d{{1,9}}|slightly"
    r"|unsure|so\sfar|bound\w{0,2}|at\s(?:least|most)|(?:less|greater|more|fewer|larger|smaller)\sthan|doubt|example|(?:page|step|lemma|theorem|equation|cases?|problem|question)\s\(?\d{1,9}|option|candidates?)\b|\bor\sso\b|\dish\b|\bn['’]est|\bno\ses\b|\bnon\b|\?",
    re.IGNORECASE,
)
_NEARLY = re.compile(
    r"\b(?:about|around|roughly|approximately|nearly|near|almost|close|estimate\w?|anything)\b|[≈~]|\\approx",
    re.IGNORECASE,
)
_COMES_TO = re.compile(
    r"(?:=|(?<!\d):|:(?!\d)|\b(?:(?:has|have)\s(?:area|volume|length|perimeter|radius|measure|value|probability|size|order|sum)|(?:end|ends|ended)\sup\swith"
    r"|left\swith|arrives?\sat|equals?|is|are|was|è|get|gets|gives?|giving|obtain\w{0,2}|have|has|totals?|be|to|of|measures|therefore|thus|hence|so|makes?|at|namely,?|i\.e\.,?|il\sy\sa|hay|gibt\ses|sind\ses|c'è|ci\ssono|há"
    r"|yields?|find|answer|say|costs?|needs?|takes?|leaves?|remains?|lautet|ist|beträgt|ergibt|erhalten|est|vaut|donne|obtient|trouve|es|vale|obtenemos|получаем|é|равен|равно|it's|that's)\b|'s\b|是|为|等于|有|剩|得|は|が|—)"
    r"(?:\s{1,2}(?:exactly|simply|just|only|somit|also|donc|entonces|quindi|portanto|therefore|thus|then|indeed|now|about|approximately|roughly|around|the\s(?:point|number|value|pair))\b)?[\s*_`]{0,6}",
    re.IGNORECASE,
)
_UNITS_AFTER = re.compile(
    r"(?!\s{0,2}(?:is|was|are|were|fails?|works?)\b)[\s*_`$)\\\]]{0,6}(?:\s{0,2}\(?mod(?:ulo)?\s\d{1,20}\)?|(?:\s{0,2}\$?[^\W\d_]{1,20}\$?(?:[²³]|\$?\^\{?[23]\}?\$?)?(?:/[a-z]{1,8})?\.?){0,8})[\s*_`.!]{0,6}$|[぀-鿿가-힣]{1,8}[.。]?$"
)


def _concluded(text: str) -> str | None:
    """What the last sentence comes to that is no remark, or a first line that is a value and nothing else."""
    text = _TAGS.sub("**", _LAYOUT.sub("\n", text[-20 * MAX_LENGTH :]).replace("&", "")).rstrip()
    text = _DISPLAY.sub("", _QED.sub("", text)).rstrip()
    if (
        _CUT_OFF.search(text[-12:])
        or WITHDRAWN.search(text, text.rfind("\n") + 1)
        or len(_PART.findall(text[-MAX_LENGTH:])) > 1
    ):
        return None
    last = _sentence(text)
    if last and (bare := _bare(last)):
        return bare
    first = _IN_SHORT.sub("", text.strip().split("\n", 1)[0].strip(" \t*_`>#")).strip(" \t*_`").rstrip(".。")
    if number := _number_at(first, 0):
        return number.expression if number.end == len(first) else _conclusion(last)
    return _conclusion(last)


def _sentence(text: str) -> str | None:
    """The last sentence that is no remark, without asides; None where it asks, doubts, denies or compares."""
    for part in _from_the_end(text):
        if _REMARK.match(part) or not _VALUE.search(part):
            if _DOUBT.search(part) and len(part) < MAX_LENGTH and not _REMARK.match(part):
                return None
            continue
        sentence = _ARTICLE.sub("", _PICTURES.sub("", part)).strip(" \t*_`>#:").rstrip(".。!∎").strip(" \t*_`")
        sentence = _TEXT_UNIT.sub("", sentence)
        sentence = _TO.sub(r"\1:\2", sentence) if "ratio" in sentence else sentence
        sentence = _without_denials(sentence)
        sentence = _ASIDE.sub("", _PREMISE.sub("", _ROUNDED.sub("", sentence)))
        return None if "?" in sentence or _DOUBT.search(sentence) or _COMPARED.search(sentence) else sentence
    return None


def _without_denials(sentence: str) -> str:
    """A sentence without clauses that only deny another value: "8 fails but 7 works", "7 days and no more"."""
    clauses = _CLAUSES.split(sentence)
    kept = [one for one in clauses if not (_AGAINST.search(one) and (re.search(r"\d", one) or _NO_MORE.search(one)))]
    return kept[-1] if 0 < len(kept) < len(clauses) and re.search(r"\d", kept[-1]) else sentence


def _from_the_end(text: str) -> Iterator[str]:
    """The sentences of a text, the last first; of its last lines."""
    for line in text[-_TAIL:].splitlines()[:-_MOST_LINES:-1]:
        for part in reversed(_SENTENCES.split(_ARROW.sub(": ", line[-MAX_LENGTH:]))):
            if re.search(r"[\w\\]", part):
                yield part


def _bare(sentence: str) -> str | None:
    """A sentence that is a value and nothing else, or begins with one: "70", "$b = 70$", "70 apples", "70 is the answer"."""
    delimited = _DELIMITED.fullmatch(sentence)
    bare = next(group for group in delimited.groups() if group is not None) if delimited else sentence
    bare = _BRACKETED.sub(r"\1", undressed(bare.strip(" \t:=")))
    if delimited or (_PLAIN_MATH.fullmatch(bare) and not _MEASURED.fullmatch(bare)):
        return bare if _solved(bare) and (re.search(r"\d|\\[a-z]", bare) or delimited) else None
    whole = _chance_at(sentence, 0) or _number_at(sentence, 0) or _words_at(sentence, 0) or _ratio_at(sentence, 0)
    named = whole and (_UNITS_AFTER.match(sentence, whole.end) or _NAMED_AFTER.match(sentence, whole.end))
    return whole.expression if whole and named else None


def _solved(expression: str) -> bool:
    """Whether an equation says what a variable is, and not twice it or its square."""
    return "=" not in expression or not _LEFT_SIDE.search(expression[: expression.rindex("=")])


def _conclusion(sentence: str | None) -> str | None:
    """What a sentence says, or else its part before what is only added to it (", 12 minutes later than planned")."""
    if sentence is None:
        return None
    main = _WHOSE.sub("", sentence)
    value = _said(main)
    added = None if value else _ADDED.search(main)
    return (_said(main[: added.start()]) if added else value) or _said(sentence)


def _said(sentence: str) -> str | None:
    """The value behind the last verb or equality sign of a sentence, a series of solutions, or else the one that stands out."""
    series = _SERIES.search(sentence)
    if series and len(set(_VARIABLE.findall(series[0]))) == 1:
        return ", ".join(part.strip() for part in series[0].split("$")[1::2])
    apposed = _APPOSED.match(sentence)
    value = _value_at(sentence, apposed.end()) if apposed else None
    if value and _APPOSED_ENDS.match(sentence, value.end):
        return value.expression
    for verb in reversed(list(_COMES_TO.finditer(sentence))):
        value = _value_at(sentence, verb.end())
        if verb[0].strip() == "=" and _LEFT_SIDE.search(sentence[: verb.start()]):
            continue
        ends = value and (_UNITS_AFTER.match(sentence, value.end) or _NAMED_AFTER.match(sentence, value.end))
        if value and ends and _solved(value.expression):
            return value.expression
    restated = _RESTATED.search(sentence)
    return restated[1] if restated else _outstanding(sentence)


def _outstanding(sentence: str) -> str | None:
    """The value of a sentence that is said to remain alone, is the only one in it, or is bold."""
    for only in _ONLY.finditer(sentence):
        value = _value_at(sentence, only.end())
        if value and _IS_LEFT.match(sentence, value.end):
            return value.expression
    nearly = _NEARLY.search(sentence) or not _solved(sentence)
    numbers = [] if nearly else list(islice(_A_NUMBER.finditer(sentence), _MOST_NUMBERS))
    if len(numbers) < _MOST_NUMBERS:
        values = {value.expression for number in numbers if (value := _value_at(sentence, number.start()))}
        if len(values) == 1:
            return values.pop()
    bold = _BOLD.findall(sentence)
    value = _value_at(bold[0], 0) if len(bold) == 1 else None
    return value.expression if value and _UNITS_AFTER.match(bold[0], value.end) else None


# ── as math-verify reads it ──────────────────────────────────────────────────────────────────────────────────────


class Asked(NamedTuple):
    """What a question asks its answer in."""

    percent: bool
    radians: bool


_PERCENT = re.compile(r"\\?%|percent|per cent|prozent|pourcent|porcent|процент|百分|パーセント|퍼센트", re.IGNORECASE)
_STYLE = re.compile(
    r"\\(?:mathbf|mathrm|mathit|mathsf|text|textbf|textit|textrm|textnormal|bf|boldsymbol|bm|underline|color\{[a-z]{1,12}\})\s{0,2}\{\s{0,4}([-+\d.,/\s]{1,80})\}"
)
_MEASURE = re.compile(r"^\\text\s?\{\s{0,2}(-?[\d.,]{1,60})\s[A-Za-z][A-Za-z\s]{2,40}\}$")
_TEXT_UNIT = re.compile(
    r"(?<=[\d}])(?:\s|~|\\[,; ]){0,4}\\(?:text|mathrm|textrm|mbox|operatorname)\s{0,2}\{"
    r"(?!\s{0,2}(?:or|and|if|when|more|less|at|to|plus)\b)[^{}]{0,60}\}(?:\^\{?[23]\}?)?\s{0,4}$"
)
_PLAIN_UNIT = re.compile(
    rf"(?:(?<=[\d}}])|(?<=\\pi))\s{{1,3}}(?:(?:{_UNITS})(?:/(?:{_UNITS}))?(?:\^?[23²³])?|(?!percent)[A-Za-z]{{3,20}}(?:\s[A-Za-z]{{2,20}}){{0,3}})\s{{0,4}}$"
)
_DEGREES = re.compile(
    r"\s{0,2}(?:\^\s{0,2}\{?\s{0,2}\\(?:circ|degree)\s{0,2}\}?|\\degree|°|\\?\s{0,2}degrees?\b|\\text\s{0,2}\{\s{0,2}degrees?\s{0,2}\})",
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
_SUMMED = re.compile(
    r"[^.\n]{0,20}\b(?:so|hence|thus|therefore)\b[^.\n=]{0,40}[A-Za-z]\s?[-+*]\s?[A-Za-z][^.\n=]{0,10}="
)  # "…, so m + n = 18"
_SET = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s{0,2}=")
_EQUALS = re.compile(r"\s{0,2}=\s{0,2}")
_ONE_LETTER = re.compile(r"[A-Za-z]")
_ENDED = re.compile(
    r"(?:\s{0,4}(?:\\(?:quad|qquad|blacksquare|square|qed|checkmark|Box)(?![a-z])|[✓✔∎□■])){1,4}\s{0,4}$"
)
_REMAINDER = re.compile(r"[^=<>,]{1,200}\\equiv\s{0,2}(-?\d{1,400})\s{0,4}(?:\\p?mod|\\bmod|\().{0,80}")
_WRITTEN = (
    (re.compile(r"√\s?(?:\(([^()]{1,60})\)|(\d{1,40}|[a-z]))"), r"\\sqrt{\1\2}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt\s?\(([^()]{1,60})\)"), r"\\sqrt{\1}"),
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


def asked_for(question: str, gold: str) -> Asked:
    """What the answer is asked in, by the words of the question and the form of the reference."""
    return Asked(
        bool(_PERCENT.search(question)) or "%" in gold, bool(re.search(r"radian|弧度|радиан", question, re.IGNORECASE))
    )


def tidy(expression: str, asked: Asked) -> list[str]:
    r"""Write an expression as math-verify reads it; several ways where it may be meant in several.

    Marks between thousands, units, currency, degree signs and styles are left out, 70 % is 70/100, and also 70 where percent are
    asked for.
    """
    text = _DASH_AS_MINUS.sub("-", fold(expression)).strip().rstrip(".,;:。").strip(" \t*_`")
    text = text.strip("$").rstrip(".,;:。").strip()
    text = _REMAINDER.sub(r"\1", _ENDED.sub("", text))
    text = _MEASURE.sub(r"\1", text)
    text = _STYLE.sub(r"\1", _MONEY.sub(r"\1", text))
    text = _GROUPED.sub(lambda number: re.sub(r"\\hspace\{[^{}]{1,12}\}|\D", "", number[0]), text)
    text = _DOTTED.sub(lambda number: number[0].replace(".", ""), text)
    text = re.sub(r"\\(?:[,;:!]|displaystyle(?![a-z]))|~", " ", text).strip()
    text = _ARROW.sub(" ", text).strip() if _ARROW.match(text) else text
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
    if re.fullmatch(r"-?(?:0,\d{1,60}|\d{1,60},(?:\d{1,2}|\d{4,60}))", text):
        return [text.replace(",", "."), text]  # a decimal comma, or two numbers
    if scaled := _SCALED.fullmatch(text):
        return [f"{scaled[1]} \\cdot 10^{{{_SCALES[scaled[2].lower()]}}}"]
    text = _PLAIN_UNIT.sub("", _TEXT_UNIT.sub("", text)).strip()
    if sum_of := re.fullmatch(r"[\d\s+\-*/.]{1,400}=\s{0,4}([^=<>,]{1,400})", text):
        text = sum_of[1].strip()
    if chain := re.fullmatch(r"[^=<>,]{1,400}=\s{0,4}([^=<>,]{1,400}=\s{0,4}){1,8}([^=<>,]{1,400})", text):
        text = chain[2].strip()
    hundredths = _HUNDREDTHS.fullmatch(text) or _HUNDREDTHS.fullmatch(_ASSIGNED.sub("", text, count=1).strip())
    if hundredths:
        return [f"\\frac{{{hundredths[1]}}}{{100}}", *([hundredths[1]] if asked.percent else [])]
    return [text]
