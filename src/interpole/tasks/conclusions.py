"""Read the value that a text without box or announcement comes to, in its last sentence that commits itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from interpole.tasks.notation import ARROW, TEXT_UNIT, UNITS, asked_unit
from interpole.tasks.statements import (
    AGAINST,
    CUT_OFF,
    SURELY,
    WITHDRAWN,
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

__all__ = ["concluded"]

_COMPARED = re.compile(r"[<>≤≥≠≲≳]|\\(?:le|ge|ne|neq|leq|geq|lt|gt|sim|leqslant|geqslant)(?![a-z])")
_BRACKETED = re.compile(r"^[(\[](-?\d[\d.]{0,60})[)\]]$")
_MEASURED = re.compile(rf"-?[\d.,:]{{1,60}}\s(?:{UNITS})(?:/(?:{UNITS}))?(?:\^?[23²³])?")
_LAYOUT = re.compile(r"\\(?:begin|end)\{[A-Za-z]{1,20}\*?\}|\\\\(?![A-Za-z])")
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
_IN_BRACKETS = re.compile(r"(?<=\S)\s\((?=[^()]{0,60}[A-Za-z]{3})(?:[^()]|\([^()]{1,60}\)){1,120}\)$")
_SAID_AGAIN = re.compile(r"(\$[^$\n]{1,200}\$),?\s(?:i\.e\.,?|that\sis,?|in\sother\swords,?|meaning)\s[^$=]{1,160}$")
_ENUMERATED = re.compile(
    r"((?<![\d.])\d{1,9}(?:\s(?!(?:is|are|was|be)\b)[a-z]{2,15}){1,6}):\s[^:]{1,80},[^:]{1,80},[^:]{1,200}$"
)
_QUALIFIED = re.compile(  # "23 such integers less than 100": what is counted, and no bound of the number
    r"(?<=\d)(?:\s(?:that\sare|which\sare|(?!(?:is|are|was|were|be|but|so)\b)[a-z]{2,15})){1,6}?"
    r"\s(?:(?:that|which)\sare\s)?(?:(?:less|greater|smaller|larger|fewer|more|bigger)\sthan|at\s(?:least|most)|below|above|under|over|between|up\sto|not\sexceeding)"
    r"\s\S{0,3}\d\S{0,20}(?:\sand\s\S{0,3}\d\S{0,20})?(?:\s[a-z]{3,15}){0,3}$"
)
_PREMISE = re.compile(
    r"^(?!if\b(?![^,]{1,200},[^,]{1,200},\s(?:so|hence|thus))|(?:suppose|assum)(?![^;?]{1,200}\b(?:contradict|impossib|absurd)))[^;?]{1,400},\s(?:(?:so|hence|thus|therefore)\b\s{0,2}"
    r"|(?:which\s(?:leaves?|gives?|yields?)|leaving)\s(?:us\s)?(?:with\s)?(?:only\s)?|(?:and|but|though|although|while|whereas|when|however)\s(?=the\s(?:true|correct|actual|right|real|exact|precise)\b))"
    r"|^(?:since|because|as)\b[^;?]{1,300}?,\s(?=(?:the|we|it|there|this|our)\b|\$?[A-Za-z]\s?=)"
    r"|^[^\d$\\,;?]{1,60}(?:,\s|、)(?=[-$\\(]{0,2}\d[^\s]{0,60}$|\$[^$]{1,200}\$$)",
    re.IGNORECASE,
)
_ROUNDED = re.compile(  # of what is said exactly before: "2√3 ≈ 3.46"
    r"(?<=[\d}π)])(\s?[A-Za-z²³°]{1,8})?\s{0,2}(?:≈|\\approx(?![a-z]))\s{0,3}-?\d[\d.]{0,30}(?:\\[cl]?dots|…|\s?\\?%)?(?:(?(1)\s?[A-Za-z²³°]{1,8}|))"
)
_REASON = re.compile(r"(?<!\bnot),?\s(?:because|since|given\sthat)\b.{1,300}$", re.IGNORECASE)
_IN_OTHER_WORDS = re.compile(
    r"(?:(?:^|\b(?:i\.e\.,?|namely,?|that\sis,?|in\sother\swords,?)\s)(?:(?:on|in|at|equal\sto)\s)|\bwhich\s[^$,;]{1,60}\sis\s)(\$[^$]{1,200}\$)$"
)
_SO = re.compile(r",\s(?:so|hence|thus|therefore)\W{0,4}$", re.IGNORECASE)
_ADJUNCT_FIRST = re.compile(
    r"^(?:(?:so|thus|hence|therefore),?\s)?(?:(?:out\s)?of|at|after|in|with|for|from|on|by|during|within|over|among)\s[^,;:=]{1,120},\s(?=.{0,300}\d)",
    re.IGNORECASE,
)
_ADJUNCT = re.compile(
    r"\s(?:after|before|by|when|at\s(?:the|an?)\b|on(?=\s(?:the\s)?\d{1,2}(?:st|nd|rd|th)\b)|for(?!\s(?:every|each)\b)|from|in(?!\s\d{1,3}(?:$|\schance))|(?:out\s)?of\s(?:the|these|those|all)|to(?!\s?\S{0,2}\d)|with|without|during|among)\s(?=.{0,300}\d)",
    re.IGNORECASE,
)
_GOES_ON_TO_SAY = re.compile(
    r"[=≈:]|['’]s\b|\b(?:is|are|was|were|equals?|gives?|get|gets|mak(?:es?|ing)|yield(?:s|ing)?|leav(?:es?|ing)|totals?|has|have|so|thus|hence|therefore)\b",
    re.IGNORECASE,
)
_DESCRIBED = re.compile(  # what is counted or measured: words in it neither doubt nor bound the value
    r"\\text\{[^{}]{1,80}\}(?=[^=]{0,80}=)|\bP(?:r|rob)?\s?\([^()]{1,80}\)"
    r"|\b(?:probability|chances?|odds|percentage|proportion|fraction|number\sof|how\smany)\b[^.;?]{1,160}\s(?=(?:is|are|was|equals?|=|:)\s)",
    re.IGNORECASE,
)
_SOLVED_FOR = re.compile(
    r"(?:^|[\s:(])([A-Za-z])(?:_?\d|_\{\d\}|[₀-₉])?\s?=\s?[^=,;$]{1,40}?"
    r"(?:(?:,?\s(?:and|or)|,)\s\1(?:_?\d|_\{\d\}|[₀-₉])?\s?=\s?[^=,;$]{1,40}?){1,8}$"
)
_EACH_SOLUTION = re.compile(r"=\s?([^=,;]{1,40}?)(?=,|\s(?:and|or)\s|$)")
_WHERE_REACHED = re.compile(  # "reaches a maximum of 8 at x = 2"
    r"(\b(?:maxim|minim|peak|attain|reach|largest|smallest|greatest|least)\w{0,6}\b.{0,60}\d\S{0,12}),?\s(?:at|when|for|where)\s\$?\(?[A-Za-z]\s?=\s?[^,;=]{1,30}$",
    re.IGNORECASE,
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
_WHOSE = re.compile(
    r",\s(?:whose|that\sis|(?:or\s|which\sis\s)?(?:about|approximately|roughly|around))\b.{1,200}$", re.IGNORECASE
)
_ADDED = re.compile(
    r",\s(?:which|where|with|because|since|as|when|though|although|followed\sby|\d[^,=]{0,40}\s(?:than|of\s(?:them|which|whom)))\b.{1,200}$",
    re.IGNORECASE,
)
_APPOSED = re.compile(r"(?:so\s|thus\s|hence\s)?(?:the|our|my|its|their)\s[^,\d$\\]{1,60},\s", re.IGNORECASE)
_APPOSED_ENDS = re.compile(r"[\s*_$]{0,3},\s")
_RESTATED = re.compile(r"(?:,|\bi\.e\.,?|\bnamely,?|\bthat\sis,?)\s\$([^$]{1,200})\$$")
_COORDINATED = re.compile(r",?\s(?:and|while|whereas)\s|;\s")
_AMOUNTS = re.compile(r"\$[^$]{1,200}\$|(?<![\w.,])-?\d[\d.,/]{0,40}")
_WORDS = re.compile(r"[^\W\d_]{3,30}(?:-[^\W\d_]{1,30})?")
_COMMON = {
    *(
        "find",
        "the",
        "value",
        "what",
        "how",
        "many",
        "much",
        "are",
        "was",
        "for",
        "and",
        "does",
        "did",
        "number",
        "each",
    ),
    *("that", "this", "from", "with"),
}
_MOST_NUMBERS = 4  # of a sentence in which only one is looked for
_A_NUMBER = re.compile(r"(?<![\w.,/^+<>:±-])(?:\\?[$€£])?-?(?=\d)")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})(?:\*\*|$)")
_TAGS = re.compile(r"</?(?:b|strong|em|i|(?:final_)?answer)>", re.IGNORECASE)
_REMARK = re.compile(  # what may follow an answer without being one
    r"[\s*_>#-]{0,8}(?:[^\n]{0,120}\b(?:it|this|that|fraction)\s(?:is\s(?:already\s)?(?:in\s(?:its\s|the\s)?(?:simplest|lowest|reduced)\b|fully\s(?:reduced|simplified)|irreducible)"
    r"|can(?:not|['’]t)\sbe\s(?:reduced|simplified))|\((?=[^()]{0,40}[A-Za-z]{2})[^()]{0,400}\)[\s*_.]{0,8}$|(?:(?:if|should)\syou\b|(?:would|do|does|shall|can|may|want|need|is\sthere|are\sthere)\b(?=[^?\n]{0,120}\?$)(?!.{0,120}\bclarif)[^?\n]{0,60}\b(?:you|i|me|that|this|else|more)\b|please|let\sme\sknow|I\shope|hope|thanks?|thank\syou|feel\sfree|confidence|verification|check(?:ing)?|note|remark|the\s(?:next|other|second)\s(?:step|part|question|problem|case|root|solution|value|one)\b|for\sexample"
    r"|explanation|reasoning|proof|q\.?e\.?d|(?:a\s)?common\s(?:mistake|error|pitfall)|key\s(?:idea|point|takeaway|insight)|tip|caution|warning)\b)",
    re.IGNORECASE,
)
_CHECK = re.compile(  # a paragraph that checks what was said before it
    r"^[\s*_>#-]{0,8}(?:(?:quick|sanity)\s)?(?:check(?:ing)?|verif(?:y|ication|ying))\b[^\n:.]{0,40}[:.*]",
    re.IGNORECASE | re.MULTILINE,
)
_CONCLUDING = re.compile(
    r"[\s*_>#-]{0,8}(?:so|thus|hence|therefore|in\s(?:total|all)|altogether|finally)\b", re.IGNORECASE
)
_CONFIRMS = re.compile(
    r"\b(?:which|this|that|it)\s(?:\w{1,12}\s){0,2}(?:match(?:es)?|agrees?|satisf(?:y|ies)|checks?|confirms?|works|holds|consistent|true|correct|expected|needed|required)\b"
    r"|[✓✔✅]$",
    re.IGNORECASE,
)
_TRIED = re.compile(r"(?:plug|substitut)\w{1,6}\s(?:\w{1,8}\s){0,2}back(?:\sin)?:", re.IGNORECASE)
_VALUE = re.compile(rf"[\d∞π²³]|\\[A-Za-z]|\$|\b(?:{'|'.join((*ONES, *TENS))})\b", re.IGNORECASE)
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
_STEP = re.compile(
    r"^[\s*_>#-]{0,8}(?:step|part|case)\s\d{1,2}[*_]{0,2}(?:[.:)]|\s[-–—]\s[^:\n]{1,80}:)[\s*_]{1,4}", re.IGNORECASE
)
_ROW = re.compile(r"\s{0,4}\|([^\n]{1,2000})\|\s{0,4}")
_SENTENCES = re.compile(r"(?<=[.;?])\s{1,8}|(?<=[^\d)A-Za-z]!)\s{1,8}|(?<=[A-Za-z]{2}!)\s{1,8}|[。；;]\s{0,4}")
_NAMED_AFTER = re.compile(r"[\s*_`$)\\]{0,8}is\s(?:the|our|my)\s(?!.{0,200},\s(?:but|while|whereas)\b)", re.IGNORECASE)
_DOUBT = re.compile(
    rf"{AGAINST}|(?:^|,\s)(?:were|let\s\S{{1,12}}\s(?:=|be))\b|\blet\s\S{{1,12}}\s=|\b(?:if|whether|maybe|perhaps|possibly|might|(?-i:may)|could|unless|suppose|assum\w{{1,3}}|try|tried|trying|let['’]?s\s(?:test|try)|between\s(?=\S{{0,3}}\d)|(?:under|over)\s\D{{0,3}}\d{{1,9}}|slightly"
    r"|unsure|so\sfar|bound\w{0,2}|at\s(?:least|most)|(?:less|greater|more|fewer|larger|smaller)\sthan|doubt|example|(?:page|step|lemma|theorem|equation|cases?|problem|question)\s\(?\d{1,9}|option|candidates?)\b|\bor\sso\b|\dish\b|\bn['’]est|\bno\ses\b|\bnon\b|\?",
    re.IGNORECASE,
)
_NEARLY = re.compile(
    r"\b(?:about|around|roughly|approximately|nearly|near|almost|close|estimate\w?|anything)\b|[≈~]|\\approx",
    re.IGNORECASE,
)
_COMES_TO = re.compile(
    r"(?:=|(?<=\w\s)(?:≈|\\approx(?![a-z]))|∈|\\in(?![a-z])|(?<!\d):|:(?!\d)|\b(?:(?:has|have)\s(?:area|volume|length|perimeter|radius|measure|value|probability|size|order|sum)|(?:end|ends|ended)\sup\swith|(?:leaving|giving)\s\w{1,8}(?:\swith)?"
    r"|left\swith|arrives?\sat|equals?|is|are|was|were|è|get|gets|gives?|giving|obtain\w{0,2}|have|has|totals?|be|to|(?<!\bout\s)of|measures|reach(?:es|ed)?|covers?|travels?|pays?|earns?|receives?|spends?|weighs?|lasts?|contains?|holds?|uses?|saves?|therefore|thus|hence|so|makes?|at|namely,?|i\.e\.,?|il\sy\sa|hay|gibt\ses|sind\ses|c'è|ci\ssono|há"
    r"|yields?|find|answer|say|costs?|needs?|takes?|leaves?|remains?|lautet|ist|beträgt|ergibt|erhalten|est|vaut|donne|obtient|trouve|es|vale|obtenemos|получаем|é|равен|равно|it's|that's)\b|'s\b|是|为|等于|有|剩|得|は|が|—)"
    r"(?:\s{1,2}(?:exactly|simply|just|only|somit|also|donc|entonces|quindi|portanto|therefore|thus|then|indeed|now|about|approximately|roughly|around|an?(?=\s\d)|de|d'|the\s(?:point|number|value|pair))\b)?[\s*_`]{0,6}",
    re.IGNORECASE,
)


def concluded(text: str, question: str = "") -> str | None:
    """What the last sentence comes to that is no remark, or a first line that is a value and nothing else."""
    text = _TAGS.sub("**", _LAYOUT.sub("\n", text[-20 * MAX_LENGTH :]).replace("&", "")).rstrip()
    text = _DISPLAY.sub("", _QED.sub("", text)).rstrip()
    if (
        CUT_OFF.search(text[-12:])
        or WITHDRAWN.search(text, text.rfind("\n") + 1)
        or len(_PART.findall(text[-MAX_LENGTH:])) > 1
    ):
        return None
    last = _sentence(text)
    if last and (measured := _in_unit(next(_claims(text)), question)):
        return measured
    if last and (bare := _bare(last)):
        return bare
    first = _IN_SHORT.sub("", text.strip().split("\n", 1)[0].strip(" \t*_`>#")).strip(" \t*_`").rstrip(".。")
    if number := number_at(first, 0):
        return number.expression if number.end == len(first) else _conclusion(last, question)
    return _conclusion(last, question)


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
        sentence = _WHERE_REACHED.sub(r"\1", sentence)
        sentence = _QUALIFIED.sub("", _SAID_AGAIN.sub(r"\1", _IN_BRACKETS.sub("", sentence)))
        sentence = _ENUMERATED.sub(r"\1", _without_reason(_without_denials(sentence)))
        if again := _IN_OTHER_WORDS.search(sentence):
            return again[1]
        sentence = _ROUNDED.sub(r"\1", sentence)
        rest = _PREMISE.sub("", sentence)
        for one in (rest, _SO.sub("", sentence.removesuffix(rest))):  # "…, so n is 12", or else what comes before "so"
            said = _ADJUNCT_FIRST.sub("", _ASIDE.sub("", one)).rstrip(", ")
            if "?" in said or _DOUBT.search(_DESCRIBED.sub("", said)) or _COMPARED.search(said):
                return None
            if rest == sentence or _bare(said) or _conclusion(said):
                return said
    return None


def _without_reason(sentence: str) -> str:
    """A sentence without the reason that follows its value: "n is 9, because 8 is too small"."""
    reason = _REASON.search(sentence)
    return sentence[: reason.start()] if reason and _VALUE.search(sentence[: reason.start()]) else sentence


def _without_denials(sentence: str) -> str:
    """A sentence without clauses that only deny another value: "8 fails but 7 works", "7 days and no more"."""
    clauses = _CLAUSES.split(sentence)
    kept = [
        one
        for one in clauses
        if "?" in one or not (_AGAINST.search(one) and (re.search(r"\d", one) or _NO_MORE.search(one)))
    ]
    return kept[-1] if 0 < len(kept) < len(clauses) and re.search(r"\d", kept[-1]) else sentence


def _claims(text: str) -> Iterator[str]:
    """The sentences that hold a value and are no remarks, the last first."""
    return (part for part in _from_the_end(text) if _VALUE.search(part) and not _REMARK.match(part))


def _from_the_end(text: str) -> Iterator[str]:
    """The sentences of a text, the last first, without those that only confirm what a conclusion before them says."""
    check = next((one for one in _CHECK.finditer(text) if _VALUE.search(text, 0, one.start())), None)
    if check and not _AGAINST.search(text, check.start()) and not _COMPARED.search(text, check.start()):
        text = text[: check.start()]
    parts = _sentences(text)
    later = next(parts, None)
    for part in parts:
        confirms = later and _CONFIRMS.search(later) and not _CONCLUDING.match(later) and _CONCLUDING.match(part)
        if later and not (confirms or (_TRIED.match(later) and _VALUE.search(part))):
            yield later
        later = part
    if later:
        yield later


def _sentences(text: str) -> Iterator[str]:
    """The sentences of the last lines of a text, the last first."""
    for line in text[-_TAIL:].splitlines()[:-_MOST_LINES:-1]:
        line = _STEP.sub("", line[-MAX_LENGTH:])
        if row := _ROW.fullmatch(line):
            line = ": ".join(cell.strip() for cell in row[1].split("|") if cell.strip())
        for part in reversed(_SENTENCES.split(ARROW.sub(": ", line))):
            if re.search(r"[\w\\]", part):
                yield part


def _bare(sentence: str) -> str | None:
    """A sentence that is a value and nothing else, or begins with one: "70", "$b = 70$", "70 apples", "70 is the answer"."""
    delimited = DELIMITED.fullmatch(sentence)
    bare = next(group for group in delimited.groups() if group is not None) if delimited else _BOLD.sub(r"\1", sentence)
    bare = _BRACKETED.sub(r"\1", undressed(bare.strip(" \t:=")))
    if delimited or (PLAIN_MATH.fullmatch(bare) and not _MEASURED.fullmatch(bare)):
        return bare if _solved(bare) and (re.search(r"\d|\\[a-z]", bare) or delimited) else None
    whole = chance_at(sentence, 0) or number_at(sentence, 0) or words_at(sentence, 0) or ratio_at(sentence, 0)
    named = whole and (UNITS_AFTER.match(sentence, whole.end) or _NAMED_AFTER.match(sentence, whole.end))
    return whole.expression if whole and named else None


def _solved(expression: str) -> bool:
    """Whether an equation says what a variable is, and not twice it or its square."""
    return "=" not in expression or not _LEFT_SIDE.search(expression[: expression.rindex("=")])


def _asked_for(sentence: str, question: str) -> str | None:
    """The value of the clause that alone names what the question asks for: "the slope is -2 and the intercept is 5"."""
    clauses = _COORDINATED.split(sentence)
    if not 1 < len(clauses) <= _MOST_NUMBERS or any(len(_AMOUNTS.findall(one)) != 1 for one in clauses):
        return None
    words = [set(_WORDS.findall(one.casefold())) for one in (question, *clauses)]
    named = [index for index, one in enumerate(words[1:]) if (one & words[0]) - _COMMON - set.intersection(*words[1:])]
    values = [_said(one) for one in clauses]
    return values[named[0]] if len(named) == 1 and all(values) else None


def _conclusion(sentence: str | None, question: str = "") -> str | None:
    """What a sentence says, or else its part before what is only added to it (", 12 minutes later than planned")."""
    if sentence is None:
        return None
    if asked := _asked_for(sentence, question):
        return asked
    main = _WHOSE.sub("", sentence)
    for adjunct in islice(_ADJUNCT.finditer(main), _MOST_NUMBERS):
        head = main[: adjunct.start()]
        number = next(reversed(list(islice(_A_NUMBER.finditer(head), _MOST_NUMBERS))), None)
        if number and not _GOES_ON_TO_SAY.search(main, number.end()) and (value := _bare(head) or _said(head)):
            return value
    value = _said(main)
    added = None if value else _ADDED.search(main)
    return (_said(main[: added.start()]) if added else value) or _said(sentence)


def _in_unit(sentence: str, question: str) -> str | None:
    """The one value of a sentence that is in the unit which the question asks for: "1.5 hours, or 90 minutes"."""
    unit = asked_unit(question)
    if not unit:
        return None
    stem = r"(?:\\?%|percent)" if unit == "percent" else rf"{re.escape(unit.rstrip('s') or unit)}(?:s|es)?(?![\w²³^])"
    measures = {
        re.sub(r"\s", "", one[1])
        for one in re.finditer(
            rf"(?<![\d.,/])(-?\d[\d,]{{0,20}}(?:(?<!\d\d\d\d)\s\d{{3}}){{0,6}}(?:\.\d{{1,20}})?)[ -]?{stem}", sentence
        )
    }
    return measures.pop() if len(measures) == 1 else None


def _said(sentence: str) -> str | None:
    """The value behind the last verb or equality sign of a sentence, a series of solutions, or else the one that stands out."""
    if solved := _SOLVED_FOR.search(sentence):
        return ", ".join(_EACH_SOLUTION.findall(solved[0]))
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
        values, end = set(), 0
        for number in numbers:
            value = value_at(sentence, number.start()) if number.start() >= end else None
            if value:
                values.add(value.expression)
                end = value.end
        if len(values) == 1:
            return values.pop()
    bold = _BOLD.findall(sentence)
    value = value_at(bold[0], 0) if len(bold) == 1 else None
    return value.expression if value and UNITS_AFTER.match(bold[0], value.end) else None
