"""What becomes of a request to vLLM's own server, read from its response as it passes, for the counters by λ.

How many tokens it cost vLLM keeps beside the request (`/v1/responses`: in the response), how many thoughts were closed the
reader of `engines.vllm_thoughts` tells. `/v1/completions` are not read apart: there the marker is looked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from interpole.engines.vllm_tally import tally
from interpole.serve.levels import Chosen
from interpole.serve.metrics import GONE, Metrics, Watch

__all__ = ["ResponseWatch"]

_TEXT_EVENTS = (
    "content_block_delta",
    "response.output_text.delta",
    "response.reasoning_text.delta",
    "response.function_call_arguments.delta",
)
_STATE = "request_metadata"
"""Under which name vLLM keeps what it knows of a request, in the state of its scope."""


class ResponseWatch:
    """Of one request at its λ."""

    def __init__(self, metrics: Metrics, endpoint: str, chosen: Chosen, closing: str) -> None:
        """Begin; `closing`: the marker that is looked for, "" where responses are read apart."""
        self._metrics, self._endpoint, self._closing = metrics, endpoint, closing
        self._watch, self._tally = Watch(metrics, endpoint, chosen), tally()
        self._status: int | None = None
        self._usage: Mapping[str, Any] | None = None
        self._texts: defaultdict[int, str] = defaultdict(str)
        self._numbers: set[int] = set()

    def read(self, content: Any, status: int, *, streamed: bool) -> None:
        """Take a whole response, or one event of it, as vLLM wrote it."""
        if status >= 400:
            self._status = status
        if not isinstance(content, dict):
            return
        if error := content.get("error"):
            code = error.get("code") if isinstance(error, dict) else None
            self._status = self._status or (code if isinstance(code, int) else 500)
            return
        if not streamed:
            self._status = self._status or status
        for choice in content.get("choices") or ():
            self._numbers.add(choice.get("index", 0))
            if self._closing:
                self._texts[choice.get("index", 0)] += choice.get("text") or ""
        if streamed and _says_something(content):
            self._watch.begin()
        whole = content.get("response", content)
        if isinstance(whole, dict) and whole.get("object") == "response":
            self._usage = whole.get("usage") or self._usage

    def end(self, state: Mapping[str, Any]) -> None:
        """The application is done; `state`: that of the request."""
        kept = getattr(state.get(_STATE), "final_usage_info", None)
        usage = self._usage or (kept.model_dump() if kept is not None else None)
        status = self._status or (GONE if usage is None else 200)
        if 400 <= status < GONE:  # it asked for what vLLM does not do
            self._metrics.refused(self._endpoint, status)
            return
        if usage is not None and status == 200:
            self._count(usage)
        self._watch.end(status)

    def _count(self, usage: Mapping[str, Any]) -> None:
        """The tokens, under the names of either protocol of OpenAI's."""
        of_output = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
        self._watch.asked(usage.get("prompt_tokens") or usage.get("input_tokens") or 0)
        self._watch.answered(
            usage.get("completion_tokens") or usage.get("output_tokens") or 0,
            of_output.get("reasoning_tokens") or 0,
            num_thoughts=self._tally.num_closed + sum(self._closing in text for text in self._texts.values()),
            num_responses=len(self._numbers) or 1,
        )


def _says_something(event: Mapping[str, Any]) -> bool:
    """Whether an event brings text, or a part of a call."""
    if event.get("type") in _TEXT_EVENTS:
        return True
    names = ("content", "reasoning", "tool_calls")
    return any(
        choice.get("text") or any((choice.get("delta") or {}).get(name) for name in names)
        for choice in event.get("choices") or ()
    )
