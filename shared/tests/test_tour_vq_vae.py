"""The VQ figure in a real Chromium: codes, losses and gradients are those of projects/vq_vae, and its heading is true."""

import random

import pytest
import torch
from torch import Tensor

FIGURE = "vq_vae"
GRADIENTS = ("decoder", "straightThrough", "codebook", "commitment")


def by_autograd(oracle, codes, image, place, beta):
    """Return index, the three losses, and who gets which gradient, of the project's functions."""
    codebook = torch.tensor(codes, dtype=torch.float64, requires_grad=True)
    z = torch.tensor([place], dtype=torch.float64, requires_grad=True)
    index = oracle.nearest_codes(z, codebook)
    z_q = codebook[index]
    seen = oracle.straight_through(z, z_q)
    losses = oracle.vq_losses(torch.tensor([image], dtype=torch.float64), seen, z, z_q, beta=beta)

    def gradient(loss: Tensor, of: Tensor) -> list[float]:
        (found,) = torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)
        return [0.0, 0.0] if found is None else found[0].tolist()

    reconstruction, codebook_loss, commitment = losses
    found = [gradient(reconstruction, seen), gradient(reconstruction, z), gradient(codebook_loss, z_q), gradient(commitment, z)]  # fmt: skip
    others = [gradient(reconstruction, z_q), gradient(codebook_loss, z), gradient(commitment, z_q)]
    return index.item(), [loss.item() for loss in losses], found, others


@pytest.mark.parametrize("seed", range(20))
def test_the_figure_is_the_projects_quantizer(one_page, oracle, seed):
    draw = random.Random(seed)
    place, beta = [draw.uniform(-2, 2), draw.uniform(-2, 2)], draw.uniform(0, 1)
    codes, image = one_page.evaluate("[CODES, IMAGE]")
    mine = one_page.evaluate("([z, beta]) => vqLosses(z, beta)", [place, beta])
    index, losses, gradients, others = by_autograd(oracle, codes, image, place, beta)
    assert mine["k"] == index
    assert [mine[name] for name in ("reconstruction", "codebook", "commitment")] == pytest.approx(
        losses, abs=1e-9
    )
    for name, gradient in zip(GRADIENTS, gradients, strict=True):
        assert mine["gradients"][name] == pytest.approx(gradient, abs=1e-9), name
    assert others == [[0.0, 0.0]] * 3  # no other arrow is missing


def inside(corners, x, y):
    """Say whether a point lies in a convex polygon whose corners go round anticlockwise."""
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return all((b[0] - a[0]) * (y - a[1]) >= (b[1] - a[1]) * (x - a[0]) for a, b in pairs)


@pytest.mark.parametrize("seed", range(20))
def test_a_cell_is_where_its_code_is_the_nearest(one_page, oracle, seed):
    draw = random.Random(seed)
    place = [draw.uniform(-2, 2), draw.uniform(-2, 2)]
    codes, cells = one_page.evaluate("[CODES, CODES.map((_, k) => cellOf(k))]")
    tensors = torch.tensor([place], dtype=torch.float64), torch.tensor(codes, dtype=torch.float64)
    assert [k for k, cell in enumerate(cells) if inside(cell, *place)] == [
        oracle.nearest_codes(*tensors).item()
    ]


def test_the_heading_is_what_the_numbers_show_at_the_start(page):
    figure = page.locator("#vq-cells")
    assert (
        figure.locator("h3").inner_text()
        == "The decoder's gradient arrives at the code, but moves the latent"
    )
    pulls = figure.locator("svg text.strong", has_text="(").all_text_contents()
    assert len(pulls) == 4
    assert pulls[0] == pulls[1] != "(0.00, 0.00)"
    starts = figure.locator("g[clip-path] line").evaluate_all(
        "lines => lines.map(l => [l.x1, l.y1].map(v => v.baseVal.value))"
    )
    code, latent = page.evaluate("[CODES[nearestCode([LATENT.x, LATENT.y])], [LATENT.x, LATENT.y]]")
    side = 400
    pixels = [[side * (2.1 + x) / 4.2, side * (2.1 - y) / 4.2] for x, y in (code, latent, code, latent)]
    for start, wanted in zip(starts, pixels, strict=True):  # decoder at the code, its copy at the latent, …
        assert start == pytest.approx(wanted, abs=0.01)


def test_beta_weighs_the_commitment_alone(page):
    slider, pulls = page.locator("#vq-beta"), page.locator("#vq-cells svg text.strong", has_text="(")
    seen = []
    for key in ("Home", "ArrowRight", "End"):
        slider.press(key)
        seen.append(pulls.all_text_contents())
        assert "NaN" not in page.locator("#vq-cells svg").inner_html()
    assert seen[0][:3] == seen[1][:3] == seen[2][:3]
    assert len({pull[3] for pull in seen}) == 3
    assert seen[0][3] == "(0.00, 0.00)"


def test_a_small_move_is_seen_in_what_is_said(page):
    page.locator(".handle[data-name=latent]").press("ArrowUp")
    assert page.locator("#vq-cells output").inner_text().startswith("z = (0.2, 0.55) becomes")
    page.evaluate("LATENT.x = 1.05")
    page.locator(".handle[data-name=latent]").press("ArrowUp")
    assert page.locator("#vq-cells output").inner_text().startswith("z = (1.05, 0.6) becomes")


def test_another_cell_is_another_code(page):
    said, handle = page.locator("#vq-cells output"), page.locator(".handle[data-name=latent]")
    assert "becomes code 4" in said.inner_text()
    for _ in range(10):
        handle.press("ArrowUp")
    assert "becomes code 2" in said.inner_text()
    assert handle.get_attribute("aria-valuetext").endswith("code 2")


@pytest.mark.parametrize("width", [320, 390, 700, 768, 800, 1280])
def test_no_words_of_the_drawing_are_cut(look, figure_page, width):
    svg = look(figure_page(FIGURE), width=width).locator("#vq-cells svg")
    cut = """svg => [...svg.querySelectorAll("text")].filter(words => {
        const [box, frame] = [words, svg].map(part => part.getBoundingClientRect());
        return box.left < frame.left - 1 || box.right > frame.right + 1;
    }).map(words => words.textContent)"""
    assert svg.evaluate(cut) == []


def test_each_arrow_starts_where_it_pulls_and_goes_against_its_gradient(page):
    """In the drawing, whose plane is 400 px wide, and in the numbers beside it."""
    state, edge = page.evaluate("[vqLosses([LATENT.x, LATENT.y], 0.25), EDGE]")
    code, latent = page.evaluate("k => [CODES[k], [LATENT.x, LATENT.y]]", state["k"])
    ends = "lines => lines.map(l => ['x1', 'y1', 'x2', 'y2'].map(name => Number(l.getAttribute(name))))"
    arrows = page.locator("#vq-cells g[clip-path] line").evaluate_all(ends)
    said = page.locator("#vq-cells svg text.strong", has_text="(").all_text_contents()
    for name, start, arrow, words in zip(GRADIENTS, (code, latent, code, latent), arrows, said, strict=True):
        pull = [-gradient for gradient in state["gradients"][name]]
        tip = [place + by for place, by in zip(start, pull, strict=True)]
        drawn = [
            400 * (1 + sign * v / edge) / 2
            for end in (start, tip)
            for sign, v in zip((1, -1), end, strict=True)
        ]
        assert arrow == pytest.approx(drawn, abs=1e-9), name
        assert [float(v) for v in words.strip("()").replace("−", "-").split(", ")] == pytest.approx(pull, abs=0.0051), name  # fmt: skip
