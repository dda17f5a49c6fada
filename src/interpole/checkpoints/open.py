"""Open what a recipe names as a checkpoint that can be merged: FP8 dequantised, adapters put on their base, the rest refused.

`interpole.open` is `open_source`. To see the files as they lie on disk, use `checkpoint.open_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from interpole.checkpoints.checkpoint import Checkpoint, Folder, Headers, holds_weights, open_headers
from interpole.checkpoints.hub import is_hub_id, locate
from interpole.checkpoints.views.adapter import Adapted, adapter_base, is_adapter
from interpole.checkpoints.views.experts import same_layout
from interpole.checkpoints.views.fp8 import Dequantised, announced
from interpole.checkpoints.views.heads import same_heads, settled
from interpole.checkpoints.views.renaming import same_names
from interpole.checkpoints.views.scaled import METHODS, MODELOPT, Scaled
from interpole.checkpoints.views.vocabulary import NO_CHANGES, RowChanges, changed_rows, same_vocabulary
from interpole.errors import CheckpointError
from interpole.files import StrPath
from interpole.formats import read_json

__all__ = ["coded", "fit", "open_source", "readable"]


def open_source(
    model: StrPath,
    revision: str | None = None,
    adapter: StrPath | None = None,
    *,
    weights: bool = True,
    stream: bool = False,
) -> Checkpoint:
    """Open a local folder or a Hugging Face hub id, through the `hf` cache, so that its tensors can be merged.

    Args:
        model: a folder or hub id, of a model or of a LoRA adapter whose config names its base.
        revision: branch, tag or commit of a hub id.
        adapter: a LoRA adapter to apply to the model; a folder or hub id.
        weights: False for questions that read no tensor: of a hub id that is not in the cache only the headers are fetched.
        stream: of a hub id that is not in the cache tensors are fetched when they are read, and no file of weights is kept.

    Raises:
        CheckpointError: nothing is there, it cannot be downloaded, or it is quantised in a way that is not read.
        CorruptError: the files contradict themselves.
        MismatchError: the adapter does not fit the model.
    """
    folder = locate(model, revision, weights=weights and not stream)
    adapters = [] if adapter is None else [(locate(adapter), str(adapter))]
    while is_adapter(folder):  # which may lie on another one
        if adapter is not None:
            raise CheckpointError(f"{model} is an adapter itself", adapter, "name the base: {model: BASE, adapter: …}")
        if folder.resolve() in [known.resolve() for known, _ in adapters]:
            raise CheckpointError("the adapter is its own base", folder, "name both: {model: BASE, adapter: FOLDER}")
        adapters.append((locate(model, revision) if stream else folder, str(model)))
        model, revision = adapter_base(folder)
        folder = locate(model, revision, weights=weights and not stream)
    opened = _opened(str(model), folder, weights, stream)
    checkpoint = settled(readable(opened), reading=not isinstance(opened, Headers))
    for place, label in reversed(adapters):
        checkpoint = Adapted(checkpoint, place, label)
    return checkpoint


def _opened(model: str, folder: Path, weights: bool, stream: bool) -> Checkpoint:
    if stream and is_hub_id(model) and not holds_weights(folder):
        from interpole.checkpoints.remote import open_remote

        return open_remote(model, folder)
    return Folder(folder, model) if weights else open_headers(model, folder)


def fit(
    sources: Mapping[str, Checkpoint],
    template_source: str,
    vocabulary: str = "refuse",
    changes: RowChanges = NO_CHANGES,
) -> tuple[dict[str, Checkpoint], tuple[str, ...]]:
    """The sources as weights with one layout of heads and experts, one set of names and one vocabulary; what was done in words.

    Sources that fit already are the very same ones.

    Args:
        sources: checkpoints by name.
        template_source: the name of the source whose tokenizer goes with the result.
        vocabulary: what to do if tokenizers differ, one of `vocabulary.POLICIES`.
        changes: what else is done to the rows of tokens.

    Raises:
        CheckpointError: one is quantised in a way that is not read.
        MismatchError: they cannot be made to fit, or there is a choice to make.
    """
    weights = {name: settled(readable(source)) for name, source in sources.items()}
    headed, heads = same_heads(weights)
    named, names = same_names(same_layout(headed), template_source)
    aligned, rows = same_vocabulary(named, template_source, vocabulary)
    fitted, changed = changed_rows(aligned, named, template_source, changes)
    return fitted, (*heads, *names, *rows, *changed)


def readable(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or dequantised if it is FP8 in a layout that is read.

    What its tensors are counts, not only what its config says: codes that nothing announces are refused too.

    Raises:
        CheckpointError: it is quantised in another way.
    """
    method, name = _method(checkpoint), coded(checkpoint)
    if method is None and name is None:
        return checkpoint
    if method == "fp8" and (name is None or checkpoint.specs[name].dtype.startswith("F8")):
        return Dequantised(checkpoint)
    if method in METHODS and name is not None and checkpoint.specs[name].dtype.startswith("F8"):
        return Scaled(checkpoint)
    seen = f"; {name} is {checkpoint.specs[name]}" if name else ""
    raise CheckpointError(
        f"{checkpoint.label} is quantised by {method or 'a method that its config does not announce'}{seen}; its codes cannot "
        "be averaged and carry rounding errors larger than the difference between the two models",
        remedy="take the checkpoint it was made from, in bf16 or FP8 with weight_scale_inv or weight_scale",
    )


def coded(checkpoint: Checkpoint) -> str | None:
    """A tensor that holds codes instead of weights: float8, or small integers in matrices; None where there is none.

    Counters, positions and masks, the integers that unquantised models hold, are 64 bits wide, of one dimension or (1, 1, …).
    """
    for name, spec in checkpoint.specs.items():
        if spec.dtype.startswith("F8") or (
            spec.dtype in ("I8", "U8", "I16", "U16", "I32", "U32") and len(spec.shape) > 1 and spec.shape[:2] != (1, 1)
        ):
            return name
    return None


def _method(checkpoint: Checkpoint) -> str | None:
    """The method of quantisation that the config, or ModelOpt's file beside it, announces; None where it is none."""
    said = announced(checkpoint.config)
    if said is not None and not isinstance(said, Mapping):
        raise CheckpointError(
            f"config.json: quantization_config: expected an object, found {type(said).__name__}", checkpoint.label
        )
    if said is not None:
        return str(said.get("quant_method") or "an unnamed method")
    if path := checkpoint.assets.get(MODELOPT):
        told = read_json(path).get("quantization")
        method = told.get("quant_algo") if isinstance(told, Mapping) else told
        return None if method is None else f"ModelOpt ({method})"
    return None
