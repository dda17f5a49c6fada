"""Orders for the workers of a cluster: who does what next, and what is done again; Ray itself is in tests/sweep/test_ray.py."""

import errno
from collections import Counter
from itertools import cycle
from pathlib import Path

import pytest

from interpole import waiting
from interpole.actors import Actors, Done, Order, _Host, nearest
from interpole.errors import OutputError, RunError
from interpole.files import write_atomic
from interpole.waiting import LongWait


class InTurn(Actors):
    """Two workers of this process, each of which does an order when it is its turn."""

    def work(self, give, num_left):
        for worker in cycle((0, 1)):
            order = give(worker)
            if order is None:
                assert not num_left()
                return
            try:
                yield Done(order, worker, f"node {worker}", order.function(*order.args))
            except OSError as error:
                yield Done(order, worker, f"node {worker}", None, str(error), gone="gone" in str(error))
            yield None


def test_an_order_that_fails_is_done_again_and_not_for_ever():
    tries = Counter()

    def done_at(number, wanted, why):
        tries[number] += 1
        if tries[number] < wanted:
            raise OSError(why)
        return 10 * number

    orders = [Order(done_at, (0, 1, "")), Order(done_at, (1, 3, "it is gone")), Order(done_at, (2, 9, "it is gone"))]
    actors = InTurn(None, (), Path())
    found = [(one.order.args[0], one.answer, one.error, one.again) for one in actors.do(orders, 3)]
    assert {one for one in found if not one[3]} == {
        (0, 0, "", False),
        (1, 10, "", False),
        (2, None, "it is gone", False),
    }
    assert sum(again for *_, again in found) == 4
    assert tries == {0: 1, 1: 3, 2: 3}
    tries.clear()
    orders[2] = Order(done_at, (2, 9, "no such method"))
    assert sum(one.again for one in actors.do(orders, 3, again=lambda done: done.gone)) == 2
    assert tries == {0: 1, 1: 3, 2: 1}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_from_what_a_worker_cannot_do(tmp_path, monkeypatch, number):
    def refuse(_, path):
        raise OSError(number, "no room", str(path))

    monkeypatch.setattr(Path, "replace", refuse)
    path = tmp_path / "answer"
    where = {"of ours": path, "the system's": path}
    for kind, function in (("of ours", write_atomic), ("the system's", lambda place, _: refuse(place, place))):
        answer, problem, full = _Host(str(tmp_path)).do(Order(lambda _, one: one(path, "x"), (function,)))
        assert answer is None
        assert "no room" in problem
        assert isinstance(full, OutputError)
        assert (full.what, full.where) == ("disk full: no room", str(where[kind]))

    def broken(_):
        raise RunError("no such task")

    assert _Host(str(tmp_path)).do(Order(broken, ())) == (None, "no such task", None)


def test_what_takes_long_is_spoken_of_and_again_after_twice_as_long(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    wait, said = LongWait(), []
    for what, seconds in (("opening", 700), ("", 10), ("loading", 130)):
        for _ in range(seconds):
            said.append(wait.words(what))
            now[0] += 1
    spoken = [words.partition(" s.")[0] for words in said if words]
    assert spoken == [*(f"has been opening for {num}" for num in (120, 240, 480)), "has been loading for 120"]


def test_equal_orders_are_each_done():
    assert [one.answer for one in InTurn(None, (), Path()).do([Order(len, ("abc",))] * 3, 2)] == [3, 3, 3]


def test_a_worker_stays_where_it_is_then_goes_where_nobody_is_then_where_most_is_left():
    left = ["a1", "a2", "b1", "c1", "c2", "c3"]

    def next_of(worker, at):
        return nearest(left, lambda one: one[0], at, worker)

    assert next_of(1, {}) == "a1"
    assert next_of(1, {1: "c"}) == "c1"
    assert next_of(1, {2: "a"}) == "b1"
    assert next_of(1, {1: "z", 2: "a", 3: "b"}) == "c1"
    assert next_of(1, {2: "a", 3: "b", 4: "c"}) == "c1"


def test_orders_of_one_place_are_done_by_one_worker_while_there_are_others():
    orders = [Order(str, (place,)) for place in "aabbaabb"]
    done = [*InTurn(None, (), Path()).do(orders, 1, place=lambda order: order.args[0])]
    assert {(one.worker, one.answer) for one in done} == {(0, "a"), (1, "b")}
