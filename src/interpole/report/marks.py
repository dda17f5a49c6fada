"""What figures draw: one mark per point and task, whether from a run's samples, a curves.csv or a paper's table.

Tables of the paper's kind are read by their headers: `aime25_mean64`, `think`, `tokens` and the like, with shares in
percent; they become shares between 0 and 1 here, as everywhere else in Interpole.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from interpole.analysis.intervals import UNKNOWN, Interval
from interpole.analysis.tables import CurveRow, PointMetrics
from interpole.errors import AnalysisError
from interpole.files import open_regular
from interpole.records import dial_name

__all__ = ["STATISTICS", "Mark", "dial_span", "marks", "number", "read_table", "table_marks", "tasks"]

STATISTICS = ("mean", "pass", "vote", "think", "tokens")
_COLUMN = re.compile(r"(?:(?P<task>.+)_)?(?P<name>mean|pass|vote|think|tokens|length)(?P<k>\d*)(?:_ratio)?")


@dataclass(frozen=True, slots=True)
class Mark:
    """One point on one task, and its statistics by the names of `STATISTICS`; what is not known is absent."""

    task: str
    point: str
    lam: float | None  # None: off the dial
    statistics: Mapping[str, Interval] = field(default_factory=dict)
    k: int | None = None  # samples per question
    on_front: float = math.nan  # probability of being on the Pareto front; NaN: not known

    @property
    def label(self) -> str:
        """`λ=0.5`, or the point's name off the dial."""
        return self.point if self.lam is None else dial_name(self.lam)

    def called(self, name: str) -> str:
        """What a statistic of this mark is called: Mean@8, Pass@8, Vote@8, Think #R, Token #N."""
        fixed = {"think": "Think #R", "tokens": "Token #N", "length": "Token #N / Thinking's"}
        return fixed.get(name, f"{name.capitalize()}@{self.k or 'k'}")


def marks(rows: Iterable[PointMetrics | CurveRow]) -> list[Mark]:
    """The marks of measured points, or of the rows of a curves.csv; points without data have none."""
    return [mark for mark in (_mark(row) for row in rows) if mark.statistics]


def tasks(of: Iterable[Mark]) -> list[str]:
    """The tasks in the order they come."""
    return list(dict.fromkeys(mark.task for mark in of))


def dial_span(of: Iterable[Mark]) -> tuple[float, float]:
    """The λ axis: 0..1, and further where points lie outside."""
    lams = [mark.lam for mark in of if mark.lam is not None]
    return min([0.0, *lams]), max([1.0, *lams])


def _mark(row: PointMetrics | CurveRow) -> Mark:
    if isinstance(row, PointMetrics):
        found = {"mean": row.mean, "pass": row.pass_at[-1] if row.pass_at else None, "vote": row.vote}
        known = _known(found | {"think": row.think, "tokens": row.tokens})
        return Mark(row.task, row.point, row.lam, known, row.k, row.on_front)
    values = {"mean": row.mean, "pass": row.pass_, "vote": row.vote, "think": row.think, "tokens": row.tokens}
    bare = {name: None if value is None else UNKNOWN._replace(value=value) for name, value in values.items()}
    if row.mean is not None and row.mean_low is not None and row.mean_high is not None:
        bare["mean"] = Interval(row.mean, row.mean_low, row.mean_high)
    return Mark(row.task, dial_name(row.lam), row.lam, _known(bare), row.samples)


def _known(found: Mapping[str, Interval | None]) -> dict[str, Interval]:
    return {name: i for name, i in found.items() if i is not None and not math.isnan(i.value)}


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a comma-separated file with a header.

    Raises:
        AnalysisError: it cannot be read, has no rows, or one that is longer than the header.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, restkey="", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"cannot read the table: {error}", path, "give a comma-separated file in UTF-8") from error
    if not rows:
        raise AnalysisError("no rows below the header", path, "give a table with at least one row")
    if long := next((number for number, row in enumerate(rows, 1) if isinstance(row.get(""), list)), None):
        raise AnalysisError(f"row {long} has more cells than the header", path, "give each column a name")
    return rows


def table_marks(rows: Sequence[Mapping[str, str]], where: object = "") -> list[Mark]:
    """The marks of a table with one line per model and, in percent, columns such as `aime25_mean64` or `think`.

    A point is named by `method` or `model`, and by `layers` where there is such a column. Rows with a `lam` lie on the dial.

    Raises:
        AnalysisError: no column is a statistic, or a cell is not a number.
    """
    columns = {name: match for name in rows[0] if (match := _COLUMN.fullmatch(name))}
    if not columns:
        what = f"no column is a statistic; the header says: {', '.join(rows[0])}"
        raise AnalysisError(what, where, "name columns like mean8, pass8, think, tokens, or aime25_mean64")
    names = dict.fromkeys(match["task"] or "" for match in columns.values())
    found = []
    for task in names:
        own = [(name, match) for name, match in columns.items() if (match["task"] or "") == task]
        for row in rows:
            statistics = dict(_numbers(row, own, where))
            k = max((int(match["k"] or 0) for _, match in own), default=0)
            lam = number(row, "lam", where) if row.get("lam") else None
            found.append(Mark(task, _point(row), lam, statistics, k or None))
    return found


def _point(row: Mapping[str, str]) -> str:
    """A name from the columns that have one."""
    model = row.get("method") or row.get("model") or ""
    return f"{model}, layers {row['layers'].replace('-', '–')}" if row.get("layers") else model


def _numbers(
    row: Mapping[str, str], columns: Sequence[tuple[str, re.Match[str]]], where: object
) -> Iterator[tuple[str, Interval]]:
    """The statistics in a row; of Pass@8 and Pass@64 the later one stays."""
    for column, match in columns:
        if row[column]:
            value = number(row, column, where)
            yield match["name"], UNKNOWN._replace(value=value if match["name"] == "tokens" else value / 100)


def number(row: Mapping[str, str], column: str, where: object) -> float:
    """A cell as a number.

    Raises:
        AnalysisError: it is none.
    """
    with suppress(KeyError, TypeError, ValueError):
        if math.isfinite(value := float(row[column])):
            return value
    raise AnalysisError(f"{column} is not a number: {row.get(column)!r}", where, "correct it")
