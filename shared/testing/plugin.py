"""The judge, as a pytest plugin.

- The folder is the level: ``tests/`` grades the core, ``tests/further/`` what goes beyond it.
- ``--practice[=DIR]`` grades the files in DIR instead of the reference: with the core alone the core tests, with further
  modules theirs too. Exit status 0 says that all of these pass and nothing is left to write.
- tests/right/ becomes a test per right answer: it is accepted.
- tests/mistakes.toml becomes a test per known wrong answer: it is rejected with its own diagnosis, by the test that is
  known to catch it, or with ``--judge=full`` by the first that fails. ``--judge=record`` writes down which that was.
- tests/hints.toml becomes a test that the untouched blank passes nothing, drills.toml one per answer whose evidence is a test.
- ``@pytest.mark.requires_cuda`` tests are skipped aloud without a device, and fail where REQUIRE_CUDA=1 promises one.
"""

from __future__ import annotations

import importlib
import json
import linecache
import os
import re
import shutil
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.measuring.device import cuda_device_count, cuda_required
from shared.projects import ROOT, Project, load_project, name_in_file, read_toml
from shared.testing.blank import KERNEL_NOT_WRITTEN, blank_units
from shared.testing.grading import SYMBOLS, Grade, Report, judge
from shared.testing.mistakes import write_record
from shared.testing.proofs import (
    OUTCOMES,
    PROJECT,
    RECORD,
    BlankFails,
    DrillsFile,
    EvidencePasses,
    HintsFile,
    MistakeRejected,
    MistakesFile,
    NoTests,
    RightAnswer,
    RightFile,
)
from shared.testing.time_limits import limit_each_test

ANSWER = pytest.StashKey[Path]()
PRESENT = pytest.StashKey[tuple[str, ...]]()  # the project's files that the answer holds
BLANKS = pytest.StashKey[frozenset[str]]()  # the units of the answer that are not written
GRADES = pytest.StashKey[list[Grade]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("groundwork")
    group.addoption(
        "--practice",
        nargs="?",
        const="",
        metavar="DIR",
        help="grade the files in DIR (default: practice/<project> at the root) instead of the reference",
    )
    group.addoption(
        "--grades",
        metavar="FILE",
        help="write what is graded and what every test said to FILE, a JSON object per line",
    )
    group.addoption(
        "--judge",
        choices=("recorded", "full", "record"),
        default=os.environ.get("GROUNDWORK_JUDGE", "recorded"),  # CI says full
        help="each mistake meets the test that is known to catch it; all tests in order; all, and record which one caught it",
    )
    group.addoption(
        "--run-blanks", action="store_true", help="run the tests of units that are not written, too"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads its options
def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "grades(*units): the units that a test grades; none: the whole file",
        "module(name): the further module whose units the tests of a file grade",
        "requires_cuda: needs a CUDA device; without one it is reported as NOT RUN",
    ):
        config.addinivalue_line("markers", line)
    if "groundwork" not in read_toml(config.rootpath / "pyproject.toml").get("tool", {}):
        return  # the tests of shared/ itself: no project to judge
    project = config.stash[PROJECT] = load_project(config.rootpath)
    config.stash[GRADES], config.stash[OUTCOMES], config.stash[RECORD] = [], {}, {}
    sys.path.insert(0, str(project.folder / "tests"))  # tests/further uses the oracles there
    given = config.getoption("--practice")
    if given is None:
        return
    answer = Path(given).resolve() if given else ROOT / "practice" / project.name
    present = tuple(source for source in project.sources if (answer / source).exists())
    if not any(source.endswith(".py") for source in present):
        blank = f"`nox -s practice -- {project.name}` writes the blank file"
        raise pytest.UsageError(f"no {project.name}.py in {answer}; {blank}")
    config.stash[ANSWER], config.stash[PRESENT], config.stash[BLANKS] = answer, present, frozenset()
    sys.path.insert(0, str(answer))
    limit_each_test(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    if ANSWER not in config.stash:
        return []
    return [f"grading: {config.stash[ANSWER] / source}" for source in config.stash[PRESENT]]


# --- the answer: imported once, before any test ---------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import the answer and see what of it is written; an answer that cannot be imported is one clear line."""
    config = session.config
    if ANSWER not in config.stash:
        return
    answer, project = config.stash[ANSWER], config.stash[PROJECT]
    # else a file that was saved twice within a second, at the same length, is taken for unchanged
    shutil.rmtree(answer / "__pycache__", ignore_errors=True)
    for source in config.stash[PRESENT]:
        if source.endswith(".py"):
            import_answer(answer / source)
    written = {source: blank_units(answer / source) for source in config.stash[PRESENT]}
    blanks = config.stash[BLANKS] = frozenset(
        unit
        for unit, source in project.source_of.items()
        if source in written and name_in_file(unit, source) in written[source]
    )
    _tell(config, {"units": present_units(config), "blanks": sorted(blanks)}, mode="w")


def import_answer(path: Path) -> None:
    """Import one module of an answer.

    Raises
    ------
    pytest.UsageError
        With the line of the learner's file that failed, and why.
    """
    try:
        module = importlib.import_module(path.stem)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too
        said = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        stack = traceback.extract_tb(error.__traceback__)
        frames = [f for f in stack if Path(f.filename).parent == path.parent]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        where = frames[-1].filename if frames else str(path)
        shown = linecache.getline(where, line).strip() if line else ""
        at = f" line {line}" if line else ""
        said += f"\n    {shown}" if shown else ""
        raise pytest.UsageError(f"{Path(where).name}{at} cannot be imported: {said}") from None
    if Path(module.__file__ or "").parent != path.parent:
        raise pytest.UsageError(f"{path.stem} was imported from {module.__file__}, not from {path.parent}")


def present_units(config: pytest.Config) -> list[str]:
    """Return the units of the files that the answer holds, in reading order."""
    project, present = config.stash[PROJECT], config.stash[PRESENT]
    return [unit for unit in project.units if project.source_of[unit] in present]


def _tell(config: pytest.Config, line: dict[str, Any], mode: str = "a") -> None:
    """Write one line to the file of ``--grades`` at once, so that a run that is cut off says how far it came."""
    if target := config.getoption("--grades"):
        with open(target, mode, encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


# --- what is collected ------------------------------------------------------------------------------------------


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out tests/further where the answer is the core alone: importing those tests takes longer than running the core."""
    if ANSWER not in config.stash or _has_further(config):
        return None
    return True if collection_path == config.stash[PROJECT].folder / "tests" / "further" else None


def _has_further(config: pytest.Config) -> bool:
    further, present = config.stash[PROJECT].further_sources, config.stash[PRESENT]
    return any(source in present for source in further)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    project = parent.config.stash.get(PROJECT, None)
    if project is None:
        return None
    practice, tests = ANSWER in parent.config.stash, project.folder / "tests"
    if file_path == project.folder / "drills.toml":
        return (NoTests if practice else DrillsFile).from_parent(parent, path=file_path)
    if practice:
        return None
    if file_path in (tests / "hints.toml", tests / "mistakes.toml"):
        kind = HintsFile if file_path.stem == "hints" else MistakesFile
        return kind.from_parent(parent, path=file_path)
    if file_path in _right_files(project):
        return RightFile.from_parent(parent, path=file_path)
    return None


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Keep pytest from importing a right answer as a test module when its path is named."""
    project = parent.config.stash.get(PROJECT, None)
    if project is not None and module_path in _right_files(project):
        return NoTests.from_parent(parent, path=module_path)
    return None


def _right_files(project: Project) -> list[Path]:
    """Return the module of each right answer."""
    return [path / f"{project.name}.py" if path.is_dir() else path for path in project.right]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the core first, then what goes further, then the judge's own tests; in practice keep what concerns the answer."""
    if PROJECT not in config.stash:
        return
    items.sort(key=_rank)
    for item in items:
        if isinstance(item, pytest.Function) and _units(item) is None:
            raise pytest.UsageError(
                f"{item.nodeid}: which function does it grade? Say @pytest.mark.grades('name'), or "
                "@pytest.mark.grades() with no name if it looks at the file as a whole"
            )
    if ANSWER in config.stash:
        kept = [item for item in items if isinstance(item, pytest.Function) and _concerns(item, config)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def _rank(item: pytest.Item) -> int:
    if isinstance(item, pytest.Function):
        return int(_level(item) == "further")
    kinds: tuple[type, ...] = (BlankFails, RightAnswer, MistakeRejected, EvidencePasses)
    return next((rank for rank, kind in enumerate(kinds, start=3) if isinstance(item, kind)), 2)


def _concerns(item: pytest.Function, config: pytest.Config) -> bool:
    """Tell whether a test is about what the answer holds and has written."""
    project, present = config.stash[PROJECT], config.stash[PRESENT]
    further, units = _has_further(config), _units(item) or ()
    if not units:
        return further if _level(item) == "further" else f"{project.name}.py" in present
    if config.getoption("--run-blanks"):
        return True
    if _level(item) == "further" and not further:
        return False
    if not any(project.source_of.get(unit) in present for unit in units):
        return False
    return not config.stash[BLANKS] & set(units)


def _level(item: pytest.Item) -> str:
    """Return the level of a test, which is its folder: tests/ or tests/further/."""
    parts = item.path.relative_to(item.config.stash[PROJECT].folder).parts
    return "further" if parts[:2] == ("tests", "further") else "core"


def _units(item: pytest.Item) -> tuple[str, ...] | None:
    """Return what a test grades: its parameter `function`, or the names in its `grades` mark."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    mark, module = item.get_closest_marker("grades"), item.get_closest_marker("module")
    if isinstance(parameters.get("function"), str):
        names: tuple[str, ...] = (parameters["function"],)
    elif mark is not None:
        names = mark.args
    else:
        return None
    known = item.config.stash[PROJECT].units
    own = {name: f"{module.args[0]}.{name}" for name in names} if module else {}
    return tuple(own[name] if own.get(name) in known else name for name in names)


# --- what is reported -------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    raised = call.excinfo  # before pytest puts a skip of its own in the place of a unittest.SkipTest
    report = yield
    decisive = report.when == "call" or (report.when == "setup" and not report.passed)
    if decisive and isinstance(item, pytest.Function) and PROJECT in item.config.stash:
        report.grade = grade = _grade(item, raised, report)  # type: ignore[attr-defined]  # for shared.testing.grading
        item.config.stash[GRADES].append(grade)
        _tell(item.config, {"grade": grade.as_dict()})
        function = item.nodeid.split("[")[0]
        item.config.stash[OUTCOMES].setdefault(function, set()).add(report.outcome)
    return report


def _grade(
    item: pytest.Function, raised: pytest.ExceptionInfo[BaseException] | None, report: pytest.TestReport
) -> Grade:
    outcome: str = report.outcome
    message = where = ""
    answer = item.config.stash.get(ANSWER, None)
    if raised is not None:
        error = raised.value
        if report.failed and item.config.stash.get(BLANKS, None):  # else nothing is left to write
            not_written = raised.errisinstance(NotImplementedError) or KERNEL_NOT_WRITTEN in str(error)
            outcome = "waiting" if not_written else outcome
        message = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        if limit := re.search(r"Timeout \(>([\d.]+)s\) from pytest-timeout", message):
            message = f"did not end within {float(limit[1]):g} s: does a loop never end?"
        for entry in raised.traceback:
            if answer is not None and _is_of(answer, Path(entry.path), item.config):
                where = f"{Path(entry.path).name}:{entry.lineno + 1}"
        if outcome == "skipped" and where:
            outcome = "failed"  # it was the answer that skipped, not the test
    purpose = (item.function.__doc__ or "").strip().split("\n")[0]
    printed = "" if answer is None or outcome != "failed" else report.capstdout + report.capstderr
    return Grade(
        item.nodeid, _units(item) or (), _level(item), outcome, message, purpose, where, printed.strip()
    )


def _is_of(answer: Path, path: Path, config: pytest.Config) -> bool:
    """Tell whether a file is one of the answer's."""
    return path.is_relative_to(answer) and path.relative_to(answer).as_posix() in config.stash[PRESENT]


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if config.stash.get(RECORD, None) and config.getoption("--judge") == "record":
        write_record(config.stash[PROJECT], config.stash[RECORD])
    undone = config.stash.get(BLANKS, None) or session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    fine = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if ANSWER in config.stash and undone and session.exitstatus in fine:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """List what did not run, with the reason, and in practice the verdict on each unit."""
    if skipped := terminalreporter.stats.get("skipped", []):
        terminalreporter.section("NOT RUN")
        reasons = Counter((report.nodeid.split("[")[0], _reason(report)) for report in skipped)
        for (test, reason), count in reasons.items():
            times = f" ({count} times)" if count > 1 else ""
            terminalreporter.line(f"NOT RUN {test}{times}: {reason}")
    if BLANKS in config.stash:
        project, blanks, grades = config.stash[PROJECT], config.stash[BLANKS], config.stash[GRADES]
        report = Report(project, judge(present_units(config), blanks, grades), grades)
        terminalreporter.section(f"{project.name}: {config.stash[ANSWER]}")
        if report.spoiled:
            terminalreporter.line(f"✗ the whole file: {report.spoiled.message.splitlines()[0]}")
        for unit, verdict in report.verdicts.items():
            terminalreporter.line(f"{SYMBOLS[verdict.mark][0]} {unit}{verdict.count}")
        terminalreporter.line(report.core_line)


def _reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    return str(reason).removeprefix("Skipped: ")


# --- fixtures and devices -----------------------------------------------------------------------------------


def pytest_runtest_setup(item: pytest.Item) -> None:
    if ANSWER in item.config.stash:
        _tell(item.config, {"running": item.nodeid, "units": _units(item) or ()})
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
