"""Networks with given weights, and what torch makes of them: shared by the tests of this project."""

from itertools import pairwise

import numpy as np
import torch

import mlp_forward

TORCH_ACTIVATIONS = {
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "identity": torch.nn.Identity,
}


def network(*layers, dtype=np.float64, activation="relu"):
    """Build the learner's network with these (weight, bias) pairs."""
    sizes = [np.shape(layers[0][0])[1], *(len(bias) for _, bias in layers)]
    mlp = mlp_forward.MLP(sizes, activation=activation, rng=np.random.default_rng(0), dtype=dtype)
    for (weight, bias), (wanted_weight, wanted_bias) in zip(mlp.layers, layers, strict=True):
        weight[...], bias[...] = wanted_weight, wanted_bias
    return mlp


def random_network(sizes, rng, dtype=np.float64, activation="relu"):
    """Build a network with random weights and, unlike a fresh one, random biases."""
    pairs = [
        (rng.normal(0, (2 / n_in) ** 0.5, (n_out, n_in)), rng.normal(0, 0.5, n_out))
        for n_in, n_out in pairwise(sizes)
    ]
    return network(*pairs, dtype=dtype, activation=activation)


def torch_outputs(mlp, x, activation="relu"):
    """Every layer's output by torch, in float64: hidden layers after their activation, then the logits."""
    h, outputs = torch.tensor(np.asarray(x, np.float64)), []
    for k, (weight, bias) in enumerate(mlp.layers):
        parameters = (torch.tensor(np.array(p, np.float64, order="C")) for p in (weight, bias))
        h = torch.nn.functional.linear(h, *parameters)
        h = TORCH_ACTIVATIONS[activation]()(h) if k < len(mlp.layers) - 1 else h
        outputs.append(h.numpy())
    return outputs
