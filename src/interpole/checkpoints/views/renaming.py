"""A checkpoint under other names, and checkpoints whose names begin otherwise (`model.`, `language_model.`) under one set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.names import stem
from interpole.formats import content_hash

__all__ = ["Renamed", "same_names"]


@final
class Renamed(Checkpoint):
    """Tensors of a checkpoint under other names: fewer, or one under several.

    Attributes:
        source: the checkpoint as it is.
    """

    def __init__(self, source: Checkpoint, names: Mapping[str, str], config: Mapping[str, Any] | None = None) -> None:
        """Plan the view; reads no tensor.

        Args:
            source: the checkpoint as it is.
            names: every name of the view → that of the source.
            config: the view's, where it is not the source's.
        """
        self.source, self._names = source, dict(names)
        self.label, self.assets = source.label, source.assets
        self.given_template = source.given_template
        self.config = source.config if config is None else config
        self.specs = {name: source.specs[old] for name, old in names.items()}
        self.layout = {name: source.layout[old] for name, old in names.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """As the source."""
        return self.source.read(self._names[name], start, stop)

    def origin(self, name: str) -> Origin | None:
        """As the source."""
        return self.source.origin(self._names[name])

    def chunk_elements(self, name: str) -> int | None:
        """As the source."""
        return self.source.chunk_elements(self._names[name])

    def stored_bytes(self, name: str) -> int:
        """As the source."""
        return self.source.stored_bytes(self._names[name])

    def fingerprint(self, *, quick: bool = False) -> str:
        """Hash of the source's fingerprint, the names, and the config where it is another."""
        changed = {} if self.config is self.source.config else dict(self.config)
        return content_hash(["renamed", self.source.fingerprint(quick=quick), self._names, changed])


def same_names(sources: Mapping[str, Checkpoint], target: str) -> tuple[dict[str, Checkpoint], tuple[str, ...]]:
    """The sources under the target's names, the very same ones where they have them, and what was done in words.

    Args:
        sources: checkpoints by name.
        target: the name of the source whose names all take: its config says which class loads them.
    """
    if all(source.keys() == sources[target].keys() for source in sources.values()):
        return dict(sources), ()
    wanted = {stem(name): name for name in sources[target]}
    result, notes = {}, []
    for source_name, source in sources.items():
        result[source_name] = source
        if source.keys() == sources[target].keys():
            continue
        theirs = {stem(name): name for name in source}
        if theirs.keys() != wanted.keys() or not len(theirs) == len(source) == len(wanted):
            continue
        result[source_name] = Renamed(source, {wanted[key]: theirs[key] for key in theirs})
        first = next(key for key in theirs if wanted[key] != theirs[key])
        notes.append(f"tensors of {source_name} go by the names of {target}: {theirs[first]} is {wanted[first]} there")
    return result, tuple(notes)
