"""A careful person's answer: named steps, one mask of what may be seen, functional dropout, variance from var_mean."""

import math

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


class LayerNorm(nn.Module):
    def __init__(self, d_model, *, eps=1e-5):
        super().__init__()
        self.d_model = d_model
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model))
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x):
        if x.ndim < 1 or x.size(-1) != self.d_model:
            raise ValueError(f"expected a last axis of {self.d_model}, got x of shape {tuple(x.shape)}")
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        normed = (x - mean) * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias, normed, self.weight)


class FeedForward(nn.Module):
    def __init__(self, d_model, d_ff=None, *, activation="gelu", dropout=0.0):
        super().__init__()
        try:
            self.activation = ACTIVATIONS[activation]
        except KeyError:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}") from None
        if d_ff is None:
            d_ff = 4 * d_model
        self.p = dropout
        self.up = nn.Linear(d_model, d_ff, bias=True)
        self.down = nn.Linear(d_ff, d_model, bias=True)

    def forward(self, x):
        hidden = self.activation(self.up(x))
        hidden = F.dropout(hidden, p=self.p, training=self.training)
        return self.down(hidden)


def sinusoidal_encoding(n_positions, d_model):
    if d_model % 2 != 0:
        raise ValueError(f"d_model must be even, got {d_model}")
    position = torch.arange(n_positions).double().unsqueeze(1)
    pair = torch.arange(d_model // 2).double()
    frequency = torch.exp(pair * (-2.0 * math.log(10_000.0) / d_model))
    angle = position * frequency
    return torch.stack((torch.sin(angle), torch.cos(angle)), dim=-1).flatten(start_dim=1).to(torch.float32)


class SelfAttention(nn.Module):
    def __init__(self, d_model, n_heads, *, causal=False, dropout=0.0):
        super().__init__()
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must divide d_model, got d_model={d_model} and n_heads={n_heads}")
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads
        self.causal = causal
        self.p = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def _heads(self, t):
        return t.unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)

    def _visible(self, x, mask):
        length = x.shape[1]
        if not self.causal:
            return mask
        past = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        return past if mask is None else torch.logical_and(past, mask)

    def forward(self, x, *, mask=None):
        query, key, value = (self._heads(t) for t in self.qkv(x).split(self.d_model, dim=-1))
        query = query * self.d_head**-0.5
        scores = torch.matmul(query, key.mT)
        visible = self._visible(x, mask)
        if visible is not None:
            scores = torch.where(visible, scores, -torch.inf)
        weights = F.softmax(scores, dim=-1)
        weights = F.dropout(weights, p=self.p, training=self.training)
        return self.out(torch.matmul(weights, value).transpose(1, 2).flatten(start_dim=2))


class TransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads, *, d_ff=None, activation="gelu", causal=False, dropout=0.0):
        super().__init__()
        self.attention_norm = LayerNorm(d_model)
        self.attention = SelfAttention(d_model, n_heads, causal=causal, dropout=dropout)
        self.attention_dropout = nn.Dropout(dropout)
        self.feed_forward_norm = LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=dropout)
        self.feed_forward_dropout = nn.Dropout(dropout)

    def forward(self, x, *, mask=None):
        attended = self.attention(self.attention_norm(x), mask=mask)
        middle = x + self.attention_dropout(attended)
        transformed = self.feed_forward(self.feed_forward_norm(middle))
        return middle + self.feed_forward_dropout(transformed)
