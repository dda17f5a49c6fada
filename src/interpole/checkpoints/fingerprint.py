"""Fingerprints of weights: of their whole content, remembered per file; or of where the files lie and when they last changed.

Content is read in blocks of 8 KB. A block's sum is NH (UMAC, https://www.rfc-editor.org/rfc/rfc4418, 5.2) with fixed keys, which
a change inside of one block evades once in 2³²; the sums are hashed with SHA-256. This finds edits and damage. It is no defence
against somebody who makes two models of one fingerprint on purpose.

What was computed is kept in `~/.cache/interpole/fingerprints` (or below `XDG_CACHE_HOME`), under the files' paths, inodes, sizes
and times of change, so that a model is read once. Files that changed in the last seconds are not kept: their times could not tell
the next change.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints import kernels
from interpole.errors import OutputError
from interpole.files import write_atomic
from interpole.formats import content_hash

__all__ = ["BLOCK_BYTES", "block_sums", "cache_folder", "remembered", "state_of"]

BLOCK_BYTES = 8192
_KEYS = np.frombuffer(hashlib.shake_256(b"interpole").digest(BLOCK_BYTES), "<u4")
_SETTLED_SECONDS = 2.0


def block_sums(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """NH of every block of `data`: Σ (xᵢ + kᵢ)(xᵢ₊ₕ + kᵢ₊ₕ) over 32-bit words, brackets modulo 2³², all modulo 2⁶⁴.

    Args:
        data: bytes; a last block that is not full counts as if zeros followed. h is half of the words of a block.
    """
    if len(data) % BLOCK_BYTES:
        data = np.concatenate([data, np.zeros(-len(data) % BLOCK_BYTES, np.uint8)])
    if (fast := kernels.block_sums(data, _KEYS)) is not None:
        return fast
    keyed = data.view("<u4").reshape(-1, len(_KEYS)) + _KEYS  # (blocks, words)
    half = len(_KEYS) // 2
    sums: NDArray[np.uint64] = (keyed[:, :half].astype(np.uint64) * keyed[:, half:]).sum(axis=1)
    return sums


def state_of(paths: Iterable[Path]) -> str:
    """Hash of where files lie and of their inodes, sizes and times; a file that is written or replaced has another one."""
    return content_hash(["NH", *(_state(path) for path in sorted(paths))])


def remembered(paths: Iterable[Path], compute: Callable[[], str]) -> str:
    """What `compute` says of the content of files, or said while they were as they are."""
    paths = sorted(paths)
    state = state_of(paths)
    kept = cache_folder() / state
    with suppress(OSError, UnicodeDecodeError):
        if len(known := kept.read_text(encoding="utf-8")) == len(state):
            return known
    found = compute()
    changed = max((max(path.stat().st_mtime, path.stat().st_ctime) for path in paths), default=0.0)
    if changed < time.time() - _SETTLED_SECONDS and state_of(paths) == state:
        with suppress(OutputError):  # it is computed again where nothing can be kept
            write_atomic(kept, found, parents=True)
    return found


def _state(path: Path) -> list[Any]:
    real = path.resolve()
    seen = real.stat()
    return [ascii(str(real)), seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


def cache_folder() -> Path:
    """Where fingerprints are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interpole/fingerprints"
