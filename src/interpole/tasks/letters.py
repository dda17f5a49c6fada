r"""Read the letter of a multiple-choice answer: announced, boxed, chosen in a sentence, or alone on its line.

A letter counts where it stands as one: "Answer: A." and "(a)", but not "Answer: A 5 eV photon" or `\boxed{B = 2 T}`. Two letters
("C or D"), a negation and a question are no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from interpole.tasks.claims import JUDGED, claimed
from interpole.tasks.statements import (
    ANNOUNCED,
    CORRECTED,
    TAKEN_BACK,
    asked_back,
    boxes,
    fold,
    last_line,
    not_meant,
    of_cases,
    standing,
)

__all__ = ["read_choice"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CYRILLIC = str.maketrans("АВСЕНКМОРТХ", "ABCEHKMOPTX")
_NAMES = (
    r"(?:(?:option|choice|letter|alternative|answer|opción|opção|alternativa|opzione|lettre|letra|buchstabe|вариант|буква"
    r"|选项|選項|選択肢|[ao](?=\s(?:letra|opção|alternativa))|la|le|el|die|der|das|the|только)\s{0,3}){0,3}"
)
_ANSWER = (
    r"(?:option|choice|answer|statement|opción|opção|opzione|antwort|réponse|respuesta|resposta|risposta|вариант|ответ)"
)
_BE = r"(?:ist|is|was|must\sbe|would\sbe|should\sbe|has\sto\sbe|will\sbe|seems|:|=)"
_LABELLED = (
    r"(?<![A-Za-z][ ])\b(?:(?:my|final|correct|best|selected|chosen|preferred)\s{1,2}){0,2}"
    r"(?:choice|selected|selection|letter|pick|verdict|conclusion"
    r"|solution|result|option|chosen|auswahl|elección|choix)[\s*_]{0,4}(?:[:=]|→|[=-]>)[\s*_]{0,6}"
)
_STATED = re.compile(
    rf"(?:{ANNOUNCED}|{CORRECTED}|{_LABELLED}"
    rf"|\b{JUDGED}\s{{1,2}}(?:answer\s)?(?:option|choice|letter|alternative|statement|response|one)\b[\s*_]{{0,4}}{_BE}[\s:*_]{{0,12}}"
    r"|(?<!not\s)(?<!n't\s)(?<!cannot\s)\b(?:choose|choosing|chose|pick|select|go(?:ing)?\s(?:with|for)|opt\sfor|settle\son|prefer|bet\son|vote(?:\s(?:for|goes\sto))?"
    r"|choisis|elijo|escojo|wähle|scelgo|escolho|выбираю|kies)\s{1,2}"
    r"|(?<!不)(?:选择|選擇|选(?!项)|選(?!項))[为為:]{0,2}\s{0,2}"
    rf"|\b(?:opción|opção|option|opzione|alternativa)\s{JUDGED}\s(?:es|é|è|est)\s"
    r"|(?:答案|正解|정답)】?\s{1,3}(?=[(\[*]{0,3}[A-Z][)\]*]{0,3}\s{0,2}(?:[.。\n,;:—]|$))"
    rf"|\b{_ANSWER}\s{{1,2}}(?=[(\[*]{{0,3}}[A-Z][)\]*]{{0,3}}\s{{0,2}}(?:[.\n,;—]|$))"
    rf"){_NAMES}",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"[\s*_$`'\"“‘«「『(\[{<>:]{0,12}(?:\\(?:f?boxed|f(?:rame)?box|text[a-z]{0,6}|math[a-z]{0,6}|\(|\[)[\s{*_($\[]{0,8}){0,4}"
)
_CLOSING = re.compile(r"(?:_(?![\w{])|[*`\"”’」』)\]}$»<]|'(?![A-Za-z])|\\[)\]]){0,10}")
_GLUED = re.compile(r"[\w'’+=°^/\\@#&~%-]|\.[A-Za-z]")
_SECOND = re.compile(
    r"[\s*_}(;]{0,4}(?P<by>,\s{0,2}(?:or|and)\b|,|/|&|、|(?:and/or|or|and|oder|und|ou|et|o|y|и|или|alternatively,?)(?![A-Za-z])|[或和かと及]|または|もしくは)"
    r"\s{0,3}(?:(?:option|choice|maybe|perhaps|possibly)\s{1,2}){0,2}[(\[*_\"']{0,3}(?P<letter>[A-Za-z])(?![\w'’])"
    r"(?P<end>[\s*_)\]}\"'$]{0,6}(?:[.,;:/}]|and\b|or\b|$|\n))?",
    re.IGNORECASE,
)
_SPACED_OUT = re.compile(r"[ \t]{0,2}(?:[=+^<>≤≥≈×·](?!>)|\*(?!\*))")
_REASON = re.compile(
    r"\s{1,3}(?:since|because|as|for|due|which|where|with|so|by|if|when|whereas|while|but|and|from|in|on|here)\b",
    re.IGNORECASE,
)
_MARKED_ITEM = re.compile(r"[\s*_>|\-•✅✓✔☑❌✗✘✖]{0,8}[(\[]?([A-Za-z])(?![A-Za-z])")
_CALLED_RIGHT = re.compile(
    r"[\s*_>|\-•]{0,8}[(\[]?[A-Za-z][)\].:\s*_|–—-]{1,8}(?:right|correct|true|yes)[\s*_.!|]{0,8}", re.IGNORECASE
)
_ENDS_WITH = re.compile(r"[.!?]\s{1,3}[*_]{0,3}\(?([A-Z])\)?[*_]{0,3}\.?$")
_NAMED_LAST = re.compile(
    r"(?:^|[.!?]\s)((?=\S{1,40}\s{1,2}\S{1,40}\s)[^.!?]{3,200}?)(?::\s{1,3}[*_]{0,3}\(?([A-Z])\)?|\s[*_]{0,3}\(([A-Z])\))[*_]{0,3}\.?$"
)
_OPTION = re.compile(r"(?<![A-Za-z])[B-Z](?![A-Za-z])")
_SAYS_MORE = re.compile(r"[.!?]\s{1,8}(?=\w)|\?|\n\s{0,8}\w")
_EMPHASISED = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_DENIES = re.compile(
    r"\b(?:not|never|no|nor|neither|unlike|rather|except|between|or|if|wrong|incorrect|false|could|might|may)\b|n['’]t\b|\?",
    re.IGNORECASE,
)
_MAX_WORDS = 20_000
_ONLY_WORD = re.compile(r"^[\W_]{1,20}|[\W_]{1,20}$")
_DRESSED = re.compile(r"[^?=+<>\\]{0,60}$")
_TICKED = re.compile(r"[✅✓✔☑]|(?:←|<-{1,2})\s?(?:correct|right|answer|this)\b", re.IGNORECASE)
_WORD_IN_MATH = re.compile(r"\\(?:text|mathrm)\s{0,2}\{\s{0,4}(or|and)\s{0,4}\}")
_IN_WORDS_FIRST = re.compile(r"[^\n().;:?!]{3,80}\(([A-Z])\)[\s*_.]{0,6}(?:$|\n)")
_INLINE = re.compile(r"(?<=[✅✓✔☑❌✗✘✖])\s{1,3}(?=\(?[A-Z]\))")
_ALL_BOLD = re.compile(r"\s{0,4}(?:[-•]\s)?\*\*[^*\n]{1,400}\*\*\s{0,4}")
_DECORATION = re.compile(r"[*`$]|\\(?:text|mathrm|mathbf|textbf)(?=\{)|[{}]")
_SUBJECT = re.compile(
    r"[)\]*]{0,4}(?:,[^.,;\n]{1,40},\s(?:is|was|would|are|gives|says|describes|refers)|\s(?:would|might|may|could))\b",
    re.IGNORECASE,
)
_NAMES_IT = re.compile(
    rf"(?:{ANNOUNCED}|^\s{{0,4}}|\n\s{{0,4}}(?:[-•>]\s)?|(?P<verb>\b(?:is|are|be|choose|pick|select|therefore|thus|so|hence)[,:]?\s{{1,2}}))"
    r"(?:the\s|an?\s)?[\s\"'“(]{0,3}",
    re.IGNORECASE,
)
_NAMED_ENDS = re.compile(
    r"[\s\"'”)\]]{0,4}(?:$|\n|\.(?!\d)|[!;:]|,\s(?:not|as|because|since|which|for|so|and\snot|whereas|while)\b|\s[-–—(]|\s(?:because|since|as)\b)"
)
_NAMED = re.compile(rf"{_NAMES}", re.IGNORECASE)
_ITEM = re.compile(r"[\s*_>\-•]{0,8}[(\[]?([A-Za-z])[*_]{0,3}(?:[)\].:][\s*_]|\s[–—-]\s)")


def read_choice(text: str, num_choices: int, options: Sequence[str] = ()) -> str | None:
    r"""Read the letter of a multiple-choice answer.

    The last of "ANSWER: B", "the answer is (B)", "the correct option is B", "I choose B" and `\boxed{B}`, with the usual
    decorations (`**`, `$`, `\text{}`) and in other languages; else what the clauses claim (`claims`); else a
    last, or first, line that is a lone letter or begins with one and a bracket ("B) 5 eV") and is no list of the options; else
    what is announced, boxed or said last in an option's own words ("the capital is Paris").

    Args:
        text: the final text of a response.
        num_choices: how many options there are, 26 at most.
        options: what they say, where that is known.
    """
    text, letters = _INLINE.sub("\n", _WORD_IN_MATH.sub(r" \1 ", standing(fold(text)))), _LETTERS[:num_choices]
    found = sorted(_statements(text, letters))
    if found and found[-1][0] in {box.begin for box in of_cases(text)}:
        return None
    if found and found[-1][1]:
        back = [match.start() for match in TAKEN_BACK.finditer(text, found[-1][0])][-1:]
        return (claimed(text[back[0] :], letters) if back else None) or found[-1][1]
    answer = claimed(text, letters)
    if answer is not None:
        return answer or None
    return _lone(text, letters) or _in_words(text, letters, options)


def _statements(text: str, letters: str) -> Iterator[tuple[int, str]]:
    """Where an answer is announced or boxed, and its letter; an empty one where two letters are given."""
    for match in _STATED.finditer(text):
        letter = _letter_at(text, match.end(), letters)
        named = _IN_WORDS_FIRST.match(text, match.end()) if letter is None else None  # "Answer: none of these (D)"
        if named and named[1] in letters and not _DENIES.search(named[0]):
            letter = named[1]
        if letter is not None and not _set_aside(text, match):
            yield match.start(), letter
    for box in boxes(text):
        opening = _OPENING.match(text, box.start)
        named = _NAMED.match(text, opening.end()) if opening else None
        letter = _letter_at(text, named.end() if named and named[0] else box.start, letters)
        if letter is not None and not asked_back(text, box.end):
            yield box.begin, letter


def _letter_at(text: str, position: int, letters: str) -> str | None:
    """The letter that stands at `position`, decorations aside; "" where a second one follows, None where none stands."""
    opening = _OPENING.match(text, position)
    assert opening is not None
    start = opening.end()
    said = text[start : start + 1].translate(_CYRILLIC)
    if not said or said.upper() not in letters:
        return None
    closing = _CLOSING.match(text, start + 1)
    assert closing is not None
    if closing.end() == start + 1 and (_GLUED.match(text, start + 1) and not _is_script(text[start + 1])):
        second = _SECOND.match(text, start + 1)
        return "" if second and second["by"] in "/&" and second["letter"].upper() in letters else None
    if asked_back(text, closing.end()) or _SPACED_OUT.match(text, closing.end()):
        return None
    second = _SECOND.match(text, closing.end())
    if second and second["letter"].isupper() == said.isupper() and (second["by"] != "," or second["end"] is not None):
        other = second["letter"].upper()
        if other in letters:
            return said.upper() if other == said.upper() else ""
    labels = text[start + 1 : start + 2] == ")" and "(" not in opening[0]  # "b) 5 eV"
    dressed = labels or (bool(re.search(r"[(\[*_`\"'“‘「『\\$]", opening[0])) and closing.end() > start + 1)
    return said.upper() if dressed or _ends(text, closing.end(), said) else None


def _is_script(character: str) -> bool:
    """Whether a character is of a script that is written without spaces: "Cです", "C选项"."""
    return "぀" <= character <= "鿿" or "가" <= character <= "힣"


def _ends(text: str, position: int, said: str) -> bool:
    """Whether a bare letter stands by itself there: at an end, before a reason, or where it can be no word."""
    if re.compile(
        r"[ \t]{0,4}(?:$|\n|[.,;:!)\]}|(\[—–。，、；：☀-➿🌀-🫿]|/(?:final_)?answer>|\\[\])]|-\s)|\s{1,2}[-–—]"
    ).match(text, position):
        return not (said.islower() and re.compile(r"[ \t]{1,4}[(\[]").match(text, position))
    if position < len(text) and _is_script(text[position]):
        return True
    return bool(_REASON.match(text, position)) if said in "AI" or said.islower() else True


def _set_aside(text: str, match: re.Match[str]) -> bool:
    """Whether others would choose it, its condition does not hold, or the sentence only goes on to speak of it."""
    opening = _OPENING.match(text, match.end())
    after = opening.end() + 1 if opening else match.end()
    return not_meant(text, match.start(), after) or bool(_SUBJECT.match(text, after))


def _ticked(lines: Sequence[str], letters: str) -> str | None:
    """The letter of the one line that is ticked where options are listed, each ticked or crossed."""
    items = [(item[1].upper(), line) for line in lines if (item := _MARKED_ITEM.match(line))]
    ticked = [
        letter
        for letter, line in items
        if letter in letters and (_TICKED.search(line) or _CALLED_RIGHT.fullmatch(line))
    ]
    if not ticked and len(items) > 2:
        ticked = [letter for letter, line in items if letter in letters and _ALL_BOLD.fullmatch(line)]
    return ticked[0] if len(ticked) == 1 and len(items) > 1 else None


def _in_words(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the option that is named in its own words last, announced or at the end of a sentence; None where two are."""
    worded = [_plain(option).strip(" .") for option in options[: len(letters)]]
    if not worded or len(set(worded)) < len(worded) or "" in worded:
        return None
    by_length = sorted(range(len(worded)), key=lambda place: -len(worded[place]))
    named: list[tuple[str, bool]] = []  # and whether it begins a line and is not led to
    for part in (_plain(text[-_MAX_WORDS:]), *(_plain(text[box.start : box.stop]) for box in boxes(text)[-1:])):
        for match in _NAMES_IT.finditer(part):
            place = next((one for one in by_length if part.startswith(worded[one], match.end())), None)
            if place is None or not_meant(part, match.start(), match.end()):
                continue
            end = match.end() + len(worded[place])
            if match["verb"] and _SAYS_MORE.search(part, end, end + 1000):
                continue
            if _NAMED_ENDS.match(part, end) and not asked_back(part, end):
                named.append((letters[place], not re.search(r"\w", match[0])))
    listed = len({letter for letter, begins in named if begins}) > 1
    said = [letter for letter, begins in named if not (begins and listed)]
    if not said:
        emphasised = {_plain(one).strip(" .") for one in _EMPHASISED.findall(text[-_MAX_WORDS:])} & set(worded)
        said = [letters[worded.index(one)] for one in emphasised] if len(emphasised) == 1 else []
    if said or listed:
        return said[-1] if said else None
    return _ending(_plain(last_line(text)[-_MAX_WORDS:]).rstrip(" .!"), letters, worded)


def _ending(line: str, letters: str, worded: Sequence[str]) -> str | None:
    """The letter of the longest option that a line ends with, where it denies, doubts and asks nothing."""
    ended = [
        place
        for place, option in enumerate(worded)
        if line.endswith(option) and not line[: -len(option)][-1:].isalnum()
    ]
    if not ended or _DENIES.search(line[: len(line) - max(len(worded[place]) for place in ended)]):
        return None
    return letters[max(ended, key=lambda place: len(worded[place]))]


def _plain(text: str) -> str:
    """A text without emphasis and LaTeX's dress, in small letters."""
    return _DECORATION.sub("", fold(text)).strip().casefold()


def _lone(text: str, letters: str) -> str | None:
    """The letter that the last line, or else the first, consists of or begins with."""
    lines = [line for line in text.splitlines() if line.strip(" \t*_`~$-=#")]
    if not lines:
        return None
    last = last_line(text)
    for line in (last, lines[0]):
        if (
            len(lone := _ONLY_WORD.sub("", line)) == 1
            and lone.upper() in letters
            and not asked_back(line, len(line.rstrip(" ?？")))
            and _DRESSED.match(line)
        ):
            return lone.upper()
    if ticked := _ticked(lines, letters):
        return ticked
    ending = _ENDS_WITH.search(last[-16:])
    if ending and ending[1] in letters:
        return ending[1]
    named = _NAMED_LAST.search(last[-240:])
    if named and (named[2] or named[3]) in letters and not _DENIES.search(named[1]) and not _OPTION.search(named[1]):
        return named[2] or named[3]
    lists_options = sum(1 for line in lines if (item := _ITEM.match(line)) and item[1].upper() in letters) > 1
    for line in (last, lines[0]):
        item = None if lists_options else _ITEM.match(line + " ")
        letter = _letter_at(line, 0, letters)
        alone = len(line.strip(" \t*_`$()[]{}.,:;!'\"。「」")) == 1 or line.startswith(("\\", "$"))
        if item and letter is None and ")" in item[0] and item[1].upper() in letters:
            return item[1].upper()  # "b) 5 eV"
        if letter and (alone or (item and item[1].upper() == letter)):
            return letter
    return None
