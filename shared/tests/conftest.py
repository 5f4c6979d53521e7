"""A complete little project in a temporary folder, for the tools to work on, and pages with one figure in a browser."""

import contextlib
import importlib.util
import io
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from shared.practice.learner import Learner
from shared.projects import ROOT, Project, load_project

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REFERENCE = '''
"""Two functions of a vector."""

import math

import numpy as np

__all__ = ["scale", "norm"]

LIMIT = 10
# how the norm is reduced: this comment goes with what it explains
_AXIS = -1


def scale(x, factor=2.0):
    """Return factor·x."""
    _check(x)
    return x * factor


def norm(x):
    """Return the Euclidean norm of each row."""
    return np.sqrt((x**2).sum(axis=_AXIS))


def _check(x):
    if x.size > LIMIT * math.inf:
        raise ValueError("too large")
'''

TESTS = '''
import mini
import numpy as np
import pytest

from shared.testing.checks import assert_close, assert_imports_only


@pytest.mark.grades()
def test_imports():
    """Only NumPy is imported."""
    assert_imports_only(mini, {"numpy"})


@pytest.mark.grades("scale")
def test_scale(rng):
    """Every entry is multiplied."""
    x = rng.normal(size=(2, 3))
    assert_close(mini.scale(x, 3.0), 3 * x, mistakes={"the factor is ignored": 2 * x})


@pytest.mark.grades("norm")
def test_norm():
    """A 3-4-5 triangle."""
    x = np.array([[3.0, 4.0], [6.0, 8.0], [5.0, 12.0]])
    assert_close(mini.norm(x), np.array([5.0, 10.0, 13.0]), hint="looks like the rows are not summed")
'''

PYPROJECT = """
[project]
name = "groundwork-mini"
description = "A project for the tests of the tools"
dependencies = ["numpy"]
[dependency-groups]
dev = ["numpy", "pytest"]
[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
addopts = ["--strict-markers", "--strict-config"]
filterwarnings = ["error"]
[tool.groundwork]
order = 1
gpu = false
tags = ["numpy"]
topics = { "neurons" = "demo.py" }
"""

HINTS = """
[scale]
nudge = "What does the second argument do?"
idea = "One multiplication."
formula = "x·factor"
[norm]
nudge = "Pythagoras."
idea = "Square, sum, root."
formula = "sqrt(Σ xᵢ²)"
[shift]
nudge = "Which operator?"
idea = "One addition."
formula = "x + by"
"""

DRILLS = """
[[drill]]
id = "what-is-a-norm"
question = "What is a norm?"
topic = "neurons"
answer = "A length. Here it is {length}."
evidence = "python demo.py"
red_flag = "A norm is what is normal."
[[drill.follow_up]]
question = "Why one?"
answer = "The root of 9 + 16."
[[drill.follow_up]]
question = "Why two?"
answer = "Because lengths add along a line."
"""

MISTAKES = """
[norm_without_root]
diagnosis = "looks like the rows are not summed"
replace = "np.sqrt((x**2).sum(axis=_AXIS))"
with = "x[:, 0]"

[scale_ignores_factor]
diagnosis = "the factor is ignored"
add = '''
def scale(x, factor=2.0):
    return x * 2.0
'''

[shift_is_a_scale]
file = "more.py"
diagnosis = "looks like a product"
replace = "return x + by"
with = "return x * by"
"""

RIGHT = """
import numpy as np

def scale(x, factor=2.0):
    return np.multiply(factor, x)

def norm(x):
    return np.array([sum(v * v for v in row) ** 0.5 for row in x])
"""

MORE = '''
"""Beyond the core."""

__all__ = ["shift"]


def shift(x, by):
    """Return x + by."""
    return x + by
'''

MORE_TESTS = '''
import mini
import more
import numpy as np
import pytest

from shared.testing.checks import assert_close


@pytest.mark.grades("shift")
def test_shift(rng):
    """Every entry is moved."""
    x = rng.normal(size=(2, 3))
    assert_close(more.shift(x, 3.0), x + 3, mistakes={"looks like a product": 3 * x})


@pytest.mark.grades("norm")
def test_norm_of_integers():
    """Integers have a norm too."""
    assert_close(mini.norm(np.array([[3, 4], [6, 8]])), np.array([5.0, 10.0]))
'''


class Pressed:
    """A keyboard on which these keys are pressed, one each time that one is read."""

    def __init__(self, *keys: str) -> None:
        self.left = list(keys)

    def read(self, timeout: float | None = None) -> str:
        return self.left.pop(0)

    def flush(self) -> None:
        pass


def write_project(folder: Path, **files: str) -> Project:
    """Write the little project into `folder` and load it; `files` go to tests/, by stem."""
    texts = {
        "pyproject.toml": PYPROJECT,
        "conftest.py": 'pytest_plugins = ["shared.testing.plugin"]',
        "mini.py": REFERENCE,
        "more.py": MORE,
        "drills.toml": DRILLS,
        "tests/test_mini.py": TESTS,
        "tests/further/test_more.py": MORE_TESTS,
        "tests/hints.toml": HINTS,
        "tests/mistakes.toml": MISTAKES,
        "tests/right/plain.py": RIGHT,
    }
    texts |= {next(name for name in texts if Path(name).stem == stem): text for stem, text in files.items()}
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return load_project(folder)


@pytest.fixture
def output() -> io.StringIO:
    """What the learner's terminal shows."""
    return io.StringIO()


@pytest.fixture
def learner(tmp_path: Path, output: io.StringIO) -> Learner:
    """A learner with an empty folder, whose terminal is `output`."""
    return Learner(tmp_path / "practice", Console(file=output, width=100, no_color=True))


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge the little project as a user does, also where CI asks for more of the real ones."""
    monkeypatch.delenv("GROUNDWORK_JUDGE", raising=False)


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the little project; a child process finds `shared` too."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return write_project(tmp_path / "mini")


# --- an interactive figure of the tour ------------------------------------------------------------------------


def load_deliverable(name: str) -> ModuleType:
    """Import projects/NAME/NAME.py, the oracle of the figure of that name."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "projects" / name / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def oracle(request: pytest.FixtureRequest) -> ModuleType:
    """Return the deliverable that the test module names with FIGURE."""
    return load_deliverable(request.module.FIGURE)


@pytest.fixture(scope="module")
def figure_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes a page whose only stop is a project with its figure, and returns its path."""
    from shared.practice.schedule import Schedule
    from shared.tour import __main__ as tour

    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        stop = tour.Stop(load_project(ROOT / "projects" / name))
        stop.demo = {"numbers": {}, "tables": {}, "figures": {}}
        rows = tour.board([stop], Learner(folder, Console(file=io.StringIO())), Schedule(folder))
        path = folder / "index.html"
        path.write_text(tour.render(rows, {}, page=path), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """Start the browser, or skip where there is none."""
    from shared.tour import browser

    if reason := browser.lacking():
        pytest.skip(reason)
    with browser.browse() as chromium:
        yield chromium


@pytest.fixture
def look(chromium: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Return a function that opens a page, until the test ends."""
    from shared.tour import browser

    with contextlib.ExitStack() as stack:
        yield lambda path, **place: stack.enter_context(browser.open_page(chromium, path, **place))


@pytest.fixture(scope="module")
def one_page(chromium: "Browser", figure_page: Callable[[str], Path], request: Any) -> Iterator["Page"]:
    """Open one page with the figure of FIGURE, for the mathematics alone: nobody moves anything on it."""
    from shared.tour import browser

    with browser.open_page(chromium, figure_page(request.module.FIGURE)) as page:
        yield page


@pytest.fixture
def page(look: Callable[..., "Page"], figure_page: Callable[[str], Path], request: Any) -> "Page":
    """Open a page of its own with the figure of FIGURE, at 1280 px."""
    return look(figure_page(request.module.FIGURE))


@pytest.fixture
def walk(page: "Page") -> Callable[[str], dict[tuple[str, str], str]]:
    """Return a function that moves each slider of a figure to both ends by the keyboard, the others at their start.

    It returns what the figure says there, by slider and key.
    """

    def walk(figure: str) -> dict[tuple[str, str], str]:
        said = {}
        for slider in page.locator(f"#{figure} input[type=range]").all():
            name, start = str(slider.get_attribute("id")), slider.input_value()
            for key in ("Home", "End"):
                slider.press(key)
                assert slider.get_attribute("aria-valuetext"), f"{name} does not say its value"
                said[name, key] = page.locator(f"#{figure} output").inner_text()
                assert "NaN" not in said[name, key] + page.locator(f"#{figure} svg").inner_html()
            slider.fill(start)
        return said

    return walk
