"""What a study is: pairs to train, what to measure of each, hypotheses with numbers, and a verdict on each from the rows.

A study is a module of data and a few functions. Its hypotheses are written down before it is run; what is judged is only what
the rows of `results.csv` say, so a verdict can be computed again from the table. Nothing here trains or asks a model.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from interpole.analysis.intervals import Interval, interval_text, minus, random_effects
from interpole.errors import AnalysisError
from interpole.files import open_regular
from interpole.formats import content_hash
from interpole.lab.recipe import Body, Model, Questions, Schedule, Stage

__all__ = [
    "FULL",
    "SMOKE",
    "Case",
    "Hypothesis",
    "Judge",
    "Judgement",
    "Row",
    "Size",
    "Study",
    "Word",
    "between",
    "both",
    "contrast",
    "judged",
    "read_rows",
    "rows_text",
    "values",
    "within",
]

Word = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained and asked: the same for every pair of every study, so that they can share.

    Attributes:
        schedule: steps and rates of base, Instruct and Thinking.
        questions: what the models learn from, and are asked.
        num_problems: questions asked at every point, all difficulties alike.
        samples: responses to each.
        lambdas: of a sweep.
        forward_lambdas: of what is asked without generating.
        max_tokens: a response's cap.
        num_questions: that a fine-tune has where the share in common matters.
        num_seeds: of each pair, unless somebody says another number.
        most: of the cases of a study; None: all.
    """

    schedule: Schedule
    questions: Questions
    num_problems: int
    samples: int
    lambdas: tuple[float, ...]
    forward_lambdas: tuple[float, ...]
    max_tokens: int = 128
    num_questions: int = 400
    num_seeds: int = 3
    most: int | None = None


EASY = Questions((1, 2, 3), "+-", 29)
FULL = Size(
    Schedule(
        base=Stage(steps=600, batch=24, lr=4.5e-3, lr_muon=0.03),
        instruct=Stage(steps=80, batch=24, lr=5e-4, lr_muon=0.003),
        thinking=Stage(steps=100, batch=24, lr=5e-4, lr_muon=0.003),
    ),
    EASY,
    num_problems=48,
    samples=2,
    lambdas=(0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1),
    forward_lambdas=tuple(i / 16 for i in range(17)),
)
SMOKE = Size(
    Schedule(*(Stage(steps=3, batch=4, lr=1e-3, lr_muon=1e-2) for _ in range(3))),
    EASY,
    num_problems=12,
    samples=1,
    lambdas=(0, 0.2, 0.5, 0.8, 1),
    forward_lambdas=(0, 0.5, 1),
    max_tokens=8,
    num_questions=30,
    num_seeds=1,
    most=1,
)
"""Everything once, in seconds; what comes of it means nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """One pair of a study.

    Attributes:
        body: what is trained.
        seed: of first weights and data.
        instruct: dose of the fine-tune, in times the steps.
        thinking: the same.
        common: the share of questions that both fine-tunes have; None: endless questions for both.
    """

    body: Body = field(default_factory=Body)
    seed: int = 0
    instruct: float = 1.0
    thinking: float = 1.0
    common: float | None = None

    @property
    def name(self) -> str:
        """In words, for a table."""
        body = self.body
        said = f"{body.arch} w{body.width} d{body.depth} s{self.seed}"
        said += f" x{self.instruct:g}:{self.thinking:g}" if (self.instruct, self.thinking) != (1, 1) else ""
        return said if self.common is None else f"{said} common {self.common:g}"

    def base(self, size: Size) -> Model:
        """What both are fine-tuned from."""
        return Model("base", size.schedule.base, self.body, self.seed, size.questions, bf16=False)

    def models(self, size: Size) -> tuple[Model, Model]:
        """Instruct and Thinking."""
        base, schedule, asked = self.base(size), size.schedule, size.questions
        own, theirs = asked, asked
        if self.common is not None:
            own = replace(asked, num=size.num_questions)
            theirs = replace(own, own=1 - self.common)
        instruct = replace(
            base, style="instruct", stage=schedule.instruct.dosed(self.instruct), questions=own, base=base
        )
        thinking = replace(
            base, style="thinking", stage=schedule.thinking.dosed(self.thinking), questions=theirs, base=base
        )
        return instruct, thinking

    def key(self, size: Size) -> str:
        """A name for a file: the same where pair and measurements are."""
        return f"{self.name.replace(' ', '-').replace(':', '-')}-{content_hash([asdict(self), asdict(size)])[:8]}"


class Row(NamedTuple):
    """One number about one pair, with its 95 % interval over questions; NaN: there is none."""

    arch: str
    width: int
    depth: int
    seed: int
    instruct: float
    thinking: float
    common: float  # NaN: endless questions
    point: str
    statistic: str
    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, case: Case, point: str, statistic: str, value: Interval | float) -> Row:
        """A number about a pair."""
        body, common = case.body, math.nan if case.common is None else case.common
        ends = value if isinstance(value, Interval) else Interval(value, math.nan, math.nan)
        pair = (body.arch, body.width, body.depth, case.seed, case.instruct, case.thinking, common)
        return cls(*pair, point, statistic, *ends)

    @property
    def interval(self) -> Interval:
        """The number and its ends."""
        return Interval(self.value, self.low, self.high)

    @property
    def body(self) -> str:
        """Architecture and sizes, in short."""
        return f"{self.arch} w{self.width} d{self.depth}"

    @property
    def pair(self) -> tuple[Any, ...]:
        """Whose number it is."""
        return (*self[:6], None if math.isnan(self.common) else self.common)


class Judgement(NamedTuple):
    """What came of a hypothesis."""

    word: Word
    numbers: str


Judge = Callable[[Sequence[Row]], Judgement]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What is expected, with numbers, before anything is run; and how the rows decide."""

    name: str
    text: str
    judge: Judge


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: as it is asked for.
        title: what it is about.
        hypotheses: what is expected.
        cases: its pairs, for a number of seeds.
        measure: the rows of one pair, from a bench (`interpole.lab.studies.bench.Bench`).
        figure: a chart of the rows.
        shown: statistics that the page's table has as columns: (point, statistic) → heading.
        by: the columns of `Row` that name a line of that table; numbers of one line are means over its pairs.
    """

    name: str
    title: str
    hypotheses: tuple[Hypothesis, ...]
    cases: Callable[[int], list[Case]]
    measure: Callable[[Any, Case], list[Row]]
    figure: Callable[[Sequence[Row]], Any]
    shown: Mapping[tuple[str, str], str]
    by: tuple[str, ...] = ("arch",)


def rows_text(rows: Iterable[Row]) -> str:
    """The text of a `results.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def read_rows(path: Path) -> list[Row]:
    """The rows of a `results.csv`.

    Raises:
        AnalysisError: it is none.
    """
    with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            return [Row(*(_read(name, row[name]) for name in Row._fields)) for row in reader]
        except (KeyError, ValueError) as error:
            raise AnalysisError(f"not the results of a study: {error}", path, "run the study again") from error


def _read(name: str, text: str) -> Any:
    """A cell of a column."""
    if name in ("arch", "point", "statistic"):
        return text
    return int(text) if name in ("width", "depth", "seed") else float(text or "nan")


def values(rows: Iterable[Row], point: str, statistic: str) -> dict[tuple[Any, ...], Interval]:
    """Pair → the number at a point."""
    return {row.pair: row.interval for row in rows if (row.point, row.statistic) == (point, statistic)}


def between(
    point: str,
    statistic: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    by: str = "arch",
    scale: float = 1.0,
    unit: str = "",
) -> Judge:
    """A judge: a number, as the mean over the pairs of each group, is to lie from `low` to `high`.

    Seeds are the units: the interval of a group is Student's t over its pairs, and no closer than their own intervals make it. It
    holds where it holds in every group, and does not where it fails in some group; else it cannot be told.

    Args:
        point: whose number.
        statistic: which number.
        low: where it is to lie.
        high: where it is to lie.
        by: the column of `Row`, or `body`, that makes groups.
        scale: how numbers are shown: 100 for percent.
        unit: shown after them.
    """

    def judge(rows: Sequence[Row]) -> Judgement:
        groups: dict[Any, list[Interval]] = {}
        for row in rows:
            if (row.point, row.statistic) == (point, statistic):
                groups.setdefault(getattr(row, by), []).append(row.interval)
        if not groups:
            return Judgement("cannot tell", "not measured")
        digits = 0 if scale == 100 else 3
        found = {name: random_effects(mine) for name, mine in groups.items()}
        words = {name: within(interval, low, high) for name, interval in found.items()}
        numbers = "; ".join(
            f"{_named(by, name)} {interval_text(interval, scale, digits, unit=unit)}{_said(words[name], interval)}"
            for name, interval in found.items()
        )
        return Judgement(_together(words.values()), numbers)

    return judge


def both(first: Judge, second: Judge) -> Judge:
    """A judge: two things are to hold."""

    def judge(rows: Sequence[Row]) -> Judgement:
        a, b = first(rows), second(rows)
        return Judgement(_together((a.word, b.word)), f"{a.numbers}; and {b.numbers}")

    return judge


def contrast(column: str, a: float, b: float, judge: Judge) -> Judge:
    """A judge: what another says of how numbers differ, b − a, between pairs that differ in one thing alone.

    Args:
        column: of `Row`, in which the pairs differ.
        a: its value in one of them.
        b: its value in the other.
        judge: of the differences, as rows.
    """

    def of_differences(rows: Sequence[Row]) -> Judgement:
        before = {_but(row, column): row.interval for row in rows if getattr(row, column) == a}
        after = [row for row in rows if getattr(row, column) == b and _but(row, column) in before]
        changes = [minus(row.interval, before[_but(row, column)]) for row in after]
        return judge([row._replace(**change._asdict()) for row, change in zip(after, changes, strict=True)])

    return of_differences


def _but(row: Row, column: str) -> tuple[Any, ...]:
    """Whose number it is, and which, without one column of the pair."""
    place = Row._fields.index(column)
    return (*row.pair[:place], *row.pair[place + 1 :], row.point, row.statistic)


def _named(by: str, name: Any) -> str:
    return f"{by} {name:g}" if isinstance(name, int | float) else str(name)


def _said(word: Word, interval: Interval) -> str:
    """What stands behind a number in the verdict's line."""
    alone = ", by itself" if math.isnan(interval.low) else ""
    return {"holds": "", "does not hold": " (no)", "cannot tell": " (open)"}[word] + alone


def within(interval: Interval, low: float, high: float) -> Word:
    """Whether a number lies between two others: by its interval, or by itself where it has none."""
    ends = interval if not math.isnan(interval.low) else Interval(interval.value, interval.value, interval.value)
    if math.isnan(interval.value):
        return "cannot tell"
    if ends.low >= low and ends.high <= high:
        return "holds"
    return "does not hold" if ends.high < low or ends.low > high else "cannot tell"


def _together(words: Iterable[Word]) -> Word:
    found = set(words)
    return "does not hold" if "does not hold" in found else "cannot tell" if "cannot tell" in found else "holds"


def judged(study: Study, rows: Sequence[Row]) -> dict[str, Judgement]:
    """Every hypothesis of a study, by name."""
    return {one.name: one.judge(rows) for one in study.hypotheses}
