"""Attention in tiles beside the plain one, written out, and beside torch's fused one (SDPA): time, memory, both passes.

8 heads of width 64, float32, one process, interleaved; one thread, and the forward pass with two as well. Both sides
hand out a fresh output. The long sequences get few rounds, because the written-out version needs seconds per call
there; the table shows the spread.

Memory is the peak resident set of a fresh process (VmHWM, reset through /proc/self/clear_refs after a small warm-up)
beyond what it held before the call, so it counts whatever the system must provide: tensors, buffers of the matrix
library, everything. glibc is told to give freed blocks back at once, so that none hides in its pool. torch.profiler would
count only what goes through torch's allocator. Linux only; elsewhere these rows are left out.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attention import attention
from chunked_attention import chunked_attention

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

N_HEADS, D = 8, 64
ROUNDS = {512: 20, 1024: 12, 2048: 8, 4096: 6, 8192: 5}
TARGETS = {"SDPA": 1 / 1.5, "written out": 5.0}  # their time over ours, at least


def random_inputs(n_tokens: int, *, n_heads: int = N_HEADS, grad: bool = False) -> list[Tensor]:
    """Return query, key and value of one sequence."""
    generator = torch.Generator().manual_seed(n_tokens)
    shape = (1, n_heads, n_tokens, D)
    return [torch.randn(shape, generator=generator).requires_grad_(grad) for _ in range(3)]


def sdpa(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """Call torch's attention with our argument names (for Tq = Tk, where both mean the same)."""
    return scaled_dot_product_attention(query, key, value, is_causal=causal)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "written out": attention,
    "in tiles": chunked_attention,
    "SDPA": sdpa,
}


def peak_megabytes(name: str, sizes: Iterable[int], **options: bool | int) -> list[float] | None:
    """Return the peak memory beyond the inputs for each number of tokens, measured in a fresh process, in MB.

    Options: `causal`; `backward`, to measure forward and backward; `n_heads`.
    """
    if not Path("/proc/self/clear_refs").exists():
        print(f"NOT RUN: peak memory of {name} (needs /proc/self/clear_refs, which Linux has)")
        return None
    code = (
        f"import benchmark; print([benchmark.peak_here({name!r}, n, **{options!r}) for n in {list(sizes)}])"
    )
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    folder = Path(__file__).resolve().parent
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return ast.literal_eval(out.stdout)


def peak_here(
    name: str, n_tokens: int, *, causal: bool = False, backward: bool = False, n_heads: int = N_HEADS
) -> float:
    """Return what one call adds to this process's resident set at its peak, in MB."""
    torch.set_num_threads(1)

    def run(n: int) -> Callable[[], object]:
        inputs = random_inputs(n, n_heads=n_heads, grad=backward)
        cotangent = torch.ones(1, n_heads, n, D) if backward else None

        def call() -> object:
            output = FUNCTIONS[name](*inputs, causal=causal)
            return output.backward(cotangent) if backward else output

        return call

    run(600)()  # loads the matrix library
    call = run(n_tokens)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident_kb("VmRSS")
    call()
    return (resident_kb("VmHWM") - before) * 1024 / 1e6


def resident_kb(field: str) -> int:
    """Read one line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def compare_forward(bench: Benchmark, longest: int, *, n_threads: int) -> None:
    """Time the tiles beside SDPA, and with one thread beside the written-out version."""
    torch.set_num_threads(n_threads)
    for causal in (False, True):
        for n_tokens, n_rounds in ROUNDS.items():
            if n_tokens > longest or (n_threads > 1 and n_tokens in (1024, 4096)):
                continue
            inputs = random_inputs(n_tokens)
            calls = {
                name: lambda f=function, x=inputs, c=causal: f(*x, causal=c)
                for name, function in FUNCTIONS.items()
            }
            peers = ["SDPA", "written out"] if n_threads == 1 else ["SDPA"]
            wanted = peers if causal and n_tokens >= 2048 else ["SDPA"]
            bench.compare(
                f"in tiles: forward, {n_threads} thread{'s' if n_threads > 1 else ''}",
                f"T = {n_tokens}{', causal' if causal else ''}",
                ours=calls["in tiles"],
                peers={name: calls[name] for name in peers},
                targets={name: TARGETS[name] for name in wanted},
                name="in tiles",
                rounds=n_rounds,
            )


def compare_backward(bench: Benchmark) -> None:
    """Time forward and backward together, as in training."""
    for n_tokens, causal, n_rounds in ((1024, False, 3), (1024, True, 3)):
        inputs = random_inputs(n_tokens, grad=True)
        cotangent = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(0))

        def train(name: str, inputs: list[Tensor], cotangent: Tensor, causal: bool) -> None:
            torch.autograd.grad(FUNCTIONS[name](*inputs, causal=causal), inputs, cotangent)

        calls = {
            name: lambda name=name, x=inputs, g=cotangent, c=causal: train(name, x, g, c)
            for name in FUNCTIONS
        }
        bench.compare(
            "in tiles: forward and backward",
            f"T = {n_tokens}{', causal' if causal else ''}",
            ours=calls["in tiles"],
            peers={name: calls[name] for name in ("SDPA", "written out")},
            name="in tiles",
            rounds=n_rounds,
        )


def compare_exponentials(bench: Benchmark) -> None:
    """Time e^x and 2^x on the scores of one tile: why the tiles use base 2."""
    tile = torch.randn(N_HEADS, 256, 512, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(tile)
    bench.compare(
        "the exponential of one tile, 8 x 256 x 512",
        "torch.exp2",
        ours=lambda: torch.exp2(tile, out=out),
        peers={"torch.exp": lambda: torch.exp(tile, out=out)},
    )


def record_memory(bench: Benchmark) -> None:
    """Record the peaks at T = 8192, and T = 4096 with the backward pass."""
    output_mb = N_HEADS * 8192 * D * 4 / 1e6
    for name in FUNCTIONS:
        peaks = peak_megabytes(name, [8192], causal=True)
        if peaks is not None:
            columns = {"MB beyond the inputs": f"{peaks[0]:,.0f}", "of which the output": f"{output_mb:.0f}"}
            columns["target"] = ("≤ 40" if peaks[0] <= 40 else "**below** 40") if name == "in tiles" else ""
            bench.record("peak memory of one forward pass, T = 8192, causal", name, columns)
    results_mb = 4 * N_HEADS * 4096 * D * 4 / 1e6  # output and three gradients
    for name in FUNCTIONS:
        peaks = peak_megabytes(name, [4096], causal=True, backward=True)
        if peaks is not None:
            columns = {
                "MB beyond the inputs": f"{peaks[0]:,.0f}",
                "of which output and gradients": f"{results_mb:.0f}",
            }
            bench.record("peak memory of forward and backward, T = 4096, causal", name, columns)


def main() -> None:
    """Measure, and write results/ and MEASURED.md."""
    bench = Benchmark(__file__, threads=1)
    for n_threads in (2, 1):  # what follows uses one
        compare_forward(bench, longest=1024 if "--quick" in sys.argv else 8192, n_threads=n_threads)
    compare_backward(bench)
    compare_exponentials(bench)
    record_memory(bench)
    bench.save()


if __name__ == "__main__":
    main()
