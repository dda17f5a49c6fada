"""Commands about runs: sweep, watch, score, stages, recommend, report, plot."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interpole.cli.options import EstimandOption, Grading, Json, PricePerMillion, Run, RunOrCurves
from interpole.cli.sweep import sweep
from interpole.errors import AnalysisError

if TYPE_CHECKING:
    from interpole.analysis.choices import Choice

__all__ = ["plot", "recommend", "register", "report", "score", "stages", "watch"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (sweep, watch, score, stages, recommend, report, plot):
        app.command(rich_help_panel="Measure and choose")(command)


def _in_one_thread() -> None:
    """Before numpy is imported: where matrices are as small as these commands' are, its threads wait busily for each other."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def score(
    run: Run,
    grading: Grading = None,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="First grade all responses again, from their texts.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="With --regrade: run the python: graders that the run folder names.")
    ] = False,
    estimand: EstimandOption = "like-these",
    as_json: Json = False,
) -> None:
    """Recompute all metrics of a run from its samples, without a model; writes curves.csv, metrics.json, stages.json."""
    _in_one_thread()
    from interpole.analysis.metrics import estimand_of
    from interpole.analysis.scoring import score as score_run
    from interpole.cli.show import show_metrics

    if regrade:
        _regrade(run, trust)
    metrics = score_run(run, grading=grading, estimand=estimand_of(estimand))
    if as_json:
        typer.echo((run / "metrics.json").read_text(encoding="utf-8"), nl=False)
    else:
        show_metrics(metrics)
        typer.echo(f"wrote curves.csv, metrics.json and stages.json to {run}")


def _regrade(run: Path, trust: bool) -> None:
    from interpole.runs.regrade import code_of, regrade

    for code in code_of(run) if trust else ():
        typer.echo(f"grades with {code}", err=True)
    found = regrade(run, trust=trust)
    typer.echo(f"graded {found.num_samples:,} responses again", err=True)
    for (task, grading), num in found.changed.items():
        typer.echo(f"{task}, {grading}: {num:,} scores changed", err=True)
    if not found.changed:
        typer.echo("no score changed", err=True)
    for task in found.left_out:
        typer.echo(f"{task}: not graded again, as its scorers are Inspect's; see `inspect score`", err=True)


def stages(
    source: RunOrCurves,
    *,
    margin: Annotated[
        float, typer.Option(help="A gain in accuracy below it is not worth more tokens (a share).")
    ] = 0.02,
    grading: Grading = None,
    as_json: Json = False,
) -> None:
    """Find the three stages: where thinking sets in (Think #R at 5, 50 and 95 %), per task and pooled."""
    _in_one_thread()
    from interpole.analysis.scoring import load
    from interpole.analysis.stages import find_stages, to_json
    from interpole.cli.show import show_json, show_next, show_stages

    found = find_stages(load(source, grading=grading), margin=margin)
    if as_json:
        show_json(to_json(found))
    else:
        show_stages(found)
        show_next("recommend", source, "--balanced")


def recommend(
    source: RunOrCurves,
    *,
    max_tokens: Annotated[float | None, typer.Option(help="Mean tokens of a response may not exceed this.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Mean@k must reach this share (0 to 1).")] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="US dollars a response may cost; with --price-per-million.")
    ] = None,
    price_per_million: PricePerMillion = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="95 % of the best accuracy at the fewest tokens.")
    ] = False,
    max_tokens_p95: Annotated[
        float | None, typer.Option(help="19 of 20 responses may not exceed this; goes with any budget.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Meet the budget with this probability, e.g. 0.9. [default: the measured mean does]"),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Go by this task. [default: all, weighing the same]")] = None,
    simplex: Annotated[
        bool, typer.Option("--simplex", help="Choose on the triangle of models. [default: where a run has no dial]")
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE.yml", help="Write the recipe of what is chosen, for `interpole merge`.")
    ] = None,
    grading: Grading = None,
    as_json: Json = False,
) -> None:
    """Say which λ, or point of a triangle, to use for a budget, and what to expect. Exit code 3: nothing meets the budget."""
    _in_one_thread()
    from interpole.analysis import recommend as analysis
    from interpole.analysis.scoring import load
    from interpole.cli.show import show_json, show_recommendation
    from interpole.report.commands import ends
    from interpole.runs.runfile import RunFile
    from interpole.runs.simplex import simplex_of

    names: tuple[str, str] | None = ("INSTRUCT", "THINKING")
    on_simplex = None
    data = load(source, grading=grading)
    if source.is_dir():
        file = RunFile.load(source)
        names = ends(file)
        on_simplex = simplex_of(file) if simplex or all(one.lam is None for one in data) else None
    if simplex and on_simplex is None:
        raise AnalysisError("no points of a simplex here", source, "name the run folder of a `sweep --simplex A,B,C`")
    found = analysis.recommend(
        data, max_tokens=max_tokens, min_accuracy=min_accuracy, max_cost=max_cost,
        price_per_million=price_per_million, balanced=balanced, max_tokens_p95=max_tokens_p95,
        confidence=confidence, task=task, sources=names, simplex=on_simplex,
    )  # fmt: skip
    if recipe is not None and (shown := found.choice or found.nearest):
        _write_recipe(source, shown, recipe)
        found = replace(found, command=found.command.replace("RECIPE.yml", shlex.quote(str(recipe))))
    if as_json:
        show_json(analysis.to_json(found))
    else:
        show_recommendation(found)
    if found.choice is None:
        raise typer.Exit(3)


def _write_recipe(run: Path, chosen: Choice, path: Path) -> None:
    """Write the recipe of a point that was measured, as the run has it."""
    from interpole.files import write_atomic
    from interpole.merging.recipe import build
    from interpole.runs.runfile import RunFile

    entries = RunFile.load(run).current if run.is_dir() else ()
    asked = next((one for one in entries if chosen.key in (one.point, one.lam)), None)
    if asked is None:
        raise AnalysisError(f"{chosen.name} was never run, so there is no recipe of it", run, "measure it first")
    write_atomic(path, build(asked.recipe, run).to_yaml())


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders; several are shown side by side.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. [default: RUN/report.html]")] = None,
    figures: Annotated[bool, typer.Option(help="Also PNG and SVG of every figure, in RUN/figures.")] = True,
    grading: Grading = None,
    include_texts: Annotated[
        bool, typer.Option("--include-texts", help="Show questions even of tasks that ask not to be published.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page of a run: curves, stages, responses, how it was run. Needs no network."""
    _in_one_thread()
    from interpole.cli.show import show_json
    from interpole.report import write_page_and_figures

    page, drawn = write_page_and_figures(
        runs, out or runs[0] / "report.html", grading=grading, include_texts=include_texts, figures=figures
    )
    if as_json:
        show_json({"page": str(page), "figures": [str(path) for path in drawn]})
    else:
        typer.echo(str(page))


def plot(
    source: RunOrCurves,
    figure: Annotated[
        str, typer.Option(help="2, 3, 4, 5, layers, modules, similarity, pareto, prediction, parts, simplex or route.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .pdf, .png or .svg.")],
    as_json: Json = False,
) -> None:
    """Draw a figure of a run or a curves file, fit for a paper; docs/report.md says what each shows."""
    _in_one_thread()
    from interpole.cli.show import show_json
    from interpole.report import plot as draw

    drawn = draw(source, figure, out)
    if as_json:
        show_json({"figure": str(drawn)})
    else:
        typer.echo(str(drawn))


def watch(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="A run folder, or those of a sweep's shards.")],
    price_per_million: PricePerMillion = None,
    as_json: Json = False,
) -> None:
    """Watch a running or finished sweep: points, curves as sparklines, time and cost left. It only reads."""
    from interpole.cli.show import show_json
    from interpole.cli.watch import Watcher, to_json
    from interpole.cli.watch import watch as show

    if as_json:  # where it stands now
        show_json(to_json(Watcher(*runs).read()))
    else:
        show(*runs, price_per_million=price_per_million)
