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
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

from interpole.errors import InterpoleError
from interpole.systems import c_function, num_cores

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

__all__ = ["begun", "mapped", "num_processes"]

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
    pool = _pool(work, processes)
    try:
        yield from pool.map(_one, range(num))
    except BrokenExecutor:
        raise failed from None
    finally:
        pool.shutdown(cancel_futures=True)


def begun(work: Callable[[], Made], failed: InterpoleError) -> Callable[[], Made]:
    """Begin `work` in another process; what is returned waits for it. Where there can be no other, it is done then.

    Args:
        work: gives what can be pickled; what it raises is raised by what is returned.
        failed: what is raised there if the process is killed.
    """
    if num_processes() == 1:
        return work
    pool = _pool(lambda _: work(), 1)
    making = pool.submit(_one, 0)

    def made() -> Made:
        try:
            return cast(Made, making.result())
        except BrokenExecutor:
            raise failed from None
        finally:
            pool.shutdown()

    return made


def _pool(work: Callable[[int], Any], processes: int) -> ProcessPoolExecutor:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (work,))


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
