r"""Read the value that a text states as its answer: boxed, announced, or what its last sentence comes to.

Strings in, strings out: `stated` finds where a value stands, `values` reads it there, and `notation` writes it as math-verify
reads it. Whether two expressions are equal is decided in `math_worker`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice

from interpole.tasks.notation import ARROW, TEXT_UNIT, UNITS
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
from interpole.tasks.values import (
    DELIMITED,
    MAX_LENGTH,
    ONES,
    PLAIN_MATH,
    TENS,
    UNITS_AFTER,
    chance_at,
    number_at,
    ratio_at,
    value_at,
    words_at,
)

__all__ = ["stated"]

_MINUS = re.compile(r"(?<![\w)}\]])[‐-―](?=\d)")
_VULGAR = re.compile(r"(\d{0,9})([¼-¾⅐-⅞])")
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
_COMPARED = re.compile(r"[<>≤≥≠≈≲≳]|\\(?:le|ge|ne|neq|leq|geq|lt|gt|approx|sim|leqslant|geqslant)(?![a-z])")
_SUMMED = re.compile(
    r"[^.\n]{0,20}\b(?:so|hence|thus|therefore)\b[^.\n=]{0,40}[A-Za-z]\s?[-+*]\s?[A-Za-z][^.\n=]{0,10}="
)  # "…, so m + n = 18"
_SET = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s{0,2}=")
_EQUALS = re.compile(r"\s{0,2}=\s{0,2}")
_ONE_LETTER = re.compile(r"[A-Za-z]")


def stated(text: str) -> str | None:
    r"""The expression that a text states as its answer, as it is written there; None where it states none.

    The last box or announcement ("the final answer is **70**", in other languages too) that is not put in question or taken
    back; without one, what the last sentence comes to ("Hence b = 70", "So there are 70 apples."), unless it doubts, denies or
    only bounds it.
    """
    text = _VULGAR.sub(_fraction, _MINUS.sub("-", standing(fold(text))))
    found = [(box.begin, _boxed(text, box)) for box in boxes(text) if _stands(text, box.begin, box.end)]
    for match in _ANNOUNCED.finditer(text):
        value = value_at(text, match.end())
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


# ── the last sentence ────────────────────────────────────────────────────────────────────────────────────────────

_BRACKETED = re.compile(r"^[(\[](-?\d[\d.]{0,60})[)\]]$")
_MEASURED = re.compile(rf"-?[\d.,:]{{1,60}}\s(?:{UNITS})(?:/(?:{UNITS}))?(?:\^?[23²³])?")
_LAYOUT = re.compile(r"\\(?:begin|end)\{[A-Za-z]{1,20}\*?\}|\\\\(?![A-Za-z])")
_CUT_OFF = re.compile(r"\s(?:to|the|an?|of|be|that|and|or|we|if|for|with|by|from|which|because)$")
_QED = re.compile(r"\$?\s{0,2}\\(?:blacksquare|square|qed|qedhere|Box)(?![A-Za-z])\s{0,2}\$?")
_DISPLAY = re.compile(r"^[ \t]{0,20}\\[\[\]][ \t]{0,20}$", re.MULTILINE)
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
_VALUE = re.compile(rf"[\d∞π]|\\[A-Za-z]|\$|\b(?:{'|'.join((*ONES, *TENS))})\b", re.IGNORECASE)
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
    if number := number_at(first, 0):
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
        sentence = TEXT_UNIT.sub("", sentence)
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
        for part in reversed(_SENTENCES.split(ARROW.sub(": ", line[-MAX_LENGTH:]))):
            if re.search(r"[\w\\]", part):
                yield part


def _bare(sentence: str) -> str | None:
    """A sentence that is a value and nothing else, or begins with one: "70", "$b = 70$", "70 apples", "70 is the answer"."""
    delimited = DELIMITED.fullmatch(sentence)
    bare = next(group for group in delimited.groups() if group is not None) if delimited else sentence
    bare = _BRACKETED.sub(r"\1", undressed(bare.strip(" \t:=")))
    if delimited or (PLAIN_MATH.fullmatch(bare) and not _MEASURED.fullmatch(bare)):
        return bare if _solved(bare) and (re.search(r"\d|\\[a-z]", bare) or delimited) else None
    whole = chance_at(sentence, 0) or number_at(sentence, 0) or words_at(sentence, 0) or ratio_at(sentence, 0)
    named = whole and (UNITS_AFTER.match(sentence, whole.end) or _NAMED_AFTER.match(sentence, whole.end))
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
    value = value_at(sentence, apposed.end()) if apposed else None
    if value and _APPOSED_ENDS.match(sentence, value.end):
        return value.expression
    for verb in reversed(list(_COMES_TO.finditer(sentence))):
        value = value_at(sentence, verb.end())
        if verb[0].strip() == "=" and _LEFT_SIDE.search(sentence[: verb.start()]):
            continue
        ends = value and (UNITS_AFTER.match(sentence, value.end) or _NAMED_AFTER.match(sentence, value.end))
        if value and ends and _solved(value.expression):
            return value.expression
    restated = _RESTATED.search(sentence)
    return restated[1] if restated else _outstanding(sentence)


def _outstanding(sentence: str) -> str | None:
    """The value of a sentence that is said to remain alone, is the only one in it, or is bold."""
    for only in _ONLY.finditer(sentence):
        value = value_at(sentence, only.end())
        if value and _IS_LEFT.match(sentence, value.end):
            return value.expression
    nearly = _NEARLY.search(sentence) or not _solved(sentence)
    numbers = [] if nearly else list(islice(_A_NUMBER.finditer(sentence), _MOST_NUMBERS))
    if len(numbers) < _MOST_NUMBERS:
        values = {value.expression for number in numbers if (value := value_at(sentence, number.start()))}
        if len(values) == 1:
            return values.pop()
    bold = _BOLD.findall(sentence)
    value = value_at(bold[0], 0) if len(bold) == 1 else None
    return value.expression if value and UNITS_AFTER.match(bold[0], value.end) else None
