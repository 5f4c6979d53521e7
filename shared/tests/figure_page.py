"""The page of one project in a real Chromium, without its demo: for the tests of the interactive figures.

A test module says ``pytest_plugins = ["figure_page"]`` and names its ``PROJECT``.
"""

import io

import pytest
from rich.console import Console

from shared.practice.learner import Learner
from shared.practice.schedule import Schedule
from shared.projects import ROOT, load_project
from shared.tour import __main__ as tour
from shared.tour import browser


def write_page(name, folder):
    """Write the page of project `name` into `folder`; return its path."""
    nothing = {"numbers": {}, "tables": {}, "figures": {}}
    stop = tour.Stop(load_project(ROOT / "projects" / name), demo=nothing)
    rows = tour.board([stop], Learner(folder, Console(file=io.StringIO())), Schedule(folder))
    path = folder / "index.html"
    path.write_text(tour.render(rows, {}, page=path), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium():
    if reason := browser.lacking():
        pytest.skip(reason)
    with browser.browse() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page_path(request, tmp_path_factory):
    return write_page(request.module.PROJECT, tmp_path_factory.mktemp("page"))


@pytest.fixture
def page(chromium, page_path):
    """The page as a laptop shows it, fresh for each test."""
    with browser.open_page(chromium, page_path) as page:
        yield page


@pytest.fixture
def walk(page):
    """Return a function that moves each slider of a figure to both ends by the keyboard, the others at their start.

    It returns what the figure says there, by slider and key.
    """

    def walk(figure):
        said = {}
        for slider in page.locator(f"#{figure} input[type=range]").all():
            name, start = slider.get_attribute("id"), slider.input_value()
            for key in ("Home", "End"):
                slider.press(key)
                assert slider.get_attribute("aria-valuetext"), f"{name} does not say its value"
                said[name, key] = page.locator(f"#{figure} output").inner_text()
                assert "NaN" not in said[name, key] + page.locator(f"#{figure} svg").inner_html()
            slider.fill(start)
        return said

    return walk
