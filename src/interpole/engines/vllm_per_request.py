"""λ per request in vLLM: both ends are loaded, and every row of a batch is mixed at its own request's λ.

A plugin of vLLM (`vllm.general_plugins`): the loader `interpole` reads two checkpoints through the model's own `load_weights`, so
fused projections, experts and tensor parallelism are vLLM's business. Then every layer whose weights differ gets a twin with
Thinking's, and gives the interpolation of the two outputs; for a linear map that is the output of the interpolated weights. The
ends are exact. What cannot be so is refused when vLLM starts (`_refuse`), and what a request may not ask for by `serve.vllm`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager

from interpole.engines.open import dial
from interpole.engines.stream import Named, tensors
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe, build

__all__ = ["ARCHITECTURES", "LOAD_FORMAT", "PairLoader", "Rows", "register", "settings"]

LOAD_FORMAT = "interpole"
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
"""vLLM's classes that are tested: others may read weights where no twin is asked."""
VERSION = 1
"""Of what is done to a model; part of the key of vLLM's cache of compiled models."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """What vLLM's `EngineArgs` need besides a folder of config and tokenizer, to load a recipe's two ends; its λ is the default.

    Raises:
        EngineError: the recipe's weights are no straight line between two ends.
    """
    default, resolve = _default(recipe), dial(recipe)
    content = recipe.at(default).model_dump(mode="json", by_alias=True, exclude_none=True)
    identity = {
        "version": VERSION,
        "pair": recipe.identity(),
        "ends": [resolve(lam).fingerprint() for lam in (0.0, 1.0)],
    }
    return {
        "load_format": LOAD_FORMAT,
        "model_loader_extra_config": {"recipe": content},
        "additional_config": {"interpole": identity},
    }


def _default(recipe: Recipe) -> float:
    """λ of a request that names none."""
    if recipe.method != "linear" or not isinstance(recipe.lam, int | float):
        raise EngineError(
            f"{recipe.method} has no λ per request", remedy="use the plain interpolation of a pair, or switch in place"
        )
    return float(recipe.lam)


# ── λ of every row ───────────────────────────────────────────────────────────────────────────────────────────────


class Rows:
    """λ of every row of the step that runs: of tokens within the model, of the last tokens in its head.

    Attributes:
        tokens: (most tokens, 1) in float32; the same memory for every step, for graphs replay addresses.
        logits: (most requests, 1), likewise.
        default: λ of a request that names none.
        end: 0 or 1 where the whole step is at one end, so that the other's weights need not be read; None: it is mixed, or the
            model runs as a graph, where nothing may depend on it.
    """

    end: float | None = None

    def __init__(
        self, num_tokens: int, num_requests: int, *, default: float, eager: bool, device: torch.device | str = "cpu"
    ) -> None:
        self.tokens = torch.zeros(num_tokens, 1, dtype=torch.float32, device=device)
        self.logits = torch.zeros(num_requests, 1, dtype=torch.float32, device=device)
        self.default, self._eager = default, eager

    def of(self, sampling_params: Any) -> float:
        """λ of a request."""
        named = (getattr(sampling_params, "extra_args", None) or {}).get("lam")
        return self.default if named is None else float(named)

    def fill(self, lams: np.ndarray[Any, Any], num_tokens: np.ndarray[Any, Any]) -> None:
        """Set λ for a step.

        Args:
            lams: of each request of the batch, in its order.
            num_tokens: how many tokens of each request the step computes.
        """
        lams = np.asarray(lams, np.float32)
        if self._eager:
            self.end = float(lams[0]) if lams[0] in (0, 1) and (lams == lams[0]).all() else None
        of_tokens = np.repeat(lams, num_tokens)
        self.tokens[: len(of_tokens), 0].copy_(torch.from_numpy(of_tokens), non_blocking=True)
        self.logits[: len(lams), 0].copy_(torch.from_numpy(lams), non_blocking=True)


def _mix(instruct: torch.Tensor, thinking: torch.Tensor, lams: torch.Tensor) -> torch.Tensor:
    """Rows of two outputs interpolated in float32 and rounded once; exact where λ is 0 or 1."""
    lam = lams[: instruct.shape[0]].view(-1, *[1] * (instruct.dim() - 1))  # (rows, 1 …)
    return torch.lerp(instruct.float(), thinking.float(), lam).to(instruct.dtype)


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _PerRow(QuantizeMethodBase):
    """In the place of a layer's own method: asks that for the layer and for its twin."""

    def __init__(self, inner: Any, rows: Rows) -> None:
        self.inner, self._rows = inner, rows

    def create_weights(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        """Never called: the layer had its weights before it was wrapped."""
        raise NotImplementedError

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """The method's own; the twin is a module of the model, so vLLM calls its."""
        self.inner.process_weights_after_loading(layer)

    def _both(self, layer: Any, at: Callable[[Any], torch.Tensor], lams: torch.Tensor) -> torch.Tensor:
        end = self._rows.end
        if end is not None:
            return at(layer.thinking if end else layer)
        return _mix(at(layer), at(layer.thinking), lams)


class _PerRowLinear(_PerRow):
    """y = (1 − λ)·(Ax + a) + λ·(Tx + t), λ of each token."""

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The layer's output."""
        return self._both(layer, lambda one: self.inner.apply(one, x, None if bias is None else one.bias), layer.lams)


class _PerRowVocabulary(_PerRow):
    """An embedding, λ of each token; or a head, or an embedding that serves as one too, λ of each row of logits."""

    def embedding(self, layer: Any, input_: torch.Tensor) -> torch.Tensor:
        """The rows of the tokens."""
        return self._both(layer, lambda one: self.inner.embedding(one, input_), layer.lams)

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Logits."""
        at = lambda one: self.inner.apply(one, x, None if bias is None else one.bias)  # noqa: E731
        return self._both(layer, at, layer.head_lams)


class _PerRowExperts(FusedMoEMethodBase, torch.nn.Module):
    """Experts, each an interpolated network: both of its maps are mixed, not only its output.

    In plain torch, from the weights as they were loaded: vLLM's kernels compute an expert in one piece. The router is a linear
    layer as any other, so each token's experts are those of its λ.
    """

    def __init__(self, inner: Any, rows: Rows) -> None:
        super().__init__(inner.moe)
        self.inner, self._rows = inner, rows

    def create_weights(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        """Never called: the layer had its weights before it was wrapped."""
        raise NotImplementedError

    def get_fused_moe_quant_config(self, layer: Any) -> Any:
        """As the method's own."""
        return self.inner.get_fused_moe_quant_config(layer)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Nothing: the weights stay as they were loaded."""

    @property
    def is_monolithic(self) -> bool:
        """Experts are chosen before they are asked."""
        return False

    def apply(
        self,
        layer: Any,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        *_: Any,
        **_shared: Any,
    ) -> torch.Tensor:
        """The weighted sum of each token's experts, in float32, rounded once."""
        order = topk_ids.flatten().argsort(stable=True)  # (tokens × chosen), by expert
        counts = torch.bincount(topk_ids.flatten(), minlength=layer.local_num_experts).tolist()
        token, start = order // topk_ids.shape[1], 0
        outputs = x.new_empty(len(order), x.shape[1], dtype=torch.float32)
        for expert, count in enumerate(counts):
            if count:
                part = slice(start, start + count)
                outputs[order[part]] = self._expert(layer, expert, x[token[part]], layer.lams[token[part]]).float()
                start += count
        chosen = outputs.view(*topk_ids.shape, -1)  # (tokens, chosen, features)
        return (chosen * topk_weights.unsqueeze(-1)).sum(1).to(x.dtype)

    def _expert(self, layer: Any, expert: int, x: torch.Tensor, lams: torch.Tensor) -> torch.Tensor:
        gate, up = self._linear(layer, "w13_weight", expert, x, lams).chunk(2, -1)
        return self._linear(layer, "w2_weight", expert, torch.nn.functional.silu(gate) * up, lams)

    def _linear(self, layer: Any, name: str, expert: int, x: torch.Tensor, lams: torch.Tensor) -> torch.Tensor:
        if self._rows.end is not None:
            return torch.nn.functional.linear(x, getattr(layer.thinking if self._rows.end else layer, name)[expert])
        instruct, thinking = (
            torch.nn.functional.linear(x, getattr(one, name)[expert]) for one in (layer, layer.thinking)
        )
        return _mix(instruct, thinking, lams)


def _norm(layer: Any, rows: Rows) -> Callable[..., Any]:
    """RMS normalisation with a weight per row: that of the folder at λ, rounded as there."""
    plain = copy.copy(layer)
    plain.pass_weight = plain.pass_weight_add = False
    normalise = layer._forward_method.__func__

    def forward(x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        if rows.end is not None:
            return normalise(layer.thinking if rows.end else layer, x, residual)
        lam = layer.lams[: x.shape[0]].view(-1, *[1] * (x.dim() - 1))
        weight = torch.lerp(layer.weight.float(), layer.thinking.weight.float(), lam).to(layer.weight.dtype)
        if residual is None:
            return (normalise(plain, x, None).to(weight.dtype) * weight).to(x.dtype)
        normal, residual = normalise(plain, x, residual)
        return (normal.to(weight.dtype) * weight).to(x.dtype), residual

    return forward


def _wrap(name: str, layer: Any, rows: Rows) -> None:
    """Let a layer that has a twin use it.

    Raises:
        EngineError: this kind of layer has no form with a λ per row.
    """
    method = getattr(layer, "quant_method", None)
    if isinstance(layer, LinearBase) and isinstance(method, UnquantizedLinearMethod):
        if layer.skip_bias_add and layer.bias is not None:
            raise EngineError(f"{name} hands its bias on, past any λ", remedy=_IN_PLACE)
        layer.quant_method = _PerRowLinear(method, rows)
        if isinstance(layer, GateLinear):
            for fast in [key for key in vars(layer) if key.startswith("allow_")]:
                setattr(layer, fast, False)  # these read the weight themselves
    elif isinstance(layer, VocabParallelEmbedding) and isinstance(method, UnquantizedEmbeddingMethod):
        layer.quant_method = _PerRowVocabulary(method, rows)
        layer.use_fused_embedding = False  # likewise
        layer.register_buffer("head_lams", rows.logits, persistent=False)
    elif isinstance(layer, RoutedExperts) and isinstance(method, UnquantizedFusedMoEMethod):
        _refuse_experts(name, layer)
        layer.quant_method = _PerRowExperts(method, rows)
    elif isinstance(layer, RMSNorm):
        layer._forward_method = _norm(layer, rows)
    else:
        raise EngineError(f"{name}, a {type(layer).__name__}, differs but has no form per request", remedy=_IN_PLACE)
    layer.register_buffer("lams", rows.tokens, persistent=False)


def _twins(model: torch.nn.Module, instruct: dict[int, torch.Tensor], rows: Rows) -> int:
    """Give every layer of a model that holds Thinking's weights a twin with them, and Instruct's to itself; how many.

    Args:
        model: as `load_weights` left it, with Thinking's weights.
        instruct: Instruct's, by the id of their parameter.
        rows: where λ is found.
    """
    thinking = dict[int, torch.nn.Parameter]()  # tied layers share one parameter, and then its twin
    for parameter in model.parameters():
        own = instruct.pop(id(parameter))
        if not torch.equal(own, parameter.data):
            thinking[id(parameter)] = torch.nn.Parameter(parameter.data, requires_grad=False)
            parameter.data = own
    layers = list(model.named_modules())
    num_twins = 0
    for name, layer in layers:
        other = {key: thinking[id(one)] for key, one in layer._parameters.items() if id(one) in thinking}
        if other:
            twin = copy.copy(layer)
            twin._parameters, twin._buffers, twin._modules = {**layer._parameters, **other}, dict(layer._buffers), {}
            _wrap(name, layer, rows)
            layer.add_module("thinking", twin)
            num_twins += 1
    return num_twins


# ── the loader ───────────────────────────────────────────────────────────────────────────────────────────────────


class PairLoader(DefaultModelLoader):
    """Loads the two ends of a recipe into one model (`load_format: interpole`)."""

    _source: Any = None

    def __init__(self, load_config: Any) -> None:
        extra = dict(load_config.model_loader_extra_config)
        if "recipe" not in extra:
            raise EngineError(
                "the loader `interpole` needs a recipe", remedy="start it by `interpole serve --engine vllm`"
            )
        recipe = build(extra.pop("recipe"), "model_loader_extra_config")
        self._default, self._resolve = _default(recipe), dial(recipe)
        super().__init__(dataclasses.replace(load_config, load_format="auto", model_loader_extra_config=extra))

    def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> torch.nn.Module:
        """The model, ready to run.

        Raises:
            EngineError: λ per request would not be exact with this configuration, or this model.
        """
        _refuse(vllm_config)
        graphs = vllm_config.compilation_config
        self._rows = Rows(
            max(vllm_config.scheduler_config.max_num_batched_tokens, *(graphs.cudagraph_capture_sizes or (0,)), 1),
            vllm_config.scheduler_config.max_num_seqs,
            default=self._default,
            eager=model_config.enforce_eager,
            device=vllm_config.device_config.device,
        )
        model = super().load_model(vllm_config, model_config, prefix)
        _follow_steps(model, self._rows, vllm_config)
        return model

    def download_model(self, model_config: Any) -> None:  # noqa: ARG002
        """Opening the sources has fetched them."""
        self._resolve(0.5)

    def get_all_weights(self, model_config: Any, model: torch.nn.Module) -> Generator[Named, None, None]:  # noqa: ARG002
        """The tensors of the end that is being loaded."""
        yield from tensors(self._source, next(model.parameters()).device)

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        """Load Instruct, then Thinking, and part them.

        Raises:
            EngineError: a layer that differs has no form with a λ per row, or the checkpoints' head is not the model's.
        """
        self._source = self._resolve(0.0)
        super().load_weights(model, model_config)
        instruct = {id(one): one.data.clone() for one in model.parameters()}
        self._source = self._resolve(1.0)
        super().load_weights(model, model_config)
        for end in (0.0, 1.0):
            _check_head(self._resolve(end), model_config)
        _twins(model, instruct, self._rows)


def _check_head(checkpoint: Any, model_config: Any) -> None:
    """Refuse a checkpoint that says it is tied but has another head: vLLM would leave that out here, and use it from a folder."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if not getattr(model_config.hf_text_config, "tie_word_embeddings", False) or head not in checkpoint:
        return
    if embedding not in checkpoint or not np.array_equal(
        checkpoint[head].view(np.uint8), checkpoint[embedding].view(np.uint8)
    ):
        raise EngineError(
            f"config.json says that {head} is the embedding, but it is another tensor",
            checkpoint.label,
            "set tie_word_embeddings to false in config.json",
        )


def _follow_steps(model: Any, rows: Rows, vllm_config: Any) -> None:
    """Have the model runner, old or new, fill `rows` before each step."""
    model.interpole_rows = rows
    if vllm_config.use_v2_model_runner:
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        model.get_model_state_cls = lambda: _state_class(DefaultModelState)
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    plain = GPUModelRunner._prepare_inputs
    if hasattr(plain, "interpole"):
        return

    @functools.wraps(plain)
    def prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: np.ndarray[Any, Any]) -> Any:
        rows = getattr(self.get_model(), "interpole_rows", None)
        if rows is not None:
            batch = self.input_batch.req_ids
            rows.fill(np.array([rows.of(self.requests[one].sampling_params) for one in batch]), num_scheduled_tokens)
        return plain(self, scheduler_output, num_scheduled_tokens)

    prepare_inputs.interpole = True  # type: ignore[attr-defined]
    GPUModelRunner._prepare_inputs = prepare_inputs


@functools.cache
def _state_class(base: Any) -> Any:
    """The new model runner's hook: λ of each slot for a request, and of each row before a step."""

    class PerRequestState(base):
        def __init__(self, vllm_config: Any, model: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(vllm_config, model, *args, **kwargs)
            self._rows = model.interpole_rows
            self._lams = np.zeros(self.max_num_reqs, np.float32)

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            self._lams[req_index] = self._rows.of(new_req_data.sampling_params)

        def preprocess_state(self, input_batch: Any, *args: Any, **kwargs: Any) -> None:
            super().preprocess_state(input_batch, *args, **kwargs)
            self._rows.fill(self._lams[input_batch.idx_mapping_np], input_batch.num_scheduled_tokens)

    return PerRequestState


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────

_IN_PLACE = "serve one λ at a time: `--group`, or the folder that `interpole merge` writes"


def _refuse(config: Any) -> None:
    """Refuse a configuration in which rows would not be computed at their λ, or nobody has checked that they are.

    Raises:
        EngineError: with every reason.
    """
    model, parallel = config.model_config, config.parallel_config
    [architecture, *_] = model.architectures
    checks = {
        f"{architecture} is not among the tested: {', '.join(ARCHITECTURES)}": architecture not in ARCHITECTURES,
        "quantised weights": model.quantization is not None or config.quant_config is not None,
        "LoRA adapters": config.lora_config is not None,
        "speculative decoding": config.speculative_config is not None,
        "models that do not generate": model.runner_type != "generate",
        "several inputs (multimodal)": model.is_multimodal_model,
        "a head of another dtype": model.head_dtype != model.dtype,
        "embeddings as prompts": bool(model.enable_prompt_embeds),
        "microbatches (--enable-dbo, --ubatch-size)": bool(parallel.use_ubatching),
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "data parallelism": parallel.data_parallel_size > 1,
        "expert parallelism": bool(parallel.enable_expert_parallel or parallel.enable_eplb),
        "context parallelism": parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1,
        "sequence parallelism": bool(parallel.use_sequence_parallel_moe),
        "a key-value cache from elsewhere": config.kv_transfer_config is not None,
        "fast prefill with shared keys and values": bool(config.cache_config.kv_sharing_fast_prefill),
        "weights kept in main memory (--cpu-offload-gb)": config.offload_config.uva.cpu_offload_gb > 0,
        "experts in graphs on a GPU (say --enforce-eager)": bool(
            model.is_moe and not current_platform.is_cpu() and not model.enforce_eager
        ),
    }
    reasons = [reason for reason, holds in checks.items() if holds]
    if reasons:
        raise EngineError(
            f"λ per request is not served with: {'; '.join(reasons)}", remedy=f"leave it out, or {_IN_PLACE}"
        )


def _refuse_experts(name: str, layer: Any) -> None:
    """Refuse experts that are more than two maps and a SiLU.

    Raises:
        EngineError: with the reason.
    """
    checks = {
        f"the activation {layer.activation.value}": layer.activation != MoEActivation.SILU,
        "biases": bool(layer.moe_config.has_bias),
        "weights on their inputs": bool(layer.apply_router_weight_on_input),
        "a part of the experts only": layer.local_num_experts != layer.global_num_experts,
        "padded features": layer.hidden_size != layer.moe_config.hidden_dim_unpadded,
        "limits of their activation": layer.swiglu_limit is not None,
    }
    for reason, holds in checks.items():
        if holds:
            raise EngineError(f"experts with {reason} are not served with a λ per request", name, _IN_PLACE)


def register() -> None:
    """Called by vLLM in each of its processes (`vllm.general_plugins`): the loader, and the reader of thoughts of the server."""
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER

    if _LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT) is not PairLoader:
        register_model_loader(LOAD_FORMAT)(PairLoader)
    ReasoningParserManager.register_lazy_module("interpole", "interpole.engines.vllm_thoughts", "ThoughtReader")
