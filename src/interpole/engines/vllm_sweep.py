"""λ per request in vLLM as an engine like any other: a sweep hands it requests of all λ at once (see `vllm_per_request`)."""

from __future__ import annotations

from typing import Any

from interpole.engines.base import pair_fingerprint
from interpole.engines.open import dial
from interpole.engines.vllm import VllmEngine
from interpole.engines.vllm_per_request import register, settings
from interpole.engines.vllm_running import RunningVllm
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe

__all__ = ["BothEnds", "open_vllm_per_request"]


class BothEnds:
    """A running vLLM with both checkpoints of a pair, in which each request brings its own λ.

    Attributes:
        running: it answers.
        takes: as in `Engine`.
    """

    takes = frozenset({"lam", "min_p", "begins"})

    def __init__(self, recipe: Recipe, max_rows: int | None, options: dict[str, Any]) -> None:
        """Start vLLM, which loads both; see `open_vllm_per_request`."""
        resolve = dial(recipe)
        self._pair = pair_fingerprint(resolve(recipe.at(0.0)), resolve(recipe.at(1.0)))
        register()
        self.running = RunningVllm(resolve(recipe), max_rows, options | settings(recipe), with_lam=True)

    def go(self, where: Any) -> str:
        """Stay: both ends are held.

        Raises:
            EngineError: it is anywhere.
        """
        if where is not None:
            raise EngineError(f"this engine is at all λ, and cannot go to {where}", remedy="give each request a `lam`")
        return f"{self._pair}@{where}"


def open_vllm_per_request(recipe: Recipe, *, max_rows: int | None = None, **options: Any) -> VllmEngine:
    """The engine over both ends of a recipe.

    Args:
        recipe: of the pair; config and tokenizer are those of its template source.
        max_rows: as of `open_vllm`.
        **options: vLLM's own `EngineArgs`.

    Raises:
        EngineError: vLLM cannot be started, or the recipe is no straight line between two ends.
    """
    return VllmEngine(BothEnds(recipe, max_rows, options))
