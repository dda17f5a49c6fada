r"""What the readers of answers share: one spelling of characters, boxes, and the words that announce an answer.

Every quantifier of a pattern is bounded and every text is scanned once, so that a response that repeats itself a million times
costs a million steps and not their square.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

__all__ = [
    "AGAINST",
    "ANNOUNCED",
    "CORRECTED",
    "CUT_OFF",
    "LEAD",
    "SURELY",
    "TAKEN_BACK",
    "WITHDRAWN",
    "Box",
    "asked_back",
    "boxes",
    "fold",
    "last_boxed",
    "last_line",
    "not_meant",
    "of_cases",
    "standing",
    "undressed",
]

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
    text = text.replace("\r\n", "\n")
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


_SENTENCE = re.compile(r"\n|[.;?!]\s")
_IN_A_CASE = re.compile(r"\b(?:if|when|assuming|in\scase|otherwise|provided)\b", re.IGNORECASE)
_MOST_AROUND = 200  # characters of a sentence before and after a box


def of_cases(text: str) -> list[Box]:
    """Boxes of which each says what holds in one case only, where two of them differ: "A if it moves, and B if not"."""
    found, cases = boxes(text), list[Box]()
    for box, previous, following in zip(found, [None, *found], [*found[1:], None], strict=False):
        begin = max(box.begin - _MOST_AROUND, previous.end if previous else 0)
        stop = min(box.end + _MOST_AROUND, following.begin if following else len(text))
        if _IN_A_CASE.search(_SENTENCE.split(text[begin : box.begin])[-1] + _SENTENCE.split(text[box.end : stop])[0]):
            cases.append(box)
    return cases if len({text[box.start : box.stop].strip() for box in cases}) > 1 else []


# ── announcements ────────────────────────────────────────────────────────────────────────────────────────────────

_NOUNS = (
    r"(?:\b|(?<=_))answers?|\bans\b|\b(?:final|correct|right|true|actual)\s{1,2}(?:result|value|number|count|total|option|choice)|\b(?:ergebnis|resultado|résultat|risultato|результат)|结果|結果|\b(?:final|correct)(?=\s?:)|(?:正确|正確)的?(?:选项|選項)|答案|答え|正解|解答|回答|答(?=[:=]|は|是)|정답|\b답(?=[은는이:])|\bответ(?:ом)?"
    r"|\b(?:правильн|верн)\w{1,3}\s(?:вариант|выбор)"
    r"|\brespuesta|\bresposta|\brisposta|\bantwort|\blösung|\bréponse|\bantwoord|\bsvar(?:et)?\b|\bodpowiedź|\bcevap|الإجابة|الجواب|उत्तर"
)
_MORE = (
    r"correct[ae]?|right|final[e]?|exacte?|exacta|definitiva|الصحيحة|النهائية|correta|certa|corretta|finale"
    r"|with\s(?:the\s)?(?:letter|option)|(?:to|for)\s(?:the|this|your)\s(?:question|problem|exercise)"
)
_LINKS = (
    r"(?:is|was|are|remains|stays|equals?|(?:would|should|must|will|has\sto|can\sonly)\s(?:then\s)?be|comes\sout\s(?:to\sbe|as)"
    r"|это|будет|является|равен|es|é|è|är|er|sería|será|debe\sser|ist|lautet|wäre|beträgt|est|serait|to|هي|هو|है)\b"
    r"|(?:应该|應該|应|應|就)?(?:是|为|為|选|選)[、,]?|[はが][、,]?|은|는|이(?=[\s:])|】\s{0,2}|[:=]|\s{1,2}[-–—]{1,2}(?=\s)|\s{0,2}(?:→|⇒|[=-]>)|(?<=\bans)\.(?=\s)"
)
_SOFTENERS = (
    r"(?:therefore|thus|hence|then|indeed|simply|just|clearly|definitely|exactly|donc|also"
    r"|equal\sto|given\sby|as\sfollows|число|(?:the\s)?(?:number|value))\b"
)
ANNOUNCED = (
    rf"(?:<(?:final_)?answer>|(?:{_NOUNS})(?:[\s*_]{{1,4}}(?:{_MORE})\b){{0,2}}[\s*_)\]}}\"']{{0,6}}(?:{_LINKS}))"
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


_UNSURE = re.compile(
    r"(?:\b(?:if|suppose|assum\w{1,3}|let['’]?s\ssay|doubt|unlikely|whether|unless|not|wrong|incorrect|first|naive|tempting|initial|previous|earlier"
    r"|original|obvious|intuitive|(?:thought|believed|assumed|expected|guessed)(?:\sthat)?)|n['’]t"
    r"|(?:\bnot|n['’]t)\s(?:think|believe|say|agree)(?:\sthat)?"
    r"|\b(?:at\sfirst(?:\s(?:glance|sight))?|initially),?)\s{1,2}(?:the\s|that\s|my\s){0,2}[(*_]{0,3}$",
    re.IGNORECASE,
)
_OTHERS_SAY = re.compile(
    r"\b(?:students|people|others|many|most|some|they|candidates|readers)\s{1,2}(?:(?!(?:so|thus|hence|then|therefore|and)\b)\w{2,12}\s{1,2}){0,3}$"
    r"|(?<!\bi\s)(?<!\bwe\s)\b(?:might|may|could|would|can|tempted\sto)\s(?:\w{2,12}\s){0,2}(?:think|say|guess|expect|assume|believe|conclude"
    r"|answer|claim|suppose|choose|pick|select)\b[^.;,\n]{0,20}$"
    r"|\b(?:mistake|error|trap|pitfall|misconception|temptation)\b[^.;\n]{0,60}$"
    r"|\b(?:(?:consider|examin|evaluat|check|test|analy[sz]|inspect)\w{0,4}|(?:look|turn|start|begin)\w{0,5}\s(?:at|to|with))\s(?:\w{2,12}\s){0,2}$",
    re.IGNORECASE,
)
_WERE_IT_SO = re.compile(
    r"(?:\bif\s[^.;:?\n]{1,100}|(?:^|[.\n]\s{0,3})(?:had|were)\s[^.;:?\n]{1,100}),\s[^.;:,?\n]{0,60}$", re.IGNORECASE
)
_WERE_IT_SO_AFTER = re.compile(r"[\s)*$]{1,4}if\s[^.;\n]{1,60}?\b(?:were|had|did|was)\b", re.IGNORECASE)
_QUOTED = re.compile(
    r"\b(?:option|choice|statement|says?|said|states?|claim\w{0,2}|wrote|writes|quot\w{1,4})\b[^\"“”\n]{0,40}[\"“][^\"“”\n]{0,100}$",
    re.IGNORECASE,
)
_WOULD = re.compile(r"\b(?:would|might|could)\b", re.IGNORECASE)
_MOST_BEFORE = 160  # characters of a sentence before what it claims


def not_meant(text: str, begin: int, end: int) -> bool:
    """Whether what is claimed there is doubted, a first thought, others' ("one might say 70"), quoted, or so "if it were so"."""
    before = text[max(0, begin - _MOST_BEFORE) : begin]
    supposed = _WERE_IT_SO.search(before) and _WOULD.search(text, begin, end)
    return bool(
        _UNSURE.search(before[-40:])
        or _OTHERS_SAY.search(before)
        or _QUOTED.search(before)
        or supposed
        or _WERE_IT_SO_AFTER.match(text, end)
    )


CUT_OFF = re.compile(
    r"\s(?:to|the|an?|of|be|that|and|or|we|if|for|with|by|from|which|because|at|in|on|as|than|its|is|are)$|[a-z]{2},$"
)
"""How a text ends that was cut off; to be searched for in its last characters."""

# ── what stands ──────────────────────────────────────────────────────────────────────────────────────────────────

_Y = r"(?=(?:the\s|option\s|choice\s){0,2}[(\[$\\*\"']{0,3}-?(?:\d|[A-Z](?![a-z])))"  # what is claimed
_NO_CLAUSE = r"(?!\S{1,12}\s(?:is|does|was)\b)"  # as in "X is not right, but Y is"
AGAINST = (
    r"(?:\b(?:not|never|no|neither|nor|cannot|wrong|incorrect|false|fails?|failed|ruled?|ruling|eliminat(?!ion)\w{1,4}|exclud\w{1,4}"
    r"|discard\w{0,3}|reject\w{0,3}|dismiss\w{0,3}|impossible|violat\w{1,4}|contradict\w{0,3}|worse|part(?:ial)?ly|tempting|contrary|retract\w{0,3}|withdr[ae]w\w{0,2}|exceeds?|multiples?\sof"
    r"|(?:far\s)?too\s(?:small|large|big|low|high|many|few|much)|nicht|keine?|falsch|faux|falsa?|неверн\w{1,3}|не)\b|n['’]t\b|不是|不对|不正|不等|错|錯|ではない|[✗✘❌✖])"
)
"""Words that speak against an answer, in several languages; to be compiled with IGNORECASE."""

SURELY = r"(?:(?:definitely|clearly|certainly|surely|obviously|probably|likely|most|very|i|we|think|believe)\b[,\s]{1,2}){0,4}"
"""Words that say how sure one is of what follows, and claim it."""
_X = r"(?:[^.;?!\n]|\.(?=\d)){1,60}?"  # what is denied
_NO_DOUBT = re.compile(
    r",?\s(?:no|without|beyond)\s(?:an?y?\s)?(?:reasonable\s|shadow\sof\sa\s)?doubt\b,?", re.IGNORECASE
)
_QUOTE_MARK = re.compile(r"^[ \t]{0,3}>[ \t]?", re.MULTILINE)
_EMPHASIS = re.compile(r"</?(?:b|strong|em|i)>", re.IGNORECASE)
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~")
_DENIED = (  # "not X but Y" is Y, "X rather than Y" is X
    (
        re.compile(
            rf"\b(?:no|none|nothing)\s(?:other\s\w{{2,12}}\sthan|(?:\w{{2,12}}\s){{0,2}}(?:other\sthan|except(?:\sfor)?|but))\s{_Y}",
            re.I,
        ),
        "only ",
    ),
    (
        re.compile(
            rf"\b(?P<verb>is|are|was)(?:\snot|n['’]t)\s(?!only\b){_X},?\s(?:but(?:\s(?:rather|instead))?|rather)\s{_NO_CLAUSE}{_Y}",
            re.I,
        ),
        r"\g<verb> ",
    ),
    (re.compile(rf"\bnot\s(?!only\b){_X},?\sbut(?:\s(?:rather|instead))?\s{_NO_CLAUSE}{_Y}", re.I), ""),
    (
        re.compile(
            rf"\b(?:it|that)(?:['’]s\snot|\sis\snot|\sisn['’]t)\s{_X}[,;]\s(?=(?:it|that)(?:['’]s|\sis)\b)", re.I
        ),
        "",
    ),
    (
        re.compile(
            rf"\b(?:is|was)\s(?:the\s(?:final\s|correct\s)?(?:answer|result|value)|it|that)\s(?P<asked>{_X})\?\s{{1,3}}(?:yes|indeed|correct|right)\b",
            re.I,
        ),
        r"the answer is \g<asked>",
    ),
    (re.compile(rf"\bnicht\s{_X},?\ssondern\s", re.I), ""),
    (
        re.compile(
            rf"\b(?:no|non|não)\s(?P<verb>es|son|è|é|sono|são)\s{_X},?\s(?:sino|ma|bensì|mas(?:\ssim)?|e\ssim)\s", re.I
        ),
        r"\g<verb> ",
    ),
    (re.compile(rf"\b(?:n['’]est\spas|ce\sn['’]est\spas)\s{_X},?\smais\s", re.I), "est "),
    (re.compile(rf"\bне\s{_X},\sа\s", re.I), ""),
    (
        re.compile(
            r"不(?:是|为|為|等于|选|選)[^。;\n]{1,40}?,?\s?(?:而是|而应(?:该|為|为)?(?:是|选)?|应该?(?:是|为|选))"
        ),
        "是",
    ),
    (re.compile(r"(?<=[はが])[^。\n]{1,20}?ではなく、?"), ""),
    (re.compile(r"\S{1,20}(?:이|가)\s아니라\s"), ""),
    (re.compile(r",?\s(?:or,?\s)?equivalently,?\s(?:[^.;\n]|\.(?=\d)){1,80}", re.I), ""),  # said again, not denied
    (re.compile(r",?\s?(?:而不是|而非)[^。,;\n]{1,40}"), ""),
    (re.compile(r"(?:(?<=\n)|(?<=[.;]\s)|^)(?:rather\sthan|instead\sof|unlike)\s[^;\n]{1,120}?,\s", re.I), ""),
    (re.compile(r",?\s(?:rather\sthan|instead\sof|as\sopposed\sto)\s(?:[^.;,\n]|\.(?=\d)){1,120}", re.I), ""),
    (
        re.compile(
            r"\s?\((?:and\s)?not\s[^()\n]{1,60}\)|,\s(?:and\s|but\s)?(?:definitely\s|certainly\s)?not\s(?:option\s|choice\s|the\s)?[^\s,;]{1,40}?(?=[\s*_$]{0,3}(?:[.,;!)](?!\d)|\n|$))",
            re.I,
        ),
        "",
    ),
)
_MARKED_BACK = (
    r"(?:no|nope|wait|hold\son|oops|sorry|correction|edit|update|hmm|actually|scratch\sthat|on\ssecond\sthought"
    r"|korrektur|nein|perdón|pardon|更正|不对)"
)
CORRECTED = (
    rf"(?<![:)]\s)(?:\b{_MARKED_BACK}\b[\s,.:;!*_…—–-]{{1,8}}){{1,4}}(?:(?:(?:it|that|this)(?:'s|\s(?:is|was|must\sbe|should\s(?:be|read)))|I\smeant?"
    r"|make\s(?:that|it)|the\scorrect\s(?:\w{1,12}\s)?is)\s{1,2})?"
)
"""Words that take something back, up to the answer that replaces it; to be compiled with IGNORECASE."""

TAKEN_BACK = re.compile(  # and not: "Actually, this can be checked: …"
    r"(?:\b(?:edit|update|correction):|\b(?:actually,|(?:hmm|wait|hold\son|oops|sorry)[,.!…—–]|wait\s[–—-])(?![^.\n]{0,60}\b(?:check|verif\w{1,4}|confirm))"
    r"|(?<=[.…!—–]\s)no,\s|(?:\.{3}|…)\s(?:but|except|only)\s|\b(?:on\ssecond\sthought|scratch\sthat)"
    r"|\b(?:I|we)\s(?:forgot(?!\sto\s(?:mention|say|note|add\sthat))|missed|overlooked|mis(?:counted|read|calculated|took|understood)|mixed\sup|made\san?)\b)",
    re.IGNORECASE,
)
"""Where an answer is taken back, and another may follow."""

WITHDRAWN = re.compile(
    r"\b(?:can(?:\s?not|['’]t)|could(?:\snot|n['’]t)|unable\sto|not\sable\sto)\s(?:\w{1,12}\s){0,2}(?:decide|tell|choose|determine|solve|say|answer|know|pick)\b"
    r"|\b(?:undecided|under-?specified|ill-posed|insufficient|not\senough\sinformation|not\ssure\s(?:which|whether)|hard\sto\s(?:say|tell)|impossible\sto\s(?:say|tell))\b",
    re.IGNORECASE,
)
"""An avowal that there is no answer."""


def standing(text: str) -> str:
    """A text without what it denies beside what it claims: "not 81 but 82" is 82, "82 rather than 81" and "~~81~~ 82" too."""
    text = _NO_DOUBT.sub("", _STRUCK.sub("", _EMPHASIS.sub("**", _QUOTE_MARK.sub("", text))))
    for denied, kept in _DENIED:
        text = denied.sub(kept, text)
    return text


# ── the last line ────────────────────────────────────────────────────────────────────────────────────────────────

_TAG = re.compile(r"</?(?:final_)?answer>", re.IGNORECASE)


def last_line(text: str) -> str:
    """The last line that says something: not blank, no fence, no rule."""
    for line in reversed(_TAG.sub("", text).splitlines()):
        if line.strip(" \t*_`~$-=#"):
            return line.strip()
    return ""


# ── decoration ──────────────────────────────────────────────────────────────────────────────────────────────────

_PAIRS = (
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    ("«", "»"),
    ("„", "“"),
    ("「", "」"),
    ("『", "』"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
)


def undressed(text: str) -> str:
    """Take emphasis, quotes that pair up, and the full stop off a text; eight layers at most."""
    for _ in range(8):
        before = text
        text = text.strip(" \t*_`$").rstrip(".。")
        for opening, closing in _PAIRS:
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
                text = text[len(opening) : -len(closing)]
        if text == before:
            break
    return text
