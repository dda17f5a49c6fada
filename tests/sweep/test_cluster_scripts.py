"""The scripts of docs/cluster.md and howto/slurm.md, as a cluster runs them, with a program that notes how it was called."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from interpole.cli import app

PAGE, SLURM = (
    (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8") for name in ("cluster.md", "howto/slurm.md")
)
NUM = 8
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@pytest.fixture
def called(tmp_path):
    """Runs a command in an empty folder; returns how `interpole` was called in it."""
    program = tmp_path / "bin/interpole"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    (tmp_path / "there").mkdir()

    def run(command, **environ):
        (tmp_path / "calls").write_text("")
        path = f"{program.parent}:{os.environ['PATH']}"
        subprocess.run(command, cwd=tmp_path / "there", env=os.environ | environ | {"PATH": path}, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    run.folder = tmp_path / "there"
    return run


def block(language, page=PAGE):
    return re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1]


def options_of(calls):
    """Of calls of `sweep`: each --out with its --shard."""
    words = [call.split() for call in calls]
    assert all(call[:1] == ["sweep"] and CliRunner().invoke(app, [*call, "--help"]).exit_code == 0 for call in words)
    return {call[call.index("--out") + 1]: call[call.index("--shard") + 1] for call in words}


def test_the_slurm_array_does_every_shard_once_and_its_last_line_unites_them(called):
    script = called.folder / "sweep.sh"
    script.write_text(block("bash"))
    assert block("bash", SLURM) == script.read_text()
    first, last = map(int, re.search(r"#SBATCH --array=(\d+)-(\d+)", script.read_text()).groups())
    calls = [
        call for task in range(first, last + 1) for call in called(["bash", script], SLURM_ARRAY_TASK_ID=str(task))
    ]
    runs = options_of(calls)
    assert runs == {f"runs/x-{number}": f"{number}/{NUM}" for number in range(1, NUM + 1)}
    for run in runs:
        (called.folder / run).mkdir(parents=True)
    (line,) = re.findall(r"^    sbatch --wait sweep.sh && (.*)$", SLURM, re.MULTILINE)
    assert called(["bash", "-c", line]) == [f"runs merge {' '.join(runs)} --out runs/x"]


def test_the_indexed_job_does_every_shard_once_on_the_volume_that_it_mounts(called):
    spec = yaml.safe_load(block("yaml"))["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", NUM)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    calls = [
        call
        for index in range(spec["completions"])
        for call in called([*container["command"], *container["args"]], JOB_COMPLETION_INDEX=str(index))
    ]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    runs = options_of(calls)
    assert runs == {f"{mount['mountPath']}/x-{number}": f"{number}/{NUM}" for number in range(1, NUM + 1)}
    assert all(f" {mount['mountPath']}/sweep.yml " in call for call in calls)


def test_every_command_of_the_page_has_the_options_that_it_names():
    commands = re.findall(r"^    (?:sbatch [^&]*&& )?interpole (.*?)(?:\s+#.*)?$", PAGE + SLURM, re.MULTILINE)
    assert len(commands) >= 9
    for command in commands:
        words = command.split()
        told = CliRunner().invoke(
            app, [*words[: 2 if words[0] in ("runs", "lab") else 1], "--help"], terminal_width=200
        )
        assert told.exit_code == 0
        assert all(word in told.output for word in words if word.startswith("--")), command
