"""IFEval: 541 prompts with instructions that a program can check; a prompt passes when all of its instructions do.

The checkers are those of lm-evaluation-harness (`interpole[ifeval]`), run in a guarded process and seeded per prompt,
so that grading again gives the same result. The metric is prompt-level strict.
"""

from __future__ import annotations

from pathlib import Path

from interpole.chat import Trace
from interpole.errors import TaskError
from interpole.records import Problem, Sampler
from interpole.tasks.benchmark import Benchmark, Grade, Request, as_the_paper_reads, final_text
from interpole.tasks.data import fetch, read_jsonl
from interpole.tasks.guarded import Guarded, require

__all__ = ["SAMPLER", "load", "strict_paper", "strict_robust"]

SAMPLER = Sampler(temperature=0.6, top_p=0.95, top_k=20, max_tokens=65_536)
_CHECKERS = Guarded("interpole.tasks.ifeval_worker", limit_seconds=30.0)
_FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
_REMEDY = "give the published file: --data ifeval_input_data.jsonl"


def load(request: Request) -> Benchmark:
    """Make the benchmark from the hub, or from a jsonl in the published form."""
    request.refuse("ifeval", "split", "grader", "prompt")
    for module in ("lm_eval", "langdetect", "immutabledict", "nltk"):
        require(module, "ifeval")
    if _CHECKERS.ask(ready=True) is None:
        raise TaskError("IFEval's checkers do not load", remedy="run `python -c 'import nltk, langdetect'` to see why")
    problems = request.problems
    if problems is None:
        problems = _read(request.data or fetch("google/IFEval", "ifeval_input_data.jsonl", _REMEDY))
    return Benchmark(
        "ifeval",
        problems[: request.limit],
        lambda problem: problem.question,
        {"paper": strict_paper, "robust": strict_robust},
        k=8,
        sampler=SAMPLER,
    )


def strict_paper(problem: Problem, trace: Trace) -> Grade:
    """Check what follows `</think>`, or the whole response: an unclosed monologue is graded as the answer."""
    return _strict(problem, as_the_paper_reads(trace))


def strict_robust(problem: Problem, trace: Trace) -> Grade:
    """Check the final text; a thought that was cut off has none, and fails."""
    return _strict(problem, final_text(trace))


def _strict(problem: Problem, text: str) -> Grade:
    """Grade by the checkers; there is no short answer to vote on, so `answer` is None."""
    if not text.strip():
        return Grade(0.0, None)
    reply = _CHECKERS.ask(prompt=problem.question, key=int(problem.id), response=text, **problem.metadata) or {}
    return Grade(float(bool(reply.get("passes"))), None)


def _read(path: Path) -> tuple[Problem, ...]:
    problems = []
    for place, row in read_jsonl(path):
        if missing := [name for name in _FIELDS if name not in row]:
            raise TaskError(f"the row has no {', '.join(missing)}", where=place, remedy=_REMEDY)
        instructions = {"instruction_id_list": row["instruction_id_list"], "kwargs": row["kwargs"]}
        problems.append(Problem(str(int(row["key"])), row["prompt"], "", metadata=instructions))
    return tuple(problems)
