"""`ThinkFormat`: how a family is asked, and how its responses are read, in one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from interpole.chat.markers import Markers, added_tokens, find_markers, special_variables
from interpole.chat.response import ParsedResponse, Span, parse_response, spans_of
from interpole.chat.template import opens_thinking, prompt_of

__all__ = ["ThinkFormat"]


@dataclass(frozen=True)
class ThinkFormat:
    """How a family is asked, and how its responses are read.

    Attributes:
        markers: around a thought.
        template: the chat template.
        variables: what the template may name besides the messages: special tokens, `enable_thinking` …
        prompt_opens_thinking: prompts end inside a think block, so that responses hold a closing marker only.
        special_tokens: the tokenizer's added tokens; they end a turn, or stand in a marker's place.
        prefix: text after every rendered prompt.
    """

    markers: Markers
    template: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    prompt_opens_thinking: bool = False
    special_tokens: tuple[str, ...] = ()
    prefix: str = ""

    @classmethod
    def of(
        cls,
        assets: Mapping[str, Path],
        template: str,
        *,
        markers: tuple[str, str] | None = None,
        prefix: str = "",
        variables: Mapping[str, Any] | None = None,
    ) -> ThinkFormat:
        """The format of a checkpoint.

        Args:
            assets: its files by name.
            template: its chat template.
            markers: the think markers; None finds them.
            prefix: what will be put after its prompts.
            variables: set for the template, e.g. `{"enable_thinking": False}`.

        Raises:
            TaskError: no markers are found, or the template does not render.
            CorruptError: a tokenizer file makes no sense.
        """
        found = Markers(*markers) if markers else find_markers(assets, template)
        known = {**special_variables(assets), **(variables or {})}
        form = cls(found, template, known, special_tokens=added_tokens(assets), prefix=prefix)
        opens, closes = (prefix.rfind(marker) for marker in (found.open, found.close))
        prompt_opens_thinking = opens > closes or (closes < 0 and opens_thinking(template, found, **form.variables))
        return replace(form, prompt_opens_thinking=prompt_opens_thinking)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt for chat messages, prefix included.

        Raises:
            TaskError: the template is not valid, refuses these messages, or leaves the question out.
        """
        return prompt_of(self.template, messages, self.variables) + self.prefix

    def parse(self, response: str, finish: str) -> ParsedResponse:
        """A response to such a prompt read apart; `finish`: "stop", "length" (the cap was reached) or "error"."""
        return parse_response(
            response,
            finish,
            self.markers,
            prompt_opens_thinking=self.prompt_opens_thinking,
            special_tokens=self.special_tokens,
        )

    def spans(self, response: str) -> tuple[Span, ...]:
        """The spans of such a response alone (`spans_of`)."""
        return spans_of(
            response,
            self.markers,
            prompt_opens_thinking=self.prompt_opens_thinking,
            special_tokens=self.special_tokens,
        )

    def is_thinking(self, text: str) -> bool:
        """Whether a response that is cut off after `text` is inside a thought."""
        return self.markers.close not in text and (self.prompt_opens_thinking or self.markers.open in text)
