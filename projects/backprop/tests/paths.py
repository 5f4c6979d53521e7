"""Where an optimizer must arrive: the running means written out as sums, never as a recursion."""

import numpy as np

from shared.testing.gradients import random_cotangent

SHAPES = {"weight": (3, 4), "bias": (3,), "other": (3, 4), "scale": (1,)}
STEPS = 100


def start(rng, dtype=np.float64):
    """Return parameters, and gradients for a hundred steps whose sizes differ widely from one entry to another."""
    parameters = {name: random_cotangent(shape, rng).astype(dtype) for name, shape in SHAPES.items()}
    sizes = {name: 10 ** rng.uniform(-3, 1, shape) for name, shape in SHAPES.items()}
    gradients = [
        {
            name: np.asarray(sizes[name] * (0.3 + rng.standard_normal(SHAPES[name])), dtype)
            for name in reversed(SHAPES)
        }
        for _ in range(STEPS)
    ]
    return parameters, gradients


def run(optimizer, parameters, gradients, lrs=None):
    """Return the parameters after one step per entry of `gradients`; `lrs` is a schedule.

    Each time dicts and arrays are new and the order is another: what an optimizer remembers belongs to a name.
    """
    for t, gradient in enumerate(gradients):
        optimizer.lr = optimizer.lr if lrs is None else lrs[t]
        parameters = {name: parameters[name].copy() for name in reversed(parameters)}
        optimizer.step(dict(parameters), dict(gradient))
    return parameters


def one_by_one(optimizer, gradients):
    """Return where a parameter is after each step from 1, beside a twin that must do the same."""
    parameters, path = {"theta": np.array([1.0]), "twin": np.array([1.0])}, []
    for gradient in gradients:
        optimizer.step(parameters, {name: np.array([gradient]) for name in parameters})
        path.append(parameters["theta"][0])
        if len(path) > 1:
            assert parameters["theta"][0] == parameters["twin"][0], (
                "two parameters with the same gradients went apart: t counts steps, not parameters; the rest is kept by name"
            )
    return np.array(path)


def _weighted(gradients, beta, t):
    """Return ``Σ βᵗ⁻ˢ g_s`` over the steps s up to t, counted from 0."""
    weights = beta ** np.arange(t, -1, -1.0)
    return np.tensordot(weights, gradients[: t + 1], axes=1)


def momentum_path(first, gradients, *, lr, momentum, nesterov=False):
    """Return the parameter after each step: θ₀ - Σ lr · v with v the sum of all gradients, weighted by age."""
    lr = np.broadcast_to(lr, len(gradients))
    updates = []
    for t, gradient in enumerate(gradients):
        velocity = _weighted(gradients, momentum, t)
        updates.append(lr[t] * (gradient + momentum * velocity if nesterov else velocity))
    return first - np.cumsum(updates, axis=0)


def adam_path(first, gradients, *, lr, betas, eps, corrected=True, eps_inside=False):
    """Return the parameter after each step: m̂ and v̂ are the weighted means of the gradients and of their squares."""
    lr = np.broadcast_to(lr, len(gradients))
    updates = []
    for t in range(len(gradients)):
        sums = [
            _weighted(values, beta, t) for values, beta in zip((gradients, gradients**2), betas, strict=True)
        ]
        weights = [(beta ** np.arange(t + 1.0)).sum() if corrected else 1 / (1 - beta) for beta in betas]
        m, v = (total / weight for total, weight in zip(sums, weights, strict=True))
        updates.append(lr[t] * m / (np.sqrt(v + eps) if eps_inside else np.sqrt(v) + eps))
    return first - np.cumsum(updates, axis=0)
