"""Batch and layer norm as formulas, right and wrong."""

import numpy as np


def normalise(x, parameters, axis, eps, *, ddof=0):
    """Batch and layer norm as one analytic formula: no abs, so complex numbers pass through."""
    centred = x - x.mean(axis=axis, keepdims=True)
    n = x.shape[axis] - ddof
    variance = (centred**2).sum(axis=axis, keepdims=True) / n
    return parameters["weight"] * centred / np.sqrt(variance + eps) + parameters["bias"]


def wrong_normalisation_gradient(axis, eps, which):
    """Return dL/dx of a norm with one of its paths forgotten."""

    def gradient(x, g, p):
        centred = x - x.mean(axis, keepdims=True)
        inv_std = 1 / np.sqrt((centred**2).mean(axis, keepdims=True) + eps)
        g, x_hat = g * p["weight"], centred * inv_std
        terms = {
            "both": g,
            "mean": g - x_hat * (g * x_hat).mean(axis, keepdims=True),
            "std": g - g.mean(axis, keepdims=True),
        }
        return inv_std * terms[which]

    return gradient


def norm_mistakes(axis, eps):
    return {
        "the backward pass treats mean and variance as constants: they depend on x too": (
            wrong_normalisation_gradient(axis, eps, "both")
        ),
        "the backward pass forgets the path through the mean": wrong_normalisation_gradient(
            axis, eps, "mean"
        ),
        "the backward pass forgets the path through the variance": wrong_normalisation_gradient(
            axis, eps, "std"
        ),
        "the backward pass forgets the weight": lambda x, g, p: (
            wrong_normalisation_gradient(axis, eps, "mean")(x, g, {"weight": 1.0})
            - wrong_normalisation_gradient(axis, eps, "mean")(x, g, {"weight": 1.0}).mean(axis, keepdims=True)
        ),
    }
