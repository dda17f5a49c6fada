"""One self-contained HTML page of a run: verdicts, curves, costs, every question, all numbers, how it was run.

Charts are the Altair figures as inline SVG, repainted by the page's style sheet for dark mode; a short script moves λ
through all of them and unpacks responses. A content security policy forbids the page every request and any script
but its own, whatever a model has written.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from math import isnan
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from interpole import __version__
from interpole.analysis.intervals import Interval, ends_text, interval_text
from interpole.analysis.metrics import measure
from interpole.analysis.routing import Routes
from interpole.analysis.stages import Stages
from interpole.analysis.tables import PointMetrics
from interpole.errors import printable
from interpole.records import Sample, dial_name
from interpole.report import figures, predicted
from interpole.report.marks import Mark, dial_span, marks
from interpole.report.pareto import pareto
from interpole.report.payload import MANY_SAMPLES, Payload, difficulty, payload
from interpole.report.render import close, svg
from interpole.report.routes import lines, routes
from interpole.report.style import COLOURS, UNFINISHED
from interpole.report.ternary import PANELS, ternary
from interpole.report.verdicts import Verdict, bands, verdicts
from interpole.runs.prediction import TaskPrediction
from interpole.runs.simplex import Simplex

__all__ = ["Command", "html"]

MAX_DIFFICULTIES = 12
CHUNKS_HERE = Markup("<!-- chunks -->\n")  # where they come, for nothing else is to copy them
ROUGH_RESAMPLES = 400  # for the intervals of small multiples


@dataclass(frozen=True, slots=True)
class _Chart:
    """A chart as the page holds it; `axis` is its λ axis, where it has one."""

    drawn: Future[str]
    label: str
    width: int
    height: int
    axis: tuple[float, float] | None

    @property
    def svg(self) -> Markup:
        return Markup(self.drawn.result())

    @property
    def natural(self) -> int:
        """The width it was drawn at."""
        found = re.search(r'width="(\d+)', self.drawn.result())
        return int(found[1]) if found else 400


class Command(NamedTuple):
    """A command to copy: what it gives, itself, and what it does not say."""

    what: str
    text: str
    note: str = ""


class _Cell(NamedTuple):
    """A number of the table, and its interval below it."""

    value: str
    ends: str = ""


def html(
    metrics: Sequence[PointMetrics],
    stages: Sequence[Stages],
    samples: Sequence[Sample] = (),
    *,
    title: str = "Instruct ↔ Thinking",
    manifest: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (),
    private: Collection[str] = (),
    packed: Callable[[], Payload] | None = None,
    sources: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    remarks: Sequence[Verdict] = (),
    commands: Sequence[Command] = (),
    recipes: Sequence[tuple[str, str]] = (),
    predictions: Mapping[str, TaskPrediction] = MappingProxyType({}),
    routed: Mapping[str, Routes] = MappingProxyType({}),
    simplexes: Mapping[str, Simplex] = MappingProxyType({}),
) -> str:
    """The page as text; the same text for the same arguments.

    Args:
        metrics: all measured points; tasks in the order to show them.
        stages: of the same tasks, and pooled.
        samples: for the questions, verdicts and difficulties; without them those parts are left out.
        title: what was interpolated.
        manifest: how it was run: titled groups of (name, value).
        private: tasks whose texts must not be shown.
        packed: gives the responses as the page holds them; None: of the samples, with nothing known of their prompts.
        sources: Instruct and Thinking of each task whose dial is their plain merge, for the command that makes the model.
        remarks: to be read before the verdicts.
        commands: more to copy.
        recipes: (name, YAML) of what no λ says.
        predictions: what was predicted of each task without generating.
        routed: what choosing λ by the question comes to in each task that has enough for it.
        simplexes: of the tasks that were asked at points of one.
    """
    tasks, points = list(dict.fromkeys(m.task for m in metrics)), marks(metrics)
    shaded = bands(stages)
    said = verdicts(metrics, stages, samples, sources=sources, simplexes=simplexes)
    difficulties = {task: _difficulties([s for s in samples if s.task == task]) for task in tasks}
    with ThreadPoolExecutor(1) as beside:  # waits for the responses, then draws; meanwhile charts are put together
        packing = beside.submit(packed or partial(payload, metrics, samples, private))
        overview = _small(beside, dict.fromkeys(tasks, metrics), None, dial_span(points)) if len(tasks) > 1 else []
        charts = {
            task: _charts(beside, metrics, difficulties[task], task, shaded)
            | _predicted(beside, predictions.get(task), task, points)
            | {"triangle": _triangle(beside, simplexes.get(task), task, points)}
            for task in tasks
        }
        policies = {task: _routed(beside, found) for task, found in routed.items()}
    data = packing.result()
    of_task = "The recommended model of {}" if len(tasks) > 1 else "The recommended model"
    merges = [Command(of_task.format(v.task), printable(v.command)) for v in said if v.command]
    page = _template().render(
        version=__version__,
        title=title,
        lede=_lede(metrics),
        **_assets(),
        tasks=tasks,
        axis=dial_span(points),
        has_dial=any(mark.lam is not None for mark in points),
        bands={band.task: (band.low, band.high) for band in shaded},
        verdicts=[*remarks, *said],
        commands=[*merges, *commands],
        recipes=recipes,
        overview=overview,
        charts=charts,
        routes=policies,
        tables={task: _table([m for m in metrics if m.task == task]) for task in tasks},
        payload=data,
        chunks_here=CHUNKS_HERE,
        num_samples=len(samples),
        num_cut=data.num_cut,
        manifest=manifest,
        notes=list(dict.fromkeys(note for s in stages for note in (*s.notes, *(f"Open: {need}." for need in s.needs)))),
        private=sorted(set(private) & set(tasks)),
    )
    if len(samples) > MANY_SAMPLES:
        close()  # 100 MB, before what is large is put together
    return _with_chunks(_keyed(page, {mark.label: mark.point for mark in points}), data.chunks)


def _with_chunks(page: str, chunks: Iterable[str]) -> str:
    """The page with its responses."""
    head, _, tail = page.partition(CHUNKS_HERE)
    scripts = [f'<script type="application/gzip" id="chunk-{i}">{chunk}</script>\n' for i, chunk in enumerate(chunks)]
    return "".join([head, *scripts, tail])


def _keyed(page: str, points: Mapping[str, str]) -> str:
    """The page with the point's name on every mark of its charts, whose label begins with the point's."""
    labels = "|".join(re.escape(escape(label)) for label in sorted(points, key=len, reverse=True))
    names = {str(escape(label)): escape(name) for label, name in points.items()}
    if not labels:
        return page
    return re.sub(rf'<path aria-label="({labels}):', lambda m: f'<path data-point="{names[m[1]]}" {m[0][6:]}', page)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_asset("page.html"))


def _assets() -> dict[str, Any]:
    """The page's colours, style sheet and script."""
    light, script = " ".join(f"--{name}: {value};" for name, value in COLOURS.items()), _asset("page.js")
    return {
        "colours": COLOURS,
        "css": Markup(_asset("page.css").replace("{{ light }}", light)),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _asset(name: str) -> str:
    """A file that lies beside this one in the package."""
    return (files("interpole.report") / name).read_text(encoding="utf-8")


def _lede(metrics: Sequence[PointMetrics]) -> str:
    """How much was measured, in one sentence."""
    tasks = {m.task: m.num_questions + m.num_missing for m in metrics}
    num_lams = len({m.lam for m in metrics if m.lam is not None})
    num_others = len({m.point for m in metrics if m.lam is None})
    responses = sum(sum(m.outcomes.values()) for m in metrics)
    others = f"{num_others} points" + (" off the dial" if num_lams else "")
    asked = " and ".join([*([f"{num_lams} λ"] if num_lams else []), *([others] if num_others else [])])
    where = next(iter(tasks)) if len(tasks) == 1 else f"{len(tasks)} tasks"
    graded = {m.grading for m in metrics} - {""}
    by = f" Graded by {graded.pop()}, where a task has that grading." if graded else ""
    return f"{responses:,} responses to {sum(tasks.values()):,} questions of {where}, at {asked}.{by}"


def _charts(
    beside: Executor,
    metrics: Sequence[PointMetrics],
    difficulties: Mapping[str, Sequence[PointMetrics]],
    task: str,
    shaded: Sequence[figures.Band],
) -> dict[str, Any]:
    """All charts of one task."""
    points, curves = marks(metrics), []
    axis = dial_span(points)
    for key, (name, series) in figures.QUANTITIES.items():
        size = {"width": 252 if len(series) == 1 else 198, "height": 165}  # with the names at line ends, equally wide
        curves.append(_chart(beside, figures.panel(points, task, key, shaded, **size), name, size, axis))
    return {
        "curves": [chart for chart in curves if chart],
        "pareto": _chart(beside, pareto(points, task, 360, 230, explained=False), "", {}, None),
        "chances": any(not isnan(mark.on_front) for mark in points if mark.task == task),
        "outcomes": _chart(
            beside, figures.outcomes(metrics, task, 360, 175, legend=False), "", {"width": 360, "height": 175}, axis
        ),
        "difficulty": _small(beside, difficulties, task, axis),
        "competitors": any(m.lam is None for m in metrics if m.task == task),
    }


def _predicted(beside: Executor, found: TaskPrediction | None, task: str, points: Sequence[Mark]) -> dict[str, Any]:
    """The charts of a prediction, and its λ50 in words; nothing where there is none."""
    if found is None or len(found.lams) < 2:
        return {"predicted": None, "parts": None, "middle": ""}
    size = {"width": 360, "height": 210}
    line = _chart(
        beside, predicted.curve(found, task, points, **size), "Predicted share that thinks", size, dial_span(points)
    )
    heat = _chart(beside, predicted.heatmap(found), "Log odds of thinking by layer and kind", {}, None)
    value, low, high = found.mid or (None, None, None)
    ends = Interval(*(float("nan") if end is None else end for end in (value, low, high)))
    return {"predicted": line, "parts": heat, "middle": "" if value is None else interval_text(ends, digits=3)}


def _routed(beside: Executor, found: Routes) -> dict[str, Any]:
    """The chart of policies, and a line of words for each."""
    return {
        "chart": _chart(beside, routes(found, 360, 230, alone=False), "Policies against static λ", {}, None),
        "verdict": found.verdict,
        "live": [f"{one.point}, {one.verdict}." for one in found.live],
        "samples": f"{found.num_questions:,} questions × {found.num_samples} at each λ",
        "policies": [
            {
                "name": line.policy.name,
                "what": line.policy.what,
                "colour": line.colour,
                "dashed": line.dash != (1, 0),
                "gain": _cell_of(line.policy.gain),
                "beats": line.policy.beats,
            }
            for line in lines(found)
        ],
    }


def _cell_of(gain: Interval) -> _Cell:
    return _Cell(f"{100 * gain.value:+.1f}", ends_text(gain, 100, sign="+"))


def _triangle(beside: Executor, simplex: Simplex | None, task: str, points: Sequence[Mark]) -> list[_Chart]:
    """The charts of a task over a triangle of models, if it was asked on one."""
    drawn = [ternary(points, simplex, task, name) for name in PANELS] if simplex else []
    return [found for chart in drawn if (found := _chart(beside, chart, "Over the triangle", {}, None))]


def _small(
    beside: Executor, parts: Mapping[str, Sequence[PointMetrics]], task: str | None, axis: tuple[float, float]
) -> list[_Chart]:
    """Small multiples: one per part of a task, or, without one, one per task."""
    size = {"width": 126, "height": 84}
    drawn = [(name, figures.small(marks(part), task or name, name, **size)) for name, part in parts.items()]
    return [chart for chart in (_chart(beside, small, name, size, axis) for name, small in drawn) if chart]


def _chart(
    beside: Executor, chart: Any, label: str, size: Mapping[str, int], axis: tuple[float, float] | None
) -> _Chart | None:
    """Have a chart drawn, if there is one."""
    return (
        None
        if chart is None
        else _Chart(beside.submit(svg, chart), label, size.get("width", 0), size.get("height", 0), axis)
    )


def _difficulties(samples: Sequence[Sample]) -> dict[str, list[PointMetrics]]:
    """Metrics of each difficulty, in natural order; nothing where there is one only, or too many to show."""
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.difficulty:
            groups[difficulty(sample.difficulty)].append(sample)
    if not 1 < len(groups) <= MAX_DIFFICULTIES:
        return {}
    names = sorted(groups, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return {name: measure(groups[name], resamples=ROUGH_RESAMPLES) for name in names}


def _table(metrics: Sequence[PointMetrics]) -> dict[str, Any]:
    """All numbers of one task."""
    k = max(m.k for m in metrics)
    passes, votes = any(m.pass_at for m in metrics), any(m.vote for m in metrics)
    broken = any(m.format_failures.value > 0 for m in metrics)
    front = any(not isnan(m.on_front) for m in metrics)
    columns = [
        "",
        f"Mean@{k}",
        "well-formed",
        *(["if in form"] if broken else []),
        *([f"Pass@{k}"] if passes else []),
        *([f"Vote@{k}"] if votes else []),
    ]
    cut = any(m.num_forced for m in metrics)
    columns += ["Think #R", *(["of it forced"] if cut else [])]
    columns += ["Token #N", "median", "95th pct.", "if right", "unfinished"]
    columns += ["on front"] if front else []
    names = [m.point if m.lam is None else dial_name(m.lam) for m in metrics]
    rows = [
        {
            "point": m.point,
            "label": name,
            "cells": [*_cells(m, passes, votes, cut, broken), *([_front(m)] if front else [])],
        }
        for name, m in zip(names, metrics, strict=True)
    ]
    asked = max(m.num_questions for m in metrics)
    by = f", graded by {metrics[0].grading}" if metrics[0].grading else ""
    return {"columns": columns, "rows": rows, "summary": f"{asked:,} questions, {k} samples each{by}"}


def _cells(m: PointMetrics, passes: bool, votes: bool, cut: bool, broken: bool) -> list[_Cell]:
    """One line of the table."""
    unfinished = sum(m.outcomes.get(kind, 0) for kind in UNFINISHED) / max(1, sum(m.outcomes.values()))
    return [
        _share(m.mean),
        _share(m.well_formed),
        *([_Cell(f"{100 * m.ability_low.value:.1f} – {100 * m.ability_high.value:.1f}")] if broken else []),
        *([_share(m.pass_at[-1] if m.pass_at else None)] if passes else []),
        *([_share(m.vote)] if votes else []),
        _share(m.think),
        *([_Cell(f"{100 * m.num_forced / max(1, m.num_samples):.1f}")] if cut else []),
        _length(m.tokens),
        _length(Interval(m.tokens_median, float("nan"), float("nan"))),
        _length(Interval(m.tokens_p95, float("nan"), float("nan"))),
        _length(m.tokens_correct),
        _Cell(f"{100 * unfinished:.1f}"),
    ]


def _front(m: PointMetrics) -> _Cell:
    """The probability of being on the Pareto front."""
    return _Cell("–" if isnan(m.on_front) else f"{100 * m.on_front:.0f}")


def _share(interval: Interval | None) -> _Cell:
    if interval is None or interval.value != interval.value:
        return _Cell("–")
    return _Cell(f"{100 * interval.value:.1f}", ends_text(interval, 100))


def _length(interval: Interval | None) -> _Cell:
    if interval is None or interval.value != interval.value:
        return _Cell("–")
    digits = 0 if interval.value >= 100 else 1
    return _Cell(f"{interval.value:,.{digits}f}", ends_text(interval, digits=digits))
