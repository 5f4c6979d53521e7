"""Handles of the tour's figures: mouse, finger and arrow keys move them and the drawing follows."""

import re

import pytest

from shared.projects import ROOT
from shared.tour import browser

HANDLE = re.compile(r'<g class="handle[^>]*data-name="(\w+)"')
PLAY = ROOT / "shared/tour/play"
PLACES = [
    (path.stem, handle) for path in sorted(PLAY.glob("*.html")) for handle in HANDLE.findall(path.read_text())
]
FIGURES = sorted({figure for figure, _ in PLACES})


@pytest.fixture(scope="module")
def pages(figure_page):
    return {figure: figure_page(figure) for figure in FIGURES}


def fingers(page):
    """Return a function that sends a touch event, as from the screen of a phone."""
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        places = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    return touch


def pull(page, handle, dx, dy):
    """Take a handle in its middle, with the finger on a phone, else with the mouse, and let it go dx, dy pixels farther."""
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    way = [(x, y), (x + dx / 2, y + dy / 2), (x + dx, y + dy)]
    if page.evaluate("navigator.maxTouchPoints"):
        touch = fingers(page)
        for kind, place in zip(("touchStart", "touchMove", "touchMove"), way, strict=True):
            touch(kind, place)
        touch("touchEnd")
    else:
        page.mouse.move(*way[0])
        page.mouse.down()
        for place in way[1:]:
            page.mouse.move(*place)
        page.mouse.up()


def state(page, handle):
    """Return what the handle says of itself, where it is, and what the figure says."""
    figure = "e => [e.getAttribute('aria-valuetext'), e.getAttribute('transform'), e.closest('figure').querySelector('output').textContent]"
    return handle.evaluate(figure)


def where(handle):
    return [float(v) for v in re.findall(r"-?[\d.]+", handle.get_attribute("transform"))]


@pytest.mark.parametrize("width", browser.WIDTHS)
@pytest.mark.parametrize(("figure", "name"), PLACES)
def test_a_handle_follows_mouse_and_finger(look, pages, figure, name, width):
    page = look(pages[figure], width=width)
    handle = page.locator(f".handle[data-name={name}]")
    handle.scroll_into_view_if_needed()
    before, place, scrolled = state(page, handle), where(handle), page.evaluate("scrollY")
    for way in (-30, 30):
        pull(page, handle, way, way)
        moved = [a - b for a, b in zip(where(handle), place, strict=True)]
        assert [m for m in moved if m == pytest.approx(way, abs=0.6)], moved  # one axis may be fixed
        assert all(m == pytest.approx(way, abs=0.6) or m == 0 for m in moved), moved
        now = state(page, handle)
        assert [a == b for a, b in zip(before, now, strict=True)] == [False] * 3
        place = where(handle)
        before = now
    assert page.evaluate("scrollY") == scrolled  # the finger drags and does not scroll
    assert handle.evaluate("e => e === document.activeElement")  # arrow keys may go on
    assert page.page_errors() == []


@pytest.mark.parametrize(("figure", "name"), PLACES)
def test_a_handle_follows_the_arrow_keys_and_keeps_the_focus(look, pages, figure, name):
    page = look(pages[figure])
    handle = page.locator(f".handle[data-name={name}]")
    assert handle.get_attribute("aria-label")
    assert handle.get_attribute("role") == "slider"
    start = state(page, handle)
    handle.focus()
    for there, back in (("ArrowRight", "ArrowLeft"), ("ArrowUp", "ArrowDown")):
        page.keyboard.press(there)
        assert state(page, handle)[:2] != start[:2]
        page.keyboard.press(back)
        assert state(page, handle) == start
    assert handle.evaluate("e => e === document.activeElement")


@pytest.mark.parametrize(("figure", "name"), PLACES)
def test_a_handle_stays_in_the_drawing(look, pages, figure, name):
    page = look(pages[figure], width=390)
    handle, svg = page.locator(f".handle[data-name={name}]"), page.locator(f"svg:has([data-name={name}])")
    for dx, dy in ((-3000, -3000), (3000, 3000), (3000, -3000), (-3000, 3000)):
        pull(page, handle, dx, dy)
        (x, y), size = where(handle), svg.bounding_box()
        assert 0 <= x <= size["width"]
        assert 0 <= y <= size["height"]
        assert "NaN" not in svg.inner_html()
        assert "NaN" not in page.locator(f"figure:has([data-name={name}]) output").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("figure", FIGURES)
def test_a_page_with_it_has_no_fault(look, pages, figure, width, scheme):
    assert browser.faults(look(pages[figure], width=width, scheme=scheme)) == []
