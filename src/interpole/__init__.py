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
    from interpole.checkpoints.checkpoint import Checkpoint
    from interpole.checkpoints.open import open_source as open
    from interpole.checkpoints.save import save
    from interpole.errors import InterpoleError
    from interpole.merging.merged import Merged, merge
    from interpole.merging.recipe import Recipe

__version__ = "0.2.0"

_HOME = {
    "Checkpoint": "checkpoints.checkpoint",
    "InterpoleError": "errors",
    "Merged": "merging.merged",
    "Recipe": "merging.recipe",
    "merge": "merging.merged",
    "open": "checkpoints.open",
    "save": "checkpoints.save",
}

__all__ = ["Checkpoint", "InterpoleError", "Merged", "Recipe", "merge", "open", "save"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'interpole' has no attribute {name!r}")
    value = getattr(import_module(f"interpole.{_HOME[name]}"), "open_source" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
