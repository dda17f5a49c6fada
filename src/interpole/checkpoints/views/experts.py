"""Mixture-of-experts checkpoints whose experts lie apart on disk or fused in one tensor: the fused one shown as if apart.

Apart: `experts.E.gate_proj.weight` (I, H), `up_proj` (I, H), `down_proj` (H, I). Fused: `experts.gate_up_proj` (E, 2I, H) and
`experts.down_proj` (E, H, I) as transformers 5 keeps them, or both with their last two dimensions swapped as Qwen3-VL and
transformers 4 store them. Which of the two is told by the shapes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.safetensors import DTYPES, TensorSpec
from interpole.errors import MismatchError

__all__ = ["PerExpert", "has_fused_experts", "same_layout"]

_FUSED = re.compile(r"(?P<stem>.+\.experts)\.(?P<part>gate_up|down)_proj")
_APART = re.compile(r"(?P<stem>.+\.experts)\.(?P<expert>\d+)\.(?P<part>gate|up|down)_proj\.weight")


class _Part(NamedTuple):
    """Where one expert's matrix lies in a fused tensor: matrix (rows, columns) of `tensor`, from row or column `offset`."""

    tensor: str
    expert: int
    offset: int
    swapped: bool


@final
class PerExpert(Checkpoint):
    """A checkpoint with fused experts, shown with one tensor per expert and projection.

    Attributes:
        fused: the checkpoint as it is.
    """

    def __init__(self, fused: Checkpoint, like: Checkpoint) -> None:
        """Plan the view; reads no tensor.

        Args:
            fused: the checkpoint with fused experts.
            like: one whose experts lie apart; gives the shape of a projection.

        Raises:
            MismatchError: the shapes are not those of one model in the two layouts.
        """
        self.fused = fused
        self.label, self.config, self.assets = fused.label, fused.config, fused.assets
        self.given_template = fused.given_template
        self.specs: dict[str, TensorSpec] = {}
        self.layout: dict[str, str] = {}
        self._parts: dict[str, _Part] = {}
        for name, spec in fused.specs.items():
            if not (match := _FUSED.fullmatch(name)):
                self.specs[name], self.layout[name] = spec, fused.layout[name]
                continue
            for apart, part in _parts(name, match, fused, like).items():
                self._parts[apart] = part
                self.specs[apart] = TensorSpec(spec.dtype, like.specs[apart].shape)
                self.layout[apart] = fused.layout[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop): a range of the fused tensor, or cut from the expert's swapped matrix."""
        if (part := self._parts.get(name)) is None:
            return self.fused.read(name, start, stop)
        stop = self.specs[name].num_elements if stop is None else stop
        begin, rows = self._begin(part), self.fused.specs[part.tensor].shape[-2]
        if not part.swapped:
            return self.fused.read(part.tensor, begin + start, begin + stop)
        size = rows * self.fused.specs[part.tensor].shape[-1]
        matrix = self.fused.read(part.tensor, part.expert * size, (part.expert + 1) * size).reshape(rows, -1)
        chosen = matrix[:, part.offset : part.offset + self.specs[name].shape[0]]
        return chosen.T.reshape(-1)[start:stop]

    def origin(self, name: str) -> Origin | None:
        """Where the expert's bytes lie inside of the fused tensor; None where it must be transposed."""
        if (part := self._parts.get(name)) is None:
            return self.fused.origin(name)
        origin = self.fused.origin(part.tensor)
        if origin is None or part.swapped:
            return None
        return Origin(origin.path, origin.offset_bytes + self._begin(part) * DTYPES[self.specs[name].dtype].itemsize)

    def chunk_elements(self, name: str) -> int | None:
        """The whole of a swapped expert at once; else as the fused tensor."""
        if (part := self._parts.get(name)) is None:
            return self.fused.chunk_elements(name)
        return self.specs[name].num_elements if part.swapped else self.fused.chunk_elements(part.tensor)

    def fingerprint(self, *, quick: bool = False) -> str:
        """That of the fused checkpoint, marked."""
        return hashlib.sha256(f"per expert {self.fused.fingerprint(quick=quick)}".encode()).hexdigest()

    def _begin(self, part: _Part) -> int:
        """First element of an expert's matrix in the fused tensor, if it is not swapped."""
        rows, columns = self.fused.specs[part.tensor].shape[-2:]
        return (part.expert * rows + part.offset) * columns


def has_fused_experts(checkpoint: Checkpoint) -> bool:
    """Whether the experts of a layer lie in one tensor."""
    return any(map(_FUSED.fullmatch, checkpoint))


def same_layout(sources: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The sources, all with their experts apart if they lie apart in one of them; the very same ones otherwise.

    Raises:
        MismatchError: the shapes are not those of one model in the two layouts.
    """
    apart = next((source for source in sources.values() if any(map(_APART.fullmatch, source))), None)
    if apart is None:
        return dict(sources)
    return {name: PerExpert(source, apart) if has_fused_experts(source) else source for name, source in sources.items()}


def _parts(name: str, match: re.Match[str], fused: Checkpoint, like: Checkpoint) -> dict[str, _Part]:
    """Name of every expert's matrix in the fused tensor `name` → where it lies."""
    shape = fused.specs[name].shape
    projections: Sequence[str] = ("gate", "up") if match["part"] == "gate_up" else ("down",)
    first = like.specs.get(f"{match['stem']}.0.{projections[0]}_proj.weight")
    if first is None or len(shape) != 3 or len(first.shape) != 2:
        raise _clash(name, fused, like, "there is no such expert")
    rows, columns = first.shape
    total = rows * len(projections)
    if shape[1:] not in ((total, columns), (columns, total)):
        raise _clash(name, fused, like, f"expert 0 is {list(first.shape)} there")
    other = f"{match['stem']}.{'down' if match['part'] == 'gate_up' else 'gate_up'}_proj"
    swapped = _is_swapped(
        other if total == columns and other in fused else name, fused, like
    )  # one of them is not square
    parts = {}
    for expert in range(shape[0]):
        for i, projection in enumerate(projections):
            parts[f"{match['stem']}.{expert}.{projection}_proj.weight"] = _Part(name, expert, i * rows, swapped)
    if missing := parts.keys() - like.keys():
        raise _clash(name, fused, like, f"{min(missing)} is not there")
    return parts


def _is_swapped(name: str, fused: Checkpoint, like: Checkpoint) -> bool:
    """Whether the matrices of `name` are transposed, which two dimensions tell where they differ."""
    stem, part = name.removesuffix("_proj").rsplit(".", 1)
    rows, columns = like.specs[f"{stem}.0.{part.removesuffix('_up')}_proj.weight"].shape
    return fused.specs[name].shape[1:] != (rows * (2 if part == "gate_up" else 1), columns)


def _clash(name: str, fused: Checkpoint, like: Checkpoint, why: str) -> MismatchError:
    return MismatchError(
        f"{name} ({fused.specs[name]}) holds the experts fused in {fused.label}, and cannot be matched with those of "
        f"{like.label}: {why}",
        remedy="take two checkpoints of one model, or save one again with transformers so that both have one layout",
    )
