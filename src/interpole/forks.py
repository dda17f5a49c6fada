"""Work that is spread over forked processes, which see what this one has and hand back what they make of it.

Only on Linux, where a fork of a process that has threads of numpy's is safe, and only from a process that runs no thread of its
own: elsewhere the same work is done here.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from interpole.errors import InterpoleError
from interpole.systems import c_function, num_cores

__all__ = ["mapped", "num_processes"]

PR_SET_PDEATHSIG = 1
Made = TypeVar("Made")
_work: Callable[[int], Any]  # of a forked process


def num_processes() -> int:
    """How many processes `mapped` may use: as many as there are cores, and 1 where there can be no others."""
    return num_cores() if sys.platform == "linux" and threading.active_count() == 1 else 1


def mapped(work: Callable[[int], Made], num: int, processes: int, failed: InterpoleError) -> Iterator[Made]:
    """`work(0)`, `work(1)` … in this order, made in other processes.

    Args:
        work: takes a number, and gives what can be pickled; what it raises is raised here, in the order of the numbers.
        num: how many there are.
        processes: how many to start.
        failed: what to raise if one of them is killed.

    Raises:
        InterpoleError: `failed`.
    """
    import multiprocessing
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (work,))
    try:
        yield from pool.map(_one, range(num))
    except BrokenProcessPool:
        raise failed from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: Callable[[int], Any]) -> None:
    """In a forked process: it ends with its parent, and leaves the parent's objects alone, so that they stay shared."""
    global _work
    _work = work
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if prctl := c_function("prctl"):
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _one(number: int) -> Any:
    return _work(number)
