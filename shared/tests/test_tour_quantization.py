"""The quantization figure in a real Chromium: its integers are those of projects/quantization, and its heading is true."""

import random

import pytest
import torch

FIGURE = "quantization"
START = "[false, true].map(perChannel => onGrid(OUTLIER.x, 4, perChannel))"


def decibels(x, rounded):
    """Return the SQNR in float64."""
    noise = x.double() - rounded.double()
    return float(10 * torch.log10(x.double().square().sum() / noise.square().sum()))


@pytest.mark.parametrize("seed", range(20))
def test_the_figure_is_the_projects_quantizer(one_page, oracle, seed):
    draw = random.Random(seed)
    outlier, bits, per_channel = draw.uniform(-8, 8), draw.randint(2, 8), seed % 2 == 0
    mine = one_page.evaluate("([outlier, ...rest]) => onGrid(outlier, ...rest)", [outlier, bits, per_channel])
    rows, row = one_page.evaluate("[CHANNELS, OUTLIER_ROW]")
    x = torch.tensor(rows, dtype=torch.float32)
    x[row, 0] = outlier
    low, high = (x.amin(1, True), x.amax(1, True)) if per_channel else (x.min(), x.max())
    scale, zero_point = oracle.choose_qparams(low, high, n_bits=bits)
    rounded = oracle.fake_quantize(x, scale, zero_point, n_bits=bits)
    q = oracle.quantize(x, scale, zero_point, n_bits=bits)
    channels = mine["channels"]
    wanted = [scale.expand(4, 1).flatten(), zero_point.expand(4, 1).flatten()]
    assert [channel["scale"] for channel in channels] == wanted[0].tolist()
    assert [channel["zeroPoint"] for channel in channels] == wanted[1].tolist()
    assert torch.equal(torch.tensor([channel["rounded"] for channel in channels]), rounded)
    here = "([channels, bits]) => channels.map(c => c.values.map(v => quantizeValue(v, c, bits)))"
    assert one_page.evaluate(here, [channels, bits]) == q.tolist()
    ordinary = torch.ones_like(x, dtype=torch.bool)
    ordinary[row, 0] = False
    parts = [(x[c][ordinary[c]], rounded[c][ordinary[c]]) for c in range(4)]
    assert [channel["sqnr"] for channel in channels] == pytest.approx(
        [decibels(*part) for part in parts], abs=1e-6
    )
    assert mine["sqnr"] == pytest.approx(decibels(x[ordinary], rounded[ordinary]), abs=1e-6)
    error = (x - rounded)[ordinary].double().square().mean().sqrt().item()
    assert mine["error"] == pytest.approx(error, abs=1e-6)


def test_halves_are_rounded_to_even(one_page):
    halves = [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.49999999999999994]
    mine = one_page.evaluate("halves => halves.map(roundHalfEven)", halves)
    assert mine == torch.tensor(halves, dtype=torch.float64).round().tolist()


@pytest.mark.parametrize("values", [[0.5, 2.0], [-2.0, -0.5], [0.0, 0.0]])
def test_the_grid_contains_zero(one_page, oracle, values):
    mine = one_page.evaluate("values => chooseQparams(values, 3)", values)
    scale, zero_point = oracle.choose_qparams(*values, n_bits=3)
    assert mine == {"scale": scale.item(), "zeroPoint": zero_point.item()}


def test_integers_saturate(one_page):
    qparams = {"scale": 0.1, "zeroPoint": 3}
    assert one_page.evaluate("p => [-9, 9].map(v => quantizeValue(v, p, 4))", qparams) == [-8, 7]


def test_the_heading_is_what_the_numbers_show_at_the_start(page):
    figure = page.locator("#quantization-grid")
    assert "costs all values their resolution" in figure.locator("h3").inner_text()
    tensor, channel = page.evaluate(START)
    calm = page.evaluate("onGrid(0, 4, false)")
    assert all(
        now["sqnr"] < then["sqnr"] - 5 for now, then in zip(tensor["channels"], calm["channels"], strict=True)
    )
    alike = [
        now["sqnr"] > then["sqnr"] - 0.5
        for now, then in zip(channel["channels"], calm["channels"], strict=True)
    ]
    assert alike == [True, True, False, True]  # only its own channel
    said = figure.locator("output").inner_text()
    assert f"SQNR {tensor['sqnr']:.1f} dB. Per channel it is {channel['sqnr']:.1f} dB" in said


def test_per_channel_leaves_the_other_channels_alone(page):
    labels = page.locator("#quantization-grid text", has_text="SQNR")
    page.locator("#grid-channel").check()
    before = labels.all_text_contents()
    handle = page.locator(".handle[data-name=outlier]")
    for _ in range(9):
        handle.press("ArrowRight")
    assert handle.get_attribute("aria-valuetext") == "6.9"
    after = labels.all_text_contents()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]
    page.locator("#grid-tensor").check()
    assert all(a != b for a, b in zip(before, labels.all_text_contents(), strict=True))


def test_each_bit_gives_about_six_decibels(one_page):
    gains = one_page.evaluate(
        "[5, 6, 7, 8].map(b => onGrid(0.5, b, true).sqnr - onGrid(0.5, b - 1, true).sqnr)"
    )
    assert sum(gains) / len(gains) == pytest.approx(6.02, abs=1)
