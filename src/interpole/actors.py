"""Workers in Ray actors: asked for as there is room, replaced when they or their nodes are gone, each given one order at a time.

What a worker has (an engine, or nothing) stays open from order to order. Ray carries orders and short answers; what shall last is
written to disk by those who do the orders. An actor whose node is gone would wait for ever, so none is waited for too long.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from interpole.errors import InterpoleError, OutputError, RunError, reason_of
from interpole.files import full_disk
from interpole.waiting import LongWait

__all__ = ["Actors", "Done", "Order", "Tools", "nearest", "node_name"]

T = TypeVar("T")

TICK_SECONDS = 0.5
CONNECT_SECONDS = 10.0
MOST_FAILURES = 3
"""An order that failed so often is given up."""
MOST_REFUSED = 3
"""Actors that cannot open their tools, after which no more are asked for."""


class Tools(Protocol):
    """What a worker has."""

    def versions(self) -> dict[str, str]:
        """What it says of itself: what workers of one job must have in common."""


class Order(NamedTuple):
    """What a worker shall do: `function(tools, *args)`. The function is found by its name; the answer is short."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Done(NamedTuple):
    """What came of an order."""

    order: Order
    worker: int  # its number
    node: str
    answer: Any
    error: str = ""  # why there is no answer
    gone: bool = False  # the worker is: another may do the order
    again: bool = False  # it is handed out once more


def node_name() -> str:
    """What the node that this runs on is called."""
    import ray

    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:6]}"


class _Host:
    """What runs in an actor."""

    def __init__(self, folder: str) -> None:
        """Go to the driver's folder, so that paths mean here what they mean there."""
        self._tools: Any = None
        with suppress(OSError):
            os.chdir(folder)

    def where(self) -> str:
        """The name of the node; the answer says that the actor has a place."""
        return node_name()

    def open(self, opener: Callable[..., Tools], args: tuple[Any, ...], out: str) -> dict[str, str] | str:
        """Open the tools. Returns their versions, or why that cannot be done."""
        try:
            if not Path(out).is_dir():
                return f"{out} is not there: use storage that all nodes share"
            self._tools = opener(*args)
            versions: dict[str, str] = self._tools.versions()
        except InterpoleError as error:
            return str(error)
        return versions

    def do(self, order: Order) -> tuple[Any, str, OutputError | None]:
        """Carry out an order. Returns the answer, or why there is none; and that there is no room, where it is that."""
        try:
            return order.function(self._tools, *order.args), "", None
        except (InterpoleError, OSError) as error:
            if (full := full_disk(error)) is None:
                return None, str(error), None
            where = error.where if isinstance(error, InterpoleError) else full.filename or ""
            remedy = "free some space; then run the same command again: nothing finished is lost"
            return None, str(error), OutputError(f"disk full: {reason_of(full)}", where, remedy)


@dataclass(eq=False)
class _Hand:
    """An actor as the driver sees it."""

    number: int
    actor: Any
    asked: Any  # the reference of an answer that is awaited; None: it is idle
    since: float
    state: str = "pending"  # then opening, then ready
    node: str = ""
    order: Order | None = None
    long_wait: LongWait = field(default_factory=LongWait)


class Actors:
    """Workers on a cluster. To be closed: a `with` block does.

    Attributes:
        report: told in a sentence of workers that come and go.
    """

    def __init__(
        self,
        opener: Callable[..., Tools],
        args: tuple[Any, ...],
        out: Path,
        address: str = "auto",
        *,
        what: str = "engine",
        need: Callable[[bool], Mapping[str, float]] = lambda _: {"CPU": 1.0},
        alike: Callable[[str], str] = str,
        most: int | None = None,
        pending_seconds: float = 120.0,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing is asked for yet.

        Args:
            opener: makes a worker's tools; found by its name.
            args: for it.
            out: a folder that all nodes must see.
            address: of the cluster; `auto`: the one that this machine belongs to.
            what: what a worker is called.
            need: what it needs of a node, as Ray counts it; takes whether the cluster has GPUs.
            alike: what of a version must be the same everywhere.
            most: workers; None: as many as there is room for.
            pending_seconds: how long one may wait for a node.
            report: see above.
        """
        self._opener, self._args, self._out, self._address = opener, args, out.absolute(), address
        self._what, self._ask_need, self._alike, self._most = what, need, alike, most
        self._pending_seconds, self.report = pending_seconds, report
        self._hands: list[_Hand] = []
        self._need: Mapping[str, float] = {}
        self._versions: dict[str, str] = {}
        self._num_hired = self._num_refused = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and leave the cluster."""
        if self._need:
            import ray

            for hand in self._hands:
                with suppress(Exception):  # the cluster may be gone
                    ray.kill(hand.actor)
            ray.shutdown()
            self._hands, self._need = [], {}

    def versions(self, wanted: int = 1) -> dict[str, str]:
        """What the workers' tools say of themselves; blocks until the first are open.

        Args:
            wanted: how many workers there will be orders for: as many as there is room for begin at once.

        Raises:
            RunError: there is no cluster, no node has room for a worker, or its tools cannot be opened.
        """
        self._connect()
        while not self._versions:
            self._hire(max(1, wanted))
            list(self._listen())
        return self._versions

    def work(self, give: Callable[[int], Order | None], num_left: Callable[[], int]) -> Iterator[Done | None]:
        """Hand out orders until there are none left, and all are answered.

        Args:
            give: takes the number of an idle worker, and returns what it shall do; None: nothing now.
            num_left: how many orders are still to be handed out.

        Yields:
            What comes of each; None now and then, while nothing does.

        Raises:
            RunError: no node has room for a worker any more.
        """
        self._connect()
        while num_left() or any(hand.order for hand in self._hands):
            self._hire(num_left() + sum(hand.order is not None for hand in self._hands))
            for hand in self._hands:
                if hand.state == "ready" and hand.asked is None and (order := give(hand.number)) is not None:
                    hand.order, hand.since, hand.asked = order, time.monotonic(), hand.actor.do.remote(order)
            yield from self._listen()
            yield None

    def do(
        self,
        orders: Sequence[Order],
        most_failures: int = MOST_FAILURES,
        *,
        place: Callable[[Order], str] = lambda _: "",
        again: Callable[[Done], bool] = lambda _: True,
    ) -> Iterator[Done]:
        """Have all orders done; one that fails is handed out again, until it has failed so often.

        Args:
            orders: what is to be done, those that belong together one after the other.
            most_failures: of one order.
            place: what a worker stays at while there is something to do there.
            again: whether an order is handed out again, after what came of it.

        Yields:
            What comes of each, and of each attempt.

        Raises:
            RunError: no node has room for a worker any more.
        """
        left, at, failures = list(enumerate(orders)), dict[int, str](), Counter[int]()
        numbers: dict[int, int] = {}  # worker → its order's

        def give(worker: int) -> Order | None:
            if not left:
                return None
            number, order = nearest(left, lambda one: place(one[1]), at, worker)
            left.remove((number, order))
            numbers[worker], at[worker] = number, place(order)
            return order

        for done in self.work(give, lambda: len(left)):
            if done is None:
                continue
            number = numbers[done.worker]
            failures[number] += bool(done.error)
            if done.error and failures[number] < most_failures and again(done):
                left.insert(0, (number, done.order))
                done = done._replace(again=True)
            yield done

    def _connect(self) -> None:
        """Join the cluster.

        Raises:
            RunError: Ray is not installed, or there is no such cluster.
        """
        if self._need:
            return
        try:
            import ray
        except ImportError as error:
            what = f"Ray is not installed: {error}"
            raise RunError(what, remedy="pip install 'interpole[ray]', on all nodes") from error
        host, _, port = self._address.rpartition(":")
        try:
            if port.isdecimal() and "/" not in host:  # Ray itself tries for many minutes
                socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            ray.init(self._address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (OSError, ValueError, RuntimeError) as error:
            remedy = "start one with `ray start --head`, or give its address"
            raise RunError(f"no Ray cluster can be joined: {error}", self._address, remedy) from error
        gpus = ray.cluster_resources().get("GPU", 0.0) > 0
        self._need = self._ask_need(gpus)

    def _hire(self, wanted: int) -> None:
        """Ask for actors as far as there is room; for the first one in any case."""
        import ray

        if self._hands and self._num_refused >= MOST_REFUSED:
            return
        free = ray.available_resources()
        room = int(min(free.get(name, 0.0) / num for name, num in self._need.items()))
        room -= sum(hand.state == "pending" for hand in self._hands)
        most = min(wanted, self._most or wanted) - len(self._hands)
        options = {"num_cpus": self._need["CPU"], "num_gpus": self._need.get("GPU", 0.0), "max_restarts": 0}
        for _ in range(min(most, max(room, 0 if self._hands else 1))):
            actor = ray.remote(_Host).options(**options).remote(str(Path.cwd()))
            self._hands.append(_Hand(self._num_hired, actor, actor.where.remote(), time.monotonic()))
            self._num_hired += 1

    def _listen(self) -> Iterator[Done]:
        """Wait a moment for answers; actors that begin or end are seen to, and what came of orders is passed on.

        Raises:
            RunError: no node has room for a worker, or its tools cannot be opened.
            OutputError: a disk is full, which another worker or another try would not change.
        """
        import ray

        asked = {hand.asked: hand for hand in self._hands if hand.asked is not None}
        answered, _ = ray.wait(list(asked), timeout=TICK_SECONDS) if asked else ([], [])
        for reference in answered:
            hand, hand.asked = asked[reference], None
            order, hand.order = hand.order, None
            try:
                answer = ray.get(reference)
            except ray.exceptions.RayError as error:
                self._lose(hand, f"is gone: {_first_line(error)}")
                if order is not None:
                    yield Done(order, hand.number, hand.node, None, f"the {self._what} on {hand.node} is gone", True)
                continue
            if order is not None:
                value, problem, full = answer
                if full is not None:
                    raise OutputError(full.what, ", on ".join([full.where, hand.node]).removeprefix(", "), full.remedy)
                yield Done(order, hand.number, hand.node, value, problem)
            else:
                self._begin(hand, answer)
        for hand in self._hands:
            if words := hand.long_wait.words("opening" if hand.state == "opening" else ""):
                self.report(f"the {self._what} on {hand.node} {words}")
        self._give_up_waiting()

    def _begin(self, hand: _Hand, answer: Any) -> None:
        """Go on with an actor that has found a node, or has opened its engine."""
        if hand.state == "pending":
            hand.state, hand.node = "opening", answer
            hand.asked = hand.actor.open.remote(self._opener, self._args, str(self._out))
            return
        wrong = answer if isinstance(answer, str) else self._differs(answer)
        if wrong:
            self._lose(hand, f"cannot be used: {wrong}")
            return
        hand.state = "ready"
        self._versions = self._versions or answer
        self.report(f"one {self._what} more, on {hand.node}")

    def _differs(self, versions: Mapping[str, str]) -> str:
        """In what a worker's tools are not like the first's: results of both would not go together."""
        ours = self._versions or versions
        names = [
            name
            for name in {**ours, **versions}
            if self._alike(ours.get(name, "")) != self._alike(versions.get(name, ""))
        ]
        return ", ".join(f"{name} is {versions.get(name)}, elsewhere {ours.get(name)}" for name in names)

    def _lose(self, hand: _Hand, why: str) -> None:
        """Do without an actor.

        Raises:
            RunError: it could not be opened, and there is no other.
        """
        import ray

        with suppress(Exception):
            ray.kill(hand.actor)
        self._hands.remove(hand)
        self._num_refused += hand.state == "opening"
        self.report(f"the {self._what} on {hand.node or 'a node'} {why}")
        if hand.state == "opening" and not self._hands and (not self._versions or self._num_refused >= MOST_REFUSED):
            raise RunError(f"the {self._what} {why}", hand.node, "see the node; then run the same command again")

    def _give_up_waiting(self) -> None:
        """Do without actors that find no node.

        Raises:
            RunError: there is no other.
        """
        import ray

        for hand in list(self._hands):
            if hand.state == "pending" and time.monotonic() - hand.since > self._pending_seconds:
                need = ", ".join(f"{num:g} {name}" for name, num in self._need.items())
                there = ", ".join(f"{ray.cluster_resources().get(name, 0):g} {name}" for name in self._need)
                self._lose(
                    hand, f"found no room in {self._pending_seconds:g} s: it needs {need}; the cluster has {there}"
                )
                if not self._hands:
                    raise RunError(
                        f"no node has room for the {self._what}: it needs {need}; the cluster has {there}",
                        self._address,
                        "wait for nodes, or free some; then run the same command again: nothing finished is lost",
                    )


def nearest(left: Sequence[T], place: Callable[[T], str], at: Mapping[int, str], worker: int) -> T:
    """What a worker does next: the first that is left at its place; else at the first place where nobody is; else where most is.

    Args:
        left: what is to be done; not empty.
        place: where each is.
        at: worker → the place where it is.
        worker: which one.
    """
    places: dict[str, list[T]] = {}
    for one in left:
        places.setdefault(place(one), []).append(one)
    if at.get(worker) in places:
        return places[at[worker]][0]
    taken = {where for number, where in at.items() if number != worker}
    alone = next((found for where, found in places.items() if where not in taken), None)
    return (alone or max(places.values(), key=len))[0]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
