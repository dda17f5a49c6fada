"""The engine over HTTP: any OpenAI-compatible endpoint, for points that somebody else serves.

Requests go out side by side. What may pass (rate limits, server errors, broken connections, replies that make no sense) is tried
again after growing waits, or when the server says, which is told; what does not pass fails one sample, whatever it is. Replies
are bounded in time and size, and so is a request with all its attempts and waits. An endpoint that cannot be reached at all fails
the engine. The API key comes from the environment and is not written down or shown, also where a server quotes it (`api_key`).
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import httpx

from interpole.chat import Markers
from interpole.engines.api_key import ApiKey
from interpole.engines.base import Engine, Finished, RemoteModel, Request
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe
from interpole.records import Generation

__all__ = ["OpenAIEngine", "RequestRejected", "RetryableError", "open_openai"]

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT_SECONDS = 600.0
NOTICED_SECONDS = 5.0  # shorter waits are not worth a line
MOST_TOKENS = 10_000_000  # of one response; a server that counts more makes no sense


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


class OpenAIEngine(Engine):
    """Models behind OpenAI-compatible endpoints (see the module's docstring and `engines.base.Engine`)."""

    def __init__(
        self,
        *,
        api: str = "chat",
        connections: int = 32,
        retries: int = 6,
        backoff_seconds: float = 1.0,
        timeout_seconds: float = 3600.0,
        max_reply_bytes: int = 64 << 20,
        api_key_env: str = "OPENAI_API_KEY",
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the settings; `load` names the model and its address.

        Args:
            api: `chat` (the server renders messages with its own template) or `completions` (it is sent rendered prompts).
            connections: most requests at the same time.
            retries: how often one request is tried again.
            backoff_seconds: the first wait; each further one is twice as long.
            timeout_seconds: the longest that one attempt may take, from its first byte to the reply's last; with all
                attempts and waits a request may take ten minutes more.
            max_reply_bytes: the longest reply that is read.
            api_key_env: the environment variable that holds the key; unset: none is sent.
            extra_body: put into every request; what is null is left out of it.

        Raises:
            EngineError: no such api, or no key.
        """
        if api not in ("chat", "completions"):
            raise EngineError(f"no api {api!r}", remedy="there are chat and completions")
        self._chat, self._extra_body = api == "chat", dict(extra_body or {})
        self._retries, self._backoff_seconds = retries, backoff_seconds
        self._timeout_seconds, self._max_reply_bytes = timeout_seconds, max_reply_bytes
        self.patience_seconds = max(timeout_seconds, LONGEST_WAIT_SECONDS) + 60
        self._key = ApiKey(api_key_env)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_seconds, connect=30.0),
            limits=httpx.Limits(max_connections=connections),
            headers={"Accept-Encoding": "identity"} | self._key.headers,
        )
        self._connections, self._jitter = asyncio.Semaphore(connections), random.Random(0)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._done: SimpleQueue[Finished] = SimpleQueue()
        self._running: dict[int, Future[None]] = {}
        self._served: RemoteModel | None = None
        self._waits_until = 0.0  # the end of the wait that was said last

    def versions(self) -> dict[str, str]:
        """The name, the kind of requests, and what was put into them; nothing is known of the server."""
        extra = {"extra_body": json.dumps(self._extra_body, sort_keys=True)} if self._extra_body else {}
        return {"engine": "openai", "api": "chat" if self._chat else "completions"} | extra

    @property
    def busy(self) -> bool:
        """Whether replies are due."""
        return bool(self._running)

    def abandon(self) -> None:
        """Cancel all requests."""
        for future in self._running.values():
            future.cancel()
        self._running, self._done = {}, SimpleQueue()

    def _move(self, where: Any) -> str:
        """Another model or address; `where` is a `RemoteModel` or its mapping. Weights are not seen: no fingerprint.

        Raises:
            EngineError: the endpoint cannot be reached or refuses the key.
        """
        served = None if where is None else RemoteModel.model_validate(where)
        if served is not None:
            models = self._send("GET", f"{served.base_url.rstrip('/')}/models")
            try:
                asyncio.run_coroutine_threadsafe(models, self._loop).result()
            except RequestRejected as error:
                if error.status in (401, 403):  # any other: this endpoint lists no models
                    raise
        self._served = served
        return ""

    def add(self, request: Request) -> None:
        """Send a request.

        Raises:
            EngineError: no model was named yet, or it asks for what is not done here.
        """
        self._check(request)
        if self._served is None:
            raise EngineError("no model was named", remedy="call `load` first")
        answer = self._answer(request, self._served, self._done)
        self._running[request.key] = asyncio.run_coroutine_threadsafe(answer, self._loop)

    def step(self) -> list[Finished]:
        """What finished in the last moments.

        Raises:
            EngineError: the endpoint cannot be reached.
        """
        finished: list[Finished] = []
        try:
            while self._running:
                finished.append(self._done.get(timeout=0 if finished else 0.05))
                self._running.pop(finished[-1].key, None)
        except Empty:
            pass
        if lost := next((one.error for one in finished if isinstance(one.error, _UnreachableError)), None):
            raise lost
        return finished

    async def _answer(self, request: Request, served: RemoteModel, done: SimpleQueue[Finished]) -> None:
        url = f"{served.base_url.rstrip('/')}/{'chat/completions' if self._chat else 'completions'}"
        async with self._connections:
            try:
                found = await self._send("POST", url, self._body(request, served), partial(_read, served=served))
                text = self._key.redacted(found.text)
                done.put(Finished(request.key, Generation(text, found.num_tokens, found.finish)))
            except EngineError as error:
                done.put(Finished(request.key, Generation("", 0, "error"), error))
            except Exception as error:  # whatever else a server can bring about: it costs this sample
                what = self._key.redacted(f"the request failed: {error!r}")
                done.put(Finished(request.key, Generation("", 0, "error"), EngineError(what, url)))

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
        deadline = self._loop.time() + self._timeout_seconds + LONGEST_WAIT_SECONDS
        for attempt in range(self._retries + 1):
            try:
                return await self._try(method, url, body, read)
            except RetryableError as error:
                last = error
            finally:
                self.progress += 1
            wait = self._backoff_seconds * 2**attempt * self._jitter.uniform(0.75, 1.25)
            wait = min(max(wait, last.wait_seconds), LONGEST_WAIT_SECONDS)
            if attempt == self._retries or self._loop.time() + wait > deadline:
                break
            self._say_wait(wait, f"{last}: attempt {attempt + 2} of {self._retries + 1}", url)
            await asyncio.sleep(wait)
        kind = _UnreachableError if last.unreachable else EngineError
        raise kind(f"given up after {attempt + 1} attempts: {last}", url, "run the same command again later")

    def _say_wait(self, seconds: float, what: str, url: str) -> None:
        """Say a wait that somebody would notice, and once where many requests wait for the same."""
        now = self._loop.time()
        if seconds >= NOTICED_SECONDS and now + seconds > self._waits_until + seconds / 2:
            self._waits_until = now + seconds
            self.notice = f"{urlsplit(url).netloc}: {what} in {seconds:.0f} s"

    async def _try(self, method: str, url: str, body: Any, read: Callable[[Any], Any]) -> Any:
        """One attempt."""
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._client.stream(method, url, json=body) as response,
            ):
                content = await self._content(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise RetryableError(f"cannot connect: {error}", unreachable=True) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            what = f"no answer within {self._timeout_seconds:g} s"
            raise EngineError(what, url, "raise timeout_seconds, or lower max_tokens or connections") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise EngineError(f"not an address: {error}", url, "write it as http://host:8000/v1") from error
        except httpx.TransportError as error:
            raise RetryableError(f"the connection broke: {self._key.redacted(repr(error))}") from error
        said = self._key.redacted(content.decode("utf-8", "replace"))[:300]
        if response.status_code in AGAIN:
            raise RetryableError(f"HTTP {response.status_code}: {said}", _retry_after(response))
        if not response.is_success:
            raise RequestRejected(response.status_code, said, url)
        try:
            return read(json.loads(content))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, EngineError) as error:
            what = self._key.redacted(repr(error))[:300]
            raise RetryableError(f"the reply makes no sense ({what}): {said}") from error

    async def _content(self, response: httpx.Response) -> bytes:
        """The body of a reply, of bounded size; compressed by gzip or deflate if the server insists.

        Raises:
            RetryableError: it is longer, or cannot be decoded.
        """
        encoding = self._key.redacted(response.headers.get("content-encoding", "identity").strip().lower())
        if encoding not in ("identity", "gzip", "x-gzip", "deflate", ""):
            raise RetryableError(f"the reply is encoded as {encoding[:40]!r}, which was not asked for")
        inflate = None if encoding in ("identity", "") else zlib.decompressobj(wbits=47)  # either header
        content, limit = bytearray(), self._max_reply_bytes
        async for chunk in response.aiter_raw():
            try:
                content += inflate.decompress(chunk, limit + 1 - len(content)) if inflate else chunk
            except zlib.error as error:
                raise RetryableError(f"the reply cannot be decoded: {error}") from error
            if len(content) > limit:
                raise RetryableError(f"the reply is longer than {limit:,} bytes (see max_reply_bytes)")
        if inflate and not inflate.eof:
            raise RetryableError("the reply cannot be decoded: its end is missing")
        return bytes(content)


def open_openai(_: Recipe | None, **options: Any) -> OpenAIEngine:
    """The engine that the registry calls `openai`; it holds no weights."""
    return OpenAIEngine(**options)


def _read(reply: Any, served: RemoteModel) -> Generation:
    """The response in a reply.

    Raises:
        LookupError, TypeError, ValueError: it makes no sense.
    """
    choice = reply["choices"][0]
    if "message" in choice:
        message = choice["message"]
        split_off = message.get("reasoning_content") or message.get("reasoning") or ""
        thinking, content = _parts(message.get("content") or "")
        text = Markers(*served.markers).rejoin(_text(split_off) + thinking, content)
    else:
        text = _text(choice["text"])
    reason, num_tokens = choice.get("finish_reason"), reply["usage"]["completion_tokens"]
    if reason in ("abort", "error") or type(num_tokens) is not int or not 0 <= num_tokens <= MOST_TOKENS:
        raise ValueError(f"finish_reason {str(reason)[:40]!r}, {str(num_tokens)[:40]} tokens, text {text[:40]!r}")
    return Generation(text, num_tokens, "length" if reason == "length" else "stop")


def _parts(content: Any) -> tuple[str, str]:
    """The thinking and the text of a message's content: a text, or a list of parts of both kinds.

    Raises:
        LookupError, TypeError, ValueError: it is something else.
    """
    if isinstance(content, str):
        return "", content
    found = {"thinking": "", "text": ""}
    for part in content:
        kind = {"reasoning": "thinking", "output_text": "text"}.get(part["type"], part["type"])
        inner = part.get(part["type"], part.get("text"))
        found[kind] += _text(inner) if isinstance(inner, str) else "".join(_text(one["text"]) for one in inner)
    return found["thinking"], found["text"]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {str(value)[:40]!r}")
    return value


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait; 0 where it does not say."""
    said = response.headers.get("retry-after", "")
    try:
        return float(said)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
