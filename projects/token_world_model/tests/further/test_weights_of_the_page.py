"""export.py: what the page gets is the weights, to half a step of their row's scale."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import export
from shared.testing.checks import expect_error

pytestmark = pytest.mark.grades()
WEIGHTS = sorted((Path(__file__).resolve().parents[2] / "weights").glob("*.safetensors"))


def test_a_matrix_by_hand():
    """Each row by a scale that takes its largest number to 127, to the nearest integer."""
    weight = torch.tensor([[127.0, -1.4, 0.6], [0.0, 0.0, 0.0], [-2.54, 1.28, 0.0]])
    stored = export.store({"weight": weight})["weight"]
    whole = np.frombuffer(base64.b64decode(stored["data"]), np.int8).reshape(3, 3)
    assert stored["shape"] == [3, 3], f"the shape is {stored['shape']}"
    scales = np.frombuffer(base64.b64decode(stored["scales"]), "<f4").tolist()
    assert len(scales) == 3, f"{len(scales)} scales for three rows"
    assert scales[0] == pytest.approx(1), f"the scale of a row up to 127 is {scales[0]:.4f}, expected 1"
    assert scales[2] == pytest.approx(0.02), (
        f"the scale of a row up to 2.54 is {scales[2]:.4f}, expected 0.02"
    )
    assert whole.tolist() == [[127, -1, 1], [0, 0, 0], [-127, 64, 0]], (
        f"rows over their scales are {whole.tolist()}: they are rounded to the nearest integer"
    )


def test_vectors_stay_as_they_are():
    """Biases and norms are float32, little-endian, and come back bit for bit."""
    bias = torch.tensor([1e-7, -3.3333333, 1e9])
    stored = export.store({"bias": bias})["bias"]
    assert stored["scales"] == "", "a vector has scales: it is stored as int8"
    assert np.frombuffer(base64.b64decode(stored["data"]), "<f4").tolist() == bias.tolist(), (
        "a vector is not stored as little-endian float32"
    )
    assert torch.equal(export.restore({"bias": stored})["bias"], bias), "a vector comes back as another"


@pytest.mark.parametrize("name", ["tokenizer.codebook", "tokenizer.encoder.2.weight"])
def test_what_decides_on_tokens_stays_as_it_is(name):
    weight = torch.randn(6, 5, 1, 1, generator=torch.Generator().manual_seed(1))
    stored = export.store({name: weight, "tokenizer.decoder.0.weight": weight})
    assert torch.equal(export.restore(stored)[name], weight), (
        f"{name} is rounded: where two codes lie close together, another one would win"
    )
    assert stored["tokenizer.decoder.0.weight"]["scales"] != "", (
        "the decoder is stored as float32: the file is large"
    )


@pytest.mark.parametrize("shape", [(7, 4), (5, 3, 3, 2)], ids=["a table", "a kernel"])
def test_each_row_has_its_own_scale(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[2] *= 1000
    restored = export.restore(export.store({"w": weight.half()}))["w"]
    half_a_step = weight.flatten(1).abs().amax(dim=1) / 127 / 2
    errors = (restored - weight.half().float()).flatten(1).abs().amax(dim=1)
    assert restored.dtype == torch.float32, f"weights come back as {restored.dtype}"
    assert restored.shape == weight.shape, f"weights come back in the shape {tuple(restored.shape)}"
    assert (errors <= half_a_step * 1.01).all(), (
        f"rows are wrong by up to {(errors / half_a_step / 2).max():.2f} steps of their own scale, expected half a step"
    )
    assert (errors > half_a_step / 10).all(), "weights come back too well: they are not stored as int8"


def test_what_is_not_finite_is_refused_by_name():
    with expect_error(ValueError, "layer.bias", otherwise="a number that is not finite is stored"):
        export.store({"layer.bias": torch.tensor([1.0, float("nan")])})


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: path.stem)
def test_the_file_holds_every_weight(weights, tmp_path):
    path = export.write(weights, tmp_path / "build" / "dream.json")
    restored, real = export.restore(json.loads(path.read_text())), load_file(weights)
    assert restored.keys() == real.keys(), f"names differ: {sorted(restored.keys() ^ real.keys())}"
    for name, tensor in real.items():
        assert restored[name].shape == tensor.shape, f"{name} has the shape {tuple(restored[name].shape)}"
        assert (restored[name] - tensor.float()).abs().max() <= tensor.float().abs().max() / 127, (
            f"{name} comes back as another"
        )
    assert path.stat().st_size < 1_000_000, f"the file has {path.stat().st_size} bytes"


def test_the_file_can_be_made_of_any_weights(tmp_path):
    save_file({"a": torch.ones(2, 2)}, tmp_path / "w.safetensors")
    stored = json.loads(export.write(tmp_path / "w.safetensors", tmp_path / "w.json").read_text())
    assert torch.equal(export.restore(stored)["a"], torch.ones(2, 2))
