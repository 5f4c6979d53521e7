"""Everything together: one network to twelve digits, and one that learns."""

import numpy as np
import pytest
from oracles import copies

import backprop
from shared.testing.checks import assert_close
from shared.testing.gradients import assert_gradient, random_cotangent


@pytest.mark.grades("Linear", "Tanh", "Sequential", "SoftmaxCrossEntropy")
def test_network_matches_the_complex_step(rng):
    """Everything together: the gradient of the loss by every parameter and by the input, to twelve digits."""
    network = backprop.Sequential(
        backprop.Linear(3, 4, rng=rng, dtype=np.float64),
        backprop.Tanh(),
        backprop.Linear(4, 5, rng=rng, bias=False, dtype=np.float64),
    )
    for parameter in network.parameters.values():
        parameter[...] = random_cotangent(parameter.shape, rng)
    x, targets, rows = random_cotangent((6, 3), rng), np.array([4, 0, 3, 1, 2, 2]), np.arange(6)
    values = copies(network.parameters)

    def formula(x, p):
        z = np.tanh(x @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T
        return (np.log(np.exp(z).sum(axis=1)) - z[rows, targets]).mean()

    loss, one = backprop.SoftmaxCrossEntropy(), np.float64(1.0)
    value = loss.forward(network.forward(x, training=True), targets)
    assert_close(np.float64(value), formula(x, values), rtol=1e-12, what="loss")
    grad_x = network.backward(loss.backward())
    assert_gradient(grad_x, lambda z: formula(z, values), x, one, method="complex", what="gradient of x")
    for name in values:
        assert_gradient(
            network.gradients[name],
            lambda z, name=name: formula(x, values | {name: z}),
            values[name],
            one,
            method="complex",
            what=f"gradient of {name}",
        )


@pytest.mark.grades("Linear", "ReLU", "Sequential", "SoftmaxCrossEntropy", "Adam", "fit")
def test_learns_rings(rng):
    """A disc inside a ring, which no straight line separates, from one seed."""
    angle, labels = rng.uniform(0, 2 * np.pi, 300), np.arange(300) % 2
    radius = np.where(labels == 0, rng.uniform(0, 0.8, 300), rng.uniform(1.2, 2, 300))
    x = (radius * np.stack([np.cos(angle), np.sin(angle)])).T
    network = backprop.Sequential(
        backprop.Linear(2, 32, rng=rng, dtype=np.float64),
        backprop.ReLU(),
        backprop.Linear(32, 2, rng=rng, dtype=np.float64),
    )
    losses = backprop.fit(
        network, backprop.SoftmaxCrossEntropy(), backprop.Adam(0.02), x, labels, epochs=40, rng=rng
    )
    accuracy = float((network.forward(x).argmax(axis=1) == labels).mean())
    assert losses[-1] < losses[0] / 3, f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} only"
    assert accuracy > 0.97, f"{accuracy:.1%} of the points are right after 40 epochs, expected nearly all"
