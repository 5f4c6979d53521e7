import math

import torch
from torch import nn
from torch.nn import functional as F


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, n_heads, *, bias=True, dropout=0.0, causal=False):
        super().__init__()
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must divide d_model, got d_model={d_model} and n_heads={n_heads}")
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.dropout = dropout
        self.causal = causal
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    def _check(self, query, key, value):
        d_model = self.n_heads * self.d_head
        for t in (query, key, value):
            if t.ndim != 3 or t.shape[2] != d_model or t.shape[0] != query.shape[0]:
                raise ValueError(f"shape {tuple(t.shape)} does not fit")
        if key.shape[1] != value.shape[1]:
            raise ValueError("key and value differ in length")

    def _split(self, t):
        B, T, _ = t.shape
        return t.view(B, T, self.n_heads, self.d_head).transpose(1, 2)

    def _weights(self, query, key, mask):
        q, k = self._split(self.q_proj(query)), self._split(self.k_proj(key))
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.d_head)
        if mask is not None:
            if mask.dtype == torch.bool:
                scores = scores.masked_fill(~mask, float("-inf"))
            elif mask.is_floating_point():
                scores = scores + mask.to(scores.dtype)
            else:
                raise TypeError(f"mask must be bool or float, got {mask.dtype}")
        if self.causal:
            Tq, Tk = scores.shape[-2:]
            allowed = torch.ones(Tq, Tk, dtype=torch.bool, device=scores.device).tril(Tk - Tq)
            scores = scores.masked_fill(~allowed, float("-inf"))
        return scores.softmax(dim=-1)

    def forward(self, query, key=None, value=None, *, mask=None):
        key = query if key is None else key
        value = key if value is None else value
        self._check(query, key, value)
        weights = F.dropout(self._weights(query, key, mask), self.dropout, self.training)
        heads = weights @ self._split(self.v_proj(value))
        return self.out_proj(heads.transpose(1, 2).reshape(query.shape))

    @torch.no_grad()
    def attention_maps(self, x, context=None, *, mask=None):
        context = x if context is None else context
        self._check(x, context, context)
        return self._weights(x, context, mask)
