"""The same addition in Triton: a program adds a block of elements, and the compiler deals with threads.

What a CUDA kernel says per thread, Triton says per block: `offsets` is a whole vector of indices, and the tail guard
is a mask. Coalescing, 16-byte loads and the number of threads per block are the compiler's business.

Source: Tillet, Kung and Cox, "Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations",
MAPL 2019; the Triton tutorial "Vector Addition".
"""

from __future__ import annotations

import numbers

import torch
import triton
import triton.language as tl

__all__ = ["vector_add_triton"]


@triton.jit  # type: ignore[untyped-decorator]
def add_kernel(a, b, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add elements ``BLOCK·pid`` to ``BLOCK·(pid + 1) - 1``; a, b and out are pointers to n elements."""
    first = tl.program_id(0).to(tl.int64) * BLOCK  # 64 bits: BLOCK·pid passes 2**31 for long vectors
    offsets = first + tl.arange(0, BLOCK)
    mask = offsets < n
    total = tl.load(a + offsets, mask=mask) + tl.load(b + offsets, mask=mask)
    tl.store(out + offsets, total, mask=mask)


def vector_add_triton(a: torch.Tensor, b: torch.Tensor, *, block: int = 1024) -> torch.Tensor:
    """Add two contiguous tensors of one shape and dtype, ``out[i] = a[i] + b[i]``.

    Parameters
    ----------
    a, b : tensors on one CUDA device, or on the CPU under ``TRITON_INTERPRET=1``
        float16, float32, float64 or int32, contiguous. No elements is fine: then nothing is launched.
    block : int
        Elements per program, a power of two up to 2**20.

    Returns
    -------
    tensor
        A new one, rounded once to the dtype of the inputs.

    Raises
    ------
    TypeError
        If an argument is no tensor, the dtype is another one, or `block` is no integer.
    ValueError
        If shapes, dtypes or devices differ, a tensor has gaps, or `block` is not such a power of two.
    """
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        raise TypeError(f"a and b must be tensors, got {type(a).__name__} and {type(b).__name__}")
    if a.dtype not in (torch.float16, torch.float32, torch.float64, torch.int32):
        raise TypeError(f"dtype must be float16, float32, float64 or int32, got {a.dtype}")
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        raise ValueError(
            f"a and b must have one shape, dtype and device, got {tuple(a.shape)} {a.dtype} {a.device} "
            f"and {tuple(b.shape)} {b.dtype} {b.device}"
        )
    if not (a.is_contiguous() and b.is_contiguous()):
        raise ValueError(f"a and b must be contiguous, got strides {a.stride()} and {b.stride()}")
    if isinstance(block, bool) or not isinstance(block, numbers.Integral):
        raise TypeError(f"block must be an integer, got {block!r}")
    block = int(block)  # a NumPy integer is no constant for Triton
    if not 1 <= block <= 2**20 or block & (block - 1):
        raise ValueError(f"block must be a power of two up to 2**20, got {block}")
    out = torch.empty_like(a)
    n = out.numel()
    if n:
        add_kernel[(triton.cdiv(n, block),)](a, b, out, n, BLOCK=block)
    return out
