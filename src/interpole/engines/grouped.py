"""λ per request where two copies of a model do not fit: requests queue by λ, and the weights move from one λ to the next.

All rows of the batch have one λ. It is drained before the weights change, so nobody's response is of two λ. Whose turn it is says
`engines.turns`; the same over vLLM is `engines.vllm_grouped`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interpole.engines.base import Finished, Request
from interpole.engines.open import dial
from interpole.engines.per_request import PerRequestEngine
from interpole.engines.transformers import Row, TransformersEngine
from interpole.engines.turns import Turns
from interpole.merging.recipe import Recipe

__all__ = ["GroupedEngine", "open_grouped"]


class GroupedEngine(PerRequestEngine):
    """One model in memory, dialled in place; driven as its parent, request by request, each with a λ."""

    def __init__(self, recipe: Recipe, *, patience_steps: int = 256, **options: Any) -> None:
        """Load a recipe's λ = 0.

        Args:
            recipe: the pair.
            patience_steps: as in `Turns`.
            **options: those of `TransformersEngine`.

        Raises:
            EngineError: transformers cannot load the folder, or there is no patience.
            MismatchError: the checkpoints do not fit each other.
        """
        resolve = dial(recipe)
        self._turns = Turns[Row](0.0, patience_steps)
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
    def moving(self) -> bool:
        """Whether the weights move just now."""
        return self._turns.moving

    @property
    def num_turns(self) -> int:
        """How often the weights have moved."""
        return self._turns.num_turns

    @property
    def num_queued(self) -> int:
        """Requests that wait for their λ."""
        return len(self._turns)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their λ, or for a place in the batch."""
        return super().num_waiting + self.num_queued

    def add(self, request: Request) -> None:
        """Tokenise a request and queue it at its λ; raises what its parent raises."""
        super().add(request)
        row = self._waiting.pop()
        assert row.request.lam is not None
        self._turns.put(row.request.lam, row.request.key, row)

    def cancel(self, key: int) -> bool:
        """As the parent's, also while it waits for its λ."""
        return self._turns.drop(key) or super().cancel(key)

    def step(self) -> list[Finished]:
        """As the parent's, at one λ; moves the weights where nobody is left at theirs."""
        num_running = len(super()._rows())
        self._waiting += self._turns.let_in(
            num_running, self._max_rows, lambda lam: TransformersEngine._move(self, lam)
        )
        return super().step()

    def abandon(self) -> None:
        """Empty queues and batch."""
        super().abandon()
        self._turns.clear()

    def _rows(self) -> list[Row]:
        return [*self._turns, *super()._rows()]

    def _before_forward(self, rows: Sequence[Row], num_tokens: int) -> None:
        """Nothing: all rows are at the model's λ."""


def open_grouped(recipe: Recipe, **options: Any) -> GroupedEngine:
    """The engine for a recipe's pair; `options` are those of `GroupedEngine`."""
    return GroupedEngine(recipe, **options)
