"""Sweeps on a real Ray cluster of two nodes: the bytes of one engine, whatever is killed. `make test-ray` runs these."""

import errno
import json
import os
import signal
import socket
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import live
import tiny
from bench import Bench, content, script_at
from forked import APART
from interpole.actors import Actors
from interpole.cli import app
from interpole.errors import OutputError, RunError
from interpole.lab import shipped
from interpole.lab.recipe import Body
from interpole.lab.studies import conduct as conducting
from interpole.lab.studies import scale
from interpole.lab.studies.bench import weight_rows
from interpole.lab.studies.conduct import conduct, workers
from interpole.lab.studies.study import SMOKE, Case
from interpole.runs import samples
from interpole.runs.progress import Progress
from interpole.runs.runfile import UNITS
from interpole.search import optuna_search as search
from interpole.search.space import SpaceFile
from interpole.sweep import cluster as clustering
from interpole.sweep import run as sweep
from interpole.sweep import units
from interpole.sweep.cluster import NODES, Cluster, engines, needs, written

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ray = pytest.importorskip("ray", reason="Ray is not installed")

LAMBDAS = (0.0, 0.5, 1.0)
SAMPLES, UNIT = 8, 16  # 32 responses at a λ: two units
IN_FLIGHT = 4  # at one engine
SCRIPT = script_at(LAMBDAS)


@pytest.fixture(scope="module")
def cluster():
    """A head that runs nothing, and a node with room for one engine; `with cluster.node()` adds one, and one stays."""
    from ray.cluster_utils import Cluster as RayCluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # 15 is no share of a busy machine
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    made = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.add_node(num_cpus=1, object_store_memory=80 << 20)

    @contextmanager
    def node():
        added = made.add_node(num_cpus=1, object_store_memory=80 << 20)
        try:
            yield
        finally:
            gone = [one for one in made.worker_nodes if not one.remaining_processes_alive()]
            made.remove_node(gone[0] if gone else added, allow_graceful=False)

    made.node = node
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(units, "UNIT_RESPONSES", UNIT)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.write(SCRIPT)
    return bench


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What one engine makes."""
    bench = Bench(tmp_path_factory.mktemp("one"))
    bench.write(SCRIPT)
    sweep.run(config_of(bench), bench.out)
    return content(bench.out)


def config_of(bench, **changes):
    options = bench.config().engine_options | {"rows": 1, "step_seconds": 0.03}
    settings = {"lambdas": list(LAMBDAS), "samples": SAMPLES, "concurrency": IN_FLIGHT, "engine_options": options}
    return bench.config(**settings | changes)


def on_ray(address, bench, on_progress=lambda _: None, **changes):
    config = config_of(bench, **changes)
    with engines(config, bench.out, address, pending_seconds=400) as actors:
        return sweep.run(config, bench.out, on_progress, crew=Cluster(actors))


def nodes(bench):
    return [json.loads(line) for line in (bench.out / NODES).read_text().splitlines()]


def asked_twice(bench):
    return [line for line, times in Counter(bench.generated).items() if times > 1]


def test_two_nodes_make_the_bytes_of_one_engine_and_say_which_did_what(cluster, bench, expected):
    with cluster.node():
        said = []
        summary = on_ray(cluster.address, bench, said.append)
    assert content(bench.out) == expected
    assert (summary.num_generated, summary.failed) == (96, ())
    assert summary.num_tokens == sum(one.num_tokens for one in samples.read(bench.out))
    did = nodes(bench)
    assert len({line["node"] for line in did}) == 2
    assert sum(line["num_generated"] for line in did) == 96
    assert sorted((line["point"], *line["questions"]) for line in did) == [
        (point, *questions) for point in ("λ=0", "λ=0.5", "λ=1") for questions in ((1, 2), (3, 4))
    ]
    assert all(f"done on {line['node']}" in " ".join(p.message for p in said) for line in did)
    assert [p.done for p in said][-1] == 96
    assert [(p.task, p.part_total) for p in said if p.message.startswith("λ")] == [("units", 6)] * 12
    assert [p.part_done for p in said][-1] == 6
    assert any(p.seconds_left for p in said if p.part_done == 0)
    rates = Progress.load(bench.out).engines
    assert {rate.name for rate in rates} == {line["node"] for line in did}
    assert sum(rate.num_answers for rate in rates) == 96
    assert sum(rate.num_loads for rate in rates) <= 4  # three points on two engines: one is shared at the end
    assert not (bench.out / UNITS).exists()
    assert [one.num_present for one in sweep.plan(config_of(bench), bench.out)] == [32] * 3
    assert on_ray(cluster.address, bench).num_generated == 0


class Killing:
    """Told of a sweep's progress; kills once, after so many answers."""

    def __init__(self, num, find):
        self.num, self.find, self.messages, self.killed = num, find, [], []

    def __call__(self, progress):
        self.messages.append(progress.message)
        if progress.done >= self.num and not self.killed:
            self.killed = self.find()
            for process in self.killed:
                with suppress(psutil.NoSuchProcess):  # its parent was killed before
                    process.kill()


def is_called(name, process):
    """Whether this is an actor of ours: `ray::_Host`, and `ray::_Host.do` at an order."""
    with suppress(psutil.Error):
        return name in " ".join(process.cmdline())


def test_a_node_that_is_killed_costs_what_was_in_flight(cluster, bench, expected):
    def all_of_one():
        for node in cluster.worker_nodes:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            below = raylet.children(recursive=True)
            if any(is_called("ray::_Host.do", process) for process in below):
                return [*below, raylet]
        return []

    with cluster.node():
        killing = Killing(24, all_of_one)
        assert on_ray(cluster.address, bench, killing).failed == ()
    assert len(killing.killed) > 1
    assert any("is gone" in message for message in killing.messages)
    assert content(bench.out) == expected
    assert bench.num_generated - 96 <= IN_FLIGHT


def actors_here():
    """The processes of this cluster's engines: its nodes are children of ours."""
    return [process for process in psutil.Process().children(recursive=True) if is_called("ray::_Host", process)]


def test_an_actor_that_is_killed_is_replaced_and_what_it_answered_is_kept(cluster, bench, expected):
    killing = Killing(8, actors_here)
    assert on_ray(cluster.address, bench, killing).failed == ()
    assert len(killing.killed) == 1
    assert sum("is gone" in message for message in killing.messages) >= 2  # of the engine, and of its unit
    assert content(bench.out) == expected
    assert bench.num_generated - 96 <= IN_FLIGHT


def drive(address, bench):
    units.UNIT_RESPONSES = UNIT
    on_ray(address, bench)


def test_a_driver_that_is_killed_goes_on_from_what_is_on_disk(cluster, bench, expected):
    driver = APART.Process(target=drive, args=(cluster.address, bench))
    driver.start()
    bench.wait_until(lambda: bench.num_generated >= 40 or not driver.is_alive(), 400)
    driver.kill()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    assert {line["point"] for line in nodes(bench)} >= {"λ=0"}
    on_ray(cluster.address, bench)
    assert content(bench.out) == expected
    assert bench.num_generated - 96 <= IN_FLIGHT
    assert len({(line["point"], *line["questions"]) for line in nodes(bench)}) == 6


SPACE = """
sources: {{instruct: {pair.instruct}, thinking: {pair.thinking}}}
tasks: arithmetic
samples: 1
limit: 8
lambdas: [0, 1]
sampler: {{max_tokens: 60}}
engine_options: {{dtype: float32}}
space: {{lambda: [0.3, 1]}}
algorithm: tpe
trials: 6
batch: 3
finalists: 2
"""


def test_a_search_over_the_shipped_pair_tries_on_the_cluster_what_it_tries_here(cluster, tmp_path):
    (tmp_path / "space.yml").write_text(SPACE.format(pair=shipped()))
    file = SpaceFile.load(tmp_path / "space.yml")
    here = search.run(file, tmp_path / "here")
    killing = Killing(2, actors_here)
    with engines(file.sweep, tmp_path / "there", cluster.address) as actors:
        there = search.run(file, tmp_path / "there", on_progress=killing, actors=actors)
    assert there.num_trials == 6
    assert search.to_json(there) == search.to_json(here)
    assert len(killing.killed) == 1
    assert sum(", on " in message for message in killing.messages if message.startswith("trial")) == 6
    for run in ("held-out", "confirmed"):
        assert samples.read(tmp_path / "there" / run) == samples.read(tmp_path / "here" / run)
    assert not list((tmp_path / "there/answers").iterdir())


def test_a_study_has_the_table_that_it_has_here_though_a_worker_is_killed(cluster, tmp_path, monkeypatch):
    cases = [Case(Body("qwen3", 32, depth), seed) for depth, seed in ((1, 0), (1, 1), (2, 0))]
    study = replace(scale.STUDY, cases=lambda _: cases, measure=lambda bench, case: weight_rows(case, bench))
    monkeypatch.setattr(conducting, "save", lambda *_: None)
    here, there, said = tmp_path / "here", tmp_path / "there", []
    killed = []

    def tell(text):
        said.append(text)
        if text.startswith("measured") and not killed:
            killed.extend(actors_here())
            killed[0].kill()

    size = replace(SMOKE, most=None)
    conduct(study, here, size=size, at_most=2)
    with workers(there, size, cluster.address) as actors:
        found = conduct(study, there, size=size, at_most=2, tell=tell, actors=actors)
    assert (found.num_pairs, found.num_wanted) == (2, 3)
    assert any("is gone" in one for one in said)
    assert [one.split(" on ")[0] for one in said if one.startswith("measured")] == [
        f"measured {c.name}" for c in cases[:2]
    ]
    for name in ("results.csv", "page.md"):
        assert (there / study.name / name).read_bytes() == (here / study.name / name).read_bytes()
    assert {path.name for path in (there / "models").iterdir()} == {path.name for path in (here / "models").iterdir()}


def test_a_merge_on_two_nodes_is_the_folder_of_one_though_a_worker_is_killed(cluster, tmp_path, monkeypatch):
    ends = [
        tiny.write(tmp_path / name, tiny.tensors(seed, layers=4), template=live.TEMPLATE)
        for seed, name in enumerate(("instruct", "thinking"))
    ]
    command = ["merge", *map(str, ends), "--lambda", "0.3", "--shard-size", "3KB", "--no-doctor"]
    call = partial(CliRunner().invoke, app, catch_exceptions=False)
    assert call([*command, "--out", str(tmp_path / "here")]).exit_code == 0
    listen, killed = Actors._begin, []

    def killing(self, hand, answer):
        listen(self, hand, answer)
        if hand.state == "ready" and not killed:
            killed.extend(actors_here()[:1])
            killed[0].kill()

    monkeypatch.setattr(Actors, "_begin", killing)
    with cluster.node():
        told = call([*command, "--out", str(tmp_path / "there"), "--ray", cluster.address])
    assert told.exit_code == 0, told.output
    files = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert len([name for name in files if name.endswith(".safetensors")]) > 4
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()} == files
    assert "the worker on" in told.stderr
    assert "the folder is finished" in told.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "here", "instruct", "there", "thinking",
    ]  # fmt: skip


def test_a_full_disk_ends_the_sweep_at_the_first_unit_and_says_so(cluster, bench, expected, monkeypatch):
    def full(_tools, _config, out, _unit, name):
        with Path(out, "tries").open("a") as tries:
            tries.write("x")
        raise OSError(errno.ENOSPC, "No space left on device", str(Path(out, name)))

    with monkeypatch.context() as until_there_is_room:
        until_there_is_room.setattr(clustering, "do_unit", full)
        with pytest.raises(OutputError, match=r"disk full: No space left on device\n.*where: .*, on .*/"):
            on_ray(cluster.address, bench)
    assert (bench.out / "tries").read_text() == "x"
    on_ray(cluster.address, bench)
    assert content(bench.out) == expected


def test_a_cluster_without_room_is_an_error_that_says_what_is_needed(cluster, tmp_path):
    need = {"need": lambda _: {"CPU": 7.0}, "pending_seconds": 0.5}
    with (
        Actors(written, (), tmp_path, cluster.address, **need) as actors,
        pytest.raises(RunError, match="no node has room for the engine: it needs 7 CPU; the cluster has"),
    ):
        actors.versions()


def test_an_address_where_no_cluster_is_is_said_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # bound, so nobody else's, and not listening
        with pytest.raises(RunError, match=r"no Ray cluster can be joined: .*refused"):
            Actors(written, (), tmp_path, address).versions()


def test_an_engine_is_given_what_it_needs():
    from interpole.engines.registry import engine_kind

    kind = engine_kind
    assert needs(kind("transformers"), {}, True) == {"CPU": 1.0, "GPU": 1.0}
    assert needs(kind("transformers"), {"device": "cpu", "threads": 4}, True) == {"CPU": 4.0}
    assert needs(kind("vllm"), {"tensor_parallel_size": 4}, True) == {"CPU": 1.0, "GPU": 4.0}
    assert needs(kind("vllm"), {"tensor_parallel_size": 4}, False) == {"CPU": 1.0}
    assert needs(kind("openai"), {}, True) == {"CPU": 1.0}
