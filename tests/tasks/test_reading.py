"""The readers: what an answer is taken to be, in many forms and languages; that they never fail and never slow down."""

import json
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpole.chat import Markers, parse_response
from interpole.records import Problem
from interpole.tasks import claims, expressions, grading, letters, notation, reading, statements, values

QWEN = Markers("<think>", "</think>")
ADVERSARIAL = [
    json.loads(line) for line in (Path(__file__).parent / "adversarial.jsonl").read_text("utf-8").split("\n") if line
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{70}", "70"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\boxed{70}}", "70"),
        (r"\boxed {\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{70} and \boxed{}", "70"),
        (r"\boxed{70} and \boxed{71", "70"),
        (r"\boxed{ }", None),
        ("70", None),
    ],
)
def test_the_last_box_that_is_whole_and_not_blank_is_read(text, expected):
    assert reading.last_boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ANSWER: B", "B"),
        ("**ANSWER: B**", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: (B)", "B"),
        ("Answer: $B$", "B"),
        (r"ANSWER: \boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"$\boxed{B) 5\,eV}$", "B"),
        ("The correct answer is option B.", "B"),
        ("Answer: A? No.\nANSWER: C", "C"),
        ("So\nB) 5 eV", "B"),
        ("so\n**B**", "B"),
        ("The answer is a long story", None),
        ("ANSWER: Apples", None),
        ("ANSWER: E", None),
        ("B is wrong, and so is C", None),
        ("Option A: no.\nOption B: yes.\nOption C: no.\nOption D: no.", "B"),
        ("B is not right, but A is.", "A"),
        ("I do not think that the answer is A. It is B.", "B"),
        ("The answer is B. Wait, what is asked for is the smaller one. So it must be C.", "C"),
        ("Were it colder, the answer would be B. As it is, C is right.", "C"),
        ("it should be d, because the rest melt sooner", "D"),
        ("I pick b) copper", "B"),
        ("The right choice is definitely B!", "B"),
        ("$$\\text{Answer} = \\text{B}$$", "B"),
        ("<answer>B</answer>\n\nGood luck!", "B"),
        ("\\boxed{A} if it is heated, and \\boxed{B} if it is cooled.", None),
        (r"\boxed{A \text{ or } B}", None),
        ("**A.** Copper melts at 1085 °C.\n\n**B.** Iron melts at", None),
        ("(A) 3 ✗ (B) 4 ✓ (C) 5 ✗ (D) 6 ✗", "B"),
        ("A) 3\nB) 4 <- correct\nC) 5\nD) 6", "B"),
        ("A) 3\n**B) 4**\nC) 5\nD) 6", "B"),
        ("Answer: all of the above (D)", "D"),
        ("Of these the heaviest by far: C.", "C"),
        ("The answer is B.\n\nThe usual mistake is to choose A.", "B"),
        ("Choice B is correct: nothing else would freeze.", "B"),
        ("", None),
    ],
)
def test_a_choice_is_read_where_it_is_stated_last(text, expected):
    assert reading.read_choice(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Paris", "Paris"), ("Hm.\n**Answer:** Paris.", "Paris"), (r"So \boxed{Paris}", "Paris"), (" \n", None)],
)
def test_a_short_answer_is_the_box_or_the_last_line(text, expected):
    assert reading.read_short(text) == expected


# ── by the verdicts of a human ───────────────────────────────────────────────────────────────────────────────────


def verdicts(task, choice, mathematics, sets=range(1, 16)):
    for row in (row for row in ADVERSARIAL if row["task"] == task and row["set"] in sets):
        seen = parse_response(row["response"], "stop", QWEN)
        if task == "math":
            yield row, mathematics(Problem("1", row["question"], row["answer"]), seen)
        else:
            yield row, choice(Problem("1", "q", "C", tuple(row.get("choices", "wxyz"))), seen)


def test_of_each_set_of_adversarial_answers_at_most_five_of_a_kind_are_read_otherwise_than_a_human_does():
    pytest.importorskip("math_verify")
    sets, odd = range(1, 24), defaultdict(list)
    for row, grade in verdicts("math", None, grading.math_robust, sets):
        odd[row["set"], "math"] += [row["response"]] * (grade.score != row["score"])
    for row, grade in verdicts("choice", grading.choice_robust, None, sets):
        odd[row["set"], "choice"] += [row["response"]] * (grade.answer != row["letter"])
    assert len(odd) == 2 * len(sets)
    assert {key: found for key, found in odd.items() if len(found) > 5} == {}


def test_the_papers_gradings_say_what_they_always_said():
    pytest.importorskip("math_verify")
    for task in ("math", "choice"):
        for row, grade in verdicts(task, grading.choice_paper, grading.math_paper):
            assert list(grade) == row["paper"], row["response"]


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("It is not 6 but 9.", "It is 9."),
        ("9, not 6, is it.", "9, is it."),
        ("We get 9 rather than 6.5 here, so 9.", "We get 9, so 9."),
        ("Instead of 6, take 9.", "take 9."),
        ("~~6~~ 9", " 9"),
        ("Es ist nicht 6, sondern 9.", "Es ist 9."),
        ("No es 6 sino 9.", "es 9."),
        ("Ce n'est pas 6 mais 9.", "est 9."),
        ("不是6,而是9", "是9"),
        ("6ではなく9です", "6ではなく9です"),  # without a particle before it, nobody knows where 6 begins
        ("答えは6ではなく9です", "答えは9です"),
        ("Is it 9? Yes.", "the answer is 9."),
        ("Nothing but 9 works.", "only 9 works."),
        ("It is not only 6 but many more.", "It is not only 6 but many more."),
        ("Not sure, but we go on.", "Not sure, but we go on."),
    ],
)
def test_what_is_denied_beside_a_claim_does_not_stand(text, stands):
    assert statements.standing(text) == stands


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B fits, the rest does not.", "B"),
        ("A, C and D violate it.", "B"),
        ("A and C violate it.", None),
        ("Both A and B fit.", ""),
        ("It is down to A and B. A is too small.", "B"),
        ("B fits. I cannot tell, though.", ""),
        ("If B fits, the rest does too.", None),
        ("The wrong one is B; A, C and D are right.", "B"),
        ("Does B fit?", None),
    ],
)
def test_clauses_speak_for_letters_or_against_them(text, answer):
    assert claims.claimed(text, "ABCD") == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("最终答案：（B）", "B"),
        ("所以选 B", "B"),
        ("答えはBです。", "B"),
        ("정답은 B입니다", "B"),
        ("Ответ — В", "B"),  # the Cyrillic letter
        ("A resposta é a letra B.", "B"),
        ("La réponse est donc B", "B"),
        ("L\u2019aluminium", None),
    ],
)
def test_choices_are_read_in_other_languages(text, letter):
    assert reading.read_choice(text, 4) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is the Nile.", "B"),
        (r"So \boxed{\text{Nile}}", "B"),
        ("The longest river is **White Nile**", "C"),
        ("Amazon? No: it is the Nile.", "B"),
        ("It is not the Nile", None),
        ("Nile\nAmazon\nWhite Nile", None),
        ("The Nile, which rises in the south", "B"),
        ("The answer is Nilesat", None),
        ("The answer is D: not the Nile.", "D"),
        ("Most of it flows down the **Nile**, which is long, and then into the sea", "B"),
        ("Of all rivers the longest one must be White Nile.", "C"),
        ("Ships sail up the Volga.", "D"),
        ("Ships never sail up the Volga.", None),
        ("The first of them is the Nile. What the second is remains to be seen", None),
        ("One would have to choose between the Nile and the Volga", None),
        ("| A | wrong |\n| B | right |\n| C | wrong |", "B"),
        ("Is it A? No, that one is shorter. (B)", "B"),
    ],
)
def test_an_option_may_be_named_in_its_own_words_where_no_letter_is(text, letter):
    assert reading.read_choice(text, 4, ("Amazon", "Nile", "White Nile", "Volga")) == letter


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("So the answer is: “U.S.”", "U.S."),
        ("**Dr.**", "dr."),
        ("__init__", "__init__"),
        ("답: 서울", "서울"),
        (unicodedata.normalize("NFD", "Müller."), "müller"),
        ("答案：「北京」。", "北京"),
        ("答えは東京です。", "東京"),
        ("Ｐａｒｉｓ", "Paris"),
        ("Respuesta: Perú", "Perú"),
        ("first line\nsecond  line", "First line\nsecond line"),
        ("...", "..."),
        ("\u2014 so: don\u2019t", "\u2014 so: don't"),
        ("- item", "item"),
        ("Answer: 𝐂", "C"),
    ],
)
def test_a_short_answer_and_its_reference_are_read_alike(text, reference):
    assert reading.same_text(text, reference)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (".5", "5"),
        ("last", "first\nlast"),
        ("x²", "x2"),
        ("-5", "5"),
        ("ℝ", "R"),
        ("C", "C++"),
        ("", "..."),
        ('5"', "5'"),
        ("Paris, Texas", "Paris"),
    ],
)
def test_other_answers_are_not_the_same(text, reference):
    assert not reading.same_text(text, reference)


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("25000", r"\boxed{25\,000}"),
        ("25000", "\\boxed{25\u202f000}"),
        ("25000", r"\boxed{25\ 000}"),
        ("25000", "Answer: 25'000"),
        ("1234567", r"\fbox{1~234~567}"),
        ("-12", "\\boxed{\u201312}"),
        ("12", "\\boxed{\uff11\uff12}"),
        ("12", "答案：١٢"),
        ("12", "Ответ: 12."),
        ("12", "Die Lösung ist 12"),
        ("12", "Therefore the maximum is $12$, reached at $t = 3$."),
        ("12", "The answer is 13. Actually, I counted one twice, so it is 12."),
        ("12", "That makes twelve."),
        ("3:2", "The ratio is 3:2."),
        ("12", "Thus $N \\equiv 12 \\pmod{100}$."),
        ("12", "It comes\n\\[\n12.\n\\]"),
        ("12", "You need **12 metres** of it.\n\n(The 3 doors are left out.)"),
        ("-3, 3", "Therefore $r = 3$ or $r = -3$."),
        ("12", "Since 4! = 24 > 20, the least of them is 12."),
        ("12", "We end up with 12 instead of the 13 that one would think of."),
        ("12", "In short: 12.\n\nDivide both sides by what they share."),
        ("5/12", "The chance is 5 in 12."),
        ("12", "So \\boxed{12}. Actually, one may check that twice as much is 24."),
        ("12", "The answer is 12. Actually, we can verify that 2 · 12 = 24."),
        ("12", "The answer is 12. I forgot to mention that n is 3."),
        ("12", "Thus $6 + 6 = \\underline{12}$."),
        ("12.5", "12.5 cm"),
        ("12", "At first sight the answer is 13. Yet one of them is counted twice, which leaves 12."),
        ("12", "In both cases we find 12. If you would like more detail, just ask."),
        (
            "12",
            "One might say the answer is 13, and if we kept both ends, the answer would be 14. With one end there are 12.",
        ),
        ("\\{1, 2\\}", "\\boxed{\\{1, 2\\}}"),
        ("7/12", "\\boxed{\\,7/12\\,}"),
        ("12", "Final answer: $\\boxed{12$"),
        ("12", '{"work": "3 · 4", "final_answer": 12}'),
        ("12", "So \\boxed{\\text{twelve}}."),
        ("12", "$n = 12$.\n\nCheck: 12 + 1 = 13. Both sides agree."),
        ("12", "So she has 12 left. Tomorrow she will have 11, which matches the table."),
        ("12", "**f(2) = 12**\n\nDo you want me to plot it as well?"),
        ("3/4", "It is 3/4. Since 3 and 4 share no factor, it is already in lowest terms."),
        ("12", "We reject −5, which leaves us with n = 12."),
        ("12", "There are 12 such pairs below 50."),
        ("12", "There are exactly 12 of them in all: 4, 8, 9, ..., 49."),
        ("12", "The curve reaches a maximum of 12 at x = 3."),
        ("12", "Either way it comes to $12$, i.e., a dozen."),
        ("1.5", "Also ist x = 1,5."),
        ("1200", "The length is \\boxed{12 \\text{ m}} ."),
        ("12000", "That makes 12 000 cm."),
    ],
)
def test_numbers_are_read_as_people_write_them(gold, text):
    pytest.importorskip("math_verify")
    assert (
        grading.math_robust(Problem("1", "How long is it, in cm?", gold), parse_response(text, "stop", QWEN)).score == 1
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [("How many minutes is that?", "45"), ("Give it in hours.", "0.75"), ("Which percentage of an hour?", "75")],
)
def test_of_several_measures_the_one_in_the_unit_that_is_asked_for_is_read(question, answer):
    pytest.importorskip("math_verify")
    text = "They take 0.75 hours, or 45 minutes, which is 75% of one."
    assert grading.math_robust(Problem("1", question, answer), parse_response(text, "stop", QWEN)).score == 1


@pytest.mark.parametrize(("question", "answer"), [("Find the slope.", "-2"), ("Find the intercept.", "5")])
def test_of_two_clauses_the_one_that_names_what_the_question_asks_for_is_read(question, answer):
    pytest.importorskip("math_verify")
    seen = parse_response("The slope is -2 and the intercept is 5.", "stop", QWEN)
    assert grading.math_robust(Problem("1", question, answer), seen).score == 1


@pytest.mark.parametrize(
    "text",
    [
        "- If it rains: $\\boxed{11}$\n- If it does not: $\\boxed{12}$",
        "$\\boxed{12}$ or $\\boxed{11}$; I am not sure which is wanted.",
        "The answer is 12, plus or minus 1.",
        "We need 3 × 4. First,",
        "\\boxed{12 \\text{ mm}}",
    ],
)
def test_what_is_open_cut_off_or_of_another_size_is_not_the_answer(text):
    pytest.importorskip("math_verify")
    seen = parse_response(text, "stop", QWEN)
    assert grading.math_robust(Problem("1", "How long is it, in cm?", "12"), seen).score == 0


@pytest.mark.parametrize(("question", "right"), [("How many degrees?", True), ("How many radians?", False)])
def test_a_degree_sign_is_no_part_of_an_answer_but_in_radians(question, right):
    pytest.importorskip("math_verify")
    grade = grading.math_robust(Problem("1", question, "30"), parse_response(r"\boxed{30^\circ}", "stop", QWEN))
    assert (grade.score == 1) is right


# ── whatever the text ────────────────────────────────────────────────────────────────────────────────────────────

PIECES = (
    *("\\boxed{", "\\boxed ", "\\fbox{", "{", "}", "\\", "\\\\", "$", "$$", "\\(", "\\)", "\\[", "\\]"),
    *("\\text{", "\\frac{1}{2}", "answer", "The answer is ", "Answer: ", "答案", "是", "：", "答えは", "Ответ: "),
    *("Antwort", "ist", "not ", "but ", " or ", ", ", "?", ".", "\n", " ", "\u2028", "\u3000", "\uff22"),
    *("\u0301", "\u200b", "**", "_", "`", "```", "'", '"', "「", "」", "<answer>", "(B)", "B", "c", "A "),
    *("option ", " is correct", "I choose ", "must be ", "so ", "if ", "x", "b = ", "≥", "°", "%", "="),
    *("70", "1,234", "7\\,000", "-", "−", "–", "١"),
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=24).map("".join)


@settings(max_examples=150)
@given(texts)
def test_the_readers_never_fail_and_read_the_same_from_what_they_folded(text):
    folded = statements.fold(text)
    assert statements.fold(folded) == folded
    assert reading.read_choice(text, 4) in (None, *"ABCD")
    for options in ((), ("70", "x", "answer", "b = 70")):
        assert reading.read_choice(folded, 4, options) == reading.read_choice(text, 4, options)
    assert reading.read_short(folded) == reading.read_short(text)
    assert expressions.stated(folded) == expressions.stated(text)
    short = reading.read_short(text)
    assert short is None or short.strip()
    assert not text.strip() or reading.same_text(text, text) or not folded.strip()
    for expression in (text, expressions.stated(text) or ""):
        assert all(
            isinstance(one, str) for one in notation.tidy(expression, notation.AnswerForm(percent=True, radians=False))
        )


def last_box_by_definition(text):
    """The slow and obvious way: from every opening, last first, count braces until the group is closed."""
    for match in reversed(list(re.finditer(r"\\(?:f?boxed|fbox)\s*\{", text))):
        depth = 1
        for token in re.finditer(r"\\.|[{}]", text[match.end() :], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(token.group(), 0)
            if depth == 0:
                content = text[match.end() : match.end() + token.start()]
                if content.strip():
                    return content
                break
    return None


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(["\\boxed{", "\\fbox{", "{", "}", "\\{", "\\}", "a", " ", "1"]), max_size=30).map("".join)
)
def test_boxes_are_those_of_the_obvious_reader(text):
    assert statements.last_boxed(text) == last_box_by_definition(text)


REPEATED = (
    *(*PIECES, "\\boxed{}", "\\boxed{1}", "answer is answer ", "so the final answer ", "B or ", "pi ", "1, "),
    *("1 000 ", "a. ", "x = ", "a-", "\\boxed{\\text{", "$1$, ", "not 1 but ", "B is correct. ", "\\boxed 1 "),
)


READERS = (statements, claims, letters, notation, values, expressions, reading)


def work(monkeypatch, text, read):
    """How many characters the regular expressions of the readers could have looked at, and how many steps they took."""
    steps = 0

    class Counting:
        def __init__(self, pattern):
            self.pattern = pattern

        def __getattr__(self, name):
            method = getattr(self.pattern, name)

            def counted(*args):
                nonlocal steps
                steps += 1
                found = method(*args)
                if name == "finditer":
                    found = list(found)
                    steps += len(found) + sum(match.end() - match.start() for match in found)
                elif found and name in ("match", "search", "fullmatch"):
                    steps += found.end() - found.start()
                return found

            return counted

    with monkeypatch.context() as patch:
        for module in READERS:
            for name, value in vars(module).items():
                if isinstance(value, re.Pattern):
                    patch.setattr(module, name, Counting(value))
        read(text)
    return steps


def unbounded(part):
    """Whether a parsed pattern has a repeat without an upper bound anywhere."""
    if not isinstance(part, list | tuple | re._parser.SubPattern):
        return False
    is_repeat = isinstance(part, tuple) and str(part[0]).endswith("REPEAT")
    return (is_repeat and part[1][1] is re._constants.MAXREPEAT) or any(unbounded(inner) for inner in part)


def test_every_quantifier_of_the_readers_is_bounded():
    assert unbounded(re._parser.parse("a(b|c(d*))"))
    for module in READERS:
        patterns = {name: value for name, value in vars(module).items() if isinstance(value, re.Pattern)}
        assert patterns
        assert [name for name, one in patterns.items() if unbounded(re._parser.parse(one.pattern, one.flags))] == []


@pytest.mark.parametrize("piece", REPEATED)
def test_twice_the_text_is_at_most_twice_the_work(piece, monkeypatch):
    for read in (
        lambda text: reading.read_choice(text, 4),
        lambda text: reading.read_choice(text, 4, ("the answer", "b", "70", "pi")),
        reading.read_short,
        expressions.stated,
    ):
        once, twice = (work(monkeypatch, piece * count, read) for count in (200, 400))
        assert twice <= 2.1 * once + 2100, (piece, once, twice)
