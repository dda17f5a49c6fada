"""`/v1/completions` in OpenAI's schema: a prompt as it is, and the text that follows it as it is, markers and all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from interpole.serve.answer import Delta, Item, ServedResponse
from interpole.serve.call import MOST_LOGPROBS, Call, Draft, read
from interpole.serve.errors import RequestError
from interpole.serve.fields import Fields
from interpole.serve.head import Head, event, usage_of
from interpole.serve.served import Served

if TYPE_CHECKING:
    from interpole.engines.base import Token

__all__ = ["read_completions", "stream_completions", "whole_completions"]

MOST_PROMPTS = 64


def read_completions(body: Any, served: Served) -> list[Draft]:
    """The calls that a body asks for, one for each prompt.

    Raises:
        RequestError: a field makes no sense, or is not supported.
    """
    fields = Fields(body)
    fields.required("prompt")
    prompts = fields.texts("prompt", MOST_PROMPTS)
    draft = read(fields, body, served, max_tokens=("max_tokens",))
    options = fields.inner("stream_options")
    include_usage = options.flag("include_usage")
    options.only("include_obfuscation", False, why="it is not done here")
    options.done()
    top = fields.integer("logprobs", 0, MOST_LOGPROBS)
    fields.only("echo", False, why="it is not supported here")
    fields.only("suffix", "", why="it is not supported here")
    fields.only("best_of", 1, draft.num_choices, why="it is not supported here; take n")
    fields.only("add_special_tokens", False, why="the prompt is taken as it is")
    fields.done()
    return [
        replace(draft, prompt=prompt, param="prompt", top_logprobs=top, include_usage=include_usage)
        for prompt in prompts
    ]


def whole_completions(
    calls: Sequence[Call], choices: Sequence[ServedResponse], head: Head, served: Served
) -> dict[str, Any]:
    """The responses in one."""
    told = calls[0].settings.top_logprobs is not None
    return {
        **head.fields("text_completion"),
        "choices": [
            {
                "index": choice.number,
                "text": choice.answer,
                "logprobs": _logprobs(choice.answer_tokens, served) if told else None,
                "finish_reason": choice.finish,
            }
            for choice in choices
        ],
        "usage": usage_of(calls, choices),
    }


async def stream_completions(
    calls: Sequence[Call], items: AsyncIterator[Item], head: Head, served: Served
) -> AsyncIterator[str]:
    """The responses as server-sent events."""
    settings = calls[0].settings
    frame = head.fields("text_completion") | ({"usage": None} if settings.include_usage else {})
    choices: list[ServedResponse] = []
    try:
        async for item in items:
            if item is None:
                yield ": waiting\n\n"
                continue
            finish = text = logprobs = None
            if isinstance(item, Delta):
                text = item.text
                logprobs = None if settings.top_logprobs is None else _logprobs(item.tokens, served)
            else:
                choices.append(item)
                finish = item.finish
            choice = {"index": item.number, "text": text or "", "logprobs": logprobs, "finish_reason": finish}
            yield event({**frame, "choices": [choice]})
        if settings.include_usage:
            yield event({**frame, "choices": [], "usage": usage_of(calls, choices)})
    except RequestError as error:
        yield event(error.openai())
    yield "data: [DONE]\n\n"


def _logprobs(tokens: Sequence[Token], served: Served) -> dict[str, Any]:
    """Tokens with their log-probabilities, as this endpoint writes them."""
    texts = [served.text_of(token.token_id) for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{served.text_of(one): value for one, value in token.top} for token in tokens],
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=0))[: len(texts)],
    }
