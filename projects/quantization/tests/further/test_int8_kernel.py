"""The judge of the integer product and the linear layer on integers.

Oracles: int64 products in NumPy, and torch.ops.quantized.linear on the x86 engine, bit for bit.

Without VNNI that engine saturates sums of two products of 8-bit activations in int16. So torch is compared bit for bit
on 7-bit activations, where it is exact on every CPU, and on 8-bit ones only where a probe finds it exact; int64 is
compared always.
"""

import functools

import numpy as np
import pytest
import torch

import int8_kernel as K
from shared.testing.checks import assert_close, expect_error

pytestmark = [
    pytest.mark.module("int8_kernel"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning"),
]


def integers(shape, generator, *, n_bits=8):
    top = 2 ** (n_bits - 1)
    return torch.randint(-top, top, shape, generator=generator, dtype=torch.int8)


def exact(x, weight, zero_point=0):
    """Multiply in int64."""
    z = zero_point.numpy() if isinstance(zero_point, torch.Tensor) else zero_point
    return (x.numpy().astype(np.int64) - z) @ weight.numpy().astype(np.int64).T


# --- int8_matmul ------------------------------------------------------------------------------------------------------


@pytest.mark.grades("int8_matmul")
def test_matmul_by_hand():
    """Two rows, two neurons, three inputs, zero point 10."""
    x = torch.tensor([[11, 8, 10], [-128, 127, 0]], dtype=torch.int8)
    weight = torch.tensor([[1, 2, 3], [-128, 127, 100]], dtype=torch.int8)
    expected = torch.tensor([[-3, -382], [66, 31523]], dtype=torch.int32)
    plain = exact(x, weight).astype(np.int32)
    mistakes = {
        "ignores the zero point": plain,
        "accumulates in int8": expected.numpy().astype(np.int8).astype(np.int32),
        "accumulates in int16": expected.numpy().astype(np.int16).astype(np.int32),
        "returns zeros": np.zeros((2, 2), np.int32),
    }
    assert_close(K.int8_matmul(x, weight, 10), expected, what="int8_matmul", mistakes=mistakes)


@pytest.mark.grades("int8_matmul")
@pytest.mark.parametrize("n_bits", [7, 8])
@pytest.mark.parametrize(
    ("rows", "n_in", "n_out"), [(1, 1, 1), (3, 5, 7), (33, 31, 2), (2, 513, 65), (17, 1025, 3), (5, 3073, 19)]
)
def test_matmul_is_exact(rows, n_in, n_out, n_bits, generator):
    """As int64, for one zero point and for one per row."""
    x, weight = integers((rows, n_in), generator, n_bits=n_bits), integers((n_out, n_in), generator)
    for zero_point in (0, torch.tensor(-17, dtype=torch.int32), integers((rows, 1), generator).int()):
        expected = exact(x, weight, zero_point).astype(np.int32)
        vacuous = "a single product" if expected.size == 1 else None
        mistakes = {
            "accumulates in int8": expected.astype(np.int8).astype(np.int32),
            "ignores the zero point": exact(x, weight).astype(np.int32),
        }
        got = K.int8_matmul(x, weight, zero_point)
        assert_close(
            got,
            torch.from_numpy(expected),
            what="int8_matmul",
            mistakes=mistakes,
            hint="the sums are not exact: saturated in int16, or rounded in float32?",
            vacuous_ok=vacuous,
        )


@pytest.mark.grades("int8_matmul")
@pytest.mark.parametrize("n_in", [2, 64, 1024, 2048, 4097, 40000])
@pytest.mark.parametrize(
    ("value", "zero_point"), [(127, -128), (-128, 127), (63, -64), (-64, 63), (63, 127), (65, 0), (-66, 3)]
)
def test_matmul_of_the_largest_products(value, zero_point, n_in):
    """The largest sums there are: int16 pairs saturate, float32 would round, int32 holds them."""
    x = torch.full((2, n_in), value, dtype=torch.int8)
    weight = torch.tensor([[-128], [127], [1]], dtype=torch.int8).repeat(1, n_in)
    weight[:, -1] += 1 - 2 * (weight[:, -1] > 0).to(
        torch.int8
    )  # odd sums, which float32 cannot hold beyond 2^24
    expected = torch.from_numpy(exact(x, weight, zero_point).astype(np.int32))
    got = K.int8_matmul(x, weight, zero_point)
    assert_close(
        got,
        expected,
        what="int8_matmul",
        hint="the sums are not exact: saturated in int16, or rounded in float32?",
    )


@pytest.mark.grades("int8_matmul")
def test_matmul_follows_its_operands(generator):
    """A weight changed in place counts at once; strided operands and none at all work; nothing is modified."""
    x, weight = integers((4, 6), generator, n_bits=7), integers((5, 6), generator)
    before = K.int8_matmul(x, weight, 3)
    weight.mul_(-1)
    assert torch.equal(K.int8_matmul(x, weight, 3), torch.from_numpy(exact(x, weight, 3)).int()), (
        "the weight was changed in place, but an old copy of it was multiplied"
    )
    assert torch.equal(before, torch.from_numpy(exact(x, -weight, 3)).int()), "an earlier result changed"
    wide, tall = integers((4, 12), generator), integers((6, 5), generator)
    got = K.int8_matmul(wide[:, ::2], tall.T, -5)
    assert torch.equal(got, torch.from_numpy(exact(wide[:, ::2], tall.T, -5)).int()), "strided operands"
    for rows, n_in, n_out in [(0, 3, 2), (2, 0, 3), (2, 3, 0)]:
        empty = K.int8_matmul(integers((rows, n_in), generator), integers((n_out, n_in), generator))
        assert torch.equal(empty, torch.zeros(rows, n_out, dtype=torch.int32)), f"empty {rows, n_in, n_out}"
        assert empty.dtype == torch.int32, f"the empty product must be int32, got {empty.dtype}"


@pytest.mark.grades("int8_matmul")
def test_matmul_bad_input(generator):
    """Operands are int8 matrices that fit."""
    x = integers((2, 3), generator)
    with expect_error(TypeError, "float32", otherwise="float operands are accepted"):
        K.int8_matmul(x.float(), x)
    with expect_error(TypeError, "uint8", otherwise="uint8 operands are accepted"):
        K.int8_matmul(x, x.view(torch.uint8))
    with expect_error(ValueError, "4", otherwise="shapes that do not fit are accepted"):
        K.int8_matmul(x, integers((2, 4), generator))
    for zero_point in (0.5, torch.tensor(0.5)):
        with expect_error(TypeError, "0.5", otherwise="a zero point of 0.5 is cut to 0 without a word"):
            K.int8_matmul(x, x, zero_point)


# --- quantized_linear -------------------------------------------------------------------------------------------------


def torch_linear(x, x_scale, x_zero_point, weight, weight_scale, bias, y_scale, y_zero_point):
    """Run torch.ops.quantized.linear; its quint8 activations are ours plus 128."""
    torch.backends.quantized.engine = "x86"
    n_out = len(weight)
    q_weight = torch._make_per_channel_quantized_tensor(
        weight, weight_scale.double(), torch.zeros(n_out, dtype=torch.int64), 0
    )
    packed = torch.ops.quantized.linear_prepack(q_weight, bias)
    unsigned = (x.int() + 128).to(torch.uint8)
    q_x = torch._make_per_tensor_quantized_tensor(unsigned, float(x_scale), int(x_zero_point) + 128)
    y = torch.ops.quantized.linear(q_x, packed, float(y_scale), int(y_zero_point) + 128)
    return (y.int_repr().int() - 128).to(torch.int8)


@functools.cache
def torch_is_exact():
    """Tell whether torch's kernel is exact for 8-bit activations on this CPU: 255·127·2 does not fit int16."""
    one = torch.tensor(1.0)
    x, weight = torch.full((1, 64), 127, dtype=torch.int8), torch.full((1, 64), 127, dtype=torch.int8)
    y_scale = torch.tensor(255 * 127 * 64 / 100)
    y = torch_linear(x, one, torch.tensor(-128), weight, torch.ones(1), None, y_scale, torch.tensor(0))
    return int(y) == 100


def random_case(generator, n_bits):
    """Draw a layer whose outputs fill the int8 range, with some of them clamped."""
    rows, n_in, n_out = (int(torch.randint(1, top, (), generator=generator)) for top in (40, 300, 60))
    x, weight = integers((rows, n_in), generator, n_bits=n_bits), integers((n_out, n_in), generator)
    if n_bits == 7:  # 0 … 127 in torch's unsigned terms
        x = x - 64
    x_scale = torch.rand((), generator=generator) * 0.1 + 1e-3
    weight_scale = torch.rand(n_out, generator=generator) * 0.1 + 1e-3
    x_zero_point = torch.randint(int(x.min()), int(x.max()) + 1, (), generator=generator).int()
    bias = torch.randn(n_out, generator=generator) * 10
    y = torch.from_numpy(exact(x, weight, int(x_zero_point))) * (x_scale * weight_scale) + bias
    y_scale = (y.abs().max() / 100 + 1e-3).float()
    y_zero_point = torch.randint(-40, 41, (), generator=generator).int()
    return x, x_scale, x_zero_point, weight, weight_scale, bias, y_scale, y_zero_point


@pytest.mark.grades("quantized_linear")
def test_linear_by_hand():
    """One row: (2·3 + 4·(-1))·0.5·[0.1, 0.2] + bias, as float and as int8."""
    x = torch.tensor([[5, 7]], dtype=torch.int8)  # minus the zero point 3: 2 and 4
    weight = torch.tensor([[3, -1], [10, 20]], dtype=torch.int8)
    arguments = x, torch.tensor(0.5), torch.tensor(3, dtype=torch.int32), weight, torch.tensor([0.1, 0.2])
    bias = torch.tensor([1.0, -2.0])
    mistakes = {
        "ignores the bias": [[0.1, 10.0]],
        "ignores the zero point": [[1.4, 17.0]],
        "forgets the scale of x": [[1.2, 18.0]],
        "forgets the scale of the weight": [[2.0, 48.0]],
        "the bias is added to the integer sums as it is: divide it by the scale of the sums": [[0.15, 9.8]],
        "per-tensor scale where one per channel is given": [[1.1, 3.0]],
    }
    got = K.quantized_linear(*arguments, bias)
    assert_close(got, torch.tensor([[1.1, 8.0]]), what="float output", mistakes=mistakes)
    q = K.quantized_linear(
        *arguments, bias, y_scale=torch.tensor(0.1), y_zero_point=torch.tensor(7, dtype=torch.int32)
    )
    mistakes = {
        "ignores the zero point of the result": np.int8([[11, 80]]),
        "ignores the bias": np.int8([[8, 107]]),
        "the bias is added to the integer sums as it is: divide it by the scale of the sums": np.int8(
            [[9, 105]]
        ),
    }
    assert_close(q, torch.tensor([[18, 87]], dtype=torch.int8), what="int8 output", mistakes=mistakes)
    tokens = K.quantized_linear(
        x.reshape(1, 1, 2),
        *arguments[1:],
        bias,
        y_scale=torch.tensor(0.1),
        y_zero_point=torch.tensor(7, dtype=torch.int32),
    )
    assert tokens.shape == (1, 1, 2), f"(1, 1, in) in, (1, 1, out) out, got {tuple(tokens.shape)}"


@pytest.mark.grades("quantized_linear")
@pytest.mark.parametrize("n_bits", [7, 8])
def test_linear_bit_exact(n_bits, generator):
    """A hundred random shapes, scales and zero points give torch's integers, every one of them.

    8-bit activations are compared with torch where its kernel is exact, and with int64 and the documented formula on
    CPUs where it saturates.
    """
    n_values = n_clamped = 0
    for case in range(100):
        arguments = random_case(generator, n_bits)
        x, x_scale, x_zero_point, weight, weight_scale, bias, y_scale, y_zero_point = arguments
        bias = None if case % 4 == 0 else bias
        got = K.quantized_linear(*arguments[:5], bias, y_scale=y_scale, y_zero_point=y_zero_point)
        if n_bits == 7 or torch_is_exact():
            expected = torch_linear(*arguments[:5], bias, y_scale, y_zero_point)
        else:
            m = (x_scale * weight_scale).numpy()
            sums = exact(x, weight, int(x_zero_point)).astype(np.float32)
            sums = sums if bias is None else sums + bias.numpy() / m
            steps = np.rint(sums * (m / y_scale.numpy())) + int(y_zero_point)
            expected = torch.from_numpy(np.clip(steps, -128, 127).astype(np.int8))
        assert got.dtype == torch.int8, f"with y_scale the result must be int8, got {got.dtype}"
        wrong = int((got != expected).sum())
        assert not wrong, (
            f"case {case} {tuple(x.shape)} x {tuple(weight.shape)}: {wrong} of {got.numel()} integers are not torch's "
            f"(largest difference {int((got.int() - expected.int()).abs().max())}); is the rounding order that of the "
            "docstring, and is the result clamped?"
        )
        n_values += got.numel()
        n_clamped += int((got.int().abs() >= 127).sum())
    assert n_values > 50_000


@pytest.mark.grades("quantized_linear")
def test_linear_saturates():
    """A result beyond int8 saturates."""
    x, one = torch.tensor([[100], [-100]], dtype=torch.int8), torch.tensor(1.0)
    zero = torch.tensor(0, dtype=torch.int32)
    got = K.quantized_linear(x, one, zero, x[:1], one, y_scale=one, y_zero_point=zero)
    assert got.flatten().tolist() == [127, -128], f"no clamp: got {got.flatten().tolist()}"


@pytest.mark.grades("quantized_linear")
def test_linear_per_row(generator):
    """Rows with scales of their own, any leading axes, as float64 on the dequantized operands."""
    x, weight = integers((2, 3, 20), generator), integers((7, 20), generator)
    scale = torch.rand(2, 3, 1, generator=generator) + 0.1
    zero_point = integers((2, 3, 1), generator).int()
    weight_scale, bias = torch.rand(7, generator=generator), torch.randn(7, generator=generator)
    got = K.quantized_linear(x, scale, zero_point, weight, weight_scale, bias)
    expected = ((x.double() - zero_point) * scale.double()) @ (
        weight.double() * weight_scale.double()[:, None]
    ).T
    assert_close(got, expected + bias.double(), dtype="float32", n=20, what="rows with scales of their own")
    empty = K.quantized_linear(x[:, :0], scale[:, :0], zero_point[:, :0], weight, weight_scale, bias)
    assert empty.shape == (2, 0, 7), f"no rows in, no rows out, got {tuple(empty.shape)}"


@pytest.mark.grades("quantized_linear")
def test_linear_half_of_an_output_scale(generator):
    """y_scale without y_zero_point is refused."""
    x, one, zero = integers((2, 3), generator), torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    with expect_error(ValueError, "y_zero_point", otherwise="y_scale alone is accepted"):
        K.quantized_linear(x, one, zero, x, one, y_scale=one)


@pytest.mark.grades("int8_matmul", "quantized_linear")
def test_limits_of_the_product():
    """More than 65,536 products of bytes may leave int32: refused. Two operands that do not fit are named."""
    ones = torch.full((1, 65536), 127, dtype=torch.int8)
    assert K.int8_matmul(ones, ones, -128).item() == 255 * 127 * 65536, "the largest sum that fits"
    more = torch.full((1, 65537), 127, dtype=torch.int8)
    with expect_error(ValueError, "65,537", otherwise="a sum that may leave int32 is computed"):
        K.int8_matmul(more, more)
    one, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    got = K.quantized_linear(more, one, zero, more, one)
    assert_close(got, torch.tensor([[127.0**2 * 65537]]), what="a float sum of 65,537 products")
    x = torch.arange(-8, 8, dtype=torch.int8).reshape(4, 4)
    for bad, error in ((x[:, :3], ValueError), (x[0], ValueError), (x.float(), TypeError)):
        with expect_error(error, otherwise=f"weight of {tuple(bad.shape)} {bad.dtype}"):
            K.quantized_linear(x, one, zero, bad, one)
    per_row = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    hint = "a vector of zero points was taken as one per column"
    for values in (x, x * 16 - 8):  # 7 and 8 bits
        assert_close(
            K.int8_matmul(values, x),
            exact(values, x).astype(np.int32),
            what="the product without a zero point",
        )
        expected = exact(values, x, per_row[:, None]).astype(np.int32)
        assert_close(K.int8_matmul(values, x, per_row), expected, what="the product", hint=hint)
