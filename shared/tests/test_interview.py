"""The mixed round: drills, a mistake, a function, and a summary that is written however it ends."""

import dataclasses
import datetime
import re
import time

import pytest
from fsrs import Rating

from shared.practice import interview as module
from shared.practice.interview import Interview
from shared.practice.questions import Drill, FollowUp
from shared.practice.schedule import Schedule, now
from shared.projects import load_project
from shared.tests.conftest import REFERENCE, Pressed

FOLLOW_UPS = (FollowUp("Why so?", "For 2 reasons."), FollowUp("Why not?", "Of 3 things."))
CARD = Drill("mini", "a", "What is a|b?", "norms", "It is a.", "python demo.py", "Never.", FOLLOW_UPS)
DRILLS = [CARD, dataclasses.replace(CARD, id="b", question="What is b?")]


class Player(Pressed):
    """Keys, and between them what the learner does in her editor: a function is called, then the next key is read."""

    idle_s = 0.0

    def read(self, timeout=None):
        while self.left and callable(self.left[0]):
            self.left.pop(0)()
        if self.left:
            return super().read(timeout)
        time.sleep(timeout)  # no key: she sits there until time is up
        self.idle_s += timeout
        assert self.idle_s < 5, "it waits for a key"
        return ""


@pytest.fixture
def play(learner, mini):
    """Play an interview to its end, and return the summary."""

    def run(*pressed, n_minutes=20, drills=DRILLS, projects=(mini,)):
        before = set(learner.folder.glob("interview-*.md"))
        keys = Player(*pressed)
        Interview(drills, projects, learner, Schedule(learner.folder), keys).run(n_minutes)
        assert keys.left == []
        (path,) = set(learner.folder.glob("interview-*.md")) - before
        return path.read_text(encoding="utf-8")

    return run


def solve(learner, *folders):
    """Return what a good learner does in an editor: the reference stands in her file."""
    return lambda: learner.folder.joinpath(*folders, "mini.py").write_text(REFERENCE)


RATED = (" ", " ", "3", " ", " ", "4")


def test_a_round_that_goes_well(play, learner, output):
    text = play(*RATED, " ", solve(learner, "debug", "mini"), " ", solve(learner, "interview", "mini"), "g")
    today = datetime.date.today().isoformat()
    assert text.startswith(f"# Interview of {today}, 20 min\n\n## Drills: 2 of 2\n")
    assert "| What is a/b? | mini | 0 s | " in text
    assert "| What is b? | mini | 0 s | " in text
    assert {row.split(" | ")[-1] for row in text.splitlines() if row.startswith("| What")} == {
        "good |",
        "easy |",
    }
    assert re.search(
        r"mini: found and mended in \d:\d\d. It was norm_without_root \(looks like the rows are not summed\).",
        text,
    )
    assert re.search(r"mini: written in \d:\d\d. It was (scale|norm).", text)
    assert text.endswith("## Repeat\n\nNothing: all of it went well.\n")
    assert (
        "fails: tests/test_mini.py::test_norm" in output.getvalue()
    )  # the first grading, before it was mended
    assert f"The summary: {learner.folder}/interview-{today}.md" in output.getvalue()
    schedule = Schedule(learner.folder)
    assert set(schedule.cards) == {"mini/a", "mini/b", "debug:mini"}
    assert not (learner.folder / "mini").exists()  # her own answer is another matter


def test_a_round_that_goes_badly_says_what_to_repeat(play, learner, output):
    first = next(iter(DRILLS))
    text = play(" ", " ", "1", " ", " ", "2", "s", " ", "s")
    weak = [line for line in text.splitlines() if line.startswith("- What")]
    assert [line.split(" (")[1] for line in weak] == [
        f"{rating}; `{first.proof}`)" for rating in ("again", "hard")
    ]
    assert "mini: not found in" in text
    assert "- a mistake in mini: `nox -s debug -- mini --reset`" in text
    assert "mini: not written in" in text
    assert ": `nox -s practice -- mini`" in text
    assert "norm_without_root" in output.getvalue()  # giving up shows what it was
    soon = now() + datetime.timedelta(minutes=2)
    assert "debug:mini" in Schedule(learner.folder).due(["debug:mini"], at=soon)


@pytest.mark.parametrize(
    ("pressed", "n_rated", "debugged", "written"),
    [
        (
            (" ", " ", "3", "q"),
            1,
            "NOT RUN: the interview ended before",
            "NOT RUN: the interview ended before",
        ),
        ((*RATED, "q"), 2, "mini: not found in", "NOT RUN: the interview ended before"),
        ((*RATED, "s", "q"), 2, "mini: not found in", "mini: not written in"),
    ],
)
def test_q_ends_it_and_the_summary_is_written_all_the_same(play, pressed, n_rated, debugged, written):
    text = play(*pressed)
    assert f"## Drills: {n_rated} of 2" in text
    assert f"## A mistake to find\n\n{debugged}" in text
    assert f"## A function to write\n\n{written}" in text


def test_a_crash_leaves_a_summary_too(play, learner):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(" ", " ", "3", interrupt)
    (path,) = learner.folder.glob("interview-*.md")
    assert "## Drills: 1 of 2" in path.read_text()


def test_a_summary_of_the_same_day_is_kept(play, learner):
    first, second = play("q"), play(" ", " ", "3", "q")
    assert first != second
    today = datetime.date.today().isoformat()
    names = [f"interview-{today}-2.md", f"interview-{today}.md"]
    assert sorted(path.name for path in learner.folder.glob("*.md")) == names
    assert (learner.folder / names[1]).read_text() == first


def test_each_part_ends_with_its_share_of_the_time(play, output):
    """Of 0.2 s, half are for drills: the second is not asked; then each part is graded once, and over."""
    text = play(lambda: time.sleep(0.2), " ", " ", "3", n_minutes=0.2 / 60)
    assert "Half of the time is over" in output.getvalue()
    assert "## Drills: 1 of 2" in text
    assert "mini: not found" in text
    assert "mini: not written" in text
    assert output.getvalue().count("Time.") == 2
    assert output.getvalue().count("core 1/2") == 2


def test_without_the_packages_it_is_not_run(play, mini, output):
    (mini.folder / "mini.py").write_text("import absent_package\n" + REFERENCE.lstrip())
    text = play(*RATED, projects=[load_project(mini.folder)])
    assert text.count("NOT RUN: not installed: absent_package") == 2
    assert output.getvalue().count("NOT RUN: not installed: absent_package") == 2


def test_a_mistake_that_she_is_looking_for_is_left_alone(play, learner, mini):
    case = module.Case(learner, mini)
    case.plant(1)
    (case.folder / "mini.py").write_text("mine = 1\n")
    text = play(*RATED, "s")
    assert "NOT RUN: each project has a mistake open: nox -s debug" in text
    assert (case.folder / "mini.py").read_text() == "mine = 1\n"


def test_a_function_of_before_is_kept(play, learner):
    for _ in range(2):
        play(
            *RATED,
            "s",
            lambda: (learner.folder / "interview" / "mini" / "mini.py").write_text("mine = 1\n"),
            "s",
        )
    (backup,) = (learner.folder / "interview" / "mini" / "backups").iterdir()
    assert backup.read_text() == "mine = 1\n"


def test_an_answer_that_cannot_be_graded_says_why(play, learner, output):
    def spoil():
        (learner.folder / "interview" / "mini" / "mini.py").write_text("def scale(:\n")

    assert "mini: not written" in play(*RATED, "s", spoil, " ", "s")
    assert "cannot be graded" in output.getvalue()


def test_ten_drills_come_from_as_many_projects_as_there_are_and_what_is_due_first(tmp_path):
    drills = [dataclasses.replace(CARD, project=f"p{n // 4}", id=str(n)) for n in range(48)]
    schedule = Schedule(tmp_path)
    due = [f"p{n}/{4 * n + 2}" for n in range(12)]
    for key in due:
        schedule.review(key, Rating.Good, at=now() - datetime.timedelta(days=30))
    chosen = module.choose_drills(drills, schedule)
    assert len({drill.project for drill in chosen}) == len(chosen) == module.DRILLS
    assert {drill.key for drill in chosen} < set(due)
    assert {tuple(drill.key for drill in module.choose_drills(drills, schedule)) for _ in range(5)} != {
        tuple(drill.key for drill in chosen)
    }
    few = module.choose_drills(drills[:8], schedule)
    assert {drill.key for drill in few} == {drill.key for drill in drills[:8]}
    assert [drill.project for drill in few[:2]] in (["p0", "p1"], ["p1", "p0"])
