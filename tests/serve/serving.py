"""A server in a thread, for the length of a block; and requests that wait for it on a machine with much to do."""

import json
import threading
import time
from contextlib import contextmanager
from functools import partial

import httpx
import uvicorn

from interpole.serve.run import Options, listener
from interpole.serve.vllm_middleware import LambdaMiddleware

PATIENCE_SECONDS = 120
get, post = (partial(ask, timeout=PATIENCE_SECONDS) for ask in (httpx.get, httpx.post))


@contextmanager
def running(server, options=None):
    """The address of a server, for the length of a block."""
    ready, found = threading.Event(), []
    options = options or Options(port=0)
    listening = listener(server, options, lambda address: (found.append(address), ready.set()))
    thread = threading.Thread(target=listening.run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_SECONDS)
    yield found[0]
    listening.should_exit = True
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


@contextmanager
def as_vllm_serves(address, levels):
    """The address of the middleware that stands before vLLM; a server of ours, at `address`, plays vLLM."""

    async def played(scope, receive, send):
        content = json.loads((await receive())["body"])
        lam = content.pop("vllm_xargs")["lam"]
        assert content.pop("cache_salt") == f"lam={lam}"
        asked = {"url": f"{address}{scope['path']}", "json": content | {"lam": lam}, "timeout": PATIENCE_SECONDS}
        async with httpx.AsyncClient() as client, client.stream("POST", **asked) as reply:
            headers = [(b"content-type", reply.headers["content-type"].encode())]
            await send({"type": "http.response.start", "status": reply.status_code, "headers": headers})
            async for text in reply.aiter_bytes():
                text = text.replace(b'"reasoning_content":', b'"not_vllms":')
                await send({"type": "http.response.body", "body": text, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    config = uvicorn.Config(LambdaMiddleware(played, levels), port=0, log_level="warning", lifespan="off")
    listening = uvicorn.Server(config)
    thread = threading.Thread(target=listening.run, daemon=True)
    thread.start()
    while not listening.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.servers[0].sockets[0].getsockname()[1]}"
    listening.should_exit = True
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
