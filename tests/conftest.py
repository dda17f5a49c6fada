import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny

SHARED = Path(__file__).parents[2] / "shared/data"


@pytest.fixture
def shared():
    """The folder of reference data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("the reference data folder ../shared/data is not here")
    return SHARED


@pytest.fixture
def pair(tmp_path):
    """Paths of a tiny Instruct/Thinking pair whose shards are laid out differently."""
    instruct = tiny.write(tmp_path / "instruct", tiny.tensors(0), shards=2)
    thinking = tiny.write(tmp_path / "thinking", tiny.tensors(1), shards=3, reverse=True)
    return instruct, thinking
