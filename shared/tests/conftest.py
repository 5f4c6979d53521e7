"""A complete little project in a temporary folder, for the tools to work on."""

import textwrap
from pathlib import Path

import pytest

from shared.projects import ROOT, Project, load_project

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
"""

DRILLS = """
[[drill]]
id = "what-is-a-norm"
question = "What is a norm?"
topic = "neurons"
answer = "A length. Here it is {length}."
evidence = "python demo.py"
"""

WRONG = {
    "norm_without_root": """
        # diagnosis: looks like the rows are not summed
        def norm(x):
            return x[:, 0]
    """,
    "scale_ignores_factor": """
        # diagnosis: the factor is ignored
        def scale(x, factor=2.0):
            return x * 2.0
    """,
}


def write_project(folder: Path, wrong: dict[str, str] = WRONG) -> Project:
    """Write the little project into `folder` and load it."""
    files = {
        "pyproject.toml": PYPROJECT,
        "conftest.py": 'pytest_plugins = ["shared.testing.plugin"]',
        "mini.py": REFERENCE,
        "drills.toml": DRILLS,
        "tests/test_mini.py": TESTS,
        "tests/hints.toml": HINTS,
        **{f"tests/wrong/{name}.py": source for name, source in wrong.items()},
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return load_project(folder)


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the little project; a child process finds `shared` too."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return write_project(tmp_path / "mini")
