"""Where problems come from: a local file, or a file of a Hugging Face dataset repository.

Files are read strictly: what is not as it should be is a TaskError with the file, the line and the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from interpole.errors import TaskError, reason_of
from interpole.files import open_named
from interpole.formats import parse_json
from interpole.records import Problem

__all__ = ["Text", "TextOrNumber", "distinct", "fetch", "kind_of", "read_jsonl"]

MAX_LINE_BYTES = 16 * 2**20
MAX_DEPTH = 64


def fetch(repo: str, file: str, remedy: str) -> Path:
    """Fetch one file of a dataset repository (cached by huggingface_hub, which also reads the user's token).

    Raises:
        TaskError: it cannot be had; `remedy` says what else to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(f"cannot fetch {file}: {reason}", where=f"dataset {repo}", remedy=remedy) from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Read a jsonl as (place, row) pairs, where place is "file:line" for messages; blank lines are passed over.

    A line ends at `\n` and nowhere else: U+2028, U+0085 and a form feed may stand inside of a JSON string.

    Raises:
        TaskError: no such file, or a line that is not a JSON object in UTF-8, too long, or nested too deep.
    """
    try:
        with open_named(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if row := _row(line, number, f"{path}:{number}"):
                    yield row
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise TaskError(
            f"cannot read the problems: {reason_of(error)}", where=path, remedy="give a UTF-8 jsonl file"
        ) from error


def _row(line: bytes, number: int, place: str) -> tuple[str, dict[str, Any]] | None:
    if len(line) > MAX_LINE_BYTES:
        size = f"{MAX_LINE_BYTES >> 20} MiB"
        raise TaskError(f"a line of more than {size}", where=place, remedy="write one JSON object per line")
    if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TaskError("cannot read the problems: they are in UTF-16", where=place, remedy="save the file as UTF-8")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        what = f"cannot read the problems: byte {error.start + 1} of the line, 0x{line[error.start]:02x}, is not UTF-8"
        raise TaskError(what, where=place, remedy="save the file as UTF-8") from None
    if not text:
        return None
    row = parse_json(text, place, TaskError, "write one JSON object per line", unique_keys=True)
    if not isinstance(row, dict):
        raise TaskError(f"not an object: {text[:40]}", where=place, remedy='write {"question": …, "answer": …}')
    _check_values(row, place)
    return place, row


def _check_values(row: dict[str, Any], place: str) -> None:
    """Refuse what would fail later, when problems are hashed or logged: depth and NaN."""
    level: list[Any] = [row]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for holder in level
            if isinstance(holder, dict | list)
            for value in (holder.values() if isinstance(holder, dict) else holder)
        ]
    if level:
        raise TaskError(f"nested more than {MAX_DEPTH} levels deep", where=place, remedy="keep the fields flat")
    for key, value in row.items():
        try:
            json.dumps([key, value], allow_nan=False)
        except ValueError:
            raise TaskError(
                f"{key!r}: NaN and Infinity are no JSON numbers", where=place, remedy="write a text"
            ) from None


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {kind_of(value)}")
    return value


def _text_or_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected a text or a number, found {kind_of(value)}")
    return value if isinstance(value, str) else format(Decimal(repr(value)), "f")


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: str(value).lower(), type(None): "null"}
    return kinds.get(type(value), f"the number {value}")


Text = Annotated[str, BeforeValidator(_text)]
TextOrNumber = Annotated[str, BeforeValidator(_text_or_number)]
"""A number as it would be written by hand: without an exponent."""


# ── problems ─────────────────────────────────────────────────────────────────────────────────────────────────────


def distinct(found: Iterable[tuple[str, Problem]]) -> tuple[Problem, ...]:
    """The problems of (place, problem) pairs, whose ids must differ.

    Raises:
        TaskError: an id stands twice; with both places.
    """
    seen: dict[str, tuple[str, Problem]] = {}
    for place, problem in found:
        if problem.id in seen:
            first, twin = seen[problem.id]
            same = twin.question == problem.question
            raise TaskError(
                f"two problems have the id {problem.id!r}" + (": they ask the same question" if same else ""),
                where=f"{first} and {place}",
                remedy="delete one of them" if same else "make the ids unique",
            )
        seen[problem.id] = (place, problem)
    return tuple(problem for _, problem in seen.values())
