"""The run folder on paper: `run.json`, which says what was asked, of which weights, and which logs hold the answers.

It is written whole and renamed, so it is never half there; paths in it are relative, so a run can be moved. Nothing here reads
logs (see `interpole.runs.samples`) or generates.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, FiniteFloat, model_validator

from interpole.chat import Markers, ThinkFormat
from interpole.errors import OutputError, RunError, printable, reason_of
from interpole.files import LONGEST_NAME, StrPath, make_folder, no_follow, open_regular, write_atomic
from interpole.formats import content_hash, parse_json
from interpole.schema import Strict, validated
from interpole.systems import lock as take_lock
from interpole.systems import open_handle

__all__ = [
    "NAME",
    "UNITS",
    "Block",
    "Count",
    "Entry",
    "Part",
    "RunFile",
    "Shard",
    "SourceInfo",
    "TaskInfo",
    "exclusive",
    "is_written",
    "now",
    "release",
    "sweep_name",
]

NAME = "run.json"
"""The file that makes a folder a run."""
UNITS = "units"
"""In a run folder that several machines write: a run folder for every unit that is not taken over yet."""
MAX_BYTES = 64 << 20
MAX_COUNT = 10**9
LOCK_ATTEMPTS = 5


def _plain(path: str) -> str:
    """Refuse a path that could lead out of the folder it is relative to, or to a hidden file."""
    for part in path.split("/"):
        if (
            not part
            or part.startswith(".")
            or "\\" in part
            or not part.isprintable()
            or len(part.encode()) > LONGEST_NAME
        ):
            raise ValueError(f"{path[:80]!r} is not a plain path inside the run folder")
    return path


def _log_name(name: str) -> str:
    """Refuse what is not the plain name of a log."""
    if "/" in name or not name.endswith(".eval"):
        raise ValueError(f"{name[:80]!r} is not the name of a log")
    return _plain(name)


Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Name = Annotated[str, AfterValidator(printable)]
"""It comes to terminals, pictures and file names: control characters are shown in it, not obeyed."""


class SourceInfo(Strict):
    """A checkpoint that was used: what it was called, and the hash of its weights."""

    label: str
    revision: str | None = None
    fingerprint: str


class TaskInfo(Strict):
    """A task that was asked."""

    spec: dict[str, Any]  # what `tasks.load` was given
    num_problems: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    samples: Count  # k: responses per problem
    problems_hash: str
    private: bool = False


class Block(Strict):
    """Problems `first` … `first + num − 1` of a task, in its order, counted from 1."""

    first: Count
    num: Count


class Shard(Strict):
    """The share of a sweep that a run is: number 1 … `total`."""

    number: Count
    total: Count
    sweep: str = ""  # of which it is a share, see `sweep_name`; empty: not said

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Shard:
        if self.number > self.total:
            raise ValueError(f"no shard {self.number} of {self.total}")
        return self

    def __str__(self) -> str:
        return f"{self.number} of {self.total}"


class Part(Strict):
    """One Inspect log: samples `first_sample` … `first_sample + num_samples − 1` of every problem, or of a block of them."""

    first_sample: Count = Field(validation_alias=AliasChoices("first_sample", "first_epoch"))  # the older name
    num_samples: Count = Field(validation_alias=AliasChoices("num_samples", "epochs"))
    block: Block | None = None  # None: all problems
    status: Literal["planned", "done", "failed"] = "planned"
    log: Annotated[str, AfterValidator(_log_name)] | None = None  # file name in the entry's folder
    error: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """What tells it from the other parts of an entry: its first sample and its first problem."""
        return self.first_sample, self.block.first if self.block else 1

    def problems(self, num_problems: int) -> range:
        """Which of a task's problems it covers, counted from 0."""
        if self.block is None:
            return range(num_problems)
        return range(min(self.block.first - 1, num_problems), min(self.block.first - 1 + self.block.num, num_problems))

    def num_responses(self, num_problems: int) -> int:
        """How many responses it has when it is done, for a task of so many problems."""
        return self.num_samples * len(self.problems(num_problems))


class Entry(Strict):
    """One task at one point: everything its samples depend on, and the logs that hold them."""

    task: Name
    point: Name
    lam: FiniteFloat | None
    identity: str  # hash of weights, recipe, template, prefix, sampler, problems, engine
    settings: str  # hash of what all points of a comparable run share
    problems_hash: str
    fingerprint: str  # of the weights
    recipe: dict[str, Any]
    sampler: dict[str, int | FiniteFloat]
    asking: dict[str, Any] = {}  # what else is special here: instruction, budget_tokens, close
    folder: Annotated[str, AfterValidator(_plain)]  # relative to the run
    parts: tuple[Part, ...] = ()
    current: bool = True  # False: superseded by other settings; its logs are kept and not read

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from other entries: two points may have the same weights, and so the same identity."""
        return self.folder, self.identity

    @property
    def status(self) -> str:
        """`done` when all parts are; `failed` when one is; else `planned`."""
        states = {part.status for part in self.parts}
        return "done" if states == {"done"} else "failed" if "failed" in states else "planned"

    def within(self, run: Path, name: str = "") -> Path:
        """Where its logs are in the folder `run`, or where the file `name` among them is.

        Raises:
            RunError: a link there leads out of the run folder.
        """
        path = run / self.folder / name
        try:
            if path.resolve().is_relative_to(run.resolve()):
                return path
        except (OSError, RuntimeError) as error:  # links in a circle
            raise RunError(f"cannot be read: {error}", path, "remove the link") from None
        raise RunError("a link leads out of the run folder", path, "copy what it links to into the run folder")


class RunFile(Strict):
    """The content of `run.json`."""

    format: Literal[1] = 1
    created: str
    updated: str
    interpole: str  # version
    sources: dict[str, SourceInfo]
    template_from: str
    template: str
    template_variables: dict[str, Any] = {}
    prefix: str
    prompt_opens_thinking: bool = Field(validation_alias=AliasChoices("prompt_opens_thinking", "opened"))  # older name
    markers: tuple[str, str]  # opening, closing
    special_tokens: tuple[str, ...] = Field(validation_alias=AliasChoices("special_tokens", "specials"))
    seed: int
    engine: dict[str, str]  # name, versions, dtype, device
    engine_options: dict[str, Any]
    tasks: dict[Name, TaskInfo]
    entries: tuple[Entry, ...]
    shard: Shard | None = None  # None: the whole sweep

    @model_validator(mode="after")
    def _tasks_are_known(self) -> RunFile:
        if unknown := next((entry.task for entry in self.entries if entry.task not in self.tasks), None):
            raise ValueError(f"an entry is of the task {unknown!r}, which is not among the tasks")
        return self

    def num_responses(self, entry: Entry, status: str = "") -> int:
        """How many responses an entry's parts have when they are done; `status`: of those parts alone."""
        num_problems = self.tasks[entry.task].num_problems
        return sum(part.num_responses(num_problems) for part in entry.parts if status in ("", part.status))

    @property
    def current(self) -> tuple[Entry, ...]:
        """The entries that count."""
        return tuple(entry for entry in self.entries if entry.current)

    @property
    def think_format(self) -> ThinkFormat:
        """How the run's prompts were rendered, and how its responses are read."""
        return ThinkFormat(
            Markers(*self.markers),
            self.template,
            self.template_variables,
            self.prompt_opens_thinking,
            self.special_tokens,
            self.prefix,
        )

    def format_of(self, entry: Entry) -> ThinkFormat:
        """How an entry's prompts were rendered and its responses are read: as the run's, with variables of its own."""
        form, asking = self.think_format, entry.asking
        return replace(
            form,
            variables={**form.variables, **asking.get("template_variables", {})},
            prompt_opens_thinking=bool(asking.get("prompt_opens_thinking", form.prompt_opens_thinking)),
        )

    @classmethod
    def load(cls, run: StrPath) -> RunFile:
        """Read `run.json` of the folder `run`.

        Raises:
            RunError: there is none, or it is not one of ours.
        """
        path = Path(run) / NAME
        try:
            with open_regular(path) as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise RunError(f"not a run folder: {error.strerror}", path, "give the folder that a sweep wrote") from None
        other = "was it written by another version?"
        if len(content) > MAX_BYTES:
            raise RunError(f"larger than {MAX_BYTES >> 20} MiB", path, other)
        return validated(cls, parse_json(content, path, RunError, other), path, RunError, other)

    def save(self, run: StrPath) -> None:
        """Write `run.json` into the folder `run`: beside, then renamed.

        Raises:
            OutputError: it cannot be written.
        """
        write_atomic(Path(run) / NAME, self.model_dump_json(indent=1), durable=True)


@contextmanager
def exclusive(run: StrPath) -> Iterator[Callable[[Path], None]]:
    """Make the folder `run`, and keep others from writing to it inside a `with` block.

    Yields:
        What renames the folder; where a system refuses that for the lock in it, the lock is let go before.

    Raises:
        OutputError: it cannot be made.
        RunError: another process is writing to it.
    """
    run = Path(run)
    try:
        model = [path for path in (run / "config.json", *run.glob("*.safetensors")) if path.exists()]
        if model and not (run / NAME).exists():
            what = f"the folder holds a model ({model[0].name}) and no run"
            raise OutputError(what, run, "choose another --out")
        make_folder(run)
        lock = open(run / ".lock", "ab", opener=no_follow)  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as error:
        what = "its .lock is a link" if (run / ".lock").is_symlink() else reason_of(error)
        raise OutputError(f"cannot write to the run folder: {what}", run, "choose another --out") from error
    with lock:
        for attempt in range(LOCK_ATTEMPTS):
            try:
                take_lock(lock.fileno())
                break
            except BlockingIOError:
                if attempt + 1 < LOCK_ATTEMPTS:
                    time.sleep(0.02)  # whoever asked `is_written` holds it for a moment
                    continue
                what = "another sweep is writing to this run"
                raise RunError(what, run, "wait for it, or choose another --out") from None
        yield partial(_rename, lock, run)


def _rename(lock: IO[bytes], run: Path, target: Path) -> None:
    try:
        run.rename(target)
    except PermissionError:  # Windows renames no folder with an open file in it
        lock.close()
        run.rename(target)


def is_written(run: StrPath) -> bool:
    """Whether a process is writing to the run (`exclusive`) now; also where that cannot be found out."""
    try:
        lock = open_handle(Path(run) / ".lock", os.O_RDONLY, follow=False)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        take_lock(lock, shared=True)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def now() -> str:
    """The time, as a run file has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def release(version: str) -> str:
    """`2.13.0+cpu` → `2.13`: bug-fix releases and builds do not part samples from each other."""
    return re.sub(r"^(\d+\.\d+)\..*$", r"\1", version)


def sweep_name(jobs: Iterable[tuple[Entry, int]]) -> str:
    """The name that all shards of a sweep share: a hash of its entries, each with its samples per question."""
    return content_hash(sorted([entry.identity, samples] for entry, samples in jobs))[:16]
