"""From a sweep's samples to policies: what each question was given at each λ, and which λ a policy would choose by that.

A policy is fitted to some questions, at a price: the accuracy that a token must be worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from interpole.analysis.hull import Indices, Means, hull, prices, worth_most
from interpole.analysis.intervals import Array
from interpole.analysis.metrics import answer_of, score_of
from interpole.analysis.policies import (
    MARGIN,
    Feature,
    FittedPolicy,
    Groups,
    Known,
    LambdaChoice,
    Probe,
    Regression,
    Rule,
    known_of,
    number_of,
)
from interpole.errors import AnalysisError
from interpole.records import Outcome, Sample

__all__ = ["Cells", "Numbers", "Policy", "cells_of", "fit", "given", "policies_for", "policy_of", "reached"]

FEWEST_QUESTIONS = 10
NUM_BINS = 4  # of a number that questions have, by quartiles of the fitting questions
PRIOR_QUESTIONS = 4.0  # with which a group is drawn towards all questions
RIDGE = 1.0
CASCADE_SIZES = (2, 3)
FINE_PRICES = 49
BALANCED = 0.95  # of the best accuracy
Numbers = Mapping[str, Mapping[tuple[str, str], float]]
"""What else is known of questions: name → (task, problem) → number."""


@dataclass(frozen=True, slots=True)
class Cells:
    """What Q questions were given at L λ, K times each."""

    lams: Array  # (L,) ascending
    scores: Array  # (Q, L, K)
    tokens: Array  # (Q, L, K)
    means: Means  # (Q, L) of these
    answers: NDArray[np.int64]  # (Q, L, K) the same number for the same answer to a question; −1: none
    known: tuple[Known, ...]  # of every question, before it is asked
    names: tuple[str, ...]  # by which questions may be told apart: labels, then numbers
    keys: tuple[tuple[str, str], ...]  # task and problem
    num_left_out: int = 0  # questions that lack a sample somewhere

    def __len__(self) -> int:
        """The number of questions."""
        return len(self.scores)

    def take(self, rows: Indices) -> Cells:
        """Some of the questions."""
        picked = rows.tolist()
        return replace(
            self,
            scores=self.scores[rows],
            tokens=self.tokens[rows],
            means=Means(*(part[rows] for part in self.means)),
            answers=self.answers[rows],
            known=tuple(self.known[i] for i in picked),
            keys=tuple(self.keys[i] for i in picked),
        )


RuleAt = Callable[[float], Rule]
"""A price → how to choose."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to choose, and how it is fitted."""

    name: str
    what: str  # in words
    fit: Callable[[Cells], RuleAt] | None  # None: it chooses by what nobody knows before asking (the oracle)

    @property
    def is_bound(self) -> bool:
        """Whether nobody could follow it."""
        return self.fit is None


def fit(
    samples: Iterable[Sample],
    name: str,
    *,
    mean_tokens: float | None = None,
    task: str | None = None,
    grading: str | None = None,
    numbers: Numbers | None = None,
    margin_at: float | None = None,
) -> FittedPolicy:
    """Fit a policy to all questions of a sweep, to be followed elsewhere.

    Args:
        samples: of the sweep.
        name: of the policy.
        mean_tokens: what a response may take on average: of the prices that keep to it on these samples the most accurate
            is taken. None: the shortest with 95 % of the policy's best accuracy, as `recommend --balanced` chooses λ.
        task: as in `cells_of`.
        grading: as in `measure`.
        numbers: as in `cells_of`.
        margin_at: the λ at which the number `margin` was taken.

    Raises:
        AnalysisError: too few samples, no such policy, it cannot be followed, or it never spends as little.
    """
    cells, weights, _ = cells_of(samples, task=task, grading=grading, numbers=numbers)
    policy = policy_of(cells, name)
    if policy.fit is None:
        raise AnalysisError(
            f"the policy {name!r} cannot be followed: it looks at answers before it asks",
            remedy=f"there are {', '.join(one.name for one in policies_for(cells) if not one.is_bound)}",
        )
    found = _fitted(name, policy.fit(cells), cells, weights, margin_at)
    if mean_tokens is None:
        enough = BALANCED * max(one.accuracy for one in found)
        return min((one for one in found if one.accuracy >= enough), key=lambda one: one.tokens)
    within = [one for one in found if one.tokens <= mean_tokens]
    if not within:
        least = min(one.tokens for one in found)
        raise AnalysisError(
            f"the policy {name!r} takes {least:,.1f} tokens at least, not {mean_tokens:g}", remedy="allow it more"
        )
    return max(within, key=lambda one: one.accuracy)


def _fitted(name: str, rule_at: RuleAt, cells: Cells, weights: Array, margin_at: float | None) -> list[FittedPolicy]:
    """A policy at many prices, from short to long."""
    static, found = Means(*(weights @ part for part in cells.means)), []
    for price in prices(static, hull(static), FINE_PRICES).tolist():
        rule = rule_at(price)
        if MARGIN in rule.needs and margin_at is None:
            raise AnalysisError(f"the policy {name!r} goes by a margin, of which nothing says at which λ it was taken")
        mine = reached(cells, rule)
        found.append(
            FittedPolicy(
                name=name,
                rule=rule,
                price=price,
                tokens=float(weights @ mine.tokens),
                accuracy=float(weights @ mine.accuracy),
                num_questions=len(cells),
                margin_at=margin_at if MARGIN in rule.needs else None,
            )
        )
    return found


def policy_of(cells: Cells, name: str) -> Policy:
    """A policy by its name.

    Raises:
        AnalysisError: these samples allow no such policy.
    """
    known = {policy.name: policy for policy in policies_for(cells)}
    if name not in known:
        raise AnalysisError(f"no policy {name!r} for these samples", remedy=f"there are {', '.join(known)}")
    return known[name]


# ── the questions ────────────────────────────────────────────────────────────────────────────────────────────────


def cells_of(
    samples: Iterable[Sample],
    *,
    task: str | None = None,
    grading: str | None = None,
    numbers: Numbers | None = None,
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
    if len(lams) < 2 or len(kept) < FEWEST_QUESTIONS:
        raise AnalysisError(
            f"{len(kept)} questions were answered at each of {len(lams)} λ: too few to choose by",
            remedy=f"sweep at least {FEWEST_QUESTIONS} questions at two λ or more",
        )
    rows = [[at[lam][:num] for lam in lams] for at in kept.values()]
    first = [row[0][0] for row in rows]
    answers = [_coded([answer_of(s, grading) for cell in row for s in cell]) for row in rows]
    shape = (len(rows), len(lams), num)
    of_tasks = Counter(key[0] for key in kept)
    weights = np.array([1 / (len(of_tasks) * of_tasks[key[0]]) for key in kept])
    labels = _varied({"difficulty": [s.difficulty for s in first], "task": [s.task for s in first]})
    more = {name: at for name, at in (numbers or {}).items() if all(key in at for key in kept)}
    known = tuple(
        known_of(
            s.question,
            {name: values[i] for name, values in labels.items()},
            {name: at[s.task, s.problem_id] for name, at in more.items()},
        )
        for i, s in enumerate(first)
    )
    scores = np.array([[[score_of(s, grading) for s in cell] for cell in row] for row in rows])
    tokens = np.array([[[s.num_tokens for s in cell] for cell in row] for row in rows], dtype=np.float64)
    found = Cells(
        lams=np.array(lams),
        scores=scores,
        tokens=tokens,
        means=Means(scores.mean(axis=2), tokens.mean(axis=2)),
        answers=np.array(answers).reshape(shape),
        known=known,
        names=(*labels, "length", *more, "figures"),
        keys=tuple(kept),
        num_left_out=len(cells) - len(kept),
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


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────


def policies_for(cells: Cells) -> list[Policy]:
    """Every policy that these samples allow."""
    found = [
        Policy(f"by {name}", f"a λ for each {name}", partial(_grouped, name))
        for name in cells.names
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
        found.append(Policy("oracle", what, None))
    return found


def reached(cells: Cells, rule: Rule) -> Means:
    """(Q,) what each question is answered with where `rule` chooses, and all that it costs."""
    return given(cells, [rule.choose(known) for known in cells.known])


def given(cells: Cells, choices: Sequence[LambdaChoice]) -> Means:
    """(Q,) what each question is answered with where this is chosen for it."""
    chosen: dict[LambdaChoice, list[int]] = {}
    for i, choice in enumerate(choices):
        chosen.setdefault(choice, []).append(i)
    lams, at, found = cells.lams.tolist(), cells.means, Means(np.empty(len(cells)), np.empty(len(cells)))
    for choice, rows in chosen.items():
        first = [lams.index(lam) for lam in choice.first]
        if choice.then is None:
            given = Means(at.accuracy[rows, first[0]], at.tokens[rows, first[0]])
        else:
            given = _column(_probed(cells.take(np.array(rows)), first), lams.index(choice.then))
        found.accuracy[rows], found.tokens[rows] = given
    return found


def _probed(cells: Cells, probe: Sequence[int]) -> Means:
    """(Q, L) answers at the probe's λ taken where they agree, else an answer at each of L λ; all tokens charged.

    Averaged over the K ways to take neighbouring samples, in a circle, as the probe.
    """
    k = np.arange(cells.scores.shape[2])
    picks = [(lam, (k + probe[:i].count(lam)) % len(k)) for i, lam in enumerate(probe)]
    answers = np.stack([cells.answers[:, lam][:, ways] for lam, ways in picks])  # (probe, Q, K)
    agree = (answers == answers[0]).all(axis=0) & (answers[0] >= 0)
    right = np.mean([cells.scores[:, lam][:, ways] for lam, ways in picks], axis=0)
    spent = np.sum([cells.tokens[:, lam][:, ways] for lam, ways in picks], axis=0)
    kept, differ, after = (agree * right).mean(axis=1), 1 - agree.mean(axis=1), cells.means
    return Means(
        kept[:, None] + differ[:, None] * after.accuracy, spent.mean(axis=1)[:, None] + differ[:, None] * after.tokens
    )


def _column(means: Means, column: int) -> Means:
    """(Q,) of (Q, L)."""
    return Means(means.accuracy[:, column], means.tokens[:, column])


def _grouped(name: str, train: Cells) -> RuleAt:
    """A λ for each group: of a label, or of a number's quarters."""
    labels = tuple(sorted({one.labels[name] for one in train.known})) if name in train.known[0].labels else ()
    edges = ()
    if not labels:
        values = np.array([one.numbers[name] for one in train.known])
        edges = tuple(np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS).tolist())
    num = len(labels) if labels else NUM_BINS
    lams = train.lams.tolist()
    numbered = Groups(
        kind="groups", by=name, labels=labels, edges=edges, lams=tuple(map(float, range(num + 1)))
    )  # each group's own
    groups = [int(numbered.choose(one).first[0]) for one in train.known]
    member = np.equal.outer(np.arange(num + 1), groups).astype(np.float64)  # (G, Q)
    size = member.sum(axis=1, keepdims=True) + PRIOR_QUESTIONS
    fitted = Means(*((member @ part + PRIOR_QUESTIONS * part.mean(axis=0)) / size for part in train.means))

    def rule(price: float) -> Rule:
        return numbered.model_copy(update={"lams": tuple(lams[i] for i in worth_most(fitted, price).tolist())})

    return rule


def _two_modes(train: Cells) -> RuleAt:
    return _by_model(train, [0, len(train.lams) - 1])


def _logistic(train: Cells) -> RuleAt:
    return _by_model(train, list(range(len(train.lams))))


def _by_model(train: Cells, columns: Sequence[int]) -> RuleAt:
    """At each λ: logit of accuracy, and tokens, linear in standardised features, with a ridge."""
    features = _features(train)
    x = np.array([[1.0, *(feature.of(one) for feature in features)] for one in train.known])
    at, num = train.means, train.scores.shape[2]
    right = np.stack([_logit_fit(x, at.accuracy[:, i], num) for i in columns])  # (C, F)
    penalty = RIDGE * np.eye(x.shape[1])
    penalty[0, 0] = 0
    long = np.linalg.solve(x.T @ x + penalty, x.T @ at.tokens[:, columns]).T
    whole = Regression(
        kind="model",
        features=features,
        lams=tuple(train.lams[list(columns)].tolist()),
        right=tuple(map(tuple, right.tolist())),
        tokens=tuple(map(tuple, long.tolist())),
        price=0.0,
    )
    return lambda price: whole.model_copy(update={"price": price})


def _features(train: Cells) -> tuple[Feature, ...]:
    """What questions are known by as numbers, to be standardised as the fitting questions are.

    Labels count where they are numbers (`by …` takes them as they are).
    """
    found = []
    for name in train.names:
        values = [number_of(one, name) for one in train.known]
        if any(value is None for value in values):
            continue
        column = np.array(values, dtype=np.float64)
        found.append(Feature(name=name, centre=float(column.mean()), scale=float(column.std()) or 1.0))
    return tuple(found)


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


def _cascade(train: Cells) -> RuleAt:
    num = train.scores.shape[2]
    return _best_probe(train, [(i,) * m for m in CASCADE_SIZES if m <= num for i in range(len(train.lams) - 1)])


def _ends_disagree(train: Cells) -> RuleAt:
    return _best_probe(train, [(0, len(train.lams) - 1)])


def _best_probe(train: Cells, probes: Sequence[tuple[int, ...]]) -> RuleAt:
    """Of all probes and λ to go on at, the pair that is best at the price on the fitting questions."""
    plans = [(probe, then) for probe in probes for then in range(len(train.lams)) if then > probe[0]]
    seen = {probe: Means(*(part.mean(axis=0) for part in _probed(train, probe))) for probe in probes}  # (L,)
    fitted = Means(*(np.array([[seen[probe][i][then] for probe, then in plans]]) for i in range(2)))
    lams = train.lams.tolist()

    def rule(price: float) -> Rule:
        probe, then = plans[int(worth_most(fitted, price)[0])]
        return Probe(kind="probe", first=tuple(lams[i] for i in probe), then=lams[then])

    return rule
