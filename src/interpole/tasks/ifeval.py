"""IFEval: 541 prompts with instructions that a program can check; a prompt passes when all of its instructions do.

The checkers are those of lm-evaluation-harness (`interpole[ifeval]`), run in a guarded process and seeded per prompt,
so that grading again gives the same result. The metric is prompt-level strict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from interpole.chat import ParsedResponse
from interpole.errors import TaskError
from interpole.guarded import Guarded
from interpole.packages import require
from interpole.records import Problem, Sampler
from interpole.schema import Strict, validated
from interpole.tasks.benchmark import Benchmark, Grade, TaskRequest, as_the_paper_reads, final_text
from interpole.tasks.data import Text, distinct, fetch, read_jsonl

__all__ = ["SAMPLER", "load"]

SAMPLER = Sampler(temperature=0.6, top_p=0.95, top_k=20, max_tokens=65_536)
_CHECKERS = Guarded(Path(__file__).with_name("ifeval_worker.py"), limit_seconds=30.0)
_REMEDY = "give the published file: --data ifeval_input_data.jsonl"


def load(request: TaskRequest) -> Benchmark:
    """Make the benchmark from the hub, or from a jsonl in the published form."""
    request.refuse("ifeval", "split", "grader", "prompt")
    for module in ("lm_eval", "langdetect", "immutabledict", "nltk"):
        require(module, TaskError)
    if _CHECKERS.ask(ready=True) is None:
        raise TaskError("IFEval's checkers do not load", remedy="run `python -c 'import nltk, langdetect'` to see why")
    problems = request.problems
    if problems is None:
        problems = _read(request.data or fetch("google/IFEval", "ifeval_input_data.jsonl", _REMEDY))
    return Benchmark(
        "ifeval",
        problems[: request.limit],
        lambda problem: problem.question,
        {"paper": _strict_paper, "robust": _strict_robust},
        k=8,
        sampler=SAMPLER,
    )


def _strict_paper(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Check what follows `</think>`, or the whole response: an unclosed monologue is graded as the answer."""
    return _strict(problem, as_the_paper_reads(parsed))


def _strict_robust(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Check the final text; a thought that was cut off has none, and fails."""
    return _strict(problem, final_text(parsed))


def _strict(problem: Problem, text: str) -> Grade:
    """Grade by the checkers; there is no short answer to vote on, so `answer` is None."""
    if not text.strip():
        return Grade(0.0, None)
    reply = _CHECKERS.ask(prompt=problem.question, key=int(problem.id), response=text, **problem.metadata) or {}
    return Grade(float(bool(reply.get("passes"))), None)


class _Row(Strict):
    """One line of the published file; fields besides these have no meaning here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key: int = Field(strict=True)
    prompt: Text = Field(min_length=1)
    instruction_id_list: list[Text] = Field(min_length=1)
    kwargs: list[dict[str, Any]]

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.kwargs) != len(self.instruction_id_list):
            raise ValueError(f"{len(self.instruction_id_list)} instructions, but kwargs for {len(self.kwargs)}")
        return self


def _read(path: Path) -> tuple[Problem, ...]:
    found = []
    for place, content in read_jsonl(path):
        if missing := [name for name in _Row.model_fields if name not in content]:
            raise TaskError(f"the row has no {', '.join(missing)}", where=place, remedy=_REMEDY)
        row = validated(_Row, content, place, TaskError, _REMEDY)
        instructions = {"instruction_id_list": row.instruction_id_list, "kwargs": row.kwargs}
        found.append((place, Problem(str(row.key), row.prompt, "", metadata=instructions)))
    return distinct(found)
