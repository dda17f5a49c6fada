"""Sweeps over questions of four difficulties that their length tells, for tests of policies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from interpole.records import Outcome, Sample

LAMS = (0.0, 0.25, 0.5, 0.75, 1.0)


def sweep(chance: Callable[[int, float], float], num_questions: int = 80, k: int = 4, seed: int = 0) -> list[Sample]:
    """Responses of questions whose difficulty is 1 to 4 and whose length says it; tokens grow with λ alone."""
    rng, found = np.random.default_rng(seed), []
    for q, lam, number in itertools.product(range(num_questions), LAMS, range(1, k + 1)):
        hard = q % 4 + 1
        right = rng.random() < chance(hard, lam)
        found.append(
            Sample(
                "t", f"λ={lam:g}", lam, str(q), number, "1 " * (3 * hard + q % 3), "7", "", int(20 + 80 * lam), "stop",
                Outcome.DIRECT, False, "7" if right else str(rng.integers(8, 12)), {"own": float(right)}, str(hard),
            )
        )  # fmt: skip
    return found


def by_difficulty(hard: int, lam: float) -> float:
    """Easy questions lose by thinking, hard ones need it."""
    return 0.95 - 0.5 * lam if hard < 3 else 0.1 + 0.8 * lam


def alike(hard: int, lam: float) -> float:  # noqa: ARG001
    return 0.2 + 0.7 * math.sqrt(lam)
