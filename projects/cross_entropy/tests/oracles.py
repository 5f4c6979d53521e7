"""Expected values that the test files share: fractions worked out by hand, and torch in float64."""

import numpy as np
import pytest
import torch

BOTH = pytest.mark.parametrize("function", ["cross_entropy", "cross_entropy_grad"])

# Softmax of these rows has the denominators 8, 8, 10 and 5; the targets have 5/8, 1/2, 1/5 and 3/5 of it.
COUNTS = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 1.0], [2.0, 2.0, 6.0], [3.0, 1.0, 1.0]])
LOGITS = np.log(COUNTS)
SOFTMAX = COUNTS / COUNTS.sum(axis=1, keepdims=True)
TARGETS = np.array([2, 0, 1, 0])
ONE_HOT = np.eye(3)[TARGETS]
LOSSES = np.log([8 / 5, 2.0, 5.0, 5 / 3])
WEIGHT = np.array([1.0, 2.5, 4.0])
TARGET_WEIGHT = WEIGHT[TARGETS]


def torch_oracle(logits, targets, **options):
    """Return torch's loss and gradient in float64."""
    if options.get("weight") is not None:
        options["weight"] = torch.tensor(options["weight"], dtype=torch.float64)
    targets = np.array(targets)
    x = torch.tensor(np.array(logits, dtype=np.float64), requires_grad=True)
    t = torch.tensor(targets, dtype=torch.float64 if targets.dtype.kind == "f" else torch.int64)
    loss = torch.nn.functional.cross_entropy(x, t, **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


def oracle_of(function, *args, **options):
    return torch_oracle(*args, **options)[function == "cross_entropy_grad"]


def random_probabilities(rng, shape):
    """Return positive numbers that sum to one over the class axis."""
    p = rng.uniform(0.1, 1.0, shape)
    return p / p.sum(axis=min(1, len(shape) - 1), keepdims=True)
