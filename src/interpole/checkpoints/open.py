"""Open what a recipe names as a checkpoint that can be merged: FP8 dequantised, adapters put on their base, the rest refused.

`interpole.open` is `open_source`. To see the files as they lie on disk, use `checkpoint.open_checkpoint`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from interpole.checkpoints.checkpoint import Checkpoint, Folder, open_headers
from interpole.checkpoints.hub import locate
from interpole.checkpoints.views.adapter import Adapted, adapter_base, is_adapter
from interpole.checkpoints.views.experts import same_layout
from interpole.checkpoints.views.fp8 import Dequantised
from interpole.checkpoints.views.vocabulary import same_vocabulary
from interpole.errors import CheckpointError

__all__ = ["fit", "open_source", "readable"]


def open_source(
    model: str | os.PathLike[str],
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    *,
    weights: bool = True,
) -> Checkpoint:
    """Open a local folder or a Hugging Face hub id, through the `hf` cache, so that its tensors can be merged.

    Args:
        model: a folder or hub id, of a model or of a LoRA adapter whose config names its base.
        revision: branch, tag or commit of a hub id.
        adapter: a LoRA adapter to apply to the model; a folder or hub id.
        weights: False for questions that read no tensor: of a hub id that is not in the cache only the headers are fetched.

    Raises:
        CheckpointError: nothing is there, it cannot be downloaded, or it is quantised in a way that is not read.
        CorruptError: the files contradict themselves.
        MismatchError: the adapter does not fit the model.
    """
    folder = locate(model, revision, weights=weights)
    if is_adapter(folder):
        if adapter is not None:
            raise CheckpointError(f"{model} is an adapter itself", adapter, "name the base: {model: BASE, adapter: …}")
        return Adapted(open_source(adapter_base(folder)), folder, str(model))
    checkpoint = readable(Folder(folder, str(model)) if weights else open_headers(model, folder))
    return checkpoint if adapter is None else Adapted(checkpoint, locate(adapter), str(adapter))


def fit(
    sources: Mapping[str, Checkpoint], template_source: str, vocabulary: str = "refuse"
) -> tuple[dict[str, Checkpoint], tuple[str, ...]]:
    """The sources with one layout of experts and one vocabulary, and what was done in words; the very same ones where they fit.

    Args:
        sources: checkpoints by name.
        template_source: the name of the source whose tokenizer goes with the result.
        vocabulary: what to do if tokenizers differ, one of `vocabulary.POLICIES`.

    Raises:
        MismatchError: they cannot be made to fit, or there is a choice to make.
    """
    return same_vocabulary(same_layout(sources), template_source, vocabulary)


def readable(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or dequantised if its config says FP8.

    Raises:
        CheckpointError: it is quantised in another way.
    """
    said = checkpoint.config.get("quantization_config")
    if said is None:
        return checkpoint
    if said.get("quant_method") == "fp8":
        return Dequantised(checkpoint)
    raise CheckpointError(
        f"{checkpoint.label} is quantised by {said.get('quant_method', 'an unnamed method')}; its codes cannot be averaged "
        "and carry rounding errors larger than the difference between the two models",
        remedy="take the checkpoint it was made from, in bf16 or FP8 with weight_scale_inv",
    )
