"""Measure side by side, keep the provenance, and never report a time alone: a result is a ratio to a peer."""

from __future__ import annotations

import argparse
import datetime
import functools
import gc
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from threadpoolctl import threadpool_limits

from shared.measuring.device import cpu_name
from shared.measuring.readme import benchmark_tables, fill_measured, fill_readme
from shared.projects import ROOT, load_project

ROUNDS = 30
SAMPLE_SECONDS = 0.002  # a sample repeats fast calls until it lasts this long
PACKAGES = (
    *("numpy", "scipy", "torch", "scikit-learn", "transformers", "diffusers", "torchao", "tensorboard"),
    *("triton", "pycuda", "gymnasium", "stable-baselines3", "vector-quantize-pytorch"),
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

    `device` names what was measured where it is not the CPU. With ``--practice`` the script starts again, with the
    learner's files in the place of the reference.
    """

    def __init__(self, file: str, *, threads: int = 1, device: str | None = None) -> None:
        self._folder = Path(file).resolve().parent
        parser = argparse.ArgumentParser(description=f"Benchmark of {self._folder.name}.")
        parser.add_argument(
            "--quick", action="store_true", help="few rounds; shows the tables, writes nothing"
        )
        parser.add_argument(
            "--practice", action="store_true", help="measure the files in practice/, as quickly"
        )
        options = parser.parse_args()
        self._quick = options.quick or options.practice
        self.console = Console()
        if options.practice:
            self.console.print(
                f"measuring {put_practice_in_front(Path(file).resolve())}", markup=False, highlight=False
            )
        self._threads = threads
        self._device = device
        self._limits = threadpool_limits(threads)  # BLAS and OpenMP of this process, until it ends
        _limit_torch(threads)
        self._rows: list[dict[str, Any]] = []

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
        name: str = "ours",
        rounds: int = ROUNDS,
    ) -> None:
        """Time `ours` beside `peers` and keep one row.

        A ratio is the median over rounds of (peer's time / our time), with its quartiles: above 1, ours is faster.
        `ours` runs twice in each round; the ratio of the two shows the noise. `targets` are least ratios wanted.
        `name` is what the tables call ours, the same for all rows of a group. Fewer `rounds` are for calls that take
        seconds.
        """
        times = self.time({"ours": ours, "again": ours, **peers}, min(6, rounds) if self._quick else rounds)
        ratios = {}
        for peer in ("again", *peers):
            low, middle, high = statistics.quantiles(
                [theirs / own for theirs, own in zip(times[peer], times["ours"], strict=True)],
                n=4,
                method="inclusive",
            )
            ratios[peer] = {"median": middle, "low": low, "high": high}
        noise = ratios.pop("again")
        milliseconds = {key: statistics.median(t) * 1e3 for key, t in times.items() if key != "again"}
        row = {
            "group": group,
            "case": case,
            "name": name,
            "milliseconds": milliseconds,
            "ratios": ratios,
            "noise": max(abs(noise["low"] - 1), abs(noise["high"] - 1)),
            "targets": dict(targets or {}),
            "note": note,
        }
        self._rows.append(row)
        shown = "  ".join(f"{peer} x{ratio['median']:.2f}" for peer, ratio in ratios.items())
        self.console.print(f"{group}: {case}  {milliseconds['ours']:.4g} ms  {shown}", highlight=False)

    def record(self, group: str, case: str, columns: Mapping[str, str]) -> None:
        """Keep a row that is not a timing (memory, FLOPs, a count)."""
        self._rows.append({"group": group, "case": case, "columns": dict(columns)})
        self.console.print(
            f"{group}: {case}  {'  '.join(f'{k} {v}' for k, v in columns.items())}", highlight=False
        )

    def save(self) -> None:
        """Write results/<device>.json, MEASURED.md and the README's blocks; with ``--quick`` only show the tables."""
        where = provenance(self._threads, self._device)
        result = {"provenance": where, "rows": self._rows}
        if self._quick:
            self.console.print(benchmark_tables([result]), markup=False, highlight=False, soft_wrap=True)
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
        fill_measured(self._folder / "MEASURED.md")


# --- practice ---------------------------------------------------------------------------------------------------


def put_practice_in_front(file: Path) -> str:
    """Make a benchmark import the learner's files, and say which; what she does not have comes from the reference.

    By now the reference is imported, so the script starts again, with her folder first on the path of this process and
    of those that it starts.

    Raises
    ------
    SystemExit
        If she has no file of this project.
    """
    project, practice = load_project(file.parent), ROOT / "practice" / file.parent.name
    hers = [source for source in project.sources if (practice / source).exists()]
    if not hers:
        raise SystemExit(f"no {project.name}.py in {practice}: nox -s practice -- {project.name} writes it")
    if str(practice) not in sys.path:
        path = os.pathsep.join([str(practice), str(file.parent), os.environ.get("PYTHONPATH", "")])
        sys.stdout.flush()
        os.execve(
            sys.executable,
            [sys.executable, str(file), *sys.argv[1:]],
            {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "PYTHONSAFEPATH": "1"},
        )
    sys.excepthook = functools.partial(_say_what_is_not_written, practice)
    others = [source for source in project.sources if source not in hers]
    rest = f"; {', '.join(others)} of the reference" if others else ""
    return f"{', '.join(hers)} in {practice.relative_to(ROOT)}{rest}"


def _say_what_is_not_written(
    practice: Path, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print one line for a function of the learner that is still blank; any other error as Python does."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(trace)]
    if kind is NotImplementedError and codes and Path(codes[-1].co_filename).is_relative_to(practice):
        where = Path(codes[-1].co_filename).relative_to(practice)
        print(f"{where}: {codes[-1].co_qualname} is not written yet", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# --- provenance -------------------------------------------------------------------------------------------------


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
    """Return the commit that was measured, marked when tracked files that are not generated differ from it."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
    try:
        head = _output([*git, "rev-parse", "--short=12", "HEAD"])
        names = (
            "results/**",
            "README.md",
            "CONTRIBUTING.md",
            "MEASURED.md",
            "grading_times.json",
            "mutation_scores.json",
        )
        generated = [f":(exclude,glob)**/{name}" for name in names]
        changed = _output([*git, "status", "--porcelain", "--untracked-files=no", "--", ".", *generated])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with local changes" if changed else head


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def device_slug(device: str) -> str:
    """Return a file name for a device: 'AMD EPYC 7B13' -> 'amd-epyc-7b13'."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", device.lower())).strip("-")
