"""After a search: its best measured on questions that no trial saw, one of them chosen there, and that one confirmed on others.

Whatever is chosen for its numbers is partly the luckiest, and looks better in them than it is. So questions are split in three:
trials see the first part, the winner is chosen on the second, and its interval comes from the third, used for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interpole.analysis import compare as comparison
from interpole.analysis.compare import Comparison
from interpole.analysis.intervals import Interval
from interpole.analysis.pareto import on_front
from interpole.analysis.recommend import average
from interpole.analysis.scoring import score
from interpole.analysis.tables import PointMetrics
from interpole.engines.pool import Pool
from interpole.errors import RunError
from interpole.files import make_folder, write_atomic
from interpole.formats import plain
from interpole.merging.recipe import build
from interpole.runs.samples import read
from interpole.search.allocation import Goal, choose, parse_goal
from interpole.search.space import SpaceFile
from interpole.search.study import CONFIRMED, HELD_OUT
from interpole.sweep import run as sweep
from interpole.sweep.config import PointConfig
from interpole.sweep.plan import Plan
from interpole.sweep.progress import OnProgress
from interpole.sweep.run import Crew
from interpole.tasks import Benchmark

__all__ = ["Confirmation", "Finalist", "Finals", "Ids", "SearchQuestions", "split", "winner_of"]

Ids = Mapping[str, tuple[str, ...]]
"""Of each task, the questions of one part."""


class SearchQuestions(NamedTuple):
    """The questions in three parts."""

    seen: list[Benchmark]  # with those that trials are asked
    choose: Ids  # on which the winner is chosen
    confirm: Ids  # on which it is confirmed; none in the folder of a search that kept none

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many questions each part has, over all tasks."""
        choosing, confirming = (sum(map(len, ids.values())) for ids in (self.choose, self.confirm))
        return sum(len(bench.problems) for bench in self.seen), choosing, confirming


@dataclass(frozen=True, slots=True)
class Finalist:
    """One of the best, or a point of the dial: as the search saw it, and on the questions it was chosen on, or was not."""

    name: str
    recipe: (
        Path | None
    )  # its YAML, relative to the folder; None: what was measured beside, a point of the dial or a corner
    sampler: Mapping[str, float]
    seen_accuracy: float | None  # mean over tasks; None: not tried in the search
    seen_tokens: float | None
    measured: tuple[PointMetrics, ...]  # of each task, on the questions to choose on
    on_front: bool = False  # no other is better in accuracy and no worse in tokens, or the reverse, on these questions
    is_winner: bool = False

    @property
    def accuracy(self) -> float:
        """Mean@k on the questions to choose on, each task weighing the same."""
        return float(np.mean([m.mean.value for m in self.measured]))

    @property
    def interval(self) -> Interval:
        """The same with its interval; it does not know that the winner was chosen on these questions."""
        return average([m.mean for m in self.measured])

    @property
    def tokens(self) -> float:
        """Token #N likewise."""
        return float(np.mean([m.tokens.value for m in self.measured]))

    def to_json(self) -> dict[str, Any]:
        """Plain data; `interval` is of the questions that were chosen on."""
        own: dict[str, Any] = plain(asdict(replace(self, measured=())) | {"recipe": self.recipe and str(self.recipe)})
        del own["measured"]
        shown = {"accuracy": self.accuracy, "interval": plain(self.interval), "tokens": self.tokens}
        return own | shown | {"tasks": [m.task for m in self.measured]}


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The winner on questions that were used for nothing else, beside the point of the dial for the same goal."""

    winner: str
    accuracy: Interval  # Mean@k, each task weighing the same
    tokens: Interval
    against: str | None  # the dial's point, or the corner; None: the winner is one, or none was measured
    changes: tuple[Comparison, ...]  # from that to the winner, of each task
    num_before: int  # other winners that these questions have confirmed before; each look costs some of the 95 %

    def to_json(self) -> dict[str, Any]:
        """Plain data with the same keys."""
        own: dict[str, Any] = plain(asdict(replace(self, changes=())))
        return own | {"changes": comparison.to_json(self.changes)}


def split(benchmarks: Iterable[Benchmark], held_out: float, confirm: float, seed: int) -> SearchQuestions:
    """The questions of each benchmark in three parts.

    Args:
        benchmarks: all that are asked.
        held_out: share of the questions that no trial sees.
        confirm: share of these that the winner is confirmed on; 0 for a search that keeps none.
        seed: of the order in which they are dealt out.

    Raises:
        RunError: a benchmark has too few.
    """
    seen, choosing, confirming = list[Benchmark](), dict[str, tuple[str, ...]](), dict[str, tuple[str, ...]]()
    for bench in benchmarks:
        ids = [problem.id for problem in bench.problems]
        num = round(held_out * len(ids))
        num_confirm = round(confirm * num)
        if not num_confirm < num < len(ids) or (confirm and not num_confirm):
            raise RunError(
                f"{len(ids)} questions cannot be split in three",
                bench.name,
                "give more questions, or another held_out or confirm",
            )
        order = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
        last, held = set(order[:num_confirm]), set(order[:num])
        seen.append(replace(bench, problems=tuple(p for p in bench.problems if p.id not in held)))
        choosing[bench.name] = tuple(name for name in ids if name in held - last)
        confirming[bench.name] = tuple(name for name in ids if name in last)
    return SearchQuestions(seen, choosing, confirming)


def winner_of(accuracy: Sequence[float], tokens: Sequence[float], goal: Goal) -> int:
    """Which of several is wanted for a goal, by the rules of `recommend`."""
    return int(choose(np.array([accuracy]), np.array([tokens]), goal)[0])


@dataclass(frozen=True, slots=True)
class Finals:
    """Measures the best of a search with the engines that it used."""

    file: SpaceFile
    out: Path
    planned: Plan
    engines: Pool | Crew
    on_progress: OnProgress

    def choose(
        self, points: Mapping[str, PointConfig], seen: Mapping[str, Sequence[float]], ids: Ids
    ) -> tuple[Finalist, ...]:
        """The best and the dial on the questions to choose on, by tokens, with the winner marked; recipes are written.

        Args:
            points: the best, by name.
            seen: their accuracy and tokens in the search.
            ids: the questions.
        """
        every = (*self.planned.config.own_points, *points.values())
        measured = self._measure(HELD_OUT, self.file.sweep.lambdas, every, ids)
        found = []
        for name, own in measured.items():
            point, path = points.get(name), None
            if point is not None:
                path = Path("recipes") / f"{name.replace(' ', '-')}.yml"
                make_folder((self.out / path).parent)
                write_atomic(self.out / path, build(self.planned.point(point).where, "the recipe").to_yaml())
            accuracy, tokens = seen.get(name, (None, None))
            found.append(Finalist(name, path, point.sampler if point else {}, accuracy, tokens, own))
        accuracies, lengths = [one.accuracy for one in found], [one.tokens for one in found]
        front = on_front(np.array([accuracies]), np.array([lengths]))[0].tolist()
        best = winner_of(accuracies, lengths, parse_goal(self.file.goal))
        marked = [replace(one, on_front=front[i], is_winner=i == best) for i, one in enumerate(found)]
        return tuple(sorted(marked, key=lambda one: one.tokens))

    def confirm(
        self, finalists: Sequence[Finalist], points: Mapping[str, PointConfig], ids: Ids, before: Sequence[str]
    ) -> Confirmation:
        """The winner, and what was measured beside for the same goal, on the questions to confirm on.

        Args:
            finalists: with the winner among them.
            points: the best, by name.
            ids: the questions.
            before: winners that were confirmed on them before.
        """
        winner = next(one for one in finalists if one.is_winner)
        dial = [one for one in finalists if one.recipe is None]
        goal = parse_goal(self.file.goal)
        rival = dial[winner_of([d.accuracy for d in dial], [d.tokens for d in dial], goal)] if dial else None
        against = None if rival is None or winner.recipe is None else rival.name
        lams = [m.lam for one in (winner, rival) if one for m in one.measured[:1] if m.lam is not None]
        known = {point.name: point for point in self.planned.config.own_points} | dict(points)
        own = [known[one.name] for one in (winner, rival) if one and one.name in known]
        own = list({point.name: point for point in own}.values())
        measured = self._measure(CONFIRMED, tuple(dict.fromkeys(lams)), own, ids)[winner.name]
        samples = read(self.out / CONFIRMED, texts=False)
        return Confirmation(
            winner.name,
            average([m.mean for m in measured]),
            average([m.tokens for m in measured]),
            against,
            tuple(comparison.compare(samples, [against, winner.name])) if against else (),
            len(set(before) - {winner.name}),
        )

    def _measure(
        self, folder: str, lambdas: tuple[float, ...], points: Sequence[PointConfig], ids: Ids
    ) -> dict[str, tuple[PointMetrics, ...]]:
        """Point → its metrics of each task, by an ordinary sweep in a folder of the search."""
        tasks = [
            task.model_copy(update={"only": own}) for task, own in zip(self.file.sweep.tasks, ids.values(), strict=True)
        ]
        config = self.planned.config.model_copy(
            update={"tasks": tuple(tasks), "lambdas": lambdas, "points": tuple(points), "simplex": None}
        )
        own = {"pool": self.engines} if isinstance(self.engines, Pool) else {"crew": self.engines}
        summary = sweep.run(config, self.out / folder, self.on_progress, changed="also", **own)
        if summary.failed:
            first = summary.failed[0]
            raise RunError(f"{first.task} failed at {first.point}", self.out / folder, "run it again to go on")
        measured: dict[str, list[PointMetrics]] = {name: [] for name in config.point_names}
        for m in score(self.out / folder):
            if m.point in measured:
                measured[m.point].append(m)
        return {name: tuple(own) for name, own in measured.items()}
