"""The worker behind `ifeval`: the checkers of lm-evaluation-harness, run by `Guarded`.

Only their own folder is imported: `lm_eval.tasks` itself would load the whole harness with `datasets` and more. They
draw at random where a prompt leaves a choice open (a letter, a keyword), so each question seeds them with its key.

Questions: {"ready": true}, or {"prompt", "key", "response", "instruction_id_list", "kwargs"}; answers: {"passes"}.
"""

from __future__ import annotations

import importlib
import random
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from interpole.errors import TaskError
from interpole.guarded import serve

__all__ = []


def _check(question: dict[str, Any]) -> dict[str, Any]:
    """Say whether a response follows all instructions of its prompt, read strictly."""
    checkers = _checkers()
    if "ready" in question:
        return {}
    if unknown := set(question["instruction_id_list"]) - set(checkers.instructions_registry.INSTRUCTION_DICT):
        raise TaskError(f"no checker for {', '.join(sorted(unknown))}", remedy="use the published IFEval file")
    random.seed(question["key"])
    example = SimpleNamespace(**{name: question[name] for name in ("prompt", "key", "instruction_id_list", "kwargs")})
    seen = checkers.test_instruction_following_strict(example, question["response"])
    return {"passes": seen.follow_all_instructions}


@cache
def _checkers() -> Any:
    """Import `lm_eval.tasks.ifeval.utils` without its parent package's imports, with language detection seeded.

    Raises:
        TaskError: NLTK's sentence data is missing (the checkers would try to download it, and fail prompt by prompt).
    """
    import langdetect
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english")
    except LookupError:
        raise TaskError(
            "IFEval's checkers need NLTK's sentence data punkt_tab, which is not installed",
            remedy=f"{sys.executable} -m nltk.downloader punkt_tab",
        ) from None
    langdetect.DetectorFactory.seed = 0
    package = ModuleType("lm_eval.tasks")
    package.__path__ = [str(Path(folder) / "tasks") for folder in importlib.import_module("lm_eval").__path__]
    sys.modules["lm_eval.tasks"] = package
    return importlib.import_module("lm_eval.tasks.ifeval.utils")


if __name__ == "__main__":
    serve(_check)
