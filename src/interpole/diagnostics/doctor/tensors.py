"""Checks of the safetensors headers, and of the weights themselves on a sample."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from interpole.checkpoints.architectures import language_config
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.compat import clashes
from interpole.checkpoints.names import depth_key, num_layers, role_of
from interpole.checkpoints.open import coded
from interpole.checkpoints.reduce import AbsoluteSums, absolute_sums, add_up, not_finite
from interpole.checkpoints.views.fp8 import Dequantised, announced
from interpole.checkpoints.views.scaled import Scaled
from interpole.diagnostics.doctor.findings import Check, Finding, Side

__all__ = ["CHECKS", "check_numbers", "check_weights"]

SEEN = (
    "seen between checkpoints of one base: 3.8 % (Qwen3-30B-A3B pair), 8.6 % (Qwen3-4B pair), 12.6 % (Qwen3-8B → "
    "R1-0528), 15.9 % (Qwen2.5-Math-7B → R1-7B); with the wrong base: 142 % (Qwen2.5-7B → R1-7B); two unrelated "
    "models of one scale: 141 %"
)
FAR, UNRELATED = 0.25, 0.7
"""Relative change from which on one base is doubted, and from which on it is ruled out; between the numbers of `SEEN`."""

SAMPLE_TENSORS, SAMPLE_WINDOWS, WINDOW_ELEMENTS = 48, 4, 1 << 14


def _check_tensors(a: Side, b: Side) -> Iterator[Finding]:
    """Names, shapes and tied embeddings; clashes of one sort are told once."""
    sorts: dict[str, list[str]] = {}
    for clash in clashes(a.checkpoint, b.checkpoint, dtypes=False):
        sorts.setdefault(clash.remedy, []).append(clash.what)
    for remedy, (first, *more) in sorts.items():
        yield Finding(
            "tensors",
            "stop",
            first + (f", and {len(more)} more like it" if more else ""),
            "a merge needs every tensor on both sides, in one shape",
            remedy,
        )


def _check_dtypes(a: Side, b: Side) -> Iterator[Finding]:
    """Precision of the weights on both sides."""
    both = [name for name, spec in a.checkpoint.specs.items() if spec.is_float and name in b.checkpoint]
    pairs = Counter((a.checkpoint.specs[name].dtype, b.checkpoint.specs[name].dtype) for name in both)
    mixed = {pair: num for pair, num in pairs.items() if pair[0] != pair[1]}
    if mixed:
        seen = "; ".join(f"{num} tensors are {x} in {a.name} and {y} in {b.name}" for (x, y), num in mixed.items())
        yield Finding(
            "dtype",
            "warn",
            seen,
            "the result can have one dtype only, and which is yours to say",
            "merge with --dtype bfloat16 (in a recipe, `dtype: bfloat16`)",
        )


def _check_quantisation(a: Side, b: Side) -> Iterator[Finding]:
    """Weights stored in codes of few bits, which cannot be averaged as they are."""
    for side in (a, b):
        decoded = side.checkpoint if isinstance(side.checkpoint, Dequantised | Scaled) else None
        said = (announced((decoded.raw if decoded else side.checkpoint).config) or {}).get("quant_method")
        if decoded and coded(decoded.raw):
            what = f"{side.name} is stored in FP8 and read as bfloat16"
            why = "its weights carry rounding errors of up to 6 %, as large as the difference between two close sides"
            yield Finding(
                "quantised", "warn", what, why, "take the unquantised checkpoint if there is one (without -FP8)"
            )
        elif name := coded(side.checkpoint):
            yield Finding(
                "quantised",
                "stop",
                f"{side.name} is quantised ({said or 'method not said'}): e.g. {name} is {side.checkpoint.specs[name]}",
                "its numbers mean something only with their scales; averaged with other scales they mean nothing",
                "take the unquantised checkpoint (without -AWQ, -GPTQ … in its name); FP8 is decoded by `interpole.open`",
            )
        elif said:
            yield Finding(
                "quantised",
                "warn",
                f"the config of {side.name} announces {said} quantisation, its weights are plain numbers",
                "an engine that believes the config would look for scales that are not there",
                "take `quantization_config` out of its config.json; a merge leaves it out",
            )


def _check_names(a: Side, _: Side) -> Iterator[Finding]:
    """Tensors whose layer and kind are not known; both sides have the same names, or `_check_tensors` says so."""
    unknown = [name for name in a.checkpoint if role_of(name) is None]
    if unknown:
        yield Finding(
            "names",
            "warn",
            f"{len(unknown)} of {len(a.checkpoint)} tensors are of no known family, e.g. {unknown[0]}",
            "a plain λ works all the same; rules by layer or kind cannot place these tensors",
            "in a recipe, give rules for them by `name` (a glob)",
        )


def _check_depth(a: Side, b: Side) -> Iterator[Finding]:
    """Layers on disk against layers in the config."""
    for side in (a, b):
        config = language_config(side.checkpoint.config)
        said, found = config.get(depth_key(config) or ""), num_layers(side.checkpoint)
        if said and found and found != said:
            yield Finding(
                "depth",
                "note" if found > said else "stop",
                f"{side.name} has {found} layers on disk and {said} in its config",
                "more: extra layers for multi-token prediction, which are merged like the others; fewer: the download is "
                "incomplete",
                "if fewer, fetch it again; if more, nothing unless you serve with multi-token prediction",
            )


def check_numbers(side: Side, progress: Callable[[int], None] | None = None) -> Iterator[Finding]:
    """NaN and infinity among the weights of one side; reads all of them."""
    broken = not_finite(side.checkpoint, progress=progress)
    if broken:
        told = [
            f"{name} ({number:,} of {side.checkpoint.specs[name].num_elements:,})" for name, number in broken.items()
        ]
        yield Finding(
            "not-finite",
            "stop",
            f"{side.name} holds NaN or infinity in {', '.join(told[:4])}{f' and {len(told) - 4} more' if told[4:] else ''}",
            "whatever is computed from such a weight is no number either, and a model with one writes noise",
            "fetch the file again, or take another revision or another checkpoint of that side",
        )


def check_weights(a: Side, b: Side) -> Iterator[Finding]:
    """σ on a sample of tensors: do both come from one base at all? Reads about 6 MB of each side.

    Tensors that hold NaN or infinity where they are read are left out: `check_numbers` tells of them.
    """
    sampled = {name: _sample(name, a.checkpoint, b.checkpoint) for name in _sample_names(a.checkpoint, b.checkpoint)}
    sums = {name: found for name, found in sampled.items() if math.isfinite(sum(found))}
    if not sums:
        return
    whole = AbsoluteSums(*add_up(list(sums.values())))
    change = whole.relative_change
    seen = (
        f"σ = {whole.sigma:.4f} on a sample of {len(sums)} tensors: the weights of {a.name} and {b.name} differ by "
        f"{change:.1%}"
    )
    if whole.difference == 0:
        what, remedy = f"{a.name} and {b.name} hold the same weights", "give two different checkpoints"
        yield Finding("weights", "stop", what, "there is nothing between them", remedy)
    elif change < FAR:
        yield Finding("weights", "note", seen, f"that is one base; {SEEN}", "nothing")
        far = [name for name, part in sums.items() if part.relative_change >= UNRELATED]
        if far:
            yield Finding(
                "weights-parts",
                "warn",
                f"in an otherwise close pair {len(far)} of the sampled tensors are unrelated, e.g. {far[0]}",
                "a part that was initialised or trained anew cannot be averaged",
                f"give such parts to one side by a rule: name: {far[0]}, lambda: 1",
            )
    else:
        yield Finding(
            "weights",
            "stop" if change >= UNRELATED else "warn",
            seen,
            f"{'these are not of one base' if change >= UNRELATED else 'that is far for one base'}; {SEEN}",
            "check which base each was made from (their model cards say), and take two of one base",
        )


def _sample_names(a: Checkpoint, b: Checkpoint) -> list[str]:
    """Up to 48 matrices that both sides have, spread evenly over the model."""
    fit = [
        name
        for name, spec in a.specs.items()
        if spec.is_float and len(spec.shape) > 1 and name in b and b.specs[name] == spec and spec.num_elements
    ]
    return fit[:: max(1, -(-len(fit) // SAMPLE_TENSORS))]


def _sample(name: str, a: Checkpoint, b: Checkpoint) -> AbsoluteSums:
    size = a.specs[name].num_elements
    starts = range(0, size, max(WINDOW_ELEMENTS, size // SAMPLE_WINDOWS))
    spans = [(start, min(start + WINDOW_ELEMENTS, size)) for start in starts]
    with np.errstate(all="ignore"):
        return AbsoluteSums(*add_up([absolute_sums(a.read(name, *span), b.read(name, *span)) for span in spans]))


CHECKS: tuple[Check, ...] = (_check_tensors, _check_dtypes, _check_quantisation, _check_names, _check_depth)
