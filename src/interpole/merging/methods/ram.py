"""RAM (arXiv 2601.13572): add what one model alone changed, average what several changed.

A model changed an element where its task vector is larger than `epsilon`. Task vectors of reinforcement learning are sparse, and
an average over all models would dilute what one of them learnt. RAM+ scales what a model alone changed by 1 + r·ρ, ρ being how
many of its elements are shared for each that is its own, at most `alpha`. As in mergekit ρ is taken per tensor (`ramplus_tl`), in
the paper over the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._task_vectors import summed

__all__ = ["METHODS", "ram", "ramplus_tl"]

Array = NDArray[np.float32]


def ram(
    tensors: Sequence[Array],
    weights: Sequence[float],  # noqa: ARG001
    *,
    base: Array,
    epsilon: float = 1e-5,
) -> Array:
    """Θ_base + Σ mᵢ·δᵢ / Σ mⱼ, mᵢ being 1 where |δᵢ| > epsilon, else 0; Θ_base where no model changed anything.

    Args:
        tensors: float32 arrays of one shape.
        weights: not used; the method finds its own.
        base: the base model's array of that shape.
        epsilon: a task vector's elements up to this size are no change.

    Returns:
        A new float32 array of that shape.
    """
    deltas, counts = _changes(tensors, base, epsilon)
    np.maximum(counts, 1, out=counts)
    return summed([base, summed([delta / counts for delta in deltas])])


def ramplus_tl(
    tensors: Sequence[Array],
    weights: Sequence[float],  # noqa: ARG001
    *,
    base: Array,
    epsilon: float = 1e-5,
    r: float = 0.1,
    alpha: float = 0.2,
) -> Array:
    """As `ram`, but what model i alone changed is scaled by 1 + r·min(ρᵢ, alpha).

    Args:
        tensors: float32 arrays of one shape.
        weights: not used; the method finds its own.
        base: the base model's array of that shape.
        epsilon: a task vector's elements up to this size are no change.
        r: how much is added for a ρ of 1.
        alpha: the largest ρ that counts; ρᵢ is how many elements model i changed with others, for each that it alone changed.

    Returns:
        A new float32 array of that shape.
    """
    deltas, counts = _changes(tensors, base, epsilon)
    alone, shared = counts == 1, counts > 1
    divisor = np.maximum(counts, 1)
    parts = []
    for delta in deltas:
        changed = delta != 0
        num_shared, num_alone = (int(np.count_nonzero(changed & mask)) for mask in (shared, alone))
        ratio = num_shared / max(num_alone, 1e-5)
        factor = np.float32(1 + r * min(ratio, alpha))
        parts.append(np.where(alone, delta * factor, delta / divisor))
    return summed([base, summed(parts)])


def _changes(tensors: Sequence[Array], base: Array, epsilon: float) -> tuple[list[Array], Array]:
    """The task vectors without what is no change, and for each element how many models changed it."""
    deltas = [tensor - base for tensor in tensors]
    for delta in deltas:
        delta[np.abs(delta) <= np.float32(epsilon)] = 0
    return deltas, summed([(delta != 0).astype(np.float32) for delta in deltas])


EPSILON = Parameter(1e-5, "a task vector's elements up to this size are no change", low=0)
METHODS = {
    "ram": Method(merge=ram, parameters={"epsilon": EPSILON}, elementwise=True, base="needed", uses_weights=False),
    "ramplus_tl": Method(
        merge=ramplus_tl,
        parameters={
            "epsilon": EPSILON,
            "r": Parameter(0.1, "how much what one model alone changed is scaled up, for each ρ"),
            "alpha": Parameter(0.2, "the largest ρ that counts", low=0),
        },
        base="needed",
        uses_weights=False,
    ),
}
