"""Is Instruct given first and Thinking second? A sweep of a swapped pair runs, with every number at the wrong end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from interpole.diagnostics.doctor.findings import Check, Finding, Side
from interpole.diagnostics.doctor.tokens import markers_of

__all__ = ["CHECKS"]

THINKS = re.compile(r"think|reason|magistral|(?<![a-z0-9])[rz]1(?![a-z0-9])", re.IGNORECASE)
ANSWERS = re.compile(r"instruct|chat|(?<![a-z])it(?![a-z])|no-?think|non-?think", re.IGNORECASE)
"""What makers call the two."""


def _check_order(a: Side, b: Side) -> Iterator[Finding]:
    """Signs that the sides are swapped; the generation prompt is another one (`check_templates`)."""
    signs = []
    if _is_called(a, THINKS, ANSWERS) and _is_called(b, ANSWERS, THINKS):
        signs.append(f"{a.name} is {a.checkpoint.label}, {b.name} is {b.checkpoint.label}")
    if markers_of(a) and not markers_of(b):
        signs.append(f"{a.name} has think markers and {b.name} has none")
    if signs:
        yield Finding(
            "order",
            "warn",
            f"the sides may be swapped: {'; '.join(signs)}",
            "λ would run from Thinking to Instruct: every share, band and recommendation is then read from the wrong end",
            "check the order: first Instruct, then Thinking",
        )


def _is_called(side: Side, words: re.Pattern[str], others: re.Pattern[str]) -> bool:
    name = PurePosixPath(side.checkpoint.label).name
    return bool(words.search(name)) and not others.search(name)


CHECKS: tuple[Check, ...] = (_check_order,)
