"""Multi-head attention in PyTorch: several attentions side by side, each on its own slice of the numbers.

    head_h = softmax(q_h k_hᵀ / sqrt(d_head)) v_h,   q_h, k_h, v_h: slice h of x W_qᵀ, x W_kᵀ, x W_vᵀ
    output = concat(head_1, ..., head_H) W_oᵀ

The contract: float32 or float64 tensors, B and T at least 1, each query with at least one key to attend to; the result has the
dtype of the input. Nothing is modified. The attention is written out: ``scaled_dot_product_attention`` is not called.
Further, judged by tests/further: float16 and bfloat16, whose attention is computed in float32; a mask of any float dtype.

grouped_query_attention.py adds shared key heads, a cache and the fused kernel, and defines what is not defined here.

Source: Vaswani et al. 2017, "Attention is all you need", arXiv 1706.03762, section 3.2.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(nn.Module):
    """`n_heads` attentions side by side, each on d_head = d_model/n_heads numbers, then one output projection.

    d_model : width of every input and of the output
    n_heads : divides `d_model`, else ValueError
    bias : whether the four projections have one
    dropout : probability of setting an attention weight to 0 in training; the others grow by 1/(1 - dropout)
    causal : whether a query sees only its own token and earlier ones; the last query stands at the last key

    The attributes `q_proj`, `k_proj`, `v_proj` and `out_proj` are ``nn.Linear(d_model, d_model)``, initialised as that does it.
    Their outputs h·d_head to (h+1)·d_head belong to head h.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, bias: bool = True, dropout: float = 0.0, causal: bool = False
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got d_model={d_model} and n_heads={n_heads}")
        self.n_heads, self.dropout, self.causal = n_heads, dropout, causal
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Let each token of `query` gather from `value` what its heads find in `key`: (B, Tq, d_model).

        query : (B, Tq, d_model)
        key : (B, Tk, d_model), by default `query`: self-attention
        value : (B, Tk, d_model), by default `key`
        mask : broadcasts to (B, n_heads, Tq, Tk); bool: True where attention is allowed, the opposite of
            ``nn.MultiheadAttention``; float: added to the scores. It is combined with `causal`.

        ValueError if the three do not fit each other: nothing is broadcast. TypeError for a mask of another dtype. Further:
        ValueError for one of another shape, which would enlarge the result where B or Tq is 1.
        """
        key = query if key is None else key
        value = key if value is None else value
        if not query.ndim == key.ndim == 3 or key.shape != value.shape or query.shape[::2] != key.shape[::2]:
            raise ValueError(
                "query must be (B, Tq, d_model), key and value (B, Tk, d_model), got "
                + ", ".join(str(tuple(x.shape)) for x in (query, key, value))
            )
        weights = F.dropout(self._weights(query, key, mask), self.dropout, self.training)
        heads = weights @ self._split(self.v_proj(value))
        merged = heads.transpose(1, 2).flatten(2)  # the heads of a token side by side
        return self.out_proj(merged.to(query.dtype))

    @torch.no_grad()
    def attention_maps(
        self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights of every head, (B, n_heads, Tq, Tk), for plotting: without dropout, without gradient.

        `x` and `context` (by default `x`) are the query and the key of `forward`. Rows sum to 1.
        """
        return self._weights(x, x if context is None else context, mask).to(x.dtype)

    def _split(self, x: Tensor) -> Tensor:
        """View (B, T, d_model) as (B, n_heads, T, d_head): head h is slice h of every token. Half types become float32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # a score may exceed the 65504 of float16
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Return the softmax of the masked scores."""
        q, k = self._split(self.q_proj(query)), self._split(self.k_proj(key))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if mask is not None:
            if mask.dtype != torch.bool and not mask.is_floating_point():
                raise TypeError(f"mask must be bool (True: allowed) or float (added), got {mask.dtype}")
            axes = zip(mask.shape[::-1], scores.shape[::-1], strict=False)
            if mask.ndim > 4 or any(n not in (1, wanted) for n, wanted in axes):
                raise ValueError(f"mask must broadcast to {tuple(scores.shape)}, got {tuple(mask.shape)}")
            added = mask.to(scores.dtype)
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + added
        if self.causal:
            Tq, Tk = scores.shape[-2:]
            later = torch.ones(Tq, Tk, dtype=torch.bool, device=scores.device).triu(Tk - Tq + 1)
            scores = scores.masked_fill(later, -math.inf)
        return scores.softmax(-1)
