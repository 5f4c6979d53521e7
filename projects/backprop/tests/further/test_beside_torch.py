"""The core beside torch: its layers, its loss, its optimizers, all at once."""

import numpy as np
import pytest
import torch
from oracles import copies

import backprop
from shared.testing.checks import assert_close
from shared.testing.gradients import random_cotangent


@pytest.mark.grades("Linear", "ReLU", "Tanh", "Sequential", "SoftmaxCrossEntropy")
def test_gradients_match_torch(rng):
    """Loss and gradients of a network with kinks equal torch autograd's to 1e-10."""
    wide = {"rng": rng, "dtype": np.float64}
    ours = backprop.Sequential(
        backprop.Linear(7, 5, **wide),
        backprop.ReLU(),
        backprop.Linear(5, 6, **wide, bias=False),
        backprop.Tanh(),
        backprop.Linear(6, 4, **wide),
    )
    x, targets = random_cotangent((11, 7), rng), rng.integers(0, 4, 11)
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 4)
    ).double()
    for name, value in ours.parameters.items():
        value[...] = random_cotangent(value.shape, rng)
        theirs.get_parameter(name).data = torch.tensor(value)
    x_torch, loss = torch.tensor(x, requires_grad=True), backprop.SoftmaxCrossEntropy()
    expected = nn.functional.cross_entropy(theirs(x_torch), torch.tensor(targets))
    expected.backward()
    value = loss.forward(ours.forward(x, training=True), targets)
    assert_close(np.float64(value), expected.detach().numpy(), rtol=1e-12, what="loss")
    assert_close(ours.backward(loss.backward()), x_torch.grad.numpy(), rtol=1e-10, what="gradient of x")
    for name, parameter in theirs.named_parameters():
        assert_close(ours.gradients[name], parameter.grad.numpy(), rtol=1e-10, what=f"gradient of {name}")


@pytest.mark.parametrize(
    ("function", "options"),
    [("SGD", {"lr": 0.1, "momentum": 0.9}), ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3})],
)
def test_optimizer_matches_torch(function, options, rng):
    """Fifty steps down the same bowl."""
    start, centre = random_cotangent((4, 3), rng), random_cotangent((4, 3), rng)
    curvature = 10 ** rng.uniform(-2, 0.5, (4, 3))
    parameters = copies({"theta": start})
    optimizer = getattr(backprop, function)(**options)
    theta = torch.tensor(start, requires_grad=True)
    theirs = getattr(torch.optim, function)([theta], **options)
    for _ in range(50):
        optimizer.step(parameters, {"theta": curvature * (parameters["theta"] - centre)})
        theta.grad = torch.tensor(curvature) * (theta.detach() - torch.tensor(centre))
        theirs.step()
    assert_close(parameters["theta"], theta.detach().numpy(), rtol=1e-10, what="theta after 50 steps")
