"""The blank: what a learner is given, and what must not be given away."""

import ast
import types

import pytest

from shared.projects import load_projects
from shared.testing.blank import blank_source
from shared.tests.conftest import REFERENCE

MODULE = '''
"""A module."""
import math

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


def identity(x):
    """Only a docstring."""


# how the trick works, in three
# lines of prose
def _helper(x):
    """Do the trick."""
    return x


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


def test_every_public_name_of_the_blank_raises():
    module = types.ModuleType("blank")
    exec(blank_source(MODULE), module.__dict__)
    for call in (lambda: module.scaled(1.0), lambda: module.identity(1), lambda: module.Layer(3)):
        with pytest.raises(NotImplementedError):
            call()
    assert module.__all__ == ["Layer", "identity", "scaled"]


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
