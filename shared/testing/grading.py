"""Run a project's own tests against another answer: a learner's files, a right answer, a mistake, or the blank."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.projects import Project

TIME_LIMIT_S = 10  # for one test of an answer
SYMBOLS = {  # mark: symbol, the same in ASCII, and what it says
    "blank": ("·", ".", "blank"),
    "failing": ("✗", "x", "failing"),
    "core": ("✓", "+", "core"),
    "all": ("★", "*", "everything"),
}
# pytest's own plugins that a nested run does not need: they reach outside it, or collect garbage after each test
NESTED_WITHOUT = ("cacheprovider", "faulthandler", "logging", "threadexception", "unraisableexception")


@dataclass(frozen=True)
class Grade:
    """What one test said about an answer."""

    nodeid: str
    units: tuple[str, ...]  # what it grades; empty: the file as a whole
    level: str  # "core" or "further"
    outcome: str  # "passed", "failed", "skipped", or "waiting": it met a unit that is not written
    message: str = ""  # the diagnosis
    purpose: str = ""  # first line of the test's docstring
    where: str = ""  # "file:line" in the graded file, when the failure arose there
    printed: str = ""  # what the answer wrote to the terminal

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Grade:
        """Return the grade that `as_dict` gave."""
        return cls(**{**data, "units": tuple(data["units"])})


@dataclass(frozen=True)
class Verdict:
    """What all tests together said about one unit."""

    mark: str  # "blank", "failing", "core" (its core tests pass), or "all" (graded further: nothing fails)
    passed: int
    ran: int

    @property
    def count(self) -> str:
        """How many of its tests passed, as the end of a line."""
        return f" {self.passed}/{self.ran}" if self.ran and self.mark != "blank" else ""

    @property
    def passes(self) -> bool:
        """Whether it is right as far as the core goes."""
        return self.mark in ("core", "all")


def judge(units: Iterable[str], blanks: Iterable[str], grades: Iterable[Grade]) -> dict[str, Verdict]:
    """Return the verdict on each unit. One that is blank, or waits with all its tests for another one, is blank."""
    grades, blanks = list(grades), set(blanks)
    went_further = any(grade.level == "further" and grade.outcome in ("passed", "failed") for grade in grades)
    verdicts = {}
    for unit in units:
        told = [grade for grade in grades if unit in grade.units and grade.outcome in ("passed", "failed")]
        passed = sum(grade.outcome == "passed" for grade in told)
        failed = {grade.level for grade in told if grade.outcome == "failed"}
        core = {grade.level for grade in told} - {"further"}
        if unit in blanks or (not told and any(unit in grade.units for grade in grades)):
            mark = "blank"
        elif not told or "core" in failed or (failed and not core):
            mark = "failing"
        else:
            mark = "core" if failed or not went_further else "all"
        verdicts[unit] = Verdict(mark, passed, len(told))
    return verdicts


def first_failure(grades: Iterable[Grade]) -> Grade | None:
    """Return what to show: a failure of the file as a whole, then of the core, then of what goes further."""
    failures = [grade for grade in grades if grade.outcome == "failed"]
    return min(failures, key=lambda grade: (bool(grade.units), grade.level != "core"), default=None)


@dataclass(frozen=True)
class Report:
    """What the tests said about a folder of answers."""

    project: Project
    verdicts: dict[str, Verdict]
    grades: list[Grade]

    @property
    def failure(self) -> Grade | None:
        """The failure to show first."""
        return first_failure(self.grades)

    @property
    def spoiled(self) -> Grade | None:
        """What is wrong with the file as a whole."""
        return next((grade for grade in self.grades if not grade.units and grade.outcome == "failed"), None)

    @property
    def core_passing(self) -> int:
        """How many units of the core pass."""
        return sum(unit in self.verdicts and self.verdicts[unit].passes for unit in self.project.core_units)

    @property
    def is_ready(self) -> bool:
        """Whether the core passes, the file as a whole included."""
        return not self.spoiled and self.core_passing == len(self.project.core_units)

    @property
    def core_line(self) -> str:
        """How much of the core passes: "core 7/8", or "core 8/8, interview-ready"."""
        line = f"core {self.core_passing}/{len(self.project.core_units)}"
        return f"{line}, interview-ready" if self.is_ready else line


class CannotGradeError(Exception):
    """The answer could not even be imported, or pytest refused to run."""


@dataclass(eq=False)  # pytest 9.0 puts its plugins into a set
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


def grade_in_process(
    project: Project,
    answer: Path,
    *,
    tests: Sequence[str] = ("tests",),
    first: bool = False,
    blanks: bool = False,
) -> list[Grade]:
    """Grade the files in folder `answer` by `project`'s tests (node ids, all by default), inside this process.

    With `first`, stop at the first failure; with `blanks`, run the tests of what is not written too. A nested pytest saves
    the seconds that a new process spends on importing NumPy, SciPy and torch; the project's own modules and tests are
    imported afresh and put back afterwards.
    """
    import pytest

    recorder = _Recorder()
    options = [
        f"--practice={answer}",
        "--capture=sys",
        "--tb=native",
        "-q",
    ]  # native: source lines cost most of the time
    options += [f"-pno:{name}" for name in NESTED_WITHOUT]
    options += ["-x"] if first else []
    options += ["--run-blanks"] if blanks else []
    output = io.StringIO()
    with (
        contextlib.chdir(
            project.folder
        ),  # relative paths: pytest takes a "[" in one for the start of a parameter
        _fresh_imports(project),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        status = pytest.main([*tests, *options], plugins=[recorder])
    if recorder.errors or status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise CannotGradeError("\n".join(recorder.errors) or output.getvalue())
    return recorder.grades


@contextlib.contextmanager
def _fresh_imports(project: Project) -> Iterator[None]:
    """Hide the project's modules and tests from the import system for the duration of the block."""
    own = {*project.modules, *(path.stem for path in (project.folder / "tests").rglob("*.py"))}
    path, hidden = list(sys.path), {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    try:
        yield
    finally:
        sys.path[:] = path
        for name in own & set(sys.modules):
            del sys.modules[name]
        sys.modules.update(hidden)
