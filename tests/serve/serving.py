"""A server in a thread, for the length of a block; and requests that wait for it on a machine with much to do."""

import threading
from contextlib import contextmanager
from functools import partial

import httpx

from interpole.serve.run import Options, listener

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
