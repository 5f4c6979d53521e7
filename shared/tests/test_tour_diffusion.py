"""Steps and guidance in the plane, in a real Chromium: the samples are those of diffusion_sampling.py from the same noise."""

import importlib.util

import numpy as np
import pytest
import torch

from shared.projects import ROOT
from shared.tour import browser

FIGURE = "diffusion_sampling"
RNG = np.random.default_rng(0)
# sampler, steps, w: 20 at random, and the ends of both sliders
RANDOM = [
    (str(RNG.choice(["euler", "heun"])), int(RNG.integers(1, 51)), float(RNG.uniform(0, 6)))
    for _ in range(20)
]
ENDS = [(sampler, n, w) for sampler in ("euler", "heun") for n in (1, 2, 50) for w in (0, 1, 6)]


@pytest.fixture(scope="module")
def exact():
    """The project's further module with the exact denoiser of a mixture."""
    spec = importlib.util.spec_from_file_location("exact", ROOT / "projects" / FIGURE / "exact.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mixtures(one_page, exact):
    """The data of all labels, and of the one that is asked for."""
    labels = one_page.evaluate("LABELS")
    means = torch.tensor(labels["means"], dtype=torch.float64)
    covariance = labels["deviation"] ** 2 * torch.eye(2, dtype=torch.float64)
    asked = [labels["asked"]]
    return [
        exact.GaussianMixture(torch.ones(len(m)), m, covariance.expand(len(m), 2, 2))
        for m in (means, means[asked])
    ]


@pytest.fixture
def move(page):
    """Return a function that moves all controls and returns what the figure says."""

    def move(sampler, steps, w):
        page.locator("#sampler").select_option(sampler)
        page.locator("#steps").fill(str(steps))
        page.locator("#guidance").fill(str(w))
        return page.locator("#guided-cloud output").inner_text()

    return move


def sample(page, sampler, steps, w):
    """Return the last states of the page's own noise, (200, 2)."""
    here = "([sampler, steps, w]) => CLOUD_NOISE.map(noise => trajectory(sampler, noise, steps, w).at(-1))"
    return torch.tensor(page.evaluate(here, [sampler, steps, w]), dtype=torch.float64)


def test_levels_are_the_projects(one_page, oracle):
    low, high = one_page.evaluate("[CLEANEST, NOISIEST]")
    for n in (1, 2, 7, 50):
        mine = torch.tensor(
            one_page.evaluate("n => karrasSigmas(n, CLEANEST, NOISIEST)", n), dtype=torch.float64
        )
        expected = oracle.karras_sigmas(n, sigma_min=low, sigma_max=high)
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=0)


def test_the_denoiser_is_the_exact_one(one_page, mixtures):
    x = torch.cartesian_prod(*[torch.linspace(-6, 6, 7, dtype=torch.float64)] * 2)
    here = "([xs, s, labels]) => xs.map(x => denoiseLabels(x, s, labels))"
    for sigma in (0.02, 0.5, 2.0, 8.0):
        for labels, mixture in zip(([0, 1, 2], [2]), mixtures, strict=True):
            mine = torch.tensor(one_page.evaluate(here, [x.tolist(), sigma, labels]), dtype=torch.float64)
            torch.testing.assert_close(mine, mixture.denoise(x, sigma), rtol=1e-10, atol=1e-12)


def test_samples_are_the_projects_from_the_same_noise(one_page, oracle, mixtures):
    noise = torch.tensor(one_page.evaluate("CLOUD_NOISE"), dtype=torch.float64)
    low, high = one_page.evaluate("[CLEANEST, NOISIEST]")
    everything, asked = mixtures
    for sampler, steps, w in RANDOM + ENDS:
        grid = oracle.karras_sigmas(steps, sigma_min=low, sigma_max=high)
        denoiser = oracle.guided(asked.denoise, everything.denoise, w)
        expected = oracle.sample(getattr(oracle, sampler), denoiser, noise, grid)
        torch.testing.assert_close(sample(one_page, sampler, steps, w), expected, rtol=0, atol=1e-6)


def test_the_noise_is_standard_normal_and_the_same_on_every_page(one_page):
    noise = np.array(one_page.evaluate("normalPoints(20000, 5)"))
    assert noise.mean(0) == pytest.approx([0, 0], abs=4 / np.sqrt(20000))
    assert np.cov(noise.T) == pytest.approx(np.eye(2), abs=6 / np.sqrt(20000))
    assert np.mean(np.abs(noise) < 1) == pytest.approx(0.6827, abs=0.01)
    assert one_page.evaluate("normalPoints(200, 1)") == one_page.evaluate("CLOUD_NOISE")


def test_the_heading_is_true(page, move):
    assert (
        "with w = 4 their mean is off C's, and they spread half as far"
        in page.locator("#guided-cloud h3").inner_text()
    )
    start = page.locator("#guided-cloud output").inner_text()
    assert start.startswith("20 steps, w = 4: ")
    cloud, mean = sample(page, "euler", 20, 4), torch.tensor(page.evaluate("LABELS.means[2]"))
    off = cloud.mean(0) - mean
    spread = float(cloud.var(0, correction=0).mean().sqrt())
    assert f"is {off.norm():.2f} from the mean of C" in start
    assert f"Their spread is {spread:.2f}; that of C's data is 0.70" in start
    assert off[1] > 0.5  # past C, as seen from the other two
    assert spread == pytest.approx(0.35, abs=0.05)
    assert "is 0.1" in move("euler", 20, 1)  # without the exaggeration the mean is C's


def test_one_step_lands_on_the_mean_of_everything(page, move):
    move("euler", 1, 0)
    cloud = sample(page, "euler", 1, 0)
    centre = torch.tensor(page.evaluate("LABELS.means")).mean(0).double()
    torch.testing.assert_close(cloud.mean(0), centre, rtol=0, atol=0.1)
    assert float(cloud.std(0).max()) < 0.7  # three groups in a triangle spread 1.8


def test_the_drawing_shows_the_cloud_and_one_trajectory(page, move):
    move("heun", 7, 2)
    figure = page.locator("#guided-cloud")
    assert figure.locator("circle.fill1").count() == 200
    assert figure.locator("circle.fill-ink").count() == 8
    assert "samples lie outside of the picture" in move("euler", 1, 6)


def test_the_keyboard_reaches_both_ends(walk):
    starts = {place: words.split(":")[0] for place, words in walk("guided-cloud").items()}
    assert starts == {
        ("steps", "Home"): "1 step, w = 4",
        ("steps", "End"): "50 steps, w = 4",
        ("guidance", "Home"): "20 steps, w = 0",
        ("guidance", "End"): "20 steps, w = 6",
    }


def test_the_page_has_no_fault(chromium, figure_page):
    assert list(browser.check(chromium, figure_page(FIGURE))) == []
