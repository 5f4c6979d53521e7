"""Softmax and flash attention in Triton: a program holds a whole row, or a tile of queries.

What takes shuffles, barriers and shared memory in CUDA C++ is one word here: ``tl.max``, ``tl.sum``, ``tl.dot``. The
algorithm stays in sight, the threads do not. All arithmetic is float32; inputs are converted as they are loaded.

Sources: the Triton tutorials "Fused Softmax" and "Fused Attention"; Dao et al. 2022, arXiv 2205.14135, algorithm 1.
"""

from __future__ import annotations

import math
import numbers

import torch
import triton
import triton.language as tl

__all__ = ["flash_attention_triton", "softmax_triton"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_HEAD_DIMS = (32, 64, 128)


@triton.jit  # type: ignore[untyped-decorator]
def softmax_kernel(x, out, n_columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute row ``program_id(0)``: BLOCK, a power of two, holds it all, and what is past its end counts nothing."""
    first = tl.program_id(0).to(tl.int64) * n_columns
    columns = tl.arange(0, BLOCK)
    mask = columns < n_columns
    row = tl.load(x + first + columns, mask=mask, other=-float("inf")).to(tl.float32)
    numerators = tl.exp(row - tl.max(row, axis=0))
    # Past the end, exp(-inf - max) is 0, and NaN in a row of -inf only, which is NaN anyway.
    result = numerators / tl.sum(numerators, axis=0)
    tl.store(out + first + columns, result.to(out.dtype.element_ty), mask=mask)


def softmax_triton(x: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis, ``exp(x - max) / sum(exp(x - max))``.

    Parameters
    ----------
    x : (..., width) tensor of float16, bfloat16 or float32, contiguous
        On a CUDA device, or on the CPU under ``TRITON_INTERPRET=1``. No rows is fine; width is from 1 to 131072.

    Returns
    -------
    tensor
        A new one of the same shape and dtype, computed in float32. A row that holds NaN, +inf, or nothing but -inf is
        NaN, as in torch.

    Raises
    ------
    TypeError
        If `x` is no tensor, or the dtype is another one.
    ValueError
        If `x` has gaps, no axis, or a width out of range.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"dtype must be float16, bfloat16 or float32, got {x.dtype}")
    if x.ndim == 0 or not 1 <= x.shape[-1] <= 131072:
        raise ValueError(f"x must be (..., width) with a width from 1 to 131072, got {tuple(x.shape)}")
    if not x.is_contiguous():
        raise ValueError(f"x must be contiguous, got shape {tuple(x.shape)} and strides {x.stride()}")
    out = torch.empty_like(x)
    width = x.shape[-1]
    n_rows = x.numel() // width
    block = triton.next_power_of_2(width)
    if n_rows:
        # 32 elements a thread at most, in registers: wider rows get more warps, up to the 32 of a block.
        softmax_kernel[(n_rows,)](x, out, width, BLOCK=block, num_warps=min(32, max(1, block // 1024)))
    return out


@triton.jit  # type: ignore[untyped-decorator]
def attention_kernel(  # type: ignore[no-untyped-def]
    query, key, value, out, n_queries, n_keys, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Compute queries ``ROWS·program_id(0)`` and following of head ``program_id(1)``, KEYS keys at a time."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, D)
    head = tl.program_id(1).to(tl.int64)
    query_at = head * n_queries * D + rows[:, None] * D + dims[None, :]
    q = tl.load(query + query_at, mask=rows[:, None] < n_queries, other=0.0)

    largest = tl.full((ROWS,), -3.4e38, tl.float32)  # not -inf: the first factor would be exp(-inf + inf)
    total = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS, D), tl.float32)
    n_visible = n_keys
    if CAUSAL:
        n_visible = tl.minimum(n_keys, (tl.program_id(0) + 1) * ROWS)
    for first in range(0, n_visible, KEYS):
        keys = first + tl.arange(0, KEYS)
        key_at = head * n_keys * D + keys[:, None] * D + dims[None, :]
        k = tl.load(key + key_at, mask=keys[:, None] < n_keys, other=0.0)
        v = tl.load(value + key_at, mask=keys[:, None] < n_keys, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = keys[None, :] < n_keys
        if CAUSAL:
            visible = visible & (keys[None, :] <= rows[:, None])
        scores = tl.where(visible, scores, -float("inf"))

        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        correction = tl.exp(largest - new_largest)
        weights = tl.exp(scores - new_largest[:, None])
        total = total * correction + tl.sum(weights, axis=1)
        weighted = weighted * correction[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        largest = new_largest
    result = weighted / total[:, None]
    tl.store(out + query_at, result.to(out.dtype.element_ty), mask=rows[:, None] < n_queries)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not abs(float(value)) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} must be a finite number of float32, got {value!r}")
    return float(value)


def flash_attention_triton(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention, ``softmax(query keyᵀ · scale) value``, without storing the matrix of scores.

    Parameters
    ----------
    query : (batch, heads, n_queries, d) tensor of float16, bfloat16 or float32, contiguous; d is 32, 64 or 128
        Triton's interpreter multiplies bfloat16 wrongly: on the CPU it is refused.
    key, value : (batch, heads, n_keys, d) tensors of the same dtype, at least one key
    causal : bool
        Query i sees keys 0 to i only, counted from the first of each, as in torch.
    scale : float, optional
        Finite; the default is ``1 / sqrt(d)``.

    Returns
    -------
    (batch, heads, n_queries, d) tensor
        Scores, weights and sums are float32; half-precision inputs are multiplied as they are, and the weights rounded
        to their dtype, which is what tensor cores take.

    Raises
    ------
    TypeError
        If dtypes differ or are others, an argument is no tensor, `causal` no bool or `scale` no number.
    ValueError
        If shapes do not fit, devices differ, d is another number, there is no key, batch · heads is more than 65535, a head has
        2**31 numbers or more, or a tensor has gaps.
    """
    tensors = (query, key, value)
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise TypeError(f"expected tensors, got {', '.join(type(tensor).__name__ for tensor in tensors)}")
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be True or False, got {causal!r}")
    if query.dtype not in _DTYPES or len({tensor.dtype for tensor in tensors}) > 1:
        raise TypeError(f"expected one dtype of float16, bfloat16, float32, got {[t.dtype for t in tensors]}")
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        raise TypeError("bfloat16 needs a GPU: Triton's interpreter multiplies it wrongly")
    if len({tensor.device for tensor in tensors}) > 1:
        raise ValueError(f"tensors must be on one device, got {[str(tensor.device) for tensor in tensors]}")
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    if query.ndim != 4 or query.shape[-1] not in _HEAD_DIMS:
        raise ValueError(
            f"query must be (batch, heads, n_queries, d) with d in {_HEAD_DIMS}, got {shapes[0]}"
        )
    if (
        shapes[1] != shapes[2]
        or key.ndim != 4
        or shapes[0][:2] + shapes[0][3:] != shapes[1][:2] + shapes[1][3:]
    ):
        raise ValueError(
            f"batch, heads and d must be those of query {shapes[0]}, got {shapes[1]} and {shapes[2]}"
        )
    if key.shape[2] == 0:
        raise ValueError(f"there must be a key to attend to, got {shapes[1]}")
    if query.shape[0] * query.shape[1] > 65535:  # CUDA's limit for a grid in y
        raise ValueError(f"at most 65535 heads in all batches, got {query.shape[0]} x {query.shape[1]}")
    if max(shapes[0][2], shapes[1][2]) * query.shape[3] >= 2**31:  # positions inside a head have 32 bits
        raise ValueError(f"n_queries · d and n_keys · d must be below 2**31, got {shapes[0]} and {shapes[1]}")
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError(f"tensors must be contiguous, got strides {[tensor.stride() for tensor in tensors]}")
    B, H, n_queries, d = query.shape
    factor = 1 / math.sqrt(d) if scale is None else _number("scale", scale)
    out = torch.empty_like(query)
    if out.numel():
        rows = 64 if query.dtype == torch.float32 else 128
        attention_kernel[(triton.cdiv(n_queries, rows), B * H)](
            *tensors, out, n_queries, key.shape[2], factor,
            CAUSAL=causal, D=d, ROWS=rows, KEYS=32 if query.dtype == torch.float32 else 64,
            num_warps=8, num_stages=2 if query.dtype == torch.float32 else 3,
        )  # fmt: skip
    return out
