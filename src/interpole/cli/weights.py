"""Commands about weights: merge, extract-lora, recipe convert, recipe presets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from interpole.cli import options
from interpole.cli.options import file_not_model

if TYPE_CHECKING:
    from interpole.checkpoints.checkpoint import Checkpoint
    from interpole.checkpoints.estimate import WriteEstimate
    from interpole.checkpoints.save import Saved
    from interpole.checkpoints.shards import Share
    from interpole.merging.recipe import Recipe

__all__ = ["convert", "extract_lora", "merge", "presets", "register"]


MOST_SHARES = 100_000
MOST_ORDERS = 64
"""Shares into which a merge is cut for a cluster: each opens the sources anew."""
MOST_FAILURES = 3
STREAM_THREADS = 8
"""With `--stream`: they wait for the network, not for a core."""

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
    from interpole.checkpoints.hub import check_login, push

    wanted = {
        "template_from": template_from,
        "dtype": dtype,
        "vocabulary": vocabulary,
        "extrapolate": extrapolate or None,
    }
    settings = {key: value for key, value in wanted.items() if value is not None}
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
    share = None if shard is None else _parse_share(shard, ray)
    insisted = allow_non_finite or no_doctor
    job = _Job(recipes, shard_bytes, share, not no_doctor, insisted, stream=stream, card_from=card_from)
    if dry_run:
        _say_what_it_takes(job, as_json=as_json)
        return
    written = _write(job if ray is None else _made_there(job, ray), as_json=as_json)
    for folder in recipes if push_to_hub and written else ():
        typer.echo(push(folder, f"{push_to_hub}{folder.name.removeprefix(out.name)}"), err=as_json)


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
    tensors: Annotated[bool, typer.Option("--tensors", help="Also one row per tensor.")] = False,
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


class _Job(NamedTuple):
    """What is asked of a merge: recipes by folder, with the same sources; size of files, share, checks, reading, card."""

    recipes: dict[Path, Recipe]
    shard_bytes: int | None
    share: Share | None
    doctor: bool
    allow_non_finite: bool
    stream: bool
    card_from: Path | None


def _open(job: _Job, *, weights: bool) -> dict[str, Checkpoint]:
    """The sources, once the doctor has seen them; `weights` says whether they are read, and so must be here."""
    from interpole.checkpoints.hub import is_hub_id
    from interpole.cli.questions import open_examined
    from interpole.merging.merged import open_part
    from interpole.merging.recipe import Recipe

    first = next(iter(job.recipes.values()))
    sources: dict[str, Checkpoint] = {}
    if job.doctor:  # before weights are downloaded
        sources = open_examined(first.sources, first.template_source, first.vocabulary)
    for name, source in first.sources.items():
        partly = isinstance(source, Recipe) or is_hub_id(source.model)  # there may be headers alone
        if name not in sources or (partly and weights):
            sources[name] = open_part(source, weights=weights, stream=job.stream and weights)
    return sources


def _say_what_it_takes(job: _Job, *, as_json: bool) -> None:
    """Plan the merge and print what it takes."""
    from interpole.checkpoints.estimate import estimate
    from interpole.checkpoints.save import Target
    from interpole.cli.show import show_json
    from interpole.merging.merged import merge_all

    merged = merge_all(list(job.recipes.values()), _open(job, weights=job.stream), weights=job.stream)
    targets = [Target(checkpoint, out) for out, checkpoint in zip(job.recipes, merged, strict=True)]
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
        show_json({"folders": [str(out) for out in job.recipes]} | said | {"notes": list(merged[0].notes)})
        return
    for line in _estimate_lines(found, [*job.recipes], job.share):
        typer.echo(line)
    for note in merged[0].notes:
        typer.echo(f"  {note}")


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
    if found.rate is None or found.seconds is None:
        yield "  time      not known: nothing could be tried (weights that are not here, or tensors that are merged as a whole)"
    else:
        rate, tried = found.rate, size_text(found.rate.sample_bytes)
        yield f"  time      {_time_text(found.seconds)} at {size_text(rate.bytes_per_second)}/s"
        yield f"            tried: {rate.num_pieces} pieces, {tried}, read, merged and on the disk in {rate.seconds:.2f} s"


def _time_text(seconds: float) -> str:
    """A time as people read it: `8 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write(job: _Job, *, as_json: bool) -> bool:
    """Merge and save with a progress bar, then say what was made.

    Returns:
        Whether the folders are there: not, where other shares of them are still to be written.
    """
    from time import perf_counter

    from interpole.checkpoints.shards import shards_of
    from interpole.cli.progress import bytes_bar
    from interpole.files import size_text
    from interpole.merging.merged import merge_all

    recipes, _, share, *_ = job
    merged = dict(zip(recipes, merge_all(list(recipes.values()), _open(job, weights=True)), strict=True))
    names = [
        name for names in shards_of(next(iter(merged.values())), job.shard_bytes, share).values() for name in names
    ]
    num_bytes = sum(checkpoint.specs[name].num_bytes for checkpoint in merged.values() for name in names)
    start = perf_counter()
    with bytes_bar("merging", num_bytes) as advance:
        saved = _save(job, merged, advance)
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
    typer.echo(f"{size_text(num_bytes)} in {seconds:.1f} s ({size_text(num_bytes / seconds)}/s)")
    if share is not None:
        typer.echo(_how_far(saved, share))
    return saved.is_whole


def _save(job: _Job, merged: Mapping[Path, Checkpoint], progress: Callable[[int], None] | None = None) -> Saved:
    from interpole.checkpoints.save import Target, save_all

    return save_all(
        [Target(checkpoint, out, _card(job, checkpoint)) for out, checkpoint in merged.items()],
        shard_bytes=job.shard_bytes,
        progress=progress,
        allow_non_finite=job.allow_non_finite,
        share=job.share,
        threads=STREAM_THREADS if job.stream else None,
    )


def _card(job: _Job, merged: Checkpoint) -> dict[str, str]:
    """The model card with what a run measured of the merge, where that is asked for."""
    if job.card_from is None:
        return {}
    from interpole.report.card import card_from  # and with it what draws and fits: three times what a merge imports

    return {"README.md": card_from(job.card_from, merged)}


class _Merger:
    """What a worker on a cluster has: this program."""

    def versions(self) -> dict[str, str]:
        """Its version."""
        from interpole import __version__

        return {"interpole": __version__}


def _save_share(_: object, job: _Job) -> None:
    """Write a share: what a worker on a cluster is ordered to do."""
    from interpole.merging.merged import merge_all

    recipes = list(job.recipes.values())
    _save(job, dict(zip(job.recipes, merge_all(recipes, _open(job, weights=True)), strict=True)))


def _made_there(job: _Job, address: str) -> _Job:
    """Have the folders written by the workers of a cluster.

    Returns:
        The job of one share, which finds that all are there.

    Raises:
        InterpoleError: a share failed several times.
    """
    from interpole.actors import Actors, Order
    from interpole.checkpoints.shards import Share, shards_of
    from interpole.errors import OutputError, printable
    from interpole.files import make_folder
    from interpole.merging.merged import merge_all

    recipes = {out.absolute(): recipe for out, recipe in job.recipes.items()}
    first, *_ = merge_all(list(recipes.values()), _open(job, weights=job.stream), weights=job.stream)
    of = min(len(shards_of(first, job.shard_bytes)), MOST_ORDERS)
    todo = job._replace(recipes=recipes, doctor=False)  # it has been asked
    left, failures = [Share(number, of) for number in range(1, of + 1)], Counter[Share]()
    folder = next(iter(recipes)).parent
    make_folder(folder)

    def give(_: int) -> Order | None:
        return Order(_save_share, (todo._replace(share=left.pop(0)),)) if left else None

    def tell(text: str) -> None:
        typer.echo(printable(text), err=True)

    with Actors(_Merger, (), folder, address, what="worker", report=tell) as actors:
        for done in actors.work(give, lambda: len(left)):
            share = None if done is None else done.order.args[0].share
            if done is None or share is None:
                continue
            if not done.error:
                tell(f"share {share.number} of {of}: written on {done.node}")
                continue
            failures[share] += 1
            tell(f"share {share.number} of {of}: {done.error}")
            if failures[share] >= MOST_FAILURES:
                raise OutputError(done.error, f"share {share.number} of {of}", "then run the same command again")
            left.append(share)
    return todo._replace(share=Share(1, of))


def _how_far(saved: Saved, share: Share) -> str:
    """What a share says at its end."""
    there = f"share {share.number} of {share.of}: {saved.num_there} of {saved.num_shards} files are there"
    if saved.is_whole:
        return f"{there}; the folder is finished"
    if saved.num_there == saved.num_shards:
        return f"{there}; another process is finishing the folder"
    return f"{there}; the share that writes the last one finishes the folder"


def _parse_share(text: str, ray: str | None) -> Share:
    """Part and number of parts of `"3/8"`."""
    from interpole.checkpoints.shards import Share

    if ray is not None:
        raise typer.BadParameter("--ray writes all shares: it does not go with --shard")
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= MOST_SHARES):
        raise typer.BadParameter(f"--shard {text}: write I/N, as 1/8 … 8/8")
    return Share(int(number), int(of))


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
