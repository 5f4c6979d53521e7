"""Measure side by side, keep the provenance, and never report a time alone: a result is a ratio to a peer."""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import platform
import re
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from threadpoolctl import threadpool_limits

from shared.measuring.device import cpu_name
from shared.measuring.readme import benchmark_tables, fill_readme

ROUNDS = 30
SAMPLE_SECONDS = 0.002  # a sample repeats fast calls until it lasts this long
PACKAGES = (
    *("numpy", "scipy", "torch", "scikit-learn", "transformers", "diffusers", "torchao", "tensorboard"),
    *("triton", "pycuda"),
)


def interleave(
    callables: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = ROUNDS,
    sample_seconds: float = SAMPLE_SECONDS,
) -> dict[str, list[float]]:
    """Time all callables in turn, `rounds` times, and return seconds per call by name.

    Each round calls every candidate once (or often enough to fill `sample_seconds`), starting with a different one, so
    that a slow phase of the machine and the caches left by the neighbour hit all of them alike.
    """
    repeats = {}
    for name, call in callables.items():  # warm up, and see how long one call takes
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(sample_seconds / max(time.perf_counter() - start, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in callables}
    order = list(callables)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            order.append(order.pop(0))
            for name in order:
                call, count = callables[name], repeats[name]
                call()  # bring this candidate's own data back into the caches
                start = time.perf_counter()
                for _ in range(count):
                    call()
                times[name].append((time.perf_counter() - start) / count)
    finally:
        if collecting:
            gc.enable()
    return times


def peak_extra_bytes(function: Callable[[], Any]) -> int:
    """Return how many bytes `function` held at its peak beyond what was allocated before (NumPy reports its own)."""
    function()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class Benchmark:
    """One benchmark.py: its rows, the machine they were measured on, and the file they go to.

    `device` names what was measured where it is not the CPU.
    """

    def __init__(self, file: str, *, threads: int = 1, device: str | None = None) -> None:
        parser = argparse.ArgumentParser(description=f"Benchmark of {Path(file).resolve().parent.name}.")
        parser.add_argument(
            "--quick", action="store_true", help="few rounds; shows the tables, writes nothing"
        )
        self._quick = parser.parse_args().quick
        self._folder = Path(file).resolve().parent
        self._threads = threads
        self._device = device
        self._limits = threadpool_limits(threads)  # BLAS and OpenMP of this process, until it ends
        _limit_torch(threads)
        self._rows: list[dict[str, Any]] = []
        self.console = Console()

    def time(self, callables: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Time all callables in turn, `rounds` times, and return seconds per call by name."""
        return interleave(callables, rounds=rounds)

    def compare(
        self,
        group: str,
        case: str,
        *,
        ours: Callable[[], Any],
        peers: Mapping[str, Callable[[], Any]],
        targets: Mapping[str, float] | None = None,
        note: str | None = None,
        rounds: int = ROUNDS,
    ) -> None:
        """Time `ours` beside `peers` and keep one row.

        A ratio is the median over rounds of (peer's time / our time), with its quartiles: above 1, ours is faster.
        `ours` runs twice in each round; the ratio of the two shows the noise. `targets` are least ratios wanted.
        Fewer `rounds` are for calls that take seconds.
        """
        times = self.time({"ours": ours, "again": ours, **peers}, min(6, rounds) if self._quick else rounds)
        ratios = {}
        for name in ("again", *peers):
            low, middle, high = statistics.quantiles(
                [peer / own for peer, own in zip(times[name], times["ours"], strict=True)],
                n=4,
                method="inclusive",
            )
            ratios[name] = {"median": middle, "low": low, "high": high}
        noise = ratios.pop("again")
        milliseconds = {name: statistics.median(t) * 1e3 for name, t in times.items() if name != "again"}
        row = {
            "group": group,
            "case": case,
            "milliseconds": milliseconds,
            "ratios": ratios,
            "noise": max(abs(noise["low"] - 1), abs(noise["high"] - 1)),
            "targets": dict(targets or {}),
            "note": note,
        }
        self._rows.append(row)
        shown = "  ".join(f"{name} x{ratio['median']:.2f}" for name, ratio in ratios.items())
        self.console.print(f"{group}: {case}  {milliseconds['ours']:.4g} ms  {shown}", highlight=False)

    def record(self, group: str, case: str, columns: Mapping[str, str]) -> None:
        """Keep a row that is not a timing (memory, FLOPs, a count)."""
        self._rows.append({"group": group, "case": case, "columns": dict(columns)})
        self.console.print(
            f"{group}: {case}  {'  '.join(f'{k} {v}' for k, v in columns.items())}", highlight=False
        )

    def save(self) -> None:
        """Write results/<device>.json and the tables in the README; with ``--quick`` only show them."""
        where = provenance(self._threads, self._device)
        result = {"provenance": where, "rows": self._rows}
        if self._quick:
            self.console.print(benchmark_tables([result]), markup=False, highlight=False)
            return
        results = self._folder / "results"
        results.mkdir(exist_ok=True)
        path = results / f"{device_slug(where['device'])}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        self.console.print(f"wrote {path.relative_to(self._folder)}", highlight=False)
        try:
            fill_readme(self._folder / "README.md")
        except ValueError as error:  # a block of the demo that nothing has measured yet
            self.console.print(f"README.md is not filled: {error}", highlight=False, markup=False)


def _limit_torch(threads: int) -> None:
    """Pin torch's own pool as well, where torch is installed."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)


def provenance(threads: int, device: str | None = None) -> dict[str, Any]:
    """Return where, when and with what a measurement was made."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": device or cpu_name(),
        "threads": threads,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
    }


def _commit() -> str:
    """Return the commit that was measured, marked when tracked files other than results and READMEs differ from it."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
    try:
        head = _output([*git, "rev-parse", "--short=12", "HEAD"])
        generated = [":(exclude,glob)**/results/**", ":(exclude,glob)**/README.md"]
        changed = _output([*git, "status", "--porcelain", "--untracked-files=no", "--", ".", *generated])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with local changes" if changed else head


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def device_slug(device: str) -> str:
    """Return a file name for a device: 'AMD EPYC 7B13' -> 'amd-epyc-7b13'."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", device.lower())).strip("-")
