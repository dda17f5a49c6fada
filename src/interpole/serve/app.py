"""The HTTP side: routes, who may ask, what is too long, and what happens when a client hangs up.

Starlette does the routing. Every error is told in the schema of its endpoint. A client that is gone, or reads nothing for too
long, frees its rows.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prometheus_client import disable_created_metrics
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interpole.analysis.policies import MARGIN
from interpole.errors import InterpoleError
from interpole.formats import parse_json
from interpole.serve.answer import Item, ServedResponse, answers, margin
from interpole.serve.call import Call, Draft
from interpole.serve.chat_completions import read_chat, stream_chat, whole_chat
from interpole.serve.completions import read_completions, stream_completions, whole_completions
from interpole.serve.driver import Driver
from interpole.serve.errors import RequestError
from interpole.serve.guard import check_host, check_json
from interpole.serve.head import Head
from interpole.serve.levels import AUTO, card, cards, choose
from interpole.serve.messages import read_messages, stream_messages, whole_messages
from interpole.serve.metrics import GONE, METRICS_TYPE, Metrics, Watch
from interpole.serve.page import headers, page
from interpole.serve.responses import read_responses, stream_responses, whole_responses
from interpole.serve.served import Served

__all__ = ["Limits", "Server", "application"]

LOG = logging.getLogger("interpole.serve")


@dataclass(frozen=True)
class Limits:
    """What a server does not exceed."""

    max_body_bytes: int = 8 << 20
    timeout_seconds: float = 600.0  # for a whole request
    read_seconds: float = 60.0  # for which a client may leave a stream unread
    stall_seconds: float = 120.0  # in one step of the engine, from which on it is not healthy
    move_seconds: float = 3600.0  # likewise, where the step moves the weights to another λ


class _Endpoint(NamedTuple):
    """One way to ask: how its body is read, and its responses written."""

    path: str
    read: Callable[[Any, Served], list[Draft]]
    whole: Callable[[Sequence[Call], Sequence[ServedResponse], Head, Served], dict[str, Any]]
    stream: Callable[[Sequence[Call], AsyncIterator[Item], Head, Served], AsyncIterator[str]]


ENDPOINTS = (
    _Endpoint("/v1/chat/completions", read_chat, whole_chat, stream_chat),
    _Endpoint("/v1/completions", read_completions, whole_completions, stream_completions),
    _Endpoint("/v1/responses", read_responses, whole_responses, stream_responses),
    _Endpoint("/v1/messages", read_messages, whole_messages, stream_messages),
)


class Server:
    """One model that is served: what is asked of it, and whether it still takes requests."""

    def __init__(
        self,
        served: Served,
        driver: Driver,
        *,
        api_key: str = "",
        hosts: Sequence[str] = (),
        limits: Limits | None = None,
        log_prompts: bool = False,
    ) -> None:
        """Take what is served and the engine; without an `api_key` anybody may ask. `hosts`: the names that requests may use."""
        self.served, self.driver, self.limits = served, driver, limits or Limits()
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.metrics = Metrics()
        self.metrics.gauge("running", "Rows in the batch.", lambda: driver.num_running)
        self.metrics.gauge("in_flight", "Requests in flight, those that wait among them.", lambda: driver.num_requests)
        self.draining = False
        self.num_active = 0
        self._key, self._hosts, self._log_prompts = api_key.encode(), frozenset(hosts), log_prompts

    # ── what is told ──────────────────────────────────────────────────────────────────────────────────────────

    async def models(self, request: Request) -> Response:
        """The names that a request may give, each with its λ and what to expect of it; or one of them."""
        levels = self.served.levels
        plain = {"object": "model", "created": 0, "max_model_len": self.served.context_tokens}
        name = request.path_params.get("name")
        found = [card(name, levels, plain)] if name else cards(levels, plain)
        stamped = [{**one, "system_fingerprint": self.served.stamp(one["lam"])} for one in found]
        return JSONResponse(stamped[0] if name else {"object": "list", "data": stamped})

    async def health(self, _: Request) -> Response:
        """Whether requests are answered; 503 while it shuts down, or where the engine hangs or is gone."""
        limit = self.limits.move_seconds if self.driver.moving else self.limits.stall_seconds
        stalled = self.driver.stalled_seconds > limit
        status = "draining" if self.draining else "stalled" if stalled else "ok" if self.driver.alive else "dead"
        numbers = {"in_flight": self.driver.num_requests, "engine_failures": self.driver.num_failures}
        return JSONResponse({"status": status, **numbers}, 200 if status == "ok" else 503)

    async def measured(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(self.metrics.page(), media_type=METRICS_TYPE)

    async def page(self, _: Request) -> Response:
        """One prompt at three λ, side by side."""
        return Response(page(self.served.levels), media_type="text/html; charset=utf-8", headers=headers())

    async def count(self, request: Request) -> Response:
        """Anthropic's `count_tokens`."""
        body = {"max_tokens": 1, **await self._body(request)}
        calls = await self._calls(read_messages(body, self.served))
        return JSONResponse({"input_tokens": calls[0].num_prompt_tokens})

    # ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────

    def asked(self, endpoint: _Endpoint) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of an endpoint."""

        async def handle(request: Request) -> Response:
            with ExitStack() as stack:
                try:
                    body = await self._body(request)
                    drafts = endpoint.read(body, await self._asked_first(endpoint, body))
                    stack.enter_context(self.driver.room(sum(draft.num_choices for draft in drafts)))
                    calls = await self._calls(drafts)
                except RequestError as error:
                    self.metrics.refused(endpoint.path, error.status)
                    raise
                items, chosen = self._items(endpoint, calls), calls[0].chosen
                head = Head(chosen.model_name, chosen.lam, self.served.stamp(chosen.lam))
                if drafts[0].stream:
                    events = endpoint.stream(calls, items, head, self.served)
                    return _EventStream(events, items, head.headers, self.limits.read_seconds, stack.pop_all().close)
                choices = await _unless_gone(_collected(items), request.receive)
                return JSONResponse(endpoint.whole(calls, choices, head, self.served), headers=head.headers)

        return handle

    async def _body(self, request: Request) -> Any:
        """The body of a request, as JSON.

        Raises:
            RequestError: it is too long, or none.
        """
        check_json(request.headers.get("content-type", ""))
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > self.limits.max_body_bytes:
                what = f"the body is longer than {self.limits.max_body_bytes:,} bytes"
                raise RequestError(what, code="request_too_large", status=413)
        try:
            return parse_json(bytes(data), "the body", unique_keys=True)
        except InterpoleError as error:
            raise RequestError(error.what, code="invalid_json") from None

    async def _calls(self, drafts: Sequence[Draft]) -> list[Call]:
        """Rendered and counted, in a thread: templates may take their time."""
        return [await asyncio.to_thread(draft.call, self.served) for draft in drafts]

    async def _asked_first(self, endpoint: _Endpoint, body: Any) -> Served:
        """What is served, with what the policy has to know of a request that leaves λ to it: its first token's margin.

        Raises:
            RequestError: the request makes no sense, or the engine failed.
        """
        policy = self.served.levels.auto
        if policy is None or MARGIN not in policy.needs or not isinstance(body, dict):
            return self.served
        if choose(body, self.served.levels).effort != AUTO:
            return self.served
        drafts = endpoint.read({**body, "lam": policy.margin_at}, self.served)
        with self.driver.room(len(drafts)):
            call = (await self._calls(drafts))[0]
            known = await margin(call, self.driver, timeout_seconds=self.limits.timeout_seconds)
            return replace(self.served, numbers={MARGIN: known})

    async def _items(self, endpoint: _Endpoint, calls: Sequence[Call]) -> AsyncGenerator[Item]:
        """What comes of the calls, noted and logged."""
        watch, status = Watch(self.metrics, endpoint.path, calls[0].chosen), GONE
        watch.asked(sum(call.num_prompt_tokens for call in calls))
        if self._log_prompts:
            for call in calls:
                LOG.info("prompt at λ = %g: %s", call.chosen.lam, json.dumps(call.prompt, ensure_ascii=False))
        try:
            source = answers(calls, self.driver, self.served, timeout_seconds=self.limits.timeout_seconds)
            async with aclosing(source) as items:
                async for item in items:
                    if item is not None:
                        watch.begin()
                    if isinstance(item, ServedResponse):
                        watch.answered(item.num_tokens, item.num_thinking_tokens, num_thoughts=item.thought)
                    if self._log_prompts and isinstance(item, ServedResponse):
                        LOG.info("response: %s", json.dumps([item.thinking, item.answer], ensure_ascii=False))
                    yield item
            status = 200
        except RequestError as error:
            status = error.status
            raise
        finally:
            watch.end(status)

    # ── who may ask ───────────────────────────────────────────────────────────────────────────────────────────

    def check(self, request: Request) -> None:
        """Refuse who has no key, and everybody while it shuts down.

        Raises:
            RequestError: 400, 401 or 503.
        """
        check_host(request.headers.get("host", ""), self._hosts)
        if self._key and request.url.path.startswith(("/v1", "/metrics")):
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
            if not hmac.compare_digest(given.encode(), self._key):
                raise RequestError("no API key, or a wrong one", code="invalid_api_key", status=401)
        if self.draining and request.method == "POST":
            what = "the server is shutting down"
            raise RequestError(what, "server_error", code="shutting_down", status=503, retry_after_seconds=5)


async def _collected(items: AsyncGenerator[Item]) -> list[ServedResponse]:
    async with aclosing(items):
        found = [item async for item in items if isinstance(item, ServedResponse)]
    return sorted(found, key=lambda choice: choice.number)


async def _gone(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_gone(work: Coroutine[Any, Any, list[ServedResponse]], receive: Receive) -> list[ServedResponse]:
    """The result of some work, which is cancelled where its client hangs up."""
    doing, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise RequestError("the client hung up", code="client_closed_request", status=GONE)
        return doing.result()
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


class _EventStream(Response):
    """Server-sent events, until they end, the client hangs up, or it reads nothing for too long."""

    def __init__(
        self,
        events: AsyncIterator[str],
        items: AsyncGenerator[Item],
        headers: dict[str, str],
        read_seconds: float,
        on_end: Callable[[], None],
    ) -> None:
        """Take the events, what they are made of, which is closed at the end, and what is done then."""
        self.status_code, self.background, self.body = 200, None, b""
        self._events, self._items, self._read_seconds, self._on_end = events, items, read_seconds, on_end
        self.media_type = "text/event-stream; charset=utf-8"
        self.init_headers({**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        del scope
        sending, gone = asyncio.create_task(self._send(send)), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self._items.aclose()
            self._on_end()

    async def _send(self, send: Send) -> None:
        async def out(message: Message) -> None:
            async with asyncio.timeout(self._read_seconds):
                await send(message)

        await out({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for text in self._events:
            await out({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await out({"type": "http.response.body", "body": b"", "more_body": False})


class _Guard:
    """Around all routes: who may ask, how many are at it, and errors in the schema of their endpoint."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._server.num_active += 1
        try:
            self._server.check(Request(scope))
            await self._app(scope, receive, send)
        except RequestError as error:
            await _told(scope["path"], error)(scope, receive, send)
        finally:
            self._server.num_active -= 1


def _told(path: str, error: RequestError) -> Response:
    """An error in the schema of the endpoint."""
    body = error.anthropic() if path.startswith("/v1/messages") else error.openai()
    return JSONResponse(body, error.status, headers=error.headers)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _told(request.url.path, error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: f"there is no {request.url.path} here", 405: f"{request.method} is not for {request.url.path}"}
    what = words.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return _told(request.url.path, RequestError(what, code=code, status=error.status_code))


async def _on_error(request: Request, error: Exception) -> Response:
    LOG.exception("an error in the server", exc_info=error)
    return _told(request.url.path, RequestError("an error in the server", "server_error", status=500))


def application(server: Server, *, cors: Sequence[str] = ()) -> Starlette:
    """The server as an ASGI application, which starts its engine and stops it.

    Args:
        server: what answers.
        cors: origins whose pages may ask; none by default.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        server.driver.start()
        yield
        await asyncio.to_thread(server.driver.stop)

    middleware = []
    if cors:
        allowed = ["authorization", "content-type", "x-api-key", "anthropic-version"]
        exposed = ["x-interpole-lambda", "x-request-id"]
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors),
                allow_methods=["GET", "POST"],
                allow_headers=allowed,
                expose_headers=exposed,
            )
        )
    middleware.append(Middleware(_Guard, server=server))
    routes = [
        Route("/", server.page),
        Route("/health", server.health),
        Route("/metrics", server.measured),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.models),
        Route("/v1/messages/count_tokens", server.count, methods=["POST"]),
        *(Route(one.path, server.asked(one), methods=["POST"]) for one in ENDPOINTS),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        RequestError: _on_request_error,
        HTTPException: _on_http_error,
        Exception: _on_error,
    }
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
