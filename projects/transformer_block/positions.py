"""Three more ways to say where a token is: a learned vector, a rotation of queries and keys, a penalty on distance."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor, nn

__all__ = ["LearnedEncoding", "rotary", "alibi_bias"]


class LearnedEncoding(nn.Module):
    """Add a learned vector for every position, as GPT-2 does: ``x + weight[:T]``.

    n_positions is the most there can be: what comes later was never trained.

    weight : (n_positions, d_model) Parameter, starting normal with standard deviation 0.02.
    """

    def __init__(self, n_positions: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_positions, d_model).normal_(std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Add the first T rows to x : (..., T, d_model).

        ValueError if T is more than n_positions (the message holds both), if there is no axis T, or if the last axis is
        not d_model (the message holds the shape of x).
        """
        n_positions, d_model = self.weight.shape
        if x.ndim < 2 or x.shape[-1] != d_model:
            raise ValueError(f"x must be (..., T, {d_model}), got {tuple(x.shape)}")
        if x.shape[-2] > n_positions:
            raise ValueError(f"only {n_positions} positions are learned, got {x.shape[-2]}")
        return x + self.weight[: x.shape[-2]]


def rotary(x: Tensor, positions: Tensor, *, base: float = 10000.0) -> Tensor:
    """Rotate queries or keys by angles in proportion to their position, and return them in the dtype of `x`.

        angle_i = position / base^(2i / d_head),   i = 0 … d_head/2 - 1
        (x_i, x_{i + d_head/2})  ->  (x_i cos - x_{i + d_head/2} sin,  x_{i + d_head/2} cos + x_i sin)

    Feature i is paired with feature i + d_head/2 ("half-split": Llama, GPT-NeoX), not with its neighbour ("interleaved": the
    paper, GPT-J). A product of two rotated vectors depends on the difference of their positions only. Angles are computed in
    float64: in float32 they are wrong by 1e-3 at position 10 000. float16 and bfloat16 are rotated in float32.

    x : (..., T, d_head); an odd d_head raises ValueError, which holds the shape of x; whole numbers raise TypeError.
    positions : (T,), or any shape that broadcasts to x.shape[:-1]; integers or floats. ValueError if it does not, or if its
        last axis is not T: the message holds T and the shape of positions.
    base : positive and finite, else ValueError.

    Source: Su et al., "RoFormer", arXiv 2104.09864, eq. 34.
    """
    if x.ndim < 2 or x.shape[-1] % 2:
        raise ValueError(f"x must be (..., T, d_head) with d_head even, got {tuple(x.shape)}")
    if positions.ndim == 0 or positions.shape[-1] != x.shape[-2]:
        raise ValueError(f"positions must end in T = {x.shape[-2]}, got {tuple(positions.shape)}")
    axes = zip(positions.shape[::-1], x.shape[-2::-1], strict=False)
    if positions.ndim >= x.ndim or any(n not in (1, wanted) for n, wanted in axes):
        raise ValueError(f"positions must broadcast to {tuple(x.shape[:-1])}, got {tuple(positions.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating, got {x.dtype}")
    if not 0 < base < math.inf:
        raise ValueError(f"base must be positive and finite, got {base}")
    d_head = x.shape[-1]
    frequencies = base ** (-torch.arange(0, d_head, 2, dtype=torch.float64, device=x.device) / d_head)
    angles = positions.to(x.device).double()[..., None] * frequencies
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    first, second = x.to(dtype).chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def alibi_bias(n_heads: int, n_positions: int) -> Tensor:
    """Return what ALiBi adds to the scores, (n_heads, n_positions, n_positions) float32: the further, the less.

        bias[h, i, j] = -slope_h · |i - j|
        slope_h = 2^(-8 (h + 1) / n_heads),   h = 0 … n_heads - 1,   for a power of two

    For other numbers of heads, with p the largest power of two below: the slopes of p heads, followed by every second slope
    of 2p heads (the first, the third, …). Pass it as `mask` to a block of gpt2_and_llama.py, usually a causal one.
    ValueError unless n_heads is an integer of at least 1, n_positions one of at least 0.

    Source: Press, Smith and Lewis, arXiv 2108.12409, section 3, and its code for other numbers of heads.
    """
    for name, n, least in (("n_heads", n_heads, 1), ("n_positions", n_positions, 0)):
        if not isinstance(n, int | Integral) or isinstance(n, bool) or n < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {n!r}")
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(n_heads - power)]
    position = torch.arange(n_positions)
    distance = (position[:, None] - position).abs()
    return -torch.tensor(slopes)[:, None, None] * distance
