"""The judge of value_clipping.py. Oracles: values worked by hand, the two errors one sample at a time, central differences."""

import pytest
import torch
from oracles import DOUBLE, gradients, normal, seeded

import value_clipping
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged

# V, V_old, R with ε = 0.5: what the sample adds to the loss before the mean, and its gradient
BY_HAND = {
    "V stays within ε": (2.25, 2.0, 3.0, 0.75**2 / 2, -0.75),
    "V goes up towards R, further than ε": (3.0, 2.0, 3.25, 0.75**2 / 2, 0.0),
    "V goes up to R and a little past it": (3.0, 2.0, 2.875, 0.375**2 / 2, 0.0),
    "V goes up far past R": (3.0, 2.0, 2.625, 0.375**2 / 2, 0.375),
    "V goes up, away from R": (3.0, 2.0, 1.0, 2.0**2 / 2, 2.0),
    "V goes down towards R, further than ε": (1.0, 2.0, 0.75, 0.75**2 / 2, 0.0),
    "V goes down, away from R": (1.0, 2.0, 3.0, 2.0**2 / 2, -2.0),
    "V_old is below 0": (-1.0, -3.0, -0.5, 2.0**2 / 2, 0.0),
}
COLUMNS = torch.tensor(list(BY_HAND.values()), dtype=DOUBLE).T


def by_samples(values, old_values, returns, clip):
    """What each sample adds: half the larger of its two squared errors."""
    halves = []
    for v, old, r in zip(values.tolist(), old_values.tolist(), returns.tolist(), strict=True):
        held = min(max(v, old - clip), old + clip)
        halves.append(max((v - r) ** 2, (held - r) ** 2) / 2)
    return torch.tensor(halves, dtype=DOUBLE)


def mistakes_of(values, old_values, returns, clip):
    """What each known mistake gives, by its diagnosis."""

    def halves(step, choose=torch.maximum):
        free, held = values - returns, old_values + step - returns
        return choose(free.square(), held.square()) / 2

    step, share = values - old_values, values / old_values
    held = (old_values + step.clamp(-clip, clip) - returns).square() / 2
    free = (values - returns).square() / 2
    right = halves(step.clamp(-clip, clip))
    return {
        "min for max: the larger of both errors counts": halves(
            step.clamp(-clip, clip), torch.minimum
        ).mean(),
        "the clipped error counts for all samples: choose the larger of both in each": held.mean(),
        "this is the error without clipping: V is held near old_values": free.mean(),
        "the half is missing": 2 * right.mean(),
        "the sum over the batch: its mean is asked for": right.sum(),
        "clipped on one side only: V may move by ε either way": halves(step.clamp(max=clip)).mean(),
        "the step is clipped, but not added to old_values": halves(
            step.clamp(-clip, clip) - old_values
        ).mean(),
        "clipped as a share of old_values: ε is in units of V": halves(
            old_values * (share.clamp(1 - clip, 1 + clip) - 1)
        ).mean(),
        "clip is ignored: this is 0.2": by_samples(values, old_values, returns, 0.2).mean(),
    }


@pytest.mark.grades
def test_value_clipping_imports():
    """The module uses torch, nothing else."""
    assert_imports_only(value_clipping, {"torch"})


@pytest.mark.grades("clipped_value_loss")
def test_clipped_value_loss_by_hand():
    """All quadrants at once: V gone up or down, R ahead of it or behind."""
    values, old_values, returns, halves, _ = COLUMNS
    with unchanged(values, old_values, returns):
        loss = value_clipping.clipped_value_loss(values, old_values, returns, clip=0.5)
    mistakes = mistakes_of(values, old_values, returns, 0.5)
    assert_close(loss, halves.mean(), what="clipped value loss", mistakes=mistakes)


@pytest.mark.grades("clipped_value_loss")
@pytest.mark.parametrize("case", BY_HAND)
def test_gradient_in_each_quadrant(case):
    """Nothing pulls a V that went past ε towards R; everything else is pulled as by the plain error."""
    row = list(BY_HAND).index(case)
    values, old_values, returns, _, expected = (column[row].expand(4) for column in COLUMNS)
    values = values.clone().requires_grad_()
    loss = value_clipping.clipped_value_loss(values, old_values, returns, clip=0.5)
    (got,) = gradients(loss, [values])
    plain = values.detach() - returns
    held = torch.where((values - old_values).abs() > 0.5, 0.0, plain).detach()
    mistakes = {
        "the gradient is that of the error without clipping": plain / 4,
        "the gradient is that of the clipped error alone": held / 4,
    }
    mistakes = {name: value for name, value in mistakes.items() if not torch.equal(value, expected / 4)}
    reason = "the same sample four times, so that the mean divides by 4"
    what = f"gradient where {case}"
    assert_close(got, expected / 4, atol=1e-12, what=what, mistakes=mistakes, vacuous_ok=reason)


@pytest.mark.grades("clipped_value_loss")
@pytest.mark.parametrize("clip", [0.05, 0.2, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_against_single_samples(clip, dtype):
    """Random values of which some move within ε and some past it; the dtype comes back."""
    generator = seeded(int(100 * clip))
    old_values = 3 * normal(400, generator=generator).to(dtype)
    values = old_values + 2 * clip * normal(400, generator=generator).to(dtype)
    returns = old_values + 3 * clip * normal(400, generator=generator).to(dtype)
    got = value_clipping.clipped_value_loss(values, old_values, returns, clip=clip)
    expected = by_samples(values, old_values, returns, clip).mean()
    mistakes = mistakes_of(values.double(), old_values.double(), returns.double(), clip)
    mistakes = {name: m for name, m in mistakes.items() if abs(float(m / expected) - 1) > 1e-4}
    assert_close(got, expected, dtype=dtype, n=400, what=f"loss with clip={clip}", mistakes=mistakes)


@pytest.mark.grades("clipped_value_loss")
def test_clip_is_0_2_by_default():
    """V at 1, V_old at 0, R at 0.9: the clipped error 0.7 is the larger one. A second sample moves by 0.1 only."""
    values, old_values = torch.tensor([1.0, 2.1]), torch.tensor([0.0, 2.0])
    loss = value_clipping.clipped_value_loss(values, old_values, torch.tensor([0.9, 3.1]))
    hint = "the default of clip is 0.2"
    assert_close(loss, torch.tensor((0.7**2 + 1.0**2) / 4), rtol=1e-6, what="clipped value loss", hint=hint)


@pytest.mark.grades("clipped_value_loss")
def test_gradient_by_central_differences():
    """The gradient goes to `values` alone, and is the slope of the loss."""
    generator = seeded(5)
    old_values, moved, returns = (normal(30, generator=generator).double() for _ in range(3))
    columns = [x.requires_grad_() for x in (old_values + moved.detach(), old_values, returns)]
    values = columns[0] = columns[0].detach().requires_grad_()
    loss = value_clipping.clipped_value_loss(*columns, clip=0.6)
    got, *others = gradients(loss, columns)
    for name, gradient in zip(("old_values", "returns"), others, strict=True):
        assert not gradient.any(), f"a gradient goes to {name}: they are data, detach them"
    slopes, h = [], 1e-6
    for i in range(30):
        up, down = values.detach().clone(), values.detach().clone()
        up[i] += h
        down[i] -= h
        difference = [by_samples(v, old_values, returns, 0.6).mean() for v in (up, down)]
        slopes.append((difference[0] - difference[1]) / (2 * h))
    hint = "something between `values` and the loss is detached, or the wrong error is chosen"
    assert_close(got, torch.stack(slopes), rtol=1e-7, atol=1e-8, what="gradient of the loss", hint=hint)


@pytest.mark.grades("clipped_value_loss")
@pytest.mark.parametrize("which", range(3), ids=["values", "old_values", "returns"])
@pytest.mark.parametrize("shape", [(4, 1), (1,), (3,), ()], ids=str)
def test_shapes_must_be_equal(which, shape):
    """(4, 1) beside (4,) would be broadcast to a square."""
    columns = [torch.arange(4.0) + i for i in range(3)]
    columns[which] = torch.ones(shape)
    with expect_error(ValueError, otherwise=f"argument {which} of shape {shape} beside (4,) is accepted"):
        value_clipping.clipped_value_loss(*columns)
