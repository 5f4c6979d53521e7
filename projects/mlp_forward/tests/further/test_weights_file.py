"""The judge of the weights file: writing it, reading it, the committed digits network, and files that are damaged.

Oracles: torch and the safetensors library, which write the files read here and read those written here.
"""

import json
import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from networks import network, random_network
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch_twins import torch_outputs

import mlp_forward
import weights_file
from shared.testing.checks import assert_close, expect_error

WEIGHTS = Path(__file__).parents[2] / "weights" / "digits.safetensors"


def tensors_of(*sizes, dtype=np.float32):
    """Return the named tensors of a good file with these layer sizes."""
    rng = np.random.default_rng(3)
    tensors = {}
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        tensors[f"{2 * k}.weight"] = rng.normal(size=(n_out, n_in)).astype(dtype)
        tensors[f"{2 * k}.bias"] = rng.normal(size=n_out).astype(dtype)
    return tensors


def written(path, tensors, metadata=None):
    """Write a file with the safetensors library and return its path."""
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    return path


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("write_network")
@pytest.mark.parametrize("as_text", [True, False], ids=["str", "Path"])
def test_written_file(tmp_path, rng, as_text):
    """The library reads back torch's names, shapes (out, in), dtypes and bits; no other file is left behind."""
    mlp, path = random_network(mlp_forward, [5, 4, 3, 2], rng, dtype=np.float32), tmp_path / "mlp.safetensors"
    mlp.layers = [(np.asfortranarray(weight), bias) for weight, bias in mlp.layers]  # as fast.py has them
    weights_file.write_network(mlp, str(path) if as_text else path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], f"files left: {sorted(tmp_path.iterdir())}"
    tensors = safetensors.numpy.load_file(path)
    names = [f"{2 * k}.{kind}" for k in range(3) for kind in ("weight", "bias")]
    assert sorted(tensors) == sorted(names), (
        "wrong tensor names: in a torch.nn.Sequential the activations take the odd numbers\n"
        f"got {sorted(tensors)}, expected {sorted(names)}"
    )
    for k, (weight, bias) in enumerate(mlp.layers):
        expected = np.array(weight, order="C")
        mistakes = {
            "the memory of a column-major weight was copied as it lies: np.ascontiguousarray first": np.reshape(
                expected.ravel(order="F"), expected.shape
            ),
        }
        got = tensors[f"{2 * k}.weight"]
        assert got.shape != expected.T.shape, "the weight is transposed in the file: torch stores (out, in)"
        assert_close(got, expected, rtol=0.0, what=f"{2 * k}.weight in the file", mistakes=mistakes)
        assert_close(tensors[f"{2 * k}.bias"], bias, rtol=0.0, what=f"{2 * k}.bias in the file")


@pytest.mark.grades("write_network")
def test_torch_reads_the_file(tmp_path, rng):
    """torch.nn.Sequential loads the file as it is, and computes the same logits."""
    mlp, x = (
        random_network(mlp_forward, [5, 4, 3], rng, dtype=np.float32),
        rng.normal(size=(7, 5)).astype(np.float32),
    )
    weights_file.write_network(mlp, tmp_path / "mlp.safetensors")
    twin = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "mlp.safetensors"), strict=True)
    assert_close(mlp.forward(x), twin(torch.from_numpy(x)).detach().numpy(), n=5, what="logits")


@pytest.mark.grades("write_network")
@pytest.mark.parametrize("bad", [np.nan, -np.inf], ids=str)
def test_a_bad_network_is_not_written(tmp_path, rng, bad):
    """NaN or inf in a parameter is refused by name, and the file that was there survives."""
    path = tmp_path / "mlp.safetensors"
    path.write_bytes(b"precious")
    mlp = random_network(mlp_forward, [5, 4, 3], rng)
    mlp.layers[1][1][2] = bad
    with expect_error(ValueError, "2.bias", otherwise=f"a network that holds {bad} is written"):
        weights_file.write_network(mlp, path)
    assert path.read_bytes() == b"precious", (
        "a refused network damaged the existing file: check before writing"
    )
    assert len(list(tmp_path.iterdir())) == 1, f"files left: {sorted(tmp_path.iterdir())}"
    mlp.layers[1][1][2] = 0.5
    weights_file.write_network(mlp, path)
    assert sorted(safetensors.numpy.load_file(path)) == ["0.bias", "0.weight", "2.bias", "2.weight"]


@pytest.mark.grades("write_network")
def test_existing_file_is_replaced(tmp_path, rng):
    """The new file takes the old one's place; whoever holds the old one (here: by a second name) keeps it whole."""
    path, held = tmp_path / "mlp.safetensors", tmp_path / "held"
    path.write_bytes(b"old")
    os.link(path, held)
    weights_file.write_network(random_network(mlp_forward, [5, 4, 3], rng), path)
    assert held.read_bytes() == b"old", (
        "the old file was overwritten in place, and a reader could see half of each: "
        "write a temporary file beside it, then move it there"
    )
    assert len(safetensors.numpy.load_file(path)) == 4
    assert len(list(tmp_path.iterdir())) == 2, f"files left: {sorted(tmp_path.iterdir())}"


@pytest.mark.grades("write_network")
def test_file_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, rng, monkeypatch):
    """A rename may reach the disk before the bytes do: after a power cut the file would be there, and empty."""
    path = tmp_path / "mlp.safetensors"
    path.write_bytes(b"old")
    before_sync = []
    monkeypatch.setattr(os, "fsync", lambda file: before_sync.append(path.read_bytes()))
    weights_file.write_network(random_network(mlp_forward, [5, 4, 3], rng), path)
    assert before_sync, "os.fsync is not called: the name can be on the disk before the bytes are"
    assert before_sync[0] == b"old", "the old file is replaced first and the new one flushed afterwards"

    def full(file):
        raise OSError(28, "No space left on device")

    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        weights_file.write_network(random_network(mlp_forward, [5, 4, 3], rng), path)
    assert path.read_bytes() == b"old", "the disk is full, and the old file is gone"
    assert len(list(tmp_path.iterdir())) == 1, f"files left: {sorted(tmp_path.iterdir())}"


@pytest.mark.grades("write_network")
def test_big_endian_parameters_are_written_by_value(tmp_path, rng):
    """A parameter that came from a file of the other byte order has the same value in the file."""
    mlp = random_network(mlp_forward, [5, 4, 3], rng)
    weight, bias = mlp.layers[0]
    mlp.layers[0] = (weight.astype(weight.dtype.newbyteorder(">")), bias)
    weights_file.write_network(mlp, tmp_path / "mlp.safetensors")
    read = safetensors.numpy.load_file(tmp_path / "mlp.safetensors")["0.weight"]
    assert_close(read, weight, rtol=0.0, hint="the memory was copied without a look at the byte order")


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("read_network")
@pytest.mark.parametrize("sizes", [(5, 3), (6, 6, 6), (5, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_parameters_from_file(tmp_path, sizes, dtype):
    """Every parameter keeps its value, shape and dtype, and can be written to."""
    tensors = tensors_of(*sizes, dtype=dtype)
    mlp = weights_file.read_network(written(tmp_path / "mlp.safetensors", tensors))
    assert len(mlp.layers) == len(sizes) - 1, f"{len(sizes) - 1} layers in the file, {len(mlp.layers)} read"
    for k, (weight, bias) in enumerate(mlp.layers):
        expected = tensors[f"{2 * k}.weight"]
        mistakes = {"the weight is transposed: it is (out, in) in the file and in `layers`": expected.T}
        assert_close(weight, expected, rtol=0.0, what=f"weight of layer {k}", mistakes=mistakes)
        assert_close(bias, tensors[f"{2 * k}.bias"], rtol=0.0, what=f"bias of layer {k}")
        assert weight.flags.writeable, "the weights are read-only: copy them into the network's own arrays"
        assert bias.flags.writeable, "the biases are read-only: copy them into the network's own arrays"
    assert mlp.forward(np.ones(sizes[0])).dtype == dtype, "the network's dtype is not the file's"


@pytest.mark.grades("read_network")
def test_file_written_by_torch(tmp_path, rng):
    """A file from torch.save's successor gives torch's logits; without metadata the activation is ReLU."""
    torch.manual_seed(0)
    twin = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    safetensors.torch.save_file(twin.state_dict(), tmp_path / "mlp.safetensors", metadata={"format": "pt"})
    x = rng.normal(size=(7, 5)).astype(np.float32)
    mlp = weights_file.read_network(str(tmp_path / "mlp.safetensors"))
    assert_close(mlp.forward(x), twin(torch.from_numpy(x)).detach().numpy(), n=5, what="logits")


@pytest.mark.grades("read_network", "write_network")
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
def test_round_trip(tmp_path, rng, activation):
    """Written and read again, a network gives the same bits, and keeps its activation."""
    mlp, x = random_network(mlp_forward, [5, 4, 4, 3], rng, activation=activation), rng.normal(size=(7, 5))
    weights_file.write_network(mlp, tmp_path / "mlp.safetensors")
    again = weights_file.read_network(tmp_path / "mlp.safetensors")
    mistakes = {
        f"the activation is lost: {activation!r} came back as {name!r}": torch_outputs(mlp, x, name)[-1]
        for name in ("relu", "tanh", "sigmoid", "identity")
        if name != activation
    }
    expected = torch_outputs(mlp, x, activation)[-1]
    assert_close(again.forward(x), expected, rtol=1e-12, what="logits after a round trip", mistakes=mistakes)
    assert np.array_equal(again.forward(x), mlp.forward(x)), "the same parameters must give the same bits"


@pytest.mark.grades("read_network")
def test_reading_keeps_no_hold_of_the_file(tmp_path):
    """The network stays as it was read when the file is overwritten."""
    path = written(tmp_path / "mlp.safetensors", tensors_of(5, 3))
    mlp = weights_file.read_network(path)
    expected = tensors_of(5, 3)["0.weight"]
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert_close(mlp.layers[0][0], expected, rtol=0.0, what="weight after the file changed")


# --- real input -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """Return the held-out 360 of scikit-learn's handwritten digits, in the split the weights were trained with."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    _, X_test, _, y_test = train_test_split(X, y, test_size=360, random_state=0, stratify=y)
    return X_test, y_test


@pytest.mark.grades("read_network")
def test_the_kind_of_network(tmp_path):
    """`network` says which class is made: the fast one, say, which takes float16."""
    path = written(tmp_path / "mlp.safetensors", tensors_of(5, 3, dtype=np.float16))

    class Network(mlp_forward.MLP):
        pass

    mlp = weights_file.read_network(path, Network)
    assert type(mlp) is Network, f"a network of class Network was asked for, got {type(mlp).__name__}"
    assert_close(mlp.layers[0][0], tensors_of(5, 3, dtype=np.float16)["0.weight"], rtol=0.0)


@pytest.mark.grades("read_network", "MLP.predict")
def test_digits_accuracy(digits):
    """The committed weights classify at least 97 % of the held-out digits."""
    X, y = digits
    accuracy = np.mean(weights_file.read_network(WEIGHTS).predict(X) == y)
    assert accuracy >= 0.97, f"{accuracy:.1%} of the held-out digits are right, expected at least 97 %"


@pytest.mark.grades("read_network", "MLP.forward", "MLP.predict_proba")
def test_digits_logits_equal_torch(digits):
    """The same logits as torch.nn.Sequential with the same weights, to 1e-5 in float32."""
    X, _ = digits
    twin = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    twin.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    with torch.no_grad():
        logits = twin(torch.from_numpy(X))
    mlp = weights_file.read_network(WEIGHTS)
    assert_close(mlp.forward(X), logits.numpy(), rtol=1e-5, what="logits of the digits")
    assert_close(
        mlp.predict_proba(X), logits.softmax(-1).numpy(), rtol=1e-5, what="probabilities of the digits"
    )


# --- files that are wrong ---------------------------------------------------------------------------------------------


def changed(**changes):
    """Return the tensors of a good 5-4-3-2 file with some replaced, added, or (None) removed."""
    tensors = tensors_of(5, 4, 3, 2)
    for name, value in changes.items():
        tensors[name.replace("_", ".")] = value
    return {name: value for name, value in tensors.items() if value is not None}


def ones(*shape, dtype=np.float32):
    """Return an array of ones, float32 like the rest of the file."""
    return np.ones(shape, dtype)


def with_value(array, value):
    """Return `array` with `value` in its last place."""
    array.flat[-1] = value
    return array


def renamed(old, new):
    """Return the tensors of a good 5-4-3 file with `old` in their names replaced by `new`."""
    return {name.replace(old, new): value for name, value in tensors_of(5, 4, 3).items()}


MISMATCHED = {  # what is wrong -> tensors, and the name that the message must hold where only one can be meant
    "no tensors": ({}, ""),
    "first weight missing": (changed(**{"0_weight": None}), ""),
    "a weight missing": (changed(**{"2_weight": None}), ""),
    "a bias missing": (changed(**{"4_bias": None}), "4.bias"),
    "an unknown tensor": (changed(step=ones(1)), "step"),
    "a gap in the numbers": (renamed("2.", "4."), ""),
    "numbers without activations": (renamed("2.", "1."), ""),
    "names of another module": (renamed("2.", "fc.2."), ""),
    "a weight of rank 0": (changed(**{"0_weight": ones()}), "0.weight"),
    "a weight of rank 1": (changed(**{"2_weight": ones(4)}), "2.weight"),
    "a weight of rank 3": (changed(**{"0_weight": ones(4, 5, 1)}), "0.weight"),
    "a transposed weight": (changed(**{"2_weight": ones(4, 3)}), ""),
    "a layer too wide for the one before": (changed(**{"2_weight": ones(3, 6)}), "2.weight"),
    "a bias too long": (changed(**{"2_bias": ones(4)}), "2.bias"),
    "a bias that would broadcast": (changed(**{"2_bias": ones(1)}), "2.bias"),
    "a bias of rank 2": (changed(**{"2_bias": ones(3, 1)}), "2.bias"),
    "a layer without neurons": (changed(**{"4_weight": ones(0, 3), "4_bias": ones(0)}), ""),
    "integers": (changed(**{"2_weight": ones(3, 4, dtype=np.int8)}), "2.weight"),
    "another dtype": (changed(**{"2_weight": ones(3, 4, dtype=np.float16)}), "2.weight"),
    "another dtype of a bias": (changed(**{"4_bias": ones(2, dtype=np.float64)}), "4.bias"),
    "integers everywhere": (tensors_of(5, 3, dtype=np.int32), ""),
    "NaN in a weight": (changed(**{"2_weight": with_value(ones(3, 4), np.nan)}), "2.weight"),
    "inf in a bias": (changed(**{"4_bias": with_value(ones(2), np.inf)}), "4.bias"),
}


@pytest.mark.grades("read_network")
@pytest.mark.parametrize("case", MISMATCHED)
def test_mismatched_file(tmp_path, case):
    """Tensors that are no such network are refused, with the path and the tensor in the message."""
    tensors, name = MISMATCHED[case]
    path = written(tmp_path / "mismatched.safetensors", tensors)
    with expect_error(ValueError, str(path), name, otherwise=f"a file with {case} is accepted"):
        weights_file.read_network(path)


@pytest.mark.grades("read_network")
def test_unknown_activation_in_file(tmp_path):
    """An activation that the network does not have is refused."""
    path = written(tmp_path / "mlp.safetensors", tensors_of(5, 4, 3), {"activation": "softplus"})
    with expect_error(
        ValueError, str(path), "softplus", otherwise="an unknown activation in the file is accepted"
    ):
        weights_file.read_network(path)


@pytest.mark.grades("read_network")
def test_truncated_file(tmp_path):
    """A file cut off anywhere is refused: in the length, in the header, in the numbers."""
    good = written(tmp_path / "good.safetensors", tensors_of(5, 4, 3)).read_bytes()
    path = tmp_path / "cut.safetensors"
    for n_bytes in [0, 1, 7, 8, 9, 100, len(good) // 2, len(good) - 4, len(good) - 1]:
        path.write_bytes(good[:n_bytes])
        problem = f"a file cut off after {n_bytes} of {len(good)} bytes is not refused with a ValueError"
        with expect_error(ValueError, str(path), otherwise=problem):
            weights_file.read_network(path)


def file_bytes(header, data=b""):
    """Return a safetensors file: the header's length in 8 bytes, the header, the numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


WEIGHT = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
MALFORMED = {
    "text": b"0.weight 0.bias\n" * 9,
    "a pickle": b"\x80\x02}q\x00X\x08\x00\x00\x000.weight" * 9,
    "a header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "a header that is no JSON": file_bytes(b"{'0.weight': 1}"),
    "a header that is a list": file_bytes([1, 2]),
    "a header that is not UTF-8": file_bytes(b'{"\xff\xfe": 1}'),
    "an unknown dtype": file_bytes({"0.weight": {**WEIGHT, "dtype": "F31"}}, bytes(8)),
    "a dtype NumPy lacks": file_bytes({"0.weight": {**WEIGHT, "dtype": "BF16", "shape": [2, 2]}}, bytes(8)),
    "another dtype NumPy lacks": file_bytes(
        {"0.weight": {**WEIGHT, "dtype": "F8_E4M3", "shape": [8]}}, bytes(8)
    ),
    "offsets beyond the end": file_bytes({"0.weight": {**WEIGHT, "data_offsets": [0, 80]}}, bytes(8)),
    "offsets that disagree with the shape": file_bytes({"0.weight": {**WEIGHT, "shape": [3, 3]}}, bytes(8)),
    "a negative size": file_bytes({"0.weight": {**WEIGHT, "shape": [-1, 2]}}, bytes(8)),
    "bytes after the last tensor": file_bytes({"0.weight": WEIGHT}, bytes(12)),
}


@pytest.mark.grades("read_network")
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file(tmp_path, case):
    """A file that is not in the format is a ValueError with its path, not an error of the library's own kind."""
    path = tmp_path / "malformed.safetensors"
    path.write_bytes(MALFORMED[case])
    with expect_error(ValueError, str(path), otherwise=f"{case}: not refused with a ValueError"):
        weights_file.read_network(path)


@pytest.mark.grades("read_network")
def test_missing_file(tmp_path):
    """A file that is not there is a FileNotFoundError."""
    path = tmp_path / "nowhere.safetensors"
    with expect_error(FileNotFoundError, str(path), otherwise="a missing file must be a FileNotFoundError"):
        weights_file.read_network(path)


@pytest.mark.grades("read_network", "MLP.forward")
def test_file_by_hand(tmp_path):
    """A network of one neuron, its file written byte by byte: 3·1 + 5·2 + 100."""
    header = {"0.weight": WEIGHT, "0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}
    path = tmp_path / "neuron.safetensors"
    path.write_bytes(file_bytes(header, struct.pack("<3f", 3, 5, 100)))
    got = weights_file.read_network(path).forward([1, 2])
    assert_close(got, np.array([113.0]), dtype=np.float32, what="logit")
    assert_close(
        got, network(mlp_forward, ([[3.0, 5.0]], [100.0])).forward([1.0, 2.0]), dtype=np.float32, what="logit"
    )
