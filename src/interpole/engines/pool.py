"""Several engines of one kind behind one interface: requests are asked at places, and engines go where requests wait.

A place is what `Engine.load` takes, with the fingerprint that must be there. Every engine is at one place at a time. One that has
nothing left to do goes to the first place where no other is; where there is none, to the place with most requests waiting, which
it then shares. So each place's weights are loaded once, and again only for the last, long ones. One engine alone takes place
after place in the order in which they were opened. An engine stays where more is still to be asked, but not for ever: where
nothing comes while questions wait elsewhere it goes there, whatever those who ask wait for.

Engines whose requests each bring a λ are at all places of their pair at once: there is one place, and nothing moves.

An engine that dies is replaced by `EngineProcess`. One that keeps dying at a place is given up there: what it had not answered
goes back, and fails where a second engine is given up too, or there is no other. One that is given up twice in a row without
an answer gets no more work, unless it is the last.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from interpole.engines.base import Answer
from interpole.engines.devices import Device
from interpole.engines.process import COMMAND, EngineProcess
from interpole.errors import EngineError, InterpoleError, printable
from interpole.records import Chance, Generation, Sampler
from interpole.schema import Foreign

__all__ = ["EngineRate", "Pool", "Visit", "lam_within"]

Count = Annotated[int, Field(ge=0, le=10**18)]
MOST_STRIKES = 2  # how often in a row an engine is given up without an answer before it gets no more work
PATIENCE_SECONDS = 1.0  # how long an engine waits for more while others wait for it; or as long as its last load took
MOST_GIVEN_UP = 2  # how many engines are given up at a place before it counts as the place's fault


class EngineRate(Foreign):
    """What an engine of a pool has done so far.

    Attributes:
        name: `engine 2`, with its device.
        place: where it is; empty: nowhere yet.
        num_loads: how often it went elsewhere.
        num_answers: that it gave.
        num_tokens: in these.
        busy_seconds: in which it had requests.
    """

    name: Annotated[str, AfterValidator(printable)]
    place: Annotated[str, AfterValidator(printable)]
    num_loads: Count
    num_answers: Count
    num_tokens: Count
    busy_seconds: Annotated[float, Field(ge=0)]

    @property
    def tokens_per_second(self) -> float | None:
        """While it had requests; None before its first answer."""
        return self.num_tokens / self.busy_seconds if self.num_tokens and self.busy_seconds else None

    def __str__(self) -> str:
        """In words: `engine 2 (GPU 1) at λ=0.6: 512 responses, 1,870 tokens/s`."""
        speed = self.tokens_per_second
        where = f" at {self.place}" if self.place else ""
        return f"{self.name}{where}: {self.num_answers:,} responses" + (f", {speed:,.0f} tokens/s" if speed else "")


class _Place:
    """Somewhere that engines go.

    Attributes:
        visits: those who ask here.
        waiting: questions that no engine has.
        given_up: the numbers of the engines that were given up here, and why the last one was.
        error: why nothing is answered here.
    """

    def __init__(self, key: str, where: Any, fingerprint: str, label: str) -> None:
        self.key, self.where, self.fingerprint, self.label = key, where, fingerprint, label
        self.visits: set[Visit] = set()
        self.waiting: deque[_Question] = deque()
        self.given_up: dict[int, InterpoleError] = {}
        self.error: InterpoleError | None = None

    @property
    def wanted(self) -> bool:
        """Whether questions wait here, or are still to come."""
        return self.error is None and (bool(self.waiting) or any(visit.more for visit in self.visits))


class _Question:
    """A request at a place, and where its answer is awaited."""

    __slots__ = ("args", "place", "reply")

    def __init__(self, place: _Place, *args: Any) -> None:
        self.place, self.args = place, args
        self.reply: Future[Any] = Future()

    def settle(self, result: Any) -> None:
        """Hand the answer to whoever still waits for it."""
        if not self.reply.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            self.reply.set_exception(result)
        else:
            self.reply.set_result(result)


class _Member:
    """One engine of the pool."""

    def __init__(self, number: int, name: str, process: EngineProcess) -> None:
        self.number, self.name, self.process = number, name, process
        self.place: _Place | None = None
        self.weights: str | None = None  # the key of the place whose weights it has
        self.loading = self.retired = False
        self.running: dict[_Question, int] = {}  # → the process's key
        self.strikes = self.num_loads = self.num_answers = self.num_tokens = 0
        self.busy_seconds, self.load_seconds = 0.0, 0.0
        self.since = 0.0  # when what it does began: its load, its work, its rest

    @property
    def free(self) -> bool:
        return not (self.loading or self.retired or self.running)


class Visit:
    """Somebody who asks at a place; `answer` may be awaited in any event loop, in any thread.

    Attributes:
        num_left: how many questions are still to come; None: not known.
        closed: none are.
    """

    def __init__(
        self,
        pool: Pool,
        place: _Place,
        lam: float | None,
        num_expected: int | None,
        wrap: Callable[[Answer], Answer],
    ) -> None:
        self._pool, self._place, self._lam, self.num_left = pool, place, lam, num_expected
        self._whole = wrap(partial(pool._ask, place, lam))
        self.closed = False

    @property
    def more(self) -> bool:
        """Whether questions may still come; asked under the pool's lock."""
        return not self.closed and (self.num_left is None or self.num_left > 0)

    @property
    def load_error(self) -> InterpoleError | None:
        """Why no engine can go there; None: one can, or failed only later."""
        return None if self._place.given_up else self._place.error

    async def answer(self, prompt: str, sampler: Sampler, seed: int) -> Generation:
        """The response to a prompt. Where this is cancelled, nobody waits for the response any more, and it is lost.

        Raises:
            InterpoleError: there is none.
        """
        try:
            return await self._whole(prompt, sampler, seed)
        finally:
            self._pool._count_down(self)

    async def chance(self, prompt: str, begins: str, sampler: Sampler) -> Chance:
        """How likely the response to a prompt begins with a text; nothing is generated.

        Raises:
            InterpoleError: the engine cannot say.
        """
        try:
            chance: Chance = await self._pool._ask(self._place, self._lam, prompt, sampler, 0, begins)
            return chance
        finally:
            self._pool._count_down(self)

    def close(self) -> None:
        """No more questions come."""
        self._pool._leave(self, self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pool:
    """Engines in child processes that share what is asked (see the module's docstring)."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        devices: Sequence[Device] = (Device(),),
        *,
        most_requests: int | None = None,
        pair: Mapping[str, Any] | None = None,
        command: Sequence[str] = COMMAND,
        max_failures: int = 3,
        hang_seconds: float = 600.0,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start the engines; returns at once, while they load.

        Args:
            spec: what each engine is opened with, as JSON.
            devices: one for each engine.
            most_requests: how many requests one of several engines is given at a time; the rest wait for whoever is free.
                None: all there are. An engine alone is given all.
            pair: the recipe whose λ each request brings, for engines that were opened so; None: engines go from place to place.
            command: see `EngineProcess`.
            max_failures: see `EngineProcess`.
            hang_seconds: see `EngineProcess`.
            report: told in a sentence of every failure, and of what an engine waits for where it says so.
        """
        self._lock = threading.RLock()
        self._report, self._most, self._pair = report, most_requests, pair
        self._places: dict[str, _Place] = {}  # by key, in the order in which they were opened
        self._arranging = self._again = self._closed = False
        self._busy_seconds, self._busy_since, self.first_request = 0.0, 0.0, 0.0
        self._timer: threading.Timer | None = None  # at which an engine may have waited long enough
        self._members = []
        for number, device in enumerate(devices, 1):
            name = f"engine {number}" + (f" ({device.name})" if device.name else "")
            process = EngineProcess(
                spec,
                command=command,
                environ=device.environ,
                max_failures=max_failures,
                hang_seconds=hang_seconds,
                report=report if len(devices) == 1 else partial(_tell, report, name),
            )
            self._members.append(_Member(number, name, process))

    def __len__(self) -> int:
        """How many engines."""
        return len(self._members)

    def versions(self) -> dict[str, str]:
        """The engines' `versions`; blocks until all are open.

        Raises:
            InterpoleError: one cannot be opened, or they differ.
        """
        first, *others = (member.process.versions() for member in self._members)
        for name, other in zip([member.name for member in self._members[1:]], others, strict=True):
            if other != first:
                raise EngineError(f"{name} is another than engine 1: {other}", first, "give devices of one kind")
        return first

    def visit(
        self,
        where: Any,
        fingerprint: str = "",
        *,
        label: str = "",
        num_expected: int | None = None,
        wrap: Callable[[Answer], Answer] = lambda answer: answer,
    ) -> Visit:
        """Ask at a place, until the visit is closed; engines go to places in the order in which they were first visited.

        Args:
            where: what `Engine.load` takes.
            fingerprint: of the weights there; empty: not known.
            label: what the place is called.
            num_expected: how many questions will be asked; None: not known.
            wrap: what makes an answer to a question of an engine's answers to requests, e.g. with a budget.

        Raises:
            EngineError: engines are everywhere between the ends of their pair, and the place is elsewhere.
        """
        lam = None
        if self._pair is not None:
            lam = lam_within(where, self._pair, label)
            where, fingerprint, label = None, "", "all λ"
        key = json.dumps(where, sort_keys=True)
        with self._lock:
            place = self._places.get(key)
            if place is None or place.error is not None:
                place = self._places[key] = _Place(key, where, fingerprint, label)
            visit = Visit(self, place, lam, num_expected, wrap)
            place.visits.add(visit)
        self._arrange()
        return visit

    def rates(self) -> list[EngineRate]:
        """What each engine has done so far."""
        now = time.monotonic()
        with self._lock:
            return [
                EngineRate(
                    name=member.name,
                    place=member.place.label if member.place else "",
                    num_loads=member.num_loads,
                    num_answers=member.num_answers,
                    num_tokens=member.num_tokens,
                    busy_seconds=member.busy_seconds + (now - member.since if member.running else 0.0),
                )
                for member in self._members
            ]

    @property
    def busy_seconds(self) -> float:
        """For how long requests have been with some engine."""
        with self._lock:
            running = any(member.running for member in self._members)
            return self._busy_seconds + (time.monotonic() - self._busy_since if running else 0.0)

    def close(self) -> None:
        """End the engines; what is in flight fails."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        for member in self._members:
            member.process.close()
        with self._lock:
            questions = [question for place in self._places.values() for question in place.waiting]
            self._places.clear()
        for question in questions:
            question.settle(EngineError("the engine is closed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _ask(
        self, place: _Place, lam: float | None, prompt: str, sampler: Sampler, seed: int, begins: str | None = None
    ) -> Any:
        question = _Question(place, prompt, sampler, seed, begins, lam)
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            place.waiting.append(question)
        self._arrange()
        try:
            return await asyncio.wrap_future(question.reply)
        except asyncio.CancelledError:
            self._forget(question)
            raise

    def _forget(self, question: _Question) -> None:
        """Nobody waits for this any more."""
        question.reply.cancel()
        with self._lock:
            if question in question.place.waiting:
                question.place.waiting.remove(question)
            for member in self._members:
                if question in member.running:
                    member.process.forget(self._stop(member, question))
        self._arrange()

    def _count_down(self, visit: Visit) -> None:
        """One question less is to come."""
        with self._lock:
            if visit.num_left is None:
                return
            visit.num_left -= 1
            if visit.num_left > 0:
                return
        self._arrange()

    def _leave(self, visit: Visit, place: _Place) -> None:
        with self._lock:
            visit.closed = True
            place.visits.discard(visit)
            if not place.visits and not place.waiting and self._places.get(place.key) is place:
                del self._places[place.key]
        self._arrange()

    # ── who goes where ─────────────────────────────────────────────────────────────────────────────────────────────

    def _arrange(self) -> None:
        """Send engines to places and hand out questions, until nothing changes; called within itself it begins anew."""
        failed: list[_Question] = []
        with self._lock:
            self._again = True
            if self._arranging:
                return
            self._arranging = True
            try:
                while self._again and not self._closed:
                    self._again = False
                    for place in self._places.values():
                        failed += self._failed(place)
                    for member in self._members:
                        if member.free:
                            self._send(member)
                    for place in self._places.values():
                        self._hand_out(place)
            finally:
                self._arranging = False
        for question in failed:
            question.settle(question.place.error or EngineError("no answer"))

    def _failed(self, place: _Place) -> list[_Question]:
        """The questions at a place where nothing is answered; that is so where no engine is left to try, or two have."""
        tried = place.given_up
        if tried and place.error is None:
            alive = [member.number for member in self._members if not member.retired]
            if len(tried) >= MOST_GIVEN_UP or all(number in tried for number in alive):
                place.error = [*tried.values()][-1]
        if place.error is None:
            return []
        failed = list(place.waiting)
        place.waiting.clear()
        return failed

    def _send(self, member: _Member) -> None:
        """Send an engine that has nothing to do where it is wanted."""
        place = self._next_place(member)
        if place is None or place is member.place:
            return
        member.place = place
        if member.weights != place.key:
            member.loading, member.weights, member.since = True, None, time.monotonic()
            member.num_loads += 1
            member.process.start_load(place.where).add_done_callback(partial(self._loaded, member, place))

    def _next_place(self, member: _Member) -> _Place | None:
        """Where an engine without requests is wanted."""
        here = member.place
        if here is not None and here.error is None and here.waiting:
            return here
        wanted = [place for place in self._places.values() if place.wanted and member.number not in place.given_up]
        nobody_there = [place for place in wanted if not self._at(place)]
        if here is not None and here.wanted and self._at(here) == [member]:
            in_vain = next((place for place in nobody_there if place.waiting), None)
            return here if in_vain is None or self._waits_on(member) else in_vain
        if nobody_there:
            return next((place for place in nobody_there if place.key == member.weights), nobody_there[0])
        most = max(wanted, key=lambda place: len(place.waiting), default=None)
        return most if most is not None and most.waiting else None

    def _waits_on(self, member: _Member) -> bool:
        """Whether an engine still waits for more while others wait for it; when it need not any longer, all is arranged anew."""
        left = member.since + max(PATIENCE_SECONDS, member.load_seconds) - time.monotonic()
        if left > 0 and self._timer is None:
            self._timer = threading.Timer(left, self._look_again)
            self._timer.daemon = True
            self._timer.start()
        return left > 0

    def _look_again(self) -> None:
        with self._lock:
            self._timer = None
        self._arrange()

    def _at(self, place: _Place) -> list[_Member]:
        """The engines that are there, or on their way."""
        return [member for member in self._members if member.place is place and not member.retired]

    def _loaded(self, member: _Member, place: _Place, reply: Future[str]) -> None:
        error = reply.exception()
        told = ""
        with self._lock:
            now = time.monotonic()
            member.loading, member.load_seconds, member.since = False, now - member.since, now
            if error is None:
                member.weights = place.key
                if place.fingerprint and reply.result() not in ("", place.fingerprint):
                    place.error = EngineError("the sources were changed under the sweep: run it again")
            elif error is member.process.given_up:
                told = self._give_up(member, place)
            else:
                member.place = None
                place.error = error if isinstance(error, InterpoleError) else EngineError(repr(error))
        self._after(told)

    def _after(self, told: str) -> None:
        if told:
            self._report(told)
        self._arrange()

    def _hand_out(self, place: _Place) -> None:
        """Give a place's questions to the engines there, evenly."""
        while place.waiting:
            here = self._at(place)
            member = min((one for one in here if not one.loading), key=lambda one: len(one.running), default=None)
            if member is None:
                return
            if len(self._members) > 1:
                num = len(place.waiting) + sum(len(one.running) for one in here)
                share = -(-num // len(here))
                if len(member.running) >= min(share, self._most or share):
                    return
            self._start(member, place.waiting.popleft())

    def _start(self, member: _Member, question: _Question) -> None:
        now = time.monotonic()
        self.first_request = self.first_request or now
        if not any(one.running for one in self._members):
            self._busy_since = now
        if not member.running:
            member.since = now
        key, reply = member.process.start_answer(*question.args)
        member.running[question] = key
        reply.add_done_callback(partial(self._answered, member, question))

    def _stop(self, member: _Member, question: _Question) -> int:
        """Take a question from an engine; returns the process's key of it."""
        now, key = time.monotonic(), member.running.pop(question)
        if not member.running:
            member.busy_seconds += now - member.since
            member.since = now
            if not any(one.running for one in self._members):
                self._busy_seconds += now - self._busy_since
        return key

    def _answered(self, member: _Member, question: _Question, reply: Future[Any]) -> None:
        error, told = reply.exception(), ""
        with self._lock:
            if question not in member.running:
                return  # nobody waits for it
            self._stop(member, question)
            back = error is not None and error is member.process.given_up and not self._closed
            if back:
                question.place.waiting.appendleft(question)
                told = self._give_up(member, question.place)
            elif error is None:
                member.strikes = 0
                member.num_answers += 1
                answer = reply.result()
                member.num_tokens += answer.num_tokens if isinstance(answer, Generation) else 0
        if not back:
            question.settle(reply.result() if error is None else error)
        self._after(told)

    def _give_up(self, member: _Member, place: _Place) -> str:
        """An engine was given up at a place; it leaves it. Returns what is to be told."""
        if member.place is not place or member.process.given_up is None:
            return ""  # of what it had not answered this is not the first
        member.place = member.weights = None
        place.given_up[member.number] = member.process.given_up
        member.strikes += 1
        num_others = sum(not one.retired for one in self._members) - 1
        if member.strikes < MOST_STRIKES or not num_others:
            return ""
        member.retired = True
        return f"{member.name} answers nothing and gets no more work; {num_others} go on"


def lam_within(where: Any, pair: Mapping[str, Any], label: str) -> float:
    """The λ of a recipe that differs from `pair` in nothing else.

    Raises:
        EngineError: it does, or is not between the ends.
    """
    lam = where.get("lambda") if isinstance(where, Mapping) else None
    same = isinstance(where, Mapping) and {**where, "lambda": None} == {**pair, "lambda": None}
    if not same or not isinstance(lam, int | float) or not 0 <= lam <= 1:
        what = f"{label or where} is no λ between the two checkpoints, with one recipe for all points"
        raise EngineError(what, remedy="leave --per-request out: then engines go from point to point")
    return float(lam)


def _tell(report: Callable[[str], None], name: str, text: str) -> None:
    report(f"{name}: {text}")
