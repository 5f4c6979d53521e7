"""Mistakes: what a table must say, and how it becomes a wrong answer. How they are judged: test_plugin.py."""

import pytest

from shared.projects import load_projects
from shared.testing.mistakes import load_mistakes, private_names, read_record, write_answer, write_record
from shared.tests.conftest import MISTAKES, MORE, REFERENCE, write_project


def test_an_edit_and_an_addition(mini, tmp_path):
    mistakes = load_mistakes(mini)
    edit, addition, further = mistakes.values()
    assert (edit.level, addition.level, further.level) == ("core", "core", "further")
    assert (edit.is_edit, addition.is_edit) == (True, False)
    for mistake in mistakes.values():
        (tmp_path / mistake.name).mkdir()
        mistake.write(mini, tmp_path / mistake.name)
    assert "return x[:, 0]" in (tmp_path / "norm_without_root" / "mini.py").read_text()
    assert (tmp_path / "scale_ignores_factor" / "mini.py").read_text().startswith(REFERENCE.lstrip())
    assert not (
        tmp_path / "scale_ignores_factor" / "more.py"
    ).exists()  # a core mistake meets the core tests alone
    assert "return x * by" in (tmp_path / "shift_is_a_scale" / "more.py").read_text()
    assert (tmp_path / "shift_is_a_scale" / "mini.py").exists()


def test_the_reference_as_an_answer(mini, tmp_path):
    write_answer(mini, tmp_path, further=True)
    assert (tmp_path / "more.py").read_text() == MORE.lstrip()


def test_private_names_are_those_of_the_reference_alone(tmp_path):
    adds = """
def scale(x, factor=2.0):
    _mine = x
    def _inner(_y): return _check(_y)
    return _inner(_mine) * factor
"""
    table = f"[bad]\ndiagnosis = \"the factor is ignored\"\nadd = '''{adds}'''\n"
    (mistake,) = load_mistakes(write_project(tmp_path / "mini", mistakes=table)).values()
    assert private_names(mistake) == {"_check"}


def test_the_record_forgets_mistakes_that_are_gone(mini):
    assert read_record(mini) == {}
    write_record(mini, {"norm_without_root": "tests/a.py::b", "gone": "tests/a.py::c"})
    write_record(mini, {"shift_is_a_scale": "tests/a.py::d"})
    assert read_record(mini) == {"norm_without_root": "tests/a.py::b", "shift_is_a_scale": "tests/a.py::d"}
    assert MISTAKES.count("diagnosis") == 3


@pytest.mark.parametrize("project", load_projects(), ids=lambda project: project.name)
def test_every_edit_of_the_repository_still_finds_its_line(project):
    for mistake in load_mistakes(project).values():
        reference = (project.folder / mistake.file).read_text(encoding="utf-8")
        assert mistake.apply(reference) != reference
