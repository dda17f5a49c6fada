"""λ per request where two copies of a model do not fit: requests queue by λ, and the weights move from one λ to the next.

All rows of the batch have one λ. It is drained before the weights change, so nobody's response is of two λ. A λ keeps its turn,
and takes in what comes, until a request at another has waited for `patience_steps`; the next turn is that of the request that
has waited longest. So a request waits for no longer than one turn (`patience_steps` and the longest response) for every λ that
was asked for before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from interpole.engines.base import Finished, Request
from interpole.engines.open import dial
from interpole.engines.per_request import PerRequestEngine
from interpole.engines.transformers import Row, TransformersEngine
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe

__all__ = ["GroupedEngine", "open_grouped"]


class GroupedEngine(PerRequestEngine):
    """One model in memory, dialled in place; driven as its parent, request by request, each with a λ.

    Attributes:
        num_turns: how often the weights have moved.
    """

    def __init__(self, recipe: Recipe, *, patience_steps: int = 256, **options: Any) -> None:
        """Load a recipe's λ = 0.

        Args:
            recipe: the pair.
            patience_steps: how many tokens a row of the λ whose turn it is may be given while another λ waits.
            **options: those of `TransformersEngine`.

        Raises:
            EngineError: transformers cannot load the folder, or there is no patience.
            MismatchError: the checkpoints do not fit each other.
        """
        if patience_steps < 1:
            raise EngineError(f"a patience of {patience_steps} steps", remedy="give at least 1")
        resolve = dial(recipe)
        self._patience_steps, self._num_steps = patience_steps, 0
        self._queues: dict[float, deque[tuple[int, Row]]] = {}  # by λ: since which step each waits
        self._lam, self.num_turns = 0.0, 0
        super().__init__(resolve(0.0), resolve(1.0), **options)
        self._resolve = resolve

    def _hold(self) -> None:
        """Nothing: there is one checkpoint in the model."""

    def versions(self) -> dict[str, str]:
        """Those of `PerRequestEngine`."""
        return super().versions() | {"lambda": "grouped"}

    @property
    def busy(self) -> bool:
        """Whether requests wait, or rows are not finished."""
        return super().busy or self.num_queued > 0

    @property
    def num_queued(self) -> int:
        """Requests that wait for their λ."""
        return sum(not row.finish for queue in self._queues.values() for _, row in queue)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their λ, or for a place in the batch."""
        return super().num_waiting + self.num_queued

    def add(self, request: Request) -> None:
        """Tokenise a request and queue it at its λ; raises what its parent raises."""
        super().add(request)
        row = self._waiting.pop()
        assert row.request.lam is not None
        self._queues.setdefault(row.request.lam, deque()).append((self._num_steps, row))

    def step(self) -> list[Finished]:
        """As the parent's, at one λ."""
        self._take_in()
        self._num_steps += 1
        return super().step()

    def abandon(self) -> None:
        """Empty queues and batch."""
        super().abandon()
        self._queues.clear()

    def _take_in(self) -> None:
        """Let in who is next; move the weights where nobody is left at the λ they are at."""
        since = {}
        for lam, queue in list(self._queues.items()):
            while queue and queue[0][1].finish:  # cancelled
                queue.popleft()
            if queue:
                since[lam] = queue[0][0]
            else:
                del self._queues[lam]
        if not since:
            return
        if not super().busy:
            lam = min(since, key=lambda one: since[one])
            if lam != self._lam:
                TransformersEngine._move(self, lam)
                self._lam = lam
                self.num_turns += 1
        elif any(self._num_steps - begun >= self._patience_steps for lam, begun in since.items() if lam != self._lam):
            return
        queue = self._queues.get(self._lam, deque())
        while queue and len(super()._rows()) < self._max_rows:  # those behind must not outlast the patience
            _, row = queue.popleft()
            if not row.finish:
                self._waiting.append(row)

    def _rows(self) -> list[Row]:
        queued = [row for queue in self._queues.values() for _, row in queue if not row.finish]
        return [*queued, *super()._rows()]

    def _before_forward(self, rows: Sequence[Row], num_tokens: int) -> None:
        """Nothing: all rows are at the model's λ."""


def open_grouped(recipe: Recipe, **options: Any) -> GroupedEngine:
    """The engine for a recipe's pair; `options` are those of `GroupedEngine`."""
    return GroupedEngine(recipe, **options)
