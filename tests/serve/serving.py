"""A server in a thread, for the length of a block."""

import threading
from contextlib import contextmanager

from interpole.serve.run import Options, listener


@contextmanager
def running(server, options=None):
    """The address of a server, for the length of a block."""
    ready, found = threading.Event(), []
    options = options or Options(port=0)
    listening = listener(server, options, lambda address: (found.append(address), ready.set()))
    thread = threading.Thread(target=listening.run, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield found[0]
    listening.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
