"""Commands about weights: merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interpole.recipe import Recipe

__all__ = ["register"]

Instruct = Annotated[str, typer.Argument(metavar="INSTRUCT", help="Instruct checkpoint (λ = 0): a folder or a hub id.")]
Thinking = Annotated[str, typer.Argument(metavar="THINKING", help="Thinking checkpoint (λ = 1): a folder or a hub id.")]
Layers = Annotated[str | None, typer.Option(help="Interpolate these layers only, e.g. 12-35; the others keep Instruct's.")]
Skip = Annotated[list[str] | None, typer.Option(help="Sublayers that keep Instruct's weights: attention or ffn. Repeatable.")]
Embeddings = Annotated[
    str | None,
    typer.Option(help="Embeddings, final norm and lm_head: instruct, thinking or interpolate. [default: interpolate; with --layers: instruct]"),
]
TemplateFrom = Annotated[
    str | None,
    typer.Option(help="Source of config, tokenizer, template. [default: thinking; at λ = 0 instruct]"),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(merge)


def merge(
    instruct: Annotated[str, typer.Argument(metavar="INSTRUCT|RECIPE.yml", help="Instruct checkpoint, or a recipe.")],
    thinking: Annotated[str | None, typer.Argument(metavar="[THINKING]", help="Thinking checkpoint: a folder or a hub id.")] = None,
    *,
    lam: Annotated[float | None, typer.Option("--lambda", "-l", help="λ: 0 is Instruct, 1 is Thinking.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not exist.")],
    layers: Layers = None,
    skip: Skip = None,
    embeddings: Embeddings = None,
    template_from: TemplateFrom = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of the result: bfloat16, float16 or float32.")] = None,
) -> None:
    """Write the model between two checkpoints to a folder that transformers and vLLM load.

    `interpole merge Qwen/Qwen3-4B-Instruct-2507 Qwen/Qwen3-4B-Thinking-2507 --lambda 0.8 --out mi-0.8`

    `interpole merge recipe.yml --out merged` takes everything from a recipe.
    """
    from interpole.recipe import Recipe, ablation

    flags = {"--lambda": lam, "--layers": layers, "--skip": skip, "--embeddings": embeddings}
    if thinking is None:
        if given := [flag for flag, value in flags.items() if value]:
            raise typer.BadParameter(f"{given[0]} goes with INSTRUCT THINKING; a recipe says it itself")
        settings = {"template_from": template_from, "dtype": dtype}
        update = {key: value for key, value in settings.items() if value is not None}
        recipe = Recipe.load(Path(instruct)).model_copy(update=update)
    else:
        if lam is None:
            raise typer.BadParameter("say where between the two: --lambda 0.6")
        rules = ablation(layers, skip or (), embeddings)
        recipe = Recipe.between(instruct, thinking, lam, rules=rules, template_from=template_from, dtype=dtype)
    write(recipe, out)


def write(recipe: Recipe, out: Path) -> None:
    """Merge and save with a progress bar, then say what was made."""
    from time import perf_counter

    from interpole.card import texts
    from interpole.merged import merge as open_merge
    from interpole.saving import save

    merged = open_merge(recipe)
    start = perf_counter()
    with bytes_bar("merging", merged.num_bytes) as advance:
        save(merged, out, extra=texts(merged), progress=advance)
    seconds = perf_counter() - start
    typer.echo(f"{out}: {len(merged)} tensors, {merged.num_bytes / 1e9:.2f} GB in {seconds:.1f} s ({merged.num_bytes / 1e9 / seconds:.2f} GB/s)")


@contextmanager
def bytes_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr that counts bytes and shows their speed."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
