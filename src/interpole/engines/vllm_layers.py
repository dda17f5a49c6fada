"""Layers of vLLM that mix two checkpoints row by row, each row of a batch at its own request's λ.

A layer whose weights differ gets a twin with Thinking's, and gives the interpolation of the two outputs; for a linear map that is
the output of the interpolated weights. The ends are exact. A kind of layer that has no such form is refused (`twins`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
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

from interpole.errors import EngineError

__all__ = ["IN_PLACE", "RowLambdas", "twins"]

IN_PLACE = "serve one λ at a time: `--group`, or the folder that `interpole merge` writes"
"""What to do where λ per request cannot be had."""


class RowLambdas:
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


class _PerRow(QuantizeMethodBase):
    """In the place of a layer's own method: asks that for the layer and for its twin."""

    def __init__(self, inner: Any, rows: RowLambdas) -> None:
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

        def at(one: Any) -> Any:
            return self.inner.apply(one, x, None if bias is None else one.bias)

        return self._both(layer, at, layer.head_lams)


class _PerRowExperts(FusedMoEMethodBase, torch.nn.Module):
    """Experts, each an interpolated network: both of its maps are mixed, not only its output.

    In plain torch, from the weights as they were loaded: vLLM's kernels compute an expert in one piece. The router is a linear
    layer as any other, so each token's experts are those of its λ.
    """

    def __init__(self, inner: Any, rows: RowLambdas) -> None:
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


def _norm(layer: Any, rows: RowLambdas) -> Callable[..., Any]:
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


def _wrap(name: str, layer: Any, rows: RowLambdas) -> None:
    """Let a layer that has a twin use it.

    Raises:
        EngineError: this kind of layer has no form with a λ per row.
    """
    method = getattr(layer, "quant_method", None)
    if isinstance(layer, LinearBase) and isinstance(method, UnquantizedLinearMethod):
        if layer.skip_bias_add and layer.bias is not None:
            raise EngineError(f"{name} hands its bias on, past any λ", remedy=IN_PLACE)
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
        raise EngineError(f"{name}, a {type(layer).__name__}, differs but has no form per request", remedy=IN_PLACE)
    layer.register_buffer("lams", rows.tokens, persistent=False)


def twins(model: torch.nn.Module, instruct: dict[int, torch.Tensor], rows: RowLambdas) -> int:
    """Give every layer of a model that holds Thinking's weights a twin with them, and Instruct's to itself; how many.

    Args:
        model: as `load_weights` left it, with Thinking's weights.
        instruct: Instruct's, by the id of their parameter.
        rows: where λ is found.

    Raises:
        EngineError: a layer that differs has no form with a λ per row.
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
            raise EngineError(f"experts with {reason} are not served with a λ per request", name, IN_PLACE)
