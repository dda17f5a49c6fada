"""Commands that ask about checkpoints: doctor, similarity, audit."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interpole.cli.options import Base, Instruct, Json, Tensors, Thinking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interpole.checkpoints.checkpoint import Checkpoint
    from interpole.diagnostics.doctor import Diagnosis
    from interpole.merging.recipe import Part

__all__ = ["audit", "doctor", "examine_first", "open_examined", "register", "similarity"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (doctor, similarity, audit):
        app.command(rich_help_panel="Ask about weights")(command)


def doctor(
    instruct: Instruct,
    thinking: Thinking,
    base: Base = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Also read the weights: is this one base, and are all of them numbers?")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --weights: load the pair into transformers or vllm, and say where thinking sets in (`interpole predict`).",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="With --engine: whose questions are looked at.")] = "arithmetic",
    as_json: Json = False,
) -> None:
    """Say whether a pair can be merged, from headers, configs and tokenizers. Exit code 0 for go and warn, 2 for stop."""
    if engine is not None and not weights:
        raise typer.BadParameter("--engine goes with --weights")
    from interpole.checkpoints.open import open_source
    from interpole.cli.progress import bytes_bar
    from interpole.cli.show import show_diagnosis, show_json
    from interpole.diagnostics.doctor import examine

    sources = [open_source(source, weights=weights) for source in (instruct, thinking, base) if source]
    total = sum(source.num_bytes for source in sources)
    with bytes_bar("reading", total) if weights else nullcontext() as advance:
        diagnosis = examine(*sources, weights=weights, progress=advance)
    if engine is not None and diagnosis.exit_code == 0:
        from interpole.search.predict import where_thinking_sets_in

        found = where_thinking_sets_in(instruct, thinking, engine, task)
        diagnosis = replace(diagnosis, findings=(*diagnosis.findings, found))
    if as_json:
        show_json(diagnosis.to_json())
    else:
        show_diagnosis(diagnosis)
    raise typer.Exit(diagnosis.exit_code)


def similarity(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint: a folder or a hub id.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same shapes.")],
    base: Base = None,
    by: Annotated[str, typer.Option(help="One row per kind, layer or tensor.")] = "kind",
    heatmap: Annotated[
        str | None, typer.Option(help="Draw σ by layer and module into this .pdf, .png or .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how far two checkpoints are apart: σ per tensor, layer and module kind; with a base, kinship too."""
    from interpole.checkpoints.open import open_source
    from interpole.cli.progress import bytes_bar
    from interpole.cli.show import show_json, show_similarity
    from interpole.diagnostics.similarity import check_by, compare

    check_by(by)
    if heatmap:
        from interpole.report.render import check_format

        check_format(Path(heatmap))
    checkpoints = [open_source(source) for source in (a, b, base) if source is not None]
    with bytes_bar("reading", checkpoints[0].num_bytes) as advance:
        found = compare(*checkpoints, progress=advance)
    if as_json:
        show_json(found.to_json())
    else:
        show_similarity(found, by)
    if heatmap:
        from interpole.report.ablations import heatmap as draw
        from interpole.report.render import save

        typer.echo(str(save(draw(found.cells()), Path(heatmap))), err=True)


def audit(
    merged: Annotated[str, typer.Argument(metavar="MERGED", help="The merge in question: a folder or a hub id.")],
    instruct: Instruct,
    thinking: Thinking,
    base: Base = None,
    tensors: Tensors = False,
    as_json: Json = False,
) -> None:
    """Recover how a merge was made: λ of every tensor, by which map, in which rounding, whose files, and the recipe."""
    from interpole.checkpoints.open import open_source
    from interpole.cli.progress import bytes_bar
    from interpole.cli.show import show_audit, show_json
    from interpole.diagnostics.audit import audit as examine_merge

    sources = [open_source(source) for source in (merged, instruct, thinking, base) if source is not None]
    with bytes_bar("reading", sources[0].num_bytes) as advance:
        found = examine_merge(*sources, progress=advance)
    if as_json:
        show_json(found.to_json())
    else:
        show_audit(found, tensors=tensors)


def open_examined(
    parts: Mapping[str, Part], template_source: str, vocabulary: str | None = None, dtype: str | None = None
) -> dict[str, Checkpoint]:
    """Open what a recipe names, of the hub the headers alone, and ask the doctor about it; before, about each merge within.

    Args:
        parts: the recipe's sources.
        template_source: the name of the one whose config and tokenizer go with the result.
        vocabulary: the recipe's, to be made to fit before; None: the doctor says what does not fit.
        dtype: the recipe's; where it says one, nothing is to be asked about those of the sources.

    Raises:
        InterpoleError: something cannot be opened, or does not fit.
    """
    from interpole.checkpoints.open import fit, open_source
    from interpole.merging.merged import merge
    from interpole.merging.recipe import Recipe

    opened: dict[str, Checkpoint] = {}
    for name, part in parts.items():
        if isinstance(part, Recipe):
            below = open_examined(part.sources, part.template_source, part.vocabulary, part.dtype)
            opened[name] = merge(part, below, weights=False)
        else:
            opened[name] = open_source(**dict(part), weights=False)
    fitted = opened if vocabulary is None else fit(opened, template_source, vocabulary)[0]
    examine_first(fitted, template_source, "dtype" if dtype else "")
    return opened


def examine_first(sources: Mapping[str, Checkpoint], template_source: str, settled: str = "") -> Diagnosis:
    """Ask the doctor before something is made of sources: warnings go to stderr, a stop ends the command with exit code 2.

    Args:
        sources: what it is made of.
        template_source: the name of the one whose config and tokenizer go with it.
        settled: code of a finding about which the recipe says what is to be done.
    """
    from interpole.diagnostics.doctor import examine_sources

    diagnosis = examine_sources(sources, template_source)
    if diagnosis.verdict == "stop":
        from interpole.cli.show import show_diagnosis

        show_diagnosis(diagnosis)
        typer.echo("stopped; --no-doctor goes on all the same", err=True)
        raise typer.Exit(diagnosis.exit_code)
    for finding in diagnosis.findings:
        if finding.severity == "warn" and finding.code.removeprefix("base-") != settled:
            typer.echo(f"warning: {finding.what}\n  remedy: {finding.remedy}", err=True)
    return diagnosis
