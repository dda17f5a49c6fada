"""From a call to its responses, piece by piece: generate, decode, split thinking from answer, stop, count.

`answers` is what all endpoints are formats of. Leaving it early, for whatever reason, frees the rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

from interpole.chat import ParsedResponse
from interpole.chat.stream import Piece, ThoughtStream
from interpole.engines.base import Request
from interpole.engines.budget_forcing import within
from interpole.formats import seed_of
from interpole.records import Generation, Sampler
from interpole.serve.call import Call
from interpole.serve.driver import Driver
from interpole.serve.errors import RequestError
from interpole.serve.served import Served
from interpole.serve.text import Detokenizer, StopStrings

if TYPE_CHECKING:
    from interpole.engines.base import Token

__all__ = ["Delta", "Item", "ServedResponse", "answers", "margin"]

PING_SECONDS = 15.0
_PENDING = 16  # pieces that wait for a slow reader; more come together, as one


class Delta(NamedTuple):
    """New text of one response."""

    number: int  # which of a call's responses
    kind: Literal["thinking", "answer"]
    text: str
    tokens: list[Token]  # that it is made of


class ServedResponse(NamedTuple):
    """One whole response."""

    number: int  # which of a call's responses
    thinking: str | None
    answer: str
    finish: str  # "stop" or "length"
    stop: str | None  # the string that ended it
    num_tokens: int
    num_thinking_tokens: int
    thought: bool  # its thought was closed: counts for Think #R
    thinking_tokens: list[Token]
    answer_tokens: list[Token]


Item = Delta | ServedResponse | None
"""What comes of a call; None: nothing came for a while."""


async def answers(
    calls: Sequence[Call], driver: Driver, served: Served, *, timeout_seconds: float
) -> AsyncGenerator[Item]:
    """What comes of calls: deltas, and a `ServedResponse` where a response is finished; None where nothing came for a while.

    Raises:
        RequestError: the engine failed, or the time is over.
    """
    queue: asyncio.Queue[Delta | ServedResponse | Exception] = asyncio.Queue(_PENDING)
    wanted = [(call, nth) for call in calls for nth in range(call.settings.num_choices)]
    runs = [_Run(call, driver, served, (number, nth), queue) for number, (call, nth) in enumerate(wanted)]
    tasks = [asyncio.create_task(run.run()) for run in runs]
    deadline, left = time.monotonic() + timeout_seconds, len(tasks)
    try:
        while left:
            try:
                wait = min(PING_SECONDS, deadline - time.monotonic())
                item = await asyncio.wait_for(queue.get(), max(wait, 0))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise _too_late(timeout_seconds) from None
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            left -= isinstance(item, ServedResponse)
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def margin(call: Call, driver: Driver, *, timeout_seconds: float) -> float:
    """The log odds that the response to a call opens with a thought, by the model's own distribution.

    Raises:
        RequestError: the engine failed, or the time is over.
    """
    request = Request(0, call.prompt, call.sampler, 0, call.chosen.lam, begins=call.form.markers.open)
    ticket = driver.submit(request)
    try:
        async with asyncio.timeout(timeout_seconds):
            while (finished := (await ticket.get()).finished) is None:
                pass
    except TimeoutError:
        raise _too_late(timeout_seconds) from None
    finally:
        driver.release(ticket)
    if finished.error is not None or finished.chance is None:
        what = "no margin" if finished.error is None else finished.error.what
        raise RequestError(what, "server_error", code="engine_failed", status=500)
    return finished.chance.margin


def _too_late(timeout_seconds: float) -> RequestError:
    what = f"not finished within {timeout_seconds:g} seconds"
    return RequestError(what, "timeout_error", code="timeout", status=504)


class _Stopped(Exception):  # noqa: N818
    """A stop string was found."""


class _Run:
    """One response on its way."""

    def __init__(
        self,
        call: Call,
        driver: Driver,
        served: Served,
        numbers: tuple[int, int],
        queue: asyncio.Queue[Delta | ServedResponse | Exception],
    ) -> None:
        self._call, self._driver, self._served, self._queue = call, driver, served, queue
        self._number, self._nth = numbers  # of all responses, and of those to its prompt
        form = call.form
        self._stream = ThoughtStream(
            form.markers, prompt_opens_thinking=form.prompt_opens_thinking, special_tokens=form.special_tokens
        )
        self._stops = StopStrings(call.settings.stop)
        self._tokens: list[tuple[int, Token]] = []  # where in the text each begins
        self._given = 0  # of those, how many went out or stood in a marker
        self._answer = ""
        self._answer_start: int | None = None
        self._logged: dict[str, list[Token]] = {"thinking": [], "answer": []}

    async def run(self) -> None:
        """Generate, and put all that comes of it into the queue."""
        call, seed = self._call, self._call.settings.seed
        seed = seed if self._nth == 0 else seed_of(seed, self._nth)
        answer = within(self._ask, call.budget, call.form.is_thinking) if call.budget else self._ask
        try:
            try:
                finish = (await answer(call.prompt, call.sampler, seed)).finish
            except _Stopped:
                finish = "stop"
            await self._queue.put(await self._finish(finish))
        except Exception as error:  # for whoever reads the queue
            await self._queue.put(error)

    async def _ask(self, prompt: str, sampler: Sampler, seed: int) -> Generation:
        """Have the engine go on from a prompt, and give out what it writes."""
        settings = self._call.settings
        written = prompt[len(self._call.prompt) :]
        if written != self._stream.text:
            await self._put(self._pieces(self._stream.go_on_from(written)))
        request = Request(
            key=0,
            prompt=prompt,
            sampler=sampler,
            seed=seed,
            lam=self._call.chosen.lam,
            top_logprobs=settings.top_logprobs,
            min_p=settings.min_p,
        )
        decoder = Detokenizer(self._served.tokenizer)
        ticket = self._driver.submit(request)
        try:
            while True:
                tokens, finished = await ticket.get()
                if finished is not None and finished.error is not None:
                    raise RequestError(finished.error.what, "server_error", code="engine_failed", status=500)
                ends = finished is not None and finished.generation.finish == "stop"
                deltas = self._decode(decoder, tokens, ends=ends)
                await self._put(deltas)
                if self._stops.hit is not None:
                    raise _Stopped
                if finished is not None:
                    await self._put(self._take(decoder.finish()))
                    return finished.generation
        finally:
            self._driver.release(ticket)

    def _decode(self, decoder: Detokenizer, tokens: Sequence[Token], *, ends: bool) -> list[Delta]:
        """Tokens as text; `ends`: the last of them ends the response and is no text."""
        deltas: list[Delta] = []
        for number, token in enumerate(tokens):
            self._tokens.append((len(self._stream.text), token))
            if not (ends and number == len(tokens) - 1):
                deltas += self._take(decoder.feed(token.token_id))
            if self._stops.hit is not None:
                break
        return deltas

    def _take(self, text: str) -> list[Delta]:
        if self._call.raw:
            start = len(self._stream.text)
            self._stream.text += text
            return self._pieces([Piece("answer", text, start, start + len(text))] if text else [])
        return self._pieces(self._stream.take(text))

    def _pieces(self, pieces: Sequence[Piece]) -> list[Delta]:
        """Pieces as deltas, with the tokens that they are made of; an answer ends before a stop string."""
        deltas = []
        for kind, text, start, end in pieces:
            if kind == "answer":
                self._answer_start = start if self._answer_start is None else self._answer_start
                text = self._stops.feed(text)
                self._answer += text
                if self._stops.hit is not None:
                    end = self._answer_start + len(self._answer)
            tokens = self._tokens_in(start, end)
            self._logged[kind] += tokens
            if text or tokens:
                deltas.append(Delta(self._number, kind, text, tokens))
        return deltas

    def _tokens_in(self, start: int, end: int) -> list[Token]:
        """The tokens that begin in a stretch; those before it stood in a marker."""
        found = []
        while self._given < len(self._tokens) and self._tokens[self._given][0] < end:
            place, token = self._tokens[self._given]
            self._given += 1
            if place >= start:
                found.append(token)
        return found

    async def _put(self, deltas: Sequence[Delta]) -> None:
        """Deltas of one kind go out as one."""
        for kind, group in groupby(deltas, key=lambda delta: delta.kind):
            same = list(group)
            text = "".join(delta.text for delta in same)
            tokens = [token for delta in same for token in delta.tokens]
            if (text or tokens) and (kind == "answer" or self._call.settings.show_thinking):
                await self._queue.put(Delta(self._number, kind, text, tokens))

    async def _finish(self, finish: str) -> ServedResponse:
        """What was held back, and the whole."""
        if self._stops.hit is not None:
            self._stream.text = self._stream.text[: (self._answer_start or 0) + len(self._answer)]
        pieces, parsed = self._stream.end(finish)
        raw = self._call.raw
        stopped = self._stops.hit is not None
        if not raw and not stopped:
            await self._put(self._pieces(pieces))
        if rest := self._stops.finish():
            self._answer += rest
            await self._put([Delta(self._number, "answer", rest, [])])
        whole = self._answer if raw or stopped or self._stops.hit is not None else parsed.answer
        return ServedResponse(
            number=self._number,
            thinking=None if raw or not self._call.settings.show_thinking else parsed.thinking or None,
            answer=whole,
            finish="stop" if self._stops.hit is not None else finish,
            stop=self._stops.hit,
            num_tokens=len(self._tokens),
            num_thinking_tokens=self._num_thinking(parsed),
            thought=parsed.closed,
            thinking_tokens=self._logged["thinking"],
            answer_tokens=self._logged["answer"],
        )

    def _num_thinking(self, parsed: ParsedResponse) -> int:
        """Tokens of the thought, its markers included."""
        if parsed.thinking is None:
            return 0
        spans = [s for s in parsed.spans if s.kind != "answer" and s.start < len(parsed.response)]
        return sum(any(s.start <= place < s.end for s in spans) for place, _ in self._tokens)
