"""Profiles: everything a published experiment set, under one name (`--profile paper-4b`).

They hold the protocol of arXiv 2510.10977, §4 and its appendix. What of it cannot be matched is in docs/paper.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from interpole.errors import TaskError
from interpole.records import Sampler
from interpole.tasks.aime25 import SAMPLER as AIME
from interpole.tasks.gpqa_diamond import SAMPLER as GPQA
from interpole.tasks.ifeval import SAMPLER as IFEVAL

__all__ = ["PROFILES", "Profile", "profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One experiment: the pair, the points, the tasks and how each point is sampled.

    Args:
        name: the profile's name.
        instruct: hub id of λ = 0.
        thinking: hub id of λ = 1.
        lams: the points.
        samplers: task → sampler of every point but λ = 0.
        k: task → samples per question.
        grading: the grading that the printed numbers were made with.
    """

    name: str
    instruct: str
    thinking: str
    lams: tuple[float, ...]
    samplers: dict[str, Sampler]
    k: dict[str, int]
    grading: str = "paper"

    def sampler(self, task: str, lam: float) -> Sampler:
        """Give a point's sampler: the Instruct model alone has its own recommended settings."""
        merged = self.samplers[task]
        return replace(merged, temperature=0.7, top_p=0.8) if lam == 0 else merged


_LAMS = (0.0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 1.0)
_SAMPLERS = {"aime25": AIME, "ifeval": IFEVAL, "gpqa_diamond": GPQA}
_K = {"aime25": 64, "ifeval": 8, "gpqa_diamond": 8}

PROFILES = {
    f"paper-{size.split('-')[0].lower()}": Profile(
        f"paper-{size.split('-')[0].lower()}",
        f"Qwen/Qwen3-{size}-Instruct-2507",
        f"Qwen/Qwen3-{size}-Thinking-2507",
        _LAMS,
        _SAMPLERS,
        _K,
    )
    for size in ("4B", "30B-A3B")
}


def profile(name: str) -> Profile:
    """Give a profile by name.

    Raises:
        TaskError: no such profile.
    """
    if name not in PROFILES:
        raise TaskError(f"no profile {name!r}", remedy=f"profiles are: {', '.join(PROFILES)}")
    return PROFILES[name]
