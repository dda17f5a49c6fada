"""Graders and chat templates in a process of their own: whatever they are given, they cost bounded time and memory.

The guard speaks JSON lines with a worker, a file that is run by itself: it starts with what it imports, not with its package.
A worker that does not answer in time, dies or runs out of memory is replaced, and the question counts as not answered.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interpole.errors import TaskError

__all__ = ["Guarded", "serve"]

_MEMORY_BYTES = 4 * 2**30


class Guarded:
    """A worker process, started at the first question and replaced whenever it fails.

    Args:
        worker: the worker's file; it calls `serve`.
        limit_seconds: the most one answer may cost; starting the worker is not counted.
        memory_bytes: the most memory the worker may have.
    """

    def __init__(self, worker: Path, limit_seconds: float, memory_bytes: int = _MEMORY_BYTES) -> None:
        self.worker, self.limit_seconds, self.memory_bytes = worker, limit_seconds, memory_bytes
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, **question: Any) -> dict[str, Any] | None:
        """Put one question; None when the worker took too long or died of it.

        Raises:
            TaskError: the worker does not start at all, or reports that it cannot work.
        """
        with self._lock:
            worker = self._started()
            line = self._answer(worker, json.dumps(question), self.limit_seconds)
            if not line.endswith("\n"):  # the worker was ended, perhaps in the middle of a reply
                self._stop()
                return None
        answer: dict[str, Any] = json.loads(line)
        if problem := answer.get("error"):
            raise TaskError(problem, where=self.worker, remedy=answer.get("remedy", ""))
        return answer

    def close(self) -> None:
        """End the worker; the next question starts another."""
        with self._lock:
            self._stop()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-P", str(self.worker), str(self.memory_bytes)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            if not self._answer(self._process, "null", 120.0):
                self._stop()
                raise TaskError(
                    "a worker process does not start",
                    where=" ".join(command),
                    remedy="run that command to see why; it waits for input when all is well",
                )
        return self._process

    @staticmethod
    def _answer(worker: subprocess.Popen[str], question: str, limit_seconds: float) -> str:
        """Send one line and read one; the timer ends a worker that is too slow, which ends the read."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        timer = threading.Timer(limit_seconds, worker.kill)
        timer.start()
        try:
            worker.stdin.write(question + "\n")
            worker.stdin.flush()
            return worker.stdout.readline()
        except OSError:
            return ""
        finally:
            timer.cancel()

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer questions until the input ends; run by the worker, under the limit of memory that it was started with.

    An exception in `answer` counts as no result.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # libraries may print
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        memory_bytes = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reply = {} if question is None else answer(question)
        except TaskError as error:
            reply = {"error": error.what, "remedy": error.remedy}
        except (Exception, RecursionError):
            reply = {}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
