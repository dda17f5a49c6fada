"""Downloads from a hub over HTTP; uploads to one that only writes down what it is asked."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from hub_server import serving
from interpole.cli import app
from interpole.lab import shipped
from interpole.merging.recipe import Recipe

PAIR = shipped().instruct, shipped().thinking


class FakeHub:
    """What `HfApi` is asked to do, in order."""

    calls = ()
    refuses = ()

    def __getattr__(self, name):
        def call(*args, **kwargs):
            if name in self.refuses:
                raise ConnectionError(f"{name} refused\nwith a trail")
            files = sorted(path.name for path in kwargs["folder_path"].iterdir()) if name == "upload_folder" else None
            self.calls.append((name, args[0] if args else kwargs.get("repo_id"), files))
            return f"https://hub/{kwargs.get('repo_id')}"

        return call


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    return FakeHub


def merge(pair, out, *options):
    paths = [str(path) for path in pair]
    return CliRunner().invoke(
        app, ["merge", *paths, "-o", str(out), "--no-doctor", "--push-to-hub", "me/mix", *options]
    )


def test_a_merge_is_uploaded_whole_with_its_card(pair, tmp_path, hub):
    result = merge(pair, tmp_path / "out", "-l", "0.5")
    assert result.exit_code == 0, result.output
    assert "https://hub/me/mix" in result.output
    assert [call[:2] for call in hub.calls] == [
        ("whoami", None),
        ("create_repo", "me/mix"),
        ("upload_folder", "me/mix"),
    ]
    assert set(hub.calls[-1][2]) >= {"README.md", "config.json", "interpole_recipe.yml", "model.safetensors.index.json"}


def test_several_points_go_to_a_repository_each(pair, tmp_path, hub):
    result = merge(pair, tmp_path / "out", "-l", "0.25,0.5")
    assert result.exit_code == 0, result.output
    assert [repo for name, repo, _ in hub.calls if name == "upload_folder"] == ["me/mix-0.25", "me/mix-0.5"]


def test_without_a_login_nothing_is_merged(pair, tmp_path, hub, monkeypatch):
    monkeypatch.setattr(hub, "refuses", ("whoami",))
    result = merge(pair, tmp_path / "out", "-l", "0.5")
    assert "cannot upload: whoami refused" in str(result.exception or result.output)
    assert not (tmp_path / "out").exists()


def test_a_refused_upload_leaves_the_folder(pair, tmp_path, hub, monkeypatch):
    monkeypatch.setattr(hub, "refuses", ("upload_folder",))
    result = merge(pair, tmp_path / "out", "-l", "0.5")
    assert "upload_folder refused" in str(result.exception or result.output)
    assert "trail" not in str(result.exception or result.output)
    assert json.loads((tmp_path / "out/config.json").read_text())


@pytest.fixture
def command(pair, tmp_path):
    """Runs `interpole` against a hub that has the tiny pair and AIME'25; and what was fetched from it."""
    problems = tmp_path / "problems"
    problems.mkdir()
    for part in ("I", "II"):
        lines = [json.dumps({"question": f"{part}: {n} + 1 = ?", "answer": str(n + 1)}) for n in range(15)]
        (problems / f"aime2025-{part}.jsonl").write_text("\n".join(lines))
    repos = {
        ("models", "lab/instruct"): PAIR[0],
        ("models", "lab/thinking"): PAIR[1],
        ("models", "lab/other"): pair[1],
        ("datasets", "opencompass/AIME2025"): problems,
    }
    with serving(repos) as (url, served):

        def run(*arguments, offline="0"):
            here = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": offline}
            interpole = [sys.executable, "-m", "interpole", *map(str, arguments)]
            return subprocess.run(interpole, capture_output=True, text=True, env=os.environ | here, timeout=120)

        yield run, served


def test_the_doctor_asks_a_hub_for_headers_only(command):
    run, served = command
    asked = run("doctor", "lab/instruct", "lab/thinking", "--json")
    local = run("doctor", *PAIR, "--json")
    assert asked.returncode == local.returncode == 0, asked.stderr
    findings, expected = (json.loads(answer.stdout)["findings"] for answer in (asked, local))
    assert [finding["code"] for finding in findings] == [finding["code"] for finding in expected]
    weights = [num_bytes for name, num_bytes in served if name.endswith(".safetensors")]
    assert weights
    assert max(weights) <= 100_001 < (PAIR[0] / "model.safetensors").stat().st_size  # what the library takes of a file


def test_a_pair_that_cannot_be_merged_is_refused_before_its_weights_are_downloaded(command, tmp_path):
    run, served = command
    done = run("merge", "lab/instruct", "lab/other", "-l", "0.6", "-o", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "stopped" in done.stderr
    assert max(num_bytes for name, num_bytes in served if name.endswith(".safetensors")) <= 100_001


def test_two_hub_ids_are_downloaded_merged_and_found_again_offline(command, tmp_path):
    run, _ = command
    done = run("merge", "lab/instruct", "lab/thinking", "-l", "0.6", "-o", tmp_path / "from-hub")
    assert done.returncode == 0, done.stderr
    assert (
        run("merge", "lab/instruct", "lab/thinking", "-l", "0.6", "-o", tmp_path / "again", offline="1").returncode == 0
    )
    recipe = Recipe.load(tmp_path / "from-hub/interpole_recipe.yml")
    assert all(re.fullmatch("[0-9a-f]{40}", source.revision) for source in recipe.sources.values())
    assert recipe == Recipe.load(tmp_path / "again/interpole_recipe.yml")
    run("merge", *PAIR, "-l", "0.6", "-o", tmp_path / "local")
    for path in (tmp_path / "local").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "from-hub" / path.name).read_bytes()
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_repository_that_is_not_there_is_a_clear_error(command, tmp_path):
    run, _ = command
    for asked in (("doctor",), ("merge", "-l", "0.6", "-o", tmp_path / "out")):
        done = run(asked[0], "lab/instruct", "lab/none", *asked[1:])
        assert done.returncode == 1
        assert "cannot get lab/none" in done.stderr
        assert "Repository Not Found" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_benchmarks_problems_are_fetched_from_the_hub(command, tmp_path):
    run, served = command
    asked = ("--task", "aime25", "-k", "2", "--lambda", "0,1", "--dry-run", "--out", tmp_path / "run")
    done = run("sweep", "lab/instruct", "lab/thinking", *asked)
    assert done.returncode == 0, done.stderr
    assert {"aime2025-I.jsonl", "aime2025-II.jsonl"} <= {name for name, _ in served}
    assert "120" in done.stdout  # 30 problems, twice, at two λ


def test_an_upload_that_is_killed_goes_on_by_the_command_that_it_said_and_sends_nothing_twice(tmp_path):
    """By LFS; with Xet the hub's library commits in batches, and the server keeps its pieces."""
    stall = SimpleNamespace(places=threading.Semaphore(2), over=threading.Event())
    faults, there, out = {"stall": stall}, tmp_path / "there", tmp_path / "out"
    there.mkdir()
    with serving({("models", "me/mix"): there}, faults) as (url, sent):
        here = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1"}
        options = {"env": os.environ | here, "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
        words = ["-l", "0.6", "-o", out, "--shard-size", "200KB", "--push-to-hub", "me/mix", "--no-doctor"]
        killed = subprocess.Popen([sys.executable, "-m", "interpole", "merge", *map(str, (*PAIR, *words))], **options)
        until = time.monotonic() + 60
        while len(sent) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        killed.kill()
        said = killed.communicate()[1]
        assert len(sent) == 2
        assert [path.name for path in there.iterdir()] == [".lfs"]  # nothing is committed yet
        del faults["stall"]
        stall.over.set()
        hf, *words = shlex.split(said.rsplit("goes on by: ")[1].splitlines()[0])
        done = subprocess.run([Path(sys.executable).with_name(hf), *words], **options)
        assert done.returncode == 0, done.stderr
    weights = {hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.safetensors")}
    assert sorted(name for name, _ in sent) == sorted(weights)
    assert len(weights) > 3
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in there.iterdir() if path.name != ".lfs"
    }
