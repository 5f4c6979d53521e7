"""The judge of one layer; test_mlp_forward.py goes on with the network, test_weights_file.py with its file.

Oracles: values worked by hand, and torch in float64.
"""

import numpy as np
import pytest
import torch

import mlp_forward
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_imports():
    """The deliverable uses NumPy and the safetensors file format, nothing else."""
    assert_imports_only(mlp_forward, {"numpy", "safetensors"})


@pytest.mark.grades("linear")
def test_linear_by_hand():
    """Two neurons with two inputs each, worked by hand."""
    x, weight, bias = np.array([[1.0, 2.0]]), np.array([[3.0, 5.0], [7.0, 11.0]]), np.array([100.0, 1000.0])
    # neuron 0: 1*3 + 2*5 + 100, neuron 1: 1*7 + 2*11 + 1000
    assert_close(
        mlp_forward.linear(x, weight, bias),
        np.array([[113.0, 1029.0]]),
        what="linear",
        mistakes={
            "the weight is not transposed: row j of weight belongs to neuron j": [[117.0, 1027.0]],
            "the bias is missing": [[13.0, 29.0]],
            "the bias is subtracted": [[-87.0, -971.0]],
        },
    )
    assert_close(mlp_forward.linear(x, weight), np.array([[13.0, 29.0]]), what="linear without a bias")


@pytest.mark.grades("linear")
@pytest.mark.parametrize("leading", [(), (4,), (4, 3), (2, 1, 3)], ids=str)
def test_linear_leading_axes(leading, rng):
    """Any number of leading axes, and a different number of inputs and outputs."""
    x, weight, bias = rng.normal(size=(*leading, 5)), rng.normal(size=(7, 5)), rng.normal(size=7)
    expected = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight, bias))).numpy()
    assert_close(
        mlp_forward.linear(x, weight, bias), expected, n=5, hint="only the last axis of x is multiplied"
    )


@pytest.mark.grades("linear")
@pytest.mark.parametrize("leading", [(0,), (2, 0)], ids=str)
def test_linear_empty_batch(leading, rng):
    """An empty batch gives an empty result of the right shape."""
    result = mlp_forward.linear(np.zeros((*leading, 5)), rng.normal(size=(7, 5)), rng.normal(size=7))
    assert result.shape == (*leading, 7), f"an empty batch {(*leading, 5)} gave shape {result.shape}"


@pytest.mark.grades("linear")
@pytest.mark.parametrize(
    ("x_dtype", "parameter_dtype", "expected_dtype"),
    [
        ("float16", "float16", "float16"),
        ("float32", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("float32", "float64", "float64"),
        ("int64", "int64", "float64"),
        ("uint8", "float32", "float32"),
        ("bool", "int8", "float64"),
    ],
)
def test_linear_dtype(x_dtype, parameter_dtype, expected_dtype):
    """The dtype follows NumPy's promotion; whole numbers become float64."""
    x = np.array([[0, 1, 1], [1, 1, 0]], x_dtype)
    weight, bias = np.array([[1, 2, 4], [8, 16, 32]], parameter_dtype), np.array([64, 100], parameter_dtype)
    expected = np.array([[70.0, 148.0], [67.0, 124.0]])
    assert_close(mlp_forward.linear(x, weight, bias), expected, dtype=expected_dtype, what="linear")


@pytest.mark.grades("linear")
def test_linear_small_integers_do_not_wrap():
    """Integers are converted before they are multiplied: 200·200 does not fit in uint8."""
    x, weight = np.array([[200, 100]], np.uint8), np.array([[200, 3]], np.uint8)
    wrapped = [[float((200 * 200 + 300) % 256)]]
    mistakes = {"integers wrap around: convert to float64 before the product": wrapped}
    assert_close(mlp_forward.linear(x, weight), np.array([[40300.0]]), what="linear", mistakes=mistakes)


@pytest.mark.grades("linear")
def test_linear_float16_is_rounded_once():
    """float16 is summed in float32, so that 80000 - 60000 survives although 80000 does not fit in float16."""
    x, weight, bias = np.float16([[200, 200]]), np.float16([[200, 200]]), np.float16([-60000])
    with np.errstate(all="ignore"):
        result = mlp_forward.linear(x, weight, bias)
    mistakes = {"rounded to float16 before the bias: add the bias in float32, then round once": [[np.inf]]}
    assert_close(result, np.array([[20000.0]]), dtype=np.float16, what="linear", mistakes=mistakes)


@pytest.mark.grades("linear")
def test_linear_nan_and_inf():
    """NaN and inf propagate as in torch, row by row, without a warning (a warning fails this test)."""
    x = np.array([[np.inf, 1.0], [np.nan, 1.0], [1.0, 2.0]])
    weight = np.array([[1.0, 2.0], [0.0, 3.0], [-1.0, 1.0]])
    expected = [[np.inf, np.nan, -np.inf], [np.nan, np.nan, np.nan], [5.0, 6.0, 1.0]]
    assert_close(mlp_forward.linear(x, weight, np.zeros(3)), np.array(expected), what="linear of inf and NaN")


@pytest.mark.grades("linear")
def test_linear_views_and_inputs(rng):
    """Strided, reversed and transposed views work, and no argument is modified."""
    x, weight = rng.normal(size=(10, 6))[::-2, ::2], np.asfortranarray(rng.normal(size=(3, 4)))[:, :3]
    bias = rng.normal(size=6)[::-2]
    expected = torch.nn.functional.linear(*(torch.from_numpy(a.copy()) for a in (x, weight, bias))).numpy()
    with unchanged(x, weight, bias):
        assert_close(mlp_forward.linear(x, weight, bias), expected, n=3, what="linear of views")


@pytest.mark.grades("linear")
@pytest.mark.parametrize(
    ("x", "weight", "bias", "mentions"),
    [
        ((4, 5), (7, 6), (7,), ["(4, 5)", "(7, 6)"]),
        ((4, 7), (7, 6), (7,), ["(4, 7)", "(7, 6)"]),
        ((), (7, 1), (7,), ["()", "(7, 1)"]),
        ((4, 6), (6,), (6,), ["(6,)"]),
        ((4, 6), (2, 7, 6), (7,), ["(2, 7, 6)"]),
        ((4, 6), (7, 6), (6,), ["(6,)"]),
        ((4, 6), (7, 6), (1,), ["(1,)"]),
        ((4, 6), (7, 6), (), ["()"]),
        ((4, 6), (7, 6), (4, 7), ["(4, 7)"]),
        ((4, 6), (7, 6), (4, 1), ["(4, 1)"]),
        ((1, 6), (7, 6), (1, 7), ["(1, 7)"]),
    ],
)
def test_linear_wrong_shapes(x, weight, bias, mentions):
    """Shapes that do not fit are refused, also those that NumPy would broadcast."""
    problem = "bias" if (x[-1:], len(weight)) == (weight[-1:], 2) else "x or weight"
    with expect_error(
        ValueError, *mentions, otherwise=f"a {problem} of a wrong shape is accepted: compare shapes first"
    ):
        mlp_forward.linear(np.ones(x), np.ones(weight), np.ones(bias))


@pytest.mark.grades("linear")
@pytest.mark.parametrize(
    "bad", [np.array([[1j, 2]]), np.array([["a", "b"]]), np.array([[None, 1]])], ids=repr
)
def test_linear_wrong_dtypes(bad):
    """Only real numbers are multiplied."""
    for arguments in ((bad, np.ones((3, 2))), (np.ones((4, 2)), bad)):
        with expect_error(TypeError, str(bad.dtype), otherwise=f"an argument of {bad.dtype} is not refused"):
            mlp_forward.linear(*arguments)
