"""What we use of Inspect that it does not publish; all of it is here, so that a new release is checked in one place.

Inspect is pinned exactly (`pyproject.toml`), for these may change with any release. Used are the loader of tasks by name or file,
which Inspect's own commands keep to themselves, the name that a scorer is registered under, which no public function tells,
whether Inspect keeps notes for OpenAI and Anthropic, and how many threads compress a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from inspect_ai import Task
from inspect_ai._eval.loader import create_file_tasks, load_task_spec
from inspect_ai._util import zipfile
from inspect_ai._util.registry import registry_unqualified_name
from inspect_ai.model import _assistant_internal
from inspect_ai.scorer import Scorer

__all__ = ["compressing_in_place", "scorer_name", "sparing_clients", "tasks_of"]


def tasks_of(spec: str) -> Sequence[Task]:
    """The tasks of a file, or those that a name (`package/task`, `file.py@task`) stands for."""
    return create_file_tasks(Path(spec).absolute()) if spec.endswith(".py") else load_task_spec(spec)


def scorer_name(scorer: Scorer) -> str:
    """The name of a scorer, without its package."""
    return str(registry_unqualified_name(scorer))


@contextmanager
def sparing_clients() -> Iterator[None]:
    """Have Inspect import neither OpenAI's nor Anthropic's client, for samples that ask no model of theirs.

    Where these are installed, Inspect imports them at the first sample of any model, to keep something for them: seconds.
    """
    before = _assistant_internal._HAS_OPENAI, _assistant_internal._HAS_ANTHROPIC
    _assistant_internal._HAS_OPENAI = _assistant_internal._HAS_ANTHROPIC = False
    try:
        yield
    finally:
        _assistant_internal._HAS_OPENAI, _assistant_internal._HAS_ANTHROPIC = before


@contextmanager
def compressing_in_place() -> Iterator[None]:
    """Have Inspect compress samples in the thread that writes them; what is written is the same.

    It starts twelve threads for every sample, to compress a few kilobytes: 0.9 ms in place of 0.1.
    """
    before = zipfile._ZSTD_THREADS
    zipfile._ZSTD_THREADS = 0
    try:
        yield
    finally:
        zipfile._ZSTD_THREADS = before
