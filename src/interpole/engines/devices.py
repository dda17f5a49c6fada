"""Where the engines of a pool run: one to a GPU, or to a group of GPUs that share a model, or to some of the CPU's cores.

Each is kept there by its environment, which says which GPUs it sees and how many threads it may use. Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from interpole.engines.registry import EngineKind
from interpole.errors import EngineError
from interpole.systems import num_cores

__all__ = ["SMALL_PARAMETERS", "Device", "NumEngines", "devices"]

NumEngines = int | Literal["auto"]
"""How many engines; `auto`: one per GPU or group of GPUs; on a CPU one per core for small models, else one."""
SMALL_PARAMETERS = 50_000_000
"""Below, more than one CPU thread costs more than it brings."""
MOST_ENGINES = 256
"""On one machine: each is a process, and a sweep's file may come from somebody else."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Device(NamedTuple):
    """Where an engine runs: what to call that, and the variables of its environment that keep it there."""

    name: str = ""
    environ: Mapping[str, str] = {}


def devices(
    num: NumEngines, kind: EngineKind, options: Mapping[str, Any], num_parameters: Callable[[], int]
) -> list[Device]:
    """Where so many engines of a kind run.

    Args:
        num: how many; more than there are GPUs share them.
        kind: of engine.
        options: the engines' own.
        num_parameters: of the model; asked where that matters.

    Raises:
        EngineError: there would be more than MOST_ENGINES, a model is spread over more GPUs than there are, or the
            options name a GPU besides.
    """
    if num == 1:
        return [Device()]
    if num != "auto" and num > MOST_ENGINES:
        raise EngineError(f"{num:,} engines on one machine", remedy=f"give {MOST_ENGINES} at most, or auto")
    if kind.default_rows is None:  # it holds no model here
        return [Device()] * (1 if num == "auto" else num)
    device = str(options.get("device") or "")
    visible = [] if device.startswith("cpu") else _visible()
    if not visible:
        return _on_cpu(num, options, num_parameters)
    if ":" in device:
        raise EngineError(
            f"several engines, but all on the device {device}",
            remedy=f"leave `device` out; {VISIBLE} says which to use",
        )
    size = int(options.get("tensor_parallel_size") or 1) * int(options.get("pipeline_parallel_size") or 1)
    groups = [visible[start : start + size] for start in range(0, len(visible) - size + 1, size)]
    if not groups:
        raise EngineError(f"a model over {size} GPUs, but {len(visible)} can be seen", remedy=f"see {VISIBLE}")
    chosen = [groups[i % len(groups)] for i in range(len(groups) if num == "auto" else num)]
    return [Device("GPU " + ",".join(group), {VISIBLE: ",".join(group)}) for group in chosen]


def _on_cpu(num: NumEngines, options: Mapping[str, Any], num_parameters: Callable[[], int]) -> list[Device]:
    """Engines on the cores that this process may use, with as many threads each as there are cores for it."""
    cores = num_cores()
    threads = int(options.get("threads") or 0)
    if num != "auto":
        count = num
    elif threads or num_parameters() < SMALL_PARAMETERS:
        count = max(1, cores // max(1, threads))
    else:
        count = 1
    return [Device("", {"OMP_NUM_THREADS": str(max(1, cores // count))} if count > 1 else {})] * count


def _visible() -> list[str]:
    """The GPUs that this process may use, as the variable names them."""
    said = os.environ.get(VISIBLE)
    if said is not None:
        named = [name.strip() for name in said.split(",")]
        end = next((i for i, name in enumerate(named) if name in ("", "-1")), len(named))  # as CUDA reads it
        return named[:end]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    parts = re.findall(r"UUID: (MIG-[^)\s]+)", listed)
    return parts or re.findall(r"^GPU (\d+):", listed, re.MULTILINE)
