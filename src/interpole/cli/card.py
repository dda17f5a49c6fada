"""The command `card`: the model card of a point of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from interpole.cli.options import Json, Run

__all__ = ["card", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Measure and choose")(card)


def card(
    run: Run,
    lam: Annotated[float, typer.Argument(metavar="LAMBDA", help="Its point on the dial.")],
    as_json: Json = False,
) -> None:
    """Print the model card of a run's point with what was measured of it, as the hub reads it (`merge --card-from`)."""
    from interpole.report.card import card_at

    text = card_at(run, lam)
    if as_json:
        from interpole.cli.show import show_json

        show_json({"card": text})
    else:
        typer.echo(text, nl=False)
