"""Rows whose tokens are told as they are drawn: what a server's engines over transformers share.

Each row has a λ of its own; what is made of it is the engine's business. An error in the model costs what was in it, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interpole.engines.base import Finished, Request, Token
from interpole.engines.rows import BatchRow, Rows
from interpole.errors import EngineError
from interpole.records import Generation

__all__ = ["StreamedRows"]


class StreamedRows:
    """Rows of requests that bring a λ, with the tokens that the last step drew."""

    takes = frozenset({"lam", "top_logprobs", "min_p", "begins"})

    def __init__(self, rows: Rows) -> None:
        """Drive these rows, which nobody else drives."""
        self.rows = rows
        self.tokenizer, self.context_tokens, self.max_rows = rows.tokenizer, rows.context_tokens, rows.max_rows
        rows.after_draw = self._note
        self._events: list[Token] = []

    def versions(self) -> dict[str, str]:
        """Those of the model."""
        return self.rows.versions()

    @property
    def busy(self) -> bool:
        """Whether rows wait, or are not finished."""
        return self.rows.busy

    @property
    def num_running(self) -> int:
        """Requests in the batch; may be asked in any thread."""
        return len(self.rows.running)

    def __len__(self) -> int:
        """Requests in the batch, or waiting for a place in it."""
        return len(self.rows.waiting) + len(self.rows.running)

    def has(self, key: int) -> bool:
        """Whether there is a request with this key."""
        return any(row.key == key for row in (*self.rows.waiting, *self.rows.running))

    def prepared(self, request: Request) -> BatchRow:
        """Tokenise a request.

        Raises:
            EngineError: a setting is out of range, or its prompt leaves no room.
        """
        if not 0 <= request.min_p <= 1 or (request.top_logprobs or 0) not in range(self.rows.vocab_size + 1):
            raise EngineError("min_p is between 0 and 1, top_logprobs at least 0")
        return self.rows.row(request)

    def enter(self, row: BatchRow) -> None:
        """Queue a row for the batch."""
        self.rows.waiting.append(row)

    def cancel(self, key: int) -> bool:
        """Forget a request; returns whether it was there."""
        return self.rows.cancel(key)

    def events(self) -> list[Token]:
        """The tokens that the last `step` drew, in order; handed out once."""
        events, self._events = self._events, []
        return events

    def abandon(self) -> None:
        """Empty queue and batch."""
        self.rows.abandon()
        self._events = []

    def close(self) -> None:
        """Nothing: all is in this process."""

    def step(self) -> list[Finished]:
        """As `Rows.step`. Where the model fails, so does what was in it; what waits goes on."""
        self._events = []
        try:
            finished = self.rows.step()
            if not self.busy:
                self.rows.abandon()  # of the cache, however long the next request is in coming
            return finished
        except Exception as error:  # torch raises what it likes: out of memory, for one
            reason = error if isinstance(error, EngineError) else EngineError(f"the model failed: {error}")
            return [Finished(row.key, Generation("", 0, "error"), reason) for row in self.rows.fail()]

    def _note(self, rows: Sequence[BatchRow], tokens: Sequence[int], logits: torch.Tensor) -> None:
        """Note what was drawn."""
        told = [
            i for i, row in enumerate(rows)
            if row.request.top_logprobs is not None and not row.finish and tokens[i] >= 0
        ]  # fmt: skip
        logprobs = dict(
            zip(told, _logprobs([rows[i] for i in told], [tokens[i] for i in told], logits[told]), strict=True)
        )
        for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if not row.finish and token >= 0:
                self._events.append(Token(row.key, token, *logprobs.get(i, ())))


def _logprobs(
    rows: Sequence[BatchRow], tokens: Sequence[int], logits: torch.Tensor
) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
    """By row: the log-probability of its token, and the likeliest tokens with theirs."""
    if not rows:
        return []
    found = logits.float().log_softmax(-1)  # (B, V)
    drawn = found.gather(-1, torch.tensor(tokens, device=found.device)[:, None])[:, 0].tolist()
    nums = [row.request.top_logprobs or 0 for row in rows]
    values, ids = found.topk(max(nums))
    pairs = [list(zip(*both, strict=True)) for both in zip(ids.tolist(), values.tolist(), strict=True)]
    return [(one, tuple(top[:num])) for one, top, num in zip(drawn, pairs, nums, strict=True)]
