"""The core on whole networks: our own integers, and torch.ao's beside them.

Oracle: the float network, through the signal to noise ratio in float64; and laws (a range does not move in evaluation).
"""

import copy
import warnings

import pytest
import torch
from oracles import decibels
from torch import nn

import quantization as Q
from shared.testing.checks import assert_close, expect_error


def network(*, dropout=0.0):
    """Return 20-48-32-6 from a fixed seed, whose hidden layers differ in size by 100 times."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (
            nn.Linear(20, 48),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(48, 32),
            nn.ReLU(),
            nn.Linear(32, 6),
        )
    with torch.no_grad():
        layers[0].weight.mul_(30)
        layers[0].bias.mul_(30)
        layers[3].weight.mul_(0.01)
    return nn.Sequential(*layers).eval()


def batches(generator, n=3):
    return [torch.randn(60, 20, generator=generator) for _ in range(n)]


def run(model, x):
    with torch.no_grad():
        return model(x)


def kinds(model):
    return [type(module).__name__ for module in model.modules()]


class Special(nn.Linear):
    """Somebody else's linear layer."""


class Branches(nn.Module):
    """A network that is not a stack: nested layers, two of them in two places, and a linear layer of another class."""

    def __init__(self):
        super().__init__()
        twice = nn.Linear(20, 20)
        self.inner = nn.ModuleDict({"a": nn.Linear(20, 20), "b": nn.Sequential(twice, nn.ReLU(), twice)})
        self.again = self.inner["a"]
        self.special = Special(20, 20)

    def forward(self, x):
        return self.special(self.again(self.inner["b"](self.inner["a"](x)).tanh()))


# --- quantize_model ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("quantize_model")
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_model_is_replaced_in_a_copy(mode, generator):
    """Every linear layer becomes an integer one; the float model stays as it was."""
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    quantized = Q.quantize_model(model, mode=mode, calibration=batches(generator))
    assert kinds(model).count("Linear") == 3, f"the float model itself was changed: {kinds(model)}"
    assert kinds(quantized).count("QuantizedLinear") == 3, f"linear layers are left: {kinds(quantized)}"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), (
        "the float model's tensors were changed"
    )
    assert all(module.training for module in model.modules()), "the float model was put into evaluation mode"
    assert not quantized.training, "the quantized model must be in evaluation mode"
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules()), (
        "a hook is left on the float model"
    )
    assert not any(p.dtype in (torch.qint8, torch.quint8) for p in quantized.state_dict().values()), (
        "torch's quantized dtypes do the work that is asked of you"
    )


@pytest.mark.grades("quantize_model")
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_model_that_is_not_a_stack(mode, generator):
    """Layers deep inside and in two places are replaced; subclasses of nn.Linear are kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Branches().eval()
    calibration = batches(generator)
    quantized = Q.quantize_model(model, mode=mode, calibration=calibration)
    left = [name for name, m in quantized.named_modules(remove_duplicate=False) if type(m) is nn.Linear]
    assert not left, f"linear layers are left: {left}"
    assert "Special" in kinds(quantized), "a subclass of nn.Linear was replaced"
    x = calibration[0]
    ratio = decibels(run(model, x), run(quantized, x))
    assert 30 < ratio < 70, f"{ratio:.1f} dB for a network of nested layers, expected 30 to 70"


@pytest.mark.grades("quantize_model")
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_model_that_is_one_layer(mode, generator):
    """An nn.Linear by itself is replaced, too."""
    model, x = network()[0], batches(generator, 1)[0]
    quantized = Q.quantize_model(model, mode=mode, calibration=[x])
    assert kinds(quantized) == ["QuantizedLinear"], f"a model that is an nn.Linear became {kinds(quantized)}"
    ratio = decibels(run(model, x), run(quantized, x))
    assert 30 < ratio < 70, f"{ratio:.1f} dB for one layer, expected 30 to 70"


@pytest.mark.grades("quantize_model")
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_signal(mode, generator):
    """8 bits keep 30 dB and more; layers of different range need ranges of their own."""
    model, calibration = network(), batches(generator, 4)
    static = {"mode": "static", "calibration": iter(calibration[:3])}
    quantized = Q.quantize_model(model, **(static if mode == "static" else {}))  # dynamic is the default
    x = calibration[3]
    ratio = decibels(run(model, x), run(quantized, x))
    assert ratio > 30, (
        f"{mode}: {ratio:.1f} dB, at least 30 are expected: does each layer have its own range?"
    )
    assert ratio < 70, f"{mode}: {ratio:.1f} dB is too good for 8 bits: was anything quantized?"


@pytest.mark.grades("quantize_model")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_batch_counts(place, generator):
    """The large batch sets the range, be it the first, the middle one or the last."""
    model, calibration = network(), batches(generator)
    calibration[place] *= 20
    quantized = Q.quantize_model(model, mode="static", calibration=calibration)
    x = calibration[place]
    ratio = decibels(run(model, x), run(quantized, x))
    assert ratio > 30, f"batch {place} of 3 is the largest: {ratio:.1f} dB, only some batches were observed"


@pytest.mark.grades("quantize_model")
def test_static_does_not_move(generator):
    """What calibration found stays: a large input saturates, and changes nothing for the next one."""
    model, calibration = network(), batches(generator)
    quantized = Q.quantize_model(model, mode="static", calibration=calibration)
    x = calibration[0]
    first = run(quantized, x)
    ratio = decibels(run(model, x * 50), run(quantized, x * 50))
    assert ratio < 15, (
        f"{ratio:.1f} dB on inputs 50 times the calibrated range: is the range that of the input?"
    )
    assert torch.equal(run(quantized, x), first), "evaluation changes the calibrated range"


@pytest.mark.grades("quantize_model")
def test_calibration_in_evaluation_mode(generator):
    """A model in training mode is calibrated without its dropout: twice the same, and as in evaluation."""
    calibration = batches(generator)
    results = []
    for training in (True, True, False):
        model = network(dropout=0.5).train(training)
        quantized = Q.quantize_model(model, mode="static", calibration=calibration)
        results.append(run(quantized, calibration[0]))
    hint = "calibration ran in training mode: dropout moved the ranges"
    assert_close(results[0], results[1], what="the result of a second calibration", hint=hint)
    assert_close(results[0], results[2], what="the result of a model in evaluation mode", hint=hint)


@pytest.mark.grades("quantize_model")
def test_calibration_that_never_ran(generator):
    """No batch, and a layer that no batch reaches, are errors, not noise; so is another mode."""

    class Detour(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    for calibration in ({}, {"calibration": []}, {"calibration": iter(())}):
        with expect_error(ValueError, otherwise="static without calibration is accepted"):
            Q.quantize_model(network(), mode="static", **calibration)
    with expect_error(RuntimeError, otherwise="a layer that calibration never reached is accepted"):
        Q.quantize_model(Detour(), mode="static", calibration=[torch.randn(4, 3, generator=generator)])
    for mode in ("int8", "Static", ""):
        with expect_error(ValueError, mode, otherwise=f"mode={mode!r} is accepted"):
            Q.quantize_model(network(), mode=mode, calibration=batches(generator))


# --- torch.ao ---------------------------------------------------------------------------------------------------------


def torch_ao(function, model, calibration):
    """Quantize through torch.ao; its warnings are errors here."""
    try:
        with warnings.catch_warnings(action="error"):
            return (
                Q.torch_dynamic(model) if function == "torch_dynamic" else Q.torch_static(model, calibration)
            )
    except Warning as shown:
        raise AssertionError(f"torch.ao warns, and the caller sees it: silence it ({shown})") from None


def quantized_kinds(model):
    return [type(m).__name__ for m in model.modules() if "torch.ao.nn.quantized" in type(m).__module__]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", ["torch_dynamic", "torch_static"])
def test_torch_ao(function, generator):
    """Torch's own layers in a copy in evaluation mode, 25 to 70 dB from the float model, which stays as it was."""
    model, calibration = network(dropout=0.5), batches(generator, 4)
    x = calibration[3]
    exact = run(model, x)
    model.train()
    quantized = torch_ao(function, model, iter(calibration[:3]))
    assert quantized_kinds(quantized).count("Linear") == 3, (
        f"nothing is quantized, or not by torch: {kinds(quantized)}"
    )
    assert not quantized_kinds(model), "the float model was changed"
    assert all(module.training for module in model.modules()), "the float model's mode was changed"
    assert not quantized.training, "the copy must be in evaluation mode"
    ratio = decibels(exact, run(quantized, x))
    assert 25 < ratio < 70, f"{function}: {ratio:.1f} dB, expected 25 to 70"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.grades("torch_dynamic")
def test_torch_dynamic_takes_linear_layers_only():
    """A recurrent layer, which torch could quantize as well, is kept."""
    quantized = torch_ao("torch_dynamic", nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 4)), ())
    assert quantized_kinds(quantized).count("Linear") == 1, f"nothing is quantized: {kinds(quantized)}"
    assert type(quantized[1]) is nn.GRU, f"only linear layers are asked for, got {kinds(quantized)}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.grades("torch_static")
def test_torch_static_calibration(generator):
    """All batches count, none is an error, and dropout is off while they run."""
    for place in range(3):
        model, calibration = network(dropout=0.5).train(), batches(generator)
        calibration[place] *= 20
        x = calibration[place]
        ratio = decibels(run(network(), x), run(torch_ao("torch_static", model, calibration), x))
        assert ratio > 25, (
            f"batch {place} of 3 is the largest: {ratio:.1f} dB, only some batches were observed"
        )
    for nothing in ([], iter(())):
        with expect_error(ValueError, otherwise="an empty calibration is accepted"):
            torch_ao("torch_static", network(), nothing)
    results = []
    for _ in range(2):
        quantized = torch_ao("torch_static", network(dropout=0.5).train(), calibration)
        results.append(run(quantized, calibration[0]))
    assert torch.equal(*results), "calibration ran in training mode: dropout moved the ranges"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.grades("torch_static")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Softmax(-1),
        nn.BatchNorm1d(48),
        nn.SiLU(),
        nn.LayerNorm(48),
        Special(48, 48),
        nn.Sequential(nn.ReLU()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_torch_static_refuses(layer, generator):
    """A layer that it does not support is named, before a result that fails when it runs."""
    model = nn.Sequential(nn.Linear(20, 48), layer, nn.Linear(48, 6)).eval()
    name = type(layer).__name__
    with expect_error(ValueError, name, otherwise=f"torch_static accepts {name}"):
        torch_ao("torch_static", model, batches(generator))
