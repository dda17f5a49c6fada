"""Do two checkpoints fit, tensor by tensor? Every clash as an error that names the tensor and both sides."""

from __future__ import annotations

from collections.abc import Iterator

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.names import role_of
from interpole.checkpoints.views.heads import is_tied
from interpole.errors import MismatchError

__all__ = ["clashes"]

SAME_FAMILY = "take two checkpoints of one family and size"


def clashes(a: Checkpoint, b: Checkpoint, *, dtypes: bool = True) -> Iterator[MismatchError]:
    """Everything that keeps `a` and `b` from being merged tensor by tensor, the most telling first.

    Args:
        a: one checkpoint.
        b: the other.
        dtypes: whether different dtypes are a clash (not if the recipe sets one for the result).
    """
    where = f"{a.label} ↔ {b.label}"
    yield from _tied_clash(a, b, where)
    told = is_tied(a) != is_tied(b)  # of its head no more is said
    lm_head = {name for name in a.keys() ^ b.keys() if told and (found := role_of(name)) and found.kind == "lm_head"}
    for one, other in ((a, b), (b, a)):
        missing = [name for name in one if name not in other and name not in lm_head]
        if missing:
            lacking = next((name for name in other if name not in one), None)
            beside = f"; {other.label} has e.g. {lacking} instead" if lacking else ""
            yield MismatchError(
                f"{len(missing)} tensors are only in {one.label}, e.g. {missing[0]} ({one.specs[missing[0]]}){beside}",
                where,
                SAME_FAMILY + "; if one is an incomplete download, fetch it again",
            )
    for name, spec in a.specs.items():
        if name not in b:
            continue
        other_spec = b.specs[name]
        if spec.shape != other_spec.shape:
            yield _shape_clash(name, a, b, where)
        elif spec.dtype != other_spec.dtype and (dtypes or not (spec.is_float and other_spec.is_float)):
            yield MismatchError(
                f"tensor {name} is {spec.dtype} in {a.label} and {other_spec.dtype} in {b.label}",
                where,
                "say which dtype the result has: --dtype bfloat16 (in a recipe, `dtype: bfloat16`)",
            )


def _tied_clash(a: Checkpoint, b: Checkpoint, where: str) -> Iterator[MismatchError]:
    tied = {checkpoint.label: is_tied(checkpoint) for checkpoint in (a, b)}
    if is_tied(a) != is_tied(b):
        first, second = sorted(tied, key=lambda label: not tied[label])
        yield MismatchError(
            f"{first} ties lm_head to the embeddings, {second} has an lm_head of its own",
            where,
            SAME_FAMILY + ", or untie the first by saving it with tie_word_embeddings=False and a copied lm_head",
        )


def _shape_clash(name: str, a: Checkpoint, b: Checkpoint, where: str) -> MismatchError:
    shape, other = a.specs[name].shape, b.specs[name].shape
    found = role_of(name)
    if found and found.kind in ("embedding", "lm_head") and shape[1:] == other[1:]:
        return MismatchError(
            f"different vocabulary: {name} has {shape[0]} rows in {a.label} and {other[0]} in {b.label}",
            where,
            "the tokenizers differ: say how to match the rows, --vocabulary align (by token) or ids (by number)",
        )
    return MismatchError(
        f"tensor {name} is {list(shape)} in {a.label} and {list(other)} in {b.label}", where, SAME_FAMILY
    )
