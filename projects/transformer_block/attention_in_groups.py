"""The block's attention, with scores that stay in the cache, masks that are added, and queries that see nothing.

A matrix of scores for every head and sequence is soon larger than the cache, and then so large that the allocator gives it back
to the system after each use. A few matrices at a time give the same numbers, and take less time: on a CPU no tensor holds more
than GROUP_SCORES scores, or one matrix where that is larger. torch's fused attention is not used.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor, nn

from positions import rotary

__all__ = ["GROUP_SCORES", "SelfAttention"]

GROUP_SCORES = 1 << 19  # scores computed at a time on a CPU: 2 MB of float32, see benchmark.py


class SelfAttention(nn.Module):
    """The `SelfAttention` of transformer_block.py, with the same layers, for any floating dtype (scores are float32 or wider).

    position : None, or "rotary", which rotates queries and keys, not values, by the positions 0 … T - 1, with the function of
        positions.py.
    bias : whether `qkv` and `out` have one.

    ValueError if d_model or n_heads is no positive integer, n_heads does not divide d_model, or a head is odd with "rotary"
    (the message holds them), and for another `position` (the message holds it).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        causal: bool = False,
        position: str | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, n in (("d_model", d_model), ("n_heads", n_heads)):
            if not isinstance(n, int | Integral) or isinstance(n, bool) or n < 1:
                raise ValueError(f"{name} must be a positive integer, got {n!r}")
        if d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        if position not in (None, "rotary"):
            raise ValueError(f"position must be None or 'rotary', got {position!r}")
        if position == "rotary" and d_model // n_heads % 2:
            raise ValueError(f"rotary needs an even head size, got {d_model} / {n_heads}")
        self.n_heads, self.causal, self.position = n_heads, causal, position
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Attend within each sequence of x : (B, T, d_model); B or T may be 0.

        mask : broadcasts to (B, n_heads, T, T); boolean: True where the query may see the key; floating: added to the
        scores, in the dtype of x, and gets a gradient. A query that sees nothing gets zeros from its heads, and its
        gradients are finite.

        ValueError if `x` has another shape or `mask` does not broadcast: the message holds the shape. TypeError if `mask` is
        neither boolean nor floating: the message holds its dtype.
        """
        if x.ndim != 3 or x.shape[-1] != self.out.in_features:
            raise ValueError(f"x must be (B, T, {self.out.in_features}), got {tuple(x.shape)}")
        (B, T, D), h = x.shape, self.n_heads
        heads = self.qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 3, 1, 4)
        query, key, value = heads  # each (B, h, T, d_head)
        if self.position == "rotary":
            query, key = rotary(heads[:2], torch.arange(T, device=x.device))
        bias, sees_nothing = _scores_to_add(mask, self.causal, query)
        attended = self._attend_in_groups(query, key, value, bias)
        if sees_nothing is not None:
            attended = attended.masked_fill(sees_nothing, 0)
        return self.out(attended.transpose(1, 2).reshape(B, T, D))

    def _attend_in_groups(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Attend in a few of the B·h attention matrices at a time."""
        B, h, T, _ = query.shape
        n_matrices = max(1, GROUP_SCORES // max(T * T, 1)) if query.device.type == "cpu" else B * h
        if B * h <= n_matrices:
            return self._attend(query, key, value, bias)
        inputs = (query, key, value) if bias is None else (query, key, value, bias.expand(B, h, T, T))
        groups = [torch.split(tensor, max(1, n_matrices // h), dim=0) for tensor in inputs]
        batches = []
        for group in zip(*groups, strict=True):
            heads = zip(*(torch.split(tensor, min(h, n_matrices), dim=1) for tensor in group), strict=True)
            batches.append(torch.cat([self._attend(*tensors) for tensors in heads], dim=1))
        return torch.cat(batches)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return softmax(query keyᵀ / sqrt(d_head) + bias) value."""
        wide = torch.promote_types(query.dtype, torch.float32)  # a score may exceed the 65504 of float16
        scores = (query.to(wide) / math.sqrt(query.shape[-1])) @ key.to(wide).mT
        if bias is not None:
            scores += bias
        weights: Tensor = self.dropout(torch.softmax(scores, dim=-1))
        return (weights @ value.to(wide)).to(value.dtype)


def _scores_to_add(mask: Tensor | None, causal: bool, query: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return what to add to the scores, and which queries see nothing; None where there is no need.

    Those queries get a bias of 0 instead of minus infinity, which would make their weights and gradients NaN.
    """
    B, h, T, _ = query.shape
    bias = query.new_full((T, T), -torch.inf).triu(1) if causal else None
    if mask is None:
        return bias, None
    try:
        mask.expand(B, h, T, T)
    except RuntimeError as error:
        raise ValueError(f"mask must broadcast to {(B, h, T, T)}, got {tuple(mask.shape)}") from error
    if mask.dtype == torch.bool:
        mask = query.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
    elif not mask.is_floating_point():
        raise TypeError(f"mask must be boolean or floating, got {mask.dtype}")
    bias = mask.to(query.dtype) if bias is None else bias + mask.to(query.dtype)
    sees_nothing = (bias == -torch.inf).all(dim=-1, keepdim=True)
    return bias.masked_fill(sees_nothing, 0), sees_nothing
