"""All commands as one application, and its run: errors of ours end in one message on stderr and exit code 1; wrong usage is 2."""

from __future__ import annotations

import sys
import warnings
from io import TextIOWrapper
from typing import Annotated

import typer

from interpole.cli import card, choose, environment, lab, paper, predict, questions, responses, runs, serve, weights
from interpole.cli.plain_help import in_plain_text
from interpole.errors import InterpoleError, InterpoleWarning, printable, reason_of
from interpole.packages import is_ours, remedy

__all__ = ["app", "run"]

app = typer.Typer(
    help="Interpolate between an Instruct and a Thinking checkpoint: merge, dial, measure, choose λ.",
    epilog="First steps: `interpole demo`, then docs/tutorial.md. Every command explains itself with --help.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
for part in (lab, weights, card, questions, runs, responses, predict, choose, paper, serve, environment):
    part.register(app)
in_plain_text(app)


def _version(wanted: bool) -> None:
    if wanted:
        from interpole import __version__

        typer.echo(f"interpole {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options that come before a command."""


def run() -> None:
    """Run the command line; errors of ours and of the machine, and packages that are not installed, end in one message."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, InterpoleWarning):
            print(f"warning: {printable(str(message))}", file=sys.stderr)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show λ shows \u03bb, and nothing crashes
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = show
    warnings.simplefilter("always", InterpoleWarning)
    try:
        app()
    except InterpoleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (
        OSError
    ) as error:  # of the machine: a full disk behind `>` (what is left to be written fails too), a folder removed
        sys.stdout = None
        named = f": {error.filename}" if error.filename else ""
        print(printable(f"error: {reason_of(error)}{named}"), file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or not is_ours(error.name):
            raise
        print(f"error: this needs {error.name}, which is not installed", file=sys.stderr)
        print(f"  remedy: {remedy(error.name)}", file=sys.stderr)
        sys.exit(1)
