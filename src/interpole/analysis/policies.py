"""Does choosing λ by the question beat every static λ? Policies scored from a sweep's samples, without generating anything.

A policy takes, for each question, the samples of the λ it chooses, and is charged for every token it reads. Its rival is the
upper concave hull of the static points, (mean tokens, accuracy), which a random mix of two λ reaches. Both are fitted on other
questions than they are scored on (cross-fitting), at equal tokens, paired by question. docs/route.md explains the table.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from interpole.analysis.compare import holm
from interpole.analysis.intervals import Array, Change, Interval, change_interval, interval_text
from interpole.analysis.metrics import SIGNIFICANCE, answer_of, score_of
from interpole.errors import AnalysisError
from interpole.formats import plain
from interpole.records import Outcome, Sample

__all__ = [
    "Cells",
    "Means",
    "Point",
    "Policy",
    "Routes",
    "Scored",
    "cells_of",
    "hull",
    "policies_for",
    "route",
    "to_json",
]

NUM_PRICES = 9
PRICE_SPREAD = 3.0  # beyond the slopes of the hull, on both sides
NUM_FOLDS = 5
NUM_REPEATS = 4  # partitions into folds that are averaged over
NUM_BINS = 4  # of a number that questions have, by quartiles of the fitting questions
PRIOR_QUESTIONS = 4.0  # with which a group is drawn towards all questions
RIDGE = 1.0
CASCADE_SIZES = (2, 3)
_NUMBER = re.compile(r"\d+")
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cells:
    """What Q questions were given at L λ, K times each."""

    lams: Array  # (L,) ascending
    scores: Array  # (Q, L, K)
    tokens: Array  # (Q, L, K)
    answers: NDArray[np.int64]  # (Q, L, K) the same number for the same answer to a question; −1: none
    labels: Mapping[str, tuple[str, ...]]  # what is known of every question before it is asked, as text
    numbers: Mapping[str, Array]  # and as numbers (Q,)
    num_left_out: int = 0  # questions that lack a sample somewhere

    def __len__(self) -> int:
        """The number of questions."""
        return len(self.scores)

    def take(self, rows: Indices) -> Cells:
        """Some of the questions."""
        return Cells(
            self.lams, self.scores[rows], self.tokens[rows], self.answers[rows],
            {name: tuple(values[i] for i in rows) for name, values in self.labels.items()},
            {name: values[rows] for name, values in self.numbers.items()}, self.num_left_out,
        )  # fmt: skip

    @property
    def means(self) -> Means:
        """Of every question at every λ."""
        return Means(self.scores.mean(axis=2), self.tokens.mean(axis=2))


class Means(NamedTuple):
    """Accuracy and tokens, of the same shape."""

    accuracy: Array
    tokens: Array


Fold = tuple[Indices, Indices]
"""The questions to fit on, and those to score."""
Decide = Callable[[Cells, float], Means]
"""Questions and a price (accuracy that a token must be worth) → what each of them is answered with, (Q,)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to choose, and how it is fitted."""

    name: str
    what: str  # in words
    fit: Callable[[Cells], Decide]
    is_bound: bool = False  # it knows what nobody knows before asking


class Point(NamedTuple):
    """A policy at one price, and its rival at the same mean tokens."""

    price: float
    tokens: float
    accuracy: float
    rival: float  # accuracy


@dataclass(frozen=True, slots=True)
class Scored:
    """What a policy reached."""

    name: str
    what: str
    is_bound: bool
    points: tuple[Point, ...]  # from short to long
    gain: Interval  # accuracy beyond the rival at equal tokens, averaged over the tokens it can be made to spend
    p_adjusted: float  # of no gain, by Holm over all policies but bounds; NaN: a bound
    verdict: str


@dataclass(frozen=True, slots=True)
class Routes:
    """The static points, their hull, and every policy."""

    task: str  # of several tasks: their names with "+", each task weighing the same
    num_questions: int
    num_left_out: int
    num_samples: int  # K, of every question at every λ
    static: tuple[tuple[float, float, float], ...]  # λ, tokens, accuracy
    on_hull: tuple[float, ...]  # λ
    policies: tuple[Scored, ...]


def route(
    samples: Iterable[Sample],
    *,
    names: Sequence[str] = (),
    task: str | None = None,
    grading: str | None = None,
    numbers: Mapping[str, Mapping[tuple[str, str], float]] | None = None,
    seed: int = 0,
) -> Routes:
    """Score policies against every static λ and every mix of two.

    Args:
        samples: of a sweep; those off the dial are left aside.
        names: of the policies; none: all that the samples allow.
        task: the one to go by; `None`: all, each weighing the same.
        grading: as in `measure`.
        numbers: more that is known of questions before they are answered: name → (task, problem) → number; left aside where it
            lacks a question.
        seed: of the partitions into folds.

    Raises:
        AnalysisError: fewer than two λ, fewer than ten questions answered at all of them, or an unknown policy or task.
    """
    cells, weights, tasks = cells_of(samples, task=task, grading=grading, numbers=numbers)
    known = {policy.name: policy for policy in policies_for(cells)}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise AnalysisError(f"no policy {wrong[0]!r} for these samples", remedy=f"there are {', '.join(known)}")
    chosen = [known[name] for name in names] or list(known.values())
    means = _mean(cells.means, weights)
    vertices = hull(means)
    prices = _prices(means, vertices)
    partitions = [(folds, _rivals(cells, weights, folds)) for folds in _folds(len(cells), seed)]
    found = [_score(policy, cells, weights, prices, partitions) for policy in chosen]
    rivals = [(change, policy) for (_, change), policy in zip(found, chosen, strict=True) if not policy.is_bound]
    adjusted = dict(zip((p.name for _, p in rivals), holm([_p_value(change) for change, _ in rivals]), strict=True))
    return Routes(
        "+".join(tasks), len(cells), cells.num_left_out, cells.scores.shape[2],
        tuple(zip(cells.lams.tolist(), means.tokens.tolist(), means.accuracy.tolist(), strict=True)),
        tuple(cells.lams[vertices].tolist()),
        tuple(
            _judged(policy, points, change, adjusted.get(policy.name, math.nan))
            for policy, (points, change) in zip(chosen, found, strict=True)
        ),
    )  # fmt: skip


def to_json(routes: Routes) -> dict[str, Any]:
    """Plain data; what is not known is null."""
    fields = plain(asdict(routes))
    fields["static"] = [dict(zip(("lam", "tokens", "accuracy"), point, strict=True)) for point in routes.static]
    return fields


# ── the questions ────────────────────────────────────────────────────────────────────────────────────────────────


def cells_of(
    samples: Iterable[Sample],
    *,
    task: str | None = None,
    grading: str | None = None,
    numbers: Mapping[str, Mapping[tuple[str, str], float]] | None = None,
) -> tuple[Cells, Array, list[str]]:
    """The samples as cells, the weight of each question (each task weighs the same, in all 1), and the tasks.

    K is what most questions have at the λ that was sampled least; questions with less somewhere are left out and counted.

    Raises:
        AnalysisError: too little for any policy.
    """
    usable = [s for s in samples if s.lam is not None and s.outcome is not Outcome.FAILED]
    tasks = list(dict.fromkeys(s.task for s in usable))
    if task is not None and task not in tasks:
        raise AnalysisError(
            f"no task {task!r}; the samples have {', '.join(tasks) or 'none'}", remedy="name one of those"
        )
    tasks = tasks if task is None else [task]
    cells: dict[tuple[str, str], dict[float, list[Sample]]] = {}
    for s in usable:
        if s.task in tasks and s.lam is not None:
            cells.setdefault((s.task, s.problem_id), {}).setdefault(s.lam, []).append(s)
    lams = sorted(set.intersection(*(set(at) for at in _by_task(cells).values())) if cells else ())
    counts = [Counter(len(at.get(lam, ())) for at in cells.values()).most_common(1)[0][0] for lam in lams]
    num = min(counts, default=0)
    kept = {key: at for key, at in cells.items() if num and all(len(at.get(lam, ())) >= num for lam in lams)}
    if len(lams) < 2 or len(kept) < 2 * NUM_FOLDS:
        raise AnalysisError(
            f"{len(kept)} questions were answered at each of {len(lams)} λ: too few to choose by",
            remedy=f"sweep at least {2 * NUM_FOLDS} questions at two λ or more",
        )
    rows = [[at[lam][:num] for lam in lams] for at in kept.values()]
    first = [row[0][0] for row in rows]
    answers = [_coded([answer_of(s, grading) for cell in row for s in cell]) for row in rows]
    shape = (len(rows), len(lams), num)
    of_tasks = Counter(key[0] for key in kept)
    weights = np.array([1 / (len(of_tasks) * of_tasks[key[0]]) for key in kept])
    found = Cells(
        np.array(lams),
        np.array([[[score_of(s, grading) for s in cell] for cell in row] for row in rows]),
        np.array([[[s.num_tokens for s in cell] for cell in row] for row in rows], dtype=np.float64),
        np.array(answers).reshape(shape),
        _varied({"difficulty": [s.difficulty for s in first], "task": [s.task for s in first]}),
        {
            "length": np.array([len(s.question) for s in first], dtype=np.float64),
            **{
                name: np.array([at[s.task, s.problem_id] for s in first])
                for name, at in (numbers or {}).items()
                if all((s.task, s.problem_id) in at for s in first)
            },
            "figures": np.array([len(_NUMBER.findall(s.question)) for s in first], dtype=np.float64),
        },
        len(cells) - len(kept),
    )
    return found, weights, [name for name in tasks if name in of_tasks]


def _by_task(cells: Mapping[tuple[str, str], Mapping[float, Any]]) -> dict[str, set[float]]:
    """The λ that each task was asked at."""
    found: dict[str, set[float]] = {}
    for (task, _), at in cells.items():
        found.setdefault(task, set()).update(at)
    return found


def _coded(answers: Sequence[str | None]) -> list[int]:
    """A number for each different answer to one question; −1: none."""
    numbers: dict[str, int] = {}
    return [-1 if a is None or not a.strip() else numbers.setdefault(a.strip(), len(numbers)) for a in answers]


def _varied(labels: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Those labels that are known of all questions and differ, but do not name single questions."""
    found = {name: tuple(values) for name, values in labels.items() if all(values)}
    return {name: values for name, values in found.items() if 1 < len(set(values)) <= len(values) // 4}


# ── the rival ────────────────────────────────────────────────────────────────────────────────────────────────────


def hull(means: Means) -> Indices:
    """The points (L,) that are vertices of the upper concave hull, from the cheapest to the most accurate one."""
    order = np.lexsort((-means.accuracy, means.tokens))
    kept: list[int] = []
    for i in order.tolist():
        if kept and means.accuracy[i] <= means.accuracy[kept[-1]]:
            continue
        while len(kept) > 1 and _slope(means, kept[-2], kept[-1]) <= _slope(means, kept[-1], i):
            kept.pop()
        kept.append(i)
    return np.array(kept, dtype=np.intp)


def _slope(means: Means, i: int, j: int) -> float:
    """Accuracy gained per token from point i to point j."""
    run = means.tokens[j] - means.tokens[i]
    return float((means.accuracy[j] - means.accuracy[i]) / run) if run > 0 else math.inf


def _mix(means: Means, vertices: Indices, tokens: float) -> Array:
    """(L,) the shares in which two neighbours on the hull are mixed to spend so many tokens; an end, beyond the ends."""
    shares = np.zeros(len(means.tokens))
    at = means.tokens[vertices]
    place = float(np.interp(tokens, at, np.arange(len(at))))
    low = min(int(place), len(at) - 1)
    shares[vertices[low]] = 1 - (place - low)
    if place > low:
        shares[vertices[low + 1]] = place - low
    return shares


def _prices(means: Means, vertices: Indices) -> Array:
    """What a token is worth: from well above the hull's steepest part to well below its flattest."""
    slopes = [_slope(means, i, j) for i, j in zip(vertices[:-1].tolist(), vertices[1:].tolist(), strict=True)]
    finite = [slope for slope in slopes if slope < math.inf]
    return np.geomspace(PRICE_SPREAD * max(finite), min(finite) / PRICE_SPREAD, NUM_PRICES) if finite else np.zeros(1)


class _Rival(NamedTuple):
    """The hull as each fold's other questions show it."""

    means: Means  # of the other questions
    vertices: Indices
    here: Indices  # the questions of the fold


def _rivals(cells: Cells, weights: Array, folds: Sequence[Fold]) -> list[_Rival]:
    at, found = cells.means, []
    for others, here in folds:
        means = _mean(Means(*(part[others] for part in at)), weights[others])
        found.append(_Rival(means, hull(means), here))
    return found


def _rival_at(tokens: float, at: Means, weights: Array, rivals: Sequence[_Rival]) -> tuple[Means, float]:
    """What the hulls' mixes give on each question (Q,) at these mean tokens, and accuracy per token there.

    The vertices and their shares come from the other folds; only the tokens to aim at there are moved until they agree here.
    """
    whole = [Means(*(weights[one.here] @ part[one.here] for part in at)) for one in rivals]  # (L,) of each fold

    def spent(aim: float) -> float:
        return sum(
            float(part.tokens @ _mix(one.means, one.vertices, aim)) for part, one in zip(whole, rivals, strict=True)
        )

    low = min(float(one.means.tokens[one.vertices[0]]) for one in rivals)
    high = max(float(one.means.tokens[one.vertices[-1]]) for one in rivals)
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) < tokens else (low, middle)
    found, slopes = Means(np.empty(len(weights)), np.empty(len(weights))), []
    for one in rivals:
        shares = _mix(one.means, one.vertices, high)
        for side, part in zip(found, at, strict=True):
            side[one.here] = part[one.here] @ shares
        used = np.flatnonzero(shares).tolist()
        slopes.append(_slope(one.means, used[0], used[1]) if len(used) == 2 else 0.0)
    return found, float(np.mean(slopes))


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────


def policies_for(cells: Cells) -> list[Policy]:
    """Every policy that these samples allow."""
    found = [
        Policy(f"by {name}", f"a λ for each {name}", partial(_grouped, name))
        for name in (*cells.labels, *cells.numbers)
        if name != "figures"
    ]
    found.append(Policy("two modes", "Instruct or Thinking, by a logistic model on cheap features", _two_modes))
    found.append(Policy("logistic", "a λ by a logistic model of accuracy on cheap features", _logistic))
    if any(cells.scores.shape[2] >= size for size in CASCADE_SIZES):
        found.append(Policy("cascade", "a few answers at a low λ; where they disagree, one at a higher λ", _cascade))
    found.append(
        Policy("ends disagree", "an answer of each end; where they disagree, one at another λ", _ends_disagree)
    )
    if cells.scores.shape[2] >= 2:
        what = "each question's own best λ, seen in half of its samples and scored on the other half"
        found.append(Policy("oracle", what, lambda _: _oracle, is_bound=True))
    return found


def _grouped(name: str, train: Cells) -> Decide:
    """A λ for each group: of a label, or of a number's quarters."""
    edges = np.quantile(train.numbers[name], np.arange(1, NUM_BINS) / NUM_BINS) if name in train.numbers else None
    kinds = sorted(set(train.labels[name])) if name in train.labels else list(map(str, range(NUM_BINS)))

    def groups(cells: Cells) -> Indices:
        if edges is not None:
            return np.searchsorted(edges, cells.numbers[name], side="right")
        return np.array([kinds.index(x) if x in kinds else len(kinds) for x in cells.labels[name]], dtype=np.intp)

    member = np.equal.outer(np.arange(len(kinds) + 1), groups(train)).astype(np.float64)  # (G, Q)
    size = member.sum(axis=1, keepdims=True) + PRIOR_QUESTIONS
    fitted = Means(*((member @ part + PRIOR_QUESTIONS * part.mean(axis=0)) / size for part in train.means))
    return lambda cells, price: _take(cells.means, _best(Means(*(part[groups(cells)] for part in fitted)), price))


def _two_modes(train: Cells) -> Decide:
    return _by_model(train, [0, len(train.lams) - 1])


def _logistic(train: Cells) -> Decide:
    return _by_model(train, list(range(len(train.lams))))


def _by_model(train: Cells, columns: Sequence[int]) -> Decide:
    """At each λ: logit of accuracy, and log tokens, linear in standardised features, with a ridge."""
    centre, scale = _features(train, None)
    x = _features(train, (centre, scale))
    at, num = train.means, train.scores.shape[2]
    right = np.stack([_logit_fit(x, at.accuracy[:, i], num) for i in columns], axis=1)  # (F, C)
    penalty = RIDGE * np.eye(x.shape[1])
    penalty[0, 0] = 0
    long = np.linalg.solve(x.T @ x + penalty, x.T @ at.tokens[:, columns])

    def decide(cells: Cells, price: float) -> Means:
        x = _features(cells, (centre, scale))
        picked = _best(Means(special.expit(x @ right), x @ long), price)
        return _take(cells.means, np.array(columns)[picked])

    return decide


def _features(cells: Cells, by: tuple[Array, Array] | None) -> Any:
    """(Q, F) an intercept and features, standardised as the fitting questions are; or, without those, their centre and scale."""
    columns = [np.log1p(np.abs(values)) * np.sign(values) for values in cells.numbers.values()]
    columns += [_as_numbers(values) for values in cells.labels.values()]
    x = np.column_stack(columns)
    if by is None:
        scale = x.std(axis=0)
        return x.mean(axis=0), np.where(scale > 0, scale, 1.0)
    return np.column_stack([np.ones(len(x)), (x - by[0]) / by[1]])


def _as_numbers(labels: Sequence[str]) -> Array:
    """Labels that are numbers as these; others count for nothing here (`by …` takes them as they are)."""
    try:
        return np.array([float(one) for one in labels])
    except ValueError:
        return np.zeros(len(labels))


def _logit_fit(x: Array, share: Array, num: int) -> Array:
    """(F,) of a binomial logit with a ridge on all but the intercept, by Newton's method (IRLS)."""
    beta = np.zeros(x.shape[1])
    penalty = np.full(x.shape[1], RIDGE)
    penalty[0] = 1e-3  # all right, or all wrong, still has a finite fit
    for _ in range(30):
        p = special.expit(x @ beta)
        gradient = num * x.T @ (share - p) - penalty * beta
        step = np.linalg.solve(num * (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty), gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta


def _cascade(train: Cells) -> Decide:
    num = train.scores.shape[2]
    return _best_probe(train, [(i,) * m for m in CASCADE_SIZES if m <= num for i in range(len(train.lams) - 1)])


def _ends_disagree(train: Cells) -> Decide:
    return _best_probe(train, [(0, len(train.lams) - 1)])


def _best_probe(train: Cells, probes: Sequence[tuple[int, ...]]) -> Decide:
    """Of all probes and λ to go on at, the pair that is best at the price on the fitting questions."""
    plans = [(probe, then) for probe in probes for then in range(len(train.lams)) if then > probe[0]]
    seen = [_probed(train, *plan) for plan in plans]
    fitted = Means(*(np.array([part.mean() for part in parts])[None] for parts in zip(*seen, strict=True)))

    def decide(cells: Cells, price: float) -> Means:
        return _probed(cells, *plans[int(_best(fitted, price)[0])])

    return decide


def _probed(cells: Cells, probe: tuple[int, ...], then: int) -> Means:
    """(Q,) answers at the probe's λ taken where they agree, else an answer at `then`; all tokens charged.

    Averaged over the K ways to take neighbouring samples, in a circle, as the probe.
    """
    num, after = cells.scores.shape[2], cells.means
    found = []
    for start in range(num):
        picks = [(lam, (start + probe[:i].count(lam)) % num) for i, lam in enumerate(probe)]
        answers = np.stack([cells.answers[:, lam, k] for lam, k in picks])
        agree = (answers == answers[0]).all(axis=0) & (answers[0] >= 0)
        right = np.mean([cells.scores[:, lam, k] for lam, k in picks], axis=0)
        spent = np.sum([cells.tokens[:, lam, k] for lam, k in picks], axis=0)
        accuracy = np.where(agree, right, after.accuracy[:, then])
        found.append(Means(accuracy, spent + np.where(agree, 0, after.tokens[:, then])))
    return Means(*(np.mean(parts, axis=0) for parts in zip(*found, strict=True)))


def _oracle(cells: Cells, price: float) -> Means:
    num = cells.scores.shape[2]
    halves = [np.arange(num) < num // 2, np.arange(num) >= num // 2]
    found = []
    for seen, scored in (halves, halves[::-1]):
        own = Means(cells.scores[:, :, seen].mean(axis=2), cells.tokens[:, :, seen].mean(axis=2))
        rest = Means(cells.scores[:, :, scored].mean(axis=2), cells.tokens[:, :, scored].mean(axis=2))
        found.append(_take(rest, _best(own, price)))
    return Means(*(np.mean(parts, axis=0) for parts in zip(*found, strict=True)))


def _best(means: Means, price: float) -> Indices:
    """(Q,) the column that is worth most at the price; the first of equals."""
    return np.argmax(means.accuracy - price * means.tokens, axis=1)


def _take(means: Means, columns: Indices) -> Means:
    """(Q,) of (Q, L)."""
    rows = np.arange(len(columns))
    return Means(means.accuracy[rows, columns], means.tokens[rows, columns])


# ── scoring ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _folds(num: int, seed: int) -> list[list[Fold]]:
    """Partitions of the questions: for each fold the others, and itself."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(NUM_REPEATS):
        fold = rng.permutation(num) % NUM_FOLDS
        found.append([(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(NUM_FOLDS)])
    return found


def _score(
    policy: Policy, cells: Cells, weights: Array, prices: Array, partitions: Sequence[tuple[list[Fold], list[_Rival]]]
) -> tuple[tuple[Point, ...], Change]:
    """A policy at every price beside its rival, and its gain averaged over tokens (the area between their curves)."""
    at, sides, changes = cells.means, [], []  # (prices, 3) and (prices, Q) of each partition
    for folds, rivals in partitions:
        fits = [(policy.fit(cells.take(others)), cells.take(here), here) for others, here in folds]
        for price in prices.tolist():
            mine = Means(np.empty(len(cells)), np.empty(len(cells)))
            for decide, part, here in fits:
                mine.accuracy[here], mine.tokens[here] = decide(part, price)
            rival, slope = _rival_at(float(weights @ mine.tokens), at, weights, rivals)
            sides.append([price, weights @ mine.tokens, weights @ mine.accuracy, weights @ rival.accuracy])
            changes.append(mine.accuracy - rival.accuracy - slope * (mine.tokens - rival.tokens))
    means = np.array(sides).reshape(len(partitions), len(prices), 4).mean(axis=0)
    order = np.argsort(means[:, 1])
    gains = np.array(changes).reshape(len(partitions), len(prices), len(cells)).mean(axis=0)[order]  # (prices, Q)
    each = _spans(means[order, 1]) @ gains * weights * len(cells)  # each task weighs the same
    return tuple(Point(*row) for row in means[order].tolist()), change_interval(each, cells.scores.shape[2])


def _spans(tokens: Array) -> Array:
    """The share of the range of ascending `tokens` that each stands for: the trapezoidal rule's weights, in all 1."""
    if tokens[-1] == tokens[0]:
        return np.full(len(tokens), 1 / len(tokens))
    steps = np.diff(tokens) / (tokens[-1] - tokens[0])
    return (np.append(steps, 0) + np.append(0, steps)) / 2


def _mean(means: Means, weights: Array) -> Means:
    """(L,) over questions."""
    return Means(*(weights @ part / weights.sum() for part in means))


def _p_value(change: Change) -> float:
    """Of the two-sided test that there is no gain."""
    if not change.error > 0:
        return math.nan
    return float(2 * stats.t.sf(abs(change.interval.value) / change.error, change.freedom))


def _judged(policy: Policy, points: tuple[Point, ...], change: Change, p_adjusted: float) -> Scored:
    """With its verdict."""
    gain = change.interval
    text = interval_text(gain, 100, sign="+", unit=" points")
    if policy.is_bound:
        verdict = f"for comparison: {text} over static λ at equal tokens, were each question's best λ known so well"
    elif not p_adjusted < SIGNIFICANCE:
        verdict = f"no gain seen over static λ at equal tokens: {text}"
    elif gain.value > 0:
        verdict = f"beats every static λ and every mix of two at equal tokens: {text}"
    else:
        verdict = f"worse than static λ at equal tokens: {text}"
    return Scored(policy.name, policy.what, policy.is_bound, points, gain, p_adjusted, verdict)
