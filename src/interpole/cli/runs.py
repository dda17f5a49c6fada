"""Commands about runs: sweep, watch, score, stages, recommend, report, plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interpole.cli.options import Embeddings, Json, Layers, NoDoctor, Run, RunOrCurves, Skip, TemplateFrom

if TYPE_CHECKING:
    from interpole.plan import SweepConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (sweep, watch, score, stages, recommend, report, plot):
        app.command(rich_help_panel="Measure and choose")(command)


def sweep(
    instruct: Annotated[
        str, typer.Argument(metavar="INSTRUCT|SWEEP.yml", help="Instruct checkpoint, or a sweep as YAML.")
    ],
    thinking: Annotated[str | None, typer.Argument(metavar="[THINKING]", help="Thinking checkpoint.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: made, continued or extended.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="arithmetic, aime25, ifeval, gpqa_diamond, FILE.jsonl or an Inspect task. Repeatable."),
    ] = None,
    lam: Annotated[str, typer.Option("--lambda", "-l", help="Points on the dial: 0:1:0.1 or 0,0.5,1.")] = "0:1:0.1",
    samples: Annotated[
        int | None, typer.Option("--samples", "-k", help="Responses per question. [default: the task's]")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    data: Annotated[Path | None, typer.Option(help="A local file with the task's problems.")] = None,
    layers: Layers = None,
    skip: Skip = None,
    embeddings: Embeddings = None,
    template_from: TemplateFrom = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0 is greedy. [default: the task's]")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus. [default: the task's]")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Only the k likeliest tokens; 0: off. [default: the task's]")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cap on generated tokens. [default: the task's]")] = None,
    prefix: Annotated[str | None, typer.Option(help="Text put after every prompt, e.g. '<think>\\n'.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of problems and responses.")] = None,
    engine: Annotated[str | None, typer.Option(help="transformers or scripted. [default: transformers]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and what is there already.")
    ] = False,
    no_doctor: NoDoctor = False,
) -> None:
    """Evaluate points between two checkpoints on tasks; killed and run again it goes on where it stopped.

    `interpole sweep INSTRUCT THINKING --task arithmetic --lambda 0:1:0.1 --samples 8 --out runs/x`

    `interpole sweep sweep.yml --out runs/x` takes everything from a file (docs/sweep.md).
    """
    from interpole.plan import SweepConfig

    sampler = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens}
    settings: dict[str, Any] = {
        "samples": samples, "limit": limit, "template_from": template_from, "prefix": prefix, "seed": seed, "engine": engine,
        "sampler": {name: value for name, value in sampler.items() if value is not None},
    }  # fmt: skip
    if thinking is None:
        config = SweepConfig.load(Path(instruct))
        given = {name: value for name, value in settings.items() if value not in (None, {})}
        config = SweepConfig.of(config.model_dump(exclude_unset=True, by_alias=True) | given, instruct)
    else:
        from interpole.rules import ablation

        settings |= {
            "sources": {"instruct": instruct, "thinking": thinking},
            "tasks": [{"task": name, "data": data} for name in task or ["arithmetic"]],
            "lambdas": lam,
            "recipe": {"rules": ablation(layers, skip or (), embeddings)},
        }
        config = SweepConfig.of({name: value for name, value in settings.items() if value not in (None, {})})
    start(config, out, dry_run=dry_run, doctor=not no_doctor)


def start(config: SweepConfig, out: Path, *, dry_run: bool = False, doctor: bool = True) -> None:
    """Run a sweep with a progress display, write its tables and say what came of it."""
    from interpole.cli.questions import examine_first
    from interpole.cli.show import show_metrics, show_plan, show_stages, sweep_bar
    from interpole.scoring import load, score
    from interpole.sources import open_source
    from interpole.stages import find_stages
    from interpole.sweep import plan, run

    if doctor and {"instruct", "thinking"} <= set(config.sources):
        examine_first(*(open_source(**dict(config.sources[name])) for name in ("instruct", "thinking")))
    if dry_run:
        return show_plan(plan(config, out))
    with sweep_bar() as on_progress:
        summary = run(config, out, on_progress)
    show_metrics(score(out))
    if config.lambdas:
        show_stages(find_stages(load(out)))
    typer.echo(f"{summary.num_generated:,} responses, {summary.num_tokens:,} tokens in {summary.seconds:.0f} s → {out}")
    for entry in summary.failed:
        typer.echo(f"failed: {entry.task} at {entry.point}; run the same command to try again", err=True)
    if summary.failed:
        raise typer.Exit(1)
    return None


def score(
    run: Run,
    grading: Annotated[str | None, typer.Option(help="Score by this grading. [default: each task's own]")] = None,
    as_json: Json = False,
) -> None:
    """Recompute all metrics of a run from its samples, without a model; writes curves.csv, metrics.json, stages.json."""
    from interpole.cli.show import show_metrics
    from interpole.scoring import score as score_run

    metrics = score_run(run, grading=grading)
    if as_json:
        typer.echo((run / "metrics.json").read_text(encoding="utf-8"), nl=False)
    else:
        show_metrics(metrics)
        typer.echo(f"wrote curves.csv, metrics.json and stages.json to {run}")


def stages(source: RunOrCurves, as_json: Json = False) -> None:
    """Find the three stages: where thinking sets in (Think #R at 5, 50 and 95 %), per task and pooled."""
    from interpole.cli.show import show_json, show_stages
    from interpole.scoring import load
    from interpole.stages import find_stages, to_json

    found = find_stages(load(source))
    if as_json:
        show_json(to_json(found))
    else:
        show_stages(found)


def recommend(
    source: RunOrCurves,
    *,
    max_tokens: Annotated[float | None, typer.Option(help="Mean tokens of a response may not exceed this.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Mean@k must reach this share (0 to 1).")] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="US dollars a response may cost; with --price-per-million.")
    ] = None,
    price_per_million: Annotated[float | None, typer.Option(help="US dollars for a million generated tokens.")] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="95 % of the best accuracy at the fewest tokens.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="Go by this task. [default: all, weighing the same]")] = None,
    as_json: Json = False,
) -> None:
    """Say which λ to use for a budget, what to expect of it, and how to make it. Exit code 3: nothing meets the budget."""
    from interpole import recommend as room
    from interpole.cli.show import show_json, show_recommendation
    from interpole.runs import RunFile
    from interpole.scoring import load

    names = ("INSTRUCT", "THINKING")
    if source.is_dir():
        info = RunFile.load(source).sources
        names = (info["instruct"].label, info["thinking"].label) if {"instruct", "thinking"} <= set(info) else names
    found = room.recommend(
        load(source), max_tokens=max_tokens, min_accuracy=min_accuracy, max_cost=max_cost,
        price_per_million=price_per_million, balanced=balanced, task=task, sources=names,
    )  # fmt: skip
    if as_json:
        show_json(room.to_json(found))
    else:
        show_recommendation(found)
    if found.choice is None:
        raise typer.Exit(3)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders; several are shown side by side.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. [default: RUN/report.html]")] = None,
    figures: Annotated[bool, typer.Option(help="Also PNG and SVG of every figure, in RUN/figures.")] = True,
    include_texts: Annotated[
        bool, typer.Option("--include-texts", help="Show questions even of tasks that ask not to be published.")
    ] = False,
) -> None:
    """Write one self-contained HTML page of a run: curves, stages, responses, how it was run. Needs no network."""
    from interpole.metrics import measure
    from interpole.report import write_figures, write_report
    from interpole.samples import read
    from interpole.stages import find_stages

    page = write_report(runs, out or runs[0] / "report.html", include_texts=include_texts)
    if figures:
        for run in runs:
            found = read(run, texts=False)
            write_figures(measure(found), find_stages(found), run / "figures")
    typer.echo(str(page))


def plot(
    source: RunOrCurves,
    figure: Annotated[str, typer.Option(help="2, 3, 4, 5, layers, modules, similarity or pareto.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .pdf, .png or .svg.")],
) -> None:
    """Draw one of the paper's figures from a run or a curves file, fit for a paper."""
    from interpole.report import plot as draw

    typer.echo(str(draw(source, figure, out)))


def watch(
    run: Run,
    price_per_million: Annotated[float | None, typer.Option(help="US dollars for a million generated tokens.")] = None,
) -> None:
    """Watch a running or finished sweep: points, curves as sparklines, time and cost left. It only reads."""
    from interpole.watch import watch as show

    show(run, price_per_million=price_per_million)
