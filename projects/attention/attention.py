"""Scaled dot-product attention of one head: who looks at whom, and the weighted mean of what they find.

    weights = softmax(query keyᵀ / sqrt(d) + mask),   output = weights value

Shapes: query (..., Tq, d), key (..., Tk, d), value (..., Tk, dv). Leading axes (batch, heads) broadcast as in torch.matmul.

The contract: all tensors, a float mask too, are of one dtype, float32 or float64, and the result has it. Every query may
attend to at least one key; a key that it may not attend to gets the weight 0, whatever the score. Inputs are not modified;
gradients reach all of them. Scores of ±1e4 do not overflow. Beside the standard library only torch is imported, and its own
attention is not called.

Further, judged by tests/further: a query that may attend to nothing gets zeros, with finite gradients. float16 and
bfloat16 are computed in float32 and rounded once, at the end (torch.autocast makes half types of the products again); the
mask may be of any float dtype. A NaN in a query spoils its row and no other; NaN and inf in a value reach every query. Axes
may be empty. What does not fit raises ValueError (shapes, widths, probabilities) or TypeError (dtypes), with what came in
the message.

chunked_attention.py computes the same in memory that grows with T, not T².

Source: Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762, section 3.2.1.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor, nn

__all__ = ["attention_weights", "attention", "SingleHeadAttention"]


def attention_weights(
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Say how much each query attends to each key, (..., Tq, Tk): ``softmax(scale · query keyᵀ + mask)`` over the keys.

    mask : broadcasts to (..., Tq, Tk). Boolean: True where attention is allowed. Float: added to the scaled scores, so -inf
        forbids. A mask of integers raises TypeError: 0 and 1 could mean either.
    causal : query i sees key j only if ``j <= i + Tk - Tq``, so the last query sees every key. Beside a mask, both must allow.
    scale : the default is ``1 / sqrt(d)``.
    """
    _check(query, key, key, mask)
    return _wide_weights(query, key, mask, causal, scale).to(query.dtype)


def _wide_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Return `attention_weights` before they are rounded to a half type."""
    scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
    scores = (_widen(query) * scale) @ _widen(key).mT
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask.to(scores.dtype)
    n_queries, n_keys = scores.shape[-2:]
    if causal:
        seen = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device).tril(n_keys - n_queries)
        scores = scores.masked_fill(~seen, -math.inf)
    if mask is None and n_queries <= n_keys:  # every query sees a key
        return torch.softmax(scores, dim=-1)
    # The softmax of a row of -inf is 0/0. Replacing the NaN afterwards would not do: its gradient is NaN as well.
    nothing = scores.isneginf().all(dim=-1, keepdim=True)
    return torch.softmax(scores.masked_fill(nothing, 0), dim=-1).masked_fill(nothing, 0)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Give each query the mean of the values, (..., Tq, dv), weighted by `attention_weights`: ``weights value``.

    mask, causal, scale : as for `attention_weights`.
    dropout_p : each weight is set to 0 with this probability, independently, and the others are divided by ``1 - dropout_p``.
        The rows are not normalised again. With 0, nothing is drawn. Outside [0, 1) raises ValueError.
    generator : where dropout draws from; the default is torch's global one.

    Source of the dropout: Srivastava et al., JMLR 2014.
    """
    _check(query, key, value, mask)
    _check_probability(dropout_p)
    weights = _wide_weights(query, key, mask, causal, scale)
    if dropout_p > 0:
        chance = torch.rand(weights.shape, generator=generator, dtype=weights.dtype, device=weights.device)
        weights = weights * (chance >= dropout_p) / (1 - dropout_p)
    return (weights @ _widen(value)).to(query.dtype)


class SingleHeadAttention(nn.Module):
    """One attention head: three learned projections make query, key and value, then `attention`.

    query, key, value : the projections, nn.Linear from `d_model` to `d_head`, with a bias if `bias`.
    d_head : the default is `d_model`.
    causal : as for `attention_weights`.
    dropout : `dropout_p` of `attention` in training mode, drawn from torch's global generator; none in evaluation mode.
    """

    def __init__(
        self,
        d_model: int,
        d_head: int | None = None,
        *,
        bias: bool = False,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_head = d_model if d_head is None else d_head
        for width in (d_model, d_head):
            if not isinstance(width, int | Integral) or isinstance(width, bool) or width < 1:
                raise ValueError(f"d_model and d_head must be positive integers, got {d_model!r}, {d_head!r}")
        _check_probability(dropout)
        self.query = nn.Linear(d_model, d_head, bias=bias)
        self.key = nn.Linear(d_model, d_head, bias=bias)
        self.value = nn.Linear(d_model, d_head, bias=bias)
        self.causal = causal
        self.dropout = dropout

    def forward(self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Let each position of `x` attend to `context`, or to `x` itself (self-attention).

        x : (..., Tq, d_model), gives the queries.
        context : (..., Tk, d_model), gives keys and values (cross-attention); the default is `x`.
        mask : as for `attention_weights`.

        Returns (..., Tq, d_head).
        """
        context = x if context is None else context
        d_model, shapes = self.query.in_features, [tuple(x.shape), tuple(context.shape)]
        if any(shape[-1:] != (d_model,) for shape in shapes):
            raise ValueError(f"x and context must be (..., T, {d_model}), got {shapes[0]} and {shapes[1]}")
        query, key, value = self.query(x), self.key(context), self.value(context)
        dropout_p = self.dropout if self.training else 0.0
        return attention(query, key, value, mask=mask, causal=self.causal, dropout_p=dropout_p)


def _widen(x: Tensor) -> Tensor:
    """Return a half type as float32: its softmax would keep three digits, and its sums overflow at 65504."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Refuse what does not fit together."""
    dtypes = [x.dtype for x in (query, key, value)]
    if len(set(dtypes)) > 1 or dtypes[0] not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"query, key and value must be of one floating dtype, got {dtypes}")
    shapes = [tuple(x.shape) for x in (query, key, value)]
    problem = f"query (..., Tq, d), key (..., Tk, d) and value (..., Tk, dv) do not fit: {shapes}"
    if min(map(len, shapes)) < 2 or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(problem)
    try:  # torch.broadcast_shapes would do, but its first call imports for a second
        leading = torch.broadcast_tensors(*(torch.empty(shape[:-2]) for shape in shapes))[0].shape
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


def _check_probability(dropout: float) -> None:
    if not isinstance(dropout, Real) or not 0 <= dropout < 1:
        raise ValueError(f"the probability of dropout must be in [0, 1), got {dropout!r}")
