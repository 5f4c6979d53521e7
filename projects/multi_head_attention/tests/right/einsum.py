"""Einsum over an axis of heads, exp and sum by hand, the causal mask as logic, dropout as a product with Bernoulli numbers."""

import torch
from torch import nn


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, n_heads, *, bias=True, dropout=0.0, causal=False):
        if n_heads < 1 or d_model // n_heads * n_heads != d_model:
            raise ValueError(f"d_model={d_model}, n_heads={n_heads}")
        super().__init__()
        self.h, self.p, self.causal = n_heads, dropout, causal
        self.q_proj = nn.Linear(d_model, d_model, bias)
        self.k_proj = nn.Linear(d_model, d_model, bias)
        self.v_proj = nn.Linear(d_model, d_model, bias)
        self.out_proj = nn.Linear(d_model, d_model, bias)

    def weights(self, query, key, mask):
        if mask is not None and not (mask.dtype == torch.bool or mask.is_floating_point()):
            raise TypeError(f"mask: {mask.dtype}")
        q = self.q_proj(query).unflatten(-1, (self.h, -1))
        k = self.k_proj(key).unflatten(-1, (self.h, -1))
        scores = torch.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
        forbidden = torch.zeros(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        if self.causal:
            n_q, n_k = forbidden.shape
            forbidden = ~torch.ones_like(forbidden).tril(n_k - n_q)
        if mask is not None:
            if mask.dtype == torch.bool:
                forbidden = forbidden | ~mask
            else:
                scores = scores + mask.to(scores.dtype)
        scores = scores.masked_fill(forbidden, -torch.inf)
        e = (scores - scores.amax(-1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True)

    def fit(self, query, key, value):
        d = self.q_proj.in_features
        shapes = [tuple(t.shape) for t in (query, key, value)]
        if any(len(s) != 3 or s[2] != d for s in shapes):
            raise ValueError(f"(B, T, {d}) expected: {shapes}")
        if len({s[0] for s in shapes}) > 1 or shapes[1] != shapes[2]:
            raise ValueError(f"shapes do not fit: {shapes}")

    def forward(self, query, key=None, value=None, *, mask=None):
        key = query if key is None else key
        value = key if value is None else value
        self.fit(query, key, value)
        weights = self.weights(query, key, mask)
        if self.training and self.p > 0:
            keep = torch.rand_like(weights) >= self.p
            weights = weights * keep / (1 - self.p)
        v = self.v_proj(value).unflatten(-1, (self.h, -1))
        return self.out_proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(-2))

    def attention_maps(self, x, context=None, *, mask=None):
        with torch.no_grad():
            context = x if context is None else context
            self.fit(x, context, context)
            return self.weights(x, context, mask)
