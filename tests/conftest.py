import functools
import gc
import ssl
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import typer.main
import typer.testing

sys.path.insert(0, str(Path(__file__).parent))

import forked
import tiny

DATA = Path(__file__).parent / "data"
gc.disable()  # until all tests are imported: among some 800,000 objects there is no garbage to look for

with suppress(ImportError):  # the environment of vLLM has no hypothesis
    from hypothesis import settings

    settings.register_profile("no timings", deadline=None)  # a busy machine is no fault
    settings.load_profile("no timings")


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_configure_node(node):
    """Tell a test worker of the server that forks processes for all of them."""
    node.workerinput["forks"] = forked.server()


def pytest_configure(config):
    """In a test worker of xdist: use that server."""
    if "forks" in getattr(config, "workerinput", {}):
        forked.use(config.workerinput["forks"])


@pytest.fixture
def data():
    """The folder of reference data: mergekit's merges, IFEval."""
    return DATA


def pytest_collection_modifyitems(items):
    """The longest tests come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Collect garbage from here on, but not among what was imported."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter):
    """Say in one line what was skipped, and what would run it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        told = "; ".join(f"{num} × {reason}" for reason, num in reasons.most_common())
        terminalreporter.write_line(f"not run here: {told}")


@pytest.fixture(scope="session", autouse=True)
def forked_engines():
    """Engines of this process are forked with their imports done; `tests/engines/test_engines.py` starts them as users do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interpole.engines.process.subprocess", forked)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_tls_context():
    """Every client of HTTP reads the certificates of all authorities when it is made, for 50 ms; no test speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_command_line():
    """The parsers of all commands, which typer's runner makes anew for every call, for 40 ms, are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def pair(tmp_path):
    """Paths of a tiny Instruct/Thinking pair whose shards are laid out differently."""
    instruct = tiny.write(tmp_path / "instruct", tiny.tensors(0), shards=2)
    thinking = tiny.write(tmp_path / "thinking", tiny.tensors(1), shards=3, reverse=True)
    return instruct, thinking
