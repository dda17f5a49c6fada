"""How `--help` looks: sections in plain text. Rich, which Typer takes for it, is slower to import than all that help needs."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["in_plain_text"]

MOST_LETTERS = 300
"""Of what a command is for, where all are listed: its first sentence."""


def in_plain_text(app: typer.Typer) -> typer.Typer:
    """The application, with help and wrong usage in plain text for it and all commands below."""
    app.rich_markup_mode = None
    app.info.cls = _Group
    for command in app.registered_commands:
        command.cls = _Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            in_plain_text(group.typer_instance)
    return app


class _Command(TyperCommand):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_parameters(self, ctx, formatter)


class _Group(TyperGroup):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_parameters(self, ctx, formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            panel = getattr(command, "rich_help_panel", None)
            row = (name, command.get_short_help_str(MOST_LETTERS))
            sections.setdefault(panel if isinstance(panel, str) else "Commands", []).append(row)
        _write(sections, formatter)


def _write_parameters(command: TyperCommand | TyperGroup, ctx: Any, formatter: Any) -> None:
    """Arguments, then options by their sections."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        if (row := parameter.get_help_record(ctx)) is not None:
            panel = getattr(parameter, "rich_help_panel", None)
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(panel if isinstance(panel, str) else usual, []).append(row)
    _write(sections, formatter)


def _write(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows, col_max=34)
