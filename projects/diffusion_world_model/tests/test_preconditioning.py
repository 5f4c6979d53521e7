"""The scales of the network, bytes, and D. Oracles: pinned values, float64, laws, a network that remembers."""

import math

import pytest
import torch
from oracles import bytes_of, lend, level, normal
from oracles import preconditioning as scales
from toys import Exact

import diffusion_world_model
from shared.testing.checks import assert_close, assert_imports_only, lazily, unchanged

NAMES = ("c_in", "c_skip", "c_out", "c_noise")


@pytest.mark.grades
def test_imports():
    """torch, the standard library and the given dream.py."""
    assert_imports_only(diffusion_world_model, {"torch", "dream"})


# --- preconditioning --------------------------------------------------------------------------------------------------


def wrong_scales(effective, data=0.25):
    """The four scales by the formulas, from σ_e² (float64) and σ_d²."""
    total = effective + data
    return 1 / total.sqrt(), data / total, (effective * data / total).sqrt(), effective.log() / 8


def scale_mistakes(sigma, which):
    """assert_close's `mistakes` for one of the four."""
    wide = sigma.double()
    effective = wide**2 + 0.09
    right = wrong_scales(effective)
    mistakes = {
        "the offset is missing: σ_e² = σ² + 0.3², the offset is noise as well": wrong_scales(wide**2)[which],
        "the offset is added to σ, not its square to σ²": wrong_scales((wide + 0.3) ** 2)[which],
        "0.3 is added to σ² without being squared": wrong_scales(wide**2 + 0.3)[which],
        "σ_d is not squared": wrong_scales(effective, 0.5)[which],
        "σ_d is taken to be 1, it is 0.5": wrong_scales(effective, 1.0)[which],
    }
    of_its_own = (
        {
            "c_in is not a root: 1/sqrt(σ_e² + σ_d²)": right[0] ** 2,
            "c_in is turned upside down: 1/sqrt(σ_e² + σ_d²)": 1 / right[0],
        },
        {
            "c_skip is the share of the noise: σ_d² belongs on top": 1 - right[1],
            "c_skip is a root too many": right[1].sqrt(),
        },
        {
            "c_out lacks the root of c_skip": effective.sqrt() * right[1],
            "c_out lacks σ_e": right[1].sqrt(),
            "c_out is σ·sqrt(c_skip): σ_e belongs there": wide * right[1].sqrt(),
            "c_out has σ_e² where σ_e belongs": effective * right[1].sqrt(),
            "c_out is σ_e alone: sqrt(c_skip) is missing": effective.sqrt(),
        },
        {
            "c_noise is that of σ: it is ln(σ_e)/4, with the offset": wide.log() / 4,
            "c_noise is not divided by 4": effective.log() / 2,
            "c_noise is ln(σ_e²)/4: the root is missing": effective.log() / 4,
            "c_noise is not a logarithm": effective.sqrt() / 4,
            "c_noise has a logarithm of base 10": effective.log10() / 8,
        },
    )
    return of_its_own[which] | mistakes


@pytest.mark.grades("preconditioning")
@pytest.mark.parametrize("shape", [(5,), (2, 1, 1), ()], ids=str)
def test_shapes(shape):
    """Four tensors in the shape and dtype of sigma, which stays as it is."""
    sigma = torch.full(shape, 0.7)
    with unchanged(sigma):
        got = diffusion_world_model.preconditioning(sigma)
    assert len(got) == 4, "four scales are returned: c_in, c_skip, c_out, c_noise"
    for name, scale in zip(NAMES, got, strict=True):
        assert scale.shape == shape, f"{name} has shape {tuple(scale.shape)}, sigma has {shape}"
        assert scale.dtype == torch.float32, f"{name} is {scale.dtype}, sigma is float32"


@pytest.mark.grades("preconditioning")
def test_scales_by_hand():
    """At σ = 0.002 and 1, to four digits."""
    sigma = torch.tensor([0.002, 1.0])
    expected = ((1.7150, 0.8639), (0.7353, 0.1866), (0.2573, 0.4510), (-0.3010, 0.0108))
    got = diffusion_world_model.preconditioning(sigma)
    for i, (name, values) in enumerate(zip(NAMES, expected, strict=True)):
        how = {"rtol": 0, "atol": 6e-5, "mistakes": scale_mistakes(sigma, i)}
        for j, other in enumerate(NAMES):
            if j != i:
                how["mistakes"][f"{other} stands where {name} belongs"] = torch.tensor(expected[j])
        assert_close(got[i], torch.tensor(values), what=f"{name} at σ = 0.002 and 1", **how)


@pytest.mark.grades("preconditioning")
def test_scales_at_many_levels():
    """σ from 0.002 to 20, in the form (B, 1, 1), against complex absolute values in float64."""
    sigma = torch.logspace(math.log10(0.002), math.log10(20), 23).reshape(-1, 1, 1)
    expected = scales(sigma.double())
    for i, (name, scale) in enumerate(zip(NAMES, diffusion_world_model.preconditioning(sigma), strict=True)):
        how = {"dtype": torch.float32, "rtol": 2e-6, "what": name, "mistakes": scale_mistakes(sigma, i)}
        assert_close(scale, expected[i], **how)


@pytest.mark.grades("preconditioning")
def test_variances_are_one():
    """The law behind the scales: input and target have variance 1 at each level, and the target is not in the input."""
    sigma = torch.tensor([0.002, 0.1, 0.5, 2.0, 20.0])
    c_in, c_skip, c_out, _ = (scale.double() for scale in diffusion_world_model.preconditioning(sigma))
    data, noise = 0.25, sigma.double() ** 2 + 0.09
    one = torch.ones(5, dtype=torch.float64)
    how = {"rtol": 1e-5, "vacuous_ok": "it is one at each level: that is the law"}
    assert_close(c_in**2 * (data + noise), one, what="variance of c_in·x", **how)
    target = ((1 - c_skip) ** 2 * data + c_skip**2 * noise) / c_out**2
    assert_close(target, one, what="variance of (x0 - c_skip·x)/c_out", **how)
    assert_close((1 - c_skip) * data, c_skip * noise, rtol=1e-5, what="covariance of target and x")


# --- to_bytes ---------------------------------------------------------------------------------------------------------


def quantised(step, levels=127.5, low=-1.0):
    """assert_close's mistake: `step` in the place of round."""
    return lambda x: step((x.double().clamp(low, 1) + 1) * levels) / levels - 1


BYTES_MISTAKES = {
    "a floor, where rounding to the nearest belongs: bytes lose a level": quantised(torch.floor),
    "a ceiling, where rounding to the nearest belongs": quantised(torch.ceil),
    "frames are not rounded": lambda x: x.double().clamp(-1, 1),
    "frames are not cut to [-1, 1]": lambda x: ((x.double() + 1) * 127.5).round() / 127.5 - 1,
    "there are 256 levels, from 0 to 255: 127.5, not 128": quantised(torch.round, 128.0),
    "there are 256 levels, from 0 to 255: 127.5, not 127": quantised(torch.round, 127.0),
    "frames are cut to [0, 1], not to [-1, 1]": quantised(torch.round, low=0.0),
    "the levels are 0 to 255: bring them back to [-1, 1]": lambda x: (
        (x.double().clamp(-1, 1) + 1) * 127.5
    ).round(),
    "the frames are in [0, 1]: bring them back to [-1, 1]": lambda x: (
        ((x.double().clamp(-1, 1) + 1) * 127.5).round() / 255
    ),
}


def bytes_mistakes(x):
    return {name: lazily(wrong, x) for name, wrong in BYTES_MISTAKES.items()}


@pytest.mark.grades("to_bytes")
def test_levels_stay():
    """Each of the 256 levels is where it was: a frame of bytes does not change."""
    frames = (torch.arange(256.0) / 127.5 - 1).reshape(4, 8, 8)
    with unchanged(frames):
        got = diffusion_world_model.to_bytes(frames)
    expected = torch.arange(256, dtype=torch.float64).reshape(4, 8, 8) / 127.5 - 1
    how = {"dtype": torch.float32, "rtol": 0, "atol": 1e-6, "mistakes": bytes_mistakes(frames)}
    assert_close(got, expected, what="the 256 levels", **how)


@pytest.mark.grades("to_bytes")
def test_nearest_level():
    """Up to 0.48 of a level off, above and below, and far outside."""
    k = torch.arange(0, 256, 5)
    off = torch.linspace(-0.48, 0.48, len(k), dtype=torch.float64).roll(7)
    frames = (
        torch.cat([(k + off) / 127.5 - 1, torch.tensor([-1.7, 1.9, -40.0, 1.002])]).float().reshape(2, 4, 7)
    )
    expected = level(torch.cat([k, torch.tensor([0, 255, 0, 255])]).double()).reshape(2, 4, 7)
    how = {"dtype": torch.float32, "rtol": 0, "atol": 1e-6, "mistakes": bytes_mistakes(frames)}
    with unchanged(frames):
        got = diffusion_world_model.to_bytes(frames)
    assert_close(got, expected, what="nearest levels", **how)


# --- denoise ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(generator, monkeypatch):
    """A question with three games, whose frames are three wide: a scale of shape (3,) would fit the wrong axis."""
    lend(monkeypatch, "preconditioning", "to_bytes")
    noisy, history = normal(3, 2, 3, generator=generator), normal(3, 4, 2, 3, generator=generator, scale=0.5)
    actions = torch.randint(0, 3, (3, 4), generator=generator)
    return noisy, torch.tensor([0.05, 0.7, 4.0]), history, actions


def mixed(output, noisy, sigma, weights=lambda c_skip, c_out: (c_skip, c_out)):
    """Skip and output together, not rounded, float64."""
    _, c_skip, c_out, _ = (c.reshape(-1, 1, 1) for c in scales(sigma.double()))
    of_noisy, of_output = weights(c_skip, c_out)
    return of_noisy * noisy.double() + of_output * output.double()


class Plain:
    """F = 0.3·tanh of its input plus something of c_noise and the newest frame; counts its calls."""

    def __init__(self):
        self.asked = []

    def __call__(self, scaled, c_noise, history, actions):
        self.asked.append((scaled, c_noise, history, actions))
        return 0.3 * scaled.tanh() + 0.2 * history[:, -1]


@pytest.mark.grades("denoise")
@pytest.mark.parametrize("single", [False, True], ids=["sigma (B,)", "sigma ()"])
def test_what_the_network_is_asked(asked, single):
    """Once: c_in·x, c_noise of shape (B,), history and actions as they are."""
    noisy, sigma, history, actions = asked
    sigma = sigma[1] if single else sigma
    network = Plain()
    with unchanged(noisy, sigma, history, actions):
        diffusion_world_model.denoise(network, noisy, sigma, history, actions)
    assert len(network.asked) == 1, f"the network is asked {len(network.asked)} times, not once"
    scaled, c_noise, seen, done = network.asked[0]
    each = sigma.expand(3)
    c_in, c_skip, _, noise = scales(each.double())
    how = {"dtype": torch.float32, "rtol": 1e-5}
    assert c_noise.shape == (3,), f"c_noise has shape {tuple(c_noise.shape)}, expected (3,): one per frame"
    mistakes = {
        "the network gets σ itself, not c_noise": each,
        "c_noise is that of σ: it is ln(σ_e)/4, with the offset": each.log() / 4,
    }
    vacuous = "one level for all frames" if single else None
    assert_close(c_noise, noise, what="c_noise", mistakes=mistakes, vacuous_ok=vacuous, **how)
    mistakes = {
        "the network gets x itself: c_in·x has variance 1": noisy,
        "the scales lie along the frames' last axis, not along the batch": c_in * noisy.double(),
        "x is divided by c_in, not multiplied": noisy.double() / c_in.reshape(-1, 1, 1),
        "x is scaled by c_skip, not by c_in": noisy.double() * c_skip.reshape(-1, 1, 1),
    }
    assert_close(scaled, c_in.reshape(-1, 1, 1) * noisy.double(), what="input of F", mistakes=mistakes, **how)
    kept = torch.equal(seen, history)
    assert kept, "the network gets another history than denoise: oldest first, as it is"
    kept = torch.equal(done, actions)
    assert kept, "the network gets other actions than denoise: oldest first, as they are"


@pytest.mark.grades("denoise")
@pytest.mark.parametrize("single", [False, True], ids=["sigma (B,)", "sigma ()"])
def test_skip_and_output(asked, single):
    """c_skip·x + c_out·F, as bytes, each frame with the scales of its own σ."""
    noisy, sigma, history, actions = asked
    sigma = sigma[1] if single else sigma
    network = Plain()
    got = diffusion_world_model.denoise(network, noisy, sigma, history, actions)
    assert isinstance(got, torch.Tensor), f"a {type(got).__name__} is returned, expected a tensor"
    c_in, _, _, c_noise = scales(sigma.expand(3))
    output = Plain()(c_in.reshape(-1, 1, 1) * noisy, c_noise, history, actions)
    wide = mixed(output, noisy, sigma)
    expected = level(bytes_of(wide.clamp(-1, 1)).double())
    skewed = scales(sigma.double().expand(3))
    mistakes = {
        "D is not rounded to bytes": wide.clamp(-1, 1),
        "D is neither cut nor rounded: it is a frame of bytes": wide,
        "F's output is returned: D = c_skip·x + c_out·F": level(bytes_of(output.clamp(-1, 1)).double()),
        "c_out·F alone, c_skip·x is missing": level(
            bytes_of((wide - mixed(0 * output, noisy, sigma)).clamp(-1, 1)).double()
        ),
        "c_skip and c_out are exchanged": level(
            bytes_of(mixed(output, noisy, sigma, lambda skip, out: (out, skip)).clamp(-1, 1)).double()
        ),
        "the skip takes c_in·x: it is x that is skipped": level(
            bytes_of(mixed(output, skewed[0].reshape(-1, 1, 1) * noisy.double(), sigma).clamp(-1, 1)).double()
        ),
        "c_skip·x - c_out·F: a sum belongs there": level(
            bytes_of(mixed(-output, noisy, sigma).clamp(-1, 1)).double()
        ),
        "c_out is missing: D = c_skip·x + c_out·F": level(
            bytes_of(mixed(output, noisy, sigma, lambda skip, out: (skip, 1)).clamp(-1, 1)).double()
        ),
        "c_skip is missing: D = c_skip·x + c_out·F": level(
            bytes_of(mixed(output, noisy, sigma, lambda skip, out: (1, out)).clamp(-1, 1)).double()
        ),
        "the scales lie along the frames' last axis, not along the batch": level(
            bytes_of((skewed[1] * noisy.double() + skewed[2] * output.double()).clamp(-1, 1)).double()
        ),
    }
    how = {"dtype": torch.float32, "rtol": 0, "atol": 1e-5}
    assert_close(got, expected, what="D", mistakes=mistakes, **how)


@pytest.mark.grades("denoise")
@pytest.mark.parametrize("n", [1, 5])
def test_a_known_denoiser(n, monkeypatch, generator):
    """A network whose F is right for every x: D is the frame that it has in mind, whatever σ is and how many games."""
    lend(monkeypatch, "preconditioning", "to_bytes")
    mind = level(torch.randint(0, 256, (n, 4, 2), generator=generator).double())
    network = Exact(lambda x, sigma, history, actions: mind)
    noisy, history = normal(n, 4, 2, generator=generator), normal(n, 1, 4, 2, generator=generator)
    sigma = torch.tensor([0.01, 0.3, 1.0, 3.0, 20.0])[:n]
    got = diffusion_world_model.denoise(network, noisy, sigma, history, torch.zeros(n, 1, dtype=torch.int64))
    hint = "D is not what the network has in mind: do both scales belong to one σ, and is it c_skip·x + c_out·F, then bytes?"
    assert_close(got, mind, dtype=torch.float32, rtol=0, atol=1e-5, what="D of a known denoiser", hint=hint)
