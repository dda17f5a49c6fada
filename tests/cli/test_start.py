"""How the command line starts: Ctrl-C at any moment is quiet, and a package that is missing is named with what installs it."""

import subprocess
import sys

import pytest

from interpole.packages import remedy

START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            {what}
sys.meta_path.insert(0, Finder())
from interpole.cli import main
sys.argv = ["interpole", *{arguments!r}]
main()
"""


def started(name, what, *arguments):
    """The command line, where the import of a module does something."""
    code = START.format(name=name, what=what, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "name", ["interpole.cli.commands", "typer", "rich.table", "interpole.diagnostics.similarity", "numpy"]
)
def test_ctrl_c_while_modules_are_imported_ends_in_a_line(name):
    done = started(name, "os.kill(os.getpid(), signal.SIGINT)", "similarity", "a", "b")
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("interrupted; run the same command again to go on where it stopped\n")


def test_ctrl_c_that_becomes_another_error_ends_in_a_line():
    what = "raise ImportError('no numpy') from KeyboardInterrupt()"  # as the start of a C extension may do it
    done = started("numpy", what, "similarity", "a", "b")
    assert (done.returncode, "Traceback" in done.stderr) == (130, False)


def test_ctrl_c_waits_for_no_thread_that_hangs():
    what = "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); sys.exit(130)"
    assert started("numpy", what, "similarity", "a", "b").returncode == 130


@pytest.mark.parametrize("name", ["rich", "importlib.metadata", "pydantic", "numpy"])
def test_help_needs_nothing_that_is_slow_to_import(name):
    done = started(name, f"raise ImportError('no {name}')", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nWeights:\n  merge  " in done.stdout


@pytest.mark.parametrize(("name", "package"), [("inspect_ai", "inspect_ai"), ("torch", "'interpole[transformers]'")])
def test_a_package_that_is_not_installed_is_named_with_what_installs_it(name, package):
    what = "raise ModuleNotFoundError(f'No module named {name!r}', name=name)"
    flags = ["sweep", "a", "b", "--task", "arithmetic", "--limit", "1", "--out", "/nonexistent/run", "--no-doctor"]
    done = started(name, what, *flags)
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"error: this needs {name}, which is not installed\n  remedy: pip install {package}\n"


def test_a_failure_of_the_machine_ends_in_a_line_and_an_output_that_is_full_says_so():
    command = [sys.executable, "-m", "interpole", "recipe", "presets"]
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device that is always full)
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


@pytest.mark.parametrize(
    ("left", "of_extra", "of_package"),
    [
        ("venv/pyvenv.cfg", "pip install 'interpole[all]'", "pip install scipy"),
        ("tools/uv-receipt.toml", "uv tool install 'interpole[all]'", "uv tool install interpole --with scipy"),
        ("archive-v0/x1/pyvenv.cfg", "uvx 'interpole[all]' …", "uvx --with scipy interpole …"),
        ("venvs/pipx_metadata.json", "pipx install --force 'interpole[all]'", "pipx inject interpole scipy"),
    ],
)
def test_the_remedy_is_that_of_what_installed_the_program(tmp_path, monkeypatch, left, of_extra, of_package):
    (tmp_path / left).parent.mkdir(parents=True)
    (tmp_path / left).touch()
    monkeypatch.setattr(sys, "prefix", str((tmp_path / left).parent))
    assert (remedy("torch", "all"), remedy("scipy")) == (of_extra, of_package)
