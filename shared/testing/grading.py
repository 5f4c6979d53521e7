"""Run a project's own tests against another answer: a learner's file, a known wrong solution, or the blank."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.projects import Project

# pytest's own plugins that a nested run does not need: they reach outside it, or collect garbage after each test
NESTED_WITHOUT = ("cacheprovider", "faulthandler", "logging", "threadexception", "unraisableexception")


@dataclass(frozen=True)
class Grade:
    """What one test said about an answer."""

    nodeid: str
    units: tuple[str, ...]  # the public functions it grades; empty: the file as a whole
    outcome: str  # "passed", "failed", "blank" (not written yet) or "skipped"
    message: str = ""  # the diagnosis
    purpose: str = ""  # first line of the test's docstring
    where: str = ""  # "file:line" in the graded file, when the failure arose there

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass
class _Recorder:
    """A pytest plugin that keeps the grades of a run."""

    grades: list[Grade] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if hasattr(report, "grade"):
            self.grades.append(report.grade)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.errors.append(str(report.longrepr))


class CannotGradeError(Exception):
    """The answer could not even be imported, or pytest refused to run."""


def grade_in_process(project: Project, answer: Path, *, stop_at_first: bool = False) -> list[Grade]:
    """Grade the modules in folder `answer` by `project`'s tests, inside this process.

    A nested pytest saves the seconds that a new process spends on importing NumPy, SciPy and torch; the project's own
    modules and tests are imported afresh and put back afterwards.
    """
    import pytest

    recorder = _Recorder()
    arguments = [
        str(project.folder / "tests"),
        f"--practice={answer}",
        *(f"-pno:{name}" for name in NESTED_WITHOUT),
        *(
            "--capture=sys",
            "--tb=native",
            "-q",
        ),  # native: formatting source lines would cost most of the time
        *(["-x"] if stop_at_first else []),
    ]
    output = io.StringIO()
    with _fresh_imports(project), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = pytest.main(arguments, plugins=[recorder])
    if recorder.errors or status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise CannotGradeError("\n".join(recorder.errors) or output.getvalue())
    return recorder.grades


@contextlib.contextmanager
def _fresh_imports(project: Project) -> Iterator[None]:
    """Hide the project's modules and tests from the import system for the duration of the block."""
    own = {*project.modules, *(path.stem for path in (project.folder / "tests").glob("*.py"))}
    path, hidden = list(sys.path), {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    try:
        yield
    finally:
        sys.path[:] = path
        for name in own & set(sys.modules):
            del sys.modules[name]
        sys.modules.update(hidden)


def first_problem(grades: Iterable[Grade]) -> Grade | None:
    """Return the first failure in test order, blanks only if nothing else fails."""
    grades = list(grades)
    for outcome in ("failed", "blank"):
        for grade in grades:
            if grade.outcome == outcome:
                return grade
    return None


def marks(units: Iterable[str], grades: Iterable[Grade]) -> dict[str, str]:
    """Mark each unit "passing", "failing" or "blank": what the practice board shows.

    A unit passes when every test that grades it does, and the tests of the file as a whole do too.
    """
    grades = list(grades)
    whole_file_fails = any(grade.outcome == "failed" for grade in grades if not grade.units)
    found = {}
    for unit in units:
        outcomes = {grade.outcome for grade in grades if unit in grade.units}
        if "failed" in outcomes or whole_file_fails:
            found[unit] = "failing"
        elif "blank" in outcomes:
            found[unit] = "blank"
        else:
            found[unit] = "passing" if "passed" in outcomes else "failing"
    return found


@dataclass(frozen=True)
class WrongSolution:
    """A file of tests/wrong/ and the diagnosis it must get.

    A ``.py`` file is an override, appended to the reference `source`; a ``.cu`` file takes the place of that kernel.
    """

    path: Path
    source: str  # the file of the project that it changes
    diagnosis: str

    def write(self, project: Project, folder: Path) -> None:
        """Write the wrong answer into `folder`: the changed module, or the main one beside the changed kernel."""
        text = self.path.read_text(encoding="utf-8")
        module = self.source if self.path.suffix == ".py" else f"{project.name}.py"
        reference = (project.folder / module).read_text(encoding="utf-8")
        wrong = f"{reference}\n\n{text}" if self.path.suffix == ".py" else reference
        (folder / module).write_text(wrong, encoding="utf-8")
        for kernel in project.kernels:  # the module loads them from the folder beside it
            (folder / "kernels").mkdir(exist_ok=True)
            shutil.copy(kernel, folder / "kernels" / kernel.name)
        if self.path.suffix == ".cu":
            (folder / self.source).write_text(text, encoding="utf-8")


def read_wrong(path: Path, project: Project) -> WrongSolution:
    """Read the header of a wrong solution: ``# diagnosis: …``, and below it what it changes.

    That is ``# module: name``, by default the main one; in a kernel ``// diagnosis: …`` and ``// kernel: name.cu``.
    """
    comment = "//" if path.suffix == ".cu" else "#"
    header: Mapping[str, str] = dict(
        line.removeprefix(comment).strip().split(": ", 1)
        for line in path.read_text(encoding="utf-8").splitlines()[:2]
        if line.startswith(comment) and ": " in line
    )
    if not header.get("diagnosis"):
        raise ValueError(
            f"{path}: the first line must be '{comment} diagnosis: <text that the first failure shows>'"
        )
    if path.suffix == ".py":
        return WrongSolution(path, f"{header.get('module', project.name)}.py", header["diagnosis"])
    kernels = [kernel.name for kernel in project.kernels]
    if header.get("kernel") not in kernels:
        raise ValueError(f"{path}: the second line must be '// kernel: <one of {', '.join(kernels)}>'")
    return WrongSolution(path, f"kernels/{header['kernel']}", header["diagnosis"])
