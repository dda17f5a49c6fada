"""What `inspect eval interpole/<name>` finds: every benchmark as an Inspect task (entry point group `inspect_ai`).

The think markers are arguments, for Inspect does not know the tokenizer; `interpole sweep` finds them by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inspect_ai import Task, task

from interpole import tasks
from interpole.chat import Markers, ThinkFormat
from interpole.tasks.inspect import to_inspect

__all__ = ["BENCHMARK_TASKS"]


def _register(name: str) -> Callable[..., Task]:
    @task(name=name)
    def benchmark(
        data: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        think_open: str = "<think>",
        think_close: str = "</think>",
        prompt_opens_thinking: bool = False,
    ) -> Task:
        chosen = tasks.load(name, data=Path(data) if data else None, limit=limit, seed=seed)
        markers = Markers(think_open, think_close)
        return to_inspect(chosen, ThinkFormat(markers, prompt_opens_thinking=prompt_opens_thinking))

    return benchmark


BENCHMARK_TASKS = {name: _register(name) for name in tasks.BENCHMARKS}
