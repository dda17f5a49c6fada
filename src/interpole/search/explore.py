"""Find the λ for a goal with as few tokens as will do: bisection or a prediction, then samples where they tell most.

Whom it asks is an `Oracle`: a live pair (`search.adaptive`), or a simulated one. What it knows is the samples that were asked
for, so a search that was stopped takes the same way again over what is there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special
from scipy.special import expit

from interpole.analysis.intervals import Array
from interpole.analysis.links import fit_logistic
from interpole.analysis.prediction import Curve
from interpole.analysis.transition import Transition, find_transition, from_samples
from interpole.errors import AnalysisError
from interpole.records import Outcome, Sample
from interpole.search.allocation import Goal, Observed, choose, confidence, plausible, worth

__all__ = ["ENOUGH", "HALVINGS", "PROMPTS", "Found", "Oracle", "Round", "Spending", "bisect", "confirm", "explore"]

FRACTION = 0.35  # of what the grid is expected to cost: leaves room below 40 % for a wrong expectation
ENOUGH = 0.95  # probability that the recommended λ is as good as any
NUM_DRAWS = 2000
HALVINGS, PROMPTS = 5, 16  # within ±0.03 of the middle
UNLIKELY = 0.01  # a prediction is given up where what is seen would be so unlikely under it, in either direction


class Oracle(Protocol):
    """A pair that can be asked at any λ.

    Attributes:
        num_questions: of all tasks together.
    """

    num_questions: int

    def probe(self, lam: float, num_prompts: int) -> list[Sample]:
        """First responses to a few questions; their grades are not looked at."""

    def measure(self, wanted: Mapping[float, int]) -> list[Sample]:
        """All samples there are, after making sure of so many per question at these λ."""


class Spending(NamedTuple):
    """How much may be spent; `None`: no limit of that kind. Without either, `FRACTION` of what the grid would cost."""

    num_tokens: float | None = None
    num_samples: int | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """What one round added, and how sure the recommendation was after it."""

    added: Mapping[float, int]  # λ → samples per question it has now
    num_tokens: int  # spent so far
    lam: float  # recommended
    confidence: float  # probability that it is as good as any of the grid


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found and spent."""

    samples: tuple[Sample, ...]
    probes: tuple[Sample, ...]
    bracket: tuple[float, float]  # of bisection: the middle of the transition is between
    transition: Transition  # from samples and probes together
    rounds: tuple[Round, ...]
    stopped: str  # why
    num_tokens: int  # generated, the probes' included
    num_responses: int
    grid_tokens: float  # what the whole grid would cost, by what was measured
    grid_responses: int
    predicted: Curve | None = None  # what took the place of the bisection


def bisect(oracle: Oracle) -> tuple[list[Sample], tuple[float, float]]:
    """Halve [0, 1] until the λ where half of the responses close a thought is known to 2^−HALVINGS.

    Returns:
        All responses, and the last interval.
    """
    low, high, probes = 0.0, 1.0, list[Sample]()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        seen = oracle.probe(middle, PROMPTS)
        probes += seen
        low, high = (low, middle) if 2 * sum(s.closed for s in seen) >= len(seen) else (middle, high)
    return probes, (low, high)


def confirm(oracle: Oracle, predicted: Curve) -> tuple[list[Sample], bool]:
    """Ask a few questions in the middle of the transition that was predicted.

    Returns:
        The responses, and whether what they say may be chance, were the prediction right.
    """
    assert predicted.mid is not None
    lam = round(predicted.mid.value, 3)
    seen = oracle.probe(lam, PROMPTS)
    closed, num, share = sum(s.closed for s in seen), len(seen), predicted.at(lam)
    return seen, min(special.bdtr(closed, num, share), special.bdtrc(closed - 1, num, share)) > UNLIKELY


def explore(
    oracle: Oracle,
    lams: Sequence[float],
    num_samples: int,
    goal: Goal = Goal(),  # noqa: B008 (frozen)
    *,
    rounds: int = 8,
    spending: Spending = Spending(),  # noqa: B008 (frozen)
    seed: int = 0,
    predicted: Curve | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Found:
    """Find the λ for a goal as a grid of `lams` × `num_samples` would, with less.

    Args:
        oracle: whom to ask.
        lams: the grid.
        num_samples: responses per question that the grid would have at each λ; no λ gets more.
        goal: what λ is wanted for.
        rounds: at most so many after the bisection.
        spending: the most that may be spent, the bisection included (and exceeded only by that).
        seed: of the plausible curves.
        predicted: where thinking was predicted to set in, without generating: one probe holds it against responses, and it
            takes the place of the bisection unless they contradict it.
        tell: told of every step.

    Raises:
        AnalysisError: the bisection alone takes what may be spent.
    """
    probes, bracket, predicted = _begin(oracle, predicted, (min(lams), max(lams)), tell)
    tell(f"thinking sets in between λ={bracket[0]:.3f} and λ={bracket[1]:.3f} ({len(probes)} responses)")
    search = _Search(
        lams=np.array(sorted(lams)),
        num_samples=num_samples,
        goal=goal,
        num_questions=oracle.num_questions,
        probes=probes,
        seed=seed,
        predicted=predicted,
    )
    done: list[Round] = []
    stopped = f"{rounds} rounds are over"
    for number in range(rounds):
        added = search.next(spending, rounds - number)
        if not added and not done:
            raise AnalysisError(
                f"the bisection's {len(probes)} responses left nothing of the budget to measure with",
                remedy="allow more (--budget-tokens), ask more questions, or sweep the whole grid: it is small",
            )
        if not added:
            stopped = "the budget is spent" if min(search.counts) < num_samples else "the whole grid was measured"
            break
        search.see(oracle.measure({float(search.lams[i]): k for i, k in added.items()}))
        lam, sure = search.standing(first=not done)
        done.append(Round({float(search.lams[i]): k for i, k in added.items()}, search.spent_tokens, lam, sure))
        shown = ", ".join(f"λ={lam:g} × {k}" for lam, k in done[-1].added.items())
        tell(f"round {number + 1}: {shown}; λ={lam:g} is as good as any with {sure:.0%}")
        if sure >= ENOUGH and number:
            stopped = f"λ={lam:g} is as good as any of the grid with {sure:.0%}"
            break
    everything = [*search.samples, *search.extra_probes]
    return Found(
        samples=tuple(search.samples), probes=tuple(probes), bracket=bracket,
        transition=find_transition(from_samples(everything, seed=seed)), rounds=tuple(done), stopped=stopped,
        num_tokens=search.spent_tokens, num_responses=len(everything), grid_tokens=search.grid_tokens,
        grid_responses=len(search.lams) * num_samples * oracle.num_questions, predicted=predicted,
    )  # fmt: skip


def _begin(
    oracle: Oracle, predicted: Curve | None, ends: tuple[float, float], tell: Callable[[str], None]
) -> tuple[list[Sample], tuple[float, float], Curve | None]:
    """Where thinking sets in: as predicted, unless responses contradict it, or nothing was; then by bisection."""
    probes: list[Sample] = []
    if predicted is not None and predicted.mid is not None:
        probes, holds = confirm(oracle, predicted)
        middle = predicted.mid
        if holds:
            at_ends = [
                sample for lam in ends for sample in oracle.probe(lam, PROMPTS)
            ]  # the first round wants them too
            low, high = (middle.value if math.isnan(end) else end for end in (middle.low, middle.high))
            return [*probes, *at_ends], (low, high), predicted
        shown = f"{sum(s.closed for s in probes)} of {len(probes)} responses think at λ={middle.value:.3f}"
        tell(f"{shown}, where half of them were predicted to: bisection instead")
    found, bracket = bisect(oracle)
    return [*found, *probes], bracket, None


class _Search:
    """What is known so far, and where to ask next."""

    def __init__(
        self,
        lams: Array,
        num_samples: int,
        goal: Goal,
        num_questions: int,
        probes: Sequence[Sample],
        seed: int,
        predicted: Curve | None = None,
    ) -> None:
        self.lams, self._k, self._goal = lams, num_samples, goal
        self._num_questions, self._probes, self._seed = num_questions, probes, seed
        self._known = () if predicted is None else tuple(zip(predicted.lams, predicted.shares, strict=True))
        self.samples: list[Sample] = []
        self.counts = [0] * len(lams)  # samples per question
        self._draw()

    @property
    def extra_probes(self) -> list[Sample]:
        """Probes at λ that were not measured since: there, they are among the samples."""
        measured = {s.lam for s in self.samples}
        return [s for s in self._probes if s.lam not in measured]

    @property
    def spent_tokens(self) -> int:
        return sum(s.num_tokens for s in [*self.samples, *self.extra_probes])

    @property
    def grid_tokens(self) -> float:
        """What the whole grid would cost, as far as is known."""
        return float(self._tokens.sum()) * self._k * self._num_questions

    def see(self, samples: Sequence[Sample]) -> None:
        """Take in all samples that there are."""
        self.samples = [s for s in samples if s.lam is not None]
        num = Counter(s.lam for s in self.samples)
        self.counts = [num[float(lam)] // self._num_questions for lam in self.lams]
        self._draw()

    def standing(self, *, first: bool) -> tuple[float, float]:
        """The λ that the measured means recommend, and the probability that it is as good as any."""
        measured = [i for i, k in enumerate(self.counts) if k]
        seen = _by_lam(self.samples)
        shown = [seen[float(self.lams[i])] for i in measured]
        accuracy, tokens = (np.array([part]) for part in zip(*((s.score[0], s.tokens[0]) for s in shown), strict=True))
        best = measured[int(choose(accuracy, tokens, self._goal)[0])]
        return float(self.lams[best]), confidence(best, *self._curves, self._goal, first=first)

    def next(self, spending: Spending, rounds_left: int) -> dict[int, int]:
        """Grid index → samples per question to have, for the next round; nothing where no more can be had."""
        each = self._num_questions * (self._tokens if spending.num_samples is None else np.ones(len(self.lams)))
        left = self._left(spending)
        if not self.samples:
            return self._first(each, left)
        value, spread = worth(*self._curves, self._goal), self._curves[0].var(axis=0)
        counts, spent = list(self.counts), 0.0
        while True:
            gain = value * [self._removed(i, spread[i], counts[i]) for i in range(len(counts))] / each
            can = (np.array(counts) < self._k) & (spent + each <= left) & (gain > 0)
            if not can.any() or (spent and spent >= left / rounds_left):
                return {i: int(k) for i, k in enumerate(counts) if k > self.counts[i]}
            best = int(np.argmax(np.where(can, gain, -1)))
            counts[best] += 1
            spent += each[best]

    def _left(self, spending: Spending) -> float:
        if spending.num_samples is not None:
            return spending.num_samples - len(self.samples) - len(self.extra_probes)
        limit = FRACTION * self.grid_tokens if spending.num_tokens is None else spending.num_tokens
        return limit - self.spent_tokens

    def _first(self, each: Array, left: float) -> dict[int, int]:
        """One sample per question where thinking is complete, at the ends, and around the middle, as far as that can be paid."""
        above = np.flatnonzero(self._think >= 0.95)
        middle = int(np.searchsorted(self._think, 0.5))
        places = [above[0] if len(above) else len(self.lams) - 1, len(self.lams) - 1, 0, middle, middle - 1]
        first: dict[int, int] = {}
        for i in dict.fromkeys(int(np.clip(i, 0, len(self.lams) - 1)) for i in places):
            if each[i] <= left:
                first[i], left = 1, left - each[i]
        return first

    def _removed(self, i: int, spread: float, count: int) -> float:
        """The share of today's variance at λ number i that one more sample per question removes."""
        noise = self._noise[i] / self._num_questions  # of one sample per question
        known = [1 / (1 / max(spread, 1e-12) + (k - self.counts[i]) / noise) for k in (count, count + 1)]
        return float(known[0] - known[1]) / max(spread, 1e-12)

    def _draw(self) -> None:
        """Fit Think #R, then draw plausible curves."""
        measured, seen = _by_lam(self.samples), _by_lam([*self.samples, *self.extra_probes])
        think = _think(seen, self._known)
        self._think = think(self.lams)
        known = {i: (one.score[0], one.num) for i, lam in enumerate(self.lams) if (one := measured.get(float(lam)))}
        self._noise = np.full(len(self.lams), 0.25)
        for i, (mean, n) in known.items():
            self._noise[i] = (mean + 0.5 / n) * (1 - mean + 0.5 / n) / (1 + 1 / n) ** 2
        places = np.union1d(self.lams, list(seen))  # the probes' λ are places too: their tokens are known
        at = np.searchsorted(places, self.lams)
        index = {float(lam): int(np.searchsorted(places, lam)) for lam in seen}
        tokens = [(*one.tokens, one.num) for one in seen.values()]
        observed = Observed(
            np.array([at[i] for i in known], dtype=np.intp),
            np.array([mean for mean, _ in known.values()]),
            np.array([self._noise[i] / n for i, (_, n) in known.items()]),
            np.array(list(index.values()), dtype=np.intp),
            np.array([math.log(max(mean, 1e-9)) for mean, _, _ in tokens]),
            np.array([max(var, 0.01 * mean**2) / n / max(mean, 1e-9) ** 2 for mean, var, n in tokens]),
        )
        curves = plausible(places, think(places), observed, NUM_DRAWS, self._seed)
        self._curves = curves[0][:, at], curves[1][:, at]
        self._tokens = np.median(self._curves[1], axis=0)


class _Seen(NamedTuple):
    """Means and variances of what responses at one λ show, each task weighing the same, and the number of responses."""

    score: tuple[float, float]
    tokens: tuple[float, float]
    closed: tuple[float, float]
    num: int


def _think(seen: Mapping[float, _Seen], predicted: Sequence[tuple[float, float]] = ()) -> Callable[[Array], Array]:
    """λ (G,) → Think #R by a logistic fit; flat where it does not rise. A prediction counts as much as a bisection would."""
    shares = [(lam, one.closed[0], float(one.num)) for lam, one in seen.items()]
    shares += [(lam, share, HALVINGS * PROMPTS / len(predicted)) for lam, share in predicted]
    at, share, trials = (np.array(part) for part in zip(*shares, strict=True))
    ((middle, slope),) = fit_logistic(at, share[None], trials)
    if slope > 0:
        return lambda lams: np.asarray(expit(np.clip(slope * (lams - middle), -30, 30)))
    return lambda lams: np.full(len(lams), share.mean())


def _by_lam(samples: Iterable[Sample]) -> dict[float, _Seen]:
    """What the responses at each λ show; those that failed are left out."""
    groups: dict[float, dict[str, list[tuple[float, float, float]]]] = {}
    for one in samples:
        if one.lam is not None and one.outcome is not Outcome.FAILED:
            groups.setdefault(one.lam, {}).setdefault(one.task, []).append((one.score, one.num_tokens, one.closed))
    found = {}
    for lam, tasks in groups.items():
        values = [
            np.array([*zip(*each, strict=True)], dtype=np.float64) for each in tasks.values()
        ]  # (3, N) of each task
        means = np.mean([each.mean(axis=1) for each in values], axis=0)
        variances = np.mean([each.var(axis=1) for each in values], axis=0)
        score, tokens, closed = zip(means.tolist(), variances.tolist(), strict=True)
        found[lam] = _Seen(score, tokens, closed, sum(map(len, tasks.values())))
    return found
