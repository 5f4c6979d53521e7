"""The attention of attention.py in tiles: the same result, and memory that grows with T, not with T².

The contract is that of attention.py, the further part included; dropout is left out. A float mask may be of any float
dtype, and gets its gradient. Tq and Tk, d and dv, and the leading axes are named as there. torch's own attention is not
called.

How it is read: `chunked_attention` checks and makes one leading axis of many. `_Tiles` cuts the matrix and computes the scores
of one tile. `_ChunkedAttention` goes over the tiles, forwards and backwards.

Sources: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv 1805.02867, algorithm 3; Dao et al.,
"FlashAttention", 2022, arXiv 2205.14135, algorithms 1 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in the tiles of one group of heads: 2 MB of float32. On an AMD EPYC, tiles of 4 MB (all eight heads) take up to
# 1.25 times as long, tiles of 0.5 MB about as long.
_BUFFER = 2**19

__all__ = ["chunked_attention"]


def chunked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    query_chunk: int = 256,
    key_chunk: int = 512,
) -> Tensor:
    """Compute `attention` exactly, in tiles of ``query_chunk × key_chunk`` scores: memory O(T), not O(T²).

    A softmax needs the largest score and the sum of exponentials of its whole row. Both can be kept up to date while the
    tiles of the row go by: with `m` the largest score so far, `z` the sum of ``exp(score - m)`` and `o` the sum of
    ``exp(score - m) value``, a tile with the scores `s` changes them to

        m' = max(m, max s),   z' = z·exp(m - m') + sum exp(s - m'),   o' = o·exp(m - m') + exp(s - m') value

    and the output is o / z at the end. The backward pass computes each tile again instead of storing it.

    query, key, value, mask, causal, scale : as for `attention`. Returns (..., Tq, dv).
    query_chunk, key_chunk : rows and columns of a tile; the last ones may be smaller. They change time and memory, not the
        result. Anything but a positive integer raises ValueError, with its name and what came.

    Memory: beside inputs, output and gradients, at no moment of either pass more than
    ``8·query_chunk·key_chunk + (Tq + Tk)·(d + dv + 4)`` numbers for each head (each element of the leading axes). From the
    forward to the backward pass the second term alone. For the half types, float32 copies of inputs, output and gradients
    come on top.

    Work: tiles that `causal` forbids entirely are skipped in both passes, so a NaN behind them stays unseen.
    The gradient is right or refused when it is differentiated again.
    """
    _check(query, key, value, mask)
    for name, chunk in (("query_chunk", query_chunk), ("key_chunk", key_chunk)):
        if not isinstance(chunk, int | Integral) or isinstance(chunk, bool) or chunk < 1:
            raise ValueError(f"{name} must be a positive integer, got {chunk!r}")
    leading = _leading(query, key, value)
    scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
    tiles = _Tiles(leading, query.shape[-2], key.shape[-2], query_chunk, key_chunk, causal, scale)
    batches = [  # one leading axis, as torch.bmm wants it; a copy only where something is broadcast
        _widen(x).expand(*leading, *x.shape[-2:]).reshape(math.prod(leading), *x.shape[-2:])
        for x in (query, key, value)
    ]
    if mask is not None:
        mask = mask.reshape((1,) * (len(leading) + 2 - mask.ndim) + mask.shape)
    output: Tensor = _ChunkedAttention.apply(*batches, mask, tiles)  # type: ignore[no-untyped-call]
    return output.view(*leading, query.shape[-2], value.shape[-1]).to(query.dtype)


@dataclass(frozen=True)
class _Tiles:
    """How the (Tq, Tk) matrix of scores is cut, and how one tile of it is computed."""

    leading: torch.Size  # the axes before (T, d), which are one axis in what follows
    n_queries: int
    n_keys: int
    query_chunk: int
    key_chunk: int
    causal: bool
    scale: float

    def rows(self) -> Iterator[slice]:
        """Cut the queries."""
        return _spans(self.n_queries, self.query_chunk)

    def columns(self, rows: slice) -> Iterator[slice]:
        """Cut the keys that any of these queries may see: no tile is all masked, the last ends at the diagonal."""
        last = rows.stop + self.n_keys - self.n_queries if self.causal else self.n_keys
        return _spans(last, self.key_chunk)

    def groups(self, mask: Tensor | None) -> Iterator[slice]:
        """Cut the heads, so that the tiles of a group stay in the cache; a mask is cut for all heads at once."""
        n_heads = math.prod(self.leading)
        return _spans(n_heads, n_heads if mask is not None else max(1, _BUFFER // max(1, self._tile())))

    def buffer(self, like: Tensor, mask: Tensor | None) -> Tensor:
        """Return room for a group's tiles: fresh memory for each would cost more than the arithmetic saves."""
        n_heads = max((group.stop - group.start for group in self.groups(mask)), default=0)
        return like.new_empty(n_heads * self._tile())

    def _tile(self) -> int:
        return min(self.query_chunk, self.n_queries) * min(self.key_chunk, self.n_keys)

    def scores(
        self, query: Tensor, key: Tensor, mask: Tensor | None, rows: slice, columns: slice, buffer: Tensor
    ) -> Tensor:
        """Return the scores of one tile, (heads, rows, columns) in `buffer`, of these rows, scaled, and these columns."""
        scores = _product(query, key.mT, buffer)
        if mask is not None:
            tile, view = _mask_tile(mask, rows, columns), scores.view(*self.leading, *scores.shape[1:])
            if tile.dtype == torch.bool:
                view.masked_fill_(~tile, -math.inf)
            else:
                view.add_(tile.to(view.dtype))
        diagonal = rows.start + self.n_keys - self.n_queries - columns.start
        if self.causal and scores.shape[2] - 1 > diagonal:  # the first row does not see the last column
            seen = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).tril(diagonal)
            scores.masked_fill_(~seen, -math.inf)
        return scores


class _ChunkedAttention(torch.autograd.Function):
    """`chunked_attention` for (N, T, d) tensors of one wide dtype."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, tiles: _Tiles
    ) -> Tensor:
        """Go along each row of tiles with the running maximum, sum and output."""
        exp_, unit = _exponential(mask)
        output = query.new_empty(*query.shape[:2], value.shape[2])
        # finfo.min instead of -inf: then a row that has seen no key yet computes -inf - min = -inf, never inf - inf.
        largest = query.new_full((*query.shape[:2], 1), torch.finfo(query.dtype).min)
        total = torch.zeros_like(largest)
        buffer = tiles.buffer(query, mask)
        for group, rows in product(tiles.groups(mask), tiles.rows()):
            scaled = query[group, rows] * (tiles.scale * unit)
            m, z, o = largest[group, rows], total[group, rows], torch.zeros_like(output[group, rows])
            for columns in tiles.columns(rows):
                scores = tiles.scores(scaled, key[group, columns], mask, rows, columns, buffer)
                new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
                weights = exp_(scores.sub_(new_m))
                shrink = exp_(m - new_m)
                z.mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
                o.mul_(shrink).baddbmm_(weights, value[group, columns])
                m.copy_(new_m)
            z.masked_fill_(z == 0, 1.0)  # nothing to attend to: 0 / 1, and weights of 0 in the backward pass
            torch.div(o, z, out=output[group, rows])
        # Not m + log(z) in one number: beside an m of 1e4, float32 would keep only three digits of log(z).
        ctx.save_for_backward(query, key, value, mask, output, largest, total)
        ctx.tiles = tiles
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Compute each tile of weights again; with weights p = exp(s - m) / z and p' their gradient, s' = p (p' - Σ p p').

        The 1/z of every p goes into the gradient of the output instead, once per query. Σ p p' over the keys is
        the product of the output and its gradient (Dao et al. 2022, appendix B.2, eq. 4).
        """
        query, key, value, mask, output, largest, total = ctx.saved_tensors
        tiles: _Tiles = ctx.tiles
        exp_, unit = _exponential(mask)
        grad_query, grad_key, grad_value = (torch.zeros_like(x) for x in (query, key, value))
        grad_mask = query.new_zeros(mask.shape) if ctx.needs_input_grad[3] else None
        buffers = tiles.buffer(query, mask), tiles.buffer(query, mask)
        for group, rows in product(tiles.groups(mask), tiles.rows()):
            scaled = query[group, rows] * (tiles.scale * unit)
            grad = grad_output[group, rows] / total[group, rows]
            mean = (grad * output[group, rows]).sum(dim=-1, keepdim=True)
            for columns in tiles.columns(rows):
                scores = tiles.scores(scaled, key[group, columns], mask, rows, columns, buffers[0])
                weights = exp_(scores.sub_(largest[group, rows]))
                grad_value[group, columns].baddbmm_(weights.mT, grad)
                grad_scores = _product(grad, value[group, columns].mT, buffers[1]).sub_(mean).mul_(weights)
                grad_query[group, rows].baddbmm_(grad_scores, key[group, columns], alpha=tiles.scale)
                grad_key[group, columns].baddbmm_(grad_scores.mT, query[group, rows], alpha=tiles.scale)
                if grad_mask is not None:
                    tile = _mask_tile(grad_mask, rows, columns)
                    tile += grad_scores.view(*tiles.leading, *grad_scores.shape[1:]).sum_to_size(tile.shape)
        return grad_query, grad_key, grad_value, None if grad_mask is None else grad_mask.to(mask.dtype), None


def _exponential(mask: Tensor | None) -> tuple[Any, float]:
    """Return an exponential that works in place, and the factor that goes into the scale with it.

    2^(s · log2 e) is e^s, and exp2 is the faster of the two (benchmark.py measures it). But a float mask may hold
    finfo.min, which the factor would turn into -inf.
    """
    additive = mask is not None and mask.dtype != torch.bool
    return (torch.exp_, 1.0) if additive else (torch.exp2_, math.log2(math.e))


def _spans(n: int, size: int) -> Iterator[slice]:
    """Cut range(n) into slices of `size`, the last one shorter."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _product(a: Tensor, b: Tensor, buffer: Tensor) -> Tensor:
    """Return a @ b, written into the front of `buffer`."""
    shape = (a.shape[0], a.shape[1], b.shape[2])
    return torch.bmm(a, b, out=buffer[: math.prod(shape)].view(shape))


def _mask_tile(mask: Tensor, rows: slice, columns: slice) -> Tensor:
    """Cut a tile out of a mask, along the axes that it does not leave to broadcasting."""
    everything = slice(None)
    return mask[
        ..., rows if mask.shape[-2] > 1 else everything, columns if mask.shape[-1] > 1 else everything
    ]


def _widen(x: Tensor) -> Tensor:
    """Return a half type as float32: its softmax would keep three digits, and its sums overflow at 65504."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Refuse what the docstrings of the public functions refuse."""
    dtypes = [x.dtype for x in (query, key, value)]
    if len(set(dtypes)) > 1 or dtypes[0] not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"query, key and value must be of one floating dtype, got {dtypes}")
    shapes = [tuple(x.shape) for x in (query, key, value)]
    problem = f"query (..., Tq, d), key (..., Tk, d) and value (..., Tk, dv) do not fit: {shapes}"
    if min(map(len, shapes)) < 2 or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(problem)
    try:
        leading = _leading(query, key, value)
    except RuntimeError:
        raise ValueError(problem) from None
    if mask is None:
        return
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"mask must be boolean (True: allowed) or float (added), got {mask.dtype}")
    full = (*leading, query.shape[-2], key.shape[-2])
    fits = all(size in (1, wanted) for size, wanted in zip(mask.shape[::-1], full[::-1], strict=False))
    if mask.ndim > len(full) or not fits:
        raise ValueError(f"mask must be broadcastable to {full}, got {tuple(mask.shape)}")


def _leading(*tensors: Tensor) -> torch.Size:
    """Return what the axes before the last two broadcast to (torch.broadcast_shapes imports for a second at first)."""
    return torch.broadcast_tensors(*(torch.empty(x.shape[:-2]) for x in tensors))[0].shape
