"""The command line: parse, import late, call, print. Nothing is computed here.

Commands import what they need when they run, so that `interpole --help` answers at once. Errors of ours end in one message on
stderr and exit code 1; wrong usage is 2.
"""

from __future__ import annotations

import sys
import warnings
from io import TextIOWrapper
from typing import Annotated

import typer

from interpole.cli import choose, lab, questions, responses, runs, weights
from interpole.errors import InterpoleError, InterpoleWarning, printable

__all__ = ["app", "main"]

INTERRUPTED = 130  # Typer's exit code for Ctrl-C

app = typer.Typer(
    help="Interpolate between an Instruct and a Thinking checkpoint: merge, dial, measure, choose λ.",
    epilog="First steps: `interpole demo`, then docs/tutorial.md. Every command explains itself with --help.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (lab, weights, questions, runs, responses, choose):
    part.register(app)


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


def main() -> None:
    """Run the command line; errors of ours are printed without a traceback."""

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if issubclass(category, InterpoleWarning):
            print(f"warning: {printable(str(message))}", file=sys.stderr)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show λ shows \u03bb, and nothing crashes
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = show  # type: ignore[assignment]
    warnings.simplefilter("always", InterpoleWarning)
    try:
        app()
    except InterpoleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (
        OSError
    ) as error:  # a name too long, a folder that may not be read: where no reader of ours has said it better
        print(f"error: {printable(f'{error.strerror or error}: {error.filename}')}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("interrupted; run the same command again to go on where it stopped", file=sys.stderr)
        raise
