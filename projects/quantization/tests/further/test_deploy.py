"""The judge of whole networks: what is replaced, calibration, options, and what is left of the signal.

Oracles: the float network (SQNR and accuracy), torch's own attention, laws.
"""

import copy
import functools

import pytest
import torch
from networks import accuracy, digits, digits_mlp, kinds, mlp, run, signal
from oracles import decibels
from torch import nn

from deploy import quantize_network
from observers import ChannelMinMax, Percentile
from shared.testing.checks import assert_close, expect_error


@pytest.mark.grades("quantize_network")
def test_model_is_replaced_in_a_copy(generator):
    """Every linear layer and convolution becomes an integer one; the float model stays as it was."""
    model, calibration, x = signal("cnn", generator)
    model.train()
    before = copy.deepcopy(model.state_dict())
    quantized = quantize_network(model, mode="static", calibration=calibration)
    names = [type(module).__name__ for module in quantized.modules()]
    assert names.count("QuantizedConv2d") == 2, f"convolutions are left as they were: {names}"
    assert "Linear" not in names, f"linear layers are left: {names}"
    assert "BatchNorm2d" not in names, f"batch norms are left: {names}"
    assert kinds(model).count("Conv2d") == 2, "the float model itself was changed"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), (
        "the float model's tensors were changed"
    )
    assert model.training, "the float model was put into evaluation mode"
    assert not quantized.training, "the quantized model must be in evaluation mode"
    assert not any(p.dtype in (torch.qint8, torch.quint8) for p in quantized.state_dict().values())
    assert run(quantized, x).shape == (100, 10)


@pytest.mark.grades("quantize_network")
@pytest.mark.parametrize(
    ("name", "mode", "least"),
    [
        ("mlp", "static", 37),
        ("cnn", "static", 37),
        ("block", "static", 45),
        ("mlp", "dynamic", 38),
        ("cnn", "dynamic", 38),
        ("block", "dynamic", 48),
    ],
)
def test_sqnr_of_models(name, mode, least, generator):
    """At least what torch.ao reaches on this kind of model (it uses 7-bit activations), with margin."""
    model, calibration, x = signal(name, generator)
    quantized = quantize_network(model, mode=mode, calibration=calibration if mode == "static" else None)
    ratio = decibels(run(model, x), run(quantized, x))
    assert ratio >= least, f"{name}, {mode}: {ratio:.1f} dB, at least {least} are expected"
    assert ratio < 70, f"{name}, {mode}: {ratio:.1f} dB is too good for 8 bits: was anything quantized?"


@pytest.mark.grades("quantize_network")
def test_options_reach_the_layers(generator):
    """per_channel, reduce_range and observer change the result in the expected direction."""
    model, calibration, x = signal("mlp", generator)
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-2, 0, 128)[:, None])
    exact = run(model, x)

    def ratio(**options):
        return decibels(
            exact, run(quantize_network(model, mode="static", calibration=calibration, **options), x)
        )

    plain = ratio()
    assert plain > ratio(reduce_range=True) + 3, "reduce_range is ignored"
    assert plain > ratio(per_channel=False) + 0.3, "per_channel is ignored"
    assert ratio(observer=Percentile) != plain, "observer is ignored"
    calibration[0][0, 0] = 300.0
    assert ratio(observer=Percentile) > ratio() + 3, (
        "an outlier in calibration: the percentile observer is ignored"
    )


@pytest.mark.grades("quantize_network")
def test_calibration_that_never_ran(generator):
    """No calibration, an empty one, and a layer that it never reaches are errors, not 0 dB."""

    class Detour(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    for calibration in (None, [], iter(())):
        with expect_error(ValueError, "calibration", otherwise="static without calibration is accepted"):
            quantize_network(mlp(), mode="static", calibration=calibration)
    with expect_error(RuntimeError, "unused", otherwise="a layer that calibration never reached is accepted"):
        quantize_network(Detour(), mode="static", calibration=[torch.randn(4, 3, generator=generator)])
    for options in ({"mode": "int8"}, {"n_bits": 4}, {"n_bits": 5, "mode": "weight_only"}):
        with expect_error(ValueError, otherwise=f"{options} is accepted"):
            quantize_network(mlp(), **options)


@pytest.mark.grades("quantize_network")
def test_calibration_leaves_nothing_behind(generator):
    """No hook stays, the float model gets none, a single layer and a shared layer work."""
    model, calibration, x = signal("mlp", generator)
    quantized = quantize_network(model, mode="static", calibration=iter(calibration))
    first = run(quantized, x)
    run(quantized, x * 100)
    assert torch.equal(run(quantized, x), first), "evaluation changes the calibrated range"
    assert not any(m._forward_pre_hooks for net in (model, quantized) for m in net.modules()), (
        "a hook is left"
    )
    assert type(quantize_network(nn.Linear(3, 2))).__name__ == "QuantizedLinear", "a model that is one layer"
    shared = nn.Linear(6, 6)
    tied = quantize_network(nn.Sequential(shared, nn.ReLU(), shared))
    assert kinds(tied).count("Linear") == 0, "a layer used in two places was replaced in one"


@pytest.mark.grades("quantize_network")
def test_model_that_is_not_a_stack(generator):
    """Only plain layers are replaced: attention reads the weight of its own kind of linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    quantized = quantize_network(attention)
    x = torch.randn(2, 3, 8, generator=generator)
    assert_close(quantized(x, x, x)[0].detach(), attention(x, x, x)[0].detach(), what="attention")


@pytest.mark.grades("quantize_network")
def test_calibration_in_evaluation_mode(generator):
    """A network in training mode is calibrated without its dropout: two calibrations give one result."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 5)).train()
    x = torch.randn(40, 8, generator=generator)
    results = [run(quantize_network(model, mode="static", calibration=[x]), x) for _ in range(2)]
    assert model.training, "the float network was put into evaluation mode"
    evaluated = run(quantize_network(model.eval(), mode="static", calibration=[x]), x)
    hint = "calibration ran in training mode: dropout moved the ranges"
    assert_close(results[0], results[1], what="the result of a second calibration", hint=hint)
    assert_close(results[0], evaluated, what="the result of a network in evaluation mode", hint=hint)


@pytest.mark.grades("quantize_network")
def test_digits_int8():
    """Int8 changes the accuracy on held-out digits by at most 0.5 points, in every mode."""
    pixels, _, held_out, classes = digits()
    model = digits_mlp()
    exact = accuracy(model, held_out, classes)
    assert exact > 0.95, f"the float model reads {exact:.1%}"
    for mode in ("dynamic", "static", "weight_only"):
        calibration = [pixels[:200]] if mode == "static" else None
        got = accuracy(quantize_network(model, mode=mode, calibration=calibration), held_out, classes)
        assert abs(got - exact) <= 0.005 + 1e-9, f"{mode}: {got:.2%} instead of {exact:.2%}"


@pytest.mark.grades("quantize_network")
def test_calibration_of_the_wrong_kind(generator):
    """One tensor is no list of batches, a pair is no batch, and a range per channel of the input does not factor out."""
    model, _, x = signal("mlp", generator)
    for bad in (x, [(x, x)], [x.numpy()]):
        with expect_error(
            TypeError, "calibration", otherwise=f"calibration={type(bad).__name__} is accepted"
        ):
            quantize_network(model, mode="static", calibration=bad)
    observer = functools.partial(ChannelMinMax, axis=-1)
    with expect_error(ValueError, "input_range", otherwise="a range per input channel is accepted"):
        quantize_network(model, mode="static", calibration=[x], observer=observer)
    for options in ({"n_bits": "8"}, {"n_bits": 4.5}, {"n_bits": True}, {"n_bits": None}):
        with expect_error(ValueError, repr(options["n_bits"]), otherwise=f"{options} is accepted"):
            quantize_network(model, **options)


@pytest.mark.grades("quantize_network")
def test_calibration_on_numbers_of_tokens(generator):
    """Batches of int64, which an embedding takes, stay int64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 5)).eval()
    tokens = torch.randint(9, (6, 7), generator=generator)
    quantized = quantize_network(model, mode="static", calibration=[tokens])
    ratio = decibels(run(model, tokens), run(quantized, tokens))
    assert 30 < ratio < 70, f"{ratio:.1f} dB for a network that begins with an embedding"
