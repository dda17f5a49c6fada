"""The worker behind `grading.regex`: a regular expression may backtrack for ever, so it is run by `Guarded`.

Questions: {"pattern", "text"}; answers: {"found", "answer"}, or {"invalid": why} where the pattern does not compile.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from interpole.guarded import serve

__all__ = []


def _search(question: dict[str, Any]) -> dict[str, Any]:
    """Search a text for a pattern; its first group, if it has one, is the answer."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pattern = re.compile(question["pattern"])
    except (re.error, OverflowError, RecursionError) as error:
        return {"invalid": "nested too deep" if isinstance(error, RecursionError) else str(error)}
    match = pattern.search(question["text"])
    answer = (match[1] if pattern.groups else match[0]) if match else None
    return {"found": match is not None, "answer": answer}


if __name__ == "__main__":
    serve(_search)
