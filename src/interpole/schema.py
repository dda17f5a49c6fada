"""Content that users and strangers write, as strict records: what makes no sense is an error that names the key.

What checks a record is built when it is first used: a command uses a few of many.
"""

from __future__ import annotations

from typing import Any, TypeVar

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
        key = ".".join(part for part in map(str, first["loc"]) if part.strip())  # tags of unions are blank
        message = first["msg"].removeprefix("Value error, ")
        raise error(f"{key + ': ' if key else ''}{message}", where, remedy) from None
    except RecursionError:
        raise error("nested too deep", where, remedy) from None


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
