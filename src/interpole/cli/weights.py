"""Commands about weights: merge, extract-lora, recipe convert, recipe presets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interpole.cli import options
from interpole.cli.options import file_not_model, share_of
from interpole.cli.sweep import said

if TYPE_CHECKING:
    from interpole.checkpoints.checkpoint import Checkpoint
    from interpole.checkpoints.estimate import WriteEstimate
    from interpole.checkpoints.save import Saved
    from interpole.checkpoints.shards import Share
    from interpole.merging.recipe import Recipe
    from interpole.merging.writing import MergeJob

__all__ = ["convert", "extract_lora", "merge", "presets", "register"]

recipes_app = typer.Typer(help="Recipes: merges as data.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(rich_help_panel="Weights")(merge)
    app.command("extract-lora", rich_help_panel="Weights")(extract_lora)
    app.add_typer(recipes_app, name="recipe", rich_help_panel="Weights")


def merge(
    instruct: options.InstructGiven,
    thinking: options.ThinkingGiven = None,
    *,
    lam: options.MergeLambda = None,
    out: options.MergeOut,
    layers: options.Layers = None,
    skip: options.Skip = None,
    embeddings: options.Embeddings = None,
    preset: options.Preset = None,
    base: options.Base = None,
    marker_rows: options.MarkerRows = None,
    template_from: options.TemplateFrom = None,
    dtype: options.Dtype = None,
    vocabulary: options.Vocabulary = None,
    source: options.Sources = None,
    shard_size: options.ShardSize = None,
    shard: options.Shard = None,
    ray: options.RayAddress = None,
    stream: options.Stream = False,
    dry_run: options.MergeDryRun = False,
    push_to_hub: options.PushToHub = None,
    card_from: options.CardFrom = None,
    allow_non_finite: options.AllowNonFinite = False,
    extrapolate: options.Extrapolate = False,
    no_doctor: options.NoDoctor = False,
    as_json: options.Json = False,
) -> None:
    """Write the model between two checkpoints to a folder that transformers and vLLM load.

    `interpole merge Qwen/Qwen3-4B-Instruct-2507 Qwen/Qwen3-4B-Thinking-2507 --lambda 0.8 --out mi-0.8`

    `interpole merge recipe.yml --out merged` takes everything from a recipe.
    """
    from interpole.checkpoints.hub import check_login, push, resuming
    from interpole.checkpoints.shards import Share
    from interpole.errors import printable
    from interpole.merging.writing import MergeJob, write_on_cluster

    settings = said(template_from=template_from, dtype=dtype, vocabulary=vocabulary, extrapolate=extrapolate or None)
    ablations = {"layers": layers, "skip": skip or (), "embeddings": embeddings}
    if source and thinking is not None:
        raise typer.BadParameter("--source goes with a recipe, not with INSTRUCT THINKING")
    if thinking is None:
        file = file_not_model(instruct, "a recipe")
        if any([*ablations.values(), preset, base, marker_rows]):
            raise typer.BadParameter(
                "ablations, --preset, --base and --marker-rows go with INSTRUCT THINKING, not with a recipe"
            )
        recipe = _load(file, settings, source or ())
    elif preset is not None:
        recipe = _preset(preset, instruct, thinking, base, settings)
    elif lam is None:
        raise typer.BadParameter("say where between the two: --lambda 0.6")
    else:
        recipe = _between(instruct, thinking, ablations, settings)
    if marker_rows is not None:
        recipe = _with_marker_rows(recipe, marker_rows)
    recipes = _at_lambdas(recipe, lam, out)
    if push_to_hub and not dry_run:
        check_login(push_to_hub)
    shard_bytes = None if shard_size is None else _parse_size(shard_size)
    if shard is not None and ray is not None:
        raise typer.BadParameter("--ray writes all shares: it does not go with --shard")
    share = None if shard is None else Share(*share_of(shard))
    card = None if card_from is None else _card(card_from)
    job = MergeJob(recipes, shard_bytes, share, allow_non_finite or no_doctor, stream, card)
    seen = {} if no_doctor else _examined(job)
    if dry_run:
        _say_what_it_takes(job, seen, as_json=as_json)
        return
    if ray is not None:
        job = write_on_cluster(job, seen, ray, lambda text: typer.echo(printable(text), err=True))
    written = _write(job, seen, as_json=as_json)
    for folder in recipes if push_to_hub and written else ():
        repo = f"{push_to_hub}{folder.name.removeprefix(out.name)}"
        typer.echo(f"uploading; if that is interrupted, it goes on by: {printable(resuming(folder, repo))}", err=True)
        typer.echo(push(folder, repo), err=as_json)


def _at_lambdas(recipe: Recipe, lam: str | None, out: Path) -> dict[Path, Recipe]:
    """Folder to write → recipe: one of its own for each of several λ."""
    from interpole.merging.recipe import parse_lambdas

    lams = [] if lam is None else parse_lambdas(lam)
    if len(lams) < 2:
        return {out: recipe.at(lams[0]) if lams else recipe}
    return {out.with_name(f"{out.name}-{value:.10g}"): recipe.at(value) for value in lams}


def _load(path: Path, settings: dict[str, Any], places: Sequence[str]) -> Recipe:
    from interpole.merging.recipe import Recipe

    recipe = Recipe.load(path)
    found = recipe.places
    for place in places:
        name, _, model = place.partition("=")
        if name not in found or not model:
            raise typer.BadParameter(f"--source {place}: write NAME=PLACE; the recipe's names are {', '.join(found)}")
        found[name] = found[name].model_copy(update={"model": model, "revision": None})  # that is of the other place
    return recipe.placed(found).with_(**settings)


def _preset(name: str, instruct: str, thinking: str, base: str | None, settings: dict[str, Any]) -> Recipe:
    from interpole.merging.presets import preset

    return preset(name, instruct=instruct, thinking=thinking, base=base, **settings)


def _between(instruct: str, thinking: str, ablations: dict[str, Any], settings: dict[str, Any]) -> Recipe:
    from interpole.merging.recipe import Recipe
    from interpole.merging.rules import ablation

    return Recipe.between(instruct, thinking, 0, rules=ablation(**ablations), **settings)


def _with_marker_rows(recipe: Recipe, side: str) -> Recipe:
    from interpole.merging.presets import marker_rows

    rules = [rule.model_dump(by_alias=True, exclude_none=True) for rule in recipe.rules]
    return recipe.with_(rules=[marker_rows(side), *rules])


def extract_lora(
    merged: Annotated[
        str, typer.Argument(metavar="MERGED|RECIPE.yml", help="What to come to: a folder, a hub id, or a recipe.")
    ],
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="The model that the adapter is for: a folder or a hub id.")
    ],
    *,
    rank: Annotated[int, typer.Option("--rank", "-r", min=1, help="Rank of every B·A.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; must not exist. [default: only measure]")
    ] = None,
    save_rest: Annotated[
        bool,
        typer.Option(
            "--save-rest", help="Save norms, biases and embeddings whole (modules_to_save) instead of leaving them out."
        ),
    ] = False,
    dtype: Annotated[str, typer.Option(help="Of the adapter: float32, bfloat16 or float16.")] = "float32",
    tensors: options.Tensors = False,
    as_json: options.Json = False,
) -> None:
    """Write the LoRA adapter that leads from a base to a merge, as peft reads it, and say what it loses.

    `interpole extract-lora mi-0.8 Qwen/Qwen3-4B-Instruct-2507 --rank 64 --out mi-0.8-lora`
    """
    from interpole.checkpoints.open import open_source
    from interpole.cli.progress import bytes_bar
    from interpole.cli.show import show_extracted, show_json
    from interpole.merging.lora import extract
    from interpole.merging.merged import open_part
    from interpole.merging.recipe import as_part

    opened, below = open_part(as_part(merged)), open_source(base)
    with bytes_bar("extracting", 2 * opened.num_bytes) as advance:
        found = extract(opened, below, rank, out, save_rest=save_rest, dtype=dtype, progress=advance)
    if as_json:
        show_json(found.to_json())
    else:
        show_extracted(found, tensors=tensors)


@recipes_app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="FILE.yml", help="A recipe of mergekit's, or of ours.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. [default: print it]")] = None,
    *,
    as_json: options.Json = False,
) -> None:
    """Write mergekit's YAML as our recipe; what is not supported is named with its line."""
    from interpole.cli.show import show_json
    from interpole.files import write_atomic
    from interpole.merging.recipe import Recipe

    recipe = Recipe.load(source)
    text = recipe.to_yaml()
    if as_json:
        show_json(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    elif out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text)


@recipes_app.command()
def presets(*, as_json: options.Json = False) -> None:
    """List the merges that have a name: those the paper compared, and recipes of its neighbours."""
    from interpole.cli.show import show_json
    from interpole.merging.presets import PRESETS

    if as_json:
        show_json(dict(PRESETS))
        return
    for name, meaning in PRESETS.items():
        typer.echo(f"{name:18} {meaning}")


def _card(run: Path) -> Callable[[Checkpoint], str]:
    """Model cards with what a run measured of the merge."""
    from interpole.report.card import card_from  # and with it what draws and fits: three times what a merge imports

    return partial(card_from, run)


def _examined(job: MergeJob) -> dict[str, Checkpoint]:
    """The sources as the doctor sees them, before weights are downloaded."""
    from interpole.cli.questions import open_examined

    first = next(iter(job.recipes.values()))
    return open_examined(first.sources, first.template_source, first.vocabulary, first.dtype)


def _say_what_it_takes(job: MergeJob, seen: Mapping[str, Checkpoint], *, as_json: bool) -> None:
    """Plan the merge and print what it takes.

    Raises:
        Exit: with 1, as the merge would: there is not enough room.
    """
    from interpole.checkpoints.estimate import estimate
    from interpole.checkpoints.save import Target
    from interpole.cli.show import show_json
    from interpole.merging.writing import merges

    merged = merges(job, seen, weights=job.stream)
    targets = [Target(checkpoint, out) for out, checkpoint in merged.items()]
    notes = targets[0].checkpoint.notes
    found = estimate(
        targets,
        shard_bytes=job.shard_bytes,
        share=job.share,
        allow_non_finite=job.allow_non_finite,
    )
    if as_json:
        rate = found.rate and found.rate._asdict() | {"bytes_per_second": round(found.rate.bytes_per_second)}
        said = found._asdict() | {
            "rate": rate,
            "seconds": found.seconds and round(found.seconds, 1),
            "fits": found.fits,
        }
        show_json({"folders": [str(out) for out in job.recipes]} | said | {"notes": list(notes)})
    else:
        for line in [*_estimate_lines(found, [*job.recipes], job.share), *(f"  {note}" for note in notes)]:
            typer.echo(line)
    if not found.fits:
        raise typer.Exit(1)


def _estimate_lines(found: WriteEstimate, folders: Sequence[Path], share: Share | None) -> Iterator[str]:
    from interpole.files import size_text

    part = "" if share is None else f", share {share.number} of {share.of}"
    results = f"{len(folders)} results, {folders[0]} …" if len(folders) > 1 else str(folders[0])
    yield f"would write {results}{part}: {found.num_tensors:,} tensors, {size_text(found.result_bytes)} in all"
    each = " each" if len(folders) > 1 else ""
    yield f"  files     {found.num_files:,} of weights{each}, the largest {size_text(found.largest_file_bytes)}"
    there = f", {size_text(found.there_bytes)} are there already" if found.there_bytes else ""
    yield f"  to write  {size_text(found.write_bytes)}{there}"
    yield f"  to read   {size_text(found.read_bytes)}; all of the sources once more where their fingerprints are not known"
    lacking = "" if found.fits else f": {size_text(found.write_bytes - found.free_bytes)} are lacking"
    yield f"  free      {size_text(found.free_bytes)} where it goes{lacking}"
    if not found.write_bytes:
        yield "  time      none: there is nothing to write"
    elif found.rate is None or found.seconds is None:
        why = "weights that are not here, tensors that are merged as a whole, or no room"
        yield f"  time      not known: nothing could be tried ({why})"
    else:
        rate, tried = found.rate, size_text(found.rate.sample_bytes)
        yield f"  time      {_time_text(found.seconds)} at {size_text(rate.bytes_per_second)}/s"
        yield f"            tried: {rate.num_pieces} pieces, {tried}, read, merged and on the disk in {rate.seconds:.2f} s"


def _time_text(seconds: float) -> str:
    """A time as people read it: `8 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write(job: MergeJob, seen: Mapping[str, Checkpoint], *, as_json: bool) -> bool:
    """Merge and save with a progress bar, then say what was made.

    Returns:
        Whether the folders are there: not, where other shares of them are still to be written.
    """
    from time import perf_counter

    from interpole.checkpoints.shards import shards_of
    from interpole.cli.progress import bytes_bar
    from interpole.files import size_text
    from interpole.merging.writing import merges, save_merges

    recipes, share, merged = job.recipes, job.share, merges(job, seen)
    names = [
        name for names in shards_of(next(iter(merged.values())), job.shard_bytes, share).values() for name in names
    ]
    num_bytes = sum(checkpoint.specs[name].num_bytes for checkpoint in merged.values() for name in names)
    start = perf_counter()
    with bytes_bar("merging", num_bytes) as advance:
        saved = save_merges(job, merged, advance)
    seconds = perf_counter() - start
    if as_json:
        from interpole.cli.show import show_json

        made = [
            {"folder": str(out), "recipe": recipes[out].model_dump(mode="json", by_alias=True, exclude_none=True)}
            | {"num_tensors": len(checkpoint), "num_bytes": checkpoint.num_bytes, "notes": list(checkpoint.notes)}
            for out, checkpoint in merged.items()
        ]
        show_json({"merged": made, "seconds": round(seconds, 3), "files": saved._asdict()})
        return saved.is_whole
    for out, checkpoint in merged.items():
        typer.echo(f"{out}: {len(checkpoint)} tensors, {size_text(checkpoint.num_bytes)}")
        for note in checkpoint.notes:
            typer.echo(f"  {note}")
    there = f"; {size_text(num_bytes - saved.written_bytes)} were there" if saved.written_bytes < num_bytes else ""
    if num_bytes:
        speed = f"{size_text(saved.written_bytes / seconds)}/s"
        typer.echo(f"{size_text(saved.written_bytes)} in {seconds:.1f} s ({speed}){there}")
    if share is not None:
        if not num_bytes:
            few = f"{share.of} shares are more than there are files ({saved.num_shards})"
            typer.echo(f"nothing to write for share {share.number}: {few}; --shard-size makes more of them")
        typer.echo(_how_far(saved, share))
    return saved.is_whole


def _how_far(saved: Saved, share: Share) -> str:
    """What a share says at its end."""
    there = f"share {share.number} of {share.of}: {saved.num_there} of {saved.num_shards} files are there"
    if saved.is_whole:
        return f"{there}; the folder is finished"
    if saved.num_there == saved.num_shards:
        return f"{there}; another process is finishing the folder"
    return f"{there}; the share that writes the last one finishes the folder"


def _parse_size(text: str) -> int:
    """Bytes of `"5GB"`, `"500MB"` or a plain number."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    number = text.upper().rstrip("KMGB")
    try:
        size = int(float(number) * units[text.upper()[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        raise typer.BadParameter(f"not a size: {text!r}; write 5GB, 500MB or a number of bytes") from None
    if size < 1:
        raise typer.BadParameter(f"not a size of a file: {text!r}; write 5GB, 500MB or a number of bytes above 0")
    return size
