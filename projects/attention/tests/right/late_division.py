"""The values are summed with unnormalised weights and divided once, after the sum; masks forbid by a product of booleans."""

import torch
from torch import nn


def _exponentials(query, key, mask, causal, scale):
    """exp(score - the largest allowed score of the row), 0 for a forbidden key, and the sum of each row."""
    scores = torch.matmul(query, key.swapaxes(-1, -2))
    scores = scores / query.shape[-1] ** 0.5 if scale is None else scores * scale
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool)
    if causal:
        last = scores.shape[-1] - scores.shape[-2] + torch.arange(scores.shape[-2])
        allowed = torch.arange(scores.shape[-1]) <= last.unsqueeze(1)
    if mask is not None:
        if mask.dtype == torch.bool:
            allowed = allowed & mask
        elif mask.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            scores = scores + torch.nan_to_num(mask, nan=torch.nan, posinf=torch.inf, neginf=0.0)
            allowed = allowed & (mask > -torch.inf)
        else:
            raise TypeError(mask.dtype)
    scores = torch.where(allowed, scores, torch.tensor(-torch.inf, dtype=scores.dtype))
    peak = scores.max(dim=-1, keepdim=True).values.detach()
    exponentials = torch.exp(scores - peak)
    return exponentials, exponentials.sum(-1, keepdim=True)


def attention_weights(query, key, *, mask=None, causal=False, scale=None):
    exponentials, sums = _exponentials(query, key, mask, causal, scale)
    return exponentials / sums


def attention(query, key, value, *, mask=None, causal=False, scale=None, dropout_p=0.0, generator=None):
    if not (dropout_p >= 0 and dropout_p < 1):
        raise ValueError(dropout_p)
    exponentials, sums = _exponentials(query, key, mask, causal, scale)
    if dropout_p != 0:
        chances = torch.full_like(exponentials, 1 - dropout_p, requires_grad=False)
        exponentials = exponentials * torch.bernoulli(chances, generator=generator)
        sums = sums * (1 - dropout_p)
    return torch.matmul(exponentials, value) / sums


class SingleHeadAttention(nn.Module):
    def __init__(self, d_model, d_head=None, *, bias=False, causal=False, dropout=0.0):
        nn.Module.__init__(self)
        width = d_model
        if d_head is not None:
            width = d_head
        self.value = nn.Linear(d_model, width, bias)
        self.key = nn.Linear(d_model, width, bias)
        self.query = nn.Linear(d_model, width, bias)
        self.p = dropout
        self.is_causal = causal

    def forward(self, x, context=None, *, mask=None):
        source = context if context is not None else x
        arguments = self.query(x), self.key(source), self.value(source)
        if self.training:
            return attention(*arguments, mask=mask, causal=self.is_causal, dropout_p=self.p)
        return attention(*arguments, mask=mask, causal=self.is_causal)
