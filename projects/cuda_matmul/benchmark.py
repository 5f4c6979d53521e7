"""Every rung beside cuBLAS, with the copy bandwidth and the arithmetic peak of the same run, on a GPU.

A product of (M, K) and (K, N) matrices is 2·M·N·K FLOP. The peer is torch's matmul, which calls cuBLAS, with TF32 switched off:
float32 all the way, as in the kernels. The peer of `tensor_core` and of Triton in bfloat16 is cuBLAS in bfloat16. The ceilings
are a copy of 1 GB, and a kernel that does nothing but multiply and add in registers. "plain" is the core's `matmul` with its
tiled kernel, which allocates its result.

Without a GPU nothing is timed. Then only the compile gate runs: registers and shared memory of every kernel.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import cuda_matmul
from ladder import RUNGS, matmul

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.gpu_benchmark import GpuBenchmark, without_gpu
from shared.testing.devices import gpu_present

SIZE = 4096
SLOW_RUNGS = ("naive", "coalesced", "tiled")  # tenths of a second per product: fewer rounds
CHAINS, TURNS, BLOCKS, THREADS = 8, 16384, 4096, 256
ARITHMETIC = f"""
extern "C" __global__ void arithmetic(float* out, float x) {{
  float sums[{CHAINS}];
  for (int j = 0; j < {CHAINS}; j++) sums[j] = threadIdx.x + j;
  for (int i = 0; i < {TURNS}; i++) {{
#pragma unroll
    for (int j = 0; j < {CHAINS}; j++) sums[j] = sums[j] * x + x;
  }}
  float sum = 0;
  for (int j = 0; j < {CHAINS}; j++) sum += sums[j];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}}
"""


def measure_ceilings(bench: GpuBenchmark, torch: Any) -> None:
    """Measure what the memory and the arithmetic units of this device can do."""
    from pycuda.compiler import SourceModule

    source, target = (torch.empty(1 << 29, dtype=torch.uint8, device="cuda") for _ in range(2))
    median = bench.median_ms(partial(target.copy_, source))
    bench.record("ceilings", "copy", {"GB/s": f"{2 * source.numel() / median / 1e6:,.0f}"})
    function = SourceModule(ARITHMETIC, no_extern_c=True).get_function("arithmetic").prepare("Pf")
    out = torch.empty(BLOCKS * THREADS, device="cuda")
    call = partial(function.prepared_call, (BLOCKS, 1), (THREADS, 1, 1), out.data_ptr(), 0.999)
    flop = 2 * CHAINS * TURNS * BLOCKS * THREADS
    bench.record("ceilings", "float32 arithmetic", {"TFLOP/s": f"{flop / bench.median_ms(call) / 1e9:.1f}"})


def measure_float32(bench: GpuBenchmark, torch: Any) -> None:
    """Every rung at 4096, then the last one and the twin at other shapes."""
    from triton_kernels import matmul_triton

    ladder = [rung.name for rung in RUNGS if rung.dtype == "float32"]
    shapes = ((SIZE, SIZE, SIZE), (1024, 1024, 1024), (8192, 8192, 1024), (4095, 4097, 4093))
    for m, n, k in shapes:
        a, b = torch.randn((m, k), device="cuda"), torch.randn((k, n), device="cuda")
        c, peer_c = torch.empty((m, n), device="cuda"), torch.empty((m, n), device="cuda")
        peers = {
            "cuBLAS": partial(torch.matmul, a, b, out=peer_c),
            "Triton": partial(matmul_triton, a, b, c=c),
            "plain": partial(cuda_matmul.matmul, a, b, kernel="tiled"),
        }
        for kernel in ladder if (m, n, k) == shapes[0] else ladder[-1:]:
            bench.compare(
                f"float32, {m} x {n} x {k}",
                kernel,
                ours=partial(matmul, a, b, kernel=kernel, c=c),
                peers=peers,
                targets={"cuBLAS": 0.9} if kernel == "warp_tiled" and (m, n, k) == shapes[0] else None,
                rounds=6 if kernel in SLOW_RUNGS else 30,
            )


def measure_bfloat16(bench: GpuBenchmark, torch: Any) -> None:
    """Compare Triton and the wmma kernel with cuBLAS in bfloat16, on tensor cores."""
    from triton_kernels import matmul_triton

    a, b = (torch.randn((SIZE, SIZE), device="cuda").bfloat16() for _ in range(2))
    c, peer_c = torch.empty((SIZE, SIZE), device="cuda"), torch.empty_like(a)
    peers = {"cuBLAS": partial(torch.matmul, a, b, out=peer_c)}
    for case, ours, targets in (
        ("Triton", partial(matmul_triton, a, b, c=c), {"cuBLAS": 0.8}),
        ("tensor_core", partial(matmul, a, b, kernel="tensor_core", c=c), None),
    ):
        bench.compare(f"bfloat16, {SIZE} x {SIZE} x {SIZE}", case, ours=ours, peers=peers, targets=targets)


def main() -> None:
    """Measure, and write results/ and MEASURED.md."""
    if not gpu_present():
        without_gpu(__file__)
        return
    import pycuda.autoprimaryctx  # noqa: F401  # before torch: both share the primary context
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    bench = GpuBenchmark(__file__)
    measure_ceilings(bench, torch)
    measure_float32(bench, torch)
    measure_bfloat16(bench, torch)
    bench.save()


if __name__ == "__main__":
    main()
