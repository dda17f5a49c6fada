"""A checkpoint whose layers are those of another in a new order: some left out, some twice. Tensors are read where they lie.

Stacks of more layers than the models have ("frankenmerges", depth up-scaling as in arXiv 2312.15166) are this view over every
source, and a recipe that chooses for each layer of the result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, final

from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.names import num_layers, role_of
from interpole.errors import RecipeError

__all__ = ["Stacked"]


@final
class Stacked(Checkpoint):
    """A checkpoint with its layers in another order.

    Attributes:
        source: the checkpoint as it is.
        order: for each layer of the view the layer of the source.
    """

    def __init__(self, source: Checkpoint, order: Sequence[int]) -> None:
        """Plan the view; reads no tensor.

        Raises:
            RecipeError: `order` names a layer that the source does not have.
        """
        depth = num_layers(source)
        if beyond := [layer for layer in order if layer >= depth]:
            raise RecipeError(
                f"stack: there is no layer {beyond[0]}", source.label, f"the model has layers 0-{depth - 1}"
            )
        self.source, self.order = source, tuple(order)
        self.label, self.assets = source.label, source.assets
        self.config = restacked(source.config, depth, order)
        self._names: dict[str, str] = {}
        for name in source:
            found = role_of(name)
            if found is None or found.layer is None:
                self._names[name] = name
                continue
            for layer in (new for new, old in enumerate(order) if old == found.layer):
                self._names[re.sub(rf"\b{found.layer}\b", str(layer), name, count=1)] = name
        self.specs = {name: source.specs[old] for name, old in self._names.items()}
        self.layout = {name: source.layout[old] for name, old in self._names.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop) of the tensor in the source."""
        return self.source.read(self._names[name], start, stop)

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies in the source."""
        return self.source.origin(self._names[name])

    def chunk_elements(self, name: str) -> int | None:
        """As in the source."""
        return self.source.chunk_elements(self._names[name])

    def fingerprint(self, *, quick: bool = False) -> str:
        """Hash of the source's fingerprint and the order."""
        return hashlib.sha256(f"stacked {self.source.fingerprint(quick=quick)} {self.order}".encode()).hexdigest()


def restacked(config: Mapping[str, Any], depth: int, order: Sequence[int]) -> dict[str, Any]:
    """The config with the number of layers of `order`, and its lists of one entry per layer (`layer_types`) in that order."""

    def changed(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return restacked(value, depth, order) if value.get("num_hidden_layers") == depth else value
        if key == "num_hidden_layers":
            return len(order)
        return [value[i] for i in order] if isinstance(value, list) and len(value) == depth else value

    return {key: changed(key, value) for key, value in config.items()}
