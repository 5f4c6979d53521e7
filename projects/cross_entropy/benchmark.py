"""The loss and its gradient, plain and in blocks, beside SciPy and torch: one thread, one process; ``python benchmark.py``.

SciPy's way to the loss is ``log_softmax`` and one index per row; torch's is ``cross_entropy``, and autograd for the gradient.
"plain" is cross_entropy.py. The limit is one pass over the logits: "copy" is ``np.copyto`` into memory that is there already.
Memory is the peak beyond what was held before, as NumPy reports it.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax

import blocked
import cross_entropy as plain

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark, peak_extra_bytes

SHAPES = [(64, 1000), (4096, 4096), (1_000_000, 10)]
LARGE = {(4096, 4096), (1_000_000, 10)}


def scipy_loss(logits: Any, targets: Any) -> Any:
    """Return the loss as one writes it with SciPy."""
    return -log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean()


def torch_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the gradient by autograd."""
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(torch.nn.functional.cross_entropy(leaf, targets), leaf)[0]


def compare(bench: Benchmark, shape: tuple[int, int], dtype: Any, rng: np.random.Generator) -> None:
    """Time the plain loss at one shape; in float32 also its gradient and the loss with label smoothing."""
    x = 3 * rng.standard_normal(shape, dtype=dtype)
    t = rng.integers(0, shape[1], shape[0])
    x_torch, t_torch, copy = torch.from_numpy(x), torch.from_numpy(t), np.empty_like(x)
    add = functools.partial(bench.compare, case=f"{np.dtype(dtype)} {shape}", name="blocked")
    add(
        "loss",
        ours=lambda: blocked.cross_entropy(x, t),
        peers={
            "plain": lambda: plain.cross_entropy(x, t),
            "scipy": lambda: scipy_loss(x, t),
            "torch": lambda: torch.nn.functional.cross_entropy(x_torch, t_torch),
            "copy": lambda: np.copyto(copy, x),
        },
        targets={"scipy": 2.5} if shape in LARGE else None,
    )
    if dtype == np.float64:
        return
    add(
        "gradient",
        ours=lambda: blocked.cross_entropy_grad(x, t),
        peers={
            "plain": lambda: plain.cross_entropy_grad(x, t),
            "torch": lambda: torch_gradient(x_torch, t_torch),
        },
    )
    add(
        "loss with label smoothing",
        ours=lambda: blocked.cross_entropy(x, t, label_smoothing=0.1),
        peers={
            "plain": lambda: plain.cross_entropy(x, t, label_smoothing=0.1),
            "torch": lambda: torch.nn.functional.cross_entropy(x_torch, t_torch, label_smoothing=0.1),
        },
    )
    if shape in LARGE:
        calls = {"blocked": blocked.cross_entropy, "plain": plain.cross_entropy, "scipy": scipy_loss}
        for name, call in calls.items():
            extra = peak_extra_bytes(functools.partial(call, x, t))
            columns = {"peak": f"{extra / 1e6:.1f} MB", "of the logits": f"{extra / x.nbytes:.1%}"}
            bench.record("memory beside the logits, loss", f"{name}, {np.dtype(dtype)} {shape}", columns)


def main() -> None:
    """Measure, and write results/ and MEASURED.md."""
    bench = Benchmark(__file__, threads=1)
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for shape in SHAPES:
            compare(bench, shape, dtype, rng)
    for shape, axis in (((64, 4096), 1), ((10, 26_214), 0)):  # one block each
        block = rng.random(shape, dtype=np.float32)
        ones = np.ones(shape[axis], np.float32)
        bench.compare(
            "sums over the classes of one block",
            f"float32 {shape}, axis {axis}",
            ours=lambda a=block, b=ones, axis=axis: a @ b if axis else b @ a,  # type: ignore[misc]
            peers={"sum(axis)": lambda a=block, axis=axis: a.sum(axis)},  # type: ignore[misc]
        )
    bench.save()


if __name__ == "__main__":
    main()
