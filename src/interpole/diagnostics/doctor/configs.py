"""Checks of `config.json`: what the same weights mean depends on it, and a merge can carry only one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from interpole.checkpoints.architectures import rope, understood
from interpole.diagnostics.doctor.findings import Check, Finding, Side, differences

__all__ = ["CHECKS"]

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
    "attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "qk_layernorm",
    "use_qk_norm", "norm_eps", "rope_interleave", "attention_bias", "mlp_bias", "conv_bias", "swiglu_alpha", "swiglu_limit",
)  # fmt: skip
"""Settings that bend the arithmetic without showing in a shape."""

ELSEWHERE = (
    "model_type", "architectures", "sliding_window", "use_sliding_window", "max_window_layers", "quantization_config",
    "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings",
)  # fmt: skip
"""Settings that have a check of their own."""

HARMLESS = frozenset((
    "transformers_version", "torch_dtype", "dtype", "_name_or_path", "use_cache", "initializer_range", "attention_dropout",
    "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "classifier_dropout", "output_router_logits",
    "router_aux_loss_coef", "aux_loss_alpha", "seq_aux", "pretraining_tp", "output_attentions", "output_hidden_states",
    "return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "problem_type", "id2label", "label2id", "num_labels",
    "task_specific_params", "torchscript", "use_bfloat16", "unsloth_version", "unsloth_fixed",
))  # fmt: skip
"""Settings that change nothing when the model is used."""

SLIDING = "sliding_attention"
CARRIES = "the result carries one config, that of the template source (by default Thinking)"


def _check_architecture(a: Side, b: Side) -> Iterator[Finding]:
    """One architecture on both sides."""
    values = a.checkpoint.config, b.checkpoint.config
    named = ["architectures"] if all(value.get("architectures") for value in values) else []
    if seen := differences(a, b, values, ["model_type"]) or differences(a, b, values, named):
        yield Finding(
            "architecture",
            "stop" if values[0].get("model_type") != values[1].get("model_type") else "warn",
            f"different architectures: {seen}",
            "the same tensor does other work in another architecture",
            "take two checkpoints of one family; if only the class name differs, compare the two config.json by eye",
        )


def _windows(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = understood(config)
    types = settings.get("layer_types") or []
    sliding = [i for i, kind in enumerate(types) if kind == SLIDING]
    return {"sliding_window": settings.get("sliding_window")} | ({"sliding layers": sliding} if sliding else {})


def _build(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with layer types that say what a layer is made of only: a window is no part of it."""
    settings = understood(config)
    types = settings.get("layer_types") or []
    return settings | {"layer_types": ["full_attention" if kind == SLIDING else kind for kind in types]}


def _others(config: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever else a config says, so that nothing passes unseen."""
    known = {*SHAPING, *BENDING, *ELSEWHERE}
    return {
        key: value
        for key, value in understood(config).items()
        if key not in known and key.rpartition(".")[2] not in HARMLESS
    }


class _Comparison(NamedTuple):
    """Settings that are read from both configs, and what it means if they differ."""

    code: str
    severity: str
    settings: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    keys: Sequence[str] | None  # None: all
    what: str
    why: str
    remedy: str


COMPARISONS = (
    _Comparison(
        code="settings",
        severity="stop",
        settings=_build,
        keys=SHAPING,
        what="different build",
        why="tensors of one name do not do the same work on both sides",
        remedy="take two checkpoints of one family and size",
    ),
    _Comparison(
        code="settings",
        severity="warn",
        settings=_build,
        keys=BENDING,
        what="different arithmetic",
        why=f"weights trained for one setting run under the other; {CARRIES}",
        remedy="see which setting the result should run under, and choose it with `template_from` in the recipe",
    ),
    _Comparison(
        code="rope",
        severity="warn",
        settings=rope,
        keys=None,
        what="different position encodings",
        why=f"query and key weights were trained for other rotation speeds; {CARRIES} for all of them",
        remedy="expect a weaker middle of the range; prefer checkpoints with one rope_theta (original Qwen3: 1e6, "
        "Qwen3-4B-2507: 5e6)",
    ),
    _Comparison(
        code="window",
        severity="warn",
        settings=_windows,
        keys=None,
        what="different attention windows",
        why=f"beyond the smaller window one side attends to text that the other never sees; {CARRIES}",
        remedy="choose whose window the result has with `template_from` in the recipe, and test on long prompts",
    ),
    _Comparison(
        code="other-settings",
        severity="note",
        settings=_others,
        keys=None,
        what="further differences between the configs",
        why=CARRIES,
        remedy="nothing, if you do not use these; else choose the config with `template_from` in the recipe",
    ),
)


def _check_settings(a: Side, b: Side) -> Iterator[Finding]:
    """The settings of both configs, in groups of one meaning."""
    for one in COMPARISONS:
        values = one.settings(a.checkpoint.config), one.settings(b.checkpoint.config)
        if seen := differences(a, b, values, one.keys):
            yield Finding(one.code, one.severity, f"{one.what}: {seen}", one.why, one.remedy)


CHECKS: tuple[Check, ...] = (_check_architecture, _check_settings)
