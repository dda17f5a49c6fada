"""How vLLM's server reads a response apart: by Interpole's own rules, so that an answer without a thought is an answer.

vLLM's readers for thinking families take all that has no closing marker for a thought; at small λ there is none to close.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser

from interpole.chat import Parts, ThinkFormat, ThoughtStream
from interpole.checkpoints.checkpoint import template_of
from interpole.engines.vllm_per_request import FOLDER
from interpole.engines.vllm_tally import note_closed
from interpole.errors import EngineError, TaskError
from interpole.files import StrPath

__all__ = ["ThoughtReader", "form_for", "form_in", "variables_of"]

_NOT_THE_TEMPLATES = ("add_generation_prompt", "continue_final_message", "documents", "reasoning_effort", "tools")


def form_in(folder: StrPath, **variables: Any) -> ThinkFormat:
    """How the responses of the family in a folder are read, with these variables in its template.

    Raises:
        TaskError: it has no markers, or its template does not render.
    """
    assets = {path.name: path for path in Path(folder).iterdir()}
    return ThinkFormat.of(assets, template_of(assets) or "", variables=variables)


def variables_of(given: Mapping[str, Any] | None) -> str:
    """The variables of a template that a request gives (`chat_template_kwargs`), as `form_for` takes them."""
    named = {key: value for key, value in (given or {}).items() if key not in _NOT_THE_TEMPLATES and value is not None}
    return json.dumps(named, sort_keys=True, default=str)


@lru_cache(maxsize=64)
def form_for(variables: str) -> ThinkFormat:
    """How the model that is served is read; where its template does not render with these variables, as without them."""
    if FOLDER not in os.environ:
        raise EngineError("this is a part of a server", remedy="start it by `interpole serve --engine vllm`")
    try:
        return form_in(os.environ[FOLDER], **json.loads(variables))
    except TaskError:
        return form_in(os.environ[FOLDER])


class ThoughtReader(ReasoningParser):
    """Reads one response; vLLM makes one for each choice."""

    engine_based_streaming = True  # it is given each piece once, and asked at the end for what it holds back

    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        self._format = form_for(variables_of(kwargs.get("chat_template_kwargs")))
        markers = self._format.markers
        self._opening, self._closing = (self._tokens(marker) for marker in (markers.open, markers.close))
        self._stream = ThoughtStream(
            markers,
            prompt_opens_thinking=self._format.prompt_opens_thinking,
            special_tokens=self._format.special_tokens,
        )
        self._answered = False

    def _tokens(self, marker: str) -> list[int]:
        return list(self.model_tokenizer.encode(marker, add_special_tokens=False))

    @property
    def reasoning_start_str(self) -> str:
        """The opening marker."""
        return self._format.markers.open

    @property
    def reasoning_end_str(self) -> str:
        """The closing marker."""
        return self._format.markers.close

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:  # noqa: ARG002
        """Whether a thought ends in these tokens. A prompt's say nothing: who thinks has yet to be seen."""
        return False

    def has_engine_confirmed_reasoning_end(self) -> bool:
        """Whether what follows is answer: the thought is closed, or there was none. Then vLLM looks for calls of tools."""
        return self._stream.closed or self._answered

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """The tokens after the thought."""
        start, end = self._thought(input_ids)
        return input_ids[end + len(self._closing) :] if end > start else input_ids

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """How many tokens are of the thought, its markers not counted."""
        start, end = self._thought(token_ids)
        return end - start

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:  # noqa: ARG002
        """Thinking and answer of a whole response. A thought that was never closed has no answer, not even an empty one."""
        parsed = self._format.parse(model_output, "length")
        note_closed(closed=parsed.closed)
        return parsed.thinking or None, parsed.answer or ("" if parsed.closed else None)

    def extract_reasoning_streaming(
        self, previous_text: str, current_text: str, delta_text: str, *_tokens: Any, **_more: Any
    ) -> DeltaMessage | None:
        """What the newest piece of a response adds to both."""
        del previous_text, current_text
        return self._told(self._stream.feed, delta_text)

    def finish_streaming(self) -> DeltaMessage | None:
        """What was held back, because it could have become a marker."""
        return self._told(self._stream.finish)

    def _told(self, news: Callable[..., Parts], *text: str) -> DeltaMessage | None:
        """New text; a thought that has just been closed has an answer from now on, if an empty one."""
        closed = self._stream.closed
        parts = news(*text)
        self._answered |= bool(parts.answer)
        if self._stream.closed > closed:
            note_closed()
            return DeltaMessage(reasoning=parts.thinking or None, content=parts.answer)
        return DeltaMessage(reasoning=parts.thinking or None, content=parts.answer or None) if any(parts) else None

    def _thought(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """Where the thought begins and ends among the tokens of a response."""
        tokens = list(token_ids)
        opened = _find(tokens, self._opening)
        if opened is None and not self._format.prompt_opens_thinking:
            return 0, 0
        start = 0 if opened is None else opened + len(self._opening)
        end = _find(tokens[start:], self._closing)
        return start, len(tokens) if end is None else start + end


def _find(tokens: list[int], part: list[int]) -> int | None:
    starts = range(len(tokens) - len(part) + 1)
    return next((start for start in starts if tokens[start : start + len(part)] == part), None)
