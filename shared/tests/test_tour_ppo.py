"""PPO's clip on the page, in a real Chromium: objective and gradient are those of ppo.py by autograd."""

import importlib
import sys

import numpy as np
import pytest
import torch

from shared.projects import ROOT
from shared.tour import browser

FIGURE = "ppo"
# ratio, advantage, epsilon
RANDOM = np.random.default_rng(0).uniform([0.01, -1, 0.05], [2, 1, 0.5], size=(20, 3)).tolist()


@pytest.fixture(scope="module")
def ppo():
    """The project's module, whose folder is on the path for as long as it takes to import it."""
    folder = str(ROOT / "projects" / FIGURE)
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("ppo")
    finally:
        sys.path.remove(folder)
        for name in ("ppo", "rollout"):
            sys.modules.pop(name, None)


@pytest.fixture
def move(page):
    """Return a function that moves all sliders and returns what the figure says."""

    def move(ratio, advantage, epsilon):
        for name, value in (("ratio", ratio), ("advantage", advantage), ("epsilon", epsilon)):
            page.locator(f"#{name}").fill(str(value))
        return page.locator("#clipped-objective output").inner_text()

    return move


def test_objective_and_gradient_are_those_of_the_loss(one_page, ppo):
    zeros = 0
    for ratio, advantage, clip in RANDOM:
        log_probs = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
        old, a = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
        objective = -ppo.clipped_loss(log_probs, old, a, clip=clip)
        (gradient,) = torch.autograd.grad(objective, log_probs)
        here = "s => [clippedObjective(...s), clippedGradient(...s)]"
        mine = one_page.evaluate(here, [ratio, advantage, clip])
        assert mine == pytest.approx([objective.item(), gradient.item()], rel=0, abs=1e-6)
        zeros += gradient.item() == 0
    assert 3 <= zeros <= 17  # both sides of the clip are among them


def test_the_gradient_is_the_slope_of_the_objective(one_page):
    """The derivative to log ρ, by central differences: away from the edges of the clip both curves fit together."""
    for ratio, advantage, clip in RANDOM:
        if min(abs(ratio - 1 - clip), abs(ratio - 1 + clip)) < 1e-3:
            continue
        h = 1e-5
        rise = "([r, a, c, h]) => clippedObjective(r * Math.exp(h), a, c) - clippedObjective(r * Math.exp(-h), a, c)"
        slope = one_page.evaluate(rise, [ratio, advantage, clip, h]) / (2 * h)
        gradient = one_page.evaluate("s => clippedGradient(...s)", [ratio, advantage, clip])
        assert slope == pytest.approx(gradient, rel=0, abs=1e-6)


def test_the_heading_is_true(page, move):
    heading = page.locator("#clipped-objective h3").inner_text()
    assert "far enough the way that the advantage wants, the gradient is zero" in heading
    assert "on the other side it never is" in heading
    start = page.locator("#clipped-objective output").inner_text()
    assert start.startswith("ρ = 1.5, A = 1, ε = 0.2: objective 1.2, gradient 0.")
    for clip in (0.05, 0.2, 0.5):
        for ratio in (0.01, 0.4, 1, 1.6, 2):
            for advantage in (-1, -0.1, 0.1, 1):
                far = ratio > 1 + clip if advantage > 0 else ratio < 1 - clip
                said = move(ratio, advantage, clip)
                assert ("gradient 0. " in said) == far
                assert ("far enough" in said) == far


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ((1.1, 1, 0.2), "should become more probable and is more probable, by no more than ε: it may go on"),
        ((0.5, 1, 0.2), "should become more probable and is less probable: the wrong way"),
        ((1.5, -1, 0.2), "should become less probable and is more probable: the wrong way"),
        ((0.5, -1, 0.2), "should become less probable and is less probable, by more than ε: far enough"),
        ((1, 1, 0.2), "should become more probable and is as probable as before"),
        ((1.5, 0, 0.2), "as good as expected: nothing to learn"),
    ],
)
def test_it_says_why(move, setting, why):
    assert why in move(*setting)


def test_the_keyboard_reaches_both_ends(walk):
    starts = {place: words.split(":")[0] for place, words in walk("clipped-objective").items()}
    assert starts == {
        ("ratio", "Home"): "ρ = 0.01, A = 1, ε = 0.2",
        ("ratio", "End"): "ρ = 2, A = 1, ε = 0.2",
        ("advantage", "Home"): "ρ = 1.5, A = −1, ε = 0.2",
        ("advantage", "End"): "ρ = 1.5, A = 1, ε = 0.2",
        ("epsilon", "Home"): "ρ = 1.5, A = 1, ε = 0.05",
        ("epsilon", "End"): "ρ = 1.5, A = 1, ε = 0.5",
    }


def test_the_page_has_no_fault(chromium, figure_page):
    assert list(browser.check(chromium, figure_page(FIGURE))) == []


@pytest.mark.parametrize("setting", [(1.5, 1, 0.2), (0.4, -1, 0.3), (1.5, -0.7, 0.2), (0.9, 0.5, 0.1)])
def test_the_curves_and_points_are_drawn_where_the_numbers_are(page, move, setting):
    """The left panel shows the objective, the right one the gradient; ticks at -1, 0 and 1 give the scale."""
    move(*setting)
    drawing = page.locator("#clipped-objective svg")
    level = "lines => lines.filter(l => l.y1.baseVal.value === l.y2.baseVal.value).map(l => [l.x1, l.x2, l.y1].map(v => v.baseVal.value))"
    levels = [row for row in drawing.locator("line").evaluate_all(level) if row[1] - row[0] > 100]
    points = drawing.locator("circle").evaluate_all(
        "all => all.map(c => [c.cx, c.cy].map(v => v.baseVal.value))"
    )
    curves = drawing.locator("path.line1").evaluate_all("all => all.map(p => p.getAttribute('d'))")
    for panel, function in enumerate(("clippedObjective", "clippedGradient")):
        (left, right, _), (_, _, zero), (_, _, one) = levels[3 * panel : 3 * panel + 3]
        drawn = [[float(v) for v in pair.split(",")] for d in curves for pair in d[1:].split("L")]
        drawn = [place for place in drawn if left - 0.1 <= place[0] <= right + 0.1]
        assert len(drawn) == 401
        places = np.array([*drawn, points[panel]])
        ratios = np.clip(2 * (places[:, 0] - left) / (right - left), 0, 2)
        around = [(ratios + by).tolist() for by in (-0.001, 0.001)]  # an x is rounded, too
        values = page.evaluate(
            f"([all, a, c]) => all.map(row => row.map(r => {function}(r, a, c)))", [around, *setting[1:]]
        )
        seen = (zero - places[:, 1]) / (zero - one)
        assert (np.min(values, axis=0) - 0.002 <= seen).all()
        assert (seen <= np.max(values, axis=0) + 0.002).all()
        assert points[panel][0] == pytest.approx(left + setting[0] / 2 * (right - left))
