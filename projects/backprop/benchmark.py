"""Time one epoch on the digits beside scikit-learn and a torch eager loop, one thread, the same work on each side.

All train a 64-128-10 ReLU network on the same 1437 digits with shuffled batches of 64, softmax cross-entropy and Adam at its
defaults (no weight decay). "ours" is the core with `optimizers.Adam`, which works in place; "plain Adam" is the same with the
core's. torch's optimizer is its default and, as a second peer, its fused one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import backprop as bp
import checked
import optimizers

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

BATCH, WIDTH = 64, 128


def ours(x: Any, y: Any, optimizer: Any, module: Any = bp) -> Callable[[], Any]:
    """Return one epoch of this project; `module` has the network and the loop."""
    rng = np.random.default_rng(0)
    linear = {"rng": rng, "dtype": x.dtype}
    model = module.Sequential(bp.Linear(64, WIDTH, **linear), bp.ReLU(), bp.Linear(WIDTH, 10, **linear))
    loss = module.SoftmaxCrossEntropy()
    return lambda: module.fit(model, loss, optimizer, x, y, epochs=1, batch_size=BATCH, rng=rng)


def sklearn_epoch(x: Any, y: Any) -> Callable[[], Any]:
    """Return one epoch of MLPClassifier; `partial_fit` shuffles and goes through the data once."""
    model = MLPClassifier((WIDTH,), solver="adam", alpha=0.0, batch_size=BATCH, random_state=0)
    classes = np.arange(10)
    return lambda: model.partial_fit(x, y, classes=classes)


def torch_epoch(x: Any, y: Any, *, fused: bool) -> Callable[[], Any]:
    """Return one epoch of a plain torch loop that reports its mean loss, as `fit` does."""
    torch.manual_seed(0)
    tensor, targets = torch.from_numpy(x), torch.from_numpy(y)
    layers = torch.nn.Linear(64, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 10)
    model = torch.nn.Sequential(*layers).to(tensor.dtype)
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)

    def epoch() -> float:
        order, total = torch.randperm(len(tensor)), 0.0
        for start in range(0, len(tensor), BATCH):
            batch = order[start : start + BATCH]
            loss = torch.nn.functional.cross_entropy(model(tensor[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        return total / len(tensor)

    return epoch


def main() -> None:
    """Measure in both precisions."""
    bench = Benchmark(__file__, threads=1)
    pixels, labels = load_digits(return_X_y=True)
    x, _, y, _ = train_test_split(pixels / 16, labels, test_size=360, random_state=0, stratify=labels)
    for dtype in (np.float32, np.float64):
        data = x.astype(dtype)
        bench.compare(
            "one epoch on the digits, 64-128-10, batch 64, Adam",
            np.dtype(dtype).name,
            ours=ours(data, y, optimizers.Adam(1e-3)),
            peers={
                "plain Adam": ours(data, y, bp.Adam(1e-3)),
                "checked": ours(data, y, optimizers.Adam(1e-3), checked),
                "scikit-learn": sklearn_epoch(data, y),
                "torch": torch_epoch(data, y, fused=False),
                "torch, fused Adam": torch_epoch(data, y, fused=True),
            },
            targets={"scikit-learn": 1.0, "torch": 1.0, "torch, fused Adam": 1.0},
        )
    bench.save()


if __name__ == "__main__":
    main()
