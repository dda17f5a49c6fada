"""A checkpoint as a stream of torch tensors for a live model, computed where the model is.

The files of sources are mapped, not read: where both ends fit in memory they stay there, shared by all processes, and a pass over
the dial is one pass over them; where they do not, the system reads them from disk. Sums have the bits of `methods.linear`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.kernels import keep_freed_memory, weighted_sum
from interpole.checkpoints.safetensors import DTYPES, TensorSpec

__all__ = ["CHUNK_ELEMENTS", "Named", "tensors"]

Named = tuple[str, torch.Tensor]
Terms = tuple[tuple[Checkpoint, float], ...]

CHUNK_ELEMENTS = 1 << 16
"""Elements summed at a time on a CPU: inputs and result stay in the second-level cache."""
_TWINS = {
    DTYPES["BF16"]: (np.int16, torch.bfloat16),
    DTYPES["F8_E4M3"]: (np.uint8, torch.float8_e4m3fn),
    DTYPES["F8_E5M2"]: (np.uint8, torch.float8_e5m2),
}
"""numpy dtypes that torch does not take, with an integer dtype of their size and torch's own."""


def _to_torch(array: NDArray[Any]) -> torch.Tensor:
    """The array as a tensor that shares its memory; bfloat16 and float8 included."""
    if array.dtype in _TWINS:
        integer, dtype = _TWINS[array.dtype]
        return torch.from_numpy(array.view(integer)).view(dtype)
    return torch.from_numpy(array)


def tensors(
    checkpoint: Checkpoint, device: torch.device, live: Mapping[str, torch.Tensor] = MappingProxyType({})
) -> Iterator[Named]:
    """All tensors of a checkpoint, by name, in its own dtypes, equal to `checkpoint[name]` bit for bit.

    A weighted sum of sources (`Merged.terms`) is computed on `device` from their mapped files; anything else by the checkpoint.

    Args:
        checkpoint: what to read.
        device: where sums are computed.
        live: tensors that are about to be replaced; a sum is written into the one of its name, and that is what is yielded,
            where both are bfloat16 on a CPU. So nothing is copied twice.
    """
    keep_freed_memory()
    for name, spec in checkpoint.specs.items():
        terms = checkpoint.terms(name)
        if terms is not None and len(terms) == 1 and terms[0][0].specs[name].dtype != spec.dtype:
            terms = None  # copied, but cast
        yield name, _to_torch(checkpoint[name]) if terms is None else _sum(name, spec, terms, device, live.get(name))


def _sum(name: str, spec: TensorSpec, terms: Terms, device: torch.device, live: torch.Tensor | None) -> torch.Tensor:
    """Σ wᵢ·Θᵢ: every product and sum rounded to float32 once, left to right, then once to the result's dtype."""
    arrays = [_mapped(source, name) for source, _ in terms]
    if len(arrays) == 1:
        return _to_torch(arrays[0]).reshape(spec.shape)
    weights = [float(np.float32(weight)) for _, weight in terms]
    fused = device.type == "cpu" and spec.dtype == "BF16"
    if live is not None and (live.dtype is not torch.bfloat16 or not live.is_contiguous()):
        live = None
    out = None if live is None else live.detach().view(torch.int16).numpy().reshape(-1)
    if fused and (rounded := weighted_sum(arrays, weights, out)) is not None:
        return _to_torch(rounded).reshape(spec.shape) if live is None else live
    inputs = list(zip(map(_to_torch, arrays), weights, strict=True))
    dtype = _to_torch(np.empty(0, DTYPES[spec.dtype])).dtype
    result = torch.empty(spec.num_elements, dtype=dtype, device=device)
    step = CHUNK_ELEMENTS if device.type == "cpu" else max(spec.num_elements, 1)
    for start in range(0, spec.num_elements, step):
        part = slice(start, start + step)
        total: Any = 0.0
        for i, (tensor, weight) in enumerate(inputs):
            product = tensor[part].to(device, torch.float32) * weight
            total = total.add_(product) if i else product
        result[part] = total
    return result.reshape(spec.shape)


def _mapped(source: Checkpoint, name: str) -> NDArray[Any]:
    """The flattened tensor of a source, without copying it where its bytes lie in a file as they are."""
    spec, origin = source.specs[name], source.origin(name)
    if origin is None:
        return source.read(name)
    seen = origin.path.stat()
    data = _map(origin.path, seen.st_ino, seen.st_mtime_ns)[origin.offset_bytes : origin.offset_bytes + spec.num_bytes]
    aligned = data if origin.offset_bytes % DTYPES[spec.dtype].itemsize == 0 else data.copy()
    return aligned.view(DTYPES[spec.dtype])


@lru_cache(maxsize=512)
def _map(path: Path, inode: int, written: int) -> np.ndarray[Any, np.dtype[np.uint8]]:  # noqa: ARG001
    """The file, mapped once as long as it is the same; the 512 files used last stay mapped in this process."""
    return np.asarray(np.memmap(path, np.uint8, "c"))  # "c": torch wants memory that could be written; the file stays
