"""All layers together: the gradient of a residual network to twelve digits, for every parameter."""

import numpy as np
import pytest
from norm_oracles import normalise
from oracles import copies

import backprop
import regularization
import sigmoid_mse
from shared.testing.checks import assert_close
from shared.testing.gradients import assert_gradient, random_cotangent


@pytest.mark.grades("BatchNorm", "Residual", "LayerNorm", "Sigmoid", "Linear", "Tanh", "Sequential")
def test_deep_network_matches_the_complex_step(rng):
    """Everything together, with a softmax cross-entropy written out."""
    wide = {"rng": rng, "dtype": np.float64}
    network = backprop.Sequential(
        backprop.Linear(3, 4, **wide),
        regularization.BatchNorm(4, dtype=np.float64),
        backprop.Tanh(),
        regularization.Residual(
            backprop.Sequential(
                regularization.LayerNorm(4, dtype=np.float64),
                backprop.Linear(4, 4, **wide),
                sigmoid_mse.Sigmoid(),
            )
        ),
        backprop.Linear(4, 5, **wide),
    )
    names = {f"{layer}.{name}" for layer in ("0", "1", "3.0", "3.1", "4") for name in ("weight", "bias")}
    assert set(network.parameters) == names, f"parameters are named {sorted(network.parameters)}"
    for parameter in network.parameters.values():
        parameter[...] = random_cotangent(parameter.shape, rng)
    x, grad = random_cotangent((6, 3), rng), random_cotangent((6, 5), rng)
    values = copies(network.parameters)

    def formula(x, p):
        def inside(prefix):
            return {"weight": p[f"{prefix}.weight"], "bias": p[f"{prefix}.bias"]}

        x = np.tanh(normalise(x @ p["0.weight"].T + p["0.bias"], inside("1"), 0, 1e-5))
        z = normalise(x, inside("3.0"), -1, 1e-5) @ p["3.1.weight"].T + p["3.1.bias"]
        return (x + 1 / (1 + np.exp(-z))) @ p["4.weight"].T + p["4.bias"]

    assert_close(network.forward(x, training=True), formula(x, values), rtol=1e-12, what="output")
    grad_x = network.backward(grad)
    assert_gradient(grad_x, lambda z: formula(z, values), x, grad, method="complex", what="gradient of x")
    for name in sorted(set(values) - {"0.bias"}):
        assert_gradient(
            network.gradients[name],
            lambda z, name=name: formula(x, values | {name: z}),
            values[name],
            grad,
            method="complex",
            what=f"gradient of {name}",
        )
    # batch norm subtracts whatever bias the layer before it adds
    assert np.abs(network.gradients["0.bias"]).max() < 1e-12, (
        "a bias before batch norm has no effect: gradient 0"
    )
