"""The command `paper`: one table or figure of arXiv 2510.10977 made again, and measured beside printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interpole.cli import options
from interpole.cli.sweep import cost_sentences, engine_options_of, examine, named, ran, say_costs
from interpole.errors import OutputError, RunError
from interpole.files import make_folder, read_text, size_text, write_atomic

if TYPE_CHECKING:
    from rich.text import Text

    from interpole.paper.experiments import Design, Experiment, Family
    from interpole.paper.verdicts import ComparedRow, Replication
    from interpole.sweep.config import SweepConfig

__all__ = ["paper", "register"]

HEADER = "# {title} (arXiv 2510.10977, {name}), as `interpole paper {name}` wrote it.\n"
MARGIN = 0.1
PairName = Annotated[
    str,
    typer.Option(
        help="tiny (shipped, minutes), paper (its own, from the hub), or INSTRUCT,THINKING[,HYBRID[,PRETRAINED]]."
    ),
]
Margin = Annotated[
    float, typer.Option(min=0.001, help="How wide an interval around 0 may be to agree: a share, or part of a length.")
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Measure and choose")(paper)


def paper(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="table1 … figure5. [default: list what there is]")
    ] = None,
    *,
    pair: PairName = "tiny",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for sweep.yml and the run. [default: paper-NAME]")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Take this run as it is; nothing is generated.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Ask this task, in place of the experiment's. Repeatable."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="TASK=FILE", help="A local file of a task's problems. Repeatable.")
    ] = None,
    samples: options.Samples = None,
    limit: options.Limit = None,
    engine: options.EngineName = None,
    engine_option: options.EngineOptions = None,
    engines: options.Engines = None,
    margin: Margin = MARGIN,
    dry_run: options.DryRun = False,
    guess_tokens: options.GuessTokens = None,
    tokens_per_second: options.TokensPerSecond = None,
    no_doctor: options.NoDoctor = False,
    as_json: options.Json = False,
) -> None:
    """Make a table or figure of the paper again, and print measured beside printed with the difference and a verdict.

    The printed numbers are of the paper's models and tasks. On the tiny pair, and on tasks of your own, the same design runs and
    says whether what the paper claims holds there, without comparing numbers (docs/paper.md).
    """
    if name is None:
        _list(as_json=as_json)
        return
    from interpole.paper.experiments import design, experiment, family_of, mean_tokens

    one = experiment(name)
    if one.weights_only and run is not None:
        raise typer.BadParameter(f"{one.name} is about weights: it has no run")
    if run is not None:
        _show(one, _held(one, run, margin), {}, as_json=as_json, run=str(run))
        return
    family = family_of(pair, one.size)
    if one.weights_only:
        _weigh(one, family, tiny=pair == "tiny", dry_run=dry_run, as_json=as_json)
        return
    options_given = engine_options_of(engine_option or ())
    settings = {
        "samples": samples,
        "limit": limit,
        "engine": engine,
        "engines": engines,
        "engine_options": options_given,
    }
    files = named("--data", data or ())
    made = design(one, family, tasks=task or (), data=files, tiny=pair == "tiny", settings=settings)
    folder = out or Path(f"paper-{one.name}")
    config = _written(one, made, folder)
    if not no_doctor:
        examine(config)
    guess, rate = guess_tokens or mean_tokens(one, config), tokens_per_second
    if dry_run:
        say_costs(config, folder / "run", guess, rate, as_json=as_json)
        return
    _say_cost_briefly(config, folder / "run", guess_tokens=guess, tokens_per_second=rate)
    summary = ran(config, folder / "run", doctor=False)
    _score(folder / "run", show=not as_json)
    _show(one, _held(one, folder / "run", margin), made.left_out, as_json=as_json, run=str(folder / "run"))
    if summary.failed:
        raise typer.Exit(1)


def _list(*, as_json: bool) -> None:
    """Say which experiments there are, and which there are not."""
    from interpole.cli.show import console, show_json
    from interpole.paper.experiments import EXPERIMENTS, NOT_HERE

    if as_json:
        show_json({"experiments": {name: one.title for name, one in EXPERIMENTS.items()}, "not_here": dict(NOT_HERE)})
        return
    for name, one in EXPERIMENTS.items():
        console.print(f"{name:8} {one.title}")
    for name, why in NOT_HERE.items():
        console.print(f"{name} cannot be made again: {why}.")


def _written(one: Experiment, made: Design, folder: Path) -> SweepConfig:
    """Write `sweep.yml` into the folder, and read it back.

    Raises:
        OutputError: there is another one.
    """
    from interpole.sweep.config import SweepConfig

    path, text = folder / "sweep.yml", HEADER.format(name=one.name, title=one.title) + made.text
    if path.exists() and read_text(path, OutputError, "the sweep") != text:
        raise OutputError(
            "there is another sweep.yml than this would write",
            path,
            f"choose another -o; or run this one: interpole sweep {path} --out RUN, then interpole paper {one.name} --from RUN",
        )
    make_folder(folder)
    write_atomic(path, text)
    typer.echo(f"wrote {path}", err=True)
    return SweepConfig.load(path, trust=True)


def _say_cost_briefly(config: SweepConfig, run: Path, **known: float | None) -> None:
    """What is left to generate, on stderr."""
    from interpole.sweep.estimate import estimate
    from interpole.sweep.run import plan

    planned = plan(config, run)
    cost = estimate(config, run, planned, **known)
    typer.echo(f"{cost.num_samples:,} responses to generate", err=True)
    for line in cost_sentences(cost):
        typer.echo(line, err=True)


def _score(run: Path, *, show: bool) -> None:
    """Write the tables of a run, and show what was measured."""
    from interpole.analysis.scoring import score
    from interpole.cli.show import show_metrics

    metrics = score(run)
    if show:
        show_metrics(metrics)


def _held(one: Experiment, run: Path, margin: float) -> Replication:
    """A run held against an experiment."""
    from interpole.paper.same import matched
    from interpole.paper.verdicts import compare
    from interpole.runs.runfile import RunFile
    from interpole.runs.samples import read

    found = read(run, texts=False)
    if not found:
        raise RunError("the run has no finished samples yet", run, "run the sweep again; it goes on where it stopped")
    return compare(one, found, margin=margin, matched=matched(one, RunFile.load(run)))


def _weigh(one: Experiment, family: Family, *, tiny: bool, dry_run: bool, as_json: bool) -> None:
    """Measure σ between the models of a family, and hold it against Table 1."""
    from itertools import combinations

    from interpole.checkpoints.open import open_source
    from interpole.cli.progress import bytes_bar
    from interpole.cli.show import show_json
    from interpole.diagnostics.similarity import compare
    from interpole.paper.verdicts import compare_sigmas

    models = {label: open_source(place, weights=not dry_run) for label, place in family.models.items()}
    pairs = list(combinations(models, 2))
    total = sum(models[label].num_bytes for pair in pairs for label in pair)
    if dry_run and as_json:
        show_json({"pairs": [list(pair) for pair in pairs], "bytes": total})
    elif dry_run:
        typer.echo(f"σ of {len(pairs)} pairs: {size_text(total)} of weights to read; no sweep, nothing is generated")
    else:
        with bytes_bar("reading", sum(models[first].num_bytes for first, _ in pairs)) as advance:
            sigmas = {pair: compare(*(models[x] for x in pair), progress=advance).sigma() for pair in pairs}
        _show(one, compare_sigmas(sigmas, others=tiny), {}, as_json=as_json)


def _show(one: Experiment, found: Replication, left_out: Mapping[str, str], *, as_json: bool, run: str = "") -> None:
    """Measured beside printed, then the claims."""
    from rich.text import Text

    from interpole.cli.show import console, show_json, table
    from interpole.paper.verdicts import to_json

    if as_json:
        show_json(
            {"experiment": one.name, "title": one.title, "run": run, "left_out": dict(left_out), **to_json(found)}
        )
        return
    for task in dict.fromkeys(row.task for row in found.rows):
        rows = [_cells(row) for row in found.rows if row.task == task]
        columns = ["point", "", "printed", "measured", "difference", "verdict"]
        table(f"{one.name}, {task}: {one.title}; differences with 95 % intervals", columns, rows)
    counts = Counter(row.verdict for row in found.rows)
    if found.rows:
        told = counts["agrees"] + counts["differs"]
        console.print(", ".join(f"{num} {verdict}" for verdict, num in counts.items()) + ".")
        if told and not one.weights_only:
            console.print(
                f"  Of {told} numbers that are told, {0.05 * told:.1f} would differ by chance alone.", style="dim"
            )
    else:
        tasks = ", ".join(dict.fromkeys(row.task for row in one.rows))
        console.print(f"The printed numbers are of {tasks}, which this run did not ask: none is compared.")
    for name, why in left_out.items():
        console.print(f"Left out: {name}: {why}.")
    if found.claims:
        console.print("\nWhat the paper claims, asked here:", style="bold")
    for heard in found.claims:
        style = {"holds": "green", "does not hold": "red"}.get(heard.verdict, "dim")
        console.print(Text.assemble(f"{heard.task}: {heard.claim}: ", (heard.verdict, style), f". {heard.numbers}"))


def _cells(row: ComparedRow) -> list[str | Text]:
    """One line of the table."""
    from rich.text import Text

    from interpole.analysis.intervals import ends_text

    scale, digits = (1, 4) if row.statistic == "σ" else (1, 0) if row.statistic == "Token #N" else (100, 1)

    def number(value: float, sign: str = "") -> str:
        return f"{scale * value:{sign},.{digits}f}"

    verdict = f"{row.verdict}: {row.reason}" if row.reason else row.verdict
    point = f"{row.point} (here “{row.called}”)" if row.called else row.point
    if row.measured is None or row.difference is None:
        return [point, row.statistic, number(row.printed), "–", "–", Text(verdict, "dim")]
    change = Text.assemble(
        f"{number(row.difference.value, '+')} ", (ends_text(row.difference, scale, digits, "+"), "dim")
    )
    style = {"agrees": "green", "differs": "red"}.get(row.verdict, "dim")
    return [point, row.statistic, number(row.printed), number(row.measured.value), change, Text(verdict, style)]
