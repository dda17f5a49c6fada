"""Files: those of others opened with care, ours written whole or not at all; locks.

What is in them is read by `formats`. Nothing here knows what a file means.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from interpole.errors import InterpoleError, InterpoleWarning, OutputError, reason_of
from interpole.systems import is_alone, lock, open_handle, read_at, write_at

__all__ = [
    "LFS_POINTER",
    "LONGEST_NAME",
    "Held",
    "StrPath",
    "exclusive",
    "full_disk",
    "full_disk_in",
    "make_folder",
    "no_follow",
    "open_named",
    "open_regular",
    "open_to_append",
    "read_text",
    "refuse_existing",
    "refuse_unwritable",
    "shared",
    "size_text",
    "unlink_others",
    "write_atomic",
    "writing",
]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the text begins that Git leaves in place of a large file that was not fetched."""
StrPath = str | os.PathLike[str]
"""A path as callers give it."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a disk without room, a quota that is used up, and a file that may grow no more."""
LONGEST_NAME = 255
"""Bytes of a file's name."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file of somebody else's to read it. What is no file, as a FIFO or a device, is refused and blocks nobody.

    Raises:
        OSError: it is not there, not a file (as those of the system's that hold no bytes yet), or may not be read.
    """
    try:
        handle = open_handle(path, os.O_RDONLY)
    except ValueError as problem:  # a name with a NUL
        raise OSError(errno.EINVAL, str(problem), str(path)) from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        read_at(
            handle, memoryview(bytearray(1)), 0
        )  # /proc has files that are waited for, and say that they are regular ones
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def open_named(path: Path) -> BinaryIO:
    """Open a file that a user names; one that is no file is waited for only where the shell made it (`<(…)`).

    Raises:
        OSError: as `open_regular`.
    """
    return path.open("rb") if str(path).startswith("/dev/fd/") else open_regular(path)


def no_follow(path: str, flags: int) -> int:
    """What `open` takes as its `opener` to write to a file itself, never through a symbolic link to another one."""
    return open_handle(path, flags, follow=False)


def open_to_append(path: Path) -> BinaryIO:
    """Open a file of ours, or make it, to append to it; what has another name (a hard link) becomes a file of its own first.

    Raises:
        OSError: it cannot be opened, or is a symbolic link.
        OutputError: it cannot be copied.
    """
    unlink_others(path)
    return open(path, "ab", opener=no_follow)


def unlink_others(path: Path) -> None:
    """Make a file with several names (hard links) one of its own at `path`, so that writing to it changes no other.

    Where a file system does not count names, nothing is known of them, and nothing is done.

    Raises:
        OSError: it cannot be read.
        OutputError: it cannot be copied.
    """
    if path.exists() and path.lstat().st_nlink > 1:
        with open_regular(path) as file:
            content = file.read()
        write_atomic(path, content, durable=True)


def read_text(path: Path, error: type[InterpoleError], what: str) -> str:
    """The text in a file that a user names (`open_named`).

    Raises:
        InterpoleError: of the kind `error`: it cannot be read, or is not UTF-8.
    """
    try:
        with open_named(path) as file:
            return file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"cannot read {what}: {reason_of(problem)}", path) from None


def write_atomic(path: Path, content: str | bytes, *, durable: bool = False, parents: bool = False) -> None:
    """Write a file whole or not at all: beside, then renamed. Links are not followed, neither there nor beside.

    Args:
        path: the file; it is replaced if it is there.
        content: text is written in UTF-8.
        durable: it shall also survive a loss of power.
        parents: make its folder, where there is none.

    Raises:
        OutputError: it cannot be written, or is a device; what was there still is.
    """
    if _is_device(path):
        raise OutputError("a device or a pipe, not a file", path, "name a file")
    beside = path.with_name(f".{path.name[:200]}.{os.getpid()}.new")
    try:
        if parents:
            make_folder(path.parent)
        beside.unlink(missing_ok=True)
        handle = open_handle(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(handle, "wb") as file:  # noqa: PTH123 (a descriptor that follows no link)
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        remedy = "free some space, check the permissions, or choose another folder"
        raise OutputError(f"cannot write: {error.strerror}", path, remedy) from error


def refuse_existing(out: Path) -> None:
    """Refuse to write over something.

    Raises:
        OutputError: there is something.
    """
    if out.exists() or out.is_symlink():
        raise OutputError("the output exists already", out, "choose another --out, or remove it")


def refuse_unwritable(path: Path) -> None:
    """Refuse a place where nothing can be made, or written where it is a folder; nothing is tried.

    Raises:
        OutputError: a file is in the way, or one may not write there.
    """
    above = (path.absolute(), *path.absolute().parents)
    there = next(one for one in above if os.path.exists(one))  # noqa: PTH110 (one that may not be looked at is not there)
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "cannot write there" if there.is_dir() else "a file is in its place"
        raise OutputError(what, there, "check the path and its permissions, or choose another --out")


@contextmanager
def writing(out: StrPath, num_bytes: int | None = None) -> Iterator[None]:
    """Say in our words what the system has against a result that is being written.

    Args:
        out: the result.
        num_bytes: its size, where it is known.

    Raises:
        OutputError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        if full_disk(error) is None:
            raise OutputError(f"cannot write: {error}", out, "check the path and its permissions") from error
        needed = "" if num_bytes is None else f" ({size_text(num_bytes)} in all)"
        remedy = f"free some space{needed}, or choose another --out"
        raise OutputError(f"disk full: {error.strerror}", out, remedy) from error


def full_disk(error: BaseException | None) -> OSError | None:
    """The system's word that there is no room, where that is what an error is or comes from: nobody else has more luck."""
    while error is not None and not (isinstance(error, OSError) and error.errno in FULL):
        error = error.__cause__
    return error


def full_disk_in(text: str) -> OSError | None:
    """What `full_disk` finds, where others (Inspect, of what its tasks and samples raise) keep of an error only its words.

    They are the C library's, by errno, of the same process or of one like it; Python leaves their language English.
    """
    return next((OSError(number, os.strerror(number)) for number in FULL if os.strerror(number) in text), None)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there.

    Raises:
        OutputError: something else is in its place, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        what = reason_of(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            what = "a file is in its place"
        led = [one for one in (path, *path.parents) if os.path.islink(one) and not os.path.exists(one)]  # noqa: PTH110, PTH114
        if led:
            what = f"{led[0]} is a link that leads to itself or to nothing"
        raise OutputError(
            f"cannot make the folder: {what}", path, "choose another folder, or remove what is there"
        ) from error


def _is_device(path: Path) -> bool:
    """Whether what is at `path` is neither a file nor a folder, or a name of an open one, as /dev/stdout: nothing to replace."""
    with suppress(OSError):
        mode = path.stat().st_mode
        opened = path.is_symlink() and path.readlink().is_relative_to("/proc")
        return opened or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


@contextmanager
def exclusive(path: Path, error: type[InterpoleError], what: str, remedy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, in which stands who holds it; the system lets go of it when the process ends, however it ends.

    Works across the hosts of a network file system that keeps locks; where none are kept, a warning says so.

    Args:
        path: the lock file; it is made, and removed at the end.
        error: what to raise.
        what: what the holder does, for the message: `is writing out`.
        remedy: what the second one can do instead of waiting.
        wait: until nobody holds it.

    Raises:
        InterpoleError: of the kind `error`: another process holds it; with its process id and host.
    """
    handle = _locked(path, error, what, remedy, wait=wait)
    try:
        yield
    finally:
        is_kept = _is_kept(path)
        os.close(handle)
        if is_kept:
            _is_kept(path)


def _is_kept(path: Path) -> bool:
    """Remove a lock file. Whether the system keeps it, as Windows does while it is open, so that nobody else can remove it."""
    try:
        path.unlink()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


class Held:
    """A lock that is shared (`shared`).

    Args:
        path: the lock file.
        handle: its descriptor.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle, self.is_kept = path, handle, False

    def is_alone(self) -> bool:
        """Whether no other process holds it, as far as the file system knows."""
        return is_alone(self._handle)

    def remove(self) -> None:
        """Remove the file: now, or where the system keeps it while it is open, at the end."""
        self.is_kept = _is_kept(self._path)


@contextmanager
def shared(path: Path, error: type[InterpoleError], what: str, remedy: str) -> Iterator[Held]:
    """Hold the lock file `path` together with others that do so too; `exclusive` and this refuse one another.

    The file stays where it is, since others may hold it.

    Args:
        path: the lock file; it is made.
        error: what to raise.
        what: what the holder does, for the message.
        remedy: what the second one can do instead of waiting.

    Raises:
        InterpoleError: of the kind `error`: another process holds it for itself; with its process id and host.
    """
    handle = _locked(path, error, what, remedy, is_shared=True)
    held = Held(path, handle)
    try:
        yield held
    finally:
        os.close(handle)
        if held.is_kept:
            _is_kept(path)


def _locked(
    path: Path, error: type[InterpoleError], what: str, remedy: str, *, is_shared: bool = False, wait: bool = False
) -> int:
    """A descriptor that holds the lock on the file which lies at `path` now, not on one that its last holder removed."""
    while True:
        handle = no_follow(str(path), os.O_RDWR | os.O_CREAT)
        try:
            lock(handle, shared=is_shared, wait=wait)
            if os.fstat(handle).st_ino == path.lstat().st_ino:
                with suppress(OSError):  # a full disk still keeps the lock
                    if os.fstat(handle).st_nlink > 1:  # the file of another name would be written to
                        return handle
                    os.truncate(handle, 0)
                    write_at(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return handle
        except (BlockingIOError, PermissionError):
            said = memoryview(bytearray(200))
            holder = bytes(said[: read_at(handle, said, 0)]).decode("utf-8", "replace").strip() or "another process"
            os.close(handle)
            raise error(f"{holder} {what}", path, f"wait until it has ended, or {remedy}") from None
        except FileNotFoundError:
            pass
        except OSError as problem:
            if problem.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                os.close(handle)
                raise
            _warn_of_no_locks(path.parent, str(problem.strerror))
            return handle
        os.close(handle)


@cache
def _warn_of_no_locks(folder: Path, reason: str) -> None:
    """Once in a process."""
    why = f"the file system of {folder} keeps no locks ({reason}): let no second process write there"
    warnings.warn(why, InterpoleWarning, stacklevel=5)


def size_text(num_bytes: float) -> str:
    """A size as people read it, in three digits: `17.0 kB`, `1.41 MB`, `8.04 GB`; up to 999 bytes as it is."""
    if num_bytes < 1000:
        return f"{num_bytes:,.0f} byte{'' if num_bytes == 1 else 's'}"
    for unit in ("kB", "MB", "GB", "TB"):
        num_bytes /= 1000
        if num_bytes < 999.5 or unit == "TB":
            break
    return f"{num_bytes:,.{2 if num_bytes < 9.995 else 1 if num_bytes < 99.95 else 0}f} {unit}"
