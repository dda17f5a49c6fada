"""Commands that choose: compare points in pairs, search λ maps; and what an adaptive sweep says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interpole.cli.cluster import actors_of
from interpole.cli.options import Engines, EstimandOption, Grading, Json, RayAddress, Run, Trust, say_what_is_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from interpole.analysis.compare import Comparison
    from interpole.analysis.metrics import Difference
    from interpole.analysis.policies import FittedPolicy
    from interpole.analysis.routing import Routes, Scored
    from interpole.search.explore import Found
    from interpole.search.finals import Confirmation, Finalist
    from interpole.search.optuna_search import SearchResult

__all__ = ["compare", "register", "route", "search", "show_found", "show_searched"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (compare, route, search):
        app.command(rich_help_panel="Measure and choose")(command)


def compare(
    run: Run,
    points: Annotated[
        list[str],
        typer.Argument(metavar="POINT POINT…", help="Two or more, by λ or by name; the first is compared with."),
    ],
    *,
    effect: Annotated[float, typer.Option(help="The difference in accuracy one would like to see (a share).")] = 0.02,
    grading: Grading = None,
    estimand: EstimandOption = "like-these",
    as_json: Json = False,
) -> None:
    """Compare points in pairs, question by question: what differs, what could have been seen, and what more would take."""
    from interpole.analysis import compare as comparison
    from interpole.analysis.metrics import estimand_of
    from interpole.cli.show import show_json
    from interpole.runs.samples import read

    found = comparison.compare(
        read(run, texts=False), points, effect=effect, grading=grading, estimand=estimand_of(estimand)
    )
    if as_json:
        show_json(comparison.to_json(found))
    else:
        _show(found)


def _show(found: Sequence[Comparison]) -> None:
    """A table per task, then every comparison in words."""
    from interpole.cli.show import console, table

    for task in dict.fromkeys(one.task for one in found):
        mine = [one for one in found if one.task == task]
        rows = [[one.b, _change(one.accuracy, 100), _change(one.tokens, 1), _change(one.think, 100)] for one in mine]
        asked = f"{mine[0].accuracy.num_questions} questions, paired"
        columns = ["point", "accuracy, points", "Token #N", "Think #R, points"]
        table(f"{task}: change from {mine[0].a}, with 95 % intervals ({asked})", columns, rows)
        for one in mine:
            console.print(f"{one.verdict}.")
            console.print(f"  {one.takes}.", style="dim")
        unpaired = max(one.accuracy.num_unpaired for one in mine)
        if unpaired:
            console.print(
                f"  {unpaired} questions were answered at one of the points only and are left out.", style="dim"
            )


def route(
    run: Run,
    *,
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy by name; repeatable. [default: all that the run allows]")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Go by this task. [default: all, each weighing the same]")] = None,
    grading: Grading = None,
    seed: Annotated[int, typer.Option(help="Of the partitions that policies are fitted and scored on.")] = 0,
    fit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Fit the one --policy to all questions and write it down, to be followed elsewhere.",
        ),
    ] = None,
    mean_tokens: Annotated[
        float | None,
        typer.Option(help="With --fit: what a response may take on average. [default: 95 % of its best accuracy]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Does choosing λ by the question beat every static λ? Scored from the run's samples; nothing is generated.

    Policies, and their rival, the best mix of two λ at equal tokens, are scored on other questions than they are fitted on.
    """
    from interpole.analysis import fitting, routing
    from interpole.analysis.live import followed
    from interpole.analysis.policies import MARGIN
    from interpole.cli.show import show_json
    from interpole.runs.prediction import first_token_margins
    from interpole.runs.runfile import RunFile
    from interpole.runs.samples import read

    margins = first_token_margins(run)
    known, samples = {MARGIN: margins.of}, read(run, texts=False)
    if fit is not None or mean_tokens is not None:
        if fit is None or len(policy or ()) != 1:
            raise typer.BadParameter("give --fit FILE.json and one --policy", param_hint="--fit")
        chosen = fitting.fit(
            samples, (policy or [""])[0], mean_tokens=mean_tokens, task=task, grading=grading, numbers=known,
            margin_at=margins.at,
        )  # fmt: skip
        chosen.save(fit)
        _show_fitted(chosen, fit, as_json)
        return
    found = routing.route(
        samples,
        names=policy or (),
        task=task,
        grading=grading,
        numbers=known,
        seed=seed,
        policies=followed(RunFile.load(run)),
    )
    if as_json:
        show_json(routing.to_json(found))
    else:
        _show_routes(found)


def _show_fitted(found: FittedPolicy, path: Path, as_json: bool) -> None:
    """Where a policy chooses, and what it is expected to reach on questions like those that it was fitted to."""
    from interpole.cli.show import console, show_json

    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    lams = ", ".join(f"{lam:g}" for lam in found.lams)
    console.print(
        f"{found.name}: at λ={lams} {100 * found.accuracy:.1f} % at {found.tokens:,.1f} tokens on the "
        f"{found.num_questions} questions that it was fitted to, which flatters it. Wrote {path}.",
        highlight=False,
    )


def _show_routes(found: Routes) -> None:
    """The static points, then every policy with its gain, then the verdicts."""
    from rich.text import Text

    from interpole.analysis.intervals import ends_text, interval_text
    from interpole.cli.show import console, table

    rows = [
        [f"{lam:g}", f"{tokens:,.1f}", f"{100 * accuracy:.1f}", "on the hull" if lam in found.on_hull else ""]
        for lam, tokens, accuracy in found.static
    ]
    table(f"{found.task}: static λ, {found.num_questions} questions", ["λ", "Token #N", "accuracy, %", ""], rows)
    if found.num_left_out:
        console.print(f"  {found.num_left_out} questions lack samples at some λ and are left out.", style="dim")

    def span(one: Scored) -> str:
        return f"{one.points[0].tokens:,.0f} to {one.points[-1].tokens:,.0f}"

    table(
        "Gain in accuracy over static λ at equal tokens, with 95 % intervals",
        ["policy", "gain, points", "Token #N", "what it does"],
        [
            [
                one.name,
                Text.assemble(f"{100 * one.gain.value:+.1f} ", (ends_text(one.gain, 100), "dim")),
                span(one),
                one.what,
            ]
            for one in found.policies
        ],
    )
    for one in found.policies:
        console.print(f"{one.name}: {one.verdict}.")
    for live in found.live:
        lams = ", ".join(f"{lam:g} ({share:.0%})" for lam, share in live.lams.items())
        gain = interval_text(live.gain, 100, sign="+", unit=" points")
        console.print(f"{live.point}, {live.verdict}. It answered at λ={lams}; against static λ {gain}.")
    console.print(f"{found.verdict}.", style="bold")


def show_found(found: Found) -> None:
    """What an adaptive sweep found of the transition, what it spent, and what it saved against the grid."""
    from interpole.analysis.intervals import Interval, ends_text, interval_text
    from interpole.cli.show import console
    from interpole.search.explore import HALVINGS, PROMPTS

    middle = found.transition.mid
    if middle is None:
        console.print(f"\n{found.transition.refusal or '; '.join(found.transition.notes)}")
    else:
        alone = f"bisection alone: {ends_text(Interval(middle.value, *found.bracket), digits=3)}"
        if found.predicted is not None and found.predicted.mid is not None:
            alone = (
                f"predicted before anything was generated: {interval_text(found.predicted.mid, digits=3)}, in the place of a "
                f"bisection's {HALVINGS * PROMPTS} responses"
            )
        ends = "a 95 % interval" if found.transition.method == "curve" else "the swept λ around it"
        console.print(
            f"\nHalf of the responses think at λ={interval_text(middle, digits=3)}, {ends}; {alone}.",
            highlight=False,
        )
    share = found.num_tokens / found.grid_tokens
    console.print(
        f"Spent {found.num_tokens:,} tokens in {found.num_responses:,} responses: {share:.0%} of about "
        f"{found.grid_tokens:,.0f} tokens for the grid's {found.grid_responses:,} responses. "
        f"Stopped after {len(found.rounds)} rounds: {found.stopped}.",
    )


def _change(change: Difference, scale: float) -> Text:
    """A difference with its interval: `-4.2 [-8, -1]`."""
    from rich.text import Text

    from interpole.analysis.intervals import ends_text

    ends = ends_text(change.value, scale, digits=0, sign="+")
    return Text.assemble(f"{scale * change.value.value:+,.1f}", (f" {ends}" if ends else "", "dim"))


def search(
    space: Annotated[
        Path, typer.Argument(metavar="SPACE.yml", help="A pair, tasks, and what to vary (docs/searches.md).")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the search: made, or continued.")],
    trials: Annotated[int | None, typer.Option(help="Recipes to try, in all. [default: the file's, or 50]")] = None,
    prune: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Vary no part that brings less than this share of the log odds of thinking, e.g. 0.05. [default: the file's]",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Recipes proposed at a time, whoever tries them. [default: the file's, or 1; with --ray 8]"
        ),
    ] = None,
    engines: Engines = None,
    ray: RayAddress = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Search λ maps, methods and sampler settings for more accuracy with fewer tokens; needs `pip install 'interpole[search]'`.

    Trials run on the live engine and write no checkpoint. The winner is chosen on questions that no trial saw, and its numbers
    come from yet others, used for nothing else.
    """
    from interpole.cli.show import show_json, sweep_bar
    from interpole.search import optuna_search
    from interpole.search.space import SpaceFile

    file = SpaceFile.load(space, trust=trust)
    say_what_is_run(file.sweep.code())
    file = file.under(trials=trials, prune=prune, batch=batch)
    if engines is not None:
        file = file.model_copy(update={"sweep": file.sweep.under({"engines": engines}, space)})
    with actors_of(file.sweep, out, ray) as actors, sweep_bar() as on_progress:
        found = optuna_search.run(file, out, on_progress=on_progress, actors=actors)
    if as_json:
        show_json(optuna_search.to_json(found))
    else:
        show_searched(found, out)


def show_searched(found: SearchResult, out: Path) -> None:
    """The finalists on the questions that were chosen on, the winner on others, what mattered, and where the recipes are."""
    from interpole.cli.show import command_line, console, share, table

    def seen(one: Finalist) -> str:
        return "–" if one.seen_accuracy is None else f"{100 * one.seen_accuracy:.1f} % at {one.seen_tokens:,.0f}"

    rows = [[one.name, share(one.interval), f"{one.tokens:,.1f}", _mark(one), seen(one)] for one in found.finalists]
    where = f"{found.num_choose_questions} questions, after a search on {found.num_search_questions} others"
    columns = ["point", "accuracy, %", "Token #N", "", "in the search"]
    table(f"Chosen on {where}: the winner was chosen by these numbers, so they flatter it", columns, rows)
    _show_confirmed(found.confirmed, found.num_confirm_questions)
    names = dict.fromkeys(name for values in found.importance.values() for name in values)
    if names:
        shares = [[name, *(f"{values.get(name, 0):.0%}" for values in found.importance.values())] for name in names]
        table("What matters, of what was varied", ["value", *found.importance], shares)
    failed = f", {found.num_failed} of them failed" if found.num_failed else ""
    console.print(f"{found.num_trials} trials{failed}. Recipes: {out / 'recipes'}. In pairs: ", end="")
    console.print(f"{command_line('compare', out / 'held-out')} POINT POINT", soft_wrap=True)


def _mark(one: Finalist) -> str:
    """Whether it was chosen, or is on the front of what was measured there."""
    return "winner" if one.is_winner else "front" if one.on_front else ""


def _show_confirmed(found: Confirmation | None, num_questions: int) -> None:
    """The winner's own numbers, and how it differs from the dial; or that there are none."""
    from interpole.analysis.intervals import interval_text
    from interpole.cli.show import console
    from interpole.records import dial_lam

    if found is None:
        console.print(
            "Not confirmed: this folder is of a search in two parts, which kept no questions for its winner. The numbers above "
            "flatter it; compare it with the dial on other questions, or search anew into another --out.\n"
        )
        return
    console.print(
        f"Confirmed on {num_questions} questions that were used for nothing else: {found.winner}: "
        f"{interval_text(found.accuracy, 100, unit=' %')} at {interval_text(found.tokens)} tokens.",
        style="bold",
    )
    if found.num_before:
        console.print(
            f"  They have confirmed {found.num_before} other winner{'s' * (found.num_before > 1)} before: the more are "
            "looked at, the less an interval holds."
        )
    for one in found.changes:
        rival = "the dial's point" if dial_lam(one.a) is not None else f"{one.a}, what was measured beside"
        console.print(f"  {one.task}, against {rival} for the same goal: {one.verdict}.")
        console.print(f"  {one.takes}.", style="dim")
    console.print()
