"""Every method beside float32: MLPs of width 128 and 1024, a convolutional network, a transformer block of width 768.

One process, both sides interleaved, random data, one thread and two. "ours" is `quantize_network(mode="dynamic",
reduce_range=True)`: activations of 7 bits, which the int8 kernels multiply exactly on every x86 CPU; "ours, 8 bits" has
to use float32 arithmetic where the CPU lacks VNNI. "plain" is the core: int32 products. Rows that take long get fewer rounds.

``--gpu`` instead measures a CUDA device (torchao int8, float16, bfloat16, float8 where it exists); no committed result yet.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quantization
from deploy import quantize_network
from int8_kernel import int8_matmul
from profiling import profile_operators
from quantization import quantize_model, torch_dynamic
from torch_quantization import known_warnings, torch_static, torchao_dynamic

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

FP32, TORCH = "float32", "torch.ao dynamic"
BATCHES = (1, 8, 64, 512, 4096)
Call = Callable[[], Any]


class Block(nn.Module):
    """A pre-norm transformer block; every projection is an nn.Linear."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to (batch, tokens, width)."""
        B, T, D = x.shape
        query, key, value = self.qkv(self.norm1(x)).reshape(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(B, T, D)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm2(x))


def mlp(width: int) -> nn.Sequential:
    """Return three linear layers, width to width to width to 10."""
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    ).eval()


def cnn() -> nn.Sequential:
    """Return two convolutions with batch norms on 8 x 8 images, and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 64, 10)),
    ).eval()


def compare(bench: Benchmark, group: str, case: str, calls: Mapping[str, Call], **options: Any) -> None:
    """Add one row; as many rounds as fit into a second or so, 7 to 20."""
    once = 0.0
    for call in calls.values():
        call()
        start = time.perf_counter()
        call()
        once += time.perf_counter() - start
    rounds = max(7, min(20, round(1.2 / (2.5 * once))))
    peers = {name: call for name, call in calls.items() if name != "ours"}
    bench.compare(group, case, ours=calls["ours"], peers=peers, rounds=rounds, **options)


def methods(model: nn.Module, x: Tensor, *, static: bool = True, linear_only: bool = True) -> dict[str, Call]:
    """Return calls of the model in every form that is worth timing at this size."""
    calibration = [x[:256]]
    dynamic = quantize_network(model, reduce_range=True)
    forms: dict[str, nn.Module] = {"ours": dynamic, FP32: model}
    if linear_only:
        forms[TORCH] = torch_dynamic(model)
    if static:
        assert isinstance(model, nn.Sequential)
        forms["ours, static"] = quantize_network(
            model, mode="static", calibration=calibration, reduce_range=True
        )
        forms["torch.ao static"] = torch_static(model, calibration)
    forms["ours, 8 bits"] = quantize_network(model)
    if linear_only and len(x.flatten(0, -2)) <= 64:
        forms["plain"] = quantize_model(model)
    return {name: functools.partial(form, x) for name, form in forms.items()}


def gops(call: Call, n_operations: int, rounds: int = 9) -> str:
    """Return the median rate of `call` in 10⁹ operations per second."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return f"{n_operations / statistics.median(times[1:]) / 1e9:.1f}"


def limits(bench: Benchmark, threads: int) -> None:
    """Record what the matrix products alone reach: no quantized network can be faster than its kernel."""
    for rows in (64, 1024):
        n = 1024
        x, weight = torch.randn(rows, n), torch.randn(n, n)
        q = torch.randint(-64, 64, (rows, n), dtype=torch.int8)
        w = torch.randint(-127, 128, (n, n), dtype=torch.int8)
        unsigned, w_columns = (q + 64).view(torch.uint8), w.T
        packed = torch.ops.onednn.qlinear_prepack(w, None)
        ones, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int64)
        one_dnn = functools.partial(
            torch.ops.onednn.qlinear_pointwise,
            *(unsigned, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""),
        )
        with known_warnings():
            qx = torch.quantize_per_tensor(x, 0.05, 64, torch.quint8)
            qw = torch.quantize_per_channel(weight, ones * 0.03, zeros, 0, torch.qint8)
        fbgemm = torch.ops.quantized.linear_prepack(qw, None)
        bench.record(
            f"the limit: 10⁹ operations per second of the product alone, {threads} thread{'s' * (threads > 1)}",
            f"{rows} x 1024 x 1024",
            {
                "float32": gops(functools.partial(torch.mm, x, weight.T), 2 * rows * n * n),
                "oneDNN u8·s8": gops(one_dnn, 2 * rows * n * n),
                "fbgemm": gops(
                    functools.partial(torch.ops.quantized.linear, qx, fbgemm, 0.1, 64), 2 * rows * n * n
                ),
                "torch._int_mm": gops(
                    functools.partial(torch._int_mm, q, w_columns), 2 * rows * n * n, rounds=1
                ),
                "ours, int8_matmul": gops(functools.partial(int8_matmul, q, w), 2 * rows * n * n),
                "plain, int8_matmul": gops(
                    functools.partial(quantization.int8_matmul, q, w), 2 * rows * n * n, rounds=1
                ),
            },
        )


def sweep(bench: Benchmark, threads: int) -> None:
    """Time all models at all batch sizes with `threads` threads, and find where int8 begins to pay."""
    torch.set_num_threads(threads)
    label = f"{threads} thread{'s' * (threads > 1)}"
    batches = BATCHES if threads == 1 else BATCHES[::2]
    crossovers: dict[str, dict[str, str]] = {}
    for width in (128, 1024):
        model, first = mlp(width), len(bench._rows)
        for batch in batches:
            x = torch.randn(batch, width)
            calls = methods(model, x)
            if batch <= 64 and threads == 1:
                quantized = torchao_dynamic(model)
                calls["torchao dynamic"] = functools.partial(quantized, x)
            targets = {FP32: 1.5, TORCH: 1 / 1.5} if width == 1024 and batch >= 64 else None
            compare(bench, f"MLP of width {width}, {label}", f"batch {batch}", calls, targets=targets)
        rows = bench._rows[first:]
        crossovers[f"width {width}"] = {
            "ours": crossover(batches, [row["ratios"][FP32]["median"] for row in rows]),
            "torch.ao dynamic": crossover(
                batches, [row["milliseconds"][FP32] / row["milliseconds"][TORCH] for row in rows]
            ),
        }
    for case, columns in crossovers.items():
        bench.record(f"batch size from which int8 beats float32, {label}", case, columns)
    model = cnn()
    for batch in (1, 64, 2048):
        calls = methods(model, torch.randn(batch, 1, 8, 8), linear_only=False)
        compare(bench, f"CNN, {label}", f"batch {batch}", calls)
    block = Block(768, 12).eval()
    for batch in (1, 4):
        calls = methods(block, torch.randn(batch, 128, 768), static=False)
        compare(bench, f"transformer block, d = 768, 128 tokens, {label}", f"batch {batch}", calls)


def crossover(batches: tuple[int, ...], ratios: list[float]) -> str:
    """Interpolate, in the logarithm of the batch size, where the ratio to float32 passes 1 for good."""
    below = [k for k, ratio in enumerate(ratios) if ratio < 1]
    if not below:
        return f"{batches[0]} or less"
    if below[-1] == len(batches) - 1:
        return f"more than {batches[-1]}"
    k = below[-1]
    share = -math.log(ratios[k]) / (math.log(ratios[k + 1]) - math.log(ratios[k]))
    return f"{batches[k] * (batches[k + 1] / batches[k]) ** share:.0f}"


def casts(bench: Benchmark) -> None:
    """Time float16, bfloat16, and 8- and 4-bit weights alone, beside float32, on one thread."""
    torch.set_num_threads(1)
    model = mlp(1024)
    for batch in (1, 64, 512):
        x = torch.randn(batch, 1024)
        forms = {dtype: mlp(1024).to(dtype) for dtype in (torch.float16, torch.bfloat16)}
        calls: dict[str, Call] = {
            "ours": functools.partial(quantize_network(model, reduce_range=True), x),
            FP32: functools.partial(model, x),
        }
        for dtype, form in forms.items():
            calls[str(dtype).removeprefix("torch.")] = functools.partial(form, x.to(dtype))
        for n_bits in (8, 4):
            lighter = quantize_network(model, mode="weight_only", n_bits=n_bits)
            calls[f"ours, int{n_bits} weights"] = functools.partial(lighter, x)
        compare(bench, "casts and weight-only, MLP of width 1024, 1 thread", f"batch {batch}", calls)


def where_the_time_goes(bench: Benchmark, threads: int) -> None:
    """Record the operators of one dynamic layer, batch 64 and width 1024: what stands between it and its kernel."""
    torch.set_num_threads(threads)
    layer, x = nn.Linear(1024, 1024), torch.randn(64, 1024)
    quantized = quantize_network(layer, reduce_range=True)
    n_calls = 200
    rows = profile_operators(functools.partial(quantized, x), n_calls=n_calls)
    label = f"one layer, batch 64, width 1024, {threads} thread{'s' * (threads > 1)}"
    for row in rows[:9]:
        columns = {
            "calls": f"{row.n_calls / n_calls:g}",
            "self µs": f"{row.self_ms * 1e3 / n_calls:.0f}",
            "share": f"{row.share:.0%}",
        }
        bench.record(f"where the time goes under the profiler, {label}", row.name, columns)


def gpu() -> None:
    """Print times on a CUDA device: a linear layer of width 4096 in every format that torch offers there."""
    from torch.utils.benchmark import Timer

    if not torch.cuda.is_available():
        raise SystemExit("NOT RUN: no CUDA device on this machine")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for batch in (1, 16, 256, 4096):
        x = torch.randn(batch, 4096, device="cuda")
        layer = nn.Sequential(nn.Linear(4096, 4096)).cuda().eval()
        half = {
            dtype: nn.Sequential(nn.Linear(4096, 4096)).cuda().to(dtype)
            for dtype in (torch.float16, torch.bfloat16)
        }
        calls: dict[str, Call] = {FP32: functools.partial(layer, x)}
        for dtype, form in half.items():
            calls[str(dtype)] = functools.partial(form, x.to(dtype))
        bf16 = half[torch.bfloat16]
        compiled = torch.compile(torchao_dynamic(bf16))  # through inductor: Triton kernels
        calls["torchao int8, compiled"] = functools.partial(compiled, x.bfloat16())
        if torch.cuda.get_device_capability() >= (8, 9):
            import torchao.quantization as ao

            eight = nn.Sequential(nn.Linear(4096, 4096)).cuda().bfloat16()
            ao.quantize_(eight, ao.Float8DynamicActivationFloat8WeightConfig())
            calls["float8, compiled"] = functools.partial(torch.compile(eight), x.bfloat16())
        for name, call in calls.items():
            call()
            median = Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=0.5).median
            print(f"batch {batch:5d}  {name:24s} {median * 1e6:9.1f} µs")


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    torch.set_grad_enabled(False)
    if "--gpu" in sys.argv:
        gpu()
        return
    bench = Benchmark(__file__, threads=2)
    torch.manual_seed(0)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        limits(bench, threads)
        where_the_time_goes(bench, threads)
        sweep(bench, threads)
    casts(bench)
    bench.save()


if __name__ == "__main__":
    main()
