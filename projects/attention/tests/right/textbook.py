"""The shortest stable answer: masked_fill with -inf, torch's softmax, torch's comparison of positions."""

import math

import torch
from torch import nn


def attention_weights(query, key, *, mask=None, causal=False, scale=None):
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    scores = query @ key.transpose(-2, -1) * scale
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask.is_floating_point():
            scores = scores + mask
        else:
            raise TypeError(f"mask must be boolean or float, got {mask.dtype}")
    if causal:
        n_queries, n_keys = scores.shape[-2:]
        allowed = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        scores = scores.masked_fill(~allowed, -math.inf)
    return scores.softmax(-1)


def attention(query, key, value, *, mask=None, causal=False, scale=None, dropout_p=0.0, generator=None):
    if not 0 <= dropout_p < 1:
        raise ValueError("dropout_p must be in [0, 1)")
    weights = attention_weights(query, key, mask=mask, causal=causal, scale=scale)
    if dropout_p > 0:
        keep = torch.rand(weights.shape, generator=generator) >= dropout_p
        weights = weights * keep / (1 - dropout_p)
    return weights @ value


class SingleHeadAttention(nn.Module):
    def __init__(self, d_model, d_head=None, *, bias=False, causal=False, dropout=0.0):
        super().__init__()
        d_head = d_model if d_head is None else d_head
        self.query = nn.Linear(d_model, d_head, bias=bias)
        self.key = nn.Linear(d_model, d_head, bias=bias)
        self.value = nn.Linear(d_model, d_head, bias=bias)
        self.causal = causal
        self.dropout = dropout

    def forward(self, x, context=None, *, mask=None):
        context = x if context is None else context
        dropout_p = self.dropout if self.training else 0.0
        return attention(
            self.query(x),
            self.key(context),
            self.value(context),
            mask=mask,
            causal=self.causal,
            dropout_p=dropout_p,
        )
