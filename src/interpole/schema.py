"""Content that users and strangers write, as strict records: what makes no sense is an error that names the key.

What checks a record is built when it is first used: a command uses a few of many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from interpole.errors import InterpoleError
from interpole.formats import long_number_in, parse_json

__all__ = ["Foreign", "Strict", "validated", "validated_json"]


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, defer_build=True)


class Foreign(BaseModel):
    """A frozen record out of a file in somebody else's format: keys that we do not use are passed over, types are not bent."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


Record = TypeVar("Record", bound=BaseModel)
_KIND = re.compile(r"\s*|float|int|str|bool|(list|dict|tuple|literal|function-\w+)\[.*")
"""What pydantic names beside the keys of a place: the kind in a union that it tried; our own tags are blank."""


def validated(
    record: type[Record], content: Any, where: object, error: type[InterpoleError], remedy: str = ""
) -> Record:
    """`content` as a record.

    Args:
        record: its class.
        content: what a file or a caller gave.
        where: its file, for messages.
        error: what to raise.
        remedy: what the reader can do.

    Raises:
        InterpoleError: of the kind `error`, with the first key that makes no sense.
    """
    try:
        return record.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        unknown = first["loc"][-1:] if first["type"] == "extra_forbidden" else ()
        place = first["loc"][: len(first["loc"]) - len(unknown)]
        path = [*(part for part in place if not _KIND.fullmatch(str(part))), *unknown]
        message = first["msg"].removeprefix("Value error, ")
        if unknown:
            message = f"there is no such key; {_others(record, path)}"
        raise error(f"{'.'.join(map(str, path))}{': ' if path else ''}{message}", where, remedy) from None
    except RecursionError:
        raise error("nested too deep", where, remedy) from None


def _others(record: type[BaseModel], path: Sequence[int | str]) -> str:
    """The keys that there are in the place of the last one of `path`, or the one that is most like it."""
    kinds = [record]
    for part in path[:-1]:
        fields = [field for kind in kinds for name, field in kind.model_fields.items() if part in (name, field.alias)]
        kinds = [model for field in fields for model in _models(field.annotation)] or kinds
    from difflib import get_close_matches  # for errors alone

    names = list(dict.fromkeys(field.alias or name for kind in kinds for name, field in kind.model_fields.items()))
    near = get_close_matches(str(path[-1])[:100], names, 1)
    return f"is it {near[0]}?" if near else f"there are {', '.join(names)}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def validated_json(
    record: type[Record], data: bytes, where: object, error: type[InterpoleError], remedy: str = ""
) -> Record:
    """A JSON text as a record: `validated` of `parse_json`, at once where nothing is wrong, which is several times faster.

    Raises:
        InterpoleError: as both.
    """
    try:
        if not long_number_in(data):
            return record.model_validate_json(data)
    except ValidationError:
        pass  # also half of a character, which `parse_json` mends
    return validated(record, parse_json(data, where, error, remedy), where, error, remedy)
