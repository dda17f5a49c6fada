"""The three stages between Instruct and Thinking, per task and pooled, with the evidence for them.

Stage 1 answers directly, stage 2 is the narrow band where thinking sets in, stage 3 thinks and at some point over-thinks.
Boundaries need `task, lam, think` only; the tests of stage 3 and of what can go wrong need samples. No figure is drawn
here; docs/stages.md defines every term and the JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from interpole.analysis.intervals import Interval, interval_text
from interpole.analysis.metrics import columns_of, difference, on_the_dial, share_questions
from interpole.analysis.tables import CurveRow, PointMetrics
from interpole.analysis.transition import LEVELS, Evidence, Transition, find_transition, from_rows, from_samples, pool
from interpole.errors import AnalysisError
from interpole.formats import plain
from interpole.records import Outcome, Sample

__all__ = ["MARGIN", "POOLED", "Signature", "Stages", "Step", "bracket", "find_stages", "step", "to_json"]

POOLED = "pooled"
VERBOSE = 2.0  # times the tokens of the smallest λ
HIGH_SIGMA = 0.08  # beyond it, the models were seen to be too far apart to interpolate
OPEN_SHARE = 0.1  # of responses that run long without closing
NOT_CLOSED = frozenset({Outcome.UNCLOSED, Outcome.UNMARKED, Outcome.PSEUDO_CLOSED, Outcome.LOOPING, Outcome.TRUNCATED})
StepVerdict = Literal["over-thinking", "worth it", "undetermined", "flat"]
MARGIN = 0.02  # of accuracy: what more tokens must bring at least
ALPHA = 0.05  # of each one-sided test of a step
ByLam = dict[float, list[Sample]]


@dataclass(frozen=True, slots=True)
class Step:
    """From one λ of stage 3 to a larger one: what it costs and what it brings, paired by question."""

    lam: float
    to: float
    tokens: Interval  # change of Token #N
    accuracy: Interval  # change of Mean@k
    detectable: float  # the smallest change of Mean@k that this many questions show with 80 % power
    margin: float  # a gain below it is not worth more tokens
    p_longer: float  # one-sided: that tokens do not rise
    p_gain: float  # one-sided: that the gain is the margin or more
    verdict: StepVerdict

    @property
    def words(self) -> str:
        """The verdict in a sentence, with its figures."""
        figures = (
            f"from λ={self.lam:g} to {self.to:g} {interval_text(self.tokens, sign='+')} tokens and "
            f"{interval_text(self.accuracy, 100, sign='+')} points of accuracy"
        )
        margin = f"{100 * self.margin:g} points"
        return {
            "over-thinking": f"over-thinking: {figures}: a gain of {margin} or more is ruled out (p = {self.p_gain:.2g})",
            "worth it": f"worth it: {figures}",
            "undetermined": (
                f"undetermined: {figures}: a gain of {margin} is not ruled out, and none is seen; differences below "
                f"{100 * self.detectable:.1f} points go unseen"
            ),
            "flat": f"no more tokens seen: {figures}",
        }[self.verdict]


@dataclass(frozen=True, slots=True)
class Signature:
    """A known way to fail, where it was seen, its numbers and what helps."""

    name: str
    lams: tuple[float, ...]
    numbers: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Stage boundaries of one task, or pooled; `None` where the data do not show one, with the reason in words."""

    task: str
    lambda_on: Interval | None  # Think #R at 5 %; ends are NaN where no counts are known
    lambda_mid: Interval | None  # 50 %
    lambda_off: Interval | None  # 95 %
    stage2: tuple[float, float] | None  # last swept λ with Think #R ≤ 5 %, first after it with ≥ 95 %
    method: Literal["curve", "bracket", "random effects", "none"]  # see `Transition`
    links: Mapping[str, float]  # link → weight in the averaged curve
    fits: bool
    misfit: float
    refusal: str
    notes: tuple[str, ...]
    needs: tuple[str, ...]  # questions left open, each with the columns or data that would answer it
    steps: tuple[Step, ...] = ()
    signatures: tuple[Signature, ...] = ()


def find_stages(
    data: Sequence[CurveRow] | Sequence[Sample],
    *,
    metrics: Sequence[PointMetrics] | None = None,
    sigma: float | None = None,
    margin: float = MARGIN,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Stages]:
    """Find the stages of every task in `data`, and of all tasks pooled (the last entry).

    Args:
        data: rows of a curves.csv, or the samples of a run. Points off the dial are left out.
        metrics: of these samples, where they were measured before.
        sigma: weight similarity of the two models, to tell why a merge is incoherent.
        margin: see `step`.
        resamples: for intervals.
        seed: of the resampling.

    Raises:
        AnalysisError: there is nothing on the dial, or a task is called "pooled".
    """
    rows, samples, _ = on_the_dial(data, metrics=metrics, resamples=resamples, seed=seed)
    tasks = list(dict.fromkeys(row.task for row in rows))
    if POOLED in tasks:
        raise AnalysisError(f"a task is called {POOLED!r}, the name of all tasks together", remedy="rename the task")
    found: list[Stages] = []
    transitions: dict[str, Transition] = {}
    for index, task in enumerate(tasks):
        mine = sorted((row for row in rows if row.task == task), key=lambda row: row.lam)
        own = [s for s in samples if s.task == task and s.outcome is not Outcome.FAILED]
        seen = partial(from_samples, own) if own else partial(from_rows, mine)
        evidence = seen(resamples=resamples, seed=seed + index)
        transitions[task] = find_transition(evidence)
        by_lam = {row.lam: [s for s in own if s.lam == row.lam] for row in mine} if own else {}
        found.append(
            _task_stages(
                rows=mine,
                samples=by_lam,
                evidence=evidence,
                found=transitions[task],
                sigma=sigma,
                margin=margin,
                resamples=resamples,
                seed=seed,
            )
        )
    return [*found, _pooled(found, transitions)]


def bracket(rows: Sequence[CurveRow]) -> tuple[float, float] | None:
    """[last swept λ with Think #R ≤ 5 %, first after it with Think #R ≥ 95 %]; `None` where one of them is missing."""
    rows = sorted(rows, key=lambda row: row.lam)
    low = max((row.lam for row in rows if row.think <= LEVELS[0]), default=math.inf)
    high = min((row.lam for row in rows if row.lam > low and row.think >= LEVELS[2]), default=math.inf)
    return (low, high) if high < math.inf else None


def to_json(stages: Sequence[Stages]) -> dict[str, Any]:
    """`{"tasks": {task: …}, "pooled": …}`, with the keys of `Stages`; what is not known is null."""
    entries = {s.task: plain(asdict(s)) for s in stages}
    return {"tasks": {task: entry for task, entry in entries.items() if task != POOLED}, POOLED: entries[POOLED]}


def _task_stages(
    rows: list[CurveRow],
    samples: ByLam,
    evidence: Evidence,
    found: Transition,
    sigma: float | None,
    margin: float,
    resamples: int,
    seed: int,
) -> Stages:
    """One task."""
    stage2 = bracket(rows)
    late = [row.lam for row in rows if stage2 and row.lam >= stage2[1] and row.lam in samples]
    pairs = [*pairwise(late), *([(late[0], late[-1])] if len(late) > 2 else [])]
    apart = [(lam, to) for lam, to in pairs if not share_questions(samples[lam], samples[to])]
    notes = tuple(
        f"λ={lam:g} and λ={to:g} have no question in common: the step between them is open" for lam, to in apart
    )
    steps = tuple(
        step(*pair, samples, margin=margin, resamples=resamples, seed=seed) for pair in pairs if pair not in apart
    )
    signatures = (
        *_verbose(rows),
        *_incoherent(rows, sigma),
        *_long(samples),
        *_falling(rows, samples, resamples, seed),
    )
    stages = _from_transition(rows[0].task, found, stage2, _needs(rows, samples, evidence))
    return replace(stages, notes=(*stages.notes, *notes), steps=steps, signatures=signatures)


def _pooled(found: Sequence[Stages], transitions: Mapping[str, Transition]) -> Stages:
    """All tasks that show a transition, together."""
    shown = [s for s in found if not s.refusal]
    notes = [f"{s.task} is left out: {s.refusal}" for s in found if s.refusal]
    notes += [f"{s.task} has no swept λ on both sides of stage 2" for s in shown if not s.stage2]
    needs = tuple(dict.fromkeys(need for s in found for need in s.needs))
    transition = pool([transitions[s.task] for s in shown])
    brackets = [s.stage2 for s in shown if s.stage2]
    stage2 = (min(low for low, _ in brackets), max(high for _, high in brackets)) if brackets else None
    pooled = _from_transition(POOLED, transition, stage2, needs)
    return replace(pooled, notes=(*pooled.notes, *notes))


def _from_transition(
    task: str, found: Transition, stage2: tuple[float, float] | None, needs: tuple[str, ...]
) -> Stages:
    """The record, before the tests of stage 3 and of failures."""
    return Stages(
        task=task,
        lambda_on=found.on,
        lambda_mid=found.mid,
        lambda_off=found.off,
        stage2=stage2,
        method=found.method,
        links=found.links,
        fits=found.fits,
        misfit=found.misfit,
        refusal=found.refusal,
        notes=found.notes,
        needs=needs,
    )


def _needs(rows: Sequence[CurveRow], samples: ByLam, evidence: Evidence) -> tuple[str, ...]:
    """What these data leave open, and what would answer it."""
    if samples:
        return ()
    open_questions = {
        "intervals of the boundaries: columns questions, samples": evidence.draws is None,
        "intervals over questions: the run's samples": evidence.draws is not None,
        "verbose without thinking: column tokens": all(row.tokens is None for row in rows),
        "incoherent between the ends: column mean": all(row.mean is None for row in rows),
        "over-thinking, falling Pass@k, long without closing: the run's samples": True,
    }
    return tuple(question for question, is_open in open_questions.items() if is_open)


def step(
    lam: float, to: float, samples: ByLam, *, margin: float = MARGIN, resamples: int = 2000, seed: int = 0
) -> Step:
    """Test whether going from `lam` to `to` over-thinks: tokens rise, and a gain of `margin` or more is ruled out.

    The latter is one half of two one-sided tests (Schuirmann 1987): not equivalence, since accuracy that falls is
    over-thinking too. "Not significant" is no evidence: where neither a gain nor its absence is shown, the verdict is
    undetermined.

    Args:
        lam: where from.
        to: where to.
        samples: by λ.
        margin: a gain in Mean@k below it is not worth more tokens.
        resamples: for the interval of tokens.
        seed: of the resampling.
    """
    sides = columns_of(samples[lam]), columns_of(samples[to])
    tokens = difference(*sides, metric="tokens", resamples=resamples, seed=seed)
    accuracy = difference(*sides, resamples=resamples, seed=seed)
    p_longer, p_gain = 1 - tokens.chance(), accuracy.chance(margin)
    verdict: StepVerdict = "undetermined"
    if not p_longer < ALPHA:
        verdict = "flat"
    elif p_gain < ALPHA:
        verdict = "over-thinking"
    elif accuracy.chance() > 1 - ALPHA:
        verdict = "worth it"
    return Step(
        lam=lam,
        to=to,
        tokens=tokens.value,
        accuracy=accuracy.value,
        detectable=accuracy.detectable,
        margin=margin,
        p_longer=p_longer,
        p_gain=p_gain,
        verdict=verdict,
    )


def _verbose(rows: Sequence[CurveRow]) -> Iterator[Signature]:
    """Stage 1 that writes at length without thinking."""
    first = rows[0]
    if not first.tokens or first.think > LEVELS[0]:
        return
    long = [r for r in rows[1:] if r.think <= LEVELS[0] and (r.tokens or 0) >= VERBOSE * first.tokens]
    if long:
        numbers = "; ".join(f"λ={r.lam:g}: {r.tokens:,.0f} tokens, Think #R {r.think:.1%}" for r in long)
        yield Signature(
            "verbose without thinking",
            tuple(r.lam for r in long),
            f"{numbers}; λ={first.lam:g}: {first.tokens:,.0f} tokens",
            f"these λ cost more than λ={first.lam:g} and do not think: stay there, or go on to stage 3",
        )


def _incoherent(rows: Sequence[CurveRow], sigma: float | None) -> Iterator[Signature]:
    """A barrier: every λ between the ends is far below both."""
    known = [(row.lam, row.mean) for row in rows if row.mean is not None]
    between = known[1:-1]
    if len(between) < 2:
        return
    ends = min(known[0][1], known[-1][1])
    if any(mean >= ends / 2 for _, mean in between):
        return
    best = max(mean for _, mean in between)
    if sigma is None:
        remedy = "measure σ of the two models: above 0.08 they are too far apart to interpolate"
    elif sigma >= HIGH_SIGMA:
        remedy = "the models are too far apart: take two from one closer lineage"
    else:
        remedy = "σ is small, so suspect the merge: tokenizer, template, lost tensors"
    numbers = f"Mean@k at most {best:.1%} between the ends, {ends:.1%} or more at them"
    numbers += "" if sigma is None else f"; σ={sigma:.3f}"
    yield Signature("incoherent between the ends", tuple(lam for lam, _ in between), numbers, remedy)


def _long(samples: ByLam) -> Iterator[Signature]:
    """Responses that go on as long as Thinking's and never close."""
    closed = [s.num_tokens for s in samples[max(samples)] if s.closed] if samples else []
    if not closed:
        return
    usual = sum(closed) / len(closed)
    hit = {}
    for lam in sorted(samples):
        usable = [s for s in samples[lam] if s.outcome is not Outcome.FAILED]
        loose = [s.num_tokens for s in usable if not s.closed and s.outcome in NOT_CLOSED]
        if loose and len(loose) >= OPEN_SHARE * len(usable) and sum(loose) / len(loose) >= usual:
            hit[lam] = f"λ={lam:g}: {len(loose) / len(usable):.1%} of responses, {sum(loose) / len(loose):,.0f} tokens"
    if hit:
        numbers = f"{'; '.join(hit.values())}; closed ones at λ={max(samples):g}: {usual:,.0f} tokens"
        remedy = "look at these responses: looping wants another temperature, truncation a larger cap or a budget"
        yield Signature("long without closing", tuple(hit), numbers, remedy)


def _falling(rows: Sequence[CurveRow], samples: ByLam, resamples: int, seed: int) -> Iterator[Signature]:
    """Thinking is saturated and Pass@k falls: the merge has lost solutions that a smaller λ still finds."""
    saturated = [r for r in rows if r.think >= LEVELS[2] and r.lam in samples]
    hit = {}
    for before, after in pairwise(saturated):
        earlier = [r for r in saturated if r.lam <= before.lam]
        earlier = [r for r in earlier if share_questions(samples[r.lam], samples[after.lam])]
        if not earlier:
            continue
        best = max(earlier, key=lambda r: r.pass_ or 0)
        change = difference(samples[best.lam], samples[after.lam], metric="pass", resamples=resamples, seed=seed).value
        if change.high < 0:
            shown = interval_text(change, 100, sign="+", unit=" points")
            hit[after.lam] = f"λ={best.lam:g} to λ={after.lam:g}: Pass@k {shown}"
    if hit:
        remedy = "prefer the smaller λ where several samples are drawn: more thinking narrows what is tried"
        yield Signature("thinking saturated, Pass@k falling", tuple(hit), "; ".join(hit.values()), remedy)
