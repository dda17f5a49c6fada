"""The texts that go with a merged folder: its model card and the recipe that makes it again."""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml

from interpole.merging.merged import Merged
from interpole.merging.recipe import Recipe, Source

__all__ = ["RECIPE_NAME", "texts"]

RECIPE_NAME = "interpole_recipe.yml"


def texts(merged: Merged) -> dict[str, str]:
    """File name → text: `README.md`, the model card with the hub's front matter, and the recipe."""
    recipe = pinned(merged)
    hashes = "".join(f"# {name}: {source.fingerprint()}\n" for name, source in merged.sources.items())
    recipe_text = "# Made by Interpole; make it again with: interpole merge interpole_recipe.yml --out DIR\n"
    recipe_text += f"# fingerprints of the sources:\n{hashes}{recipe.to_yaml()}"
    return {"README.md": model_card(merged, recipe), RECIPE_NAME: recipe_text}


def pinned(merged: Merged) -> Recipe:
    """The recipe with local folders as absolute paths, so that it can be run from anywhere."""

    def absolute(place: str | None) -> str | None:
        return str(path.resolve()) if place and (path := Path(place).expanduser()).is_dir() else place

    sources = {
        name: source.model_copy(update={"model": absolute(source.model), "adapter": absolute(source.adapter)})
        for name, source in merged.recipe.sources.items()
    }
    return merged.recipe.model_copy(update={"sources": sources})


def named(source: Source) -> str:
    """The source as a reader knows it: model and adapter."""
    return source.model if source.adapter is None else f"{source.model} + {source.adapter}"


def model_card(merged: Merged, recipe: Recipe) -> str:
    """A model card as the hub reads it: `base_model`, relation, tags; then what was merged, how, and from which bytes."""
    hub_ids = [source.model for source in recipe.sources.values() if re.fullmatch(r"[\w.-]+/[\w.-]+", source.model)]
    matter = {
        **({"base_model": hub_ids} if hub_ids else {}),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "model-interpolation", "interpole", recipe.method],
    }
    at = f" at λ = {recipe.lam:g}" if isinstance(recipe.lam, float) else ""
    rows = "\n".join(
        f"| `{name}` | {named(recipe.sources[name])} | `{source.fingerprint()}` |"
        for name, source in merged.sources.items()
    )
    notes = "".join(f"\n{note[0].upper()}{note[1:]}.\n" for note in merged.notes)
    versions = f"interpole {version('interpole')}, numpy {np.__version__}, Python {platform.python_version()}"
    return f"""---
{yaml.safe_dump(matter, sort_keys=False).strip()}
---

# Merge of {len(merged.sources)} models by `{recipe.method}`{at}

Made with Interpole: Θ(λ) = (1 − λ)·Θ_instruct + λ·Θ_thinking and its relatives ([arXiv 2510.10977](https://arxiv.org/abs/2510.10977)),
computed in float32 with one rounding. Config, tokenizer, chat template and generation config are those of
`{recipe.template_source}`.

| source | model | fingerprint of its weights |
| --- | --- | --- |
{rows}
{notes}
`{RECIPE_NAME}` makes it again:

```yaml
{recipe.to_yaml().strip()}
```

{versions}
"""
