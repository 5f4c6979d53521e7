"""The judge judged: wrong answers that pass, tests that cannot fail, and answers that are not the learner's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.projects import Project
from shared.tests.conftest import REFERENCE, TESTS, write_project


def run(project: Project, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the project's tests as a learner would; return the exit status and the output."""
    import os

    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command,
        cwd=project.folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_reference_passes_and_each_wrong_solution_is_a_test(mini):
    status, output = run(mini, "-v")
    assert status == 0, output
    for nodeid in (
        "tests/wrong/norm_without_root.py::fails PASSED",
        "tests/wrong/scale_ignores_factor.py::fails PASSED",
        "tests/hints.toml::fails PASSED",
    ):
        assert nodeid in output


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (
            "# diagnosis: never shown\ndef scale(x, factor=2.0):\n    return x * factor\n",
            "a wrong answer passes",
        ),
        (
            "# diagnosis: the factor is ignored\ndef norm(x):\n    return x[:, 0]\n",
            "fails for another reason",
        ),
        ("def norm(x):\n    return x[:, 0]\n", "the first line must be"),
        ("# diagnosis: x\nimport nonexistent_package\n", "nonexistent_package"),
    ],
    ids=["survives", "other reason", "no diagnosis", "not importable"],
)
def test_a_wrong_solution_that_is_not_caught_for_its_reason_fails_the_run(
    tmp_path, monkeypatch, source, complaint
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    status, output = run(write_project(tmp_path / "mini", {"bad": source}))
    assert status == 1
    assert complaint in output


def test_a_test_that_the_blank_passes_fails_the_run(mini):
    path = mini.folder / "tests" / "test_mini.py"
    path.write_text(
        TESTS + '\n\n@pytest.mark.grades("norm")\ndef test_nothing():\n    assert mini.LIMIT == 10\n'
    )
    status, output = run(mini)
    assert status == 1
    assert (
        "tests that the blank file passes, so they prove nothing:\ntests/test_mini.py::test_nothing" in output
    )


def test_a_function_without_test_or_hints_fails_the_run(mini):
    hints = mini.folder / "tests" / "hints.toml"
    hints.write_text(hints.read_text().replace("[norm]", "[length]"))
    status, output = run(mini)
    assert status == 1
    assert "without a test ['length'], without hints ['norm']" in output


def test_a_test_must_say_what_it_grades(mini):
    path = mini.folder / "tests" / "test_mini.py"
    path.write_text(TESTS + "\n\ndef test_loose():\n    assert False\n")
    status, output = run(mini)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "test_loose: which function does it grade?" in output


def test_practice_grades_the_learners_file(mini, tmp_path):
    answer = tmp_path / "answer"
    answer.mkdir()
    (answer / "mini.py").write_text(REFERENCE.replace("x * factor", "x * 2.0"))
    status, output = run(mini, f"--practice={answer}", f"--grades={tmp_path / 'grades.json'}")
    assert status == 1
    assert f"grading: {answer / 'mini.py'}" in output
    assert "the factor is ignored" in output
    assert "  FAILS  scale\n passes  norm\n" in output
    assert "wrong/" not in output
    grades = {row["nodeid"]: row for row in json.loads((tmp_path / "grades.json").read_text())}
    assert grades["tests/test_mini.py::test_scale"]["message"].startswith("the factor is ignored")
    assert grades["tests/test_mini.py::test_scale"]["purpose"] == "Every entry is multiplied."
    assert grades["tests/test_mini.py::test_norm"]["outcome"] == "passed"


def test_practice_says_where_an_exception_arose(mini, tmp_path):
    (tmp_path / "mini.py").write_text(REFERENCE.replace("return x * factor", "return x * faktor"))
    status, _ = run(mini, f"--practice={tmp_path}", f"--grades={tmp_path / 'grades.json'}")
    assert status == 1
    grades = {row["nodeid"]: row for row in json.loads((tmp_path / "grades.json").read_text())}
    assert grades["tests/test_mini.py::test_scale"]["where"] == "mini.py:18"
    assert "NameError" in grades["tests/test_mini.py::test_scale"]["message"]


def test_practice_without_an_answer_is_a_usage_error(mini, tmp_path):
    (tmp_path / "empty").mkdir()
    status, output = run(mini, f"--practice={tmp_path / 'empty'}")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "no mini.py in" in output


GPU_TEST = """
@pytest.mark.requires_cuda
@pytest.mark.grades("norm")
def test_on_gpu():
    assert mini.norm(np.ones((1, 4))) == 2
"""


def test_what_did_not_run_is_reported_and_is_a_failure_where_a_gpu_is_promised(mini):
    path = mini.folder / "tests" / "test_mini.py"
    path.write_text(TESTS + GPU_TEST)
    none = {"CUDA_VISIBLE_DEVICES": ""}
    status, output = run(mini, "tests/test_mini.py", **none, REQUIRE_CUDA="0")
    assert status == 0
    assert "NOT RUN tests/test_mini.py::test_on_gpu: no CUDA device on this machine" in output
    status, output = run(mini, "tests/test_mini.py", **none, REQUIRE_CUDA="1")
    assert status == 1
    assert "REQUIRE_CUDA=1 promises a CUDA device" in output


def test_an_answer_that_silences_numpy_is_still_judged(mini, tmp_path):
    quiet = REFERENCE.replace(
        "return x * factor", "return x * factor * np.exp(np.float64(1e4) * 0) / np.exp(-np.float64(1e4) * 0)"
    )
    noisy = quiet.replace("1e4) * 0)", "1e4)) * 0 + 1")
    for source, outcome in ((quiet, 0), (noisy, 1), (noisy + "\nnp.seterr(all='ignore')\n", 1)):
        (tmp_path / "mini.py").write_text(source)
        status, output = run(mini, f"--practice={tmp_path}", "-k", "test_scale")
        assert status == outcome, output


def test_an_answer_may_not_skip_its_test(mini, tmp_path):
    source = REFERENCE.replace("return x * factor", "import unittest; raise unittest.SkipTest('later')")
    (tmp_path / "mini.py").write_text(source)
    _, output = run(mini, f"--practice={tmp_path}", f"--grades={tmp_path / 'grades.json'}")
    grades = {row["nodeid"]: row for row in json.loads((tmp_path / "grades.json").read_text())}
    assert grades["tests/test_mini.py::test_scale"]["outcome"] == "failed"
    assert "  FAILS  scale" in output


def test_a_test_that_skips_by_itself_is_not_held_against_the_answer(mini, tmp_path):
    (mini.folder / "tests" / "test_mini.py").write_text(TESTS + SKIPPED)
    (tmp_path / "mini.py").write_text(REFERENCE)
    status, output = run(mini, f"--practice={tmp_path}")
    assert status == 0, output
    assert " passes  norm" in output


def test_a_wrong_solution_named_by_its_path_is_judged_not_imported(mini):
    status, output = run(mini, "tests/wrong/scale_ignores_factor.py")
    assert status == 0, output
    assert "1 passed" in output


SKIPPED = """
@pytest.mark.grades("norm")
def test_on_gpu():
    pytest.skip("no device")
"""
TWICE = """
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.grades("norm")
def test_twice(n):
    assert n == 1 and mini.norm(np.ones((1, 4))) == 2
"""


@pytest.mark.parametrize(
    ("test", "evidence", "complaint"),
    [
        ("", "tests/test_mini.py::test_norm", ""),
        ("", "tests/test_mini.py::test_absent", "test_absent: not run"),
        (SKIPPED, "tests/test_mini.py::test_on_gpu", "test_on_gpu: skipped"),
        (TWICE, "tests/test_mini.py::test_twice", "test_twice: "),
    ],
    ids=["passes", "is absent", "is skipped", "fails once"],
)
def test_the_evidence_of_an_answer_must_run_and_pass(mini, test, evidence, complaint):
    (mini.folder / "tests" / "test_mini.py").write_text(TESTS + test)
    drills = mini.folder / "drills.toml"
    drills.write_text(drills.read_text().replace("python demo.py", evidence))
    status, output = run(mini, "drills.toml", "tests")
    if complaint:
        assert status == 1
        assert f"the answer of what-is-a-norm has no proof: tests/test_mini.py::{complaint}" in output
    else:
        assert status == 0, output
        assert "drills.toml" in output


def test_practice_has_nothing_to_do_with_drills(mini, tmp_path):
    (tmp_path / "mini.py").write_text(REFERENCE)
    status, output = run(mini, f"--practice={tmp_path}", "tests", "drills.toml")
    assert status == 0, output
    assert "drills" not in output
