"""The judge of preconditioning.py. Oracles: values worked by hand, laws."""

import math

import pytest
import torch
from oracles import DOUBLE

import preconditioning
from shared.testing.checks import assert_close, expect_error

# x0 = 2, ε = 5, σ = 0.75 (ᾱ = 0.64): x = 5.75, v = 0.8·5 - 0.6·2 = 2.8, score = -5/0.75
PREDICTIONS = {"x0": 2.0, "epsilon": 5.0, "v": 2.8, "score": -5 / 0.75}


@pytest.mark.grades("from_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_from_x0_by_hand(kind):
    """x0 = 2 and x = 2 + 0.75·5 imply all four predictions."""
    flip = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)
    got = preconditioning.from_x0(2 * flip, 5.75 * flip, 0.75, kind=kind)
    assert_close(got, PREDICTIONS[kind] * flip, what=kind)


@pytest.mark.grades("from_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_per_sample(kind, generator):
    """With one σ per sample each is as if it were alone; the square data would also take σ along the last axis."""
    x0, x = (torch.randn(3, 3, 3, dtype=DOUBLE, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.1, 2.0, 30.0], dtype=DOUBLE)
    alone = [
        preconditioning.from_x0(x0[i : i + 1], x[i : i + 1], float(sigma[i]), kind=kind) for i in range(3)
    ]
    for level in (sigma, sigma.reshape(3, 1, 1)):
        got = preconditioning.from_x0(x0, x, level, kind=kind)
        assert_close(got, torch.cat(alone), rtol=1e-12, what=f"{kind} with one σ per sample")
    got = preconditioning.from_x0(x0.float(), x.float(), sigma, kind=kind)
    assert got.dtype == torch.float32, f"a float64 level turned float32 data into {got.dtype}"


@pytest.mark.grades("from_x0")
def test_unknown_prediction():
    """Another kind is refused."""
    with expect_error(ValueError, otherwise='kind="eps" is accepted'):
        preconditioning.from_x0(torch.ones(2, 1), torch.ones(2, 1), 1.0, kind="eps")


@pytest.mark.grades("edm_preconditioning")
def test_preconditioning_by_hand():
    """σ = 4, σ_data = 3: σ² + σ_data² = 25, so c_skip = 9/25, c_out = 12/5, c_in = 1/5, c_noise = ln(4)/4."""
    got = preconditioning.edm_preconditioning(torch.tensor([[4.0], [3.0]], dtype=DOUBLE), sigma_data=3.0)
    assert_close(
        got.c_skip,
        torch.tensor([[0.36], [0.5]], dtype=DOUBLE),
        what="c_skip",
        mistakes={
            "c_skip and c_out swapped": torch.tensor([[2.4], [9 / 18**0.5]]),
            "c_skip keeps the noise: it is σ_data²/(σ² + σ_data²)": torch.tensor([[0.64], [0.5]]),
        },
    )
    assert_close(got.c_out, torch.tensor([[2.4], [9 / 18**0.5]], dtype=DOUBLE), what="c_out")
    assert_close(got.c_in, torch.tensor([[0.2], [18**-0.5]], dtype=DOUBLE), what="c_in")
    mistakes = {"the logarithm is not divided by 4": torch.tensor([[4.0], [3.0]]).log()}
    expected = torch.tensor([[math.log(4) / 4], [math.log(3) / 4]], dtype=DOUBLE)
    assert_close(got.c_noise, expected, what="c_noise", mistakes=mistakes)


@pytest.mark.grades("edm_preconditioning")
def test_preconditioning_keeps_variance_one(generator):
    """What EDM's factors are for: input and target of the network have variance one at every σ (400 000 draws)."""
    x0, noise = (torch.randn(400_000, dtype=DOUBLE, generator=generator) for _ in range(2))
    x0 = 0.3 * x0
    for sigma in (0.01, 0.3, 20.0):
        x = x0 + sigma * noise
        c = preconditioning.edm_preconditioning(torch.tensor(sigma, dtype=DOUBLE), sigma_data=0.3)
        for name, value in (
            ("input c_in·x", c.c_in * x),
            ("target (x0 - c_skip·x)/c_out", (x0 - c.c_skip * x) / c.c_out),
        ):
            assert abs(float(value.var()) - 1) < 0.02, (
                f"the {name} has variance {float(value.var()):.3f} at σ = {sigma}"
            )


@pytest.mark.grades("precondition")
def test_precondition(generator):
    """D(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise): F sees one c_noise per sample, and the condition as it came."""
    x, seen = torch.randn(2, 3, 2, dtype=DOUBLE, generator=generator), []

    def network(scaled, c_noise, *condition):
        seen.append((scaled, c_noise, condition))
        return torch.full_like(scaled, 10.0)

    denoiser = preconditioning.precondition(network, sigma_data=3.0)
    mistakes = {
        "c_skip and c_out swapped": 2.4 * x + 0.36 * 10,
        "the skip is missing": torch.full_like(x, 24.0),
        "c_out is missing": 0.36 * x + 10,
        "sigma_data is ignored": 0.25 / 16.25 * x + 10 * 2 / 16.25**0.5,
    }
    assert_close(denoiser(x, 4.0, "label"), 0.36 * x + 24.0, what="D(x, 4)", mistakes=mistakes)
    scaled, c_noise, condition = seen[-1]
    assert_close(scaled, 0.2 * x, what="input of the network", mistakes={"c_in is missing": x})
    assert c_noise.shape == (2,), f"c_noise must be (batch,), got {tuple(c_noise.shape)}"
    assert condition == ("label",), f"the condition was not handed on: {condition}"
    for sigma in (torch.tensor([4.0, 3.0]), torch.tensor([4.0, 3.0]).reshape(2, 1, 1)):
        got = denoiser(x, sigma)
        expected = torch.stack([0.36 * x[0] + 24, 0.5 * x[1] + 90 / 18**0.5])
        assert_close(got, expected, rtol=1e-6, what=f"D with sigma of shape {tuple(sigma.shape)}")
        expected = torch.tensor([math.log(4) / 4, math.log(3) / 4], dtype=DOUBLE)
        assert_close(seen[-1][1], expected, rtol=1e-6, what="c_noise")
    assert denoiser(x, torch.tensor(4.0)).dtype == DOUBLE, "a float32 sigma changed the dtype of x"


# --- half precision ---------------------------------------------------------------------------------------------------

HALF = torch.float16


@pytest.mark.grades("precondition")
def test_precondition_in_half_precision():
    """F = 1 at x = 300, σ = 300: 0.25/90000.25·300 + 300·0.5/300.0004 = 0.5008, though σ² is beyond float16."""
    seen = []

    def network(scaled, c_noise):
        seen.append((scaled, c_noise))
        return torch.ones_like(scaled)

    x = torch.tensor([[300.0], [-450.0]], dtype=HALF)
    total = 300.0**2 + 0.25
    expected = (0.25 / total * x.double() + 150 / math.sqrt(total)).to(HALF)
    for level in (300.0, torch.full((2,), 300.0, dtype=HALF), torch.full((2, 1), 300.0)):
        got = preconditioning.precondition(network)(x, level)
        hint = "σ² = 90 000 does not fit into float16, which ends at 65 504"
        assert_close(got, expected, rtol=1e-3, what="D(x, 300), float16", hint=hint)
        scaled, c_noise = seen[-1]
        assert_close(scaled, (x.double() / math.sqrt(total)).to(HALF), rtol=1e-3, what="input of the network")
        assert c_noise.dtype == HALF, f"c_noise is {c_noise.dtype}, x is float16"
        assert abs(float(c_noise[1]) - math.log(300) / 4) < 1e-3, f"c_noise is {c_noise.tolist()}"
    silent = preconditioning.precondition(lambda scaled, c_noise: torch.zeros_like(scaled))
    expected = (0.25 / total * x.double()).to(HALF)  # 8.3e-4: c_skip alone, 2.8e-6, has five bits in float16
    assert_close(silent(x, 300.0), expected, rtol=1e-3, atol=0.0, what="c_skip·x, float16")


@pytest.mark.grades("precondition")
def test_network_in_another_dtype():
    """A network in bfloat16, as under autocast, is rounded once, where it answers; D is float32 as x is."""
    x, answer = torch.tensor([[0.3], [-0.7]]), torch.tensor([[1 / 3], [-0.9]]).bfloat16()
    for level in (0.6, torch.tensor(0.6), torch.tensor([0.6, 0.6])):
        got = preconditioning.precondition(lambda x, c_noise: answer, sigma_data=0.7)(x, level)
        total = 0.36 + 0.49
        expected = 0.49 / total * x.double() + 0.42 / math.sqrt(total) * answer.double()
        assert_close(got, expected.float(), rtol=1e-6, what="D with a network in bfloat16")


@pytest.mark.grades("from_x0")
@pytest.mark.parametrize("kind", ["x0", "epsilon", "v", "score"])
def test_from_x0_in_half_precision(kind):
    """σ = 300: neither σ² nor σ·x0 may be in the way of a prediction that fits."""
    x0 = torch.tensor([[300.0], [-2.0]], dtype=HALF)
    x = torch.tensor([[500.0], [420.0]], dtype=HALF)
    difference = x.double() - x0.double()
    expected = {
        "x0": x0.double(),
        "epsilon": difference / 300,
        "v": (difference / 300 - 300 * x0.double()) / math.sqrt(90001),
        "score": -difference / 90000,
    }[kind]
    for level in (300.0, torch.full((2,), 300.0, dtype=HALF)):
        got = preconditioning.from_x0(x0, x, level, kind=kind)
        assert_close(
            got, expected.to(HALF), rtol=2e-3, atol=0.0, what=f"{kind}, float16", hint="σ² is beyond float16"
        )


@pytest.mark.grades("edm_preconditioning")
def test_factors_in_half_precision():
    """σ = 300 in float16: every factor fits, σ² does not."""
    got = preconditioning.edm_preconditioning(torch.tensor([300.0, 2.0], dtype=HALF))
    wide = torch.tensor([300.0, 2.0], dtype=DOUBLE)
    total = wide**2 + 0.25
    expected = (0.25 / total, 0.5 * wide / total.sqrt(), 1 / total.sqrt(), wide.log() / 4)
    for name, factor, value in zip(got._fields, got, expected, strict=True):
        assert_close(factor, value.to(HALF), rtol=1e-3, what=f"{name}, float16", hint="σ² is beyond float16")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.grades("edm_preconditioning")
def test_factors_of_a_float():
    """A level may be a float, as everywhere here: float64, all digits."""
    got = preconditioning.edm_preconditioning(0.3, sigma_data=0.4)
    expected = (0.64, 0.24, 2.0, math.log(0.3) / 4)
    for name, factor, value in zip(got._fields, got, expected, strict=True):
        assert_close(factor, torch.tensor(value, dtype=DOUBLE), rtol=1e-14, what=name)


@pytest.mark.grades("edm_preconditioning")
def test_factors_of_integers():
    """σ = 4, 3 as integers: the factors are no integers."""
    got = preconditioning.edm_preconditioning(torch.tensor([4, 3]), sigma_data=3.0)
    assert_close(got.c_skip, torch.tensor([0.36, 0.5]), what="c_skip of integers")
    assert_close(got.c_out, torch.tensor([2.4, 9 / 18**0.5]), what="c_out of integers")


@pytest.mark.grades("edm_preconditioning", "precondition")
@pytest.mark.parametrize("sigma_data", [0.0, -0.5, math.nan, math.inf], ids=str)
def test_bad_sigma_data(sigma_data):
    """σ_data = 0 would answer 0 to everything, a negative one turn the network's sign."""
    with expect_error(ValueError, str(sigma_data), otherwise=f"sigma_data = {sigma_data} is accepted"):
        preconditioning.edm_preconditioning(torch.tensor(1.0), sigma_data=sigma_data)
    with expect_error(ValueError, str(sigma_data), otherwise=f"sigma_data = {sigma_data} is accepted"):
        preconditioning.precondition(lambda x, c_noise: x, sigma_data=sigma_data)


@pytest.mark.grades("from_x0", "precondition")
@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (2,), (4,)], ids=str)
def test_level_of_another_shape(shape):
    """One level, or one per sample: others would run along another axis of square data without a word."""
    x = torch.ones(3, 3, 3)
    with expect_error(ValueError, otherwise=f"a level of shape {shape} is accepted for a batch of 3"):
        preconditioning.from_x0(x, x, torch.ones(shape), kind="epsilon")
    with expect_error(ValueError, otherwise=f"a level of shape {shape} is accepted for a batch of 3"):
        preconditioning.precondition(lambda x, c_noise: x)(x, torch.ones(shape))


@pytest.mark.grades("from_x0")
def test_shapes_and_integers():
    """x0 and x are of one shape; integers would round the level."""
    with expect_error(ValueError, "(1, 3)", otherwise="an x0 of another shape is broadcast"):
        preconditioning.from_x0(torch.ones(1, 3), torch.ones(2, 3), 1.0, kind="epsilon")
    pixels = torch.ones(2, 3, dtype=torch.long)
    with expect_error(ValueError, "int64", otherwise="integer data are accepted"):
        preconditioning.from_x0(pixels, pixels, 0.3, kind="epsilon")
