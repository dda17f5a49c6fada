"""What runs inside of every vLLM worker: the merge, streamed into the model's own weight loading, and the proof that it arrived.

A worker opens the sources itself and computes what it loads (`interpole.engines.stream`), so nothing large crosses process
borders, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.safetensors import TensorSpec
from interpole.engines.base import Resolve
from interpole.engines.stream import CHUNK_ELEMENTS, Named, tensors

__all__ = ["DialWorker", "Proof", "checksum", "pieces"]

NUM_WINDOWS, WINDOW_ELEMENTS = 4, 64
"""How much of every tensor a checksum covers unless all of it is wanted."""
NUM_COLUMNS = 8
"""How many columns of every live matrix are read back unless all are wanted."""
PLAIN = (torch.bfloat16, torch.float16, torch.float32)


class Proof(NamedTuple):
    """What a worker reports of the weights it has just loaded."""

    checksum: str  # of the tensors it was given
    num_read_back: int  # live modules that were read again
    wrong: tuple[str, ...]  # those of them that hold something else


class DialWorker:
    """Methods that vLLM adds to those of its own worker class (`worker_extension_cls`); called by `collective_rpc`."""

    def interpole_open(self: Any, opener: Callable[[], Resolve]) -> None:
        """Take the function that makes checkpoints of what `interpole_load` is told."""
        self._interpole_resolve = opener()
        self._interpole_readings = dict[int, _Reading]()

    def interpole_load(self: Any, where: Any, whole: bool) -> Proof:
        """Replace all weights in place; `whole`: check all of them, not a sample."""
        checkpoint, model = self._interpole_resolve(where), self.model_runner.get_model()
        readings, digest = _readings(model, checkpoint, whole), hashlib.sha256()
        device = next(model.parameters()).device

        def watched() -> Iterator[Named]:
            for name, tensor in tensors(checkpoint, device):
                _update(digest, name, checkpoint.specs[name], _windows(tensor, whole))
                for reading in readings.get(name, ()):
                    reading.expect(name, tensor)
                yield name, tensor

        self.reload_weights(weights_iterator=watched())
        _pack(model)
        self._interpole_readings = {id(one): one for group in readings.values() for one in group}
        wrong = self.interpole_read_back()
        return Proof(digest.hexdigest(), len(self._interpole_readings), wrong)

    def interpole_read_back(self: Any) -> tuple[str, ...]:
        """The live modules that do not hold what was last loaded."""
        return tuple(one.prefix for one in self._interpole_readings.values() if not one.holds())


# ── the checksum of what was sent ────────────────────────────────────────────────────────────────────────────────


def checksum(checkpoint: Checkpoint, whole: bool = False) -> str:
    """What the `Proof` of a worker that was given exactly this checkpoint says: a hash of names, dtypes, shapes and values.

    Args:
        checkpoint: what was to be loaded.
        whole: of all values (reads, and where need be computes, everything once more), else of four short windows per tensor.
    """
    digest = hashlib.sha256()
    for name, spec in checkpoint.specs.items():
        at_once = None if checkpoint.chunk_elements(name) is None else checkpoint.read(name)
        data = (
            checkpoint.read(name, start, stop) if at_once is None else at_once[start:stop]
            for start, stop in pieces(spec.num_elements, whole)
        )
        _update(digest, name, spec, (array.tobytes() for array in data))
    return digest.hexdigest()


def pieces(num_elements: int, whole: bool) -> list[tuple[int, int]]:
    """The ranges [start, stop) of a flattened tensor that a checksum covers: evenly spread windows, or everything in chunks."""
    if whole or num_elements <= NUM_WINDOWS * WINDOW_ELEMENTS:
        return [(i, min(i + CHUNK_ELEMENTS, num_elements)) for i in range(0, num_elements, CHUNK_ELEMENTS)]
    starts = [i * (num_elements - WINDOW_ELEMENTS) // (NUM_WINDOWS - 1) for i in range(NUM_WINDOWS)]
    return [(start, start + WINDOW_ELEMENTS) for start in starts]


def _windows(tensor: torch.Tensor, whole: bool) -> Iterator[bytes]:
    flat = tensor.reshape(-1)
    for start, stop in pieces(flat.numel(), whole):
        yield flat[start:stop].contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _update(digest: Any, name: str, spec: TensorSpec, data: Iterable[bytes]) -> None:
    digest.update(f"{name}\0{spec.dtype}\0{list(spec.shape)}\0".encode())
    for piece in data:
        digest.update(piece)


# ── reading back what is live ────────────────────────────────────────────────────────────────────────────────────


class _Reading:
    """Some columns of one live weight (all of a vector), and what they shall be: this worker's share of what was loaded."""

    def __init__(self, prefix: str, module: Any, names: tuple[str, ...], whole: bool) -> None:
        self.prefix, self.module, self.names = prefix, module, names
        weight = module.weight
        self.rows = list(getattr(module, "output_partition_sizes", weight.shape[:1]))
        own = getattr(module, "input_size_per_partition", getattr(module, "input_size", 0))  # also of an emptied weight
        self.num_columns = weight.shape[1] if weight.ndim == 2 else own
        step = 1 if whole else max(1, self.num_columns // NUM_COLUMNS)
        self.columns = list(range(0, self.num_columns, step))
        self.parts: list[torch.Tensor | None] = [None] * len(names)

    def expect(self, name: str, tensor: torch.Tensor) -> None:
        """Note this worker's share of a tensor that is about to be loaded."""
        rank, index = getattr(self.module, "tp_rank", 0), self.names.index(name)
        rows = self.rows[index]
        replicas = getattr(self.module, "num_kv_head_replicas", 1) if index else 1
        if tensor.shape[0] != rows:  # the last share of a vocabulary may be shorter: padded
            start = min(rank // replicas * rows, tensor.shape[0])
            tensor = tensor[start : start + rows]
        if self.num_columns:
            start = rank * self.num_columns if tensor.shape[1] != self.num_columns else 0
            tensor = tensor[:, [start + column for column in self.columns]]
        self.parts[index] = tensor.clone()

    def holds(self) -> bool:
        """Whether the live weight is what was expected."""
        expected = torch.cat([part for part in self.parts if part is not None])
        live = self._live()[: len(expected)]
        return torch.equal(live, expected.to(live.device, live.dtype))

    def _live(self) -> torch.Tensor:
        """The columns as the kernel sees them; where it keeps a packed copy, unit vectors are multiplied with that."""
        weight = self.module.weight
        if not self.num_columns:
            return weight.data
        kernel = getattr(self.module, "cpu_linear", None)
        if kernel is None or (weight.numel() and not _is_head(self.module)):
            return weight.data[:, self.columns]
        units = torch.zeros(len(self.columns), self.num_columns, dtype=weight.dtype)
        units[range(len(self.columns)), self.columns] = 1
        return kernel(units, weight, None).T


def _readings(model: Any, checkpoint: Checkpoint, whole: bool) -> dict[str, list[_Reading]]:
    """Checkpoint name → what shall be read back of it. Experts are not among them: their kernels reorder them."""
    packed = getattr(model, "packed_modules_mapping", {})
    named = dict(model.named_modules())
    found: dict[str, list[_Reading]] = {}
    for prefix, module in named.items():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.nn.Parameter) or weight.ndim > 2 or weight.dtype not in PLAIN:
            continue
        own = prefix
        if f"{prefix}.weight" not in checkpoint and _is_head(module):  # tied: its weight is the embedding's
            own = next(other for other, twin in named.items() if getattr(twin, "weight", None) is weight)
        stem, _, leaf = own.rpartition(".")
        names = tuple(f"{stem}.{part}.weight".lstrip(".") for part in packed.get(leaf, [leaf]))
        if all(name in checkpoint for name in names):
            reading = _Reading(prefix, module, names, whole)
            for name in names:
                found.setdefault(name, []).append(reading)
    return found


def _is_head(module: Any) -> bool:
    return type(module).__name__ == "ParallelLMHead"


def _pack(model: Any) -> None:
    """Renew what vLLM's reload forgets on a CPU: the packed copies of a tied head and of experts."""
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if _is_head(module) and hasattr(module, "cpu_linear"):
            method.process_weights_after_loading(module)
        kernel = getattr(method, "moe_kernel", None)
        if kernel is not None and type(kernel.fused_experts).__name__.startswith("CPU"):
            kernel.fused_experts.process_weights_after_loading(module)
