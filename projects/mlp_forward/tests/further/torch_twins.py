"""What torch makes of a network, in float64."""

import numpy as np
import torch

ACTIVATIONS = {
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "identity": torch.nn.Identity,
}


def torch_outputs(mlp, x, activation="relu"):
    """Every layer's output: hidden layers after their activation, then the logits."""
    h, outputs = torch.tensor(np.asarray(x, np.float64)), []
    for k, (weight, bias) in enumerate(mlp.layers):
        parameters = (torch.tensor(np.array(p, np.float64, order="C")) for p in (weight, bias))
        h = torch.nn.functional.linear(h, *parameters)
        h = ACTIVATIONS[activation]()(h) if k < len(mlp.layers) - 1 else h
        outputs.append(h.numpy())
    return outputs
