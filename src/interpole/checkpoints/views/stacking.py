"""A checkpoint whose layers are those of another in a new order: some left out, some twice. Tensors are read where they lie.

Stacks of more layers than the models have ("frankenmerges", depth up-scaling as in arXiv 2312.15166) are this view over every
source, and a recipe that chooses for each layer of the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interpole.checkpoints.architectures import PARTS, language_type, table, understood
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.names import depth_key, in_layer, num_layers, role_of
from interpole.checkpoints.views.renaming import Renamed
from interpole.errors import RecipeError

__all__ = ["restacked", "stacked"]


def stacked(source: Checkpoint, order: Sequence[int]) -> Checkpoint:
    """The checkpoint with its layers in another order; reads no tensor.

    Args:
        source: the checkpoint as it is.
        order: for each layer of the view the layer of the source.

    Raises:
        RecipeError: `order` names a layer that the source does not have, or a setting per layer cannot follow it.
    """
    depth = num_layers(source)
    if beyond := [layer for layer in order if layer >= depth]:
        raise RecipeError(f"stack: there is no layer {beyond[0]}", source.label, f"the model has layers 0-{depth - 1}")
    names: dict[str, str] = {}
    for name in source:
        found = role_of(name)
        if found is None or found.layer is None:
            names[name] = name
            continue
        for layer in (new for new, old in enumerate(order) if old == found.layer):
            names[in_layer(name, layer)] = name
    return Renamed(source, names, restacked(source.config, order))


INDICES = ("mlp_only_layers", "moe_layers", "cross_attention_layers", "full_attn_idxs")
"""Settings that list layers by number."""

NO_LAYERS = ("architectures", "eos_token_id", "bos_token_id", "pad_token_id", "stop_token_ids", "mrope_section")
"""Lists that may happen to be as long as there are layers."""

BY_NUMBER = re.compile(r"layer|_idxs|_indices|_indexes|_pattern")
"""What lists of layers are called that are in neither of the tables here."""

Choice = Callable[[int], bool]


def restacked(config: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """The config of a model whose layers are those of `order`: every setting per layer, by list, number, period or border.

    Raises:
        RecipeError: a setting cannot say which layers are which in this order, or is of a kind that is not known.
    """
    key_of_depth = depth_key(config) or "num_hidden_layers"
    depth = config.get(key_of_depth)
    parts = {
        key: restacked(value, order)
        for key, value in config.items()
        if isinstance(value, Mapping)
        and "num_hidden_layers" in value
        and key != "vision_config"
        and key != "audio_config"
    }
    if type(depth) is not int or list(order) == list(range(depth)):
        return {**config, **parts}
    if beyond := [layer for layer in order if layer >= depth]:
        raise RecipeError(
            f"stack: layer {beyond[0]} is none of the {depth} that {key_of_depth} counts",
            remedy="leave out the extra layers for multi-token prediction",
        )
    changed = {key: _listed(key, value, depth, order) for key, value in config.items() if key not in PARTS}
    changed = {**config, **changed, **parts, key_of_depth: len(order)}
    if config.get("num_kv_shared_layers"):
        raise _unclear("num_kv_shared_layers", config["num_kv_shared_layers"])
    if changed.get("num_nextn_predict_layers"):
        changed["num_nextn_predict_layers"] = 0  # they lie behind the last layer
    _set_layer_types(config, changed, order)
    for key, decide in CHOICES.items():
        if type(config.get(key)) is int and config[key] > 0:
            _set_choice(key, decide, config, changed, order)
    return changed


def _listed(key: str, value: Any, depth: int, order: Sequence[int]) -> Any:
    """A setting that is a list or text with one entry per layer, or a list of layers, in the new order; others as they are."""
    if key in INDICES and isinstance(value, list):
        return [new for new, old in enumerate(order) if old in value]
    if key == "hybrid_override_pattern" and isinstance(value, str) and len(value) == depth:
        return "".join(value[old] for old in order)
    for inner, part in value.items() if isinstance(value, Mapping) else ():
        if isinstance(part, list) and BY_NUMBER.search(str(inner)):
            raise _unclear(f"{key}.{inner}", part)
    if not isinstance(value, list) or not value or key in NO_LAYERS:
        return value
    if len(value) == depth:
        return [value[old] for old in order]
    if BY_NUMBER.search(key):
        raise _unclear(key, value)
    return value


def _set_layer_types(config: Mapping[str, Any], changed: dict[str, Any], order: Sequence[int]) -> None:
    """Write down the types of layers that a class derives from other settings, where it would derive others for the new order."""
    if config.get("layer_types") is not None or language_type(config) not in table():
        return
    derived = understood(config).get("layer_types")
    if not isinstance(derived, list) or len(derived) != config[depth_key(config) or "num_hidden_layers"]:
        return
    wanted = [derived[old] for old in order]
    if understood(changed).get("layer_types") != wanted:
        changed["layer_types"] = wanted


def _border(value: int, settings: Mapping[str, Any]) -> Choice:  # noqa: ARG001
    return lambda layer: layer < value


def _period(value: int, settings: Mapping[str, Any]) -> Choice:  # noqa: ARG001
    return lambda layer: (layer + 1) % value == 0


def _multiple(value: int, settings: Mapping[str, Any]) -> Choice:  # noqa: ARG001
    return lambda layer: layer % value == 0


def _attention(value: int, settings: Mapping[str, Any]) -> Choice:
    return lambda layer: layer % value == settings.get("attn_layer_offset", 0)


def _experts(value: int, settings: Mapping[str, Any]) -> Choice:
    return lambda layer: layer % value == settings.get("expert_layer_offset", 0)


def _within(value: int, settings: Mapping[str, Any]) -> Choice:
    start, stop = settings.get("moe_layer_start_index") or 0, settings.get("moe_layer_end_index", -1)
    return lambda layer: (layer + 1) % value == 0 and start <= layer and (stop == -1 or layer <= stop)


CHOICES: Mapping[str, Callable[[int, Mapping[str, Any]], Choice]] = {
    "first_k_dense_replace": _border, "max_window_layers": _border, "sliding_window_pattern": _period,
    "full_attention_interval": _period, "no_rope_layer_interval": _period, "decoder_sparse_step": _period,
    "interleave_moe_layer_step": _period, "global_attn_every_n_layers": _multiple, "moe_layer_freq": _multiple,
    "attn_layer_period": _attention, "expert_layer_period": _experts, "moe_layer_interval": _within,
}  # fmt: skip
"""Settings whose number says which layers are of a kind, and what it says."""

GOVERNED = {
    "max_window_layers": "layer_types", "sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types", "global_attn_every_n_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers", "interleave_moe_layer_step": "moe_layers",
}  # fmt: skip
"""Those that say nothing where a list of layers is given, and the name of the list."""


def _set_choice(
    key: str,
    decide: Callable[[int, Mapping[str, Any]], Choice],
    config: Mapping[str, Any],
    changed: dict[str, Any],
    order: Sequence[int],
) -> None:
    """Change a setting of `CHOICES`, or write down the list that goes before it, so that every layer stays what it is."""
    before = decide(config[key], config)
    wanted = [before(old) for old in order]
    value = sum(wanted) if decide is _border else config[key]
    after = decide(value, changed)
    fits = wanted == [after(new) for new in range(len(order))]
    idle = key == "max_window_layers" and not (config.get("use_sliding_window") and config.get("sliding_window"))
    if fits and decide is _border and not idle:
        changed[key] = value
    if fits or idle or changed.get(GOVERNED.get(key, "")) is not None:
        return
    if key == "decoder_sparse_step":
        dense = config.get("mlp_only_layers") or []
        changed["mlp_only_layers"] = [
            new for new, (old, sparse) in enumerate(zip(order, wanted, strict=True)) if not sparse or old in dense
        ]
        changed[key] = 1
    elif key == "no_rope_layer_interval":
        changed["no_rope_layers"] = [int(not without) for without in wanted]
    elif key == "interleave_moe_layer_step":
        changed["moe_layers"] = [new for new, sparse in enumerate(wanted) if sparse]
    else:
        raise _unclear(key, config[key])


def _unclear(key: str, value: Any) -> RecipeError:
    return RecipeError(
        f"stack: {key}: {str(value)[:80]} says which layers are of which kind, and cannot say it for layers in another order",
        remedy="take the layers in their order from the first on, or add the setting to views/stacking.py",
    )
