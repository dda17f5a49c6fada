"""The command `env`: what Interpole runs on, to look at and to attach to a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from interpole.cli.options import Json

if TYPE_CHECKING:
    from interpole.diagnostics.environment import Environment

__all__ = ["env", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Help")(env)


def env(as_json: Json = False) -> None:
    """Say what Interpole runs on: versions, machine, engines, GPUs, room on the disk. Attach it to a report of a fault."""
    from dataclasses import asdict

    from interpole.cli.show import list_of, show_json
    from interpole.diagnostics.environment import environment
    from interpole.engines.registry import installed

    found, engines = environment(), installed()
    if as_json:
        show_json(asdict(found) | {"engines": engines})
    else:
        list_of([*_rows(found, engines)])


def _rows(found: Environment, engines: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is found, in words."""
    from interpole.files import size_text

    yield (
        "interpole",
        f"{found.interpole}, loops in C {'built' if found.c_loops else 'not built: numpy does the same, slower'}",
    )
    yield "Python", found.python
    yield "system", found.system
    memory = "" if found.memory_bytes is None else f", {size_text(found.memory_bytes)} of memory"
    yield "machine", f"{found.cores} cores{memory}"
    for number, gpu in enumerate(found.gpus):
        yield f"GPU {number}", gpu
    if not found.gpus:
        yield "GPU", "none found"
    for name, engine in engines.items():
        there = ", ".join(f"{package} {version or 'not installed'}" for package, version in engine["packages"].items())
        yield f"engine {name}", "; ".join(text for text in (there, engine["remedy"]) if text) or "needs nothing"
    for name, place in found.places.items():
        free = "" if place.free_bytes is None else f", {size_text(place.free_bytes)} free"
        yield name, f"{place.path}{free}"
    for name, value in found.variables.items():
        yield name, value
    installed = [f"{name} {version}" for name, version in found.packages.items() if version]
    yield "packages", ", ".join(installed) or "not known: interpole itself is not installed"
