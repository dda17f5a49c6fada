"""Whose turn it is where one copy of the weights answers requests of many λ: queues by λ, drained before the weights change.

A λ keeps its turn, and takes in what comes, until a request at another has waited for `patience_steps`; the next turn is that of
the request that has waited longest. So a request waits for no longer than one turn (`patience_steps` and the longest response)
for every λ that was asked for before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from interpole.errors import EngineError

__all__ = ["Turns"]

Item = TypeVar("Item")


class _Queued(NamedTuple, Generic[Item]):
    since_step: int
    item: Item


class Turns(Generic[Item]):
    """Requests that wait for their λ; iterates over them.

    Attributes:
        lam: λ of the weights; None: not known, so that they move before anybody is let in.
        num_turns: how often the weights have moved.
        moving: whether they move just now; may be asked in any thread.
    """

    def __init__(self, lam: float | None, patience_steps: int) -> None:
        """Begin at a λ.

        Args:
            lam: where the weights are.
            patience_steps: how many tokens a row of the λ whose turn it is may be given while another λ waits.

        Raises:
            EngineError: there is no patience.
        """
        if patience_steps < 1:
            raise EngineError(f"a patience of {patience_steps} steps", remedy="give at least 1")
        self.lam, self.num_turns, self.moving = lam, 0, False
        self._patience_steps, self._num_steps = patience_steps, 0
        self._queues: dict[float, dict[int, _Queued[Item]]] = {}  # by λ, and by the request's key

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Item]:
        return (queued.item for queue in self._queues.values() for queued in queue.values())

    def put(self, lam: float, key: int, item: Item) -> None:
        """Queue a request at its λ."""
        self._queues.setdefault(lam, {})[key] = _Queued(self._num_steps, item)

    def drop(self, key: int) -> bool:
        """Forget a request that waits; returns whether it did."""
        return any(self._pop(lam, key) is not None for lam in list(self._queues))

    def clear(self) -> None:
        """Forget all that wait."""
        self._queues.clear()

    def let_in(self, num_running: int, max_running: int, move: Callable[[float], object]) -> list[Item]:
        """Who joins the batch with the step that begins; call it once before each.

        Args:
            num_running: how many are in the batch, all at `lam`.
            max_running: most that may be.
            move: takes the weights to another λ; called where nobody is left at the one they are at. What it raises is raised.
        """
        let_in = []
        if self._queues and self._is_open(num_running, move):
            lam = self.lam
            assert lam is not None
            waiting = list(self._queues.get(lam, ()))[: max(max_running - num_running, 0)]
            let_in = [queued.item for key in waiting if (queued := self._pop(lam, key)) is not None]
        self._num_steps += 1
        return let_in

    def _is_open(self, num_running: int, move: Callable[[float], object]) -> bool:
        """Whether those at `lam` may come in; where the batch is empty, `lam` is then that of who has waited longest."""
        since = {lam: next(iter(queue.values())).since_step for lam, queue in self._queues.items()}
        if num_running:
            others = [begun for lam, begun in since.items() if lam != self.lam]
            return all(self._num_steps - begun < self._patience_steps for begun in others)
        lam = min(since, key=lambda one: since[one])
        if lam != self.lam:
            self.lam = None  # where the weights are if this fails
            self.moving = True
            try:
                move(lam)
            finally:
                self.moving = False
            self.lam = lam
            self.num_turns += 1
        return True

    def _pop(self, lam: float, key: int) -> _Queued[Item] | None:
        queue = self._queues[lam]
        queued = queue.pop(key, None)
        if not queue:
            del self._queues[lam]
        return queued
