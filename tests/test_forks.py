"""Work in forked processes gives what it gives here, and a process that is killed is an error."""

import os
import signal
import sys

import pytest

from interpole.errors import RunError
from interpole.forks import mapped

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


def test_a_process_that_is_killed_is_the_error_that_was_given():
    with pytest.raises(RunError, match="was killed"):
        list(mapped(lambda _: os.kill(os.getpid(), signal.SIGKILL), 2, 2, RunError("a reader was killed")))
