"""The shortest stable textbook answer."""

import torch
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, d_model, *, eps=1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x):
        if x.shape[-1] != len(self.weight):
            raise ValueError(f"expected {len(self.weight)} features, got {x.shape[-1]}")
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


class FeedForward(nn.Module):
    def __init__(self, d_model, d_ff=None, *, activation="gelu", dropout=0.0):
        super().__init__()
        if activation not in ("gelu", "relu"):
            raise ValueError(f"unknown activation {activation!r}")
        self.up = nn.Linear(d_model, d_ff or 4 * d_model)
        self.down = nn.Linear(d_ff or 4 * d_model, d_model)
        self.activation = nn.GELU() if activation == "gelu" else nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.down(self.dropout(self.activation(self.up(x))))


def sinusoidal_encoding(n_positions, d_model):
    if d_model % 2:
        raise ValueError("d_model must be even")
    t = torch.arange(n_positions, dtype=torch.float64)[:, None]
    angles = t / 10000 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    encoding = torch.empty(n_positions, d_model)
    encoding[:, 0::2] = angles.sin()
    encoding[:, 1::2] = angles.cos()
    return encoding


class SelfAttention(nn.Module):
    def __init__(self, d_model, n_heads, *, causal=False, dropout=0.0):
        super().__init__()
        if d_model % n_heads:
            raise ValueError("n_heads must divide d_model")
        self.n_heads, self.causal = n_heads, causal
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, *, mask=None):
        B, T, d = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (d // self.n_heads) ** 0.5
        if self.causal:
            scores = scores.masked_fill(
                torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), float("-inf")
            )
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        y = self.dropout(scores.softmax(-1)) @ v
        return self.out(y.transpose(1, 2).reshape(B, T, d))


class TransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads, *, d_ff=None, activation="gelu", causal=False, dropout=0.0):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = LayerNorm(d_model), LayerNorm(d_model)
        self.attention = SelfAttention(d_model, n_heads, causal=causal, dropout=dropout)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, *, mask=None):
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
