"""Requests and responses as ASGI has them: a request's body read and put in anew, a text sent whole or with more behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from interpole.errors import CorruptError
from interpole.formats import parse_json
from interpole.serve.errors import RequestError
from interpole.serve.guard import check_json

__all__ = [
    "JSON",
    "Appended",
    "authorised",
    "body_of",
    "header",
    "plain",
    "send_error",
    "send_whole",
    "with_body",
]

JSON = b"application/json"
MAX_BODY_BYTES = 32 << 20


class Appended:
    """Sends a text on with ours behind it; one in which `mark` stands has ours already, and goes on as it is."""

    def __init__(self, send: Send, ours: bytes, mark: bytes) -> None:
        self._send, self._ours, self._mark = send, ours, mark
        self._start: Message | None = None
        self._held = b""

    async def __call__(self, message: Message) -> None:
        """A message of the application's."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._held += message.get("body", b"")
        if message.get("more_body", False) or self._start is None:
            return
        if self._start["status"] == 200 and self._mark not in self._held:
            self._held += self._ours
        headers = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(self._held)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": self._held})


def header(scope: Scope, name: bytes) -> str:
    """A header of a request; "" where it has none."""
    return str(dict(scope["headers"]).get(name, b""), "latin-1")


def plain(scope: Scope) -> Scope:
    """A request for a text that is neither compressed nor of another format than ours."""
    named = (b"accept", b"accept-encoding")
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in named]}


def authorised(scope: Scope) -> Scope:
    """A request whose key, where it comes in Anthropic's header, is in the one that vLLM reads."""
    headers = dict(scope["headers"])
    if b"x-api-key" not in headers or b"authorization" in headers:
        return scope
    return {**scope, "headers": [*scope["headers"], (b"authorization", b"Bearer " + headers[b"x-api-key"])]}


async def body_of(scope: Scope, receive: Receive) -> dict[str, Any] | None:
    """The JSON object that was sent; None: the client has gone.

    Raises:
        RequestError: it is none, or too long.
    """
    check_json(header(scope, b"content-type"))
    data, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        data, more = data + message.get("body", b""), message.get("more_body", False)
        if len(data) > MAX_BODY_BYTES:
            raise RequestError(f"a body of more than {MAX_BODY_BYTES >> 20} MiB", code="request_too_large", status=413)
    try:
        body = parse_json(data, "the request")
    except CorruptError as error:
        raise RequestError(error.what, code="invalid_json") from None
    if not isinstance(body, dict):
        raise RequestError("the body is a JSON object", code="invalid_type")
    return body


def with_body(scope: Scope, content: Mapping[str, Any], receive: Receive) -> tuple[Scope, Receive]:
    """A request with another body."""
    body = json.dumps(content, ensure_ascii=False).encode()
    other = [
        pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding", b"content-type")
    ]
    headers = [*other, (b"content-length", str(len(body)).encode()), (b"content-type", JSON)]
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()  # whether the client is still there
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return {**scope, "headers": headers}, again


async def send_error(send: Send, content: Mapping[str, Any], error: RequestError) -> None:
    """Answer with an error, told as `content`."""
    told = json.dumps(content, ensure_ascii=False)
    await send_whole(send, error.status, told, {"content-type": JSON.decode()} | error.headers)


async def send_whole(send: Send, status: int, text: str, headers: Mapping[str, str]) -> None:
    """Answer with a text."""
    body = text.encode()
    named = {"content-length": str(len(body)), **headers}
    listed = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
