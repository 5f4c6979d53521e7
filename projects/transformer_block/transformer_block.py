"""The transformer block in PyTorch, with its norms, its feed-forward network and four ways to say where a token is.

    pre-norm:   x = x + attention(norm(x));   x = x + feed_forward(norm(x))
    post-norm:  x = norm(x + attention(x));   x = norm(x + feed_forward(x))

Reading order: `LayerNorm`, `RMSNorm` and `FeedForward` are the parts, `rotary` and its neighbours the positions,
`TransformerBlock` puts them together, `Transformer` stacks blocks.

Everything accepts float16, bfloat16, float32 and float64, and gives back the dtype it got. NaN and inf propagate.
Nine parts stand here, most of them shorter than their docstrings, which is why this module is longer than others.

Sources: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762 (2017); Xiong et al., "On Layer Normalization in
the Transformer Architecture", arXiv 2002.04745 (2020), figure 1 (pre-norm and post-norm).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "LayerNorm",
    "RMSNorm",
    "FeedForward",
    "sinusoidal_encoding",
    "LearnedEncoding",
    "rotary",
    "alibi_bias",
    "TransformerBlock",
    "Transformer",
]


class LayerNorm(nn.Module):
    """Give every token's vector mean 0 and variance 1, then scale and shift each feature.

        y = (x - mean(x)) / sqrt(variance(x) + eps) · weight + bias

    Mean and variance are taken over the last axis of each token alone; the variance divides by d_model.

    Parameters
    ----------
    d_model : int
        Size of the last axis.
    eps : float
        Added to the variance, inside the root.
    bias : bool
        False leaves the bias out: the parameter `bias` is None.

    Attributes
    ----------
    weight, bias : (d_model,) Parameter
        Start at one and at zero.

    Notes
    -----
    ``forward(x)`` takes (..., d_model) and returns the same shape and dtype; float16 and bfloat16 are computed in
    float32 and rounded once. ValueError for another last axis: the message holds both sizes.

    Source: Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450 (2016), eq. 3 and 4.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every token of ``x``, (..., d_model)."""
        wide = _widened(x, self.weight)
        centred = wide - wide.mean(dim=-1, keepdim=True)
        return _scaled(centred, self.weight, self.bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Give every token's vector the root mean square 1, then scale each feature.

        y = x / sqrt(mean(x²) + eps) · weight

    Layer norm without the mean and without the bias: one reduction less, and as good in practice.

    Parameters
    ----------
    d_model : int
        Size of the last axis.
    eps : float
        Added to the mean square, inside the root.

    Attributes
    ----------
    weight : (d_model,) Parameter
        Starts at one.

    Notes
    -----
    ``forward(x)`` behaves as that of `LayerNorm`.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467 (2019), eq. 4.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every token of ``x``, (..., d_model)."""
        return _scaled(_widened(x, self.weight), self.weight, None, self.eps).to(x.dtype)


def _widened(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x` in float32 or wider, or raise for a last axis that is not the weight's."""
    if x.ndim == 0 or x.shape[-1] != len(weight):
        raise ValueError(f"x must be (..., {len(weight)}), got {tuple(x.shape)}")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scaled(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Return x / sqrt(mean(x²) + eps) · weight + bias."""
    y = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight
    return y if bias is None else y + bias


class FeedForward(nn.Module):
    """Two linear layers with a non-linearity between them, applied to every token alone.

        relu, gelu, gelu_tanh:  y = down(activation(up(x)))
        swiglu:                 y = down(silu(gate(x)) · up(x))

    Parameters
    ----------
    d_model : int
        Size of input and output.
    d_ff : int, optional
        Size between the two layers. Default 4·d_model; for "swiglu" 8·d_model // 3, so that its three matrices have as
        many parameters as the two of the others.
    activation : {"gelu", "gelu_tanh", "relu", "swiglu"}
        "gelu" is x·Φ(x), exact; "gelu_tanh" its approximation by tanh that GPT-2 uses.
    dropout : float
        In training, the probability to zero an entry before `down`.
    bias : bool
        Whether the linear layers have one.

    Attributes
    ----------
    up, down, gate : nn.Linear
        d_model to d_ff, back, and d_model to d_ff; `gate` is None unless the activation is "swiglu".

    Notes
    -----
    ``forward(x)`` takes (..., d_model) and returns the same shape and dtype. ValueError for an unknown activation.

    Source: Vaswani et al. 2017, eq. 2; Hendrycks and Gimpel, arXiv 1606.08415 (2016) (gelu);
    Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202 (2020), eq. 6 (swiglu).
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _check_choice("activation", activation, "gelu", "gelu_tanh", "relu", "swiglu")
        gated = activation == "swiglu"
        if d_ff is None:
            d_ff = 8 * d_model // 3 if gated else 4 * d_model
        self.activation = activation
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.gate = nn.Linear(d_model, d_ff, bias=bias) if gated else None
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token of ``x``, (..., d_model)."""
        h = self.up(x)
        if self.gate is not None:
            h = F.silu(self.gate(x)) * h
        elif self.activation == "relu":
            h = F.relu(h)
        else:
            h = F.gelu(h, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.down(self.dropout(h))


def sinusoidal_encoding(n_positions: int, d_model: int) -> Tensor:
    """Return the sines and cosines that are added to the embeddings to tell positions apart.

        PE[t, 2i] = sin(t / 10000^(2i / d_model)),   PE[t, 2i+1] = cos(t / 10000^(2i / d_model))

    Returns
    -------
    (n_positions, d_model) float32 Tensor
        Computed in float64 and rounded once.

    Raises
    ------
    ValueError
        If d_model is odd: every frequency needs a sine and a cosine.

    Source: Vaswani et al. 2017, section 3.5.
    """
    if d_model % 2:
        raise ValueError(f"d_model must be even, got {d_model}")
    angles = _angles(torch.arange(n_positions), d_model, 10000.0)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()


class LearnedEncoding(nn.Module):
    """Add a learned vector for every position, as GPT-2 does.

    Parameters
    ----------
    n_positions : int
        The most positions that there can be: what comes later was never trained.
    d_model : int
        Size of a vector.

    Attributes
    ----------
    weight : (n_positions, d_model) Parameter
        Starts normal with standard deviation 0.02.

    Notes
    -----
    ``forward(x)`` takes (..., T, d_model) and returns x + weight[:T]. ValueError if T is more than n_positions (the
    message holds both), if there is no axis T, or if the last axis is not d_model (the message holds the shape).
    """

    def __init__(self, n_positions: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_positions, d_model).normal_(std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Add the first T rows to ``x``, (..., T, d_model)."""
        n_positions, d_model = self.weight.shape
        if x.ndim < 2 or x.shape[-1] != d_model:
            raise ValueError(f"x must be (..., T, {d_model}), got {tuple(x.shape)}")
        if x.shape[-2] > n_positions:
            raise ValueError(f"only {n_positions} positions are learned, got {x.shape[-2]}")
        return x + self.weight[: x.shape[-2]]


def rotary(x: Tensor, positions: Tensor, *, base: float = 10000.0) -> Tensor:
    """Rotate queries or keys by angles in proportion to their position.

        angle_i = position / base^(2i / d_head),   i = 0 … d_head/2 - 1
        (x_i, x_{i + d_head/2})  ->  (x_i cos - x_{i + d_head/2} sin,  x_{i + d_head/2} cos + x_i sin)

    Feature i is paired with feature i + d_head/2 ("half-split": Llama, GPT-NeoX), not with its neighbour
    ("interleaved": the paper, GPT-J). A dot product of two rotated vectors depends on the difference of their
    positions only.

    Parameters
    ----------
    x : (..., T, d_head) Tensor
        d_head even.
    positions : (T,) Tensor, or any shape that broadcasts to x.shape[:-1]
        Integers or floats.
    base : float
        The slowest pair turns by about 1/base per position.

    Returns
    -------
    (..., T, d_head) Tensor
        In the dtype of `x`. Angles are computed in float64: in float32 they are wrong by 1e-3 at position 10 000.
        float16 and bfloat16 are rotated in float32.

    Raises
    ------
    ValueError
        If d_head is odd (the message holds the shape of `x`) or the last axis of `positions` is not T (the message
        holds T and the shape of `positions`).

    Source: Su et al., "RoFormer", arXiv 2104.09864 (2021), eq. 34.
    """
    if x.ndim < 2 or x.shape[-1] % 2:
        raise ValueError(f"x must be (..., T, d_head) with d_head even, got {tuple(x.shape)}")
    if positions.ndim == 0 or positions.shape[-1] != x.shape[-2]:
        raise ValueError(f"positions must end in T = {x.shape[-2]}, got {tuple(positions.shape)}")
    angles = _angles(positions.to(x.device), x.shape[-1], base)
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    first, second = x.to(dtype).chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def _angles(positions: Tensor, d: int, base: float) -> Tensor:
    """Return position / base^(2i/d) for i in 0 … d/2 - 1, (..., d/2) float64."""
    exponents = torch.arange(0, d, 2, dtype=torch.float64, device=positions.device) / d
    return positions.double()[..., None] * base**-exponents


def alibi_bias(n_heads: int, n_positions: int) -> Tensor:
    """Return what ALiBi adds to the attention scores: a penalty in proportion to the distance, steeper in early heads.

        bias[h, i, j] = -slope_h · |i - j|
        slope_h = 2^(-8 (h + 1) / n_heads),   h = 0 … n_heads - 1,   for a power of two

    For other numbers of heads, with p the largest power of two below: the slopes of p heads, followed by every second
    slope of 2p heads (the first, the third, …).

    Returns
    -------
    (n_heads, n_positions, n_positions) float32 Tensor
        To be passed as `mask` to a block, usually a causal one.

    Source: Press, Smith and Lewis, "Train Short, Test Long", arXiv 2108.12409 (2021), section 3, and its code for other
    numbers of heads.
    """
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(n_heads - power)]
    position = torch.arange(n_positions)
    distance = (position[:, None] - position).abs()
    return -torch.tensor(slopes)[:, None, None] * distance


class TransformerBlock(nn.Module):
    """Attention, which moves information between tokens, then a feed-forward network, which works on each alone.

    Each is a branch whose output is added to its input (the residual connection), with a norm at the start of the
    branch (pre-norm) or after the addition (post-norm).

    Parameters
    ----------
    d_model, n_heads : int
        Each head attends in d_model / n_heads dimensions, with scores divided by the root of that.
    d_ff, activation, bias
        As in `FeedForward`; `bias` also decides about `qkv`, `out` and the layer norms.
    norm : {"layer", "rms"}
        `LayerNorm` or `RMSNorm`, with their default eps.
    norm_position : {"pre", "post"}
        See the formulas of this module.
    position : {None, "rotary"}
        "rotary" rotates queries and keys, not values, by the positions 0 … T - 1.
    dropout : float
        In training, the probability to zero an entry of the attention weights, of the feed-forward network's hidden
        layer, and of the output of each branch before it is added.
    causal : bool
        Whether token t sees the tokens 0 … t only.

    Attributes
    ----------
    attention_norm, feed_forward_norm : LayerNorm or RMSNorm
        The norms of the first and the second branch.
    qkv : nn.Linear
        d_model to 3·d_model: the queries of all heads, their keys, their values.
    out : nn.Linear
        d_model to d_model: mixes the heads.
    feed_forward : FeedForward
        The second branch.

    Raises
    ------
    ValueError
        If n_heads is less than 1 or does not divide d_model, or a head is odd with "rotary" (the message holds d_model
        and n_heads); if an option is none of the above (the message holds it).

    Source: Vaswani et al. 2017, section 3 and figure 1 (post-norm); Radford et al., "Language Models are Unsupervised
    Multitask Learners" (GPT-2, 2019), section 2.3 (pre-norm).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        d_ff: int | None = None,
        norm: str = "layer",
        norm_position: str = "pre",
        activation: str = "gelu",
        position: str | None = None,
        dropout: float = 0.0,
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        if position == "rotary" and d_model // n_heads % 2:
            raise ValueError(f"rotary needs an even head size, got {d_model} / {n_heads}")
        _check_choice("norm_position", norm_position, "pre", "post")
        _check_choice("position", position, None, "rotary")
        self.n_heads, self.causal = n_heads, causal
        self.norm_position, self.position = norm_position, position
        self.attention_norm = _norm(norm, d_model, bias)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        self.feed_forward_norm = _norm(norm, d_model, bias)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=dropout, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Transform a batch of sequences.

        Parameters
        ----------
        x : (B, T, d_model) Tensor
            Empty is fine. It is not modified.
        mask : Tensor that broadcasts to (B, n_heads, T, T), optional
            Boolean: True where query (third axis) may attend to key (last axis). Floating: added to the scores. For
            padding, ``mask=is_token[:, None, None, :]`` with is_token (B, T). `causal` applies as well. A query that
            may attend to nothing gets zeros from attention.

        Returns
        -------
        (B, T, d_model) Tensor
            In the dtype of `x`.

        Raises
        ------
        ValueError
            If `x` is not (B, T, d_model) or `mask` does not broadcast; the message holds the shape.
        TypeError
            If `mask` is neither boolean nor floating.
        """
        if x.ndim != 3 or x.shape[-1] != self.out.in_features:
            raise ValueError(f"x must be (B, T, {self.out.in_features}), got {tuple(x.shape)}")
        if self.norm_position == "pre":
            x = x + self._attention(self.attention_norm(x), mask)
            return x + self._feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(x + self._attention(x, mask))
        return self.feed_forward_norm(x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed_forward(x))

    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Let the tokens exchange: queries, keys and values of all heads, attention, and a mix of the heads."""
        (B, T, D), h = x.shape, self.n_heads
        heads = self.qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 3, 1, 4)
        query, key, value = heads  # each (B, h, T, d_head)
        if self.position == "rotary":
            query, key = rotary(heads[:2], torch.arange(T, device=x.device))
        bias, hopeless = _attention_bias(mask, self.causal, query)
        attended = self._attend_in_groups(query, key, value, bias)
        if hopeless is not None:
            attended = attended.masked_fill(hopeless, 0)
        return self.dropout(self.out(attended.transpose(1, 2).reshape(B, T, D)))

    def _attend_in_groups(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Attend in a few of the B·h attention matrices at a time: the same numbers, but they stay in the cache."""
        B, h, T, _ = query.shape
        n_matrices = max(1, _GROUP_SCORES // max(T * T, 1)) if query.device.type == "cpu" else B * h
        inputs = (query, key, value) if bias is None else (query, key, value, bias.expand(B, h, T, T))
        groups = [torch.split(tensor, max(1, n_matrices // h), dim=0) for tensor in inputs]
        batches = []
        for group in zip(*groups, strict=True):
            heads = zip(*(torch.split(tensor, min(h, n_matrices), dim=1) for tensor in group), strict=True)
            batches.append(torch.cat([self._attend(*tensors) for tensors in heads], dim=1))
        return torch.cat(batches)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return softmax(query keyᵀ / sqrt(d_head) + bias) value.

        These lines are those of the project `attention`, again: a folder here stands alone.
        """
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        if bias is not None:
            scores += bias
        weights: Tensor = self.dropout(torch.softmax(scores, dim=-1))
        return weights @ value


# Attention scores computed at a time on a CPU: 2 MB of float32. benchmark.py measures what that is worth.
_GROUP_SCORES = 1 << 19


def _attention_bias(mask: Tensor | None, causal: bool, query: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return what to add to the scores, and which queries have nothing to attend to; None where there is no need.

    Those queries get a bias of 0 instead of minus infinity, which would make their weights and gradients NaN.
    """
    B, h, T, _ = query.shape
    bias = query.new_full((T, T), -torch.inf).triu(1) if causal else None
    if mask is None:
        return bias, None
    try:
        mask.expand(B, h, T, T)
    except RuntimeError as error:
        raise ValueError(f"mask must broadcast to {(B, h, T, T)}, got {tuple(mask.shape)}") from error
    if mask.dtype == torch.bool:
        mask = query.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
    elif not mask.is_floating_point():
        raise TypeError(f"mask must be boolean or floating, got {mask.dtype}")
    bias = mask.to(query.dtype) if bias is None else bias + mask.to(query.dtype)
    hopeless = (bias == -torch.inf).all(dim=-1, keepdim=True)
    return bias.masked_fill(hopeless, 0), hopeless


class Transformer(nn.Module):
    """A stack of blocks, each with parameters of its own; with pre-norm, one more norm at the end.

    Without it a pre-norm stack would hand out a sum that no norm has seen.

    Parameters
    ----------
    n_layers : int
        How many blocks.
    d_model, n_heads, d_ff, norm, norm_position, activation, position, dropout, causal, bias
        As in `TransformerBlock`.

    Attributes
    ----------
    blocks : nn.ModuleList of TransformerBlock
        First block first.
    final_norm : LayerNorm or RMSNorm, or None
        None with post-norm, where every block ends in a norm.
    """

    def __init__(
        self,
        n_layers: int,
        d_model: int,
        n_heads: int,
        *,
        norm: str = "layer",
        norm_position: str = "pre",
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(d_model, n_heads, norm=norm, norm_position=norm_position, bias=bias, **options)
            for _ in range(n_layers)
        )
        self.final_norm = _norm(norm, d_model, bias) if norm_position == "pre" else None

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Send ``x``, (B, T, d_model), through all blocks, each with the same `mask`."""
        for block in self.blocks:
            x = block(x, mask=mask)
        return x if self.final_norm is None else self.final_norm(x)


def _norm(norm: str, d_model: int, bias: bool) -> LayerNorm | RMSNorm:
    _check_choice("norm", norm, "layer", "rms")
    return LayerNorm(d_model, bias=bias) if norm == "layer" else RMSNorm(d_model)


def _check_choice(name: str, value: str | None, *choices: str | None) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
