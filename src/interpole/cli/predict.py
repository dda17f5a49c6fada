"""The command `predict`: where thinking will set in on a pair, from forward passes alone."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interpole.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interpole.analysis.prediction import Curve
    from interpole.runs.prediction import Ends, PartsFound
    from interpole.search.predict import Beside, ForwardPasses
    from interpole.sweep.config import SweepConfig

__all__ = ["predict", "register"]

_of_task, _of_dial, _of_part = map(options.panel, ("What to ask", "Where on the dial", "Parts of the model"))


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Measure and choose")(predict)


def predict(
    instruct: Annotated[
        str, typer.Argument(metavar="INSTRUCT|SWEEP.yml", help="Instruct checkpoint, or a sweep as YAML.")
    ],
    thinking: options.ThinkingOfSweep = None,
    *,
    task: options.Tasks = None,
    data: options.Data = None,
    prompts: Annotated[
        Path | None, _of_task(help="User messages in the place of a task: .jsonl, or one a line.")
    ] = None,
    limit: Annotated[int, _of_task(help="The first so many questions of each task.")] = 16,
    lam: Annotated[str | None, _of_dial("--lambda", "-l", help="A grid, e.g. 0:1:0.1. [default: bisection]")] = None,
    tolerance: Annotated[float, _of_dial(help="Of bisection.", min=1e-4, max=0.5)] = 1 / 64,
    layers: options.Layers = None,
    skip: options.Skip = None,
    embeddings: options.Embeddings = None,
    extrapolate: options.Extrapolate = False,
    template_from: options.TemplateFrom = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    prefix: options.Prefix = None,
    template_variable: options.TemplateVariables = None,
    engine: options.EngineName = None,
    engine_option: options.EngineOptions = None,
    by: Annotated[
        list[str] | None,
        _of_part(
            help="Move one part at a time: kinds, layers, groups (of layers) or cells (layer × kind). Repeatable."
        ),
    ] = None,
    groups: Annotated[int, _of_part(help="How many groups.", min=1)] = 3,
    at: Annotated[float, _of_part(help="λ that a part moves to.")] = 1.0,
    against: Annotated[Path | None, typer.Option(metavar="RUN", help="A sweep of the same, to compare with.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for prediction.json; a run's, and its report shows it.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve into this .pdf, .png or .svg.")] = None,
    trust: options.Trust = False,
    no_doctor: options.NoDoctor = False,
    as_json: options.Json = False,
) -> None:
    """Say at which λ thinking will set in, before a token is generated: how likely responses are to open it (docs/predict.md).

    `interpole predict INSTRUCT THINKING --task arithmetic`
    """
    from interpole.cli.sweep import config_of, engine_options_of, named, recipe_of, said

    settings: dict[str, Any] = {
        "limit": limit, "template_from": template_from, "prefix": prefix, "engine": engine,
        "engine_options": engine_options_of(engine_option or ()),
        "template_variables": named("--template-variable", template_variable or ()),
        "lambdas": lam,
        "sampler": said(temperature=temperature, top_p=top_p, top_k=top_k),
        "tasks": [{"task": name, "data": data} for name in task or ()],
        "recipe": recipe_of(layers, skip or (), embeddings, extrapolate=extrapolate),
    }  # fmt: skip
    if not (extrapolate or -0.5 <= at <= 1.5):
        raise typer.BadParameter(
            f"λ = {at:g} lies far beyond the pair; if it is meant: --extrapolate", param_hint="--at"
        )
    config = config_of(instruct, thinking, settings, served=False, trust=trust)
    parts = {"by": by or (), "groups": groups, "at": at}
    outputs = {"against": against, "out": out, "plot": plot, "as_json": as_json}
    _start(config, prompts, None if lam is None else config.lambdas, tolerance, parts, outputs, doctor=not no_doctor)


def _start(
    config: SweepConfig,
    prompts: Path | None,
    grid: Sequence[float] | None,
    tolerance: float,
    parts: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    doctor: bool,
) -> None:
    """Ask, compare, write and show."""
    from interpole.cli.show import show_json
    from interpole.cli.sweep import examine
    from interpole.report.render import check_format, save
    from interpole.search.predict import against, ask_parts, opened, to_file

    if outputs["plot"]:
        check_format(outputs["plot"])
    if doctor:
        examine(config)
    run = outputs["against"]
    tell = partial(typer.echo, err=True)
    with opened(config, prompts, tell) as (asked, engine):
        if grid is None:
            asked.bisect(tolerance, tell=tell)
        else:
            for lam in grid:
                asked.at(lam)
        beside = against(asked, run) if run else []
        found = {by: ask_parts(asked, by, lam=parts["at"], num_groups=parts["groups"], tell=tell) for by in parts["by"]}
        curves = {task: asked.curve(task, config.seed) for task in asked.tasks}
        file = to_file(asked, curves, found, engine)
    if outputs["out"]:
        typer.echo(str(file.save(outputs["out"])), err=True)
    if outputs["plot"]:
        from interpole.report.plots import predicted_beside

        typer.echo(str(save(predicted_beside(file, run), outputs["plot"])), err=True)
    if outputs["as_json"]:
        rows = [{**one._asdict(), "measured": list(one.measured)} for one in beside]
        show_json({**file.model_dump(mode="json"), "against": rows} if run else file.model_dump(mode="json"))
        return
    _show(asked, curves, beside)
    for by, tasks in found.items():
        for task, one in tasks.items():
            _show_parts(f"{task}, by {by}", one)


def _show(asked: ForwardPasses, curves: Mapping[str, Curve], beside: Sequence[Beside]) -> None:
    """The three λ of each task, what they rest on, and what a sweep measured."""
    from interpole.analysis.intervals import Interval, interval_text
    from interpole.cli.show import console, share, table

    def shown(one: Interval | None) -> str:
        return "–" if one is None else interval_text(one, digits=3)

    rows = [
        [task, shown(one.on), shown(one.mid), shown(one.off), str(one.num_questions)] for task, one in curves.items()
    ]
    table("Predicted: λ at which so many responses begin to think", ["task", "5 %", "50 %", "95 %", "prompts"], rows)
    for task, one in curves.items():
        for note in one.notes:
            console.print(f"{task}: {note}.")
    num = len(asked.known)
    console.print(
        f"The probability that a sampled response begins with {asked.begins}, at {num} λ: {num * len(asked.prompts)} forward "
        f"passes over prompts, {'a few tokens' if asked.relative else 'no token'} generated. Intervals are over questions.",
        markup=False,
    )
    if beside:
        lines = [
            [f"{one.task} λ={one.lam:g}", share(one.measured), f"{100 * one.predicted:.1f}",
             f"{100 * (one.predicted - one.measured.value):+.1f}"]
            for one in beside
        ]  # fmt: skip
        console.print()
        table("Beside the sweep", ["point", "Think #R, %", "predicted, %", "points"], lines)


def _show_parts(title: str, found: PartsFound) -> None:
    """What each part adds, the largest first, and whether parts add up."""
    from interpole.cli.show import console, table

    rows = [[part.name, _ends(part.change, 1, 2, "+"), _ends(part.share, 100, 0, unit=" %")] for part in found.parts]
    table(
        f"{title}: what a part that moves alone to λ={found.at:g} adds to the log odds of thinking",
        ["part", "log odds", "of the whole's"],
        rows,
    )
    console.print(
        f"Everything together: {found.start:+.2f} at λ=0, and {_ends(found.whole, 1, 2, '+')} more. The parts add up to "
        f"{_ends(found.together, 100, 0, unit=' %')} of that."
    )


def _ends(ends: Ends, scale: float, digits: int, sign: str = "", unit: str = "") -> str:
    """A value of a prediction file with the ends of its interval, where they are known."""
    from interpole.analysis.intervals import Interval, interval_text

    if ends[0] is None:
        return "–"
    return interval_text(Interval(*(math.nan if end is None else end for end in ends)), scale, digits, sign, unit)
