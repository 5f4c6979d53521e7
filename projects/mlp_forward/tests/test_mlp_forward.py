"""The core: one layer, a network and its parameters, its outputs.

Oracles: values worked by hand, scalar sums neuron by neuron, laws (rows are independent, linear layers collapse into one).
The fixture `module` is what is judged; tests/further/test_fast_as_core.py puts fast.py in its place.
"""

import math
import warnings

import numpy as np
import pytest
from networks import SCALARS, logits_of, network, one_layer, outputs_of, random_network, softmax

import mlp_forward
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.fixture
def module():
    return mlp_forward


# --- one layer ----------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_imports(module):
    """The deliverable uses NumPy, nothing else."""
    assert_imports_only(module, {"numpy", "mlp_forward"})


@pytest.mark.grades("linear")
def test_linear_by_hand(module):
    """Two neurons with two inputs each, worked by hand."""
    x, weight, bias = np.array([[1.0, 2.0]]), np.array([[3.0, 5.0], [7.0, 11.0]]), np.array([100.0, 1000.0])
    # neuron 0: 1*3 + 2*5 + 100, neuron 1: 1*7 + 2*11 + 1000
    assert_close(
        module.linear(x, weight, bias),
        np.array([[113.0, 1029.0]]),
        what="linear",
        mistakes={
            "the weight is not transposed: row j of weight belongs to neuron j": [[117.0, 1027.0]],
            "the bias is missing": [[13.0, 29.0]],
            "the bias is subtracted": [[-87.0, -971.0]],
        },
    )
    assert_close(module.linear(x, weight), np.array([[13.0, 29.0]]), what="linear without a bias")


@pytest.mark.grades("linear")
@pytest.mark.parametrize("leading", [(), (4,), (4, 3), (2, 1, 3)], ids=str)
def test_linear_leading_axes(leading, module, rng):
    """Any number of leading axes, and a different number of inputs and outputs."""
    x, weight, bias = rng.normal(size=(*leading, 5)), rng.normal(size=(7, 5)), rng.normal(size=7)
    expected = one_layer(x, weight, bias)
    assert_close(module.linear(x, weight, bias), expected, n=5, hint="only the last axis of x is multiplied")


@pytest.mark.grades("linear")
@pytest.mark.parametrize("leading", [(0,), (2, 0)], ids=str)
def test_linear_empty_batch(leading, module, rng):
    """An empty batch gives an empty result of the right shape."""
    result = module.linear(np.zeros((*leading, 5)), rng.normal(size=(7, 5)), rng.normal(size=7))
    assert result.shape == (*leading, 7), f"an empty batch {(*leading, 5)} gave shape {result.shape}"


@pytest.mark.grades("linear")
@pytest.mark.parametrize(
    ("x_dtype", "weight_dtype", "bias_dtype", "expected_dtype"),
    [
        ("float32", "float32", "float32", "float32"),
        ("float64", "float64", "float64", "float64"),
        ("float64", "float32", "float32", "float64"),
        ("float32", "float64", "float32", "float64"),
        ("float32", "float32", "float64", "float64"),
        ("float32", "float32", "int64", "float64"),
        ("int64", "int64", "int64", "float64"),
        ("bool", "int8", "int8", "float64"),
    ],
)
def test_linear_dtype(x_dtype, weight_dtype, bias_dtype, expected_dtype, module):
    """float32 stays float32, of several dtypes the wider one counts, whole numbers become float64."""

    def numbers(
        values, dtype
    ):  # in float64 thirds, which float32 would round; elsewhere whole, so that float32 is exact
        return np.array(values) / 3 if dtype == "float64" else np.array(values, dtype)

    x = numbers([[0, 1, 1], [1, 1, 0]], x_dtype)
    weight, bias = numbers([[1, 3, 5], [8, 17, 32]], weight_dtype), numbers([64, 100], bias_dtype)
    assert_close(
        module.linear(x, weight, bias),
        one_layer(x, weight, bias),
        dtype=expected_dtype,
        n=3,
        what="linear",
        hint="the wider dtype counts: nothing is rounded to the narrower one",
    )


@pytest.mark.grades("linear")
def test_linear_small_integers_do_not_wrap(module):
    """Integers are converted before they are multiplied: 200·200 does not fit in uint8."""
    x, weight = np.array([[200, 100]], np.uint8), np.array([[200, 3]], np.uint8)
    wrapped = [[float((200 * 200 + 300) % 256)]]
    mistakes = {"integers wrap around: convert to float64 before the product": wrapped}
    assert_close(module.linear(x, weight), np.array([[40300.0]]), what="linear", mistakes=mistakes)


@pytest.mark.grades("linear")
def test_linear_views_and_inputs(module, rng):
    """Strided, reversed and transposed views work, and no argument is modified."""
    x, weight = rng.normal(size=(10, 6))[::-2, ::2], np.asfortranarray(rng.normal(size=(3, 4)))[:, :3]
    bias = rng.normal(size=6)[::-2]
    expected = one_layer(x, weight, bias)
    with unchanged(x, weight, bias):
        assert_close(module.linear(x, weight, bias), expected, n=3, what="linear of views")


@pytest.mark.grades("linear")
@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        ((4, 5), (7, 6), (7,)),
        ((4, 7), (7, 6), (7,)),
        ((), (7, 1), (7,)),
        ((4, 6), (6,), (6,)),
        ((4, 6), (2, 7, 6), (7,)),
        ((4, 6), (7, 6), (6,)),
        ((4, 6), (7, 6), (1,)),
        ((4, 6), (7, 6), ()),
        ((4, 6), (7, 6), (4, 7)),
        ((4, 6), (7, 6), (4, 1)),
        ((1, 6), (7, 6), (1, 7)),
    ],
)
def test_linear_wrong_shapes(x, weight, bias, module):
    """Shapes that do not fit are refused, also those that NumPy would broadcast."""
    problem = "bias" if len(weight) == 2 and x[-1:] == weight[-1:] else "x or weight"
    with expect_error(
        ValueError, otherwise=f"a {problem} of a wrong shape is accepted: compare shapes first"
    ):
        module.linear(np.ones(x), np.ones(weight), np.ones(bias))
    if problem == "x or weight":
        with expect_error(ValueError, otherwise="without a bias, a wrong shape is accepted"):
            module.linear(np.ones(x), np.ones(weight))


@pytest.mark.grades("linear")
@pytest.mark.parametrize("bad", [np.array([[1j, 2]]), np.array([[None, 1]])], ids=repr)
def test_linear_wrong_dtypes(bad, module):
    """Only real numbers are multiplied."""
    for arguments in ((bad, np.ones((3, 2))), (np.ones((4, 2)), bad)):
        with expect_error(TypeError, otherwise=f"an argument of {bad.dtype} is not refused"):
            module.linear(*arguments)


# --- a network: its parameters ------------------------------------------------------------------------------


@pytest.mark.grades("MLP")
@pytest.mark.parametrize(
    "sizes", [[3, 2], [5, 4, 3, 2], (6, np.int64(6), 1), [4, 3, 2, 3, 2, 3, 2, 5]], ids=str
)
def test_layers(sizes, module):
    """One (weight, bias) pair per layer: weight (out, in), bias zero, float32 unless told otherwise."""
    layers = module.MLP(sizes, rng=np.random.default_rng(0)).layers
    assert len(layers) == len(sizes) - 1, (
        f"{len(sizes)} sizes make {len(sizes) - 1} layers, got {len(layers)}"
    )
    for k, (weight, bias) in enumerate(layers):
        n_in, n_out = sizes[k], sizes[k + 1]
        assert weight.shape == (n_out, n_in), (
            f"weight {k} must be (out, in) = {(n_out, n_in)}, got {weight.shape}"
        )
        assert bias.shape == (n_out,), f"bias {k} must be {(n_out,)}, got {bias.shape}"
        assert weight.dtype == bias.dtype == np.float32, (
            f"layer {k} must be float32, got {weight.dtype}, {bias.dtype}"
        )
        assert not bias.any(), f"bias {k} must start at 0, got {bias}"
        assert np.any(weight), f"weight {k} is all zero with the default init"


@pytest.mark.grades("MLP")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_parameters(dtype, module):
    """The option `dtype` is the dtype of every parameter."""
    for weight, bias in module.MLP([4, 3, 2], rng=np.random.default_rng(0), dtype=dtype).layers:
        assert weight.dtype == bias.dtype == dtype, (
            f"dtype={dtype!r} is ignored: got {weight.dtype}, {bias.dtype}"
        )


@pytest.mark.grades("MLP")
@pytest.mark.parametrize("init", ["he", "xavier", "lecun"])
def test_init_scale(init, module):
    """The weights' standard deviation is the one that `init` names (400·300 draws: known to 0.2 %)."""
    layers = module.MLP([400, 300, 600], init=init, rng=np.random.default_rng(1)).layers
    spread = np.array([np.std(np.asarray(weight, np.float64)) for weight, _ in layers])
    fan_in, fan_out = np.array([400.0, 300.0]), np.array([300.0, 600.0])
    scales = {
        "he": (2 / fan_in) ** 0.5,
        "xavier": (2 / (fan_in + fan_out)) ** 0.5,
        "lecun": (1 / fan_in) ** 0.5,
    }
    mistakes = {
        f"init={init!r} is ignored: this is the scale of {name}": scale for name, scale in scales.items()
    }
    mistakes["the variance uses the outputs of the layer (fan-out), not its inputs"] = {
        "he": (2 / fan_out) ** 0.5,
        "xavier": (1 / fan_out) ** 0.5,
        "lecun": (1 / fan_out) ** 0.5,
    }[init]
    mistakes["the variance is used as the standard deviation: take its square root"] = scales[init] ** 2
    for (
        diagnosis,
        scale,
    ) in mistakes.items():  # ahead of assert_close, whose tolerance for a mistake is its own
        if not np.allclose(scale, scales[init]) and np.allclose(spread, scale, rtol=0.02):
            raise AssertionError(f"{diagnosis}\nstandard deviations {spread}, expected {scales[init]}")
    assert_close(spread, scales[init], rtol=0.02, atol=0.0, what="standard deviation of the weights")
    means = np.array([np.mean(np.asarray(weight, np.float64)) for weight, _ in layers])
    assert np.all(np.abs(means) < 0.02 * scales[init]), f"the weights must have mean 0, got {means}"


@pytest.mark.grades("MLP")
@pytest.mark.parametrize("init", ["he", "xavier", "lecun"])
def test_init_is_normal(init, module):
    """4.55 % of normal numbers lie beyond two standard deviations; of uniform ones none does."""
    (weight, _), *_ = module.MLP([400, 300, 2], init=init, rng=np.random.default_rng(2)).layers
    weight = np.asarray(weight, np.float64)
    beyond = np.mean(np.abs(weight) > 2 * weight.std())
    distinct = len(np.unique(weight)) / weight.size
    assert distinct > 0.9, f"only {distinct:.0%} of the weights are distinct: draw each on its own"
    assert beyond > 0, "the weights look uniform, not normal: none lies beyond two standard deviations"
    assert 0.042 < beyond < 0.049, (
        f"{beyond:.2%} of the weights lie beyond two standard deviations, expected 4.55 %"
    )


@pytest.mark.grades("MLP")
def test_init_zeros(module):
    """`init="zeros"` gives weights of exactly zero."""
    for weight, bias in module.MLP([4, 3, 2], init="zeros", rng=np.random.default_rng(0)).layers:
        assert not np.any(weight), 'init="zeros" is ignored: the weights are not zero'
        assert not np.any(bias), 'init="zeros": the biases are not zero'


@pytest.mark.grades("MLP")
def test_init_uses_rng(module):
    """All randomness comes from `rng`: same seed, same network; another seed or a second draw, another one."""

    def weights(rng):
        return [np.array(weight) for weight, _ in module.MLP([6, 6, 6], rng=rng).layers]

    first, again, other = (weights(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert all(map(np.array_equal, first, again)), "the same seed gives two networks: use rng, not np.random"
    assert not np.array_equal(first[0], other[0]), "two seeds give the same network: rng is ignored"
    assert not np.array_equal(first[0], first[1]), (
        "both layers have the same weights: draw each from the one rng"
    )
    shared = np.random.default_rng(7)
    weights(shared)
    assert not np.array_equal(first[0], weights(shared)[0]), (
        "a second network from the same rng must be another one"
    )


@pytest.mark.grades("MLP")
@pytest.mark.parametrize("option", ["activation", "init"])
@pytest.mark.parametrize("value", ["softplus", "RELU", "He", ""])
def test_unknown_options(option, value, module):
    """An activation or an init that does not exist is refused at once, not at the first forward pass."""
    with expect_error(ValueError, otherwise=f"{option}={value!r} is accepted"):
        module.MLP([3, 2], **{option: value}, rng=np.random.default_rng(0))


@pytest.mark.grades("MLP", "MLP.forward")
def test_layers_are_the_networks_own(module):
    """Writing into `layers` changes the network: the arrays are not copies."""
    mlp = module.MLP([2, 2], rng=np.random.default_rng(0), dtype=np.float64)
    mlp.layers[0][0][...] = [[3.0, 5.0], [7.0, 11.0]]
    mlp.layers[0][1][...] = [100.0, 1000.0]
    x = [[1.0, 2.0]]
    assert mlp.layers[0][0][1, 0] == 7.0, "layers returns copies: a learner could not train this network"
    assert mlp.layers[0][1][1] == 1000.0, "layers returns copies of the biases"
    assert_close(
        mlp.forward(x),
        np.array([[113.0, 1029.0]]),
        what="forward after writing into layers",
        mistakes={"forward returns zeros": [[0.0, 0.0]]},
    )
    mlp.layers[0][1][...] = [500.0, 2000.0]
    assert_close(
        mlp.forward(x),
        np.array([[513.0, 2029.0]]),
        what="forward after writing into layers again",
        mistakes={
            "forward does not see what is written after its first call: training would change nothing": [
                [113.0, 1029.0]
            ]
        },
    )


@pytest.mark.grades("MLP.n_parameters")
@pytest.mark.parametrize(
    ("sizes", "expected", "weights"),
    [([3, 4, 2], 26, 20), ([64, 128, 10], 9610, 9472), ([784, 512, 512, 10], 669706, 668672), ([1, 1], 2, 1)],
    ids=str,
)
def test_n_parameters(sizes, expected, weights, module):
    """All weights and all biases are counted: 3-4-2 has 4·3 + 4 + 2·4 + 2 = 26."""
    count = module.MLP(sizes, rng=np.random.default_rng(0)).n_parameters
    assert count != weights, (
        f"the biases are not counted: {count} are the weights alone, with biases {expected}"
    )
    assert count == expected, f"n_parameters of {sizes} is {count}, expected {expected}"


# --- a network: its outputs -------------------------------------------------------------------------------------------

# 2-2-2 with a hidden neuron that is negative, and a negative logit.
#   x = (1, 2):   hidden before ReLU (1·1 + 2·2 + 1, 1·(-3) + 2·1 - 1) = (6, -2), after it (6, 0)
#                 logits (6·1 + 0·5 - 10, 6·2 + 0·7 + 1) = (-4, 13)
BY_HAND = ([[1.0, 2.0], [-3.0, 1.0]], [1.0, -1.0]), ([[1.0, 5.0], [2.0, 7.0]], [-10.0, 1.0])


@pytest.mark.grades("MLP.forward")
def test_forward_by_hand(module):
    """Two layers worked by hand; the last one has no activation, so a logit can be negative."""
    assert_close(
        network(module, *BY_HAND).forward(np.array([[1.0, 2.0]])),
        np.array([[-4.0, 13.0]]),
        what="logits",
        mistakes={
            "the last layer has an activation: its outputs are logits and may be negative": [[0.0, 13.0]],
            "the hidden layer has no activation": [[-14.0, -1.0]],
            "ReLU keeps the negative half": [[-20.0, -13.0]],
            "the activation comes before the bias": [[-13.0, 4.0]],
            "forward returns the hidden layer": [[6.0, 0.0]],
        },
    )


@pytest.mark.grades("MLP.forward")
def test_rows_are_independent(module, rng):
    """A row's logits do not depend on the rows beside it."""
    mlp, x = random_network(module, [5, 8, 4], rng), rng.normal(size=(9, 5))
    alone = np.concatenate([np.array(mlp.forward(x[i : i + 1])) for i in range(len(x))])
    together = mlp.forward(x)
    equal = np.allclose(alone, together, rtol=1e-10, atol=1e-10)
    assert equal, (
        "the batch leaks: a row alone gives other logits than the same row in a batch\n"
        f"row 0 alone {alone[0]}, in the batch {together[0]}"
    )


@pytest.mark.grades("MLP.forward")
def test_forward_gives_a_new_array(module, rng):
    """The result is the caller's to keep: a second call does not overwrite it, and the input is not modified."""
    mlp, x = random_network(module, [5, 8, 4], rng), rng.normal(size=(6, 5))
    with unchanged(x):
        first = mlp.forward(x)
    kept = np.array(first)
    mlp.forward(x + 1)
    assert np.array_equal(first, kept), (
        "the second call overwrote the first result: return a new array each time"
    )
    single = network(module, ([[1.0, 2.0], [0.0, 3.0]], [0.5, 0.25]))
    with unchanged(x := np.array([[1.0, 2.0]])):
        single.forward(x)[...] = 0
    assert_close(
        single.forward(x), np.array([[5.5, 6.25]]), what="logits after the caller changed the last result"
    )


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
@pytest.mark.parametrize("sizes", [[5, 3], [5, 4, 3], [5, 7, 4, 6, 3]], ids=str)
def test_forward_against_scalars(activation, sizes, module, rng):
    """Every activation, at every depth, neuron by neuron."""
    mlp, x = random_network(module, sizes, rng, activation=activation), rng.normal(size=(11, 5))
    others = [name for name in SCALARS if name != activation and len(sizes) > 2]
    mistakes = {
        f"activation={activation!r} is ignored: this is {name}": logits_of(mlp, x, name) for name in others
    }
    expected = logits_of(mlp, x, activation)
    assert_close(mlp.forward(x), expected, rtol=1e-12, what="logits", mistakes=mistakes)


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("leading", [(), (1,), (4, 3), (2, 1, 3)], ids=str)
def test_forward_leading_axes(leading, module, rng):
    """Any number of leading axes."""
    mlp, x = random_network(module, [5, 6, 4], rng), rng.normal(size=(*leading, 5))
    assert_close(mlp.forward(x), logits_of(mlp, x), rtol=1e-12, what=f"logits of x {x.shape}")
    single = random_network(module, [5, 3, 1], rng)  # one output is still an axis
    expected = logits_of(single, x)
    assert_close(
        single.forward(x), expected, rtol=1e-12, what="one logit", vacuous_ok="one row has one logit"
    )


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("n_rows", [31, 64, 1025])
def test_forward_batch_sizes(n_rows, module, rng):
    """Small and large batches, primes and the neighbours of powers of two: no tail is dropped."""
    mlp, x = random_network(module, [5, 8, 4], rng), rng.normal(size=(n_rows, 5))
    hint = f"some rows of a batch of {n_rows} are wrong: is the last block complete?"
    assert_close(mlp.forward(x), logits_of(mlp, x), rtol=1e-12, what="logits", hint=hint)


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("x_dtype", ["float32", "float64", "uint8", "int64", "bool"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_dtype(x_dtype, dtype, module, rng):
    """The result has the network's dtype, whatever the input's is."""
    mlp = random_network(module, [5, 8, 4], rng, dtype=dtype)
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


@pytest.mark.grades("MLP.forward")
def test_forward_views_and_lists(module, rng):
    """Strided and column-major input, and nested lists."""
    mlp, base = random_network(module, [5, 8, 4], rng), rng.normal(size=(12, 10))
    for x in (base[::-2, 1::2], np.asfortranarray(base[:, :5]), base[:5].T):
        assert_close(mlp.forward(x), logits_of(mlp, x.copy()), rtol=1e-12, what="logits of a view")
    x = base[:3, :5]
    assert_close(mlp.forward(x.tolist()), logits_of(mlp, x), rtol=1e-12, what="logits of a list")


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("bad", [np.array([[1j, 2]]), np.array([[1, 2]], object)], ids=repr)
def test_forward_wrong_dtypes(bad, module, rng):
    """The conversion to the network's dtype hides no complex number and no object."""
    mlp = random_network(module, [2, 3, 2], rng)
    with expect_error(TypeError, otherwise=f"x of {bad.dtype} is converted: check its dtype first"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlp.forward(bad)


@pytest.mark.parametrize("function", ["MLP.forward", "MLP.activations", "MLP.predict", "MLP.predict_proba"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (5, 3), (3, 6), (0, 4)], ids=str)
def test_wrong_width(function, shape, module, rng):
    """Only inputs with the network's width are accepted."""
    call = getattr(random_network(module, [5, 8, 4], rng), function.removeprefix("MLP."))
    with expect_error(ValueError, otherwise=f"x of shape {shape} is accepted by a network of 5 inputs"):
        call(np.ones(shape))


@pytest.mark.grades("MLP.forward")
def test_identity_network_is_one_linear_map(module, rng):
    """Without a non-linearity, depth adds nothing: three layers equal one matrix (their product)."""
    mlp, x = random_network(module, [5, 7, 6, 4], rng, activation="identity"), rng.normal(size=(9, 5))
    zero = mlp.forward(np.zeros(5))
    columns = np.stack([mlp.forward(np.eye(5)[i]) - zero for i in range(5)])
    assert_close(mlp.forward(x), x @ columns + zero, rtol=1e-12, what="logits of an identity network")


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_forward_of_huge_inputs(activation, module):
    """Inputs of ±1e4 saturate tanh and sigmoid without a warning (a warning fails this test)."""
    mlp = network(
        module, ([[1.0], [-1.0]], [0.0, 0.0]), ([[2.0, 3.0], [5.0, 7.0]], [0.5, -0.5]), activation=activation
    )
    h = {
        "relu": [[1e4, 0.0], [0.0, 1e4]],
        "tanh": [[1.0, -1.0], [-1.0, 1.0]],
        "sigmoid": [[1.0, 0.0], [0.0, 1.0]],
    }
    expected = [[2 * a + 3 * b + 0.5, 5 * a + 7 * b - 0.5] for a, b in h[activation]]
    assert_close(mlp.forward([[1e4], [-1e4]]), np.array(expected), rtol=1e-12, what="logits")


@pytest.mark.grades("MLP.activations")
def test_activations_by_hand(module):
    """The list of `test_forward_by_hand`: the hidden layer after ReLU, then the logits."""
    outputs = network(module, *BY_HAND).activations(np.array([[1.0, 2.0]]))
    assert len(outputs) == 2, f"two layers have two outputs, got {len(outputs)}: x itself is not in the list"
    assert_close(
        outputs[0],
        np.array([[6.0, 0.0]]),
        what="output of the hidden layer",
        mistakes={
            "the hidden layer is listed before its activation": [[6.0, -2.0]],
            "the list starts with the input": [[1.0, 2.0]],
            "a later layer overwrote it: each layer needs an array of its own": [[-4.0, 13.0]],
        },
    )
    mistakes = {"the logits went through the activation": [[0.0, 13.0]]}
    assert_close(outputs[1], np.array([[-4.0, 13.0]]), what="logits in activations", mistakes=mistakes)


@pytest.mark.grades("MLP.activations")
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
def test_activations_against_scalars(activation, module, rng):
    """Every layer's output for input with two leading axes."""
    mlp, x = random_network(module, [5, 7, 7, 4], rng, activation=activation), rng.normal(size=(3, 2, 5))
    with unchanged(x):
        outputs = mlp.activations(x)
    for k in range(len(outputs)):
        for other in (x, *outputs[:k]):
            assert not np.shares_memory(outputs[k], other), (
                "two items share memory: each layer needs an array of its own"
            )
    for k, (got, expected) in enumerate(zip(outputs, outputs_of(mlp, x, activation), strict=True)):
        assert_close(got, expected, rtol=1e-12, what=f"output of layer {k}")


@pytest.mark.grades("MLP.activations")
def test_activations_dtype(module, rng):
    """Every item has the network's dtype, and a single input without leading axes works."""
    mlp, x = random_network(module, [5, 7, 4], rng, dtype=np.float32), [1, 0, 2, 0, 3]
    for k, (got, expected) in enumerate(zip(mlp.activations(x), outputs_of(mlp, x), strict=True)):
        assert_close(got, expected, dtype=np.float32, n=7, what=f"output of layer {k}")


@pytest.mark.grades("MLP.predict")
def test_predict(module, rng):
    """The class of the largest logit, for every leading shape; of equal ones the lowest class."""
    mlp = network(module, ([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0.0, 0.0, 0.0]))  # logits (a, b, a)
    x = np.array([[[2.0, 1.0], [1.0, 2.0]], [[-1.0, -3.0], [-4.0, -2.0]], [[5.0, 5.0], [0.0, 0.5]]])
    expected = np.array([[0, 1], [0, 1], [0, 1]])
    assert_close(
        mlp.predict(x),
        expected,
        dtype=np.intp,
        what="classes",
        hint="the largest logit of each row, ties to the lowest class",
    )
    assert_close(mlp.predict(x[1, 1]), np.array(1), dtype=np.intp, what="class of a single input")
    wide, many = random_network(module, [5, 8, 6], rng), rng.normal(size=(40, 5))
    expected = logits_of(wide, many).argmax(-1)
    assert_close(
        wide.predict(many),
        expected,
        dtype=np.intp,
        what="classes",
        mistakes={"the smallest logit wins": logits_of(wide, many).argmin(-1)},
    )


@pytest.mark.grades("MLP.predict")
def test_predict_close_logits(module):
    """Logits are compared as they are: probabilities round, so two that differ can become equal."""
    mlp = network(module, ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]))
    x = np.array([[0.0, 1e-20], [1.0, 1.0 + 1e-15], [1e-20, 0.0], [-1e4, -1e4 + 1e-9]])
    hint = "the larger logit is overlooked: compare the logits, neither probabilities nor rounded numbers"
    assert_close(mlp.predict(x), np.array([1, 1, 0, 1]), dtype=np.intp, what="classes", hint=hint)


@pytest.mark.grades("MLP.predict_proba")
@pytest.mark.parametrize("leading", [(), (4,), (3, 3)], ids=str)
def test_predict_proba(leading, module, rng):
    """The softmax of the logits over the last axis: rows that sum to one."""
    mlp, x = random_network(module, [5, 8, 3], rng), rng.normal(size=(*leading, 5))
    logits = logits_of(mlp, x)
    expected = softmax(logits)
    mistakes = {
        "these are the logits: softmax is missing": logits,
        "each logit has its own sigmoid: use softmax": 1 / (1 + np.exp(-logits)),
        "softmax runs over the first axis, not over the classes": softmax(logits, 0),
        "the last axis is right only for rank 2: this is axis 1": softmax(logits, min(1, len(leading))),
        "these are log-probabilities": np.log(expected),
    }
    mistakes = {name: value for name, value in mistakes.items() if not np.allclose(value, expected)}
    assert_close(mlp.predict_proba(x), expected, rtol=1e-12, what="probabilities", mistakes=mistakes)


@pytest.mark.grades("MLP.predict_proba")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predict_proba_dtype(dtype, module, rng):
    """The probabilities have the network's dtype."""
    mlp, x = random_network(module, [5, 8, 3], rng, dtype=dtype), rng.normal(size=(6, 5)).astype("float32")
    expected = softmax(logits_of(mlp, x))
    # An error of the logits, 8 roundings of numbers near 5, is a relative error of their exponentials.
    assert_close(
        mlp.predict_proba(x),
        expected,
        dtype=dtype,
        n=8 * 5**2,
        what="probabilities",
        hint="keep the network's dtype",
    )


@pytest.mark.grades("MLP.predict_proba")
def test_predict_proba_of_large_logits(module):
    """Logits of ±1e4 give no overflow, no NaN and no warning."""
    mlp = network(module, ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]))
    with np.errstate(all="ignore"):
        got = mlp.predict_proba([[1e4, 1e4 - 1], [-1e4, -1e4 + 1], [1e4, -1e4]])
    p = 1 / (1 + math.exp(-1))
    hint = "exp overflows: subtract the largest logit of each row first"
    assert_close(
        got, np.array([[p, 1 - p], [1 - p, p], [1.0, 0.0]]), rtol=1e-9, what="probabilities", hint=hint
    )
    mlp.predict_proba([[1e4, -1e4]])  # with warnings on


@pytest.mark.grades("MLP.forward", "MLP.activations", "MLP.predict", "MLP.predict_proba")
@pytest.mark.parametrize("leading", [(0,), (3, 0)], ids=str)
def test_empty_batch(leading, module, rng):
    """An empty batch gives empty results of the right shapes."""
    mlp, x = random_network(module, [5, 6, 4], rng), np.zeros((*leading, 5))
    shapes = {
        "forward": (mlp.forward(x).shape, (*leading, 4)),
        "predict": (mlp.predict(x).shape, leading),
        "predict_proba": (mlp.predict_proba(x).shape, (*leading, 4)),
        "activations": ([h.shape for h in mlp.activations(x)], [(*leading, 6), (*leading, 4)]),
    }
    for name, (got, expected) in shapes.items():
        assert got == expected, f"{name} of an empty batch {x.shape} has shape {got}, expected {expected}"
