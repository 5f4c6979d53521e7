"""Kernels: blanks, mistakes and practice work for .cu files as they do for modules."""

import pytest
from rich.console import Console

from shared.practice.learner import Learner, digest
from shared.projects import Project, load_project
from shared.testing.blank import blank, blank_kernel
from shared.testing.grading import Grade, grade_in_process, judge
from shared.testing.mistakes import load_mistakes
from shared.testing.proofs import check_blank, check_mistake
from shared.tests.conftest import write_project

# "Compiling" is reading here: the judge sees source files and error messages, whatever runs the kernel.
KERNEL = """\
// Which axis the norm is taken over.
int axis() {
    // practice: begin
    return 1;
    // practice: end
}
"""
MODULE = '''
"""A norm whose axis comes from a kernel."""

from pathlib import Path

import numpy as np

__all__ = ["norm"]


def norm(x):
    """Return the norm of each row."""
    source = Path(__file__).with_name("kernels").joinpath("axis.cu").read_text()
    if "#error" in source:
        raise RuntimeError(source)
    return np.sqrt((x**2).sum(axis=int(source.split("return ")[1].split(";")[0])))
'''
TESTS = '''
import mini
import numpy as np
import pytest

from shared.testing.checks import assert_close


@pytest.mark.grades("norm", "axis")
def test_norm():
    """A 3-4-5 triangle."""
    x = np.array([[3.0, 4.0], [6.0, 8.0], [5.0, 12.0]])
    assert_close(mini.norm(x), np.array([5.0, 10.0, 13.0]), hint="looks like the wrong axis")
'''
HINTS = '[norm]\nnudge = "a"\nidea = "b"\nformula = "c"\n[axis]\nnudge = "a"\nidea = "b"\nformula = "c"\n'
MISTAKES = """
[columns]
diagnosis = "looks like the wrong axis"
file = "kernels/axis.cu"
replace = "return 1;"
with = "return 0;"
"""


@pytest.fixture
def cuda(tmp_path) -> Project:
    files = {
        "mini": MODULE,
        "test_mini": TESTS,
        "hints": HINTS,
        "mistakes": MISTAKES,
        "more": "",
        "test_more": "",
    }
    folder = write_project(tmp_path / "mini", **files).folder
    (folder / "more.py").unlink()
    (folder / "kernels").mkdir()
    (folder / "kernels" / "axis.cu").write_text(KERNEL)
    (folder / "kernels" / "given.cu").write_text("// nothing to write here\n")
    return load_project(folder)


def test_the_blank_kernel_keeps_what_stands_around_the_region():
    text = blank_kernel(KERNEL, "axis.cu")
    assert "return 1" not in text
    assert (
        'int axis() {\n    // practice: begin\n#error "not written yet: axis.cu"\n    // practice: end\n}'
        in text
    )
    assert text == blank_kernel(text, "axis.cu")
    with pytest.raises(ValueError, match=r"axis\.cu: a line '// practice: begin' has no"):
        blank_kernel(KERNEL.replace("// practice: end", ""), "axis.cu")


def test_a_kernel_without_a_region_is_given(cuda):
    assert cuda.sources == ("mini.py", "kernels/axis.cu", "kernels/given.cu")
    assert blank(cuda, "kernels/given.cu") == "// nothing to write here\n"


def test_an_edit_of_a_kernel_is_a_wrong_answer(cuda, tmp_path):
    (mistake,) = load_mistakes(cuda).values()
    assert mistake.level == "core"
    mistake.write(cuda, tmp_path / "answer")
    assert sorted(path.name for path in (tmp_path / "answer").glob("kernels/*")) == ["axis.cu", "given.cu"]
    grades = grade_in_process(cuda, tmp_path / "answer", first=True)
    assert check_mistake(mistake, grades).outcome == "failed"


def marks(project, blanks, grades):
    return {unit: verdict.mark for unit, verdict in judge(project.units, blanks, grades).items()}


def test_practice_blanks_grades_and_resets_kernels(cuda, tmp_path):
    learner = Learner(tmp_path / "practice", Console(quiet=True))
    module, kernel, _ = learner.write_blanks(cuda)
    assert kernel == learner.folder / "mini" / "kernels" / "axis.cu"
    module.write_text((cuda.folder / "mini.py").read_text())
    assert grade_in_process(cuda, module.parent) == []  # the one test needs the kernel
    grades = grade_in_process(cuda, module.parent, blanks=True)
    assert [grade.outcome for grade in grades] == ["waiting"]
    assert marks(cuda, {"axis"}, grades) == {"norm": "blank", "axis": "blank"}
    check_blank(cuda.units, grades)
    kernel.write_text(KERNEL)
    assert marks(cuda, (), grade_in_process(cuda, module.parent)) == {"norm": "core", "axis": "core"}
    before = digest(learner.files(cuda))
    backups = learner.reset(cuda)
    assert [path.suffix for path in backups] == [".py", ".cu", ".cu"]
    assert backups[1].read_text() == KERNEL
    assert digest(learner.files(cuda)) != before


def test_a_blank_that_passes_is_noticed():
    passed = Grade("tests/test_x.py::test_x", ("axis",), "core", "passed")
    with pytest.raises(AssertionError, match="tests that the blank file passes"):
        check_blank(("axis",), [passed])


def test_a_test_that_diagnoses_a_blank_is_noticed():
    failed = Grade("tests/test_x.py::test_x", ("axis",), "core", "failed", "AttributeError: GradcheckError")
    with pytest.raises(
        AssertionError, match=r"only not written yet:\ntests/test_x\.py::test_x: AttributeError"
    ):
        check_blank(("axis",), [failed])


@pytest.fixture
def plumbed(cuda) -> Project:
    """The little project with a given module, and one kernel of the core and one that goes further."""
    (cuda.folder / "plumbing.py").write_text(
        '"""Given."""\n\n\ndef load(name):\n    return _path / name\n\n\n_path = "."\n'
    )
    own = cuda.folder / "pyproject.toml"
    own.write_text(
        own.read_text().replace("order =", 'given = ["plumbing"]\ncore_kernels = ["axis"]\norder =')
    )
    return load_project(cuda.folder)


def test_a_project_says_what_is_given_and_which_kernels_are_core(plumbed):
    assert plumbed.core_sources == ("mini.py", "kernels/axis.cu", "plumbing.py")
    assert plumbed.further_sources == ("kernels/given.cu",)


def test_a_learner_gets_what_is_given_as_it_is(plumbed, tmp_path):
    learner = Learner(tmp_path / "practice", Console(quiet=True))
    names = [path.name for path in learner.write_blanks(plumbed)]
    assert names == ["mini.py", "axis.cu", "plumbing.py"]
    assert (learner.folder / "mini" / "plumbing.py").read_text() == (
        plumbed.folder / "plumbing.py"
    ).read_text()
    assert [path.name for path in learner.write_blanks(plumbed, further=True)] == ["given.cu"]
    learner.reset(plumbed)
    assert (learner.folder / "mini" / "kernels" / "given.cu").exists()  # she had gone further
