"""Sequential and the loss: by hand, compared, at extremes."""

import numpy as np
import pytest
from oracles import Double, Mix, copies

import backprop
from shared.testing.checks import assert_close, expect_error, tolerance, unchanged
from shared.testing.gradients import assert_gradient, random_cotangent

# --- Sequential -----------------------------------------------------------------------------------------------


@pytest.mark.grades("Sequential")
def test_sequential_parameters(rng):
    """The layers' own arrays under torch's names, in networks within networks too; layers without any are counted."""
    first, second, third = Mix(3, rng), Mix(3, rng), Mix(3, rng)
    network = backprop.Sequential(first, backprop.Sequential(second, Double(), third))
    names = ["0.mix", "1.0.mix", "1.2.mix"]
    assert sorted(network.parameters) == names, (
        f"parameters are named {list(network.parameters)}, expected {names}"
    )
    for name, layer in zip(names, (first, second, third), strict=True):
        assert network.parameters[name] is layer.parameters["mix"], (
            "parameters must be the layers' arrays, not copies"
        )
    for _ in range(2):
        network.forward(np.ones((2, 3)))
        network.backward(np.ones((2, 3)))
        assert sorted(network.gradients) == names, (
            f"gradients are named {list(network.gradients)}, expected {names}"
        )
        for name, layer in zip(names, (first, second, third), strict=True):
            assert network.gradients[name] is layer.gradients["mix"], (
                "gradients must be the layers' arrays of the latest backward: look them up each time"
            )


@pytest.mark.grades("Sequential")
def test_sequential(rng):
    """Forward in order, backward in reverse, through a layer without parameters too."""
    first, second = Mix(3, rng), Mix(3, rng)
    network = backprop.Sequential(first, Double(), second)
    x, grad = random_cotangent((4, 3), rng), random_cotangent((4, 3), rng)
    matrices = copies(network.parameters)

    def formula(x, p):
        return (2 * (x @ p["0.mix"]) ** 2 @ p["2.mix"]) ** 2

    swapped = {"0.mix": matrices["2.mix"], "2.mix": matrices["0.mix"]}
    assert_close(
        network.forward(x),
        formula(x, matrices),
        rtol=1e-12,
        what="output",
        mistakes={"the layers run from last to first": formula(x, swapped)},
    )
    expected_wrong = second.backward(2 * first.backward(grad))
    assert_gradient(
        network.backward(grad),
        lambda z: formula(z, matrices),
        x,
        grad,
        method="complex",
        what="gradient of x",
        mistakes={"the backward pass runs in forward order: start at the last layer": expected_wrong},
    )
    for name, value in matrices.items():
        assert_gradient(
            network.gradients[name],
            lambda z, name=name: formula(x, matrices | {name: z}),
            value,
            grad,
            method="complex",
            what=f"gradient of {name}",
        )


@pytest.mark.grades("Sequential")
def test_sequential_hands_on_mode_and_rng(rng):
    """Training and rng reach every layer; the default is evaluation."""
    layers = Mix(3, rng), Mix(3, rng)
    network = backprop.Sequential(*layers)
    network.forward(np.ones((2, 3)), training=True, rng=rng)
    network.forward(np.ones((2, 3)))
    for layer in layers:
        assert layer.calls[0][0] is True, (
            "training=True does not reach the layers inside: dropout would stay off"
        )
        assert layer.calls[0][1] is rng, "rng does not reach the layers inside"
        assert layer.calls[1] == (False, None), "the default must be evaluation, without an rng"


# --- the loss -------------------------------------------------------------------------------------------------


@pytest.mark.grades("SoftmaxCrossEntropy")
def test_cross_entropy_by_hand():
    """Two classes at logits 0 and log 3: probabilities 1/4 and 3/4."""
    loss = backprop.SoftmaxCrossEntropy()
    logits = np.log([[1.0, 3.0], [1.0, 3.0], [3.0, 1.0]])
    value = loss.forward(logits, np.array([1, 0, 0]))
    expected = np.log([4 / 3, 4.0, 4 / 3])
    assert value is not None, "the loss is None: is a `return` missing?"
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
@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (1, 5), (3, 1), (2, 300)])
def test_cross_entropy_matches_the_complex_step(shape, dtype, rng):
    """Loss and gradient of random logits; the inputs stay as they are, and backward may be called again."""
    batch, n_classes = shape
    logits, targets = 3 * random_cotangent(shape, rng).astype(dtype), rng.integers(0, n_classes, batch)
    wide, rows = logits.astype(np.float64), np.arange(batch)

    def formula(z):
        return (np.log(np.exp(z).sum(axis=1)) - z[rows, targets]).mean()

    loss = backprop.SoftmaxCrossEntropy()
    with unchanged(logits, targets):
        value = loss.forward(logits, targets)
        gradient = loss.backward()
    # each term is a difference of numbers as large as the logits
    atol = tolerance(dtype, n_classes) * float(np.abs(logits).max())
    certain = "one class is certain, so the loss and its gradient are 0" if n_classes == 1 else None
    assert abs(value - formula(wide)) <= atol, f"the loss is {value}, expected {formula(wide)}"
    over_batch = (np.exp(wide) / np.exp(wide).sum(axis=0) - np.eye(n_classes)[targets]) / batch
    step = np.stack(
        [
            [
                formula(wide + 1e-20j * (np.arange(batch * n_classes) == k).reshape(shape)).imag / 1e-20
                for k in range(row * n_classes, (row + 1) * n_classes)
            ]
            for row in rows
        ]
    )
    assert_close(
        gradient,
        step,
        dtype=dtype,
        n=n_classes,
        atol=tolerance(dtype, n_classes),
        what="gradient",
        mistakes={"softmax goes over the batch instead of the classes": over_batch},
        vacuous_ok=certain or "compared with the size of a probability",
    )
    saved = gradient.copy()
    assert np.array_equal(saved, loss.backward()), "backward changes what it saved: a second call differs"
    loss.forward(logits[::-1], targets)
    loss.backward()
    assert np.array_equal(gradient, saved), "a later pass modified the gradient that backward returned"


@pytest.mark.grades("SoftmaxCrossEntropy")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_is_stable(dtype):
    """Logits of ±1e4 overflow nothing, beside small ones too."""
    third = 1 / 3
    rows = {  # logits and target: loss, gradient
        (1e4, -1e4, 0.0): (1, 2e4, [1, -1, 0]),
        (-1e4, -1e4, -1e4): (2, np.log(3), [third, third, third - 1]),
        (0.0, -1e4, 0.0): (0, np.log(2), [-0.5, 0, 0.5]),
        (95.0, 0.0, 1.0): (2, 94.0, [1, 0, -1]),
        (-800.0, -800.0, -2e4): (0, np.log(2), [-0.5, 0.5, 0]),
    }
    logits = np.array(list(rows), dtype)
    targets, losses, gradients = (np.array(column) for column in zip(*rows.values(), strict=True))
    loss = backprop.SoftmaxCrossEntropy()
    diagnosis = "the naive formula overflows: subtract the row's maximum first"

    def run(some):
        try:
            return loss.forward(logits[some], targets[some]), loss.backward()
        except RuntimeWarning as warning:
            raise AssertionError(f"{diagnosis} ({warning})") from warning

    _, gradient = run(list(range(len(rows))))
    for row, numbers in enumerate(rows):
        value, _ = run([row])
        # logsumexp(z) - z[target] and exp(z - logsumexp(z)) are right, too, and round at the level of z
        level = 8 * np.finfo(dtype).eps * max(map(abs, numbers))
        assert abs(value - losses[row]) <= level, (
            f"{diagnosis}\nloss of {numbers} for class {targets[row]}: {value}, expected {losses[row]}"
        )
        assert_close(
            gradient[row],
            gradients[row] / len(rows),
            dtype=dtype,
            atol=level / len(rows),
            what=f"gradient of {numbers} for class {targets[row]}",
            hint=diagnosis,
            vacuous_ok="float64 is compared closely",
        )


@pytest.mark.grades("SoftmaxCrossEntropy")
def test_cross_entropy_refuses_an_index():
    """An index that is no class is refused, wherever it stands."""
    logits = np.log([[1.0, 2.0, 5.0], [2.0, 3.0, 4.0]])
    for bad in (-1, 3, -3, 2**31):
        for targets in ([0, bad], [bad, 2]):
            with expect_error(
                ValueError,
                otherwise=f"target {bad} of 3 classes must be a ValueError, targets were {targets}",
            ):
                backprop.SoftmaxCrossEntropy().forward(logits, np.array(targets))
