"""Multi-head attention as it is deployed: key heads that query heads share, a key/value cache, and torch's fused kernel.

The same numbers as multi_head_attention.py, and beside `n_kv_heads`, `cache`, `fused` and `from_torch`: a query that may attend
to nothing gets zeros, not NaN; B, Tq and Tk may be 0; each refusal names what came.

Sources: Shazeer 2019, arXiv 1911.02150 (multi-query); Ainslie et al. 2023, "GQA", arXiv 2305.13245 (grouped-query).
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from key_value_cache import KeyValueCache

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(nn.Module):
    """`n_heads` attentions side by side, each on its own d_head = d_model/n_heads numbers, then one output projection.

    Parameters
    ----------
    d_model : int
        Width of every input and of the output.
    n_heads : int
        Number of query heads; it divides `d_model`.
    n_kv_heads : int, optional
        Number of key and value heads; it divides `n_heads`. Query heads 0, 1, ..., n_heads/n_kv_heads - 1 share key
        head 0, and so on. The default is `n_heads`; fewer is grouped-query attention, 1 is multi-query attention.
    bias : bool
        Whether all four projections have a bias.
    dropout : float
        Probability, 0 <= p < 1, of setting an attention weight to zero (the others grow by 1/(1 - p)). In training only.
    causal : bool
        Whether a token sees only itself and earlier ones. The last query is aligned with the last key, so that the
        new tokens of a cached call see all old ones.
    fused : bool
        Whether to leave the attention itself to ``torch.nn.functional.scaled_dot_product_attention``: the same result
        in less memory, since it does not keep the (B, n_heads, Tq, Tk) weights.

    Attributes
    ----------
    q_proj, k_proj, v_proj, out_proj : nn.Linear
        The projections, initialised as ``nn.Linear`` does. `q_proj` and `out_proj` are d_model to d_model, `k_proj` and
        `v_proj` are d_model to n_kv_heads * d_head. Rows h * d_head to (h + 1) * d_head belong to head h.
    causal, fused, dropout
        As given. They may be changed at any time.

    Raises
    ------
    ValueError
        If `n_heads` does not divide `d_model`, `n_kv_heads` does not divide `n_heads`, one of them is no positive
        integer, or `dropout` is out of range; the message holds the numbers.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        for name, n in (("d_model", d_model), ("n_heads", n_heads), ("n_kv_heads", n_kv_heads)):
            if not isinstance(n, int | Integral) or isinstance(n, bool) or n < 1:
                raise ValueError(f"{name} must be a positive integer, got {n!r}")
        if d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got d_model={d_model} and n_heads={n_heads}")
        if n_heads % n_kv_heads:
            raise ValueError(
                f"n_kv_heads must divide n_heads, got n_heads={n_heads} and n_kv_heads={n_kv_heads}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a probability below 1, got {dropout}")
        self.d_model, self.n_heads, self.n_kv_heads = d_model, n_heads, n_kv_heads
        self.d_head = d_model // n_heads
        self.dropout, self.causal, self.fused = dropout, causal, fused
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * self.d_head, bias=bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * self.d_head, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> Self:
        """Return a module with a copy of the weights of an ``nn.MultiheadAttention``, in its dtype and on its device.

        Its dropout and its training mode are copied too; `causal` and `fused` are False. The result takes (B, T, d_model)
        whatever ``module.batch_first`` says.

        Raises
        ------
        TypeError
            If `module` is something else; the message holds its type.
        ValueError
            If it has a `kdim` or `vdim` other than its embed_dim, `add_bias_kv` or `add_zero_attn`: there is no
            counterpart here. The message names the option.
        """
        if not isinstance(module, nn.MultiheadAttention):
            raise TypeError(f"module must be a torch.nn.MultiheadAttention, got {type(module).__name__}")
        for option, used in {
            "kdim": module.kdim != module.embed_dim,
            "vdim": module.vdim != module.embed_dim,
            "add_bias_kv": module.bias_k is not None,
            "add_zero_attn": module.add_zero_attn,
        }.items():
            if used:
                raise ValueError(f"{option} has no counterpart here")
        has_bias = module.in_proj_bias is not None
        ours = cls(module.embed_dim, module.num_heads, bias=has_bias, dropout=module.dropout)
        state = {f"out_proj.{name}": tensor for name, tensor in module.out_proj.state_dict().items()}
        for kind in ("weight", "bias")[: 1 + has_bias]:
            parts = getattr(module, f"in_proj_{kind}").chunk(3)  # torch stacks the three projections: q, k, v
            state |= {f"{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
        ours.to(module.out_proj.weight).load_state_dict(state)
        return ours.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Let each token of `query` gather from `value` what its heads find in `key`.

        Parameters
        ----------
        query : (B, Tq, d_model) float
            float16, bfloat16, float32 or float64, as the module's weights.
        key : (B, Tk, d_model) float, optional
            The default is `query`: self-attention.
        value : (B, Tk, d_model) float, optional
            The default is `key`.
        mask : bool or float tensor that broadcasts to (B, n_heads, Tq, Tk), optional
            bool: True where attention is allowed, the opposite of ``nn.MultiheadAttention``. float: added to the
            scores. With a cache, Tk counts all tokens, old and new. It is combined with `causal`.
        cache : KeyValueCache, optional
            Self-attention only: the tokens of `query` are appended to it, and attend to everything it then holds. Each
            layer of a model needs one of its own.

        Returns
        -------
        (B, Tq, d_model) float
            Of the dtype of `query`. A query with nothing to attend to gathers zeros from every head, so its output is
            the bias of `out_proj`; its gradients are finite. NaN in a key or value spreads, also from behind a mask.
            B, Tq and Tk may be 0.

        Raises
        ------
        ValueError
            If the inputs do not fit each other (the message holds the shape of each), if `mask` does not broadcast
            (the message holds its shape), if a cache comes with a `key` or `value` of its own, or for what
            `KeyValueCache.append` refuses. A cache is then as it was.
        TypeError
            If `mask` is neither bool nor float: ones and zeros could mean either.
        """
        if cache is not None and any(x is not None and x is not query for x in (key, value)):
            raise ValueError("a cache is for self-attention: it takes no key or value of another sequence")
        key = query if key is None else key
        value = key if value is None else value
        _check_inputs(query, key, value, self.d_model)
        n_keys = key.shape[1] + (0 if cache is None else len(cache))
        bias, dead = self._additive_mask(mask, query, n_keys)  # first: a bad mask leaves the cache as it was

        q = _split(self.q_proj(query), self.n_heads)
        k, v = _split(self.k_proj(key), self.n_kv_heads), _split(self.v_proj(value), self.n_kv_heads)
        if cache is not None:
            k, v = cache.append(k, v, layer=self)

        dropout_p = self.dropout if self.training else 0.0
        if self.fused:
            # SDPA skips half of the work where it knows that the mask is causal; its own is aligned top left.
            is_causal = self.causal and mask is None and q.shape[2] == n_keys
            heads = F.scaled_dot_product_attention(
                *(q, k, v, None if is_causal else bias),
                dropout_p=dropout_p,
                is_causal=is_causal,
                enable_gqa=self.n_kv_heads != self.n_heads,
            )
        else:
            weights = F.dropout(self._weights(q, k, bias), dropout_p)
            heads = (self._grouped(weights) @ v.to(weights.dtype)).view_as(q).to(q.dtype)
        if dead is not None:
            heads = heads.masked_fill(dead, 0)
        return self.out_proj(heads.transpose(1, 2).flatten(2))  # the heads of a token side by side

    @torch.no_grad()
    def attention_maps(
        self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights of every head, (B, n_heads, Tq, Tk), for plotting: without dropout, without gradient.

        `x` and `context` (by default `x`) are the query and key of `forward`; `mask` is as there. A row sums to 1, or to
        0 where there is nothing to attend to. Raises as `forward` does.
        """
        context = x if context is None else context
        _check_inputs(x, context, context, self.d_model)
        bias, dead = self._additive_mask(mask, x, context.shape[1])
        q, k = _split(self.q_proj(x), self.n_heads), _split(self.k_proj(context), self.n_kv_heads)
        weights = self._weights(q, k, bias)
        return (weights if dead is None else weights.masked_fill(dead, 0)).to(x.dtype)

    def _grouped(self, x: Tensor) -> Tensor:
        """Reshape (B, n_heads, T, n) to (B, n_kv_heads, group * T, n): the query heads of a group below each other.

        One matrix product then serves the whole group, and no key or value is ever repeated in memory.
        """
        B, H, T, n = x.shape
        return x.reshape(B, self.n_kv_heads, H // self.n_kv_heads * T, n)

    def _weights(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """Return softmax(q kᵀ / sqrt(d_head) + bias), (B, n_heads, Tq, Tk), of half types in float32."""
        B, H, Tq, d_head = q.shape
        wide = torch.promote_types(q.dtype, torch.float32)  # a score may exceed 65504, which float16 cannot
        # Scaling q, not the scores: Tq * d_head multiplications in place of Tq * Tk.
        scores = self._grouped(q.to(wide) / math.sqrt(d_head)) @ k.to(wide).transpose(-2, -1)
        scores = scores.view(B, H, Tq, k.shape[-2])
        if bias is not None:
            scores += bias
        return scores.softmax(-1)

    def _additive_mask(
        self, mask: Tensor | None, query: Tensor, n_keys: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return mask and causality as one tensor to add to the scores, and which queries have nothing to attend to.

        The softmax of nothing but -inf is NaN, and so is its gradient. So the bias of such a dead row is 0, and what
        the row gathers is zeroed afterwards.
        """
        B, Tq, _ = query.shape
        bias: Tensor | None = None
        if mask is not None:
            _check_mask(mask, (B, self.n_heads, Tq, n_keys))
            mask = torch.atleast_2d(mask)  # SDPA takes no mask of fewer axes
            if mask.dtype == torch.bool:
                bias = query.new_zeros(mask.shape).masked_fill_(~mask, -math.inf)
            else:
                bias = mask.to(query.dtype)
        if self.causal and Tq > 1:
            # The last query sees all n_keys keys, the one before it all but one, and so on.
            later = query.new_full((Tq, n_keys), -math.inf).triu_(n_keys - Tq + 1)
            bias = later if bias is None else bias + later
        if bias is None or (mask is None and Tq <= n_keys):
            return bias, None
        dead = (bias == -math.inf).all(-1, keepdim=True)
        return bias.masked_fill(dead, 0), dead


def _split(x: Tensor, n_heads: int) -> Tensor:
    """View (B, T, n_heads * d_head) as (B, n_heads, T, d_head): head h is slice h of every token."""
    return x.unflatten(2, (n_heads, -1)).transpose(1, 2)


def _check_inputs(query: Tensor, key: Tensor, value: Tensor, d_model: int) -> None:
    """Raise a ValueError unless the three are (B, Tq, d_model), (B, Tk, d_model), (B, Tk, d_model)."""
    shapes = [tuple(x.shape) for x in (query, key, value)]
    wide = all(len(shape) == 3 and shape[2] == d_model for shape in shapes)
    if not wide or key.shape != value.shape or len(query) != len(key):
        raise ValueError(
            f"query must be (B, Tq, {d_model}), key and value (B, Tk, {d_model}), got {', '.join(map(str, shapes))}"
        )


def _check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless `mask` is bool or float and broadcasts to `shape` without enlarging it."""
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"mask must be bool (True: allowed) or float (added), got {mask.dtype}")
    axes = zip(mask.shape[::-1], shape[::-1], strict=False)
    if mask.ndim > len(shape) or any(n not in (1, wanted) for n, wanted in axes):
        raise ValueError(f"mask must broadcast to (B, n_heads, Tq, Tk) = {shape}, got {tuple(mask.shape)}")
