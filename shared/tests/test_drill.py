"""The drills: what is asked when, what a key does, and a history that survives."""

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

from shared import interview
from shared import practice as practice_module
from shared.practice.learner import PAUSE_S, Practice
from shared.practice.questions import Drill
from shared.practice.schedule import Reviews, now
from shared.projects import ROOT
from shared.tests.conftest import REFERENCE

DRILLS = {
    f"mini/{name}": Drill(name, f"What is {name}?", topic, f"It is {name} < 3.", "python demo.py")
    for name, topic in (("a", "norms"), ("b", "norms"), ("c", "scales"))
}


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def console(output):
    return Console(file=output, width=120, no_color=True)


@pytest.fixture
def reviews(tmp_path, console):
    return Reviews(tmp_path / "practice" / "drills.json", console.print)


def keys(*pressed):
    """Return a keyboard on which these keys are pressed, one per question asked of it."""
    queue = list(pressed)
    return lambda _: queue.pop(0)


def test_new_questions_are_asked_shown_and_scheduled(reviews, console, output):
    interview.ask_all(DRILLS, reviews, 2, console, keys(" ", "3", " ", "a"))
    shown = output.getvalue()
    assert "0 due, 2 new of 3" in shown
    assert (
        shown.index("What is a?")
        < shown.index("It is a < 3.")
        < shown.index("cd projects/mini && python demo.py")
    )
    assert "What is c?" not in shown
    assert set(reviews.cards) == {"mini/a", "mini/b"}
    assert reviews.cards["mini/a"].due > reviews.cards["mini/b"].due  # good waits longer than again


def test_the_answer_stays_hidden_until_a_key_or_the_end_of_the_time(reviews, console, output, monkeypatch):
    interview.ask_all(DRILLS, reviews, 1, console, keys("q"))
    assert "It is a" not in output.getvalue()
    assert not reviews.cards
    monkeypatch.setattr(interview, "SECONDS", 0.05)

    def late(timeout):
        if timeout is not None:  # the countdown: no key
            time.sleep(timeout)
            return ""
        return "4"

    interview.ask_all(DRILLS, reviews, 1, console, late)
    assert "Time." in output.getvalue()
    assert "It is a" in output.getvalue()


def test_keys_that_mean_nothing_are_ignored(reviews, console):
    interview.ask_all(DRILLS, reviews, 1, console, keys(" ", "x", "7", "", "E"))
    assert reviews.cards["mini/a"].due > now() + datetime.timedelta(days=2)


def test_what_is_due_comes_first_and_the_longest_overdue_before_all(reviews, console, output):
    past = now() - datetime.timedelta(days=30)
    reviews.review("mini/c", Rating.Good, at=past)
    reviews.review("mini/b", Rating.Again, at=past)
    assert reviews.due(DRILLS) == ["mini/b", "mini/c"]
    assert reviews.due(DRILLS, at=past) == []
    interview.ask_all(DRILLS, reviews, 0, console, keys(" ", "3", " ", "3"))
    shown = output.getvalue()
    assert shown.index("What is b?") < shown.index("What is c?")
    assert "What is a?" not in shown


def test_nothing_due_says_when(reviews, console, output):
    reviews.review("mini/a", Rating.Easy)
    interview.ask_all(DRILLS, reviews, 0, console, keys())
    assert "Nothing is due; the next question comes in" in output.getvalue()


def test_an_update_of_the_questions_keeps_the_history(reviews):
    reviews.review("mini/a", Rating.Good)
    reviews.review("mini/gone", Rating.Good)
    reviews.review("mini/a", Rating.Good)
    state = json.loads((reviews._path).read_text())
    assert set(state["cards"]) == {"mini/a", "mini/gone"}
    assert reviews.due(DRILLS) == []


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"cards": []}', '{"cards": {"mini/a": {"due": 3}}}', "\udce4"], ids=range(6)
)
def test_a_damaged_history_is_set_aside_and_said_so(reviews, console, output, damage):
    reviews.review("mini/a", Rating.Good)
    path = reviews._path
    path.write_bytes(damage.encode(errors="surrogateescape"))
    again = Reviews(path, console.print)
    assert again.cards == {}
    assert "drills.json was damaged. It is kept as" in output.getvalue()
    (aside,) = path.parent.glob("drills.corrupt-*.json")
    assert aside.read_bytes() == damage.encode(errors="surrogateescape")


def test_two_terminals_do_not_undo_each_other(reviews, console):
    other = Reviews(reviews._path, console.print)
    reviews.review("mini/a", Rating.Good)
    other.review("mini/b", Rating.Good)
    assert set(Reviews(reviews._path).cards) == {"mini/a", "mini/b"}


def test_a_crash_while_writing_leaves_the_old_history(reviews, monkeypatch):
    reviews.review("mini/a", Rating.Good)
    before = reviews._path.read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        reviews.review("mini/b", Rating.Good)
    assert reviews._path.read_bytes() == before


def test_list_and_statistics(reviews, console, output):
    reviews.review("mini/a", Rating.Good, at=now() - datetime.timedelta(days=9))
    reviews.review("mini/b", Rating.Easy)
    interview.show_list(DRILLS, reviews, console)
    interview.show_stats(DRILLS, reviews, console)
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
        interview.write_anki(DRILLS, file)
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
    assert len(interview.load_all()) > 10
    for drill in interview.load_all().values():
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


# --- writing a deliverable again --------------------------------------------------------------------------


def passing(practice, mini):
    practice.files(mini)[0].write_text(REFERENCE)
    practice_module.grade_and_show(practice, mini)


def test_a_deliverable_that_passes_comes_back_timed(tmp_path, console, output, mini, monkeypatch):
    practice = Practice(tmp_path / "practice", console)
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    practice.write_blanks(mini)
    clock[0] += 100
    practice_module.grade_and_show(practice, mini)  # still blank
    clock[0] += 10 * PAUSE_S  # lunch
    passing(practice, mini)
    assert practice.recall(mini, "times") == {"last": 100.0 + PAUSE_S, "best": 100.0 + PAUSE_S}
    reviews = Reviews(practice.folder / "drills.json")
    assert reviews.due(reviews.cards, at=now() + datetime.timedelta(days=4)) == ["write:mini"]

    passing(practice, mini)  # once more, without a new blank: no second time
    assert len(practice.recall(mini, "attempt")) == 0
    practice.reset(mini)
    clock[0] += 61
    passing(practice, mini)
    assert practice.recall(mini, "times") == {"last": 61.0, "best": 61.0}
    practice_module.show_board(practice, [mini])
    assert "best 1:01, last 1:01" in output.getvalue()


def test_giving_up_sets_no_time_and_comes_back_soon(tmp_path, console, mini):
    practice = Practice(tmp_path / "practice", console)
    practice.write_blanks(mini)
    mini_root = mini.folder.parent
    practice_module.ROOT, saved = mini_root, practice_module.ROOT
    try:
        practice_module.show_solution(practice, mini, give_up=True)
    finally:
        practice_module.ROOT = saved
    passing(practice, mini)
    assert practice.recall(mini, "times") == {}
    reviews = Reviews(practice.folder / "drills.json")
    assert reviews.due(["write:mini"], at=now() + datetime.timedelta(minutes=2)) == ["write:mini"]
