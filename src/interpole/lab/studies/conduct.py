"""Run a study: every pair trained and measured once, then the table, a verdict on every hypothesis, a figure and a page.

A pair that is measured is a file of its rows, so a study goes on where it was stopped, and workers on a cluster share the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interpole.actors import Actors, Order
from interpole.errors import AnalysisError, RunError
from interpole.files import exclusive, make_folder, write_atomic
from interpole.formats import plain
from interpole.lab.studies import dynamic, families, overlap, scale, simplex
from interpole.lab.studies.bench import Bench, Tell
from interpole.lab.studies.study import FULL, Case, Judgement, Row, Size, Study, judged, read_rows, rows_text
from interpole.report.render import save
from interpole.runs.runfile import release

__all__ = ["STUDIES", "Conducted", "conduct", "page", "study_of", "to_json", "workers"]

STUDIES: Mapping[str, Study] = {
    one.name: one for one in (families.STUDY, scale.STUDY, overlap.STUDY, dynamic.STUDY, simplex.STUDY)
}
"""Every study by name."""


class Conducted(NamedTuple):
    """What came of a study, and how many of its pairs it rests on."""

    study: Study
    rows: list[Row]
    verdicts: dict[str, Judgement]
    num_pairs: int
    num_wanted: int


def study_of(name: str) -> Study:
    """A study by name.

    Raises:
        AnalysisError: there is none.
    """
    if name not in STUDIES:
        raise AnalysisError(f"no study {name!r}", remedy=f"studies are: {', '.join(STUDIES)}")
    return STUDIES[name]


def conduct(
    study: Study,
    out: Path,
    *,
    size: Size = FULL,
    num_seeds: int | None = None,
    at_most: int | None = None,
    tell: Tell = lambda _: None,
    actors: Actors | None = None,
) -> Conducted:
    """Run a study, or the rest of it.

    Args:
        study: which.
        out: the folder that studies share: models, questions and runs; results go to a folder of the study's name in it.
        size: how much is trained and asked.
        num_seeds: of each pair; None: as the size says.
        at_most: so many pairs are measured that are not yet; verdicts rest on what is there.
        tell: told of every pair.
        actors: the workers of a cluster (`workers`), each of which takes pairs of its own.

    Raises:
        RunError: another process runs it in this folder.
        InterpoleError: a pair cannot be trained or measured.
    """
    make_folder(out / study.name)
    with exclusive(out / study.name / ".lock", RunError, f"runs {study.name} in this folder", "choose another --out"):
        wanted = study.cases(size.num_seeds if num_seeds is None else num_seeds)[: size.most]
        places = [out / study.name / "pairs" / f"{case.key(size)}.csv" for case in wanted]
        missing = [(case, place) for case, place in zip(wanted, places, strict=True) if not place.exists()]
        todo = missing[:at_most]
        if actors is None:
            bench = Bench(out, size, tell)
            try:
                for case, place in todo:
                    _measure(bench, study.measure, case, place)
                    tell(f"measured {case.name}")
            finally:
                bench.close()
        else:
            _measure_there(actors, study, size, todo, tell)
        there = [place for place in places if place.exists()]
        rows = [row for place in there for row in read_rows(place)]
        found = Conducted(study, rows, judged(study, rows), len(there), len(wanted))
        write_atomic(out / study.name / "results.csv", rows_text(rows))
        write_atomic(out / study.name / "page.md", page(found))
        figure = study.figure(rows).configure(aria=False)  # a label for every mark is half of a file
        save(figure, out / study.name / "figure.svg")
        return found


def workers(out: Path, size: Size, address: str = "auto") -> Actors:
    """The workers of a study on a cluster: each trains and measures on a CPU.

    Args:
        out: the folder of the studies, which all nodes must see.
        size: how much is trained and asked.
        address: see `Actors`.
    """
    make_folder(out)
    return Actors(Bench, (out.absolute(), size), out, address, what="worker", alike=release)


def _measure(bench: Bench, measure: Callable[[Bench, Case], list[Row]], case: Case, place: Path) -> None:
    """Measure a pair, and write its rows down."""
    rows = measure(bench, case)
    make_folder(place.parent)
    write_atomic(place, rows_text(rows), durable=True)


def _measure_there(
    actors: Actors, study: Study, size: Size, todo: Sequence[tuple[Case, Path]], tell: Callable[[str], None]
) -> None:
    """Have pairs measured on a cluster; a worker takes those with one base one after the other, for it has trained it.

    Raises:
        AnalysisError: a pair failed several times.
    """
    actors.report = tell
    orders = [Order(_measure, (study.measure, case, place.absolute())) for case, place in todo]
    for done in actors.do(orders, place=lambda order: order.args[1].base(size).name):
        name = done.order.args[1].name
        tell(f"{name}: {done.error}" if done.error else f"measured {name} on {done.node}")
        if done.error and not done.again:
            raise AnalysisError(done.error, name, "then run the same command again: what is measured is kept")


def page(found: Conducted) -> str:
    """The verdicts and the table, as Markdown."""
    study, lines = found.study, list[str]()
    lines += [
        f"{found.num_pairs} of {found.num_wanted} pairs.",
        "",
        "| hypothesis | verdict | measured |",
        "| --- | --- | --- |",
    ]
    for one in study.hypotheses:
        word, numbers = found.verdicts[one.name]
        text = one.text.replace("|", "\\|")  # in a table
        lines.append(f"| **{one.name}**: {text} | {word} | {numbers} |")
    columns = {key: head for key, head in study.shown.items() if any((r.point, r.statistic) == key for r in found.rows)}
    lines += ["", f"| {' | '.join([*study.by, 'pairs', *columns.values()])} |"]
    lines.append("| " + " | ".join(["---"] * len(study.by) + ["---:"] * (len(columns) + 1)) + " |")
    for group in dict.fromkeys(_group(study, row) for row in found.rows):
        mine = [row for row in found.rows if _group(study, row) == group]
        cells = [*group, str(len({row.pair for row in mine})), *(_cell(mine, *key) for key in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def to_json(found: Conducted) -> dict[str, Any]:
    """Verdicts and rows as plain data; what is not known is null."""
    hypotheses = [
        {"name": one.name, "text": one.text, **found.verdicts[one.name]._asdict()} for one in found.study.hypotheses
    ]
    content: dict[str, Any] = plain(
        {
            "study": found.study.name, "title": found.study.title, "pairs": found.num_pairs, "wanted": found.num_wanted,
            "hypotheses": hypotheses, "rows": [row._asdict() for row in found.rows],
        }
    )  # fmt: skip
    return content


def _group(study: Study, row: Row) -> tuple[str, ...]:
    return tuple(_plain(getattr(row, name)) for name in study.by)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:g}"
    return str(value)


def _cell(rows: Sequence[Row], point: str, statistic: str) -> str:
    """The mean over pairs; shares in percent."""
    numbers = [row.value for row in rows if (row.point, row.statistic) == (point, statistic)]
    if not numbers or np.isnan(numbers).all():
        return "–"
    mean = float(np.nanmean(numbers))
    if statistic in ("mean", "think", "gain"):
        return f"{100 * mean:.1f}"
    return f"{mean:,.0f}" if statistic == "parameters" else f"{mean:.1f}" if statistic == "tokens" else f"{mean:.3f}"
