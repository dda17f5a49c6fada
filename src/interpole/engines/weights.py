"""Stream a checkpoint into a live torch model, in place. Headers are checked first: on a mismatch nothing is touched.

Names are the checkpoint's, or what transformers makes of them when it reads a folder. Tied tensors are written once; experts that
lie apart on disk (`experts.7.up_proj.weight`, Mixtral's `experts.7.w3.weight`) go into the fused tensors that transformers 5
keeps in memory (`experts.gate_up_proj`), by transformers' own table of what families call them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.stream import tensors
from interpole.errors import MismatchError

__all__ = ["load_into"]

_EXPERT = re.compile(r"\.experts\.(\d+)\.")


class _Reading(NamedTuple):
    """What transformers does with the names it reads for a model.

    Attributes:
        renamed: e.g. `language_model.model.…` to `model.language_model.…`.
        stacked: experts into one tensor (E, …), in each of them the named parts one below the other.
    """

    renamed: Sequence[WeightRenaming]
    stacked: Sequence[WeightConverter]


def load_into(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Replace every weight of `model` by the tensor of its name in `checkpoint`.

    Args:
        model: a transformers model of the checkpoint's architecture; a wider dtype than the checkpoint's is filled exactly.
        checkpoint: read tensor by tensor, so the memory needed is that of the largest one.

    Raises:
        MismatchError: a tensor is missing, extra, or of another shape. The model is as it was.
    """
    views = _plan(model.state_dict(), checkpoint, _reading(model))
    device = next(model.parameters()).device
    for name, tensor in tensors(checkpoint, device, views):
        if name in views and tensor is not views[name]:
            views[name].copy_(tensor)


def _reading(model: torch.nn.Module) -> _Reading:
    """Transformers' own table, for this model; of what it computes with weights only the stacking of experts."""
    found = get_model_conversion_mapping(model) if isinstance(model, PreTrainedModel) else []
    converters = [one for one in found if isinstance(one, WeightConverter)]
    return _Reading([one for one in found if isinstance(one, WeightRenaming)], [*filter(_stacks, converters)])


def _stacks(converter: WeightConverter) -> bool:
    """Whether all that is done is to put experts into one tensor, and their parts below each other."""
    stack, *below = converter.operations
    return (
        isinstance(stack, MergeModulelist)
        and stack.dim == 0
        and len(converter.target_patterns) == 1
        and (
            len(converter.source_patterns) == 1
            if not below
            else len(below) == 1 and isinstance(below[0], Concatenate) and below[0].dim == 1
        )
    )


def _plan(targets: Mapping[str, torch.Tensor], checkpoint: Checkpoint, reading: _Reading) -> dict[str, torch.Tensor]:
    """Checkpoint name → the part of the live model it fills; complete and without overlaps."""
    views: dict[str, torch.Tensor] = {}
    filled: Counter[int] = Counter()  # address of a tensor → elements written to it
    names: dict[int, str] = {}
    for name, spec in checkpoint.specs.items():
        target, view = _target(name, targets, reading)
        if view is None:
            raise _mismatch(f"the live model has no tensor {name} ({spec})", checkpoint)
        if tuple(view.shape) != spec.shape:
            raise _mismatch(f"tensor {name} is {spec}, the live model's is {list(view.shape)}", checkpoint)
        address = targets[target].data_ptr()
        if view.numel() and filled[address] >= targets[target].numel():
            _check_tied(name, names[address], checkpoint)
            continue
        filled[address] += view.numel()
        names[address], views[name] = name, view
    for name, tensor in targets.items():
        if filled[tensor.data_ptr()] != tensor.numel():
            raise _mismatch(
                f"tensor {name} {list(tensor.shape)} of the live model is not in the checkpoint", checkpoint
            )
    return views


def _target(name: str, targets: Mapping[str, torch.Tensor], reading: _Reading) -> tuple[str, torch.Tensor | None]:
    """The live tensor that `name` belongs to, and the part of it that it fills (None: there is none)."""
    for renaming in () if name in targets else reading.renamed:
        name, _ = renaming.rename_source_key(name)
    if name in targets:
        return name, targets[name]
    number = _EXPERT.search(name)
    for stacking in reading.stacked if number else ():
        assert number
        fused, part = stacking.rename_source_key(name)
        if part is not None and fused in targets and int(number[1]) < len(targets[fused]):
            parts = targets[fused][int(number[1])].tensor_split(len(stacking.source_patterns))
            return fused, parts[stacking.source_patterns.index(part)]
    return name, None


def _check_tied(name: str, other: str, checkpoint: Checkpoint) -> None:
    if not np.array_equal(checkpoint[name].view(np.uint8), checkpoint[other].view(np.uint8)):
        raise _mismatch(f"{name} and {other} differ, but the live model has one tensor for both (tied)", checkpoint)


def _mismatch(what: str, checkpoint: Checkpoint) -> MismatchError:
    return MismatchError(what, checkpoint.label, "load a model of the checkpoint's own architecture and config")
