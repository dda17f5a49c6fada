"""The command line: parse, import late, call, print. Nothing is computed here.

Commands import what they need when they run, so that `interpole --help` answers at once. Nothing but the standard library is
imported before `main` has taken care of Ctrl-C.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]

INTERRUPTED = 130  # the shell's exit code for Ctrl-C, and Typer's


def __getattr__(name: str) -> Any:
    """`app`: the Typer application, imported when it is first asked for."""
    if name == "app":
        from interpole.cli.commands import app

        return app
    raise AttributeError(f"module 'interpole.cli' has no attribute {name!r}")


def main() -> None:
    """Run the command line; Ctrl-C at any moment ends in one line, not in a traceback."""
    sys.unraisablehook = _unraisable
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # what is ignored stays so
        signal.signal(signal.SIGINT, lambda *_: _stop())
    from interpole.cli.commands import run

    signal.signal(signal.SIGINT, before)  # whoever runs a loop of its own takes care of it there
    try:
        run()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # what a thread still does, as a grader that hangs, is not waited for
            _stop()
        raise
    except BaseException as error:
        if any(isinstance(one, KeyboardInterrupt) for one in _chain(error)):
            _stop()
        _show_fault(error)
        sys.exit(1)
    finally:
        gc.freeze()  # at its end the interpreter would look through all that was imported for cycles: 60 ms


_FAULT = "this is a fault of Interpole's: please report it with the lines above, and attach what `interpole env` prints"
_LINE = "interrupted; run the same command again to go on where it stopped"


def _show_fault(error: BaseException) -> None:
    """Print an error that nobody expected, with its traceback, and what to do about it."""
    import traceback

    traceback.print_exception(error)
    print(_FAULT, file=sys.stderr)


def _stop() -> NoReturn:
    """End at once: what is written is written whole or not at all, and children end with their parent."""
    with suppress(OSError, ValueError):  # nobody reads it any more
        sys.stdout.flush()
        print(_LINE, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


def _unraisable(what: Any) -> None:
    """Ctrl-C where no exception can be raised, as in a finaliser, ends as well."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        _stop()
    sys.__unraisablehook__(what)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those it came of: imports make others of a `KeyboardInterrupt`."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
