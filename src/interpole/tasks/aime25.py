r"""AIME 2025: thirty problems whose answers are integers from 0 to 999.

Prompt and `paper` grading follow the paper's protocol (docs/paper.md); `robust` reads the last box.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, ConfigDict, Field

from interpole.errors import TaskError
from interpole.packages import require
from interpole.records import Problem, Sampler
from interpole.schema import Strict, validated
from interpole.tasks.benchmark import Benchmark, TaskRequest
from interpole.tasks.data import Text, TextOrNumber, distinct, fetch, read_jsonl
from interpole.tasks.grading import check_math, math_paper, math_robust

__all__ = ["SAMPLER", "load"]

SAMPLER = Sampler(temperature=0.6, top_p=0.95, top_k=20, max_tokens=81_920)
_REPO, _FILES = "opencompass/AIME2025", {"I": "aime2025-I.jsonl", "II": "aime2025-II.jsonl"}
_REMEDY = 'give a local jsonl with "question" and "answer": --data aime25.jsonl'


def load(request: TaskRequest) -> Benchmark:
    """Make the benchmark from the hub, or from a jsonl with `question`, `answer` and optional `id`."""
    request.refuse("aime25", "split", "grader", "prompt")
    require("math_verify", TaskError)
    problems = request.problems
    if problems is None:
        problems = _from_file(request.data) if request.data else _from_hub()
    return Benchmark(
        "aime25",
        problems[: request.limit],
        lambda problem: (
            f"{problem.question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
        ),
        {"paper": math_paper, "robust": math_robust},
        k=64,
        sampler=SAMPLER,
    )


def _from_hub() -> tuple[Problem, ...]:
    parts = ((part, fetch(_REPO, file, _REMEDY)) for part, file in _FILES.items())
    return tuple(problem for part, path in parts for problem in _from_file(path, f"{part}-"))


class _Row(Strict):
    """One line of the data; fields besides these have no meaning here."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    question: Text = Field(validation_alias=AliasChoices("question", "problem"), min_length=1)
    answer: TextOrNumber
    id: TextOrNumber | None = Field(None, min_length=1)


def _from_file(path: Path, prefix: str = "") -> tuple[Problem, ...]:
    found = []
    for number, (place, content) in enumerate(read_jsonl(path), 1):
        if not (content.get("question") or content.get("problem")) or content.get("answer") in (None, ""):
            what = f"a row needs question and answer; it has {', '.join(content) or 'nothing'}"
            raise TaskError(what, where=place, remedy=_REMEDY)
        row = validated(_Row, content, place, TaskError, _REMEDY)
        problem = Problem(row.id or f"{prefix}{number}", row.question, row.answer)
        if not problem.answer.strip().isdecimal():
            check_math(problem, place)
        found.append((place, problem))
    return distinct(found)
