"""Softmax and flash attention beside torch and the copy bandwidth of the same run, on a GPU.

Softmax has to read each element once and write it once: 2·n·s bytes for n elements of s bytes, as much as a copy of it. So
the ratio to "copy" is the share of the copy bandwidth that is reached. Attention over n queries and keys of dimension d is
4·n²·d FLOP per head (half of that if causal). "plain" is the core's `softmax` with block_reduce, which allocates its result.

Without a GPU nothing is timed. Then only the compile gate runs: registers and shared memory of every kernel.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import cuda_softmax
from flash_attention import flash_attention
from ladder import KERNELS, softmax

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.gpu_benchmark import GpuBenchmark, without_gpu
from shared.testing.devices import gpu_present

WIDTHS = (128, 1024, 4096, 8192, 32768, 131072)
N_ELEMENTS = 8192 * 8192


def measure_softmax(bench: GpuBenchmark, torch: Any) -> None:
    """Every kernel at (8192, 8192); the two fastest and the twin at every width."""
    from triton_kernels import softmax_triton

    for width in WIDTHS:
        x = torch.randn((N_ELEMENTS // width, width), device="cuda")
        out = torch.empty_like(x)
        peers = {
            "copy": partial(out.copy_, x),
            "torch": partial(torch.softmax, x, -1, out=out),
            "Triton": partial(softmax_triton, x),
            "plain": partial(cuda_softmax.softmax, x, kernel="block_reduce"),
        }
        for kernel in KERNELS if width == 8192 else ("online", "single_read"):
            targets = (
                {"torch": 1.0, **({"copy": 0.9} if width == 8192 else {})}
                if kernel == "single_read"
                else None
            )
            bench.compare(
                "softmax, float32, 67 million elements",
                f"width {width}, {kernel}",
                ours=partial(softmax, x, out, kernel=kernel),
                peers=peers,
                targets=targets,
            )


def measure_attention(bench: GpuBenchmark, torch: Any) -> None:
    """Compare the twin with torch's flash backend in float16, and the CUDA C++ kernel, which uses no tensor cores."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from triton_kernels import flash_attention_triton

    def torch_flash(q: Any, k: Any, v: Any) -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    for n in (1024, 4096):
        q, k, v = (torch.randn((4, 16, n, 64), device="cuda").half() for _ in range(3))
        out = torch.empty_like(q)
        peers = {"torch, flash": partial(torch_flash, q, k, v)}
        bench.compare(
            "causal attention, float16, 4 x 16 heads, d = 64",
            f"{n} queries and keys, Triton",
            ours=partial(flash_attention_triton, q, k, v, causal=True),
            peers=peers,
            targets={"torch, flash": 0.6},
        )
        bench.compare(
            "causal attention, float16, 4 x 16 heads, d = 64",
            f"{n} queries and keys, CUDA C++ without tensor cores",
            ours=partial(flash_attention, q, k, v, out, causal=True),
            peers=peers,
        )


def main() -> None:
    """Measure, and write results/ and MEASURED.md."""
    if not gpu_present():
        without_gpu(__file__)
        return
    import pycuda.autoprimaryctx  # noqa: F401  # before torch: both share the primary context
    import torch

    bench = GpuBenchmark(__file__)
    measure_softmax(bench, torch)
    measure_attention(bench, torch)
    bench.save()


if __name__ == "__main__":
    main()
