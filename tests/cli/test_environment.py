"""`interpole env`, and what asks for it: faults that nobody expected."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import interpole
from bench import call
from interpole.diagnostics import environment as looking
from interpole.engines.registry import BUILT_IN

LAST = "this is a fault of Interpole's: please report it with the lines above, and attach what `interpole env` prints"


def told(*flags):
    return call("env", *flags)


def test_what_is_told_is_what_the_machine_and_the_packages_say(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    found = json.loads(told("--json"))
    assert found["interpole"] == interpole.__version__
    assert found["python"].startswith(platform.python_version())
    assert found["packages"]["numpy"] == version("numpy")
    assert not {"pytest", "ruff", "interpole"} & {*found["packages"]}
    assert found["variables"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert {*BUILT_IN} <= {*found["engines"]}
    assert all(place["free_bytes"] > 0 for place in found["places"].values())
    text = told()
    assert all(f"\n{name} " in f"\n{text}" for name in ("interpole", "Python", "system", "engine vllm", "hub cache"))
    assert str(Path.home()) + os.sep not in text.replace(str(Path.cwd()), "")


def test_an_engine_that_is_not_there_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(looking, "version", lambda name: (_ for _ in ()).throw(looking.PackageNotFoundError(name)))
    found = json.loads(told("--json"))["engines"]
    assert found["vllm"] == {
        "packages": {"vllm": None, "torch": None},
        "found": False,
        "remedy": "pip install 'interpole[vllm]'",
    }
    assert found["scripted"]["found"]
    assert "pip install 'interpole[transformers]'" in told()


@pytest.mark.parametrize("broken", [False, True])
def test_gpus_are_those_that_the_driver_lists(tmp_path, monkeypatch, broken):
    program = tmp_path / "nvidia-smi"
    lines = "exit 9" if broken else "echo 'NVIDIA H200, 143771 MiB, 570.1'; echo 'NVIDIA H200, 143771 MiB, 570.1'"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    text = told()
    if broken:
        assert "nvidia-smi fails" in text
    else:
        assert "GPU 1  " in text
        assert text.count("NVIDIA H200, 143771 MiB, 570.1") == 2
    monkeypatch.setattr(looking.shutil, "which", lambda _: None)
    assert json.loads(told("--json"))["gpus"] == []


def test_neither_torch_nor_transformers_is_imported_for_it():
    code = "import sys; sys.argv[1:] = ['env']\nfrom interpole.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(*sorted({'torch', 'transformers', 'inspect_ai', 'vllm'} & {*sys.modules}), sep=',')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("\n\n")


@pytest.mark.parametrize(
    "fault", ["RuntimeError('no such luck')", "ModuleNotFoundError('No module named x', name='x')"]
)
def test_the_last_line_of_an_unexpected_error_asks_for_it(fault):
    code = f"import sys; sys.argv[1:] = ['recipe', 'presets']\nimport interpole.cli.commands as c\ndef app(): raise {fault}\n"
    code += "c.app = app\nfrom interpole.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1] == LAST


def test_an_error_of_ours_does_not_ask_for_it(tmp_path):
    command = [sys.executable, "-m", "interpole", "score", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "interpole env" not in done.stderr


def test_a_shell_that_asks_is_told_commands_and_options():
    environ = os.environ | {"_INTERPOLE_COMPLETE": "complete_bash", "COMP_WORDS": "interpole me", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'interpole'\nfrom interpole.cli import main\nmain()"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["merge"], done.stderr
