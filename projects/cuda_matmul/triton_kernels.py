"""Matrix multiplication in Triton: a program computes a tile of c, and ``tl.dot`` does what five rungs of CUDA C++ do.

Tiles in shared memory, tiles in registers, wide loads and tensor cores are the compiler's business. What stays is the loop
over k, the masks at the edges, and the order in which programs walk over c.

Source: the Triton tutorial "Matrix Multiplication".
"""

from __future__ import annotations

import numbers

import torch
import triton
import triton.language as tl

__all__ = ["matmul_triton"]


@triton.jit  # type: ignore[untyped-decorator]
def matmul_kernel(  # type: ignore[no-untyped-def]
    a, b, c, M, N, K, alpha, beta,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Compute one tile of c. Programs go down GROUP rows of tiles before they go right: that keeps b in the L2 cache."""
    tiles_m, tiles_n = tl.cdiv(M, TILE_M), tl.cdiv(N, TILE_N)
    program = tl.program_id(0)
    first = program // (GROUP * tiles_n) * GROUP
    rows_of_tiles = tl.minimum(tiles_m - first, GROUP)
    tile_m = first + program % (GROUP * tiles_n) % rows_of_tiles
    tile_n = program % (GROUP * tiles_n) // rows_of_tiles
    rows = (tile_m * TILE_M + tl.arange(0, TILE_M)).to(tl.int64)[:, None]
    columns = (tile_n * TILE_N + tl.arange(0, TILE_N)).to(tl.int64)[None, :]

    sums = tl.zeros((TILE_M, TILE_N), tl.float32)
    for start in range(0, K, TILE_K):
        inner = start + tl.arange(0, TILE_K)
        a_tile = tl.load(a + rows * K + inner[None, :], mask=(rows < M) & (inner[None, :] < K), other=0.0)
        b_tile = tl.load(
            b + inner[:, None].to(tl.int64) * N + columns,
            mask=(inner[:, None] < K) & (columns < N),
            other=0.0,
        )
        sums = tl.dot(a_tile, b_tile, sums, input_precision="ieee")  # the default for float32 is TF32
    inside = (rows < M) & (columns < N)
    result = alpha * sums
    if ADD:
        result += beta * tl.load(c + rows * N + columns, mask=inside, other=0.0)
    tl.store(c + rows * N + columns, result, mask=inside)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not abs(float(value)) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} must be a finite number of float32, got {value!r}")
    return float(value)


def _overlap(first: torch.Tensor, second: torch.Tensor) -> bool:
    ends = (tensor.data_ptr() + tensor.numel() * tensor.element_size() for tensor in (first, second))
    return max(first.data_ptr(), second.data_ptr()) < min(ends)


def matmul_triton(
    a: torch.Tensor, b: torch.Tensor, *, alpha: float = 1.0, beta: float = 0.0, c: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply two matrices, ``alpha · a b + beta · c``.

    Parameters
    ----------
    a : (M, K) tensor of float32, float16 or bfloat16, contiguous
        On a CUDA device, or on the CPU under ``TRITON_INTERPRET=1``, which multiplies bfloat16 wrongly: that is refused.
    b : (K, N) tensor like `a`
    alpha, beta : float
        Finite. With beta = 0, `c` is not read.
    c : (M, N) tensor of float32, optional
        Added to the product, and where the result goes. It shares no memory with `a` or `b`.

    Returns
    -------
    (M, N) tensor of float32
        `c`, or a new one. Products and sums are float32, without TF32.

    Raises
    ------
    TypeError
        If dtypes differ or are others, an argument is no tensor, or alpha or beta no number.
    ValueError
        If shapes do not fit, devices differ, a tensor has gaps, `c` overlaps an input, or beta is not 0 and `c` is missing.
    """
    tensors = [a, b] if c is None else [a, b, c]
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise TypeError(f"expected tensors, got {', '.join(type(tensor).__name__ for tensor in tensors)}")
    alpha, beta = _number("alpha", alpha), _number("beta", beta)
    if a.dtype not in (torch.float32, torch.float16, torch.bfloat16) or a.dtype != b.dtype:
        raise TypeError(f"a and b must both be float32, float16 or bfloat16, got {a.dtype} and {b.dtype}")
    if a.dtype == torch.bfloat16 and a.device.type == "cpu":
        raise TypeError("bfloat16 needs a GPU: Triton's interpreter multiplies it wrongly")
    if len({tensor.device for tensor in tensors}) > 1:
        raise ValueError(f"tensors must be on one device, got {[str(tensor.device) for tensor in tensors]}")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"a must be (M, K) and b (K, N), got {tuple(a.shape)} and {tuple(b.shape)}")
    if c is None and beta != 0:
        raise ValueError(f"beta is {beta}, so there must be a c to add")
    (M, K), N = a.shape, b.shape[1]
    if c is None:
        c = torch.empty((M, N), dtype=torch.float32, device=a.device)
    if c.dtype != torch.float32:
        raise TypeError(f"c must be float32, got {c.dtype}")
    if c.shape != (M, N):
        raise ValueError(f"c must be {(M, N)}, got {tuple(c.shape)}")
    if not all(tensor.is_contiguous() for tensor in (a, b, c)):
        raise ValueError(
            f"matrices must be contiguous, got strides {a.stride()}, {b.stride()} and {c.stride()}"
        )
    if any(_overlap(c, tensor) for tensor in (a, b)):
        raise ValueError("c overlaps an input: programs would read results instead of inputs")
    if M and N:
        # 128 x 128 spills registers on sm_90 where c is added: the addresses of c take two for each of its numbers.
        tile_m, tile_n, tile_k = (64, 64, 16) if a.dtype == torch.float32 else (128, 64, 32)
        grid = (triton.cdiv(M, tile_m) * triton.cdiv(N, tile_n),)
        matmul_kernel[grid](
            a, b, c, M, N, K, alpha, beta,
            TILE_M=tile_m, TILE_N=tile_n, TILE_K=tile_k, GROUP=8, ADD=beta != 0, num_warps=8, num_stages=3,
        )  # fmt: skip
    return c
