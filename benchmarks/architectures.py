"""Make `interpole/checkpoints/architectures.json`: what transformers' config classes do with a config.json.

Every class is asked by making it from a few settings: what it fills in, renames, and derives from other settings by which rule of
`doctor.architectures`. A class that does something no rule describes is an error here. Run it after a new transformers:

    python benchmarks/architectures.py
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from interpole.checkpoints.architectures import LAYER_TYPES, OLD_ROPE, TABLE, derive

MODEL_TYPES = """
    qwen2 qwen2_moe qwen2_5_vl qwen3 qwen3_moe qwen3_next qwen3_5 qwen3_5_moe qwen3_vl qwen3_vl_moe llama mistral ministral
    ministral3 mistral3 mixtral phi3 olmo2 olmo3 glm glm4 glm4_moe gemma2 gemma3 gemma3_text deepseek_v2 deepseek_v3 lfm2 lfm2_moe
    gpt_oss granite seed_oss exaone4 cohere2 hunyuan_v1_dense ernie4_5 minimax_m2 gpt2 gpt_neox
    pixtral smollm3
"""
OLD_NAMES = (
    "block_ff_dim",
    "tie_embedding",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "hidden_activation",
)
"""Settings under which older configs may give a field of today's classes."""

PASSED_ON = {field.name for field in dataclasses.fields(PreTrainedConfig)} - {"tie_word_embeddings"}
UNTOLD = PASSED_ON | {"rope_parameters", "transformers_version", "model_type", "_name_or_path", "output_attentions"}

SIZES = {"hidden_size": 96, "num_attention_heads": 6}
PROBES: tuple[dict[str, Any], ...] = (
    {},
    {"num_hidden_layers": 7},
    SIZES | {"num_hidden_layers": 5, "num_key_value_heads": None},
    SIZES | {"head_dim": None},
    SIZES | {"head_dim": 24, "num_key_value_heads": 3},
    {"qk_rope_head_dim": 12, "qk_nope_head_dim": 20},
    {"num_hidden_layers": 7, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3},
    {"num_hidden_layers": 7, "use_sliding_window": False, "sliding_window": 64},
    {"num_hidden_layers": 7, "sliding_window": None},
    {"num_hidden_layers": 7, "sliding_window_pattern": 3, "sliding_window": 32},
    {"num_hidden_layers": 7, "full_attention_interval": 3},
    {"num_hidden_layers": 7, "full_attn_idxs": [1, 4]},
    {"num_hidden_layers": 2, "layer_types": ["full_attention", "full_attention"]},
    {"mlp_only_layers": None},
    {"num_hidden_layers": 7, "no_rope_layer_interval": 3, "use_sliding_window": True, "sliding_window": 64},
    {"num_hidden_layers": 3, "no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 64},
)
PERIODS = ("sliding_window_pattern", "full_attention_interval", "")
OTHER_TYPES = ("sliding_attention", "linear_attention", "conv")


def candidates(key: str) -> Iterator[list[Any]]:
    """Rules that `key` may follow, the likeliest first."""
    if key == "layer_types":
        yield from (["all", kind] for kind in ("full_attention", *OTHER_TYPES))
        yield ["windowed", "sliding_window"]
        yield ["after", "max_window_layers", "sliding_window"]
        yield ["alternating", "max_window_layers", "sliding_window"]
        yield ["where_zero", "no_rope_layers", "use_sliding_window", "sliding_window"]
        for other in OTHER_TYPES:
            yield ["listed", "full_attn_idxs", "full_attention", other]
            for period in PERIODS:
                yield from (["every", period, number, "full_attention", other] for number in range(2, 9))
    if key == "no_rope_layers":
        yield from (["every", "no_rope_layer_interval", number, 0, 1] for number in range(2, 9))
    if key == "sliding_window":
        yield ["if", "use_sliding_window", "sliding_window"]
    yield ["copy", "num_attention_heads"]
    yield ["copy", "hidden_size"]
    yield ["copy", "qk_rope_head_dim"]
    yield ["quotient", "hidden_size", "num_attention_heads"]
    yield ["sum", "qk_nope_head_dim", "qk_rope_head_dim"]


def describe(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """The entry of a class in the table."""
    fields = {field.name: field.default for field in dataclasses.fields(cls) if field.name not in UNTOLD}
    made = cls()
    for name, default in fields.items():
        if default is dataclasses.MISSING or isinstance(default, tuple):
            fields[name] = plain(getattr(made, name))
    parts = {name: part.model_type for name, part in (cls.sub_configs or {}).items() if hasattr(part, "model_type")}
    fields = {cls.attribute_map.get(name, name): value for name, value in fields.items() if name not in cls.sub_configs}
    names = {old: new for old, new in cls.attribute_map.items() if new in fields} | dict(old_names(cls, fields))
    return {
        "fields": fields,
        "names": names,
        "derived": dict(derivations(cls, fields)),
        "parts": parts,
        "rope": rope_of(cls) if getattr(made, "rope_parameters", None) else None,
    }


def plain(value: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(value))


def old_names(cls: type[PreTrainedConfig], fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings that are no field, and the field that takes their value."""
    before = asked(cls, {}) or {}
    for old in OLD_NAMES:
        if old in fields:
            continue
        value: Any = 77 if old != "tie_embedding" else not before.get("tie_word_embeddings")
        after = asked(cls, {old: value}) or {}
        taken = [name for name in fields if after.get(name) == value != before.get(name)]
        if len(taken) == 1:
            yield old, taken[0]


def asked(cls: type[PreTrainedConfig], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """All settings of the class made from a few; None where it refuses them."""
    try:
        return plain(cls(**json.loads(json.dumps(settings))).to_dict())
    except Exception:  # transformers' classes raise many kinds
        return None


def derivations(cls: type[PreTrainedConfig], fields: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that the class computes, each with its rule, and whether it does so even where a value is given."""
    others = {*PERIODS, "head_dim"}
    probes = [
        probe
        for probe in PROBES
        if all(key in fields or (key in others and value is not None) for key, value in probe.items())
    ]
    answers = [(fields | probe, found) for probe in probes if (found := asked(cls, probe))]
    computed: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for given, found in answers:
        found["sliding_window"] = found.get("sliding_window") or None  # some write 0 for none
        for key, value in found.items():
            if key in {*UNTOLD, *cls.sub_configs, *OLD_ROPE, "full_attn_idxs"} or key.startswith("_"):
                continue
            if value != given.get(key) and not (value == [] and given.get(key) is None):
                computed.setdefault(key, [])
    for key in sorted(computed, key=lambda key: (key == "layer_types", key)):
        if key.endswith("token_id"):
            continue
        filled = [other for other in computed if other == "no_rope_layers" and key == "layer_types"]
        values = [(given | {other: found[other] for other in filled}, found.get(key)) for given, found in answers]
        yield key, rule_for(cls, key, values, computed)


def rule_for(
    cls: type[PreTrainedConfig], key: str, values: list[tuple[dict[str, Any], Any]], computed: Mapping[str, Any]
) -> dict[str, Any]:
    """The rule by which a class computes `key`."""
    for rule in candidates(key):
        for always in (False, True):
            if all(follow(given, key, rule, always, computed) == value for given, value in values):
                return {"rule": rule, "always": True} if always else {"rule": rule}
    raise SystemExit(f"{cls.__name__} computes {key} by no rule that is known: {values[:3]}")


def follow(given: Mapping[str, Any], key: str, rule: list[Any], always: bool, computed: Mapping[str, Any]) -> Any:
    """What a rule makes of `key`; a window that is switched off counts as none."""
    settings = dict(given)
    if "sliding_window" in computed and key != "sliding_window" and not settings.get("use_sliding_window", True):
        settings["sliding_window"] = None
    if isinstance(types := settings.get("layer_types"), list):
        settings["layer_types"] = [LAYER_TYPES.get(kind, kind) for kind in types]
    return derive(settings, rule) if always or settings.get(key) is None else settings[key]


def rope_of(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """How the class reads position encoding."""
    given = {"rope_scaling": {"rope_type": "default", "factor": 2.0}}
    silent, scaled = ropes(cls, {}), ropes(cls, given)
    partial = ropes(cls, {"partial_rotary_factor": 0.375})
    thetas = {key: ropes(cls, given | {key: 777.0}) for key in ("rope_theta", "rope_local_base_freq")}
    moved = ropes(cls, {"rope_theta": 777.0})
    layers = {}
    for layer, found in silent.items():
        others = {key: value for key, value in found.items() if key not in ("rope_theta", "rope_type", "type")}
        if moved[layer].get("rope_theta") == 777.0:  # where it is not among what stands for a silent config
            found.pop("rope_theta")
        layers[layer] = {
            "theta": [key for key, answer in thetas.items() if answer[layer].get("rope_theta") == 777.0],
            "default_theta": scaled[layer].get("rope_theta"),
            "defaults": {
                key: value for key, value in others.items() if scaled[layer].get(key) == value and key != "factor"
            },
            "partial": partial[layer].get("partial_rotary_factor") == 0.375,
            "scaled": scaled[layer].get("factor") == 2.0,
            "otherwise": found if found.get("rope_type", "default") != "default" else None,
        }
    return layers[""] | {"layers": None} if "" in layers else {"layers": layers}


def ropes(cls: type[PreTrainedConfig], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Layer type (empty: all layers) → position encoding of the class made from settings."""
    found = cls(**json.loads(json.dumps(settings))).rope_parameters
    nested = {key: value for key, value in found.items() if isinstance(value, dict)}
    return nested or {"": found}


def all_types(model_types: list[str]) -> Iterator[str]:
    """The model types, and those of their parts."""
    for model_type in model_types:
        cls = CONFIG_MAPPING[model_type]
        yield model_type
        for part in (cls.sub_configs or {}).values():
            if getattr(part, "model_type", "") and part is not transformers.AutoConfig:
                yield part.model_type


def class_of(model_type: str) -> type[PreTrainedConfig]:
    """The config class of a model type, also of one that is a part of others only."""
    if model_type in CONFIG_MAPPING:
        return CONFIG_MAPPING[model_type]
    for owner in MODEL_TYPES.split():
        for part in (CONFIG_MAPPING[owner].sub_configs or {}).values():
            if getattr(part, "model_type", None) == model_type:
                return part
    raise KeyError(model_type)


def make() -> dict[str, Any]:
    """The whole table."""
    names = sorted(set(all_types(MODEL_TYPES.split())))
    return {"transformers": transformers.__version__, "model_types": {name: describe(class_of(name)) for name in names}}


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in make()["model_types"].items()]
    body = ",\n".join(lines)
    text = f'{{"transformers": {json.dumps(transformers.__version__)}, "model_types": {{\n{body}\n}}}}\n'
    TABLE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(lines)} model types, {len(text):,} bytes\n")
