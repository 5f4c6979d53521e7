"""Mistakes: what a table must say, and how it becomes a wrong answer. How they are judged: test_plugin.py."""

import pytest

from shared.projects import load_projects
from shared.testing.mistakes import (
    imported_names,
    load_mistakes,
    private_names,
    read_record,
    seen_by,
    write_answer,
    write_record,
)
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


def test_a_further_module_is_seen_by_the_tests_that_import_it(mini):
    further, seen = mini.folder / "tests" / "further", ["tests/further/test_more.py"]
    (further / "test_other.py").write_text("def test_other():\n    import helper\n")
    assert seen_by(mini, "mini.py") == ["tests"]
    assert seen_by(mini, "more.py") == seen, "test_other.py does not import it"
    assert seen_by(mini, "unused.py") == seen_by(mini, "kernels/k.cu") == ["tests/further"]
    (mini.folder / "tests" / "helper.py").write_text("from more import shift\n")
    assert seen_by(mini, "more.py") == [*seen, "tests/further/test_other.py"], "by way of a helper"
    (further / "test_third.py").write_text("def test_third(fixture):\n    pass\n")
    (mini.folder / "conftest.py").write_text("import more\n")
    imported_names.cache_clear()
    assert seen_by(mini, "more.py")[-1] == "tests/further/test_third.py", "by a fixture"


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
