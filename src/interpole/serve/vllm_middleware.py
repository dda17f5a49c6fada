"""The middleware that puts λ into the requests of vLLM's own server: in what a client says, out what vLLM understands.

vLLM hands `vllm_xargs` on to the model, where `engines.vllm_per_request` reads `lam`; the cache salt keeps apart the prefixes of
different λ. Nothing of vLLM is imported but the names of the fields its requests have. Loaded by `--middleware`. The page at `/`,
which vLLM has not, is served here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interpole.engines.vllm_tally import STOPS_AT_ANSWER
from interpole.errors import TaskError
from interpole.serve.asgi import JSON, Appended, authorised, body_of, header, plain, send_error, send_whole, with_body
from interpole.serve.errors import RequestError
from interpole.serve.fields import WITHOUT_EFFECT
from interpole.serve.guard import check_host, names_of
from interpole.serve.levels import Chosen, Levels, card, cards, choose
from interpole.serve.metrics import PREFIX, Metrics
from interpole.serve.page import headers as page_headers
from interpole.serve.page import page
from interpole.serve.text import StopStrings
from interpole.serve.vllm import of_environment
from interpole.serve.vllm_ending import ENDING, Cut, Ending
from interpole.serve.vllm_watch import ResponseWatch

__all__ = ["LambdaMiddleware", "rewritten"]

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
_REQUESTS = {
    CHAT: "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest",
    COMPLETIONS: "vllm.entrypoints.openai.completion.protocol:CompletionRequest",
    RESPONSES: "vllm.entrypoints.openai.responses.protocol:ResponsesRequest",
    MESSAGES: "vllm.entrypoints.anthropic.protocol:AnthropicMessagesRequest",
}
"""Where λ is put in."""
_NO_MODEL = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
"""What asks no model, and so needs no λ."""
_NOT_HANDED_ON = (*WITHOUT_EFFECT, "store", "service_tier")
"""Fields that vLLM need not have, where it does not know them."""
_REFUSED = {
    "prompt_logprobs": "log-probabilities of prompts are not computed at a λ",
    "use_beam_search": "beam search is not served with a λ per request",
    "prompt_embeds": "embeddings as prompts have no λ",
    "kv_transfer_params": "keys and values from elsewhere have no λ",
    "ec_transfer_params": "embeddings from elsewhere have no λ",
}
_SSE = b"text/event-stream"
_HTML = "text/html; charset=utf-8"


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _fields(path: str) -> frozenset[str]:
    """The fields that vLLM's request at a path has."""
    module, _, name = _REQUESTS[path].partition(":")
    fields = getattr(import_module(module), name).model_fields
    return frozenset(fields) | {field.alias for field in fields.values() if field.alias}


@cache
def _closing() -> str:
    """The marker that closes a thought; "": the family has none."""
    thoughts, loader = (import_module(f"interpole.engines.{name}") for name in ("vllm_thoughts", "vllm_per_request"))
    with suppress(TaskError):
        return str(thoughts.form_in(os.environ[loader.FOLDER]).markers.close)
    return ""


def rewritten(
    path: str, body: Mapping[str, Any], levels: Levels, known: frozenset[str]
) -> tuple[dict[str, Any], Chosen]:
    """A request as vLLM shall have it, and the λ it is for.

    Args:
        path: where it was sent.
        body: as the client wrote it.
        levels: what the server offers.
        known: the fields that vLLM knows there.

    Raises:
        RequestError: it names no λ there is, or asks for what is not served.
    """
    chosen = choose(body, levels)
    given = {name: value for name, value in body.items() if value is not None}
    for name in ("lam", "reasoning_effort"):  # the latter would switch thinking on and off in the template
        given.pop(name, None)
    _take_reasoning(given, path)
    for name, reason in _REFUSED.items():
        if given.pop(name, False) is not False:
            raise RequestError(reason, param=name, code="unsupported_parameter")
    if given.get("echo") and given.get("logprobs") is not None and path == COMPLETIONS:
        raise RequestError(_REFUSED["prompt_logprobs"], param="echo", code="unsupported_parameter")
    for name in sorted(given.keys() - known):
        if name not in _NOT_HANDED_ON:
            raise RequestError(f"{name} is not supported", param=name, code="unsupported_parameter")
        given.pop(name)
    _check_budget(given)
    extra = given.get("vllm_xargs", {})
    if not isinstance(extra, Mapping) or "lam" in extra:
        raise RequestError("say lam, not vllm_xargs.lam", param="vllm_xargs", code="invalid_value")
    salt = f"lam={chosen.lam!r}"
    if "cache_salt" in given:  # of any length: together they must not be too long for vLLM
        salt = hashlib.sha256(f"{salt};{given['cache_salt']}".encode()).hexdigest()
    ours = {"lam": chosen.lam, **_stops_at_answer(path, given)}
    return {**given, "model": levels.name, "vllm_xargs": {**extra, **ours}, "cache_salt": salt}, chosen


def _stops_at_answer(path: str, given: Mapping[str, Any]) -> dict[str, str]:
    """The mark of a request whose stop strings are for its answer, not for its thought (`engines.vllm_stops`)."""
    if path == COMPLETIONS or not (given.get("stop") or given.get("stop_sequences")):
        return {}
    return {STOPS_AT_ANSWER: json.dumps(given.get("chat_template_kwargs") or {})}


def _take_reasoning(given: dict[str, Any], path: str) -> None:
    """Take out of a request the objects that name an effort, and put what else they ask for where vLLM has it."""
    if path == MESSAGES:
        output = {key: value for key, value in (given.pop("output_config", None) or {}).items() if key != "effort"}
        given |= {"output_config": output} if output else {}
        if (given.get("thinking") or {}).get("type") == "disabled":
            del given["thinking"]
        return
    reasoning = {key: value for key, value in (given.pop("reasoning", None) or {}).items() if value is not None}
    reasoning.pop("effort", None)
    if path == RESPONSES:
        given |= {"reasoning": reasoning} if reasoning else {}
        return
    for name in ("enabled", "summary", "generate_summary"):
        reasoning.pop(name, None)
    if reasoning.pop("exclude", False):
        given["include_reasoning"] = False
    if "max_tokens" in reasoning:
        budget = reasoning.pop("max_tokens")
        if given.setdefault("thinking_token_budget", budget) != budget:
            raise RequestError("two budgets for thinking", param="reasoning.max_tokens", code="invalid_value")
    for name in reasoning:
        raise RequestError(
            f"reasoning.{name} is not supported", param=f"reasoning.{name}", code="unsupported_parameter"
        )


def _check_budget(given: Mapping[str, Any]) -> None:
    """Refuse a budget for thinking that leaves no room for an answer."""
    budget = given.get("thinking_token_budget")
    most = given.get("max_completion_tokens", given.get("max_tokens"))
    if isinstance(budget, int) and isinstance(most, int) and budget >= most:
        what = f"a budget of {budget} tokens for thinking leaves none of {most} for the answer"
        raise RequestError(what, param="thinking_token_budget", code="invalid_value")


# ── responses ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Thoughts:
    """Thinking, under both of its names; and the answers of those who never closed a thought, but ended by themselves.

    So answers a model of a small λ whose prompt opens the thought. How a response ends is known at its end: in a stream, which
    has given the text out as thinking by then, it comes again as the answer, up to the request's stop strings.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._said = dict[int, str]()  # the thinking of each choice that has no answer yet

    def read(self, content: dict[str, Any]) -> None:
        """Take a response, or a piece of one, and complete it."""
        for choice in content.get("choices") or ():
            part = choice.get("message") or choice.get("delta")
            if not isinstance(part, dict):
                continue
            number, thinking = choice.get("index", 0), part.get("reasoning")
            if thinking is not None:
                part["reasoning_content"] = thinking
                self._said[number] = self._said.get(number, "") + thinking
            if part.get("content") is not None or part.get("tool_calls"):
                self._said[number] = ""
            if choice.get("finish_reason") == "stop" and self._said.get(number):
                stops = StopStrings(self._stops)
                part["content"] = stops.feed(self._said.pop(number).strip()) + stops.finish()
                if "message" in choice:
                    part["reasoning"] = part["reasoning_content"] = None


def _name(content: dict[str, Any], chosen: Chosen) -> None:
    """Have a response, or a piece of one, name the model as the client did."""
    for part in (content, content.get("response"), content.get("message")):
        if isinstance(part, dict) and "model" in part:
            part["model"] = chosen.model_name


def _error(content: Any, status: int) -> Any:
    """An error of vLLM's in OpenAI's schema: its authentication has another, its types and codes are HTTP's."""
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, str):
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        return RequestError(error, kind, code="invalid_api_key" if status == 401 else None).openai()
    if isinstance(error, dict) and isinstance(error.get("code"), int):
        mine = error["code"] < 500
        kind, code = ("invalid_request_error", "invalid_value") if mine else ("server_error", "engine_failed")
        param = error.get("param")
        told = {"type": kind, "param": param and str(param).removeprefix("body."), "code": code}
        return {**content, "error": {**error, **told}}
    return content


def _texts(value: Any) -> list[str]:
    """A text or a list of them; vLLM says what else is wrong."""
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [one for one in listed if isinstance(one, str) and one]


# ── the middleware ───────────────────────────────────────────────────────────────────────────────────────────────


class LambdaMiddleware:
    """An ASGI application around vLLM's."""

    def __init__(self, app: ASGIApp, levels: Levels | None = None, host: str = "", ending: Ending = ENDING) -> None:
        """Around `app`; without `levels` the environment says what is served, and at which address."""
        if levels is None:
            levels, host = of_environment()
        self._app, self._levels, self._hosts, self._metrics = app, levels, names_of(host), Metrics()
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "not served with a λ per request"})
            return
        if scope["type"] != "http":  # the server starts
            import_module("interpole.engines.vllm_stops").install()
            self._ending.watch(getattr(scope["app"].state, "server", None))
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        try:
            check_host(header(scope, b"host"), self._hosts)
            if scope["method"] == "POST" or path == "/health":
                self._ending.check()
            await self._serve(path, authorised(scope), receive, send)
        except RequestError as error:
            await send_error(send, error.anthropic() if path.startswith(MESSAGES) else error.openai(), error)

    async def _serve(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            if path == "" and scope["method"] != "OPTIONS":
                await send_whole(send, 200, page(self._levels), {"content-type": _HTML} | page_headers())
            elif path == "/v1/models" or path.startswith("/v1/models/"):
                await self._models(path, scope, receive, send)
            elif path == "/metrics":
                mark = f"\n{PREFIX}".encode()  # of processes that count together
                await self._app(plain(scope), receive, Appended(send, self._metrics.page(), mark))
            else:
                await self._app(scope, receive, send)
        elif path in _REQUESTS:
            await self._ask(path, scope, receive, send)
        elif path in _NO_MODEL:
            body = await body_of(scope, receive)
            if body is not None:
                content = {**body, "model": self._levels.name} if "model" in body else body
                choose(body, self._levels)
                await self._app(*with_body(scope, content, receive), send)
        elif path.startswith(f"{RESPONSES}/"):
            await self._app(scope, receive, send)
        else:
            raise RequestError(
                f"{scope['method']} {path} is not served with a λ per request", code="not_found", status=404
            )

    async def _ask(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A request at its λ, and what becomes of it."""
        try:
            body = await body_of(scope, receive)
            if body is None:
                return
            content, chosen = rewritten(path, body, self._levels, _fields(path))
        except RequestError as error:
            self._metrics.refused(path, error.status)
            raise
        watch = ResponseWatch(self._metrics, path, chosen, _closing() if path == COMPLETIONS else "")
        scope = {**scope, "state": {**scope.get("state", {})}}
        answer = _Rewriter(send, chosen, watch=watch, stops=_texts(content.get("stop")))
        try:
            with self._ending.active():
                await self._app(*with_body(scope, content, receive), answer)
        except Cut:
            await answer.fail(path)
        finally:
            watch.end(scope["state"])

    async def _models(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """The list that vLLM has of its one model, and what is made of it."""
        name = path.removeprefix("/v1/models").removeprefix("/")
        choose({"model": name or self._levels.name}, self._levels)

        def listed(content: Any, status: int) -> Any:
            if status != 200:
                return _error(content, status)
            plain = {**content["data"][0], "root": self._levels.name}
            return card(name, self._levels, plain) if name else {**content, "data": cards(self._levels, plain)}

        scope = {**scope, "path": scope.get("root_path", "") + "/v1/models", "raw_path": b"/v1/models"}
        await self._app(scope, receive, _Rewriter(send, None, rewrite=listed))


class _Rewriter:
    """Sends a response on, with λ in its header and its JSON, whole or as events, rewritten."""

    def __init__(
        self,
        send: Send,
        chosen: Chosen | None,
        *,
        rewrite: Callable[[Any, int], Any] | None = None,
        watch: ResponseWatch | None = None,
        stops: Sequence[str] = (),
    ) -> None:
        self._send, self._chosen, self._watch = send, chosen, watch
        self._rewrite, self._thoughts = rewrite or self._complete, _Thoughts(stops)
        self._start: Message | None = None
        self._kind, self._held, self._ended = b"", b"", False

    def _complete(self, content: Any, status: int) -> Any:
        if self._watch is not None:
            self._watch.read(content, status, streamed=self._kind == _SSE)
        if status >= 400 or self._chosen is None or (isinstance(content, dict) and content.get("error")):
            return _error(content, status)
        if isinstance(content, dict):
            self._thoughts.read(content)
            _name(content, self._chosen)
        return content

    async def __call__(self, message: Message) -> None:
        """A message of the application's."""
        self._ended |= message["type"] == "http.response.body" and not message.get("more_body", False)
        if message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message["headers"]]
            self._kind = dict(headers).get(b"content-type", b"").partition(b";")[0]
            if self._chosen is not None:
                headers.append((b"x-interpole-lambda", f"{self._chosen.lam:g}".encode()))
            if self._kind in (JSON, _SSE):
                headers = [pair for pair in headers if pair[0] != b"content-length"]
            self._start = {**message, "headers": headers}
            if self._kind != JSON:
                await self._send(self._start)
        elif message["type"] != "http.response.body" or self._kind not in (JSON, _SSE):
            await self._send(message)
        elif self._kind == _SSE:
            await self._events(message)
        else:
            await self._whole(message)

    async def fail(self, path: str) -> None:
        """End with an error what the application has not ended, since its engine is gone."""
        if self._ended:
            return
        error = RequestError("the engine ended before the response", "server_error", code="engine_failed", status=500)
        content = error.anthropic() if path == MESSAGES else error.openai()
        if self._watch is not None:
            self._watch.read(content, error.status, streamed=False)
        if self._start is None or self._kind == JSON:
            await send_error(self._send, content, error)
            return
        text = json.dumps({"type": "error", **content}, ensure_ascii=False)  # for those whose events have types
        named = path in (MESSAGES, RESPONSES)
        text = f"\n\nevent: error\ndata: {text}\n\n" if named else f"\n\ndata: {text}\n\ndata: [DONE]\n\n"
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": False})

    async def _whole(self, message: Message) -> None:
        self._held += message.get("body", b"")
        if message.get("more_body", False) or self._start is None:
            return
        body = self._held
        if body:
            body = json.dumps(self._rewrite(json.loads(body), self._start["status"]), ensure_ascii=False).encode()
        self._start["headers"].append((b"content-length", str(len(body)).encode()))
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})

    async def _events(self, message: Message) -> None:
        """Whole lines only; `data: {…}` is rewritten."""
        more = message.get("more_body", False)
        *lines, self._held = (self._held + message.get("body", b"")).split(b"\n")
        if not more:
            lines, self._held = [*lines, self._held], b""
        text = b"\n".join(map(self._line, lines)) + (b"\n" if more and lines else b"")
        if text or not more:
            await self._send({"type": "http.response.body", "body": text, "more_body": more})

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data: {"):
            return line
        content = self._rewrite(json.loads(line.removeprefix(b"data: ")), 200)
        return b"data: " + json.dumps(content, ensure_ascii=False).encode()
