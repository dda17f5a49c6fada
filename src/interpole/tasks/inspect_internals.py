"""What we use of Inspect that it does not publish; all of it is here, so that a new release is checked in one place.

Inspect is pinned exactly (`pyproject.toml`), for these may change with any release. Used are the loader of tasks by name or file,
which Inspect's own commands keep to themselves, and the name that a scorer is registered under, which no public function tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inspect_ai import Task
from inspect_ai._eval.loader import create_file_tasks, load_task_spec
from inspect_ai._util.registry import registry_unqualified_name
from inspect_ai.scorer import Scorer

__all__ = ["scorer_name", "tasks_of"]


def tasks_of(spec: str) -> Sequence[Task]:
    """The tasks of a file, or those that a name (`package/task`, `file.py@task`) stands for."""
    return create_file_tasks(Path(spec).absolute()) if spec.endswith(".py") else load_task_spec(spec)


def scorer_name(scorer: Scorer) -> str:
    """The name of a scorer, without its package."""
    return str(registry_unqualified_name(scorer))
