"""What the core's tests compare with: numbers that are known by construction, and the quality of a signal.

Floats are made from integers: x = scale·(k + u), |u| <= 0.4. So it is known what x rounds to, no value is near a tie, and
x / scale and x · (1/scale) are equally right.
"""

import math

import torch


def near(steps, scale, generator):
    """Return floats that round to `steps` at `scale`: every one off the step, but the least and the largest of each row."""
    offset = torch.rand(steps.shape, generator=generator, dtype=torch.float64) * 0.8 - 0.4
    last = steps.dim() - 1
    ends = (steps == steps.amin(last, keepdim=True)) | (steps == steps.amax(last, keepdim=True))
    return ((steps + offset * ~ends) * torch.as_tensor(scale, dtype=torch.float64)).float()


def integers(shape, low, high, generator):
    """Return random integers from low to high, both included, float64; the ends stand in every row of 2 and more."""
    steps = torch.randint(low, high + 1, shape, generator=generator).double()
    if shape[-1] > 1:
        steps[..., 0], steps[..., -1] = low, high
    return steps


def decibels(reference, actual):
    """Return 10·log10 of signal over noise."""
    reference, actual = reference.detach().double(), actual.detach().double()
    noise = (reference - actual).square().sum().item()
    return 10 * math.log10(reference.square().sum().item() / noise) if noise else math.inf
