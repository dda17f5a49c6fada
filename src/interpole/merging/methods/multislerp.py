"""The weighted mean direction of any number of models, at their weighted mean length; about their origin or a base.

From Goddard, goddard.blog/posts/multislerp-wow-what-a-cool-idea, whose second step (averaging in the tangent plane at the mean
direction) adds exactly nothing: what it averages is the mean itself less its part along itself. mergekit computes that step, we
leave it out; the results agree up to its rounding errors. `karcher` is the method that does not stop at this first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interpole.merging.methods import Method, Parameter
from interpole.merging.methods._task_vectors import normalized
from interpole.merging.methods._vectors import gram
from interpole.merging.methods.linear import linear

__all__ = ["METHODS", "multislerp"]

Array = NDArray[np.float32]


def multislerp(
    tensors: Sequence[Array], weights: Sequence[float], *, base: Array | None = None, normalize: bool = True
) -> Array:
    """The vector r · Σ wᵢuᵢ / ‖Σ wᵢuᵢ‖ with uᵢ = Θᵢ/‖Θᵢ‖ and r = Σ wᵢ·‖Θᵢ‖; Σ wᵢΘᵢ where the directions cancel out.

    Args:
        tensors: float32 arrays of one shape.
        weights: one number per tensor.
        base: the base model's array of that shape; then it is done with Θᵢ − Θ_base, and Θ_base added.
        normalize: divide the weights by their sum.

    Returns:
        A new float32 array of that shape.
    """
    shares = np.asarray(normalized(weights) if normalize else weights)
    vectors = tensors if base is None else [tensor - base for tensor in tensors]
    products = gram(vectors)
    lengths = np.sqrt(np.diag(products))
    factors = np.divide(shares, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    mean_length = np.sqrt(max(0.0, factors @ products @ factors))
    scaled = factors * (shares @ lengths) / mean_length if mean_length > 1e-8 else shares
    merged = linear(vectors, [float(weight) for weight in scaled])
    return merged if base is None else merged + base


METHODS = {
    "multislerp": Method(
        merge=multislerp,
        parameters={"normalize": Parameter(True, "divide the weights by their sum")},
        base="optional",
        interpolates=True,
    )
}
