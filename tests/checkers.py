"""IFEval with its real checkers, for tests; skips where they are not installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from interpole import tasks
from interpole.errors import TaskError

DATA = Path(__file__).parent / "data/ifeval"


def real_checkers():
    if find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed (docs/tasks.md says how)")
    try:
        return tasks.load("ifeval", data=DATA / "ifeval_input_data.jsonl")
    except TaskError as error:
        pytest.skip(str(error))
