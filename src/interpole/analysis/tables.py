"""The results that are kept: `PointMetrics` in metrics.json, and curves.csv, the table that others can read and write.

Reading is strict: a file that cannot be meant as it stands (percentages, a λ twice, a word for a number) is refused
with its line. Nothing is computed here; metrics.py does that.
"""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from interpole.analysis.intervals import Interval
from interpole.errors import AnalysisError, InterpoleWarning, printable
from interpole.files import StrPath, open_regular, write_atomic
from interpole.formats import plain, read_json
from interpole.records import Outcome

__all__ = [
    "COLUMNS",
    "CurveRow",
    "PointMetrics",
    "curve",
    "curves_text",
    "read_curves",
    "read_metrics",
    "write_curves",
    "write_metrics",
]

COLUMNS = ("task", "lam", "questions", "samples", "mean", "mean_low", "mean_high", "pass", "vote", "tokens", "think")
NEEDED = ("task", "lam", "think")
SHARES = frozenset({"mean", "mean_low", "mean_high", "pass", "vote", "think"})
COUNTS = frozenset({"questions", "samples"})
MAX_COUNT = 10**9
MAX_ROWS = 200_000
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet computes a cell by that begins so


@dataclass(frozen=True, slots=True)
class PointMetrics:
    """Everything measured of one point on one task; shares in [0, 1], lengths in tokens.

    Intervals are 95 %, over questions. Statistics leave out samples that failed (see metrics.py).
    """

    task: str
    point: str
    lam: float | None  # None: off the dial
    grading: str  # "": the task's own
    num_questions: int  # with at least one usable sample
    num_missing: int  # questions the task has at other points, without a usable sample here
    num_samples: int  # usable: all but the failed
    k: int  # samples per question: the smallest number over its questions
    mean: Interval  # Mean@k
    pass_at: tuple[Interval, ...]  # Pass@1 … Pass@k
    vote: Interval | None  # Vote@k; None: this task has no answers to vote on
    think: Interval  # Think #R
    tokens: Interval  # Token #N
    tokens_median: float  # over samples
    tokens_p95: float
    tokens_correct: Interval | None  # Token #N of correct responses; None: there are none
    tokens_closed: Interval | None  # Token #N of responses with the closing marker
    well_formed: Interval | None  # Mean@k over responses without a format failure; None: none is without
    ability_low: Interval  # Mean@k if every response with a format failure counted as wrong
    ability_high: Interval  # … and if it counted as right: what it would be in the right form lies between
    format_failures: Interval  # share of responses that thought and did not close with the marker
    outcomes: Mapping[Outcome, int]  # every outcome, also those that did not occur; sums to all samples
    num_forced: int = 0  # responses whose thought a budget closed; they count for Think #R
    num_near_closes: int = 0  # responses that closed their thought with the marker misspelt; they do not
    estimand: str = "like-these"  # what intervals are about: questions like these, or these
    on_front: float = (
        math.nan
    )  # probability of being on the Pareto front of accuracy and tokens; NaN: one question, or old


@dataclass(frozen=True, slots=True)
class CurveRow:
    """One line of curves.csv: a dial point on a task. `None`: the file does not say."""

    task: str
    lam: float
    think: float
    questions: int | None = None
    samples: int | None = None  # per question
    mean: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    pass_: float | None = None  # Pass@k at k = samples; the column is `pass`
    vote: float | None = None
    tokens: float | None = None


def curve(metrics: Iterable[PointMetrics]) -> list[CurveRow]:
    """The dial points among `metrics` as rows, by task and λ; points off the dial and points without data have none.

    Raises:
        AnalysisError: two points of one task share a λ.
    """
    rows: dict[tuple[str, float], CurveRow] = {}
    for m in metrics:
        if m.lam is None or m.num_questions == 0:
            continue
        if (m.task, m.lam) in rows:
            raise AnalysisError(
                f"task {m.task!r} has two points at λ={m.lam:g}; the second is {m.point!r}",
                remedy="a curve has one point per λ: give points that are not on the dial no λ",
            )
        vote = None if m.vote is None else m.vote.value
        rows[m.task, m.lam] = CurveRow(
            task=m.task,
            lam=m.lam,
            think=m.think.value,
            questions=m.num_questions,
            samples=m.k,
            mean=m.mean.value,
            mean_low=m.mean.low,
            mean_high=m.mean.high,
            pass_=m.pass_at[-1].value,
            vote=vote,
            tokens=m.tokens.value,
        )
    place = {task: number for number, task in enumerate(dict.fromkeys(task for task, _ in rows))}
    return sorted(rows.values(), key=lambda row: (place[row.task], row.lam))


def curves_text(metrics: Iterable[PointMetrics]) -> str:
    """The dial points of `metrics` as the text of curves.csv: `COLUMNS`, shares in 0..1, one row per point and task."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(row, _field(name))) for name in COLUMNS] for row in curve(metrics))
    return text.getvalue()


def write_curves(metrics: Iterable[PointMetrics], path: StrPath) -> None:
    """Write `curves_text` of `metrics`."""
    write_atomic(Path(path), curves_text(metrics))


def read_curves(path: StrPath) -> list[CurveRow]:
    """Read a curves.csv, ours or one from elsewhere; only `task`, `lam` and `think` must be there.

    Other columns of `COLUMNS` may be absent or hold empty cells; columns by other names are not used, with a warning.

    Raises:
        AnalysisError: the file is missing, empty, lacks a column or has more than `MAX_ROWS` rows; or a line has too few or many
            cells, something that is not a number, a share outside [0, 1] (percentages), or a task and λ that were there before.
    """
    path = Path(path)
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, path)
            filled = ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
            lines = list(islice(filled, MAX_ROWS + 1))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"cannot read the curves: {error}", path, "give a comma-separated file in UTF-8") from error
    if len(lines) > MAX_ROWS:
        raise AnalysisError(f"more than {MAX_ROWS:,} rows", path, "keep the λ that were swept, one row each")
    if not lines:
        raise AnalysisError("no rows below the header", path, "write one row per task and λ")
    seen: dict[tuple[str, float], int] = {}
    rows = []
    for number, cells in lines:
        row = _row(header, cells, f"{path}, line {number}")
        before = seen.setdefault((row.task, row.lam), number)
        if before != number:
            what = f"task {row.task!r} at λ={row.lam:g} was there before, in line {before}"
            raise AnalysisError(what, f"{path}, line {number}", "keep one row per task and λ")
        rows.append(row)
    return rows


def write_metrics(metrics: Sequence[PointMetrics], path: StrPath) -> None:
    """Write everything in `metrics` as JSON; what is not known is null."""
    points = [plain(asdict(m) | {"outcomes": {o.value: n for o, n in m.outcomes.items()}}) for m in metrics]
    write_atomic(
        Path(path), json.dumps({"format": 1, "points": points}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_metrics(path: StrPath) -> list[PointMetrics]:
    """Read what `write_metrics` wrote.

    Raises:
        AnalysisError: the file is missing or is not such a file.
    """
    path = Path(path)
    try:
        points = read_json(path, AnalysisError, "recompute it from the samples: `interpole score RUN`")["points"]
        return [_point(dict(fields)) for fields in points]
    except AnalysisError as error:
        raise AnalysisError(f"not a metrics file: {error.what}", path, error.remedy) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"not a metrics file: {type(error).__name__}: {error}"
        raise AnalysisError(what, path, "recompute it from the samples: `interpole score RUN`") from error


INTERVALS = (
    "mean",
    "think",
    "tokens",
    "format_failures",
    "vote",
    "tokens_correct",
    "tokens_closed",
    "well_formed",
    "ability_low",
    "ability_high",
)


def _point(fields: dict[str, Any]) -> PointMetrics:
    """One entry of metrics.json as the record it was."""
    for name in INTERVALS:
        fields[name] = None if fields[name] is None else _interval(fields[name])
    fields["pass_at"] = tuple(map(_interval, fields["pass_at"]))
    for name in ("tokens_median", "tokens_p95", "on_front"):
        fields[name] = _number(fields.get(name))
    fields["outcomes"] = {Outcome(name): int(count) for name, count in fields["outcomes"].items()}
    if unknown := set(fields) - {field.name for field in dataclass_fields(PointMetrics)}:
        raise ValueError(f"unknown: {min(unknown)}")
    return TypeAdapter(PointMetrics).validate_python(fields)


def _interval(fields: Mapping[str, float | None]) -> Interval:
    """An interval from its JSON object."""
    return Interval(*(_number(fields[name]) for name in Interval._fields))


def _number(value: float | None) -> float:
    """JSON's null is our NaN."""
    return math.nan if value is None else float(value)


def _check_header(header: list[str], path: Path) -> None:
    """Refuse a header without the needed columns or with one twice; warn of columns that are not used."""
    missing = [name for name in NEEDED if name not in header]
    if missing or len(set(header)) != len(header):
        what = f"columns missing: {', '.join(missing)}" if missing else "a column is there twice"
        others = [name for name in COLUMNS if name not in NEEDED]
        remedy = f"the header must name {', '.join(NEEDED)}; it may name {', '.join(others)}"
        raise AnalysisError(f"{what}; the header says: {', '.join(header) or 'nothing'}", f"{path}, line 1", remedy)
    unused = [name for name in header if name not in COLUMNS]
    if unused:
        warnings.warn(f"{path}: columns not used: {', '.join(unused)}", InterpoleWarning, stacklevel=4)


def _row(header: list[str], cells: list[str], where: str) -> CurveRow:
    """One line as a record."""
    if len(cells) != len(header):
        raise AnalysisError(f"{len(cells)} cells under {len(header)} columns", where, "quote cells that hold commas")
    texts = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if name in COLUMNS and cell.strip()}
    for name in NEEDED:
        if name not in texts:
            raise AnalysisError(f"no {name}", where, f"every row needs {', '.join(NEEDED)}")
    task = printable(_as_text(texts.pop("task")))
    numbers: dict[str, Any] = {_field(name): _parsed(name, text, where) for name, text in texts.items()}
    return CurveRow(task=task, **numbers)


def _parsed(name: str, text: str, where: str) -> float | int:
    """A cell as the number its column holds."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnalysisError(f"{name} is not a number: {text!r}", where, "leave a cell empty where nothing is known")
    if name in SHARES and not 0 <= value <= 1:
        hint = "this looks like percent: divide by 100" if 1 < value <= 100 else "correct it"
        raise AnalysisError(f"{name} is a share between 0 and 1, not {text}", where, hint)
    if name in COUNTS and (not 1 <= value <= MAX_COUNT or value != int(value)):
        raise AnalysisError(f"{name} is a whole number from 1 up, not {text}", where, "correct it, or leave it empty")
    if name == "tokens" and value < 0:
        raise AnalysisError(f"tokens cannot be {text}", where, "correct it, or leave it empty")
    return int(value) if name in COUNTS else value


def _field(column: str) -> str:
    """The attribute that holds a column; `pass` is a word of Python."""
    return "pass_" if column == "pass" else column


def _cell(value: str | float | None) -> str:
    """A value as text: numbers to six decimals without trailing zeros, unknown as nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return (
        repr(round(value, 6)) if isinstance(value, float) else _as_cell(value) if isinstance(value, str) else str(value)
    )


def _as_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: before one that begins like it stands an apostrophe."""
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def _as_text(cell: str) -> str:
    """The text that `_as_cell` made the cell of."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell
