"""What commands with `--ray` share: the engines of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interpole.actors import Actors
    from interpole.sweep.config import SweepConfig

__all__ = ["actors_of"]


@contextmanager
def actors_of(config: SweepConfig, out: Path, address: str | None) -> Iterator[Actors | None]:
    """The engines of a cluster; None where no address is given."""
    if address is None:
        yield None
        return
    from interpole.sweep.cluster import engines

    with engines(config, out, address) as actors:
        yield actors
