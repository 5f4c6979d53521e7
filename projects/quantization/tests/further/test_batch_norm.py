"""The judge of folding. Oracle: the float network itself, which must compute the same."""

import pytest
import torch
from networks import cnn, kinds, run
from torch import nn

from batch_norm import fold_batch_norms
from shared.testing.checks import assert_close, expect_error


def trained(norm, x):
    """Return a norm whose statistics are those of x, in evaluation mode."""
    norm(x)
    return norm.eval()


@pytest.mark.grades("fold_batch_norms")
def test_batch_norm_is_folded(generator):
    """The same function without norms, within rounding."""
    model, x = cnn(), torch.rand(50, 1, 8, 8, generator=generator) * 3
    exact = run(model, x)
    folded = fold_batch_norms(model)
    assert folded is model, "the model is changed in place and returned"
    assert "BatchNorm2d" not in kinds(folded), "batch norms are not folded into the convolutions before them"
    hint = "the batch norm is folded wrongly: bias, mean, or eps?"
    assert_close(run(folded, x), exact, n=256, rtol=1e-4, what="the folded network", hint=hint)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(6, 5, bias=False)
    x = torch.randn(40, 6, generator=generator) + 2
    plain = nn.Sequential(linear, trained(nn.BatchNorm1d(5, affine=False, eps=0.7), linear(x))).eval()
    exact = run(plain, x)
    assert_close(
        run(fold_batch_norms(plain), x), exact, n=6, rtol=1e-4, what="a linear layer without bias", hint=hint
    )


@pytest.mark.grades("fold_batch_norms")
def test_batch_norm_after_an_activation(generator):
    """A norm that does not stand directly behind a layer stays."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(6, 5)
    x = torch.randn(40, 6, generator=generator)
    model = nn.Sequential(
        linear, nn.ReLU(), trained(nn.BatchNorm1d(5), linear(x).relu()), nn.Linear(5, 3)
    ).eval()
    exact = run(model, x)
    hint = "folded across an activation: only direct neighbours are one linear map"
    assert_close(run(fold_batch_norms(model), x), exact, n=6, what="norm after ReLU", hint=hint)
    assert "BatchNorm1d" in kinds(model), hint


@pytest.mark.grades("fold_batch_norms")
def test_batch_norm_without_statistics():
    """A norm that uses the statistics of its batch cannot be folded."""
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False))
    with expect_error(ValueError, otherwise="a norm without running statistics is folded"):
        fold_batch_norms(model)
