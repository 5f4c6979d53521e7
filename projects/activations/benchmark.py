"""Time softmax and sigmoid beside SciPy, torch and a plain copy, one thread; ``python benchmark.py [--quick]``.

"Fresh output" includes the page faults of a newly allocated array, which dominate large ones; with ``out=`` both sides
write to memory that exists. A copy is the least that any of these can cost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F

import activations

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.bench import Benchmark, peak_extra_bytes

SHAPES = [(64, 1000), (4096, 4096), (1_000_000, 10)]
DTYPES = [np.float32, np.float64]

# (function, shape, dtype, output) -> least ratio wanted
TARGETS: dict[tuple[str, tuple[int, int], str], dict[str, float]] = {
    ("softmax", (64, 1000), "float32"): {"scipy": 1.4},
    ("softmax", (4096, 4096), "float32"): {"scipy": 2.4, "torch": 1 / 1.6},
    ("softmax", (1_000_000, 10), "float32"): {"scipy": 6.0, "torch": 1.0},
    ("softmax", (64, 1000), "float64"): {"scipy": 1.0},
    ("softmax", (4096, 4096), "float64"): {"scipy": 1.0},
    ("softmax", (1_000_000, 10), "float64"): {"scipy": 1.0, "torch": 1.0},
    ("sigmoid", (4096, 4096), "float32"): {"scipy": 4.5},
    ("sigmoid", (1_000_000, 10), "float32"): {"scipy": 4.5},
    ("sigmoid", (4096, 4096), "float64"): {"scipy": 4.5},
    ("sigmoid", (1_000_000, 10), "float64"): {"scipy": 4.5},
}
