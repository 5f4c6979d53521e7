"""A loop over the heads, checks first, one bias added to the scores; nn.Dropout, which also works for probability 0."""

import torch
from torch import nn


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, n_heads, *, bias=True, dropout=0.0, causal=False):
        super().__init__()
        if n_heads <= 0 or d_model % n_heads:
            raise ValueError(f"{n_heads} heads do not divide d_model = {d_model}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is a probability, not {dropout}")
        self.d_model, self.n_heads, self.causal = d_model, n_heads, causal
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(d_model, d_model, bias=bias))
        self.drop = nn.Dropout(dropout)

    def _bias(self, query, key, mask):
        B, n_q, _ = query.shape
        n_k = key.shape[1]
        bias = torch.zeros(B, self.n_heads, n_q, n_k, dtype=query.dtype, device=query.device)
        if self.causal:
            row = torch.arange(n_q, device=query.device)[:, None] + (n_k - n_q)
            column = torch.arange(n_k, device=query.device)[None, :]
            bias = torch.where(column > row, -torch.inf, bias)
        if mask is None:
            return bias
        try:
            mask = mask.expand(bias.shape)
        except RuntimeError as error:
            raise ValueError(
                f"mask of shape {tuple(mask.shape)} does not broadcast to {tuple(bias.shape)}"
            ) from error
        if mask.dtype == torch.bool:
            return torch.where(mask, bias, -torch.inf)
        if mask.dtype.is_floating_point:
            return bias + mask.to(bias.dtype)
        raise TypeError(f"mask is neither bool nor float: {mask.dtype}")

    def _validate(self, query, key, value):
        for name, t in (("query", query), ("key", key), ("value", value)):
            if t.dim() != 3 or t.size(-1) != self.d_model:
                raise ValueError(f"{name} must be (B, T, {self.d_model}), got {tuple(t.shape)}")
        if not query.size(0) == key.size(0) == value.size(0):
            raise ValueError("batch sizes differ")
        if key.size(1) != value.size(1):
            raise ValueError("every key needs one value")

    def _head_weights(self, query, key, mask):
        bias = self._bias(query, key, mask)
        width = self.d_model // self.n_heads
        q, k = self.q_proj(query), self.k_proj(key)
        maps = []
        for h in range(self.n_heads):
            s = slice(h * width, (h + 1) * width)
            scores = torch.bmm(q[..., s], k[..., s].mT) * width**-0.5 + bias[:, h]
            maps.append(torch.softmax(scores, dim=-1))
        return maps

    def forward(self, query, key=None, value=None, *, mask=None):
        if key is None:
            key = query
        if value is None:
            value = key
        self._validate(query, key, value)
        heads = [
            torch.bmm(self.drop(weights), v)
            for weights, v in zip(
                self._head_weights(query, key, mask),
                self.v_proj(value).chunk(self.n_heads, dim=-1),
                strict=True,
            )
        ]
        return self.out_proj(torch.cat(heads, dim=-1))

    @torch.no_grad()
    def attention_maps(self, x, context=None, *, mask=None):
        if context is None:
            context = x
        self._validate(x, context, context)
        return torch.stack(self._head_weights(x, context, mask), dim=1)
