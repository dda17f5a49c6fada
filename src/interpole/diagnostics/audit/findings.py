"""What an audit gives: one entry per tensor, the verdict on the whole, and how both are told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from interpole.diagnostics.audit.arithmetic import ARITHMETICS
from interpole.diagnostics.audit.assets import AssetAudit
from interpole.diagnostics.audit.estimate import LambdaEstimate
from interpole.diagnostics.audit.mapping import MOST_RULES, LambdaMap
from interpole.diagnostics.audit.stated import Stated
from interpole.formats import plain
from interpole.merging.recipe import Recipe

__all__ = ["ON_LINE", "STATES", "Audit", "TensorAudit"]

STATES = {
    "linear": "on the line between Instruct and Thinking",
    "instruct": "a copy of Instruct's",
    "thinking": "a copy of Thinking's",
    "same": "a copy of Instruct's and Thinking's, which are equal",
    "base": "a copy of the base's",
    "combination": "a weighted sum whose weights do not add up to one: task arithmetic, slerp, unnormalised weights",
    "other": "neither: another method, further training, or another source",
    "not finite": "with NaN or infinity in the merge or a source: `interpole doctor --weights` says where",
    "dropped": "missing in the merge",
    "extra": "in the merge only",
    "reshaped": "of another shape in the merge",
}
"""What can be said of a tensor."""

VERDICTS = {
    "linear": "a linear merge",
    "copy": "a copy of one side",
    "combination": "a weighted sum of task vectors or of weights, not on the line",
    "partly linear": "linear in most of its parameters, not in all",
    "not linear": "not a linear merge of these two",
}
"""What can be said of the whole."""

ON_LINE = ("linear", "instruct", "thinking", "same")
"""The states of a tensor that has a λ, or could have any."""


@dataclass(frozen=True, slots=True)
class TensorAudit:
    """What is known of one tensor.

    Attributes:
        name: of the tensor.
        layer: decoder layer, None outside of them or unknown.
        kind: module kind, or `other`.
        num_elements: its size.
        state: one of `STATES`.
        lam: λ, None where it cannot be said.
        estimate: what λ was judged by; None for tensors that could not be compared.
        arithmetic: the way of rounding, a key of `arithmetic.ARITHMETICS`; empty if none gives 99.9 % of the sampled bits.
        exact: share of sampled elements that the best arithmetic gives exactly.
        num_wrong: elements that the recovered recipe gives otherwise; None without a recipe.
    """

    name: str
    layer: int | None
    kind: str
    num_elements: int
    state: str
    lam: float | None = None
    estimate: LambdaEstimate | None = None
    arithmetic: str = ""
    exact: float = 0.0
    num_wrong: int | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """The findings about a merge.

    Attributes:
        verdict: one of `VERDICTS`.
        tensors: one entry per tensor of the merge and of the sources.
        lambda_map: λ of the linear tensors as rules; None where there is none.
        recipe: the recipe that makes the merge again, the stated one if it does; None where none is known.
        assets: whose files it carries.
        stated: the recipe that lies beside the merge, and whether it makes it; None where there is none.
    """

    merged: str
    verdict: str
    tensors: tuple[TensorAudit, ...]
    lambda_map: LambdaMap | None
    recipe: Recipe | None
    assets: tuple[AssetAudit, ...]
    stated: Stated | None = None

    @property
    def lam(self) -> float | list[float] | None:
        """λ of the whole: of the map where there is one, else of the recipe."""
        if self.lambda_map:
            return self.lambda_map.lam
        return self.recipe.lam if self.recipe else None

    @property
    def mean_lambda(self) -> float:
        """Mean over the parameters of each tensor's least-squares λ, also where the merge is not linear; nan without any."""
        known = [(t.num_elements, t.estimate.lam) for t in self.tensors if t.estimate and math.isfinite(t.estimate.lam)]
        whole = sum(size for size, _ in known)
        return sum(size * lam for size, lam in known) / whole if whole else math.nan

    @property
    def _had_base(self) -> bool:
        """Whether tensors were held against a base too."""
        return any(tensor.estimate and len(tensor.estimate.differing) > 2 for tensor in self.tensors)

    @property
    def byte_for_byte(self) -> bool:
        """Whether the recipe gives every tensor of the merge with all of its bits."""
        return self.recipe is not None and all(tensor.num_wrong == 0 for tensor in self.tensors)

    @property
    def arithmetic(self) -> str:
        """The way of rounding of most parameters; empty where none is recognised."""
        shares: dict[str, int] = {}
        for tensor in self.tensors:
            if tensor.state == "linear":
                shares[tensor.arithmetic] = shares.get(tensor.arithmetic, 0) + tensor.num_elements
        return max(shares, key=lambda key: shares[key], default="")

    def summary(self) -> list[str]:
        """The findings in a few sentences."""
        lines = [f"{self.merged} is {VERDICTS[self.verdict]}"]
        if self.lambda_map and self.verdict in ("linear", "partly linear", "copy"):
            lines.append(f"map: {self.lambda_map}")
        if self.lambda_map and len(self.lambda_map.rules) > MOST_RULES:
            lines.append("λ differs from tensor to tensor: no recipe with so many rules is tried")
        if self.arithmetic and self.verdict != "combination":
            lines.append(f"rounded as: {ARITHMETICS[self.arithmetic][1]}")
        for state in STATES:
            names = [tensor.name for tensor in self.tensors if tensor.state == state]
            if names and state != "linear":
                lines.append(f"{len(names)} tensors: {STATES[state]}, e.g. {names[0]}")
        if self.verdict in ("not linear", "combination") and math.isfinite(self.mean_lambda):
            lines.append(f"the nearest point of the line, by least squares: λ = {self.mean_lambda:.3f}")
        untried = self.stated is not None and self.stated.num_wrong is None  # then it says what is missing
        if self.verdict in ("not linear", "combination") and not (self.recipe or self._had_base or untried):
            lines.append("no base was given: task arithmetic, TIES and DARE start from one; give it as --base")
        if self.stated:
            lines.append(str(self.stated))
        if self.recipe and not (self.stated and self.stated.byte_for_byte):
            wrong = sum(tensor.num_wrong or 0 for tensor in self.tensors)
            size = sum(tensor.num_elements for tensor in self.tensors)
            told = "byte for byte" if self.byte_for_byte else f"but for {wrong:,} of {size:,} weights"
            lines.append(f"the recipe below makes it again {told}")
        return lines + [f"{asset.name}: {_like(asset)}" for asset in self.assets]

    def rows(self) -> list[tuple[str, str, float | None, float, str, float, int | None]]:
        """(tensor, state, λ, residual in roundings, arithmetic, exact share, elements the recipe gives otherwise)."""
        return [
            (
                t.name,
                t.state,
                t.lam,
                t.estimate.residual if t.estimate else math.nan,
                t.arithmetic,
                t.exact,
                t.num_wrong,
            )
            for t in self.tensors
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; what is not known is null."""
        content = {
            "merged": self.merged,
            "verdict": self.verdict,
            "arithmetic": self.arithmetic,
            "byte_for_byte": self.byte_for_byte,
            "lambda": self.lam,
            "mean_lambda": self.mean_lambda,
            "rules": list(self.lambda_map.rules) if self.lambda_map else [],
            "recipe": self.recipe.to_yaml() if self.recipe else None,
            "stated": self.stated
            and {
                "file": self.stated.file,
                "byte_for_byte": self.stated.byte_for_byte,
                "problem": self.stated.problem,
                "num_wrong": None if self.stated.num_wrong is None else sum(self.stated.num_wrong.values()),
            },
            "assets": self.assets,
            "tensors": self.tensors,
        }
        found: dict[str, Any] = plain(content)
        return found


def _like(asset: AssetAudit) -> str:
    if not asset.like:
        return "like none of the sources"
    return f"{'the same as' if asset.exact else 'but for spelling that of'} {' and '.join(asset.like)}"
