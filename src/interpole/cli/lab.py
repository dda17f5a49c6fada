"""Commands about the tiny trained pair: demo, lab train, lab path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

lab = typer.Typer(
    help="The tiny trained Instruct/Thinking pair: where it lies, and how to train another.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(rich_help_panel="Begin here")(demo)
    app.add_typer(lab, name="lab", rich_help_panel="Begin here")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; kept, and continued if it is there.")] = Path(
        "demo"
    ),
    samples: Annotated[int, typer.Option("--samples", "-k", help="Responses per question.")] = 4,
    limit: Annotated[int, typer.Option(help="Number of questions.")] = 120,
) -> None:
    """Do it all on the shipped tiny pair, in minutes: merge, evaluate, find the stages, write the report."""
    from interpole.cli.runs import report
    from interpole.cli.show import console
    from interpole.cli.sweep import start
    from interpole.cli.weights import write
    from interpole.lab import shipped
    from interpole.plan import SweepConfig
    from interpole.recipe import Recipe
    from interpole.recommend import recommend
    from interpole.scoring import load

    pair = shipped()
    console.rule("Sweep: the dial from Instruct to Thinking")
    config = SweepConfig.of(
        {
            "sources": {"instruct": str(pair.instruct), "thinking": str(pair.thinking)},
            "tasks": ["arithmetic"],
            "lambdas": "0:0.4:0.1,0.45,0.5,0.55,0.6:1:0.1",
            "samples": samples,
            "limit": limit,
        }
    )
    start(config, out / "run")
    console.rule("The λ to use, its model, and the report")
    choice = recommend(load(out / "run"), balanced=True).lam
    merged = out / f"merged-{choice:g}"
    if choice is not None and not merged.exists():
        write({merged: Recipe.between(pair.instruct, pair.thinking, choice)})
    report([out / "run"], out=None, figures=True, include_texts=False)


@lab.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, with base, instruct and thinking in it.")],
    arch: Annotated[str, typer.Option(help="qwen3 or llama.")] = "qwen3",
    seed: Annotated[int, typer.Option(help="Of weights, data and order.")] = 0,
) -> None:
    """Train the tiny pair anew: a base and its two fine-tunes, on one core, in minutes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from interpole.lab.train import train as train_pair

    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, int] = {}

        def progress(stage: str, step: int, total: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = int(bar.add_task(stage, total=total))
            bar.update(tasks[stage], completed=step, description=f"{stage} {loss:.3f}")  # type: ignore[arg-type]

        train_pair(arch, seed, out, progress=progress)
    typer.echo(str(out))


@lab.command()
def path() -> None:
    """Print where the shipped base, Instruct and Thinking checkpoints lie."""
    from interpole.lab import shipped

    pair = shipped()
    for name, where in (("base", pair.base), ("instruct", pair.instruct), ("thinking", pair.thinking)):
        typer.echo(f"{name} {where}")
