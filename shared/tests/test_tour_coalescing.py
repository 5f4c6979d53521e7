"""Coalescing on the page, in a real Chromium: its sectors are those that the CUDA emulator counts."""

import numpy as np
import pytest

from shared import cuda_emulator
from shared.cuda_emulator.launch import Module
from shared.tour import browser

FIGURE = "cuda_vector_add"
KERNEL = """
extern "C" __global__ void gather(const float* x, float* y, int stride, int offset) {
    y[threadIdx.x] = x[stride * threadIdx.x + offset];
}
"""
RANDOM = np.random.default_rng(0).integers([1, 0], [33, 32], size=(20, 2)).tolist()
ENDS = [[1, 0], [1, 31], [32, 0], [32, 31], [1, 8], [7, 3], [8, 31]]


@pytest.fixture(scope="module")
def kernel():
    cuda_emulator.activate_anyway(announce=False)
    return Module(KERNEL)


@pytest.fixture
def move(page):
    """Return a function that moves both sliders and returns what the figure says."""

    def move(stride, offset):
        page.locator("#stride").fill(str(stride))
        page.locator("#offset").fill(str(offset))
        return page.locator("#coalescing output").inner_text()

    return move


def test_sectors_and_bytes_are_what_the_emulator_counts(one_page, kernel):
    for stride, offset in RANDOM + ENDS:
        x, y = np.zeros(1024, np.float32), np.zeros(32, np.float32)
        with cuda_emulator.counting() as counters:
            kernel.launch("gather", 1, 32, x, y, np.int32(stride), np.int32(offset))
        load = counters.total("global load")
        mine = one_page.evaluate("([stride, offset]) => coalescing(stride, offset)", [stride, offset])
        assert (mine["sectors"], mine["moved"], mine["used"]) == (load.sectors, load.bytes_moved, load.bytes)
        assert mine["efficiency"] == load.bytes / load.bytes_moved


def test_each_thread_is_in_the_sector_that_holds_its_float(one_page):
    for stride, offset in RANDOM + ENDS:
        here = "([stride, offset]) => [...sectorsTouched(stride, offset)]"
        mine = dict(one_page.evaluate(here, [stride, offset]))
        address = 4 * (stride * np.arange(32) + offset)
        expected = {s: np.flatnonzero(address // 32 == s).tolist() for s in np.unique(address // 32).tolist()}
        assert mine == expected


def test_the_heading_is_true(page, move):
    heading = page.locator("#coalescing h3").inner_text()
    assert "Stride 1: a warp's load moves 4 sectors" in heading
    assert "Stride 8 and more: 32, and seven eighths" in heading
    start = page.locator("#coalescing output").inner_text()
    assert start.startswith("Stride 8, offset 0: the warp touches 32 sectors")
    assert "1,024 bytes, and the 32 threads use 128: 12.5 %" in start
    assert "touches 4 sectors" in move(1, 0)
    for stride in range(8, 33):
        assert "touches 32 sectors" in move(stride, 0)


def test_the_drawing_shows_what_was_computed(page, move):
    for stride, offset in ([1, 0], [1, 5], [3, 0], [32, 31]):
        said = move(stride, offset)
        filled = page.locator("#coalescing rect.changed").count()
        assert f"touches {filled} sectors" in said
        assert page.locator("#coalescing rect.token").count() == 128
        assert page.locator("#coalescing rect.fill1").count() == 32


def test_the_boxes_name_their_threads(page, look, figure_page, move):
    names = page.locator("#coalescing text:not(.soft)")
    assert names.all_text_contents() == [str(thread) for thread in range(32)]
    move(1, 5)
    assert names.all_text_contents() == ["0–2", "3–10", "11–18", "19–26", "27–31"]
    phone = look(figure_page(FIGURE), width=390)
    phone.locator("#stride").fill("1")
    assert phone.locator("#coalescing text:not(.soft)").all_text_contents() == ["0…", "8…", "16…", "24…"]


def test_an_offset_costs_a_fifth_sector(move):
    assert "touches 5 sectors. They move 160 bytes, and the 32 threads use 128: 80 %" in move(1, 1)
    assert "touches 4 sectors" in move(1, 8)


def test_the_keyboard_reaches_both_ends(walk):
    starts = {place: words.split(":")[0] for place, words in walk("coalescing").items()}
    assert starts == {
        ("stride", "Home"): "Stride 1, offset 0",
        ("stride", "End"): "Stride 32, offset 0",
        ("offset", "Home"): "Stride 8, offset 0",
        ("offset", "End"): "Stride 8, offset 31",
    }


def test_the_page_has_no_fault(chromium, figure_page):
    assert list(browser.check(chromium, figure_page(FIGURE))) == []
