"""Find a bottleneck: time, FLOPs and bytes per operator, set against what the machine can do.

    intensity = FLOPs / bytes,   ridge = peak FLOP/s / bandwidth,   memory-bound if intensity < ridge

A profile says where the time goes; the roofline says whether it could go faster there. An operator far below both roofs
is bound by neither: its time is overhead (many small calls, a slow kernel).

Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model", CACM 52(4).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

__all__ = [
    "linear_cost",
    "measure_peaks",
    "profile_operators",
    "table",
    "verdict",
    "Bottlenecked",
]


@dataclass(frozen=True)
class OperatorProfile:
    """What one operator did in all profiled calls together."""

    name: str
    n_calls: int
    self_ms: float  # without the operators it called
    share: float  # of the self time of all operators
    flops: int  # 0 where torch.profiler knows no formula
    n_bytes: int  # inputs read once and the output written once, float32; 0 without shapes


def linear_cost(batch: int, n_in: int, n_out: int, *, bytes_per_weight: float = 4) -> tuple[int, int]:
    """Count FLOPs and least bytes of ``x @ weight.T + bias``, x and result in float32.

    Returns (flops, n_bytes), two int: ``2·batch·in·out`` (the profiler counts products the same way and leaves out the
    bias) and ``4·batch·(in + out) + bytes_per_weight·in·out + 4·out``. ValueError, with the size, if one is negative.
    """
    if min(batch, n_in, n_out) < 0:
        raise ValueError(f"sizes must not be negative, got {batch}, {n_in}, {n_out}")
    weights = round(bytes_per_weight * n_in * n_out)
    return 2 * batch * n_in * n_out, 4 * batch * (n_in + n_out) + weights + 4 * n_out


def verdict(flops: float, n_bytes: float, *, peak_flops: float, bandwidth: float) -> str:
    """Return "memory-bound" or "compute-bound": which of the two roofs is lower at this intensity.

    flops, n_bytes : of the operator; peak_flops, bandwidth : FLOP/s and bytes/s of the machine, measured in the same session.
    ValueError unless flops are at least 0 and the others above 0.
    """
    if not (flops >= 0 and n_bytes > 0 and peak_flops > 0 and bandwidth > 0):
        raise ValueError(
            f"flops must be at least 0, bytes, peak and bandwidth above 0, got {flops}, {n_bytes}, {peak_flops}, {bandwidth}"
        )
    return "memory-bound" if flops / n_bytes < peak_flops / bandwidth else "compute-bound"


def measure_peaks(*, size: int = 768, megabytes: int = 64, rounds: int = 7) -> tuple[float, float]:
    """Measure this machine: (FLOP/s of a float32 matrix product, bytes/s of copying memory), best of `rounds`.

    Each round is one product, or one copy, between two calls of ``time.perf_counter``; one more round before is not counted.
    A copy of n bytes moves 2n: it reads and writes. The threads are torch's at the time of the call. ValueError, with the
    name, for a number below 1.
    """
    for name, number in (("size", size), ("megabytes", megabytes), ("rounds", rounds)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    a, b = torch.rand(size, size), torch.rand(size, size)
    source, target = torch.rand(megabytes << 18), torch.empty(megabytes << 18)
    peak = 2 * size**3 / _best_seconds(lambda: torch.mm(a, b), rounds)
    return peak, 2 * 4 * source.numel() / _best_seconds(lambda: target.copy_(source), rounds)


def profile_operators(
    call: Callable[[], object], *, n_calls: int = 5, trace: str | os.PathLike[str] | None = None
) -> list[OperatorProfile]:
    """Run `call` under torch.profiler and return its operators, the most self time first.

    `call` runs once before, unprofiled, to warm up, and then `n_calls` times; all columns are sums over these. ValueError,
    with the number, for n_calls below 1. `trace`: where to write a Chrome trace (open it at ui.perfetto.dev).
    """
    if n_calls < 1:
        raise ValueError(f"n_calls must be at least 1, got {n_calls}")
    call()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:  # and shapes
        for _ in range(n_calls):
            call()
    if trace is not None:
        profiler.export_chrome_trace(os.fspath(trace))
    found: dict[str, list[float]] = {}
    for event in profiler.key_averages(group_by_input_shape=True):
        sums = found.setdefault(event.key, [0, 0.0, 0, 0])
        sums[0] += event.count
        sums[1] += event.self_cpu_time_total / 1e3
        sums[2] += event.flops or 0
        sums[3] += event.count * _bytes(event.key, event.input_shapes)
    total = sum(sums[1] for sums in found.values())
    rows = [
        OperatorProfile(name, int(n), ms, ms / total if total else 0.0, int(flops), int(n_bytes))
        for name, (n, ms, flops, n_bytes) in found.items()
    ]
    return sorted(rows, key=lambda row: -row.self_ms)


def table(rows: list[OperatorProfile], *, peak_flops: float, bandwidth: float, n_rows: int = 8) -> str:
    """Format the first `n_rows` of a profile as Markdown: operator, calls, self ms, share, GFLOP, MB, of peak, bound.

    GFLOP and MB are 10^9 FLOPs and 10^6 bytes. "of peak" is the achieved share of the lower of the two roofs, "bound" is that
    of `verdict`. Both are "?" where FLOPs or bytes are unknown.
    """
    lines = [
        "| operator | calls | self ms | share | GFLOP | MB | of peak | bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows[:n_rows]:
        bound, achieved = "?", "?"
        if row.flops and row.n_bytes and row.self_ms:
            bound = verdict(row.flops, row.n_bytes, peak_flops=peak_flops, bandwidth=bandwidth)
            roof = peak_flops if bound == "compute-bound" else row.flops / row.n_bytes * bandwidth
            achieved = f"{row.flops / (row.self_ms / 1e3) / roof:.0%}"
        numbers = f"{row.self_ms:.2f} | {row.share:.0%} | {row.flops / 1e9:.3f} | {row.n_bytes / 1e6:.2f}"
        lines.append(f"| {row.name} | {row.n_calls} | {numbers} | {achieved} | {bound} |")
    return "\n".join(lines)


class Bottlenecked(nn.Module):
    """A network with a planted bottleneck: its mixing layer loops over the rows in Python, `fixed` does it at once.

    (batch, width) to (batch, width): ``head(cumsum over rows of relu(body(x)))``, the same result either way.
    """

    def __init__(self, width: int, *, fixed: bool = False) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(width, width), nn.Linear(width, width)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network."""
        hidden = torch.relu(self.body(x))
        if self.fixed:
            mixed = hidden.cumsum(0)
        else:
            total, rows = torch.zeros_like(hidden[:1]), []
            for k in range(len(hidden)):
                total = total + hidden[k : k + 1]
                rows.append(total)
            mixed = torch.cat(rows) if rows else hidden
        return self.head(mixed)


def _best_seconds(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _bytes(name: str, shapes: list[list[int]]) -> int:
    """Count float32 bytes of a matrix product: the operands read once, the result written once."""
    matrices = [shape for shape in shapes if len(shape) == 2]
    if name not in ("aten::mm", "aten::addmm") or len(matrices) < 2:
        return 0
    (m, k), (_, n) = matrices[-2:]
    return 4 * (m * k + k * n + m * n)
