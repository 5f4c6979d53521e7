"""The transformer block in PyTorch, pre-norm: attention moves information between tokens, then a network works on each.

    x = x + attention(norm(x))
    x = x + feed_forward(norm(x))

The contract: x and the parameters are float32 or float64, all of one dtype, and the result has that dtype and the shape
of x (float16 and bfloat16, further: norm and attention are computed in float32). x is not modified. Layers and parameters
have the names and shapes that the docstrings say, so that weights can be copied in. ``dropout`` is the probability to
zero an entry in training; what is kept is divided by 1 - p; in evaluation nothing happens. nn.Linear, nn.Dropout, softmax
and torch's activations are there to be used; its norms and its attention are not.

norms.py, positions.py, swiglu.py, attention_in_groups.py and gpt2_and_llama.py go further.

Source: Vaswani et al., arXiv 1706.03762, section 3; pre-norm: Xiong et al., arXiv 2002.04745, figure 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LayerNorm", "FeedForward", "sinusoidal_encoding", "SelfAttention", "TransformerBlock"]


class LayerNorm(nn.Module):
    """Give each token mean 0 and variance 1: ``(x - mean) / sqrt(variance + eps) · weight + bias``.

    Mean and variance are those of the last axis, for each token alone; the variance divides by d_model.

    weight, bias : (d_model,) Parameter, starting at one and at zero.

    Source: Ba, Kiros and Hinton, arXiv 1607.06450, eq. 3 and 4.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x : (..., d_model); another last axis raises ValueError.

        A large mean costs no more digits than x has lost already: float32 features near 10 000 keep their spread. Further:
        equal features give exactly 0 before weight and bias; integers are normalised as float32.
        """
        if x.shape[-1:] != self.weight.shape:  # a last axis of 1 would be broadcast
            raise ValueError(f"x must be (..., {len(self.weight)}), got {tuple(x.shape)}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # the square of 300 overflows float16
        shifted = wide - wide[..., :1].detach()  # equal features are 0 now; their mean may be rounded
        centred = shifted - shifted.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)  # mean(x²) - mean(x)² would cancel
        return (centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(self.weight.dtype)


class FeedForward(nn.Module):
    """Two linear layers, applied to each token alone: ``down(dropout(activation(up(x))))``.

    activation : "gelu", which is x·Φ(x), exact, or "relu"; anything else raises ValueError.
    up, down : nn.Linear, d_model to d_ff and back, with biases; d_ff is 4·d_model by default.

    Source: Vaswani et al., eq. 2; gelu: Hendrycks and Gimpel, arXiv 1606.08415.
    """

    def __init__(
        self, d_model: int, d_ff: int | None = None, *, activation: str = "gelu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if activation not in ("gelu", "relu"):
            raise ValueError(f"activation must be 'gelu' or 'relu', got {activation!r}")
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.activation = F.gelu if activation == "gelu" else F.relu
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x : (..., d_model)."""
        return self.down(self.dropout(self.activation(self.up(x))))


def sinusoidal_encoding(n_positions: int, d_model: int) -> Tensor:
    """Return what is added to the embeddings to tell positions apart, (n_positions, d_model) float32.

        PE[t, 2i] = sin(t / 10000^(2i / d_model)),   PE[t, 2i+1] = cos(t / 10000^(2i / d_model)),   t = 0, 1, …

    Angles are float64: in float32 they are wrong by 1e-3 at t = 10 000. An odd d_model raises ValueError.

    Source: Vaswani et al., section 3.5.
    """
    if d_model % 2:
        raise ValueError(f"d_model must be even, got {d_model}")
    frequencies = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angles = torch.arange(n_positions)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()


class SelfAttention(nn.Module):
    """Give each token a weighted mean of the values of the tokens it sees: ``out(softmax(q kᵀ / sqrt(d_head)) v)``.

    Each head does so in d_head = d_model / n_heads features of its own; `out` mixes the heads. ValueError if n_heads does
    not divide d_model. With `causal`, token t sees the tokens 0 … t only. `dropout` drops attention weights.

    qkv : nn.Linear, d_model to 3·d_model: all queries, all keys, all values; in each the features of head 0 come first.
    out : nn.Linear, d_model to d_model. Both have biases.

    Source: Vaswani et al., section 3.2.
    """

    def __init__(self, d_model: int, n_heads: int, *, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        self.n_heads, self.causal = n_heads, causal
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Attend within each sequence of x : (B, T, d_model).

        mask : bool, broadcasts to (B, n_heads, T, T); True where the query (third axis) may see the key (last axis).
        For padding, ``mask=is_token[:, None, None, :]`` with is_token (B, T). `causal` applies as well. Between them they
        leave each query a key to see. Scores may be as large as ±1e5. Further: a mask of another shape raises ValueError,
        one of another dtype TypeError.
        """
        B, T, d_model = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, d_model // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, n_heads, T, d_head)
        wide = torch.promote_types(query.dtype, torch.float32)  # a score may exceed the 65504 of float16
        scores = query.to(wide) @ key.to(wide).mT / math.sqrt(query.shape[-1])
        if self.causal:
            future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        if mask is not None:
            _check_mask(mask, tuple(scores.shape))
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = self.dropout(scores.softmax(dim=-1))
        attended = (weights @ value.to(wide)).to(value.dtype)
        return self.out(attended.transpose(1, 2).reshape(B, T, d_model))


class TransformerBlock(nn.Module):
    """The two branches of the module's formulas, each added to its own input (the residual connection).

    d_ff and activation are those of `FeedForward`, causal is that of `SelfAttention`. `dropout` goes to both, and drops
    entries of each branch's output too, before it is added.

    attention_norm, feed_forward_norm : LayerNorm
    attention : SelfAttention
    feed_forward : FeedForward

    Source: Vaswani et al., figure 1; pre-norm: Radford et al., GPT-2 (2019), section 2.3.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        d_ff: int | None = None,
        activation: str = "gelu",
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(d_model)
        self.attention = SelfAttention(d_model, n_heads, causal=causal, dropout=dropout)
        self.feed_forward_norm = LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Transform x : (B, T, d_model), with the `mask` of `SelfAttention`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def _check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what is no mask of scores of this shape, also one that would enlarge them."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool (True: may be seen), got {mask.dtype}")
    axes = zip(mask.shape[::-1], shape[::-1], strict=False)
    if mask.ndim > len(shape) or any(n not in (1, wanted) for n, wanted in axes):
        raise ValueError(f"mask must broadcast to (B, n_heads, T, T) = {shape}, got {tuple(mask.shape)}")
