"""What systems differ in: reads and writes at an offset, locks, flags of `os.open`, C functions.

Linux and macOS have them as POSIX describes; Windows has other ways, or none. Everything here looks for what is there when it is
called, so that a test can hide it.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = [
    "append",
    "c_function",
    "is_alone",
    "lock",
    "memory_bytes",
    "num_cores",
    "open_handle",
    "read_at",
    "sync",
    "write_at",
]

PLAIN = ("O_BINARY", "O_NONBLOCK")
"""Flags of every file: bytes as they are, and no waiting for whoever is at the other end of a pipe. Where a system has them."""
SLOTS = 64
"""Where locks are of bytes, each of which one process holds alone: so many may share a file, and who wants it alone takes all."""
FIRST_SLOT = 1 << 30
"""Where those bytes are: beyond what is in the file, since what is locked may not be read."""

_seeking = threading.Lock()
_slots: dict[int, int] = {}  # descriptor → the byte that it holds


def open_handle(path: str | os.PathLike[str], flags: int, *, follow: bool = True) -> int:
    """A descriptor of a file, which no child inherits.

    Args:
        path: the file.
        flags: of `os.open`, e.g. `os.O_RDONLY`.
        follow: a symbolic link to the file it names; else it is refused.

    Raises:
        OSError: it cannot be opened.
    """
    for name in PLAIN if follow else (*PLAIN, "O_NOFOLLOW"):
        flags |= getattr(os, name, 0)
    if not follow and not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):  # noqa: PTH114 (a path of any kind)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return os.open(path, flags, 0o666)


def read_at(handle: int, buffer: memoryview, offset: int) -> int:
    """Read bytes from `offset` on into `buffer`; safe to call from several threads. Returns how many there were."""
    if hasattr(os, "preadv"):
        return os.preadv(handle, [buffer], offset)
    if hasattr(os, "pread"):
        data = os.pread(handle, len(buffer), offset)
    else:
        with _at(handle, offset):
            data = os.read(handle, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def write_at(handle: int, data: bytes | memoryview, offset: int) -> int:
    """Write bytes from `offset` on; safe to call from several threads. Returns how many were written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, data, offset)
    with _at(handle, offset):
        return os.write(handle, data)


def append(handle: int, data: bytes) -> int:
    """Write bytes to the end of a file that forked processes may share, one of them at a time. Returns where they begin."""
    posix = _module("fcntl")
    if posix is not None:
        posix.lockf(handle, posix.LOCK_EX)  # of one process, where `flock` is of all that share the descriptor
    try:
        begin, written = os.fstat(handle).st_size, 0
        while written < len(data):
            written += write_at(handle, memoryview(data)[written:], begin + written)
    finally:
        if posix is not None:
            posix.lockf(handle, posix.LOCK_UN)
    return begin


@contextmanager
def _at(handle: int, offset: int) -> Iterator[None]:
    """Have a file's place at `offset`, for one thread at a time, and put it back."""
    with _seeking:
        before = os.lseek(handle, 0, os.SEEK_CUR)
        os.lseek(handle, offset, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(handle, before, os.SEEK_SET)


def lock(handle: int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until its descriptor is closed, alone or together with others that share it.

    Args:
        handle: of the file.
        shared: with others that do so too.
        wait: until nobody who may not be there holds it.

    Raises:
        BlockingIOError: another holds it.
        OSError: no locks are kept there.
    """
    posix = _module("fcntl")
    if posix is not None:
        kind = posix.LOCK_SH if shared else posix.LOCK_EX
        posix.flock(handle, kind | (0 if wait else posix.LOCK_NB))
        return
    while not _lock_bytes(handle, shared=shared):
        if not wait:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        time.sleep(0.05)


def is_alone(handle: int) -> bool:
    """Whether nobody else shares the lock that `handle` shares (`lock`), as far as the file system knows."""
    posix = _module("fcntl")
    if posix is None:
        return _others_are_free(handle)
    try:
        posix.flock(handle, posix.LOCK_EX | posix.LOCK_NB)
    except OSError:
        alone = False
    else:
        alone = True
    with suppress(OSError):  # where no locks are kept
        posix.flock(handle, posix.LOCK_SH)
    return alone


def _module(name: str) -> Any:
    """A module of the standard library that some systems lack."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _lock_bytes(handle: int, *, shared: bool) -> bool:
    """Take one of the bytes, or all; False where another holds what is needed."""
    if _module("msvcrt") is None:
        raise OSError(errno.ENOSYS, "this system knows no locks")
    if not shared:
        return _locked(handle, 0, SLOTS)
    slot = next((slot for slot in range(SLOTS) if _locked(handle, slot, 1)), None)
    if slot is None:
        return False
    _slots[handle] = slot
    return True


def _others_are_free(handle: int) -> bool:
    """Whether all bytes but one's own can be had; they are given back."""
    mine = _slots.get(handle)
    if mine is None:  # no locks are kept there
        return False
    taken = []
    for first, num in ((0, mine), (mine + 1, SLOTS - mine - 1)):
        if num and _locked(handle, first, num):
            taken.append((first, num))
        elif num:
            break
    else:
        mine = -1
    for first, num in taken:
        _locking(handle, "LK_UNLCK", first, num)
    return mine == -1


def _locked(handle: int, first: int, num: int) -> bool:
    try:
        _locking(handle, "LK_NBLCK", first, num)
    except PermissionError:
        return False
    return True


def _locking(handle: int, mode: str, first: int, num: int) -> None:
    windows = _module("msvcrt")
    with _at(handle, FIRST_SLOT + first):
        windows.locking(handle, getattr(windows, mode), num)


def sync(path: str | os.PathLike[str]) -> None:
    """Have a file or a folder written to the disk, so that it survives a loss of power.

    Windows opens no folders, and syncs nothing that was opened to be read: there nothing is done.
    """
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of the machine; None where the system cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def c_function(name: str) -> Any:
    """A function of the C library; None where it has none of this name, or cannot be asked."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # Windows: there is no library of no name
        return None
