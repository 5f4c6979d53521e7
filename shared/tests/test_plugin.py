"""The judge judged: wrong answers that pass, tests that cannot fail, and answers that are not the learner's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.projects import ROOT, Project, load_project
from shared.testing.blank import blank_source
from shared.tests.conftest import MORE, REFERENCE, TESTS, write_project

HALF = REFERENCE.replace("return np.sqrt((x**2).sum(axis=_AXIS))", "raise NotImplementedError")


def run(project: Project, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the project's tests as a learner would; return the exit status and the output."""
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


def test_the_reference_passes_and_each_proof_is_a_test(mini):
    status, output = run(mini, "-v")
    assert status == 0, output
    order = [output.index(f"{nodeid} PASSED") for nodeid in PROOFS]
    assert order == sorted(order), "core, further, then the proofs"


PROOFS = (
    "tests/test_mini.py::test_norm",
    "tests/further/test_more.py::test_shift",
    "tests/hints.toml::blank_fails",
    "tests/right/plain.py::accepted",
    "tests/mistakes.toml::norm_without_root",
    "tests/mistakes.toml::shift_is_a_scale",
)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('diagnosis = "never to be shown"\nreplace = "x * factor"\nwith = "factor * x"', "a wrong answer passes"),
        ('diagnosis = "the factor is ignored"\nreplace = "axis=_AXIS"\nwith = "axis=0"', "bad fails for another reason"),
        ('diagnosis = "too short"\nreplace = "x * factor"\nwith = "x"', "mistake bad: its diagnosis has fewer than 12"),
        ('diagnosis = "a line that is gone"\nreplace = "x / factor"\nwith = "x"', "mistake bad: what it replaces stands 0 times"),
        ('diagnosis = "a line that is twice"\nreplace = "return"\nwith = "x"', "mistake bad: what it replaces stands 2 times"),
        ('diagnosis = "half an edit there"\nreplace = "x * factor"', "mistake bad: it needs either replace and with, or add"),
        ('diagnosis = "both at one time"\nreplace = "x"\nwith = "y"\nadd = "z"', "mistake bad: it needs either"),
        ('diagnosis = "in no such file"\nfile = "no.py"\nadd = ""', "mistake bad: there is no no.py"),
        ('diagnosis = "with a typing error"\nadded = ""\nadd = ""', "mistake bad: unknown key 'added'"),
        ('diagnosis = "not importable"\nadd = "import nonexistent_package"', "nonexistent_package"),
        (
            'diagnosis = "a core mistake"\nreplace = "(x**2).sum"\nwith = "(x**2 + 0.0 * (x.dtype == int)).sum"',
            "a wrong answer passes",
        ),
    ],
)  # fmt: skip
def test_a_mistake_that_is_not_caught_for_its_reason_fails_the_run(tmp_path, monkeypatch, table, complaint):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    status, output = run(
        write_project(tmp_path / "mini", mistakes=f"[bad]\n{table}\n"), "tests/mistakes.toml"
    )
    assert status != 0
    assert complaint in output


LATE = """
[norm_of_integers]
level = "further"
diagnosis = "is not a Euclidean norm"
replace = "np.sqrt((x**2).sum(axis=_AXIS))"
with = "np.sqrt((x**2).sum(axis=_AXIS)) + (x.dtype.kind == 'i')"
"""


def test_a_mistake_of_the_core_file_can_be_one_for_the_further_tests(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    project = write_project(
        tmp_path / "mini", mistakes=LATE.replace("is not a Euclidean norm", "2 of 2 values differ")
    )
    status, output = run(project, "tests/mistakes.toml")
    assert status == 0, output
    status, output = run(
        write_project(tmp_path / "mini", mistakes=LATE.replace('level = "further"\n', "")),
        "tests/mistakes.toml",
    )
    assert "a wrong answer passes" in output  # by the core tests alone


def test_a_mistake_that_a_core_test_rejects_is_no_further_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    table = '[bad]\nlevel = "further"\ndiagnosis = "the factor is ignored"\nreplace = "x * factor"\nwith = "x * 2.0"\n'
    status, output = run(write_project(tmp_path / "mini", mistakes=table), "tests/mistakes.toml")
    assert status == 1
    assert "bad says level = 'further', but a core test rejects it: tests/test_mini.py::test_scale" in output


def test_the_record_says_which_test_catches_what(mini):
    record = mini.folder / "tests" / "caught_by.json"
    status, output = run(mini, "--judge=full", "tests/mistakes.toml")
    assert status == 1
    assert "says that nothing catches norm_without_root" in output
    assert run(mini, "--judge=record", "tests/mistakes.toml")[0] == 0
    known = json.loads(record.read_text())
    assert known == {
        "norm_without_root": "tests/test_mini.py::test_norm",
        "scale_ignores_factor": "tests/test_mini.py::test_scale",
        "shift_is_a_scale": "tests/further/test_more.py::test_shift",
    }
    assert run(mini, "--judge=full", "tests/mistakes.toml")[0] == 0
    record.write_text(json.dumps({**known, "norm_without_root": "tests/test_mini.py::test_scale"}))
    assert run(mini, "tests/mistakes.toml")[0] == 0  # an old record costs time, and nothing else
    record.write_text(json.dumps({**known, "norm_without_root": "tests/test_mini.py::test_gone"}))
    assert run(mini, "tests/mistakes.toml")[0] == 0
    status, output = run(mini, "--judge=full", "tests/mistakes.toml")
    assert status == 1
    assert "nox -s catalogue -- mini" in output


def test_a_right_answer_that_is_refused_fails_the_run(mini):
    right = mini.folder / "tests" / "right" / "plain.py"
    right.write_text(
        right.read_text()
        .replace("def scale(x, factor=2.0)", "def scale(x, by=2.0)")
        .replace("factor, x", "by + 1, x")
    )
    status, output = run(mini, "tests/right")
    assert status == 1
    assert "a right answer is refused: plain.py: scale\n" in output
    assert "the factor is ignored" not in output
    assert "tests/test_mini.py::test_scale" in output


def test_a_right_answer_may_be_a_folder(mini):
    folder = mini.folder / "tests" / "right" / "whole"
    folder.mkdir()
    (folder / "mini.py").write_text(REFERENCE)
    status, output = run(mini, "-v", "tests/right/whole/mini.py")
    assert status == 0, output
    assert "tests/right/whole/mini.py::accepted PASSED" in output


def test_a_test_that_the_blank_passes_fails_the_run(mini):
    path = mini.folder / "tests" / "test_mini.py"
    path.write_text(
        TESTS + '\n\n@pytest.mark.grades("norm")\ndef test_nothing():\n    assert mini.LIMIT == 10\n'
    )
    status, output = run(mini, "tests/hints.toml")
    assert status == 1
    assert (
        "tests that the blank file passes, so they prove nothing:\ntests/test_mini.py::test_nothing" in output
    )


def test_a_test_that_fails_on_first_contact_fails_the_run(mini):
    """Such a one compiled the Triton twin, which the blank of the core does not hold."""
    path = mini.folder / "tests" / "test_mini.py"
    twin = "\n\n@pytest.mark.grades\ndef test_twin():\n    assert 'NotImplementedError' not in open(mini.__file__).read()\n"
    path.write_text(TESTS + twin)
    status, output = run(mini, "tests/hints.toml")
    assert status == 1
    assert "a learner's untouched blank of the core fails:\ntests/test_mini.py::test_twin" in output


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


def graded(folder: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (folder / "grades").read_text().splitlines()]
    return {line["grade"]["nodeid"]: line["grade"] for line in lines if "grade" in line}


def test_practice_grades_the_learners_file(mini, tmp_path):
    answer = tmp_path / "answer"
    answer.mkdir()
    (answer / "mini.py").write_text(REFERENCE.replace("x * factor", "print('hello') or x * 2.0"))
    status, output = run(mini, f"--practice={answer}", f"--grades={tmp_path / 'grades'}")
    assert status == 1
    assert f"grading: {answer / 'mini.py'}" in output
    assert "✗ scale 0/1\n✓ norm 1/1\ncore 1/2\n" in output
    assert "mistakes.toml" not in output
    grades = graded(tmp_path)
    assert set(grades) == {f"tests/test_mini.py::test_{name}" for name in ("imports", "scale", "norm")}
    scale = grades["tests/test_mini.py::test_scale"]
    assert scale["message"].startswith("the factor is ignored")
    assert scale["purpose"] == "Every entry is multiplied."
    assert scale["printed"] == "hello"
    assert grades["tests/test_mini.py::test_norm"]["outcome"] == "passed"


def test_practice_says_where_an_exception_arose(mini, tmp_path):
    (tmp_path / "mini.py").write_text(REFERENCE.replace("return x * factor", "return x * faktor"))
    status, _ = run(mini, f"--practice={tmp_path}", f"--grades={tmp_path / 'grades'}")
    assert status == 1
    scale = graded(tmp_path)["tests/test_mini.py::test_scale"]
    assert scale["where"] == "mini.py:18"
    assert "NameError" in scale["message"]


@pytest.mark.parametrize(
    ("files", "ran", "status"),
    [
        ({"mini": REFERENCE}, {"imports", "scale", "norm"}, 0),
        ({"mini": REFERENCE, "more": MORE}, {"imports", "scale", "norm", "shift", "norm_of_integers"}, 0),
        ({"more": MORE}, {"shift"}, 0),
        ({"mini": REFERENCE, "more": blank_source(MORE)}, {"imports", "scale", "norm", "norm_of_integers"}, 1),
        ({"mini": HALF}, {"imports", "scale"}, 1),
        ({"mini": blank_source(REFERENCE)}, {"imports"}, 1),
        ({"mini": REFERENCE, "more": MORE.replace("x + by", "x - by")}, None, 1),
    ],
    ids=["core", "core and further", "further alone", "further blank", "half", "blank", "further wrong"],
)  # fmt: skip
def test_what_the_answer_holds_decides_what_runs_and_the_exit_status(mini, tmp_path, files, ran, status):
    answer = tmp_path / "answer"
    answer.mkdir()
    for name, text in files.items():
        (answer / f"{name}.py").write_text(text)
    found, output = run(mini, f"--practice={answer}", f"--grades={tmp_path / 'grades'}")
    assert found == status, output
    if ran is not None:
        assert {nodeid.split("::test_")[1] for nodeid in graded(tmp_path)} == ran


def test_everything_is_a_star(mini, tmp_path):
    (tmp_path / "mini.py").write_text(REFERENCE)
    (tmp_path / "more.py").write_text(MORE)
    _, output = run(mini, f"--practice={tmp_path}")
    assert "★ scale 1/1\n★ norm 2/2\n★ shift 1/1\ncore 2/2, interview-ready\n" in output


def test_a_unit_that_needs_another_one_waits_for_it(mini, tmp_path):
    needs = REFERENCE.replace("return np.sqrt(", "return scale(1.0) * np.sqrt(").replace(
        "    _check(x)\n", ""
    )
    (tmp_path / "mini.py").write_text(needs.replace("return x * factor", "raise NotImplementedError"))
    status, output = run(mini, f"--practice={tmp_path}", f"--grades={tmp_path / 'grades'}")
    assert status == 1
    assert graded(tmp_path)["tests/test_mini.py::test_norm"]["outcome"] == "waiting"
    assert "✗" not in output
    (tmp_path / "mini.py").write_text(needs.replace("return x * factor", "raise NotImplementedError('now')"))
    _, output = run(mini, f"--practice={tmp_path}")
    assert "✗ scale 0/1" in output  # written, and it refuses what it was asked for


def test_a_failure_of_the_whole_file_is_one_line(mini, tmp_path):
    (tmp_path / "mini.py").write_text("import rich\n" + REFERENCE)
    status, output = run(mini, f"--practice={tmp_path}")
    assert status == 1
    assert "✗ the whole file: calls the library instead: mini.py line 1 uses rich" in output
    assert "✓ scale 1/1\n✓ norm 1/1\ncore 2/2\n" in output


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import numpy\nimport nosuchmodule\n", "mini.py line 2 cannot be imported: ModuleNotFoundError: No module named 'nosuchmodule'\n    import nosuchmodule\n"),
        ("x = 1\ny = x / 0\n", "mini.py line 2 cannot be imported: ZeroDivisionError: division by zero\n    y = x / 0\n"),
        ("def f():\n    raise SystemExit\n\nf()\n", "mini.py line 2 cannot be imported: SystemExit: \n    raise SystemExit\n"),
        ("def f(:\n", "mini.py line 1 cannot be imported: SyntaxError: "),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_imported_is_one_clear_line(mini, tmp_path, source, says):
    (tmp_path / "mini.py").write_text(source)
    status, output = run(mini, f"--practice={tmp_path}")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {says}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_a_file_that_python_can_read_can_be_graded(mini, tmp_path, encoding):
    head = "# -*- coding: latin-1 -*-\n" if encoding == "latin-1" else ""
    text = head + REFERENCE.replace("# how the norm", "# für é: how the norm")
    (tmp_path / "mini.py").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    status, output = run(mini, f"--practice={tmp_path}")
    assert status == 0, output


def test_an_endless_loop_fails_its_unit_by_name(mini, tmp_path, monkeypatch):
    (tmp_path / "mini.py").write_text(
        REFERENCE.replace("    return x * factor", "    while True:\n        pass")
    )
    status, output = run(mini, f"--practice={tmp_path}", f"--grades={tmp_path / 'grades'}", "--timeout=1")
    assert status == 1
    assert "✗ scale 0/1\n✓ norm 1/1" in output
    assert (
        "did not end within 1 s: does a loop never end?"
        in graded(tmp_path)["tests/test_mini.py::test_scale"]["message"]
    )


@pytest.mark.parametrize("name", ["gw [copy]", "with space", "é"])
def test_a_checkout_may_have_any_path(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    status, output = run(write_project(tmp_path / name / "mini"))
    assert status == 0, output


def test_a_symlinked_checkout_and_the_c_locale_work(mini, tmp_path):
    (tmp_path / "link").symlink_to(mini.folder.parent)
    status, output = run(load_project(tmp_path / "link" / "mini"), LC_ALL="C", LANG="C", PYTHONUTF8="0")
    assert status == 0, output


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
    _, output = run(mini, f"--practice={tmp_path}", f"--grades={tmp_path / 'grades'}")
    assert graded(tmp_path)["tests/test_mini.py::test_scale"]["outcome"] == "failed"
    assert "✗ scale 0/1" in output


def test_a_test_that_skips_by_itself_is_not_held_against_the_answer(mini, tmp_path):
    (mini.folder / "tests" / "test_mini.py").write_text(TESTS + SKIPPED)
    (tmp_path / "mini.py").write_text(REFERENCE)
    status, output = run(mini, f"--practice={tmp_path}")
    assert status == 0, output
    assert "✓ norm 1/1" in output


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
