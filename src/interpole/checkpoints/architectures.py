"""Configs as transformers' own classes understand them: defaults filled in, old names read as new ones, one spelling of rope.

`architectures.json` says what the classes do, model type by model type; `python benchmarks/architectures.py` makes it from
transformers, and a test holds it to them. Nothing here imports transformers. Of model types that the table lacks only what all
families share is understood.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "LAYER_TYPES",
    "OLD_ROPE",
    "PARTS",
    "TABLE",
    "derive",
    "language_config",
    "language_type",
    "rope",
    "table",
    "understood",
]

TABLE = Path(__file__).with_suffix(".json")
Settings = Mapping[str, Any]

OLD_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor")
"""Settings that are read by `rope` alone."""
LAYER_TYPES = {"attention": "full_attention", "mamba": "linear_attention"}
"""Names of layer types before transformers 5."""
ROPE_TYPES = {"su": "longrope", "mrope": "default"}
MOST_LAYERS = 100_000
PARTS = "text_config", "vision_config", "audio_config"
COMMON = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
"""Settings by the names that nearly all classes use."""
FILLED = {"yarn": {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}}
"""What transformers computes with where the config is silent (`modeling_rope_utils.py`)."""
FIXED = {
    "deepseek_v3": {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1, "ep_size": 1},
    "glm4_moe": {"use_qk_norm": False},
}
"""Settings of older configs that today's classes no longer know, because only this value was ever used."""
GENERIC: Settings = {
    "fields": {},
    "names": {},
    "derived": {
        "num_key_value_heads": {"rule": ["copy", "num_attention_heads"]},
        "head_dim": {"rule": ["quotient", "hidden_size", "num_attention_heads"]},
        "layer_types": {"rule": ["all", "full_attention"]},
    },
    "parts": {},
    "rope": None,
}
"""For model types that the table lacks."""


def _count(settings: Settings, key: str) -> int | None:
    """A setting that is a positive number; None for what makes no sense as one."""
    value = settings.get(key)
    return value if type(value) is int and 0 < value < 1 << 31 else None


def _per_layer(choose: Callable[[int], bool], settings: Settings, chosen: Any, others: Any) -> list[Any] | None:
    num_layers = _count(settings, "num_hidden_layers")
    known = num_layers is not None and num_layers <= MOST_LAYERS
    return [chosen if choose(i) else others for i in range(num_layers or 0)] if known else None


def _after(settings: Settings, start: str, window: str) -> list[str] | None:
    first, slides = _count(settings, start) or 0, bool(settings.get(window))
    return _per_layer(lambda i: slides and i >= first, settings, "sliding_attention", "full_attention")


def _alternating(settings: Settings, stop: str, window: str) -> list[str] | None:
    last, slides = _count(settings, stop) or 0, bool(settings.get(window))
    return _per_layer(lambda i: slides and i < last and i % 2 == 0, settings, "sliding_attention", "full_attention")


def _where_zero(settings: Settings, key: str, *windows: str) -> list[str] | None:
    flags, slides = settings.get(key), all(settings.get(window) for window in windows)
    zeros = {i for i, flag in enumerate(flags) if not flag} if isinstance(flags, list) and slides else set()
    return _per_layer(lambda i: i in zeros, settings, "sliding_attention", "full_attention")


def _every(settings: Settings, period: str, default: int, last: Any, others: Any) -> list[Any] | None:
    number = _count(settings, period) or default
    return _per_layer(lambda i: (i + 1) % number == 0, settings, last, others)


def _listed(settings: Settings, key: str, chosen: str, others: str) -> list[str] | None:
    listed = settings.get(key)
    return _per_layer(lambda i: not isinstance(listed, list) or i in listed, settings, chosen, others)


def _quotient(settings: Settings, whole: str, number: str) -> int | None:
    first, second = _count(settings, whole), _count(settings, number)
    return first // second if first and second else None


RULES: Mapping[str, Callable[..., Any]] = {
    "copy": lambda settings, key: settings.get(key),
    "constant": lambda _, value: value,
    "quotient": _quotient,
    "sum": lambda settings, *keys: sum(_count(settings, key) or 0 for key in keys),
    "if": lambda settings, switch, key: settings.get(key) if settings.get(switch) else None,
    "all": lambda settings, kind: _per_layer(lambda _: True, settings, kind, kind),
    "after": _after,
    "alternating": _alternating,
    "every": _every,
    "listed": _listed,
    "where_zero": _where_zero,
    "windowed": lambda settings, key: _after(settings, "", key),
}
"""How a setting that is not given follows from others: the rules that `derived` names."""


def derive(settings: Settings, rule: Iterable[Any]) -> Any:
    """The value that a rule of the table (its name, then its arguments) gives."""
    name, *arguments = rule
    return RULES[name](settings, *arguments)


@cache
def table() -> Mapping[str, Settings]:
    """Model type → what its config class does."""
    content: Mapping[str, Settings] = json.loads(TABLE.read_text(encoding="utf-8"))["model_types"]
    return content


def language_type(config: Settings) -> str:
    """The model type of the language model: of the config itself, or of its part `text_config`."""
    outer, part = str(config.get("model_type")), _mapping(config.get("text_config"))
    return str(part.get("model_type") or table().get(outer, GENERIC)["parts"].get("text_config") or outer)


def language_config(config: Settings) -> dict[str, Any]:
    """The settings of the language model as written: where it is a part of a larger one, its own over the shared ones."""
    return {key: value for key, value in config.items() if key not in PARTS} | dict(_mapping(config.get("text_config")))


def understood(config: Settings) -> dict[str, Any]:
    """The settings of a config as its class has them, those of the language model over the shared ones.

    Settings of other parts have their part's name before theirs (`vision_config.hidden_size`). Position encoding is left out:
    see `rope`. What is empty or None, and what is False and no field of the class, is not there.
    """
    outer_type = str(config.get("model_type"))
    outer = {key: value for key, value in config.items() if key not in PARTS}
    found = _as_class(outer, outer_type) if language_type(config) != outer_type else {}
    found |= _as_class(language_config(config), language_type(config))
    parts = table().get(outer_type, GENERIC)["parts"]
    for part in PARTS[1:]:
        if part in config or part in parts:
            inner = _mapping(config.get(part))
            settings = _as_class(inner, parts.get(part) or str(inner.get("model_type")))
            settings.pop("model_type", None)
            found |= {f"{part}.{key}": value for key, value in settings.items()}
    return found


def _as_class(settings: Settings, model_type: str) -> dict[str, Any]:
    """What the class of a model type makes of settings, but for position encoding."""
    entry = table().get(model_type, GENERIC)
    found = entry["fields"] | FIXED.get(model_type, {}) | dict(settings)
    for old, new in entry["names"].items():
        if old in settings:
            found[new] = found.pop(old)
        if old in COMMON and new in found:  # of a class with words of its own (GPT-2's `n_head`)
            found[old] = found.pop(new)
    if isinstance(types := found.get("layer_types"), list):
        found["layer_types"] = [LAYER_TYPES.get(kind, kind) if isinstance(kind, str) else kind for kind in types]
    inputs, derived = set(), GENERIC["derived"] | entry["derived"]
    for key in sorted(derived, key=lambda key: key == "layer_types"):  # it needs to know of windows
        how = derived[key]
        if how.get("always") or found.get(key) is None:
            found[key] = derive(found, how["rule"])
        if key == "layer_types":
            told = {argument for argument in how["rule"][1:] if isinstance(argument, str)}
            inputs |= told - {"sliding_window", *derived}
    return {
        key: value
        for key, value in found.items()
        if key not in {*inputs, *OLD_ROPE}
        and not key.startswith("_")
        and value not in (None, [], {}, "")
        and (value is not False or key in entry["fields"])
        and (value or key != "sliding_window")
    }


def rope(config: Settings) -> dict[str, Any]:
    """Position encoding in one spelling, whether written as `rope_theta` and `rope_scaling` or as `rope_parameters`.

    Where layer types have settings of their own, the keys are `full_attention.rope_theta` and so on.
    """
    settings = language_config(config)
    entry = table().get(language_type(config), GENERIC)
    if entry is not GENERIC and entry["rope"] is None:
        return {}
    how = entry["rope"]
    given = dict(_mapping(settings.get("rope_scaling")) or _mapping(settings.get("rope_parameters")))
    if how and how["layers"]:
        nested = _mapping(settings.get("rope_parameters"))
        return {
            f"{layer}.{key}": value
            for layer, known in how["layers"].items()
            for key, value in _layer_rope(settings, entry, known, _mapping(nested.get(layer))).items()
        }
    if parts := {key: value for key, value in given.items() if isinstance(value, Mapping)}:
        rest = {key: value for key, value in given.items() if key not in parts}
        known = how or {"theta": ["rope_theta"], "partial": True}
        return {
            f"{layer}.{key}": value
            for layer, part in parts.items()
            for key, value in _layer_rope(settings, entry, known | {"scaled": False}, rest | dict(part)).items()
        }
    if not given and how and how.get("otherwise"):
        given = dict(how["otherwise"])
    return _layer_rope(settings, entry, (how or {"theta": ["rope_theta"], "partial": True}) | {"scaled": False}, given)


def _mapping(value: Any) -> Settings:
    return value if isinstance(value, Mapping) else {}


def _layer_rope(settings: Settings, entry: Settings, how: Settings, given: Settings) -> dict[str, Any]:
    """One layer type's position encoding, or all layers'."""
    found = dict(how.get("defaults", {})) | {key: value for key, value in given.items() if value is not None}
    if how.get("scaled"):
        scaling = _mapping(settings.get("rope_scaling"))
        found |= {key: value for key, value in scaling.items() if key != "type"}  # these classes read `rope_type` only
    theta = next((settings[key] for key in how["theta"] if settings.get(key) is not None), how.get("default_theta"))
    if theta is not None and "rope_theta" not in found:
        found["rope_theta"] = theta
    partial = settings.get("partial_rotary_factor")
    if partial is not None and how.get("partial") and "partial_rotary_factor" not in given:
        found["partial_rotary_factor"] = partial
    kind = found.pop("rope_type", None) or found.get("type") or "default"
    kind = ROPE_TYPES.get(str(kind), str(kind))
    found.pop("type", None)
    if kind in ("llama3", "yarn", "longrope"):
        trained = "original_max_position_embeddings"
        longest = settings.get("max_position_embeddings", entry["fields"].get("max_position_embeddings"))
        own = settings.get(trained, entry["fields"].get(trained))
        found[trained] = own if own is not None else found.get(trained, longest)
    found = FILLED.get(kind, {}) | found
    if found.get("partial_rotary_factor") == 1:
        del found["partial_rotary_factor"]
    said = {key: value for key, value in found.items() if value is not None}
    numbers = {key: float(v) if type(v) is int and abs(v) < 1 << 53 else v for key, v in said.items()}
    return numbers | {"rope_type": kind}
