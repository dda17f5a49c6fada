"""The lab: a tiny Instruct/Thinking pair that was really trained, to try everything on without a GPU.

`shipped()` gives the folders of the pair that comes with the package; `interpole.lab.train` makes it again from
nothing (needs torch), `interpole.tasks.chains` holds its task. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interpole.errors import CheckpointError
from interpole.files import StrPath

__all__ = ["Pair", "pair_in", "shipped"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The folders of a trained family: the common ancestor and its Instruct and Thinking models."""

    base: Path
    instruct: Path
    thinking: Path


def pair_in(folder: StrPath) -> Pair:
    """The pair in `folder`, which `interpole lab train` wrote.

    Raises:
        CheckpointError: one of the three checkpoints is not there.
    """
    folder = Path(folder)
    pair = Pair(folder / "base", folder / "instruct", folder / "thinking")
    for part in (pair.base, pair.instruct, pair.thinking):
        if not (part / "model.safetensors").is_file():
            raise CheckpointError(
                f"the pair has no checkpoint {part.name!r}",
                where=part,
                remedy="train one with `interpole lab train --out DIR`, or install interpole again",
            )
    return pair


def shipped() -> Pair:
    """The pair that comes with the package (arch qwen3, seed 0; see docs/tiny-pair.md)."""
    return pair_in(Path(__file__).parent / "pair")
