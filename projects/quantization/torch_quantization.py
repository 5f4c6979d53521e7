"""The same model through the libraries: torch.ao with fusion, FX and training, and torchao in two ways.

`torch.quantization` is an alias of `torch.ao.quantization`. It still works, with a deprecation warning; torchao replaces
it. Each function returns a quantized copy, imports what it needs when it is called, and raises `MissingAPIError`, which says
what took its place, for an API that is gone. The known warnings are in `KNOWN_WARNINGS`, each with its reason; any other
one still comes through. An empty calibration raises ValueError, a single tensor TypeError.

Sources: https://docs.pytorch.org/docs/stable/quantization.html; https://docs.pytorch.org/ao/stable.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "MissingAPIError",
    "known_warnings",
    "torch_static",
    "torch_fx",
    "torch_qat",
    "torchao_dynamic",
    "torchao_pt2e",
]

KNOWN_WARNINGS = (
    "torch.ao.quantization is deprecated",  # the whole package is to be removed; torchao replaces it
    "Please use quant_min and quant_max to specify",  # torch's own default qconfigs still pass reduce_range
    "torch.quantize_per_tensor, torch.quantize_per_channel",  # quantized dtypes will be removed with it
    "`torch.jit.script_method` is deprecated",  # pt2e compiles its own observers with it
    "invalid escape sequence",  # a docstring of torchao, when it is first compiled
    "`isinstance(treespec, LeafSpec)` is deprecated",  # torch.export uses torch's older tree API
)
REPLACED_BY = {
    "torch.ao.quantization": "torchao.quantization.quantize_ (eager) and torchao.quantization.pt2e (static, QAT)",
    "torch.ao.quantization.quantize_fx": "torchao.quantization.pt2e: prepare_pt2e and convert_pt2e",
    "torchao.quantization": "no successor is known: install torchao",
    "torchao.quantization.pt2e.quantize_pt2e": "it was torch.ao.quantization.quantize_pt2e before torch 2.10",
}


class MissingAPIError(ImportError):
    """A quantization API is not in the installed versions; the message says what to use instead."""


@contextlib.contextmanager
def known_warnings() -> Iterator[None]:
    """Silence the warnings in `KNOWN_WARNINGS`, and no other: an unknown warning is still shown, or raised."""
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=re.escape(message))
        yield


def torch_static(model: nn.Sequential, calibration: Iterable[Tensor]) -> nn.Module:
    """Quantize statically in eager mode, as the core does, and convolutions too.

    Runs of convolution, batch norm and ReLU, and of linear and ReLU, are fused before ``prepare``: the core rounds twice where
    this rounds once.
    """
    aq = _api("torch.ao.quantization", "prepare")
    with known_warnings(), torch.no_grad():
        stubbed = nn.Sequential(aq.QuantStub(), _places(model), aq.DeQuantStub()).eval()
        groups = _fusable(model)
        if groups:
            stubbed[1] = aq.fuse_modules(stubbed[1], groups)
        stubbed.qconfig = aq.get_default_qconfig("x86")
        prepared = aq.prepare(stubbed)
        _run(prepared, _batches(calibration))
        converted: nn.Module = aq.convert(prepared)
    return converted


def torch_fx(model: nn.Module, calibration: Iterable[Tensor]) -> nn.Module:
    """Quantize statically through FX graph mode, which places stubs and fuses by itself."""
    fx = _api("torch.ao.quantization.quantize_fx", "prepare_fx")
    aq = _api("torch.ao.quantization", "get_default_qconfig_mapping")
    batches = _batches(calibration)
    with known_warnings(), torch.no_grad():
        mapping = aq.get_default_qconfig_mapping("x86")
        prepared = fx.prepare_fx(copy.deepcopy(model).eval(), mapping, (batches[0],))
        _run(prepared, batches)
        converted: nn.Module = fx.convert_fx(prepared)
    return converted


def torch_qat(model: nn.Sequential, train: Callable[[nn.Module], None]) -> nn.Module:
    """Fuse, insert fake quantization, let `train` train the prepared model in place, and convert it."""
    aq = _api("torch.ao.quantization", "prepare_qat")
    with known_warnings():
        stubbed = nn.Sequential(aq.QuantStub(), _places(model), aq.DeQuantStub()).train()
        groups = _fusable(model)
        if groups:
            stubbed[1] = aq.fuse_modules_qat(stubbed[1], groups)
        stubbed.qconfig = aq.get_default_qat_qconfig("x86")
        prepared = aq.prepare_qat(stubbed)
        train(prepared)
        converted: nn.Module = aq.convert(prepared.eval())
    return converted


def torchao_dynamic(model: nn.Module) -> nn.Module:
    """Quantize linear layers dynamically with torchao: ``quantize_`` with one activation scale per token."""
    ao = _api("torchao.quantization", "quantize_")
    quantized = copy.deepcopy(model).eval()
    with known_warnings():
        ao.quantize_(quantized, ao.Int8DynamicActivationInt8WeightConfig())
    return quantized


def torchao_pt2e(model: nn.Module, calibration: Iterable[Tensor]) -> nn.Module:
    """Quantize statically through export (pt2e): the graph is traced, annotated by a quantizer, and converted."""
    pt2e = _api("torchao.quantization.pt2e.quantize_pt2e", "prepare_pt2e")
    x86 = _api("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", "X86InductorQuantizer")
    batches = _batches(calibration)
    with known_warnings(), torch.no_grad():
        batch = torch.export.Dim("batch", min=2)
        exported = torch.export.export(
            copy.deepcopy(model).eval(), (batches[0],), dynamic_shapes=({0: batch},)
        ).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = pt2e.prepare_pt2e(exported, quantizer)
        _run(prepared, batches)
        converted: nn.Module = pt2e.convert_pt2e(prepared)
    return converted


def _api(module: str, name: str) -> Any:
    """Import `module` and make sure that it has `name`, or say what replaced it."""
    tree = logging.getLogger(
        "torch.utils._pytree"
    )  # torchao registers an Enum there, which is logged as deprecated
    level = tree.level
    try:
        with known_warnings():
            tree.setLevel(logging.ERROR)
            found = importlib.import_module(module)
        getattr(found, name)
    except (ImportError, AttributeError) as error:
        instead = REPLACED_BY.get(module, "see the release notes")
        raise MissingAPIError(
            f"torch {torch.__version__}: {module}.{name} is gone; instead: {instead} ({error})"
        ) from None
    finally:
        tree.setLevel(level)
    return found


def _batches(calibration: Iterable[Tensor]) -> list[Tensor]:
    """Return the batches; torch would convert a model that saw nothing and give a scale of 1 without an error."""
    if isinstance(calibration, Tensor):  # its rows would be taken for batches
        raise TypeError("calibration must be an iterable of batches, got one tensor: write [x]")
    batches = list(calibration)
    if not batches:
        raise ValueError("calibration holds no batch")
    return batches


def _run(model: nn.Module, batches: Iterable[Tensor]) -> None:
    for x in batches:
        model(x)


def _places(model: nn.Sequential) -> nn.Sequential:
    """Copy a stack, with a layer of its own in every place: torch replaces each layer in the first of its places only."""
    copied = copy.deepcopy(model)
    for name, layer in list(copied.named_modules(remove_duplicate=False)):
        if name and not list(layer.children()):
            copied.set_submodule(name, copy.deepcopy(layer))
    return copied


def _fusable(model: nn.Sequential) -> list[list[str]]:
    """List the runs convolution, batch norm, ReLU and linear, ReLU by name: eager mode fuses what it is told."""
    places = [name for name, _ in model.named_modules(remove_duplicate=False)]
    groups, names = [], [name for name in places if name and "." not in name]
    kinds = [type(module) for module in model]
    for k in range(len(kinds)):
        for pattern in (
            (nn.Conv2d, nn.BatchNorm2d, nn.ReLU),
            (nn.Conv2d, nn.BatchNorm2d),
            (nn.Linear, nn.ReLU),
        ):
            if tuple(kinds[k : k + len(pattern)]) == pattern:
                groups.append(names[k : k + len(pattern)])
                break
    return groups
