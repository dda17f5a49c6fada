"""What a safetensors file says of itself: its header, read and checked against the file before any tensor is.

Format: https://github.com/huggingface/safetensors#format. A header that lies is a `CorruptError`, never a huge allocation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from sys import intern
from typing import Any

import ml_dtypes
import numpy as np

from interpole.errors import CheckpointError, CorruptError
from interpole.files import LFS_POINTER, open_regular

__all__ = [
    "DTYPES",
    "HEADER_LIMIT",
    "TensorSpec",
    "header_bytes",
    "parse_header",
    "read_header",
    "refuse_pointer",
    "unique",
]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype(np.bool_),
    **{f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)},
}
"""safetensors dtype names and the numpy dtypes they are read as."""

HEADER_LIMIT = 100_000_000  # bytes, the limit of the safetensors format
MAX_NAME = 500
"""Characters of a tensor's name; real ones have 100."""
MAX_DIMENSIONS = 32
"""numpy reads 64, and some steps add one."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a header says of a tensor: its safetensors dtype name and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return self.num_elements * DTYPES[self.dtype].itemsize

    @property
    def is_float(self) -> bool:
        """Whether the tensor holds weights that can be averaged (not integers or booleans)."""
        return self.dtype[0] in "FB" and self.dtype != "BOOL"

    def __str__(self) -> str:
        """Dtype and shape as in an error message: `BF16 [64, 32]`."""
        return f"{self.dtype} {list(self.shape)}"


def header_bytes(specs: Mapping[str, TensorSpec], names: Iterable[str]) -> tuple[bytes, dict[str, int]]:
    """The header of a file that holds `names` in this order, padded to 8 bytes, and the absolute offset of every tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, end = {}, 0
    for name in names:
        spec = specs[name]
        offsets[name], end = end, end + spec.num_bytes
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + offset for name, offset in offsets.items()}


def refuse_pointer(path: Path, name: str) -> None:
    """Refuse what Git leaves in place of a large file.

    Raises:
        CorruptError: `path` is such a pointer, not the file `name`.
        CheckpointError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            begin = file.read(len(LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}", path, "check its permissions") from None
    if begin == LFS_POINTER:
        raise CorruptError(f"{name} is a pointer of Git LFS, not the file itself", path, "run `git lfs pull` there")


def read_header(path: Path) -> tuple[dict[str, TensorSpec], dict[str, int]]:
    """Read and check one safetensors header: (name → spec, name → absolute byte offset), in file order.

    Format: https://github.com/huggingface/safetensors#format. Checked: the length field, the JSON, known dtypes, every
    byte range against dtype and shape, and that the ranges cover the data without holes or overlaps, as the format demands.

    Raises:
        CorruptError: any of that does not hold.
    """
    refuse_pointer(path, path.name)
    size = path.stat().st_size
    with open_regular(path) as file:
        begin = file.read(8)
        length = int.from_bytes(begin, "little")
        if length <= min(HEADER_LIMIT, size - 8):
            begin += file.read(length)
    return parse_header(begin, size, path)


def parse_header(begin: bytes, size: int, path: object) -> tuple[dict[str, TensorSpec], dict[str, int]]:
    """What `read_header` says, of a file whose first bytes are at hand.

    Args:
        begin: the header with the field of its length, or more; less only where that field lies.
        size: bytes of the whole file.
        path: its place, for messages.

    Raises:
        CorruptError: as `read_header`.
    """
    length = int.from_bytes(begin[:8], "little")
    if size < 8 or length > min(HEADER_LIMIT, size - 8):
        raise CorruptError(
            f"truncated or not safetensors: header of {length} bytes in a file of {size}", path, "fetch it again"
        )
    header = _parse_header(begin[8 : 8 + length], path)
    specs, ranges = {}, {}
    for text, entry in header.items():
        name = intern(text)  # other files and sources have the same names
        specs[name], ranges[name] = _parse_entry(name, entry, path)
    order = sorted(ranges, key=lambda name: ranges[name])
    _check_cover(order, ranges, size - 8 - length, path)
    return {name: specs[name] for name in order}, {name: ranges[name][0] + 8 + length for name in order}


def _parse_header(raw: bytes, path: object) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the safetensors header is not valid: {error}", path, "fetch the file again") from None
    header.pop("__metadata__", None)
    return header


def _parse_entry(name: str, entry: Any, path: object) -> tuple[TensorSpec, tuple[int, int]]:
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        limits = f"no name that can be shown in 1 to {MAX_NAME} characters"
        raise CorruptError(f"a tensor is called {_shown(name)}: {limits}", path, "rename it where it was made")
    dtype, shape, ends = map(entry.get, ("dtype", "shape", "data_offsets")) if type(entry) is dict else (None,) * 3
    if not (
        type(dtype) is str
        and type(shape) is type(ends) is list
        and len(ends) == 2
        and set(map(type, shape)) | set(map(type, ends)) == {int}
        and min(shape, default=0) >= 0
    ):
        raise CorruptError(f"tensor {name}: malformed header entry {_shown(entry)}", path, "fetch the file again")
    start, stop = ends
    if dtype not in DTYPES:
        raise CheckpointError(
            f"tensor {name} has dtype {_shown(dtype)[1:-1]}, which Interpole does not read",
            path,
            f"known: {', '.join(DTYPES)}",
        )
    if len(shape) > MAX_DIMENSIONS or max(shape, default=0) >= 2**63:
        raise _too_large(name, shape, path)
    spec, num_bytes, is_readable = _sized(dtype, tuple(shape))
    if start < 0 or stop - start != num_bytes:
        raise CorruptError(
            f"tensor {name}: {spec} takes {num_bytes} bytes, but the header says {_shown([start, stop])[1:-1]}",
            path,
            "fetch it again",
        )
    if not is_readable:
        raise _too_large(name, shape, path)
    return spec, (start, stop)


@lru_cache(maxsize=10_000)
def _sized(dtype: str, shape: tuple[int, ...]) -> tuple[TensorSpec, int, bool]:
    """The one spec of all tensors of a dtype and shape, its bytes, and whether an array can have them."""
    spec = TensorSpec(dtype, shape)
    return spec, spec.num_bytes, prod(max(n, 1) for n in shape) < 2**56


def _too_large(name: str, shape: list[int], path: object) -> CorruptError:
    return CorruptError(f"tensor {name} is of shape {_shown(shape)}: more than can be read", path, "fetch it again")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON text that has no key twice.

    Raises:
        ValueError: it has one.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"{_shown(max(counts, key=counts.__getitem__))} occurs twice")
    return found


def _shown(value: Any) -> str:
    """What a file says, for a message: in one line, short, with nothing in it that a terminal obeys."""
    text = value if isinstance(value, str) else str(value)
    return ascii(text if len(text) <= 80 else f"{text[:80]}...")


def _check_cover(order: list[str], ranges: Mapping[str, tuple[int, int]], data_bytes: int, path: object) -> None:
    previous, end = "the start", 0
    for name in order:
        if ranges[name][0] != end:
            problem = "overlaps" if ranges[name][0] < end else "leaves a hole after"
            raise CorruptError(f"the header lies: tensor {name} {problem} {previous}", path, "fetch the file again")
        previous, end = name, ranges[name][1]
    if end != data_bytes:
        raise CorruptError(
            f"the header announces {end} bytes of tensors, the file holds {data_bytes} (truncated or padded)",
            path,
            "fetch the file again",
        )
