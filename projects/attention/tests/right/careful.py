"""One additive bias for all masks, a softmax written out, and every argument checked before it is used."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _check(query: Tensor, key: Tensor, mask: Tensor | None) -> None:
    for name, tensor in (("query", query), ("key", key)):
        if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
            raise TypeError(
                f"{name} must be a floating point tensor, got {getattr(tensor, 'dtype', type(tensor))}"
            )
        if tensor.ndim < 2:
            raise ValueError(f"{name} must have at least two axes, got shape {tuple(tensor.shape)}")
    if query.dtype != key.dtype:
        raise TypeError(f"query is {query.dtype}, key is {key.dtype}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key differ in width: {query.shape[-1]} and {key.shape[-1]}")
    if mask is not None and not (mask.dtype == torch.bool or mask.dtype.is_floating_point):
        raise TypeError(f"mask must be boolean or floating point, got {mask.dtype}")


def _bias(n_queries: int, n_keys: int, mask: Tensor | None, causal: bool, like: Tensor) -> Tensor:
    """What is added to the scores: 0 where nothing is said, -inf where a key is forbidden."""
    bias = like.new_zeros(n_queries, n_keys)
    if causal:
        query_position = torch.arange(n_keys - n_queries, n_keys, device=like.device)
        key_position = torch.arange(n_keys, device=like.device)
        bias[key_position[None, :] > query_position[:, None]] = float("-inf")
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.full_like(bias, float("-inf")))
    return bias + mask


def attention_weights(
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    _check(query, key, mask)
    factor = query.shape[-1] ** -0.5 if scale is None else float(scale)
    scores = (query * factor) @ key.mT
    scores = scores + _bias(query.shape[-2], key.shape[-2], mask, causal, scores)
    # A row without any key would be -inf - -inf; subtract 0 there.
    peak = scores.detach().amax(dim=-1, keepdim=True)
    peak = torch.where(peak == float("-inf"), torch.zeros_like(peak), peak)
    exponentials = (scores - peak).exp()
    total = exponentials.sum(dim=-1, keepdim=True)
    return exponentials / torch.where(total == 0, torch.ones_like(total), total)


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
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p}")
    if value.dtype != query.dtype:
        raise TypeError(f"query is {query.dtype}, value is {value.dtype}")
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(f"{key.shape[-2]} keys but {value.shape[-2]} values")
    weights = attention_weights(query, key, mask=mask, causal=causal, scale=scale)
    if dropout_p:
        keep_p = 1.0 - dropout_p
        kept = torch.empty_like(weights).bernoulli_(keep_p, generator=generator)
        weights = weights * (kept / keep_p)
    return torch.matmul(weights, value)


class SingleHeadAttention(nn.Module):
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
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if d_head is None:
            d_head = d_model
        self.query, self.key, self.value = (nn.Linear(d_model, d_head, bias=bias) for _ in range(3))
        self._options = {"causal": causal}
        self._dropout = dropout

    def forward(self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        if context is None:
            context = x
        options = dict(self._options)
        if self.training:
            options["dropout_p"] = self._dropout
        return attention(self.query(x), self.key(context), self.value(context), mask=mask, **options)
