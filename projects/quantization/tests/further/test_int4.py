"""The judge of four bits. Oracles: bytes worked by hand, float64 layers on weights that torch's fake quantization rounded."""

import numpy as np
import pytest
import torch
from layers import linear_layer, rounded_weight

import int4 as I
from shared.testing.checks import assert_close, expect_error


@pytest.mark.grades("pack_int4")
def test_pack_by_hand():
    """The first of two integers is in the low nibble."""
    q = torch.tensor([[1, 2, -1, 7], [-8, 0, 5, -3]], dtype=torch.int8)
    expected = torch.tensor([[0x21, 0x7F], [0x08, 0xD5]], dtype=torch.uint8)
    mistakes = {"the nibbles are swapped": np.uint8([[0x12, 0xF7], [0x80, 0x5D]])}
    assert_close(I.pack_int4(q), expected, what="bytes", mistakes=mistakes)


@pytest.mark.grades("unpack_int4")
def test_unpack_by_hand():
    """The sign of bit 3 comes back."""
    packed = torch.tensor([[0x21, 0x7F], [0x08, 0xD5]], dtype=torch.uint8)
    expected = torch.tensor([[1, 2, -1, 7], [-8, 0, 5, -3]], dtype=torch.int8)
    mistakes = {"the sign is lost": np.int8([[1, 2, 15, 7], [8, 0, 5, 13]])}
    assert_close(I.unpack_int4(packed), expected, what="integers", mistakes=mistakes)


@pytest.mark.grades("pack_int4", "unpack_int4")
def test_pack_round_trip(generator):
    """Any shape and value comes back."""
    q = torch.randint(-8, 8, (3, 5, 14), generator=generator, dtype=torch.int8)
    assert I.pack_int4(q).shape == (3, 5, 7), "two integers per byte"
    assert torch.equal(I.unpack_int4(I.pack_int4(q)), q), "pack and unpack do not fit"


@pytest.mark.grades("pack_int4")
@pytest.mark.parametrize("bad", [[1, 2, 3], [8, 0], [0, -9]], ids=str)
def test_pack_bad_input(bad):
    """An odd number, or a value of more than 4 bits, is refused."""
    with expect_error(ValueError, otherwise=f"{bad} is packed although it does not fit"):
        I.pack_int4(torch.tensor(bad, dtype=torch.int8))


@pytest.mark.grades("Int4Linear")
@pytest.mark.parametrize(("group_size", "bias"), [(8, True), (4, False), (24, True)])
def test_int4(group_size, bias, generator):
    """Each group of a row has its own scale; two weights share a byte."""
    layer = linear_layer(bias=bias)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.2, 5, 24))  # so that groups of a row differ
    x = torch.randn(3, 5, 24, generator=generator)
    quantized = I.Int4Linear(layer, group_size=group_size)
    assert quantized.packed.shape == (9, 12), "two weights per byte"
    assert quantized.scale.shape == (9, 24 // group_size), "one scale per group of a row"

    def result(groups):
        weight = rounded_weight(groups, n_bits=4).reshape(9, 24).double()
        return torch.nn.functional.linear(x.double(), weight, layer.bias.detach().double() if bias else None)

    mistakes = {
        "one scale per row, not per group": lambda: result(layer.weight),
        "one scale for all": lambda: result(layer.weight.reshape(1, -1)),
        "the groups run down the columns": lambda: result(layer.weight.T.reshape(-1, group_size)),
    }
    expected = result(layer.weight.reshape(-1, group_size))
    assert_close(quantized(x), expected, dtype="float32", n=24, what="int4", mistakes=mistakes)


@pytest.mark.grades("Int4Linear")
@pytest.mark.parametrize("group_size", [7, 16, 3])
def test_int4_groups_that_do_not_fit(group_size):
    """Groups divide the row and are even."""
    with expect_error(ValueError, str(group_size), otherwise=f"groups of {group_size} in rows of 24"):
        I.Int4Linear(linear_layer(), group_size=group_size)


@pytest.mark.grades("pack_int4", "unpack_int4")
def test_pack_other_types():
    """Fractions are not cut off, and bytes that are read as signed do not lose a bit: refused."""
    for bad in (
        torch.tensor([2.7, -1.2]),
        torch.tensor([1, 2], dtype=torch.int32),
        torch.tensor([True, False]),
    ):
        with expect_error(TypeError, str(bad.dtype), otherwise=f"{bad.dtype} is packed"):
            I.pack_int4(bad)
    for bad in (torch.tensor([-16, 5], dtype=torch.int8), torch.tensor([1.0, 2.0])):
        with expect_error(TypeError, str(bad.dtype), otherwise=f"{bad.dtype} is unpacked"):
            I.unpack_int4(bad)
    with expect_error(ValueError, otherwise="a single number is packed"):
        I.pack_int4(torch.tensor(1, dtype=torch.int8))


@pytest.mark.grades("Int4Linear", "in_groups")
@pytest.mark.parametrize("group_size", [0, -2, "8", None, True, 1.5], ids=repr)
def test_groups_that_are_no_count(group_size):
    """Nothing, a word and a fraction are refused by name."""
    with expect_error(ValueError, "group_size", repr(group_size), otherwise=f"groups of {group_size!r}"):
        I.Int4Linear(linear_layer(), group_size=group_size)


@pytest.mark.grades("in_groups")
def test_in_groups():
    """Neighbours in a row."""
    layer = linear_layer()
    groups = I.in_groups(layer, np.int64(8))
    assert groups.shape == (9, 3, 8), f"(out, in/group_size, group_size), got {tuple(groups.shape)}"
    assert torch.equal(groups[4, 1], layer.weight[4, 8:16]), "the groups are neighbours in a row"
    broken = linear_layer()
    torch.nn.init.constant_(broken.weight[3:4, 5:6], torch.inf)
    with expect_error(ValueError, "weight", otherwise="a weight of inf gives an error that names no weight"):
        I.in_groups(broken, 8)
    assert not groups.requires_grad, "the groups are detached"


@pytest.mark.grades("Int4Linear")
def test_int4_of_another_width_or_precision(generator):
    """Both are refused by name."""
    quantized = I.Int4Linear(linear_layer(), group_size=8)
    for shape in ((3, 12), (25,), ()):
        with expect_error(
            ValueError, str(shape), "24", otherwise=f"the error for x of {shape} names no shape"
        ):
            quantized(torch.ones(shape))
    for dtype in (torch.float16, torch.float64):
        with expect_error(TypeError, str(dtype), otherwise=f"scales of {dtype} are used"):
            I.Int4Linear(linear_layer(), group_size=8).to(dtype)(torch.ones(3, 24))
