"""The practice command: blanks, grading, the board, and a learner's work that is never lost."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from shared import practice as module
from shared.practice.__main__ import Practice
from shared.projects import ROOT
from shared.tests.conftest import REFERENCE


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def desk(tmp_path, output):
    return Practice(tmp_path / "practice", Console(file=output, width=120, no_color=True))


def answer(desk, mini, source):
    desk.write_blanks(mini)
    desk.files(mini)[0].write_text(source)


def test_the_first_call_writes_the_blank_and_says_what_comes_next(desk, mini, output):
    assert desk.write_blanks(mini) == [desk.folder / "mini" / "mini.py"]
    module.grade_and_show(desk, mini)
    assert "· scale  · norm" in output.getvalue()
    assert "Next: write scale (mini.py:14)" in output.getvalue()


def test_an_existing_answer_is_never_touched(desk, mini):
    answer(desk, mini, "mine = 1\n")
    assert desk.write_blanks(mini) == []
    assert desk.files(mini)[0].read_text() == "mine = 1\n"


def test_the_first_failure_is_shown_with_its_diagnosis(desk, mini, output):
    answer(desk, mini, REFERENCE.replace("x * factor", "x * 2.0"))
    module.grade_and_show(desk, mini)
    shown = output.getvalue()
    assert "✗ scale  ✓ norm" in shown
    assert "the factor is ignored" in shown
    assert "tests/test_mini.py::test_scale" in shown
    assert desk.progress["mini"]["marks"] == {"scale": "failing", "norm": "passing"}


def test_a_finished_answer_is_told_so_and_the_board_remembers(desk, mini, output):
    answer(desk, mini, REFERENCE)
    module.grade_and_show(desk, mini)
    assert "All 2 functions pass." in output.getvalue()
    again = Practice(desk.folder, desk.console)
    module.show_board(again, [mini])
    assert "1  mini  ✓✓  2/2  best 0:0" in output.getvalue()
    answer(desk, mini, REFERENCE + "# a change\n")
    module.show_board(again, [mini])
    assert "edited since it was graded" in output.getvalue()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def scale(x:\n", "mini.py does not parse"),
        ("import nonexistent_package\n", "nonexistent_package"),
        ("raise RuntimeError('no luck')\n", "no luck"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
    ],
)
def test_an_answer_that_cannot_be_imported_is_explained(desk, mini, output, source, says):
    answer(desk, mini, source)
    module.grade_and_show(desk, mini)
    assert "cannot be graded" in output.getvalue()
    assert says in output.getvalue()


def test_an_endless_loop_is_stopped(desk, mini, output, monkeypatch):
    monkeypatch.setattr(module, "GRADING_LIMIT_S", 4)
    answer(desk, mini, REFERENCE.replace("    return x * factor", "    while True:\n        pass"))
    module.grade_and_show(desk, mini)
    assert "longer than 4 s" in output.getvalue()


def test_hints_climb_from_nudge_to_formula(desk, mini, output):
    seen = []
    for _ in range(4):
        output.truncate(0)
        module.show_hint(desk, mini, "")
        seen.append([name for name in ("nudge", "idea", "formula") if f"scale: {name}" in output.getvalue()])
    assert seen == [["nudge"], ["nudge", "idea"], ["nudge", "idea", "formula"], ["nudge", "idea", "formula"]]
    with pytest.raises(SystemExit, match="no function 'sacle' in mini; there are scale, norm"):
        module.show_hint(desk, mini, "sacle")


def test_reset_keeps_the_old_answer(desk, mini):
    answer(desk, mini, "mine = 1\n")
    (backup,) = desk.reset(mini)
    assert backup.read_text() == "mine = 1\n"
    assert "raise NotImplementedError" in desk.files(mini)[0].read_text()
    answer(desk, mini, "mine = 2\n")
    (second,) = desk.reset(mini)
    assert second != backup
    assert backup.read_text() == "mine = 1\n"


def test_the_solution_is_shown_once_earned_or_given_up(desk, mini, output, monkeypatch):
    monkeypatch.setattr(module, "ROOT", mini.folder)
    with pytest.raises(SystemExit, match=r"not yet: scale, norm.*--give-up"):
        module.show_solution(desk, mini, give_up=False)
    module.show_solution(desk, mini, give_up=True)
    assert "return x * factor" in output.getvalue()
    answer(desk, mini, REFERENCE)
    module.grade_and_show(desk, mini)
    module.show_solution(desk, mini, give_up=False)


@pytest.mark.parametrize("damage", ["{", "[]", '{"mini": 3}', "", "\udcff"])
def test_a_damaged_progress_file_is_set_aside_and_said_so(desk, mini, output, damage):
    answer(desk, mini, "mine = 1\n")
    state = desk.folder / ".progress.json"
    state.write_bytes(damage.encode("utf-8", "surrogateescape"))
    again = Practice(desk.folder, desk.console)
    assert again.progress == {}
    assert ".progress.json was damaged" in output.getvalue()
    (aside,) = desk.folder.glob(".progress.corrupt-*.json")
    assert aside.read_bytes() == damage.encode("utf-8", "surrogateescape")
    assert desk.files(mini)[0].read_text() == "mine = 1\n"


@pytest.mark.parametrize("entry", [{"marks": 3}, {"marks": None, "hints": []}, {"marks": {"scale": "??"}}])
def test_an_odd_but_readable_progress_file_does_not_break_the_board(desk, mini, entry):
    desk.remember(mini, **entry)
    module.show_board(desk, [mini])
    module.show_hint(desk, mini, "")


def test_a_crash_while_writing_leaves_the_old_progress(desk, mini, monkeypatch):
    desk.remember(mini, marks={"scale": "passing"})

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        desk.remember(mini, marks={"scale": "failing"})
    monkeypatch.undo()
    assert Practice(desk.folder, desk.console).progress["mini"]["marks"] == {"scale": "passing"}


def test_the_board_is_plain_text_when_nobody_looks(tmp_path):
    command = [sys.executable, "-c", "import sys, pathlib; from shared.practice.__main__ import main; "
               f"sys.exit(main([], folder=pathlib.Path({str(tmp_path)!r})))"]  # fmt: skip
    for encoding, mark in (("utf-8", "·"), ("ascii", ".")):
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            check=True,
        )
        text = done.stdout.decode(encoding)
        assert "\x1b" not in text
        assert f"{mark} blank" in text
    assert not list(tmp_path.iterdir())


def test_the_progress_file_is_json_a_person_can_read(desk, mini):
    desk.remember(mini, marks={"scale": "passing"})
    assert json.loads((desk.folder / ".progress.json").read_text()) == {
        "mini": {"marks": {"scale": "passing"}}
    }
    assert [path.name for path in desk.folder.iterdir()] == [".progress.json"]


def test_marks_tell_a_wrong_function_from_one_that_is_not_written():
    from shared.testing.grading import Grade, marks

    def graded(*outcomes):
        return marks(("f",), [Grade(f"t{i}", ("f",), outcome) for i, outcome in enumerate(outcomes)])["f"]

    assert graded("passed", "passed") == "passing"
    assert graded("passed", "blank") == "blank"  # right so far, waiting for another function
    assert graded("blank", "failed") == "failing"
    assert graded("skipped") == "failing"
    assert graded() == "failing"


def test_two_terminals_do_not_overwrite_each_other(desk, mini):
    other = Practice(desk.folder, desk.console)
    desk.remember(mini, marks={"scale": "passing"})
    other.remember(mini, hints={"scale": 2})
    desk.remember(mini, marks={"scale": "failing"})
    assert Practice(desk.folder, desk.console).progress["mini"] == {
        "marks": {"scale": "failing"},
        "hints": {"scale": 2},
    }


def test_an_option_without_a_project_is_an_error(tmp_path, capsys):
    for arguments in (["--reset"], ["--watch"], ["activations", "--give-up"]):
        with pytest.raises(SystemExit):
            module.main(arguments, folder=tmp_path)
    assert "--give-up goes with --solution" in capsys.readouterr().err
