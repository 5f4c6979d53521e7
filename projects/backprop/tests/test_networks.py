"""Judge of containers and losses, and of everything together."""

import numpy as np
import pytest
import torch
from oracles import Mix, normalise, sigmoid
from torch.nn import functional as F

import backprop
from shared.testing.checks import assert_close, expect_error, unchanged
from shared.testing.gradients import assert_gradient, random_cotangent

# --- containers -----------------------------------------------------------------------------------------------


@pytest.mark.grades("Sequential")
def test_sequential(rng):
    """Forward in order, backward in reverse, parameters under torch's names."""
    first, second = Mix(3, rng), Mix(3, rng)
    network = backprop.Sequential(first, second)
    assert list(network.layers) == [first, second], "network.layers must hold the layers in order"
    assert set(network.parameters) == {"0.mix", "1.mix"}, f"parameters are named {set(network.parameters)}"
    assert network.parameters["1.mix"] is second.parameters["mix"], (
        "parameters must be the layers' arrays, not copies"
    )
    x, cotangent = random_cotangent((4, 3), rng), random_cotangent((4, 3), rng)
    matrices = {name: value.copy() for name, value in network.parameters.items()}

    def formula(x, p):
        return ((x @ p["0.mix"]) ** 2 @ p["1.mix"]) ** 2

    assert_close(
        network.forward(x),
        formula(x, matrices),
        rtol=1e-12,
        what="output",
        mistakes={
            "the layers run from last to first": formula(
                x, {"0.mix": matrices["1.mix"], "1.mix": matrices["0.mix"]}
            )
        },
    )
    expected_wrong = second.backward(first.backward(cotangent))
    got = network.backward(cotangent)
    assert_gradient(
        got,
        lambda z: formula(z, matrices),
        x,
        cotangent,
        method="complex",
        what="gradient of x",
        mistakes={"the backward pass runs in forward order: start at the last layer": expected_wrong},
    )
    for name, value in matrices.items():
        assert_gradient(
            network.gradients[name],
            lambda z, name=name: formula(x, matrices | {name: z}),
            value,
            cotangent,
            method="complex",
            what=f"gradient of {name}",
        )


@pytest.mark.parametrize("function", ["Sequential", "Residual"])
def test_containers_hand_on_mode_and_rng(function, rng):
    """Training and rng reach the layers inside; the default is evaluation."""
    inner = Mix(3, rng)
    network = getattr(backprop, function)(inner)
    network.forward(np.ones((2, 3)), training=True, rng=rng)
    network.forward(np.ones((2, 3)))
    assert inner.calls[0][0] is True, "training=True does not reach the layers inside: dropout would stay off"
    assert inner.calls[0][1] is rng, "rng does not reach the layers inside"
    assert inner.calls[1] == (False, None), "the default must be evaluation, without an rng"


@pytest.mark.grades("Sequential")
def test_sequential_refuses_one_layer_twice(rng):
    """One object remembers one input only."""
    layer = Mix(3, rng)
    with expect_error(
        ValueError, otherwise="the same layer object twice would give wrong gradients: refuse it"
    ):
        backprop.Sequential(layer, Mix(3, rng), layer)


@pytest.mark.grades("Residual")
def test_residual(rng):
    """Output x + body(x); the gradient takes both ways."""
    body = Mix(3, rng)
    layer = backprop.Residual(body)
    assert layer.body is body, "the inner layer must be kept as .body"
    assert set(layer.parameters) == {"mix"}, (
        f"parameters are named {set(layer.parameters)}, expected the body's"
    )
    assert layer.parameters["mix"] is body.parameters["mix"], (
        "parameters must be the body's arrays, not copies"
    )
    x, cotangent, matrix = (
        random_cotangent((4, 3), rng),
        random_cotangent((4, 3), rng),
        body.parameters["mix"].copy(),
    )
    with unchanged(x):
        y = layer.forward(x)
    assert_close(
        y,
        x + (x @ matrix) ** 2,
        rtol=1e-12,
        what="output",
        mistakes={"x is not added to the body's output": (x @ matrix) ** 2},
    )
    body_gradient = body.backward(cotangent)
    with unchanged(cotangent):
        got = layer.backward(cotangent)
    assert_gradient(
        got,
        lambda z: z + (z @ matrix) ** 2,
        x,
        cotangent,
        method="complex",
        what="gradient of x",
        mistakes={
            "the gradient of the direct path is missing: x reaches the output twice": body_gradient,
            "the gradient of the body is missing": cotangent,
        },
    )
    assert_gradient(
        layer.gradients["mix"],
        lambda m: x + (x @ m) ** 2,
        matrix,
        cotangent,
        method="complex",
        what="gradient of mix",
    )


@pytest.mark.grades("Residual")
def test_residual_keeps_the_shape():
    """A body that changes the shape is refused: the sum would broadcast."""

    class First(Mix):
        def forward(self, x, *, training=False, rng=None):
            return x[:, :1]

    layer = backprop.Residual(First(3, np.random.default_rng(0)))
    with expect_error(
        ValueError, "(4, 3)", "(4, 1)", otherwise="x + body(x) must not broadcast: compare the shapes"
    ):
        layer.forward(np.ones((4, 3)))


# --- losses ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("SoftmaxCrossEntropy")
def test_cross_entropy_by_hand():
    """Two classes at logits 0 and log 3: probabilities 1/4 and 3/4."""
    loss = backprop.SoftmaxCrossEntropy()
    logits = np.log([[1.0, 3.0], [1.0, 3.0], [3.0, 1.0]])
    value = loss.forward(logits, np.array([1, 0, 0]))
    expected = np.log([4 / 3, 4.0, 4 / 3])
    assert_close(
        np.float64(value),
        expected.mean(),
        what="loss",
        mistakes={"this is the sum over the batch: take the mean": expected.sum()},
    )
    gradient = np.array([[0.25, -0.25], [-0.75, 0.75], [-0.25, 0.25]])
    assert_close(
        loss.backward(),
        gradient / 3,
        what="gradient",
        mistakes={
            "the gradient is not divided by the batch size: the loss is a mean": gradient,
            "the one-hot target is not subtracted": np.array([[0.25, 0.75], [0.25, 0.75], [0.75, 0.25]]) / 3,
            "the sign is reversed": -gradient / 3,
        },
    )


@pytest.mark.grades("SoftmaxCrossEntropy")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_matches_torch(dtype, rng):
    """Loss and gradient equal torch's and the complex step; the inputs stay as they are."""
    logits, targets = 3 * random_cotangent((6, 4), rng).astype(dtype), np.array([3, 0, 1, 1, 2, 0])
    z = torch.tensor(logits.astype(np.float64), requires_grad=True)
    expected = F.cross_entropy(z, torch.tensor(targets))
    expected.backward()
    loss = backprop.SoftmaxCrossEntropy()
    with unchanged(logits, targets):
        value = loss.forward(logits, targets)
        gradient = loss.backward()
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    assert_close(np.float64(value), expected.detach(), rtol=tolerance, what="loss")
    softmax_over_batch = np.exp(logits) / np.exp(logits).sum(0)
    mistakes = {
        "softmax goes over the batch instead of the classes": (softmax_over_batch - np.eye(4)[targets]) / 6
    }
    assert_close(gradient, z.grad.numpy(), dtype=dtype, rtol=tolerance, what="gradient", mistakes=mistakes)
    assert np.array_equal(gradient, loss.backward()), "backward changes what it saved: a second call differs"
    if dtype == np.float64:
        rows = np.arange(6)
        assert_gradient(
            gradient,
            lambda z: (np.log(np.exp(z).sum(1)) - z[rows, targets]).mean(),
            logits,
            np.float64(1.0),
            method="complex",
        )


@pytest.mark.grades("SoftmaxCrossEntropy")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_is_stable(dtype):
    """Logits of ±1e4 overflow nothing; a class at -inf is a probability of 0."""
    loss = backprop.SoftmaxCrossEntropy()
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, -np.inf, 0.0]], dtype)
    try:
        value = loss.forward(logits, np.array([1, 2, 0]))
        gradient = loss.backward()
    except RuntimeWarning as warning:
        raise AssertionError(
            f"the naive formula overflows ({warning}): subtract the row's maximum first"
        ) from warning
    assert_close(np.float64(value), (2e4 + np.log(3) + np.log(2)) / 3, rtol=1e-6, what="loss")
    third = 1 / 3
    expected = np.array([[1, -1, 0], [third, third, third - 1], [-0.5, 0, 0.5]]) / 3
    assert_close(gradient, expected, dtype=dtype, rtol=1e-6, what="gradient")


@pytest.mark.grades("SoftmaxCrossEntropy")
def test_cross_entropy_errors():
    """Impossible targets and shapes are refused by value."""
    loss, logits = backprop.SoftmaxCrossEntropy(), np.zeros((2, 3))
    with expect_error(
        RuntimeError, otherwise="backward before forward must raise a RuntimeError that says so"
    ):
        loss.backward()
    for bad in (-1, 3):
        with expect_error(ValueError, str(bad), otherwise=f"target {bad} of 3 classes must be a ValueError"):
            loss.forward(logits, np.array([0, bad]))
    with expect_error(
        TypeError, "float64", otherwise="targets are class indices: floats must be a TypeError"
    ):
        loss.forward(logits, np.array([0.0, 1.0]))
    for shape, count in [((2, 3), 3), ((2, 3, 4), 2), ((3,), 3), ((0, 3), 0)]:
        with expect_error(
            ValueError, str(shape), otherwise=f"logits {shape} with {count} targets: ValueError"
        ):
            loss.forward(np.zeros(shape), np.zeros(count, int))
    with expect_error(ValueError, "(2, 1)", otherwise="targets of shape (2, 1) must be a ValueError"):
        loss.forward(logits, np.zeros((2, 1), int))


@pytest.mark.grades("MeanSquaredError")
@pytest.mark.parametrize("shape", [(4, 3), (5,), (2, 3, 2)])
def test_mean_squared_error(shape, rng):
    """Loss and gradient by formula and complex step, any shape."""
    loss = backprop.MeanSquaredError()
    p, t = random_cotangent(shape, rng), random_cotangent(shape, rng)
    with unchanged(p, t):
        value, gradient = loss.forward(p, t), loss.backward()
    difference = p - t
    mean = F.mse_loss(torch.tensor(p), torch.tensor(t))
    assert_close(
        np.float64(value),
        mean,
        rtol=1e-12,
        what="loss",
        mistakes={
            "this is the sum of squares: take the mean": (difference**2).sum(),
            "this is half the mean": mean / 2,
            "this is the mean over the batch of the sum over the rest: divide by all entries": (
                (difference**2).sum() / len(p)
            ),
        },
    )
    assert_gradient(
        gradient,
        lambda z: ((z - t) ** 2).mean(),
        p,
        np.float64(1.0),
        method="complex",
        mistakes={
            "the factor 2 is missing": difference / p.size,
            "the gradient is not divided by the number of entries: the loss is a mean": 2 * difference,
            "the gradient is divided by the batch size only: the mean is over all entries": 2
            * difference
            / len(p),
        },
    )
    half = p.astype(np.float32)
    loss.forward(half, t.astype(np.float32))
    assert loss.backward().dtype == np.float32, "the gradient of float32 is not float32: a silent cast"


@pytest.mark.grades("MeanSquaredError")
def test_mean_squared_error_errors():
    """Shapes must agree: no broadcasting. Backward needs a forward."""
    loss = backprop.MeanSquaredError()
    with expect_error(
        RuntimeError, otherwise="backward before forward must raise a RuntimeError that says so"
    ):
        loss.backward()
    broadcast = "(4, 1) minus (4,) broadcasts to (4, 4) and averages the wrong differences: refuse it"
    with expect_error(ValueError, "(4, 1)", "(4,)", otherwise=broadcast):
        loss.forward(np.ones((4, 1)), np.ones(4))
    with expect_error(ValueError, "(0, 3)", otherwise="the mean of nothing is undefined: ValueError"):
        loss.forward(np.ones((0, 3)), np.ones((0, 3)))


# --- composed -------------------------------------------------------------------------------------------------


@pytest.mark.grades(
    "Linear", "BatchNorm", "Tanh", "Residual", "LayerNorm", "Sigmoid", "Sequential", "SoftmaxCrossEntropy"
)
def test_deep_network_matches_complex_step(rng):
    """Everything together: the gradient of a residual network to twelve digits, for every parameter."""
    network = backprop.Sequential(
        backprop.Linear(3, 4, rng=rng, dtype=np.float64),
        backprop.BatchNorm(4, dtype=np.float64),
        backprop.Tanh(),
        backprop.Residual(
            backprop.Sequential(
                backprop.LayerNorm(4, dtype=np.float64),
                backprop.Linear(4, 4, rng=rng, dtype=np.float64),
                backprop.Sigmoid(),
            )
        ),
        backprop.Linear(4, 5, rng=rng, dtype=np.float64),
    )
    expected_names = {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "3.0.weight",
        "3.0.bias",
        "3.1.weight",
        "3.1.bias",
    }
    expected_names |= {"4.weight", "4.bias"}
    assert set(network.parameters) == expected_names, f"parameters are named {sorted(network.parameters)}"
    for parameter in network.parameters.values():
        parameter[...] = random_cotangent(parameter.shape, rng)
    x, targets = random_cotangent((6, 3), rng), np.array([4, 0, 3, 1, 2, 2])
    values = {name: parameter.copy() for name, parameter in network.parameters.items()}
    rows = np.arange(6)

    def formula(x, p):
        def inside(prefix):
            return {"weight": p[f"{prefix}.weight"], "bias": p[f"{prefix}.bias"]}

        x = np.tanh(normalise(x @ p["0.weight"].T + p["0.bias"], inside("1"), 0, 1e-5))
        x = x + sigmoid(normalise(x, inside("3.0"), -1, 1e-5) @ p["3.1.weight"].T + p["3.1.bias"])
        z = x @ p["4.weight"].T + p["4.bias"]
        return (np.log(np.exp(z).sum(1)) - z[rows, targets]).mean()

    loss = backprop.SoftmaxCrossEntropy()
    value = loss.forward(network.forward(x, training=True), targets)
    assert_close(np.float64(value), formula(x, values), rtol=1e-12, what="loss")
    grad_x = network.backward(loss.backward())
    one = np.float64(1.0)
    assert_gradient(grad_x, lambda z: formula(z, values), x, one, method="complex", what="gradient of x")
    for name in sorted(set(values) - {"0.bias"}):
        assert_gradient(
            network.gradients[name],
            lambda z, name=name: formula(x, values | {name: z}),
            values[name],
            one,
            method="complex",
            what=f"gradient of {name}",
        )
    # batch norm subtracts whatever bias the layer before it adds
    assert np.abs(network.gradients["0.bias"]).max() < 1e-14, (
        "a bias before batch norm has no effect: gradient 0"
    )


@pytest.mark.grades("Linear", "ReLU", "Sequential", "MeanSquaredError")
def test_relu_network_matches_torch(rng):
    """Gradients of a network with kinks equal torch autograd's to 1e-10."""
    layers = (backprop.Linear(7, 5, rng=rng, dtype=np.float64), backprop.ReLU())
    layers += (backprop.Linear(5, 3, rng=rng, bias=False, dtype=np.float64), backprop.ReLU())
    layers += (backprop.Linear(3, 2, rng=rng, dtype=np.float64),)
    network, loss = backprop.Sequential(*layers), backprop.MeanSquaredError()
    x, target = random_cotangent((11, 7), rng), random_cotangent((11, 2), rng)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in network.parameters.items()}
    x_torch = torch.tensor(x, requires_grad=True)
    hidden = F.relu(F.linear(x_torch, p["0.weight"], p["0.bias"]))
    output = F.linear(F.relu(F.linear(hidden, p["2.weight"])), p["4.weight"], p["4.bias"])
    F.mse_loss(output, torch.tensor(target)).backward()
    loss.forward(network.forward(x, training=True), target)
    assert_close(network.backward(loss.backward()), x_torch.grad.numpy(), rtol=1e-10, what="gradient of x")
    for name, tensor in p.items():
        assert_close(network.gradients[name], tensor.grad.numpy(), rtol=1e-10, what=f"gradient of {name}")
