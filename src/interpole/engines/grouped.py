"""λ per request where two copies of a model do not fit: requests queue by λ, and the weights move from one λ to the next.

All that is in the batch has one λ. It is drained before the weights change, so nobody's response is of two λ. Whose turn it is
says `engines.turns`; the batch is one of transformers (`engines.streamed`) or of vLLM (`engines.vllm_grouped`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.base import Engine, Finished, Request, Token, lam_of, pair_fingerprint, refuse_second
from interpole.engines.open import dial
from interpole.engines.turns import Turns
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe
from interpole.records import Generation

__all__ = ["GroupedEngine", "Keyed", "OneLambda", "open_grouped"]


class Keyed(Protocol):
    """A request as a batch takes it."""

    @property
    def key(self) -> int:
        """The request's."""


Item = TypeVar("Item", bound=Keyed)


class OneLambda(Protocol[Item]):
    """What answers requests at the λ where its weights are.

    Attributes:
        takes: as in `Engine`.
        tokenizer: the model's tokenizer.
        context_tokens: most tokens of a prompt and its response together.
        max_rows: most requests in it.
    """

    takes: frozenset[str]
    tokenizer: Any
    context_tokens: int
    max_rows: int

    def versions(self) -> dict[str, str]:
        """As `Engine.versions`."""

    @property
    def busy(self) -> bool:
        """Whether anything is in it."""

    @property
    def num_running(self) -> int:
        """How many requests run; may be asked in any thread."""

    def __len__(self) -> int:
        """How many requests are in it, running or about to."""

    def has(self, key: int) -> bool:
        """Whether the request with this key is in it."""

    def prepared(self, request: Request) -> Item:
        """Tokenise a request and refuse what cannot be answered."""

    def enter(self, item: Item) -> None:
        """Take a request in."""

    def cancel(self, key: int) -> bool:
        """Forget a request; returns whether it was there."""

    def step(self) -> list[Finished]:
        """Draw tokens; returns what is finished by that."""

    def events(self) -> list[Token]:
        """The tokens that the last `step` drew, in order; handed out once."""

    def abandon(self) -> None:
        """Forget all requests."""

    def close(self) -> None:
        """End what runs."""


class GroupedEngine(Engine, Generic[Item]):
    """One copy of the weights, dialled in place; driven request by request, each with a λ.

    `load` and `at` move the weights, and their λ is that of requests that bring none.

    Attributes:
        instruct, thinking: the checkpoints at λ = 0 and λ = 1.
        tokenizer: the model's tokenizer.
        context_tokens: most tokens of a prompt and its response together.
    """

    def __init__(
        self,
        batch: OneLambda[Item],
        move: Callable[[float], str],
        ends: tuple[Checkpoint, Checkpoint],
        turns: Turns[Item],
    ) -> None:
        """Drive a batch.

        Args:
            batch: answers; nobody else drives it.
            move: takes its weights to a λ, while nothing is in it; returns their fingerprint.
            ends: the checkpoints at λ = 0 and λ = 1.
            turns: at the λ where the weights are.
        """
        self._batch, self._go, self._turns = batch, move, turns
        self.instruct, self.thinking = ends
        self.takes = batch.takes
        self.tokenizer, self.context_tokens = batch.tokenizer, batch.context_tokens

    def versions(self) -> dict[str, str]:
        """Those of the batch, and that requests of a λ go together."""
        return self._batch.versions() | {"lambda": "grouped"}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of both checkpoints."""
        return pair_fingerprint(self.instruct, self.thinking)

    @property
    def busy(self) -> bool:
        """Whether requests wait, or are not finished."""
        return self._batch.busy or len(self._turns) > 0

    @property
    def moving(self) -> bool:
        """Whether the weights move just now; may be asked in any thread."""
        return self._turns.moving

    @property
    def num_turns(self) -> int:
        """How often the weights have moved from one λ to another for requests that waited."""
        return self._turns.num_turns

    @property
    def num_running(self) -> int:
        """Requests in the batch; may be asked in any thread."""
        return self._batch.num_running

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their λ, or for a place in the batch."""
        return len(self._turns) + len(self._batch) - self._batch.num_running

    def add(self, request: Request) -> None:
        """Tokenise a request and queue it at its λ.

        Raises:
            EngineError: it has no λ, one outside of [0, 1], the key of another, or is refused by the batch.
        """
        self._check(request)
        lam = lam_of(self.where if request.lam is None else request.lam)
        refuse_second(request.key, self._batch.has(request.key) or any(one.key == request.key for one in self._turns))
        self._turns.put(lam, request.key, self._batch.prepared(request))

    def cancel(self, key: int) -> bool:
        """Forget a request, wherever it is. Returns whether it was there: it is never answered."""
        return self._turns.drop(key) or self._batch.cancel(key)

    def events(self) -> list[Token]:
        """The tokens that the last `step` drew, in order; handed out once."""
        return self._batch.events()

    def abandon(self) -> None:
        """Empty queues and batch."""
        self._batch.abandon()
        self._turns.clear()

    def step(self) -> list[Finished]:
        """One step of the batch, at one λ; moves the weights where nobody is left at theirs."""
        self.progress += 1
        refused = []
        for item in self._turns.let_in(len(self._batch), self._batch.max_rows, self._go):
            try:
                self._batch.enter(item)
            except EngineError as error:
                refused.append(Finished(item.key, Generation("", 0, "error"), error))
        try:
            return refused + self._batch.step()
        except Exception:
            self._turns.lam = None  # a prefix may be cached whose step was not computed: load again, which forgets it
            raise

    def close(self) -> None:
        """End what runs."""
        self._batch.close()

    def _move(self, where: Any) -> str:
        """Take the weights to a λ, whose requests may come in then; None: stay, and requests must bring a λ.

        Raises:
            EngineError: it is no λ.
        """
        if where is None:
            return f"{self.fingerprint}@{where}"
        lam, self._turns.lam = lam_of(where), None
        fingerprint = self._go(lam)
        self._turns.lam = lam
        return fingerprint


def open_grouped(recipe: Recipe, *, patience_steps: int = 256, **options: Any) -> GroupedEngine[Any]:
    """The engine for a recipe's pair over transformers.

    Args:
        recipe: the pair.
        patience_steps: as in `Turns`.
        **options: those of `TransformersEngine`.

    Raises:
        EngineError: transformers cannot load the folder, or there is no patience.
        MismatchError: the checkpoints do not fit each other.
    """
    from interpole.engines.rows import BatchRow, Rows  # with vLLM there is no need of them
    from interpole.engines.streamed import StreamedRows

    resolve, turns = dial(recipe), Turns[BatchRow](0.0, patience_steps)
    ends = resolve(0.0), resolve(1.0)
    rows = Rows(ends[0], **options)

    def move(lam: float) -> str:
        checkpoint = resolve(lam)
        rows.load(checkpoint)
        return checkpoint.fingerprint()

    return GroupedEngine(StreamedRows(rows), move, ends, turns)
