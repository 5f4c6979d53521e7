"""The judge, as a pytest plugin.

- ``--practice[=DIR]`` grades a learner's files instead of the reference: the same tests, another import path.
- Every file in tests/wrong/ becomes a test that the known wrong solution fails, with its own diagnosis.
- tests/hints.toml becomes a test that the untouched blank passes nothing.
- drills.toml becomes a test per answer whose evidence is a test: that it ran here, and passed.
- ``@pytest.mark.requires_cuda`` tests are skipped aloud without a device, and fail where REQUIRE_CUDA=1 promises one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.testing.blank import KERNEL_NOT_WRITTEN, blank
from shared.measuring.device import cuda_device_count, cuda_required
from shared.testing.grading import CannotGradeError, Grade, WrongSolution, grade_in_process, marks, read_wrong
from shared.projects import ROOT, Project, load_project, read_toml

PROJECT = pytest.StashKey[Project]()
ANSWER = pytest.StashKey[Path]()
GRADES = pytest.StashKey[list[Grade]]()
OUTCOMES = pytest.StashKey[dict[str, set[str]]]()  # by test function, over its parameters
MARKS = {"passing": "passes", "failing": "FAILS", "blank": "blank"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("groundwork")
    group.addoption(
        "--practice",
        nargs="?",
        const="",
        metavar="DIR",
        help="grade the files in DIR (default: practice/<project> at the root) instead of the reference",
    )
    group.addoption("--grades", metavar="FILE", help="write what every test said to FILE as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "grades(*units): the public functions that a test grades; none: the whole file"
    )
    config.addinivalue_line(
        "markers", "requires_cuda: needs a CUDA device; without one it is reported as NOT RUN"
    )
    if "groundwork" not in read_toml(config.rootpath / "pyproject.toml").get("tool", {}):
        return  # the tests of shared/ itself: no project to judge
    project = config.stash[PROJECT] = load_project(config.rootpath)
    config.stash[GRADES], config.stash[OUTCOMES] = [], {}
    given = config.getoption("--practice")
    if given is None:
        return
    answer = Path(given).resolve() if given else ROOT / "practice" / project.name
    if not any((answer / f"{module}.py").exists() for module in project.modules):
        raise pytest.UsageError(
            f"no {project.name}.py in {answer}; `nox -s practice -- {project.name}` writes the blank file"
        )
    config.stash[ANSWER] = answer
    sys.path.insert(0, str(answer))


def pytest_report_header(config: pytest.Config) -> list[str]:
    if ANSWER not in config.stash:
        return []
    project, answer = config.stash[PROJECT], config.stash[ANSWER]
    return [f"grading: {answer / source}" for source in project.sources if (answer / source).exists()]


# --- what is collected --------------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    project = parent.config.stash.get(PROJECT, None)
    if project is None:
        return None
    if file_path == project.folder / "drills.toml":
        practice = ANSWER in parent.config.stash
        return (_NoTests if practice else _DrillsFile).from_parent(parent, path=file_path)
    if ANSWER in parent.config.stash:
        return None
    if file_path in project.wrong:
        return _JudgeFile.from_parent(parent, path=file_path)
    if file_path == project.folder / "tests" / "hints.toml":
        return _JudgeFile.from_parent(parent, path=file_path)
    return None


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Keep pytest from importing a wrong solution as a test module when its path is named."""
    project = parent.config.stash.get(PROJECT, None)
    if project is not None and module_path in project.wrong:
        return _NoTests.from_parent(parent, path=module_path)
    return None


class _NoTests(pytest.File):
    def collect(self) -> Iterable[pytest.Item]:
        return []


class _JudgeFile(pytest.File):
    """A file whose only test is about the judge itself."""

    def collect(self) -> Iterable[pytest.Item]:
        kind = _BlankFails if self.path.suffix == ".toml" else _WrongSolutionFails
        yield kind.from_parent(self, name="fails")


class _JudgeItem(pytest.Item):
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if excinfo.errisinstance((AssertionError, CannotGradeError, ValueError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


class _WrongSolutionFails(_JudgeItem):
    """The known wrong solution fails, and the first failure names its mistake."""

    def runtest(self) -> None:
        project = self.config.stash[PROJECT]
        wrong = read_wrong(self.path, project)
        with tempfile.TemporaryDirectory() as folder:
            wrong.write(project, Path(folder))
            check_wrong(wrong, grade_in_process(project, Path(folder), stop_at_first=True))


def check_wrong(wrong: WrongSolution, grades: list[Grade]) -> None:
    """Assert that the first failure among `grades` names the mistake of `wrong`."""
    failure = next((grade for grade in grades if grade.outcome in ("failed", "blank")), None)
    if failure is None:
        raise AssertionError(
            f"a wrong answer passes: no test fails for {wrong.path.name} ({wrong.diagnosis})"
        )
    if " ".join(wrong.diagnosis.split()) not in " ".join(failure.message.split()):
        raise AssertionError(
            f"{wrong.path.name} fails for another reason\nexpected diagnosis: {wrong.diagnosis}\n"
            f"first failure: {failure.nodeid}\n{failure.message}"
        )


class _BlankFails(_JudgeItem):
    """The blank file passes no test that grades a function, and every function is graded by at least one test."""

    def runtest(self) -> None:
        project = self.config.stash[PROJECT]
        with tempfile.TemporaryDirectory() as folder:
            for source in project.sources:
                target = Path(folder, source)
                target.parent.mkdir(exist_ok=True)
                target.write_text(blank(project.folder / source), encoding="utf-8")
            check_blank(project.units, grade_in_process(project, Path(folder)))


class _DrillsFile(pytest.File):
    """The answers of the drills that name a test as their evidence; the tour runs the commands."""

    def collect(self) -> Iterable[pytest.Item]:
        for drill in read_toml(self.path)["drill"]:
            if "::" in drill["evidence"]:
                yield _EvidencePasses.from_parent(self, name=drill["id"], evidence=drill["evidence"])


class _EvidencePasses(_JudgeItem):
    """The test that proves an answer was run, not only skipped, and passed."""

    def __init__(self, *, evidence: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.evidence = evidence

    def runtest(self) -> None:
        outcomes = self.config.stash[OUTCOMES].get(self.evidence, {"not run; call pytest without arguments"})
        if "passed" not in outcomes or "failed" in outcomes:
            raise AssertionError(
                f"the answer of {self.name} has no proof: {self.evidence}: {', '.join(outcomes)}"
            )


def check_blank(units: tuple[str, ...], grades: list[Grade]) -> None:
    """Assert that the blank passes no test that grades a unit, and that each unit is graded."""
    passed = [grade.nodeid for grade in grades if grade.units and grade.outcome == "passed"]
    if passed:
        raise AssertionError("tests that the blank file passes, so they prove nothing:\n" + "\n".join(passed))
    graded = {unit for grade in grades for unit in grade.units}
    if graded != set(units):
        raise AssertionError(
            f"hints.toml and the tests disagree: without a test {sorted(set(units) - graded)}, "
            f"without hints {sorted(graded - set(units))}"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    project = config.stash.get(PROJECT, None)
    if project is None:
        return
    if ANSWER in config.stash:  # the README's examples belong to the reference
        items[:] = [item for item in items if isinstance(item, pytest.Function)]
    items.sort(key=lambda item: isinstance(item, _EvidencePasses))  # after what they look at
    for item in items:
        if isinstance(item, pytest.Function) and _units(item) is None:
            raise pytest.UsageError(
                f"{item.nodeid}: which function does it grade? Say @pytest.mark.grades('name'), or "
                "@pytest.mark.grades() with no name if it looks at the file as a whole"
            )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make sure that the learner's file, not the reference, is what the tests imported."""
    answer = session.config.stash.get(ANSWER, None)
    if answer is None:
        return
    for module in session.config.stash[PROJECT].modules:
        imported = getattr(sys.modules.get(module), "__file__", None)
        if (answer / f"{module}.py").exists() and imported and Path(imported).parent != answer:
            raise pytest.UsageError(f"{module} was imported from {imported}, not from {answer}")


def _units(item: pytest.Item) -> tuple[str, ...] | None:
    """Return what a test grades: its parameter `function`, or the names in its `grades` mark."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if isinstance(parameters.get("function"), str):
        return (parameters["function"],)
    mark = item.get_closest_marker("grades")
    return None if mark is None else tuple(mark.args)


# --- what is reported ---------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    raised = call.excinfo  # before pytest puts a skip of its own in the place of a unittest.SkipTest
    report = yield
    decisive = report.when == "call" or (report.when == "setup" and not report.passed)
    if decisive and isinstance(item, pytest.Function) and PROJECT in item.config.stash:
        grade = _grade(item, raised, report)
        report.grade = grade  # type: ignore[attr-defined]  # read by shared.testing.grading in a nested run
        item.config.stash[GRADES].append(grade)
        function = item.nodeid.split("[")[0]
        item.config.stash[OUTCOMES].setdefault(function, set()).add(report.outcome)
    return report


def _grade(
    item: pytest.Function, raised: pytest.ExceptionInfo[BaseException] | None, report: pytest.TestReport
) -> Grade:
    outcome: str = report.outcome
    message = where = ""
    if raised is not None:
        error = raised.value
        not_written = raised.errisinstance(NotImplementedError) or KERNEL_NOT_WRITTEN in str(error)
        outcome = "blank" if not_written and report.failed else outcome
        message = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        answer = item.config.stash.get(ANSWER, None)
        for entry in raised.traceback:
            if answer is not None and Path(entry.path).parent == answer:
                where = f"{Path(entry.path).name}:{entry.lineno + 1}"
        if outcome == "skipped" and where:
            outcome = "failed"  # it was the answer that skipped, not the test
    purpose = (item.function.__doc__ or "").strip().split("\n")[0]
    return Grade(item.nodeid, _units(item) or (), outcome, message, purpose, where)


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--grades")
    if target and PROJECT in session.config.stash:
        rows = [grade.as_dict() for grade in session.config.stash[GRADES]]
        Path(target).write_text(json.dumps(rows), encoding="utf-8")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """List what did not run, with the reason, and in practice the verdict on each function."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("NOT RUN")
        reasons = Counter((report.nodeid.split("[")[0], _reason(report)) for report in skipped)
        for (test, reason), count in reasons.items():
            times = f" ({count} times)" if count > 1 else ""
            terminalreporter.line(f"NOT RUN {test}{times}: {reason}")
    if ANSWER in config.stash:
        project = config.stash[PROJECT]
        terminalreporter.section(f"{project.name}: {config.stash[ANSWER]}")
        grades = config.stash[GRADES]
        for unit, mark in marks(project.units, grades).items():
            terminalreporter.line(f"{MARKS[mark]:>7}  {unit}")


def _reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    return str(reason).removeprefix("Skipped: ")


# --- fixtures and devices -----------------------------------------------------------------------------------


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("requires_cuda") is None or cuda_device_count() > 0:
        return
    if cuda_required():
        pytest.fail("REQUIRE_CUDA=1 promises a CUDA device, but the driver offers none")
    pytest.skip("no CUDA device on this machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Run each test with NumPy's own error settings: an answer may not silence its warnings for good."""
    with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
        return (yield)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator that depends on the test's name only, so that tests can be added without moving others."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> Any:
    """Return a ``torch.Generator`` that depends on the test's name only."""
    import torch

    return torch.Generator().manual_seed(zlib.crc32(request.node.name.encode()))
