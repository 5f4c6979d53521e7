"""The blank: what a learner is given, and what must not be given away."""

import ast
import types

import pytest

from shared.projects import load_projects
from shared.testing.blank import blank_source, blank_unit, blank_units, leaked_names
from shared.tests.conftest import REFERENCE

MODULE = '''
"""A module.

How it is fast: by a trick
that takes two lines.

What it promises.
"""
import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Layer", "identity", "scaled"]

_SECRET = 42  # gone
_DEFAULT = 3.0


def scaled(x, *, by=_DEFAULT):
    """Return by·x.

    Raises
    ------
    ValueError
        Never.
    """
    return by * _helper(x)


def identity(x: ArrayLike, f: Callable = max):
    """Only a docstring."""


# --- helpers ---


# how the trick works, in three
# lines of prose
def _helper(x):
    """Do the trick."""
    return x


# --- layers ---


class Layer:
    """A layer."""

    width: int = 4
    _cache = None

    def __init__(self, width):
        self.width = width

    @property
    def n_parameters(self) -> int:
        """Count them."""
        return self.width

    def _private(self):
        return 1
'''


def test_bodies_go_and_signatures_stay():
    blank = blank_source(MODULE)
    assert "_SECRET" not in blank
    assert "_helper" not in blank
    assert "_private" not in blank
    assert "trick" not in blank
    assert "return" not in blank.replace("Return", "")
    assert "_DEFAULT = 3.0" in blank  # a default value refers to it
    assert "width: int = 4" in blank
    assert blank.count("raise NotImplementedError") == 4
    assert '"""Only a docstring."""\n    raise NotImplementedError' in blank
    assert '        Never.\n    """\n    raise NotImplementedError' in blank


def test_what_only_the_bodies_need_is_gone():
    blank = blank_source(MODULE)
    assert "import math" not in blank
    assert "from collections.abc import Callable\n" in blank
    assert "import numpy as np\nfrom numpy.typing import ArrayLike\n" in blank
    assert "# --- helpers" not in blank
    assert "# --- layers ---\n\n\nclass Layer" in blank
    assert "How it is fast" not in blank
    assert "two lines" not in blank
    assert '"""A module.\n\nWhat it promises.\n"""' in blank


def test_a_name_that_is_gone_may_not_be_mentioned():
    assert leaked_names(MODULE) == set()
    assert leaked_names(MODULE.replace("Return by·x", "Return by·x, see _helper")) == {"_helper"}


def test_one_unit_is_blank_and_all_else_is_there(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(blank_unit(MODULE, "scaled"))
    text = path.read_text()
    assert blank_units(path) == {"scaled"}
    assert "_helper" not in text  # only it used that
    assert "trick" not in text
    assert "_DEFAULT = 3.0" in text
    assert "self.width = width" in text
    assert "import math" in text
    path.write_text(blank_unit(MODULE, "Layer"))
    assert blank_units(path) == {"Layer", "Layer.__init__", "Layer.n_parameters"}
    assert "_private" not in path.read_text()
    assert "return by * _helper(x)" in path.read_text()


@pytest.mark.parametrize("project", load_projects(), ids=lambda project: project.name)
def test_each_unit_of_a_core_can_be_blank_alone(project, tmp_path):
    for unit in (unit for unit in project.core_units if "." not in unit):
        source = project.source_of[unit]
        if source.endswith(".py"):
            path = tmp_path / source
            path.write_text(blank_unit((project.folder / source).read_text(encoding="utf-8"), unit))
            assert {name.split(".")[0] for name in blank_units(path)} == {unit}


def test_what_is_not_written_yet(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(blank_source(MODULE))
    methods = {"Layer.__init__", "Layer.n_parameters"}
    assert blank_units(path) == {"scaled", "identity", "Layer", *methods}
    path.write_text(path.read_text().replace("raise NotImplementedError", "return 1", 1))
    assert blank_units(path) == {"identity", "Layer", *methods}
    last = "self, width):\n        raise NotImplementedError"
    path.write_text(path.read_text().replace(last, "self, width):\n        self.width = width"))
    assert blank_units(path) == {"identity", "Layer.n_parameters"}
    path.write_text(MODULE)
    assert blank_units(path) == {"identity"} - {"identity"}


def test_every_public_name_of_the_blank_raises():
    module = types.ModuleType("blank")
    exec(blank_source(MODULE), module.__dict__)
    for call in (lambda: module.scaled(1.0), lambda: module.identity(1), lambda: module.Layer(3)):
        with pytest.raises(NotImplementedError):
            call()
    assert module.__all__ == ["Layer", "identity", "scaled"]


def test_what_only_a_private_method_names_is_not_imported():
    module = """
from other import Part, Whole


class Layer:
    def parts(self) -> list[Whole]:
        return self._parts()

    def _parts(self) -> list[Part]:
        return []
"""
    blank = blank_source(module)
    assert "from other import Whole\n" in blank
    assert "Part" not in blank


def test_the_comment_above_a_private_constant_goes_with_it():
    blank = blank_source(REFERENCE)
    assert "_AXIS" not in blank
    assert "this comment goes" not in blank
    assert "LIMIT = 10" in blank


@pytest.mark.parametrize("project", load_projects(), ids=lambda project: project.name)
def test_every_project_has_a_blank_with_the_same_public_names(project):
    for module in project.modules:
        source = (project.folder / f"{module}.py").read_text(encoding="utf-8")
        blank = blank_source(source)

        def public(text):
            return {n.name for n in ast.parse(text).body if hasattr(n, "name") and not n.name.startswith("_")}

        assert public(blank) == public(source)
        assert blank == blank_source(blank)
