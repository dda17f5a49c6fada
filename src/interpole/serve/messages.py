"""`/v1/messages` in Anthropic's schema: blocks of thinking and of text; `thinking.budget_tokens` and `output_config.effort`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from interpole.serve.answer import Item, ServedResponse
from interpole.serve.call import NO_TOOLS, Call, Draft, read
from interpole.serve.errors import RequestError
from interpole.serve.fields import Fields
from interpole.serve.head import Head, event
from interpole.serve.served import Served

__all__ = ["read_messages", "stream_messages", "whole_messages"]


def read_messages(body: Any, served: Served) -> list[Draft]:
    """The call that a body asks for.

    Raises:
        RequestError: a field makes no sense, or is not supported.
    """
    fields = Fields(body)
    messages = _history(fields)
    fields.required("max_tokens")
    return [_draft(fields, body, served, messages)]


def _draft(fields: Fields, body: Any, served: Served, messages: list[dict[str, Any]]) -> Draft:
    draft = read(fields, body, served, max_tokens=("max_tokens",))
    stops = fields.texts("stop_sequences", 16)
    if stops and draft.stop:
        raise fields.wrong("stop", "it contradicts stop_sequences: give one of them")
    if draft.num_choices > 1:
        raise fields.wrong("n", "there is one response here", "unsupported_value")
    thinking = fields.inner("thinking")
    thinking.only("type", "enabled", "disabled", "adaptive", why="enabled, disabled or adaptive is expected")
    budget = thinking.integer("budget_tokens", 1)
    if budget is not None and thinking.get("type") != "enabled":
        raise thinking.wrong("budget_tokens", "it needs type: enabled")
    thinking.only("display", "summarized", "omitted", why="summarized or omitted is expected")
    shown = draft.show_thinking and thinking.get("display") != "omitted"
    thinking.done()
    fields.done()
    if budget is not None:
        draft = replace(draft, budget_tokens=budget, budget_param="thinking.budget_tokens")
    return replace(draft, messages=messages, stop=stops or draft.stop, show_thinking=shown)


def _history(fields: Fields) -> list[dict[str, Any]]:
    """The messages, the system's first."""
    system = _parts(fields, "system")[1] if fields.get("system") is not None else ""
    messages = [{"role": "system", "content": system}] if system else []
    value = fields.required("messages")
    if not isinstance(value, list) or not value:
        raise fields.wrong("messages", "a list of messages is expected, not an empty one", "invalid_type")
    for number, one in enumerate(value):
        inner = Fields(one, f"messages[{number}]")
        role = inner.required("role")
        if role not in ("user", "assistant"):
            raise inner.wrong("role", "user or assistant is expected", "unsupported_value")
        thinking, text = _parts(inner, "content")
        thoughts = dict.fromkeys(("reasoning_content", "reasoning"), thinking) if thinking else {}
        messages.append({"role": role, "content": text, **thoughts})
        inner.done()
    if messages[-1]["role"] == "assistant":
        what = "the last message is the user's: responses that are begun by the client are not supported here"
        raise RequestError(what, param=f"messages[{len(value) - 1}]", code="unsupported_value")
    return messages


def _parts(fields: Fields, name: str) -> tuple[str, str]:
    """The thinking and the text of a content: a text, or a list of blocks."""
    content = fields.required(name)
    if isinstance(content, str):
        return "", content
    if not isinstance(content, list):
        raise fields.wrong(name, "a text or a list of blocks is expected", "invalid_type")
    found: dict[str, list[str]] = {"thinking": [], "text": []}
    for number, block in enumerate(content):
        inner = Fields(block, f"{fields.name(name)}[{number}]")
        kind = inner.get("type")
        if kind not in found:
            why = NO_TOOLS if kind in ("tool_use", "tool_result") else "there is text and thinking only"
            raise inner.wrong("type", why, "unsupported_value")
        text = inner.get(kind)
        if not isinstance(text, str):
            raise inner.wrong(kind, "a text is expected", "invalid_type")
        inner.passed_over("cache_control", "signature", "citations")
        inner.done()
        found[kind].append(text)
    return "".join(found["thinking"]), "".join(found["text"])


def whole_messages(calls: Sequence[Call], choices: Sequence[ServedResponse], head: Head, _: Served) -> dict[str, Any]:
    """The response."""
    choice = choices[0]
    content = [{"type": "thinking", "thinking": choice.thinking, "signature": ""}] if choice.thinking else []
    if choice.answer or not content:
        content.append({"type": "text", "text": choice.answer})
    return {
        **_frame(head),
        "content": content,
        "stop_reason": _reason(choice),
        "stop_sequence": choice.stop,
        "usage": {"input_tokens": calls[0].num_prompt_tokens, "output_tokens": choice.num_tokens},
        "system_fingerprint": head.stamp,
    }


def _frame(head: Head) -> dict[str, Any]:
    return {"id": f"msg_{head.id}", "type": "message", "role": "assistant", "model": head.model_name}


def _reason(choice: ServedResponse) -> str:
    if choice.stop is not None:
        return "stop_sequence"
    return "max_tokens" if choice.finish == "length" else "end_turn"


async def stream_messages(
    calls: Sequence[Call], items: AsyncIterator[Item], head: Head, _: Served
) -> AsyncIterator[str]:
    """The response as server-sent events, block by block."""
    usage = {"input_tokens": calls[0].num_prompt_tokens, "output_tokens": 0}
    start = {**_frame(head), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield _event({"type": "message_start", "message": {**start, "system_fingerprint": head.stamp}})
    blocks = _Blocks()
    try:
        async for item in items:
            if item is None:
                yield _event({"type": "ping"})
            elif isinstance(item, ServedResponse):
                for data in [
                    *blocks.close(),
                    *([] if blocks.number else [*blocks.take("answer", ""), *blocks.close()]),
                ]:
                    yield _event(data)
                delta = {"stop_reason": _reason(item), "stop_sequence": item.stop}
                usage = {**usage, "output_tokens": item.num_tokens}
                yield _event({"type": "message_delta", "delta": delta, "usage": usage})
                yield _event({"type": "message_stop"})
            else:
                for data in blocks.take(item.kind, item.text):
                    yield _event(data)
    except RequestError as error:
        yield _event(error.anthropic())


def _event(data: dict[str, Any]) -> str:
    return event(data, str(data["type"]))


class _Blocks:
    """The blocks of one response: which is open, and how many there were."""

    def __init__(self) -> None:
        self._kind = ""
        self.number = 0

    def take(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        """The events that new text makes."""
        thinking = kind == "thinking"
        if kind != self._kind:
            yield from self.close()
            block = {"type": "thinking", "thinking": "", "signature": ""} if thinking else {"type": "text", "text": ""}
            yield {"type": "content_block_start", "index": self.number, "content_block": block}
            self._kind = kind
        delta = {"type": "thinking_delta", "thinking": text} if thinking else {"type": "text_delta", "text": text}
        if text:
            yield {"type": "content_block_delta", "index": self.number, "delta": delta}

    def close(self) -> Iterator[dict[str, Any]]:
        """The events that end a block."""
        if self._kind:
            yield {"type": "content_block_stop", "index": self.number}
            self.number += 1
        self._kind = ""
