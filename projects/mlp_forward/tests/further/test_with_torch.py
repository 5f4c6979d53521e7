"""The core beside torch: one layer, and whole networks with the same weights."""

import numpy as np
import pytest
import torch
from networks import random_network
from torch_twins import ACTIVATIONS, torch_outputs

import mlp_forward
from shared.testing.checks import assert_close


@pytest.mark.grades("linear")
@pytest.mark.parametrize("leading", [(), (4,), (2, 1, 3)], ids=str)
def test_linear_equals_torch(leading, rng):
    """Any number of leading axes."""
    x, weight, bias = rng.normal(size=(*leading, 5)), rng.normal(size=(7, 5)), rng.normal(size=7)
    expected = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight, bias))).numpy()
    assert_close(mlp_forward.linear(x, weight, bias), expected, n=5)


@pytest.mark.grades("linear")
def test_linear_of_nan_and_inf():
    """NaN and inf propagate as in torch, row by row."""
    x = np.array([[np.inf, 1.0], [np.nan, 1.0], [1.0, 2.0]])
    weight = np.array([[1.0, 2.0], [0.0, 3.0], [-1.0, 1.0]])
    expected = [[np.inf, np.nan, -np.inf], [np.nan, np.nan, np.nan], [5.0, 6.0, 1.0]]
    with np.errstate(invalid="ignore"):
        assert_close(
            mlp_forward.linear(x, weight, np.zeros(3)), np.array(expected), what="linear of inf and NaN"
        )


@pytest.mark.grades("MLP.forward")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [[5, 3], [5, 7, 4, 6, 3]], ids=str)
def test_forward_equals_torch(activation, sizes, rng):
    """Every activation, at every depth, in float64."""
    mlp, x = random_network(mlp_forward, sizes, rng, activation=activation), rng.normal(size=(11, 5))
    assert_close(mlp.forward(x), torch_outputs(mlp, x, activation)[-1], rtol=1e-12, what="logits")


@pytest.mark.grades("MLP.predict_proba")
def test_probabilities_equal_torch(rng):
    """The softmax of torch, in float32."""
    mlp, x = random_network(mlp_forward, [5, 8, 3], rng, dtype=np.float32), rng.normal(size=(6, 5))
    expected = torch.softmax(torch.from_numpy(torch_outputs(mlp, x)[-1]), -1).numpy()
    assert_close(mlp.predict_proba(x), expected, dtype=np.float32, n=8, what="probabilities")
