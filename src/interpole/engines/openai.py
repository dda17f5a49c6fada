"""The engine over HTTP: any OpenAI-compatible endpoint, for points that somebody else serves.

Requests go out side by side. What may pass (rate limits, server errors, broken connections, replies that make no sense) is tried
again after growing waits, or when the server says; what does not pass fails one sample. An endpoint that cannot be reached at
all fails the engine. The API key comes from the environment and is never written down.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from interpole.engines.base import Finished, Request, generate
from interpole.engines.remote import RemoteModel
from interpole.errors import EngineError
from interpole.records import Generation, Sampler

__all__ = ["OpenAIEngine", "rejoined"]

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT_SECONDS = 600.0


class RetryableError(Exception):
    """What may be otherwise on the next attempt."""

    def __init__(self, what: str, wait_seconds: float = 0.0, *, unreachable: bool = False) -> None:
        super().__init__(what)
        self.wait_seconds, self.unreachable = wait_seconds, unreachable


class _UnreachableError(EngineError):
    """Nobody answers at the address."""


class RequestRejected(EngineError):  # noqa: N818 (the field's word)
    """The server does not want this request, now or later."""

    def __init__(self, status: int, text: str, url: str) -> None:
        hint = "is the API key right?" if status in (401, 403) else "see what it says; extra_body changes requests"
        super().__init__(f"the endpoint refuses, HTTP {status}: {text}", url, hint)
        self.status = status


class OpenAIEngine:
    """Models behind OpenAI-compatible endpoints (see the module's docstring and `interpole.engines.Engine`)."""

    def __init__(
        self,
        *,
        api: str = "chat",
        connections: int = 32,
        retries: int = 6,
        backoff_seconds: float = 1.0,
        timeout_seconds: float = 3600.0,
        api_key_env: str = "OPENAI_API_KEY",
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the settings; `load` names the model and its address.

        Args:
            api: `chat` (the server renders messages with its own template) or `completions` (it is sent rendered prompts).
            connections: most requests at the same time.
            retries: how often one request is tried again.
            backoff_seconds: the first wait; each further one is twice as long.
            timeout_seconds: the longest silence within one request.
            api_key_env: the environment variable that holds the key; unset: none is sent.
            extra_body: put into every request; what is null is left out of it.

        Raises:
            EngineError: no such api.
        """
        if api not in ("chat", "completions"):
            raise EngineError(f"no api {api!r}", remedy="there are chat and completions")
        self._chat, self._extra_body = api == "chat", dict(extra_body or {})
        self._retries, self._backoff_seconds = retries, backoff_seconds
        key = os.environ.get(api_key_env)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_seconds, connect=30.0),
            limits=httpx.Limits(max_connections=connections),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        self._connections, self._jitter = asyncio.Semaphore(connections), random.Random(0)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._done: SimpleQueue[Finished] = SimpleQueue()
        self._num_running = 0
        self._served: RemoteModel | None = None

    def versions(self) -> dict[str, str]:
        """The name, the kind of requests, and what was put into them; nothing is known of the server."""
        extra = {"extra_body": json.dumps(self._extra_body, sort_keys=True)} if self._extra_body else {}
        return {"engine": "openai", "api": "chat" if self._chat else "completions"} | extra

    def load(self, where: Any) -> str:
        """Go to another model or address; `where` is a `RemoteModel` or its mapping. Weights are not seen: no fingerprint.

        Raises:
            EngineError: requests are in flight, or the endpoint cannot be reached or refuses the key.
        """
        if self._num_running:
            raise EngineError("the model cannot change under running requests", remedy="finish them first")
        served = RemoteModel.model_validate(where)
        models = self._send("GET", f"{served.base_url.rstrip('/')}/models")
        try:
            asyncio.run_coroutine_threadsafe(models, self._loop).result()
        except RequestRejected as error:
            if error.status in (401, 403):  # any other: this endpoint lists no models
                raise
        self._served = served
        return ""

    @contextmanager
    def at(self, where: Any) -> Iterator[OpenAIEngine]:
        """Another model for the length of a `with` block."""
        before = self._served
        self.load(where)
        try:
            yield self
        finally:
            self._served = before

    def add(self, request: Request) -> None:
        """Send a request.

        Raises:
            EngineError: no model was named yet.
        """
        if self._served is None:
            raise EngineError("no model was named", remedy="call `load` first")
        self._num_running += 1
        asyncio.run_coroutine_threadsafe(self._answer(request, self._served), self._loop)

    def generate(self, prompts: Sequence[str], sampler: Sampler, seeds: Sequence[int]) -> list[Generation]:
        """Answer all prompts."""
        return generate(self, prompts, sampler, seeds)

    def step(self) -> list[Finished]:
        """What finished in the last moments.

        Raises:
            EngineError: the endpoint cannot be reached.
        """
        finished: list[Finished] = []
        try:
            while self._num_running:
                finished.append(self._done.get(timeout=0 if finished else 0.05))
                self._num_running -= 1
        except Empty:
            pass
        if lost := next((one.error for one in finished if isinstance(one.error, _UnreachableError)), None):
            raise lost
        return finished

    async def _answer(self, request: Request, served: RemoteModel) -> None:
        url = f"{served.base_url.rstrip('/')}/{'chat/completions' if self._chat else 'completions'}"
        async with self._connections:
            try:
                generation = await self._send("POST", url, self._body(request, served), partial(_read, served=served))
                self._done.put(Finished(request.key, generation))
            except EngineError as error:
                self._done.put(Finished(request.key, Generation("", 0, "error"), error))

    def _body(self, request: Request, served: RemoteModel) -> dict[str, Any]:
        sampler = request.sampler
        body = {
            "model": served.model,
            "temperature": sampler.temperature,
            "top_p": sampler.top_p,
            "top_k": sampler.top_k or -1,  # said also where it is off: servers have defaults of their own
            "max_tokens": sampler.max_tokens,
            "seed": request.seed,
        }
        if self._chat:
            body["messages"] = json.loads(request.prompt)
        else:  # the prompt has its special tokens already
            body |= {"prompt": request.prompt, "add_special_tokens": False}
        return {key: value for key, value in (body | self._extra_body).items() if value is not None}

    async def _send(self, method: str, url: str, body: Any = None, read: Callable[[Any], Any] = lambda _: None) -> Any:
        """One exchange, tried again where that may help; `read` makes sense of the reply, or raises."""
        for attempt in range(self._retries + 1):
            try:
                return await self._try(method, url, body, read)
            except RetryableError as error:
                last = error
            if attempt < self._retries:
                wait = self._backoff_seconds * 2**attempt * self._jitter.uniform(0.75, 1.25)
                await asyncio.sleep(min(max(wait, last.wait_seconds), LONGEST_WAIT_SECONDS))
        kind = _UnreachableError if last.unreachable else EngineError
        raise kind(f"given up after {self._retries + 1} attempts: {last}", url, "run the same command again later")

    async def _try(self, method: str, url: str, body: Any, read: Callable[[Any], Any]) -> Any:
        """One attempt."""
        try:
            response = await self._client.request(method, url, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise RetryableError(f"cannot connect: {error}", unreachable=True) from error
        except httpx.TimeoutException as error:
            what = f"no answer within {self._client.timeout.read:g} s"
            raise EngineError(what, url, "raise timeout_seconds, or lower max_tokens or connections") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise EngineError(f"not an address: {error}", url, "write it as http://host:8000/v1") from error
        except httpx.TransportError as error:
            raise RetryableError(f"the connection broke: {error!r}") from error
        if response.status_code in AGAIN:
            raise RetryableError(f"HTTP {response.status_code}: {response.text[:300]}", _retry_after(response))
        if response.is_error:
            raise RequestRejected(response.status_code, response.text[:300], url)
        try:
            return read(response.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RetryableError(f"the reply makes no sense ({error!r}): {response.text[:300]}") from error


def rejoined(content: str, thinking: str, markers: tuple[str, str]) -> str:
    """The whole response, where a server has split the thinking off; without any text after it, it was never closed."""
    opening, closing = markers
    if not thinking or closing in content:
        return content
    return f"{opening}{thinking}" + (f"{closing}{content}" if content.strip() else "")


def _read(reply: Any, served: RemoteModel) -> Generation:
    """The response in a reply.

    Raises:
        LookupError, TypeError, ValueError: it makes no sense.
    """
    choice = reply["choices"][0]
    if "message" in choice:
        message = choice["message"]
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        text = rejoined(message.get("content") or "", thinking, served.markers)
    else:
        text = choice["text"]
    reason, num_tokens = choice.get("finish_reason"), reply["usage"]["completion_tokens"]
    if reason in ("abort", "error") or not isinstance(text, str) or not isinstance(num_tokens, int):
        raise ValueError(f"finish_reason {reason!r}, {num_tokens!r} tokens, text {str(text)[:40]!r}")
    return Generation(text, num_tokens, "length" if reason == "length" else "stop")


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait; 0 where it does not say."""
    said = response.headers.get("retry-after", "")
    try:
        return float(said)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
