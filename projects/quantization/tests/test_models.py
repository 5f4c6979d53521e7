"""The judge of whole models: fusion, calibration, QAT, files, and what is left of the signal.

Oracles: the float model (SQNR and accuracy), torch's own quantization, laws (a file gives back the same bits).
"""

import copy
import math

import pytest
import torch
from networks import accuracy, block, cnn, digits, digits_mlp, mlp, train
from torch import nn

import quantization as Q
from shared.testing.checks import assert_close, expect_error


def signal(name, generator):
    """Return a model, calibration batches and a test batch."""
    if name == "block":
        return (
            block(),
            [torch.randn(6, 20, 96, generator=generator)] * 2,
            torch.randn(5, 20, 96, generator=generator),
        )
    shape = (1, 8, 8) if name == "cnn" else (64,)
    batches = [torch.rand(100, *shape, generator=generator) * 3 for _ in range(4)]
    return {"cnn": cnn, "mlp": mlp}[name](), batches[:3], batches[3]


def run(model, x):
    with torch.no_grad():
        return model(x)


def kinds(model):
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


# --- quantize_model ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("quantize_model")
def test_model_is_replaced_in_a_copy(generator):
    """Every linear layer and convolution becomes an integer one; the float model stays as it was."""
    model, calibration, x = signal("cnn", generator)
    model.train()
    before = copy.deepcopy(model.state_dict())
    quantized = Q.quantize_model(model, mode="static", calibration=calibration)
    assert kinds(quantized).count("QuantizedConv2d") == 2, (
        f"convolutions are left as they were: {kinds(quantized)}"
    )
    assert kinds(quantized).count("QuantizedLinear") == 1, f"linear layers are left: {kinds(quantized)}"
    assert kinds(model).count("Conv2d") == 2, "the float model itself was changed"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), (
        "the float model's tensors were changed"
    )
    assert model.training, "the float model was put into evaluation mode"
    assert not quantized.training, "the quantized model must be in evaluation mode"
    assert not any(p.dtype in (torch.qint8, torch.quint8) for p in quantized.state_dict().values())
    assert run(quantized, x).shape == (100, 10)


@pytest.mark.grades("quantize_model")
def test_batch_norm_is_folded(generator):
    """With 8-bit weights only, a folded network is within 40 dB of the float one."""
    model, _, x = signal("cnn", generator)
    quantized = Q.quantize_model(model, mode="weight_only")
    assert "BatchNorm2d" not in kinds(quantized), (
        "batch norms are not folded into the convolutions before them"
    )
    ratio = Q.sqnr(run(model, x), run(quantized, x))
    assert ratio > 38, f"{ratio:.1f} dB: the batch norm is folded wrongly (bias, mean, or eps?)"
    plain = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, affine=False, eps=0.7))
    plain(torch.randn(40, 6, generator=generator) + 2)
    plain.eval()
    x = torch.randn(40, 6, generator=generator)
    ratio = Q.sqnr(run(plain, x), run(Q.quantize_model(plain, mode="weight_only"), x))
    assert ratio > 38, f"{ratio:.1f} dB for a linear layer without bias before a norm without weights"


@pytest.mark.grades("quantize_model")
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
    quantized = Q.quantize_model(model, mode=mode, calibration=calibration if mode == "static" else None)
    ratio = Q.sqnr(run(model, x), run(quantized, x))
    assert ratio >= least, f"{name}, {mode}: {ratio:.1f} dB, at least {least} are expected"
    assert ratio < 70, f"{name}, {mode}: {ratio:.1f} dB is too good for 8 bits: was anything quantized?"


@pytest.mark.grades("quantize_model")
def test_options_reach_the_layers(generator):
    """per_channel, reduce_range and observer change the result in the expected direction."""
    model, calibration, x = signal("mlp", generator)
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-2, 0, 128)[:, None])
    exact = run(model, x)

    def ratio(**options):
        return Q.sqnr(
            exact, run(Q.quantize_model(model, mode="static", calibration=calibration, **options), x)
        )

    plain = ratio()
    assert plain > ratio(reduce_range=True) + 3, "reduce_range is ignored"
    assert plain > ratio(per_channel=False) + 0.3, "per_channel is ignored"
    assert ratio(observer=Q.Percentile) != plain, "observer is ignored"
    calibration[0][0, 0] = 300.0
    assert ratio(observer=Q.Percentile) > ratio() + 3, (
        "an outlier in calibration: the percentile observer is ignored"
    )


@pytest.mark.grades("quantize_model")
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
            Q.quantize_model(mlp(), mode="static", calibration=calibration)
    with expect_error(RuntimeError, "unused", otherwise="a layer that calibration never reached is accepted"):
        Q.quantize_model(Detour(), mode="static", calibration=[torch.randn(4, 3, generator=generator)])
    for options in ({"mode": "int8"}, {"n_bits": 4}, {"n_bits": 5, "mode": "weight_only"}):
        with expect_error(ValueError, otherwise=f"{options} is accepted"):
            Q.quantize_model(mlp(), **options)


@pytest.mark.grades("quantize_model")
def test_calibration_leaves_nothing_behind(generator):
    """No hook stays, the float model gets none, a single layer and a shared layer work."""
    model, calibration, x = signal("mlp", generator)
    quantized = Q.quantize_model(model, mode="static", calibration=iter(calibration))
    first = run(quantized, x)
    run(quantized, x * 100)
    assert torch.equal(run(quantized, x), first), "evaluation changes the calibrated range"
    assert not any(m._forward_pre_hooks for net in (model, quantized) for m in net.modules()), (
        "a hook is left"
    )
    assert type(Q.quantize_model(nn.Linear(3, 2))).__name__ == "QuantizedLinear", "a model that is one layer"
    shared = nn.Linear(6, 6)
    tied = Q.quantize_model(nn.Sequential(shared, nn.ReLU(), shared))
    assert kinds(tied).count("Linear") == 0, "a layer used in two places was replaced in one"


@pytest.mark.grades("quantize_model")
def test_model_that_is_not_a_stack(generator):
    """Only plain layers are replaced: attention reads the weight of its own kind of linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    quantized = Q.quantize_model(attention)
    x = torch.randn(2, 3, 8, generator=generator)
    assert_close(quantized(x, x, x)[0].detach(), attention(x, x, x)[0].detach(), what="attention")


# --- QAT --------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("FakeQuantized")
def test_fake_quantized_layer(generator):
    """In training and in evaluation alike: weight rounded per row, input rounded with the moving range."""
    layer, x = mlp()[0], torch.randn(50, 64, generator=generator)
    fake = Q.FakeQuantized(layer)
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
    fake = Q.FakeQuantized(layer)
    fake(x * 20)
    for _ in range(80):
        fake(x)
    ratio = Q.sqnr(layer(x).detach(), fake.eval()(x).detach())
    assert ratio > 35, f"{ratio:.1f} dB: an early batch sets the range for ever, a moving average is asked"


@pytest.mark.grades("FakeQuantized")
def test_fake_quantized_gradient(generator):
    """Weight and bias learn: the gradient of the loss at the rounded weight, straight through."""
    layer, x = mlp()[4], torch.rand(30, 96, generator=generator)
    fake = Q.FakeQuantized(layer)
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
    prepared = Q.prepare_qat(model)
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
            Q.prepare_qat(model, **options)


@pytest.mark.grades("prepare_qat", "FakeQuantized", "quantize_model")
@pytest.mark.parametrize("reduce_range", [False, True])
def test_qat_is_what_is_deployed(reduce_range, generator):
    """The trained fake-quantized model and the integer one agree far beyond 8 bits."""
    prepared = Q.prepare_qat(cnn(), reduce_range=reduce_range)
    x = torch.rand(80, 1, 8, 8, generator=generator) * 3
    for _ in range(3):
        prepared(x)
    prepared.eval()
    deployed = Q.quantize_model(prepared, mode="static", reduce_range=reduce_range)
    ratio = Q.sqnr(run(prepared, x), run(deployed, x))
    assert ratio > 60, f"{ratio:.1f} dB between the trained and the deployed model: do they round alike?"
    ratio = Q.sqnr(run(prepared, x * 2), run(deployed, x * 2))
    assert ratio > 60, f"{ratio:.1f} dB on inputs outside the range: do they clamp alike?"
    untrained = Q.prepare_qat(cnn())
    with expect_error(RuntimeError, otherwise="a QAT model that saw no batch is converted"):
        Q.quantize_model(untrained, mode="static")
    with expect_error(RuntimeError, otherwise="a QAT model that saw no batch is evaluated"):
        untrained.eval()(x)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("save_quantized", "load_quantized")
@pytest.mark.parametrize("name", ["mlp", "cnn", "block"])
@pytest.mark.parametrize(
    "options", [{}, {"mode": "static"}, {"mode": "weight_only", "n_bits": 4, "group_size": 16}], ids=str
)
def test_file(name, options, generator, tmp_path):
    """What is read back gives the same bits."""
    model, calibration, x = signal(name, generator)
    extra = {"calibration": calibration, "reduce_range": True} if options.get("mode") == "static" else {}
    quantized = Q.quantize_model(model, **options, **extra)
    path = tmp_path / "model.safetensors"
    Q.save_quantized(quantized, path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    loaded = Q.load_quantized(model, path)
    saved, read = quantized.state_dict(), loaded.state_dict()
    assert saved.keys() == read.keys(), f"tensors lost or added: {saved.keys() ^ read.keys()}"
    assert all(torch.equal(saved[key], read[key]) and saved[key].dtype == read[key].dtype for key in saved), (
        "a tensor changed on its way through the file"
    )
    assert torch.equal(run(quantized, x), run(loaded, x)), "the loaded model computes something else"


@pytest.mark.grades("save_quantized", "load_quantized")
def test_file_size(tmp_path, generator):
    """int8 takes 0.25 to 0.35 of the float file, int4 less than 0.2."""
    from safetensors.torch import save_file

    model, shares = mlp(), {}
    save_file(model.state_dict(), tmp_path / "float")
    for n_bits in (8, 4):
        quantized = Q.quantize_model(model, mode="weight_only", n_bits=n_bits)
        Q.save_quantized(quantized, tmp_path / "quantized")
        shares[n_bits] = (tmp_path / "quantized").stat().st_size / (tmp_path / "float").stat().st_size
        x = torch.rand(4, 64, generator=generator)
        assert torch.equal(run(Q.load_quantized(model, tmp_path / "quantized"), x), run(quantized, x))
    assert 0.25 <= shares[8] <= 0.35, f"int8 takes {shares[8]:.2f} of the float file"
    assert shares[4] < 0.2, f"int4 takes {shares[4]:.2f} of the float file: is it packed?"


@pytest.mark.grades("load_quantized", "save_quantized")
def test_file_that_does_not_fit(tmp_path):
    """Another architecture, or a file without the metadata, is refused."""
    from safetensors.torch import save_file

    Q.save_quantized(Q.quantize_model(mlp()), tmp_path / "model")
    for other in (cnn(), nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)), nn.ReLU()):
        with expect_error(ValueError, otherwise="a file for another architecture is loaded"):
            Q.load_quantized(other, tmp_path / "model")
    save_file(mlp().state_dict(), tmp_path / "float")
    with expect_error(ValueError, otherwise="a float file is loaded as a quantized one"):
        Q.load_quantized(mlp(), tmp_path / "float")


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.grades("quantize_model")
def test_digits_int8():
    """Int8 changes the accuracy on held-out digits by at most 0.5 points, in every mode."""
    pixels, _, held_out, classes = digits()
    model = digits_mlp()
    exact = accuracy(model, held_out, classes)
    assert exact > 0.95, f"the float model reads {exact:.1%}"
    for mode in Q.MODES:
        calibration = [pixels[:200]] if mode == "static" else None
        got = accuracy(Q.quantize_model(model, mode=mode, calibration=calibration), held_out, classes)
        assert abs(got - exact) <= 0.005 + 1e-9, f"{mode}: {got:.2%} instead of {exact:.2%}"


@pytest.mark.grades("prepare_qat", "quantize_model", "FakeQuantized")
def test_digits_int4_after_qat():
    """Int4 in groups, trained, is within 1 point of float; deployed it is what was trained."""
    pixels, classes, held_out, held_out_classes = digits()
    model = digits_mlp()
    exact = accuracy(model, held_out, held_out_classes)
    prepared = Q.prepare_qat(model, n_bits=4, group_size=32)
    train(prepared, pixels, classes, n_steps=60, learning_rate=1e-3)
    prepared.eval()
    deployed = Q.quantize_model(prepared, mode="weight_only", n_bits=4, group_size=32)
    got = accuracy(deployed, held_out, held_out_classes)
    assert got >= exact - 0.01, f"int4 after QAT reads {got:.2%}, float {exact:.2%}"
    ratio = Q.sqnr(run(prepared, held_out), run(deployed, held_out))
    assert ratio > 60, f"{ratio:.1f} dB between the trained and the deployed model: do they round alike?"
    assert math.isfinite(Q.sqnr(run(model, held_out), run(deployed, held_out))), "nothing was quantized"
