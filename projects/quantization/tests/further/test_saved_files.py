"""The judge of files. Law: what is read back gives the same bits."""

import pytest
import torch
from networks import cnn, kinds, mlp, run, signal
from torch import nn

from deploy import quantize_network
from files import load_quantized, save_quantized
from qat import prepare_qat
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


@pytest.mark.grades("load_quantized", "save_quantized")
def test_damaged_files(tmp_path):
    """Empty, cut, longer and foreign files are a ValueError with the path; a missing one stays a FileNotFoundError."""
    from safetensors.torch import save_file

    model, path = mlp(), tmp_path / "model.safetensors"
    quantized = quantize_network(model)
    save_quantized(quantized, path)
    whole = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut in the header": whole[:50],
        "cut in the tensors": whole[:-1],
        "too long": whole + b"x",
        "text": b"a text of more than eight bytes",
        "zeros": bytes(200),
    }
    for name, content in damaged.items():
        path.write_bytes(content)
        with expect_error(ValueError, "model.safetensors", otherwise=f"a file is loaded that is {name}"):
            load_quantized(model, path)
    layers = (
        "",
        "{",
        "[]",
        "3",
        '{"0": 3}',
        '{"0": {"group_size": 0}}',
        '{"0": {"reduce_range": 7}}',
        '{"0": {"x": 1}}',
    )
    for text in layers:
        save_file(quantized.state_dict(), path, metadata={"layers": text})
        with expect_error(ValueError, "model.safetensors", otherwise=f"layers={text!r} is accepted"):
            load_quantized(model, path)
    state = quantized.state_dict()
    state["0.weight"] = state["0.weight"].float()
    layers = '{"0": {"mode": "dynamic"}, "2": {"mode": "dynamic"}, "4": {"mode": "dynamic"}}'
    save_file(state, path, metadata={"layers": layers})
    with expect_error(ValueError, "0.weight", otherwise="float weights become integers without a word"):
        load_quantized(model, path)
    with pytest.raises(FileNotFoundError):
        load_quantized(model, tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        load_quantized(model, tmp_path)


@pytest.mark.grades("save_quantized")
def test_saving_that_fails(tmp_path, monkeypatch):
    """The old file stays whole, nothing is left beside it; the new one is on the disk before it takes the old one's name."""
    import os

    path = tmp_path / "model"
    save_quantized(quantize_network(mlp()), path)
    before, synced = path.read_bytes(), []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), sync(file)))

    def fail(source, target):
        assert synced, "the file is renamed before its bytes are on the disk"
        assert path.read_bytes() == before, "the old file was written over"
        raise OSError("no space")

    for broken in (fail, replace):
        monkeypatch.setattr(os, "replace", broken)
        if broken is fail:
            with pytest.raises(OSError, match="no space"):
                save_quantized(quantize_network(mlp()[:3]), path)
            assert path.read_bytes() == before, "a failed save changed the old file"
        else:
            save_quantized(quantize_network(mlp()[:3]), path)
            assert path.read_bytes() != before, "nothing was saved"
        assert [p.name for p in tmp_path.iterdir()] == ["model"], "something is left beside the file"


@pytest.mark.grades("save_quantized")
def test_saving_what_cannot_be_loaded(tmp_path):
    """The core's network, a prepared and a float one have no layer of quantize_network: refused, and nothing is written."""
    import quantization

    for model in (quantization.quantize_model(mlp()), prepare_qat(mlp()), mlp()):
        with expect_error(
            ValueError, otherwise=f"a network of {kinds(model)} is saved, and could not be loaded"
        ):
            save_quantized(model, tmp_path / "model")
    assert not list(tmp_path.iterdir()), "a file was written"


@pytest.mark.grades("save_quantized", "load_quantized")
def test_file_of_shared_layers_and_another_precision(generator, tmp_path):
    """A layer in two places, and an architecture in half precision: the same bits come back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared = nn.Linear(6, 6)
        model = nn.Sequential(
            shared, nn.LayerNorm(6), shared, nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        )
    x = torch.randn(4, 5, 6, generator=generator)
    quantized = quantize_network(model.eval())
    save_quantized(quantized, tmp_path / "model")
    loaded = load_quantized(model.half(), tmp_path / "model")
    assert torch.equal(run(quantized, x), run(loaded, x)), "the loaded model computes something else"
