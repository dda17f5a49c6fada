"""What an examination gives: findings, each with a reason and a remedy, and the verdict that follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.formats import plain

__all__ = ["VERDICTS", "Check", "Diagnosis", "Finding", "Side", "differences"]

VERDICTS: Mapping[str, str] = {"note": "go", "warn": "warn", "stop": "stop"}
"""Severity of a finding → the verdict it leads to if it is the gravest."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing seen.

    Attributes:
        code: a short name that stays the same over versions, e.g. `rope`; with a base, `base-rope`.
        severity: "note" (good to know), "warn" (allowed, check it) or "stop" (the merge fails or is worthless).
        what: what was seen, with both sides.
        why: why it matters.
        remedy: what to do about it.
    """

    code: str
    severity: str
    what: str
    why: str
    remedy: str


class Side(NamedTuple):
    """One of the checkpoints under examination, under the name that findings call it by."""

    name: str
    checkpoint: Checkpoint

    @property
    def source(self) -> str:
        """Its name as a source of a recipe, which `--template-from` takes."""
        return {"Instruct": "instruct", "Thinking": "thinking", "the base": "base"}.get(self.name, self.name)


Check = Callable[[Side, Side], Iterable[Finding]]
"""A small question about two sides; yields nothing where all is well."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings about a pair, the gravest first; of other sources `instruct` is the one that gives the config."""

    instruct: str
    thinking: str
    base: str | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """`go`, `warn` or `stop`: what the gravest finding says."""
        severities = {finding.severity for finding in self.findings}
        return next((VERDICTS[severity] for severity in ("stop", "warn") if severity in severities), "go")

    @property
    def exit_code(self) -> int:
        """0 for `go` and `warn`, 2 for `stop`."""
        return 2 if self.verdict == "stop" else 0

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(severity, code, what, why, remedy) of every finding, as a table prints them."""
        return [(f.severity, f.code, f.what, f.why, f.remedy) for f in self.findings]

    def to_json(self) -> dict[str, Any]:
        """Verdict, exit code, the sides and the findings as plain data."""
        found: dict[str, Any] = {"verdict": self.verdict, "exit_code": self.exit_code} | plain(self)
        return found


def differences(
    a: Side, b: Side, values: tuple[Mapping[str, Any], Mapping[str, Any]], keys: Iterable[str] | None = None
) -> str:
    """The keys whose values differ, with both sides, on one line: `top_p: 0.8 in Instruct, 0.95 in Thinking; …`."""
    first, second = values
    chosen = sorted(first.keys() | second.keys()) if keys is None else keys
    return "; ".join(
        f"{key}: {_short(first.get(key))} in {a.name}, {_short(second.get(key))} in {b.name}"
        for key in chosen
        if first.get(key) != second.get(key)
    )


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    num = f" ({len(value)} in all)" if isinstance(value, list) else ""
    return text if len(text) <= 60 else f"{text[:57]}…{num}"
