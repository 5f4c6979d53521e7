"""Measuring on a GPU, and what a benchmark can say of kernels without one: the compile gate's numbers."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.measuring.benchmark import ROUNDS, Benchmark, provenance
from shared.measuring.readme import fill_measured, fill_readme
from shared.projects import ROOT
from shared.testing.compile_gate import (
    ARCHITECTURES,
    Resources,
    compile_kernel,
    compile_triton,
    nvcc_version,
)


class GpuBenchmark(Benchmark):
    """One benchmark.py of a CUDA project: `Benchmark` with events instead of the host's clock, and a cold L2 cache.

    Everything is queued on the default stream. Before each sample an array larger than the L2 cache is written, which
    also lets the host run ahead, so that its own time is not measured.
    """

    def __init__(self, file: str) -> None:
        import torch

        super().__init__(file, device=torch.cuda.get_device_name(0))
        self._event: Any = torch.cuda.Event
        l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        self._flush = torch.empty(max(4 * l2_bytes, 256 << 20), dtype=torch.uint8, device="cuda")

    def time(self, callables: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Time all callables in turn, `rounds` times, and return seconds per call by name."""
        for call in callables.values():
            for _ in range(3):
                call()
        times: dict[str, list[float]] = {name: [] for name in callables}
        order = list(callables)
        for _ in range(rounds):
            order.append(order.pop(0))
            for name in order:
                start, stop = (self._event(enable_timing=True) for _ in range(2))
                self._flush.zero_()
                start.record()
                callables[name]()
                stop.record()
                stop.synchronize()
                times[name].append(start.elapsed_time(stop) / 1e3)
        return times

    def median_ms(self, call: Callable[[], Any]) -> float:
        """Return the median time of one callable."""
        return statistics.median(self.time({"call": call}, 6 if self._quick else ROUNDS)["call"]) * 1e3

    def save(self) -> None:
        """Write results/<GPU>.json, the compile gate and the tables in the README; with ``--quick`` only show them."""
        super().save()
        if not self._quick:
            write_resources(self._folder)


def without_gpu(file: str) -> None:
    """Do what a benchmark.py can do without a GPU: run the compile gate, and say what was not run."""
    folder = Path(file).resolve().parent
    print("NOT RUN: no CUDA device on this machine, so nothing was timed. The compile gate alone:")
    if "--quick" in sys.argv or "--practice" in sys.argv:
        compiled = ROOT / "practice" / folder.name if "--practice" in sys.argv else folder
        for path in sorted((compiled / "kernels").glob("*.cu")):
            for kernel in compile_kernel(path):
                print(f"  {path.name}: {kernel}")
        return
    write_resources(folder)
    print("wrote results/resources.json and the tables in MEASURED.md")


def write_resources(folder: Path) -> None:
    """Write results/resources.json from the compile gate, in the format of a benchmark's results."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "kernels").glob("*.cu")):
        found = compile_kernel(path)
        for arch in ARCHITECTURES:
            rows.append(
                _resource_row(f"{path.name}, {arch}", [kernel for kernel in found if kernel.arch == arch])
            )
    listed = folder / "tests" / "ahead_of_time.json"
    for kernel in compile_triton(folder / "triton_kernels.py", listed):
        rows.append(_resource_row(f"Triton: {kernel.kernel}, {kernel.arch}", [kernel]))
    others = [path for path in folder.glob("results/*.json") if path.stem not in ("demo", "resources")]
    if not others:
        state = (
            "NOT RUN: no GPU result is committed; on a GPU, python benchmark.py writes results/<device>.json"
        )
        rows.append({"group": "on a GPU", "case": "all targets", "columns": {"state": state}})
    where = provenance(1, f"compiled with nvcc {nvcc_version()}, not run")
    result = {"provenance": where, "rows": rows}
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "resources.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    fill_readme(folder / "README.md")
    fill_measured(folder / "MEASURED.md")


def _resource_row(case: str, kernels: list[Resources]) -> dict[str, Any]:
    """Return one row for the entry points of a file (one for each dtype): the range of what they take."""

    def span(values: list[int]) -> str:
        return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"

    columns = {
        "entry points": str(len(kernels)),
        "registers per thread": span([kernel.registers for kernel in kernels]),
        "bytes spilled": span([kernel.spilled_bytes + kernel.stack_bytes for kernel in kernels]),
        "bytes of static shared memory": span([kernel.shared_bytes for kernel in kernels]),
    }
    return {"group": "compile gate", "case": case, "columns": columns}
