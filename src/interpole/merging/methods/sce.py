"""SCE (arXiv 2408.07990, FuseChat 3): select the elements on which the models differ most, weigh each by its energy, vote.

Select: the share `select_topk` of elements whose task vectors vary most between the models. Calculate: the weight of a model
is its mean squared task vector. Erase: elements against the majority sign are left out. Differs from mergekit, which takes
equal weights where the mean squares sum to less than 1e-6: fine-tunes are often that light, so that SCE would not weigh at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._sparsify import smallest
from interpole.merging.methods._task_vectors import agreeing, normalized, summed
from interpole.merging.methods._vectors import dot

__all__ = ["METHODS", "sce"]

Array = NDArray[np.float32]


def sce(tensors: Sequence[Array], weights: Sequence[float], *, base: Array, select_topk: float = 1.0) -> Array:  # noqa: ARG001
    """Θ_base + Σ ηᵢ·δᵢ·mᵢ / Σ ηᵢ·mᵢ with ηᵢ ∝ mean(δᵢ²), mᵢ = 1 where δᵢ is selected and has the sign of Σ δⱼ.

    Args:
        tensors: float32 arrays of one shape.
        weights: not used; the method finds its own.
        base: the base model's array of that shape.
        select_topk: share of the elements with any variance that is kept: those of the largest variance.

    Returns:
        A new float32 array of that shape.
    """
    deltas = [tensor - base for tensor in tensors]
    if select_topk < 1:
        variance = np.stack(deltas).var(axis=0).reshape(-1)
        count = int(select_topk * np.count_nonzero(variance))
        mask = smallest(-variance, count).reshape(base.shape)
        deltas = [delta * mask for delta in deltas]
    energies = normalized([dot(delta.reshape(-1), delta.reshape(-1)).item() for delta in deltas])
    shares = [mask * np.float32(energy) for mask, energy in zip(agreeing(deltas), energies, strict=True)]
    total = summed([delta * share for delta, share in zip(deltas, shares, strict=True)])
    divisor = summed(shares)
    total /= np.where(divisor > 0, divisor, np.float32(1))
    total += base
    return total


METHODS = {
    "sce": Method(
        merge=sce,
        parameters={"select_topk": Parameter(1.0, "share of elements kept, by variance between models", low=0, high=1)},
        base="needed",
        uses_weights=False,
    )
}
