"""`interpole plot`: a figure by its name, from a run folder, a curves.csv or a table like the paper's, to a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from interpole.analysis.live import followed
from interpole.analysis.metrics import measure
from interpole.analysis.routing import route
from interpole.analysis.stages import Stages
from interpole.analysis.tables import CurveRow, PointMetrics, read_curves
from interpole.errors import AnalysisError, OutputError
from interpole.files import StrPath
from interpole.report import figures, predicted
from interpole.report.ablations import DecodingCell, ablation, decoding, similarity
from interpole.report.marks import Mark, marks, number, read_table, table_marks, tasks
from interpole.report.pareto import TITLE, pareto
from interpole.report.render import check_format, save
from interpole.report.routes import routes
from interpole.report.ternary import triangles
from interpole.report.verdicts import bands, stages_of
from interpole.runs import samples as run_samples
from interpole.runs.prediction import PREDICTION, PredictionFile
from interpole.runs.runfile import NAME, RunFile
from interpole.runs.simplex import Simplex, simplex_of

__all__ = ["FIGURES", "chart", "hero", "plot", "predicted_beside", "write_figures"]

FIGURES: Mapping[str, str] = {
    "2": "the stages at a glance: accuracy and Think #R against λ",
    "3": "accuracy, Think #R and tokens against λ, one row per task",
    "4": "decoding: accuracy over temperature and top_p",
    "5": "the paper's Figure 5, which is modules",
    "layers": "merges of some layers only beside whole ones: every statistic as bars",
    "modules": "merges of some sublayers only beside whole ones: every statistic as bars",
    "similarity": "σ between models, from a table model_a, model_b, sigma",
    "pareto": "accuracy against tokens, with the Pareto front",
    "prediction": "the predicted curve of Think #R, beside the measured one where there is a run",
    "parts": "what each kind of module in each layer adds to the log odds of thinking",
    "simplex": "the triangle of three models: accuracy, Think #R and tokens at every point's weights",
    "route": "policies that choose λ by the question against the hull of static λ",
}
CURVES = ("2", "3", "pareto")


def plot(source: StrPath, figure: str, out: StrPath, *, task: str | None = None) -> Path:
    """Draw one of `FIGURES` into a .pdf, .png or .svg.

    Args:
        source: a run folder, a curves.csv, or a table like the paper's.
        figure: a name from `FIGURES`.
        out: the file to write.
        task: only this task.

    Raises:
        AnalysisError: no such figure, or the source does not hold what it shows.
        OutputError: the file cannot be written.
    """
    check_format(out)
    return save(chart(source, figure, task), out)


def chart(source: StrPath, figure: str, task: str | None = None) -> Any:
    """The Altair chart of one of `FIGURES`; see `plot`."""
    source = Path(source)
    if figure not in FIGURES:
        raise AnalysisError(f"no figure {figure!r}", remedy=f"figures are: {', '.join(FIGURES)}")
    if figure == "similarity":
        return similarity(_sigmas(source))
    if figure == "4":
        return decoding(_cells(source))
    if figure in ("prediction", "parts"):
        return _predicted(source, figure, task)
    if figure == "route":
        if not source.is_dir():
            raise AnalysisError("policies are scored from samples, and here are none", source, "name a run folder")
        return _routes(source, task)
    if figure == "simplex":
        return _triangles(source, task)
    points, shaded = _points(source)
    if source.is_dir() and figure in ("5", "layers", "modules"):
        points = _ablated(points, source, "layers" if figure == "layers" else "kind")
    if task is not None:
        points = [mark for mark in points if mark.task == task]
    if figure in CURVES and not any(mark.lam is not None for mark in points):
        raise AnalysisError(
            f"figure {figure} needs points on the dial", source, "give a run or a table with a column lam"
        )
    if not points:
        raise AnalysisError(f"nothing was measured for task {task!r}", source, "name a task of the run")
    drawn: dict[str, Callable[[], Any]] = {
        "2": lambda: figures.overview(points, shaded),
        "3": lambda: figures.curves(points, shaded),
        "pareto": lambda: alt.concat(*_paretos(points), columns=3, spacing=36),
    }
    return drawn.get(figure, lambda: ablation(points))()


def write_figures(
    metrics: Sequence[PointMetrics], stages: Sequence[Stages], folder: StrPath, simplex: Simplex | None = None
) -> list[Path]:
    """Write every figure of a run into `folder`, as PNG and SVG; `simplex`: where its points lie on one.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    if folder.is_symlink():
        raise OutputError("the folder for figures is a link", folder, "remove it, or choose another folder")
    points, shaded = marks(metrics), bands(stages)
    names = tasks(points)
    charts = {"hero": hero(metrics, stages), "curves": figures.curves(points, shaded)}
    charts["simplex"] = triangles(points, simplex) if simplex else None
    for task in names:
        end = f"-{_slug(task)}" if len(names) > 1 else ""
        charts[f"pareto{end}"] = pareto(points, task)
        charts[f"outcomes{end}"] = figures.outcomes(metrics, task)
    return [
        save(chart, folder / f"{name}.{form}") for name, chart in charts.items() if chart for form in ("png", "svg")
    ]


def hero(metrics: Sequence[PointMetrics], stages: Sequence[Stages]) -> Any:
    """One wide picture of the first task, for a README or a slide: the three curves of the paper's Figure 3."""
    points = marks(metrics)
    return figures.curves(
        [mark for mark in points if mark.task == points[0].task], bands(stages), width=236, height=190
    )


def _triangles(source: Path, task: str | None) -> Any:
    """The triangle of a run."""
    simplex = simplex_of(RunFile.load(source)) if source.is_dir() else None
    if simplex is None or len(simplex.corners) != 3:
        what = "no points on a triangle" if simplex is None else f"a simplex of {len(simplex.corners)} models"
        raise AnalysisError(f"{what} here", source, "name the run folder of a `sweep --simplex A,B,C`")
    own = [mark for mark in marks(measure(run_samples.read(source, texts=False))) if task in (None, mark.task)]
    drawn = triangles(own, simplex)
    if drawn is None:
        raise AnalysisError(f"nothing was measured for task {task!r}", source, "name a task of the run")
    return drawn


def _paretos(points: Sequence[Mark]) -> list[Any]:
    names = tasks(points)
    titles = {task: f"{task}: accuracy against tokens" for task in names} if len(names) > 1 else {}
    drawn = [pareto(points, task, title=titles.get(task, TITLE)) for task in names]
    return [chart for chart in drawn if chart]


def _points(source: Path) -> tuple[list[Mark], list[figures.Band]]:
    """The marks of a run or table, and where its stage 2 lies."""
    if source.is_dir():
        samples = run_samples.read(source, texts=False)
        metrics = measure(samples)
        return marks(metrics), bands(stages_of(samples, metrics))
    rows = read_table(source)
    if {"task", "lam", "think"} <= rows[0].keys():
        curve = read_curves(source)
        return marks(curve), bands(stages_of(curve))
    found = table_marks(rows, source)
    return found, _brackets(found)


def _ablated(points: Sequence[Mark], run: Path, key: str) -> list[Mark]:
    """The points of a run whose recipe has rules by `key`, below the whole merges at the same λ."""
    recipes = {(entry.task, entry.point): entry.recipe for entry in RunFile.load(run).current}
    rules = {at: [rule for rule in _rules(recipe) if _sets(rule, key)] for at, recipe in recipes.items()}
    chosen = [mark for mark in points if rules[mark.task, mark.point]]
    if not chosen:
        what = "layers" if key == "layers" else "sublayers"
        raise AnalysisError(
            f"no point of this run interpolates some {what} only",
            run,
            "give such points in sweep.yml (`preset: skip-ffn-0.8`, or a recipe with rules): docs/sweep.md",
        )
    lams = [recipes[mark.task, mark.point].get("lambda") for mark in chosen]
    whole = [mark for mark in points if mark.lam is not None and mark.lam in lams]
    return [*whole, *(mark for mark in chosen if mark not in whole)]


def _rules(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rules of a recipe in a run.json, which may be anybody's."""
    rules = recipe.get("rules")
    return [rule for rule in rules if isinstance(rule, Mapping)] if isinstance(rules, list) else []


def _sets(rule: Mapping[str, Any], key: str) -> bool:
    """Whether a rule is about layers, or about a kind of module; what lies outside of the layers is neither."""
    return rule.get(key) not in (None, "none")


def _brackets(points: Sequence[Mark]) -> list[figures.Band]:
    """Where stage 2 lies on a table's dial."""
    rows = [
        CurveRow(mark.task, mark.lam, mark.statistics["think"].value)
        for mark in points
        if mark.lam is not None and "think" in mark.statistics
    ]
    return bands(stages_of(rows))


def predicted_beside(file: PredictionFile, run: Path | None) -> Any:
    """The predicted curves, beside what a run measured, if there is one."""
    return predicted.curves(file, () if run is None else marks(measure(run_samples.read(run, texts=False))))


def _routes(run: Path, task: str | None) -> Any:
    samples, policies = run_samples.read(run, texts=False), followed(RunFile.load(run))
    return routes(route(samples, task=task, policies=policies))


def _predicted(source: Path, figure: str, task: str | None) -> Any:
    """A figure of a prediction: of a run folder that holds one, or of its file."""
    file = PredictionFile.load(source / PREDICTION if source.is_dir() else source)
    if task is not None:
        if task not in file.tasks:
            raise AnalysisError(f"nothing was predicted for task {task!r}", source, "name a task of the prediction")
        file = file.model_copy(update={"tasks": {task: file.tasks[task]}})
    if figure == "parts":
        return predicted.heatmaps(file)
    return predicted_beside(file, source if (source / NAME).exists() else None)


def _sigmas(source: Path) -> list[tuple[str, str, float]]:
    rows = [] if source.is_dir() else read_table(source)
    if not rows or not {"model_a", "model_b", "sigma"} <= rows[0].keys():
        raise AnalysisError(
            "no σ between models here",
            source,
            "give a csv with the columns model_a, model_b, sigma",
        )
    return [(row["model_a"], row["model_b"], number(row, "sigma", source)) for row in rows]


def _cells(source: Path) -> list[DecodingCell]:
    """Decoding settings: of a run's points, or of a table with one column per temperature (`t0.60`)."""
    if source.is_dir():
        return _run_cells(source)
    rows = read_table(source)
    heads = [name for name in rows[0] if re.fullmatch(r"t\d+(\.\d+)?", name)]
    if not heads or not {"benchmark", "metric", "top_p"} <= rows[0].keys():
        raise AnalysisError("no decoding settings here", source, "give a csv with benchmark, metric, top_p, t0.60 …")
    return [
        DecodingCell(
            row["benchmark"],
            _metric(row["metric"]),
            float(head[1:]),
            number(row, "top_p", source),
            number(row, head, source) / 100,
        )
        for row in rows
        for head in heads
    ]


def _run_cells(run: Path) -> list[DecodingCell]:
    samplers = {(entry.task, entry.point): entry.sampler for entry in RunFile.load(run).current}
    cells = []
    for mark in marks(measure(run_samples.read(run, texts=False))):
        sampler = samplers[mark.task, mark.point]
        for name in ("mean", "pass", "vote"):
            if name in mark.statistics:
                value = mark.statistics[name].value
                cells.append(
                    DecodingCell(mark.task, mark.called(name), sampler["temperature"], sampler["top_p"], value)
                )
    if len({(cell.temperature, cell.top_p) for cell in cells}) < 2:
        raise AnalysisError(
            "all points of this run share one decoding setting", run, "sweep points with their own `sampler`"
        )
    return cells


def _metric(name: str) -> str:
    """`mean8` → `Mean@8`."""
    letters = name.rstrip("0123456789")
    return f"{letters.capitalize()}@{name[len(letters) :]}"


def _slug(task: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in task)
