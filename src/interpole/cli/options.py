"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from interpole.errors import printable

__all__ = [
    "Base",
    "Embeddings",
    "EstimandOption",
    "Extrapolate",
    "Grading",
    "Instruct",
    "Json",
    "Layers",
    "NoDoctor",
    "Run",
    "RunOrCurves",
    "Skip",
    "TemplateFrom",
    "Thinking",
    "Trust",
    "file_not_model",
    "say_what_is_run",
]

Instruct = Annotated[str, typer.Argument(metavar="INSTRUCT", help="Instruct checkpoint (λ = 0): a folder or a hub id.")]
Thinking = Annotated[str, typer.Argument(metavar="THINKING", help="Thinking checkpoint (λ = 1): a folder or a hub id.")]
Base = Annotated[str | None, typer.Option(help="What both were made from: a folder or a hub id.")]
Extrapolate = Annotated[
    bool, typer.Option("--extrapolate", help="Allow λ beyond [-0.5, 1.5].", rich_help_panel="Where on the dial")
]
NoDoctor = Annotated[bool, typer.Option("--no-doctor", help="Do not examine the pair first.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `interpole sweep` writes it.")]
RunOrCurves = Annotated[Path, typer.Argument(metavar="RUN|CURVES.csv", help="A run folder, or a curves.csv.")]
Grading = Annotated[str | None, typer.Option(help="Score by this grading. [default: each task's own]")]
EstimandOption = Annotated[
    str,
    typer.Option("--estimand", help="What intervals are about: like-these (questions like these) or these questions."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Run code that the file names: python: graders, tasks in files.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Interpolate these layers only, e.g. 12-35; the others keep Instruct's.",
        rich_help_panel="Where on the dial",
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        help="Sublayers that keep Instruct's weights: attention or ffn. Repeatable.",
        rich_help_panel="Where on the dial",
    ),
]
Embeddings = Annotated[
    str | None,
    typer.Option(
        help="Embeddings, final norm, lm_head: instruct, thinking or interpolate. [default: interpolate; --layers: instruct]",
        rich_help_panel="Where on the dial",
    ),
]
TemplateFrom = Annotated[
    str | None,
    typer.Option(help="Source of config, tokenizer, template. [default: thinking; a merge at λ = 0: instruct]"),
]


def file_not_model(text: str, what: str) -> Path:
    """The file of an only argument. A model there means that the second was forgotten: wrong usage, which says so.

    Args:
        text: the argument.
        what: what the file is, `a recipe`.
    """
    from interpole.checkpoints.hub import is_hub_id

    path = Path(text)
    is_model = path.is_dir() or (is_hub_id(text) and not path.exists() and path.suffix not in (".yml", ".yaml"))
    if is_model:
        kind = "a folder" if path.is_dir() else "a hub id"
        words = f"the second model is missing: {text} is {kind}; give INSTRUCT THINKING, or {what} as a .yml file"
        raise typer.BadParameter(printable(words))
    return path


def say_what_is_run(code: Iterable[str]) -> None:
    """Name, on stderr, the code of others that is about to be run."""
    for one in code:
        typer.echo(printable(f"runs {one}"), err=True)
