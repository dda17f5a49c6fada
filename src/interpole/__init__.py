"""Interpolate between an Instruct and a Thinking checkpoint of one model family.

    import interpole

    recipe = interpole.Recipe.between("path/to/Instruct", "path/to/Thinking", 0.6)
    merged = interpole.merge(recipe)          # a Checkpoint, computed on read
    interpole.save(merged, "merged-0.6")      # a folder that transformers and vLLM load

Names are imported when they are first used, so that `import interpole` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interpole.checkpoint import Checkpoint
    from interpole.errors import InterpoleError
    from interpole.merged import Merged, merge
    from interpole.recipe import Recipe
    from interpole.saving import save
    from interpole.sources import open_source as open

__version__ = "0.1.0"

_HOME = {
    "Checkpoint": "checkpoint",
    "InterpoleError": "errors",
    "Merged": "merged",
    "Recipe": "recipe",
    "merge": "merged",
    "open": "sources",
    "save": "saving",
}

__all__ = ["Checkpoint", "InterpoleError", "Merged", "Recipe", "merge", "open", "save"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'interpole' has no attribute {name!r}")
    value = getattr(import_module(f"interpole.{_HOME[name]}"), "open_source" if name == "open" else name)
    globals()[name] = value
    return value
