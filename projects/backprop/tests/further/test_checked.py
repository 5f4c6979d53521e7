"""checked.py: the same numbers, and every misuse refused."""

import numpy as np
import pytest
import torch
from oracles import Double, Mix
from spies import Spy, run_fit
from torch.nn import functional as F

import backprop
import checked
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.gradients import random_cotangent

pytestmark = pytest.mark.module("checked")


@pytest.mark.grades
def test_checked_imports_only_numpy_and_the_core():
    """Nothing but NumPy and backprop.py."""
    assert_imports_only(checked, allowed={"numpy", "backprop"})


# --- Checked --------------------------------------------------------------------------------------------------


@pytest.mark.grades("Checked")
def test_checked_computes_the_same(rng):
    """Outputs, gradients and parameters are the layer's, and mode and rng reach it."""
    layer = Mix(3, rng)
    watched, x, grad = checked.Checked(layer), random_cotangent((4, 3), rng), random_cotangent((4, 3), rng)
    expected = Mix.forward(layer, x), Mix.backward(layer, grad)
    assert_close(watched.forward(x, training=True, rng=rng), expected[0], rtol=0.0, what="output")
    assert layer.calls[-1] == (True, rng), "training and rng do not reach the layer"
    assert_close(watched.backward(grad), expected[1], rtol=0.0, what="gradient of x")
    assert watched.parameters["mix"] is layer.parameters["mix"], "the parameters are not the layer's"
    assert watched.gradients["mix"] is layer.gradients["mix"], "the gradients are not the layer's"
    watched.forward(x)
    assert layer.calls[-1] == (False, None), "the default must be evaluation, without an rng"


@pytest.mark.grades("Checked")
def test_checked_refuses_backward_before_forward(rng):
    """Backward without forward says so."""
    with expect_error(
        RuntimeError, otherwise="backward before forward must raise a RuntimeError that says so"
    ):
        checked.Checked(Mix(3, rng)).backward(np.ones((4, 3)))


@pytest.mark.grades("Checked")
def test_checked_refuses_another_shape(rng):
    """A gradient that does not have the latest output's shape is refused, with both shapes."""
    watched = checked.Checked(Mix(3, rng))
    watched.forward(np.ones((7, 3)))
    watched.forward(np.ones((4, 3)))
    for shape in [(1, 3), (7, 3), (3,)]:
        with expect_error(
            ValueError,
            str(shape),
            "(4, 3)",
            otherwise="a gradient of another shape than the output's must be refused: it would broadcast silently",
        ):
            watched.backward(np.ones(shape))


@pytest.mark.grades("Checked")
def test_checked_refuses_another_dtype(rng):
    """float32 numbers in a float64 layer are a silent cast."""
    with expect_error(TypeError, "float32", "float64", otherwise="x of another dtype must be a TypeError"):
        checked.Checked(Mix(3, rng)).forward(np.ones((4, 3), np.float32))
    mixed = Mix(3, rng)
    mixed.parameters["later"] = np.ones(3, np.float32)
    with expect_error(TypeError, "float32", "float64", otherwise="each parameter must have the dtype of x"):
        checked.Checked(mixed).forward(np.ones((4, 3)))


@pytest.mark.grades("Checked")
@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8], ids=str)
def test_checked_refuses_other_dtypes(dtype):
    """Half precision and whole numbers are no float32 or float64, for a layer without parameters too."""
    x = np.ones((4, 3), dtype)
    with expect_error(TypeError, str(x.dtype), otherwise=f"an input of {x.dtype} is accepted"):
        checked.Checked(Double()).forward(x)


class Careless(Double):
    """Multiplies its input and its gradient by two where they are."""

    def forward(self, x, *, training=False, rng=None):
        x *= 2
        return x

    def backward(self, grad):
        grad *= 2
        return grad


@pytest.mark.grades("Checked")
def test_checked_refuses_a_layer_that_writes_into_its_input():
    """What a layer writes into its input, the layer before it or a residual connection would find there."""
    x, grad = np.ones((4, 3)), np.ones((4, 3))
    watched = checked.Checked(Careless())
    otherwise = "a layer that changes its input in place must be a ValueError: another one may have kept it"
    with unchanged(x), expect_error(ValueError, "Careless", otherwise=otherwise):
        watched.forward(x)
    watched.layer.forward = lambda x, *, training=False, rng=None: 2 * x
    watched.forward(x)
    otherwise = "a layer that changes its gradient in place must be a ValueError"
    with unchanged(grad), expect_error(ValueError, "Careless", otherwise=otherwise):
        watched.backward(grad)
    watched.layer.forward = lambda x, *, training=False, rng=None: np.ones((2, 3)) + np.ones((3, 2))
    with pytest.raises(ValueError, match="broadcast") as other:
        watched.forward(x)
    assert "Careless" not in str(other.value), (
        f"an error of the layer's own is taken for another: {other.value}"
    )
    assert x.flags.writeable, "the caller's own array has become read-only"
    assert grad.flags.writeable, "the caller's own gradient has become read-only"


# --- Sequential -----------------------------------------------------------------------------------------------


@pytest.mark.grades("Sequential")
def test_checked_sequential_computes_the_same(rng):
    """The plain network's numbers, under the plain network's names."""
    layers = Mix(3, rng), Mix(3, rng)
    plain, watched = backprop.Sequential(*layers), checked.Sequential(*layers)
    x, grad = random_cotangent((4, 3), rng), random_cotangent((4, 3), rng)
    expected = plain.forward(x), plain.backward(grad)
    assert list(watched.parameters) == list(plain.parameters), "the parameters have other names"
    assert_close(watched.forward(x, training=True), expected[0], rtol=0.0, what="output")
    assert_close(watched.backward(grad), expected[1], rtol=0.0, what="gradient of x")


@pytest.mark.grades("Sequential")
def test_checked_sequential_refuses_one_layer_twice(rng):
    """One object remembers one input only."""
    for layer in (Mix(3, rng), Double()):
        with expect_error(
            ValueError, otherwise="the same layer object twice would give wrong gradients: refuse it"
        ):
            checked.Sequential(layer, Mix(3, rng), layer)


@pytest.mark.grades("Sequential")
@pytest.mark.parametrize("hidden", ["Sequential", "checked Sequential", "Checked", "Residual"])
def test_checked_sequential_looks_inside(hidden, rng):
    """The same object is found in a network or a residual connection inside, also one without parameters."""

    class Residual(Double):
        def __init__(self, body):
            self.body = body

    wrap = {
        "Sequential": lambda layer: backprop.Sequential(Mix(3, rng), layer),
        "checked Sequential": lambda layer: checked.Sequential(Mix(3, rng), layer),
        "Checked": checked.Checked,
        "Residual": Residual,
    }[hidden]
    for layer in (Mix(3, rng), Double()):
        with expect_error(
            ValueError, "twice", otherwise=f"the same layer object again in a {hidden} is accepted"
        ):
            checked.Sequential(layer, wrap(layer))
    checked.Sequential(Double(), wrap(Double()), Mix(3, rng))


@pytest.mark.grades("Sequential")
def test_checked_sequential_refuses_one_array_twice(rng):
    """Two layers with one array: an optimizer would move it twice, each time by a part of its gradient."""
    one, other = Mix(3, rng), Mix(3, rng)
    other.parameters["mix"] = one.parameters["mix"]
    with expect_error(ValueError, "twice", otherwise="one parameter array in two layers is accepted"):
        checked.Sequential(one, other)


@pytest.mark.grades("Sequential")
def test_checked_sequential_checks_each_layer(rng):
    """A gradient of another shape is refused before it reaches the last layer."""
    watched = checked.Sequential(Mix(3, rng), Mix(3, rng))
    watched.forward(np.ones((4, 3)))
    with expect_error(
        ValueError, "(1, 3)", "(4, 3)", otherwise="a gradient of another shape must be refused"
    ):
        watched.backward(np.ones((1, 3)))


# --- SoftmaxCrossEntropy --------------------------------------------------------------------------------------


@pytest.mark.grades("SoftmaxCrossEntropy")
def test_checked_cross_entropy_computes_the_same(rng):
    """Loss and gradient equal torch's; a class at -inf has probability 0."""
    logits, targets = 3 * random_cotangent((6, 4), rng), np.array([3, 0, 1, 1, 2, 0])
    logits[0, 2] = -np.inf
    z = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(z, torch.tensor(targets))
    expected.backward()
    loss = checked.SoftmaxCrossEntropy()
    with unchanged(logits, targets):
        value, gradient = loss.forward(logits, targets), loss.backward()
    assert_close(np.float64(value), expected.detach().numpy(), rtol=1e-12, what="loss")
    assert_close(gradient, z.grad.numpy(), rtol=1e-12, what="gradient", hint="-inf is a probability of 0")


@pytest.mark.grades("SoftmaxCrossEntropy")
def test_checked_cross_entropy_errors():
    """Impossible targets and shapes are refused by value."""
    loss, logits = checked.SoftmaxCrossEntropy(), np.zeros((2, 3))
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
    with expect_error(TypeError, "bool", otherwise="targets are class indices: bools must be a TypeError"):
        loss.forward(logits, np.array([True, False]))
    for shape, count in [((2, 3), 3), ((2, 3, 4), 2), ((3,), 3), ((0, 3), 0)]:
        with expect_error(
            ValueError, str(shape), otherwise=f"logits {shape} with {count} targets: ValueError"
        ):
            loss.forward(np.zeros(shape), np.zeros(count, int))
    with expect_error(ValueError, "(2, 1)", otherwise="targets of shape (2, 1) must be a ValueError"):
        loss.forward(logits, np.zeros((2, 1), int))


# --- fit ------------------------------------------------------------------------------------------------------


@pytest.mark.grades("fit")
def test_checked_fit_does_the_same():
    """The same batches, the same losses, and the rng in the same state."""
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    runs = [
        run_fit(fit, epochs=3, rng=rng) for fit, rng in zip((backprop.fit, checked.fit), rngs, strict=True)
    ]
    (plain, expected), (spy, history) = runs
    assert history == expected, f"the losses are {history}, expected {expected}"
    assert spy.events == plain.events, "the calls differ"
    for (output, target), (x, y) in zip(spy.batches, plain.batches, strict=True):
        assert np.array_equal(output, x), "the batches differ"
        assert np.array_equal(target, y), "the targets differ"
    assert rngs[0].random() == rngs[1].random(), "the rng was used otherwise"
    assert checked_default_sizes() == [64, 64, 2], "batch_size is 64 where it is not given"
    assert run_fit(checked.fit, epochs=0)[1] == [], "epochs=0 must return an empty list"


def checked_default_sizes():
    spy, _ = run_fit(checked.fit, n=130, epochs=1, batch_size=None)
    return [len(output) for output, _ in spy.batches]


@pytest.mark.grades("fit")
def test_checked_fit_progress(capsys):
    """The bar is drawn on standard error, and only when asked for."""
    run_fit(checked.fit)
    quiet = capsys.readouterr()
    assert quiet.out + quiet.err == "", "fit prints without progress=True"
    run_fit(checked.fit, epochs=3, progress=True)
    loud = capsys.readouterr()
    assert [line[:9] for line in loud.err.splitlines()] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"], (
        f"progress=True must show one line with epoch/epochs per epoch on standard error, which has {loud.err!r}"
    )
    bars = [line.count("#") for line in loud.err.splitlines()]
    assert bars[0] < bars[1] < bars[2], f"the bar must grow, its lengths are {bars}"
    assert loud.err.count("4.5") == 3, "progress=True must show the loss"
    assert loud.out == "", "the bar belongs to standard error, so that output can be piped"


@pytest.mark.grades("fit")
def test_checked_fit_progress_in_a_terminal(capsys, monkeypatch):
    """A terminal gets one line that is redrawn."""
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run_fit(checked.fit, epochs=3, progress=True)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1, f"one line that ends after the last epoch, got {shown!r}"
    assert shown.endswith("\n"), f"the line must end after the last epoch, got {shown!r}"
    assert shown.count("\r") == 3, f"each epoch redraws the line from its start, got {shown!r}"


@pytest.mark.grades("fit")
def test_checked_fit_refuses():
    """Lengths that differ, nothing to learn from, an impossible batch size, mixed dtypes."""
    spy, rng = Spy(), np.random.default_rng(0)
    for x, targets, size, mention, otherwise in [
        (np.ones((3, 1)), np.ones(2), 4, "(2,)", "3 samples and 2 targets must be a ValueError"),
        (np.ones((0, 1)), np.ones(0), 4, "(0, 1)", "no samples must be a ValueError"),
        (np.ones((3, 1)), np.ones(3), 0, "0", "batch_size 0 must be a ValueError"),
        (np.ones((3, 1)), np.ones(3), -4, "-4", "batch_size -4 must be a ValueError"),
        (np.ones((3, 1)), np.ones(3), 2.0, "2.0", "batch_size 2.0 must be a ValueError"),
        (np.ones((3, 1)), np.ones(3), True, "True", "batch_size True must be a ValueError"),
    ]:
        with expect_error(ValueError, mention, otherwise=otherwise):
            checked.fit(spy, spy.loss, spy, x, targets, epochs=1, batch_size=size, rng=rng)
    for epochs in (-1, 2.0, True, "2", None):
        otherwise = f"epochs={epochs!r} must be a ValueError, not a training of another length"
        with expect_error(ValueError, "epochs", repr(epochs), otherwise=otherwise):
            checked.fit(spy, spy.loss, spy, np.ones((3, 1)), np.ones(3), epochs=epochs, rng=rng)
    mixed = "float32 data with float64 parameters is computed in float64 without a word: TypeError"
    with expect_error(TypeError, "float32", "float64", otherwise=mixed):
        checked.fit(spy, spy.loss, spy, np.ones((3, 1), np.float32), np.ones(3), epochs=1, rng=rng)
    assert spy.events == [], "fit started to train before it refused the input"
    assert len(run_fit(checked.fit, epochs=np.int64(2), batch_size=np.int64(1))[1]) == 2, "batches of one"
