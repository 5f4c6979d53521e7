"""Query by query, as the definition is read aloud: a row of scores, the log of its sum, and a loop over the positions."""

import torch
from torch import nn
from torch.nn import functional


def attention_weights(query, key, *, mask=None, causal=False, scale=None):
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if mask is not None:
        if not (mask.dtype is torch.bool or mask.is_floating_point()):
            raise TypeError("a mask is boolean or float")
        mask = mask.broadcast_to(torch.broadcast_shapes(mask.shape, (n_queries, n_keys)))
    rows = []
    for i in range(n_queries):
        row = torch.einsum("...d,...kd->...k", query[..., i, :], key).mul(scale)
        if mask is not None and mask.dtype is torch.bool:
            row = torch.where(mask[..., i, :], row, -torch.inf)
        elif mask is not None:
            row = row + mask[..., i, :]
        if causal:
            n_visible = i + n_keys - n_queries + 1
            hidden = torch.full_like(row[..., n_visible:], -torch.inf)
            row = torch.cat([row[..., :n_visible], hidden], dim=-1)
        rows.append(torch.exp(row - torch.logsumexp(row, dim=-1, keepdim=True)))
    return torch.stack(rows, dim=-2)


def attention(query, key, value, *, mask=None, causal=False, scale=None, dropout_p=0.0, generator=None):
    if dropout_p < 0 or dropout_p >= 1:
        raise ValueError("dropout_p is outside [0, 1)")
    weights = attention_weights(query, key, mask=mask, causal=causal, scale=scale)
    if dropout_p > 0 and generator is None:
        weights = functional.dropout(weights, dropout_p)
    elif dropout_p > 0:
        dropped = torch.rand(weights.shape, generator=generator, dtype=weights.dtype) < dropout_p
        weights = weights.masked_fill(dropped, 0).div(1 - dropout_p)
    return torch.einsum("...qk,...kv->...qv", weights, value)


class SingleHeadAttention(nn.Module):
    def __init__(self, d_model, d_head=None, *, bias=False, causal=False, dropout=0.0):
        super().__init__()
        d_head = d_head or d_model
        for name in ("query", "key", "value"):
            self.add_module(name, nn.Linear(d_model, d_head, bias))
        self.settings = dict(causal=causal)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, context=None, *, mask=None):
        if context is None:
            context = x
        probability = self.dropout.p if self.dropout.training else 0.0
        return attention(
            self.query(x),
            self.key(context),
            self.value(context),
            mask=mask,
            dropout_p=probability,
            **self.settings,
        )
