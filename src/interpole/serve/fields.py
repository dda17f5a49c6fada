"""The fields of a request's body: read one by one, each checked; what nobody read is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from interpole.serve.errors import RequestError

__all__ = ["WITHOUT_EFFECT", "Fields"]

WITHOUT_EFFECT = (
    "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "client_metadata",
    "context_management",  # asks to drop old thoughts and results of tools: nothing is dropped
)  # fmt: skip
"""Fields that clients send and that say nothing about the answer: taken, by both servers."""


class Fields:
    """An object out of a request. What is null counts as not given.

    `done` refuses what was not read: no field is passed over in silence.
    """

    def __init__(self, body: Any, param: str = "") -> None:
        """Take an object; `param`: its name, where it stands inside of another.

        Raises:
            RequestError: it is no object.
        """
        self._param = param
        if not isinstance(body, Mapping):
            what = f"{param or 'the body'} is an object, not {_kind(body)}"
            raise RequestError(what, param=param or None, code="invalid_type")
        self._body = body
        self._read: set[str] = set()

    def name(self, name: str) -> str:
        """A field's full name."""
        return f"{self._param}.{name}" if self._param else name

    def get(self, name: str) -> Any:
        """A field as it is, or None."""
        self._read.add(name)
        return self._body.get(name)

    def wrong(self, name: str, what: str, code: str = "invalid_value") -> RequestError:
        """The error that a field makes."""
        return RequestError(f"{self.name(name)}: {what}", param=self.name(name), code=code)

    def required(self, name: str) -> Any:
        """A field that must be there.

        Raises:
            RequestError: it is not.
        """
        value = self.get(name)
        if value is None:
            raise self.wrong(name, "it is required", "missing_required_parameter")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number of a range, or None.

        Raises:
            RequestError: it is none.
        """
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, f"a number is expected, not {_kind(value)}", "invalid_type")
        if not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g} is expected, not {value!r:.40}")
        return float(value)

    def integer(self, name: str, low: int, high: float = math.inf) -> int | None:
        """A whole number of a range, or None.

        Raises:
            RequestError: it is none.
        """
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, f"a whole number is expected, not {_kind(value)}", "invalid_type")
        if not low <= value <= high:
            limit = f"from {low} to {high:g}" if high < math.inf else f"of at least {low}"
            raise self.wrong(name, f"a whole number {limit} is expected")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where it is not given.

        Raises:
            RequestError: it is neither.
        """
        value = self.get(name)
        if value not in (None, True, False) or (isinstance(value, int | float) and not isinstance(value, bool)):
            raise self.wrong(name, f"true or false is expected, not {_kind(value)}", "invalid_type")
        return bool(value)

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A text or a list of them.

        Raises:
            RequestError: it is neither, or one is empty.
        """
        value = self.get(name)
        listed = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
            raise self.wrong(name, "a text or a list of texts is expected", "invalid_type")
        if len(listed) > most or not all(listed):
            raise self.wrong(name, f"at most {most} texts are expected, none of them empty")
        return tuple(listed)

    def inner(self, name: str) -> Fields:
        """An object inside; empty where it is not given.

        Raises:
            RequestError: it is something else.
        """
        value = self.get(name)
        return Fields({} if value is None else value, self.name(name))

    def only(self, name: str, *allowed: Any, why: str) -> None:
        """Refuse every value of a field but those that change nothing.

        Raises:
            RequestError: it has another.
        """
        value = self.get(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in allowed):
            raise self.wrong(name, why, "unsupported_value" if allowed else "unsupported_parameter")

    def passed_over(self, *names: str) -> None:
        """Fields that change nothing, whatever is in them."""
        self._read.update(names)

    def done(self) -> None:
        """Refuse what was not read.

        Raises:
            RequestError: there is such a field.
        """
        for name, value in self._body.items():
            if name not in self._read and value is not None:
                raise self.wrong(str(name), "there is no such field here", "unknown_parameter")


def _kind(value: Any) -> str:
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")
