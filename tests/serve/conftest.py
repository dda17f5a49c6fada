"""One server on the shipped pair for all tests of a session, and servers over an engine that is written."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'interpole[serve]'")
pytest.importorskip("torch", reason="torch is not installed")

from serving import running

from interpole.lab import shipped
from interpole.serve.levels import Levels, parse_efforts
from interpole.serve.run import Options, open_server

pytest.register_assert_rewrite("clients")
LEVELS = Levels(0.6, parse_efforts("low=0.4,medium=0.6,high=1"), "pair")


@pytest.fixture(scope="session")
def pair_server():
    """The tiny pair, loaded once."""
    pair = shipped()
    options = Options(port=0, engine={"dtype": "float32"}, max_rows=32)
    return open_server(str(pair.instruct), str(pair.thinking), LEVELS, options)


@pytest.fixture(scope="session")
def address(pair_server):
    """Where it is served."""
    with running(pair_server) as address:
        yield address


@pytest.fixture
def grouped_address():
    """Where the tiny pair is served with one copy of its weights."""
    pair = shipped()
    options = Options(port=0, engine={"dtype": "float32"}, group=True)
    with running(open_server(str(pair.instruct), str(pair.thinking), LEVELS, options)) as address:
        yield address
