"""λ per request in vLLM as an engine like any other: a sweep hands it requests of all λ at once (see `vllm_per_request`)."""

from __future__ import annotations

from typing import Any

from interpole.engines.base import Engine, Finished, Request, lam_of, pair_fingerprint
from interpole.engines.open import dial
from interpole.engines.vllm_per_request import register, settings
from interpole.engines.vllm_running import RunningVllm
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe

__all__ = ["VllmAtAllLambdas", "open_vllm_per_request"]


class VllmAtAllLambdas(Engine):
    """Both checkpoints of a pair in one vLLM; each request is answered at its own λ. There is nowhere to go.

    Attributes:
        tokenizer: the model's tokenizer.
        context_tokens: most tokens of a prompt and its response together.
    """

    takes = frozenset({"lam", "min_p", "begins"})

    def __init__(self, recipe: Recipe, *, max_rows: int | None = None, **options: Any) -> None:
        """Start vLLM, which loads both.

        Args:
            recipe: of the pair; config and tokenizer are those of its template source.
            max_rows: as for `VllmEngine`.
            **options: vLLM's own `EngineArgs`.

        Raises:
            EngineError: vLLM cannot be started, or the recipe is no straight line between two ends.
        """
        resolve = dial(recipe)
        self._pair = pair_fingerprint(resolve(recipe.at(0.0)), resolve(recipe.at(1.0)))
        register()
        self._running = RunningVllm(resolve(recipe), max_rows, options | settings(recipe), with_lam=True)
        self.tokenizer, self.context_tokens = self._running.tokenizer, self._running.context_tokens

    def versions(self) -> dict[str, str]:
        """Those of `VllmEngine`, and that λ is in the batch."""
        return self._running.versions() | {"lambda": "per request"}

    @property
    def busy(self) -> bool:
        """Whether vLLM has requests that are not finished."""
        return self._running.busy

    def add(self, request: Request) -> None:
        """As `VllmEngine.add`.

        Raises:
            EngineError: as there, or it has no λ between 0 and 1.
        """
        self._check(request)
        self._running.add(request._replace(lam=lam_of(request.lam)))

    def step(self) -> list[Finished]:
        """One step of vLLM's scheduler."""
        self.progress += 1
        return self._running.step()

    def abandon(self) -> None:
        """Abort all requests."""
        self._running.abandon()

    def close(self) -> None:
        """End vLLM and its workers."""
        self._running.close()

    def _move(self, where: Any) -> str:
        """Stay: both ends are held."""
        if where is not None:
            raise EngineError(f"this engine is at all λ, and cannot go to {where}", remedy="give each request a `lam`")
        return f"{self._pair}@{where}"


def open_vllm_per_request(recipe: Recipe, **options: Any) -> VllmAtAllLambdas:
    """The engine over both ends of a recipe."""
    return VllmAtAllLambdas(recipe, **options)
