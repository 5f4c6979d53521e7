"""The judge of folding. Oracle: the float network itself, which must compute the same."""

import copy

import pytest
import torch
from networks import cnn, kinds, run
from oracles import decibels
from torch import nn

from batch_norm import fold_batch_norms
from deploy import quantize_network
from shared.testing.checks import assert_close, expect_error


def trained(norm, x):
    """Return a norm whose statistics are those of x, in evaluation mode."""
    norm(x)
    return norm.eval()


def pair(**options):
    """Return a convolution and a norm whose statistics and affine parameters are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, **options)
        norm.running_mean.normal_()
        norm.running_var.copy_(torch.tensor([0.1, 1.0, 4.0, 9.0]))
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return layer, norm


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
    x = torch.randn(5, 4, 6, 6, generator=generator)
    plain = nn.Sequential(*pair(affine=False, eps=0.7)).eval()
    exact = run(plain, x)
    folded = fold_batch_norms(plain)
    assert kinds(folded) == ["Conv2d", "Identity"], f"a norm without γ and β is not folded: {kinds(folded)}"
    assert_close(run(folded, x), exact, n=36, rtol=1e-4, what="a norm without γ and β", hint=hint)


@pytest.mark.grades("fold_batch_norms")
def test_batch_norm_after_an_activation(generator):
    """A norm that does not get the convolution's own output stays."""
    layer, norm = pair()
    x = torch.randn(5, 4, 6, 6, generator=generator)
    model = nn.Sequential(layer, nn.ReLU(), norm, nn.Conv2d(4, 3, 1)).eval()
    exact = run(model, x)
    hint = "folded across an activation: only what the norm gets from a layer is one linear map with it"
    assert_close(run(fold_batch_norms(model), x), exact, n=36, what="norm after ReLU", hint=hint)
    assert "BatchNorm2d" in kinds(model), hint


@pytest.mark.grades("fold_batch_norms")
def test_batch_norm_without_statistics():
    """A norm that uses the statistics of its batch cannot be folded."""
    model = nn.Sequential(nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5, track_running_stats=False))
    with expect_error(ValueError, otherwise="a norm without running statistics is folded"):
        fold_batch_norms(model)


class Twice(nn.Module):
    """A convolution and a norm in a stack, one of them with a second use."""

    def __init__(self, use):
        super().__init__()
        layer, norm = pair()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.use, self.body = use, nn.Sequential(layer, norm, nn.ReLU())
        if use == "a second name":
            self.last = layer
        elif use == "the same weight":
            self.last.weight = layer.weight
        elif use == "the norm by another name":
            self.norm = norm
        elif use == "a hook on the convolution":
            layer.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x, skip=None):
        if skip is not None:
            return self.body(x) + skip
        if self.use == "what the convolution gives":
            inner = self.body[0](x)
            return self.last(self.body[1](inner) + inner)
        if self.use == "the norm by another name":
            return self.last(self.norm(self.body[0](x)))
        y = self.body(x)
        if self.use == "the convolution again":
            y = y + self.body[0](x)
        elif self.use == "the norm again":
            y = self.body[1](y)
        elif self.use == "the stack again":
            y = self.body(y)
        elif self.use == "a look at the values" and y.sum() > 1e9:
            y = self.body[0](x)
        return self.last(y)


@pytest.mark.grades("fold_batch_norms")
@pytest.mark.parametrize(
    "use",
    [
        "none",
        "a second name",
        "the same weight",
        "the convolution again",
        "what the convolution gives",
        "the norm again",
        "the norm by another name",
        "the stack again",
        "a hook on the convolution",
        "a look at the values",
    ],
)
def test_layer_that_is_used_twice(use, generator):
    """A layer with a second use, in whatever way, keeps its weight: folding would change what the other use computes."""
    model, x = Twice(use).eval(), torch.randn(3, 4, 6, 6, generator=generator)
    exact = run(model, x)
    folded = fold_batch_norms(copy.deepcopy(model))
    hint = f"second use: {use}: a layer that is used twice must not be folded"
    assert_close(run(folded, x), exact, n=36, rtol=1e-4, what="the network", hint=hint)
    stays = use not in ("none", "the norm by another name")
    assert ("BatchNorm2d" in kinds(folded)) == stays, f"second use: {use}: {kinds(folded)}"


@pytest.mark.grades("fold_batch_norms", "quantize_network")
def test_linear_layer_that_is_used_twice(generator):
    """Linear, norm, ReLU and the same linear again: as good as two copies of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    nn.init.constant_(norm.running_var, 9.0)
    model, x = nn.Sequential(linear, norm, nn.ReLU(), linear).eval(), torch.randn(50, 4, generator=generator)
    ratio = decibels(run(model, x), run(quantize_network(model, mode="weight_only"), x))
    assert ratio > 45, f"{ratio:.1f} dB: the norm went into a linear layer that is used twice"


@pytest.mark.grades("fold_batch_norms", "quantize_network")
@pytest.mark.parametrize(("n_out", "shape"), [(5, (7, 6)), (5, (7, 5, 6)), (8, (7, 5, 6))])
def test_norm_of_channels_before_the_last_axis(n_out, shape, generator):
    """BatchNorm1d takes axis 1 for the channels: of (batch, channels, length) these are not a linear layer's outputs."""
    norm = nn.BatchNorm1d(5)
    norm.running_var.copy_(torch.tensor([0.1, 1.0, 4.0, 9.0, 25.0]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, n_out), norm).eval()
    x = torch.randn(shape, generator=generator)
    ratio = decibels(run(model, x), run(quantize_network(model, mode="weight_only"), x))
    assert ratio > 45, f"{ratio:.1f} dB on x of {shape}: the norm's channels are not the last axis"
