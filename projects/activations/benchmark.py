"""Time softmax and sigmoid, plain and fast, beside SciPy and torch, one thread; ``python benchmark.py [--quick]``.

"fresh output" allocates the result, so that the page faults of new memory count, which dominate large arrays. With
``out=`` the result goes to memory that exists, except in activations.py and SciPy's softmax, which have no ``out=`` and
allocate there too. The copy is the least that any of these can cost.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import torch

import activations
import fast

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark, peak_extra_bytes

SHAPES = [(64, 1000), (4096, 4096), (1_000_000, 10)]
FRESH, INTO = "fresh output", "out="

# least ratios wanted: (function, shape, dtype, output) -> {peer: ratio}; float64 softmax is never slower than SciPy
TARGETS: dict[tuple[str, tuple[int, int], str, str], dict[str, float]] = {
    ("softmax", (64, 1000), "float32", FRESH): {"scipy": 1.4},
    ("softmax", (4096, 4096), "float32", FRESH): {"scipy": 2.4},
    ("softmax", (1_000_000, 10), "float32", FRESH): {"scipy": 6.0, "torch": 1.0},
    ("softmax", (64, 1000), "float32", INTO): {"scipy": 1.4},
    ("softmax", (4096, 4096), "float32", INTO): {"torch": 1 / 1.6},
    ("softmax", (1_000_000, 10), "float32", INTO): {"torch": 1.0},
    **{("softmax", shape, "float64", FRESH): {"scipy": 1.0} for shape in SHAPES},
    **{
        ("sigmoid", shape, dtype, output): {"scipy": 4.5}
        for shape in SHAPES[1:]
        for dtype in ("float32", "float64")
        for output in (FRESH, INTO)
    },
}


def compare_softmax(bench: Benchmark, x: Any, case: str, targets: dict[str, dict[str, float]]) -> None:
    """Add the two rows of softmax for one input."""
    tensor, out = torch.from_numpy(x), np.empty_like(x)
    tensor_out = torch.empty_like(tensor)
    allocating = {
        "plain": lambda: activations.softmax(x),
        "scipy": lambda: scipy.special.softmax(x, axis=-1),
    }
    fresh = {**allocating, "torch": lambda: torch.softmax(tensor, -1), "copy": lambda: x.copy()}
    into = {
        **allocating,
        "torch": lambda: torch.softmax(tensor, -1, out=tensor_out),
        "copy": lambda: np.copyto(out, x),
    }
    add = functools.partial(bench.compare, case=case, name="fast")
    add(f"softmax, {FRESH}", ours=lambda: fast.softmax(x), peers=fresh, targets=targets[FRESH])
    add(
        f"softmax, {INTO}",
        ours=lambda: fast.softmax(x, out=out),
        peers=into,
        targets=targets[INTO],
        note="plain and scipy allocate",
    )


def compare_sigmoid(bench: Benchmark, x: Any, case: str, targets: dict[str, dict[str, float]]) -> None:
    """Add the two rows of sigmoid for one input."""
    tensor, out = torch.from_numpy(x), np.empty_like(x)
    tensor_out = torch.empty_like(tensor)
    fresh = {
        "plain": lambda: activations.sigmoid(x),
        "scipy": lambda: scipy.special.expit(x),
        "torch": lambda: torch.sigmoid(tensor),
        "copy": lambda: x.copy(),
    }
    into = {
        "plain": lambda: activations.sigmoid(x),
        "scipy": lambda: scipy.special.expit(x, out=out),
        "torch": lambda: torch.sigmoid(tensor, out=tensor_out),
        "np.exp alone": lambda: np.exp(x, out=out),
        "copy": lambda: np.copyto(out, x),
    }
    add = functools.partial(bench.compare, case=case, name="fast")
    add(f"sigmoid, {FRESH}", ours=lambda: fast.sigmoid(x), peers=fresh, targets=targets[FRESH])
    add(
        f"sigmoid, {INTO}",
        ours=lambda: fast.sigmoid(x, out=out),
        peers=into,
        targets=targets[INTO],
        note="plain allocates",
    )


def compare_memory(bench: Benchmark, x: Any) -> None:
    """Add the rows that say how much memory a softmax takes beyond its input."""
    calls: dict[str, Callable[[], Any]] = {
        "fast.softmax(x, out=x)": lambda: fast.softmax(x, out=x),
        "activations.softmax(x)": lambda: activations.softmax(x),
        "scipy.special.softmax(x)": lambda: scipy.special.softmax(x, axis=-1),
    }
    for name, call in calls.items():
        peak = peak_extra_bytes(call)
        columns = {
            "peak extra memory": f"{peak / 1e6:.1f} MB",
            "share of the array": f"{peak / x.nbytes:.1%}",
        }
        bench.record("memory, float32 (4096, 4096)", name, columns)


def main() -> None:
    """Measure every function, dtype and shape."""
    bench = Benchmark(__file__, threads=1)
    rng = np.random.default_rng(0)
    for name, compare in (("softmax", compare_softmax), ("sigmoid", compare_sigmoid)):
        for dtype in ("float32", "float64"):
            for shape in SHAPES:
                x = rng.normal(0, 3, shape).astype(dtype)
                targets = {output: TARGETS.get((name, shape, dtype, output), {}) for output in (FRESH, INTO)}
                compare(bench, x, f"{dtype} {shape}", targets)
    compare_memory(bench, rng.normal(0, 3, (4096, 4096)).astype(np.float32))
    bench.save()


if __name__ == "__main__":
    main()
