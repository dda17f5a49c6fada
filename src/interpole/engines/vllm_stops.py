"""Stop strings in vLLM's server look at the answer only, not at the thought before it, as in Interpole's own server.

vLLM looks for them in its server's process, in all that a response says, before anybody reads the thought apart. Those of a
request that is marked so (`STOPS_AT_ANSWER`) are looked for from where its answer begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from vllm.v1.engine import detokenizer

from interpole.chat import ThinkFormat, ThoughtStream
from interpole.engines.vllm_tally import STOPS_AT_ANSWER
from interpole.engines.vllm_thoughts import form_for, variables_of

__all__ = ["AnswerStops", "install"]

Hit = tuple[str, int] | None
"""The string that was found, and the length to which the text is cut, or −1."""


class AnswerStops(list[str]):
    """The stop strings of one response, of which vLLM asks with every token."""

    def __init__(self, stops: Sequence[str], form: ThinkFormat) -> None:
        super().__init__(stops)
        self._stream = ThoughtStream(
            form.markers, prompt_opens_thinking=form.prompt_opens_thinking, special_tokens=form.special_tokens
        )
        self._start: int | None = None  # where the answer begins, once it is known
        self._unsearched: int | None = None  # from here on strings count that vLLM has not looked for yet

    def find(self, text: str, num_new: int, include: bool, check: Callable[..., Hit]) -> Hit:
        """As vLLM's `check`, in the answer.

        Args:
            text: of the response so far.
            num_new: how many characters at its end are new.
            include: whether the string stays in the text.
            check: vLLM's own.
        """
        if self._unsearched is None:
            self._unsearched = len(text) - num_new
        if self._start is None:
            pieces = self._stream.take(text[len(self._stream.text) :])
            self._start = next((piece.start for piece in pieces if piece.kind == "answer"), None)
        if self._start is None:
            return None
        begin = max(self._start, self._unsearched)
        self._unsearched = len(text)
        hit = check(text[self._start :], len(text) - begin, list(self), include)
        return hit if hit is None or hit[1] == -1 else (hit[0], hit[1] + self._start)


def install() -> None:
    """Have vLLM's server, in this process, ask `AnswerStops` where a request is marked."""
    plain_check, base = detokenizer.check_stop_strings, detokenizer.BaseIncrementalDetokenizer
    plain_begin = base.__init__

    def begin(self: Any, request: Any) -> None:
        plain_begin(self, request)
        variables = (request.sampling_params.extra_args or {}).get(STOPS_AT_ANSWER)
        if self.stop and variables is not None:
            self.stop = AnswerStops(self.stop, form_for(variables_of(json.loads(variables))))

    def check(output_text: str, new_char_count: int, stop: list[str], include_in_output: bool) -> Hit:
        if isinstance(stop, AnswerStops):
            return stop.find(output_text, new_char_count, include_in_output, plain_check)
        found: Hit = plain_check(output_text, new_char_count, stop, include_in_output)
        return found

    base.__init__, detokenizer.check_stop_strings = begin, check
