"""A recipe into a running engine: `with engine.at(0.6): …` replaces the weights in place by those that `interpole merge` writes.

`open_engine` gives an engine that has the recipe's checkpoints at hand. Which engines there are says `engines.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.base import Engine, Resolve
from interpole.engines.registry import engine_kind
from interpole.errors import EngineError
from interpole.merging.merged import Fitting, open_part
from interpole.merging.recipe import Part, Recipe, Source, build
from interpole.packages import remedy

__all__ = ["dial", "load_into", "open_engine"]


def open_engine(name: str, recipe: Recipe | None, *, per_request: bool = False, **options: Any) -> Engine:
    """Open an engine whose `at` and `load` take λ, a recipe (or its mapping), or a checkpoint.

    Args:
        name: one of `engines.registry`.
        recipe: at λ alone, this recipe at that λ; config and tokenizer are those of its template source. None: the engine
            holds no weights.
        per_request: each request brings its own λ; the engine holds both ends.
        **options: the engine's own, e.g. `dtype="float32"`, `max_rows=64`.

    Raises:
        EngineError: no such engine, no such option, or it cannot be opened.
    """
    kind = engine_kind(name)
    if fault := kind.fault_in(options):
        raise EngineError(f"engine {name}: {fault}", remedy="check the engine's options")
    if kind.needs_recipe and recipe is None:
        raise EngineError(f"the engine {name} needs a recipe", remedy="name the sources of its weights")
    if per_request and not kind.per_request_opener:
        raise EngineError(
            f"the engine {name} takes no λ per request", remedy="leave --per-request out, or use transformers"
        )
    module, _, function = (kind.per_request_opener if per_request else kind.opener).partition(":")
    try:
        engine: Engine = getattr(import_module(module), function)(recipe, **options)
    except TypeError as error:
        raise EngineError(f"engine {name}: {error}", remedy="check the engine's options") from error
    except ImportError as error:
        raise EngineError(f"engine {name} is not installed: {error}", remedy=remedy(error.name or name)) from error
    return engine


def dial(recipe: Recipe) -> Resolve:
    """A function from λ, a recipe, its mapping or a source to the checkpoint it names; sources are opened and fitted once."""
    opened = cache(open_part)

    @cache
    def fitting(sources: tuple[tuple[str, Part], ...]) -> Fitting:
        return Fitting({name: opened(source) for name, source in sources})

    def resolve(where: float | Recipe | Mapping[str, Any] | Source | Checkpoint) -> Checkpoint:
        if isinstance(where, Checkpoint):
            return where
        if isinstance(where, Source):
            return opened(where)
        if isinstance(where, Mapping):
            where = build(where, "the recipe")
        chosen = where if isinstance(where, Recipe) else recipe.at(float(where))
        return fitting(tuple(chosen.sources.items())).merge(chosen)

    return resolve


def load_into(model: Any, checkpoint: Checkpoint) -> None:
    """Replace every weight of a live torch model by the tensor of its name in `checkpoint`, in place.

    Raises:
        MismatchError: a tensor is missing, extra, or of another shape; nothing was changed.
    """
    from interpole.engines.weights import load_into as load

    load(model, checkpoint)
