"""The tiny pair's benchmark: short sums in a row, `34 a-1 b-5 c*2 d-2 e+9 = ?`, worked from left to right.

The answer is right when what follows the thinking is the number and nothing else.
"""

from __future__ import annotations

import re

from interpole.chat import ParsedResponse
from interpole.records import Problem, Sampler
from interpole.tasks.benchmark import Benchmark, Grade, TaskRequest, final_text
from interpole.tasks.chains import problems as draw

__all__ = ["load"]

SAMPLER = Sampler(temperature=0.6, top_p=0.95, top_k=0, max_tokens=256)
_NUM_PROBLEMS = 204


def _exact_number(problem: Problem, parsed: ParsedResponse) -> Grade:
    """Score 1 when the answer is the number and nothing else; a number with text around it is no answer."""
    found = re.fullmatch(r"\s*(-?\d+)\s*", final_text(parsed))
    answer = found[1] if found else None
    return Grade(float(answer == problem.answer), answer)


def load(request: TaskRequest) -> Benchmark:
    """Make the benchmark: by default 204 problems of the test split, balanced over one to six steps."""
    request.refuse("arithmetic", "data", "grader", "prompt")
    problems = request.problems
    if problems is None:
        problems = tuple(draw(request.split or "test", request.limit or _NUM_PROBLEMS, request.seed))
    return Benchmark(
        "arithmetic", problems, lambda problem: problem.question, {"exact": _exact_number}, k=8, sampler=SAMPLER
    )
