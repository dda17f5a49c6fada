"""What Interpole runs on: versions, machine, GPUs, room on the disk; what belongs beside a report of a fault.

Nothing is imported to be asked for its version, so that this is told where torch or a driver is broken. Folders are named below
`~`, and no variable of the environment is told but those that choose devices and threads.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from interpole import __version__
from interpole.checkpoints.fingerprint import cache_folder
from interpole.checkpoints.kernels import are_built
from interpole.systems import memory_bytes, num_cores

__all__ = ["Environment", "Place", "environment", "versions"]

VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")
GPU_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
GPU_SECONDS = 20.0
"""How long a driver may take to answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that is written to, and the room there; None where that is not known."""

    path: str
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Environment:
    """What Interpole runs on.

    Attributes:
        interpole: its version.
        python: version and implementation.
        system: its name, release and processor.
        cores: that this process may use.
        memory_bytes: of the machine; None where that is not known.
        c_loops: whether the loops in C were built.
        packages: what Interpole and its extras ask for, with versions; None: not installed.
        gpus: one line each: name, memory, driver.
        places: folders that are written to.
        variables: those set that choose devices and threads.
    """

    interpole: str
    python: str
    system: str
    cores: int
    memory_bytes: int | None
    c_loops: bool
    packages: Mapping[str, str | None]
    gpus: tuple[str, ...]
    places: Mapping[str, Place]
    variables: Mapping[str, str]


def environment() -> Environment:
    """Look at this process and its machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = {
        "here": Path(),
        "hub cache": Path(HF_HUB_CACHE),
        "fingerprints": cache_folder(),
        "temporary": _temporary(),
    }
    return Environment(
        interpole=__version__,
        python=f"{platform.python_version()} {platform.python_implementation()}, {_place(Path(sys.prefix))}",
        system=platform.platform(),
        cores=num_cores(),
        memory_bytes=memory_bytes(),
        c_loops=are_built(),
        packages=versions(_asked_for()),
        gpus=_gpus(),
        places={name: Place(_place(folder), _free(folder)) for name, folder in folders.items()},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Package → its version, as its metadata has it; None: not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        found[name] = None
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _asked_for() -> list[str]:
    """The packages that ours asks for, those of development left out; none where it is not installed itself."""
    try:
        asked = requires("interpole") or []
    except PackageNotFoundError:
        return []
    ours = [one for one in asked if not re.search(r"extra == ['\"](test|dev)['\"]", one)]
    names = [match[0] for one in ours if (match := re.match(r"[A-Za-z0-9._-]+", one))]
    return [name for name in dict.fromkeys(names) if name != "interpole"]


def _gpus() -> tuple[str, ...]:
    """What `nvidia-smi` lists, one line each; none where there is no such program, or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        listed = subprocess.run([program, *GPU_QUERY], capture_output=True, text=True, timeout=GPU_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return (f"nvidia-smi fails: {error}",)
    return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip())


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # none that can be written to
        return Path()


def _place(path: Path) -> str:
    """A path as it may be shown to others: below the home folder from there."""
    try:
        path, home = path.absolute(), Path.home()
    except (OSError, RuntimeError):
        return str(path)
    return str("~" / path.relative_to(home)) if path.is_relative_to(home) else str(path)


def _free(folder: Path) -> int | None:
    """The room on the disk of a folder, or of the nearest above it that is there."""
    with suppress(OSError, StopIteration):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
        return shutil.disk_usage(there).free
    return None
