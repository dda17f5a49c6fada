"""Checks of `config.json`: what the same weights mean depends on it, and a merge can carry only one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from interpole.diagnostics.doctor.findings import Check, Finding, Side, differences

__all__ = (
    "CHECKS", "language_config", "rope",
)  # fmt: skip

SHAPING = (
    "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "layer_types", "num_experts", "num_local_experts", "n_routed_experts",
    "moe_intermediate_size", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "v_head_dim", "full_attention_interval",
)  # fmt: skip
"""Settings that must be equal for one tensor to do the same work on both sides."""

BENDING = (
    "num_experts_per_tok", "norm_topk_prob", "scoring_func", "routed_scaling_factor", "n_group", "topk_group",
    "topk_method", "rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
    "partial_rotary_factor", "attention_multiplier", "embedding_multiplier", "residual_multiplier",
    "logits_scaling", "rope_local_base_freq", "qk_layernorm", "use_qk_norm",
)  # fmt: skip
"""Settings that bend the arithmetic without showing in a shape."""

ELSEWHERE = (
    "model_type", "architectures", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window",
    "use_sliding_window", "max_window_layers", "quantization_config", "vocab_size", "bos_token_id",
    "eos_token_id", "pad_token_id", "tie_word_embeddings",
)  # fmt: skip
"""Settings that have a check of their own."""

HARMLESS = (
    "transformers_version", "torch_dtype", "dtype", "_name_or_path", "use_cache", "initializer_range",
    "attention_dropout",
)  # fmt: skip
"""Settings that change nothing when the model is used."""

CARRIES = "the result carries one config, by default Thinking's"


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the language model: where it is a part of a larger one, its own settings over the shared ones.

    Head counts that are left out get the values that transformers gives them.
    """
    flat = {key: value for key, value in config.items() if key != "text_config"} | dict(config.get("text_config") or {})
    heads = flat.get("num_attention_heads")
    if heads:
        flat.setdefault("num_key_value_heads", heads)
        if flat.get("head_dim") is None and flat.get("hidden_size"):
            flat["head_dim"] = flat["hidden_size"] // heads
    return flat


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Position encoding in one spelling, whether written as `rope_theta` and `rope_scaling` or as `rope_parameters`.

    Where layer types have settings of their own, the keys are `full_attention.rope_theta` and so on.
    """
    flat = language_config(config)
    settings = flat.get("rope_parameters") or {"rope_theta": flat.get("rope_theta")} | (flat.get("rope_scaling") or {})
    nested = {key: value for key, value in settings.items() if isinstance(value, dict)}
    if nested:
        return {f"{key}.{inner}": value for key, part in nested.items() for inner, value in _plain_rope(part).items()}
    return _plain_rope(settings)


def _plain_rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    kind = settings.get("rope_type") or settings.get("type") or "default"
    rest = {key: value for key, value in settings.items() if key not in ("type", "rope_type") and value is not None}
    numbers = {key: float(value) if type(value) is int else value for key, value in rest.items()}
    return numbers | {"rope_type": kind}


def check_architecture(a: Side, b: Side) -> Iterator[Finding]:
    """One architecture on both sides."""
    values = a.checkpoint.config, b.checkpoint.config
    if seen := differences(a, b, values, ["model_type"]) or differences(a, b, values, ["architectures"]):
        yield Finding(
            "architecture",
            "stop" if values[0].get("model_type") != values[1].get("model_type") else "warn",
            f"different architectures: {seen}",
            "the same tensor does other work in another architecture",
            "take two checkpoints of one family; if only the class name differs, compare the two config.json by eye",
        )


def check_settings(a: Side, b: Side) -> Iterator[Finding]:
    """Settings that decide what the tensors do."""
    values = language_config(a.checkpoint.config), language_config(b.checkpoint.config)
    if seen := differences(a, b, values, SHAPING):
        yield Finding(
            "settings",
            "stop",
            f"different build: {seen}",
            "tensors of one name do not do the same work on both sides",
            "take two checkpoints of one family and size",
        )
    if seen := differences(a, b, values, BENDING):
        yield Finding(
            "settings",
            "warn",
            f"different arithmetic: {seen}",
            f"weights trained for one setting run under the other; {CARRIES}",
            "see which setting the result should run under, and choose it with `template_from` in the recipe",
        )


def check_rope(a: Side, b: Side) -> Iterator[Finding]:
    """Position encoding: base frequency and scaling."""
    values = rope(a.checkpoint.config), rope(b.checkpoint.config)
    if seen := differences(a, b, values):
        yield Finding(
            "rope",
            "warn",
            f"different position encodings: {seen}",
            f"query and key weights were trained for other rotation speeds; {CARRIES} for all of them",
            "expect a weaker middle of the range; prefer checkpoints with one rope_theta (original Qwen3: 1e6, "
            "Qwen3-4B-2507: 5e6)",
        )


def check_window(a: Side, b: Side) -> Iterator[Finding]:
    """Sliding-window attention."""
    windows = [{"sliding_window": _window(side.checkpoint.config)} for side in (a, b)]
    if seen := differences(a, b, (windows[0], windows[1])):
        yield Finding(
            "window",
            "warn",
            f"different attention windows: {seen}",
            f"beyond the smaller window one side attends to text that the other never sees; {CARRIES}",
            "choose whose window the result has with `template_from` in the recipe, and test on long prompts",
        )


def _window(config: Mapping[str, Any]) -> int | None:
    flat = language_config(config)
    return flat.get("sliding_window") if flat.get("use_sliding_window", True) else None


def check_other_settings(a: Side, b: Side) -> Iterator[Finding]:
    """Whatever else differs in the configs, so that nothing passes unseen."""
    values = language_config(a.checkpoint.config), language_config(b.checkpoint.config)
    known = {*SHAPING, *BENDING, *ELSEWHERE, *HARMLESS}
    if seen := differences(a, b, values, sorted((values[0].keys() | values[1].keys()) - known)):
        yield Finding(
            "other-settings",
            "note",
            f"further differences between the configs: {seen}",
            CARRIES,
            "nothing, if you do not use these; else choose the config with `template_from` in the recipe",
        )


CHECKS: tuple[Check, ...] = (check_architecture, check_settings, check_rope, check_window, check_other_settings)
