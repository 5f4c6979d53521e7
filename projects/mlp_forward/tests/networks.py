"""Networks with given weights, and what they compute, neuron by neuron.

The oracle is scalar Python in float64 with exact sums (``math.fsum``): no matrix product, no broadcasting.
"""

import math
from itertools import pairwise

import numpy as np

SCALARS = {
    "relu": lambda h: h if h > 0 else 0.0,
    "tanh": math.tanh,
    "sigmoid": lambda h: 1 / (1 + math.exp(-h)) if h > -700 else 0.0,
    "identity": lambda h: h,
}


def network(module, *layers, dtype=np.float64, activation="relu"):
    """Build the answer's network with these (weight, bias) pairs."""
    sizes = [np.shape(layers[0][0])[1], *(len(bias) for _, bias in layers)]
    mlp = module.MLP(sizes, activation=activation, rng=np.random.default_rng(0), dtype=dtype)
    for (weight, bias), (wanted_weight, wanted_bias) in zip(mlp.layers, layers, strict=True):
        weight[...], bias[...] = wanted_weight, wanted_bias
    return mlp


def random_network(module, sizes, rng, dtype=np.float64, activation="relu"):
    """Build a network with random weights and, unlike a fresh one, random biases."""
    pairs = [
        (rng.normal(0, (2 / n_in) ** 0.5, (n_out, n_in)), rng.normal(0, 0.5, n_out))
        for n_in, n_out in pairwise(sizes)
    ]
    return network(module, *pairs, dtype=dtype, activation=activation)


def one_layer(x, weight, bias):
    """Each output is the exact sum of its products."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    y = np.empty((*x.shape[:-1], len(weight)))
    for at in np.ndindex(y.shape):
        y[at] = math.fsum(
            [*(float(a) * float(b) for a, b in zip(x[at[:-1]], weight[at[-1]], strict=True)), bias[at[-1]]]
        )
    return y


def outputs_of(mlp, x, activation="relu"):
    """Every layer's output: hidden layers after their activation, then the logits."""
    h, outputs = np.asarray(x, np.float64), []
    for k, (weight, bias) in enumerate(mlp.layers):
        h = one_layer(h, weight, bias)
        if k < len(mlp.layers) - 1:
            h = np.vectorize(SCALARS[activation], otypes=[np.float64])(h)
        outputs.append(h)
    return outputs


def logits_of(mlp, x, activation="relu"):
    return outputs_of(mlp, x, activation)[-1]


def softmax(logits, axis=-1):
    """The smallest odds first: each probability is 1 over the sum of its odds against every class."""
    logits = np.moveaxis(np.asarray(logits), axis, -1)
    p = np.empty(logits.shape)
    for at in np.ndindex(p.shape):
        differences = logits[at[:-1]] - logits[at]
        p[at] = 0.0 if differences.max() > 700 else 1 / math.fsum(math.exp(d) for d in differences)
    return np.moveaxis(p, -1, axis)
