"""Whose turn it is among several λ, without an engine."""

import pytest

from interpole.engines.turns import Turns
from interpole.errors import EngineError


def run(turns, num_running=0, max_running=8, move=lambda _: None):
    return turns.let_in(num_running, max_running, move)


def test_the_next_turn_is_that_of_the_request_that_has_waited_longest():
    turns, moves = Turns(0.0, 10), []
    for key, lam in enumerate((0.7, 0.2, 0.7, 1.0)):
        turns.put(lam, key, f"{key} at {lam}")
        turns.let_in(1, 8, moves.append)  # the batch is not drained yet
    let_in = [turns.let_in(0, 8, moves.append) for _ in range(4)]
    assert let_in == [["0 at 0.7", "2 at 0.7"], ["1 at 0.2"], ["3 at 1.0"], []]
    assert (moves, turns.num_turns, turns.lam) == ([0.7, 0.2, 1.0], 3, 1.0)


def test_while_the_weights_move_the_turns_say_so_also_where_that_fails():
    turns, seen = Turns(0.0, 10), []
    turns.put(1.0, 0, "one")
    for error in (RuntimeError("no memory"), None):

        def move(_, error=error):
            seen.append(turns.moving)
            if error:
                raise error

        if error:
            with pytest.raises(RuntimeError, match="no memory"):
                run(turns, move=move)
        else:
            run(turns, move=move)
        assert not turns.moving
    assert seen == [True, True]


def test_a_turn_takes_in_what_comes_until_another_has_waited_for_its_patience():
    turns = Turns(0.0, 3)
    turns.put(1.0, 100, "other")
    taken = []
    for key in range(6):
        turns.put(0.0, key, key)
        taken.append(run(turns, num_running=1))
    assert taken == [[0], [1], [2], [], [], []]
    assert turns.drop(100)
    assert run(turns, num_running=1) == [3, 4, 5]


def test_no_more_are_let_in_than_there_is_room_for():
    turns = Turns(0.0, 3)
    for key in range(5):
        turns.put(0.0, key, key)
    assert run(turns, num_running=6) == [0, 1]
    assert run(turns, num_running=8) == []
    assert (len(turns), list(turns)) == (3, [2, 3, 4])


def test_after_a_move_that_failed_the_weights_move_before_anybody_is_let_in():
    turns, moves = Turns(0.0, 3), []
    turns.put(0.5, 1, "one")

    def fail(lam):
        raise EngineError(f"no weights at {lam}")

    with pytest.raises(EngineError, match=r"no weights at 0\.5"):
        run(turns, move=fail)
    turns.clear()
    turns.put(0.0, 2, "two")
    assert run(turns, move=moves.append) == ["two"]
    assert moves == [0.0]


def test_what_was_dropped_is_gone_and_no_patience_is_refused():
    turns = Turns(0.0, 3)
    turns.put(0.5, 1, "one")
    assert [turns.drop(1), turns.drop(1)] == [True, False]
    assert (len(turns), run(turns), turns.num_turns) == (0, [], 0)
    with pytest.raises(EngineError, match="a patience of 0 steps"):
        Turns(0.0, 0)
