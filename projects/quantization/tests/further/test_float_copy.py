"""The judge of the copy that is quantized. Oracle: the float network."""

import pytest
import torch
from networks import kinds, run
from oracles import decibels
from torch import nn

from deploy import quantize_network
from float_copy import float_copy
from qat import prepare_qat
from shared.testing.checks import assert_close


def encoder(n_layers=0):
    """Return torch's encoder layer, or a stack of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        return (nn.TransformerEncoder(layer, n_layers) if n_layers else layer).eval()


@pytest.mark.grades("float_copy")
def test_float_copy():
    """In evaluation mode, without norms, and the model stays as it was."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    copied = float_copy(model)
    assert not copied.training, "the copy is in evaluation mode"
    assert model.training, "the model's mode was changed"
    assert kinds(copied) == ["Conv2d", "Identity"], f"the norms of the copy are folded: {kinds(copied)}"
    assert kinds(model) == ["Conv2d", "BatchNorm2d"], f"the model itself was changed: {kinds(model)}"


@pytest.mark.grades("float_copy", "quantize_network")
@pytest.mark.parametrize("mode", ["dynamic", "static", "weight_only"])
@pytest.mark.parametrize("n_layers", [0, 2])
def test_encoder_layers(n_layers, mode, generator):
    """Torch's encoder has a fast path that reads the weights of its linear layers: these are integers now."""
    model, x = encoder(n_layers), torch.randn(3, 5, 16, generator=generator)
    quantized = quantize_network(model, mode=mode, calibration=[x] if mode == "static" else None)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    for options in ({}, {"src_key_padding_mask": padding}):
        exact = model(x, **options)  # with gradients: without the fast path
        with torch.no_grad():
            got = quantized(x, **options)
        ratio = decibels(exact, got)
        assert 30 < ratio < 70, f"{mode}, {list(options)}: {ratio:.1f} dB"


@pytest.mark.grades("float_copy", "prepare_qat")
def test_encoder_layers_in_training(generator):
    """Prepared for training, its evaluation without gradients leaves the fast path, too."""
    model, x = encoder(), torch.randn(3, 5, 16, generator=generator)
    prepared = prepare_qat(model)
    prepared(x)
    ratio = decibels(run(model, x), run(prepared.eval(), x))
    assert 30 < ratio < 70, f"{ratio:.1f} dB"


@pytest.mark.grades("float_copy", "quantize_network", "prepare_qat")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions(dtype, generator):
    """A network of another precision is quantized in float32, which its new layers give: the layers between take it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8)).to(dtype).eval()
    x = torch.randn(20, 8, generator=generator).to(dtype)
    exact = run(model.double(), x.double())
    model.to(dtype)
    for mode in ("dynamic", "static", "weight_only"):
        quantized = quantize_network(model, mode=mode, calibration=[x] if mode == "static" else None)
        got = run(quantized, x)
        assert got.dtype == torch.float32, f"{mode}: the result is {got.dtype}"
        assert decibels(exact, got) > 30, f"{mode}: {decibels(exact, got):.1f} dB"
    prepared = prepare_qat(model)
    prepared(x.float())
    assert decibels(exact, run(prepared.eval(), x.float())) > 30
    assert model[0].weight.dtype == dtype, "the model itself was converted"
    assert_close(run(float_copy(model), x.float()), exact, dtype="float32", n=64, what="the copy")
