"""The proofs of the judge itself, as pytest items: right answers pass, mistakes fail for their reason, blanks pass nothing.

Each file of a project's tests/ that is not a test module (right/, mistakes.toml, hints.toml) and its drills.toml become
tests here; shared.testing.plugin collects them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from shared.projects import Project, read_toml
from shared.testing.blank import blank, leaked_names
from shared.testing.grading import CannotGradeError, Grade, first_failure, grade_in_process, judge
from shared.testing.mistakes import Mistake, load_mistakes, read_record, seen_by

PROJECT = pytest.StashKey[Project]()
OUTCOMES = pytest.StashKey[dict[str, set[str]]]()  # by test function, over its parameters
RECORD = pytest.StashKey[dict[str, str]]()  # with --judge=record: the test that caught each mistake


class NoTests(pytest.File):
    def collect(self) -> Iterable[pytest.Item]:
        return []


class JudgeItem(pytest.Item):
    """A test about the judge itself."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if excinfo.errisinstance((AssertionError, CannotGradeError, ValueError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name

    @property
    def project(self) -> Project:
        return self.config.stash[PROJECT]


class HintsFile(pytest.File):
    def collect(self) -> Iterable[pytest.Item]:
        yield BlankFails.from_parent(self, name="blank_fails")


class RightFile(pytest.File):
    def collect(self) -> Iterable[pytest.Item]:
        yield RightAnswer.from_parent(self, name="accepted")


class MistakesFile(pytest.File):
    def collect(self) -> Iterable[pytest.Item]:
        try:
            mistakes = load_mistakes(self.config.stash[PROJECT])
        except ValueError as error:
            raise self.CollectError(f"tests/mistakes.toml: {error}") from None
        for name, mistake in mistakes.items():
            yield MistakeRejected.from_parent(self, name=name, mistake=mistake)


class MistakeRejected(JudgeItem):
    """The wrong answer fails, and the first failure names its mistake."""

    def __init__(self, *, mistake: Mistake, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mistake = mistake

    def runtest(self) -> None:
        mode, known = self.config.getoption("--judge"), read_record(self.project).get(self.name)
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder).resolve()
            self.mistake.write(self.project, answer)
            if mode == "recorded" and known and self._is_caught_by(known, answer):
                return
            # the other tests would only take their time
            tests = seen_by(self.project, self.mistake.file)
            grades = grade_in_process(self.project, answer, tests=tests, first=True)
        failure = check_mistake(self.mistake, grades)
        if self.mistake.level != failure.level and self.mistake.file in self.project.core_sources:
            raise AssertionError(
                f"{self.name} says level = 'further', but a core test rejects it: {failure.nodeid}"
            )
        self.config.stash[RECORD][self.name] = failure.nodeid
        if mode == "full" and known != failure.nodeid:
            raise AssertionError(
                f"tests/caught_by.json says that {known or 'nothing'} catches {self.name}, but {failure.nodeid} does first: "
                f"nox -s catalogue -- {self.project.name}"
            )

    def _is_caught_by(self, test: str, answer: Path) -> bool:
        try:
            check_mistake(self.mistake, grade_in_process(self.project, answer, tests=[test]))
        except (AssertionError, CannotGradeError):
            return False  # the record is out of date: all tests are asked
        return True


def check_mistake(mistake: Mistake, grades: list[Grade]) -> Grade:
    """Assert that the first failure among `grades` names the mistake; return it."""
    failure = next((grade for grade in grades if grade.outcome == "failed"), None)
    if failure is None:
        raise AssertionError(f"a wrong answer passes: no test fails for {mistake.name} ({mistake.diagnosis})")
    if mistake.diagnosis not in " ".join(failure.message.split()):
        raise AssertionError(
            f"{mistake.name} fails for another reason\nexpected diagnosis: {mistake.diagnosis}\n"
            f"first failure: {failure.nodeid}\n{failure.message}"
        )
    return failure


class RightAnswer(JudgeItem):
    """The right answer passes the core, whole."""

    def runtest(self) -> None:
        right = self.path if self.path.parent.name == "right" else self.path.parent
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder).resolve()
            for module in self.project.given:
                shutil.copy(self.project.folder / f"{module}.py", answer)
            if right.is_dir():
                shutil.copytree(right, answer, dirs_exist_ok=True)
            else:
                shutil.copy(right, answer / f"{self.project.name}.py")
            grades = grade_in_process(self.project, answer)
        verdicts = judge(self.project.core_units, (), grades)
        refused = [unit for unit, verdict in verdicts.items() if not verdict.passes]
        if (failure := first_failure(grades)) or refused:
            said = f"{failure.nodeid}\n{failure.message}" if failure else "no test of theirs ran"
            raise AssertionError(
                f"a right answer is refused: {right.name}: {', '.join(refused) or 'the whole file'}\n{said}\n"
                "Either the docstring is silent on what this test wants, or the test is wrong."
            )


class BlankFails(JudgeItem):
    """The blank passes no test that grades a unit, every unit is graded, and nothing of the reference shows.

    And on first contact, with the blank of the core alone, no test fails: all there is to say is what comes next.
    """

    def runtest(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            whole, core = Path(folder, "whole").resolve(), Path(folder, "core").resolve()
            for source in self.project.sources:
                for answer in (whole, core) if source in self.project.core_sources else (whole,):
                    (answer / source).parent.mkdir(parents=True, exist_ok=True)
                    (answer / source).write_text(blank(self.project, source), encoding="utf-8")
            check_blank(self.project.units, grade_in_process(self.project, whole, blanks=True))
            check_first_contact(grade_in_process(self.project, core))
        for source in self.project.sources:
            if Path(source).stem in self.project.given:
                continue
            if source.endswith(".py") and (
                names := leaked_names((self.project.folder / source).read_text(encoding="utf-8"))
            ):
                raise AssertionError(f"the blank of {source} names what is gone from it: {sorted(names)}")


def check_first_contact(grades: list[Grade]) -> None:
    """Assert that a fresh blank of the core meets no failure."""
    if failed := [f"{grade.nodeid}: {grade.message}" for grade in grades if grade.outcome == "failed"]:
        raise AssertionError("a learner's untouched blank of the core fails:\n" + "\n".join(failed))


def check_blank(units: tuple[str, ...], grades: list[Grade]) -> None:
    """Assert that the blank passes no test that grades a unit, and that each unit is graded."""
    passed = [grade.nodeid for grade in grades if grade.units and grade.outcome == "passed"]
    if passed:
        raise AssertionError("tests that the blank file passes, so they prove nothing:\n" + "\n".join(passed))
    failed = [
        f"{grade.nodeid}: {grade.message}" for grade in grades if grade.units and grade.outcome == "failed"
    ]
    if failed:
        raise AssertionError("tests that diagnose what is only not written yet:\n" + "\n".join(failed))
    graded = {unit for grade in grades for unit in grade.units}
    if graded != set(units):
        raise AssertionError(
            f"hints.toml and the tests disagree: without a test {sorted(set(units) - graded)}, "
            f"without hints {sorted(graded - set(units))}"
        )


class DrillsFile(pytest.File):
    """The answers of the drills that name a test as their evidence; the tour runs the commands."""

    def collect(self) -> Iterable[pytest.Item]:
        for drill in read_toml(self.path)["drill"]:
            if "::" in drill["evidence"]:
                yield EvidencePasses.from_parent(self, name=drill["id"], evidence=drill["evidence"])


class EvidencePasses(JudgeItem):
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
