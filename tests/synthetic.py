"""Written sweeps for tests of what people see: the tiny pair's chains, answered by a made-up pair with three stages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import ZipFile

import numpy as np

from interpole.records import Outcome, Sample
from interpole.runs.runfile import Entry, Part, RunFile, SourceInfo, TaskInfo

TEMPLATE = "User: {{ messages[0].content }}\nAssistant: "
GRID = tuple(round(0.1 * i, 1) for i in range(11))


def chain(rng: np.random.Generator, num_steps: int) -> tuple[str, str, int]:
    """A chain's question, its work and its value."""
    value = int(rng.integers(20, 90))
    question, work = str(value), str(value)
    for label in "abcdef"[:num_steps]:
        step = int(rng.integers(1, 10))
        sign = "-" if value > 50 else "+"
        value += step if sign == "+" else -step
        question += f" {label}{sign}{step}"
        work += f" {label}{sign}{step}={value}"
    return f"{question} = ?", work, value


def respond(rng: np.random.Generator, lam: float, num_steps: int, work: str, value: int) -> tuple[str, Outcome, bool]:
    """A response with its outcome and whether its answer is right."""
    thinks = rng.random() < 1 / (1 + math.exp(-(lam - 0.5 + 0.01 * num_steps) * 22))
    if not thinks:
        right = rng.random() < max(0.05, 0.95 - 0.16 * num_steps - 0.3 * math.sin(math.pi * min(lam / 0.5, 1)) ** 2)
        return str(value if right else value + int(rng.integers(1, 9))), Outcome.DIRECT, right
    checks = "".join(f"\nWait, check:\n{work}" for _ in range(1 + (rng.random() < lam - 0.4)))
    draw = rng.random()
    if draw < 0.25 * (1 - lam):
        return f"<think>\n{work}{checks}", Outcome.UNCLOSED, False
    if draw > 1 - 0.12 * (1 - lam):
        return f"<think>\n{work}{checks}" + "\nWait, check:" * 9, Outcome.LOOPING, False
    right = rng.random() < 0.99 - 0.3 * max(0.0, 0.8 - lam)
    answer = value if right else value + 1
    return f"<think>\n{work}{checks}\n</think>\n\n{answer}", Outcome.CLOSED, right


def samples(
    num_questions: int = 24,
    k: int = 4,
    lams: Sequence[float] = GRID,
    tasks: Sequence[str] = ("arithmetic",),
    seed: int = 0,
    padding: int = 0,
    prompt_opens_thinking: bool = False,
) -> list[Sample]:
    """A whole sweep; `padding` makes every response that many characters longer.

    Where the prompt opens the thought, responses have no opening marker, as with Thinking-2507's template.
    """
    rng = np.random.default_rng(seed)
    made = []
    for task in tasks:
        for number in range(num_questions):
            num_steps = 1 + number % 6
            question, work, value = chain(rng, num_steps)
            for lam in lams:
                for epoch in range(1, k + 1):
                    text, outcome, right = respond(rng, lam, num_steps, work, value)
                    closed = outcome is Outcome.CLOSED
                    if prompt_opens_thinking:
                        text = text.removeprefix("<think>\n")
                        outcome = Outcome.UNMARKED if outcome in (Outcome.DIRECT, Outcome.UNCLOSED) else outcome
                    made.append(
                        Sample(
                            task=task,
                            point=f"λ={lam:g}",
                            lam=lam,
                            problem_id=f"{task}-{number:04d}",
                            number=epoch,
                            question=question,
                            target=str(value),
                            response=text + " ~" * (padding // 2),
                            num_tokens=2 + len(text) // 3,
                            finish="length" if outcome is Outcome.LOOPING else "stop",
                            outcome=outcome,
                            closed=closed,
                            answer=text.rsplit("\n", 1)[-1] if closed or outcome is Outcome.DIRECT else None,
                            grades={"exact": float(right)},
                            difficulty=f"{num_steps} steps",
                        )
                    )
    return made


def write_run(
    folder: Path,
    made: Sequence[Sample],
    private: Sequence[str] = (),
    samplers: Mapping[str, dict[str, float]] = MappingProxyType({}),
    recipes: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    prompt_opens_thinking: bool = False,
) -> Path:
    """A run folder that holds these samples, as a sweep leaves it; `samplers` and `recipes` are those of points by name."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in made:
        groups.setdefault((sample.task, sample.point), []).append(sample)
    entries = []
    for number, ((task, point), group) in enumerate(groups.items()):
        place = f"logs/{task}/{number}"
        (folder / place).mkdir(parents=True)
        logged = [_logged(sample) for sample in group]
        with ZipFile(folder / place / "a.eval", "w") as log:
            log.writestr("summaries.json", json.dumps(logged))
            for index, sample in enumerate(logged):
                log.writestr(f"samples/{index}.json", json.dumps(sample))
        k = max(sample.number for sample in group)
        part = Part(first_sample=1, num_samples=k, status="done", log="a.eval")
        same = dict.fromkeys(("settings", "problems_hash"), "0" * 64)
        hashes = {"identity": f"{number:064x}", "fingerprint": f"{number + 7:064x}"}
        sampler = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": 256} | samplers.get(point, {})
        entries.append(
            Entry(
                task=task,
                point=point,
                lam=group[0].lam,
                recipe=recipes.get(point, {}),
                sampler=sampler,
                folder=place,
                parts=(part,),
                **same,
                **hashes,
            )
        )
    tasks = {
        task: TaskInfo(spec={}, num_problems=1, samples=1, problems_hash="0" * 64, private=task in private)
        for task in dict.fromkeys(sample.task for sample in made)
    }
    sources = {
        name: SourceInfo(label=f"models/Tiny-{name.title()}", fingerprint=name * 9) for name in ("instruct", "thinking")
    }
    RunFile(
        created="2026-11-21", updated="2026-11-21", interpole="0.1.0", sources=sources, template_from="thinking",
        template=TEMPLATE, prefix="", prompt_opens_thinking=prompt_opens_thinking,
        markers=("<think>", "</think>"), special_tokens=(), seed=0,
        engine={"name": "scripted"}, engine_options={}, tasks=tasks, entries=tuple(entries),
    ).save(folder)  # fmt: skip
    return folder


def _logged(sample: Sample) -> dict[str, Any]:
    """A sample as Inspect logs it, as far as it is read."""
    kept = {
        "num_tokens": sample.num_tokens,
        "finish": sample.finish,
        "outcome": sample.outcome,
        "closed": sample.closed,
    }
    kept |= {"answer": sample.answer, "grades": dict(sample.grades)}
    message = {"role": "assistant", "content": sample.response}
    return {
        "id": sample.problem_id,
        "epoch": sample.number,
        "input": sample.question,
        "target": sample.target,
        "metadata": {"question": sample.question, "difficulty": sample.difficulty},
        "scores": {"grade": {"metadata": kept}},
        "output": {"choices": [{"message": message}]},
    }
