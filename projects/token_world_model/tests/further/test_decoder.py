"""The judge of the diffusion decoder. Oracles: decoders that know the frame, laws of the noise, a path by hand."""

import math
from itertools import pairwise

import pytest
import torch
from episodes import seeded, wake
from torch import nn

import decoder as module
from shared.testing.checks import assert_close, unchanged
from shared.testing.no_compiler import without_compiler

DOUBLE = torch.float64


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


class Knowing(nn.Module):
    """A decoder that knows the frame: its v is exact. It remembers what it is asked."""

    def __init__(self, frames=None):
        super().__init__()
        self.frames, self.asked = frames, []

    def forward(self, noisy, phi, means):
        assert phi.shape == (len(noisy),), f"phi has shape {tuple(phi.shape)}, expected one number per frame"
        self.asked.append((noisy.clone(), phi.clone(), means.clone()))
        frames = means if self.frames is None else self.frames
        cos, sin = phi.cos()[:, None, None], phi.sin()[:, None, None]
        return (cos * noisy - frames) / sin


def some(n, seed=0, dtype=torch.float32):
    return 2 * torch.rand(n, 12, 12, generator=seeded(seed), dtype=dtype) - 1


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.grades("Decoder")
def test_what_v_depends_on():
    """(B, 12, 12); each row on its own noisy frame, its φ and its mean, on nothing of another row."""
    decoder = wake(module.Decoder(width=5))
    inputs = (some(4, 1), torch.tensor([0.1, 0.6, 1.1, 1.5]), some(4, 2))
    with torch.no_grad(), unchanged(*inputs):
        v = decoder(*inputs)
        assert v.shape == (4, 12, 12), f"v is {tuple(v.shape)}, expected (4, 12, 12)"
        for i, name in enumerate(("noisy frame", "φ", "mean")):
            changed = [x.clone() for x in inputs]
            changed[i][1:3] = inputs[i][1:3].flip(0) * 0.5
            off = (decoder(*changed) - v).flatten(1).abs().amax(1)
            assert off[1:3].min() > 1e-4, f"v does not depend on the {name}"
            assert off[[0, 3]].max() < 1e-5, f"v depends on the {name} of another row"
    decoder(*inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters()), (
        "a parameter is without gradient"
    )


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("decoder_loss")
def test_noise_and_angles():
    """One φ per frame, uniform in [0, π/2]; normal noise of its own in each pixel, by the generator alone."""
    frames, means, decoder, state = (
        some(600, 1, DOUBLE),
        some(600, 2, DOUBLE),
        Knowing(),
        torch.get_rng_state(),
    )
    with unchanged(frames, means):
        module.decoder_loss(decoder, frames, means, generator=seeded(1))
        module.decoder_loss(decoder, frames, means, generator=seeded(1))
        module.decoder_loss(decoder, frames, means, generator=seeded(2))
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
    (noisy, phi, seen), again, other = decoder.asked
    assert torch.equal(noisy, again[0]), "the same generator draws other noise"
    assert not torch.equal(phi, other[1]), "the generator is ignored"
    assert torch.equal(seen, means), "the decoder does not see the decoded frames"
    assert len(phi.unique()) > 500, "there is one φ for the batch, expected one per frame"
    assert phi.min() >= 0, f"φ goes down to {phi.min():.3g}"
    assert phi.max() <= math.pi / 2 + 1e-6, f"φ goes up to {phi.max():.3g}, expected at most π/2"
    counts = torch.histc(phi, 4, min=0, max=math.pi / 2)
    assert (counts - 150).abs().max() < 55, (
        f"φ is not uniform in [0, π/2]: {counts.tolist()} in four equal parts"
    )
    late = phi > 0.3
    noise = ((noisy - phi.cos()[:, None, None] * frames) / phi.sin()[:, None, None])[late]
    centred = noise - noise.mean()
    assert (centred[1:] * centred[:-1]).mean().abs() < 0.25, "frames share their noise"
    assert (centred[:, 0, 0] * centred[:, 5, 5]).mean().abs() < 0.25, "pixels share their noise"
    assert abs(noise.mean()) < 0.03, (
        f"the noise has mean {noise.mean():.3f}: is it x_φ = cos φ·x_0 + sin φ·noise?"
    )
    assert abs(noise.std() - 1) < 0.02, (
        f"the noise has deviation {noise.std():.3f}: is it x_φ = cos φ·x_0 + sin φ·noise?"
    )


@pytest.mark.grades("decoder_loss")
def test_the_loss_is_that_of_v():
    """A decoder that knows the frame has no loss; one that says the opposite, or nothing, has the mean of squares by hand."""
    frames, means = some(50, 1, DOUBLE), some(50, 2, DOUBLE)

    def loss(scale):
        decoder = Knowing(frames)
        decoder.register_forward_hook(lambda m, i, v: scale * v)
        value = module.decoder_loss(decoder, frames, means, generator=seeded(3))
        noisy, phi, _ = decoder.asked[0]
        cos, sin = phi.cos()[:, None, None], phi.sin()[:, None, None]
        noise = (noisy - cos * frames) / sin
        return (
            value,
            (cos * noise - sin * frames).square().mean(),
            noise.square().mean(),
            frames.square().mean(),
        )

    nothing, v, noise, frame = loss(0.0)
    assert_close(
        nothing, v, rtol=1e-6, what="the loss of a decoder that says 0",
        mistakes={"the noise is the target, not v": noise, "the frame is the target, not v": frame, "a sum instead of a mean": v * frames.numel()},
    )  # fmt: skip
    exact, _, _, _ = loss(1.0)
    opposite, _, _, _ = loss(-1.0)
    assert not opposite < 1e-9, "v has the wrong sign"
    assert exact < 1e-9, f"a decoder whose v is exact has the loss {exact:.3g}, expected 0"


# --- painting ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("paint")
@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 25])
def test_a_frame_that_is_known_is_painted(n_steps):
    """Exactly, in any number of equal steps of φ from π/2 to 0; the noise on the way is that of the beginning."""
    frames, means = some(4, 1), some(4, 2)
    decoder = Knowing(frames)
    with unchanged(means):
        painted = module.paint(decoder, means, n_steps=n_steps, generator=seeded(1))
    phis = torch.tensor([phi[0].item() for _, phi, _ in decoder.asked])
    wanted = torch.tensor([math.pi / 2 * (1 - i / n_steps) for i in range(n_steps)])
    assert len(phis) == n_steps, f"the decoder is asked {len(phis)} times in {n_steps} steps"
    assert phis[0] > 1.5, "φ starts at the frame, not at the noise: it goes from π/2 to 0"
    assert_close(phis, wanted, rtol=1e-5, what=f"φ in {n_steps} steps", vacuous_ok="one step has one φ")
    assert all((phi == phi[0]).all() for _, phi, _ in decoder.asked), "φ is not the same for all frames"
    assert all(torch.equal(seen, means) for _, _, seen in decoder.asked), (
        "the decoder does not see the decoded frames"
    )
    first = decoder.asked[0][0]
    for noisy, phi, _ in decoder.asked:
        noise = (noisy - phi[0].cos() * frames) / phi[0].sin()
        assert (noise - first).abs().max() < 1e-3, (
            "the noise changes on the way: DDIM draws none anew, and keeps what v says of it, sin φ·x + cos φ·v"
        )
    assert_close(painted, frames, rtol=1e-5, what=f"the frame that is painted in {n_steps} steps", hint="a known frame is not painted")  # fmt: skip


@pytest.mark.grades("paint")
def test_frames_are_cut_on_the_way():
    """A decoder that knows frames beyond [-1, 1] paints them cut; the noise of the next step is v's own."""
    frames = 3 * some(5, 1, DOUBLE)
    decoder = Knowing(frames)
    painted = module.paint(decoder, some(5, 2, DOUBLE), n_steps=4, generator=seeded(1))
    x, phis = decoder.asked[0][0], [math.pi / 2 * (1 - i / 4) for i in range(5)]
    path, uncut = [], []
    for now, following in pairwise(phis):
        path.append(x)
        noise = (x - math.cos(now) * frames) / math.sin(now)
        x = math.cos(following) * frames.clamp(-1, 1) + math.sin(following) * noise
        uncut.append(math.cos(following) * frames + math.sin(following) * noise)
    assert painted.abs().max() <= 1 + 1e-9, (
        f"a painted frame holds {painted.abs().max():.3g}: frames are cut to [-1, 1]"
    )
    for i, (noisy, _, _) in enumerate(decoder.asked[1:], start=1):
        assert_close(noisy, path[i], rtol=1e-5, what=f"x before step {i}", mistakes={"frames are cut at the end alone": uncut[i - 1]})  # fmt: skip
    assert_close(painted, x, rtol=1e-5, what="the painted frames")


@pytest.mark.grades("paint")
def test_paint_draws_from_the_generator_alone():
    """Normal noise at first, one picture from another seed, no gradients."""
    decoder, means, state = wake(module.Decoder(width=4), scale=0.1), some(40, 2), torch.get_rng_state()
    a, b, c = (module.paint(decoder, means, n_steps=2, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b), "the same generator paints another frame"
    assert not torch.equal(a, c), "the generator is ignored"
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
    assert not a.requires_grad, "gradients are kept"
    known = Knowing(means)
    module.paint(known, means, n_steps=1, generator=seeded(3))
    first = known.asked[0][0]
    assert abs(first.mean()) < 0.06, f"the first x has mean {first.mean():.3f}, expected noise"
    assert abs(first.std() - 1) < 0.05, f"the first x has deviation {first.std():.3f}, expected 1"


# --- training ---------------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """A decoder whose v is one number, and which remembers what it sees."""

    def __init__(self):
        super().__init__()
        self.place, self.places, self.asked = nn.Parameter(torch.zeros(())), [], []

    def forward(self, noisy, phi, means):
        self.places.append(self.place.item())
        self.asked.append((noisy.clone(), phi.clone(), means.clone()))
        return self.place * torch.ones_like(noisy)


@pytest.mark.grades("train_decoder")
def test_train_decoder(monkeypatch):
    """Random rows, frames beside their own means; a rate that falls from the one given to 0."""
    frames = torch.arange(30.0)[:, None, None].expand(30, 12, 12).clone()
    means, seen, g = frames + 0.5, [], seeded(1)

    def loss(decoder, frames, means, *, generator=None):
        assert generator is g, "the generator is not handed on to the loss"
        seen.append((frames.clone(), means.clone()))
        decoder(frames, frames[:, 0, 0], means)
        return decoder.place * 1.0

    monkeypatch.setattr(module, "decoder_loss", loss)
    decoder, state = Watched(), torch.get_rng_state()
    module.train_decoder(decoder, frames, means, 80, batch_size=12, learning_rate=0.03, generator=g)
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
    assert len(seen) == 80, f"{len(seen)} updates, expected 80"
    assert {len(f) for f, _ in seen} == {12}, "batches of another size"
    assert all(torch.equal(f + 0.5, m) for f, m in seen), "frames are not beside their own means"
    counts = torch.cat([f for f, _ in seen])[:, 0, 0].long().bincount(minlength=30)
    assert counts.min() > 10, f"frames are not used alike: {counts.tolist()}"
    grad = decoder.place.grad
    assert grad is None or grad.abs() <= 1, (
        f"after 80 updates the gradient is {grad}, expected 1: old ones add up"
    )
    rates = [a - b for a, b in pairwise([*decoder.places, decoder.place.item()])]
    assert max(rates) == pytest.approx(0.03, rel=0.02), (
        f"the greatest rate is {max(rates):.3g}, expected 0.03"
    )
    assert 0 < rates[-1] < 0.05 * max(rates), f"the rate does not fall to 0: the last one is {rates[-1]:.3g}"
    assert all(a >= b - 1e-5 for a, b in pairwise(rates)), "the rate rises again"
