"""The reference of all commands as Markdown, made from the commands themselves: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from interpole.cli.commands import app

__all__ = ["commands", "reference"]


def reference() -> str:
    """Every command with its explanation, arguments and options."""
    head = "# The command line\n\nMade from the commands' own help by `make docs`. Errors exit with 1, wrong usage with 2.\n"
    return head + "".join(f"\n{_section(name, command)}" for name, command in commands(get_command(app), "interpole"))


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command below `group`."""
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _section(name: str, command: Any) -> str:
    """Heading, explanation and a table of parameters for each panel of the help."""
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.name == "help":
            continue
        is_option = parameter.opts[0].startswith("-")
        names = (
            ", ".join(f"`{name}`" for name in parameter.opts)
            if is_option
            else f"`{(parameter.metavar or parameter.name.upper()).replace('|', ' or ')}`"
        )
        default = parameter.default
        shown = "" if default in (None, False, (), []) or parameter.required else f" [default: {default}]"
        rows = panels.setdefault(getattr(parameter, "rich_help_panel", None) or "", [])
        rows.append(f"| {names} | {(getattr(parameter, 'help', '') or '').replace('|', '/')}{shown} |")
    tables = [
        f"\n|{f' {panel} ' if panel else ' '}| |\n| --- | --- |\n" + "\n".join(rows) + "\n"
        for panel, rows in panels.items()
    ]
    return f"## `{name}`\n\n{(command.help or '').strip()}\n{''.join(tables)}"


if __name__ == "__main__":
    print(reference(), end="")
