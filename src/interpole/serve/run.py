"""Open a pair in an engine of this process and serve it, until a signal says to stop.

What streams is then finished, what is new refused.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import uvicorn

from interpole.engines.base import PerRequest
from interpole.errors import OutputError, TaskError
from interpole.merging.recipe import Recipe
from interpole.serve.app import Limits, Server, application
from interpole.serve.driver import Driver
from interpole.serve.guard import names_of
from interpole.serve.levels import Levels
from interpole.serve.served import serve_pair

__all__ = ["Options", "listener", "open_server", "server_of"]

DRAIN_SECONDS = 60.0
KEEP_ALIVE_SECONDS = (
    75  # longer than clients and proxies keep a connection: else they ask on one that is just being closed
)


@dataclass(frozen=True)
class Options:
    """How to serve; see `interpole serve --help`."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = ""
    cors: Sequence[str] = ()
    max_rows: int = 128
    max_queue: int = 256
    max_tokens: int | None = None
    limits: Limits = field(default_factory=Limits)
    log_prompts: bool = False
    drain_seconds: float = DRAIN_SECONDS
    group: bool = False  # one copy of the weights, one λ at a time
    vllm: bool = False  # in vLLM, with `group` only
    engine: Mapping[str, Any] = field(default_factory=dict)  # the engine's own


def open_server(instruct: str, thinking: str, levels: Levels, options: Options) -> Server:
    """Load a pair, once, and make its server.

    Raises:
        CheckpointError, MismatchError, EngineError: the pair cannot be opened.
        TaskError: it has no chat template or no think markers.
        OutputError: the port is taken.
    """
    _check_free(options.host, options.port)
    recipe = Recipe.between(instruct, thinking, levels.default)
    return server_of(_open(recipe, options), levels, options)


def _open(recipe: Recipe, options: Options) -> PerRequest:
    """The engine that the options name."""
    settings = {"max_rows": options.max_rows, **options.engine}
    if options.vllm:
        from interpole.engines.vllm_grouped import open_grouped_vllm

        return open_grouped_vllm(recipe, **settings)
    from interpole.engines.grouped import open_grouped
    from interpole.engines.per_request import open_per_request

    return (open_grouped if options.group else open_per_request)(recipe, **settings)


def server_of(engine: PerRequest, levels: Levels, options: Options) -> Server:
    """The server of an engine that is open.

    Raises:
        TaskError: its pair has no chat template or no think markers, or its prompts say nothing to the policy.
    """
    served = serve_pair(
        engine.instruct,
        engine.thinking,
        levels,
        tokenizer=engine.tokenizer,
        context_tokens=engine.context_tokens,
        fingerprint=engine.fingerprint,
        max_tokens=options.max_tokens,
    )
    policy = levels.auto
    if policy is not None and policy.margin_at is not None and served.forms[policy.margin_at > 0].prompt_opens_thinking:
        what = f"the policy {policy.name!r} goes by the first token, which says nothing where the prompt opens the thinking"
        raise TaskError(what, remedy="take one by the question's text: by length, logistic, two modes")
    driver = Driver(engine, max_requests=options.max_rows + options.max_queue)
    return Server(
        served,
        driver,
        api_key=options.api_key,
        hosts=names_of(options.host),
        limits=options.limits,
        log_prompts=options.log_prompts,
    )


def _check_free(host: str, port: int) -> None:
    """Say now, not after the weights were read, that a port is taken."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        remedy = "is something else there? take another --port"
        raise OutputError(f"cannot listen on {host}:{port}: {error.strerror}", remedy=remedy) from None


def listener(server: Server, options: Options, on_ready: Callable[[str], None]) -> uvicorn.Server:
    """What listens: `run` serves until SIGTERM or Ctrl-C; a second one ends at once.

    Args:
        server: from `open_server`.
        options: where, and for whom.
        on_ready: is told the address once requests are taken.
    """
    app = application(server, cors=options.cors)
    config = uvicorn.Config(
        app, host=options.host, port=options.port, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=5, timeout_keep_alive=KEEP_ALIVE_SECONDS, log_config=None,
    )  # fmt: skip
    return _Uvicorn(config, server, options.drain_seconds, on_ready)


class _Uvicorn(uvicorn.Server):
    """A server that first refuses what is new, and exits when what is in flight is finished."""

    def __init__(
        self, config: uvicorn.Config, server: Server, drain_seconds: float, on_ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._server, self._drain_seconds, self._on_ready = server, drain_seconds, on_ready

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets)
        except SystemExit:
            raise OutputError(f"cannot listen on {self.config.host}:{self.config.port}") from None
        if self.started:
            port = next(iter(self.servers[0].sockets)).getsockname()[1] if self.servers else self.config.port
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._on_ready(f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at the second signal, end."""
        del sig, frame
        if self._server.draining:
            self.should_exit = self.force_exit = True
            return
        self._server.draining = True
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._drain()))

    async def _drain(self) -> None:
        """Wait for what is in flight, but not for ever."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain_seconds
        while self._server.driver.num_requests and loop.time() < deadline:
            await asyncio.sleep(0.05)
        while self._server.num_active and loop.time() < deadline:  # what is answered, but not yet read
            await asyncio.sleep(0.05)
        self.should_exit = True
