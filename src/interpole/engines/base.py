"""Engines: what turns prompts into responses. Here is what every engine offers; each engine is one file.

An engine is driven step by step: `add` requests at any time, call `step` until everything is finished. Nothing here knows of
benchmarks or recipes; `engines.open` opens engines with a recipe, `engines.process` keeps one in a child process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.errors import EngineError
from interpole.records import Generation, Sampler

__all__ = ["Engine", "Finished", "Request", "Resolve", "eos_tokens", "generate"]

Resolve = Callable[[Any], Checkpoint]
"""Makes a checkpoint of what `Engine.at` is given: λ, a recipe or a checkpoint."""


class Request(NamedTuple):
    """One prompt to answer. `key` is the caller's, and comes back with the response."""

    key: int
    prompt: str  # rendered, with its special tokens
    sampler: Sampler
    seed: int  # equal seeds give equal draws, whatever else is in the batch


class Finished(NamedTuple):
    """One answered request, or one that failed alone."""

    key: int
    generation: Generation
    error: EngineError | None = None  # where set, there is no response


class Engine(Protocol):
    """What generates. Not safe to share between threads."""

    def versions(self) -> dict[str, str]:
        """Name, versions and settings that responses depend on; they become part of a sample's identity."""

    def load(self, where: Any) -> str:
        """Go to other weights (λ, a recipe, a checkpoint) and stay there; returns their fingerprint.

        Raises:
            EngineError: requests are in flight.
            MismatchError: the weights do not fit the model.
        """

    def at(self, where: Any) -> AbstractContextManager[Engine]:
        """Go to other weights for the length of a `with` block, then back."""

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            EngineError: it cannot be answered, e.g. its prompt is longer than the model's context.
        """

    def step(self) -> list[Finished]:
        """Do a little work and return what finished; nothing where nothing is queued."""

    def generate(self, prompts: Sequence[str], sampler: Sampler, seeds: Sequence[int]) -> list[Generation]:
        """Answer all prompts; blocks until the last is finished."""


def generate(engine: Engine, prompts: Sequence[str], sampler: Sampler, seeds: Sequence[int]) -> list[Generation]:
    """Answer all prompts by `engine.add` and `engine.step`, in the order given.

    Raises:
        EngineError: a request failed, or there are not as many seeds as prompts.
    """
    if len(prompts) != len(seeds):
        raise EngineError(f"{len(prompts)} prompts but {len(seeds)} seeds", remedy="give one seed per prompt")
    for key, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        engine.add(Request(key, prompt, sampler, seed))
    answers: dict[int, Generation] = {}
    while len(answers) < len(prompts):
        for key, generation, error in engine.step():
            if error is not None:
                raise error
            answers[key] = generation
    return [answers[key] for key in range(len(prompts))]


def eos_tokens(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a response: those of the generation config, else of the config, and the tokenizer's."""
    given = checkpoint.generation_config.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    listed = given if isinstance(given, list) else [given]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
