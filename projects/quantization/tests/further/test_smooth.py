"""The judge of smooth. Oracles: values worked by hand, and a product in float64 beside one of rounded numbers."""

import pytest
import torch
from layers import rounded_input, rounded_weight

from shared.testing.checks import assert_close, expect_error
from smooth import smooth


@pytest.mark.grades("smooth")
def test_smooth_by_hand():
    """Square roots of the ratio for alpha 1/2; the extremes move nothing or all."""
    activation_max, weight = (
        torch.tensor([100.0, 1.0, 4.0]),
        torch.tensor([[1.0, -4.0, 0.5], [0.25, 1.0, -1.0]]),
    )
    mistakes = {
        "the factor is upside down": [0.1, 2.0, 0.5],
        "takes the largest weight of each row, not of each column": [5.0, 0.5, 2.0],
        "signs: the largest magnitude counts": [10.0, 1.0, 8**0.5],
    }
    got = smooth(activation_max, weight)
    assert_close(got, torch.tensor([10.0, 0.5, 2.0]), what="factors", mistakes=mistakes)
    expected = torch.tensor([100**0.75, 1 / 4**0.25, 4**0.75])
    assert_close(smooth(activation_max, weight, alpha=0.75), expected, what="factors with alpha 0.75")
    dead = smooth(torch.tensor([0.0, 2.0]), torch.tensor([[1.0, 0.0]]))
    assert dead.tolist() == [1.0, 1.0], f"a channel that is all zero gets the factor 1, got {dead.tolist()}"


@pytest.mark.grades("smooth")
def test_smooth_helps_against_an_outlier(generator):
    """One channel 100 times larger: smoothed, a per-tensor int8 product is at least 6 dB better, and equal in float."""
    x, weight = torch.randn(200, 32, generator=generator), torch.randn(16, 32, generator=generator)
    x[:, 5] *= 100
    factors = smooth(x.abs().amax(0), weight)
    assert_close((x / factors) @ (weight * factors).T, x @ weight.T, n=320, what="the float product")

    def noise(x, weight):
        return rounded_input(x, x.min(), x.max()) @ rounded_weight(weight).T

    reference = x.double() @ weight.double().T

    def quality(y):
        return float(10 * torch.log10(reference.square().sum() / (reference - y).square().sum()))

    plain, smoothed = quality(noise(x, weight)), quality(noise(x / factors, weight * factors))
    assert smoothed > plain + 6, f"{plain:.1f} dB without and {smoothed:.1f} dB with smoothing"


@pytest.mark.grades("smooth")
def test_smooth_bad_input():
    """NaN does not become a factor of 1; shapes that would broadcast, and alpha beyond 0 to 1, are refused."""
    good, weight = torch.ones(2), torch.ones(3, 2)
    for bad in (torch.tensor([torch.nan, 1]), torch.tensor([torch.inf, 1]), torch.tensor([-1.0, 1])):
        with expect_error(ValueError, "activation_max", otherwise=f"activation_max = {bad} is accepted"):
            smooth(bad, weight)
    with expect_error(ValueError, "weight", otherwise="a weight of NaN is accepted"):
        smooth(good, torch.full((3, 2), torch.nan))
    for bad in (torch.ones(2, 1), torch.ones(1), torch.ones(3)):
        with expect_error(ValueError, otherwise=f"activation_max of {tuple(bad.shape)} for two channels"):
            smooth(bad, weight)
    with expect_error(ValueError, otherwise="filters are taken for a matrix"):
        smooth(good, torch.ones(3, 2, 1))
    for alpha in (-0.1, 1.1, torch.nan):
        with expect_error(ValueError, "alpha", otherwise=f"alpha={alpha} is accepted"):
            smooth(good, weight, alpha=alpha)
    for alpha in (0, 1):
        assert smooth(good * 4, weight * 2, alpha=alpha).tolist() == [4.0 if alpha else 0.5] * 2, (
            f"alpha={alpha}"
        )
