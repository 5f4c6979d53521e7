"""The judge of files. Law: what is read back gives the same bits."""

import pytest
import torch
from networks import cnn, mlp, run, signal
from torch import nn

from deploy import quantize_network
from files import load_quantized, save_quantized
from shared.testing.checks import expect_error


@pytest.mark.grades("save_quantized", "load_quantized")
@pytest.mark.parametrize("name", ["mlp", "cnn", "block"])
@pytest.mark.parametrize(
    "options", [{}, {"mode": "static"}, {"mode": "weight_only", "n_bits": 4, "group_size": 16}], ids=str
)
def test_file(name, options, generator, tmp_path):
    """What is read back gives the same bits."""
    model, calibration, x = signal(name, generator)
    extra = {"calibration": calibration, "reduce_range": True} if options.get("mode") == "static" else {}
    quantized = quantize_network(model, **options, **extra)
    path = tmp_path / "model.safetensors"
    save_quantized(quantized, path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    loaded = load_quantized(model, path)
    saved, read = quantized.state_dict(), loaded.state_dict()
    assert saved.keys() == read.keys(), f"tensors lost or added: {saved.keys() ^ read.keys()}"
    assert all(torch.equal(saved[key], read[key]) and saved[key].dtype == read[key].dtype for key in saved), (
        "a tensor changed on its way through the file"
    )
    assert torch.equal(run(quantized, x), run(loaded, x)), "the loaded model computes something else"


@pytest.mark.grades("save_quantized", "load_quantized")
def test_file_of_layers_of_any_name(generator, tmp_path):
    """A convolution inside something called products is told from the products inside a convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential()
        model.products = nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)))
        model.products[0].products = nn.Sequential(nn.Conv2d(4, 3, 2))
    x = torch.randn(2, 2, 6, 6, generator=generator)
    quantized = quantize_network(nn.Sequential(model).eval())
    save_quantized(quantized, tmp_path / "model")
    loaded = load_quantized(nn.Sequential(model), tmp_path / "model")
    assert torch.equal(run(quantized, x), run(loaded, x)), "the loaded model computes something else"


@pytest.mark.grades("save_quantized", "load_quantized")
def test_file_of_one_layer(generator, tmp_path):
    """A model that is a single layer."""
    layer, x = mlp()[0], torch.randn(5, 64, generator=generator)
    quantized = quantize_network(layer)
    save_quantized(quantized, tmp_path / "model")
    loaded = load_quantized(layer, tmp_path / "model")
    assert torch.equal(run(quantized, x), run(loaded, x)), "the loaded layer computes something else"


@pytest.mark.grades("save_quantized", "load_quantized")
def test_file_size(tmp_path, generator):
    """int8 takes 0.25 to 0.35 of the float file, int4 less than 0.2."""
    from safetensors.torch import save_file

    model, shares = mlp(), {}
    save_file(model.state_dict(), tmp_path / "float")
    for n_bits in (8, 4):
        quantized = quantize_network(model, mode="weight_only", n_bits=n_bits)
        save_quantized(quantized, tmp_path / "quantized")
        shares[n_bits] = (tmp_path / "quantized").stat().st_size / (tmp_path / "float").stat().st_size
        x = torch.rand(4, 64, generator=generator)
        assert torch.equal(run(load_quantized(model, tmp_path / "quantized"), x), run(quantized, x))
    assert 0.25 <= shares[8] <= 0.35, f"int8 takes {shares[8]:.2f} of the float file"
    assert shares[4] < 0.2, f"int4 takes {shares[4]:.2f} of the float file: is it packed?"


@pytest.mark.grades("load_quantized", "save_quantized")
def test_file_that_does_not_fit(tmp_path):
    """Another architecture, or a file without the metadata, is refused."""
    from safetensors.torch import save_file

    save_quantized(quantize_network(mlp()), tmp_path / "model")
    for other in (cnn(), nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)), nn.ReLU()):
        with expect_error(ValueError, otherwise="a file for another architecture is loaded"):
            load_quantized(other, tmp_path / "model")
    save_file(mlp().state_dict(), tmp_path / "float")
    with expect_error(ValueError, otherwise="a float file is loaded as a quantized one"):
        load_quantized(mlp(), tmp_path / "float")
