"""When Python looks for garbage in cycles: all it made lately, and after some such looks all there is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["rare_collection"]


@contextmanager
def rare_collection() -> Iterator[None]:
    """Have it look rarely, while many objects are made that last: it looks the sooner the more there are, and finds none."""
    before = gc.get_threshold()
    gc.set_threshold(400_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
