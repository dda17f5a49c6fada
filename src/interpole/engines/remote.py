"""A model that somebody else serves, as a point of a sweep: a name at an address, in the place of a recipe and its weights."""

from __future__ import annotations

import hashlib

from interpole.schema import Strict

__all__ = ["MESSAGES", "RemoteModel"]

MESSAGES = "{# the server renders with its own template #}{{ messages | tojson }}"
"""The chat template where the server has its own: what is sent are the messages."""


class RemoteModel(Strict):
    """A served model. Nothing is known of its weights: it counts as the same while name and address are."""

    base_url: str
    model: str
    markers: tuple[str, str]  # around thinking that the server has split off

    def fingerprint(self) -> str:
        """Hash of address and name."""
        return "served-" + hashlib.sha256(f"{self.base_url.rstrip('/')} {self.model}".encode()).hexdigest()
