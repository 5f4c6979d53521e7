"""The drills: what is asked when, what a key does, and a history that survives."""

import dataclasses
import datetime
import io
import json
import os
import random
import re
import subprocess
import sys
import time

import pytest
from fsrs import Card, Rating
from rich.console import Console

from shared.practice import card as cards
from shared.practice import drill as module
from shared.practice import schedule as schedules
from shared.practice.card import ask
from shared.practice.questions import Drill, FollowUp
from shared.practice.schedule import Schedule, now
from shared.projects import ROOT
from shared.tests.conftest import Pressed

FOLLOW_UPS = (FollowUp("Why so?", "For 2 reasons."), FollowUp("Why not?", "Of 3 things."))


def make(name, topic="norms", **changes):
    card = Drill(
        "mini", name, f"What is {name}?", topic, f"It is {name} < 3.", "python demo.py", "Never.", FOLLOW_UPS
    )
    return dataclasses.replace(card, **changes)


DRILLS = {drill.key: drill for drill in (make("a"), make("b"), make("c", "scales"))}


@pytest.fixture
def console(output):
    return Console(file=output, width=120, no_color=True)


@pytest.fixture
def schedule(tmp_path, console):
    return Schedule(tmp_path / "practice", console.print)


def missed(schedule, key="mini/a"):
    """Have a card due: it was answered long ago."""
    schedule.review(key, Rating.Good, at=now() - datetime.timedelta(days=30))


def at(monkeypatch, moment):
    """Stop the clock of the schedule."""
    monkeypatch.setattr(schedules, "now", lambda: moment)
    monkeypatch.setattr(module, "now", lambda: moment)


# --- one session ------------------------------------------------------------------------------------------


def test_new_questions_are_asked_as_in_an_interview_and_scheduled(schedule, console, output, monkeypatch):
    monkeypatch.setattr(random, "choice", lambda rows: rows[0])
    module.ask_all(DRILLS, schedule, 2, console, Pressed(" ", " ", "3", " ", " ", "e"))
    shown = output.getvalue()
    assert "0 due, 2 new of 3" in shown
    parts = (
        "What is a?",
        "It is a < 3.",
        "Why so?",
        "For 2 reasons.",
        "Never say: Never.",
        "nox -s mini -- python demo.py",
    )
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    assert "Why not?" not in shown
    assert "What is c?" not in shown
    assert set(schedule.cards) == {"mini/a", "mini/b"}
    assert schedule.cards["mini/a"].due < schedule.cards["mini/b"].due  # easy waits longer than good
    assert shown.endswith("The next question comes in 10 min. 1 of 3 were never asked: --new 1\n")


def test_each_follow_up_is_asked_sometimes(console, output):
    for _ in range(40):
        ask(DRILLS["mini/a"], console, Pressed(" ", " ", "3"))
    assert 5 < output.getvalue().count("Why so?") < 35
    assert output.getvalue().count("Why so?") + output.getvalue().count("Why not?") == 40
    assert output.getvalue().count("For 2 reasons.") == output.getvalue().count("Why so?")


@pytest.mark.parametrize("pressed", [("q",), (" ", "q"), (" ", " ", "q"), (" ", " ", "x", "Q")])
def test_q_ends_at_every_prompt_and_rates_nothing(schedule, console, output, pressed):
    module.ask_all(DRILLS, schedule, 2, console, Pressed(*pressed))
    assert ("It is a" in output.getvalue()) == (len(pressed) > 1)
    assert ("reasons" in output.getvalue() or "things" in output.getvalue()) == (len(pressed) > 2)
    assert not schedule.cards


def test_answers_come_by_themselves_after_the_time(console, output, monkeypatch):
    monkeypatch.setattr(cards, "SECONDS", 0.05)

    class Late(Pressed):
        def read(self, timeout=None):
            if timeout is None:
                return super().read()
            time.sleep(timeout)
            return ""

    asked = ask(DRILLS["mini/a"], console, Late("4"))
    assert asked.rating is Rating.Easy
    assert 0.05 <= asked.seconds < 5
    assert output.getvalue().count("Time.") == 2
    assert "It is a" in output.getvalue()


def test_keys_that_mean_nothing_are_ignored(schedule, console):
    module.ask_all(DRILLS, schedule, 1, console, Pressed(" ", " ", "x", "7", "", "E"))
    assert schedule.cards["mini/a"].due > now() + datetime.timedelta(days=2)


def test_what_was_typed_ahead_counts_for_nothing(console):
    """Before each of the three prompts the keyboard is flushed, after all that was to be read is on the screen."""

    class Watched(Pressed):
        flushes = 0

        def flush(self):
            self.flushes += 1

        def read(self, timeout=None):
            assert self.flushes == 4 - len(self.left)
            return super().read()

    ask(DRILLS["mini/a"], console, Watched(" ", " ", "3"))


def test_what_is_due_comes_first_and_the_longest_overdue_before_all(schedule, console, output):
    past = now() - datetime.timedelta(days=30)
    schedule.review("mini/c", Rating.Good, at=past)
    schedule.review("mini/b", Rating.Again, at=past)
    assert schedule.due(DRILLS) == ["mini/b", "mini/c"]
    assert schedule.due(DRILLS, at=past) == []
    module.ask_all(DRILLS, schedule, 0, console, Pressed(" ", " ", "3", " ", " ", "3"))
    shown = output.getvalue()
    assert shown.index("What is b?") < shown.index("What is c?")
    assert "What is a?" not in shown


def test_what_was_missed_comes_again_in_the_same_round_until_it_is_known(schedule, console, output):
    rounds = [
        " ",
        " ",
        "1",
        " ",
        " ",
        "3",
        " ",
        " ",
        "a",
        " ",
        " ",
        "2",
    ]  # a missed, b good, a missed again, a hard
    module.ask_all(DRILLS, schedule, 2, console, Pressed(*rounds))
    shown = output.getvalue()
    asked = [line[-2] for line in shown.splitlines() if line.startswith("What is")]
    assert asked == ["a", "b", "a", "a"]
    assert shown.count("again; again at the end of this round") == 2
    assert shown.count("You missed this one; asked early, it is due in 1 min.") == 2
    assert [f"{number} of {of}" in shown for number, of in ((1, 2), (2, 3), (3, 3), (4, 4))] == [True] * 4


def test_with_nothing_to_ask_it_says_what_is_left(schedule, console, output):
    schedule.review("mini/a", Rating.Easy)
    module.ask_all(DRILLS, schedule, 0, console, Pressed())
    (days,) = re.findall(
        r"Nothing is due. The next question comes in (\d+) days. 2 of 3 were never asked: --new 2",
        output.getvalue(),
    )
    assert int(days) == module.days_until(schedule.cards["mini/a"].due)
    for key in ("mini/b", "mini/c"):
        schedule.review(key, Rating.Easy)
    module.ask_all(DRILLS, schedule, 5, console, Pressed())
    assert output.getvalue().endswith("days. All 3 were asked.\n")


# --- the history ------------------------------------------------------------------------------------------


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


def test_what_is_due_to_be_written_or_debugged_again_is_said(tmp_path, capsys, monkeypatch):
    for card in ("write:activations", "debug:backprop"):
        Schedule(tmp_path).review(card, Rating.Again, at=now() - datetime.timedelta(days=3))
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    assert module.main([], folder=tmp_path) == 0
    said = capsys.readouterr().out
    assert "written again: activations  nox -s practice -- activations --reset" in said
    assert "debugged again: backprop  nox -s debug -- backprop --reset" in said


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


@pytest.mark.parametrize("hour", [0, 9, 23])
@pytest.mark.parametrize("days", [0.0005, 0.02, 0.4, 0.9, 1, 1.2, 2, 9.99, 10, 13, 14, 20])
def test_the_list_the_statistics_and_the_line_after_a_rating_agree(
    schedule, console, output, monkeypatch, days, hour
):
    moment = datetime.datetime(2026, 5, 4, hour, 59).astimezone()
    schedule.cards["mini/a"] = Card(due=moment + datetime.timedelta(days=days))
    at(monkeypatch, moment + datetime.timedelta(seconds=1))
    said = module.when(schedule.cards["mini/a"].due)
    module.show_list(DRILLS, schedule, console)
    assert (
        next(line for line in output.getvalue().splitlines() if "What is a?" in line).rstrip().endswith(said)
    )
    module.show_stats(DRILLS, schedule, console)
    (row,) = [line.split("#")[0].strip() for line in output.getvalue().splitlines() if "#" in line]
    calendar = (schedule.cards["mini/a"].due.date() - moment.date()).days
    expected = {0: "today", 1: "tomorrow"}.get(calendar, f"in {calendar} days" if calendar < 14 else "later")
    assert row == expected
    assert said == row or row == "later" or said.split()[-1] in ("min", "h")
    if days == 10:
        assert said == "in 10 days"


def test_a_card_that_is_due_counts_as_now(schedule, console, output):
    missed(schedule)
    module.show_list(DRILLS, schedule, console)
    module.show_stats(DRILLS, schedule, console)
    rows = [line.split() for line in output.getvalue().splitlines() if line.lstrip().startswith("mini")]
    assert [row[-1] for row in rows] == ["now", "new", "new"]
    assert "1 of 3 questions were asked at least once" in output.getvalue()
    assert [line.split()[0] for line in output.getvalue().splitlines() if "#" in line] == ["now"]


# --- the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "fits"),
    [
        ("CUDA", "What's Flash Attention and why is it fast?"),  # a group
        ("cuda", "What's memory bound vs compute bound?"),
        ("softmax", "What's softmax?"),  # a question
        ("roofline", "What's memory bound vs compute bound?"),
        ("MECHANISM (q/k/v)", "Why attention over RNN?"),  # a topic
    ],
)
def test_groups_topics_and_questions_are_searched(topic, fits):
    found = module.choose(module.load_all(), None, topic)
    assert fits in [drill.question for drill in found.values()]
    assert len(found) < len(module.load_all()) / 2


def test_a_topic_that_nothing_is_about_is_said(tmp_path, capsys):
    assert module.main(["--topic", "gardening"], folder=tmp_path) == 2
    assert (
        "No question is about 'gardening'. The groups of topics: DL fundamentals, Transformers"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--new", "-3"], "argument --new: '-3' is not a whole number of at least 0"),
        (["--new=-3"], "argument --new: '-3' is not a whole number of at least 0"),
        (["--new", "two"], "argument --new: 'two' is not a whole number"),
        (["--interview", "0"], "argument --interview: '0' is not a whole number of at least 1"),
        (["--anki", "/missing/x.apkg"], "argument --anki: there is no folder /missing"),
        (["--anki", str(ROOT)], f"argument --anki: {ROOT} is a folder; give a file in it"),
        (["--anki", "x.zip"], "argument --anki: Anki reads files whose names end in .apkg, not x.zip"),
        (["--project", "atention"], "did you mean attention?"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_by_name(tmp_path, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as ended:
        module.main(arguments, folder=tmp_path)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


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
