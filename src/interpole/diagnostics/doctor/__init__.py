"""Do two checkpoints fit, and what will they be like between? Asked before anything is merged.

`examine` answers from headers, configs and tokenizers in a second or two for any size; with `weights=True` it also reads the
weights. A table of small checks; every finding has a reason and a remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.open import fit
from interpole.checkpoints.views.experts import has_fused_experts
from interpole.diagnostics.doctor import configs, order, tensors, tokens
from interpole.diagnostics.doctor.findings import VERDICTS, Check, Diagnosis, Finding, Side
from interpole.errors import CheckpointError, MismatchError

__all__ = ["Diagnosis", "Finding", "examine", "examine_sources"]

PAIR_CHECKS: tuple[Check, ...] = (*configs.CHECKS, *tensors.CHECKS, *tokens.CHECKS, *order.CHECKS)
BASE_CHECKS: tuple[Check, ...] = (*configs.CHECKS, *tensors.CHECKS, *tokens.VOCABULARY_CHECKS)
"""A base has no turns, markers or templates of its own that a merge would use."""
MERGE_CHECKS: tuple[Check, ...] = (*BASE_CHECKS, tokens.check_ends)
"""Of any two sources of a recipe; what makes a pair of Instruct and Thinking is not asked of others."""


def examine(
    instruct: Checkpoint,
    thinking: Checkpoint,
    base: Checkpoint | None = None,
    *,
    weights: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Diagnosis:
    """Ask every check about a pair, and about its base if there is one.

    Args:
        instruct: the Instruct side.
        thinking: the Thinking side.
        base: what both are said to be made from, for methods that need it.
        weights: also read the weights: σ on a sample, and whether all are numbers.
        progress: called with the number of bytes read since the last call.

    Returns:
        The findings, the gravest first; the verdict follows from them.
    """
    given = {"instruct": instruct, "thinking": thinking} | ({} if base is None else {"base": base})
    fitted, notes = _as_merged(given)
    base = fitted.get("base")
    pair = Side("Instruct", fitted["instruct"]), Side("Thinking", fitted["thinking"])
    reading = (tensors.check_weights,) if weights else ()
    findings = [*notes, *_ask((*PAIR_CHECKS, *reading), *pair)]
    if base is not None:
        ancestor = Side("the base", base)
        for side in pair:
            found = _ask((*BASE_CHECKS, *reading), ancestor, side)
            findings += [replace(finding, code=f"base-{finding.code}") for finding in found]
    for side in (*pair, *([Side("the base", base)] if base else [])) if weights else ():
        findings += tensors.check_numbers(side, progress)
    return Diagnosis(instruct.label, thinking.label, base.label if base else None, _gravest_first(findings))


def examine_sources(sources: Mapping[str, Checkpoint], template_source: str) -> Diagnosis:
    """Ask about whatever is merged, by what names it may go: as `examine` does of a pair and its base, else of each with one.

    Args:
        sources: the checkpoints of a recipe by the names it gives them.
        template_source: the name of the one whose config and tokenizer go with the result; the others are held against it.
    """
    if {"instruct", "thinking"} <= set(sources) <= {"instruct", "thinking", "base"}:
        return examine(sources["instruct"], sources["thinking"], sources.get("base"))
    fitted, findings = _as_merged(sources, template_source)
    kept = Side(template_source, fitted[template_source])
    for name in fitted:
        if name != template_source:
            checks = BASE_CHECKS if "base" in (name, template_source) else MERGE_CHECKS
            findings += _ask(checks, kept, Side(name, fitted[name]))
    others = ", ".join(source.label for name, source in fitted.items() if name != template_source)
    return Diagnosis(kept.checkpoint.label, others, None, _gravest_first(findings))


def _gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Every finding once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda found: list(VERDICTS)[::-1].index(found.severity)))


def _as_merged(
    sources: Mapping[str, Checkpoint], template_source: str = "thinking"
) -> tuple[Mapping[str, Checkpoint], list[Finding]]:
    """The sources as a merge can take them, and what that does to them; as they are where they cannot be fitted."""
    try:
        fitted, told = fit(sources, template_source, "align")
    except (CheckpointError, MismatchError):
        return sources, []  # the checks tell what is wrong
    notes = [Finding("rows", "note", note, "that is how a merge makes them fit", "nothing") for note in told]
    for name, source in sources.items():
        if has_fused_experts(source) and not has_fused_experts(fitted[name]):
            what = f"the experts of {name} lie fused in one tensor, those of another source apart"
            notes.append(Finding("experts", "note", what, "they are matched one by one, and written apart", "nothing"))
    return fitted, notes


def _ask(checks: Iterable[Check], a: Side, b: Side) -> Iterator[Finding]:
    for check in checks:
        yield from check(a, b)
