"""Units that a worker does and a run takes over, where the disk fills up; Ray itself is in test_ray.py."""

import errno
import json
from pathlib import Path

import pytest
from inspect_ai.log._recorders import eval as inspect_log

from bench import Bench
from interpole.actors import Done, _Host
from interpole.errors import OutputError
from interpole.sweep import cluster
from interpole.sweep import run as sweep
from interpole.sweep.cluster import NODES, Cluster, EngineTools, written


class Here:
    """One worker, in this process."""

    report = print

    def __init__(self, config):
        self.host = _Host(str(Path.cwd()))
        self.host._tools = EngineTools(written(config))

    def versions(self, _):
        return self.host._tools.versions()

    def work(self, give, _):
        while (order := give(0)) is not None:
            answer, problem, full = self.host.do(order)
            if full is not None:
                raise full
            yield Done(order, 0, "here", answer, problem)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "node_name", lambda: "here")
    return Bench(tmp_path)


def swept(bench):
    config = bench.config()
    crew = Here(config)
    with crew.host._tools.pool:
        return sweep.run(config, bench.out, crew=Cluster(crew))


def full(*_args, **_names):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["at the worker", "here"])
def test_a_disk_that_fills_up_ends_the_sweep_and_neither_an_answer_nor_a_unit_is_lost(bench, monkeypatch, where):
    def into_our_run(path, content, **options):
        return full() if path.suffix == ".eval" else write(path, content, **options)

    def once_answers_are_there(*arguments):
        return full() if bench.num_generated else copy(*arguments)

    write, copy = sweep.write_atomic, inspect_log._copy_temp_to_local
    with monkeypatch.context() as until_there_is_room:
        if where == "here":
            until_there_is_room.setattr(sweep, "write_atomic", into_our_run)
        else:
            until_there_is_room.setattr(inspect_log, "_copy_temp_to_local", once_answers_are_there)
        with pytest.raises((OutputError, OSError), match="No space left on device"):
            swept(bench)
    assert bench.num_generated == 8  # of the first unit
    assert swept(bench).failed == ()
    assert bench.num_generated == len(bench.read()) == 3 * 8
    did = [json.loads(line)["point"] for line in (bench.out / NODES).read_text().splitlines()]
    assert did == ["λ=0", "λ=0.5", "λ=1"]
