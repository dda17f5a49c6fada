"""`/v1/responses` in OpenAI's schema: items of reasoning and of messages; nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from interpole.serve.answer import Item, ServedResponse
from interpole.serve.call import Call, Draft, read
from interpole.serve.chat_completions import history
from interpole.serve.errors import RequestError
from interpole.serve.fields import Fields
from interpole.serve.head import Head, event, usage_of
from interpole.serve.served import Served

__all__ = ["read_responses", "stream_responses", "whole_responses"]


def read_responses(body: Any, served: Served) -> list[Draft]:
    """The call that a body asks for.

    Raises:
        RequestError: a field makes no sense, or is not supported.
    """
    fields = Fields(body)
    messages = _input(fields)
    draft = read(fields, body, served, max_tokens=("max_output_tokens",))
    if draft.num_choices > 1:
        raise fields.wrong("n", "there is one response here", "unsupported_value")
    fields.only("previous_response_id", why="nothing is stored here: send the whole history as input")
    fields.only("background", False, why="it is not supported here")
    fields.only("truncation", "disabled", why="it is not supported here")
    encrypted = (
        "reasoning.encrypted_content"  # asked for by agents that store nothing; it comes, and is taken back, as text
    )
    fields.only("include", [], [encrypted], why=f"of these there is {encrypted} only, as text")
    text = fields.inner("text")
    text.only("format", {"type": "text"}, why="there is text only")
    text.only("verbosity", "medium", why="it is not supported here; effort says how much is written")
    text.done()
    fields.done()
    return [replace(draft, messages=messages, param="input")]


def _input(fields: Fields) -> list[dict[str, Any]]:
    """Messages out of `instructions` and `input`: a text, or a list of items."""
    instructions = fields.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise fields.wrong("instructions", "a text is expected", "invalid_type")
    begin = [{"role": "system", "content": instructions}] if instructions else []
    value = fields.required("input")
    if isinstance(value, str):
        return [*begin, {"role": "user", "content": value}]
    if not isinstance(value, list):
        raise fields.wrong("input", "a text or a list of items is expected", "invalid_type")
    messages, thought = [], ""
    for number, item in enumerate(value):
        inner = Fields(item, f"input[{number}]")
        kind = inner.get("type") or "message"
        if kind == "reasoning":
            thought = _thought(inner)
        elif kind == "message":
            messages.append(_plain(item, thought))
            thought = ""
        else:
            raise inner.wrong("type", "messages and reasoning are taken here", "unsupported_value")
    return begin + history(Fields({"input": messages}), "input")


def _plain(item: dict[str, Any], thought: str) -> dict[str, Any]:
    """An item as a chat message."""
    message = {name: value for name, value in item.items() if name not in ("type", "id", "status", "phase")}
    return message | ({"reasoning": thought} if thought and message.get("role") == "assistant" else {})


def _thought(fields: Fields) -> str:
    """The text of a reasoning item."""
    parts = fields.get("content") or []
    if not isinstance(parts, list) or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise fields.wrong("content", "a list of texts is expected", "invalid_type")
    fields.passed_over("type", "id", "summary", "status", "encrypted_content")
    fields.done()
    return "".join(part["text"] for part in parts)


def whole_responses(calls: Sequence[Call], choices: Sequence[ServedResponse], head: Head, _: Served) -> dict[str, Any]:
    """The response."""
    choice = choices[0]
    items = [_reasoning(head, choice.thinking)] if choice.thinking else []
    items.append(_message(head, choice.answer, "completed" if choice.finish == "stop" else "incomplete"))
    return _frame(calls, head, choice) | {"output": items}


def _frame(calls: Sequence[Call], head: Head, choice: ServedResponse | None = None) -> dict[str, Any]:
    """The response object; without a choice it has just begun."""
    settings = calls[0].settings
    done = choice is not None and choice.finish == "stop"
    usage = usage_of(calls, [choice]) if choice else None
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "status": "in_progress" if choice is None else "completed" if done else "incomplete",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if choice and not done else None,
        "instructions": None,
        "max_output_tokens": settings.max_tokens,
        "model": head.model_name,
        "output": [],
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "reasoning": {"effort": calls[0].chosen.effort, "summary": None},
        "store": False,
        "temperature": calls[0].sampler.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": "none",
        "tools": [],
        "top_p": calls[0].sampler.top_p,
        "truncation": "disabled",
        "metadata": {},
        "system_fingerprint": head.stamp,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        }
        if usage
        else None,
    }


def _reasoning(head: Head, text: str, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": f"rs_{head.id}", "type": "reasoning", "summary": [], "content": content, "status": status}


def _message(head: Head, text: str | None, status: str = "completed") -> dict[str, Any]:
    content = [] if text is None else [_part("answer", text)]
    return {"id": f"msg_{head.id}", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "thinking":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def stream_responses(
    calls: Sequence[Call], items: AsyncIterator[Item], head: Head, served: Served
) -> AsyncIterator[str]:
    """The response as server-sent events, item by item."""
    made = _Events(head)
    for name in ("response.created", "response.in_progress"):
        yield made.event(name, response=_frame(calls, head))
    try:
        async for item in items:
            if item is None:
                yield ": waiting\n\n"
            elif isinstance(item, ServedResponse):
                for one in [*made.take("answer", ""), *made.close()]:
                    yield one
                whole = whole_responses(calls, [item], head, served) | {"output": made.items}
                yield made.event(f"response.{whole['status']}", response=whole)
            else:
                for one in made.take(item.kind, item.text):
                    yield one
    except RequestError as error:
        failed = _frame(calls, head) | {"status": "failed", "error": {"code": error.code, "message": error.message}}
        yield made.event("response.failed", response=failed)


class _Events:
    """The events of one response: numbered, with the item that is open and those that are done."""

    def __init__(self, head: Head) -> None:
        self._head, self._sequence = head, 0
        self.kind = ""
        self._text = ""
        self.items: list[dict[str, Any]] = []

    @property
    def number(self) -> int:
        """Which item is open or next."""
        return len(self.items)

    def event(self, name: str, **fields: Any) -> str:
        """The next event."""
        data = {"type": name, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event(data, name)

    def take(self, kind: str, text: str) -> Iterator[str]:
        """The events that new text makes."""
        if kind != self.kind:
            yield from self.close()
            self.kind = kind
            opened = _reasoning(self._head, "", "in_progress") if kind == "thinking" else None
            item = opened or _message(self._head, None, "in_progress")
            yield self.event("response.output_item.added", output_index=self.number, item=item)
            yield self.event("response.content_part.added", **self._place(), part=_part(kind, ""))
        self._text += text
        if text:
            yield self.event(f"{self._name()}.delta", **self._place(), delta=text, **self._logprobs())

    def close(self) -> Iterator[str]:
        """The events that end an item."""
        if not self.kind:
            return
        yield self.event(f"{self._name()}.done", **self._place(), text=self._text, **self._logprobs())
        yield self.event("response.content_part.done", **self._place(), part=_part(self.kind, self._text))
        make = _reasoning if self.kind == "thinking" else _message
        item = make(self._head, self._text)
        yield self.event("response.output_item.done", output_index=self.number, item=item)
        self.items.append(item)
        self.kind, self._text = "", ""

    def _name(self) -> str:
        return "response.reasoning_text" if self.kind == "thinking" else "response.output_text"

    def _place(self) -> dict[str, Any]:
        prefix = "rs" if self.kind == "thinking" else "msg"
        return {"item_id": f"{prefix}_{self._head.id}", "output_index": self.number, "content_index": 0}

    def _logprobs(self) -> dict[str, Any]:
        return {} if self.kind == "thinking" else {"logprobs": []}
