"""The texts that go with a merged folder: its model card and the recipe that makes it again.

Both may be published: they name folders as the user did or by their last name, never by where they lie on this machine, and hub
ids with the commit that was read.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import yaml

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.hub import is_hub_id
from interpole.errors import CheckpointError
from interpole.formats import parse_yaml
from interpole.merging.recipe import Part, Recipe, Source

__all__ = ["RECIPE_NAME", "Result", "model_card", "pinned", "texts"]

RECIPE_NAME = "interpole_recipe.yml"
CARRIED = ("license", "license_name", "license_link")
PIPELINES = {"ForCausalLM": "text-generation", "ForConditionalGeneration": "image-text-to-text"}
"""How the name of a model's class ends → what the hub calls what it does, where no card says it."""


class Result(NamedTuple):
    """A number that was measured of a merge, with its 95 % interval.

    Args:
        task: its name.
        dataset: the hub id of its problems, where they are there; else its name.
        metric: what the hub calls such a number.
        name: what it is called here.
        value: the number; shares are in percent.
        low: end of its interval.
        high: the other end.
        num_questions: questions asked.
        num_samples: responses to each.
    """

    task: str
    dataset: str
    metric: str
    name: str
    value: float
    low: float
    high: float
    num_questions: int
    num_samples: int


class _Merge(Protocol):
    """What is told of a merge: `merged.Merged`."""

    @property
    def recipe(self) -> Recipe:
        """What was merged."""

    @property
    def sources(self) -> Mapping[str, Checkpoint]:
        """The checkpoints by the recipe's source names."""

    @property
    def given(self) -> Mapping[str, Checkpoint]:
        """The same before they were made to fit each other."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be done to them."""

    @property
    def stages(self) -> Mapping[str, _Merge]:
        """The sources that are merges themselves."""


def texts(merged: _Merge) -> dict[str, Callable[[], str]]:
    """File name → what makes its text: `README.md`, the model card with the hub's front matter, and the recipe."""
    return {"README.md": partial(model_card, merged), RECIPE_NAME: partial(_recipe_text, merged)}


def _recipe_text(merged: _Merge) -> str:
    """The recipe as a file, with the fingerprints of the sources."""
    recipe = pinned(merged)
    hashes = "".join(f"# {name}: {source.fingerprint()}\n" for name, _, source in _chain(merged, recipe))
    return (
        "# Made by Interpole; make it again with: interpole merge interpole_recipe.yml --out DIR\n"
        "# Folders are looked for from where you are; one that lies elsewhere: --source NAME=FOLDER\n"
        f"# fingerprints of the sources:\n{hashes}{recipe.to_yaml()}"
    )


def pinned(merged: _Merge) -> Recipe:
    """The recipe with hub ids at the commit that was read, and no absolute path."""
    found = {}
    for name, source, checkpoint in _chain(merged, merged.recipe):
        if isinstance(source, Source):
            places = {"model": _place(source.model), "adapter": source.adapter and _place(source.adapter)}
            revision = _commit_of(checkpoint) if is_hub_id(source.model) else None
            found[name] = source.model_copy(update=places | {"revision": revision or source.revision})
    return merged.recipe.placed(found)


def _chain(merged: _Merge, recipe: Recipe, at: str = "") -> Iterator[tuple[str, Part, Checkpoint]]:
    """Every source with its name, as `Recipe.places` has it, and its checkpoint; below a source that is a merge, its own."""
    for name, source in recipe.sources.items():
        yield f"{at}{name}", source, merged.given[name]
        if isinstance(source, Recipe) and name in merged.stages:
            yield from _chain(merged.stages[name], source, f"{at}{name}/")


def _place(place: str) -> str:
    """A hub id or a relative path as it is; an absolute path from here if it lies below, else its last name alone."""
    path, here = Path(place).expanduser(), Path.cwd()
    if path.is_absolute():
        place = str(path.relative_to(here)) if path.is_relative_to(here) and path != here else path.name
    return place.encode("utf-8", "replace").decode()  # names of files may be no text


def _commit_of(source: Checkpoint) -> str | None:
    """The commit of a checkpoint that lies in the hub's cache: `…/snapshots/COMMIT/config.json`."""
    folder = source.assets["config.json"].parent
    found = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    return folder.name if found else None


def _front_matter(source: Checkpoint) -> Mapping[str, Any]:
    """What the model card beside a source says in its front matter; empty where there is none that can be read."""
    card = source.assets["config.json"].with_name("README.md")
    try:
        text = card.read_text(encoding="utf-8")
        match = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        said = parse_yaml(match[1], card, CheckpointError) if match else {}
    except (OSError, UnicodeDecodeError, CheckpointError):
        return {}
    return said if isinstance(said, dict) else {}


def _named(source: Part) -> str:
    """The source as a reader knows it: model, commit and adapter; of a merge its method and what it is made of."""
    if isinstance(source, Recipe):
        return source.label
    at = f" @ {source.revision}" if source.revision else ""
    return source.model + at + ("" if source.adapter is None else f" + {source.adapter}")


def model_card(merged: _Merge, results: Sequence[Result] = ()) -> str:
    """A model card as the hub reads it: `base_model`, licence, tags; then what was merged, how, and from which bytes.

    Args:
        merged: the merge.
        results: what was measured of it, for the hub's `model-index` and a table.
    """
    recipe = pinned(merged)
    matter, terms = _matter(merged, recipe)
    if results:
        matter["model-index"] = _model_index(recipe.label, results)
    at = f" at λ = {recipe.lam:g}" if isinstance(recipe.lam, float) else ""
    rows = "\n".join(
        f"| `{name}` | {_named(source)} | `{checkpoint.fingerprint()}` |"
        for name, source, checkpoint in _chain(merged, recipe)
    )
    stages = f" in {recipe.num_stages} stages, each rounded to its dtype" if recipe.num_stages > 1 else ""
    notes = "".join(f"\n{note[0].upper()}{note[1:]}.\n" for note in (*merged.notes, *terms))
    versions = f"interpole {version('interpole')}, numpy {np.__version__}, Python {platform.python_version()}"
    return f"""---
{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True).strip()}
---

# Merge of {len(recipe.places)} models by `{recipe.method}`{at}{stages}

Made with Interpole: Θ(λ) = (1 − λ)·Θ_instruct + λ·Θ_thinking and its relatives ([arXiv 2510.10977](https://arxiv.org/abs/2510.10977)),
computed in float32 with one rounding. Config, tokenizer, chat template and generation config are those of
`{recipe.template_source}`.

| source | model | fingerprint of its weights |
| --- | --- | --- |
{rows}
{notes}{_measured(results)}
`{RECIPE_NAME}` makes it again:

```yaml
{recipe.to_yaml().strip()}
```

{versions}
"""


def _measured(results: Sequence[Result]) -> str:
    """What was measured, as a table; nothing where nothing was."""
    if not results:
        return ""
    rows = "\n".join(
        f"| {one.task} | {one.name} | {one.value:.1f} [{one.low:.1f}, {one.high:.1f}] | {one.num_questions} × {one.num_samples} |"
        for one in results
    )
    head = "\nMeasured of these weights, with 95 % intervals over questions; shares in percent:\n"
    return f"{head}\n| task | | value | questions × responses |\n| --- | --- | --- | --- |\n{rows}\n"


def _model_index(name: str, results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results as the hub's own library writes them."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=one.dataset,
            dataset_name=one.task,
            metric_type=one.metric,
            metric_name=one.name,
            metric_value=round(one.value, 2),
            metric_args={
                "interval_95": [round(one.low, 2), round(one.high, 2)],
                "questions": one.num_questions,
                "responses_per_question": one.num_samples,
            },
        )
        for one in results
    ]
    return list(eval_results_to_model_index(name, found))


def _pipeline(source: Checkpoint) -> str | None:
    """What a model does, by the name of its class; None where that says nothing."""
    named = [str(name) for name in source.config.get("architectures") or ()]
    return next((PIPELINES[end] for name in named for end in PIPELINES if name.endswith(end)), None)


def _licence(matter: Mapping[str, Any]) -> str:
    """A licence as a reader knows it, those that the hub calls `other` by their names; empty where a card says none."""
    said = matter.get("license")
    licence = ", ".join(str(one) for one in said) if isinstance(said, list) else str(said or "")
    return f"{licence} ({matter['license_name']})" if licence == "other" and matter.get("license_name") else licence


def _terms(said: Mapping[str, Mapping[str, Any]], template: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The licence of a merge in the hub's words, and a sentence where its sources do not all say the same.

    Args:
        said: what the card of each source says, by its name.
        template: what the card of the template source says.
    """
    licences = {name: _licence(matter) for name, matter in said.items()}
    known = {licence: said[name] for name, licence in licences.items() if licence}
    terms = []
    if known and len(set(licences.values())) > 1:
        named = ", ".join(f"{name}: {licence or 'not said'}" for name, licence in licences.items())
        terms = [f"licences of the sources: {named}"]
    if len(known) > 1:
        return {"license": "other", "license_name": "those-of-the-sources"}, terms
    matter = template if _licence(template) else next(iter(known.values()), template)
    return {key: matter[key] for key in CARRIED if isinstance(matter.get(key), str | list)}, terms


def _matter(merged: _Merge, recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """The front matter, and a sentence where the sources' licences differ (they then stand in it as `other`) or one has none."""
    read = {name: source for name, place, source in _chain(merged, recipe) if isinstance(place, Source)}
    template = _front_matter(merged.sources[recipe.template_source])
    carried, terms = _terms({name: _front_matter(source) for name, source in read.items()}, template)
    pipeline = template.get("pipeline_tag") or _pipeline(merged.sources[recipe.template_source])
    hub_ids = list(dict.fromkeys(source.model for source in recipe.places.values() if is_hub_id(source.model)))
    return {
        **({"base_model": hub_ids} if hub_ids else {}),
        "base_model_relation": "merge",
        **carried,
        **({"pipeline_tag": pipeline} if isinstance(pipeline, str) else {}),
        "library_name": "transformers",
        "tags": ["merge", "model-interpolation", "interpole", recipe.method],
    }, terms
