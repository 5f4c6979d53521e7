"""The fast module on CPUs that this one is not: a byte kernel that saturates, one that does not, and a torch without any.

Oracles: int64 products in NumPy, float64 layers on numbers that torch's fake quantization rounded.
"""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from layers import linear_layer, rounded_input, rounded_weight
from torch.nn.functional import pad

import int8_kernel
from shared.testing.checks import assert_close

pytestmark = pytest.mark.module("int8_kernel")


def byte_kernel(used, *, saturates):
    """Imitate oneDNN's uint8 · int8 product: two products are added in int16, with saturation or without; log its inputs."""

    def qlinear_pointwise(x, x_scale, zero_point, weight, weight_scale, weight_zero_point, bias, *_):
        used.append(tuple(x.shape))
        assert x.dtype == torch.uint8, f"the kernel takes unsigned bytes, got {x.dtype}"
        assert not weight_zero_point.any(), "weights are symmetric"
        products = pad(x.int()[:, None] * weight.int(), (0, x.shape[1] % 2)).unflatten(-1, (-1, 2)).sum(-1)
        products = products.clamp(-(2**15), 2**15 - 1) if saturates else products
        sums = products.sum(-1) - zero_point * weight.sum(1, dtype=torch.int32)
        y = sums.float() * (x_scale * weight_scale)
        return y if bias is None else y + bias

    def qlinear_prepack(weight, shape):
        assert weight.dtype == torch.int8, f"the kernel takes signed bytes as weights, got {weight.dtype}"
        return weight.clone()

    return SimpleNamespace(qlinear_prepack=qlinear_prepack, qlinear_pointwise=qlinear_pointwise)


@pytest.fixture(params=["saturates", "is exact", "is missing"])
def elsewhere(request, monkeypatch):
    """Return the module as imported where torch's kernel is of that kind, the kind, and the inputs that the kernel got."""
    used = []
    kernel = byte_kernel(used, saturates=request.param == "saturates")
    monkeypatch.setattr(torch.ops, "onednn", SimpleNamespace() if request.param == "is missing" else kernel)
    spec = importlib.util.spec_from_file_location("int8_kernel_elsewhere", int8_kernel.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, request.param, used


def integers(shape, generator, *, n_bits=8):
    top = 2 ** (n_bits - 1)
    return torch.randint(-top, top, shape, generator=generator, dtype=torch.int8)


def exact(x, weight, zero_point):
    """Multiply in int64."""
    z = np.asarray(zero_point, dtype=np.int64)
    return torch.from_numpy((x.numpy().astype(np.int64) - z) @ weight.numpy().astype(np.int64).T).int()


@pytest.mark.grades("int8_matmul")
def test_product_is_exact_elsewhere(elsewhere, generator):
    """Exact everywhere; 7 bits always by the kernel, 8 bits where it does not saturate, and never where it does."""
    module, kind, used = elsewhere
    for n_bits, rows, n_in, n_out in [(7, 3, 5, 7), (8, 4, 513, 6), (7, 2, 4100, 3), (8, 5, 3073, 2)]:
        x, weight = integers((rows, n_in), generator, n_bits=n_bits), integers((n_out, n_in), generator)
        x[0], weight[1] = 2 ** (n_bits - 1) - 1, -128  # the largest products there are
        weight[1, -1] = -127  # an odd sum
        for zero_point in (0, torch.tensor(-17, dtype=torch.int32), integers((rows, 1), generator).int()):
            used.clear()
            got = module.int8_matmul(x, weight, zero_point)
            hint = f"the kernel of this CPU {kind}"
            assert_close(got, exact(x, weight, zero_point), what=f"the product of {n_bits} bits", hint=hint)
            by_kernel = any(shape[0] == rows for shape in used if shape != (2, 64))  # that is the probe
            wanted = kind == "is exact" or (kind == "saturates" and n_bits == 7)
            assert by_kernel == wanted, (
                f"the kernel {kind}: {n_bits} bits are {'' if by_kernel else 'not '}multiplied by it"
            )


@pytest.mark.grades("QuantizedLinear", "quantized_linear")
@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_layer_elsewhere(elsewhere, mode, bias, reduce_range, generator):
    """A layer computes the same on every CPU, and by the kernel where that is exact."""
    module, kind, used = elsewhere
    layer, x = linear_layer(bias=bias), torch.randn(5, 24, generator=generator) * 3 + 1
    observed = (x.min(), x.max()) if mode == "static" else None
    quantized = module.QuantizedLinear(layer, mode=mode, input_range=observed, reduce_range=reduce_range)
    ranges = [observed or (row.min(), row.max()) for row in x]
    rows = [rounded_input(row, *ends, n_bits=8 - reduce_range) for row, ends in zip(x, ranges, strict=True)]
    expected = torch.stack(rows).double() @ rounded_weight(layer.weight).double().T
    expected = expected + layer.bias.detach().double() if bias else expected
    got = quantized(x)
    assert_close(got, expected, dtype="float32", n=24, what=f"{mode} layer where the kernel {kind}")
    by_kernel = (5, 24) in used
    wanted = kind == "is exact" or (kind == "saturates" and reduce_range)
    assert by_kernel == wanted, (
        f"the kernel {kind}: the layer is {'' if by_kernel else 'not '}multiplied by it"
    )
