"""The kernels beside torch's addition and the copy bandwidth of the same run, on a GPU.

The limit is memory: an addition reads two elements and writes one, so n elements of s bytes are 3·n·s bytes; a copy of
n elements is 2·n·s. The peer "copy" moves the same 3·n·s bytes, so its ratio is the share of copy bandwidth reached.
"plain" is the core's `vector_add`, which allocates its result.

Without a GPU nothing is timed. Then only the compile gate runs: registers and shared memory of every kernel.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import cuda_vector_add
from ladder import KERNELS, vector_add

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.gpu_benchmark import GpuBenchmark, without_gpu
from shared.testing.devices import gpu_present

SIZES = (1 << 20, 1 << 24, 1 << 28)


def main() -> None:
    """Measure, and write results/ and MEASURED.md."""
    if not gpu_present():
        without_gpu(__file__)
        return
    import pycuda.autoprimaryctx  # noqa: F401  # before torch: both share the primary context
    import torch

    from triton_kernels import vector_add_triton

    bench = GpuBenchmark(__file__)
    for dtype in (torch.float32, torch.float16):
        for n in SIZES:
            a, b = (torch.randn(n, device="cuda").to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            n_bytes = 3 * n * a.element_size()
            source, target = (torch.empty(n_bytes // 2, dtype=torch.uint8, device="cuda") for _ in range(2))
            peers = {
                "copy": partial(target.copy_, source),
                "torch": partial(torch.add, a, b, out=out),
                "Triton": partial(vector_add_triton, a, b),
                "plain": partial(cuda_vector_add.vector_add, a, b),
            }
            for kernel in KERNELS:
                bench.compare(
                    f"{str(dtype).removeprefix('torch.')}, {n_bytes / 1e6:,.0f} MB",
                    kernel,
                    ours=partial(vector_add, a, b, out, kernel=kernel),
                    peers=peers,
                    targets={"copy": 0.95} if kernel == "vectorized" and n == SIZES[-1] else None,
                )
            median = bench.median_ms(peers["copy"])
            bench.record(
                "copy bandwidth", f"{n_bytes / 1e6:,.0f} MB", {"GB/s": f"{n_bytes / median / 1e6:,.0f}"}
            )
    bench.save()


if __name__ == "__main__":
    main()
