"""What a client is told when a request cannot be answered: one error, in OpenAI's schema and in Anthropic's."""

from __future__ import annotations

from typing import Any

from interpole.errors import printable

__all__ = ["RequestError"]

_ANTHROPIC_TYPES = {  # HTTP status → the type that Anthropic's clients know
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class RequestError(Exception):
    """A request that is not answered.

    Args:
        message: what is wrong, and what would be right.
        type: OpenAI's kind of error, e.g. `invalid_request_error`.
        param: the field of the body that is wrong; None: no one field.
        code: a word for programs, e.g. `invalid_value`.
        status: of HTTP.
        retry_after_seconds: when it may be worth another try; None: it is not said.
    """

    def __init__(
        self,
        message: str,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        *,
        status: int = 400,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.type, self.param, self.code = printable(message), type, param, code
        self.status, self.retry_after_seconds = status, retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP says besides the status."""
        found = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return found | ({"Connection": "close"} if self.status == 503 else {})  # it ends: nothing more on this one

    def openai(self) -> dict[str, Any]:
        """The body in OpenAI's schema."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """The body in Anthropic's schema, which has no place for the field: the message begins with it."""
        plain = "invalid_request_error" if self.status < 500 else "api_error"
        message = f"{self.param}: {self.message}" if self.param else self.message
        return {"type": "error", "error": {"type": _ANTHROPIC_TYPES.get(self.status, plain), "message": message}}
