"""The rival of a policy: the static hull as other questions show it, at the tokens that the policy spends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from interpole.analysis.fitting import Cells
from interpole.analysis.hull import Indices, Means, hull, mix, slope
from interpole.analysis.intervals import Array

__all__ = ["Fold", "Rivals", "averaged", "beyond", "folds", "rivals_of"]

NUM_FOLDS = 5
NUM_REPEATS = 4  # partitions into folds that are averaged over
Fold = tuple[Indices, Indices]
"""The questions to fit on, and those to score."""


def folds(num: int, seed: int) -> list[list[Fold]]:
    """Partitions of the questions: for each fold the others, and itself."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(NUM_REPEATS):
        fold = rng.permutation(num) % NUM_FOLDS
        found.append([(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(NUM_FOLDS)])
    return found


class _Rival(NamedTuple):
    """The hull as each fold's other questions show it."""

    means: Means  # of the other questions
    vertices: Indices
    here: Indices  # the questions of the fold


class Rivals(NamedTuple):
    """The hulls of all folds, and what all questions spend where each fold aims at so many tokens."""

    folds: list[_Rival]
    aims: Array  # ascending; between them what is spent is linear
    spent: Array


def rivals_of(cells: Cells, weights: Array, parts: Sequence[Fold]) -> Rivals:
    """The hulls of a partition into folds."""
    at, found = cells.means, []
    for others, here in parts:
        means = averaged(Means(*(part[others] for part in at)), weights[others])
        found.append(_Rival(means, hull(means), here))
    corners = [one.means.tokens[one.vertices] for one in found]
    aims = np.unique(np.concatenate(corners))
    spent = np.zeros(len(aims))
    for one, elsewhere in zip(found, corners, strict=True):
        spent += np.interp(aims, elsewhere, weights[one.here] @ at.tokens[one.here[:, None], one.vertices])
    return Rivals(found, aims, np.maximum.accumulate(spent))


def _rival_at(tokens: float, at: Means, rivals: Rivals) -> tuple[Means, float]:
    """What the hulls' mixes give on each question (Q,) at these mean tokens, and accuracy per token there.

    The vertices and their shares come from the other folds; only the tokens to aim at there are moved until they agree here.
    """
    aim = float(np.interp(tokens, rivals.spent, rivals.aims))
    found, slopes = Means(np.empty(len(at.tokens)), np.empty(len(at.tokens))), []
    for one in rivals.folds:
        shares = mix(one.means, one.vertices, aim)
        used = np.flatnonzero(shares)
        for side, part in zip(found, at, strict=True):
            side[one.here] = part[one.here[:, None], used] @ shares[used]
        slopes.append(slope(one.means, *used.tolist()) if len(used) == 2 else 0.0)
    return found, float(np.mean(slopes))


def beyond(mine: Means, cells: Cells, weights: Array, rivals: Rivals) -> tuple[float, Array]:
    """The rival's mean accuracy at the tokens that `mine` (Q,) takes, and each question's accuracy beyond it (Q,).

    Where a question's own tokens differ from the rival's, that is worth what a token is worth to the hull there.
    """
    rival, per_token = _rival_at(float(weights @ mine.tokens), cells.means, rivals)
    return (
        float(weights @ rival.accuracy),
        mine.accuracy - rival.accuracy - per_token * (mine.tokens - rival.tokens),
    )


def averaged(means: Means, weights: Array) -> Means:
    """(L,) over questions."""
    return Means(*(weights @ part / weights.sum() for part in means))
