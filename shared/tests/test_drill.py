"""The drills: what is asked when, what a key does, and a history that survives."""

import dataclasses
import datetime
import io
import json
import os
import pty
import select
import sqlite3
import subprocess
import sys
import time
import zipfile

import pytest
from fsrs import Rating
from rich.console import Console

from shared.practice import drill as module
from shared.practice.questions import Drill, FollowUp
from shared.practice.schedule import Schedule, now
from shared.projects import ROOT

FOLLOW_UPS = (FollowUp("Why so?", "For 2 reasons."), FollowUp("Why not?", "Of 3 things."))


def make(name, topic="norms", **changes):
    card = Drill(
        "mini", name, f"What is {name}?", topic, f"It is {name} < 3.", "python demo.py", "Never.", FOLLOW_UPS
    )
    return dataclasses.replace(card, **changes)


DRILLS = {drill.key: drill for drill in (make("a"), make("b"), make("c", "scales"))}


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def console(output):
    return Console(file=output, width=120, no_color=True)


@pytest.fixture
def schedule(tmp_path, console):
    return Schedule(tmp_path / "practice", console.print)


def keys(*pressed):
    """Return a keyboard on which these keys are pressed, one per question asked of it."""
    queue = list(pressed)
    return lambda _: queue.pop(0)


def test_new_questions_are_asked_shown_and_scheduled(schedule, console, output):
    module.ask_all(DRILLS, schedule, 2, console, keys(" ", "3", " ", "a"))
    shown = output.getvalue()
    assert "0 due, 2 new of 3" in shown
    assert (
        shown.index("What is a?") < shown.index("It is a < 3.") < shown.index("nox -s mini -- python demo.py")
    )
    assert "What is c?" not in shown
    assert set(schedule.cards) == {"mini/a", "mini/b"}
    assert schedule.cards["mini/a"].due > schedule.cards["mini/b"].due  # good waits longer than again


def test_the_answer_stays_hidden_until_a_key_or_the_end_of_the_time(schedule, console, output, monkeypatch):
    module.ask_all(DRILLS, schedule, 1, console, keys("q"))
    assert "It is a" not in output.getvalue()
    assert not schedule.cards
    monkeypatch.setattr(module, "SECONDS", 0.05)

    def late(timeout):
        if timeout is not None:  # the countdown: no key
            time.sleep(timeout)
            return ""
        return "4"

    module.ask_all(DRILLS, schedule, 1, console, late)
    assert "Time." in output.getvalue()
    assert "It is a" in output.getvalue()


def test_keys_that_mean_nothing_are_ignored(schedule, console):
    module.ask_all(DRILLS, schedule, 1, console, keys(" ", "x", "7", "", "E"))
    assert schedule.cards["mini/a"].due > now() + datetime.timedelta(days=2)


def test_what_is_due_comes_first_and_the_longest_overdue_before_all(schedule, console, output):
    past = now() - datetime.timedelta(days=30)
    schedule.review("mini/c", Rating.Good, at=past)
    schedule.review("mini/b", Rating.Again, at=past)
    assert schedule.due(DRILLS) == ["mini/b", "mini/c"]
    assert schedule.due(DRILLS, at=past) == []
    module.ask_all(DRILLS, schedule, 0, console, keys(" ", "3", " ", "3"))
    shown = output.getvalue()
    assert shown.index("What is b?") < shown.index("What is c?")
    assert "What is a?" not in shown


def test_nothing_due_says_when(schedule, console, output):
    schedule.review("mini/a", Rating.Easy)
    module.ask_all(DRILLS, schedule, 0, console, keys())
    assert "Nothing is due; the next question comes in" in output.getvalue()


def test_an_update_of_the_questions_keeps_the_history(schedule):
    schedule.review("mini/a", Rating.Good)
    schedule.review("mini/gone", Rating.Good)
    schedule.review("mini/a", Rating.Good)
    state = json.loads((schedule._path).read_text())
    assert set(state["cards"]) == {"mini/a", "mini/gone"}
    assert schedule.due(DRILLS) == []


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"cards": []}', "\udce4"], ids=range(5))
def test_a_damaged_history_is_set_aside_and_said_so(schedule, console, output, damage):
    schedule.review("mini/a", Rating.Good)
    path = schedule._path
    path.write_bytes(damage.encode(errors="surrogateescape"))
    again = Schedule(path.parent, console.print)
    assert again.cards == {}
    assert "drills.json was damaged. It is kept as" in output.getvalue()
    (aside,) = path.parent.glob("drills.corrupt-*.json")
    assert aside.read_bytes() == damage.encode(errors="surrogateescape")


def test_a_damaged_card_costs_that_card(schedule, console, output):
    schedule.review("mini/a", Rating.Good)
    schedule.review("mini/b", Rating.Good)
    path = schedule._path
    state = json.loads(path.read_text())
    state["cards"]["mini/a"] = {"due": 3}
    path.write_text(json.dumps(state))
    assert set(Schedule(path.parent, console.print).cards) == {"mini/b"}
    assert "drills.json: mini/a was damaged and is left out" in " ".join(output.getvalue().split())
    (aside,) = path.parent.glob("drills.corrupt-*.json")
    assert json.loads(aside.read_text()) == state
    assert set(Schedule(path.parent).cards) == {"mini/b"}


def test_an_answer_has_a_red_flag_and_one_follow_up(schedule, console, output):
    module.ask_all(DRILLS, schedule, 1, console, keys(" ", "3"))
    assert "Never say: Never." in output.getvalue()
    assert ("Why so?" in output.getvalue()) != ("Why not?" in output.getvalue())


def test_what_is_due_to_be_written_or_debugged_again_is_said(tmp_path, capsys, monkeypatch):
    for card in ("write:activations", "debug:backprop"):
        Schedule(tmp_path).review(card, Rating.Again, at=now() - datetime.timedelta(days=3))
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    assert module.main([], folder=tmp_path) == 0
    said = capsys.readouterr().out
    assert "written again: activations  nox -s practice -- activations --reset" in said
    assert "debugged again: backprop  nox -s debug -- backprop --reset" in said


def test_a_mistyped_project_is_told_the_right_one(tmp_path, capsys):
    with pytest.raises(SystemExit):
        module.main(["--project", "atention"], folder=tmp_path)
    assert "did you mean attention?" in capsys.readouterr().err


def test_two_terminals_do_not_undo_each_other(schedule, console):
    other = Schedule(schedule._path.parent, console.print)
    schedule.review("mini/a", Rating.Good)
    other.review("mini/b", Rating.Good)
    assert set(Schedule(schedule._path.parent).cards) == {"mini/a", "mini/b"}


def test_a_crash_while_writing_leaves_the_old_history(schedule, monkeypatch):
    schedule.review("mini/a", Rating.Good)
    before = schedule._path.read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        schedule.review("mini/b", Rating.Good)
    assert schedule._path.read_bytes() == before


def test_list_and_statistics(schedule, console, output):
    schedule.review("mini/a", Rating.Good, at=now() - datetime.timedelta(days=9))
    schedule.review("mini/b", Rating.Easy)
    module.show_list(DRILLS, schedule, console)
    module.show_stats(DRILLS, schedule, console)
    shown = output.getvalue()
    assert "2 of 3 questions were asked at least once" in shown
    lines = {line.split()[0]: line for line in shown.splitlines() if "#" in line}
    assert lines["now"].endswith("1")
    rows = [line.split() for line in shown.splitlines() if line.lstrip().startswith("mini")]
    assert [row[-1] for row in rows] == ["now", "days", "new"]


def test_the_anki_deck_has_stable_ids(tmp_path):
    notes = []
    for number in range(2):
        file = tmp_path / f"{number}.apkg"
        module.write_anki(DRILLS, file)
        with zipfile.ZipFile(file) as archive:
            archive.extract("collection.anki2", tmp_path)
        with sqlite3.connect(tmp_path / "collection.anki2") as database:
            notes.append(database.execute("select guid, mid, flds from notes order by guid").fetchall())
        (tmp_path / "collection.anki2").unlink()
    assert notes[0] == notes[1]
    assert len({guid for guid, _, _ in notes[0]}) == 3
    assert any("It is a &lt; 3." in fields for _, _, fields in notes[0])


def test_every_question_of_the_repository_is_asked_by_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "shared.practice.drill", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(module.load_all()) > 10
    for drill in module.load_all().values():
        assert drill.question.split()[0] in done.stdout


def test_a_real_terminal(tmp_path):
    """One key shows the answer, one rates it, q ends; the terminal is as it was."""
    script = f"import pathlib, shared.practice.drill as i; i.main([], folder=pathlib.Path({str(tmp_path)!r}))"
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", script])
    shown = b""

    def read_until(text):
        nonlocal shown
        while text not in shown:
            ready, _, _ = select.select([descriptor], [], [], 20)
            assert ready, f"no {text!r} in {shown.decode(errors='replace')}"
            shown += os.read(descriptor, 4096)

    read_until(b"30 s")
    os.write(descriptor, b" ")
    read_until(b"[4] easy")
    os.write(descriptor, b"3")
    read_until(b"good; again in 10 min")
    os.write(descriptor, b"q")
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert len(json.loads((tmp_path / "drills.json").read_text())["cards"]) == 1
