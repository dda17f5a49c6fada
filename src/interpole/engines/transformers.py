"""The engine over transformers: batched generation (`engines.rows`) whose weights are replaced in place."""

from __future__ import annotations

from typing import Any

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.base import Engine, Finished, Request, Resolve
from interpole.engines.open import dial
from interpole.engines.rows import Rows
from interpole.merging.recipe import Recipe

__all__ = ["TransformersEngine", "open_transformers"]


class TransformersEngine(Engine):
    """A causal language model of transformers, driven step by step (see `engines.base.Engine`).

    Attributes:
        model: the live torch model.
        tokenizer: its tokenizer.
        context_tokens: most tokens of a prompt and its response together.
    """

    takes = frozenset({"min_p", "begins"})

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        resolve: Resolve | None = None,
        dtype: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        max_rows: int = 128,
    ) -> None:
        """Load architecture, tokenizer and weights.

        Args:
            checkpoint: the first weights.
            resolve: makes checkpoints of what `at` and `load` are given; default: they take checkpoints only.
            dtype: as in `Rows`, and the others.
            device: where.
            threads: CPU threads.
            max_rows: most responses generated at the same time.

        Raises:
            EngineError: transformers cannot load the folder.
        """
        self._resolve = resolve or (lambda where: where)
        self._rows = Rows(checkpoint, dtype=dtype, device=device, threads=threads, max_rows=max_rows)
        self.model, self.tokenizer = self._rows.model, self._rows.tokenizer
        self.context_tokens, self.where = self._rows.context_tokens, checkpoint

    def versions(self) -> dict[str, str]:
        """Name, versions, dtype and device."""
        return self._rows.versions()

    @property
    def busy(self) -> bool:
        """Whether requests wait, or rows are not finished."""
        return self._rows.busy

    def abandon(self) -> None:
        """Empty queue and batch."""
        self._rows.abandon()

    def _move(self, where: Any) -> str:
        """Replace the weights in place; `where` is what `resolve` takes, or a checkpoint.

        Raises:
            MismatchError: a tensor does not fit; the weights are as they were.
        """
        checkpoint = where if isinstance(where, Checkpoint) else self._resolve(where)
        self._rows.load(checkpoint)
        return checkpoint.fingerprint()

    def add(self, request: Request) -> None:
        """Tokenise and queue a request.

        Raises:
            EngineError: its prompt leaves no room in the model's context, or it asks for what is not done here.
        """
        self._check(request)
        self._rows.waiting.append(self._rows.row(request))

    def step(self) -> list[Finished]:
        """Give every running row one more token, after letting waiting rows in where there is room for a good few."""
        self.progress += 1
        return self._rows.step()


def open_transformers(recipe: Recipe, **options: Any) -> TransformersEngine:
    """The engine that the registry calls `transformers`, at a recipe and with its checkpoints at hand."""
    resolve = dial(recipe)
    return TransformersEngine(resolve(recipe), resolve=resolve, **options)
