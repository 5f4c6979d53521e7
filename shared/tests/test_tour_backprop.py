"""The backprop figure in a real Chromium: its gradients are those of projects/backprop, and its heading is true."""

import random

import numpy as np
import pytest

FIGURE = "backprop"
VALUES = "sliders => sliders.map(slider => Number(slider.value))"


@pytest.fixture
def network(oracle):
    """Return a function that makes the neuron of some parameters from the project's layers."""

    def make(w1, w2, b):
        linear = oracle.Linear(2, 1, rng=np.random.default_rng(0), dtype=np.float64)
        linear.parameters["weight"][:] = [w1, w2]
        linear.parameters["bias"][:] = b
        return oracle.Sequential(linear, oracle.Tanh())

    return make


@pytest.mark.parametrize("seed", range(20))
def test_the_figure_is_the_projects_backward(one_page, network, seed):
    draw = random.Random(seed)
    parameters = [draw.uniform(-3, 3) for _ in range(3)]
    inputs, target = one_page.evaluate("[INPUTS, TARGET]")
    mine, neuron = one_page.evaluate("parameters => neuron(parameters)", parameters), network(*parameters)
    y = neuron.forward(np.array([inputs]))
    back = neuron.backward(2 * (y - target))
    gradients = neuron.gradients
    assert mine["y"] == pytest.approx(y.item(), abs=1e-12)
    assert mine["loss"] == pytest.approx(((y - target) ** 2).item(), abs=1e-12)
    wanted = [*gradients["0.weight"][0], gradients["0.bias"][0]]
    assert mine["weights"] == pytest.approx(wanted, abs=1e-12)
    assert mine["inputs"] == pytest.approx(back[0].tolist(), abs=1e-12)
    assert mine["da"] == pytest.approx(gradients["0.bias"][0], abs=1e-12)


def test_the_heading_is_what_the_numbers_show_at_the_start(page):
    figure = page.locator("#neuron-gradients")
    assert (
        figure.locator("h3").inner_text() == "The gradient of a weight is what comes back times what went in"
    )
    inputs, now = page.evaluate("[INPUTS, neuron([0.6, -0.4, 0.1])]")
    assert now["weights"] == pytest.approx([now["da"] * x for x in (*inputs, 1)])
    assert min(map(abs, now["weights"])) > 0.5  # so that there is something to see
    drawn = figure.locator("svg text").all_text_contents()
    for gradient, x in zip(now["weights"], (*inputs, 1), strict=True):
        at = drawn.index(f"{now['da']:.2f} × {x:.2f}".replace("-", "−"))
        assert drawn[at + 1] == f"= {gradient:.2f}".replace("-", "−")


def test_a_step_is_one_of_the_projects_sgd(page, network, oracle):
    sliders, figure = page.locator("#neuron-gradients input"), page.locator("#neuron-gradients")
    inputs, target, rate = page.evaluate("[INPUTS, TARGET, RATE]")
    neuron, optimizer, losses = network(*sliders.evaluate_all(VALUES)), oracle.SGD(rate), []
    for _ in range(3):
        losses.append(float(figure.locator("output").inner_text().split()[2].rstrip(".")))
        neuron.backward(2 * (neuron.forward(np.array([inputs])) - target))
        optimizer.step(neuron.parameters, neuron.gradients)
        page.get_by_role("button", name="One step of SGD").click()
        wanted = np.concatenate(list(map(np.ravel, neuron.parameters.values())))
        assert sliders.evaluate_all(VALUES) == pytest.approx(wanted.tolist(), abs=1e-9)
    assert losses == sorted(losses, reverse=True)


def test_a_saturated_tanh_is_named(page):
    assert "saturated" not in page.locator("#neuron-gradients output").inner_text()
    page.locator("#neuron-b").press("End")
    assert "it is saturated" in page.locator("#neuron-gradients output").inner_text()


@pytest.mark.parametrize("name", ["w1", "w2", "b"])
def test_arrow_keys_and_the_ends_of_each_slider(page, name):
    slider, figure = page.locator(f"#neuron-{name}"), page.locator("#neuron-gradients")
    said = [figure.locator("output").inner_text()]
    for key in ("ArrowRight", "Home", "End"):
        slider.press(key)
        said.append(figure.locator("output").inner_text())
        assert "NaN" not in said[-1] + figure.locator("svg").inner_html()
    assert len(set(said)) == len(said)
    assert slider.get_attribute("aria-valuetext") == "3.00"
