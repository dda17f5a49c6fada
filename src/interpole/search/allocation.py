"""Where on the dial the next samples tell most about the recommendation: curves as they may be, and what depends on which λ.

Accuracy and log tokens are Brownian motions along λ, quick where thinking sets in and slow elsewhere, seen through the noise of
finite samples. Each plausible curve has its recommendation; the λ whose value explains most of where these differ, per token, is
worth sampling. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from interpole.analysis.choices import BALANCED
from interpole.analysis.intervals import Array
from interpole.analysis.selection import chosen
from interpole.errors import AnalysisError

__all__ = ["Correction", "Goal", "Observed", "as_good", "choose", "confidence", "parse_goal", "plausible", "worth"]

Indices = NDArray[np.intp]
START_SD = 1.0  # of accuracy, and of log tokens about the mean, where nothing is known
ACCURACY_RATE = (0.04, 0.25)  # variance gained over the whole dial, and over the whole transition
TOKENS_RATE = (0.3, 4.0)  # the same of log tokens
TOLERANCE = 0.01  # of accuracy: what is that close is as good
TOKENS_TOLERANCE = 0.05  # share of tokens likewise


class Correction(NamedTuple):
    """What turns the log odds of a share of curves into those of being right; see `confidence`."""

    offset: float
    slope: float
    first: float  # added after the first round, which has one response per question at four or five λ
    most: float = 1.0  # a larger share says no more


CALIBRATION = {
    "balanced": Correction(0.09, 0.64, -0.64, most=0.88),
    "accuracy": Correction(0.10, 1.04, 1.72),
    "max_tokens": Correction(0.70, 1.18, 1.01),
    "min_accuracy": Correction(0.47, 1.08, 0.89),
}
"""Fitted on simulated pairs (benchmarks/adaptive_simulation.py)."""


class Goal(NamedTuple):
    """What λ is wanted for; the names are those of `recommend`."""

    name: str = "balanced"  # balanced, accuracy, max_tokens or min_accuracy
    limit: float = 0.0  # of the latter two

    @property
    def options(self) -> Mapping[str, Any]:
        """The goal as arguments of `recommend.recommend`."""
        return {"balanced": {"balanced": True}, "accuracy": {}}.get(self.name, {self.name: self.limit})


class Observed(NamedTuple):
    """What was measured at some λ of a grid of G."""

    at: Indices  # (M,)
    accuracy: Array  # (M,)
    accuracy_noise: Array  # (M,) variance of that from samples being few
    tokens_at: Indices  # (N,) where tokens are known: the probes' too
    log_tokens: Array  # (N,)
    log_tokens_noise: Array  # (N,)


def parse_goal(text: str) -> Goal:
    """The goal of `balanced`, `accuracy`, `max-tokens=1200` or `min-accuracy=0.8`.

    Raises:
        AnalysisError: the text is none of these.
    """
    name, _, number = text.replace("-", "_").partition("=")
    try:
        if name in ("balanced", "accuracy") and not number:
            return Goal(name)
        if name in ("max_tokens", "min_accuracy") and float(number) > 0:
            return Goal(name, float(number))
    except ValueError:
        pass
    raise AnalysisError(
        f"no goal {text!r}", remedy="say balanced, accuracy, max-tokens=1200 or min-accuracy=0.8 (a share)"
    )


def plausible(lams: Array, think: Array, observed: Observed, num_draws: int, seed: int) -> tuple[Array, Array]:
    """Draws of what accuracy and tokens may be, given what was observed.

    Args:
        lams: (G,) ascending.
        think: (G,) Think #R there, as far as it is known.
        observed: the measurements.
        num_draws: R.
        seed: of the draws.

    Returns:
        (R, G) accuracies, not clipped to [0, 1], and (R, G) tokens.
    """
    normal = np.random.default_rng(seed).standard_normal((2, num_draws, len(lams)))
    rising = np.maximum.accumulate(think)
    accuracy = _posterior(_clock(lams, rising, ACCURACY_RATE), observed.at, observed.accuracy, observed.accuracy_noise)
    tokens = _posterior(
        _clock(lams, rising, TOKENS_RATE), observed.tokens_at, observed.log_tokens, observed.log_tokens_noise
    )
    accuracies, logs = (mean + z @ root.T for z, (mean, root) in zip(normal, (accuracy, tokens), strict=True))
    return accuracies, np.exp(np.clip(logs, -20, 20))


def choose(accuracy: Array, tokens: Array, goal: Goal) -> Indices:
    """(R,) index of the λ recommended on each curve, by the rules of `recommend` among measured λ; curves are (R, G)."""
    least, most = _limits(accuracy, goal)
    return chosen(accuracy, tokens, least, most, cheapest=goal.name in ("balanced", "min_accuracy"))


def as_good(index: int, accuracy: Array, tokens: Array, goal: Goal) -> float:
    """The share of curves on which the λ number `index` is as good as the one recommended there, or nearly."""
    least, most = _limits(accuracy, goal)
    rows, best = np.arange(len(accuracy)), choose(accuracy, tokens, goal)
    ours, theirs = accuracy[:, index], accuracy[rows, best]
    cheap = tokens[:, index] <= (1 + TOKENS_TOLERANCE) * tokens[rows, best]
    if goal.name in ("balanced", "min_accuracy"):
        good = (ours >= np.minimum(least[:, 0], theirs) - TOLERANCE) & cheap
    else:
        within = tokens[:, index] <= (1 + TOKENS_TOLERANCE) * np.maximum(most, tokens[rows, best])
        good = (ours >= theirs - TOLERANCE) & within
    return float(np.mean(good | (best == index)))


def confidence(index: int, accuracy: Array, tokens: Array, goal: Goal, *, first: bool = False) -> float:
    """The probability that the λ number `index` is as good as any: the share of curves on which it is, recalibrated.

    Curves know the noise of few samples, but not how smooth accuracy is beyond the transition, so shares are off, most for
    `balanced`, whose limit is the highest of noisy values. Their log odds are corrected as simulated pairs say (Platt 1999), by
    goal, and otherwise after the first round.
    """
    num, by = len(accuracy), CALIBRATION[goal.name]
    share = min((num * as_good(index, accuracy, tokens, goal) + 0.5) / (num + 1), by.most)
    return float(expit(by.offset + by.slope * logit(share) + by.first * first))


def worth(accuracy: Array, tokens: Array, goal: Goal) -> Array:
    """(G,) how much of where recommendations differ is explained by the value at each λ, its accuracy or its tokens."""
    chosen = choose(accuracy, tokens, goal)[:, None] == np.arange(accuracy.shape[1])  # (R, G)
    centred = chosen - chosen.mean(axis=0)
    explained = [np.square(centred.T @ _standard(values)).sum(axis=0) for values in (accuracy, np.log(tokens))]
    return np.asarray(np.maximum(*explained) / len(chosen) ** 2)


def _limits(accuracy: Array, goal: Goal) -> tuple[Array, float]:
    """The least accuracy (R, 1) and the most tokens that meet the goal."""
    least = np.full((len(accuracy), 1), goal.limit if goal.name == "min_accuracy" else -np.inf)
    if goal.name == "balanced":
        least = BALANCED * accuracy.max(axis=1, keepdims=True)
    return least, goal.limit if goal.name == "max_tokens" else np.inf


def _clock(lams: Array, think: Array, rates: tuple[float, float]) -> Array:
    """(G,) ascending: how far each λ is along, in variance."""
    return np.asarray(rates[0] * (lams - lams[0]) + rates[1] * (think - think[0]))


def _posterior(clock: Array, at: Indices, values: Array, noise: Array) -> tuple[Array, Array]:
    """Mean (G,) and a root (G, G) of the covariance of a Brownian motion, given noisy values (M,) at some places."""
    kernel = START_SD**2 + np.minimum(clock[:, None], clock)
    centre = values.mean() if len(values) else 0.5
    gain = np.linalg.solve(kernel[np.ix_(at, at)] + np.diag(noise), kernel[at]).T  # (G, M)
    covariance = kernel - gain @ kernel[at]
    size, axes = np.linalg.eigh((covariance + covariance.T) / 2)
    mean = centre + gain @ (values - centre)
    return np.asarray(mean), np.asarray(axes * np.sqrt(np.clip(size, 0, None)))


def _standard(values: Array) -> Array:
    """Columns with mean 0 and standard deviation 1; what does not vary is 0."""
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf))
