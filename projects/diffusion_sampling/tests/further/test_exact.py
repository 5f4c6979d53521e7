"""The judge of the exact distributions. Oracles: torch.distributions, autograd (Tweedie), sums over a grid, hand values."""

import math

import pytest
import torch
from oracles import DOUBLE, gaussian_flow, mixture_denoiser, noisy_mixture

import exact
from shared.testing.checks import assert_close, expect_error

WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE)
MEANS = torch.tensor([[-2.0, 0.0], [1.0, 2.0], [2.5, -1.5]], dtype=DOUBLE)
COVARIANCES = torch.tensor(
    [[[0.5, 0.3], [0.3, 0.4]], [[0.2, 0.0], [0.0, 0.6]], [[1.0, -0.5], [-0.5, 0.7]]], dtype=DOUBLE
)


def mixture():
    return exact.GaussianMixture(WEIGHTS, MEANS, COVARIANCES)


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.grades("Gaussian", "GaussianMixture.denoise")
def test_gaussian_by_hand():
    """Variance 4, σ² = 1: four fifths of the way from the mean 10 to x = 15 is signal."""
    data = exact.Gaussian(torch.tensor([10.0], dtype=DOUBLE), torch.tensor([[4.0]], dtype=DOUBLE))
    got = data.denoise(torch.tensor([[15.0], [5.0]], dtype=DOUBLE), 1.0)
    mistakes = {
        "the share of the noise is kept, not that of the signal": torch.tensor([[11.0], [9.0]]),
        "the mean is not added back": torch.tensor([[4.0], [-4.0]]),
        "sigma is not squared, or the covariance is taken as a deviation": torch.tensor(
            [[10 + 5 * 16 / 17], [10 - 5 * 16 / 17]]
        ),
    }
    assert_close(got, torch.tensor([[14.0], [6.0]], dtype=DOUBLE), what="E[x0 | x]", mistakes=mistakes)


@pytest.mark.grades("GaussianMixture", "GaussianMixture.log_density")
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_log_density(sigma, generator):
    """The density of the noisy mixture, as torch.distributions computes it."""
    x = (1 + sigma) * torch.randn(7, 2, dtype=DOUBLE, generator=generator)
    expected = noisy_mixture(WEIGHTS, MEANS, COVARIANCES, sigma).log_prob(x)
    assert_close(mixture().log_density(x, sigma), expected, rtol=1e-9, what="log p(x; σ)")


@pytest.mark.grades("GaussianMixture.responsibilities")
def test_responsibilities(generator):
    """Bayes: each component's density times its weight, over the sum; far from all, still no NaN."""
    x, sigma = torch.randn(5, 2, dtype=DOUBLE, generator=generator), 0.8
    alone = torch.stack(
        [
            noisy_mixture(torch.ones(1), MEANS[k : k + 1], COVARIANCES[k : k + 1], sigma).log_prob(x)
            for k in range(3)
        ],
        1,
    )
    joint = WEIGHTS * alone.exp()
    mistakes = {"the weights of the components are ignored": alone.exp() / alone.exp().sum(1, keepdim=True)}
    got = mixture().responsibilities(x, sigma)
    assert_close(
        got, joint / joint.sum(1, keepdim=True), rtol=1e-9, what="P(component | x)", mistakes=mistakes
    )
    far = mixture().responsibilities(torch.tensor([[1e3, -1e3]], dtype=DOUBLE), 0.1)
    assert abs(float(far.sum()) - 1) < 1e-12, (
        f"far away exp underflows: normalise in logarithms, got {far.tolist()}"
    )


@pytest.mark.grades("GaussianMixture.denoise")
@pytest.mark.parametrize("sigma", [0.05, 0.7, 5.0, 80.0])
def test_denoise_is_tweedie(sigma, generator):
    """D = x + σ²·∇ log p, with the gradient by autograd from torch.distributions."""
    x = (1 + sigma) * torch.randn(6, 2, dtype=DOUBLE, generator=generator)
    expected = mixture_denoiser(WEIGHTS, MEANS, COVARIANCES)(x, sigma)
    assert_close(mixture().denoise(x, sigma), expected, rtol=1e-8, what="E[x0 | x]")


@pytest.mark.grades(
    "GaussianMixture.denoise", "GaussianMixture.log_density", "GaussianMixture.responsibilities"
)
def test_three_dimensions(generator):
    """The same in three dimensions: in two, a matrix of eigenvectors may be its own transpose and hide a swap."""
    weights, means = (
        torch.tensor([0.4, 0.6], dtype=DOUBLE),
        torch.randn(2, 3, dtype=DOUBLE, generator=generator),
    )
    factors = torch.randn(2, 3, 3, dtype=DOUBLE, generator=generator)
    covariances = factors @ factors.mT + 0.1 * torch.eye(3, dtype=DOUBLE)
    data = exact.GaussianMixture(weights, means, covariances)
    x = 2 * torch.randn(6, 3, dtype=DOUBLE, generator=generator)
    expected = noisy_mixture(weights, means, covariances, 0.7).log_prob(x)
    hint = "are the axes the columns of what eigh returns, and used as such?"
    assert_close(data.log_density(x, 0.7), expected, rtol=1e-9, what="log p(x; σ), d = 3", hint=hint)
    expected = mixture_denoiser(weights, means, covariances)(x, 0.7)
    assert_close(data.denoise(x, 0.7), expected, rtol=1e-8, what="E[x0 | x], d = 3", hint=hint)


@pytest.mark.grades("GaussianMixture.draw")
def test_draw_from_a_line():
    """A singular covariance is allowed; rounding makes its smallest eigenvalue a little less than 0."""
    covariance = torch.tensor([[[1.0, 0.0], [0.0, -1e-9]]], dtype=DOUBLE)
    data = exact.GaussianMixture(torch.ones(1, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE), covariance)
    points = data.draw(100, generator=seeded())
    assert bool(torch.isfinite(points).all()), "the root of an eigenvalue of -1e-9 is NaN: take it as 0"


@pytest.mark.grades("GaussianMixture.denoise")
def test_denoise_by_integration():
    """E[x0 | x] in one dimension as a plain sum over x0, straight from its definition."""
    data = exact.GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=DOUBLE),
        torch.tensor([[-1.0], [2.0]], dtype=DOUBLE),
        torch.tensor([[[0.25]], [[0.5]]], dtype=DOUBLE),
    )
    x0 = torch.linspace(-12, 14, 40_001, dtype=DOUBLE)
    prior = 0.3 * torch.exp(-2 * (x0 + 1) ** 2) / 0.5 + 0.7 * torch.exp(-((x0 - 2) ** 2)) / math.sqrt(0.5)
    x, sigma = torch.tensor([[-3.0], [0.3], [4.0]], dtype=DOUBLE), 0.9
    weight = prior * torch.exp(-((x - x0) ** 2) / (2 * sigma**2))
    expected = (weight * x0).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    assert_close(data.denoise(x, sigma), expected, rtol=1e-9, what="E[x0 | x]")


@pytest.mark.grades(
    "GaussianMixture.denoise", "GaussianMixture.log_density", "GaussianMixture.responsibilities"
)
def test_sigma_per_sample(generator):
    """sigma (batch, 1) gives each sample its own noise level."""
    x, sigma = (
        torch.randn(3, 2, dtype=DOUBLE, generator=generator),
        torch.tensor([[0.1], [1.0], [7.0]], dtype=DOUBLE),
    )
    data = mixture()
    for name in ("denoise", "log_density", "responsibilities"):
        method = getattr(data, name)
        alone = torch.cat([method(x[i : i + 1], float(sigma[i])) for i in range(3)])
        assert_close(method(x, sigma), alone, rtol=1e-12, what=f"{name} with one sigma per sample")


@pytest.mark.grades("GaussianMixture.draw")
def test_draw():
    """200 000 points have the mixture's mean and covariance, and the generator decides."""
    points = mixture().draw(200_000, generator=seeded())
    assert points.shape == (200_000, 2), f"shape {tuple(points.shape)}"
    mean = WEIGHTS @ MEANS
    centred = MEANS - mean
    covariance = torch.einsum("k,kde->de", WEIGHTS, COVARIANCES + centred[:, :, None] * centred[:, None])
    off = float((points.mean(0) - mean).abs().max())
    assert off < 0.02, f"the mean of the points is {points.mean(0).tolist()}, expected {mean.tolist()}"
    assert_close(torch.cov(points.T), covariance, rtol=0.02, what="covariance of the points")
    share = float((points[:, 0] < -0.7).double().mean())
    assert abs(share - 0.48) < 0.03, (
        f"{share:.3f} of the points lie left of -0.7: the weights of the components are off"
    )
    again = mixture().draw(10, generator=seeded())
    assert torch.equal(again, mixture().draw(10, generator=seeded())), "the generator is ignored"


@pytest.mark.grades("GaussianMixture")
def test_weights_are_scaled(generator):
    """Weights 5, 2, 3 mean the same as 0.5, 0.2, 0.3."""
    x = torch.randn(4, 2, dtype=DOUBLE, generator=generator)
    scaled = exact.GaussianMixture(10 * WEIGHTS, MEANS, COVARIANCES)
    assert_close(
        scaled.log_density(x, 0.5), mixture().log_density(x, 0.5), what="log density with weights 5, 2, 3"
    )


@pytest.mark.grades("GaussianMixture")
@pytest.mark.parametrize(
    ("weights", "covariances", "mention"),
    [
        (torch.ones(2), COVARIANCES, "(2,)"),
        (WEIGHTS, COVARIANCES[:2], "(2, 2, 2)"),
        (torch.tensor([0.5, 0.0, 0.5]), COVARIANCES, "positive"),
        (WEIGHTS, COVARIANCES + torch.tensor([[0.0, 0.5], [0.0, 0.0]]), "symmetric"),
        (WEIGHTS, COVARIANCES - 1.0 * torch.eye(2), "negative"),
    ],
    ids=["weights", "covariances", "zero weight", "not symmetric", "negative"],
)
def test_bad_mixture(weights, covariances, mention):
    """What is no mixture is refused."""
    with expect_error(ValueError, mention, otherwise="a bad mixture is accepted"):
        exact.GaussianMixture(weights.double(), MEANS, covariances)


@pytest.mark.grades("Gaussian", "Gaussian.flow")
def test_flow(generator):
    """Along each axis x - mean scales with the noisy deviation; in a rotated frame it still does."""
    angle, variances = 0.6, torch.tensor([2.0, 0.1], dtype=DOUBLE)
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=DOUBLE
    )
    mean = torch.tensor([1.0, -2.0], dtype=DOUBLE)
    data = exact.Gaussian(mean, rotation @ variances.diag() @ rotation.T)
    z = torch.randn(5, 2, dtype=DOUBLE, generator=generator)
    got = data.flow(mean + z @ rotation.T, 3.0, 0.5)
    expected = mean + gaussian_flow(z, 0.0, variances, 3.0, 0.5) @ rotation.T
    mistakes = {
        "the variances are not rooted": mean + z * (variances + 0.25) / (variances + 9) @ rotation.T,
        "the flow runs the wrong way": mean + gaussian_flow(z, 0.0, variances, 0.5, 3.0) @ rotation.T,
    }
    assert_close(got, expected, rtol=1e-10, what="end of the flow", mistakes=mistakes)


@pytest.mark.grades("Empirical", "Empirical.weights", "Empirical.denoise")
def test_empirical_by_hand():
    """Points 0 and 2, x = 1.5, σ = 1: the squared distances 2.25 and 0.25 differ by 2, so the odds are e."""
    data = exact.Empirical(torch.tensor([[0.0], [2.0]], dtype=DOUBLE))
    x = torch.tensor([[1.5], [0.5]], dtype=DOUBLE)
    p = math.e / (1 + math.e)
    mistakes = {
        "the distances are not squared": torch.tensor([[2.0], [1.0]]).mul(0)
        + torch.tensor([[1 / (1 + math.exp(-0.5))], [1 - 1 / (1 + math.exp(-0.5))]]),
        "the exponent is -d²/σ², not -d²/(2σ²)": torch.tensor(
            [[1 / (1 + math.exp(-2))], [1 - 1 / (1 + math.exp(-2))]]
        ),
    }
    got = data.weights(x, 1.0)
    assert_close(
        got[:, 1:], torch.tensor([[p], [1 - p]], dtype=DOUBLE), what="P(point 2 | x)", mistakes=mistakes
    )
    assert_close(data.denoise(x, 1.0), torch.tensor([[2 * p], [2 - 2 * p]], dtype=DOUBLE), what="E[x0 | x]")


@pytest.mark.grades("Empirical.denoise")
def test_empirical_is_a_mixture_of_points(generator):
    """A finite dataset is the mixture whose covariances went to 0; images are flattened and come back in shape."""
    points, x = (torch.randn(n, 1, 2, 3, dtype=DOUBLE, generator=generator) for n in (6, 4))
    sigma = torch.tensor([0.2, 0.5, 1.0, 9.0], dtype=DOUBLE).reshape(4, 1, 1, 1)
    got = exact.Empirical(points).denoise(x, sigma)
    assert got.shape == x.shape, f"shape {tuple(got.shape)}, expected that of x, {tuple(x.shape)}"
    rows = []
    for i in range(4):
        log = -((x[i] - points) ** 2).sum((1, 2, 3)) / (2 * float(sigma[i]) ** 2)
        rows.append(torch.einsum("n,nchw->chw", (log - log.logsumexp(0)).exp(), points))
    assert_close(got, torch.stack(rows), rtol=1e-9, what="E[x0 | x]")


@pytest.mark.grades("Empirical.weights")
def test_empirical_small_sigma():
    """σ = 1e-3 in float32, far from the origin: |x|² - 2x·p + |p|² would cancel; the nearest point wins."""
    points = torch.tensor([[1e4, 1e4], [1e4, 1e4 + 1]])
    got = exact.Empirical(points).weights(torch.tensor([[1e4, 1e4 + 0.25], [1e4, 1e4 + 0.75]]), 1e-3)
    assert_close(
        got,
        torch.eye(2),
        what="P(point | x)",
        hint="cancellation: compute differences, not |x|² - 2x·p + |p|²",
    )


@pytest.mark.grades("Empirical")
def test_no_points():
    """An empty dataset has no mean."""
    with expect_error(ValueError, "(0, 3)", otherwise="an empty dataset is accepted"):
        exact.Empirical(torch.zeros(0, 3))


# --- shapes, sizes and dtypes -----------------------------------------------------------------------------------------


@pytest.mark.grades(
    "GaussianMixture.denoise", "GaussianMixture.log_density", "GaussianMixture.responsibilities"
)
def test_one_level_per_sample_in_any_shape(generator):
    """sigma (3,) for three samples and three components is one per sample, not one per component."""
    x, sigma = (
        3 * torch.randn(3, 2, dtype=DOUBLE, generator=generator),
        torch.tensor([0.1, 1.0, 7.0], dtype=DOUBLE),
    )
    data = mixture()
    for name in ("denoise", "log_density", "responsibilities"):
        method = getattr(data, name)
        alone = torch.cat([method(x[i : i + 1], float(sigma[i])) for i in range(3)])
        hint = "sigma runs along the components: it belongs to the samples"
        assert_close(method(x, sigma), alone, rtol=1e-12, what=f"{name} with sigma of shape (3,)", hint=hint)


@pytest.mark.grades("Gaussian.flow")
@pytest.mark.parametrize("shape", [(3,), (3, 1)], ids=str)
def test_flow_with_levels_per_sample(shape, generator):
    """Each sample flows from its own level to its own."""
    data = exact.Gaussian(MEANS[0], COVARIANCES[0])
    x = 3 * torch.randn(3, 2, dtype=DOUBLE, generator=generator)
    start, end = torch.tensor([3.0, 5.0, 1.0], dtype=DOUBLE), torch.tensor([0.1, 1.0, 2.0], dtype=DOUBLE)
    alone = torch.cat([data.flow(x[i : i + 1], float(start[i]), float(end[i])) for i in range(3)])
    got = data.flow(x, start.reshape(shape), end.reshape(shape))
    assert_close(got, alone, rtol=1e-12, what=f"end of the flow with levels of shape {shape}")


@pytest.mark.grades("GaussianMixture.denoise", "Empirical.weights")
@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 3)], ids=str)
def test_level_of_another_shape(shape):
    """Neither one level nor one per sample."""
    x, sigma = torch.ones(3, 2, dtype=DOUBLE), torch.ones(shape, dtype=DOUBLE)
    with expect_error(ValueError, str(shape), otherwise=f"sigma of shape {shape} is accepted for 3 samples"):
        mixture().denoise(x, sigma)
    with expect_error(ValueError, str(shape), otherwise=f"sigma of shape {shape} is accepted for 3 samples"):
        exact.Empirical(MEANS).weights(x, sigma)


@pytest.mark.grades("GaussianMixture.denoise")
@pytest.mark.parametrize("shape", [(3, 1), (3, 3), (2,)], ids=str)
def test_points_of_another_dimension(shape):
    """x of one number each would be taken for both coordinates."""
    with expect_error(ValueError, str(shape), otherwise=f"x of shape {shape} is accepted in two dimensions"):
        mixture().denoise(torch.ones(shape, dtype=DOUBLE), 1.0)


@pytest.mark.grades("GaussianMixture")
@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_asymmetric_at_any_size(unit):
    """Symmetric means so in any unit of length, 1e-9 too."""
    covariance = unit * torch.tensor([[[1.0, 0.5], [0.0, 1.0]]], dtype=DOUBLE)
    one, zero = torch.ones(1, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE)
    with expect_error(
        ValueError, "symmetric", otherwise=f"an asymmetric covariance of size {unit:g} is accepted"
    ):
        exact.GaussianMixture(one, zero, covariance)
    nearly = covariance.clone()
    nearly[0, 1, 0] = nearly[0, 0, 1] * (1 + 1e-9)
    exact.GaussianMixture(one, zero, nearly)
    exact.GaussianMixture(one, zero, 0 * covariance)  # a point


@pytest.mark.grades("GaussianMixture")
@pytest.mark.parametrize("what", ["weights", "means", "covariances"])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_finite_parameters(what, value):
    """NaN is not asymmetric; it is no number."""
    parts = {"weights": WEIGHTS.clone(), "means": MEANS.clone(), "covariances": COVARIANCES.clone()}
    parts[what].view(-1)[0] = value
    with expect_error(ValueError, "finite", otherwise=f"{what} with {value} are accepted"):
        exact.GaussianMixture(**parts)


@pytest.mark.grades("GaussianMixture", "Empirical")
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.uint8], ids=str)
def test_dtypes_are_refused(dtype):
    """Pixels of integers, and a half precision in which no eigenvalue can be computed."""
    with expect_error(TypeError, str(dtype), otherwise=f"means of {dtype} are accepted"):
        exact.GaussianMixture(WEIGHTS, MEANS.to(dtype), COVARIANCES)
    with expect_error(TypeError, str(dtype), otherwise=f"points of {dtype} are accepted"):
        exact.Empirical(MEANS.to(dtype))


@pytest.mark.grades("GaussianMixture")
def test_one_axis_of_means():
    """Means without an axis of coordinates are refused by their shape."""
    with expect_error(ValueError, "(3,)", otherwise="means of one axis are accepted"):
        exact.GaussianMixture(WEIGHTS, MEANS[:, 0], COVARIANCES)


@pytest.mark.grades("GaussianMixture.denoise", "Empirical.denoise")
def test_answer_has_the_dtype_of_x(generator):
    """A float32 state gets a float32 answer, or the state of a sampler would turn into float64."""
    x = torch.randn(3, 2, generator=generator)
    for data in (mixture(), exact.Empirical(MEANS)):
        got, wide = data.denoise(x, 0.8), data.denoise(x.double(), 0.8)
        assert_close(got, wide.float(), rtol=1e-6, what=f"{type(data).__name__}.denoise of float32")


@pytest.mark.grades("Empirical.weights", "Empirical.denoise")
def test_empirical_far_away():
    """At σ = 1e-20, d²/σ² is infinite for every point, in float32; the nearest one is still the answer."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    x = torch.tensor([[100.0, 0.0], [-7.0, 2.0]])
    got = exact.Empirical(points).weights(x, 1e-20)
    expected = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    hint = "(d/σ)² overflows: compare with the nearest distance before squaring"
    assert_close(got, expected, what="P(point | x) at σ = 1e-20", hint=hint)


@pytest.mark.grades("Empirical.weights")
def test_empirical_tells_far_points_apart():
    """100 000 away at σ = 30 the exponents are near 5.5e6, where float32 has steps of 0.5; their difference is 0.87."""
    points, x = torch.tensor([[0.0], [2.0**-7]]), torch.tensor([[1e5], [-1e5]])
    got = exact.Empirical(points).weights(x, 30.0)
    distances = (x.double() - points.double().T).abs()
    expected = (-0.5 * (distances / 30) ** 2).softmax(1).float()
    hint = "d² lost the digits that tell the points apart: d² - nearest² is a product"
    assert_close(got, expected, rtol=1e-3, what="P(point | x), 100 000 away", hint=hint)


@pytest.mark.grades("Empirical", "Empirical.denoise")
def test_empirical_of_numbers():
    """Points without further axes are numbers."""
    points, x = torch.tensor([0.0, 2.0], dtype=DOUBLE), torch.tensor([1.5, 0.5, 1.0], dtype=DOUBLE)
    got = exact.Empirical(points).denoise(x, 1.0)
    p = math.e / (1 + math.e)
    assert_close(got, torch.tensor([2 * p, 2 - 2 * p, 1.0], dtype=DOUBLE), what="E[x0 | x] of numbers")
