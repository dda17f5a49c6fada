"""What the clauses of a text claim of the options of a choice: "C fits", "that leaves C", "A, B and D are wrong".

Each clause names letters, alone or in groups ("A and B"), and speaks for or against them, before them or after. Questions and
suppositions claim nothing. The last that is claimed counts; where all but one are spoken against, that one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from interpole.tasks.statements import AGAINST, CUT_OFF, SURELY, WITHDRAWN

__all__ = ["JUDGED", "claimed"]

JUDGED = (
    r"(?:correct[ae]?|right|best|better|true|proper|appropriate|likely|final|chosen|richtig\w{0,2}|korrekt\w{0,2}|bonne|juste"
    r"|certa|correta|corretta|верн\w{1,3}|правильн\w{1,3})"
)
"""What a right option is called, in several languages; to be compiled with IGNORECASE."""

# ── clauses ──────────────────────────────────────────────────────────────────────────────────────────────────────

_MAX_CLAUSE = 600  # characters; what is longer is no clause
_CLAUSES = re.compile(
    r"(?<![A-Za-z]\b[A-Z])[.!](?=\s|$|[*\"”)])|(?<=[a-z0-9)\]*])[.!](?=\s|$|[*\"”)])|(?<=\b[A-Z])[.!](?=\s{1,4}[A-Z])"
    r"|[?。；！？\n]|;(?!\s(?:or|alternatively)\b)|\s[—–-]{1,2}\s|,\s{1,2}(?=[(\[]?[A-Z]\s?[)\]:])|(?=→|⇒|∴|[=-]>)"
    r"|(?=\b(?:while|whereas|although|though|because|since|so(?!\sthat)|(?<!\band\s)(?:hence|therefore|thus)|if|unless|when|leaving|making"
    r"|(?<!\bthat\s)which)\b)|(?<!\beverything\s)(?<!\banything\s)(?<!\bnothing\s)(?<!\ball\s)(?=\bbut\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:\s{0,4}\d{1,2}[.)])?\s{0,4}[-*•>]{0,3}\s{0,2}[A-Za-z][*_]{0,2}\s?")
_NUMBERED = re.compile(r"\s{0,4}\d{1,2}")
_WHY = re.compile(r"\s{0,4}why\s", re.IGNORECASE)
_SUPPOSED = re.compile(
    r"^[\s,]{0,3}(?:if(?!\si\s(?:had\sto|have\sto|must)|\sforced|\spressed)|unless|suppose|assum\w{1,3}|let)\b|\b(?:could(?!\sonly)|might|may|whether|were|at\sfirst|initially|cannot\sbe\sboth)\b",
    re.IGNORECASE,
)
_WOULD = re.compile(r"(?<!\bi)\swould\b(?!\sbe\s(?:my|the)\b)", re.IGNORECASE)
_EXPLAINED = re.compile(rf"(?<=\s){JUDGED}[*_]{{0,3}}:\s.{{1,600}}$", re.IGNORECASE)
_ASSUMING = re.compile(r"^\s{0,4}(?:assuming|given)\s[^,?]{1,80},\s", re.IGNORECASE)
_YES = re.compile(r"\s{1,3}(?:yes|indeed|correct|right)\b", re.IGNORECASE)

# ── letters in them ──────────────────────────────────────────────────────────────────────────────────────────────

_NOUN = (
    r"(?:option|choice|answer|statement|letter|alternative|response|item|structure|opción|opção|opzione|antwort|réponse|respuesta"
    r"|resposta|вариант|选项|選択肢)"
)
_WORD = r"0-9A-Za-z_À-ɏЀ-ӿ"  # of scripts that part words
_MENTION = re.compile(
    rf"(?P<noun>\b{_NOUN}s?[\s:]{{1,3}})?(?<![{_WORD}'’+=°/^\\#&~%-])(?P<open>[(\[*_`\"'“‘$]{{0,4}})(?P<letter>[A-Za-z])"
    rf"(?P<close>[)\]*_`\"'”’$]{{0,4}})(?![{_WORD}'’+=°^/\\@#&~%]|-\w|\.[A-Za-z]|\s[=+<>])",
    re.IGNORECASE,
)
_AFTER_A = re.compile(
    r"[\s*_]{0,2}(?:$|[.,;:!)\]}]|(?:is|was|and|or|nor|must|has|seems|alone|works|fits|fails|are|matches|does|as\sthe|because|since|best\s|answers|explains|follows|agrees|gives|says)\b)",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"[\s(;]{0,4}(?:,?\s{0,2}(?:and/or|and|or|nor|alternatively|und|oder|et|ou|y|o|e|и|или)[,\s]{1,2}|[,/&、]\s{0,2}"
    r"|(?<=\))\s{1,2})(?:(?:not|maybe|perhaps|possibly|even)\s){0,2}",
    re.IGNORECASE,
)

# ── what is said of them ─────────────────────────────────────────────────────────────────────────────────────────

_NEAR = 100  # characters before and after letters that speak of them
_TRIM = ' .,*_:"”)]'
_FOR_IT = (
    rf"(?:{JUDGED}|only|works?|fits?|match(?:es|ing)?|satisf\w{{1,4}}|holds?|remains?|survives?|follows?|agrees?|consistent"
    r"|supported|preferable|closest|nearest|exception|odd|accurate|valid|answer|stimmt|(?:my|the)\s(?:answer|choice|pick|vote|guess|one\s(?:to|that|which))|explains|yes|does(?!\s?n[o'’]t)|it\sis|what\b|正しい|正解|正确|正確|对|對|[✓✔✅☑])"
)
_AGAINST = re.compile(AGAINST, re.IGNORECASE)
_SAYS = re.compile(
    r"[\s)\]*_:|.–—-]{0,6}(?:[が是はを项項]{1,2}|(?:(?:really|clearly|also|indeed|only|alone)\s)?(?:is|are|was|must\sbe|has\sto\sbe"
    r"|will\sbe|should\sbe|seems?|appears?|looks?|has|have|remains|comes|lies|describes|captures|explains|ist|est|es|é|è|это)\b|(?:best|alone|correctly|the)\s"
    rf"|(?={_FOR_IT}(?:\b|(?<=[正解确確对對しい✓✔✅☑]))))",
    re.IGNORECASE,
)
_FAVOURED = re.compile(rf"(?<!n['’]t\s)\b{_FOR_IT}\b|[✓✔✅☑]|正しい|正解|正确|正確|对的|對的", re.IGNORECASE)
_CONCLUDES = re.compile(
    r"(?:\b(?:is|are|be|was|it's|that's|i\s(?:would|will)|i['’](?:d|ll)|says?|answer|leaves?|leaving|left|us|makes|making|prefer|favou?r"
    r"|guess|towards?|with|corresponds?\sto|match(?:es|ing)?|points?\sto|means|gives|therefore|thus|hence|so|only|conclusion|conclude"
    r"|elimination|by|to|get|obtain|arrive\sat|\w{2,10}(?:ed|wn|en)\sin|what|forced|pressed|choose|guess|supports?|favou?rs|confirms?|suggests?|indicates?|selects?|identifies|requires?|demands?|with|likely|probably|but|this|that|ist|est|es|é|è)\b|→|⇒|∴|[=-]>)[\s,:]{1,4}"
    rf"(?:(?:with|is|be|to\sbe|it|it's|only|therefore|thus|the|a|la|le|el|die|der|das|{JUDGED}|{_NOUN})\s{{1,2}}){{0,4}}[*_]{{0,3}}$"
    rf"|\bthe\s(?:\w{{2,12}}\s){{0,3}}(?:one|{_NOUN}),\s$",
    re.IGNORECASE,
)
_IDENTIFIES = re.compile(
    rf"\b(?:the|only)\s.{{0,80}}\b(?:is|must\sbe|would\sbe)\s{{1,2}}(?:(?:therefore|thus|hence|then|indeed|clearly)\s)?(?:{_NOUN}\s)?$",
    re.IGNORECASE,
)
_ENDS_CLAUSE = re.compile(
    r"[\s.*_\"”)\]]{0,6}(?:$|,|:|\(|(?:as|for|in|by|due|and|from|under|given|that|which|over|says|states|claims|predicts|rather|of\scourse|exactly|perfectly|precisely)\b|the\s(?:correct|right|best|only)\b)",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"(?<=\w)[)*_\"]{0,3},\s|\s\((?!i\.e)")
_SURELY = re.compile(rf"[\s,*_>]{{0,4}}(?:(?:why|but|and)\s)?{SURELY}", re.IGNORECASE)
_ONLY = re.compile(r"\bonly\s$", re.IGNORECASE)
_LIKEWISE = re.compile(r"\b(?:and\s|but\s)?(?:so|neither|nor)\s(?:is|are|does|do)\s$", re.IGNORECASE)
_TITLED = re.compile(r":\s{1,2}$")
_OTHER_NOUN = re.compile(
    r"\b(?:vitamin|plan|section|point|compound|hepatitis|step|group|grade|type|figure|table|case|part|line|gas|molecule|species|symmetry"
    r"|formula|appendix|chapter|vertex|angle|event|set|team|class)\s[(*]{0,2}$",
    re.IGNORECASE,
)
_FROM_TO = re.compile(
    r"(?<!\banswer\s)(?<!\bchoice\s)(?<!\bchange\s)(?<!\bswitch\s)(?<!\bswitching\s)\bfrom\s[A-Z]\sto\s$", re.IGNORECASE
)
_PARTLY = re.compile(r"\bonly\s(?:(?:the\s)?(?:first|second|third)|one\sof|some|part\w{0,2})\b", re.IGNORECASE)
_SAID_TO_BE = re.compile(r"\b(?:it['’]s|is|be|think|believe|say|so|choose|pick)\s$", re.IGNORECASE)
_IS_RIGHT = re.compile(rf"\s(?:is|must\sbe|seems)\s(?:the\s)?{JUDGED}\b", re.IGNORECASE)
_OUTDONE = re.compile(r"\b(?:not\sas\s\w{2,12}\sas|(?:worse|less\s\w{2,14})\sthan|inferior\sto)\s$", re.IGNORECASE)
_NEITHER = re.compile(
    r"\b(?:neither|none|nor|doubt)\b|(?:\bnot|n['’]t)\s(?:think|believe|see|agree|say)\b", re.IGNORECASE
)
_SPARED = re.compile(
    r"\b(?:except(?:\sfor)?|everything\sbut|anything\sbut|all\sbut|other\sthan)\s{1,2}(?:\w{1,12}\s){0,1}$",
    re.IGNORECASE,
)


class _Claim(NamedTuple):
    """What one clause says of letters, and how firmly: 3 "the best one is C", 2 "C fits", 1 "C lies …", -2 "C is wrong"."""

    position: int
    weight: int
    letters: tuple[str, ...]
    said: str


def claimed(text: str, letters: str) -> str | None:
    """The letter that the clauses of a text claim: by the firmest, the last; "" where that names several or is given up."""
    claims = list(_claims(text, letters))
    if CUT_OFF.search(text[-12:]):  # what a clause that is not whole would have said
        claims = [one for one in claims if one.weight != 1]
    withdrawn = max((match.start() for match in WITHDRAWN.finditer(text)), default=-1)
    for weight in (3, 2, 1):
        said = [one for one in claims if one.weight == weight]
        if weight == 1 and len({one.letters for one in claims}) > 1 and len({one.letters for one in said}) > 1:
            break
        if said:
            single = [one for one in said if len(one.letters) == 1] or said
            answer, last = single[-1], said[-1]
            out = {
                letter for one in claims if one.weight < 0 and one.position > answer.position for letter in one.letters
            }
            if len(answer.letters) > 1 and len(left := [one for one in answer.letters if one not in out]) == 1:
                return left[0]
            several = len(answer.letters) > 1 or (last.position > answer.position and answer.letters[0] in last.letters)
            alike = {one.letters for one in said if one.said == answer.said and answer.said}
            return "" if several or len(alike) > 1 or withdrawn > answer.position else answer.letters[0]
    excluded = {letter for one in claims if one.weight < 0 for letter in one.letters}
    left = [letter for letter in letters if letter not in excluded]
    return left[0] if len(left) == 1 and len(letters) > 2 else None


def _claims(text: str, letters: str) -> Iterator[_Claim]:
    """What every clause says of the letters in it, in their order."""
    begin = 0
    for cut in (*_CLAUSES.finditer(text), None):
        stop, end = (cut.start(), cut.end()) if cut else (len(text), len(text))
        clause = text[begin:stop]
        labels = (
            cut
            and cut[0].strip() in (".", "–", "—", "-")
            and (_LABEL.fullmatch(clause) or _NUMBERED.fullmatch(clause))
            and text[begin - 1 : begin] in ("", "\n")
        )
        if labels and text[end : end + 4].strip(" ")[:1] not in ("", "\n"):
            continue  # "A. No"
        asked = cut is not None and cut[0] in ("?", "？") and not _WHY.match(clause) and not _YES.match(text, end)
        clause = _ASSUMING.sub("", clause)
        if len(clause) <= _MAX_CLAUSE and not (
            asked or _SUPPOSED.search(clause) or _WOULD.search(_EXPLAINED.sub("", clause))
        ):
            yield from _claims_of(clause, begin, letters)
        begin = end


def _claims_of(clause: str, begin: int, letters: str) -> Iterator[_Claim]:
    """What one clause says of groups of letters ("A, B and D"): by what stands before the first and after the last."""
    groups: list[list[re.Match[str]]] = []
    for mention in _MENTION.finditer(clause):
        if not _is_mention(clause, mention, letters):
            continue
        joined = groups and _JOINED.fullmatch(clause, groups[-1][-1].end(), mention.start())
        if joined and mention["letter"].upper() not in {one["letter"].upper() for one in groups[-1]}:
            groups[-1].append(mention)
        else:
            groups.append([mention])
    for index, group in enumerate(groups):
        start = groups[index - 1][-1].end() if index else 0
        stop = groups[index + 1][0].start() if index + 1 < len(groups) else len(clause)
        before = clause[max(start, group[0].start() - _NEAR) : group[0].start()]
        after = clause[group[-1].end() : stop][:_NEAR]
        aside = _ASIDE.search(after)
        after = after[: aside.start()] if aside else after
        labels = group[-1]["close"][:1] in (")", "]")  # "B) 2.4 Pa"
        weight = _weight(before, after, labels=labels)
        if weight == 1 and not after.strip(_TRIM) and len(groups) == 1:
            weight = 2  # nothing else is said
        if weight == 1 and (index or group[0]["letter"] in "AI"):
            weight = 0
        if weight:
            yield _Claim(
                begin + group[0].start(), weight, tuple(one["letter"].upper() for one in group), after.strip(_TRIM)
            )


def _is_mention(clause: str, mention: re.Match[str], letters: str) -> bool:
    """Whether a letter stands for an option there, and is no article, initial or small word."""
    letter = mention["letter"]
    before = clause[: mention.start()][-24:]
    if letter.upper() not in letters or (
        not mention["noun"] and (_OTHER_NOUN.search(before) or _FROM_TO.search(before))
    ):
        return False
    if mention["noun"] or (mention["open"] and mention["close"]):
        return True
    if letter.islower():
        if not before.strip(_TRIM) and letter not in "ai" and _IS_RIGHT.match(clause, mention.end()):
            return True
        return not clause[mention.end() :].strip(_TRIM) and bool(_SAID_TO_BE.search(before))
    return letter.isupper() and (letter not in "AI" or bool(_AFTER_A.match(clause, mention.end())))


def _weight(before: str, after: str, *, labels: bool) -> int:
    """What is said of the letters between two pieces of a clause; or of what they label, where `after` only names it."""
    if before.rstrip().endswith(","):  # "the third one, C, is right"
        after = after.removeprefix(",")
    against = bool(_AGAINST.search(before))
    if _SPARED.search(before):
        return 2 * int(against or bool(_AGAINST.search(after)))
    if _AGAINST.search(after) or _PARTLY.search(after):
        return -2
    if _SAYS.match(after) and _FAVOURED.search(after):
        return -2 if _NEITHER.search(before) else 2
    if (labels or _ENDS_CLAUSE.match(after)) and _IDENTIFIES.search(before):
        return 2 if against else 3
    if _OUTDONE.search(before) or after.strip(_TRIM) in ("is", "does"):  # "B is not right, but A is"
        return 2
    if not against and _ONLY.search(before):
        return 2
    if against or _LIKEWISE.search(before):
        return -2 if against else 0
    if (labels or _ENDS_CLAUSE.match(after)) and (
        _CONCLUDES.search(before) or (_TITLED.search(before) and _FAVOURED.search(before))
    ):
        return 2
    return int(bool(_SURELY.fullmatch(before)))
