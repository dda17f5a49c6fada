"""Work in forked processes gives what it gives here, and a process that is killed is an error."""

import os
import signal
import sys

import pytest

from interpole.errors import RunError
from interpole.forks import begun, mapped
from interpole.systems import append

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there processes are forked")


def test_what_was_made_comes_in_order_and_the_first_failure_ends_it():
    def work(number):
        if number == 3:
            raise RunError("broken", number)
        return number**2

    found = mapped(work, 6, 2, RunError("killed"))
    assert [next(found), next(found), next(found)] == [0, 1, 4]
    with pytest.raises(RunError, match="broken"):
        next(found)


def test_what_processes_append_to_one_file_stands_where_each_was_told(tmp_path):
    pieces = [bytes([65 + number]) * (1 + 7 * number) for number in range(26)]
    with (tmp_path / "file").open("w+b") as file:
        places = list(mapped(lambda number: append(file.fileno(), pieces[number]), 26, 3, RunError("killed")))
        whole = file.read()
    assert [whole[at : at + len(piece)] for at, piece in zip(places, pieces, strict=True)] == pieces
    assert len(whole) == sum(map(len, pieces))


def test_a_process_that_is_killed_is_the_error_that_was_given():
    with pytest.raises(RunError, match="was killed"):
        list(mapped(lambda _: os.kill(os.getpid(), signal.SIGKILL), 2, 2, RunError("a reader was killed")))


def test_work_that_is_begun_goes_on_meanwhile_and_gives_what_it_gives_or_raises(monkeypatch):
    monkeypatch.setattr("interpole.forks.num_processes", lambda: 2)  # also beside a test runner's threads
    us, here, there = os.getpid(), os.pipe(), os.pipe()

    def work():
        os.write(there[1], os.read(here[0], 1))  # waits for what is written below
        return os.getpid()

    made = begun(work, RunError("killed"))
    os.write(here[1], b"!")
    assert os.read(there[0], 1) == b"!"
    assert made() != us

    def broken():
        raise RunError("broken")

    with pytest.raises(RunError, match="broken"):
        begun(broken, RunError("killed"))()
    with pytest.raises(RunError, match="was killed"):
        begun(lambda: os.getpid() == us or os.kill(os.getpid(), signal.SIGKILL), RunError("it was killed"))()


def test_work_that_no_other_process_can_do_is_done_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("interpole.forks.num_processes", lambda: 1)
    done = []
    made = begun(lambda: done.append(os.getpid()), RunError("killed"))
    assert done == []
    made()
    assert done == [os.getpid()]
