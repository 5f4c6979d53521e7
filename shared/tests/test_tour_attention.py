"""The attention figure in a real Chromium: its weights are those of projects/attention, and its heading is true."""

import random

import pytest
import torch

FIGURE = "attention"
HERE = "([x, y, options]) => attendInPlane([x, y], options)"


def wide(points, width):
    """Return the vectors that the caption describes: (x, y, 0, …, 0) · d^¼."""
    return torch.nn.functional.pad(torch.tensor(points, dtype=torch.float64), (0, width - 2)) * width**0.25


@pytest.mark.parametrize("seed", range(20))
def test_the_figure_is_the_projects_attention(one_page, oracle, seed):
    draw = random.Random(seed)
    keys, position = one_page.evaluate("[KEYS, POSITION]")
    place, width = [draw.uniform(-2, 2), draw.uniform(-2, 2)], 2 ** draw.randint(2, 10)
    scaled, causal = seed % 2 == 0, seed % 4 < 2
    mine = one_page.evaluate(HERE, [*place, {"width": width, "scaled": scaled, "causal": causal}])
    sequence = [[draw.uniform(-2, 2), draw.uniform(-2, 2)] for _ in keys]  # only our query counts
    sequence[position - 1] = place
    options = {"causal": causal, "scale": None if scaled else 1.0}
    vectors, values = (wide(sequence, width), wide(keys, width)), torch.tensor(keys, dtype=torch.float64)
    weights = oracle.attention_weights(*vectors, **options)[position - 1]
    output = oracle.attention(*vectors, values, **options)[position - 1]
    bits = torch.distributions.Categorical(weights).entropy().item() / torch.tensor(2.0).log().item()
    assert mine["weights"] == pytest.approx(weights.tolist(), abs=1e-9)
    assert mine["output"] == pytest.approx(output.tolist(), abs=1e-9)
    assert mine["entropy"] == pytest.approx(bits, abs=1e-6)


def test_the_heading_is_what_the_numbers_show_at_the_start(page):
    figure = page.locator("#attention-plane")
    assert figure.locator("h3").inner_text() == "Without 1/√d a wide head looks at one key only"
    said = figure.locator("output").inner_text()
    start = (
        "[true, false].map(scaled => attendInPlane([QUERY.x, QUERY.y], {width: 64, scaled, causal: false}))"
    )
    scaled, raw = page.evaluate(start)
    assert max(raw["weights"]) > 0.99 > 0.7 > max(scaled["weights"])
    assert scaled["entropy"] > 1 > 0.05 > raw["entropy"]
    assert f"largest weight is {max(scaled['weights']):.3f}, on key 1" in said
    assert f"Not divided: {max(raw['weights']):.3f} and {raw['entropy']:.2f} bits" in said


def test_the_width_matters_only_without_the_division(page):
    figure, slider = page.locator("#attention-plane"), page.locator("#head-width")
    filled = "bars => bars.map(bar => bar.width.baseVal.value)"
    with_division = []
    for end in ("2", "10"):
        slider.fill(end)
        with_division.append(figure.locator("rect").evaluate_all(filled))
    assert with_division[0] == with_division[1]
    page.locator("#head-scaled").uncheck()
    assert max(figure.locator("rect").evaluate_all(filled)) > 1.5 * max(with_division[0])
    assert "not divided: the largest weight is 1.000" in figure.locator("output").inner_text()


def test_causal_hides_the_later_keys(page):
    page.locator("#head-causal").check()
    assert page.get_by_text("hidden").count() == 2
    widths = page.locator("#attention-plane rect").evaluate_all(
        "bars => bars.map(bar => bar.width.baseVal.value)"
    )
    assert [width > 0 for width in widths] == [True] * 4 + [False] * 2
    assert "of at most 2.00 bits" in page.locator("#attention-plane output").inner_text()
