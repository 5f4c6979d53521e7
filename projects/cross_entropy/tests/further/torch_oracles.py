"""What torch says, in float64, and targets that are probabilities."""

from __future__ import annotations

import numpy as np
import torch


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
    """Return what `function`, cross_entropy or cross_entropy_grad, is."""
    return torch_oracle(*args, **options)[function == "cross_entropy_grad"]


def random_probabilities(rng, shape):
    """Return positive numbers that sum to one over the class axis."""
    p = rng.uniform(0.1, 1.0, shape)
    return p / p.sum(axis=min(1, len(shape) - 1), keepdims=True)
