"""A thinking budget over any engine: the thought is cut after N tokens, closed, and the model goes on to its answer.

This is what people set instead of λ (vLLM's `thinking_token_budget`, llama.cpp's `--reasoning-budget`). It works on answers, in
two requests, so every engine that is sent rendered prompts can do it. The text that closes a thought is not generated, and so
not counted; a response that it closed says so (`budget_forced`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from interpole.engines.base import Answer
from interpole.formats import seed_of
from interpole.records import Generation, Sampler

__all__ = ["Budget", "within"]


class Budget(NamedTuple):
    """How long a response may think."""

    num_tokens: int  # generated from the start of the response
    close: str  # what is put where the thought is cut, closing marker and all


def within(answer: Answer, budget: Budget, is_thinking: Callable[[str], bool]) -> Answer:
    """An `Answer` whose responses think for no longer than the budget.

    A response that has closed its thought by then, or has not begun one, goes on as it is. The second request draws from a seed
    of its own. Both together keep to the sampler's `max_tokens`.

    Args:
        answer: of an engine.
        budget: the tokens, and how to close.
        is_thinking: whether a response that was cut off here is inside a thought.
    """

    async def limited(prompt: str, sampler: Sampler, seed: int) -> Generation:
        first = replace(sampler, max_tokens=min(budget.num_tokens, sampler.max_tokens))
        cut = await answer(prompt, first, seed)
        left = sampler.max_tokens - cut.num_tokens
        if cut.finish != "length" or cut.num_tokens < first.max_tokens or left <= 0:
            return cut
        text = cut.text.rstrip("\ufffd")  # half a character, if the cut fell into one
        forced = is_thinking(text)
        text = text.rstrip() + budget.close if forced else text
        rest = await answer(prompt + text, replace(sampler, max_tokens=left), seed_of(seed, "go on"))
        return Generation(text + rest.text, cut.num_tokens + rest.num_tokens, rest.finish, forced)

    return limited
