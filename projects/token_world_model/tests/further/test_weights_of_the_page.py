"""export.py: what the page gets is the weights, to half a step of their row's scale."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import export

pytestmark = pytest.mark.grades()
WEIGHTS = sorted((Path(__file__).resolve().parents[2] / "weights").glob("*.safetensors"))


def test_a_matrix_by_hand():
    weight = torch.tensor([[127.0, -1.4, 0.6], [0.0, 0.0, 0.0], [-2.54, 1.28, 0.0]])
    stored = export.store({"weight": weight})["weight"]
    whole = np.frombuffer(base64.b64decode(stored["data"]), np.int8).reshape(3, 3)
    assert stored["shape"] == [3, 3]
    assert whole.tolist() == [[127, -1, 1], [0, 0, 0], [-127, 64, 0]]
    assert np.frombuffer(base64.b64decode(stored["scales"]), "<f4").tolist() == pytest.approx([1, 1, 0.02])


def test_vectors_stay_as_they_are():
    bias = torch.tensor([1e-7, -3.3333333, 1e9])
    stored = export.store({"bias": bias})["bias"]
    assert stored["scales"] == ""
    assert np.frombuffer(base64.b64decode(stored["data"]), "<f4").tolist() == bias.tolist()
    assert torch.equal(export.restore({"bias": stored})["bias"], bias)


@pytest.mark.parametrize("name", ["tokenizer.codebook", "tokenizer.encoder.2.weight"])
def test_what_decides_on_tokens_stays_as_it_is(name):
    weight = torch.randn(6, 5, 1, 1, generator=torch.Generator().manual_seed(1))
    stored = export.store({name: weight, "tokenizer.decoder.0.weight": weight})
    assert torch.equal(export.restore(stored)[name], weight)
    assert stored["tokenizer.decoder.0.weight"]["scales"] != ""


@pytest.mark.parametrize("shape", [(7, 4), (5, 3, 3, 2)], ids=["a table", "a kernel"])
def test_each_row_has_its_own_scale(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[2] *= 1000
    restored = export.restore(export.store({"w": weight.half()}))["w"]
    half_a_step = weight.flatten(1).abs().amax(dim=1) / 127 / 2
    errors = (restored - weight.half().float()).flatten(1).abs().amax(dim=1)
    assert restored.dtype == torch.float32
    assert restored.shape == weight.shape
    assert (errors <= half_a_step * 1.01).all()
    assert (errors > half_a_step / 10).all()


def test_what_is_not_finite_is_refused_by_name():
    with pytest.raises(ValueError, match=r"layer\.bias"):
        export.store({"layer.bias": torch.tensor([1.0, float("nan")])})


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: path.stem)
def test_the_file_holds_every_weight(weights, tmp_path):
    path = export.write(weights, tmp_path / "build" / "dream.json")
    restored, real = export.restore(json.loads(path.read_text())), load_file(weights)
    assert restored.keys() == real.keys()
    for name, tensor in real.items():
        assert restored[name].shape == tensor.shape
        assert (restored[name] - tensor.float()).abs().max() <= tensor.float().abs().max() / 127
    assert path.stat().st_size < 1_000_000


def test_the_file_can_be_made_of_any_weights(tmp_path):
    save_file({"a": torch.ones(2, 2)}, tmp_path / "w.safetensors")
    stored = json.loads(export.write(tmp_path / "w.safetensors", tmp_path / "w.json").read_text())
    assert torch.equal(export.restore(stored)["a"], torch.ones(2, 2))
