"""The judge of training with quantization in the loop.

Oracles: torch's fake quantization, and the deployed integers, which must be what was trained.
"""

import copy
import math

import pytest
import torch
from networks import accuracy, cnn, digits, digits_mlp, kinds, mlp, run, signal, train
from oracles import decibels
from torch import nn

from deploy import quantize_network
from qat import FakeQuantized, prepare_qat
from shared.testing.checks import assert_close, expect_error


@pytest.mark.grades("FakeQuantized")
def test_fake_quantized_layer(generator):
    """In training and in evaluation alike: weight rounded per row, input rounded with the moving range."""
    layer, x = mlp()[0], torch.randn(50, 64, generator=generator)
    fake = FakeQuantized(layer)
    got = fake(x)
    scale = (x.max() - x.min()) / 255
    zero_point = int(torch.round(-128 - x.min() / scale))
    rounded = torch.fake_quantize_per_tensor_affine(x, float(scale), zero_point, -128, 127)
    row_scale = layer.weight.detach().abs().amax(1) / 127
    weight = torch.fake_quantize_per_channel_affine(
        layer.weight.detach(), row_scale, torch.zeros(128, dtype=torch.int32), 0, -127, 127
    )
    expected = rounded @ weight.T + layer.bias.detach()
    mistakes = {
        "training is not quantized": x @ layer.weight.detach().T + layer.bias.detach(),
        "the weight is not quantized": rounded @ layer.weight.detach().T + layer.bias.detach(),
        "the input is not quantized": x @ weight.T + layer.bias.detach(),
    }
    assert_close(got.detach(), expected, n=64, what="output in training", mistakes=mistakes)
    fake.eval()
    assert_close(fake(x).detach(), expected, n=64, what="output in evaluation", mistakes=mistakes)
    fake(x * 50)
    assert_close(fake(x).detach(), expected, n=64, what="output", hint="evaluation moves the observed range")


@pytest.mark.grades("FakeQuantized")
def test_fake_quantized_forgets(generator):
    """A large early batch does not set the range for ever: the average of the batches moves on."""
    layer, x = mlp()[0], torch.randn(50, 64, generator=generator)
    fake = FakeQuantized(layer)
    fake(x * 20)
    for _ in range(80):
        fake(x)
    ratio = decibels(layer(x).detach(), fake.eval()(x).detach())
    assert ratio > 35, f"{ratio:.1f} dB: an early batch sets the range for ever, a moving average is asked"


@pytest.mark.grades("FakeQuantized")
def test_fake_quantized_momentum(generator):
    """The range is 0.9 of what was and 0.1 of what comes."""
    layer, x = mlp()[0], torch.randn(50, 64, generator=generator)
    fake, wanted = FakeQuantized(layer), FakeQuantized(layer)
    wanted(x * 3)
    fake(x * 3 / 0.9)
    fake(x * 0)  # 0.9 of the first, 0.1 of nothing: as one batch of x * 3
    outputs = fake.eval()(x).detach(), wanted.eval()(x).detach()
    hint = "the range is not 0.9 of the old and 0.1 of the new batch"
    assert_close(*outputs, n=64, rtol=1e-4, what="the output after two batches", hint=hint)


@pytest.mark.grades("FakeQuantized")
def test_fake_quantized_gradient(generator):
    """Weight and bias learn: the gradient of the loss at the rounded weight, straight through."""
    layer, x = mlp()[4], torch.rand(30, 96, generator=generator)
    fake = FakeQuantized(layer)
    cotangent = torch.randn(30, 10, generator=generator)
    weight, bias = torch.autograd.grad(fake(x), (layer.weight, layer.bias), cotangent)
    scale = float(x.max()) / 255
    rounded = torch.fake_quantize_per_tensor_affine(x, scale, -128, -128, 127)
    assert_close(weight, cotangent.T @ rounded, n=30, rtol=1e-4, what="gradient of the weight")
    assert_close(bias, cotangent.sum(0), n=30, what="gradient of the bias")


@pytest.mark.grades("prepare_qat")
def test_prepare_qat(generator):
    """A copy in training mode, batch norms folded, every layer wrapped; the model stays as it was."""
    model = cnn()
    prepared = prepare_qat(model)
    names = [type(module).__name__ for module in prepared.modules()]
    assert names.count("FakeQuantized") == 3, f"every linear layer and convolution is wrapped, got {names}"
    assert "BatchNorm2d" not in names, "fold the batch norms first: what is trained must be what is deployed"
    assert prepared.training, "the prepared model must be in training mode"
    assert "FakeQuantized" not in [type(module).__name__ for module in model.modules()], (
        "the model was changed"
    )
    assert not model.training, "the model was put into training mode"
    for options in ({"n_bits": 4}, {"group_size": 8}, {"n_bits": 3, "group_size": 8}):
        with expect_error(ValueError, otherwise=f"{options} is accepted"):
            prepare_qat(model, **options)


@pytest.mark.grades("prepare_qat")
def test_prepare_qat_of_four_bits():
    """Four bits are for linear layers: convolutions stay as they are."""
    prepared = prepare_qat(cnn(), n_bits=4, group_size=16)
    wrapped = [type(m.layer).__name__ for m in prepared.modules() if isinstance(m, FakeQuantized)]
    assert wrapped == ["Linear"], f"with 4 bits only linear layers are wrapped, got {wrapped}"
    single = prepare_qat(mlp()[0])
    assert isinstance(single, FakeQuantized), "a model that is a single layer is wrapped itself"


@pytest.mark.grades("prepare_qat", "FakeQuantized", "quantize_network")
@pytest.mark.parametrize("reduce_range", [False, True])
def test_qat_is_what_is_deployed(reduce_range, generator):
    """The trained fake-quantized model and the integer one agree far beyond 8 bits."""
    prepared = prepare_qat(cnn(), reduce_range=reduce_range)
    x = torch.rand(80, 1, 8, 8, generator=generator) * 3
    for _ in range(3):
        prepared(x)
    prepared.eval()
    deployed = quantize_network(prepared, mode="static", reduce_range=reduce_range)
    ratio = decibels(run(prepared, x), run(deployed, x))
    assert ratio > 60, f"{ratio:.1f} dB between the trained and the deployed model: do they round alike?"
    ratio = decibels(run(prepared, x * 2), run(deployed, x * 2))
    assert ratio > 60, f"{ratio:.1f} dB on inputs outside the range: do they clamp alike?"
    untrained = prepare_qat(cnn())
    with expect_error(RuntimeError, otherwise="a QAT model that saw no batch is converted"):
        quantize_network(untrained, mode="static")
    with expect_error(RuntimeError, otherwise="a QAT model that saw no batch is evaluated"):
        untrained.eval()(x)


@pytest.mark.grades("prepare_qat", "quantize_network")
def test_qat_of_one_layer(generator):
    """A model that is a single layer is deployed as it was trained, and needs no calibration either."""
    prepared, x = prepare_qat(mlp()[0]), torch.randn(50, 64, generator=generator)
    prepared(x)
    deployed = quantize_network(prepared.eval(), mode="static")
    assert kinds(deployed) == ["QuantizedLinear"], f"a model that is one layer became {kinds(deployed)}"
    ratio = decibels(run(prepared, x), run(deployed, x))
    assert ratio > 60, f"{ratio:.1f} dB between the trained and the deployed layer"


@pytest.mark.grades("quantize_network")
def test_four_bits_in_groups(generator):
    """group_size reaches the linear layers: smaller groups, less noise; convolutions keep 8 bits."""
    model, _, x = signal("cnn", generator)
    exact, ratios = run(model, x), {}
    for group_size in (4, 32, 128):
        quantized = quantize_network(model, mode="weight_only", n_bits=4, group_size=group_size)
        assert sorted(kinds(quantized)).count("Int4Linear") == 1, f"got {kinds(quantized)}"
        ratios[group_size] = decibels(exact, run(quantized, x))
    assert ratios[4] > ratios[32] + 1 > ratios[128] + 2, f"group_size is ignored: {ratios} dB"
    assert quantize_network(nn.Linear(64, 3), mode="weight_only", n_bits=4).scale.shape == (3, 2), (
        "without a group_size it is 32"
    )


@pytest.mark.grades("prepare_qat", "quantize_network", "FakeQuantized")
def test_digits_int4_after_qat():
    """Int4 in groups, trained, is within 1 point of float; deployed it is what was trained."""
    pixels, classes, held_out, held_out_classes = digits()
    model = digits_mlp()
    exact = accuracy(model, held_out, held_out_classes)
    prepared = prepare_qat(model, n_bits=4, group_size=32)
    train(prepared, pixels, classes, n_steps=60, learning_rate=1e-3)
    prepared.eval()
    deployed = quantize_network(prepared, mode="weight_only", n_bits=4, group_size=32)
    got = accuracy(deployed, held_out, held_out_classes)
    assert got >= exact - 0.01, f"int4 after QAT reads {got:.2%}, float {exact:.2%}"
    ratio = decibels(run(prepared, held_out), run(deployed, held_out))
    assert ratio > 60, f"{ratio:.1f} dB between the trained and the deployed model: do they round alike?"
    assert math.isfinite(decibels(run(model, held_out), run(deployed, held_out))), "nothing was quantized"


@pytest.mark.grades("FakeQuantized", "prepare_qat", "quantize_network")
def test_trained_range_is_state(generator, tmp_path):
    """The observed range is in the state_dict: loaded, the network evaluates, deploys and trains on as the saved one."""
    x = torch.rand(80, 1, 8, 8, generator=generator) * 3
    prepared = prepare_qat(cnn())
    for k in (3, 1, 2):
        prepared(x * k)
    torch.save(prepared.state_dict(), tmp_path / "state")
    loaded = prepare_qat(cnn())
    loaded.load_state_dict(torch.load(tmp_path / "state"))
    hint = "the observed range is lost with the state_dict"
    for model in (loaded, copy.deepcopy(prepared)):
        try:
            got = run(model.eval(), x)
        except RuntimeError as error:
            raise AssertionError(f"{hint}: {error}") from None
        assert_close(got, run(prepared.eval(), x), what="the loaded network", hint=hint)
    deployed = [run(quantize_network(model, mode="static"), x) for model in (loaded, prepared)]
    assert_close(*deployed, what="the deployed network", hint=hint)
    for model in (loaded.train(), prepared.train()):
        model(x / 3)
    assert_close(run(loaded.eval(), x), run(prepared.eval(), x), what="trained on", hint=hint)


@pytest.mark.grades("prepare_qat", "FakeQuantized")
def test_groups_that_do_not_fit():
    """A group over two rows is refused before training, not after it; so is an option without effect."""
    for group_size in (16, 7, 0, -2, "8", True):
        with expect_error(ValueError, "group_size", otherwise=f"groups of {group_size!r} in rows of 24"):
            prepare_qat(nn.Linear(24, 8), n_bits=4, group_size=group_size)
    assert prepare_qat(nn.Linear(24, 8), n_bits=4, group_size=8).group_size == 8
    for options in ({"reduce_range": 2}, {"reduce_range": True, "n_bits": 4, "group_size": 8}):
        with expect_error(ValueError, "reduce_range", otherwise=f"{options} is accepted"):
            prepare_qat(nn.Linear(24, 8), **options)


@pytest.mark.grades("prepare_qat", "FakeQuantized", "quantize_network")
def test_shared_layer_is_trained_and_deployed(generator):
    """A layer in two places has one weight and a range for each place."""
    shared, x = mlp()[2], torch.rand(50, 128, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        back = nn.Linear(96, 128)
    model = nn.Sequential(shared, nn.ReLU(), back, shared).eval()
    prepared = prepare_qat(model)
    prepared(x)
    weights = {id(m.layer.weight) for m in prepared.modules() if isinstance(m, FakeQuantized)}
    assert len(weights) == 2, f"two layers in three places have {len(weights)} weights"
    ratio = decibels(run(model, x), run(quantize_network(prepared.eval(), mode="static"), x))
    assert ratio > 35, f"{ratio:.1f} dB: does each place have a range of its own?"
