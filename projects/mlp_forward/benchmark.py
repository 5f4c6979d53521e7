"""The forward pass of 784-512-512-10, plain and fast, beside torch eager, one thread, all in one process.

torch runs without autograd (the fastest way it offers without compiling) and checks nothing; fast.py refuses NaN in the
input each time. Each makes a fresh output.

Page faults: when malloc has given freed memory back to the system, the next large array pays for fresh pages. When it
does so depends on what else the process allocated, so the large batch is also timed at both ends: glibc told to give
back what it can, and told to keep everything.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import fast
from mlp_forward import MLP

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark, peak_extra_bytes

SIZES = [784, 512, 512, 10]
TARGETS = {1: 1.0, 64: 1 / 1.1, 4096: 1.0}  # torch's time over ours, at least


def torch_twin(mlp: fast.MLP) -> torch.nn.Sequential:
    """Return the same network in torch, with the same weights."""
    modules: list[torch.nn.Module] = []
    for weight, bias in mlp.layers:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data = torch.from_numpy(np.ascontiguousarray(weight))
        layer.bias.data = torch.from_numpy(bias.copy())
        modules += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1]).eval()


def plain_twin(mlp: fast.MLP) -> MLP:
    """Return the same network of mlp_forward.py, with the same weights in row-major order."""
    twin = MLP(SIZES, rng=np.random.default_rng(0), dtype=mlp.layers[0][0].dtype)
    twin.layers = [(np.ascontiguousarray(weight), bias) for weight, bias in mlp.layers]
    return twin


def row_major(mlp: fast.MLP) -> fast.MLP:
    """Return the same network with weights in row-major order, to see what the layout is worth."""
    other = fast.MLP(SIZES, rng=np.random.default_rng(0), dtype=mlp.layers[0][0].dtype)
    other.layers = [(np.ascontiguousarray(weight), bias) for weight, bias in mlp.layers]
    return other


def page_faults(call: Callable[[], object], n: int = 5) -> float:
    """Return how many pages one call had to ask the system for."""
    import resource  # Windows has no such module, and does not come here

    call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / n


def set_malloc(threshold: int) -> bool:
    """Let glibc give back what it frees from `threshold` bytes on; False where the C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
    return bool(mallopt(m_trim_threshold, threshold)) and bool(mallopt(m_mmap_threshold, threshold))


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    torch.set_grad_enabled(False)
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        mlp = fast.MLP(SIZES, rng=rng, dtype=dtype)
        twin, plain = torch_twin(mlp), plain_twin(mlp)
        for batch in (1, 64, 4096):
            if dtype == np.float64 and batch == 4096:
                continue
            x = rng.standard_normal((batch, SIZES[0])).astype(dtype)
            tensor = torch.from_numpy(x)
            bench.compare(
                "forward pass, 784-512-512-10",
                f"{np.dtype(dtype)}, batch {batch}",
                name="fast",
                ours=lambda mlp=mlp, x=x: mlp.forward(x),  # type: ignore[misc]
                peers={
                    "torch": lambda twin=twin, tensor=tensor: twin(tensor),  # type: ignore[misc]
                    "plain": lambda plain=plain, x=x: plain.forward(x),  # type: ignore[misc]
                },
                targets={"torch": TARGETS[batch]} if dtype == np.float32 else None,
            )

    mlp = fast.MLP(SIZES, rng=rng)
    rows = row_major(mlp)
    for batch in (1, 8, 64, 1024):
        x = rng.standard_normal((batch, SIZES[0]), dtype=np.float32)
        bench.compare(
            "what the column-major weights are worth",
            f"float32, batch {batch}",
            name="fast",
            ours=lambda x=x: mlp.forward(x),  # type: ignore[misc]
            peers={"row-major": lambda x=x: rows.forward(x)},  # type: ignore[misc]
        )

    x = rng.standard_normal((4096, SIZES[0]), dtype=np.float32)
    twin, plain, tensor = torch_twin(mlp), plain_twin(mlp), torch.from_numpy(x)
    calls: dict[str, Callable[[], object]] = {
        "fast": lambda: mlp.forward(x),
        "torch": lambda: twin(tensor),
        "plain": lambda: plain.forward(x),
    }
    for case, threshold in (("memory given back", 128 << 10), ("memory kept", 1 << 30)):
        if set_malloc(threshold):
            faults = ", ".join(f"{name} {page_faults(call):.0f}" for name, call in calls.items())
            bench.compare(
                "what page faults cost, float32, batch 4096",
                case,
                name="fast",
                ours=calls["fast"],
                peers={name: calls[name] for name in ("torch", "plain")},
                targets={"torch": TARGETS[4096]},
                note=f"faults per call: {faults}",
            )
        else:
            print(f"NOT RUN: what page faults cost, {case} (needs glibc's mallopt)")
    for name in ("fast", "plain"):
        extra = peak_extra_bytes(calls[name]) - 4096 * SIZES[-1] * 4
        columns = {"peak beyond the result": f"{extra / 1e6:.1f} MB"}
        bench.record("memory, float32, batch 4096", name, columns)
    bench.save()


if __name__ == "__main__":
    main()
