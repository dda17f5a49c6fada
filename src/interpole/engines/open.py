"""A recipe into a running engine: `with engine.at(0.6): …` replaces the weights in place by those that `interpole merge` writes.

`open_engine` gives an engine that has the recipe's checkpoints at hand. Run as a module (`python -m interpole.engines.open`)
this is the child process of `interpole.engines.process`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.open import open_source
from interpole.engines.base import Engine, Resolve
from interpole.engines.process import serve
from interpole.errors import EngineError
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe, Source, build

__all__ = ["ENGINES", "dial", "load_into", "open_engine"]

ENGINES = ("transformers", "vllm", "openai", "scripted")


def open_engine(name: str, recipe: Recipe | None, **options: Any) -> Engine:
    """Open an engine whose `at` and `load` take λ, a recipe (or its mapping), or a checkpoint.

    Args:
        name: one of `ENGINES`.
        recipe: at λ alone, this recipe at that λ; config and tokenizer are those of its template source. None: the engine
            holds no weights.
        **options: the engine's own, e.g. `dtype="float32"`, `max_rows=64`.

    Raises:
        EngineError: no such engine, no such option, or it cannot be opened.
    """
    try:
        if name == "openai":
            from interpole.engines.openai import OpenAIEngine

            return OpenAIEngine(**options)
        if name == "scripted":
            from interpole.engines.scripted import ScriptedEngine

            return ScriptedEngine(**options)
        if recipe is None:
            raise EngineError(f"the engine {name} needs a recipe", remedy=f"there are {', '.join(ENGINES)}")
        if name == "transformers":
            from interpole.engines.transformers import TransformersEngine

            resolve = dial(recipe)
            return TransformersEngine(resolve(recipe), resolve=resolve, **options)
        if name == "vllm":
            from interpole.engines.vllm import VllmEngine

            return VllmEngine(recipe, partial(dial, recipe), **options)
    except TypeError as error:
        raise EngineError(f"engine {name}: {error}", remedy="check the engine's options") from error
    except ImportError as error:
        raise EngineError(
            f"engine {name} is not installed: {error}", remedy=f"pip install 'interpole[{name}]'"
        ) from error
    raise EngineError(f"no engine {name!r}", remedy=f"there are {', '.join(ENGINES)}")


def dial(recipe: Recipe) -> Resolve:
    """A function from λ, a recipe, its mapping or a source to the checkpoint it names; sources are opened once."""

    @cache
    def opened(source: Source) -> Checkpoint:
        return open_source(**dict(source))

    def resolve(where: float | Recipe | Mapping[str, Any] | Source | Checkpoint) -> Checkpoint:
        if isinstance(where, Checkpoint):
            return where
        if isinstance(where, Source):
            return opened(where)
        if isinstance(where, Mapping):
            where = build(where, "the recipe")
        chosen = where if isinstance(where, Recipe) else recipe.at(float(where))
        return merge(chosen, {name: opened(source) for name, source in chosen.sources.items()})

    return resolve


def load_into(model: Any, checkpoint: Checkpoint) -> None:
    """Replace every weight of a live torch model by the tensor of its name in `checkpoint`, in place.

    Raises:
        MismatchError: a tensor is missing, extra, or of another shape; nothing was changed.
    """
    from interpole.engines.weights import load_into as load

    load(model, checkpoint)


def _open(spec: Mapping[str, Any]) -> Engine:
    recipe = build(spec["recipe"], "the recipe") if spec["recipe"] else None
    return open_engine(spec["engine"], recipe, **spec.get("options", {}))


if __name__ == "__main__":
    serve(_open)
