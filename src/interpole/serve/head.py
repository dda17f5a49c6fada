"""What all responses begin with, what they cost, and how an event is written."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from interpole.serve.answer import ServedResponse
from interpole.serve.call import Call

__all__ = ["Head", "event", "usage_of"]


@dataclass(frozen=True)
class Head:
    """Of one response: which model answered, at which λ, with which weights."""

    model_name: str
    lam: float
    stamp: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def headers(self) -> dict[str, str]:
        """The same for HTTP."""
        return {"x-interpole-lambda": f"{self.lam:g}", "x-request-id": self.id}

    def fields(self, kind: str) -> dict[str, Any]:
        """In OpenAI's schema."""
        prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model_name,
            "system_fingerprint": self.stamp,
        }


def usage_of(calls: Sequence[Call], choices: Sequence[ServedResponse]) -> dict[str, Any]:
    """What some responses cost; thinking is counted here, also where the prompt began it."""
    prompt = sum(call.num_prompt_tokens for call in calls)
    completion = sum(choice.num_tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": sum(choice.num_thinking_tokens for choice in choices)},
    }


def event(data: Any, name: str = "") -> str:
    """One server-sent event."""
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
