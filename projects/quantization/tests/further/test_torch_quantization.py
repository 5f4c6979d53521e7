"""The judge of the library paths. Where an API is gone from the installed version, its test is reported as not run.

Oracle: the float model, through SQNR in float64 computed here.
"""

import importlib
import logging
import re
import warnings

import pytest
import torch
from networks import block, cnn, mlp
from oracles import decibels

import torch_quantization as T
from shared.testing.checks import expect_error

pytestmark = pytest.mark.module("torch_quantization")


APIS = (
    ("torch.ao.quantization", "prepare"),
    ("torch.ao.quantization", "prepare_qat"),
    ("torch.ao.quantization.quantize_fx", "prepare_fx"),
    ("torchao.quantization", "quantize_"),
    ("torchao.quantization.pt2e.quantize_pt2e", "prepare_pt2e"),
)


def every_api_is_here():
    try:
        with warnings.catch_warnings(action="ignore"):
            return all(hasattr(importlib.import_module(module), name) for module, name in APIS)
    except ImportError:
        return False


def available(call):
    """Run a library path, or skip with the message that says what replaced it."""
    try:
        return call()
    except T.MissingAPIError as gone:
        if every_api_is_here():
            pytest.fail(f"every API is here, and yet: {gone}")
        pytest.skip(str(gone))


def inputs(name, generator):
    if name == "block":
        return block(), torch.randn(6, 12, 96, generator=generator)
    shape = (1, 8, 8) if name == "cnn" else (64,)
    return {"mlp": mlp, "cnn": cnn}[name](), torch.rand(120, *shape, generator=generator) * 3


def int8_inside(model):
    """Tell whether a module or graph node of a quantized kind is there."""
    names = " ".join(f"{type(m).__module__}.{type(m).__name__}" for m in model.modules())
    nodes = " ".join(str(node.target) for node in getattr(getattr(model, "graph", None), "nodes", ()))
    weights = " ".join(type(p).__name__ + str(p.dtype) for p in model.parameters())
    return any("quantized" in text.lower() or "int8" in text.lower() for text in (names, nodes, weights))


@pytest.mark.grades("known_warnings")
def test_known_warnings_only():
    """The listed warnings are silent, any other is still an error."""
    with T.known_warnings():
        warnings.warn(
            "torch.ao.quantization is deprecated and will be removed in 2.10.",
            DeprecationWarning,
            stacklevel=1,
        )
    with pytest.raises(UserWarning, match="something new"), T.known_warnings():
        warnings.warn("something new", UserWarning, stacklevel=1)


@pytest.mark.grades("MissingAPIError", "torch_static", "torch_qat", "torchao_dynamic")
def test_an_api_that_is_gone(monkeypatch):
    """The message names what replaced it."""
    import torch.ao.quantization as aq

    monkeypatch.delattr(aq, "prepare_qat")
    monkeypatch.delattr(aq, "prepare")
    for call in (lambda: T.torch_qat(mlp(), mlp), lambda: T.torch_static(mlp(), [torch.ones(2, 64)])):
        with expect_error(T.MissingAPIError, "torchao", otherwise="a missing API gives another error"):
            call()
    available(lambda: T.torchao_dynamic(mlp()))


@pytest.mark.parametrize(
    ("function", "module", "name", "instead"),
    [
        ("torch_fx", "torch.ao.quantization.quantize_fx", "prepare_fx", r"torchao\.quantization\.pt2e"),
        ("torchao_dynamic", "torchao.quantization", "quantize_", "install torchao"),
        (
            "torchao_pt2e",
            "torchao.quantization.pt2e.quantize_pt2e",
            "prepare_pt2e",
            r"torch\.ao\.quantization\.quantize_pt2e",
        ),
    ],
)
def test_what_took_its_place(function, module, name, instead, monkeypatch):
    """Of every API that is gone the message names the successor, or what to install."""
    with warnings.catch_warnings(action="ignore"):
        api = pytest.importorskip(module)
    monkeypatch.delattr(api, name)
    arguments = [mlp(), [torch.ones(2, 64)]][: 1 + (function != "torchao_dynamic")]
    with pytest.raises(T.MissingAPIError) as found:
        getattr(T, function)(*arguments)
    assert re.search(rf"\b{instead}\b", str(found.value)), (
        f"{name} is gone, and the message is: {found.value}"
    )


@pytest.mark.parametrize("name", ["mlp", "cnn", "block"])
@pytest.mark.parametrize("function", ["torchao_dynamic"])
def test_dynamic(function, name, generator):
    """The float model stays float; the copy is int8 and 25 to 70 dB from it."""
    model, x = inputs(name, generator)
    quantized = available(lambda: getattr(T, function)(model))
    with torch.no_grad():
        ratio = decibels(model(x), quantized(x))
    assert int8_inside(quantized), f"{function}: nothing is quantized"
    assert not int8_inside(model), f"{function} changed the float model"
    assert 25 < ratio < 70, f"{function}, {name}: {ratio:.1f} dB"


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("function", ["torch_static", "torch_fx", "torchao_pt2e"])
def test_static(function, name, generator):
    """Calibrated on one batch or two; one that never ran is an error; the float model stays float."""
    model, x = inputs(name, generator)
    batches = [x] if name == "mlp" else [x[:50], x[50:]]
    quantized = available(lambda: getattr(T, function)(model, iter(batches)))
    with torch.no_grad():
        ratio = decibels(model(x), quantized(x))
    assert int8_inside(quantized), f"{function}: nothing is quantized"
    assert not int8_inside(model), f"{function} changed the float model"
    assert 25 < ratio < 70, f"{function}, {name}: {ratio:.1f} dB"
    if name == "cnn" and function == "torch_static":
        kinds = {type(module).__name__ for module in quantized.modules()}
        assert "ConvReLU2d" in kinds, f"convolution, batch norm and ReLU are not fused: {sorted(kinds)}"
        with expect_error(ValueError, "calibration", otherwise="an empty calibration is accepted"):
            T.torch_static(model, [])


@pytest.mark.grades("torch_qat")
def test_qat(generator):
    """`train` gets the prepared model in training mode, once; the result is int8."""
    model, x = inputs("cnn", generator)
    seen = []

    def train(prepared):
        seen.append(prepared.training)
        names = [type(module).__name__ for module in prepared.modules()]
        assert any("FakeQuantize" in name for name in names), f"nothing is fake-quantized: {names}"
        for _ in range(40):
            prepared(x)

    model.eval()
    quantized = available(lambda: T.torch_qat(model, train))
    assert not any(layer.training for layer in model.modules()), "torch_qat changed the float model's mode"
    assert not int8_inside(model), "torch_qat changed the float model"
    assert seen == [True], f"train must be called once, in training mode: {seen}"
    assert int8_inside(quantized), "nothing is quantized"
    with torch.no_grad():
        ratio = decibels(model(x), quantized(x))
    assert ratio > 8, f"{ratio:.1f} dB"


@pytest.mark.grades("torchao_dynamic")
def test_the_logger_is_put_back():
    """What torchao logs on import is held back for the import only."""
    logger = logging.getLogger("torch.utils._pytree")
    before = logger.level
    available(lambda: T.torchao_dynamic(mlp()))
    assert logger.level == before, "the logger stays silent after the import"


@pytest.mark.parametrize("function", ["torch_static", "torch_fx", "torchao_pt2e"])
def test_calibration_of_the_wrong_kind(function, generator):
    """None at all is a ValueError; the rows of one tensor are no batches."""
    for bad, error in (([], ValueError), (iter(()), ValueError), (torch.ones(4, 64), TypeError)):
        with expect_error(error, "calibration", otherwise=f"{function} calibrates on {bad}"):
            available(lambda bad=bad: getattr(T, function)(mlp(), bad))


@pytest.mark.grades("torch_static", "torch_qat")
@pytest.mark.parametrize("function", ["torch_static", "torch_qat"])
def test_layers_in_two_places(function, generator):
    """A linear layer and a ReLU that stand in two places are quantized, and fused, in both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear, relu = torch.nn.Linear(8, 8), torch.nn.ReLU()
    model = torch.nn.Sequential(linear, relu, linear, relu).eval()
    x = torch.randn(60, 8, generator=generator)
    second = [x] if function == "torch_static" else (lambda prepared: prepared(x))
    quantized = available(lambda: getattr(T, function)(model, second))
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        ratio = decibels(model(x), quantized(x))
    assert 25 < ratio < 70, f"{ratio:.1f} dB for a layer in two places"
    assert model[0] is model[2], "the model itself was changed"
