"""The practice command: blanks, grading, the board, the clock, and a learner's work that is never lost."""

import datetime
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from shared.practice import __main__ as module
from shared.practice import grade as grading
from shared.practice.json_file import run_command
from shared.practice.learner import PAUSE_S, Learner
from shared.practice.schedule import Schedule, now
from shared.projects import ROOT
from shared.tests.conftest import MORE, REFERENCE

HALF = REFERENCE.replace("return np.sqrt((x**2).sum(axis=_AXIS))", "raise NotImplementedError")


@pytest.fixture
def desk(tmp_path, output):
    return Learner(tmp_path / "practice", Console(file=output, width=80, no_color=True))


@pytest.fixture(autouse=True)
def measured(mini):
    """Give the answer of the drill the number that it quotes."""
    (mini.folder / "results").mkdir()
    numbers = {"length": {"value": 5.0, "text": "5", "label": "length"}}
    (mini.folder / "results" / "demo.json").write_text(json.dumps({"numbers": numbers}), encoding="utf-8")


def answer(desk, mini, source, name="mini.py"):
    desk.write_blanks(mini)
    (desk.folder / "mini" / name).write_text(source, encoding="utf-8")


def shown(output):
    return " ".join(output.getvalue().split())


# --- grading --------------------------------------------------------------------------------------------------


def test_the_first_call_writes_the_blank_of_the_core_and_says_what_comes_next(desk, mini, output):
    assert desk.write_blanks(mini) == [desk.folder / "mini" / "mini.py"]
    module.grade_and_show(desk, mini)
    assert "· scale · norm core 0/2 Next: write scale (mini.py:9)." in shown(output)
    assert [path.name for path in desk.write_blanks(mini, further=True)] == ["more.py"]


def test_an_existing_answer_is_never_touched(desk, mini):
    answer(desk, mini, "mine = 1\n")
    assert desk.write_blanks(mini) == []
    assert desk.files(mini)[0].read_text(encoding="utf-8") == "mine = 1\n"


def test_the_first_failure_is_shown_with_its_diagnosis_and_what_was_printed(desk, mini, output):
    answer(desk, mini, REFERENCE.replace("x * factor", "print('x is', x.shape) or x * 2.0"))
    module.grade_and_show(desk, mini)
    assert "✗ scale 0/1 ✓ norm 1/1 core 1/2" in shown(output)
    assert "the factor is ignored" in shown(output)
    assert "tests/test_mini.py::test_scale" in shown(output)
    assert "x is (2, 3)" in shown(output)
    assert desk.progress["mini"]["marks"] == {"scale": "failing", "norm": "core"}


def test_one_blank_unit_does_not_hold_back_another(desk, mini, output):
    answer(desk, mini, HALF)
    module.grade_and_show(desk, mini)
    assert "✓ scale 1/1 · norm core 1/2 Next: write norm" in shown(output)


def test_a_finished_core_is_interview_ready_and_the_board_remembers(desk, mini, output):
    answer(desk, mini, REFERENCE)
    module.grade_and_show(desk, mini)
    assert "core 2/2, interview-ready in 0:0" in shown(output)
    assert "--solution scale" in shown(output)
    assert "python benchmark.py --practice" in shown(output)
    assert "There is more: nox -s practice -- mini --further" in shown(output)
    assert "An interviewer asks next: Why" in shown(output)
    again = Learner(desk.folder, desk.console)
    module.show_board(again, [mini])
    assert "1 mini ✓✓ 2/2 ready best 0:0" in shown(output)
    answer(desk, mini, REFERENCE + "# a change\n")
    module.show_board(again, [mini])
    assert "edited" in shown(output)


def test_a_pass_asks_two_follow_up_questions(desk, mini, output):
    answer(desk, mini, REFERENCE)
    module.grade_and_show(desk, mini)
    assert "asks next: Why one?" in shown(output)
    assert "asks next: Why two?" in shown(output)
    assert "What to say: nox -s drill -- --project mini" in shown(output)


def test_core_failures_come_before_further_ones_and_everything_is_a_star(desk, mini, output):
    answer(desk, mini, REFERENCE)
    answer(desk, mini, MORE.replace("return x + by", "return x * by"), "more.py")
    module.grade_and_show(desk, mini)
    assert "core 2/2, interview-ready in 0:0" in shown(output)
    assert "further 0/1" in shown(output)
    assert "looks like a product" in shown(output)
    answer(desk, mini, REFERENCE.replace("x * factor", "x * 2.0"))
    output.truncate(0)
    module.grade_and_show(desk, mini)
    assert "the factor is ignored" in shown(output)
    assert "looks like a product" not in shown(output)
    answer(desk, mini, REFERENCE)
    answer(desk, mini, MORE, "more.py")
    module.grade_and_show(desk, mini)
    assert "★ scale 1/1 ★ norm 2/2 ★ shift 1/1 core 2/2, interview-ready; further 1/1" in shown(output)
    module.show_board(desk, [mini])  # scale has no further test: nothing more can be asked of it
    assert "1 mini ★★ 2/2 ★" in shown(output)


def test_a_file_saved_twice_within_a_second_is_read_again(desk, mini, output, monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    for operator in "+*":  # a file of the same length
        answer(desk, mini, REFERENCE.replace("x * factor", f"x {operator} factor"))
        os.utime(desk.folder / "mini" / "mini.py", (10**9, 10**9))
        module.grade_and_show(desk, mini)
    assert "core 2/2, interview-ready" in shown(output)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def scale(x:\n", "mini.py line 1 cannot be imported: SyntaxError"),
        ("import nosuchmodule\n", "mini.py line 1 cannot be imported: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("x = 1 / 0\n", "mini.py line 1 cannot be imported: ZeroDivisionError: division by zero"),
        ("raise SystemExit\n", "mini.py line 1 cannot be imported: SystemExit"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_imported_is_its_last_frame_and_nothing_else(
    desk, mini, output, source, says
):
    answer(desk, mini, source)
    module.grade_and_show(desk, mini)
    text = shown(output).replace("│ ", "").replace(" │", "")
    assert "cannot be graded" in text
    assert says in text
    assert len(output.getvalue().splitlines()) <= 5


def test_a_file_as_a_whole_is_one_line_at_the_top(desk, mini, output):
    answer(desk, mini, "import rich\n" + REFERENCE)
    module.grade_and_show(desk, mini)
    assert shown(output).startswith("✗ the whole file: calls the library instead: mini.py line 1 uses rich")
    assert "✓ scale 1/1 ✓ norm 1/1 core 2/2" in shown(output)
    assert "interview-ready" not in shown(output)


def test_an_endless_loop_costs_seconds_and_names_its_unit(desk, mini, output):
    tests = mini.folder / "tests" / "test_mini.py"
    tests.write_text(
        tests.read_text(encoding="utf-8").replace(
            '@pytest.mark.grades("scale")', '@pytest.mark.timeout(0.5)\n@pytest.mark.grades("scale")'
        ),
        encoding="utf-8",
    )
    answer(desk, mini, REFERENCE.replace("    return x * factor", "    while True:\n        pass"))
    module.grade_and_show(desk, mini)
    assert "✗ scale 0/1 ✓ norm 1/1" in shown(output)
    assert "did not end within 0.5 s: does a loop never end?" in shown(output)


def test_what_no_signal_can_stop_is_named_too(desk, mini, output, monkeypatch):
    monkeypatch.setattr(grading, "WHOLE_LIMIT_S", 3)
    stubborn = "    while True:\n        try:\n            while True:\n                pass\n        except BaseException:\n            pass"
    answer(desk, mini, REFERENCE.replace("    return x * factor", stubborn))
    (mini.folder / "pyproject.toml").write_text(
        (mini.folder / "pyproject.toml")
        .read_text(encoding="utf-8")
        .replace("addopts = [", 'addopts = ["--timeout=1", '),
        encoding="utf-8",
    )
    module.grade_and_show(desk, mini)
    assert "grading took longer than 3 s while scale was tested (tests/test_mini.py::test_scale)" in shown(
        output
    ).replace("│ ", "").replace(" │", "")


def test_a_crash_of_the_process_is_named_too(desk, mini, output):
    answer(desk, mini, REFERENCE.replace("    return x * factor", "    import os; os.abort()"))
    module.grade_and_show(desk, mini)
    assert "while scale was tested (tests/test_mini.py::test_scale)" in shown(output)


def test_an_edit_during_the_first_grading_is_graded(desk, mini, output, monkeypatch):
    """It was not, and "All 16 functions pass" stood over a broken file."""
    answer(desk, mini, REFERENCE)
    path = desk.files(mini)[0]
    really, graded = module.grade_and_show, []

    def edited_meanwhile(learner, project):
        graded.append(path.read_text(encoding="utf-8"))
        really(learner, project)
        if len(graded) == 1:
            path.write_text(REFERENCE.replace("x * factor", "x * 2.0"), encoding="utf-8")
        if len(graded) == 2:
            threading.Timer(0.2, path.write_text, [HALF]).start()  # and one while it waits
        if len(graded) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "grade_and_show", edited_meanwhile)
    with pytest.raises(KeyboardInterrupt):
        module.watch(desk, mini)
    assert ["x * 2.0" in text for text in graded] == [False, True, False]
    assert "the factor is ignored" in shown(output)
    rules = [line.strip("─ \n") for line in output.getvalue().splitlines() if line.startswith("──")]
    assert all(datetime.time.fromisoformat(rule) for rule in rules)  # such as 03:07:55
    assert len(rules) == 2


def test_grading_uses_one_thread(desk, mini, output):
    answer(
        desk,
        mini,
        "import os\n"
        + REFERENCE.replace("x * factor", "print(os.environ['OMP_NUM_THREADS'], 'thread') or x * 2.0"),
    )
    module.grade_and_show(desk, mini)
    assert "1 thread" in shown(output)


# --- hints, solution, reset -----------------------------------------------------------------------------------


def test_hints_climb_from_nudge_to_formula(desk, mini, output):
    seen = []
    for _ in range(4):
        output.truncate(0)
        module.show_hint(desk, mini, "")
        seen.append([name for name in ("nudge", "idea", "formula") if f"scale: {name}" in output.getvalue()])
    assert seen == [["nudge"], ["nudge", "idea"], ["nudge", "idea", "formula"], ["nudge", "idea", "formula"]]
    with pytest.raises(SystemExit, match=r"no 'sacle' in mini; did you mean scale\?"):
        module.show_hint(desk, mini, "sacle")


def test_reset_keeps_the_old_answer_and_the_choice_of_modules(desk, mini):
    answer(desk, mini, "mine = 1\n")
    (backup,) = desk.reset(mini)
    assert backup.read_text(encoding="utf-8") == "mine = 1\n"
    assert "raise NotImplementedError" in desk.files(mini)[0].read_text(encoding="utf-8")
    answer(desk, mini, "mine = 2\n")
    answer(desk, mini, "more = 2\n", "more.py")
    second, third = desk.reset(mini)
    assert second != backup
    assert (
        backup.read_text(encoding="utf-8"),
        second.read_text(encoding="utf-8"),
        third.read_text(encoding="utf-8"),
    ) == (
        "mine = 1\n",
        "mine = 2\n",
        "more = 2\n",
    )
    assert [path.name for path in desk.files(mini)] == ["mini.py", "more.py"]


def test_the_solution_is_shown_once_earned_or_given_up(desk, mini, output):
    with pytest.raises(SystemExit, match=r"not yet: scale, norm.*--give-up"):
        module.show_solution(desk, mini, "", give_up=False)
    with pytest.raises(SystemExit, match=r"not yet: norm\..*--give-up"):
        module.show_solution(desk, mini, "norm", give_up=False)
    module.show_solution(desk, mini, "", give_up=True)
    assert "return x * factor" in output.getvalue()
    output.truncate(0)
    answer(desk, mini, REFERENCE.replace("x * factor", "factor * x"))
    module.grade_and_show(desk, mini)
    output.truncate(0)
    module.show_solution(desk, mini, "scale", give_up=False)
    assert "return x * factor" in output.getvalue()
    assert "return factor * x" in output.getvalue()
    assert "np.sqrt" not in output.getvalue()


# --- the board, and files that are damaged ----------------------------------------------------------------------


def test_the_board_fits_80_columns(desk, mini, output):
    from shared.projects import load_projects

    projects = load_projects()
    for project in projects:
        times = {"best": 7450.0, "last": 7450.0}
        desk.remember(
            project.name, marks=dict.fromkeys(project.units, "core"), ready=True, times=times, digest="x"
        )
    module.show_board(desk, projects)
    rows = [line for line in output.getvalue().splitlines() if "best 124:10" in line]
    assert len(rows) == len(projects)
    assert all("edited" in row for row in rows)


@pytest.mark.parametrize("damage", ["{", "[]", "", "\udcff"])
def test_a_damaged_progress_file_is_set_aside_and_said_so(desk, mini, output, damage):
    answer(desk, mini, "mine = 1\n")
    (desk.folder / ".progress.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert Learner(desk.folder, desk.console).progress == {}
    assert ".progress.json was damaged" in output.getvalue()
    (aside,) = desk.folder.glob(".progress.corrupt-*.json")
    assert aside.read_bytes() == damage.encode("utf-8", "surrogateescape")
    assert desk.files(mini)[0].read_text(encoding="utf-8") == "mine = 1\n"


@pytest.mark.parametrize(
    "entry",
    ['{"times": {"best": 60}}', '{"times": {"best": NaN, "last": 3}}', '{"attempt": {"gave_up": 0}}', '{"attempt": {"seconds": Infinity}}', '{"marks": 3}', '{"marks": {"scale": "??"}, "seen": "x"}', '{"marks": null, "hints": []}', "3", "null", '{"times": {"best": true, "last": true}}'],
)  # fmt: skip
def test_damage_in_one_entry_costs_that_entry(desk, mini, output, entry):
    path = desk.folder / ".progress.json"
    path.parent.mkdir()
    path.write_text('{"other": {"marks": {"f": "core"}}, "mini": ' + entry + "}", encoding="utf-8")
    again = Learner(desk.folder, desk.console)
    assert again.recall("other", "marks") == {"f": "core"}
    module.show_board(again, [mini])
    module.show_hint(again, mini, "")
    answer(again, mini, REFERENCE)
    module.grade_and_show(again, mini)
    assert "core 2/2, interview-ready" in shown(output)


def test_what_an_earlier_version_wrote_is_read(desk, mini):
    desk.folder.mkdir()
    (desk.folder / ".progress.json").write_text(
        '{"mini": {"marks": {"scale": "passing", "norm": "blank"}}}', encoding="utf-8"
    )
    assert Learner(desk.folder, desk.console).recall("mini", "marks") == {"scale": "core", "norm": "blank"}


def test_a_crash_while_writing_leaves_the_old_progress(desk, mini, monkeypatch):
    desk.remember("mini", marks={"scale": "core"})

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        desk.remember("mini", marks={"scale": "failing"})
    monkeypatch.undo()
    assert Learner(desk.folder, desk.console).recall("mini", "marks") == {"scale": "core"}


def test_two_terminals_do_not_overwrite_each_other(desk, mini):
    other = Learner(desk.folder, desk.console)
    desk.remember("mini", marks={"scale": "core"})
    other.remember("mini", hints={"scale": 2})
    desk.remember("mini", marks={"scale": "failing"})
    state = {"mini": {"marks": {"scale": "failing"}, "hints": {"scale": 2}}}
    assert Learner(desk.folder, desk.console).progress == state
    assert json.loads((desk.folder / ".progress.json").read_text(encoding="utf-8")) == state
    assert [path.name for path in desk.folder.iterdir()] == [".progress.json"]


@pytest.mark.parametrize("command", ["shared.practice", "shared.practice.drill", "shared.practice.debug"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, command):
    """Another user's file, a full disk: here a file stands where the folder should be."""
    (tmp_path / "practice").write_text("a file", encoding="utf-8")
    code = (
        f"import pathlib, sys; from {command} import *; from {command} import main, run_command; "
        if command != "shared.practice"
        else "import pathlib, sys; from shared.practice.__main__ import main, run_command; "
    )
    arguments = [] if command.endswith("drill") else ["activations"]
    code += f"run_command(lambda: main({arguments}, folder=pathlib.Path({str(tmp_path / 'practice')!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, input=" \n3\nq\n"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "practice" in done.stderr


def test_a_file_that_may_not_be_read_is_one_line(capsys):
    def main():
        raise PermissionError(13, "Permission denied", "practice/.progress.json")

    with pytest.raises(SystemExit, match=r"Permission denied: 'practice/\.progress\.json'"):
        run_command(main)


def test_the_board_is_plain_text_when_nobody_looks(tmp_path):
    code = (
        "import sys, pathlib; from shared.practice.__main__ import main; "
        f"sys.exit(main([], folder=pathlib.Path({str(tmp_path / 'none')!r})))"
    )
    for encoding, mark in (("utf-8", "·"), ("ascii", ".")):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=environment, check=True
        )
        text = done.stdout.decode(encoding)
        assert "\x1b" not in text
        assert f"{mark} blank" in text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--reset"], "which project?"),
        (["--watch"], "which project?"),
        (["activations", "--give-up"], "--give-up goes with --solution"),
        (["activation"], "did you mean activations?"),
        (["crossentropy", "--hint"], "did you mean cross_entropy?"),
    ],
)
def test_a_command_that_makes_no_sense_is_told_what_would(tmp_path, capsys, arguments, says):
    with pytest.raises(SystemExit):
        module.main(arguments, folder=tmp_path)
    assert says in capsys.readouterr().err


# --- the clock --------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_a_deliverable_that_passes_comes_back_timed(desk, mini, output, clock):
    desk.write_blanks(mini)
    clock[0] += 100
    module.grade_and_show(desk, mini)  # still blank
    clock[0] += 10 * PAUSE_S  # lunch
    answer(desk, mini, REFERENCE)
    module.grade_and_show(desk, mini)
    assert desk.recall("mini", "times") == {"last": 100.0 + PAUSE_S, "best": 100.0 + PAUSE_S}
    schedule = Schedule(desk.folder)
    assert schedule.due(schedule.cards, at=now() + datetime.timedelta(days=4)) == ["write:mini"]

    module.grade_and_show(desk, mini)  # once more, without a new blank: no second time
    assert desk.recall("mini", "attempt") == {}
    desk.reset(mini)
    clock[0] += 61
    answer(desk, mini, REFERENCE)
    module.grade_and_show(desk, mini)
    assert desk.recall("mini", "times") == {"last": 61.0, "best": 61.0}
    assert "interview-ready in 1:01" in shown(output)


def test_work_on_one_deliverable_is_not_charged_to_another(desk, mini, clock):
    """Blanks that were written together were all charged for the work on each."""
    for name in ("mini", "other", "third"):
        desk.start(name)
    for _ in range(5):
        clock[0] += 60
        desk.tick("other")
    clock[0] += 30
    desk.tick("mini")
    assert desk.recall("other", "attempt")["seconds"] == 300
    assert desk.recall("mini", "attempt")["seconds"] == 30
    assert desk.recall("third", "attempt")["seconds"] == 0


def test_giving_up_sets_no_time_and_comes_back_soon(desk, mini):
    desk.write_blanks(mini)
    module.show_solution(desk, mini, "", give_up=True)
    answer(desk, mini, REFERENCE)
    module.grade_and_show(desk, mini)
    assert desk.recall("mini", "times") == {}
    soon = now() + datetime.timedelta(minutes=2)
    assert Schedule(desk.folder).due(["write:mini"], at=soon) == ["write:mini"]
