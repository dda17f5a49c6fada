"""Engines in processes that are forked from one with all imports done, in place of started ones: the same child, seconds sooner.

Importing torch and transformers takes a child several seconds. Here the server of `multiprocessing` does it once, for all test
workers. `Popen` stands in for the one that `engines.process` calls; whatever is no child of ours is started as ever.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

PIPE = subprocess.PIPE
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(
    [
        "IPython",  # Inspect looks for a notebook
        "inspect_ai._eval.eval",
        "inspect_ai.agent._acp.server",
        "interpole.engines.child",
        "interpole.engines.scripted",
        "interpole.engines.transformers",
        "interpole.serve.run",
        "interpole.sweep.run",
        "interpole.tasks.inspect",
        "transformers.models.qwen2.tokenization_qwen2",
        "transformers.models.qwen3.modeling_qwen3",
    ]
)


def server():
    """Start the server from this process; its address, for others to `use`."""
    forkserver.ensure_running()
    return forkserver._forkserver._forkserver_address


def use(address):
    """Have the server at this address fork what this process starts; `multiprocessing` itself gives each process its own."""
    own = forkserver._forkserver
    own._forkserver_address, own._forkserver_alive_fd = address, os.pipe()[1]
    own.ensure_running = resource_tracker.ensure_running


def Popen(command, **options):  # noqa: N802
    """A child of ours (`python -m interpole…`), forked, or any other program, started."""
    words = [*command]
    words = words[words.index("-m") + 1 :] if words[0] == sys.executable and "-m" in words else [""]
    if words[0].partition(".")[0] == "interpole":
        return _Forked(words, options.get("stderr"), options.get("env"))
    return subprocess.Popen(command, **options)


class _Forked:
    """What `engines.process` and `cli.lab` use of `subprocess.Popen`."""

    def __init__(self, words, log, environ):
        orders, stdin = APART.Pipe(duplex=False)
        stdout, answers = APART.Pipe(duplex=False)
        errors = Connection(os.dup(log.fileno() if log else 2), readable=False)
        ends = (orders, answers, errors)
        self._process = APART.Process(
            target=_run, args=(*ends, words, dict(environ or os.environ), Path.cwd()), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid
        for end in ends:
            end.close()
        self.stdin = os.fdopen(os.dup(stdin.fileno()), "w", encoding="utf-8")
        self.stdout = os.fdopen(os.dup(stdout.fileno()), encoding="utf-8")
        stdin.close()
        stdout.close()

    def kill(self):
        self._process.kill()

    def terminate(self):
        self._process.terminate()

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


def _run(orders, answers, log, words, environ, folder):
    """The child, from where `python -m` would begin."""
    for number, end in enumerate((orders, answers, log)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__")
