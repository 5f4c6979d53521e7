"""One head after the other, the softmax written out, dropout by hand, the norm in float64, sines one at a time."""

import math

import torch
from torch import nn


def drop(x, p, training):
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0
    return x * (torch.rand_like(x) >= p) / (1 - p)


class LayerNorm(nn.Module):
    def __init__(self, d_model, *, eps=1e-5):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.full((d_model,), 1.0)))
        self.register_parameter("bias", nn.Parameter(torch.full((d_model,), 0.0)))
        self.eps = eps

    def forward(self, x):
        d = self.weight.numel()
        if x.shape[-1] != d:
            raise ValueError(f"x must have {d} features")
        wide = x.double()
        centred = wide - wide.sum(-1, keepdim=True) / d
        variance = torch.einsum("...d,...d->...", centred, centred) / d
        unit = centred / (variance + self.eps).sqrt().unsqueeze(-1)
        return unit.to(x.dtype) * self.weight + self.bias


class FeedForward(nn.Module):
    def __init__(self, d_model, d_ff=None, *, activation="gelu", dropout=0.0):
        super().__init__()
        if activation == "gelu":
            self.bend = lambda h: h * torch.special.ndtr(h)
        elif activation == "relu":
            self.bend = lambda h: h.clamp(min=0)
        else:
            raise ValueError(f'activation must be "gelu" or "relu", not {activation!r}')
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.up, self.down, self.p = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model), dropout

    def forward(self, x):
        return self.down(drop(self.bend(self.up(x)), self.p, self.training))


def sinusoidal_encoding(n_positions, d_model):
    if d_model % 2 == 1:
        raise ValueError("sine and cosine come in pairs: d_model must be even")
    encoding = torch.zeros(n_positions, d_model, dtype=torch.float32)
    for t in range(n_positions):
        for feature in range(d_model):
            angle = t / math.pow(10000, (feature - feature % 2) / d_model)
            encoding[t, feature] = math.cos(angle) if feature % 2 else math.sin(angle)
    return encoding


class SelfAttention(nn.Module):
    def __init__(self, d_model, n_heads, *, causal=False, dropout=0.0):
        super().__init__()
        if d_model != n_heads * (d_model // n_heads):
            raise ValueError(f"{n_heads} heads do not divide {d_model} features")
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.n_heads, self.causal, self.p = n_heads, causal, dropout

    def one_head(self, q, k, v, seen):
        scores = torch.einsum("bqd,bkd->bqk", q, k) / math.sqrt(q.shape[-1])
        scores = scores + torch.zeros_like(scores).masked_fill(~seen, -math.inf)
        exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = drop(exponentials / exponentials.sum(-1, keepdim=True), self.p, self.training)
        return torch.einsum("bqk,bkd->bqd", weights, v)

    def forward(self, x, *, mask=None):
        n_batch, length, d_model = x.shape
        seen = torch.ones(n_batch, self.n_heads, length, length, dtype=torch.bool, device=x.device)
        if mask is not None:
            seen = seen & mask
        if self.causal:
            t = torch.arange(length, device=x.device)
            seen = seen & (t[:, None] >= t[None, :])
        queries, keys, values = (t.chunk(self.n_heads, -1) for t in self.qkv(x).chunk(3, -1))
        heads = [self.one_head(*qkv, seen[:, h]) for h, qkv in enumerate(zip(queries, keys, values))]
        return self.out(torch.cat(heads, dim=-1))


class TransformerBlock(nn.Module):
    def __init__(self, d_model, n_heads, *, d_ff=None, activation="gelu", causal=False, dropout=0.0):
        super().__init__()
        self.p = dropout
        self.attention = SelfAttention(d_model, n_heads, causal=causal, dropout=dropout)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=dropout)
        self.attention_norm = LayerNorm(d_model)
        self.feed_forward_norm = LayerNorm(d_model)

    def forward(self, x, *, mask=None):
        for norm, branch in (
            (self.attention_norm, lambda h: self.attention(h, mask=mask)),
            (self.feed_forward_norm, self.feed_forward),
        ):
            x = x + drop(branch(norm(x)), self.p, self.training)
        return x
