"""The engines there are, and what each can do: the one place that knows them by name.

Packages add their own through the entry point group `interpole.engines`: each names an `EngineKind`. Nothing heavy is imported
here; an engine's module is imported when the engine is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from interpole.errors import EngineError
from interpole.packages import remedy

__all__ = ["BUILT_IN", "EngineKind", "default_engine", "engine_kind", "engine_kinds", "installed"]

GROUP = "interpole.engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """What is known of an engine before it is opened.

    Attributes:
        name: as `--engine` and `engine:` call it.
        opener: `module:function`; the function takes a recipe (None where there is none) and the options by name.
        per_request_opener: as `opener`, of the engine whose requests each bring a λ; empty: there is none.
        options: the names of its options; None: they are somebody else's, and checked when it is opened.
        numbers: those of its options that are numbers, with the least that each may be; whole ones where that is whole.
        writes: those of its options that name files it writes.
        matters: those of its options that responses depend on; None: all of them may.
        needs_recipe: it holds weights, which a recipe names.
        remote: its points are models that somebody else serves. Its options include `base_url`, `model` and `api`.
        default_rows: how many responses it generates at once, where its options do not say; None: it holds no model here.
        default_dtype: of the weights it holds, where its options do not say; `auto`: the checkpoint's.
        packages: what it imports; responses depend on their versions.
        chances: it says how likely a response begins with a text (`Request.begins`).
    """

    name: str
    opener: str
    per_request_opener: str = ""
    options: tuple[str, ...] | None = None
    numbers: Mapping[str, int | float] = field(default_factory=dict, hash=False)
    writes: tuple[str, ...] = ()
    matters: tuple[str, ...] | None = None
    needs_recipe: bool = True
    remote: bool = False
    default_rows: int | None = None
    default_dtype: str = "auto"
    packages: tuple[str, ...] = ()
    chances: bool = False

    def num_rows(self, options: Mapping[str, Any]) -> int | None:
        """How many responses an engine with these options generates at once; None: not known."""
        return options.get("max_rows") or options.get("rows") or self.default_rows

    def fault_in(self, options: Mapping[str, Any]) -> str:
        """What is wrong with options, so far as that is known before the engine is opened; empty: nothing."""
        if self.options is not None and (unknown := set(options) - set(self.options)):
            return f"{self.name} has no {min(unknown)!r}; there are {', '.join(self.options)}"
        for name, least in self.numbers.items():
            value = least if (said := options.get(name)) is None else said
            kinds = int if isinstance(least, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
                return f"{name}: {value!r} is no {'whole ' if kinds is int else ''}number from {least:g} on"
        return ""


_BUILT_IN = (
    EngineKind(
        name="transformers",
        opener="interpole.engines.transformers:open_transformers",
        per_request_opener="interpole.engines.per_request:open_per_request",
        options=("dtype", "device", "threads", "max_rows"),
        numbers={"threads": 1, "max_rows": 1},
        matters=("dtype", "device"),
        default_rows=128,
        packages=("transformers", "torch"),
        chances=True,
    ),
    EngineKind(
        name="vllm",
        opener="interpole.engines.vllm:open_vllm",
        per_request_opener="interpole.engines.vllm_sweep:open_vllm_per_request",
        numbers={"tensor_parallel_size": 1, "pipeline_parallel_size": 1},
        default_rows=128,
        packages=("vllm", "torch"),
        chances=True,
    ),
    EngineKind(
        name="openai",
        opener="interpole.engines.openai:open_openai",
        options=(
            "base_url", "model", "api", "connections", "retries", "backoff_seconds", "timeout_seconds", "max_reply_bytes",
            "api_key_env", "extra_body",
        ),
        numbers={"connections": 1, "retries": 0, "backoff_seconds": 0.0, "timeout_seconds": 0.0, "max_reply_bytes": 1},
        matters=("api", "extra_body"),
        needs_recipe=False,
        remote=True,
        packages=("httpx",),
    ),
    EngineKind(
        name="scripted",
        opener="interpole.engines.scripted:open_scripted",
        options=("script", "rows", "step_seconds", "journal", "failed"),
        numbers={"rows": 1, "step_seconds": 0.0},
        writes=("journal", "failed"),
        matters=(),
        needs_recipe=False,
        chances=True,
    ),
)  # fmt: skip


BUILT_IN = tuple(kind.name for kind in _BUILT_IN)


@cache
def engine_kinds() -> dict[str, EngineKind]:
    """All engines by name: our own, then those of installed packages.

    Raises:
        EngineError: a package's entry point does not load, or is no `EngineKind`.
    """
    from importlib.metadata import entry_points  # slow to import, and the command line reads names alone

    found = {kind.name: kind for kind in _BUILT_IN}
    for point in entry_points(group=GROUP):
        try:
            kind = point.load()
        except Exception as error:  # a package's own code may fail in any way
            raise EngineError(f"the engine {point.name} does not load: {error}", point.value) from error
        if not isinstance(kind, EngineKind) or kind.name in found:
            raise EngineError(f"the entry point {point.name} names no new EngineKind", point.value, "mend its package")
        found[kind.name] = kind
    return found


def engine_kind(name: str) -> EngineKind:
    """The engine of that name.

    Raises:
        EngineError: there is none.
    """
    kinds = engine_kinds()
    if name not in kinds:
        raise EngineError(f"no engine {name!r}", remedy=f"there are {', '.join(kinds)}")
    return kinds[name]


def installed() -> dict[str, dict[str, Any]]:
    """Engine → versions of what it imports, and what to install where one of them is not there."""
    from interpole.diagnostics.environment import versions  # late, as above

    kinds, found = {kind.name: kind for kind in _BUILT_IN}, dict[str, dict[str, Any]]()
    try:
        kinds = engine_kinds()
    except EngineError as error:
        found["of other packages"] = {"packages": {}, "found": False, "remedy": str(error)}
    for name, kind in kinds.items():
        packages = versions(kind.packages)
        missing = [package for package, number in packages.items() if number is None]
        found[name] = {"packages": packages, "found": not missing, "remedy": remedy(missing[0]) if missing else ""}
    return found


def default_engine(*, remote: bool) -> str:
    """The first engine for weights at hand, or for models that somebody else serves."""
    return next(kind.name for kind in _BUILT_IN if kind.remote == remote)
