"""Against pages of somebody else in a browser on this machine: by which names a server answers, and what it takes for JSON.

A page whose name leads to 127.0.0.1 could otherwise ask the server there and read the answers; any page could have it generate,
by a form, whose type is not JSON.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from interpole.serve.errors import RequestError

__all__ = ["check_host", "check_json", "names_of"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def names_of(address: str) -> tuple[str, ...]:
    """The names of a server that listens at an address; empty: any."""
    return _LOOPBACK if address in _LOOPBACK else ()


def check_host(header: str, names: Collection[str]) -> None:
    """Refuse a request for somebody else.

    Args:
        header: its `Host`.
        names: from `names_of`.

    Raises:
        RequestError: it is for another name.
    """
    host = re.sub(r":\d+$", "", header).strip("[]").lower()
    if names and host not in names:
        raise RequestError(f"this server is not called {host[:60]!r}", code="wrong_host")


def check_json(header: str) -> None:
    """Refuse a body that is not declared as JSON; `header` is its `Content-Type`.

    Raises:
        RequestError: it is something else.
    """
    if header.partition(";")[0].strip().lower() != "application/json":
        raise RequestError("send JSON, with Content-Type: application/json", code="unsupported_media_type", status=415)
