"""How was this merge made? Recovers λ of every tensor from the weights alone, and the recipe that makes it again.

`audit` reads a merged checkpoint beside its sources, says whether it is a linear merge, by which map of λ, in which rounding,
what was dropped or copied, and whose files it carries; then it makes the merge again in memory, by the recipe that lies beside it
or by the one that it found, and counts the differing bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.compat import clashes
from interpole.checkpoints.names import role_of
from interpole.checkpoints.open import fit
from interpole.diagnostics.audit.assets import AssetAudit, audit_assets, template_source
from interpole.diagnostics.audit.estimate import LambdaEstimate, Sides, estimate, exact_shares, simplest
from interpole.diagnostics.audit.findings import ON_LINE, STATES, Audit, TensorAudit
from interpole.diagnostics.audit.mapping import LambdaMap, find_map
from interpole.diagnostics.audit.reproduce import propose, reproduce
from interpole.diagnostics.audit.stated import Stated, compared, find_stated
from interpole.errors import MismatchError
from interpole.merging.merged import ReadOnce

__all__ = ["AssetAudit", "Audit", "LambdaMap", "Stated", "TensorAudit", "audit"]

FIT, BETTER, MOST, EXACT = 2.5, 0.8, 0.9, 0.999
"""A fit is good within 2.5 roundings (three narrow ones give 1.8), two coefficients are better than one at under 0.8 of its
residual; 90 % of the bits make a tensor linear whatever the rest is (rows with a λ of their own), 99.9 % name the arithmetic."""
SMALL_ELEMENTS = 64
"""Below this two coefficients fit anything."""


def audit(
    merged: Checkpoint,
    instruct: Checkpoint,
    thinking: Checkpoint,
    base: Checkpoint | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """Recover how `merged` was made from `instruct` and `thinking`.

    Args:
        merged: the merge, e.g. a published one.
        instruct: the Instruct side.
        thinking: the Thinking side.
        base: their base, to recognise task arithmetic.
        threads: default one per core, at most eight.
        progress: called with the bytes of `merged` read since the last call, in the first pass over all of them.

    Raises:
        MismatchError: the sources do not fit each other.
    """
    sides = _fitted(Sides(merged, instruct, thinking, base))
    for other in [*sides.sources.values()][1:]:
        for clash in clashes(sides.instruct, other, dtypes=False):
            raise clash
    odd = dict(_odd_states(sides))
    names = [name for name in sides.merged if name not in odd]
    given = {"instruct": instruct, "thinking": thinking} | ({"base": base} if base else {})
    read = ReadOnce()
    stated, again = find_stated(merged, given, read)
    beside = again if again is not None and sides.merged is merged and _in_pieces(again, sides, names) else None
    estimates, wrong = estimate(sides, names, threads, progress, beside, read)
    odd |= {name: "not finite" for name in names if name not in estimates}
    lambda_map = _map(estimates, sides)
    tensors = [
        _tensor(name, sides, estimates.get(name), odd.get(name), lambda_map)
        for name in dict.fromkeys([*sides.instruct, *sides.merged])
        if name in sides.merged or not _is_spare_head(name, sides)
    ]
    assets = audit_assets(merged, sides.sources)
    verdict = _verdict(tensors)
    if stated is not None and again is not None:
        stated = compared(stated, merged, again, wrong, threads)
    if stated and stated.byte_for_byte:
        recipe, tensors = stated.recipe, [replace(tensor, num_wrong=0) for tensor in tensors]
    else:
        recipes = propose(verdict, tensors, lambda_map, sides, template_source(assets))
        recipe, tensors = reproduce(recipes, tensors, sides, threads)
    return Audit(
        merged=merged.label,
        verdict=verdict,
        tensors=tuple(tensors),
        lambda_map=lambda_map,
        recipe=recipe,
        assets=assets,
        stated=stated,
    )


def _in_pieces(again: Checkpoint, sides: Sides, names: list[str]) -> bool:
    """Whether a merge has these tensors, and computes them from pieces of its sources as they are read for the estimates."""
    shapes = {name: spec.shape for name, spec in again.specs.items()}
    return all(
        shapes.get(name) == sides.merged.specs[name].shape and again.chunk_elements(name) is None for name in names
    )


def _fitted(sides: Sides) -> Sides:
    """All with experts in one layout, and vocabularies in the order of the merge; as they are where that cannot be."""
    try:
        fitted, _ = fit(sides.sources | {"merged": sides.merged}, "merged", "align")
    except MismatchError:
        return sides
    return Sides(fitted["merged"], fitted["instruct"], fitted["thinking"], fitted.get("base"))


def _odd_states(sides: Sides) -> Iterator[tuple[str, str]]:
    """Tensors that cannot be fitted, with their state."""
    for name in dict.fromkeys([*sides.instruct, *sides.merged]):
        if name not in sides.merged:
            yield name, "dropped"
        elif any(name not in side for side in sides.all):
            yield name, "extra"
        elif sides.merged.specs[name].shape != sides.instruct.specs[name].shape:
            yield name, "reshaped"
        elif not all(side.specs[name].is_float for side in sides.all):
            yield name, "same" if np.array_equal(sides.merged[name], sides.instruct[name]) else "other"


def _is_spare_head(name: str, sides: Sides) -> bool:
    """Whether this is an lm_head that is tied to the embeddings, so that it need not be there."""
    found = role_of(name)
    return found is not None and found.kind == "lm_head" and bool(sides.merged.config.get("tie_word_embeddings"))


def _map(estimates: Mapping[str, LambdaEstimate], sides: Sides) -> LambdaMap | None:
    """The map of the tensors that may be linear; the largest of them tells how often the merge rounded."""
    linear = {name: e for name, e in estimates.items() if _may_be_linear(e)}
    if not linear:
        return None
    largest = max(linear, key=lambda name: sides.merged.specs[name].num_elements)
    once = linear[largest].one_rounding
    intervals = {name: e.interval(once) for name, e in linear.items()}
    if not once:  # a few weights, rounded thrice, can look like another λ: ask their bits
        lam = simplest(*intervals[largest])
        arithmetic, _ = _most(exact_shares(largest, sides, lam))
        for name, (low, high) in intervals.items():
            if not low <= lam <= high and dict(exact_shares(name, sides, lam))[arithmetic] == 1:
                intervals[name] = min(low, lam), max(high, lam)
    return find_map(intervals)


def _most(shares: Iterator[tuple[str, float]]) -> tuple[str, float]:
    """The first arithmetic with the largest share; none is asked for beyond one that gives all."""
    best = next(shares)
    for share in shares if best[1] < 1 else ():
        best = share if share[1] > best[1] else best
        if best[1] == 1:
            break
    return best


def _may_be_linear(e: LambdaEstimate) -> bool:
    return not math.isnan(e.lam) and (e.one_rounding or e.residual <= FIT)


def _tensor(
    name: str, sides: Sides, e: LambdaEstimate | None, odd: str | None, lambda_map: LambdaMap | None
) -> TensorAudit:
    found = role_of(name)
    layer, kind = (found.layer, found.kind) if found else (None, "other")
    size = (sides.merged if name in sides.merged else sides.instruct).specs[name].num_elements
    if e is None:
        return TensorAudit(name, layer, kind, size, odd or "other")
    lam = lambda_map.at(name) if lambda_map else None
    arithmetic, exact = ("", 0.0) if lam is None else _most(exact_shares(name, sides, lam))
    state = _state(e, exact, size)
    return TensorAudit(
        name=name,
        layer=layer,
        kind=kind,
        num_elements=size,
        state=state,
        lam=lam if state in ("linear", "instruct", "thinking") else None,
        estimate=e,
        arithmetic=arithmetic if exact >= EXACT else "",
        exact=exact,
    )


def _state(e: LambdaEstimate, exact: float, size: int) -> str:
    copied = [
        state for state, differing in zip(("instruct", "thinking", "base"), e.differing, strict=False) if not differing
    ]
    if copied:
        return "same" if copied[:2] == ["instruct", "thinking"] else copied[0]
    two_fit_better = e.residual_two < BETTER * e.residual and size >= SMALL_ELEMENTS
    if exact >= MOST or (e.residual <= FIT and not two_fit_better and not math.isnan(e.lam)):
        return "linear"
    return "combination" if e.residual_two <= FIT and size >= SMALL_ELEMENTS else "other"


def _verdict(tensors: list[TensorAudit]) -> str:
    sizes = dict.fromkeys(STATES, 0)
    for tensor in tensors:
        sizes[tensor.state] += tensor.num_elements
    sizes.pop("not finite")  # the recipe, if there is one, tells of their bits
    whole = max(1, sum(sizes.values()))
    on_line = sum(sizes[state] for state in ON_LINE)
    if on_line == whole:
        ends = {tensor.state for tensor in tensors} - {"same", "not finite"}
        return "copy" if len(ends) <= 1 and "linear" not in ends else "linear"
    if sizes["combination"] > 0.9 * whole:
        return "combination"
    return "partly linear" if on_line > 0.5 * whole else "not linear"
