"""Kernels: blanks, wrong solutions and practice work for .cu files as they do for modules."""

import textwrap

import pytest

from shared.practice.__main__ import Practice
from shared.projects import Project, load_project
from shared.testing.blank import blank, blank_kernel
from shared.testing.grading import Grade, grade_in_process, marks, read_wrong
from shared.testing.plugin import check_blank, check_wrong
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
WRONG = "// diagnosis: looks like the wrong axis\n// kernel: axis.cu\nint axis() { return 0; }\n"


@pytest.fixture
def cuda(tmp_path, monkeypatch) -> Project:
    folder = write_project(tmp_path / "mini", {}).folder
    for name, text in {
        "mini.py": MODULE,
        "kernels/axis.cu": KERNEL,
        "kernels/given.cu": "// nothing to write here\n",
        "tests/test_mini.py": TESTS,
        "tests/hints.toml": HINTS,
        "tests/wrong/columns.cu": WRONG,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))
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
    assert blank(cuda.folder / "kernels" / "given.cu") == "// nothing to write here\n"


def test_a_wrong_kernel_takes_the_place_of_the_right_one(cuda, tmp_path):

    wrong = read_wrong(cuda.wrong[0], cuda)
    folder = tmp_path / "answer"
    folder.mkdir()
    wrong.write(cuda, folder)
    assert sorted(path.name for path in folder.glob("kernels/*")) == ["axis.cu", "given.cu"]
    grades = grade_in_process(cuda, folder, stop_at_first=True)
    check_wrong(wrong, grades)
    assert grades[0].outcome == "failed"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("int axis() { return 0; }\n", "the first line must be '// diagnosis:"),
        (
            "// diagnosis: x\n// kernel: other.cu\n",
            "the second line must be '// kernel: <one of axis.cu, given.cu>'",
        ),
    ],
)
def test_a_wrong_kernel_without_its_header_is_refused(cuda, source, complaint):

    cuda.wrong[0].write_text(source)
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        read_wrong(cuda.wrong[0], cuda)


def test_practice_blanks_grades_and_resets_kernels(cuda, tmp_path):
    from rich.console import Console

    practice = Practice(tmp_path / "practice", Console(quiet=True))
    module, kernel, _ = practice.write_blanks(cuda)
    assert kernel == practice.folder / "mini" / "kernels" / "axis.cu"
    module.write_text((cuda.folder / "mini.py").read_text())
    grades = grade_in_process(cuda, module.parent)
    assert [grade.outcome for grade in grades] == ["blank"]
    assert marks(cuda.units, grades) == {"norm": "blank", "axis": "blank"}
    check_blank(cuda.units, grades)
    kernel.write_text(KERNEL)
    assert marks(cuda.units, grade_in_process(cuda, module.parent)) == {"norm": "passing", "axis": "passing"}
    before = practice.digest(cuda)
    backups = practice.reset(cuda)
    assert [path.suffix for path in backups] == [".py", ".cu", ".cu"]
    assert backups[1].read_text() == KERNEL
    assert practice.digest(cuda) != before


def test_a_blank_that_passes_is_noticed():
    passed = Grade("tests/test_x.py::test_x", ("axis",), "passed")
    with pytest.raises(AssertionError, match="tests that the blank file passes"):
        check_blank(("axis",), [passed])
