"""Merges by name: those the paper compared (arXiv 2510.10977), and recipes of its neighbours.

A preset is a `Recipe` like any other: print it with `to_yaml`, change it with `with_`. Where a name ends in a number, that is λ;
without one it is 0.8, the paper's best.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from interpole.checkpoints.names import KINDS
from interpole.errors import RecipeError
from interpole.files import StrPath
from interpole.merging.recipe import Recipe, build
from interpole.merging.rules import ablation

__all__ = ["PRESETS", "marker_rows", "preset"]

PRESETS: Mapping[str, str] = {
    "mi-0.8": "interpolation at λ = 0.8",
    "layers-12-35": "interpolation of these layers only; the others, embeddings, final norm and lm_head keep Instruct's weights",
    "skip-attention": "interpolation of all but the attention sublayers, which keep Instruct's weights",
    "skip-ffn": "the same for the feed-forward sublayers, router and experts included",
    "mix": "interpolation of the base with Thinking; the base is the hybrid model (Qwen3-4B in the paper)",
    "base": "the same; the base is the pretrained model (Qwen3-4B-Base in the paper)",
    "ta": "task arithmetic: 0.7 of both task vectors on the hybrid model",
    "ta-base": "the same on the pretrained model",
    "ties": "TIES: sparsity 0.2 (density 0.8), scale 0.5 on the hybrid model",
    "ties-base": "the same on the pretrained model",
    "experts-only": "interpolation of the routed experts only (as in arXiv 2506.14794, there with λ = 1)",
    "crane": "row policy of arXiv 2605.14084: embeddings of Instruct, marker rows at 0.8, lm_head and router at 0.03",
    "gradient-0.2-0.8": "λ from 0.2 in the first layer to 0.8 in the last; more numbers for more steps",
}
"""Examples of all presets, and what they are; λ can be appended to each but `ta` and `ties`: `skip-ffn-0.6`."""

DEFAULT_LAMBDA = 0.8


def preset(name: str, *, instruct: StrPath, thinking: StrPath, base: StrPath | None = None, **settings: Any) -> Recipe:
    """The recipe of a preset.

    Args:
        name: e.g. `mi-0.6`, `ta`, `skip-ffn`, `layers-12-35-0.6`; see `PRESETS`.
        instruct: the Instruct checkpoint.
        thinking: the Thinking checkpoint.
        base: the checkpoint that both come from, for presets that work on it.
        settings: further fields of the recipe, e.g. `dtype`.

    Raises:
        RecipeError: no such preset, or it needs a base.
    """
    for pattern, make in _MAKERS.items():
        if match := re.fullmatch(pattern, name):
            content = make(match)
            break
    else:
        raise RecipeError(f"unknown preset {name!r}", remedy=f"known, with examples of numbers: {', '.join(PRESETS)}")
    wanted = content.pop("sources", ("instruct", "thinking"))
    given = {"instruct": instruct, "thinking": thinking, "base": base}
    if base is None and "base" in wanted:
        kind = "Qwen/Qwen3-4B-Base" if "base" in name else "Qwen/Qwen3-4B, the hybrid model"
        what = f"preset {name} needs the base of both models"
        raise RecipeError(what, remedy=f"name it, by --base or as a source `base`; in the paper it is {kind}")
    sources = dict(zip(("instruct", "thinking", "base"), (given[key] for key in wanted), strict=False))
    return build({"sources": sources} | content | settings, f"preset {name}")


def marker_rows(which: str) -> dict[str, Any]:
    """A rule that takes the embedding and lm_head rows of the think markers from one side, whatever λ is elsewhere.

    Args:
        which: `instruct` or `thinking`.

    Raises:
        RecipeError: neither.
    """
    if which not in ("instruct", "thinking"):
        raise RecipeError(f"marker rows: {which!r}", remedy="say instruct or thinking")
    return {"rows": "markers", "lambda": float(which == "thinking")}


def _lam(match: re.Match[str]) -> float:
    return float(match["lam"] or DEFAULT_LAMBDA)


def _interpolated(match: re.Match[str], rules: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"lambda": _lam(match), "rules": rules or []}


def _on_backbone(match: re.Match[str]) -> dict[str, Any]:
    """Thinking with the base in Instruct's place."""
    return {"lambda": _lam(match), "sources": ("base", "thinking")}


def _task_arithmetic(_: re.Match[str]) -> dict[str, Any]:
    return _on_base("task_arithmetic", 0.7, {})


def _ties(_: re.Match[str]) -> dict[str, Any]:
    """TIES in the setting of arXiv 2503.20641, whose k is the share that is trimmed."""
    return _on_base("ties", 1.0, {"sparsity": 0.2, "scale": 0.5})


def _on_base(method: str, weight: float, parameters: dict[str, Any]) -> dict[str, Any]:
    weights = {"instruct": weight, "thinking": weight}
    return {"method": method, "weights": weights, "parameters": parameters, "sources": ("instruct", "thinking", "base")}


def _experts_only(match: re.Match[str]) -> dict[str, Any]:
    others = [kind for kind in KINDS if kind != "experts"]
    return _interpolated(
        match, [{"kind": others, "lambda": 0.0}, {"kind": "experts"}]
    )  # the last says there must be some


def _crane(match: re.Match[str]) -> dict[str, Any]:
    return _interpolated(
        match,
        [
            {"rows": "markers", "lambda": 0.8},
            {"kind": "embedding", "lambda": 0.0},
            {"kind": ["lm_head", "router"], "lambda": 0.03, "optional": True},
        ],
    )


def _gradient(match: re.Match[str]) -> dict[str, Any]:
    return {"lambda": [float(number) for number in match["numbers"].split("-")]}


_NUMBER = r"\d+(?:\.\d+)?"
_LAM = rf"(?:-(?P<lam>{_NUMBER}))?"
_MAKERS: Mapping[str, Callable[[re.Match[str]], dict[str, Any]]] = {
    rf"mi{_LAM}": _interpolated,
    rf"layers-(?P<layers>\d+-\d+){_LAM}": lambda match: _interpolated(match, ablation(match["layers"])),
    rf"skip-(?P<part>attention|ffn){_LAM}": lambda match: _interpolated(match, ablation(skip=[match["part"]])),
    rf"(?:mix|base){_LAM}": _on_backbone,
    r"ta(?:-base)?": _task_arithmetic,
    r"ties(?:-base)?": _ties,
    rf"experts-only{_LAM}": _experts_only,
    rf"crane{_LAM}": _crane,
    rf"gradient-(?P<numbers>{_NUMBER}(?:-{_NUMBER})+)": _gradient,
}
