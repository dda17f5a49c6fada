"""Commands about what runs hold: samples, runs merge, runs list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interpole.cli.options import Json, Run

if TYPE_CHECKING:
    from rich.text import Text

    from interpole.records import Sample
    from interpole.runs.runfile import RunFile

__all__ = ["list_", "merge", "register", "samples"]

SHOWN_CHARS = 3000

runs = typer.Typer(help="Run folders: combine them, list them.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(rich_help_panel="Measure and choose")(samples)
    app.add_typer(runs, name="runs", rich_help_panel="Measure and choose")


def samples(
    run: Run,
    *,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Of this problem. Repeatable.")] = None,
    lam: Annotated[str | None, typer.Option("--lambda", "-l", help="At these λ: 0.5 or 0,0.5,1.")] = None,
    point: Annotated[str | None, typer.Option(help="At this point, by its name.")] = None,
    task: Annotated[str | None, typer.Option(help="Of this task.")] = None,
    right: Annotated[
        bool | None, typer.Option("--right/--wrong", help="Only right ones, or only wrong ones.", show_default=False)
    ] = None,
    grading: Annotated[
        str | None, typer.Option(help="Right or wrong by this grading. [default: the task's own]")
    ] = None,
    num: Annotated[int, typer.Option("-n", help="Show at most so many.")] = 5,
    full: Annotated[
        bool, typer.Option("--full", help=f"Whole responses; else cut at {SHOWN_CHARS:,} characters.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show responses: thinking dimmed, answer, how it ended, tokens and grades."""
    from itertools import islice

    from interpole.analysis.metrics import score_of
    from interpole.errors import AnalysisError
    from interpole.merging.recipe import parse_lambdas
    from interpole.records import Outcome
    from interpole.runs.runfile import RunFile
    from interpole.runs.samples import read_some

    lams = None if lam is None else parse_lambdas(lam)

    def wanted(one: Sample) -> bool:
        return (not ids or one.problem_id in ids) and (
            right is None or (one.outcome is not Outcome.FAILED and (score_of(one, grading) >= 1) == right)
        )

    file = RunFile.load(run)
    found = list(islice((one for one in read_some(run, task=task, point=point, lams=lams) if wanted(one)), num))
    if not found:
        points = ", ".join(dict.fromkeys(entry.point for entry in file.current))
        raise AnalysisError("no response is like that", run, f"tasks: {', '.join(file.tasks)}; points: {points}")
    if as_json:
        from interpole.cli.show import show_json

        show_json([asdict(one) for one in found])
        return
    for one in found:
        _show(one, file, full)


def _show(one: Sample, file: RunFile, full: bool) -> None:
    """Print one sample."""
    from rich.text import Text

    from interpole.cli.show import console

    grades = ", ".join(f"{name} {score:g}" for name, score in one.grades.items())
    closed_by = f" by {one.pseudo_close}" if one.pseudo_close else ""
    forced = " (thought closed by force)" if one.budget_forced else ""
    ended = (
        f"{one.outcome.value.replace('_', '-')}{closed_by}{forced}, {one.num_tokens:,} tokens, {grades or one.error}"
    )
    point = one.point if one.chosen_lam is None else f"{one.point}, at λ={one.chosen_lam:g}"
    console.rule(Text(f"{one.task} · {point} · {one.problem_id} · sample {one.number}"), align="left")
    console.print(Text(_shortened(one.question, full)), style="bold")
    console.print(_response(one, file, full))
    console.print(
        Text(f"→ {one.answer or 'no answer'} (should be {one.target or 'checked by program'}); {ended}\n"), style="cyan"
    )


def _response(one: Sample, file: RunFile, full: bool) -> Text:
    """The response with its thinking dimmed."""
    from rich.text import Text

    entry = next(entry for entry in file.current if (entry.task, entry.point) == (one.task, one.point))
    spans = file.format_of(entry).parse(one.response, one.finish).spans
    shown = [(one.response[span.start : span.end], "" if span.kind == "answer" else "dim") for span in spans]
    return Text.assemble(*((_shortened(text, full), style) for text, style in shown))


def _shortened(text: str, full: bool) -> str:
    """Long text without its middle."""
    if full or len(text) <= SHOWN_CHARS:
        return text
    half = SHOWN_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


@runs.command()
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN…", help="Run folders; the first one's settings hold.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    as_json: Json = False,
) -> None:
    """Make one run of several, without generating anything; refused where weights, settings or problems differ.

    Exit code 1 where it is made and something is missing in it: a shard, or what a run has not finished.
    """
    from interpole.cli.show import show_json, show_next
    from interpole.runs.combine import combine

    made = combine(folders, out)
    is_whole = not made.unfinished and not made.missing
    if as_json:
        shown = {
            "num_samples": made.num_samples,
            "num_duplicates": made.num_duplicates,
            "unfinished": list(made.unfinished),
            "missing": list(made.missing),
        }
        show_json({"run": str(out)} | shown)
        raise typer.Exit(int(not is_whole))
    again = f"; {made.num_duplicates:,} were there more than once" if made.num_duplicates else ""
    typer.echo(f"{made.num_samples:,} responses{again} → {out}")
    for part in made.unfinished:
        typer.echo(f"left out, as it is not finished: {part}", err=True)
    for shard in made.missing:
        typer.echo(f"not there: {shard}", err=True)
    if not is_whole:
        remedy = f"sweep into {out}, which makes what is missing, or merge all that belongs together into another --out"
        typer.echo(remedy, err=True)
    show_next("score", out)
    raise typer.Exit(int(not is_whole))


@runs.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to look.")] = Path("runs"),
    *,
    as_json: Json = False,
) -> None:
    """List the run folders in a folder: tasks, points, how much is done, when it last changed."""
    from interpole.cli.show import show_json, table
    from interpole.errors import RunError, printable
    from interpole.runs.runfile import NAME, RunFile

    try:
        paths = sorted(path for path in folder.iterdir() if (path / NAME).exists())
    except OSError as error:
        remedy = "give the folder that holds run folders: interpole runs list FOLDER"
        raise RunError(f"cannot be listed: {error.strerror}", folder, remedy) from None
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            file = RunFile.load(path)
        except RunError as error:
            typer.echo(f"{path.name} is left out: {printable(error.what)}", err=True)
            continue
        done = sum(entry.status == "done" for entry in file.current)
        points = len({entry.point for entry in file.current})
        numbers = {"points": points, "done": done, "entries": len(file.current)}
        found.append({"run": path.name, "tasks": list(file.tasks)} | numbers | {"changed": file.updated})
    if as_json:
        show_json(found)
        return
    if not paths:
        typer.echo(f"no run folders in {folder}", err=True)
        return
    rows = [
        [
            one["run"],
            ", ".join(one["tasks"]),
            str(one["points"]),
            f"{one['done']}/{one['entries']}",
            one["changed"][:16],
        ]
        for one in found
    ]
    table(f"Runs in {folder}", ["run", "tasks", "points", "done", "changed"], rows)
