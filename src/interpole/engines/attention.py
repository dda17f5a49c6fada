"""Attention over a batch's cache without copies: heads that share keys are not given their own, and the cache grows in place.

transformers copies keys and values to every head that shares them wherever there is a mask, and the whole cache for every token.
On a CPU, over 1,000 tokens, this is most of a step. The results are the same, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

__all__ = ["attend_in_groups", "growing_cache"]

NAME = "interpole_grouped_sdpa"
SPARE_TOKENS = 64
"""Room that a cache is given at a time."""


class _GrowingLayer(DynamicLayer):
    """A layer's keys and values (B, H, T, D): views of buffers with room for more tokens, unless somebody replaced them."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin with no token."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self._views = self._buffers = self.keys, self.values
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens; returns all there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.keys.shape[2]
        total = length + key_states.shape[2]
        if self.keys is not self._views[0] or self.values is not self._views[1] or total > self._buffers[0].shape[2]:
            self._buffers = _with_room(self.keys, total), _with_room(self.values, total)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, length:total] = new
        self.keys, self.values = self._views = self._buffers[0][:, :, :total], self._buffers[1][:, :, :total]
        return self.keys, self.values


def _with_room(old: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """A buffer (B, H, T + spare, D) that begins with `old`."""
    buffer = old.new_empty(*old.shape[:2], num_tokens + SPARE_TOKENS, old.shape[3])
    buffer[:, :, : old.shape[2]] = old
    return buffer


def growing_cache() -> DynamicCache:
    """An empty cache whose layers grow in place."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = _GrowingLayer
    return cache


def _grouped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """As `sdpa_attention_forward` of transformers; on a CPU keys and values are not repeated where there is a mask, either."""
    if (
        attention_mask is None
        or position_bias is not None
        or query.device.type != "cpu"
        or query.shape[1] == key.shape[1]
    ):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, position_bias=position_bias, **rest
        )
        return found
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


def attend_in_groups(model: Any) -> None:
    """Have a model that attends by torch's `scaled_dot_product_attention` do so in groups of heads."""
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
        AttentionInterface.register(NAME, _grouped)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
