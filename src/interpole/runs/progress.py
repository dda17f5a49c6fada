"""What the engines of a sweep are doing, as `progress.json` in its run folder: for whoever watches; nothing depends on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from interpole.engines.pool import EngineRate
from interpole.errors import OutputError, RunError
from interpole.files import open_regular, write_atomic
from interpole.formats import parse_json
from interpole.schema import Foreign, validated

__all__ = ["PROGRESS", "Progress", "ProgressFile"]

PROGRESS = "progress.json"
MAX_BYTES = 1 << 20
EVERY_SECONDS = 1.0


class Progress(Foreign):
    """The content of the file."""

    engines: list[EngineRate] = []

    @classmethod
    def load(cls, run: Path) -> Progress:
        """Read the file of a run; nothing where there is none.

        Raises:
            RunError: it is not one of ours.
        """
        path, remedy = run / PROGRESS, "delete it"
        try:
            with open_regular(path) as file:
                content = parse_json(file.read(MAX_BYTES), path, RunError, remedy)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise RunError(f"cannot be read: {error.strerror}", path, remedy) from None
        return validated(cls, content, path, RunError, remedy)


class ProgressFile:
    """Writes the file, now and then."""

    def __init__(self, run: Path) -> None:
        self._path, self._written = run / PROGRESS, 0.0

    def is_due(self) -> bool:
        """Whether it is old enough to be written again."""
        return time.monotonic() - self._written >= EVERY_SECONDS

    def write(self, rates: Sequence[EngineRate]) -> None:
        """Say what the engines have done; where it cannot be written, nobody is stopped."""
        self._written = time.monotonic()
        try:
            write_atomic(self._path, Progress(engines=list(rates)).model_dump_json())
        except OutputError:
            return
