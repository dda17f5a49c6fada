"""Formats: JSON and YAML of others, read strictly; values as JSON has them; hashes and seeds of content.

What several modules would each write lives here once. Nothing here knows what a value means.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from interpole.errors import CorruptError, InterpoleError
from interpole.files import LFS_POINTER, open_regular, read_text

__all__ = [
    "MAX_SEED",
    "content_hash",
    "json_items",
    "long_number_in",
    "parse_json",
    "parse_yaml",
    "parse_yaml_documents",
    "parse_yaml_lines",
    "plain",
    "read_json",
    "read_yaml",
    "seed_of",
]

MAX_SEED = 2**31 - 1
MOST_DIGITS = 300
"""Of a whole number in a file; longer ones fit no float, and many functions fail at them in their own ways."""
MOST_NODES = 200_000
"""Values that a YAML file may hold, aliases written out."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ONE_DIGIT = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * (MOST_DIGITS + 1)
_STRIDE = 11  # of so many digits in a row every eleventh is one, too, which is looked for first
_THIN = b"0" * (len(_LONG) // _STRIDE)
_SPACE = re.compile(r"[ \t\r\n]*")
_ENDS = frozenset(" \t\r\n,]}")
_PIECE_BYTES = 1 << 20
_HALF = re.compile("[\ud800-\udfff]")


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
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        whole = _whole if long_number_in(raw) else None
        value = json.loads(data, object_pairs_hook=_unique if unique_keys else None, parse_int=whole)
        return _paired(value) if _SURROGATE.search(raw) else value
    except (ValueError, RecursionError) as problem:
        what = "nested too deep" if isinstance(problem, RecursionError) else str(problem)
        raise error(f"not valid JSON: {what}", where, remedy) from None


def long_number_in(data: bytes) -> bool:
    """Whether a text has more digits in a row than a number may have."""
    if _THIN not in data[::_STRIDE].translate(_ONE_DIGIT):
        return False
    pieces = range(0, len(data), _PIECE_BYTES)
    return any(_LONG in data[at : at + _PIECE_BYTES + MOST_DIGITS].translate(_ONE_DIGIT) for at in pieces)


def json_items(data: bytes, where: object, error: type[InterpoleError], remedy: str = "") -> Iterator[Any]:
    """The items of a JSON list as `parse_json` gives them, read one after the other, so that only one of them takes memory.

    Args:
        data: the text in UTF-8.
        where: its file, for messages.
        error: what to raise.
        remedy: what the reader can do.

    Raises:
        InterpoleError: of the kind `error`: as `parse_json`, or no list.
    """
    paired = _SURROGATE.search(data) is not None
    try:
        for value in _items(_Text(data)):
            yield _paired(value) if paired else value
    except (ValueError, RecursionError):
        parse_json(data, where, error, remedy)  # says what is wrong, and where
        raise error("expected a JSON list", where, remedy) from None


def _items(text: _Text) -> Iterator[Any]:
    """The items of a list."""
    if text.sign() != "[":
        raise ValueError("no list")
    sign = text.sign() if text.peek() == "]" else ","
    while sign == ",":
        yield text.value()
        sign = text.sign()
    if sign != "]" or text.peek():
        raise ValueError("no list")


class _Text:
    """A JSON text that is decoded by and by, and read a value or a sign at a time."""

    def __init__(self, data: bytes) -> None:
        self._data, self._decoded = data, 0
        self._text, self._at = "", 0  # what is decoded and not read yet begins at `_at`
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode
        self._json = json.JSONDecoder(parse_int=_whole if long_number_in(data) else None)

    def _more(self) -> bool:
        """Decode a further piece, at least as much as is not read yet; False: all is decoded."""
        if self._decoded == len(self._data):
            return False
        end = min(len(self._data), self._decoded + max(_PIECE_BYTES, len(self._text) - self._at))
        piece = self._decode(self._data[self._decoded : end], final=end == len(self._data))
        self._text, self._at, self._decoded = self._text[self._at :] + piece, 0, end
        return True

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def sign(self) -> str:
        """Likewise, and it is read."""
        found = self.peek()
        self._at += len(found)
        return found

    def value(self) -> Any:
        """The value that comes next."""
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if self._text[end : end + 1] in _ENDS or not self._more():  # a number may go on in the next piece
                self._at = end
                return value


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
    path: Path,
    error: type[InterpoleError] = CorruptError,
    remedy: str = "fetch the file again",
    *,
    what: str = "",
    max_bytes: int | None = None,
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        error: what is raised.
        remedy: what its reader is told to do.
        what: what the file is, where its path does not say so.
        max_bytes: a larger file is refused, unread.

    Raises:
        InterpoleError: of the kind `error`: it cannot be read, is too large, or is no JSON object.
    """
    try:
        with open_regular(path) as file:
            data = file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as problem:
        raise error(f"cannot {f'read {what}' if what else 'be read'}: {problem.strerror}", path, remedy) from None
    if max_bytes is not None and len(data) > max_bytes:
        raise error(f"larger than {max_bytes >> 20} MiB", path, remedy)
    if data.startswith(LFS_POINTER):
        raise error("a pointer of Git LFS, not the file itself", path, "run `git lfs pull` there")
    value = parse_json(data, path, error, remedy)
    if not isinstance(value, dict):
        raise error(f"expected a JSON object, found {type(value).__name__}", path, remedy)
    return value


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
        InterpoleError: as `parse_yaml`; or it is several documents.
    """
    documents = parse_yaml_documents(text, where, error)
    if len(documents) > 1:
        raise error("not valid YAML here: several documents, one below the other", where, "give each a file of its own")
    return documents[0] if documents else (None, {})


def parse_yaml_documents(
    text: str, where: object, error: type[InterpoleError]
) -> list[tuple[Any, dict[tuple[Any, ...], int]]]:
    """The documents of a YAML text, `---` standing between them, each with the lines of its keys and items by their paths.

    Those that say nothing are left out, as before a first `---` and after a last one.

    Raises:
        InterpoleError: as `parse_yaml`.
    """
    import yaml

    def plain(node: yaml.Node, path: tuple[Any, ...], lines: dict[tuple[Any, ...], int]) -> Any:
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
            loader.flatten_mapping(node)
            result = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node, deep=True)
                lines[*path, key] = key_node.start_mark.line + 1
                result[key] = plain(value_node, (*path, key), lines)
            return result
        if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
            return [plain(item, (*path, i), lines) for i, item in enumerate(node.value)]
        return loader.construct_object(node, deep=True)

    documents = []
    with _yaml_problems(where, error):
        loader = _yaml_loader()(text)
        loader.name = str(where)  # where marks say that something stands
        while loader.check_node():
            root, lines = loader.get_node(), dict[tuple[Any, ...], int]()
            _check_nodes(root, {}, where, error)
            if (content := plain(root, (), lines)) is not None:
                documents.append((content, lines))
    return documents


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


def read_yaml(path: Path, error: type[InterpoleError], what: str = "the file") -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InterpoleError: of the kind `error`: it cannot be read, is not YAML, or no mapping.
    """
    content = parse_yaml(read_text(path, error, what), path, error)
    if not isinstance(content, dict):
        raise error(f"{what} is not a YAML mapping", path, "write `key: value` lines")
    return content


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
