"""What fast.py adds to the core: float16, blocks of rows, arguments and inputs that are refused, overflow without a warning.

Oracles: values worked by hand, and scalar sums neuron by neuron.
"""

import numpy as np
import pytest
from networks import logits_of, network, random_network

import fast
from shared.testing.checks import assert_close, expect_error

pytestmark = pytest.mark.module("fast")


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
    assert_close(fast.linear(x, weight, bias), expected, dtype=expected_dtype, what="linear")


@pytest.mark.grades("linear")
@pytest.mark.parametrize("wide", [0, 1, 2], ids=["x", "weight", "bias"])
def test_linear_dtype_of_all_three(wide):
    """One argument of float64 makes the result float64, whichever it is."""
    arguments = [np.array([[1.0, 2.0]]), np.array([[4.0, 8.0], [16.0, 1 / 3]]), np.array([1 / 3, 7.0])]
    given = [a.astype(np.float64 if i == wide else np.float32) for i, a in enumerate(arguments)]
    weight, bias = (a.astype(np.float64) for a in given[1:])
    expected = np.array([[20 + bias[0], 16 + 2 * weight[1, 1] + 7]])
    assert_close(fast.linear(*given), expected, what="linear")
    assert fast.linear(*given[:2]).dtype == (np.float64 if wide < 2 else np.float32), (
        "the bias counts only if given"
    )


@pytest.mark.grades("linear")
def test_linear_overflows_without_a_warning():
    """A sum past the largest float32 is inf (a warning fails this test)."""
    x = np.float32([[3e38, 3e38], [1.0, 2.0]])
    expected = np.float32([[np.inf, 0.0], [3.0, -1.0]])
    assert_close(
        fast.linear(x, np.float32([[1, 1], [1, -1]])),
        expected,
        what="linear, the first row after an overflow",
    )


@pytest.mark.grades("linear")
def test_linear_float16_is_rounded_once():
    """float16 is summed in float32, so that 80000 - 60000 survives although 80000 does not fit in float16."""
    x, weight, bias = np.float16([[200, 200]]), np.float16([[200, 200]]), np.float16([-60000])
    with np.errstate(all="ignore"):
        result = fast.linear(x, weight, bias)
    mistakes = {"rounded to float16 before the bias: add the bias in float32, then round once": [[np.inf]]}
    assert_close(result, np.array([[20000.0]]), dtype=np.float16, what="linear", mistakes=mistakes)


@pytest.mark.grades("linear")
def test_linear_nan_and_inf():
    """NaN and inf propagate as in torch, row by row, without a warning (a warning fails this test)."""
    x = np.array([[np.inf, 1.0], [np.nan, 1.0], [1.0, 2.0]])
    weight = np.array([[1.0, 2.0], [0.0, 3.0], [-1.0, 1.0]])
    expected = [[np.inf, np.nan, -np.inf], [np.nan, np.nan, np.nan], [5.0, 6.0, 1.0]]
    assert_close(fast.linear(x, weight, np.zeros(3)), np.array(expected), what="linear of inf and NaN")


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
        fast.linear(np.ones(x), np.ones(weight), np.ones(bias))


@pytest.mark.grades("linear")
@pytest.mark.parametrize(
    "bad", [np.array([[1j, 2]]), np.array([["a", "b"]]), np.array([[None, 1]])], ids=repr
)
def test_linear_wrong_dtypes(bad):
    """Only real numbers are multiplied."""
    for arguments in ((bad, np.ones((3, 2))), (np.ones((4, 2)), bad)):
        with expect_error(TypeError, str(bad.dtype), otherwise=f"an argument of {bad.dtype} is not refused"):
            fast.linear(*arguments)


@pytest.mark.grades("MLP")
@pytest.mark.parametrize("sizes", [[], [5], [5, 0, 2], [5, -1], [0, 5], [5, 2.5], [5, True]], ids=str)
def test_wrong_sizes(sizes):
    """Sizes are two or more positive integers."""
    with expect_error(ValueError, str(sizes), otherwise=f"sizes={sizes} is accepted"):
        fast.MLP(sizes, rng=np.random.default_rng(0))


@pytest.mark.grades("MLP")
@pytest.mark.parametrize(
    ("options", "error", "mention"),
    [
        ({"activation": "softplus"}, ValueError, "softplus"),
        ({"init": "orthogonal"}, ValueError, "orthogonal"),
        ({"rng": 0}, TypeError, "int"),
        ({"rng": None}, TypeError, "NoneType"),
        ({"rng": np.random.RandomState(0)}, TypeError, "RandomState"),  # the legacy kind
        ({"dtype": np.int32}, TypeError, "int32"),
        ({"dtype": np.complex64}, TypeError, "complex64"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_wrong_options(options, error, mention):
    """An option that is none of the documented values is refused at once and named."""
    with expect_error(error, mention, otherwise=f"{options} is accepted: check it in __init__"):
        fast.MLP([3, 2], **{"rng": np.random.default_rng(0), **options})


@pytest.mark.grades("MLP")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_of_parameters(dtype):
    """The option `dtype` is the dtype of every parameter."""
    for weight, bias in fast.MLP([4, 3, 2], rng=np.random.default_rng(0), dtype=dtype).layers:
        assert weight.dtype == bias.dtype == dtype, (
            f"dtype={dtype!r} is ignored: got {weight.dtype}, {bias.dtype}"
        )


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("n_rows", [31, 64, 1023, 1025, 5003])
def test_forward_batch_sizes(n_rows, rng):
    """Small and large batches, primes and the neighbours of powers of two: no tail is dropped."""
    mlp, x = random_network(fast, [5, 8, 4], rng), rng.normal(size=(n_rows, 5))
    hint = f"some rows of a batch of {n_rows} are wrong: is the last block complete?"
    assert_close(mlp.forward(x), logits_of(mlp, x), rtol=1e-12, what="logits", hint=hint)


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("x_dtype", ["float16", "float32", "float64", "uint8", "int64", "bool"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_forward_dtype(x_dtype, dtype, rng):
    """The result has the network's dtype, whatever the input's is."""
    mlp = random_network(fast, [5, 8, 4], rng, dtype=dtype)
    x = rng.integers(0, 2, size=(6, 5)).astype(x_dtype)
    expected = logits_of(mlp, x)
    # 8 hidden values, each rounded to the dtype, enter the logits.
    assert_close(
        mlp.forward(x),
        expected,
        dtype=dtype,
        n=8,
        what=f"logits of {x_dtype} input",
        hint="convert x to the network's dtype before the first layer",
    )


@pytest.mark.parametrize("function", ["MLP.forward", "MLP.activations", "MLP.predict", "MLP.predict_proba"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (5, 3), (3, 6), (0, 4)], ids=str)
def test_wrong_width(function, shape, rng):
    """Only inputs with the network's width are accepted; the message names the shape and the width."""
    call = getattr(random_network(fast, [5, 8, 4], rng), function.removeprefix("MLP."))
    with expect_error(
        ValueError, str(shape), "5", otherwise=f"x of shape {shape} is accepted by a network of 5 inputs"
    ):
        call(np.ones(shape))


@pytest.mark.parametrize("function", ["MLP.forward", "MLP.activations", "MLP.predict", "MLP.predict_proba"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39], ids=str)
def test_input_that_is_not_finite(function, bad, rng):
    """NaN, inf, and what becomes inf in the network's float32 are refused, and the message says where they stand."""
    call = getattr(random_network(fast, [5, 8, 4], rng, dtype=np.float32), function.removeprefix("MLP."))
    x = rng.normal(size=(2, 2041, 5))
    x[1, 2030, 3] = bad
    with expect_error(
        ValueError, "[1, 2030, 3]", otherwise=f"an input of {bad} is accepted: it silently poisons the row"
    ):
        call(x)


@pytest.mark.parametrize("function", ["MLP.forward", "MLP.activations", "MLP.predict", "MLP.predict_proba"])
@pytest.mark.parametrize("dtype", ["complex128", "object", "str"])
def test_input_that_is_no_number(function, dtype, rng):
    """Complex numbers, objects and text are refused."""
    call = getattr(random_network(fast, [5, 8, 4], rng), function.removeprefix("MLP."))
    with expect_error(TypeError, otherwise=f"an input of dtype {dtype} is not refused with a TypeError"):
        call(np.ones((2, 5)).astype(dtype))


@pytest.mark.grades("MLP.predict_proba")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_predict_proba_dtype(dtype):
    """The network's dtype; with 4000 classes a sum in float16 would stop at 2048."""
    mlp = network(fast, (np.zeros((4000, 2)), np.zeros(4000)), dtype=dtype)
    expected, reason = np.full((3, 4000), 1 / 4000), "equal logits: every class has the same probability"
    mistakes = {"summed in float16, where 2048 + 1 is 2048: sum in float32": np.full((3, 4000), 1 / 2048)}
    got = mlp.predict_proba(np.ones((3, 2)))
    assert_close(got, expected, dtype=dtype, what="probabilities", mistakes=mistakes, vacuous_ok=reason)


@pytest.mark.grades("MLP.forward", "MLP.activations", "MLP.predict", "MLP.predict_proba")
@pytest.mark.parametrize("leading", [(0,), (3, 0)], ids=str)
def test_empty_batch(leading, rng):
    """An empty batch gives empty results of the right shapes."""
    mlp, x = random_network(fast, [5, 6, 4], rng), np.zeros((*leading, 5))
    shapes = {
        "forward": (mlp.forward(x).shape, (*leading, 4)),
        "predict": (mlp.predict(x).shape, leading),
        "predict_proba": (mlp.predict_proba(x).shape, (*leading, 4)),
        "activations": ([h.shape for h in mlp.activations(x)], [(*leading, 6), (*leading, 4)]),
    }
    for name, (got, expected) in shapes.items():
        assert got == expected, f"{name} of an empty batch {x.shape} has shape {got}, expected {expected}"


@pytest.mark.grades("MLP.forward", "MLP.predict_proba")
def test_overflow_without_a_warning():
    """Finite input may overflow a layer: inf and NaN as in torch, and no warning."""
    mlp = network(fast, ([[1e300]], [0.0]), ([[1.0], [-1.0]], [0.0, 0.0]))
    expected = np.array([[np.inf, -np.inf], [2e300, -2e300]])
    assert_close(mlp.forward([[1e300], [2.0]]), expected, what="logits, the first row after an overflow")
    assert np.isnan(mlp.predict_proba([1e300])).any(), (
        "probabilities of an infinite logit must be NaN, as in torch"
    )
