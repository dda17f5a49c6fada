"""`/v1/chat/completions` in OpenAI's schema, with the thinking beside the answer under both names that clients look for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interpole.serve.answer import Delta, Item, ServedResponse
from interpole.serve.call import MOST_LOGPROBS, Call, Draft, read
from interpole.serve.errors import RequestError
from interpole.serve.fields import Fields
from interpole.serve.head import Head, event, usage_of
from interpole.serve.served import Served

if TYPE_CHECKING:
    from interpole.engines.base import Token

__all__ = ["as_logprobs", "history", "read_chat", "stream_chat", "whole_chat"]

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def read_chat(body: Any, served: Served) -> list[Draft]:
    """The call that a body asks for.

    Raises:
        RequestError: a field makes no sense, or is not supported.
    """
    fields = Fields(body)
    messages = history(fields, "messages")
    draft = read(fields, body, served, max_tokens=("max_completion_tokens", "max_tokens"))
    logprobs, top = fields.flag("logprobs"), fields.integer("top_logprobs", 0, MOST_LOGPROBS)
    if top is not None and not logprobs:
        raise fields.wrong("top_logprobs", "it needs logprobs: true")
    options = fields.inner("stream_options")
    include_usage = options.flag("include_usage")
    options.only("include_obfuscation", False, why="it is not done here")
    options.done()
    if fields.get("stream_options") and not draft.stream:
        raise fields.wrong("stream_options", "it needs stream: true")
    fields.only("modalities", ["text"], why="there is text only")
    fields.only("response_format", {"type": "text"}, why="there is text only")
    fields.only("verbosity", "medium", why="it is not supported here; effort says how much is written")
    fields.done()
    return [
        replace(draft, messages=messages, top_logprobs=(top or 0) if logprobs else None, include_usage=include_usage)
    ]


def history(fields: Fields, name: str) -> list[dict[str, Any]]:
    """Chat messages as templates take them; earlier thinking under both of its names.

    Raises:
        RequestError: they are no messages of text.
    """
    value = fields.required(name)
    if not isinstance(value, list) or not value:
        raise fields.wrong(name, "a list of messages is expected, not an empty one", "invalid_type")
    return [_message(Fields(one, f"{fields.name(name)}[{number}]")) for number, one in enumerate(value)]


def _message(fields: Fields) -> dict[str, Any]:
    role = fields.required("role")
    if role not in ROLES:
        there = ", ".join(ROLES)
        raise fields.wrong("role", f"one of {there} is expected, not {role!r:.40}", "unsupported_value")
    fields.only("tool_calls", [], why="tools are not called here")
    fields.passed_over("name", "refusal", "annotations", "audio", "function_call", "provider_specific_fields")
    message: dict[str, Any] = {"role": ROLES[role], "content": _content(fields, role)}
    thoughts = {name: fields.get(name) for name in ("reasoning_content", "reasoning")}
    said = {text for text in thoughts.values() if text is not None}
    if any(not isinstance(text, str) for text in said):
        raise fields.wrong("reasoning", "a text is expected", "invalid_type")
    if len(said) > 1:
        raise fields.wrong("reasoning", "it differs from reasoning_content: give one of them")
    if said and role == "assistant":
        message |= dict.fromkeys(thoughts, said.pop())
    fields.done()
    return message


def _content(fields: Fields, role: str) -> str:
    """The text of a message: one, or parts of it."""
    content = fields.get("content")
    if content is None and role == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise fields.wrong("content", "a text or a list of parts is expected", "invalid_type")
    texts = []
    for number, part in enumerate(content):
        inner = Fields(part, f"{fields.name('content')}[{number}]")
        if inner.get("type") not in ("text", "input_text", "output_text"):
            raise inner.wrong("type", "there is text only", "unsupported_value")
        text = inner.required("text")
        if not isinstance(text, str):
            raise inner.wrong("text", "a text is expected", "invalid_type")
        inner.passed_over("annotations", "logprobs", "cache_control", "id", "index")
        inner.done()
        texts.append(text)
    return "".join(texts)


def whole_chat(calls: Sequence[Call], choices: Sequence[ServedResponse], head: Head, served: Served) -> dict[str, Any]:
    """The responses in one."""
    return {
        **head.fields("chat.completion"),
        "choices": [_choice(choice, calls[0], served) for choice in choices],
        "usage": usage_of(calls, choices),
    }


def _choice(choice: ServedResponse, call: Call, served: Served) -> dict[str, Any]:
    message = {"role": "assistant", "content": choice.answer, "refusal": None, **_thinking(choice.thinking)}
    logprobs = None
    if call.settings.top_logprobs is not None:
        logprobs = {
            "content": as_logprobs(choice.answer_tokens, served),
            "reasoning": as_logprobs(choice.thinking_tokens, served),
            "refusal": None,
        }
    return {"index": choice.number, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}


def _thinking(text: str | None) -> dict[str, str]:
    return {"reasoning_content": text, "reasoning": text} if text else {}


async def stream_chat(
    calls: Sequence[Call], items: AsyncIterator[Item], head: Head, served: Served
) -> AsyncIterator[str]:
    """The responses as server-sent events."""
    settings = calls[0].settings
    frame = head.fields("chat.completion.chunk") | ({"usage": None} if settings.include_usage else {})

    def chunk(number: int, delta: Mapping[str, Any], finish: str | None = None, logprobs: Any = None) -> str:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**frame, "choices": [choice]})

    choices: list[ServedResponse] = []
    try:
        for number in range(settings.num_choices):
            yield chunk(number, {"role": "assistant", "content": ""})
        async for item in items:
            if item is None:
                yield ": waiting\n\n"
            elif isinstance(item, ServedResponse):
                choices.append(item)
                yield chunk(item.number, {}, item.finish)
            else:
                delta = {"content": item.text} if item.kind == "answer" else _thinking(item.text)
                yield chunk(item.number, delta, logprobs=_delta_logprobs(item, settings, served))
        if settings.include_usage:
            yield event({**frame, "choices": [], "usage": usage_of(calls, choices)})
    except RequestError as error:
        yield event(error.openai())
    yield "data: [DONE]\n\n"


def _delta_logprobs(delta: Delta, settings: Draft, served: Served) -> dict[str, Any] | None:
    if settings.top_logprobs is None:
        return None
    name = "content" if delta.kind == "answer" else "reasoning"
    return {"content": None, name: as_logprobs(delta.tokens, served), "refusal": None}


def as_logprobs(tokens: Sequence[Token], served: Served) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities, as OpenAI writes them."""

    def one(token_id: int, logprob: float) -> dict[str, Any]:
        text = served.text_of(token_id)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    return [
        {**one(token.token_id, token.logprob or 0.0), "top_logprobs": [one(*likely) for likely in token.top]}
        for token in tokens
    ]
