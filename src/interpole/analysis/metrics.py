"""Samples → Mean@k, Pass@j, Vote@k, Token #N, Think #R and outcome counts, each with its interval; and differences.

Every question weighs the same, however many samples it has. Samples whose engine failed are no answers: they are
counted, and left out of everything else. See docs/metrics.md for the definitions and their edges. Needs no model.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import special

from interpole.analysis.intervals import (
    UNKNOWN,
    Z95,
    Array,
    Change,
    Interval,
    change_interval,
    ratio_intervals,
    share_interval,
)
from interpole.analysis.pareto import membership
from interpole.analysis.tables import (
    CurveRow,
    PointMetrics,
    curve,
)
from interpole.errors import AnalysisError
from interpole.records import Outcome, Sample

__all__ = [
    "POWER",
    "SIGNIFICANCE",
    "Columns",
    "Difference",
    "Estimand",
    "answer_of",
    "columns_of",
    "difference",
    "estimand_of",
    "measure",
    "on_the_dial",
    "pass_at",
    "power_reach",
    "score_of",
    "share_questions",
    "vote",
]

Estimand = Literal["like-these", "these"]
"""What an interval is about: questions like these, or these very questions, asked again."""
Metric = Literal["mean", "pass", "vote", "well_formed", "think", "tokens"]
FORMAT_FAILURES = frozenset({Outcome.UNCLOSED, Outcome.PSEUDO_CLOSED})
SIGNIFICANCE = 0.05
POWER = 0.8  # a detectable difference is one that is seen with this probability


@dataclass(frozen=True, slots=True)
class Difference:
    """b − a in one metric, paired by question."""

    a: str
    b: str
    metric: Metric
    value: Interval
    num_questions: int  # answered at both points
    num_unpaired: int  # answered at one of them only; left out
    standard_error: float
    detectable: float  # minimum detectable effect: at 5 % significance, seen with 80 % power
    freedom: int  # degrees of freedom of its t
    sampling_variance: float  # part of standard_error² that more samples per question would remove; NaN: unknown

    def detectable_as(self, num: int) -> float:
        """The minimum detectable effect of one of `num` comparisons that are a family, by Bonferroni's level."""
        return power_reach(self.freedom, SIGNIFICANCE / num) * self.standard_error

    def chance(self, at: float = 0.0) -> float:
        """P of the one-sided test that the difference is `at` or more, against that it is less; NaN: one question."""
        if self.freedom < 1:
            return math.nan
        if self.standard_error == 0:
            return float(np.sign(self.value.value - at) + 1) / 2
        return float(special.stdtr(self.freedom, (self.value.value - at) / self.standard_error))

    @property
    def p_value(self) -> float:
        """Of the two-sided test that there is no difference."""
        less = self.chance()
        return 2 * min(less, 1 - less)

    @property
    def significant(self) -> bool:
        """Whether the interval leaves zero out."""
        return not (math.isnan(self.value.low) or self.value.includes(0))


def power_reach(freedom: int, level: float = SIGNIFICANCE) -> float:
    """How many standard errors a difference measures that a two-sided t test at `level` sees with 80 % power; NaN: no freedom.

    It exceeds the test's own reach, so what is not significant is never called detectable.
    """
    return float(special.stdtrit(freedom, 1 - level / 2) + special.stdtrit(freedom, POWER))


def estimand_of(text: str) -> Estimand:
    """What intervals are to be about.

    Raises:
        AnalysisError: it is none of the two.
    """
    known: dict[str, Estimand] = {"like-these": "like-these", "these": "these"}
    if text not in known:
        raise AnalysisError(f"no estimand {text!r}", remedy=f"say {' or '.join(known)}")
    return known[text]


def measure(
    samples: Iterable[Sample],
    *,
    grading: str | None = None,
    estimand: Estimand = "like-these",
    resamples: int = 2000,
    seed: int = 0,
) -> list[PointMetrics]:
    """Measure every point on every task.

    Args:
        samples: of any number of tasks and points, in any order.
        grading: the name of the grading to score by; `None`: each task's own.
        estimand: what intervals are about; for these very questions, one sample each does not tell, nor do votes and Pass@j:
            theirs stay those for questions like these.
        resamples: bootstrap resamples of the questions.
        seed: of the bootstrap.

    Returns:
        One record per task and point: tasks as they first appear, in them dial points by λ, then the others by name.

    Raises:
        AnalysisError: a sample is there twice, a point has two λ, or a sample lacks the grading.
    """
    groups: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        groups.setdefault(sample.task, {}).setdefault(sample.point, []).append(sample)
    measured = []
    for points in groups.values():
        num_asked = len({sample.problem_id for group in points.values() for sample in group})
        ordered = sorted(points.values(), key=lambda g: (g[0].lam is None, g[0].lam or 0.0, g[0].point))
        tables = [columns_of(group, grading) for group in ordered]
        votes = _has_votes(tables)
        chances = _membership(tables, resamples, seed)
        for group, table, chance in zip(ordered, tables, chances, strict=True):
            found = _point_metrics(
                group=group,
                table=table,
                num_asked=num_asked,
                votes=votes,
                grading=grading,
                estimand=estimand,
                resamples=resamples,
                seed=seed,
            )
            measured.append(replace(found, on_front=chance))
    return measured


def on_the_dial(
    data: Sequence[CurveRow] | Sequence[Sample],
    *,
    metrics: Sequence[PointMetrics] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[list[CurveRow], list[Sample], list[PointMetrics]]:
    """The dial's rows, samples, and what these measure; rows are measured from samples, where these were given.

    Args:
        data: rows or samples.
        metrics: of the samples, and perhaps of more tasks and points, where these were measured before.
        resamples: see `measure`.
        seed: see `measure`.

    Raises:
        AnalysisError: there is nothing on the dial.
    """
    samples = [x for x in data if isinstance(x, Sample) and x.lam is not None]
    rows = [x for x in data if isinstance(x, CurveRow)]
    if metrics is None:
        found = measure(samples, resamples=resamples, seed=seed)
    else:
        tasks = dict.fromkeys(sample.task for sample in samples)
        found = [m for task in tasks for m in metrics if m.task == task and m.lam is not None]
    rows += curve(found)
    if not rows:
        raise AnalysisError("no point on the dial was measured", remedy="sweep λ: `interpole sweep … --lambda 0:1:0.1`")
    return rows, samples, found


def share_questions(a: Iterable[Sample], b: Iterable[Sample]) -> bool:
    """Whether some question was answered at both of two points, so that `difference` can compare them."""
    keys = [{(s.task, s.problem_id) for s in side if s.outcome is not Outcome.FAILED} for side in (a, b)]
    return not keys[0].isdisjoint(keys[1])


def difference(
    a: Iterable[Sample] | Columns,
    b: Iterable[Sample] | Columns,
    *,
    metric: Metric = "mean",
    grading: str | None = None,
    estimand: Estimand = "like-these",
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """The difference b − a between two points, paired by question (Miller, arXiv 2411.00640, §4).

    Pairing removes what questions have in common, so it sees far smaller differences than two separate intervals.
    `pass` is Pass@j at the largest j that both points' shared questions have samples for.

    Args:
        a: samples of one point, of one or more tasks; or their columns, where it is compared with several.
        b: samples of another point, of the same tasks.
        metric: what to compare, per question.
        grading: see `measure`.
        estimand: see `measure`.
        resamples: bootstrap resamples of the questions.
        seed: of the bootstrap.

    Raises:
        AnalysisError: no question is answered at both points, or `vote` where there are no answers.
    """
    tables = [side if isinstance(side, Columns) else columns_of(list(side), grading) for side in (a, b)]
    shared = [key for key in tables[0].questions if key in tables[1].questions]
    if not shared or (metric == "vote" and not _has_votes(tables)):
        what = f"no question has {metric} at both {tables[0].point!r} and {tables[1].point!r}"
        raise AnalysisError(what, remedy="compare two points of a run that answered the same problems")
    k = min(_smallest_k(table, shared) for table in tables)
    columns = [_per_question(table, metric, shared, k) for table in tables]
    defined = ~np.isnan(columns[0][0] + columns[1][0])
    if not defined.any():
        raise AnalysisError(f"no shared question has {metric} at both points", remedy="compare them by another metric")
    change = (columns[1][0] - columns[0][0])[defined]
    noise = (columns[0][1] + columns[1][1])[defined]
    either = tables[0].questions.keys() | tables[1].questions.keys()
    samples = float(np.mean([table.counts.mean() for table in tables])) if metric not in ("pass", "vote") else 1.0
    within = noise if estimand == "these" else None
    found = (
        _lengths(change, within, resamples, seed) if metric == "tokens" else change_interval(change, samples, within)
    )
    return Difference(
        a=tables[0].point,
        b=tables[1].point,
        metric=metric,
        value=found.interval,
        num_questions=len(change),
        num_unpaired=len(either) - len(change),
        standard_error=found.error,
        detectable=power_reach(found.freedom) * found.error,
        freedom=found.freedom,
        sampling_variance=float(np.sum(noise)) / len(change) ** 2,
    )


def pass_at(num_samples: Array, num_correct: Array, k: int) -> Array:
    """Pass@1 … Pass@k of each question without bias: 1 − C(n−c, j) / C(n, j) (Chen et al., arXiv 2107.03374, eq. 1).

    Args:
        num_samples: (Q,) n, each at least k.
        num_correct: (Q,) c.
        k: the largest j.

    Returns:
        (Q, k), as a running product of (n−c−i) / (n−i), i = 0 … j−1, which overflows nowhere.
    """
    i = np.arange(k)
    n, c = num_samples[:, None], num_correct[:, None]
    fail: Array = np.cumprod(np.clip(n - c - i, 0, None) / (n - i), axis=1, dtype=np.float64)
    return 1 - fail


def vote(answers: Sequence[str | None], scores: Sequence[float]) -> float:
    """Score of the most frequent answer to one question, in [0, 1].

    Samples without an answer abstain; without any answer the score is 0. Tied answers share the vote: the score is
    what drawing one of them at random gives on average, so that it does not hang on the order of samples. Answers are
    compared as text, as the grader extracted them; one answer's score is the mean over the samples that gave it.
    """
    given: defaultdict[str, list[float]] = defaultdict(list)
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None and answer.strip():
            given[answer.strip()].append(score)
    most = max(map(len, given.values()), default=0)
    tied = [sum(scores) / most for scores in given.values() if len(scores) == most]
    return sum(tied) / len(tied) if tied else 0.0


@dataclass(frozen=True, slots=True)
class Columns:
    """The usable samples of one point as columns (N,), and the questions they belong to."""

    point: str
    questions: dict[tuple[str, str], int]  # (task, problem) → row of per-question arrays
    row: np.ndarray  # (N,) of the sample's question
    score: Array
    tokens: Array
    closed: Array
    malformed: Array
    answers: list[str | None]

    def sums(self, values: Array) -> Array:
        """(Q,) sums of `values` (N,) over each question's samples."""
        return np.bincount(self.row, weights=values, minlength=len(self.questions)).astype(np.float64)

    @property
    def counts(self) -> Array:
        """(Q,) samples of each question."""
        return self.sums(np.ones(len(self.row)))

    @property
    def correct(self) -> Array:
        """(N,) 1 for full marks, else 0: what passes."""
        return (self.score >= 1).astype(np.float64)


def columns_of(samples: Sequence[Sample], grading: str | None = None) -> Columns:
    """Check the samples of one point and lay the usable ones out as columns.

    Raises:
        AnalysisError: a sample is there twice, the point has two λ, or a sample lacks the grading.
    """
    keys = [(s.task, s.problem_id, s.number) for s in samples]
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        what = f"task {twice[0]!r}, problem {twice[1]!r}, sample {twice[2]} is there twice"
        raise AnalysisError(what, f"point {samples[0].point!r}", "give every sample of a problem a number of its own")
    if len({s.lam for s in samples}) > 1:
        lams = sorted({str(s.lam) for s in samples})
        raise AnalysisError(f"point {samples[0].point!r} has several λ: {', '.join(lams)}", remedy="name points apart")
    usable = [s for s in samples if s.outcome is not Outcome.FAILED]
    asked = [(s.task, s.problem_id) for s in usable]
    questions = {key: i for i, key in enumerate(dict.fromkeys(asked))}
    row = np.array([questions[key] for key in asked], dtype=np.int64)
    return Columns(
        point=samples[0].point if samples else "",
        questions=questions,
        row=row,
        score=np.array([score_of(s, grading) for s in usable], dtype=np.float64),
        tokens=np.array([s.num_tokens for s in usable], dtype=np.float64),
        closed=np.array([s.closed for s in usable], dtype=np.float64),
        malformed=np.array([s.outcome in FORMAT_FAILURES for s in usable], dtype=np.float64),
        answers=[answer_of(s, grading) for s in usable],
    )


def score_of(sample: Sample, grading: str | None) -> float:
    """The sample's score by the named grading, or by its task's own."""
    if grading is None:
        return sample.score
    if grading not in sample.grades:
        what = f"no grading {grading!r} for task {sample.task!r}; it has {', '.join(sample.grades) or 'none'}"
        raise AnalysisError(what, f"point {sample.point!r}, problem {sample.problem_id!r}", "name one of those")
    return float(sample.grades[grading])


def answer_of(sample: Sample, grading: str | None) -> str | None:
    """The answer that one grading read, or the task's own; a grading that keeps none votes with the task's own."""
    return sample.answer if grading is None else sample.answers.get(grading, sample.answer)


def _has_votes(tables: Sequence[Columns]) -> bool:
    """Whether a task has answers to vote on: some sample gives one, or all are as wrong as no answer is."""
    return any(any(table.answers) for table in tables) or not any(table.score.any() for table in tables)


def _point_metrics(
    group: Sequence[Sample],
    table: Columns,
    num_asked: int,
    votes: bool,
    grading: str | None,
    estimand: Estimand,
    resamples: int,
    seed: int,
) -> PointMetrics:
    """One point on one task."""
    outcomes = Counter(sample.outcome for sample in group)
    n = table.counts
    k = int(n.min()) if len(n) else 0
    found = _measure(table, k, estimand, resamples, seed)
    return PointMetrics(
        task=group[0].task, point=table.point, lam=group[0].lam, grading=grading or "",
        num_questions=len(n), num_missing=num_asked - len(n), num_samples=len(table.row), k=k,
        outcomes={outcome: outcomes[outcome] for outcome in Outcome}, num_forced=sum(s.budget_forced for s in group),
        num_near_closes=sum(s.near_close for s in group),
        estimand=estimand,
        **found | {"vote": found["vote"] if votes else None},
    )  # fmt: skip


def _membership(tables: Sequence[Columns], resamples: int, seed: int) -> list[float]:
    """The probability of each point of a task to be on its Pareto front."""
    rows = {key: i for i, key in enumerate(dict.fromkeys(key for table in tables for key in table.questions))}
    means = np.full((2, len(rows), len(tables)), np.nan)  # accuracy and tokens of each question at each point
    for i, table in enumerate(tables):
        at = [rows[key] for key in table.questions]
        for side, values in zip(means, (table.score, table.tokens), strict=True):
            side[at, i] = table.sums(values) / table.counts
    return membership(*means, resamples=resamples, seed=seed).tolist()


def _measure(table: Columns, k: int, estimand: Estimand, resamples: int, seed: int) -> dict[str, Any]:
    """The statistics of one point on one task."""
    n, sums, right, fine = table.counts, table.sums, table.correct, 1 - table.malformed
    one = np.ones_like(n)

    def share(values: Array, keep: Array | None = None) -> Interval:
        """Of samples (N,), or of those kept."""
        each, noise = _moments(table, values, np.ones_like(values) if keep is None else keep)
        known = ~np.isnan(each)
        within = noise[known] if estimand == "these" else None
        return share_interval(each[known], float(n.mean()) if len(n) else 1.0, within)

    lengths = [(sums(table.tokens) / n, one)]
    lengths += [(sums(table.tokens * of), sums(of)) for of in (right, table.closed)]
    top, bottom = (np.column_stack(side) for side in zip(*lengths, strict=True))
    tokens, correct, closed = ratio_intervals(top, bottom, resamples=resamples, seed=seed)
    if estimand == "these" and len(n):
        tokens = _length(
            lengths[0][0], one, _moments(table, table.tokens, np.ones_like(table.tokens))[1], resamples, seed
        )
    mean, think, malformed = (share(x) for x in (table.score, table.closed, table.malformed))
    well_formed, voted = share(table.score, fine), share_interval(_votes(table), 1)
    least, most = (share(x) for x in (table.score * fine, table.score * fine + table.malformed))
    passed = [share_interval(column, 1) for column in pass_at(n, sums(right), k).T]
    median, p95 = np.quantile(table.tokens, [0.5, 0.95]).tolist() if len(n) else (math.nan, math.nan)
    return {
        "mean": mean, "pass_at": tuple(passed), "vote": voted, "think": think, "well_formed": _known(well_formed),
        "ability_low": least, "ability_high": most,
        "format_failures": malformed, "tokens": tokens, "tokens_median": median, "tokens_p95": p95,
        "tokens_correct": _known(correct), "tokens_closed": _known(closed),
    }  # fmt: skip


def _known(interval: Interval) -> Interval | None:
    """`None` in place of an interval whose value is not known."""
    return None if interval is UNKNOWN else interval


def _votes(table: Columns) -> Array:
    """(Q,) Vote@k of each question, over all its samples."""
    members: list[list[int]] = [[] for _ in table.questions]
    for sample, question in enumerate(table.row.tolist()):
        members[question].append(sample)
    scores = table.score.tolist()
    return np.array([vote([table.answers[i] for i in m], [scores[i] for i in m]) for m in members], dtype=np.float64)


def _smallest_k(table: Columns, shared: Sequence[tuple[str, str]]) -> int:
    """The fewest samples that one of the shared questions has."""
    return int(min(table.counts[[table.questions[key] for key in shared]]))


def _per_question(table: Columns, metric: Metric, shared: Sequence[tuple[str, str]], k: int) -> tuple[Array, Array]:
    """(S,) the metric of each shared question, and the variance it has from its samples being few.

    NaN where a question does not define the metric, and where the variance is not known: one sample, votes, Pass@k.
    """
    rows = np.array([table.questions[key] for key in shared], dtype=np.int64)
    unknown = np.full(len(rows), np.nan)
    if metric == "pass":
        return pass_at(table.counts[rows], table.sums(table.correct)[rows], k)[:, -1], unknown
    if metric == "vote":
        return _votes(table)[rows], unknown
    keep = 1 - table.malformed if metric == "well_formed" else np.ones(len(table.row))
    values: Mapping[str, Array] = {"think": table.closed, "tokens": table.tokens}
    mean, spread = _moments(table, values.get(metric, table.score), keep)
    return mean[rows], spread[rows]


def _moments(table: Columns, values: Array, keep: Array) -> tuple[Array, Array]:
    """(Q,) mean of the kept samples of each question, and its variance from these being few; NaN where not known."""
    n = table.sums(keep)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = table.sums(values * keep) / n
        spread = np.clip(table.sums(values**2 * keep) / n - mean**2, 0, None) / (n - 1)
    return mean, spread


def _lengths(change: Array, within: Array | None, resamples: int, seed: int) -> Change:
    """Interval and standard error of the mean of paired changes in lengths (Q,)."""
    interval = _length(change, np.ones_like(change), within, resamples, seed)
    error = float(change.std(ddof=1)) / math.sqrt(len(change)) if len(change) > 1 else math.nan
    return Change(interval, error, len(change) - 1)


def _length(top: Array, bottom: Array, within: Array | None, resamples: int, seed: int) -> Interval:
    """Interval of a mean length (Q,): by the bootstrap over questions, or for these questions by the noise within them."""
    if within is None or np.isnan(within).any():
        return ratio_intervals(top[:, None], bottom[:, None], resamples=resamples, seed=seed)[0]
    value, half = float(top.mean()), Z95 * math.sqrt(float(within.sum())) / len(top)
    return Interval(value, value - half, value + half)
