"""Files: those of others read strictly, ours written whole or not at all; hashes and seeds of content; values as JSON has them.

What several modules would each write lives here once. Nothing here knows what a file means.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import socket
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from interpole.errors import CorruptError, InterpoleError, InterpoleWarning, OutputError

__all__ = [
    "LFS_POINTER",
    "LONGEST_NAME",
    "StrPath",
    "content_hash",
    "exclusive",
    "no_follow",
    "open_named",
    "open_regular",
    "open_to_append",
    "parse_json",
    "parse_yaml",
    "parse_yaml_lines",
    "plain",
    "read_json",
    "read_text",
    "read_yaml",
    "seed_of",
    "size_text",
    "unlink_others",
    "write_atomic",
]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the text begins that Git leaves in place of a large file that was not fetched."""
StrPath = str | os.PathLike[str]
"""A path as callers give it."""
LONGEST_NAME = 255
"""Bytes of a file's name."""
MAX_SEED = 2**31 - 1
MOST_DIGITS = 300
"""Of a whole number in a file; longer ones fit no float, and many functions fail at them in their own ways."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG = re.compile(rf"[0-9]{{{MOST_DIGITS + 1}}}")


def parse_json(
    data: str | bytes,
    where: object,
    error: type[InterpoleError] = CorruptError,
    remedy: str = "",
    *,
    unique_keys: bool = False,
) -> Any:
    """The value of a JSON text that somebody else may have written. Lone surrogates, which no file can hold, become U+FFFD.

    Args:
        data: the text.
        where: its file, for messages.
        error: what to raise.
        remedy: what the reader can do.
        unique_keys: refuse an object in which a key stands twice; else its last value counts.

    Raises:
        InterpoleError: of the kind `error`: not JSON, not UTF-8, nested too deep, or with a number of hundreds of digits.
    """
    try:
        text = data if isinstance(data, str) else data.decode("latin-1")
        whole = _whole if _LONG.search(text) else None
        value = json.loads(data, object_pairs_hook=_unique if unique_keys else None, parse_int=whole)
        return _paired(value) if _SURROGATE.search(text) else value
    except (ValueError, RecursionError) as problem:
        what = "nested too deep" if isinstance(problem, RecursionError) else str(problem)
        raise error(f"not valid JSON: {what}", where, remedy) from None


def _whole(digits: str) -> int:
    """A whole number that is none too long."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _paired(value: Any) -> Any:
    """A JSON value without lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_paired(item) for item in value]
    return {_paired(name): _paired(item) for name, item in value.items()} if isinstance(value, dict) else value


def read_json(
    path: Path, error: type[InterpoleError] = CorruptError, remedy: str = "fetch the file again"
) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InterpoleError: of the kind `error`: it cannot be read, or is no JSON object.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", path, remedy) from None
    if data.startswith(LFS_POINTER):
        raise error("a pointer of Git LFS, not the file itself", path, "run `git lfs pull` there")
    value = parse_json(data, path, error, remedy)
    if not isinstance(value, dict):
        raise error(f"expected a JSON object, found {type(value).__name__}", path, remedy)
    return value


def open_regular(path: Path) -> BinaryIO:
    """Open a file of somebody else's to read it. What is no file, as a FIFO or a device, is refused and blocks nobody.

    Raises:
        OSError: it is not there, not a file (as those of the system's that hold no bytes yet), or may not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as problem:  # a name with a NUL
        raise OSError(errno.EINVAL, str(problem), str(path)) from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        os.pread(handle, 1, 0)  # /proc has files that are waited for, and say that they are regular ones
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
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


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


@cache
def _yaml_loader() -> Any:
    """PyYAML's safe loader with the numbers of YAML 1.2: `1e-2` is a number, `0:1:0.1` is text and no count of seconds."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    whole = re.compile(r"[-+]?[0-9]+\Z")
    number = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


MOST_NODES = 200_000
"""Values that a YAML file may hold, aliases written out."""


@contextmanager
def _yaml_problems(where: object, error: type[InterpoleError]) -> Iterator[None]:
    """Turn what PyYAML raises, also by tags whose text makes no sense, into an error of ours."""
    import yaml

    try:
        yield
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, KeyError, TypeError, OverflowError) as problem:
        what = "nested too deep" if isinstance(problem, RecursionError) else str(problem)
        if not isinstance(problem, yaml.YAMLError | ValueError | RecursionError):
            what = f"a value does not fit its tag ({problem})"
        raise error(f"not valid YAML: {what}", where) from None


def parse_yaml(text: str, where: object, error: type[InterpoleError]) -> Any:
    """The value of a YAML text.

    Raises:
        InterpoleError: of the kind `error`: not YAML, a key twice in one mapping, or aliases that multiply.
    """
    return parse_yaml_lines(text, where, error)[0]


def parse_yaml_lines(text: str, where: object, error: type[InterpoleError]) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """The value of a YAML text, and the line of every key and item by its path.

    Raises:
        InterpoleError: as `parse_yaml`.
    """
    import yaml

    lines: dict[tuple[Any, ...], int] = {}

    def plain(node: yaml.Node, path: tuple[Any, ...]) -> Any:
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
            loader.flatten_mapping(node)
            result = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node, deep=True)
                lines[*path, key] = key_node.start_mark.line + 1
                result[key] = plain(value_node, (*path, key))
            return result
        if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
            return [plain(item, (*path, i)) for i, item in enumerate(node.value)]
        return loader.construct_object(node, deep=True)

    with _yaml_problems(where, error):
        loader = _yaml_loader()(text)
        root = loader.get_single_node()
        if root is None:
            return None, lines
        _check_nodes(root, {}, where, error)
        return plain(root, ()), lines


def _check_nodes(node: Any, sizes: dict[int, int], where: object, error: type[InterpoleError]) -> int:
    """How many values a node stands for, aliases written out; refuses those that are too many, and keys that occur twice."""
    import yaml

    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise error("not valid YAML: a value holds itself", f"{where}, line {node.start_mark.line + 1}")
        return sizes[id(node)]
    sizes[id(node)] = 0
    line = f"{where}, line {node.start_mark.line + 1}"
    inner = node.value if not isinstance(node, yaml.ScalarNode) else []
    if isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, place = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                words = f"the key {key.value!r} stands here and in line {seen[name]}"
                raise error(
                    words, f"{where}, line {place}", "keep one of them: YAML readers differ in which one counts"
                )
            seen[name] = place
        inner = [one for pair in node.value for one in pair]
    elif isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > MOST_DIGITS:
        raise error(f"not valid YAML: a whole number of {len(node.value):,} digits", line)
    elif isinstance(node, yaml.ScalarNode) and _HALF.search(node.value):
        raise error("not valid YAML: half of a character (a lone surrogate)", line)
    size = 1 + sum(_check_nodes(one, sizes, where, error) for one in inner)
    if size > MOST_NODES:
        raise error(f"not valid YAML: aliases multiply to more than {MOST_NODES:,} values", line)
    sizes[id(node)] = size
    return size


_HALF = re.compile("[\ud800-\udfff]")


def read_text(path: Path, error: type[InterpoleError], what: str) -> str:
    """The text in a file that a user names (`open_named`).

    Raises:
        InterpoleError: of the kind `error`: it cannot be read, or is not UTF-8.
    """
    try:
        with open_named(path) as file:
            return file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"cannot read {what}: {problem}", path) from None


def read_yaml(path: Path, error: type[InterpoleError], what: str = "the file") -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InterpoleError: of the kind `error`: it cannot be read, is not YAML, or no mapping.
    """
    content = parse_yaml(read_text(path, error, what), path, error)
    if not isinstance(content, dict):
        raise error(f"{what} is not a YAML mapping", path, "write `key: value` lines")
    return content


def write_atomic(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a file whole or not at all: beside, then renamed. Links are not followed, neither there nor beside.

    Args:
        path: the file; it is replaced if it is there.
        content: text is written in UTF-8.
        durable: it shall also survive a loss of power.

    Raises:
        OutputError: it cannot be written, or is a device; what was there still is.
    """
    if _is_device(path):
        raise OutputError("a device or a pipe, not a file", path, "name a file")
    beside = path.with_name(f".{path.name[:200]}.{os.getpid()}.new")
    try:
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
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


def _is_device(path: Path) -> bool:
    """Whether what is at `path` is neither a file nor a folder, or a name of an open one, as /dev/stdout: nothing to replace."""
    with suppress(OSError):
        mode = path.stat().st_mode
        opened = path.is_symlink() and path.readlink().is_relative_to("/proc")
        return opened or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


@contextmanager
def exclusive(path: Path, error: type[InterpoleError], what: str, remedy: str) -> Iterator[None]:
    """Hold the lock file `path`, in which stands who holds it; the system lets go of it when the process ends, however it ends.

    Works across the hosts of a network file system that keeps locks; where none are kept, a warning says so.

    Args:
        path: the lock file; it is made, and removed at the end.
        error: what to raise.
        what: what the holder does, for the message: `is writing out`.
        remedy: what the second one can do instead of waiting.

    Raises:
        InterpoleError: of the kind `error`: another process holds it; with its process id and host.
    """
    handle = _locked(path, error, what, remedy)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _locked(path: Path, error: type[InterpoleError], what: str, remedy: str) -> int:
    """A descriptor that holds the lock on the file which lies at `path` now, not on one that its last holder removed."""
    import fcntl

    while True:
        handle = no_follow(str(path), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.lstat().st_ino:
                with suppress(OSError):  # a full disk still keeps the lock
                    if os.fstat(handle).st_nlink > 1:  # the file of another name would be written to
                        return handle
                    os.truncate(handle, 0)
                    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return handle
        except (BlockingIOError, PermissionError):
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(handle)
            raise error(f"{holder} {what}", path, f"wait until it has ended, or {remedy}") from None
        except FileNotFoundError:
            pass
        except OSError as problem:
            if problem.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                os.close(handle)
                raise
            why = f"the file system of {path.parent} keeps no locks ({problem.strerror}): let no second process write there"
            warnings.warn(why, InterpoleWarning, stacklevel=4)
            return handle
        os.close(handle)


def plain(value: Any) -> Any:
    """`value` down to what JSON has: records as objects, tuples as lists, NaN and infinity as null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def content_hash(content: Any) -> str:
    """Hexadecimal SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def seed_of(*parts: object) -> int:
    """A seed in [0, 2³¹) made of its parts: the same for the same, and far from its neighbours'."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") & MAX_SEED


def size_text(num_bytes: float) -> str:
    """A size as people read it, in three digits: `17.0 kB`, `1.41 MB`, `8.04 GB`; up to 999 bytes as it is."""
    if num_bytes < 1000:
        return f"{num_bytes:,.0f} byte{'' if num_bytes == 1 else 's'}"
    for unit in ("kB", "MB", "GB", "TB"):
        num_bytes /= 1000
        if num_bytes < 999.5 or unit == "TB":
            break
    return f"{num_bytes:,.{2 if num_bytes < 9.995 else 1 if num_bytes < 99.95 else 0}f} {unit}"
