"""Draw one token per row from logits: temperature, top-k and top-p in one pass over a few candidates, and exact.

The order is that of transformers and vLLM: logits / T, keep the k largest (ties with the k-th included), renormalise, keep the
smallest set of the likeliest tokens whose mass reaches p; last, as in transformers, min-p. Where the candidates might not hold
all that, the whole row is sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from interpole.records import Sampler

__all__ = ["NO_TOKEN", "Settings", "chances", "draw"]

NUM_CANDIDATES = 64
NO_TOKEN = -1
"""What is drawn where logits are no numbers, or infinite."""


class Settings(NamedTuple):
    """Sampler settings of a batch, one entry per row."""

    temperature: torch.Tensor  # (B, 1) float32; 1 in greedy rows
    greedy: torch.Tensor  # (B,) bool
    top_k: torch.Tensor  # (B, 1) int64; the vocabulary's size where off
    top_p: torch.Tensor  # (B, 1) float32
    min_p: torch.Tensor | None = None  # (B, 1) float32; None where no row has one

    @classmethod
    def of(
        cls, samplers: Sequence[Sampler], vocab_size: int, device: torch.device, min_p: Sequence[float] = ()
    ) -> Settings:
        """Collect the settings of `samplers`, and the min-p of each."""
        table = torch.tensor(
            [[s.temperature or 1.0, s.temperature == 0, s.top_k or vocab_size, s.top_p] for s in samplers],
            dtype=torch.float64,
            device=device,
        )
        return cls(
            table[:, :1].float(),
            table[:, 1].bool(),
            table[:, 2:3].long().clamp(max=vocab_size),
            table[:, 3:].float(),
            torch.tensor(min_p, device=device)[:, None] if any(min_p) else None,
        )


def draw(
    logits: torch.Tensor, settings: Settings, uniforms: torch.Tensor, num_candidates: int = NUM_CANDIDATES
) -> torch.Tensor:
    """Draw by inverting the cumulative distribution, likeliest token first.

    Args:
        logits: (B, V), any float dtype.
        settings: per row.
        uniforms: (B,) in [0, 1), one random number per row.
        num_candidates: how many of the largest logits to look at first.

    Returns:
        (B,) token ids; the arg max in greedy rows; `NO_TOKEN` where the logits are not finite.
    """
    logits = logits.float()
    largest, likeliest = logits.max(-1)
    finite = largest.isfinite()
    if not bool(finite.all()):
        return torch.where(finite, draw(logits.where(finite[:, None], 0), settings, uniforms, num_candidates), NO_TOKEN)
    if bool(settings.greedy.all()):
        return likeliest
    tokens, probabilities, kept, doubtful = _filtered(logits, settings, num_candidates)
    if bool((doubtful & ~settings.greedy).any()):
        return draw(logits, settings, uniforms, logits.shape[-1])
    mass = (probabilities * kept).cumsum(-1)
    index = (mass <= uniforms[:, None] * mass[:, -1:]).sum(-1, keepdim=True)
    index = index.minimum(kept.sum(-1, keepdim=True) - 1)  # rounding must not lead past the last
    drawn = tokens.gather(-1, index)[:, 0]
    return torch.where(settings.greedy, likeliest, drawn)


def chances(logits: torch.Tensor, settings: Settings, tokens: torch.Tensor) -> torch.Tensor:
    """How likely `draw` draws a token of each row, and how likely it is by the logits themselves.

    Args:
        logits: (B, V), any float dtype.
        settings: per row.
        tokens: (B,) token ids.

    Returns:
        (B, 3) float64: the probability of being drawn; by the softmax of the logits the logarithms of the token's
        probability, and of all other tokens' together. NaN where the logits are not finite.
    """
    logits, chosen = logits.double(), tokens[:, None]
    order, probabilities, kept, _ = _filtered(logits, settings, logits.shape[-1])
    masses = probabilities * kept
    drawn = (masses * (order == chosen)).sum(-1) / masses.sum(-1)
    drawn = torch.where(settings.greedy, (logits.argmax(-1) == tokens).double(), drawn)
    norm = logits.logsumexp(-1)
    own = logits.gather(-1, chosen)[:, 0] - norm
    others = logits.scatter(-1, chosen, -torch.inf).logsumexp(-1) - norm
    found = torch.stack([drawn, own, others], dim=-1)
    return torch.where(logits.amax(-1).isfinite()[:, None], found, torch.nan)


class _Filtered(NamedTuple):
    """The likeliest tokens in order, before and after the filters."""

    tokens: torch.Tensor  # (B, K)
    probabilities: torch.Tensor  # (B, K) by temperature and top-k
    kept: torch.Tensor  # (B, K) bool: may be drawn
    doubtful: torch.Tensor  # (B,) bool: tokens beyond these may count, too


def _filtered(logits: torch.Tensor, settings: Settings, num_candidates: int) -> _Filtered:
    """The candidates of each row, as the sampler's settings leave them."""
    whole = num_candidates >= logits.shape[-1]
    values, tokens = logits.sort(dim=-1, descending=True) if whole else logits.topk(num_candidates)  # (B, K)
    off = settings.top_k >= logits.shape[-1]
    rank = (settings.top_k - 1).clamp(max=values.shape[-1] - 1)
    in_k = off | (values >= values.gather(-1, rank))
    scaled = values / settings.temperature
    norm = torch.where(in_k, scaled, -torch.inf).logsumexp(-1, keepdim=True)
    if not whole and bool(off.any()):
        norm = torch.where(off, (logits / settings.temperature).logsumexp(-1, keepdim=True), norm)
    probabilities = (scaled - norm).exp() * in_k
    before = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens
    kept = in_k & ((before < settings.top_p) | (settings.top_p >= 1))
    if settings.min_p is not None:
        kept &= probabilities >= settings.min_p * probabilities[:, :1]
    doubtful = torch.where(off, kept, in_k)[:, -1] & (not whole)
    return _Filtered(tokens, probabilities, kept, doubtful)
